/* SPDX-License-Identifier: MIT */
#include "transport/tcp_frame.h"
#include "base/digest.h"
#include "base/util.h"
#include "base/wire.h"
#include "transport/backend.h"
#include <assert.h>
#include <errno.h>

_Static_assert(TCP_GREETING == 1 + BE_PREAMBLE, "a greeting is a status byte and a reply");

#define CRC_AT 28

void tcp_frame_encode(uint8_t out[TCP_FRAME_HEADER], const struct tcp_frame *f)
{
	struct wcur c = wcur_init(out, TCP_FRAME_HEADER);

	put_u8(&c, (uint8_t)f->type);
	put_u8(&c, 0);
	put_u16(&c, 0);
	put_u32(&c, f->len);
	put_u64(&c, f->key);
	put_u64(&c, f->offset);
	put_u32(&c, f->region);
	put_u32(&c, crc32c(out, CRC_AT));
}

int tcp_frame_decode(const uint8_t in[TCP_FRAME_HEADER], struct tcp_frame *f)
{
	struct rcur c = rcur_init(in, TCP_FRAME_HEADER);
	uint8_t type = get_u8(&c), flags = get_u8(&c);
	uint16_t reserved = get_u16(&c);
	struct tcp_frame v = { .len = get_u32(&c) };

	v.key = get_u64(&c);
	v.offset = get_u64(&c);
	v.region = get_u32(&c);
	if (get_u32(&c) != crc32c(in, CRC_AT))
		return -EBADMSG;
	if (flags || reserved)
		return -EPROTO;
	switch (type) {
	case TCP_FRAME_MESSAGE:
		if (v.key || v.offset || v.region)
			return -EPROTO;
		break;
	case TCP_FRAME_PUT:
		if (!v.len)
			return -EPROTO;
		break;
	default:
		return -EPROTO;
	}
	v.type = (enum tcp_frame_type)type;
	*f = v;
	return 0;
}

void tcp_greeting_encode(uint8_t out[TCP_GREETING], enum tcp_status status, const void *reply)
{
	out[0] = (uint8_t)status;
	if (reply)
		memcpy(out + 1, reply, BE_PREAMBLE);
	else
		memset(out + 1, 0, BE_PREAMBLE);
}

int tcp_greeting_check(const uint8_t *in, size_t have)
{
	if (!have)
		return 0;
	if (in[0] != TCP_STATUS_ACCEPTED && in[0] != TCP_STATUS_REJECTED)
		return -EPROTO;
	if (have < TCP_GREETING)
		return 0;
	return in[0] == TCP_STATUS_ACCEPTED ? 1 : 2;
}

int tcp_rx_step(struct tcp_rx *rx)
{
	int r;

	if (rx->in_frame) {
		if (!rx->placed)
			return TCP_RX_HEADER;
		if (rx->got < rx->frame.len)
			return TCP_RX_MORE;
		rx->in_frame = false;
		return TCP_RX_FRAME;
	}
	if (rx->head_have < TCP_FRAME_HEADER)
		return TCP_RX_MORE;
	r = tcp_frame_decode(rx->head, &rx->frame);
	if (r < 0)
		return r;
	rx->head_have = 0;
	rx->in_frame = true;
	rx->placed = false;
	rx->dst = NULL;
	rx->got = 0;
	return TCP_RX_HEADER;
}

void tcp_rx_place(struct tcp_rx *rx, void *dst)
{
	assert(rx->in_frame && !rx->placed);
	rx->dst = dst;
	rx->placed = true;
}

int tcp_rx_iov(struct tcp_rx *rx, struct iovec iov[2], uint64_t max)
{
	uint32_t left = rx->in_frame ? rx->frame.len - rx->got : 0;
	int n = 0;

	if (left) {
		uint32_t take = (uint32_t)min_u64(left, max);

		iov[n++] = (struct iovec){ rx->dst + rx->got, take };
		if (take < left)
			return n;
	}
	iov[n++] = (struct iovec){ rx->head + rx->head_have, TCP_FRAME_HEADER - rx->head_have };
	return n;
}

uint32_t tcp_rx_took(struct tcp_rx *rx, size_t n)
{
	uint32_t left = rx->in_frame ? rx->frame.len - rx->got : 0;
	uint32_t body = (uint32_t)min_u64(left, n);

	rx->got += body;
	rx->head_have += (uint32_t)(n - body);
	assert(rx->head_have <= TCP_FRAME_HEADER);
	return body;
}

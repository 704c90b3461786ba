/* SPDX-License-Identifier: MIT */
/*
 * The TCP backend's parser. The input gives frames (some with a checksum made right, which a
 * fuzzer cannot guess), raw bytes, and the sizes in which the stream arrives; the receiver must
 * see what one look at the whole stream sees, and touch nothing else.
 */
#include "base/digest.h"
#include "base/util.h"
#include "base/wire.h"
#include "transport/backend.h"
#include "transport/tcp_frame.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REGION 3000
#define FRAME 2000
#define STREAM_MAX 16384

/* What a receiver reports: the frames in order, then how it ended. */
struct report {
	uint32_t frames;
	uint64_t sum;
	int end;
};

static void report_frame(struct report *r, const struct tcp_frame *f, const uint8_t *payload)
{
	r->frames++;
	r->sum = r->sum * 31 + (uint64_t)f->type + f->len + f->offset + f->key + f->region + crc32c(payload, f->len);
}

static int frame_check(const struct tcp_frame *f)
{
	return f->type == TCP_FRAME_PUT ? tcp_put_fits(f, REGION) : f->len <= FRAME;
}

/* The whole stream at once. */
static struct report look(const uint8_t *s, size_t n)
{
	struct report r = { 0 };
	struct tcp_frame f;

	while (n >= TCP_FRAME_HEADER) {
		r.end = tcp_frame_decode(s, &f);
		if (r.end < 0)
			return r;
		if (!frame_check(&f)) {
			r.end = -EPROTO;
			return r;
		}
		s += TCP_FRAME_HEADER;
		n -= TCP_FRAME_HEADER;
		if (f.len > n) {
			r.end = -ECONNRESET;
			return r;
		}
		report_frame(&r, &f, s);
		s += f.len;
		n -= f.len;
	}
	r.end = n ? -ECONNRESET : 0;
	return r;
}

/* Steps as the backend does; false: the stream is over. */
static bool steps(struct tcp_rx *rx, struct report *r, uint8_t *region, uint8_t *frame)
{
	for (;;) {
		int step = tcp_rx_step(rx);

		if (step == TCP_RX_MORE)
			return true;
		if (step == TCP_RX_FRAME) {
			report_frame(r, &rx->frame, rx->dst);
		} else if (step == TCP_RX_HEADER && frame_check(&rx->frame)) {
			tcp_rx_place(rx, rx->frame.type == TCP_FRAME_PUT ? region + rx->frame.offset : frame);
		} else {
			r->end = step < 0 ? step : -EPROTO;
			return false;
		}
	}
}

static struct report receive(const uint8_t *s, size_t n, uint64_t rng, uint64_t max)
{
	struct report r = { 0 };
	struct tcp_rx rx = { 0 };
	uint8_t *region = malloc(REGION), *frame = malloc(FRAME);

	while (steps(&rx, &r, region, frame)) {
		struct iovec iov[2];
		int k = tcp_rx_iov(&rx, iov, max);
		size_t room = iov[0].iov_len + (k == 2 ? iov[1].iov_len : 0), take, first;

		if (!n) {
			r.end = tcp_rx_at_boundary(&rx) ? 0 : -ECONNRESET;
			break;
		}
		take = min_u64(min_u64(room, n), 1 + rng_next(&rng) % (rng & 64 ? 7 : 4096));
		first = min_u64(take, iov[0].iov_len);
		memcpy(iov[0].iov_base, s, first);
		if (take > first)
			memcpy(iov[1].iov_base, s + first, take - first);
		tcp_rx_took(&rx, take);
		s += take;
		n -= take;
	}
	free(region);
	free(frame);
	return r;
}

/* One instruction of the input becomes bytes of the stream. */
static size_t emit(struct rcur *in, uint8_t *out, size_t room)
{
	uint8_t what = get_u8(in);
	uint8_t head[TCP_FRAME_HEADER];
	size_t n;

	if (what & 1) { /* raw */
		n = min_u64(min_u64(what >> 1, rcur_left(in)), room);
		get_bytes(in, out, n);
		return n;
	}
	if (room < sizeof head)
		return 0;
	if (what & 2) { /* a plausible frame */
		bool put = what & 4;

		tcp_frame_encode(head, &(struct tcp_frame){ .type = put ? TCP_FRAME_PUT : TCP_FRAME_MESSAGE,
							    .len = get_u16(in) % 3100,
							    .key = put ? get_u64(in) : 0,
							    .offset = put ? get_u16(in) % 3100 : 0,
							    .region = put ? get_u32(in) : 0 });
	} else { /* any header with its checksum made right */
		uint32_t crc;

		get_bytes(in, head, 28);
		crc = htole32(crc32c(head, 28));
		memcpy(head + 28, &crc, sizeof crc);
	}
	memcpy(out, head, sizeof head);
	n = min_u64((what >> 3) * 100u, room - sizeof head);
	memset(out + sizeof head, what, n);
	return sizeof head + n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t stream[STREAM_MAX];
	struct rcur in = rcur_init(data, size);
	uint64_t rng = get_u32(&in), max = 1 + get_u16(&in);
	struct report a, b;
	size_t n = 0;

	while (rcur_left(&in) && n < sizeof stream)
		n += emit(&in, stream + n, sizeof stream - n);
	a = look(stream, n);
	b = receive(stream, n, rng, max);
	if (a.frames != b.frames || a.sum != b.sum || a.end != b.end) {
		fprintf(stderr, "%u frames, end %d; received %u frames, end %d\n", a.frames, a.end, b.frames, b.end);
		abort();
	}
	for (size_t have = 0; have <= min_u64(size, TCP_GREETING); have++) {
		int r = tcp_greeting_check(data, have);

		if (have == 0 ? r != 0 : (r == -EPROTO) != (data[0] != 0xd0 && data[0] != 0xd1))
			abort();
		if ((r == 1 || r == 2) && have < TCP_GREETING)
			abort();
	}
	return 0;
}

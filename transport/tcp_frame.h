/* SPDX-License-Identifier: MIT */
/*
 * What a TCP stream looks like on the wire, and a parser of it that knows no socket.
 *
 * A connection starts with the connecting side's preamble (BE_PREAMBLE bytes, opaque
 * here). The accepting side answers with a greeting: one status byte and BE_PREAMBLE
 * bytes. The status is outside ASCII, so that a server of another protocol is told
 * apart by its first byte. Then both sides send frames, each a 32-byte header and `len`
 * bytes of payload. Little-endian:
 *
 *   0  type u8 (1 message, 2 put)   1  flags u8 = 0   2  reserved u16 = 0   4  len u32
 *   8  key u64     16  offset u64     24  region u32     28  crc32c u32 of bytes 0…27
 *
 * key, offset and region are 0 in a message. Closing in order is a FIN between frames.
 */
#ifndef DWCP_TRANSPORT_TCP_FRAME_H
#define DWCP_TRANSPORT_TCP_FRAME_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define TCP_FRAME_HEADER 32

enum tcp_frame_type { TCP_FRAME_MESSAGE = 1, TCP_FRAME_PUT = 2 };

struct tcp_frame {
	enum tcp_frame_type type;
	uint32_t len;
	uint64_t key;
	uint64_t offset;
	uint32_t region;
};

enum tcp_status { TCP_STATUS_ACCEPTED = 0xd1, TCP_STATUS_REJECTED = 0xd0 };

#define TCP_GREETING (1 + 56)

void tcp_frame_encode(uint8_t out[TCP_FRAME_HEADER], const struct tcp_frame *f);

/* 0; -EBADMSG when the checksum does not match; -EPROTO when it does and the header still breaks a rule. */
int tcp_frame_decode(const uint8_t in[TCP_FRAME_HEADER], struct tcp_frame *f);

/* Writes a greeting; reply: BE_PREAMBLE bytes or NULL for zeros. */
void tcp_greeting_encode(uint8_t out[TCP_GREETING], enum tcp_status status, const void *reply);

/* Looks at the first `have` bytes of an answer: 0 more are needed, 1 accepted, 2 rejected, -EPROTO not ours. */
int tcp_greeting_check(const uint8_t *in, size_t have);

/* Does the put lie inside a region of region_len bytes? Safe for any offset and len. */
static inline bool tcp_put_fits(const struct tcp_frame *f, uint64_t region_len)
{
	return f->offset <= region_len && f->len <= region_len - f->offset;
}

/*
 * The receiving side of a stream. The caller asks where the next bytes belong
 * (tcp_rx_iov), receives some, says how many came (tcp_rx_took), and then steps until
 * tcp_rx_step wants more. The header of the next frame is received together with the end
 * of a payload, so a frame costs one receive.
 */
struct tcp_rx {
	uint8_t head[TCP_FRAME_HEADER]; /* of the next frame, head_have bytes of it */
	uint32_t head_have;
	bool in_frame; /* `frame` is current */
	bool placed;   /* dst is known */
	struct tcp_frame frame;
	uint8_t *dst;
	uint32_t got; /* bytes of the payload */
};

enum tcp_rx_result {
	TCP_RX_MORE,   /* needs bytes */
	TCP_RX_HEADER, /* rx->frame is new and decoded: check it, then tcp_rx_place, then step again */
	TCP_RX_FRAME,  /* rx->frame is complete at rx->dst; step again to go on */
};

/* TCP_RX_*, or -EBADMSG / -EPROTO. len is not limited here: that is the caller's check at TCP_RX_HEADER. */
int tcp_rx_step(struct tcp_rx *rx);

/* Where the payload of rx->frame goes; dst has room for rx->frame.len bytes. */
void tcp_rx_place(struct tcp_rx *rx, void *dst);

/* After TCP_RX_MORE: fills iov, returns how many entries (1 or 2). At most `max` bytes of payload. */
int tcp_rx_iov(struct tcp_rx *rx, struct iovec iov[2], uint64_t max);

/* n bytes arrived in the iov that tcp_rx_iov gave. Returns how many of them are payload. */
uint32_t tcp_rx_took(struct tcp_rx *rx, size_t n);

/* May the stream end here? */
static inline bool tcp_rx_at_boundary(const struct tcp_rx *rx)
{
	return !rx->in_frame && rx->head_have == 0;
}

#endif

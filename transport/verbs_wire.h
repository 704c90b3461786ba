/* SPDX-License-Identifier: MIT */
/*
 * What a verbs stream carries besides puts, and parsers of it that know no device.
 *
 * A connection request's private data is the preamble (BE_PREAMBLE bytes: all that RDMA_PS_TCP leaves). The
 * answer's is the reply and a *greeting*; the connecting side's greeting is its first message (HELLO), because its
 * request has no room for it. Until HELLO has come the accepting side sends nothing.
 *
 * A message goes in segments, each one SEND into a receive buffer of the peer: an 8-byte header and at most
 * greeting.seg bytes. Little-endian:
 *
 *   0  type u8   1  flags u8 = 0   2  credits u16   4  len u32
 *
 * credits: receive buffers that the sender of the segment has posted since its last one; each segment uses one of
 * the peer's. Only with two or more left may a message be sent: the last is kept for VSEG_CREDIT and VSEG_BYE, so
 * that credits can always be given back. len: of the whole message in VSEG_FIRST, else 0.
 *
 * Greeting: 0 magic "DV"  2 version u8 = 1  3 mtu u8 (IBTA path MTU code 1…5, in the reply)  4 seg u32
 *           8 credits u16 (posted before it was sent)  10 u16 = 0
 *
 * A put is an RDMA WRITE. The I/O address of a region's first byte holds the region's number, so that hardware
 * checks number, key and bounds at once: number << 44 | the low 21 bits of its address (what huge pages want). The
 * token's key is rkey | low bits << 32.
 */
#ifndef DWCP_TRANSPORT_VERBS_WIRE_H
#define DWCP_TRANSPORT_VERBS_WIRE_H

#include "transport/backend.h"

#define VSEG_HEADER 8
#define VGREET 12
#define VGREET_SEG_MIN 256u
#define VGREET_SEG_MAX (1u << 20)
#define VGREET_CREDITS_MIN 4u
#define VGREET_CREDITS_MAX 4096u

enum vseg_type { VSEG_HELLO = 1, VSEG_FIRST, VSEG_MORE, VSEG_CREDIT, VSEG_BYE };

struct vseg {
	enum vseg_type type;
	uint16_t credits;
	uint32_t len; /* FIRST: of the message */
	const uint8_t *payload;
	uint32_t payload_len;
};

struct vgreet {
	uint32_t seg;
	uint16_t credits;
	uint8_t mtu;
};

void vseg_put(uint8_t out[VSEG_HEADER], enum vseg_type type, uint16_t credits, uint32_t len);
/* n bytes arrived in one receive buffer. 0 or -EPROTO. */
int vseg_parse(const uint8_t *in, uint32_t n, struct vseg *out);

void vgreet_put(uint8_t out[VGREET], const struct vgreet *g);
int vgreet_parse(const uint8_t *in, size_t n, struct vgreet *g); /* 0 or -EPROTO; extra bytes are padding */

/* A message that arrives in segments. */
struct vasm {
	uint32_t len, got;
	bool open;
};

/* Takes a FIRST or MORE segment: 1 the message is whole, 0 more is to come, -EPROTO. The segment's bytes belong at
 * a->got as it was before; they end within a->len <= frame_max. */
int vasm_take(struct vasm *a, const struct vseg *s, uint32_t frame_max);

/* More credits than a peer can have: its mistake. */
int vcredits_add(uint32_t *have, uint16_t more);

#define VTOKEN_ID_MAX ((1u << 19) - 1)
#define VTOKEN_LOW ((1u << 21) - 1)

static inline uint64_t vtoken_iova(uint32_t id, const void *addr)
{
	return (uint64_t)id << 44 | ((uintptr_t)addr & VTOKEN_LOW);
}

static inline uint64_t vtoken_key(uint32_t rkey, const void *addr)
{
	return rkey | ((uint64_t)(uintptr_t)addr & VTOKEN_LOW) << 32;
}

/* Where a put goes: any bytes give an address, which the peer's hardware holds against its regions. */
static inline uint64_t vtoken_address(struct be_token t, uint64_t offset)
{
	return ((uint64_t)t.id << 44 | (t.key >> 32 & VTOKEN_LOW)) + offset;
}

static inline uint32_t vtoken_rkey(struct be_token t)
{
	return (uint32_t)t.key;
}

#endif

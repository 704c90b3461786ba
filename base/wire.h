/* SPDX-License-Identifier: MIT */
/*
 * Cursors over bytes that go to or come from a peer. Little-endian. Errors are
 * sticky: after the first overrun every get returns 0 and `bad` stays set, so
 * a parser checks once, at its end.
 */
#ifndef DWCP_BASE_WIRE_H
#define DWCP_BASE_WIRE_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct wcur {
	uint8_t *p, *end;
	bool bad;
};

static inline struct wcur wcur_init(void *buf, size_t len)
{
	return (struct wcur){ .p = buf, .end = len ? (uint8_t *)buf + len : buf };
}

static inline void put_bytes(struct wcur *c, const void *src, size_t n)
{
	if (c->bad || (size_t)(c->end - c->p) < n) {
		c->bad = true;
		return;
	}
	if (!n) /* NULL, 0 is an empty buffer, and arithmetic on NULL is undefined */
		return;
	memcpy(c->p, src, n);
	c->p += n;
}

static inline void put_u8(struct wcur *c, uint8_t v)
{
	put_bytes(c, &v, 1);
}

static inline void put_u16(struct wcur *c, uint16_t v)
{
	v = htole16(v);
	put_bytes(c, &v, sizeof v);
}

static inline void put_u32(struct wcur *c, uint32_t v)
{
	v = htole32(v);
	put_bytes(c, &v, sizeof v);
}

static inline void put_u64(struct wcur *c, uint64_t v)
{
	v = htole64(v);
	put_bytes(c, &v, sizeof v);
}

/* u16 length, then the bytes, without a NUL. */
static inline void put_str(struct wcur *c, const char *s)
{
	size_t n = strlen(s);

	if (n > UINT16_MAX) {
		c->bad = true;
		return;
	}
	put_u16(c, (uint16_t)n);
	put_bytes(c, s, n);
}

struct rcur {
	const uint8_t *p, *end;
	bool bad;
};

static inline struct rcur rcur_init(const void *buf, size_t len)
{
	return (struct rcur){ .p = buf, .end = len ? (const uint8_t *)buf + len : buf };
}

static inline size_t rcur_left(const struct rcur *c)
{
	return c->bad ? 0 : (size_t)(c->end - c->p);
}

static inline void get_bytes(struct rcur *c, void *dst, size_t n)
{
	if (c->bad || (size_t)(c->end - c->p) < n) {
		c->bad = true;
		if (n)
			memset(dst, 0, n);
		return;
	}
	if (!n)
		return;
	memcpy(dst, c->p, n);
	c->p += n;
}

static inline uint8_t get_u8(struct rcur *c)
{
	uint8_t v;

	get_bytes(c, &v, 1);
	return v;
}

static inline uint16_t get_u16(struct rcur *c)
{
	uint16_t v;

	get_bytes(c, &v, sizeof v);
	return le16toh(v);
}

static inline uint32_t get_u32(struct rcur *c)
{
	uint32_t v;

	get_bytes(c, &v, sizeof v);
	return le32toh(v);
}

static inline uint64_t get_u64(struct rcur *c)
{
	uint64_t v;

	get_bytes(c, &v, sizeof v);
	return le64toh(v);
}

/* Into out, NUL-terminated. Too long for out, or a NUL inside, is bad. */
static inline void get_str(struct rcur *c, char *out, size_t cap)
{
	size_t n = get_u16(c);

	if (n >= cap || n > rcur_left(c) || (n && memchr(c->p, 0, n))) {
		c->bad = true;
		out[0] = 0;
		return;
	}
	get_bytes(c, out, n);
	out[n] = 0;
}

#endif

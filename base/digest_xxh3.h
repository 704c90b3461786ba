/* SPDX-License-Identifier: MIT */
/*
 * Private to digest*.c and their test: XXH3 built once per instruction set. A
 * source that defines XXH3_OPS (the name of its table) gets the code; it is
 * static, so nothing built with -mavx2 can be linked into the baseline.
 */
#ifndef DWCP_BASE_DIGEST_XXH3_H
#define DWCP_BASE_DIGEST_XXH3_H

#include "base/digest.h"

struct xxh3_ops {
	const char *name;
	uint64_t (*h64)(const void *data, size_t len);
	struct digest128 (*h128)(const void *data, size_t len);
	void (*begin)(void *state);
	void (*add)(void *state, const void *data, size_t len);
	uint64_t (*end)(const void *state);
};

extern const struct xxh3_ops xxh3_base;
#ifdef __x86_64__
extern const struct xxh3_ops xxh3_avx2; /* only where the CPU has it */
#endif

#ifdef XXH3_OPS
#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(sizeof(XXH3_state_t) <= sizeof((struct sum_state){ 0 }.xxh), "sum_state.xxh is too small");
_Static_assert(_Alignof(XXH3_state_t) <= 64, "sum_state.xxh is not aligned enough");

static uint64_t xxh3_h64(const void *data, size_t len)
{
	return XXH3_64bits(data, len);
}

static struct digest128 xxh3_h128(const void *data, size_t len)
{
	XXH128_hash_t h = XXH3_128bits(data, len);

	return (struct digest128){ .lo = h.low64, .hi = h.high64 };
}

static void xxh3_begin(void *state)
{
	XXH3_state_t *s = state;

	XXH3_INITSTATE(s);
	XXH3_64bits_reset(s);
}

static void xxh3_add(void *state, const void *data, size_t len)
{
	XXH3_64bits_update(state, data, len);
}

static uint64_t xxh3_end(const void *state)
{
	return XXH3_64bits_digest(state);
}

const struct xxh3_ops XXH3_OPS = {
	.name = XXH3_OPS_NAME,
	.h64 = xxh3_h64,
	.h128 = xxh3_h128,
	.begin = xxh3_begin,
	.add = xxh3_add,
	.end = xxh3_end,
};
#endif

#endif

/* SPDX-License-Identifier: MIT */
#include "compress/delta.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

void delta_map_scalar(const uint8_t *old, const uint8_t *now, uint64_t map[DELTA_WORDS])
{
	for (unsigned w = 0; w < DELTA_WORDS; w++, old += 64, now += 64) {
		uint64_t m = 0;

		if (memcmp(old, now, 64))
			for (unsigned i = 0; i < 64; i++)
				m |= (uint64_t)(old[i] != now[i]) << i;
		map[w] = m;
	}
}

static void (*find_changes)(const uint8_t *old, const uint8_t *now, uint64_t map[DELTA_WORDS]) = delta_map_scalar;

/* Before main, hence before any thread: readers need no atomics. */
__attribute__((constructor)) static void choose(void)
{
#ifdef __x86_64__
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx2"))
		find_changes = delta_map_avx2;
#endif
}

/* The first bit at or after `at` that is `set`; DELTA_PAGE when there is none. */
static uint32_t next_bit(const uint64_t *map, uint32_t at, bool set)
{
	uint32_t w = at / 64;
	uint64_t v;

	if (at >= DELTA_PAGE)
		return DELTA_PAGE;
	v = (set ? map[w] : ~map[w]) & (~0ull << at % 64);
	while (!v) {
		if (++w == DELTA_WORDS)
			return DELTA_PAGE;
		v = set ? map[w] : ~map[w];
	}
	return w * 64 + (uint32_t)__builtin_ctzll(v);
}

#define SHORT 32u

/* Runs are short, and a call of memcpy with a length that nobody can guess takes longer than they do. */
static void copy_run(uint8_t *to, uint32_t room, const uint8_t *now, uint32_t from, uint32_t n)
{
	if (n <= SHORT && room >= SHORT && from + SHORT <= DELTA_PAGE)
		memcpy(to, now + from, SHORT);
	else
		memcpy(to, now + from, n);
}

static uint8_t *put_leb(uint8_t *p, uint32_t v)
{
	if (v >= 128) {
		*p++ = (uint8_t)(v | 128);
		v >>= 7;
	}
	*p++ = (uint8_t)v;
	return p;
}

int delta_of_map(const uint64_t map[DELTA_WORDS], const uint8_t *now, uint8_t *ctl, uint8_t *data, uint32_t most,
		 struct delta *d)
{
	uint32_t at = 0, used = 0, runs = 0, from = next_bit(map, 0, true);
	uint8_t *c = ctl + 1;

	while (from < DELTA_PAGE) {
		uint32_t to = next_bit(map, from, false), next = next_bit(map, to, true);

		while (next < DELTA_PAGE && next - to < DELTA_GAP) {
			to = next_bit(map, next, false);
			next = next_bit(map, to, true);
		}
		if (++runs > DELTA_RUNS_MAX || to - from > most - used)
			return -ENOSPC;
		c = put_leb(c, from - at);
		c = put_leb(c, to - from - 1);
		copy_run(data + used, most - used, now, from, to - from);
		used += to - from;
		at = to;
		from = next;
	}
	ctl[0] = (uint8_t)runs;
	*d = (struct delta){ .ctl = (uint32_t)(c - ctl), .data = used };
	return 0;
}

int delta_encode(const uint8_t *old, const uint8_t *now, uint8_t *ctl, uint8_t *data, uint32_t most, struct delta *d)
{
	uint64_t map[DELTA_WORDS];

	find_changes(old, now, map);
	return delta_of_map(map, now, ctl, data, most, d);
}

/* 0 … 2^14-1 in one or two bytes, shortest form only; -1: not that, or at the end. */
static int32_t get_leb(const uint8_t **p, const uint8_t *end)
{
	uint32_t v;

	if (*p == end)
		return -1;
	v = *(*p)++;
	if (v < 128)
		return (int32_t)v;
	if (*p == end || **p >= 128 || !**p)
		return -1;
	return (int32_t)((v & 127) | (uint32_t) * (*p)++ << 7);
}

int delta_decode(uint8_t *page, const uint8_t *ctl, size_t ctl_len, const uint8_t *data, size_t data_len,
		 struct delta *d)
{
	const uint8_t *c = ctl, *end = ctl + ctl_len;
	uint32_t at = 0, used = 0;

	if (c == end)
		return -EBADMSG;
	for (unsigned runs = *c++; runs; runs--) {
		int32_t skip = get_leb(&c, end), len = get_leb(&c, end);

		if (skip < 0 || len < 0 || (uint32_t)skip > DELTA_PAGE - at)
			return -EBADMSG;
		at += (uint32_t)skip;
		len++;
		if ((uint32_t)len > DELTA_PAGE - at || (uint32_t)len > data_len - used)
			return -EBADMSG;
		memcpy(page + at, data + used, (uint32_t)len);
		at += (uint32_t)len;
		used += (uint32_t)len;
	}
	*d = (struct delta){ .ctl = (uint32_t)(c - ctl), .data = used };
	return 0;
}

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

/* Two of each run; gaps of DELTA_GAP leave so many. */
#define EDGES_MAX (2 * (DELTA_PAGE / (DELTA_GAP + 1) + 2))

/* Fills gaps shorter than DELTA_GAP: what is set is spread over the bits behind it, and what was won at an end given back. */
static void close_gaps(const uint64_t map[DELTA_WORDS], uint64_t out[DELTA_WORDS])
{
	uint64_t wide[DELTA_WORDS + 1], last = 0;

	_Static_assert(DELTA_GAP == 4, "three bits, in two steps: one, then two");
	for (unsigned w = 0; w < DELTA_WORDS; w++) {
		uint64_t m = map[w], two = m | m << 1 | last >> 63;

		wide[w] = two | two << 2 | (last | last << 1) >> 62;
		last = m;
	}
	wide[DELTA_WORDS] = (last | last << 1) >> 62 | (last >> 63) * 5;
	for (unsigned w = 0; w < DELTA_WORDS; w++) {
		uint64_t v = wide[w], next = wide[w + 1], two = v & (v >> 1 | next << 63);

		out[w] = two & (two >> 2 | (next & next >> 1) << 62);
	}
}

/* Where rows of set bits begin and end, in turns; returns how many rows there are. */
static uint32_t find_edges(const uint64_t map[DELTA_WORDS], uint16_t edge[EDGES_MAX])
{
	uint64_t last = 0;
	uint32_t n = 0;

	for (uint32_t w = 0; w < DELTA_WORDS; w++) {
		uint64_t e = map[w] ^ (map[w] << 1 | last >> 63);

		for (; e; e &= e - 1)
			edge[n++] = (uint16_t)(w * 64 + (uint32_t)__builtin_ctzll(e));
		last = map[w];
	}
	if (n % 2)
		edge[n++] = DELTA_PAGE;
	return n / 2;
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
	uint64_t closed[DELTA_WORDS];
	uint16_t edge[EDGES_MAX];
	uint32_t at = 0, used = 0, runs, bytes = 0;
	uint8_t *c = ctl + 1;

	close_gaps(map, closed);
	runs = find_edges(closed, edge);
	for (uint32_t i = 0; i < runs; i++)
		bytes += (uint32_t)(edge[2 * i + 1] - edge[2 * i]);
	if (runs > DELTA_RUNS_MAX || bytes > most)
		return -ENOSPC;
	for (uint32_t i = 0; i < runs; i++) {
		uint32_t from = edge[2 * i], to = edge[2 * i + 1];

		c = put_leb(c, from - at);
		c = put_leb(c, to - from - 1);
		copy_run(data + used, most - used, now, from, to - from);
		used += to - from;
		at = to;
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

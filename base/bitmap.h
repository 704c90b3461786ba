/* SPDX-License-Identifier: MIT */
/* Bitmap whose bits several threads may set. Memory is the caller's business: bitmap_words() uint64_t. */
#ifndef DWCP_BASE_BITMAP_H
#define DWCP_BASE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline size_t bitmap_words(uint64_t bits)
{
	return (size_t)((bits + 63) / 64);
}

/* Sets a bit; true when it was clear before. */
static inline bool bitmap_set(uint64_t *map, uint64_t bit)
{
	uint64_t m = 1ull << (bit & 63);

	return !(__atomic_fetch_or(&map[bit >> 6], m, __ATOMIC_ACQ_REL) & m);
}

/* Clears a bit; true when it was set before. */
static inline bool bitmap_clear(uint64_t *map, uint64_t bit)
{
	uint64_t m = 1ull << (bit & 63);

	return __atomic_fetch_and(&map[bit >> 6], ~m, __ATOMIC_ACQ_REL) & m;
}

static inline bool bitmap_test(const uint64_t *map, uint64_t bit)
{
	return __atomic_load_n(&map[bit >> 6], __ATOMIC_ACQUIRE) >> (bit & 63) & 1;
}

/* Sets the bits [first, first + n). Each word at once, not all of them together. */
void bitmap_set_run(uint64_t *map, uint64_t first, uint64_t n);

/* The first run of set bits at or after `from` among the first `bits`: its start, and its length in *n. Returns `bits`
 * when there is none. Not atomic as a whole. */
uint64_t bitmap_next_run(const uint64_t *map, uint64_t bits, uint64_t from, uint64_t *n);

/* Number of set bits among the first `bits`. Not atomic as a whole. */
uint64_t bitmap_count(const uint64_t *map, uint64_t bits);

#endif

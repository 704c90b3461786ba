/* SPDX-License-Identifier: MIT */
#include "base/bitmap.h"

uint64_t bitmap_count(const uint64_t *map, uint64_t bits)
{
	uint64_t whole = bits / 64, n = 0;

	for (uint64_t i = 0; i < whole; i++)
		n += (uint64_t)__builtin_popcountll(__atomic_load_n(&map[i], __ATOMIC_RELAXED));
	if (bits % 64) {
		uint64_t last = __atomic_load_n(&map[whole], __ATOMIC_RELAXED);

		n += (uint64_t)__builtin_popcountll(last & ((1ull << bits % 64) - 1));
	}
	return n;
}

void bitmap_set_run(uint64_t *map, uint64_t first, uint64_t n)
{
	while (n) {
		uint64_t shift = first & 63, k = n < 64 - shift ? n : 64 - shift;
		uint64_t bits = k == 64 ? ~0ull : ((1ull << k) - 1) << shift;

		__atomic_fetch_or(&map[first >> 6], bits, __ATOMIC_ACQ_REL);
		first += k;
		n -= k;
	}
}

/* The first bit at or after `from` that equals `set`; `bits` if there is none. */
static uint64_t next_bit(const uint64_t *map, uint64_t bits, uint64_t from, bool set)
{
	while (from < bits) {
		uint64_t w = __atomic_load_n(&map[from >> 6], __ATOMIC_ACQUIRE);

		w = (set ? w : ~w) >> (from & 63);
		if (w) {
			from += (uint64_t)__builtin_ctzll(w);
			return from < bits ? from : bits;
		}
		from = (from | 63) + 1;
	}
	return bits;
}

uint64_t bitmap_next_run(const uint64_t *map, uint64_t bits, uint64_t from, uint64_t *n)
{
	uint64_t first = next_bit(map, bits, from, true);

	*n = next_bit(map, bits, first, false) - first;
	return first;
}

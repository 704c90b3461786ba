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

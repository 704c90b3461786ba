/* SPDX-License-Identifier: MIT */
#include "compress/match.h"

#ifdef __x86_64__
#include <immintrin.h>

/* The words that begin at bytes k, k + 4, k + 8 … of 32: bits k, k + 4, … of the result. */
static uint32_t lanes(const uint8_t *p, unsigned k)
{
	__m256i v = _mm256_loadu_si256((const __m256i *)(p + k));
	__m256i h = _mm256_srli_epi32(_mm256_mullo_epi32(v, _mm256_set1_epi32((int)MATCH_MUL)), MATCH_SHIFT);
	__m256i eq = _mm256_cmpeq_epi32(h, _mm256_set1_epi32(MATCH_VALUE));

	return (uint32_t)_mm256_movemask_epi8(eq) & 0x11111111u;
}

void match_mask_avx2(const uint8_t *page, uint64_t mask[MATCH_WORDS])
{
	for (unsigned w = 0; w < MATCH_WORDS; w++, page += 64) {
		uint32_t lo = lanes(page, 0) | lanes(page, 1) << 1 | lanes(page, 2) << 2 | lanes(page, 3) << 3;
		uint32_t hi = lanes(page + 32, 0) | lanes(page + 32, 1) << 1 | lanes(page + 32, 2) << 2 |
			      lanes(page + 32, 3) << 3;

		mask[w] = (uint64_t)hi << 32 | lo;
	}
}
#endif

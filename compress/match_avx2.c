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

uint64_t match_mask_avx2(const uint8_t *p)
{
	uint64_t lo = lanes(p, 0) | lanes(p, 1) << 1 | lanes(p, 2) << 2 | lanes(p, 3) << 3;
	uint64_t hi = lanes(p + 32, 0) | lanes(p + 32, 1) << 1 | lanes(p + 32, 2) << 2 | lanes(p + 32, 3) << 3;

	return hi << 32 | lo;
}
#endif

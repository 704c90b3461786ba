/* SPDX-License-Identifier: MIT */
#include "compress/delta.h"

#ifdef __x86_64__
#include <immintrin.h>

void delta_map_avx2(const uint8_t *old, const uint8_t *now, uint64_t map[DELTA_WORDS])
{
	for (unsigned w = 0; w < DELTA_WORDS; w++) {
		const __m256i *a = (const __m256i *)(old + w * 64), *b = (const __m256i *)(now + w * 64);
		uint32_t lo =
			(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_loadu_si256(a), _mm256_loadu_si256(b)));
		uint32_t hi = (uint32_t)_mm256_movemask_epi8(
			_mm256_cmpeq_epi8(_mm256_loadu_si256(a + 1), _mm256_loadu_si256(b + 1)));

		map[w] = ~((uint64_t)hi << 32 | lo);
	}
}
#endif

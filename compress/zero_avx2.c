/* SPDX-License-Identifier: MIT */
#include "compress/zero.h"

#ifdef __x86_64__
#include <immintrin.h>
#include <stdint.h>

bool zero_test_avx2(const void *data, size_t n)
{
	const uint8_t *p = data;

	for (; n >= 256; n -= 256, p += 256) {
		const __m256i *v = (const __m256i *)p;
		__m256i a = _mm256_or_si256(_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1));
		__m256i b = _mm256_or_si256(_mm256_loadu_si256(v + 2), _mm256_loadu_si256(v + 3));
		__m256i c = _mm256_or_si256(_mm256_loadu_si256(v + 4), _mm256_loadu_si256(v + 5));
		__m256i d = _mm256_or_si256(_mm256_loadu_si256(v + 6), _mm256_loadu_si256(v + 7));

		a = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
		if (!_mm256_testz_si256(a, a))
			return false;
	}
	return zero_test_scalar(p, n);
}
#endif

/* SPDX-License-Identifier: MIT */
#include "compress/zero.h"

#include <stdint.h>
#include <string.h>

static uint64_t word(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof v);
	return v;
}

bool zero_test_scalar(const void *data, size_t n)
{
	const uint8_t *p = data;

	for (; n >= 64; n -= 64, p += 64)
		if (word(p) | word(p + 8) | word(p + 16) | word(p + 24) | word(p + 32) | word(p + 40) | word(p + 48) |
		    word(p + 56))
			return false;
	for (; n; n--)
		if (*p++)
			return false;
	return true;
}

static bool (*whole)(const void *p, size_t n) = zero_test_scalar;

/* Before main, hence before any thread: readers need no atomics. */
__attribute__((constructor)) static void choose(void)
{
#ifdef __x86_64__
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx2"))
		whole = zero_test_avx2;
#endif
}

bool zero_test(const void *data, size_t n)
{
	const uint8_t *p = data;

	if (n >= 16 && (word(p) | word(p + n / 2) | word(p + n - 8)))
		return false;
	return whole(p, n);
}

const char *zero_variant(void)
{
	return whole == zero_test_scalar ? "scalar" : "avx2";
}

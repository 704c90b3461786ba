/* SPDX-License-Identifier: MIT */
/* Small things that every module needs. */
#ifndef DWCP_BASE_UTIL_H
#define DWCP_BASE_UTIL_H

#include <stddef.h>
#include <stdint.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CACHE_LINE 64
#define cacheline_aligned __attribute__((aligned(CACHE_LINE)))

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline uint64_t div_up_u64(uint64_t a, uint64_t b)
{
	return a / b + (a % b != 0);
}

/* The least power of two that is not below n, which is at most 2^31. What a counter that wraps indexes needs it. */
static inline uint32_t pow2_up_u32(uint32_t n)
{
	return n < 2 ? 1 : 1u << (32 - __builtin_clz(n - 1));
}

/* Between two looks at what another CPU or device will change. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#else
	__asm__ volatile("" ::: "memory");
#endif
}

/* splitmix64: seeded, repeatable randomness for scheduling, tests and fault
 * injection. Not for keys: those come from getrandom(2). Source: Steele, Lea,
 * Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. */
static inline uint64_t rng_next(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/* Fills memory with what rng_next gives for the seed: incompressible, repeatable content. */
static inline void rng_fill(void *out, size_t len, uint64_t seed)
{
	uint8_t *p = out;

	for (; len >= 8; len -= 8, p += 8) {
		uint64_t v = rng_next(&seed);

		__builtin_memcpy(p, &v, 8);
	}
	for (uint64_t v = rng_next(&seed); len; len--, v >>= 8)
		*p++ = (uint8_t)v;
}

#endif

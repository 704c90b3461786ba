/* SPDX-License-Identifier: MIT */
#include "compress/match.h"

#include "base/util.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* An entry: 20 bits of hash, 12 of offset, 32 of page + 1; 0 is empty. */
#define TAG(hash) ((hash) >> 44 << 44)
#define SPACING 32u             /* bytes between anchors, at least */
#define BUCKETS_PAGE 8u         /* buckets of four for a page: half of its anchors */
#define BUCKETS_MOST (1u << 22) /* 128 MB of table */

int match_open(struct match_table *t, uint64_t pages)
{
	uint64_t buckets = 64;

	while (buckets < pages * BUCKETS_PAGE && buckets < BUCKETS_MOST)
		buckets *= 2;
	t->mask = buckets - 1;
	t->bytes = buckets * MATCH_WAYS * sizeof *t->slots;
	t->slots = mmap(NULL, t->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (t->slots == MAP_FAILED) {
		t->slots = NULL;
		return -ENOMEM;
	}
	madvise(t->slots, t->bytes, MADV_HUGEPAGE);
	return 0;
}

void match_close(struct match_table *t)
{
	if (t->slots)
		munmap(t->slots, t->bytes);
	t->slots = NULL;
}

void match_clear(struct match_table *t)
{
	if (t->slots)
		madvise(t->slots, t->bytes, MADV_DONTNEED);
}

static uint32_t load32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof v);
	return v;
}

void match_mask_scalar(const uint8_t *page, uint64_t mask[MATCH_WORDS])
{
	for (unsigned w = 0; w < MATCH_WORDS; w++, page += 64) {
		mask[w] = 0;
		for (unsigned i = 0; i < 64; i++)
			mask[w] |= (uint64_t)(load32(page + i) * MATCH_MUL >> MATCH_SHIFT == MATCH_VALUE) << i;
	}
}

static void (*mask_of)(const uint8_t *page, uint64_t mask[MATCH_WORDS]) = match_mask_scalar;

/* Before main, hence before any thread: readers need no atomics. */
__attribute__((constructor)) static void choose(void)
{
#ifdef __x86_64__
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx2"))
		mask_of = match_mask_avx2;
#endif
}

static uint64_t hash_at(const uint8_t *p)
{
	uint64_t h = 0, w[MATCH_LEAST / 8];

	memcpy(w, p, sizeof w);
	for (unsigned i = 0; i < ARRAY_LEN(w); i++) {
		h = (h ^ w[i]) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 32;
	}
	return h * 0xff51afd7ed558ccdull;
}

unsigned match_anchors(const struct match_table *t, const uint8_t *page, struct match_anchor out[MATCH_ANCHORS])
{
	uint64_t mask[MATCH_WORDS];
	uint32_t next = 0;
	unsigned n = 0;

	mask_of(page, mask);
	for (uint32_t w = 0; w < MATCH_WORDS; w++)
		for (uint64_t m = mask[w]; m; m &= m - 1) {
			uint32_t i = w * 64 + (uint32_t)__builtin_ctzll(m);

			if (i < next)
				continue;
			out[n].at = (uint16_t)i;
			out[n].hash = hash_at(page + i);
			__builtin_prefetch(&t->slots[(out[n].hash & t->mask) * MATCH_WAYS]);
			next = i + SPACING;
			if (++n == MATCH_ANCHORS)
				return n;
		}
	return n;
}

unsigned match_find(const struct match_table *t, uint64_t hash, struct match_place out[MATCH_WAYS])
{
	const uint64_t *b = &t->slots[(hash & t->mask) * MATCH_WAYS];
	unsigned n = 0;

	for (unsigned i = 0; i < MATCH_WAYS; i++) {
		uint64_t v = __atomic_load_n(&b[i], __ATOMIC_RELAXED);

		if (v && TAG(v) == TAG(hash)) {
			out[n].page = (uint32_t)v - 1;
			out[n++].at = (uint16_t)(v >> 32 & 0xfff);
		}
	}
	return n;
}

void match_add(struct match_table *t, uint64_t hash, struct match_place place)
{
	uint64_t *b = &t->slots[(hash & t->mask) * MATCH_WAYS];
	uint64_t entry = TAG(hash) | (uint64_t)place.at << 32 | (place.page + 1u);
	unsigned at = hash >> 40 & (MATCH_WAYS - 1);

	for (unsigned i = 0; i < MATCH_WAYS; i++)
		if (!__atomic_load_n(&b[i], __ATOMIC_RELAXED)) {
			at = i;
			break;
		}
	__atomic_store_n(&b[at], entry, __ATOMIC_RELAXED);
}

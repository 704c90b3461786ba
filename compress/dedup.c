/* SPDX-License-Identifier: MIT */
#include "compress/dedup.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* An entry is hash bits in the upper half and page + 1 in the lower; 0 is empty. */

int dedup_open(struct dedup *d, uint64_t pages)
{
	uint64_t buckets = 1;

	while (buckets * DEDUP_WAYS < pages)
		buckets *= 2;
	d->bytes = buckets * DEDUP_WAYS * sizeof *d->slots;
	d->mask = buckets - 1;
	/* Untouched memory costs nothing: a table for a large region that is mostly zeros stays small. */
	d->slots = mmap(NULL, d->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (d->slots == MAP_FAILED) {
		d->slots = NULL;
		return -ENOMEM;
	}
	return 0;
}

void dedup_close(struct dedup *d)
{
	if (d->slots)
		munmap(d->slots, d->bytes);
	d->slots = NULL;
}

void dedup_clear(struct dedup *d)
{
	memset(d->slots, 0, d->bytes);
}

void dedup_touch(const struct dedup *d, uint64_t hash)
{
	__builtin_prefetch(&d->slots[(hash & d->mask) * DEDUP_WAYS], 1);
}

unsigned dedup_find(const struct dedup *d, uint64_t hash, uint32_t out[DEDUP_WAYS])
{
	const uint64_t *b = &d->slots[(hash & d->mask) * DEDUP_WAYS];
	unsigned n = 0;

	for (unsigned i = 0; i < DEDUP_WAYS; i++) {
		uint64_t v = __atomic_load_n(&b[i], __ATOMIC_RELAXED);

		if (v && v >> 32 == hash >> 32)
			out[n++] = (uint32_t)v - 1;
	}
	return n;
}

void dedup_add(struct dedup *d, uint64_t hash, uint32_t page)
{
	uint64_t *b = &d->slots[(hash & d->mask) * DEDUP_WAYS], entry = hash >> 32 << 32 | (page + 1u);
	unsigned at = hash >> 40 & (DEDUP_WAYS - 1);

	for (unsigned i = 0; i < DEDUP_WAYS; i++) {
		uint64_t v = __atomic_load_n(&b[i], __ATOMIC_RELAXED);

		if (v && v >> 32 == hash >> 32)
			return; /* the older one has been there longer: more surely at the receiver */
		if (!v)
			at = i;
	}
	__atomic_store_n(&b[at], entry, __ATOMIC_RELAXED);
}

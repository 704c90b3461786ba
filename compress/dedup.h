/* SPDX-License-Identifier: MIT */
/*
 * Which page has the same content? A table of hints, 8 bytes each, at most 16 bytes per page of the region: 32 bits of a
 * page's hash and its number. A hint may be old or wrong: the caller compares the bytes, and knows what the receiver has.
 * A bucket of four; who comes fifth replaces one of them.
 *
 * Threads: any; entries are single words.
 */
#ifndef DWCP_COMPRESS_DEDUP_H
#define DWCP_COMPRESS_DEDUP_H

#include <stddef.h>
#include <stdint.h>

#define DEDUP_WAYS 4

struct dedup {
	uint64_t *slots;
	uint64_t mask; /* of buckets */
	size_t bytes;
};

int dedup_open(struct dedup *d, uint64_t pages); /* 0 or -ENOMEM */
void dedup_close(struct dedup *d);
void dedup_clear(struct dedup *d);

void dedup_touch(const struct dedup *d, uint64_t hash); /* dedup_find of it comes soon */
/* Pages that may have this hash into out; returns how many. */
unsigned dedup_find(const struct dedup *d, uint64_t hash, uint32_t out[DEDUP_WAYS]);
void dedup_add(struct dedup *d, uint64_t hash, uint32_t page);

#endif

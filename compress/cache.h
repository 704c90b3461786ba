/* SPDX-License-Identifier: MIT */
/*
 * The base cache: bytes of the last version of pages that was sent, the base of deltas and the proof of references.
 *
 * Policy. Every page that is sent and not zero asks for a slot. A free slot is given to whoever asks; a slot in use is given to
 * another page only when its own was sent neither in this round nor in the last. So a guest whose working set is larger
 * than the cache keeps a part of it, for which deltas go on working, where "least recently used" would lose every page
 * just before it is wanted again.
 *
 * Threads: any. A slot is used under a pin, which is never waited for: pinned by another is "not there".
 */
#ifndef DWCP_COMPRESS_CACHE_H
#define DWCP_COMPRESS_CACHE_H

#include "base/err.h"
#include "base/hugebuf.h"
#include <stdbool.h>
#include <stdint.h>

#define CACHE_PAGE 4096u

struct cache_slot {
	uint32_t pin;  /* 0 or 1 */
	uint32_t page; /* + 1; 0: free */
	uint32_t round;
};

struct cache {
	struct hugebuf mem;
	struct cache_slot *slots;
	uint32_t *of_page; /* slot + 1, or 0 */
	uint64_t pages;
	uint32_t n;
	uint32_t hand; /* next slot that is looked at when one is wanted */
	uint64_t evictions;
};

/* bytes: of pages kept; 0 or less than a page: no cache, every look is a miss. -ENOMEM with e filled. */
int cache_open(struct cache *c, uint64_t pages, uint64_t bytes, struct err *e);
void cache_close(struct cache *c);
void cache_clear(struct cache *c); /* nobody else is in it */

/* Pins the page's bytes of that round: the slot for cache_bytes and cache_unpin; -1: not there. */
int64_t cache_pin(struct cache *c, uint32_t page, uint32_t round);
const uint8_t *cache_bytes(const struct cache *c, int64_t slot);
/* The same, to be changed into the page's bytes of `round` before it is unpinned. */
uint8_t *cache_renew(struct cache *c, int64_t slot, uint32_t round);
void cache_unpin(struct cache *c, int64_t slot);
/* Touches ahead what cache_pin reads, … */
void cache_touch(const struct cache *c, uint32_t page);
/* …once that has arrived its slot, … */
void cache_touch_slot(const struct cache *c, uint32_t page);
/* …and once that has the bytes. */
void cache_touch_bytes(const struct cache *c, uint32_t page);
/* Keeps a copy as the page's version of `round`, if there is a slot. */
void cache_put(struct cache *c, uint32_t page, uint32_t round, const uint8_t *data);
/* The page's bytes are of no use any more (zero, unknown). */
void cache_drop(struct cache *c, uint32_t page);

#endif

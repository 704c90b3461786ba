/* SPDX-License-Identifier: MIT */
#include "compress/cache.h"

#include "base/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOOKS 32 /* slots that are looked at for one that may be taken */

int cache_open(struct cache *c, uint64_t pages, uint64_t bytes, struct err *e)
{
	uint64_t n = min_u64(bytes / CACHE_PAGE, pages);
	int rc;

	*c = (struct cache){ .pages = pages };
	if (!n)
		return 0;
	rc = hugebuf_alloc(&c->mem, n * CACHE_PAGE, false, e);
	if (rc < 0)
		return rc;
	c->slots = calloc(n, sizeof *c->slots);
	c->of_page = calloc(pages, sizeof *c->of_page);
	if (!c->slots || !c->of_page) {
		cache_close(c);
		return err_set(e, -ENOMEM, "no memory for a cache of %llu pages: use a smaller --delta-cache",
			       (unsigned long long)n);
	}
	c->n = (uint32_t)n;
	return 0;
}

void cache_close(struct cache *c)
{
	hugebuf_free(&c->mem);
	free(c->slots);
	free(c->of_page);
	*c = (struct cache){ 0 };
}

void cache_clear(struct cache *c)
{
	if (!c->n)
		return;
	memset(c->slots, 0, c->n * sizeof *c->slots);
	memset(c->of_page, 0, c->pages * sizeof *c->of_page);
	c->hand = 0;
}

static bool pin(struct cache_slot *s)
{
	uint32_t zero = 0;

	return __atomic_compare_exchange_n(&s->pin, &zero, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static void unpin(struct cache_slot *s)
{
	__atomic_store_n(&s->pin, 0, __ATOMIC_RELEASE);
}

/* The page's slot, pinned, or -1. */
static int64_t pin_page(struct cache *c, uint32_t page)
{
	uint32_t at = c->n ? __atomic_load_n(&c->of_page[page], __ATOMIC_RELAXED) : 0;
	struct cache_slot *s;

	if (!at)
		return -1;
	s = &c->slots[at - 1];
	if (!pin(s))
		return -1;
	if (s->page == page + 1)
		return at - 1;
	unpin(s);
	return -1;
}

int64_t cache_pin(struct cache *c, uint32_t page, uint32_t round)
{
	int64_t at = pin_page(c, page);

	if (at < 0 || c->slots[at].round == round)
		return at;
	unpin(&c->slots[at]);
	return -1;
}

const uint8_t *cache_bytes(const struct cache *c, int64_t slot)
{
	return (const uint8_t *)c->mem.addr + (uint64_t)slot * CACHE_PAGE;
}

uint8_t *cache_renew(struct cache *c, int64_t slot, uint32_t round)
{
	__atomic_store_n(&c->slots[slot].round, round, __ATOMIC_RELAXED);
	return (uint8_t *)c->mem.addr + (uint64_t)slot * CACHE_PAGE;
}

void cache_touch(const struct cache *c, uint32_t page)
{
	if (c->n)
		__builtin_prefetch(&c->of_page[page]);
}

void cache_touch_slot(const struct cache *c, uint32_t page)
{
	uint32_t at = c->n ? __atomic_load_n(&c->of_page[page], __ATOMIC_RELAXED) : 0;

	if (at)
		__builtin_prefetch(&c->slots[at - 1], 1);
}

void cache_touch_bytes(const struct cache *c, uint32_t page)
{
	uint32_t at = c->n ? __atomic_load_n(&c->of_page[page], __ATOMIC_RELAXED) : 0;
	const uint8_t *p = at ? cache_bytes(c, at - 1) : NULL;

	for (uint32_t i = 0; p && i < CACHE_PAGE; i += CACHE_LINE)
		__builtin_prefetch(p + i);
}

void cache_unpin(struct cache *c, int64_t slot)
{
	unpin(&c->slots[slot]);
}

/* A slot for another page, pinned, or -1. */
static int64_t take_slot(struct cache *c, uint32_t round)
{
	for (unsigned i = 0; i < LOOKS && i < c->n; i++) {
		uint32_t at = __atomic_fetch_add(&c->hand, 1, __ATOMIC_RELAXED) % c->n;
		struct cache_slot *s = &c->slots[at];

		if (!pin(s))
			continue;
		if (!s->page)
			return at;
		if (s->round + 1 < round) {
			/* Unless the page has another slot by now: this one was pinned when it was sent again. */
			if (__atomic_load_n(&c->of_page[s->page - 1], __ATOMIC_RELAXED) == at + 1)
				__atomic_store_n(&c->of_page[s->page - 1], 0, __ATOMIC_RELAXED);
			__atomic_fetch_add(&c->evictions, 1, __ATOMIC_RELAXED);
			return at;
		}
		unpin(s);
	}
	return -1;
}

void cache_put(struct cache *c, uint32_t page, uint32_t round, const uint8_t *data)
{
	int64_t at = pin_page(c, page);
	struct cache_slot *s;

	if (at < 0 && c->n)
		at = take_slot(c, round);
	if (at < 0)
		return;
	s = &c->slots[at];
	__atomic_store_n(&s->page, page + 1, __ATOMIC_RELAXED);
	__atomic_store_n(&s->round, round, __ATOMIC_RELAXED);
	memcpy((uint8_t *)c->mem.addr + (uint64_t)at * CACHE_PAGE, data, CACHE_PAGE);
	__atomic_store_n(&c->of_page[page], (uint32_t)at + 1, __ATOMIC_RELAXED);
	unpin(s);
}

void cache_drop(struct cache *c, uint32_t page)
{
	int64_t at = pin_page(c, page);

	if (at < 0)
		return;
	__atomic_store_n(&c->slots[at].page, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&c->of_page[page], 0, __ATOMIC_RELAXED);
	unpin(&c->slots[at]);
}

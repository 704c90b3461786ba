/* SPDX-License-Identifier: MIT */
#include "base/ring.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SPSC_MAX (1u << 31)    /* free-running 32-bit counters tell full from empty up to here */
#define BYTES_MAX (1ull << 36) /* more is a slip: not even tried */

static uint64_t pow2_at_least(uint64_t v)
{
	return v < 2 ? 1 : 1ull << (64 - __builtin_clzll(v - 1));
}

int spsc_init(struct spsc *r, uint32_t capacity, uint32_t item_bytes)
{
	uint64_t slots = pow2_at_least(capacity), bytes = slots * item_bytes; /* at most 2^32 times 2^32 - 1 */

	memset(r, 0, sizeof *r);
	if (slots > SPSC_MAX || bytes > BYTES_MAX)
		return -ENOMEM;
	bytes = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
	r->slots = aligned_alloc(CACHE_LINE, bytes ? bytes : CACHE_LINE);
	if (!r->slots)
		return -ENOMEM;
	r->mask = (uint32_t)(slots - 1);
	r->item = item_bytes;
	return 0;
}

void spsc_free(struct spsc *r)
{
	free(r->slots);
	memset(r, 0, sizeof *r);
}

static uint8_t *spsc_slot(const struct spsc *r, uint32_t at)
{
	return r->slots + (size_t)(at & r->mask) * r->item;
}

bool spsc_push(struct spsc *r, const void *item)
{
	uint32_t tail = __atomic_load_n(&r->tail, __ATOMIC_RELAXED);

	/* acquire: the consumer has finished reading the slot we are about to reuse */
	if (tail - __atomic_load_n(&r->head, __ATOMIC_ACQUIRE) > r->mask)
		return false;
	memcpy(spsc_slot(r, tail), item, r->item);
	__atomic_store_n(&r->tail, tail + 1, __ATOMIC_RELEASE);
	return true;
}

bool spsc_pop(struct spsc *r, void *item)
{
	uint32_t head = __atomic_load_n(&r->head, __ATOMIC_RELAXED);

	if (head == __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE))
		return false;
	memcpy(item, spsc_slot(r, head), r->item);
	__atomic_store_n(&r->head, head + 1, __ATOMIC_RELEASE);
	return true;
}

uint32_t spsc_len(const struct spsc *r)
{
	/* head first: it can only have moved on since, so the difference never wraps below zero */
	uint32_t head = __atomic_load_n(&r->head, __ATOMIC_ACQUIRE);
	uint32_t len = __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE) - head;

	return len > r->mask + 1 ? r->mask + 1 : len;
}

/*
 * A cell's seq tells whose turn it is: equal to the position = free for the
 * push at that position; position + 1 = holds the value for the pop at that
 * position. With a single cell these two cannot be told apart one lap later, so two is the least.
 */
int mpmc_init(struct mpmc *r, uint64_t capacity)
{
	uint64_t n, bytes;

	memset(r, 0, sizeof *r);
	if (capacity > BYTES_MAX / sizeof *r->cells)
		return -ENOMEM;
	n = pow2_at_least(capacity < 2 ? 2 : capacity);
	bytes = n * sizeof *r->cells;
	r->cells = aligned_alloc(CACHE_LINE, (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	if (!r->cells)
		return -ENOMEM;
	for (uint64_t i = 0; i < n; i++)
		r->cells[i] = (struct mpmc_cell){ .seq = i };
	r->mask = n - 1;
	return 0;
}

void mpmc_free(struct mpmc *r)
{
	free(r->cells);
	memset(r, 0, sizeof *r);
}

bool mpmc_push(struct mpmc *r, uint64_t value)
{
	uint64_t pos = __atomic_load_n(&r->tail, __ATOMIC_RELAXED);

	for (;;) {
		struct mpmc_cell *c = &r->cells[pos & r->mask];
		int64_t turn = (int64_t)(__atomic_load_n(&c->seq, __ATOMIC_ACQUIRE) - pos);

		if (turn < 0)
			return false;
		if (turn > 0) {
			pos = __atomic_load_n(&r->tail, __ATOMIC_RELAXED);
		} else if (__atomic_compare_exchange_n(&r->tail, &pos, pos + 1, true, __ATOMIC_RELAXED,
						       __ATOMIC_RELAXED)) {
			c->value = value;
			__atomic_store_n(&c->seq, pos + 1, __ATOMIC_RELEASE);
			return true;
		}
	}
}

bool mpmc_pop(struct mpmc *r, uint64_t *value)
{
	uint64_t pos = __atomic_load_n(&r->head, __ATOMIC_RELAXED);

	for (;;) {
		struct mpmc_cell *c = &r->cells[pos & r->mask];
		int64_t turn = (int64_t)(__atomic_load_n(&c->seq, __ATOMIC_ACQUIRE) - (pos + 1));

		if (turn < 0)
			return false;
		if (turn > 0) {
			pos = __atomic_load_n(&r->head, __ATOMIC_RELAXED);
		} else if (__atomic_compare_exchange_n(&r->head, &pos, pos + 1, true, __ATOMIC_RELAXED,
						       __ATOMIC_RELAXED)) {
			*value = c->value;
			__atomic_store_n(&c->seq, pos + r->mask + 1, __ATOMIC_RELEASE);
			return true;
		}
	}
}

bool mpmc_empty(const struct mpmc *r)
{
	uint64_t pos = __atomic_load_n(&r->head, __ATOMIC_ACQUIRE);
	uint64_t seq = __atomic_load_n(&r->cells[pos & r->mask].seq, __ATOMIC_ACQUIRE);

	return (int64_t)(seq - (pos + 1)) < 0;
}

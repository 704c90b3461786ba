/* SPDX-License-Identifier: MIT */
/*
 * Bounded lock-free rings of 64-bit values and of small fixed-size items.
 *
 * spsc: one producer thread, one consumer thread; items of a fixed size are copied.
 * mpmc: any threads; 64-bit values. Source: D. Vyukov, "Bounded MPMC queue", 1024cores.net.
 *
 * All memory is taken in init; push and pop never block, allocate or lock.
 */
#ifndef DWCP_BASE_RING_H
#define DWCP_BASE_RING_H

#include "base/util.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct spsc {
	uint32_t mask, item;
	uint8_t *slots;
	cacheline_aligned uint32_t head; /* consumer */
	cacheline_aligned uint32_t tail; /* producer */
};

/* capacity is rounded up to a power of two. 0 or -ENOMEM. */
int spsc_init(struct spsc *r, uint32_t capacity, uint32_t item_bytes);
void spsc_free(struct spsc *r);
bool spsc_push(struct spsc *r, const void *item); /* false: full */
bool spsc_pop(struct spsc *r, void *item);        /* false: empty */
uint32_t spsc_len(const struct spsc *r);          /* a snapshot */

struct mpmc_cell {
	uint64_t seq;
	uint64_t value;
};

struct mpmc {
	uint64_t mask;
	struct mpmc_cell *cells;
	cacheline_aligned uint64_t head;
	cacheline_aligned uint64_t tail;
};

/* capacity is rounded up to a power of two, at least 2. 0 or -ENOMEM. */
int mpmc_init(struct mpmc *r, uint64_t capacity);
void mpmc_free(struct mpmc *r);
bool mpmc_push(struct mpmc *r, uint64_t value);
bool mpmc_pop(struct mpmc *r, uint64_t *value);
bool mpmc_empty(const struct mpmc *r); /* a snapshot */

#endif

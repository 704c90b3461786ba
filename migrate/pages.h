/* SPDX-License-Identifier: MIT */
/*
 * Pages of a guest as the payload of a staged chunk (base/stage.h). A chunk's place is in the round's list of pages and
 * not in memory, so that a chunk is full however scattered they are:
 *
 *   n u16, n times {page u32, kind u8}, the contents of those that are PAGE_RAW, in order
 *
 * Little-endian. Sans I/O; the decoder trusts nothing.
 */
#ifndef DWCP_MIGRATE_PAGES_H
#define DWCP_MIGRATE_PAGES_H

#include "migrate/guest.h"

#define PAGES_CHUNK_MAX (512u << 10) /* bytes of pages in one chunk */
#define PAGES_MOST (PAGES_CHUNK_MAX / GUEST_PAGE)
#define PAGES_OVERHEAD (2u + 5u * PAGES_MOST)

enum page_kind { PAGE_ZERO, PAGE_RAW };

/* Writes the n pages that `list` names (NULL: first, first + 1, …) to out, which holds pages_room(n). Returns its length;
 * *zeros counts pages of zeros. Memory may change meanwhile. */
size_t pages_encode(const uint8_t *mem, const uint32_t *list, uint64_t first, uint32_t n, void *out, uint32_t *zeros);

static inline size_t pages_room(uint32_t n)
{
	return 2u + (5u + (size_t)GUEST_PAGE) * n;
}

/* For each page in order: contents, or NULL for zeros. -errno ends decoding. */
typedef int (*page_sink)(void *ctx, uint64_t page, const uint8_t *contents);

/* 0, what the sink returned, or -EPROTO: not such a payload, or a page outside the guest. */
int pages_decode(const void *in, size_t len, uint64_t guest_pages, page_sink sink, void *ctx);

/* Is the page all zeros? */
bool page_is_zero(const uint8_t *page);

#endif

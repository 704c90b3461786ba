/* SPDX-License-Identifier: MIT */
/*
 * Pages of a guest as the payload of a staged chunk (base/stage.h). A chunk's place is in the round's list of pages and
 * not in memory, so that a chunk is full however scattered they are:
 *
 *   form u8, runs u16, runs times {first page u32, pages u16}, then the body:
 *   PAGES_PLAIN  a kind u8 for each page, then the contents of those that are PAGE_RAW, in order; PAGE_LATE: what was
 *                sent of it is old, and what it is now comes after START
 *   PAGES_HDE    an HDE payload of these pages (compress/hde.h)
 *   PAGES_PACKED an HDE payload of anonymous data: these pages, one after the other (pack.h)
 *
 * Little-endian. Sans I/O; the decoder trusts nothing.
 */
#ifndef DWCP_MIGRATE_PAGES_H
#define DWCP_MIGRATE_PAGES_H

#include "migrate/guest.h"

#define PAGES_CHUNK_MAX (512u << 10) /* bytes of pages in one chunk */
#define PAGES_MOST (PAGES_CHUNK_MAX / GUEST_PAGE)
#define PAGES_HEAD_MAX (3u + 6u * PAGES_MOST)
#define PAGES_OVERHEAD (PAGES_HEAD_MAX + PAGES_MOST) /* of the plain form */

enum pages_form { PAGES_PLAIN, PAGES_HDE, PAGES_PACKED };
enum page_kind { PAGE_ZERO, PAGE_RAW, PAGE_LATE };

struct page_list {
	uint32_t n;
	uint32_t page[PAGES_MOST];
};

/* The n pages that `list` names (NULL: first, first + 1, …), n at most PAGES_MOST. */
void pages_name(struct page_list *out, const uint32_t *list, uint64_t first, uint32_t n);

/* Writes the head to out, which holds PAGES_HEAD_MAX; returns its length. */
size_t pages_put_head(const struct page_list *l, enum pages_form form, void *out);
/* Writes the plain body to out, which holds (GUEST_PAGE + 1) bytes for each page; returns its length. *zeros counts
 * pages of zeros. Memory may change meanwhile. */
size_t pages_put_plain(const struct page_list *l, const uint8_t *mem, void *out, uint32_t *zeros);

/* The same where all of them are PAGE_LATE: one byte each. */
size_t pages_put_late(const struct page_list *l, void *out);

/* Reads the head; *body is at what follows. 0 or -EPROTO: not such a payload, or a page outside the guest. */
int pages_get_head(const void *in, size_t len, uint64_t guest_pages, struct page_list *l, enum pages_form *form,
		   struct rcur *body);

/* For each page in order; contents for PAGE_RAW. -errno ends decoding. */
typedef int (*page_sink)(void *ctx, uint64_t page, enum page_kind kind, const uint8_t *contents);

/* 0, what the sink returned, or -EPROTO. */
int pages_get_plain(const struct page_list *l, struct rcur *body, page_sink sink, void *ctx);

/* Is the page all zeros? */
bool page_is_zero(const uint8_t *page);

#endif

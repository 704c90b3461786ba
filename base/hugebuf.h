/* SPDX-License-Identifier: MIT */
/*
 * Large page-backed buffers: MAP_HUGETLB (2 MB) if the host has free ones,
 * else 2 MB-aligned anonymous memory with MADV_HUGEPAGE, else plain pages. Zero-filled.
 * Less than 2 MB is always plain pages. More than MemAvailable is refused (-ENOMEM).
 */
#ifndef DWCP_BASE_HUGEBUF_H
#define DWCP_BASE_HUGEBUF_H

#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>

enum huge_kind { HUGE_TLB, HUGE_THP, HUGE_NONE };

struct hugebuf {
	void *addr;
	size_t len;    /* as asked for */
	size_t mapped; /* what munmap needs */
	enum huge_kind kind;
};

/* prefault: touch every page now (MADV_POPULATE_WRITE, or by hand). Errors name size and remedy. */
int hugebuf_alloc(struct hugebuf *b, size_t len, bool prefault, struct err *e);
/* The same, not prefaulted, for memory of which single pages come and go: never MAP_HUGETLB. */
int hugebuf_alloc_paged(struct hugebuf *b, size_t len, struct err *e);
/* Touches every page of a buffer that was not prefaulted, in so many threads: first touch of fresh memory is slow. */
int hugebuf_prefault(struct hugebuf *b, unsigned threads, struct err *e);
void hugebuf_free(struct hugebuf *b); /* any state, also zeroed */
const char *huge_kind_name(enum huge_kind k);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Pages that follow late, compressed. They are placed in one step each, so a payload must become pages somewhere else first, and
 * may refer to nothing in the guest, which writes there: HDE of anonymous data (compress/hde.h), a chunk's pages one after the
 * other.
 *
 * Threads: workers, as in base/stage.h; at the destination of several sessions at once.
 */
#ifndef DWCP_MIGRATE_PACK_H
#define DWCP_MIGRATE_PACK_H

#include "compress/hde.h"
#include "migrate/pages.h"
#include "migrate/source.h"

struct pack;

int pack_open(struct pack **out, unsigned workers, const struct hde_opts *opts, struct err *e);
void pack_close(struct pack *p); /* NULL is fine */
/* Writes the body of form PAGES_PACKED to out, which holds HDE_OVERHEAD more than the pages, of which there is one at least.
 * mem does not change. Its length, or -errno. */
ssize_t pack_put(struct pack *p, unsigned worker, const struct page_list *l, const uint8_t *mem, void *out, size_t cap);
void pack_acked(struct pack *p, unsigned worker, uint32_t bytes, uint64_t wire);
struct source_counts pack_counts(const struct pack *p);

struct unpack;

int unpack_open(struct unpack **out, unsigned workers, struct err *e);
void unpack_close(struct unpack *u); /* NULL is fine */
/* As pages_get_plain, then done: contents are good until that has returned. Hostile bytes: -EBADMSG, and nothing was told.
 * So when too many at once want it. */
int unpack_get(struct unpack *u, unsigned worker, const struct page_list *l, struct rcur *body, page_sink sink,
	       int (*done)(void *ctx), void *ctx);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The pages' way out of a guest: finds what is dirty, sends it as one round over all streams, and keeps what a failed
 * round did not deliver. session.c decides when.
 */
#ifndef DWCP_MIGRATE_SOURCE_H
#define DWCP_MIGRATE_SOURCE_H

#include "base/hugebuf.h"
#include "compress/hde.h"
#include "migrate/dirty.h"
#include "migrate/pages.h"
#include "transport/client.h"

#define SOURCE_WORKERS AMST_WORKERS_MAX

struct source_counts {
	uint64_t zero_pages, duplicate_pages, delta_pages, raw_pages;
};

struct page_source {
	struct guest *guest;
	struct tracker *tracker;
	struct client *client;
	uint32_t chunk; /* bytes of pages in one */
	enum sum_kind sum;

	uint64_t *pending; /* bit: to be sent */
	uint32_t *list;    /* of the round under way… */
	uint64_t n_list;
	bool whole;               /* …or all of memory, in order */
	uint8_t *cleaned;         /* whole: state of each block of CLEAN_PAGES */
	struct hde_enc *hde;      /* NULL: pages go as they are */
	struct hugebuf snapshots; /* hde: of each worker's chunk, because memory changes while it is encoded */
	struct stage stage;
	struct {
		cacheline_aligned struct source_counts c;
	} worker[SOURCE_WORKERS];
	uint64_t fetch_ns; /* of the last look for dirty pages */
};

/* tracker NULL: the guest is paused all the time, everything is sent once. hde's mode HDE_NONE: pages go as they are. */
int page_source_open(struct page_source *s, struct guest *g, struct tracker *t, struct client *c, uint32_t chunk,
		     const struct hde_opts *hde, struct err *e);
void page_source_close(struct page_source *s); /* any state, also zeroed */

/* Adds what was written since the last call to what is pending; returns how many pages are pending now, or -errno. The
 * first call finds every page. */
int64_t page_source_look(struct page_source *s, struct err *e);

/* Sends what is pending. When it fails it is pending again. wire_bytes: what the streams carried. */
int page_source_send(struct page_source *s, const struct client_tick *tick, uint64_t *wire_bytes, struct err *e);

/* Tells the destination that what it has of the pending pages is old; they stay pending. */
int page_source_announce(struct page_source *s, const struct client_tick *tick, uint64_t *wire_bytes, struct err *e);
/* What a session's streams have carried so far. */
uint64_t page_source_wire(struct client *c);

struct source_counts page_source_counts(const struct page_source *s);

/* XXH3-64 of every page of a paused guest, and the XXH3-128 of that table. */
int page_source_sums(const struct page_source *s, uint64_t **table, struct digest128 *d, struct err *e);

#endif

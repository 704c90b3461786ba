/* SPDX-License-Identifier: MIT */
/*
 * Post-copy at the source: the guest runs at the destination, and its remaining pages follow. Two streams of pages:
 *
 *   urgent  asks what the destination's guest waits for (GUEST_FETCH) and sends it at once, with some neighbours: a session
 *           and a thread of its own, so that it never queues behind the other
 *   bulk    a transfer of everything that was not sent yet, which goes on from where the guest touched memory last
 *
 * Which pages a chunk holds is decided when a worker encodes it, so that no page goes twice without need. The source's
 * memory does not change any more; it is kept until every page is acknowledged.
 */
#ifndef DWCP_MIGRATE_FILL_H
#define DWCP_MIGRATE_FILL_H

#include "migrate/message.h"
#include "migrate/source.h"

struct fill;

struct fill_stats {
	uint64_t asked,
		neighbours;  /* pages that went urgently: because they were waited for; because they are near one */
	uint64_t bytes_wire; /* of both, all runs together */
	uint64_t requests;   /* GUEST_FETCH */
};

/* hde: how the bulk is compressed; its mode HDE_NONE: not at all. What is waited for never is. */
int fill_open(struct fill **out, struct page_source *s, const struct msg_guest_id *id, const struct hde_opts *hde,
	      struct clock clock, struct err *e);
void fill_close(struct fill *f); /* NULL is fine */

/* A session for requests, made and attached to the guest in a thread of its own, where `connect` is called. Without it
 * requests share the bulk's session and thread, a few chunks at a time (simulations). Returns when it is there. */
int fill_connect(struct fill *f, int (*connect)(void *ctx, struct client **out, struct err *e), void *ctx,
		 struct err *e);

/* Asks which pages the destination lacks: after a run that failed. */
int fill_sync(struct fill *f, struct client *c, struct err *e);

/*
 * The guest is paused, and what is pending of it is what the destination lacks. Sends that until nothing is missing. Calls
 * tick like client_transfer, with the number of pages that are missing. 0, or -errno: the destination may then lack
 * anything, fill_sync tells. In any case the session for requests is over.
 */
int fill_run(struct fill *f, struct client *bulk, const struct client_tick *tick, struct err *e);

uint64_t fill_missing(const struct fill *f); /* as the destination said last */
/* Between runs. */
struct fill_stats fill_stats(const struct fill *f);
/* Of the pages that were compressed; page_source_counts has the others. */
struct source_counts fill_counts(const struct fill *f);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The destination: a service of `dwcp serve` (transport/service.h) that makes room for guests, takes their pages, and
 * runs them from START on; with post-copy before all of their pages have come. Guests stay here after their session has ended, until they are dropped or it is closed.
 *
 * A peer is not trusted: memory is bounded, pages land inside the guest they are for, a state is checked before it runs,
 * and no page is taken any more once a guest is ready.
 */
#ifndef DWCP_MIGRATE_DEST_H
#define DWCP_MIGRATE_DEST_H

#include "migrate/message.h"
#include "transport/client.h"
#include "transport/service.h"

#define DEST_GUESTS_MAX 1024

/* How a session to another host is opened, for guests that go on from here. path: made by the first call for a move, NULL
 * before, and given to those that follow, for the same move; forgotten when it is over. Called in a thread of its own; ends
 * soon with -EINTR when *stop becomes true. */
struct dest_onward {
	void *ctx;
	int (*connect)(void *ctx, const char *to, const volatile sig_atomic_t *stop, void **path, struct client **out,
		       struct err *e);
	void (*forget)(void *path); /* NULL is fine */
};

struct dest_config {
	uint64_t memory_max; /* bytes of guests, all together */
	unsigned workers;    /* of a session, at most */
	bool manual;         /* simulations: pages that are missing are not waited for by threads; dest_touch tells */
	struct dest_onward onward; /* connect NULL: guests stay here */
};

struct dest;

int dest_open(struct dest **out, const struct dest_config *cfg, struct err *e);
/* Every session must have ended. Moves are given up, those that are handed over ended; guests end with it. NULL is fine. */
void dest_close(struct dest *d);

struct service dest_service(struct dest *d);

/* A guest that is here and may be run, or runs, or NULL. Whoever asks must not drop it meanwhile, and leaves closing it to `d`. */
struct guest *dest_guest(struct dest *d, const struct msg_guest_id *id);

/* manual: is that page of a guest there? If not, it is asked for. */
bool dest_touch(struct dest *d, const struct msg_guest_id *id, uint64_t page);

/* Copies at most `max` guests' status; returns how many there are. Any thread. */
unsigned dest_list(struct dest *d, struct msg_guest_status *out, unsigned max);

#endif

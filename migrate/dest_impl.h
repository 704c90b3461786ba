/* SPDX-License-Identifier: MIT */
/* Private to dest.c, dest_late.c and dest_move.c. */
#ifndef DWCP_MIGRATE_DEST_IMPL_H
#define DWCP_MIGRATE_DEST_IMPL_H

#include "base/hugebuf.h"
#include "compress/hde.h"
#include "migrate/dest.h"
#include "migrate/late.h"
#include "migrate/pack.h"
#include "migrate/pages.h"
#include <pthread.h>
#include <signal.h>

/* One guest that came, or is coming. The table has a reference, so has the session that brings it, and every request
 * that looks at it. */
struct incoming {
	struct dest *d;
	struct msg_guest_id id;
	char name[GUEST_NAME_LEN];
	const struct guest_ops *kind;
	struct hugebuf mem;
	uint64_t *have; /* bit: the page has arrived */
	uint64_t *sum;  /* XXH3-64 of each page as it was placed */
	uint64_t zero_sum;
	struct stage stage;
	struct hde_dec *hde;   /* NULL: pages come as they are */
	struct unpack *unpack; /* NULL: late ones do */

	pthread_mutex_t mu; /* phase and guest change under it; phase is read without it, too */
	enum guest_phase phase;
	uint32_t placing; /* chunks that are being placed now; atomic */
	struct guest *guest;
	bool wants_late;   /* pages may come after START */
	struct late *late; /* from READY on, where some are missing */
	unsigned sessions; /* that bring its pages and are still there */
	unsigned refs;     /* under d->mu */
};

#define DEST_MOVES_MAX 16 /* under way at once; of those that are over so many are remembered */

/* A guest that goes on to another host, or went. */
struct dest_move {
	struct dest *d;
	struct incoming *in; /* with a reference; NULL: over */
	pthread_t thread;    /* to be joined, when state is not MOVE_NONE */
	struct msg_guest_move what;
	volatile sig_atomic_t stop;    /* give it up, if it is not handed over… */
	volatile sig_atomic_t quit;    /* …and look no longer for what became of it */
	struct msg_guest_moved result; /* under d->mu */
};

struct dest {
	struct dest_config cfg;
	struct dest_move moves[DEST_MOVES_MAX];
	unsigned next_move; /* the slot that is used first, if it is over */
	pthread_mutex_t mu;
	struct incoming *table[DEST_GUESTS_MAX];
	uint64_t held; /* atomic */
};

static inline enum guest_phase phase_of(const struct incoming *in)
{
	return (enum guest_phase)__atomic_load_n(&in->phase, __ATOMIC_ACQUIRE);
}

static inline void set_phase(struct incoming *in, enum guest_phase p)
{
	__atomic_store_n(&in->phase, p, __ATOMIC_RELEASE);
}

static inline uint64_t pages_of(const struct incoming *in)
{
	return in->mem.len / GUEST_PAGE;
}

static inline uint8_t *page_at(const struct incoming *in, uint64_t page)
{
	return (uint8_t *)in->mem.addr + page * GUEST_PAGE;
}

/* dest.c */
struct incoming *dest_find(struct dest *d, const struct msg_guest_id *id); /* with a reference */
void dest_put(struct incoming *in);
void dest_status(struct incoming *in, struct msg_guest_status *st);

void dest_forget(struct incoming *in);

/* dest_move.c: MOVE, MOVED and STAY; the end of every move. */
int dest_move_request(struct dest *d, uint16_t type, struct rcur *req, struct wcur *out, struct err *e);
void dest_move_close(struct dest *d);

/* dest_late.c: all that post-copy adds. */

/* Pages as they came, once some may be missing. Workers; -1: a request. */
int dest_late_decode(struct incoming *in, int worker, const struct page_list *l, enum pages_form form,
		     struct rcur *body);
/* Those of l that are PAGE_LATE, before READY: they are missing again. Workers. */
int dest_late_announced(struct incoming *in, const struct page_list *l, struct rcur *body);
/* READY, its lock held: what is missing will be waited for. */
int dest_late_open(struct incoming *in, struct err *e);
/* START, its lock held: what its phase is now. */
enum guest_phase dest_late_phase(const struct incoming *in);
/* No session brings its pages any more, its lock held. */
void dest_late_alone(struct incoming *in);
/* Nobody needs the guest any more, its lock held. */
void dest_late_drop(struct incoming *in);
/* ATTACH, HAVE, FETCH and LATE. */
int dest_late_request(struct dest *d, void **state, uint16_t type, struct rcur *req, struct wcur *out, struct err *e);

#endif

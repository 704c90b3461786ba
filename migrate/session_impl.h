/* SPDX-License-Identifier: MIT */
/* Private to session*.c: one migration at its source, and the phases that session.c's state machine is made of. */
#ifndef DWCP_MIGRATE_SESSION_IMPL_H
#define DWCP_MIGRATE_SESSION_IMPL_H

#include "migrate/fill.h"
#include "migrate/session.h"
#include "migrate/source.h"
#include "migrate/throttle.h"

struct migration {
	const struct migrate_config *cfg;
	struct migrate_result *r;
	struct client *client;      /* cfg's, or one that was made anew… */
	struct client *reconnected; /* …which is ours to close */
	struct fill *fill;
	struct tracker *tracker;
	struct page_source source;
	struct round_plan plan;
	enum migrate_state state;
	bool paused;
	bool late; /* pages follow after START */
	bool told; /* that a cancellation comes too late */
	uint64_t paused_at;
	uint64_t looked_at; /* last look for dirty pages… */
	uint64_t look_held; /* …and how long it had been held by then */
	struct throttle slow;
	uint64_t round_pages; /* of the round under way */
	uint64_t pace;        /* that the client was told */
	uint64_t held_at;     /* since then; 0: it is not held */
};

static inline uint64_t session_now(const struct migration *m)
{
	return clock_now(&m->cfg->clock);
}

static inline bool session_cancelled(const struct migration *m)
{
	const volatile sig_atomic_t *flag = m->state >= MIGRATE_HANDING_OVER && m->cfg->quit ? m->cfg->quit
											     : m->cfg->cancel;

	return flag && __atomic_load_n(flag, __ATOMIC_RELAXED);
}

/* One that names a guest. */
static inline int session_request(struct client *c, uint16_t type, const struct msg_guest_id *id,
				  const struct wire_def *def, void *reply, struct err *e)
{
	return client_call_msg(c, type, &guest_id_def, id, def, reply, e);
}

/* session_pace.c */
void session_pace(struct migration *m); /* as fast as it may be now: to be asked whenever that can have changed */
uint64_t session_held_ns(const struct migration *m); /* so far */
/* Returns when nobody holds it any more, the session being kept alive. */
int session_wait_held(struct migration *m, struct err *e);

/* session_rounds.c */
bool session_tick(void *ctx, uint64_t now, uint64_t bytes); /* client_tick of what is sent before START */
/* Looks for dirty pages; *pending: how many there are to send. */
int session_look(struct migration *m, struct round_sample *s, uint64_t *pending, struct err *e);
int session_send_round(struct migration *m, struct round_sample *s, struct err *e);
void session_throttle(struct migration *m, unsigned percent);
/* Rounds, until what is left may be sent in the blackout. */
int session_copy(struct migration *m, struct err *e);

/* session_switch.c */
int session_blackout(struct migration *m, struct err *e);
/* 0: it runs there. -ECANCELED: it does not, and never will. -EREMCHG: in doubt. */
int session_hand_over(struct migration *m, struct err *e);
void session_nap(struct migration *m, uint64_t ns);
int session_anew(struct migration *m, struct err *e);

/* session_late.c: post-copy. Nothing may be in the way of the rest once the guest is the destination's: all that it needs is
 * there before. */
int session_open_fill(struct migration *m, struct err *e);
/* The guest runs there: the rest follows, however often the link breaks. */
int session_fill(struct migration *m, struct err *e);

/* session_verify.c */
int session_verify(struct migration *m, struct err *e);

#endif

/* SPDX-License-Identifier: MIT */
/* A guest that came goes on to another host: a migration of this process's own, in a thread, with the guest's phase kept
 * true, so that whoever asks sees on which side it is. */
#include "migrate/dest_impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "migrate/session.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ONWARD_ROUNDS 60
#define ONWARD_DOUBT (10 * NS_PER_S)
#define ONWARD_BLACKOUT (10 * NS_PER_S)

static bool same(const struct msg_guest_id *a, const struct msg_guest_id *b)
{
	return a->hi == b->hi && a->lo == b->lo;
}

/* ---- in its thread ----------------------------------------------------------------------------- */

struct onward {
	struct dest_move *m;
	void *path;
};

/* After START: --stay comes too late. */
static int connect_again(void *ctx, struct client **out, struct err *e)
{
	struct onward *o = ctx;
	const struct dest_onward *onward = &o->m->d->cfg.onward;

	return onward->connect(onward->ctx, o->m->what.to, &o->m->quit, &o->path, out, e);
}

static int move(struct onward *o, struct migrate_result *r, struct err *e)
{
	struct dest_move *m = o->m;
	const struct dest_onward *onward = &m->d->cfg.onward;
	struct migrate_config cfg = {
		.guest = m->in->guest,
		.name = m->in->name,
		.policy = &migrate_policies[0],
		.chunk = PAGES_CHUNK_MAX / 2,
		.sum = SUM_XXH3,
		.limits = { .downtime_ns = m->what.downtime_ns,
			    .timeout_ns = m->what.timeout_ns,
			    .rounds_max = ONWARD_ROUNDS },
		.force = m->what.force,
		.blackout_max_ns = max_u64(ONWARD_BLACKOUT, 2 * m->what.downtime_ns),
		.verify = VERIFY_PAGES,
		.clock = clock_mono,
		.cancel = &m->stop,
		.quit = &m->quit,
		.reconnect = connect_again,
		.ctx = o,
		.doubt_ns = ONWARD_DOUBT,
	};
	int rc = tracker_choose(m->what.tracker, m->in->kind, &cfg.tracker, e);

	r->outcome = OUTCOME_ROLLED_BACK; /* it never left */
	if (rc == 0)
		rc = onward->connect(onward->ctx, m->what.to, &m->stop, &o->path, &cfg.client, e);
	if (rc == 0)
		rc = migrate_run(&cfg, r, e);
	client_close(cfg.client);
	return rc;
}

/* What the guest is from now on. One that is gone stays `leaving` for whoever has hold of it still: it ran, and is elsewhere. */
static void settle(struct incoming *in, enum migrate_outcome outcome, bool stands)
{
	bool doubt = outcome == OUTCOME_IN_DOUBT || stands;

	if (outcome == OUTCOME_COMPLETED) {
		dest_forget(in);
		return;
	}
	pthread_mutex_lock(&in->mu);
	set_phase(in, doubt ? PHASE_DOUBT : PHASE_RUNNING);
	pthread_mutex_unlock(&in->mu);
	if (doubt)
		log_warn("guest %s is paused: %s, `dwcp guests --resume` runs it here; else --drop", in->name,
			 stands ? "it could not be made to run again. If that is mended"
				: "nobody knows whether it runs at the host that it was moved to. If it does not");
}

static void *run(void *arg)
{
	struct dest_move *m = arg;
	struct onward o = { .m = m };
	struct migrate_result r = { 0 };
	struct incoming *in = m->in;
	struct err e = { .why = "" };
	int rc = move(&o, &r, &e);
	struct msg_guest_moved result = {
		.state = MOVE_OVER,
		.outcome = (uint8_t)r.outcome,
		.status = rc,
		.rounds = r.n_rounds + r.more_rounds,
		.total_ns = r.total_ns,
		.downtime_ns = r.downtime_ns,
		.bytes_wire = r.bytes_wire,
		.there = r.id,
	};

	if (m->d->cfg.onward.forget)
		m->d->cfg.onward.forget(o.path);
	snprintf(result.text, sizeof result.text, "%.*s", (int)sizeof result.text - 1, rc < 0 ? e.why : "");
	log_info("guest %s to %s: %s%s%s", in->name, m->what.to, migrate_outcome_name(r.outcome), rc < 0 ? ": " : "",
		 result.text);
	settle(in, r.outcome, r.stands);
	m->in = NULL;
	dest_put(in);
	/* The last thing that it does with the lock: whoever uses the slot again holds it and waits for the thread. */
	pthread_mutex_lock(&m->d->mu);
	m->result = result;
	pthread_mutex_unlock(&m->d->mu);
	return NULL;
}

/* ---- requests ---------------------------------------------------------------------------------- */

/* A slot that is free, or the longest over; NULL: all of them are under way. d->mu is held. */
static struct dest_move *slot(struct dest *d)
{
	for (unsigned i = 0; i < DEST_MOVES_MAX; i++) {
		struct dest_move *m = &d->moves[d->next_move++ % DEST_MOVES_MAX];

		if (m->result.state != MOVE_RUNS)
			return m;
	}
	return NULL;
}

/* Takes the guest's lock: from then on nobody pauses, drops or moves it. */
static int set_out(struct incoming *in, struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&in->mu);
	if (phase_of(in) != PHASE_RUNNING || in->sessions)
		rc = err_set(e, -EINVAL,
			     "the guest is %s here%s: only one that runs, and whose migration is over, can be moved on",
			     guest_phase_name(phase_of(in)), in->sessions ? ", and its source is still there" : "");
	else
		set_phase(in, PHASE_LEAVING);
	pthread_mutex_unlock(&in->mu);
	return rc;
}

/* The reference is the move's from now on, where it began. */
static int begin(struct dest *d, struct incoming *in, const struct msg_guest_move *what, struct err *e)
{
	struct dest_move *m;
	int rc = set_out(in, e);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&d->mu);
	m = slot(d);
	if (!m) {
		rc = err_set(e, -EBUSY, "%d guests are being moved from here already: wait for one of them",
			     DEST_MOVES_MAX);
	} else {
		if (m->result.state == MOVE_OVER)
			pthread_join(m->thread, NULL); /* it has said so: it ends now */
		*m = (struct dest_move){ .d = d, .in = in, .what = *what, .result = { .state = MOVE_RUNS } };
		rc = thread_start(&m->thread, "dwcp-move", run, m);
		if (rc < 0) {
			*m = (struct dest_move){ 0 };
			err_set(e, rc, "no thread to move the guest: %s; raise ulimit -u", strerror(-rc));
		}
	}
	pthread_mutex_unlock(&d->mu);
	if (rc < 0)
		settle(in, OUTCOME_ROLLED_BACK, false);
	return rc;
}

static int do_move(struct dest *d, struct rcur *req, struct err *e)
{
	struct msg_guest_move what;
	struct incoming *in;
	int rc;

	wire_get(req, &guest_move_def, &what);
	if (req->bad || !what.to[0] || what.downtime_ns > 3600 * NS_PER_S)
		return err_set(e, -EPROTO, "the request cannot be read: install the same dwcp release on both hosts");
	if (!d->cfg.onward.connect)
		return err_set(e, -EOPNOTSUPP, "guests cannot be moved on from here");
	in = dest_find(d, &what.id);
	if (!in)
		return err_set(e, -ENOENT, "there is no such guest here: `dwcp guests` lists those there are");
	rc = begin(d, in, &what, e);
	if (rc < 0)
		dest_put(in);
	return rc;
}

/* The latest of this guest, or NULL; d->mu is held. */
static struct dest_move *latest(struct dest *d, const struct msg_guest_id *id)
{
	struct dest_move *found = NULL;

	for (unsigned i = 0; i < DEST_MOVES_MAX; i++) {
		struct dest_move *m = &d->moves[(d->next_move + i) % DEST_MOVES_MAX];

		if (m->result.state != MOVE_NONE && same(&m->what.id, id))
			found = m;
	}
	return found;
}

int dest_move_request(struct dest *d, uint16_t type, struct rcur *req, struct wcur *out, struct err *e)
{
	struct msg_guest_moved result = { .state = MOVE_NONE };
	struct msg_guest_id id;
	struct dest_move *m;

	if (type == GUEST_MOVE)
		return do_move(d, req, e);
	wire_get(req, &guest_id_def, &id);
	if (req->bad)
		return err_set(e, -EPROTO, "the request cannot be read: install the same dwcp release on both hosts");
	pthread_mutex_lock(&d->mu);
	m = latest(d, &id);
	if (m && type == GUEST_STAY)
		__atomic_store_n(&m->stop, 1, __ATOMIC_RELAXED);
	if (m)
		result = m->result;
	pthread_mutex_unlock(&d->mu);
	if (type == GUEST_MOVED)
		wire_put(out, &guest_moved_def, &result);
	return m ? 0 : err_set(e, -ENOENT, "that guest was not moved from here, or long ago");
}

void dest_move_close(struct dest *d)
{
	bool used[DEST_MOVES_MAX];

	pthread_mutex_lock(&d->mu);
	for (unsigned i = 0; i < DEST_MOVES_MAX; i++) {
		used[i] = d->moves[i].result.state != MOVE_NONE;
		__atomic_store_n(&d->moves[i].stop, 1, __ATOMIC_RELAXED);
		__atomic_store_n(&d->moves[i].quit, 1, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&d->mu);
	for (unsigned i = 0; i < DEST_MOVES_MAX; i++)
		if (used[i])
			pthread_join(d->moves[i].thread, NULL);
}

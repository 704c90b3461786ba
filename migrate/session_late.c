/* SPDX-License-Identifier: MIT */
/* Post-copy, at the source: the guest runs at the destination, and its pages follow. */
#include "migrate/session_impl.h"

#include "base/log.h"
#include "base/util.h"
#include <errno.h>

#define RECOVER_PAUSE (200 * NS_PER_MS)
#define STUCK_MOST 20 /* failures in a row, the link restored each time, without a page that came */

int session_open_fill(struct migration *m, struct err *e)
{
	int rc = fill_open(&m->fill, &m->source, &m->r->id, &m->cfg->hde, m->cfg->clock, e);

	return rc < 0 ? rc : fill_connect(m->fill, m->cfg->urgent, m->cfg->ctx, e);
}

static bool fill_tick(void *ctx, uint64_t now, uint64_t missing)
{
	struct migration *m = ctx;
	struct migrate_progress p = {
		.state = m->state,
		.round = m->plan.rounds,
		.pages = m->r->late.pages - min_u64(missing, m->r->late.pages),
		.total_pages = m->r->late.pages,
		.remaining_pages = missing,
	};

	(void)now;
	session_pace(m);
	p.held = m->held_at;
	if (m->cfg->progress)
		m->cfg->progress(m->cfg->ctx, &p);
	if (session_cancelled(m) && !m->told)
		log_warn("guest %s runs at the destination and needs pages that are still here: they are sent first",
			 m->cfg->name);
	m->told |= session_cancelled(m);
	return false;
}

/* Both sessions anew, and what the destination lacks. -EREMCHG: it does not have the guest any more. */
static int attach_again(struct migration *m, struct err *e)
{
	struct msg_guest_status st;
	int rc = session_anew(m, e);

	if (rc < 0)
		return rc;
	rc = session_request(m->client, GUEST_ATTACH, &m->r->id, &guest_status_def, &st, e);
	if (rc == -ENOENT || rc == -EINVAL)
		return err_set(e, -EREMCHG,
			       "the destination does not have the guest any more, which ran there with pages that "
			       "nobody else has: it stays paused here, as it was at the hand-over");
	if (rc == 0)
		rc = fill_connect(m->fill, m->cfg->urgent, m->cfg->ctx, e);
	return rc < 0 ? rc : fill_sync(m->fill, m->client, e);
}

static int incomplete(struct migration *m, const struct err *why, struct err *e)
{
	return err_set(
		e, -EHOSTDOWN,
		"the guest waits at the destination for %llu pages that are only here, as it said last, and cannot be "
		"reached (%.200s): it is halted there, and lost when this process ends",
		(unsigned long long)fill_missing(m->fill), why->why);
}

/* The link is broken: the guest waits there, its pages here. */
static int recover(struct migration *m, const struct err *broken, struct err *e)
{
	uint64_t until = session_now(m) + m->cfg->recover_ns;
	struct err why = *broken;
	int rc;

	m->state = MIGRATE_RECOVERING;
	log_warn("guest %s waits at the destination for pages that are here, and the link is broken (%s): trying again",
		 m->cfg->name, broken->why);
	do {
		if (session_cancelled(m) || (m->cfg->recover_ns && session_now(m) >= until))
			return incomplete(m, &why, e);
		session_nap(m, RECOVER_PAUSE);
		rc = attach_again(m, &why);
	} while (rc < 0 && rc != -EREMCHG);
	if (rc < 0)
		*e = why;
	m->source.client = m->client;
	m->r->late.recoveries += rc == 0;
	m->state = MIGRATE_FILLING;
	session_pace(m);
	return rc;
}

static void take_late(struct migration *m, uint64_t began)
{
	struct migrate_late *l = &m->r->late;
	struct fill_stats st = fill_stats(m->fill);
	struct msg_guest_late there;
	struct guest_work work = { 0 };
	struct err e;

	m->cfg->guest->ops->work(m->cfg->guest, &work);
	l->ns = session_now(m) - began;
	l->bytes_wire = st.bytes_wire;
	l->asked = st.asked;
	l->neighbours = st.neighbours;
	l->requests = st.requests;
	l->working_set_pages = work.pages;
	m->r->bytes_wire += st.bytes_wire;
	if (session_request(m->client, GUEST_LATE, &m->r->id, &guest_late_def, &there, &e) < 0)
		return;
	l->faults = there.faults;
	l->network_faults = there.pages;
	l->p50_ns = there.p50_ns;
	l->p95_ns = there.p95_ns;
	l->p99_ns = there.p99_ns;
	l->max_ns = there.max_ns;
}

int session_fill(struct migration *m, struct err *e)
{
	const struct client_tick on_tick = { .fn = fill_tick, .ctx = m };
	uint64_t began = session_now(m), stuck = 0, missing;
	struct err why = { 0 };
	int rc;

	m->state = MIGRATE_FILLING;
	session_pace(m);
	/* Whoever asked what became of START did so in another session. */
	rc = m->client == m->cfg->client ? 0 : -ENOTCONN;
	for (missing = m->r->late.pages;;) {
		if (rc == 0)
			rc = fill_run(m->fill, m->client, &on_tick, &why);
		if (rc == 0)
			break;
		/* What fails with a good link and moves nothing will not get better. */
		stuck = fill_missing(m->fill) < missing ? 0 : stuck + 1;
		missing = fill_missing(m->fill);
		if (stuck > STUCK_MOST) {
			rc = incomplete(m, &why, e);
			break;
		}
		rc = recover(m, &why, e);
		if (rc < 0)
			break;
	}
	take_late(m, began);
	return rc;
}

/* SPDX-License-Identifier: MIT */
/* How fast a migration may be, and whether it is held. */
#include "migrate/session_impl.h"

#include "base/log.h"
#include <errno.h>

#define HOLD_LOOK (50 * NS_PER_MS)

/* In the blackout the guest is what waits. After START it needs its pages, whatever is cancelled. */
static bool wants_hold(const struct migration *m)
{
	return m->cfg->hold && *m->cfg->hold && (m->state == MIGRATE_COPYING || m->state == MIGRATE_FILLING) &&
	       !session_cancelled(m);
}

static void note_hold(struct migration *m, bool hold)
{
	uint64_t now = session_now(m);

	if (hold == (m->held_at != 0))
		return;
	m->r->held_ns = session_held_ns(m);
	m->held_at = hold ? max_u64(now, 1) : 0;
	/* There is nothing to catch up with meanwhile. */
	if (m->slow.percent && !m->paused)
		session_throttle(m, hold ? 0 : m->slow.percent);
	log_info("guest %s: the migration %s", m->cfg->name, hold ? "is held" : "goes on");
}

void session_pace(struct migration *m)
{
	bool hold = wants_hold(m);
	uint64_t pace = hold ? AMST_HELD : m->state == MIGRATE_BLACKOUT ? 0 : m->cfg->max_bandwidth;

	note_hold(m, hold);
	if (pace != m->pace)
		client_pace(m->client, pace);
	m->pace = pace;
}

uint64_t session_held_ns(const struct migration *m)
{
	return m->r->held_ns + (m->held_at ? session_now(m) - m->held_at : 0);
}

int session_wait_held(struct migration *m, struct err *e)
{
	int rc = 0;

	session_pace(m);
	while (rc >= 0 && m->held_at) {
		rc = client_turn(m->client, HOLD_LOOK, e);
		if (rc >= 0)
			rc = client_stay(m->client, e);
		session_tick(m, session_now(m), m->round_pages * GUEST_PAGE);
	}
	if (rc >= 0 && session_cancelled(m))
		rc = err_set(e, -EINTR, "cancelled");
	return rc < 0 ? rc : 0;
}

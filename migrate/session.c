/* SPDX-License-Identifier: MIT */
/*
 *   preparing ─prepare─► copying ─pause_guest─► blackout ─READY answered─► handing over ─START answered─► over
 *       │                   │                       │                          │    ▲                (completed)
 *       │                   │                       │               no answer, ▼    │ it was not started there
 *       └───────────────────┴───── roll_back ◄──────┘                        doubt ─┘
 *                                (the guest runs here)                         ├─ it runs there ──► over (completed)
 *                                        ▲                                     └─ not found out ──► over (in doubt:
 *                                        └── it never will run there ──────────┘                     paused here)
 *
 * Post-copy: where pages are missing there, "over" is only reached through
 *
 *   filling ─last page─► over (completed)      recovering ─not found for recover_ns─► over (incomplete)
 *      └─ link broken ─► recovering ─attached, asked what is there─► filling
 */
#include "migrate/session_impl.h"

#include "base/log.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

const struct migrate_policy migrate_policies[] = {
	{ .name = "precopy", .help = "rounds while the guest runs, then the rest", .precopy = true },
	{ .name = "stopcopy", .help = "pause, then everything" },
	{ .name = "postcopy", .help = "hand over at once, then everything, what is waited for first", .late = true },
	{ .name = "hybrid",
	  .help = "a few rounds while the guest runs, hand over, then the rest",
	  .precopy = true,
	  .late = true },
};
const char *const migrate_policy_names[] = { "precopy", "stopcopy", "postcopy", "hybrid", NULL };
const char *const migrate_verify_names[] = { "none", "pages", "full", NULL };

const char *migrate_state_name(enum migrate_state s)
{
	static const char *const names[] = { "preparing", "copying", "blackout",   "handing over",
					     "in doubt",  "filling", "recovering", "over" };

	return (unsigned)s < ARRAY_LEN(names) ? names[s] : "?";
}

const char *migrate_outcome_name(enum migrate_outcome o)
{
	static const char *const names[] = { "rolled_back", "cancelled", "completed", "in_doubt", "incomplete" };

	return (unsigned)o < ARRAY_LEN(names) ? names[o] : "?";
}

uint32_t migrate_chunk_room(uint32_t chunk)
{
	return chunk + PAGES_HEAD_MAX + HDE_OVERHEAD;
}

static void choose_id(struct migration *m)
{
	struct msg_guest_id *id = &m->r->id;

	if (getrandom(id, sizeof *id, 0) != sizeof *id)
		abort();
}

static int prepare(struct migration *m, struct err *e)
{
	const struct migrate_config *cfg = m->cfg;
	struct msg_guest_prepare p = { .version = MIGRATE_VERSION, .page = GUEST_PAGE, .memory = cfg->guest->len };
	struct hde_opts hde = cfg->hde;
	uint64_t began = session_now(m);
	int rc;

	/* Pages that follow late are compressed by themselves (fill.h). */
	if (cfg->policy->late && !cfg->policy->precopy)
		hde.mode = HDE_NONE;
	choose_id(m);
	p.id = m->r->id;
	p.hde = cfg->hde.mode != HDE_NONE;
	p.late = !cfg->policy->late ? LATE_NONE : cfg->policy->precopy ? LATE_SOME : LATE_ALL;
	snprintf(p.kind, sizeof p.kind, "%s", cfg->guest->ops->name);
	snprintf(p.name, sizeof p.name, "%s", cfg->name);
	rc = client_call_msg(m->client, GUEST_PREPARE, &guest_prepare_def, &p, NULL, NULL, e);
	if (rc == 0 && cfg->policy->precopy)
		rc = cfg->tracker->open(&m->tracker, cfg->guest, e);
	if (rc == 0)
		rc = page_source_open(&m->source, cfg->guest, m->tracker, m->client, cfg->chunk, &hde, e);
	m->source.sum = cfg->sum;
	if (m->source.hde && cfg->max_bandwidth && !hde.link_bits_per_s)
		hde_rates(m->source.hde, 8 * (double)cfg->max_bandwidth, 0);
	m->r->prepare_ns = session_now(m) - began;
	return rc;
}

/* The guest goes on here first; then the destination is told, if it can be. */
static void roll_back(struct migration *m, uint64_t failed_at, const struct err *why)
{
	struct guest *g = m->cfg->guest;
	struct err e = { 0 };

	if (m->paused) {
		m->r->stands = g->ops->run(g, &e) < 0;
		if (m->r->stands)
			log_warn("guest %s cannot go on here: %s", m->cfg->name, e.why);
		m->r->rollback_ns = session_now(m) - failed_at;
	}
	m->r->outcome = why->code == -EINTR ? OUTCOME_CANCELLED : OUTCOME_ROLLED_BACK;
	client_interrupted_by(m->client, NULL);
	if (why->code != -ETIMEDOUT && why->code != -ESHUTDOWN)
		session_request(m->client, GUEST_ABANDON, &m->r->id, NULL, NULL, &e);
}

static void take_counts(struct migration *m)
{
	struct source_counts c = page_source_counts(&m->source), late = { 0 };

	if (m->fill)
		late = fill_counts(m->fill);
	m->r->zero_pages = c.zero_pages + late.zero_pages;
	m->r->duplicate_pages = c.duplicate_pages + late.duplicate_pages;
	m->r->delta_pages = c.delta_pages;
	m->r->raw_pages = c.raw_pages + late.raw_pages;
	if (m->tracker)
		m->r->tracking = m->tracker->cost;
}

/* All that a hold may hold up before the guest is paused. A session for what is waited for is opened after that: nothing
 * would keep it alive meanwhile. */
static int until_switch(struct migration *m, struct err *e)
{
	bool rounds = m->cfg->policy->precopy;
	uint64_t held;
	int rc;

	do {
		rc = rounds ? session_copy(m, e) : 0;
		m->state = MIGRATE_COPYING;
		held = session_held_ns(m);
		if (rc == 0)
			rc = session_wait_held(m, e);
		/* The guest wrote on meanwhile: what fitted then need not fit now. */
	} while (rc == 0 && rounds && session_held_ns(m) != held);
	return rc;
}

int migrate_run(const struct migrate_config *cfg, struct migrate_result *r, struct err *e)
{
	struct migration m = { .cfg = cfg, .r = r, .client = cfg->client };
	struct err mine = { 0 };
	uint64_t began = session_now(&m), failed_at;
	int rc;

	memset(r, 0, sizeof *r);
	client_interrupted_by(m.client, cfg->cancel);
	round_begin(&m.plan, &cfg->limits, began);
	m.slow.cfg = (struct throttle_config){ cfg->auto_converge, (double)cfg->dirty_limit / GUEST_PAGE };
	rc = prepare(&m, &mine);
	if (rc == 0)
		rc = until_switch(&m, &mine);
	if (rc == 0 && cfg->policy->late)
		rc = session_open_fill(&m, &mine);
	if (rc == 0)
		rc = session_blackout(&m, &mine);
	if (rc == 0)
		rc = session_hand_over(&m, &mine);
	if (rc == 0 && m.late)
		rc = session_fill(&m, &mine);
	failed_at = session_now(&m);
	if (rc == 0)
		r->outcome = OUTCOME_COMPLETED;
	else if (rc == -EREMCHG)
		r->outcome = OUTCOME_IN_DOUBT;
	else if (rc == -EHOSTDOWN)
		r->outcome = OUTCOME_INCOMPLETE;
	else
		roll_back(&m, failed_at, &mine);
	m.state = MIGRATE_OVER;
	session_pace(&m);
	r->total_ns = failed_at - began;
	take_counts(&m);
	if (m.slow.percent)
		session_throttle(&m, 0);
	if (m.tracker)
		m.tracker->ops->close(m.tracker);
	if (rc == 0 && cfg->verify != VERIFY_NONE)
		rc = session_verify(&m, &mine);
	fill_close(m.fill);
	page_source_close(&m.source);
	client_close(m.reconnected);
	if (e && rc < 0)
		*e = mine;
	return rc;
}

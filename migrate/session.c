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
#include "migrate/session.h"

#include "base/log.h"
#include "migrate/fill.h"
#include "migrate/throttle.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define DOUBT_PAUSE (200 * NS_PER_MS)
#define STUCK_MOST 20 /* failures in a row, the link restored each time, without a page that came */

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
	uint64_t looked_at; /* last look for dirty pages */
	struct throttle slow;
	uint64_t round_pages; /* of the round under way */
};

uint32_t migrate_chunk_room(uint32_t chunk)
{
	return chunk + PAGES_HEAD_MAX + HDE_OVERHEAD;
}

static uint64_t now_of(const struct migration *m)
{
	return clock_now(&m->cfg->clock);
}

static bool cancelled(const struct migration *m)
{
	return m->cfg->cancel && *m->cfg->cancel;
}

/* ---- requests ---------------------------------------------------------------------------------- */

static int request(struct client *c, uint16_t type, const struct msg_guest_id *id, const struct wire_def *def,
		   void *reply, struct err *e)
{
	return client_call_msg(c, type, &guest_id_def, id, def, reply, e);
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
	uint64_t began = now_of(m);
	int rc;

	/* Pages that follow late are placed in one step, and so come as they are. */
	if (cfg->policy->late && !cfg->policy->precopy)
		hde.mode = HDE_NONE;
	choose_id(m);
	p.id = m->r->id;
	p.hde = hde.mode != HDE_NONE;
	p.late = !cfg->policy->late ? LATE_NONE : cfg->policy->precopy ? LATE_SOME : LATE_ALL;
	snprintf(p.kind, sizeof p.kind, "%s", cfg->guest->ops->name);
	snprintf(p.name, sizeof p.name, "%s", cfg->name);
	rc = client_call_msg(m->client, GUEST_PREPARE, &guest_prepare_def, &p, NULL, NULL, e);
	if (rc == 0 && cfg->policy->precopy)
		rc = cfg->tracker->open(&m->tracker, cfg->guest, e);
	if (rc == 0)
		rc = page_source_open(&m->source, cfg->guest, m->tracker, m->client, cfg->chunk, &hde, e);
	m->source.sum = cfg->sum;
	m->r->prepare_ns = now_of(m) - began;
	return rc;
}

/* ---- rounds ------------------------------------------------------------------------------------ */

static bool tick(void *ctx, uint64_t now, uint64_t bytes)
{
	struct migration *m = ctx;
	struct migrate_progress p = {
		.state = m->state,
		.round = m->plan.rounds,
		.pages = bytes / GUEST_PAGE,
		.total_pages = m->round_pages,
		.remaining_pages = m->round_pages,
		.dirty_pages_per_s = m->plan.dirty_rate,
		.bytes_per_s = m->plan.bandwidth,
		.predicted_downtime_ns = round_predict(&m->plan, m->round_pages),
	};

	if (m->cfg->progress)
		m->cfg->progress(m->cfg->ctx, &p);
	if (m->paused && m->cfg->blackout_max_ns && now - m->paused_at > m->cfg->blackout_max_ns)
		return true;
	return cancelled(m);
}

static void remember(struct migration *m, const struct round_sample *s)
{
	struct migrate_result *r = m->r;

	r->bytes_wire += s->bytes_wire;
	if (r->n_rounds == MIGRATE_ROUNDS_MAX) {
		r->more_rounds++;
		return;
	}
	r->rounds[r->n_rounds++] = (struct migrate_round){
		.pages = s->pages,
		.bytes_wire = s->bytes_wire,
		.ns = s->ns,
		.dirty_pages_per_s = s->over_ns ? (double)s->dirtied * 1e9 / (double)s->over_ns : 0,
		.paused = m->paused,
	};
}

/* Looks for dirty pages; *pending: how many there are to send. */
static int look(struct migration *m, struct round_sample *s, uint64_t *pending, struct err *e)
{
	uint64_t now = now_of(m);
	bool first = m->source.whole;
	int64_t n = page_source_look(&m->source, e);

	if (n < 0)
		return (int)n;
	*s = (struct round_sample){ .pages = (uint64_t)n };
	if (!first && m->looked_at) {
		s->dirtied = (uint64_t)n;
		s->over_ns = now - m->looked_at;
	}
	m->looked_at = now;
	*pending = (uint64_t)n;
	return 0;
}

static int send_round(struct migration *m, struct round_sample *s, struct err *e)
{
	const struct client_tick on_tick = { .fn = tick, .ctx = m };
	uint64_t began = now_of(m);
	int rc;

	m->round_pages = s->pages;
	rc = page_source_send(&m->source, &on_tick, &s->bytes_wire, e);
	s->ns = now_of(m) - began;
	if (rc == -ECANCELED)
		rc = cancelled(m)
			     ? err_set(e, -EINTR, "cancelled")
			     : err_set(e, -ETIMEDOUT,
				       "the blackout took longer than %llu ms and was given up: raise --blackout-max, "
				       "or --downtime-limit less for what the link carries",
				       (unsigned long long)(m->cfg->blackout_max_ns / NS_PER_MS));
	if (rc < 0)
		return rc;
	round_note(&m->plan, s);
	remember(m, s);
	return 0;
}

/* Slows writers down, where that was asked for. */
static void throttle(struct migration *m, unsigned percent)
{
	struct guest *g = m->cfg->guest;

	m->r->throttle = percent > m->r->throttle ? percent : m->r->throttle;
	g->ops->throttle(g, percent);
	log_info("guest %s: throttled by %u %%", m->cfg->name, percent);
}

static void help_converge(struct migration *m, uint64_t sent, uint64_t pending)
{
	unsigned was = m->slow.percent;

	if (m->cfg->guest->ops->throttle && throttle_next(&m->slow, sent, pending, m->plan.dirty_rate) != was)
		throttle(m, m->slow.percent);
}

static int no_fit(struct migration *m, uint64_t pending, struct err *e)
{
	const struct round_plan *p = &m->plan;

	if (m->cfg->force)
		return 0;
	return err_set(
		e, -ETIMEDOUT,
		"the guest dirties %.1f MB/s and %.1f MB/s get through: after %u rounds a blackout would take %.0f "
		"ms; allow --downtime-limit=%.0fms, slow it with --auto-converge, or --force",
		p->dirty_rate * GUEST_PAGE / 1e6, p->bandwidth / 1e6, p->rounds,
		(double)round_predict(p, pending) / 1e6, (double)round_predict(p, pending) * 1.2 / 1e6 + 1);
}

/* The blackout's fixed part, from what has been seen. */
static void note_fixed(struct migration *m)
{
	struct be_info path;
	uint64_t rtt = client_path(m->client, &path) == 0 ? path.rtt_ns : 0;

	round_fixed(&m->plan, m->source.fetch_ns, rtt);
}

/* Rounds, until what is left may be sent in the blackout. */
static int copy(struct migration *m, struct err *e)
{
	struct round_sample s;
	uint64_t pending, sent;
	int rc = look(m, &s, &pending, e);

	m->state = MIGRATE_COPYING;
	for (bool first = true; rc == 0; first = false) {
		enum round_next next = first ? ROUND_MORE : round_decide(&m->plan, pending, now_of(m));

		if (next == ROUND_SWITCH)
			return 0;
		if (m->cfg->policy->late && !first && (next == ROUND_TIMEOUT || m->plan.rounds >= m->cfg->late_rounds))
			return 0;
		if (next == ROUND_TIMEOUT)
			return no_fit(m, pending, e);
		sent = s.pages;
		rc = send_round(m, &s, e);
		if (rc == 0 && cancelled(m))
			rc = err_set(e, -EINTR, "cancelled");
		if (rc == 0)
			rc = look(m, &s, &pending, e);
		if (rc == 0) {
			help_converge(m, sent, pending);
			note_fixed(m);
		}
	}
	return rc;
}

/* ---- blackout and hand-over -------------------------------------------------------------------- */

static int pause_guest(struct migration *m, struct err *e)
{
	struct guest *g = m->cfg->guest;
	int rc;

	m->state = MIGRATE_BLACKOUT;
	m->paused = true;
	m->paused_at = now_of(m);
	rc = g->ops->pause(g, e);
	m->r->blackout.pause_ns = now_of(m) - m->paused_at;
	return rc;
}

static int send_ready(struct migration *m, struct err *e)
{
	struct guest *g = m->cfg->guest;
	uint8_t *buf = malloc(GUEST_STATE_MAX + 64);
	struct rcur reply;
	struct wcur w;
	uint8_t *len_at;
	int rc;

	if (!buf)
		return err_set(e, -ENOMEM, "no memory for the guest's state");
	w = wcur_init(buf, GUEST_STATE_MAX + 64);
	wire_put(&w, &guest_id_def, &m->r->id);
	put_u8(&w, (m->cfg->verify == VERIFY_FULL ? READY_FULL : 0) | (m->late ? READY_LATE : 0));
	len_at = w.p;
	put_u16(&w, 0);
	rc = g->ops->save(g, &w, e);
	if (rc == 0) {
		struct wcur l = wcur_init(len_at, 2);

		put_u16(&l, (uint16_t)(w.p - len_at - 2));
		rc = client_call(m->client, GUEST_READY, buf, (uint32_t)(w.p - buf), &reply, e);
	}
	free(buf);
	return rc;
}

/* Does what is pending follow after START? Where it fits the limit there is no need to. */
static bool goes_late(const struct migration *m, uint64_t pending)
{
	const struct migrate_policy *p = m->cfg->policy;

	return p->late && pending && (!p->precopy || round_predict(&m->plan, pending) > m->cfg->limits.downtime_ns);
}

/* What the destination has of the pages that follow is old. */
static int announce(struct migration *m, struct err *e)
{
	const struct client_tick on_tick = { .fn = tick, .ctx = m };
	uint64_t wire = 0;
	int rc = m->source.whole ? 0 : page_source_announce(&m->source, &on_tick, &wire, e);

	m->r->bytes_wire += wire;
	return rc;
}

static int blackout(struct migration *m, struct err *e)
{
	struct migrate_blackout *b = &m->r->blackout;
	struct round_sample s;
	uint64_t pending, at;
	int rc = pause_guest(m, e);

	if (rc == 0)
		rc = look(m, &s, &pending, e);
	at = now_of(m);
	b->look_ns = at - m->paused_at - b->pause_ns;
	if (rc == 0 && goes_late(m, pending)) {
		m->late = true;
		m->r->late.pages = pending;
	}
	if (rc == 0)
		rc = m->late ? announce(m, e) : send_round(m, &s, e);
	b->transfer_ns = now_of(m) - at;
	at = now_of(m);
	if (rc == 0)
		rc = send_ready(m, e);
	b->ready_ns = now_of(m) - at;
	if (rc == 0 && cancelled(m))
		rc = err_set(e, -EINTR, "cancelled");
	return rc;
}

static void nap(struct migration *m, uint64_t ns)
{
	uint64_t until = now_of(m) + ns;

	/* The session is over, or about to be: its turns only pass the time. */
	while (now_of(m) < until && !cancelled(m))
		client_turn(m->client, until - now_of(m), NULL);
}

static int new_session(struct migration *m, struct err *e)
{
	struct client *c = NULL;
	int rc = m->cfg->reconnect ? m->cfg->reconnect(m->cfg->ctx, &c, e) : -ENOTCONN;

	if (rc < 0)
		return rc;
	client_close(m->reconnected);
	m->client = m->reconnected = c;
	client_interrupted_by(c, NULL);
	return 0;
}

/* What became of a START that was not answered? 0: it runs there. -ECANCELED: it never will. */
static int resolve(struct migration *m, struct err *e)
{
	uint64_t until = now_of(m) + m->cfg->doubt_ns;
	struct msg_guest_status st;
	struct msg_guest_started started;
	struct err why = { 0 };

	m->state = MIGRATE_DOUBT;
	log_warn("guest %s: it is not known whether it runs at the destination; it stays paused here", m->cfg->name);
	for (;;) {
		int rc = request(m->client, GUEST_QUERY, &m->r->id, &guest_status_def, &st, &why);

		if (rc == 0 && st.phase == PHASE_READY)
			rc = request(m->client, GUEST_START, &m->r->id, &guest_started_def, &started, &why);
		if (rc == 0 && st.phase != PHASE_UNKNOWN && st.phase != PHASE_LOST && st.phase != PHASE_RECEIVING)
			return 0;
		if (rc == 0 && st.phase == PHASE_LOST)
			return err_set(e, -ECANCELED, "the destination could not start the guest: see its log");
		if (rc == 0) /* it has forgotten: whether the guest ran there before nobody knows */
			return err_set(e, -EREMCHG,
				       "the destination does not know the guest any more, and START was sent: it stays "
				       "paused here, because it may have run there");
		if (now_of(m) >= until || cancelled(m))
			break;
		nap(m, DOUBT_PAUSE);
		new_session(m, &why);
	}
	return err_set(
		e, -EREMCHG,
		"START was sent and the destination cannot be asked whether it arrived (%.120s): the guest stays "
		"paused here; look there with `dwcp guests`",
		why.why);
}

/* 0: it runs there. -ECANCELED: it does not, and never will. -EREMCHG: in doubt. */
static int hand_over(struct migration *m, struct err *e)
{
	struct msg_guest_started started;
	uint64_t at = now_of(m);
	struct err why = { 0 };
	int rc;

	m->state = MIGRATE_HANDING_OVER;
	client_interrupted_by(m->client, NULL);
	/* From here on the guest is the destination's, whatever is heard of it. */
	rc = request(m->client, GUEST_START, &m->r->id, &guest_started_def, &started, &why);
	if (rc < 0) {
		log_warn("guest %s: START was not answered: %s", m->cfg->name, why.why);
		rc = resolve(m, e);
	}
	m->r->blackout.start_ns = now_of(m) - at;
	m->r->downtime_ns = now_of(m) - m->paused_at;
	return rc;
}

/* ---- post-copy --------------------------------------------------------------------------------- */

/* Nothing may be in the way of the rest once the guest is the destination's: all that it needs is there before. */
static int open_fill(struct migration *m, struct err *e)
{
	int rc = fill_open(&m->fill, &m->source, &m->r->id, m->cfg->clock, e);

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
	if (m->cfg->progress)
		m->cfg->progress(m->cfg->ctx, &p);
	if (cancelled(m) && !m->told)
		log_warn("guest %s runs at the destination and needs pages that are still here: they are sent first",
			 m->cfg->name);
	m->told |= cancelled(m);
	return false;
}

/* Both sessions anew, and what the destination lacks. -EREMCHG: it does not have the guest any more. */
static int attach_again(struct migration *m, struct err *e)
{
	struct msg_guest_status st;
	int rc = new_session(m, e);

	if (rc < 0)
		return rc;
	rc = request(m->client, GUEST_ATTACH, &m->r->id, &guest_status_def, &st, e);
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
	return err_set(e, -EHOSTDOWN,
		       "the guest waits at the destination for %llu pages that are only here, and cannot be reached "
		       "(%.200s): it is halted there, and lost when this process ends",
		       (unsigned long long)fill_missing(m->fill), why->why);
}

/* The link is broken: the guest waits there, its pages here. */
static int recover(struct migration *m, const struct err *broken, struct err *e)
{
	uint64_t until = now_of(m) + m->cfg->recover_ns;
	struct err why = *broken;
	int rc;

	m->state = MIGRATE_RECOVERING;
	log_warn("guest %s waits at the destination for pages that are here, and the link is broken (%s): trying again",
		 m->cfg->name, broken->why);
	do {
		if (cancelled(m) || (m->cfg->recover_ns && now_of(m) >= until))
			return incomplete(m, &why, e);
		nap(m, DOUBT_PAUSE);
		rc = attach_again(m, &why);
	} while (rc < 0 && rc != -EREMCHG);
	if (rc < 0)
		*e = why;
	m->source.client = m->client;
	m->r->late.recoveries += rc == 0;
	m->state = MIGRATE_FILLING;
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
	l->ns = now_of(m) - began;
	l->bytes_wire = st.bytes_wire;
	l->asked = st.asked;
	l->neighbours = st.neighbours;
	l->requests = st.requests;
	l->working_set_pages = work.pages;
	m->r->bytes_wire += st.bytes_wire;
	if (request(m->client, GUEST_LATE, &m->r->id, &guest_late_def, &there, &e) < 0)
		return;
	l->faults = there.faults;
	l->network_faults = there.pages;
	l->p50_ns = there.p50_ns;
	l->p95_ns = there.p95_ns;
	l->p99_ns = there.p99_ns;
	l->max_ns = there.max_ns;
}

/* The guest runs there: the rest follows, however often the link breaks. */
static int fill(struct migration *m, struct err *e)
{
	const struct client_tick on_tick = { .fn = fill_tick, .ctx = m };
	uint64_t began = now_of(m), stuck = 0, missing;
	struct err why = { 0 };
	int rc;

	m->state = MIGRATE_FILLING;
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

/* ---- ends -------------------------------------------------------------------------------------- */

/* The guest goes on here first; then the destination is told, if it can be. */
static void roll_back(struct migration *m, uint64_t failed_at, const struct err *why)
{
	struct guest *g = m->cfg->guest;
	struct err e = { 0 };

	if (m->paused) {
		if (g->ops->run(g, &e) < 0)
			log_warn("guest %s cannot go on here: %s", m->cfg->name, e.why);
		m->r->rollback_ns = now_of(m) - failed_at;
	}
	m->r->outcome = why->code == -EINTR ? OUTCOME_CANCELLED : OUTCOME_ROLLED_BACK;
	client_interrupted_by(m->client, NULL);
	if (why->code != -ETIMEDOUT && why->code != -ESHUTDOWN)
		request(m->client, GUEST_ABANDON, &m->r->id, NULL, NULL, &e);
}

/* Names the first page that differs. */
static int name_page(struct migration *m, const uint64_t *table, struct err *e)
{
	uint64_t pages = guest_pages(m->cfg->guest);

	for (uint64_t p = 0; p < pages;) {
		uint64_t n = min_u64(pages - p, GUEST_PAGE_SUMS_MAX);
		uint8_t fields[32];
		struct wcur w = wcur_init(fields, sizeof fields);
		struct rcur in;
		int rc;

		wire_put(&w, &guest_id_def, &m->r->id);
		put_u64(&w, p);
		put_u16(&w, (uint16_t)n);
		rc = client_call(m->client, GUEST_PAGE_SUMS, fields, (uint32_t)(w.p - fields), &in, e);
		if (rc < 0)
			return rc;
		get_u16(&in);
		for (uint64_t i = 0; i < n; i++, p++)
			if (get_u64(&in) != table[p])
				return err_set(
					e, -EBADMSG,
					"page %llu at the destination is not what it was here: please report this "
					"as a bug",
					(unsigned long long)p);
	}
	return err_set(e, -EBADMSG, "memory at the destination is not what it was here: please report this as a bug");
}

static int verify(struct migration *m, struct err *e)
{
	uint64_t began = now_of(m), *table = NULL;
	struct msg_guest_sums there;
	struct digest128 here;
	int rc = page_source_sums(&m->source, &table, &here, e);

	if (rc == 0)
		rc = request(m->client, GUEST_SUMS, &m->r->id, &guest_sums_def, &there, e);
	if (rc == 0 && (here.lo != there.lo || here.hi != there.hi))
		rc = name_page(m, table, e);
	free(table);
	m->r->verified = rc == 0;
	m->r->verify_seconds = (double)(now_of(m) - began) / 1e9;
	return rc;
}

static void take_counts(struct migration *m)
{
	struct source_counts c = page_source_counts(&m->source);

	m->r->zero_pages = c.zero_pages;
	m->r->duplicate_pages = c.duplicate_pages;
	m->r->delta_pages = c.delta_pages;
	m->r->raw_pages = c.raw_pages;
	if (m->tracker)
		m->r->tracking = m->tracker->cost;
}

int migrate_run(const struct migrate_config *cfg, struct migrate_result *r, struct err *e)
{
	struct migration m = { .cfg = cfg, .r = r, .client = cfg->client };
	struct err mine = { 0 };
	uint64_t began = now_of(&m), failed_at;
	int rc;

	memset(r, 0, sizeof *r);
	client_interrupted_by(m.client, cfg->cancel);
	round_begin(&m.plan, &cfg->limits, began);
	m.slow.cfg = (struct throttle_config){ cfg->auto_converge, (double)cfg->dirty_limit / GUEST_PAGE };
	rc = prepare(&m, &mine);
	if (rc == 0 && cfg->policy->precopy)
		rc = copy(&m, &mine);
	if (rc == 0 && cfg->policy->late)
		rc = open_fill(&m, &mine);
	if (rc == 0)
		rc = blackout(&m, &mine);
	if (rc == 0)
		rc = hand_over(&m, &mine);
	if (rc == 0 && m.late)
		rc = fill(&m, &mine);
	failed_at = now_of(&m);
	if (rc == 0)
		r->outcome = OUTCOME_COMPLETED;
	else if (rc == -EREMCHG)
		r->outcome = OUTCOME_IN_DOUBT;
	else if (rc == -EHOSTDOWN)
		r->outcome = OUTCOME_INCOMPLETE;
	else
		roll_back(&m, failed_at, &mine);
	m.state = MIGRATE_OVER;
	r->total_ns = failed_at - began;
	take_counts(&m);
	if (m.slow.percent)
		throttle(&m, 0);
	if (m.tracker)
		m.tracker->ops->close(m.tracker);
	if (rc == 0 && cfg->verify != VERIFY_NONE)
		rc = verify(&m, &mine);
	fill_close(m.fill);
	page_source_close(&m.source);
	client_close(m.reconnected);
	if (e && rc < 0)
		*e = mine;
	return rc;
}

int migrate_check(struct client *c, const struct msg_guest_id *id, struct guest_work *work, struct err *e)
{
	struct msg_guest_check m;
	int rc = request(c, GUEST_CHECK, id, &guest_check_def, &m, e);

	if (rc < 0)
		return rc;
	if (work)
		*work = (struct guest_work){ .writes = m.writes, .steps = m.steps };
	if (m.status)
		return err_set(e, -EBADMSG, "the guest's own check fails at the destination: %s", client_clean(m.text));
	return 0;
}

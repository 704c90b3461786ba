/* SPDX-License-Identifier: MIT */
/* Rounds while the guest runs. */
#include "migrate/session_impl.h"

#include "base/log.h"
#include <errno.h>

bool session_tick(void *ctx, uint64_t now, uint64_t bytes)
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

	session_pace(m);
	p.held = m->held_at;
	if (m->cfg->progress)
		m->cfg->progress(m->cfg->ctx, &p);
	if (m->paused && m->cfg->blackout_max_ns && now - m->paused_at > m->cfg->blackout_max_ns)
		return true;
	return session_cancelled(m);
}

static void remember(struct migration *m, const struct round_sample *s, uint64_t began)
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
		.at_ns = began - m->plan.began_ns,
		.dirty_pages_per_s = s->over_ns ? (double)s->dirtied * 1e9 / (double)s->over_ns : 0,
		.paused = m->paused,
	};
}

int session_look(struct migration *m, struct round_sample *s, uint64_t *pending, struct err *e)
{
	uint64_t now = session_now(m);
	bool first = m->source.whole;
	int64_t n = page_source_look(&m->source, e);

	if (n < 0)
		return (int)n;
	*s = (struct round_sample){ .pages = (uint64_t)n };
	/* Of a guest that wrote on while nothing was sent the number says nothing: most pages were written many times. */
	if (!first && m->looked_at && session_held_ns(m) == m->look_held) {
		s->dirtied = (uint64_t)n;
		s->over_ns = now - m->looked_at;
	}
	m->looked_at = now;
	m->look_held = session_held_ns(m);
	*pending = (uint64_t)n;
	return 0;
}

int session_send_round(struct migration *m, struct round_sample *s, struct err *e)
{
	const struct client_tick on_tick = { .fn = session_tick, .ctx = m };
	uint64_t began = session_now(m), held = session_held_ns(m);
	int rc;

	session_pace(m);
	m->round_pages = s->pages;
	rc = page_source_send(&m->source, &on_tick, &s->bytes_wire, e);
	s->ns = session_now(m) - began - (session_held_ns(m) - held);
	if (rc == -ECANCELED)
		rc = session_cancelled(m)
			     ? err_set(e, -EINTR, "cancelled")
			     : err_set(e, -ETIMEDOUT,
				       "the blackout took longer than %llu ms and was given up: raise --blackout-max, "
				       "or --downtime-limit less for what the link carries",
				       (unsigned long long)(m->cfg->blackout_max_ns / NS_PER_MS));
	if (rc < 0)
		return rc;
	round_note(&m->plan, s);
	remember(m, s, began);
	return 0;
}

/* Slows writers down, where that was asked for. */
void session_throttle(struct migration *m, unsigned percent)
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
		session_throttle(m, m->slow.percent);
}

static int no_fit(struct migration *m, uint64_t pending, struct err *e)
{
	const struct round_plan *p = &m->plan;
	bool capped = m->cfg->max_bandwidth && !p->cfg.blackout_bytes_per_s;

	if (m->cfg->force)
		return 0;
	return err_set(
		e, -ETIMEDOUT,
		"the guest dirties %.1f MB/s and %.1f MB/s get through: after %u rounds a blackout would take %.0f "
		"ms%s; allow --downtime-limit=%.0fms, slow it with --auto-converge, or --force",
		p->dirty_rate * GUEST_PAGE / 1e6, p->bandwidth / 1e6, p->rounds,
		(double)round_predict(p, pending) / 1e6,
		capped ? " at the rate of --max-bandwidth, which it need not keep to: say with --switchover-bandwidth "
			 "what the link has for it"
		       : "",
		(double)round_predict(p, pending) * 1.2 / 1e6 + 1);
}

/* The blackout's fixed part, from what has been seen. */
static void note_fixed(struct migration *m)
{
	struct be_info path;
	uint64_t rtt = client_path(m->client, &path) == 0 ? path.rtt_ns : 0;

	round_fixed(&m->plan, m->source.fetch_ns, rtt);
}

int session_copy(struct migration *m, struct err *e)
{
	struct round_sample s;
	uint64_t pending, sent;
	int rc = session_look(m, &s, &pending, e);

	m->state = MIGRATE_COPYING;
	while (rc == 0) {
		bool first = m->source.whole;
		enum round_next next = first ? ROUND_MORE
					     : round_decide(&m->plan, pending, session_now(m) - m->r->held_ns);

		if (next == ROUND_SWITCH)
			return 0;
		if (m->cfg->policy->late && !first && (next == ROUND_TIMEOUT || m->plan.rounds >= m->cfg->late_rounds))
			return 0;
		if (next == ROUND_TIMEOUT)
			return no_fit(m, pending, e);
		sent = s.pages;
		rc = session_send_round(m, &s, e);
		if (rc == 0 && session_cancelled(m))
			rc = err_set(e, -EINTR, "cancelled");
		if (rc == 0)
			rc = session_wait_held(m, e);
		if (rc == 0)
			rc = session_look(m, &s, &pending, e);
		if (rc == 0) {
			if (s.over_ns)
				help_converge(m, sent, pending);
			note_fixed(m);
		}
	}
	return rc;
}

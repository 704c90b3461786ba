/* SPDX-License-Identifier: MIT */
#include "transport/mode.h"
#include "base/util.h"

#define AGE_MOST 2 /* a sample counts for so many times the length of the history */

const char *const mode_names[] = { "auto", "datacenter", "internet", "hybrid", NULL };

const struct mode_rules mode_documented = {
	.interval_ns = 10 * NS_PER_S,
	.history = 10,
	.least_ns = 60 * NS_PER_S,
	.hysteresis = 0.2,
	.confidence = 0.8,
	.near_ns = 10 * NS_PER_MS,
	.far_ns = 50 * NS_PER_MS,
	.low_bps = 0.5e9,
	.high_bps = 1e9,
	.clean = 0.0001,
	.poor = 0.01,
};

const struct mode_way mode_ways[MODE_KINDS] = {
	[MODE_AUTO] = { "default", false },
	[MODE_DATACENTER] = { "default", false },
	[MODE_INTERNET] = { "bbr", true },
	[MODE_HYBRID] = { "bbr", true },
};

void mode_init(struct mode *m, const struct mode_rules *rules)
{
	*m = (struct mode){ .rules = *rules };
	m->rules.history = (unsigned)max_u64(min_u64(rules->history, MODE_HISTORY_MAX), 1);
}

/* ---- one sample -------------------------------------------------------------------------------- */

static bool is_datacenter(const struct mode_rules *r, const struct mode_seen *s, double slack)
{
	bool slow = s->bps > 0 && !s->bps_at_least && s->bps < r->high_bps / slack;

	return (double)s->rtt_ns <= (double)r->near_ns * slack && !slow && s->loss <= r->clean * slack;
}

static bool is_internet(const struct mode_rules *r, const struct mode_seen *s, double slack)
{
	bool fast = s->bps > r->high_bps * slack;
	bool thin = s->bps > 0 && !s->bps_at_least && s->bps < r->low_bps * slack;
	bool far = (double)s->rtt_ns >= (double)r->far_ns / slack;
	bool away = (double)s->rtt_ns > (double)r->near_ns / slack;

	return (far && !fast) || (away && thin) || s->loss > r->poor / slack;
}

/* The middle: what it keeps by the hysteresis it takes from its neighbours' borders. */
static enum mode_kind from_hybrid(const struct mode_rules *r, const struct mode_seen *s, double slack)
{
	if (is_datacenter(r, s, 1 / slack))
		return MODE_DATACENTER;
	return is_internet(r, s, 1 / slack) ? MODE_INTERNET : MODE_HYBRID;
}

enum mode_kind mode_vote(const struct mode_rules *r, enum mode_kind now, const struct mode_seen *s)
{
	double slack = 1 + r->hysteresis;

	/* What is no number compares false everywhere. */
	if (!s->rtt_ns || !(s->loss <= 1) || !(s->bps >= 0))
		return MODE_AUTO;
	if (now == MODE_DATACENTER && is_datacenter(r, s, slack))
		return now;
	if (now == MODE_INTERNET && is_internet(r, s, slack))
		return now;
	if (now == MODE_HYBRID)
		return from_hybrid(r, s, slack);
	if (is_datacenter(r, s, 1))
		return MODE_DATACENTER;
	return is_internet(r, s, 1) ? MODE_INTERNET : MODE_HYBRID;
}

/* ---- history ----------------------------------------------------------------------------------- */

static void remember(struct mode *m, const struct mode_seen *s)
{
	m->seen[m->next] = *s;
	m->next = (m->next + 1) % m->rules.history;
	m->n = (unsigned)min_u64(m->n + 1, m->rules.history);
}

/* A time that went back or far ahead says nothing of the link: what was before is not compared with what comes. */
static void mind_the_clock(struct mode *m, uint64_t at_ns)
{
	uint64_t most = AGE_MOST * m->rules.history * m->rules.interval_ns;

	if (at_ns >= m->last_ns && at_ns - m->last_ns <= most)
		return;
	m->n = m->next = 0;
	m->since_ns = at_ns;
	m->lasted = 0;
}

static void count_votes(struct mode *m)
{
	unsigned votes[MODE_KINDS] = { 0 };

	for (unsigned i = 0; i < m->n; i++)
		votes[mode_vote(&m->rules, m->now, &m->seen[i])]++;
	m->leading = MODE_DATACENTER;
	for (unsigned k = MODE_DATACENTER; k < MODE_KINDS; k++)
		if (votes[k] > votes[m->leading])
			m->leading = (enum mode_kind)k;
	m->confidence = (double)votes[m->leading] / m->rules.history;
}

static void enter(struct mode *m, enum mode_kind kind, uint64_t at_ns)
{
	m->now = kind;
	m->since_ns = at_ns;
	m->lasted = 0;
}

bool mode_look(struct mode *m, const struct mode_seen *seen)
{
	uint64_t least = div_up_u64(m->rules.least_ns, max_u64(m->rules.interval_ns, 1));

	if (m->now != MODE_AUTO)
		mind_the_clock(m, seen->at_ns);
	m->last_ns = seen->at_ns;
	m->lasted++;
	remember(m, seen);
	count_votes(m);
	if (m->now == MODE_AUTO) {
		enum mode_kind first = mode_vote(&m->rules, MODE_AUTO, seen);

		if (first != MODE_AUTO)
			enter(m, first, seen->at_ns);
		return false;
	}
	if (m->leading == m->now || m->confidence < m->rules.confidence)
		return false;
	if (seen->at_ns - m->since_ns < m->rules.least_ns || m->lasted < least)
		return false;
	enter(m, m->leading, seen->at_ns);
	m->switches++;
	return true;
}

/* Source: the documented table of streams by link speed. */
unsigned mode_documented_streams(enum mode_kind kind, double bps)
{
	if (kind == MODE_INTERNET || kind == MODE_HYBRID)
		return 8;
	return bps > 40e9 ? 256 : bps > 10e9 ? 128 : 32;
}

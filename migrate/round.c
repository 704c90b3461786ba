/* SPDX-License-Identifier: MIT */
#include "migrate/round.h"

#include "base/clock.h"
#include "base/util.h"
#include <math.h>

#define WEIGHT 0.5               /* of the newest sample */
#define LONG_NS (20 * NS_PER_MS) /* a shorter round says more about its fixed part than about bandwidth */
#define POLISH_MOST 4            /* rounds that only make a blackout shorter which would fit already */
#define PAUSE_GUESS (1 * NS_PER_MS)
#define CALLS_IN_BLACKOUT 2   /* READY and START, besides the round's own */
#define FIRST_BANDWIDTH 100e6 /* before anything was measured */

void round_begin(struct round_plan *p, const struct round_config *cfg, uint64_t now_ns)
{
	*p = (struct round_plan){
		.cfg = *cfg, .began_ns = now_ns, .bandwidth = 0, .page_bytes = 4096, .round_ns = UINT64_MAX
	};
}

void round_fixed(struct round_plan *p, uint64_t look_ns, uint64_t rtt_ns)
{
	p->fixed_ns = PAUSE_GUESS + look_ns + CALLS_IN_BLACKOUT * rtt_ns;
}

static double blend(double old, double new)
{
	return old > 0 ? old * (1 - WEIGHT) + new *WEIGHT : new;
}

static double bandwidth_of(const struct round_plan *p)
{
	return p->bandwidth > 0 ? p->bandwidth : FIRST_BANDWIDTH;
}

void round_note(struct round_plan *p, const struct round_sample *s)
{
	double carried = (double)s->bytes_wire;
	uint64_t bare;

	p->rounds++;
	if (s->pages && p->rounds > 1) /* the first round's pages are of another kind than dirty ones */
		p->page_bytes = p->rounds == 2 ? carried / (double)s->pages
					       : blend(p->page_bytes, carried / (double)s->pages);
	if (s->ns >= LONG_NS || !(p->bandwidth > 0))
		p->bandwidth = blend(p->bandwidth, carried * 1e9 / (double)max_u64(s->ns, 1));
	bare = (uint64_t)(carried * 1e9 / bandwidth_of(p));
	if (s->ns < LONG_NS)
		p->round_ns = min_u64(p->round_ns, s->ns > bare ? s->ns - bare : 0);
	if (s->over_ns)
		p->dirty_rate = blend(p->dirty_rate, (double)s->dirtied * 1e9 / (double)s->over_ns);
}

static double takes_ns(const struct round_plan *p, uint64_t pending, double bandwidth)
{
	uint64_t round = p->round_ns == UINT64_MAX ? 0 : p->round_ns;

	return (double)pending * p->page_bytes * 1e9 / bandwidth + (double)(round + p->fixed_ns);
}

uint64_t round_predict(const struct round_plan *p, uint64_t pending)
{
	return (uint64_t)takes_ns(p, pending, fmax(bandwidth_of(p), (double)p->cfg.blackout_bytes_per_s));
}

/* Would one more round leave much less than there is now? */
static bool worth_a_round(const struct round_plan *p, uint64_t pending)
{
	double ns = takes_ns(p, pending, bandwidth_of(p));

	return p->polished < POLISH_MOST && p->dirty_rate * ns / 1e9 < (double)pending / 2;
}

enum round_next round_decide(struct round_plan *p, uint64_t pending, uint64_t now_ns)
{
	bool fits = round_predict(p, pending) <= p->cfg.downtime_ns;

	if (fits && (!pending || !worth_a_round(p, pending)))
		return ROUND_SWITCH;
	p->polished += fits;
	if ((p->cfg.rounds_max && p->rounds >= p->cfg.rounds_max) ||
	    (p->cfg.timeout_ns && now_ns - p->began_ns >= p->cfg.timeout_ns))
		return fits ? ROUND_SWITCH : ROUND_TIMEOUT;
	return ROUND_MORE;
}

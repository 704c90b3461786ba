/* SPDX-License-Identifier: MIT */
#include "transport/tune.h"

#include "base/util.h"
#include <math.h>
#include <string.h>

#define SLICE_MOST (10 * NS_PER_S) /* a longer stretch is a clock that jumped, or a machine that slept */
#define RATE_MOST 1e13             /* bytes per second: nothing carries that */
#define WAIT_MOST (5 * NS_PER_S)   /* for streams to come up or go; then what is there is measured */
#define SIGMAS 1.0                 /* that two rates must differ by */
#define CHANGED 0.25               /* a rate that is off by so much when it is taken again: another link */
#define HOLD_LEAST (20 * NS_PER_S) /* between two searches in a transfer */
#define OFF_LEAST (3 * NS_PER_S)   /* that the rate must be off before another one */
#define FAR 8
#define CONFIRM 40     /* looks that are taken again, while there is time */
#define TIMES_MOST 6   /* …at one point */
#define HOPE 1.0       /* standard errors */
#define LEAST_PROBES 6 /* that there is time for, however few points there are */
#define TRIPS 25       /* round trips that a probe may always take: windows grow by them */

/* ---- points ------------------------------------------------------------------------------------ */

static bool same(const struct tune_point *a, const struct tune_point *b)
{
	return a->streams == b->streams && a->chunk == b->chunk && a->cc == b->cc;
}

static struct tune_tried *find(struct tune *t, const struct tune_point *p)
{
	for (unsigned i = 0; i < t->n_tried; i++)
		if (same(&t->tried[i].p, p))
			return &t->tried[i];
	return NULL;
}

bool tune_better(const struct tune *t, const struct tune_tried *a, const struct tune_tried *b)
{
	double error = hypot(a->error, b->error);

	return a->rate > b->rate * (1 + t->cfg.apart) && a->rate - b->rate > SIGMAS * error;
}

static struct tune_tried *best_of(struct tune *t)
{
	return &t->tried[t->best];
}

static double peak_of(const struct tune *t)
{
	double peak = 0;

	for (unsigned i = 0; i < t->n_tried; i++)
		peak = fmax(peak, t->tried[i].rate);
	return peak;
}

/* What was measured twice counts by how well. */
static void merge(struct tune_tried *into, const struct tune_tried *from)
{
	double a = 1 / fmax(into->error * into->error, 1e-6 * into->rate * into->rate + 1);
	double b = 1 / fmax(from->error * from->error, 1e-6 * from->rate * from->rate + 1);

	into->rate = (a * into->rate + b * from->rate) / (a + b);
	into->error = sqrt(1 / (a + b));
	into->loss = from->loss;
	into->rtt_ns = from->rtt_ns;
	into->rtt_least_ns = min_u64(into->rtt_least_ns, from->rtt_least_ns);
	into->ns += from->ns;
	into->times++;
}

static struct tune_tried measured(const struct tune *t)
{
	const struct tune_meter *m = &t->meter;
	struct tune_estimate e = tune_estimate_of(m);
	double floor = 0.002 * e.rate; /* nothing is known better than that */

	return (struct tune_tried){
		.p = t->at,
		.times = 1,
		.rate = e.rate,
		.error = isfinite(e.error) ? fmax(e.error, floor) : e.rate / 2,
		.loss = m->segments ? fmin((double)m->lost / (double)m->segments, 1) : 0,
		.rtt_ns = m->rtt_ns,
		.rtt_least_ns = m->rtt_least_ns,
		.ns = m->ns,
	};
}

/* A sweep's probes are as long as that; a search's, of which there are fewer than a fifth, shorter than that. */
static uint64_t probe_most_of(const struct tune *t)
{
	uint64_t most = max_u64(t->cfg.probe_most_ns, TRIPS * t->rtt_ns);

	return t->cfg.all ? most : most / 10 * 7;
}

/* A fifth of what a sweep would take, or what was told. */
static uint64_t limit_of(const struct tune *t)
{
	uint64_t points = (uint64_t)t->cfg.n_chunks * t->cfg.n_cc,
		 most = max_u64(t->cfg.probe_most_ns, TRIPS * t->rtt_ns);

	for (uint64_t n = 1; n < t->cfg.streams_most; n *= 2)
		points += (uint64_t)t->cfg.n_chunks * t->cfg.n_cc;
	if (t->cfg.limit_ns)
		return t->cfg.limit_ns;
	if (t->cfg.all || t->cfg.live)
		return UINT64_MAX;
	return max_u64(points * most / 5, LEAST_PROBES * most);
}

/* ---- the search: each function looks at what was just measured and names the next point --------- */

static enum tune_say over(struct tune *t)
{
	t->phase = t->cfg.live ? TUNE_HOLD : TUNE_OVER;
	t->held = 0;
	t->hold_ns = t->off_ns = 0;
	if (t->n_tried && !same(&t->at, &best_of(t)->p)) {
		t->at = best_of(t)->p;
		return t->cfg.live ? TUNE_MOVE : TUNE_END;
	}
	return t->cfg.live ? TUNE_STAY : TUNE_END;
}

static enum tune_say probe(struct tune *t, struct tune_point p)
{
	bool moves = !same(&t->at, &p);

	tune_meter_reset(&t->meter);
	t->at = p;
	return moves ? TUNE_MOVE : TUNE_STAY;
}

static enum tune_say next_other(struct tune *t)
{
	struct tune_point p = best_of(t)->p;

	t->phase = TUNE_OTHERS;
	t->far = 0;
	for (uint32_t cc = 0; cc < t->cfg.n_cc; cc++) {
		if (t->searched_cc[cc])
			continue;
		t->searched_cc[cc] = true;
		p.cc = cc;
		return probe(t, p);
	}
	t->phase = TUNE_CONFIRM;
	t->step = 0;
	return probe(t, best_of(t)->p);
}

static enum tune_say next_chunk(struct tune *t)
{
	struct tune_point p = best_of(t)->p;

	t->phase = TUNE_CHUNKS;
	while (++t->step < t->cfg.n_chunks) {
		p.chunk = t->cfg.chunk[t->step];
		if (!find(t, &p))
			return probe(t, p);
	}
	return next_other(t);
}

static enum tune_say after_streams(struct tune *t)
{
	if (t->cfg.live)
		return over(t);
	t->step = 0;
	return next_chunk(t);
}

static enum tune_say next_down(struct tune *t)
{
	struct tune_point p = best_of(t)->p;

	t->phase = TUNE_DOWN;
	p.streams = best_of(t)->p.streams / 2;
	if (!p.streams || find(t, &p))
		return after_streams(t);
	return probe(t, p);
}

static enum tune_say next_up(struct tune *t)
{
	struct tune_point p = best_of(t)->p;

	t->phase = TUNE_UP;
	p.streams = (uint32_t)min_u64((uint64_t)p.streams << (1 + t->misses), t->cfg.streams_most);
	if (t->misses >= 2 || find(t, &p))
		return next_down(t);
	return probe(t, p);
}

static enum tune_say climb(struct tune *t)
{
	t->searched_cc[best_of(t)->p.cc] = true;
	t->misses = 0;
	return next_up(t);
}

static enum tune_say after_first(struct tune *t, struct tune_tried *got)
{
	struct tune_point p = t->at;

	if (got->rate > best_of(t)->rate)
		t->best = (unsigned)(got - t->tried);
	if (++t->step < t->cfg.n_cc && !t->cfg.live) {
		p.cc = t->step;
		return probe(t, p);
	}
	return climb(t);
}

static enum tune_say after_up(struct tune *t, struct tune_tried *got)
{
	if (tune_better(t, got, best_of(t))) {
		t->best = (unsigned)(got - t->tried);
		t->misses = 0;
		return next_up(t);
	}
	/* Much less: more of it will not help. */
	t->misses += got->rate + got->error < 0.85 * (best_of(t)->rate - best_of(t)->error) ? 2 : 1;
	return next_up(t);
}

static enum tune_say after_down(struct tune *t, struct tune_tried *got)
{
	/* Fewer streams are worth something, but errors add up: half of what is no difference. */
	if (got->rate < peak_of(t) * (1 - t->cfg.apart / 2))
		return after_streams(t);
	t->best = (unsigned)(got - t->tried);
	return next_down(t);
}

/* An algorithm that is behind may catch up with more streams: one look far ahead tells. */
static enum tune_say after_other(struct tune *t, struct tune_tried *got)
{
	struct tune_point p = got->p;

	if (tune_better(t, got, best_of(t))) {
		t->best = (unsigned)(got - t->tried);
		return climb(t);
	}
	p.streams = (uint32_t)min_u64((uint64_t)p.streams * FAR, t->cfg.streams_most);
	/* …and another, while it comes nearer by leaps. */
	if (p.streams == got->p.streams || find(t, &p) ||
	    (t->far > 0 && (got->rate < 1.5 * t->far || got->rate < best_of(t)->rate / 3)))
		return next_other(t);
	t->far = got->rate;
	return probe(t, p);
}

static enum tune_say after_chunk(struct tune *t, struct tune_tried *got)
{
	if (tune_better(t, got, best_of(t)))
		t->best = (unsigned)(got - t->tried);
	return next_chunk(t);
}

/* How much better than the best it may be, with luck on its side; what is less than `apart` is nothing. */
static double hope(const struct tune *t, const struct tune_tried *x)
{
	const struct tune_tried *best = &t->tried[t->best];

	return x->rate + HOPE * hypot(x->error, best->error) - best->rate * (1 + t->cfg.apart);
}

/* Who of those that may still be better is asked again: the one of whom most may be hoped, or the best itself when less
 * is known of it. */
static struct tune_tried *rival(struct tune *t)
{
	struct tune_tried *r = NULL, *best = best_of(t);

	for (unsigned i = 0; i < t->n_tried; i++) {
		struct tune_tried *x = &t->tried[i];

		if (x != best && x->times < TIMES_MOST && hope(t, x) > 0 && (!r || hope(t, x) > hope(t, r)))
			r = x;
	}
	return r && best->error > r->error && best->times <= r->times ? best : r;
}

static enum tune_say again(struct tune *t)
{
	t->changed = true;
	t->restarts++;
	t->n_tried = t->best = t->step = 0;
	memset(t->searched_cc, 0, sizeof t->searched_cc);
	t->phase = TUNE_FIRST;
	return probe(t, (struct tune_point){ t->cfg.streams_first, t->cfg.chunk[0], 0 });
}

/* Not told from the best when time is over, with chunks of the same size or of the usual one. */
static bool doubtful(const struct tune *t, const struct tune_tried *x)
{
	const struct tune_tried *best = &t->tried[t->best];

	return x->p.cc == best->p.cc && (x->p.chunk == best->p.chunk || x->p.chunk == t->cfg.chunk[0]) &&
	       x->rate + 1.5 * hypot(x->error, best->error) >= best->rate;
}

/* How far from what is wanted: steps of streams count, then the size of chunks. */
static double off(const struct tune *t, const struct tune_tried *x, double streams)
{
	return fabs(log2(x->p.streams / streams)) + (x->p.chunk == t->cfg.chunk[0] ? 0 : 0.5);
}

/* Where rates are known well, the fewest streams of those that are equal. Where noise hides which of several is best, rather
 * twice as many: a stream too few costs more than one too many. */
static void settle(struct tune *t)
{
	const struct tune_tried *best = best_of(t);
	bool clear = best->error <= 1.5 * t->cfg.apart * best->rate;
	double streams = clear ? 1 : 2.0 * best->p.streams;
	const struct tune_tried *pick = best;

	for (unsigned i = 0; i < t->n_tried; i++) {
		const struct tune_tried *x = &t->tried[i];
		bool equal = x->p.cc == best->p.cc && x->p.chunk == best->p.chunk &&
			     x->rate >= best->rate * (1 - t->cfg.apart / 2);

		if ((clear ? equal : doubtful(t, x)) && off(t, x, streams) < off(t, pick, streams))
			pick = x;
	}
	t->best = (unsigned)(pick - t->tried);
}

/* Of those that were looked at twice, or the best before. */
static void choose_again(struct tune *t)
{
	for (unsigned i = 0; i < t->n_tried; i++)
		if ((t->tried[i].times > 1 && t->tried[i].rate > best_of(t)->rate) ||
		    tune_better(t, &t->tried[i], best_of(t)))
			t->best = i;
}

static enum tune_say after_confirm(struct tune *t)
{
	struct tune_tried *r;

	choose_again(t);
	r = rival(t);
	if (t->step++ >= CONFIRM || !r) {
		settle(t);
		return over(t);
	}
	return probe(t, r->p);
}

static enum tune_say after_all(struct tune *t, struct tune_tried *got)
{
	struct tune_point p = t->at;

	if (got->rate > best_of(t)->rate)
		t->best = (unsigned)(got - t->tried);
	if (p.streams < t->cfg.streams_most) {
		p.streams = (uint32_t)min_u64(2ull * p.streams, t->cfg.streams_most);
		return probe(t, p);
	}
	p.streams = 1;
	if (++p.cc < t->cfg.n_cc)
		return probe(t, p);
	p.cc = 0;
	if (++t->step < t->cfg.n_chunks) {
		p.chunk = t->cfg.chunk[t->step];
		return probe(t, p);
	}
	return over(t);
}

static enum tune_say decide(struct tune *t, struct tune_tried *got)
{
	if (t->cfg.all)
		return after_all(t, got);
	switch (t->phase) {
	case TUNE_FIRST:
		return after_first(t, got);
	case TUNE_UP:
		return after_up(t, got);
	case TUNE_DOWN:
		return after_down(t, got);
	case TUNE_OTHERS:
		return after_other(t, got);
	case TUNE_CHUNKS:
		return after_chunk(t, got);
	case TUNE_CONFIRM:
		return after_confirm(t);
	default:
		return over(t);
	}
}

/* ---- the end of a probe ------------------------------------------------------------------------ */

static bool told_apart(const struct tune *t, const struct tune_estimate *e)
{
	const struct tune_tried *best = t->n_tried ? &t->tried[t->best] : NULL;
	double error;

	if (e->error <= t->cfg.apart / 2 * e->rate)
		return true;
	if (!best)
		return false;
	error = hypot(e->error, best->error);
	/* Far better or far worse is soon seen. */
	return e->rate > best->rate * (1 + t->cfg.apart) + 4 * error ||
	       e->rate < best->rate * (1 - 3 * t->cfg.apart) - 4 * error;
}

static bool probe_over(const struct tune *t)
{
	const struct tune_meter *m = &t->meter;
	uint64_t most = probe_most_of(t);
	struct tune_estimate e;

	if (m->ns < (t->cfg.all ? most : max_u64(t->cfg.probe_least_ns, 10 * m->rtt_ns)))
		return false;
	e = tune_estimate_of(m);
	/* What still rises at the end is given half as long again. */
	return m->ns >= (e.settled ? most : most + most / 2) || (e.settled && told_apart(t, &e));
}

static enum tune_say take(struct tune *t)
{
	struct tune_tried now = measured(t), *old = find(t, &t->at);

	if (old) {
		double first = old->rate, error = hypot(old->error, now.error);

		merge(old, &now);
		/* The second look at the best decides whether it is still the same link; half of the time must be left. */
		if (t->phase == TUNE_CONFIRM && t->step == 0 && now.rate < (1 - CHANGED) * first &&
		    first - now.rate > 3 * error && !t->restarts) {
			if (t->spent_ns < limit_of(t) / 2)
				return again(t);
			t->changed = true;
		}
	} else if (t->n_tried == TUNE_TRIED_MAX) {
		return over(t);
	} else {
		old = &t->tried[t->n_tried++];
		*old = now;
	}
	return decide(t, old);
}

/* ---- in a transfer, after the search ------------------------------------------------------------- */

static enum tune_say hold(struct tune *t, const struct pilot_seen *s)
{
	double rate = (double)s->bytes * 1e9 / (double)s->ns, w = fmin((double)s->ns / 3e9, 1), was = best_of(t)->rate;

	t->held = t->held > 0 ? t->held + w * (rate - t->held) : was;
	t->hold_ns += s->ns;
	t->off_ns = fabs(t->held - was) > 0.3 * was ? t->off_ns + s->ns : 0;
	if (t->hold_ns < HOLD_LEAST || t->off_ns < OFF_LEAST)
		return TUNE_STAY;
	/* Another link, or others on it: from where it is now. */
	t->cfg.streams_first = t->at.streams;
	t->restarts = 0;
	return again(t);
}

/* ---- calls ------------------------------------------------------------------------------------- */

void tune_begin(struct tune *t, const struct tune_config *cfg)
{
	memset(t, 0, sizeof *t);
	t->cfg = *cfg;
	t->cfg.streams_most = (uint32_t)max_u64(cfg->streams_most, 1);
	t->cfg.streams_first = (uint32_t)max_u64(min_u64(cfg->streams_first, t->cfg.streams_most), 1);
	t->cfg.n_cc = (unsigned)max_u64(min_u64(cfg->n_cc, TUNE_CC_MAX), 1);
	t->cfg.n_chunks = (unsigned)max_u64(min_u64(cfg->n_chunks, TUNE_CHUNKS_MAX), 1);
	t->at = (struct tune_point){ cfg->all ? 1 : t->cfg.streams_first, cfg->chunk[0], 0 };
	tune_meter_reset(&t->meter);
}

const struct tune_point *tune_at(const struct tune *t)
{
	return &t->at;
}

const struct tune_tried *tune_best(const struct tune *t)
{
	return t->n_tried ? &t->tried[t->best] : NULL;
}

static bool credible(const struct pilot_seen *s)
{
	return s->ns && s->ns <= SLICE_MOST && (double)s->bytes * 1e9 / (double)s->ns <= RATE_MOST;
}

enum tune_say tune_look(struct tune *t, const struct pilot_seen *s)
{
	if (t->phase == TUNE_OVER)
		return TUNE_END;
	if (!credible(s) || s->starved)
		return TUNE_STAY;
	t->spent_ns += s->ns;
	t->rtt_ns = max_u64(t->rtt_ns, s->rtt_least_ns);
	if (t->spent_ns >= limit_of(t)) {
		/* Looking again goes on for as long as there is time. */
		t->out_of_time = t->phase != TUNE_CONFIRM;
		if (t->n_tried && !t->cfg.all && !t->cfg.live)
			settle(t);
		if (!t->n_tried && t->meter.n)
			t->tried[t->n_tried++] = measured(t);
		return over(t);
	}
	if (s->streams != t->at.streams && t->meter.wait_ns < WAIT_MOST) {
		t->meter.wait_ns += s->ns;
		return TUNE_STAY;
	}
	if (t->phase == TUNE_HOLD)
		return hold(t, s);
	tune_meter_add(&t->meter, s);
	return probe_over(t) ? take(t) : TUNE_STAY;
}

static bool look(void *ctx, const struct pilot_seen *seen, struct pilot_wants *w)
{
	struct tune *t = ctx;

	if (tune_look(t, seen) == TUNE_STAY && w->streams)
		return false;
	w->streams = t->at.streams;
	w->chunk = t->at.chunk;
	return true;
}

const struct pilot_ops tune_pilot = { .name = "tune", .look = look };

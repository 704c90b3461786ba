/* SPDX-License-Identifier: MIT */
#include "bench/tune_sim.h"

#include "base/util.h"
#include <math.h>

#define MSS 1448.0
#define SLICE 0.1

/* Hosts of 2 Gb/s and of 60 Gb/s: links are slower or faster than them. */
const struct tune_link_model tune_links[] = {
	{ "local_network", 1.25e8, 0.001, 0, 5e5, 3e9, 400, 0.03, 0 },
	{ "simulated_internet", 1.25e8, 0.050, 0.01, 6e6, 3e9, 400, 0.08, 0.1 },
	{ "poor_network", 1.25e7, 0.200, 0.05, 2.5e6, 3e9, 400, 0.15, 0.1 },
	{ "datacenter_10g", 1.25e9, 0.0005, 0, 1e6, 3e9, 300, 0.03, 0 },
	{ "datacenter_40g", 5e9, 0.0002, 0, 2e6, 6e9, 150, 0.04, 0 },
	{ "metro", 1.25e8, 0.008, 0.0001, 1e6, 3e9, 400, 0.05, 0.1 },
	{ "transatlantic", 1.25e9, 0.080, 0.0001, 1e8, 3e9, 300, 0.08, 0.1 },
	{ "lte", 5e6, 0.045, 0.002, 1e6, 3e9, 400, 0.25, 0 },
	{ "loopback", 1e11, 0.00005, 0, 1e9, 4e9, 60, 0.06, 0 },
	{ 0 },
};

static double uniform(uint64_t *rng)
{
	return (double)(rng_next(rng) >> 11) / 9007199254740992.0;
}

/* Near enough to normal: twelve uniform ones. */
static double normal(uint64_t *rng)
{
	double sum = -6;

	for (int i = 0; i < 12; i++)
		sum += uniform(rng);
	return sum;
}

static double between(uint64_t *rng, double low, double high)
{
	return low * pow(high / low, uniform(rng));
}

struct tune_link_model tune_link_random(uint64_t seed)
{
	uint64_t rng = seed * 0x9e3779b97f4a7c15ull + 1;
	struct tune_link_model m = { .name = "random" };

	m.rate = between(&rng, 1e6, 5e9);
	m.rtt = between(&rng, 0.0002, 0.3);
	m.loss = uniform(&rng) < 0.3 ? 0 : between(&rng, 1e-5, 0.06);
	m.queue = m.rate * m.rtt * between(&rng, 0.1, 3);
	m.host = between(&rng, 5e8, 6e9);
	m.crowd = between(&rng, 40, 1000);
	m.noise = between(&rng, 0.01, 0.2);
	m.cross = uniform(&rng) < 0.5 ? 0 : 0.2 * uniform(&rng);
	return m;
}

/* ---- the long run ------------------------------------------------------------------------------ */

static double cubic_rate(const struct tune_link_model *m, double n)
{
	double content = m->rate * m->rtt, window, x;

	/* One stream that halves its window drains a short queue; many do not do so together. */
	if (m->loss <= 0)
		return m->rate * (1 - 0.15 * fmax(0, 1 - m->queue / content) / n);
	window = fmax(1.2247 / sqrt(m->loss), 1.054 * pow(m->rtt / m->loss, 0.75));
	x = n * window * MSS / m->rtt / m->rate;
	return m->rate * (1 - m->loss) * x / pow(1 + pow(x, 4), 0.25);
}

static double bbr_rate(const struct tune_link_model *m, double n)
{
	double share = (0.99 - 0.074 / pow(n, 0.75)) * (1 - m->loss);

	return m->rate * (m->loss > 0.15 ? 0.2 : 1) * share;
}

double tune_link_rate(const struct tune_link_model *m, const struct tune_point *p)
{
	double n = p->streams, link = p->cc == TUNE_SIM_BBR ? bbr_rate(m, n) : cubic_rate(m, n);
	double host = m->host * (p->cc == TUNE_SIM_BBR ? 0.7 : 1) * fmin(0.6 + 0.1 * n, 1) / (1 + n / m->crowd);

	host *= p->chunk / (p->chunk + 12e3) / (1 + p->chunk / 20e6);
	/* Who is near a limit feels the other one, too. */
	return link / pow(1 + pow(link / host, 6), 1.0 / 6);
}

/* ---- slices ------------------------------------------------------------------------------------ */

void tune_sim_begin(struct tune_sim *s, const struct tune_link_model *m, uint64_t seed)
{
	*s = (struct tune_sim){ .link = *m, .rng = seed * 2654435761u + 7, .at_ns = NS_PER_S };
}

static void come_and_go(struct tune_sim *s)
{
	if (s->link.cross <= 0)
		return;
	if (s->others_left) {
		s->others_left--;
		return;
	}
	s->others = s->others > 0 ? 0 : s->link.cross * uniform(&s->rng);
	s->others_left = 5 + (unsigned)(40 * uniform(&s->rng));
}

/* Towards the target: doubling with each round trip as slow start does, later slower; down within five round trips. */
static void follow(struct tune_sim *s, double target)
{
	double trips = SLICE / s->link.rtt, least = fmin(target, 10 * MSS / s->link.rtt * s->now.streams);

	s->rate = fmax(s->rate, least);
	if (s->rate < target / 2)
		s->rate = fmin(s->rate * exp2(fmin(trips, 60)), target / 2);
	else if (s->rate < target)
		s->rate += (target - s->rate) * (1 - exp(-trips / 8));
	else
		s->rate += (target - s->rate) * (1 - exp(-trips / 5));
}

struct pilot_seen tune_sim_next(struct tune_sim *s, const struct tune_point *p)
{
	const struct tune_link_model *m = &s->link;
	double sigma, rate;

	/* Another algorithm or more streams: connections are made first; all of them anew for another algorithm. */
	if (p->cc != s->now.cc || !s->now.streams) {
		s->rate = 0;
		s->idle_s = 2 * m->rtt;
	}
	s->now = *p;
	come_and_go(s);
	s->at_ns += (uint64_t)(SLICE * 1e9);
	/* Few loss-limited streams saw: what one of them has lost is not made up for by others. */
	sigma = m->noise * (p->cc == TUNE_SIM_CUBIC && m->loss > 0 ? 1 + 2 / sqrt(p->streams) : 1);
	s->wobble = 0.6 * s->wobble + 0.8 * sigma * normal(&s->rng);
	if (s->idle_s > 0)
		s->idle_s -= SLICE;
	else
		follow(s, tune_link_rate(m, p) * (1 - s->others));
	rate = s->idle_s > 0 ? 0 : fmax(s->rate * (1 + s->wobble), 0);
	return (struct pilot_seen){
		.at_ns = s->at_ns,
		.ns = (uint64_t)(SLICE * 1e9),
		.bytes = (uint64_t)(rate * SLICE),
		.rtt_ns = (uint64_t)(m->rtt * 1.2e9),
		.rtt_least_ns = (uint64_t)(m->rtt * 1e9),
		.segments = (uint64_t)(rate * SLICE / MSS),
		.lost = (uint64_t)(rate * SLICE / MSS * m->loss),
		.streams = p->streams,
		.chunk = p->chunk,
	};
}

/* ---- the search over it ------------------------------------------------------------------------ */

struct tune_config tune_sim_config(void)
{
	return (struct tune_config){
		.streams_first = 8,
		.streams_most = 256,
		.chunk = { 256u << 10, 64u << 10, 1u << 20 },
		.n_chunks = 3,
		.n_cc = TUNE_SIM_CCS,
		.probe_least_ns = 500 * NS_PER_MS,
		.probe_most_ns = 5 * NS_PER_S,
		.apart = 0.02,
	};
}

static void sweep(const struct tune_link_model *m, const struct tune_config *cfg, struct tune_outcome *o)
{
	for (uint32_t cc = 0; cc < cfg->n_cc; cc++)
		for (unsigned k = 0; k < cfg->n_chunks; k++)
			for (uint32_t n = 1; n <= cfg->streams_most; n *= 2) {
				struct tune_point p = { n, cfg->chunk[k], cc };
				double rate = tune_link_rate(m, &p);

				o->points++;
				if (rate <= o->best_rate)
					continue;
				o->best_rate = rate;
				o->best = p;
			}
	o->sweep_seconds = o->points * fmax((double)cfg->probe_most_ns / 1e9, 25 * m->rtt);
}

struct tune_outcome tune_sim_run(const struct tune_link_model *m, const struct tune_config *cfg, uint64_t seed)
{
	struct tune_outcome o = { 0 };
	struct tune_sim s;
	struct tune t;

	sweep(m, cfg, &o);
	tune_sim_begin(&s, m, seed);
	tune_begin(&t, cfg);
	for (bool over = false; !over;) {
		struct pilot_seen seen = tune_sim_next(&s, tune_at(&t));

		over = tune_look(&t, &seen) == TUNE_END;
	}
	if (!tune_best(&t))
		return o;
	o.found = tune_best(&t)->p;
	o.found_rate = tune_link_rate(m, &o.found);
	o.seconds = (double)t.spent_ns / 1e9;
	o.probes = t.n_tried;
	return o;
}

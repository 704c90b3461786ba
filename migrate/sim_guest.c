/* SPDX-License-Identifier: MIT */
#include "migrate/sim_guest.h"

#include "base/util.h"
#include <math.h>

#define BINS 48      /* of pages that are written about as often, zipf */
#define REGION 512.0 /* pages of a huge page */
#define SPOTS 8      /* moments at which pages were made clean */

/* As guest_synth.c has them. */
#define ZIPF_POWER 5.0
#define BURST_SHARE 5.0
#define PHASE_S 2.0

/* Whole seconds begin with a burst. */
static double burst_seconds(double at)
{
	double whole = floor(at);

	return whole / BURST_SHARE + fmin(at - whole, 1 / BURST_SHARE);
}

static double writes_between(const struct sim_guest *g, double from, double to)
{
	double rate = g->writes * (1 - g->slowed);

	if (g->pattern == SYNTH_BURSTY)
		return rate * BURST_SHARE * (burst_seconds(to) - burst_seconds(from));
	return rate * (to - from);
}

double sim_guest_rate(const struct sim_guest *g, double at)
{
	double rate = g->writes * (1 - g->slowed);

	if (g->pattern == SYNTH_BURSTY)
		return at - floor(at) < 1 / BURST_SHARE ? rate * BURST_SHARE : 0;
	return rate;
}

/* n writes, each to any of `set` pages alike. */
static double distinct(double n, double set)
{
	return set * -expm1(-n / set);
}

/* Rank y of 0…1 is below a with probability a^(1/ZIPF_POWER). */
static double distinct_zipf(double n, double set)
{
	double low = 0, high = 1 / set, step = pow(set, 1.0 / BINS), sum = 0;

	for (int i = 0; i <= BINS; i++) {
		double share = pow(fmin(high, 1), 1 / ZIPF_POWER) - (low > 0 ? pow(low, 1 / ZIPF_POWER) : 0);
		double pages = (fmin(high, 1) - low) * set;

		if (pages > 0)
			sum += distinct(n * share, pages);
		low = fmin(high, 1);
		high *= step;
	}
	return sum;
}

/* The working set moves on, and comes round again: what is written in one lap is apart, laps meet by chance. */
static double dirty_in_phases(const struct sim_guest *g, double from, double to)
{
	double width = g->set / g->pages, lap = 0, covered = 0, clean = 1;

	while (from < to) {
		double end = fmin(to, (floor(from / PHASE_S) + 1) * PHASE_S);
		double d = distinct(writes_between(g, from, end), g->set), now = fmin(1 - covered, width) / width;

		lap += d * now;
		covered += width;
		if (covered >= 1) {
			clean *= 1 - fmin(lap / g->pages, 1);
			covered -= 1;
			lap = d * (1 - now);
		}
		if (end <= from)
			break;
		from = end;
	}
	return g->pages * (1 - clean * (1 - fmin(lap / g->pages, 1)));
}

static double mean_dirty(const struct sim_guest *g, double from, double to)
{
	double n = to > from ? writes_between(g, from, to) : 0;

	switch (g->pattern) {
	case SYNTH_ZIPF:
		return distinct_zipf(n, g->set);
	case SYNTH_SEQUENTIAL:
		return fmin(n, g->set);
	case SYNTH_PHASES:
		return dirty_in_phases(g, from, to);
	default:
		return distinct(n, g->set);
	}
}

/* Near enough to normal: twelve uniform ones. */
static double normal(uint64_t *rng)
{
	double sum = -6;

	for (int i = 0; i < 12; i++)
		sum += (double)(rng_next(rng) >> 11) * 0x1p-53;
	return sum;
}

/* A page is found or not, so that a count spreads as those of coins do. */
static double with_noise(const struct sim_guest *g, double mean)
{
	double spread = sqrt(fmax(mean * (1 - mean / g->pages), 0));

	if (!g->noise || g->pattern == SYNTH_SEQUENTIAL)
		return mean;
	return fmin(fmax(mean + spread * normal(g->noise), 0), g->pages);
}

double sim_guest_dirty(const struct sim_guest *g, double from, double to)
{
	return with_noise(g, mean_dirty(g, from, to));
}

double sim_guest_touched(const struct sim_guest *g, double from, double to)
{
	double dirty = mean_dirty(g, from, to), regions = fmax(g->pages / REGION, 1), among = fmax(g->set / REGION, 1);

	if (g->pattern == SYNTH_SEQUENTIAL)
		return fmin((dirty + REGION) / g->pages, 1);
	if (g->pattern == SYNTH_PHASES)
		among *= floor(to / PHASE_S) - floor(from / PHASE_S) + 1;
	among = fmin(among, regions);
	return distinct(dirty, among) / regions;
}

double sim_guest_dirty_behind(const struct sim_guest *g, double from, double to)
{
	double sum = 0;

	for (int i = 0; i < SPOTS; i++)
		sum += mean_dirty(g, from + (to - from) * (i + .5) / SPOTS, to);
	return with_noise(g, sum / SPOTS);
}

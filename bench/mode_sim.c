/* SPDX-License-Identifier: MIT */
#include "bench/mode_sim.h"

#include "base/stats.h"
#include "base/util.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRACE_SAMPLES 200000

static const struct {
	double rtt_ms, bps, loss;
} links[2][MODE_KINDS] = { {
				   [MODE_DATACENTER] = { 0.5, 9e9, 0 },
				   [MODE_INTERNET] = { 80, 300e6, 0.004 },
				   [MODE_HYBRID] = { 25, 900e6, 0.0005 },
			   },
			   {
				   [MODE_DATACENTER] = { 8.5, 1.3e9, 0.00003 },
				   [MODE_INTERNET] = { 58, 700e6, 0.004 },
				   [MODE_HYBRID] = { 14, 800e6, 0.0005 },
			   } };

static double uniform(uint64_t *rng)
{
	return (double)(rng_next(rng) >> 11) / 9007199254740992.0;
}

static double normal(uint64_t *rng)
{
	double sum = -6;

	for (int i = 0; i < 12; i++)
		sum += uniform(rng);
	return sum;
}

/* ---- counting ----------------------------------------------------------------------------------- */

struct watch {
	struct mode mode;
	struct mode_count *out;
	enum mode_kind truth;
	uint64_t changed_ns, switched_ns;
	bool followed;
};

static void watch_begin(struct watch *w, struct mode_count *out)
{
	*w = (struct watch){ .out = out };
	mode_init(&w->mode, &mode_documented);
}

static void truth_is(struct watch *w, enum mode_kind truth, uint64_t at_ns)
{
	if (truth == w->truth)
		return;
	if (w->truth != MODE_AUTO)
		w->out[truth].changes++;
	w->truth = truth;
	w->changed_ns = at_ns;
	w->followed = false;
}

static void take(struct watch *w, const struct mode_seen *s)
{
	const struct mode_rules *r = &w->mode.rules;
	struct mode_count *c = &w->out[w->truth];
	uint64_t two = 2 * r->history * r->interval_ns;

	if (mode_look(&w->mode, s)) {
		c->switches++;
		c->too_soon += w->switched_ns && s->at_ns - w->switched_ns < r->least_ns;
		w->switched_ns = s->at_ns;
	}
	if (!w->followed && w->mode.now == w->truth && s->at_ns - w->changed_ns <= two) {
		w->followed = true;
		c->followed += w->changed_ns > r->interval_ns;
	}
	if (s->at_ns - w->changed_ns > two)
		c->samples[w->mode.now]++;
}

/* ---- synthetic ---------------------------------------------------------------------------------- */

static struct mode_seen sample_of(enum mode_kind kind, bool border, double noise, uint64_t *rng)
{
	if (rng_next(rng) % 20 == 0)
		kind = (enum mode_kind)(1 + rng_next(rng) % 3);
	return (struct mode_seen){
		.rtt_ns = (uint64_t)(links[border][kind].rtt_ms * 1e6 * fmax(1 + noise * normal(rng), 0.1)),
		.bps = links[border][kind].bps * fmax(1 + noise * normal(rng), 0.1),
		.loss = links[border][kind].loss * 2 * uniform(rng),
	};
}

void mode_sim_synthetic(enum mode_kind kind, bool border, double noise, unsigned hours, uint64_t seed,
			struct mode_count out[MODE_KINDS])
{
	uint64_t rng = seed * 0x9e3779b97f4a7c15ull, step = mode_documented.interval_ns, lasts = 0;
	uint64_t end = hours * 3600 * NS_PER_S;
	enum mode_kind now = kind;
	struct watch w;

	watch_begin(&w, out);
	for (uint64_t t = step; t < end; t += step) {
		struct mode_seen s;

		/* Ten minutes to an hour, then a while on another link. */
		if (lasts++ > 60 && rng_next(&rng) % 300 == 0) {
			now = now == kind ? (enum mode_kind)(1 + (kind + rng_next(&rng) % 2) % 3) : kind;
			lasts = 0;
		}
		truth_is(&w, now, t);
		s = sample_of(now, border, noise, &rng);
		s.at_ns = t;
		take(&w, &s);
	}
}

/* ---- recorded ----------------------------------------------------------------------------------- */

struct trace {
	double *at, *bps;
	size_t n;
};

static double unit_of(const char *s)
{
	switch (*s) {
	case 'G':
		return 1e9;
	case 'M':
		return 1e6;
	case 'K':
		return 1e3;
	default:
		return 1;
	}
}

/* One line; false: no sample. */
static bool parse(const char *line, double scale, double next, double *at, double *bps)
{
	char *end, *rest;
	double a = strtod(line, &end), b;

	if (end == line)
		return false;
	end += strspn(end, "\t ,");
	b = strtod(end, &rest);
	*at = rest == end ? next : a;
	*bps = rest == end ? a * unit_of(end) : b * scale;
	return isfinite(*at) && isfinite(*bps) && *at >= 0 && *bps >= 0;
}

static int load(const char *path, double scale, struct trace *t, struct err *e)
{
	FILE *f = fopen(path, "re");
	char line[256];

	if (!f)
		return err_set(e, -errno, "cannot read %s: %s", path, strerror(errno));
	t->n = 0;
	t->at = calloc(TRACE_SAMPLES, sizeof(*t->at));
	t->bps = calloc(TRACE_SAMPLES, sizeof(*t->bps));
	while (t->at && t->bps && t->n < TRACE_SAMPLES && fgets(line, sizeof(line), f))
		if (parse(line, scale, (double)t->n, &t->at[t->n], &t->bps[t->n]))
			t->n++;
	fclose(f);
	if (t->at && t->bps && t->n)
		return 0;
	free(t->at);
	free(t->bps);
	return err_set(e, -ENODATA, "%s holds no samples", path);
}

int mode_sim_trace(const char *path, double scale, double rtt_ms, double loss, struct mode_count out[MODE_KINDS],
		   struct err *e)
{
	double step = (double)mode_documented.interval_ns / 1e9, sum = 0, *sorted;
	struct mode_seen s = { .rtt_ns = (uint64_t)(rtt_ms * 1e6), .loss = loss };
	size_t in = 0, k = 1;
	struct trace t = { 0 };
	struct watch w;
	int rc = load(path, scale, &t, e);

	if (rc < 0)
		return rc;
	sorted = malloc(t.n * sizeof(*sorted));
	if (sorted) {
		memcpy(sorted, t.bps, t.n * sizeof(*sorted));
		s.bps = stats_median(sorted, t.n);
		watch_begin(&w, out);
		truth_is(&w, mode_vote(&mode_documented, MODE_AUTO, &s), 0);
		for (size_t i = 0; i < t.n; i++) {
			sum += t.bps[i];
			in++;
			if (t.at[i] - t.at[0] < (double)k * step)
				continue;
			s.bps = sum / (double)in;
			s.at_ns = k * mode_documented.interval_ns;
			take(&w, &s);
			sum = 0;
			in = 0;
			while (t.at[i] - t.at[0] >= (double)k * step)
				k++;
		}
	}
	free(sorted);
	free(t.at);
	free(t.bps);
	return sorted ? 0 : err_set(e, -ENOMEM, "no memory for %s", path);
}

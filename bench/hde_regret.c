/* SPDX-License-Identifier: MIT */
/*
 * How far the selector is from the best that anybody could do who knew every size and time beforehand.
 *
 * A plan gives each block a choice; sender, link and receiver work side by side, so it lasts as long as the busiest:
 * max(Σ encode / cpus, Σ bytes / link, Σ decode / cpus). The least of that over plans that may also split blocks is a
 * linear program; by duality it is the largest over weights λ ≥ 0, Σ λ = 1 of Σ over blocks of the cheapest
 * weighted choice. Any λ gives a lower bound, so a search that stops short can only make the bound too low, and the
 * regret look larger than it is.
 */
#include "bench/hde_blocks.h"
#include "base/util.h"
#include <math.h>
#include <string.h>

const double hb_grid_link[] = { 10e6, 30e6, 100e6, 300e6, 1e9, 3e9, 10e9, 25e9, 40e9 };
const double hb_grid_cpus[] = { .5, 1, 2, 4, 8 };
const size_t hb_grid_links = ARRAY_LEN(hb_grid_link), hb_grid_cpu_n = ARRAY_LEN(hb_grid_cpus);

/* Seconds of each resource. */
struct work {
	double encode, link, decode;
};

static struct work work_of(const struct hb_block *b, unsigned c, double link_bits, double cpus)
{
	return (struct work){ .encode = b->choice[c].encode_ns / 1e9 / cpus,
			      .link = 8.0 * b->choice[c].size / link_bits,
			      .decode = b->choice[c].decode_ns / 1e9 / cpus };
}

static double longest(struct work w)
{
	return fmax(fmax(w.encode, w.link), w.decode);
}

static void add(struct work *sum, struct work w)
{
	sum->encode += w.encode;
	sum->link += w.link;
	sum->decode += w.decode;
}

/* ---- the lower bound --------------------------------------------------------------------------- */

struct study {
	const struct hb_blocks *blocks;
	double link_bits, cpus;
};

static double dual(const struct study *s, double link, double encode)
{
	double rest = (1 - link) * (1 - encode), all = 0;

	for (size_t i = 0; i < s->blocks->n; i++) {
		double least = INFINITY;

		for (unsigned c = 0; c < SEL_CHOICES; c++) {
			struct work w = work_of(&s->blocks->v[i], c, s->link_bits, s->cpus);

			least = fmin(least, link * w.link + (1 - link) * encode * w.encode + rest * w.decode);
		}
		all += least;
	}
	return all;
}

#define STEPS 24

/* The dual is concave along any line: golden section. */
static double best_split(const struct study *s, double link)
{
	const double g = 0.6180339887498949;
	double lo = 0, hi = 1, best = 0;

	for (int i = 0; i < STEPS; i++) {
		double a = hi - g * (hi - lo), b = lo + g * (hi - lo);
		double va = dual(s, link, a), vb = dual(s, link, b);

		best = fmax(best, fmax(va, vb));
		if (va < vb)
			lo = a;
		else
			hi = b;
	}
	return best;
}

static double lower_bound(const struct study *s)
{
	const double g = 0.6180339887498949;
	double lo = 0, hi = 1, best = fmax(dual(s, 1, 0), best_split(s, 0));

	for (int i = 0; i < STEPS; i++) {
		double a = hi - g * (hi - lo), b = lo + g * (hi - lo);
		double va = best_split(s, a), vb = best_split(s, b);

		best = fmax(best, fmax(va, vb));
		if (va < vb)
			lo = a;
		else
			hi = b;
	}
	return best;
}

/* ---- plans ------------------------------------------------------------------------------------- */

static double fixed_plan(const struct study *s, unsigned c)
{
	struct work sum = { 0 };

	for (size_t i = 0; i < s->blocks->n; i++)
		add(&sum, work_of(&s->blocks->v[i], c, s->link_bits, s->cpus));
	return longest(sum);
}

/* The blocks that were tried stand for all of the image: the selector goes over them as often as that. */
static double selector_plan(const struct study *s, const struct sel_model *model)
{
	const struct sel_cost cost = { .cpu = s->cpus, .link_bytes_per_s = s->link_bits / 8, .receiver = s->cpus };
	const uint64_t turns = max_u64(1, s->blocks->seen / max_u64(1, s->blocks->n));
	struct work sum = { 0 };
	struct selector sel;

	sel_init(&sel, model, &cost);
	for (uint64_t i = 0; i < turns * s->blocks->n; i++) {
		const struct hb_block *b = &s->blocks->v[i % s->blocks->n];
		bool look = sel_look(&sel);
		unsigned c = look ? sel_choose(&sel, &b->features, b->n, NULL) : 0;

		sel_learn(&sel, look ? &b->features : NULL, b->n, c, b->choice[c].size,
			  (uint64_t)b->choice[c].encode_ns, (uint64_t)b->choice[c].decode_ns);
		add(&sum, work_of(b, c, s->link_bits, s->cpus));
		sum.encode += look ? b->select_ns / 1e9 / s->cpus : 0;
	}
	return longest(sum) / (double)turns;
}

void hb_regret(const struct hb_blocks *b, const struct sel_model *model, double link_bits, double cpus,
	       struct hb_regret *r)
{
	const struct study s = { .blocks = b, .link_bits = link_bits, .cpus = cpus };

	*r = (struct hb_regret){ .link_bits = link_bits, .cpus = cpus, .fixed_s = INFINITY };
	for (unsigned c = 0; c < SEL_CHOICES; c++) {
		double t = fixed_plan(&s, c);

		if (sel_choices[c].codec == CODEC_RAW)
			r->raw_s = t;
		if (t >= r->fixed_s)
			continue;
		r->fixed_s = t;
		r->fixed = c;
	}
	r->best_s = lower_bound(&s);
	r->selector_s = selector_plan(&s, model);
	r->regret = r->selector_s / r->best_s - 1;
}

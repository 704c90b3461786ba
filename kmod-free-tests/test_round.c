/* SPDX-License-Identifier: MIT */
/*
 * Another round, or switch over? And how much is a guest slowed down? Against figures worked out by hand, and as
 * properties over thousands of random links and guests that are played round by round.
 */
#include "migrate/round.h"
#include "migrate/throttle.h"

#include "base/clock.h"
#include "base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#define PAGE 4096.0
#define SEEDS 3000

static const struct round_config usual = { .downtime_ns = 30 * NS_PER_MS, .rounds_max = 60 };

static struct round_sample sample(uint64_t pages, double bytes_per_page, uint64_t ns, uint64_t dirtied)
{
	return (struct round_sample){ .pages = pages,
				      .bytes_wire = (uint64_t)((double)pages * bytes_per_page),
				      .ns = ns,
				      .dirtied = dirtied,
				      .over_ns = ns };
}

static bool near(double got, double want)
{
	return fabs(got - want) <= fabs(want) * 1e-6;
}

/* ---- by hand ----------------------------------------------------------------------------------- */

static void test_predicts(void **state)
{
	struct round_plan p;
	struct round_sample first = sample(100000, 2000, NS_PER_S, 0),
			    second = sample(1000, 4000, 100 * NS_PER_MS, 1000);

	(void)state;
	round_begin(&p, &usual, 0);
	round_fixed(&p, 3 * NS_PER_MS, NS_PER_MS);
	/* Nothing known: pages as they are at 100 MB/s, a pause of 1 ms, a look, two calls. */
	assert_int_equal(round_predict(&p, 1000), 1000 * 40960ull + 6 * NS_PER_MS);
	round_note(&p, &first);
	assert_true(near(p.bandwidth, 200e6));
	/* The first round's pages say nothing about dirty ones. */
	assert_int_equal(round_predict(&p, 1000), 1000 * 20480ull + 6 * NS_PER_MS);
	round_note(&p, &second);
	assert_true(near(p.bandwidth, 120e6)); /* half of it new: 40 MB/s */
	assert_true(near(p.page_bytes, 4000));
	assert_true(near(p.dirty_rate, 10000));
	assert_int_equal(round_predict(&p, 300), 10 * NS_PER_MS + 6 * NS_PER_MS);
}

/* Rounds that are slowed down say nothing about the blackout, which is not; but they do about another round. */
static void test_blackout_has_more(void **state)
{
	struct round_config cfg = { .downtime_ns = 30 * NS_PER_MS, .blackout_bytes_per_s = 1000 * 1000 * 1000 };
	struct round_sample s = sample(100000, PAGE, 16 * NS_PER_S, 0); /* 25.6 MB/s */
	struct round_plan p;

	(void)state;
	round_begin(&p, &cfg, 0);
	round_note(&p, &s);
	assert_int_equal(round_predict(&p, 5000), 5000 * 4096);
	assert_int_equal(round_predict(&p, 0), 0);
	p.dirty_rate = 6000; /* a round of 0.8 s leaves as many */
	assert_int_equal(round_decide(&p, 5000, NS_PER_S), ROUND_SWITCH);
	assert_int_equal(round_decide(&p, 8000, NS_PER_S), ROUND_MORE);
	/* Never less than what was seen. */
	p.cfg.blackout_bytes_per_s = 1000;
	assert_int_equal(round_predict(&p, 100), 100 * 160000ull);
	p.cfg.blackout_bytes_per_s = 0;
	assert_int_equal(round_predict(&p, 100), 100 * 160000ull);
}

/* A short round tells what a round costs besides its bytes, and not the bandwidth. */
static void test_short_rounds(void **state)
{
	struct round_plan p;
	struct round_sample first = sample(100000, PAGE, NS_PER_S, 0), brief = sample(10, PAGE, 5 * NS_PER_MS, 10);
	uint64_t bare = (uint64_t)(10 * PAGE * 1e9 / 409.6e6);

	(void)state;
	round_begin(&p, &usual, 0);
	round_note(&p, &first);
	round_note(&p, &brief);
	assert_true(near(p.bandwidth, 409.6e6));
	assert_int_equal(p.round_ns, 5 * NS_PER_MS - bare);
	assert_int_equal(round_predict(&p, 0), 5 * NS_PER_MS - bare);
	brief.ns = 3 * NS_PER_MS;
	round_note(&p, &brief);
	assert_int_equal(p.round_ns, 3 * NS_PER_MS - bare);
	brief.ns = 4 * NS_PER_MS;
	round_note(&p, &brief);
	assert_int_equal(p.round_ns, 3 * NS_PER_MS - bare);
	/* One that took no time at all is no division by zero. */
	brief.ns = 0;
	round_note(&p, &brief);
	assert_int_equal(p.round_ns, 0);
}

static void test_decides(void **state)
{
	struct round_config cfg = { .downtime_ns = 30 * NS_PER_MS, .timeout_ns = 10 * NS_PER_S, .rounds_max = 5 };
	struct round_sample s = sample(100000, PAGE, NS_PER_S, 0);
	struct round_plan p;

	(void)state;
	round_begin(&p, &cfg, 7 * NS_PER_S);
	round_note(&p, &s);
	/* 10 µs a page: 3,000 pages fit. */
	assert_int_equal(round_decide(&p, 3500, 8 * NS_PER_S), ROUND_MORE);
	assert_int_equal(round_decide(&p, 0, 8 * NS_PER_S), ROUND_SWITCH);
	/* It fits, and one more round would leave next to nothing. */
	assert_int_equal(round_decide(&p, 2000, 8 * NS_PER_S), ROUND_MORE);
	assert_int_equal(p.polished, 1);
	/* The guest dirties as fast as it is sent: a round more is no use. */
	p.dirty_rate = 60000;
	assert_int_equal(round_decide(&p, 2000, 8 * NS_PER_S), ROUND_SWITCH);
	assert_int_equal(round_decide(&p, 3500, 8 * NS_PER_S), ROUND_MORE);
	assert_int_equal(round_decide(&p, 3500, 17 * NS_PER_S - 1), ROUND_MORE);
	assert_int_equal(round_decide(&p, 3500, 17 * NS_PER_S), ROUND_TIMEOUT);
	assert_int_equal(round_decide(&p, 2000, 17 * NS_PER_S), ROUND_SWITCH);
	p.rounds = 5;
	assert_int_equal(round_decide(&p, 3500, 8 * NS_PER_S), ROUND_TIMEOUT);
	p.cfg.rounds_max = 0;
	assert_int_equal(round_decide(&p, 3500, 8 * NS_PER_S), ROUND_MORE);
}

static void test_polishes_so_often(void **state)
{
	struct round_sample s = sample(100000, PAGE, NS_PER_S, 0);
	struct round_plan p;
	unsigned more = 0;

	(void)state;
	round_begin(&p, &usual, 0);
	round_note(&p, &s);
	while (round_decide(&p, 2000, 0) == ROUND_MORE && more < 100)
		more++;
	assert_int_equal(more, 4);
}

/* ---- played ------------------------------------------------------------------------------------ */

struct game {
	uint64_t rng, now;
	uint64_t pages;
	double rate, bytes, dirty; /* of the link, per page, pages/s */
	uint64_t fixed;
	struct round_config cfg;
	/* what came of it */
	enum round_next end;
	uint64_t pending, blackout;
	unsigned rounds;
};

static double uniform(struct game *g, double low, double high)
{
	return low + (high - low) * (double)(rng_next(&g->rng) >> 11) * 0x1p-53;
}

static double spread(struct game *g, double low, double high)
{
	return exp(uniform(g, log(low), log(high)));
}

static struct game random_game(uint64_t seed)
{
	struct game g = { .rng = seed };

	g.pages = (uint64_t)spread(&g, 256, 8e6);
	g.rate = spread(&g, 1e6, 1e10);
	g.bytes = spread(&g, 50, 5000);
	g.dirty = spread(&g, 1e-4, .5) * (double)g.pages;
	g.fixed = (uint64_t)spread(&g, 1e3, 1e8);
	g.cfg.downtime_ns = (uint64_t)spread(&g, 1e6, 1e9);
	g.cfg.rounds_max = 1 + (uint32_t)(rng_next(&g.rng) % 80);
	g.cfg.timeout_ns = rng_next(&g.rng) % 2 ? 0 : (uint64_t)spread(&g, 1e8, 1e12);
	return g;
}

static uint64_t round_takes(struct game *g, uint64_t pages)
{
	return (uint64_t)((double)pages * g->bytes * 1e9 / g->rate);
}

/* A guest that dirties pages evenly, on a link that carries what it says, `noise` apart. */
static void play(struct game *g, double noise)
{
	uint64_t pending = g->pages;
	struct round_plan p;

	round_begin(&p, &g->cfg, g->now);
	round_fixed(&p, 0, g->fixed / 2);
	g->end = ROUND_MORE;
	for (bool first = true; first || g->end == ROUND_MORE; first = false) {
		uint64_t ns = (uint64_t)((double)round_takes(g, pending) * uniform(g, 1 - noise, 1 + noise));
		double share = g->dirty * (double)ns / 1e9 / (double)g->pages;
		struct round_sample s = {
			.pages = pending, .bytes_wire = (uint64_t)((double)pending * g->bytes), .ns = ns, .over_ns = ns
		};

		g->now += ns;
		pending = (uint64_t)((double)g->pages * (1 - exp(-share)));
		s.dirtied = pending;
		round_note(&p, &s);
		g->end = round_decide(&p, pending, g->now);
		g->rounds++;
		assert_true(g->rounds <= g->cfg.rounds_max);
	}
	g->pending = pending;
	g->blackout = round_takes(g, pending) + NS_PER_MS + g->fixed;
	/* What it said is what it took. */
	if (noise == 0 && g->rounds > 1 && p.round_ns == UINT64_MAX)
		assert_true(fabs((double)round_predict(&p, pending) - (double)g->blackout) <=
			    .01 * (double)g->blackout);
}

/* It ends; and it switches exactly where the blackout fits, on a link that is what it was measured to be. */
static void test_ends_and_fits(void **state)
{
	unsigned switched = 0, gave_up = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct game g = random_game(seed);

		play(&g, 0);
		if (g.end == ROUND_SWITCH) {
			/* The first round's pages are taken for 4 KB each, so only then may it be less. */
			if (g.rounds > 1)
				assert_true((double)g.blackout <= 1.01 * (double)g.cfg.downtime_ns + NS_PER_MS);
			switched++;
		} else {
			assert_int_equal(g.end, ROUND_TIMEOUT);
			assert_true(g.rounds == g.cfg.rounds_max || (g.cfg.timeout_ns && g.now >= g.cfg.timeout_ns));
			gave_up++;
		}
	}
	assert_true(switched > SEEDS / 5 && gave_up > SEEDS / 20);
}

/* A guest that dirties less than half of what gets through, and a limit above the fixed costs, always gets there. */
static void test_converges(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct game g = random_game(seed * 7919);

		g.dirty = fmin(g.dirty, .45 * g.rate / g.bytes);
		g.cfg.downtime_ns += 2 * g.fixed + 5 * NS_PER_MS;
		g.cfg.rounds_max = 60;
		g.cfg.timeout_ns = 0;
		play(&g, .1);
		assert_int_equal(g.end, ROUND_SWITCH);
		/* Bandwidth is off by the noise at most, and the rate of a moment ago is not that of now. */
		if (g.rounds > 1)
			assert_true((double)g.blackout <= 1.25 * (double)g.cfg.downtime_ns);
	}
}

/* More to send never takes less; a longer limit never needs more rounds to fit. */
static void test_is_monotonic(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct game g = random_game(seed * 104729);
		struct round_plan p;
		uint64_t last = 0, fits = 0;

		round_begin(&p, &g.cfg, 0);
		for (int i = 0; i < 5; i++) {
			struct round_sample s = sample((uint64_t)spread(&g, 1, 1e6), spread(&g, 20, 5000),
						       (uint64_t)spread(&g, 1, 1e11), (uint64_t)spread(&g, 1, 1e6));

			round_note(&p, &s);
			assert_true(isfinite(p.bandwidth) && p.bandwidth > 0 && p.page_bytes > 0 && p.dirty_rate >= 0);
		}
		for (uint64_t pending = 0; pending < 1 << 20; pending = pending * 3 + 1) {
			uint64_t ns = round_predict(&p, pending);
			bool can = ns <= p.cfg.downtime_ns;

			assert_true(ns >= last);
			assert_true(!can || fits == 0);
			fits += !can;
			last = ns;
		}
	}
}

/* Time is told, never asked for: the same figures later give the same answers. */
static void test_time_is_relative(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 500; seed++) {
		struct game a = random_game(seed), b = random_game(seed);

		b.now = 1ull << 60;
		play(&a, .2);
		play(&b, .2);
		assert_int_equal(a.end, b.end);
		assert_int_equal(a.rounds, b.rounds);
		assert_int_equal(a.pending, b.pending);
	}
}

/* ---- throttle ---------------------------------------------------------------------------------- */

static void test_converge_steps(void **state)
{
	struct throttle t = { .cfg = { .auto_converge = true } };

	(void)state;
	assert_int_equal(throttle_next(&t, 1000, 790, 500), 0); /* shorter enough */
	assert_int_equal(throttle_next(&t, 1000, 810, 500), 0);
	assert_int_equal(throttle_next(&t, 1000, 810, 500), 20);
	assert_int_equal(throttle_next(&t, 1000, 810, 500), 20);
	assert_int_equal(throttle_next(&t, 1000, 100, 500), 20); /* it helped: no more of it, and no less */
	for (int i = 0; i < 50; i++)
		throttle_next(&t, 1000, 2000, 500);
	assert_int_equal(t.percent, THROTTLE_MOST);
	t = (struct throttle){ 0 };
	for (int i = 0; i < 50; i++)
		assert_int_equal(throttle_next(&t, 1000, 2000, 500), 0); /* nobody asked */
}

/* Whatever a guest wants to dirty, it comes to the limit and stays there. */
static void test_dirty_limit(void **state)
{
	struct game g = { .rng = 5 };

	(void)state;
	for (int k = 0; k < 1000; k++) {
		double wants = spread(&g, 1, 1e6), limit = spread(&g, 1, 1e6), gets = wants;
		struct throttle t = { .cfg = { .dirty_limit = limit } };

		for (int i = 0; i < 20; i++)
			gets = wants * (1 - throttle_next(&t, 1000, 1000, gets) / 100.0);
		if (wants <= limit)
			assert_int_equal(t.percent, 0);
		else
			assert_true(gets <= limit || t.percent == THROTTLE_MOST);
		/* Percents are whole: no more than two of them too many. */
		assert_true(t.percent == 0 || t.percent == THROTTLE_MOST || gets >= limit - .02 * wants);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_predicts),          cmocka_unit_test(test_blackout_has_more),
		cmocka_unit_test(test_short_rounds),      cmocka_unit_test(test_decides),
		cmocka_unit_test(test_polishes_so_often), cmocka_unit_test(test_ends_and_fits),
		cmocka_unit_test(test_converges),         cmocka_unit_test(test_is_monotonic),
		cmocka_unit_test(test_time_is_relative),  cmocka_unit_test(test_converge_steps),
		cmocka_unit_test(test_dirty_limit),
	};

	return cmocka_run_group_tests_name("migrate/round", tests, NULL, NULL);
}

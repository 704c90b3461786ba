/* SPDX-License-Identifier: MIT */
/*
 * The search of transport/tune.h over thousands of simulated links (bench/tune_sim.h), and over what no link does.
 * Everything is a function of the seeds, so that the shares below are exact and not a matter of luck.
 */
#include "bench/tune_sim.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LINKS 2000
#define FOREVER 100000 /* slices: a search that is not over by then never is */

static void test_random_links(void **state)
{
	const struct tune_config cfg = tune_sim_config();
	unsigned far = 0, off = 0, slow = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= LINKS; seed++) {
		struct tune_link_model m = tune_link_random(seed);
		struct tune_outcome o = tune_sim_run(&m, &cfg, seed);

		assert_true(o.found.streams >= 1 && o.found.streams <= cfg.streams_most);
		far += o.found_rate < 0.95 * o.best_rate;
		off += o.found_rate < 0.75 * o.best_rate;
		slow += o.seconds > 1.05 * o.sweep_seconds / 5;
	}
	print_message("%d links: %u not within 5 %% of the best, %u not within 25 %%, %u took more than a fifth\n",
		      LINKS, far, off, slow);
	assert_true(far <= LINKS * 5 / 100);
	assert_true(off <= LINKS / 500);
	assert_true(slow <= LINKS / 100);
}

static void test_profiles(void **state)
{
	const struct tune_config cfg = tune_sim_config();

	(void)state;
	for (const struct tune_link_model *m = tune_links; m->name; m++) {
		unsigned far = 0;
		double worst = 1;

		for (uint64_t seed = 1; seed <= 100; seed++) {
			struct tune_outcome o = tune_sim_run(m, &cfg, seed);

			/* What the noise of `lte`, a quarter of the rate, leaves open is less than one more per cent. */
			far += o.found_rate < 0.95 * o.best_rate;
			worst = fmin(worst, o.found_rate / o.best_rate);
			assert_true(o.seconds <= 1.01 * o.sweep_seconds / 5);
		}
		if (far > 2 || worst < 0.94)
			print_message("%s: %u of 100, worst %.3f\n", m->name, far, worst);
		assert_true(far <= (m->noise > 0.2 ? 8 : 2));
		assert_true(worst > 0.94);
	}
}

/* The same slices, the same answer: nothing but them and the configuration is looked at. */
static void test_repeats(void **state)
{
	const struct tune_config cfg = tune_sim_config();
	struct tune_link_model m = tune_link_random(5);
	struct tune_outcome a = tune_sim_run(&m, &cfg, 9), b = tune_sim_run(&m, &cfg, 9);

	(void)state;
	assert_memory_equal(&a, &b, sizeof(a));
}

/* ---- one probe ---------------------------------------------------------------------------------- */

static struct pilot_seen slice(const struct tune *t, double rate)
{
	return (struct pilot_seen){ .at_ns = 1,
				    .ns = 100 * NS_PER_MS,
				    .bytes = (uint64_t)(rate / 10),
				    .rtt_ns = NS_PER_MS,
				    .rtt_least_ns = NS_PER_MS,
				    .segments = 1000,
				    .lost = 10,
				    .streams = tune_at(t)->streams };
}

static void begin_one(struct tune *t)
{
	struct tune_config cfg = tune_sim_config();

	cfg.streams_most = 1;
	cfg.n_chunks = cfg.n_cc = 1;
	tune_begin(t, &cfg);
}

static void test_start_is_cut_off(void **state)
{
	struct tune t;
	enum tune_say say = TUNE_STAY;
	uint64_t rng = 1;

	(void)state;
	begin_one(&t);
	for (int i = 0; i < FOREVER && say != TUNE_END; i++) {
		double rate = i < 8 ? 1e5 * (1 << i) : 1e8 * (0.99 + 0.02 * (double)(rng_next(&rng) % 1000) / 1000);
		struct pilot_seen s = slice(&t, rate);

		say = tune_look(&t, &s);
	}
	assert_int_equal(say, TUNE_END);
	assert_true(fabs(tune_best(&t)->rate / 1e8 - 1) < 0.01);
	assert_true(fabs(tune_best(&t)->loss - 0.01) < 1e-9);
	assert_true(tune_best(&t)->error > 0 && tune_best(&t)->error < 2e6);
}

/* A thread that was late: one long look, then a hasty one with what had piled up. The rate is what moved by time. */
static void test_late_looks(void **state)
{
	struct tune_meter m;

	(void)state;
	tune_meter_reset(&m);
	for (int i = 0; i < 40; i++) {
		struct pilot_seen slow = { .ns = 1000 * NS_PER_MS, .bytes = 80000000, .rtt_ns = NS_PER_MS };
		struct pilot_seen hasty = { .ns = NS_PER_MS, .bytes = 20000000, .rtt_ns = NS_PER_MS };

		tune_meter_add(&m, &slow);
		tune_meter_add(&m, &hasty);
	}
	assert_true(fabs(tune_estimate_of(&m).rate / 1e8 - 1) < 0.25);
	assert_true(m.n > 0 && m.n < TUNE_SLICES);
}

static void test_better(void **state)
{
	static const struct {
		double a, ea, b, eb;
		bool better;
	} rows[] = {
		{ 103, 0.1, 100, 0.1, true },  /* clearly */
		{ 101, 0.1, 100, 0.1, false }, /* clearly, and not worth it */
		{ 110, 20, 100, 1, false },    /* worth it, and not clear */
		{ 100, 0, 110, 0, false },     { 0, 0, 0, 0, false }, { 1, 0, 0, 0, true }, { NAN, 1, 100, 1, false },
	};
	struct tune t;

	(void)state;
	begin_one(&t);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct tune_tried a = { .rate = rows[i].a, .error = rows[i].ea };
		struct tune_tried b = { .rate = rows[i].b, .error = rows[i].eb };

		assert_int_equal(tune_better(&t, &a, &b), rows[i].better);
	}
}

/* ---- what no link does -------------------------------------------------------------------------- */

static void test_impossible(void **state)
{
	const struct pilot_seen bad[] = {
		{ .ns = 0, .bytes = 1 },
		{ .ns = UINT64_MAX, .bytes = 1 },
		{ .ns = 3600 * NS_PER_S, .bytes = 1000 }, /* the machine slept */
		{ .ns = 1, .bytes = UINT64_MAX },
		{ .ns = 100 * NS_PER_MS, .bytes = UINT64_MAX / 2 },
		{ .ns = 100 * NS_PER_MS, .starved = true, .streams = 8 },
	};
	struct tune_config cfg = tune_sim_config();
	struct tune t;

	(void)state;
	tune_begin(&t, &cfg);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_int_equal(tune_look(&t, &bad[i]), TUNE_STAY);
		assert_int_equal(t.spent_ns, 0);
		assert_int_equal(t.meter.n, 0);
	}
	assert_null(tune_best(&t));
}

/* Any configuration ends, with any slices, within what it was given, and stays inside it. */
static void test_any(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 300; seed++) {
		uint64_t rng = seed;
		struct tune_config cfg = {
			.streams_first = (uint32_t)(rng_next(&rng) % 600),
			.streams_most = (uint32_t)(rng_next(&rng) % 600),
			.chunk = { 4096, 65536, 1 << 20, 256, 1, 77 },
			.n_chunks = (unsigned)(rng_next(&rng) % 9),
			.n_cc = (unsigned)(rng_next(&rng) % 7),
			.probe_least_ns = rng_next(&rng) % NS_PER_S,
			.probe_most_ns = rng_next(&rng) % (4 * NS_PER_S),
			.limit_ns = rng_next(&rng) % 2 ? rng_next(&rng) % (100 * NS_PER_S) : 0,
			.apart = (double)(rng_next(&rng) % 200) / 1000,
			.all = rng_next(&rng) % 8 == 0,
			.live = rng_next(&rng) % 4 == 0,
		};
		struct tune t;
		int i = 0;

		tune_begin(&t, &cfg);
		for (; i < FOREVER; i++) {
			struct pilot_seen s = slice(&t, (double)(rng_next(&rng) % 1000000000));

			s.rtt_ns = s.rtt_least_ns = rng_next(&rng) % (rng_next(&rng) % 16 ? NS_PER_MS : NS_PER_S);
			s.streams -= rng_next(&rng) % 16 == 0;
			if (tune_look(&t, &s) == TUNE_END)
				break;
			assert_in_range(tune_at(&t)->streams, 1, t.cfg.streams_most);
			assert_true(tune_at(&t)->cc < t.cfg.n_cc);
			if (cfg.live && i > 3000)
				break;
		}
		assert_true(i < FOREVER);
		if (!cfg.live && t.spent_ns > 200 * NS_PER_MS)
			assert_non_null(tune_best(&t));
	}
}

/* Streams that do not come up are not waited for without end. */
static void test_streams_that_do_not_come(void **state)
{
	struct tune_config cfg = tune_sim_config();
	enum tune_say say = TUNE_STAY;
	struct tune t;

	(void)state;
	tune_begin(&t, &cfg);
	for (int i = 0; i < FOREVER && say != TUNE_END; i++) {
		struct pilot_seen s = slice(&t, 1e7);

		s.streams = 3;
		say = tune_look(&t, &s);
	}
	assert_int_equal(say, TUNE_END);
	assert_non_null(tune_best(&t));
}

/* ---- a link that changes ------------------------------------------------------------------------ */

static void test_change_while_tuning(void **state)
{
	const struct tune_config cfg = tune_sim_config();
	unsigned noticed = 0, right = 0, n = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct tune_link_model before = tune_links[1], after = before;
		struct tune_point best = { 0 };
		double most = 0;
		struct tune_sim s;
		struct tune t;

		after.rate = before.rate / 4;
		tune_sim_begin(&s, &before, seed);
		tune_begin(&t, &cfg);
		for (int i = 0; i < FOREVER; i++) {
			struct pilot_seen seen;

			if (i == 60 + (int)(seed % 60))
				s.link = after;
			seen = tune_sim_next(&s, tune_at(&t));
			if (tune_look(&t, &seen) == TUNE_END)
				break;
		}
		for (uint32_t k = 1; k <= 256; k *= 2)
			for (uint32_t cc = 0; cc < 2; cc++) {
				struct tune_point p = { k, 256u << 10, cc };

				if (tune_link_rate(&after, &p) > most) {
					most = tune_link_rate(&after, &p);
					best = p;
				}
			}
		n++;
		noticed += t.changed;
		right += tune_link_rate(&after, &tune_best(&t)->p) > 0.9 * tune_link_rate(&after, &best);
	}
	print_message("of %u changes %u noticed, %u times the answer fits the link of afterwards\n", n, noticed, right);
	assert_true(right >= n * 9 / 10);
	assert_true(noticed >= n / 4);
}

static uint32_t fly(struct tune *t, struct tune_sim *s, unsigned slices, unsigned *moves)
{
	static struct pilot_wants w; /* in force from one flight to the next */

	for (unsigned i = 0; i < slices; i++) {
		struct pilot_seen seen = tune_sim_next(s, tune_at(t));

		*moves += tune_pilot.look(t, &seen, &w);
		assert_int_equal(w.streams, tune_at(t)->streams);
	}
	return w.streams;
}

/* As a pilot: finds, holds still, and looks again when the link is another one. */
static void test_pilot(void **state)
{
	struct tune_config cfg = tune_sim_config();
	struct tune_link_model lossy = tune_links[1], clean = tune_links[0];
	unsigned moves = 0, before;
	struct tune_sim s;
	struct tune t;
	uint32_t n;

	(void)state;
	lossy.noise = clean.noise = 0.02;
	lossy.cross = 0;
	cfg.live = true;
	cfg.n_cc = cfg.n_chunks = 1;
	cfg.streams_most = 64;
	tune_sim_begin(&s, &lossy, 1);
	tune_begin(&t, &cfg);
	n = fly(&t, &s, 1000, &moves);
	assert_int_equal(n, 64); /* CUBIC and 1 % of loss: the more the better */
	before = moves;
	fly(&t, &s, 3000, &moves);
	assert_int_equal(moves, before);
	s.link = clean;
	n = fly(&t, &s, 3000, &moves);
	assert_true(moves > before);
	assert_true(n < 64);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_links),
		cmocka_unit_test(test_profiles),
		cmocka_unit_test(test_repeats),
		cmocka_unit_test(test_start_is_cut_off),
		cmocka_unit_test(test_late_looks),
		cmocka_unit_test(test_better),
		cmocka_unit_test(test_impossible),
		cmocka_unit_test(test_any),
		cmocka_unit_test(test_streams_that_do_not_come),
		cmocka_unit_test(test_change_while_tuning),
		cmocka_unit_test(test_pilot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

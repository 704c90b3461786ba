/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/stats.h"
#include "base/util.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int close_to(double a, double b)
{
	return fabs(a - b) <= 1e-9 * fmax(1, fabs(b));
}

static void quantiles_of_type_7(void **state)
{
	/* R: quantile(c(9, 1, 4, 16, 25), c(0, .1, .25, .5, .9, 1)) */
	static const double q[] = { 0, 0.1, 0.25, 0.5, 0.9, 1 }, want[] = { 1, 2.2, 4, 9, 21.4, 25 };
	double even[] = { 4, 1, 3, 2 };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(q); i++) {
		double v[] = { 9, 1, 4, 16, 25 };

		assert_true(close_to(stats_quantile(v, 5, q[i]), want[i]));
		assert_true(v[0] == 1 && v[4] == 25);
	}
	assert_true(close_to(stats_quantile(even, 4, 0.25), 1.75));
	assert_true(close_to(stats_median(even, 4), 2.5));
	assert_true(isnan(stats_quantile(even, 0, 0.5)));
	assert_true(isnan(stats_median(NULL, 0)));
	assert_true(isnan(stats_quantile(even, 4, 1.5)));
	assert_true(isnan(stats_quantile(even, 4, NAN)));
}

static double uniform(uint64_t *rng)
{
	return (double)(rng_next(rng) >> 11) * 0x1p-53;
}

static void bootstrap_of_few(void **state)
{
	double one = 3;
	struct stats_interval s = stats_bootstrap(&one, 1, 1);

	(void)state;
	assert_true(s.median == 3 && s.ci95_low == 3 && s.ci95_high == 3 && s.n == 1);
	s = stats_bootstrap(NULL, 0, 1);
	assert_true(isnan(s.median) && isnan(s.ci95_low) && isnan(s.ci95_high) && s.n == 0);
}

static void bootstrap_repeats_itself(void **state)
{
	double v[41], copy[41];
	uint64_t rng = 5;
	struct stats_interval a, b;
	int differ = 0;

	(void)state;
	for (size_t i = 0; i < 41; i++)
		v[i] = uniform(&rng);
	memcpy(copy, v, sizeof v);
	a = stats_bootstrap(v, 41, 9);
	b = stats_bootstrap(v, 41, 9);
	assert_memory_equal(&a, &b, sizeof a);
	/* another seed may well end at the same sample value, twenty do not */
	for (uint64_t seed = 10; seed < 30; seed++) {
		b = stats_bootstrap(v, 41, seed);
		differ += a.ci95_low != b.ci95_low || a.ci95_high != b.ci95_high;
	}
	assert_true(differ > 0);
	assert_memory_equal(v, copy, sizeof v); /* the input is not touched */
	assert_true(a.ci95_low < a.median && a.median < a.ci95_high);
	assert_true(a.median == stats_median(copy, 41));
}

/* The interval of n = 15 is known: resampled medians are order statistics, with binomial ranks. */
static void bootstrap_of_ranks(void **state)
{
	double v[15];
	struct stats_interval s;

	(void)state;
	for (size_t i = 0; i < 15; i++)
		v[i] = (double)(i + 1);
	s = stats_bootstrap(v, 15, 1);
	/* P(median* <= 4) = P(Bin(15, 4/15) >= 8) = 0.0235.., P(median* <= 5) = P(Bin(15, 1/3) >= 8) = 0.0882..:
	 * the 2.5 % point is 5, or 4 by chance of the draw; the other end by symmetry */
	assert_true(s.median == 8);
	assert_true(s.ci95_low >= 4 && s.ci95_low <= 5);
	assert_true(s.ci95_high >= 11 && s.ci95_high <= 12);
}

/* Of 400 samples with a known median about 95 % of the intervals hold it. Seeded: always the same 400. */
static void bootstrap_covers(void **state)
{
	uint64_t rng = 2024;
	int hit = 0;

	(void)state;
	for (int k = 0; k < 400; k++) {
		double v[31];
		struct stats_interval s;

		for (size_t i = 0; i < 31; i++)
			v[i] = -log(1 - uniform(&rng)); /* exponential, median ln 2 */
		s = stats_bootstrap(v, 31, (uint64_t)k);
		hit += s.ci95_low <= M_LN2 && M_LN2 <= s.ci95_high;
	}
	assert_in_range(hit, 400 * 90 / 100, 400 * 99 / 100);
}

static void hist_error_is_bounded(void **state)
{
	static struct hist h;
	uint64_t rng = 11;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		uint64_t v = rng_next(&rng) >> (22 + rng_next(&rng) % 42), got;

		if (i < 200)
			v = (uint64_t)i;
		if (i >= 200 && i < 200 + 42)
			v = (1ull << (i - 200)) - 1;
		if (i >= 250 && i < 250 + 42)
			v = 1ull << (i - 250);
		h.n = 2;
		h.max = (1ull << 42) - 1; /* as if a larger value had been there: the edge is not cut */
		memset(h.bucket, 0, sizeof h.bucket);
		hist_add(&h, v);
		got = hist_quantile(&h, 0.3);
		if (got < v || (double)(got - v) >= 0.016 * (double)v + 1e-9)
			fail_msg("%lu became %lu", (unsigned long)v, (unsigned long)got);
	}
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void hist_quantiles_follow_the_sample(void **state)
{
	enum { N = 10000 };
	static const double q[] = { 0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1 };
	static struct hist h, parts[2];
	static uint64_t v[N];
	uint64_t rng = 3, sum = 0;

	(void)state;
	hist_reset(&h);
	hist_reset(&parts[0]);
	hist_reset(&parts[1]);
	for (size_t i = 0; i < N; i++) {
		v[i] = rng_next(&rng) >> (24 + rng_next(&rng) % 30);
		sum += v[i];
		hist_add(&h, v[i]);
		hist_add(&parts[i % 2], v[i]);
	}
	hist_merge(&parts[0], &parts[1]);
	assert_memory_equal(&h, &parts[0], sizeof h);
	assert_int_equal(h.n, N);
	assert_int_equal(h.sum, sum);
	qsort(v, N, sizeof v[0], by_value);
	for (size_t i = 0; i < ARRAY_LEN(q); i++) {
		size_t rank = (size_t)ceil(q[i] * N);
		uint64_t exact = v[rank ? rank - 1 : 0], got = hist_quantile(&h, q[i]);

		assert_true(got >= exact && (double)got <= (double)exact * 1.016 && got <= h.max);
	}
	assert_int_equal(hist_quantile(&h, 1), v[N - 1]);
}

static void hist_edges(void **state)
{
	static struct hist h;

	(void)state;
	hist_reset(&h);
	assert_int_equal(hist_quantile(&h, 0.5), 0);
	hist_add(&h, 0);
	assert_int_equal(hist_quantile(&h, 0.99), 0);
	hist_add(&h, 1ull << 50); /* too large: last bucket, but its value is still the maximum */
	hist_add(&h, UINT64_MAX >> 1);
	assert_int_equal(h.bucket[HIST_BUCKETS - 1], 2);
	assert_int_equal(hist_quantile(&h, 1), UINT64_MAX >> 1);
	assert_int_equal(hist_quantile(&h, 0.1), 0);
	h.bucket[0] = UINT32_MAX;
	hist_add(&h, 0);
	assert_int_equal(h.bucket[0], UINT32_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quantiles_of_type_7),
		cmocka_unit_test(bootstrap_of_few),
		cmocka_unit_test(bootstrap_repeats_itself),
		cmocka_unit_test(bootstrap_of_ranks),
		cmocka_unit_test(bootstrap_covers),
		cmocka_unit_test(hist_error_is_bounded),
		cmocka_unit_test(hist_quantiles_follow_the_sample),
		cmocka_unit_test(hist_edges),
	};

	return cmocka_run_group_tests_name("base/stats", tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/* Deltas: any old page and any new one, SIMD against scalar, hostile runs. Zero test: against a loop. */
#include "base/util.h"
#include "compress/delta.h"
#include "compress/match.h"
#include "compress/zero.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static uint8_t ctl[DELTA_CTL_MAX + 16], data[DELTA_PAGE + 16];

static bool has_avx2(void)
{
#ifdef __x86_64__
	return __builtin_cpu_supports("avx2");
#else
	return false;
#endif
}

/* Changes the page somehow: no byte, single bytes, runs, words, all of it. */
static void change(uint8_t *page, uint64_t *seed)
{
	uint64_t kind = rng_next(seed) % 6, n = rng_next(seed) % (rng_next(seed) % 4 ? 40 : 1000);

	for (uint64_t i = 0; kind && kind < 5 && i < n; i++) {
		uint32_t at = (uint32_t)(rng_next(seed) % DELTA_PAGE), len = 1;

		if (kind == 2)
			len = (uint32_t)(rng_next(seed) % 64);
		else if (kind == 3)
			at = at / 8 * 8, len = 8;
		else if (kind == 4)
			at = rng_next(seed) % 2 ? 0 : DELTA_PAGE - 1;
		for (uint32_t k = at; k < at + len && k < DELTA_PAGE; k++)
			page[k] = (uint8_t)rng_next(seed);
	}
	if (kind == 5)
		rng_fill(page, DELTA_PAGE, rng_next(seed));
}

/* Runs and their bytes as the header says they are, a byte at a time. */
static uint32_t plain_runs(const uint8_t *old, const uint8_t *now, uint32_t *bytes)
{
	uint32_t runs = 0, end = 0; /* of the last run */

	*bytes = 0;
	for (uint32_t i = 0; i < DELTA_PAGE; i++) {
		if (old[i] == now[i])
			continue;
		if (runs && i - end < DELTA_GAP) {
			*bytes += i + 1 - end;
		} else {
			runs++;
			(*bytes)++;
		}
		end = i + 1;
	}
	return runs;
}

static void test_any_pair(void **state)
{
	uint8_t old[DELTA_PAGE], now[DELTA_PAGE], got[DELTA_PAGE];
	uint64_t seed = 7, deltas = 0;

	(void)state;
	for (unsigned i = 0; i < 20000; i++) {
		struct delta d, used;
		uint32_t most = (uint32_t)(rng_next(&seed) % (DELTA_PAGE + 1)), runs, bytes;
		int rc;

		if (i % 100 == 0)
			rng_fill(old, sizeof old, rng_next(&seed));
		memcpy(now, old, sizeof now);
		change(now, &seed);
		memset(ctl, 0xaa, sizeof ctl);
		memset(data, 0xaa, sizeof data);
		rc = delta_encode(old, now, ctl, data, most, &d);
		assert_int_equal(data[most], 0xaa); /* no byte beyond what was allowed */
		runs = plain_runs(old, now, &bytes);
		if (runs > DELTA_RUNS_MAX || bytes > most) {
			assert_int_equal(rc, -ENOSPC);
			continue;
		}
		assert_int_equal(rc, 0);
		deltas++;
		assert_int_equal(ctl[0], runs);
		assert_int_equal(d.data, bytes);
		assert_true(d.ctl <= DELTA_CTL_MAX);
		memcpy(got, old, sizeof got);
		assert_int_equal(delta_decode(got, ctl, d.ctl, data, d.data, &used), 0);
		assert_int_equal(used.ctl, d.ctl);
		assert_int_equal(used.data, d.data);
		assert_memory_equal(got, now, sizeof got);
		/* Less than all of it is refused. */
		if (d.data)
			assert_int_equal(delta_decode(got, ctl, d.ctl, data, d.data - 1, &used), -EBADMSG);
		assert_int_equal(delta_decode(got, ctl, d.ctl - 1, data, d.data, &used), -EBADMSG);
	}
	assert_true(deltas > 5000);
}

static void test_equal_pages(void **state)
{
	uint8_t page[DELTA_PAGE] = { 1 };
	struct delta d;

	(void)state;
	assert_int_equal(delta_encode(page, page, ctl, data, 0, &d), 0);
	assert_int_equal(d.ctl, 1);
	assert_int_equal(d.data, 0);
}

static void test_hostile_runs(void **state)
{
	static const struct {
		uint8_t ctl[8];
		size_t n;
	} bad[] = {
		{ { 0 }, 0 },                      /* nothing */
		{ { 1 }, 1 },                      /* a run that is not there */
		{ { 1, 0x80 }, 2 },                /* half a number */
		{ { 1, 0xff, 0xff, 0 }, 4 },       /* a number of three bytes */
		{ { 1, 0x80, 0x00, 0 }, 4 },       /* not the shortest form */
		{ { 1, 0x81, 0x20, 0 }, 4 },       /* beyond the page: 4097 */
		{ { 1, 0x80, 0x20, 0 }, 4 },       /* at its end */
		{ { 1, 0xff, 0x1f, 1 }, 4 },       /* across its end */
		{ { 2, 0xff, 0x1f, 0, 0, 0 }, 6 }, /* a second run behind the last byte */
	};
	uint8_t page[DELTA_PAGE + 64];
	struct delta d;

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		memset(page, 0x55, sizeof page);
		assert_int_equal(delta_decode(page, bad[i].ctl, bad[i].n, data, 64, &d), -EBADMSG);
		for (unsigned k = DELTA_PAGE; k < sizeof page; k++)
			assert_int_equal(page[k], 0x55);
	}
}

static void test_random_runs(void **state)
{
	uint8_t page[DELTA_PAGE + 64];
	uint64_t seed = 3;
	struct delta d;

	(void)state;
	for (unsigned i = 0; i < 50000; i++) {
		size_t n = rng_next(&seed) % 32, left = rng_next(&seed) % 256;

		rng_fill(ctl, n, rng_next(&seed));
		memset(page + DELTA_PAGE, 0x55, 64);
		if (delta_decode(page, ctl, n, data, left, &d) == 0)
			assert_true(d.ctl <= n && d.data <= left);
		assert_int_equal(page[DELTA_PAGE], 0x55);
	}
}

static void test_simd_is_scalar(void **state)
{
	uint8_t a[DELTA_PAGE + 64], b[DELTA_PAGE + 64];
	uint64_t seed = 9;

	(void)state;
	if (!has_avx2())
		skip();
#ifdef __x86_64__
	for (unsigned i = 0; i < 3000; i++) {
		uint64_t x[DELTA_WORDS], y[DELTA_WORDS];
		unsigned shift = (unsigned)(rng_next(&seed) % 32);
		size_t n = rng_next(&seed) % DELTA_PAGE;

		rng_fill(a, sizeof a, rng_next(&seed));
		memcpy(b, a, sizeof b);
		change(b + shift, &seed);
		delta_map_scalar(a + shift, b + shift, x);
		delta_map_avx2(a + shift, b + shift, y);
		assert_memory_equal(x, y, sizeof x);
		match_mask_scalar(a + shift, x);
		match_mask_avx2(a + shift, y);
		assert_memory_equal(x, y, MATCH_WORDS * sizeof *x);
		if (i % 2)
			memset(b, 0, sizeof b);
		if (i % 4 == 1)
			b[shift + n] = 1;
		assert_int_equal(zero_test_avx2(b + shift, n + 1), zero_test_scalar(b + shift, n + 1));
		assert_int_equal(zero_test_avx2(b + shift, n), zero_test_scalar(b + shift, n));
	}
#endif
}

static void test_zero(void **state)
{
	uint8_t page[DELTA_PAGE] = { 0 };

	(void)state;
	for (size_t n = 0; n <= sizeof page; n += n < 600 ? 1 : 97)
		assert_true(zero_test(page, n));
	for (size_t at = 0; at < sizeof page; at++) {
		page[at] = 1;
		assert_false(zero_test(page, sizeof page));
		assert_true(zero_test(page, at));
		assert_false(zero_test(page, at + 1));
		page[at] = 0;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_pair),       cmocka_unit_test(test_equal_pages),
		cmocka_unit_test(test_hostile_runs),   cmocka_unit_test(test_random_runs),
		cmocka_unit_test(test_simd_is_scalar), cmocka_unit_test(test_zero),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

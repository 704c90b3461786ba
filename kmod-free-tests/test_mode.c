/* SPDX-License-Identifier: MIT */
/*
 * What kind of path: one sample as a table of the documented borders, the state machine as a table of histories, and
 * what must hold for any history as properties over seeds. A day of samples is a loop of 8,640 turns.
 */
#include "base/util.h"
#include "transport/mode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#define DC MODE_DATACENTER
#define IN MODE_INTERNET
#define HY MODE_HYBRID
#define NO MODE_AUTO

static struct mode_seen path(double rtt_ms, double mbps, double loss)
{
	return (struct mode_seen){ .rtt_ns = (uint64_t)(rtt_ms * 1e6), .bps = mbps * 1e6, .loss = loss };
}

/* ---- one sample --------------------------------------------------------------------------------- */

static void test_borders(void **state)
{
	static const struct {
		double rtt_ms, mbps, loss;
		enum mode_kind now, vote;
	} rows[] = {
		/* as documented, from nowhere */
		{ 0.1, 10000, 0, NO, DC },
		{ 10, 1000, 0.0001, NO, DC },
		{ 10.01, 1000, 0, NO, HY },
		{ 1, 999, 0, NO, HY },
		{ 1, 10000, 0.00011, NO, HY },
		{ 20, 1000, 0, NO, HY },
		{ 20, 500, 0.001, NO, HY },
		{ 20, 499, 0, NO, IN }, /* less than hybrid has */
		{ 49.9, 600, 0.001, NO, HY },
		{ 50, 600, 0.001, NO, IN },
		{ 50, 1000, 0.01, NO, IN },
		{ 50, 1001, 0, NO, HY }, /* more than internet has */
		{ 200, 100, 0.05, NO, IN },
		{ 1, 1000, 0.011, NO, IN }, /* more than any has */
		{ 5, 100, 0, NO, HY },      /* near and thin */
		/* bandwidth that is not known */
		{ 1, 0, 0, NO, DC },
		{ 30, 0, 0, NO, HY },
		{ 60, 0, 0, NO, IN },
		/* loss that is not known */
		{ 1, 2000, -1, NO, DC },
		/* hysteresis: datacenter is left above 12 ms, below 833 Mb/s, above 0.012 % */
		{ 12, 2000, 0, DC, DC },
		{ 12.1, 2000, 0, DC, HY },
		{ 1, 834, 0, DC, DC },
		{ 1, 833, 0, DC, HY },
		{ 1, 2000, 0.00012, DC, DC },
		{ 1, 2000, 0.000121, DC, HY },
		/* internet is left below 41.7 ms, above 1.2 Gb/s */
		{ 41.7, 600, 0, IN, IN },
		{ 41.6, 600, 0, IN, HY },
		{ 50, 1200, 0, IN, IN },
		{ 50, 1201, 0, IN, HY },
		{ 1, 2000, 0.0084, IN, IN },
		{ 1, 2000, 0.0083, IN, HY },
		/* hybrid is left for datacenter below 8.33 ms at 1.2 Gb/s, for internet above 60 ms */
		{ 8.3, 1201, 0.00008, HY, DC },
		{ 8.4, 1201, 0, HY, HY },
		{ 8.3, 1199, 0, HY, HY },
		{ 59, 700, 0, HY, HY },
		{ 60.1, 700, 0, HY, IN },
		/* no sample at all */
		{ 0, 1000, 0, DC, NO },
		{ 1, -1, 0, DC, NO },
		{ 1, 1000, 2, DC, NO },
		{ 1, NAN, 0, NO, NO },
		{ 1, 1000, NAN, NO, NO },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct mode_seen s = path(rows[i].rtt_ms, rows[i].mbps, rows[i].loss);
		enum mode_kind vote = mode_vote(&mode_documented, rows[i].now, &s);

		if (vote != rows[i].vote)
			print_error("%g ms, %g Mb/s, loss %g in %s: %s, not %s\n", rows[i].rtt_ms, rows[i].mbps,
				    rows[i].loss, mode_names[rows[i].now], mode_names[vote], mode_names[rows[i].vote]);
		assert_int_equal(vote, rows[i].vote);
	}
}

/* That little moved because little was to be sent says nothing against a link. */
static void test_at_least(void **state)
{
	struct mode_seen s = path(1, 10, 0);

	(void)state;
	s.bps_at_least = true;
	assert_int_equal(mode_vote(&mode_documented, NO, &s), DC);
	s = path(20, 10, 0);
	s.bps_at_least = true;
	assert_int_equal(mode_vote(&mode_documented, NO, &s), HY);
	s = path(80, 3000, 0);
	s.bps_at_least = true;
	assert_int_equal(mode_vote(&mode_documented, NO, &s), HY);
}

/* ---- histories ---------------------------------------------------------------------------------- */

static const struct {
	char name;
	double rtt_ms, mbps, loss;
} links[] = {
	{ 'd', 0.5, 9000, 0 }, { 'i', 80, 300, 0.002 }, { 'h', 25, 900, 0.0005 }, { '-', 0, 0, 0 }, /* nothing seen */
	{ 'e', 11, 2000, 0 }, /* beyond datacenter, within its hysteresis */
};

static struct mode_seen link_of(char name)
{
	for (size_t i = 0; i < ARRAY_LEN(links); i++)
		if (links[i].name == name)
			return path(links[i].rtt_ms, links[i].mbps, links[i].loss);
	fail();
	return path(0, 0, 0);
}

static void test_histories(void **state)
{
	/* One letter every 10 s; below it the mode after it: d, i, h, or . for none yet. */
	static const char *const rows[][2] = {
		{ "dddddddddddd", "dddddddddddd" },
		{ "--d", "..d" },
		/* eight of ten, and a minute */
		{ "ddddddddddiiiiiiiiii", "dddddddddddddddddiii" },
		{ "ddddddddddiiiidiiiii", "ddddddddddddddddddii" },
		{ "ddddddddddiidiidiidiidiidi", "dddddddddddddddddddddddddd" }, /* never eight of ten */
		{ "diiiiiiiiiii", "ddddddddiiii" }, /* the first one sets it; eight of ten are needed to leave */
		{ "eeeeeeeeee", "hhhhhhhhhh" },
		{ "deeeeeeeeeeeeeee", "dddddddddddddddd" }, /* hysteresis */
		{ "ddddddddddhhhhhhhhddddddddddddd", "dddddddddddddddddhhhhhhhhdddddd" },
		{ "dddddddddd----------iiiiiiiiii", "dddddddddddddddddddddddddddiii" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct mode m;

		mode_init(&m, &mode_documented);
		for (size_t k = 0; rows[i][0][k]; k++) {
			struct mode_seen s = link_of(rows[i][0][k]);
			char now;

			s.at_ns = (k + 1) * 10 * NS_PER_S;
			mode_look(&m, &s);
			now = m.now == NO ? '.' : mode_names[m.now][0];
			if (now != rows[i][1][k])
				print_error("%s, sample %zu: %c, not %c\n", rows[i][0], k, now, rows[i][1][k]);
			assert_int_equal(now, rows[i][1][k]);
		}
	}
}

static void test_least_duration(void **state)
{
	struct mode_rules r = mode_documented;
	struct mode m;
	uint64_t t = 0;

	(void)state;
	r.history = 1;
	r.confidence = 1;
	mode_init(&m, &r);
	/* With a history of one each sample decides: only the least duration holds it back. */
	for (int i = 0; i < 600; i++) {
		struct mode_seen s = link_of(i % 2 ? 'd' : 'i');
		uint64_t since = m.since_ns;

		s.at_ns = t += 10 * NS_PER_S;
		if (mode_look(&m, &s))
			assert_true(t - since >= 60 * NS_PER_S);
	}
	assert_true(m.switches > 50 && m.switches <= 100);
}

static void test_clock_jumps(void **state)
{
	struct mode m;
	uint64_t t = 0;

	(void)state;
	mode_init(&m, &mode_documented);
	for (int i = 0; i < 10; i++) {
		struct mode_seen s = link_of('d');

		s.at_ns = t += 10 * NS_PER_S;
		mode_look(&m, &s);
	}
	/* A day ahead: what was before does not vote, and the first new sample decides nothing. */
	t += 24 * 3600 * NS_PER_S;
	for (int i = 0; i < 8; i++) {
		struct mode_seen s = link_of('i');

		s.at_ns = t += 10 * NS_PER_S;
		assert_int_equal(mode_look(&m, &s), i == 7);
	}
	/* And back: no time has passed. */
	t = 5 * NS_PER_S;
	for (int i = 0; i < 8; i++) {
		struct mode_seen s = link_of('d');

		s.at_ns = t += 10 * NS_PER_S;
		assert_int_equal(mode_look(&m, &s), i == 7);
	}
	/* A clock that stands still lasts no minute. */
	for (int i = 0; i < 100; i++) {
		struct mode_seen s = link_of('i');

		s.at_ns = t;
		assert_false(mode_look(&m, &s));
	}
}

/* ---- properties --------------------------------------------------------------------------------- */

static double uniform(uint64_t *rng)
{
	return (double)(rng_next(rng) >> 11) / 9007199254740992.0;
}

/* Whatever comes: two switches are a minute apart, and a mode is one of the three. */
static void test_any_history(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 300; seed++) {
		uint64_t rng = seed, t = 0, last = 0;
		struct mode_rules r = mode_documented;
		struct mode m;

		r.history = 1 + (unsigned)(rng_next(&rng) % 100);
		r.confidence = uniform(&rng);
		mode_init(&m, &r);
		for (int i = 0; i < 2000; i++) {
			struct mode_seen s = path(exp(10 * uniform(&rng) - 3), exp(12 * uniform(&rng)),
						  uniform(&rng) < 0.5 ? 0 : 0.02 * uniform(&rng));

			if (rng_next(&rng) % 10 == 0)
				s = (struct mode_seen){ .rtt_ns = rng_next(&rng),
							.bps = -uniform(&rng),
							.bps_at_least = rng_next(&rng) % 2,
							.loss = rng_next(&rng) % 2 ? NAN : 1e300 };
			t += rng_next(&rng) % (20 * NS_PER_S);
			if (rng_next(&rng) % 100 == 0)
				t += rng_next(&rng) % (3600 * NS_PER_S);
			s.at_ns = t;
			if (mode_look(&m, &s)) {
				assert_true(!last || t - last >= 60 * NS_PER_S);
				last = t;
			}
			assert_true(m.now < MODE_KINDS);
			assert_true(m.confidence >= 0 && m.confidence <= 1);
		}
	}
}

/* A day in which the link changes now and then: each change that lasts is followed within two histories. */
static void test_a_day(void **state)
{
	static const char kinds[] = "dih";
	static const enum mode_kind truth[] = { DC, IN, HY };
	unsigned changes = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 100; seed++) {
		uint64_t rng = seed, changed = 0;
		unsigned now = (unsigned)(rng_next(&rng) % 3);
		struct mode m;

		mode_init(&m, &mode_documented);
		for (uint64_t t = 0; t < 24 * 3600 * NS_PER_S; t += 10 * NS_PER_S) {
			struct mode_seen s;

			if (t - changed > 600 * NS_PER_S && rng_next(&rng) % 100 == 0) {
				now = (now + 1 + (unsigned)(rng_next(&rng) % 2)) % 3;
				changed = t;
				changes++;
			}
			s = link_of(kinds[now]);
			s.rtt_ns = (uint64_t)((double)s.rtt_ns * (0.85 + 0.3 * uniform(&rng)));
			s.bps *= 0.9 + 0.2 * uniform(&rng);
			/* one in twenty is as from another link, and one in fifty is missing */
			if (rng_next(&rng) % 20 == 0)
				s = link_of(kinds[rng_next(&rng) % 3]);
			if (rng_next(&rng) % 50 == 0)
				s = link_of('-');
			s.at_ns = t + 1;
			mode_look(&m, &s);
			if (t - changed >= 200 * NS_PER_S)
				assert_int_equal(m.now, truth[now]);
		}
	}
	assert_true(changes > 1000);
}

static void test_documented_streams(void **state)
{
	(void)state;
	assert_int_equal(mode_documented_streams(IN, 1e9), 8);
	assert_int_equal(mode_documented_streams(DC, 5e9), 32);
	assert_int_equal(mode_documented_streams(DC, 25e9), 128);
	assert_int_equal(mode_documented_streams(DC, 100e9), 256);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_borders),     cmocka_unit_test(test_at_least),
		cmocka_unit_test(test_histories),   cmocka_unit_test(test_least_duration),
		cmocka_unit_test(test_clock_jumps), cmocka_unit_test(test_any_history),
		cmocka_unit_test(test_a_day),       cmocka_unit_test(test_documented_streams),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

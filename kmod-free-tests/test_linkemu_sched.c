/* SPDX-License-Identifier: MIT */
/* check: valgrind */
/* The scheduler of an emulated link: with a clock of our own every packet has one right time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/util.h"
#include "bench/linkemu_sched.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MS NS_PER_MS
#define ALL 100000u

static struct link_sched *open_link(const struct link_params *p, uint64_t seed)
{
	struct link_sched *s = NULL;
	struct err e = { 0 };

	assert_int_equal(link_sched_open(&s, p, seed, 0, &e), 0);
	return s;
}

static struct link_params plain(uint64_t rate, uint64_t delay_ns)
{
	return (struct link_params){ .rate = rate,
				     .delay_ns = delay_ns,
				     .loss_burst = 1,
				     .loss_in_burst = 1,
				     .reorder_delay_ns = MS,
				     .queue = 16u << 20 };
}

/* The next packet, whenever it is due. */
static bool pop(struct link_sched *s, struct link_packet *k)
{
	return link_sched_pop(s, UINT64_MAX, k);
}

/* ---- rate and delay ---------------------------------------------------------------------------- */

static void test_delay_alone(void **state)
{
	struct link_params p = plain(0, 25 * MS);
	struct link_sched *s = open_link(&p, 1);
	struct link_packet k;
	int frame;

	(void)state;
	assert_true(link_sched_next(s) == UINT64_MAX);
	assert_true(link_sched_push(s, 1000, &frame, 7, 1500));
	assert_true(link_sched_next(s) == 1000 + 25 * MS);
	assert_false(link_sched_pop(s, 1000 + 25 * MS - 1, &k));
	assert_true(link_sched_pop(s, 1000 + 25 * MS, &k));
	assert_ptr_equal(k.frame, &frame);
	assert_int_equal(k.seg, 7);
	assert_int_equal(k.copies, 1);
	assert_false(link_sched_pop(s, UINT64_MAX, &k));
	assert_true(link_sched_next(s) == UINT64_MAX);
	link_sched_close(s);
}

/* A full queue leaves at the rate, to the nanosecond, however the rate divides. */
static void test_rate_is_exact(void **state)
{
	static const uint64_t rates[] = { 1000, 7000003, 300000000, 1000000000, 2500000001, 40000000000 };

	(void)state;
	for (size_t r = 0; r < ARRAY_LEN(rates); r++) {
		struct link_params p = plain(rates[r], 3 * MS);
		struct link_sched *s = open_link(&p, 1);
		struct link_packet k;
		unsigned __int128 bits = 0;

		for (unsigned i = 0; i < 3000; i++)
			assert_true(link_sched_push(s, 50, NULL, i, 40 + i % 1461));
		for (unsigned i = 0; i < 3000; i++) {
			bits += (40 + i % 1461) * 8;
			assert_true(pop(s, &k));
			assert_int_equal(k.seg, i);
			assert_true(k.due_ns == 50 + (uint64_t)(bits * NS_PER_S / rates[r]) + 3 * MS);
		}
		link_sched_close(s);
	}
}

/* Below the rate nothing waits, above it everybody does. */
static void test_idle_link_does_not_save_up(void **state)
{
	struct link_params p = plain(12000000, 0); /* 1500 bytes in 1 ms */
	struct link_sched *s = open_link(&p, 1);
	struct link_packet k;

	(void)state;
	assert_true(link_sched_push(s, 100 * MS, NULL, 0, 1500));
	assert_true(link_sched_push(s, 100 * MS, NULL, 1, 1500));
	assert_true(link_sched_push(s, 110 * MS, NULL, 2, 1500));
	assert_true(pop(s, &k) && k.due_ns == 101 * MS);
	assert_true(pop(s, &k) && k.due_ns == 102 * MS);
	assert_true(pop(s, &k) && k.due_ns == 111 * MS);
	link_sched_close(s);
}

static void test_queue_drops_its_tail(void **state)
{
	struct link_params p = plain(12000000, 0);
	struct link_sched *s;
	struct link_packet k;
	unsigned in = 0;

	(void)state;
	p.queue = 15000;
	s = open_link(&p, 1);
	for (unsigned i = 0; i < 100; i++)
		in += link_sched_push(s, 0, NULL, i, 1500);
	assert_int_equal(in, 10);
	assert_int_equal(link_sched_backlog(s, 0), 15000);
	assert_int_equal(link_sched_counters(s)->queue_drops, 90);
	/* half of the second packet is sent: it still takes its room */
	assert_int_equal(link_sched_backlog(s, 1500000), 13500);
	assert_true(link_sched_push(s, 1500000, NULL, 100, 1500));
	assert_false(link_sched_push(s, 1500000, NULL, 101, 1500));
	assert_int_equal(link_sched_backlog(s, 11 * MS), 0);
	while (pop(s, &k))
		in--;
	assert_int_equal(in + 1, 0);
	/* what is larger than the queue passes an empty one: no link is closed to its MTU */
	assert_true(link_sched_push(s, 50 * MS, NULL, 0, 60000));
	link_sched_close(s);
}

/* ---- chances ----------------------------------------------------------------------------------- */

/* Pushes n packets of 1000 bytes, one per microsecond, and says which came; returns how many. */
static unsigned run(struct link_sched *s, unsigned n, uint8_t *copies, struct link_packet *out)
{
	struct link_packet k;
	unsigned got = 0;

	for (unsigned i = 0; i < n; i++) {
		assert_true(link_sched_push(s, i * NS_PER_US, NULL, i, 1000));
		while (link_sched_pop(s, i * NS_PER_US, &k)) {
			copies[k.seg] = k.copies;
			if (out)
				out[got] = k;
			got++;
		}
	}
	while (pop(s, &k)) {
		copies[k.seg] = k.copies;
		if (out)
			out[got] = k;
		got++;
	}
	return got;
}

static unsigned count_copies(const uint8_t *copies, uint8_t value)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ALL; i++)
		n += copies[i] == value;
	return n;
}

static void test_independent_loss(void **state)
{
	static const double losses[] = { 0, .0001, .001, .01, .05, .5, 1 };
	uint8_t *copies = calloc(2, ALL), *again = copies + ALL;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(losses); i++) {
		struct link_params p = plain(0, MS);
		struct link_sched *s;
		double expected = losses[i] * ALL, sigma = sqrt(expected * (1 - losses[i]));
		unsigned lost;

		p.loss = losses[i];
		s = open_link(&p, 5);
		assert_int_equal(run(s, ALL, copies, NULL), ALL);
		lost = count_copies(copies, 0);
		assert_int_equal(lost, link_sched_counters(s)->lost);
		assert_true(fabs(lost - expected) <= 4 * sigma);
		link_sched_close(s);
		s = open_link(&p, 5); /* the same seed loses the same packets, another one others */
		run(s, ALL, again, NULL);
		assert_memory_equal(copies, again, ALL);
		link_sched_close(s);
		s = open_link(&p, 6);
		run(s, ALL, again, NULL);
		if (lost > 5 && lost < ALL)
			assert_memory_not_equal(copies, again, ALL);
		link_sched_close(s);
	}
	free(copies);
}

static void test_loss_in_bursts(void **state)
{
	static const struct {
		double loss, burst, within;
	} rows[] = { { .01, 10, 1 }, { .05, 4, 1 }, { .02, 50, .5 }, { .3, 2, .9 }, { .66, 2, 1 } };
	uint8_t *copies = calloc(1, ALL);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct link_params p = plain(0, MS);
		const struct link_counters *c;
		struct link_sched *s;

		p.loss = rows[i].loss;
		p.loss_burst = rows[i].burst;
		p.loss_in_burst = rows[i].within;
		s = open_link(&p, 3);
		run(s, ALL, copies, NULL);
		c = link_sched_counters(s);
		/* about loss * ALL / burst bursts make up the sum: its deviation is that much larger */
		assert_true(fabs((double)c->lost / ALL / p.loss - 1) <
			    5 * sqrt(2 * p.loss_burst / p.loss / p.loss_in_burst / ALL));
		if (rows[i].within == 1)
			assert_true(fabs((double)c->lost / (double)c->lost_bursts / p.loss_burst - 1) < .15);
		link_sched_close(s);
	}
	free(copies);
}

static void test_jitter_keeps_order_and_bounds(void **state)
{
	struct link_params p = plain(0, 20 * MS);
	struct link_packet k, before = { .due_ns = 0 };
	double sum = 0, low = 1e18, high = 0;
	struct link_sched *s;
	unsigned n = 0;

	(void)state;
	p.jitter_ns = 5 * MS;
	s = open_link(&p, 9);
	for (uint64_t t = 0; t < 60 * NS_PER_S; t += 600 * NS_PER_US) {
		assert_true(link_sched_push(s, t, NULL, 0, 100));
		while (link_sched_pop(s, t, &k)) {
			double delay = (double)(k.due_ns - k.sent_ns);

			/* twice as close as they were sent, at most */
			assert_true(!n || k.due_ns - before.due_ns >= 299 * NS_PER_US);
			before = k;
			sum += delay;
			low = fmin(low, delay);
			high = fmax(high, delay);
			n++;
		}
	}
	assert_true(low >= 15e6 && low < 15.5e6);
	assert_true(high <= 25e6 && high > 24.5e6);
	assert_true(fabs(sum / n - 20e6) < .3e6);
	link_sched_close(s);
}

static void test_reordering(void **state)
{
	struct link_params p = plain(0, 2 * MS);
	struct link_packet *out = calloc(ALL, sizeof(*out));
	uint8_t *copies = calloc(1, ALL);
	uint64_t due = 0;
	unsigned late = 0;
	struct link_sched *s;
	uint32_t highest = 0;

	(void)state;
	p.reorder = .02;
	p.reorder_delay_ns = 100 * NS_PER_US;
	s = open_link(&p, 4);
	assert_int_equal(run(s, ALL, copies, out), ALL);
	for (unsigned i = 0; i < ALL; i++) {
		uint64_t own = out[i].seg * NS_PER_US + 2 * MS;

		assert_true(out[i].due_ns >= due);
		due = out[i].due_ns;
		assert_true(out[i].due_ns == own + (out[i].held ? 100 * NS_PER_US : 0));
		late += out[i].seg < highest;
		highest = (uint32_t)max_u64(highest, out[i].seg);
	}
	assert_int_equal(count_copies(copies, 1), ALL);
	assert_int_equal(late, link_sched_counters(s)->reordered);
	assert_true(fabs(late - .02 * ALL) < 4 * sqrt(.02 * ALL));
	link_sched_close(s);
	free(copies);
	free(out);
}

static void test_duplicates(void **state)
{
	struct link_params p = plain(0, MS);
	uint8_t *copies = calloc(1, ALL);
	struct link_sched *s;
	unsigned twice;

	(void)state;
	p.duplicate = .03;
	s = open_link(&p, 4);
	run(s, ALL, copies, NULL);
	twice = count_copies(copies, 2);
	assert_int_equal(twice + count_copies(copies, 1), ALL);
	assert_true(fabs(twice - .03 * ALL) < 4 * sqrt(.03 * ALL));
	assert_int_equal(link_sched_counters(s)->out_packets, ALL + twice);
	link_sched_close(s);
	free(copies);
}

/* ---- changes ----------------------------------------------------------------------------------- */

static void test_new_rate_for_what_waits(void **state)
{
	struct link_params p = plain(12000000, 10 * MS);
	struct link_sched *s = open_link(&p, 1);
	struct link_packet k;
	struct err e;

	(void)state;
	for (unsigned i = 0; i < 10; i++)
		assert_true(link_sched_push(s, 0, NULL, i, 1500)); /* 1 ms each */
	p.rate *= 10;
	assert_int_equal(link_sched_set(s, &p, 2500000, &e), 0);
	/* two are on the wire; the third is under way and is done in .1 ms now rather than in .5; then .1 ms each */
	for (unsigned i = 0; i < 10; i++) {
		uint64_t due = i < 2 ? (i + 11) * MS : 12600000 + (i - 2) * 100000;

		assert_true(pop(s, &k));
		assert_int_equal(k.seg, i);
		assert_true(k.due_ns == due);
	}
	link_sched_close(s);
}

static void test_slower_link_finishes_what_it_began(void **state)
{
	struct link_params p = plain(12000000, 0);
	struct link_sched *s = open_link(&p, 1);
	struct link_packet k;
	struct err e;

	(void)state;
	for (unsigned i = 0; i < 3; i++)
		assert_true(link_sched_push(s, 0, NULL, i, 1500));
	p.rate /= 100;
	assert_int_equal(link_sched_set(s, &p, 900000, &e), 0);
	assert_true(pop(s, &k) && k.due_ns == MS);
	assert_true(pop(s, &k) && k.due_ns == 101 * MS);
	assert_true(pop(s, &k) && k.due_ns == 201 * MS);
	link_sched_close(s);
}

static void test_shorter_delay_keeps_order(void **state)
{
	struct link_params p = plain(0, 100 * MS);
	struct link_sched *s = open_link(&p, 1);
	struct link_packet k;
	struct err e;

	(void)state;
	assert_true(link_sched_push(s, 0, NULL, 0, 1500));
	p.delay_ns = MS;
	assert_int_equal(link_sched_set(s, &p, 10 * MS, &e), 0);
	assert_true(link_sched_push(s, 10 * MS, NULL, 1, 1500));
	assert_true(link_sched_push(s, 200 * MS, NULL, 2, 1500));
	assert_true(pop(s, &k) && k.seg == 0 && k.due_ns == 100 * MS);
	assert_true(pop(s, &k) && k.seg == 1 && k.due_ns == 100 * MS);
	assert_true(pop(s, &k) && k.seg == 2 && k.due_ns == 201 * MS);
	link_sched_close(s);
}

static void test_a_bad_change_changes_nothing(void **state)
{
	struct link_params p = plain(12000000, 5 * MS), bad = p;
	struct link_sched *s = open_link(&p, 1);
	struct link_packet k;
	struct err e;

	(void)state;
	assert_true(link_sched_push(s, 0, NULL, 0, 1500));
	bad.jitter_ns = 6 * MS;
	assert_int_equal(link_sched_set(s, &bad, 0, &e), -EINVAL);
	assert_true(pop(s, &k) && k.due_ns == 6 * MS);
	link_sched_close(s);
}

/* Anything goes in and changes at any time: nothing is lost that is not counted, time does not run back. */
static void test_conservation(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 40; seed++) {
		struct link_params p = plain(100000000, MS);
		struct link_sched *s = open_link(&p, seed);
		const struct link_counters *c = link_sched_counters(s);
		uint64_t rng = seed, t = 0, due = 0, out = 0, in = 0;
		struct link_packet k;

		for (unsigned i = 0; i < 2000; i++) {
			t += rng_next(&rng) % (200 * NS_PER_US);
			in += link_sched_push(s, t, NULL, i, 40 + (uint32_t)(rng_next(&rng) % 9000));
			if (rng_next(&rng) % 50 == 0) {
				struct err e;

				p.rate = rng_next(&rng) % 4 ? 1000000 + rng_next(&rng) % 1000000000 : 0;
				p.delay_ns = rng_next(&rng) % (4 * MS);
				p.jitter_ns = p.delay_ns ? rng_next(&rng) % p.delay_ns : 0;
				p.loss = (double)(rng_next(&rng) % 100) / 200;
				p.loss_burst = 1 + (double)(rng_next(&rng) % 2) * 20;
				p.reorder = p.duplicate = (double)(rng_next(&rng) % 10) / 20;
				p.reorder_delay_ns = 1 + rng_next(&rng) % (5 * MS);
				p.queue = 1500 + rng_next(&rng) % 1000000;
				assert_int_equal(link_sched_set(s, &p, t, &e), 0);
			}
			for (; link_sched_pop(s, t, &k); out++) {
				assert_true(k.due_ns <= t && k.due_ns >= due && k.due_ns >= k.sent_ns);
				due = k.due_ns;
			}
			assert_true(link_sched_next(s) > t);
		}
		for (; pop(s, &k); out++)
			assert_true(k.due_ns >= due);
		assert_true(in == out && c->in_packets == in + c->queue_drops && !c->overflow);
		assert_true(c->out_packets == in - c->lost + c->duplicated);
		assert_int_equal(link_sched_backlog(s, UINT64_MAX), 0);
		link_sched_close(s);
	}
}

/* ---- traces ------------------------------------------------------------------------------------ */

static void test_trace(void **state)
{
	/* 12 Mb/s, nothing, 24 Mb/s for a second each; the whole again and again */
	static const char text[] = "0,12\n1,0\n2,24\n";
	struct link_params p = plain(0, 0);
	struct link_trace *t;
	struct link_sched *s;
	struct link_packet k;
	struct err e;
	uint64_t bytes[9] = { 0 };

	(void)state;
	assert_int_equal(link_trace_parse(&t, text, sizeof(text) - 1, "t", &e), 0);
	assert_true(link_trace_mean(t) == 12000000 && link_trace_most(t) == 24000000);
	assert_true(link_trace_length(t) == 3 * NS_PER_S);
	p.trace = t;
	p.queue = 64u << 20;
	s = open_link(&p, 1);
	for (unsigned i = 0; i < 12000; i++)
		assert_true(link_sched_push(s, 0, NULL, i, 1500));
	while (pop(s, &k) && k.due_ns < 9 * NS_PER_S)
		bytes[(k.due_ns - 1) / NS_PER_S] += k.len;
	for (unsigned i = 0; i < 9; i += 3) {
		assert_in_range(bytes[i], 1500000 - 1500, 1500000);
		assert_int_equal(bytes[i + 1], 0);
		assert_in_range(bytes[i + 2], 3000000 - 1500, 3000000 + 1500);
	}
	while (pop(s, &k))
		continue;
	/* long after: in the 100th repetition's first second */
	assert_true(link_sched_push(s, 300 * NS_PER_S, NULL, 0, 1500));
	assert_true(pop(s, &k) && k.due_ns == 301 * MS + 299700 * MS);
	/* a change of something else lets the trace go on, another trace begins at once */
	p.delay_ns = MS;
	assert_int_equal(link_sched_set(s, &p, 301500 * MS, &e), 0);
	assert_true(link_sched_push(s, 301500 * MS, NULL, 0, 1500));
	assert_true(pop(s, &k) && k.due_ns == 302 * NS_PER_S + 500000 + MS);
	p.trace = NULL;
	assert_int_equal(link_sched_set(s, &p, 303500 * MS, &e), 0);
	p.trace = t;
	assert_int_equal(link_sched_set(s, &p, 304500 * MS, &e), 0);
	assert_true(link_sched_push(s, 304500 * MS, NULL, 0, 1500));
	assert_true(pop(s, &k) && k.due_ns == 304502 * MS);
	link_sched_close(s);
	link_trace_free(t);
}

static void test_trace_text(void **state)
{
	static const struct {
		const char *text, *why; /* NULL: it is fine */
	} rows[] = {
		{ "0 1\n1 2\n", NULL },
		{ "seconds,mbits\n# so\n\n0.5,1.25\r\n1.5;2\n", NULL },
		{ "5\t1\n6\t2", NULL },
		{ "", "two lines" },
		{ "0,1\n", "two lines" },
		{ "0,1\n0,2\n", ":2: times ascend" },
		{ "0,1\n-1,2\n", ":2: times ascend" },
		{ "0,1\n1,-2\n", ":2: -2 Mb/s is out of range" },
		{ "0,1\n1,1e9\n", ":2: 1e+09 Mb/s is out of range" },
		{ "0,1\n1,nan\n", ":2: \"1,nan\" is not" },
		{ "0,1\ninf,1\n", ":2: \"inf,1\" is not" },
		{ "0,1\n1\n", ":2: \"1\" is not" },
		{ "0,1\n1,Mbits/sec\n", ":2: \"1,Mbits/sec\" is not" },
		{ "0,1\n1e30,1\n", ":2: times ascend" },
		{ "0,0\n1,0\n", "less than one packet" },
		{ "0,0.000001\n1,0.000001\n", "less than one packet" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct link_trace *t = NULL;
		struct err e = { .why = "" };
		int rc = link_trace_parse(&t, rows[i].text, strlen(rows[i].text), "file", &e);

		assert_int_equal(rc, rows[i].why ? -EINVAL : 0);
		if (rows[i].why && !strstr(e.why, rows[i].why))
			fail_msg("%zu: %s", i, e.why);
		link_trace_free(t);
	}
}

static void test_impossible_parameters(void **state)
{
	static const struct {
		struct link_params p;
		const char *why;
	} rows[] = {
		{ { .loss = 1.1, .loss_in_burst = 1 }, "0 to 100 %" },
		{ { .loss = -.1, .loss_in_burst = 1 }, "0 to 100 %" },
		{ { .loss = NAN, .loss_in_burst = 1 }, "0 to 100 %" },
		{ { .duplicate = 2, .loss_in_burst = 1 }, "0 to 100 %" },
		{ { .reorder = 2, .loss_in_burst = 1 }, "0 to 100 %" },
		{ { .reorder = .1, .loss_in_burst = 1 }, "give reorder-delay" },
		{ { .delay_ns = 1, .jitter_ns = 2, .loss_in_burst = 1 }, "more than the delay" },
		{ { .loss = .9, .loss_burst = 2, .loss_in_burst = 1 }, "at most 66.7 %" },
		{ { .loss = .4, .loss_burst = 2, .loss_in_burst = .5 }, "at most 33.3 %" },
		{ { .loss = .1, .loss_burst = 2, .loss_in_burst = 0 }, "at most 0 %" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct link_sched *s = NULL;
		struct err e = { .why = "" };

		assert_int_equal(link_sched_open(&s, &rows[i].p, 1, 0, &e), -EINVAL);
		if (!strstr(e.why, rows[i].why))
			fail_msg("%zu: %s", i, e.why);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_delay_alone),
		cmocka_unit_test(test_rate_is_exact),
		cmocka_unit_test(test_idle_link_does_not_save_up),
		cmocka_unit_test(test_queue_drops_its_tail),
		cmocka_unit_test(test_independent_loss),
		cmocka_unit_test(test_loss_in_bursts),
		cmocka_unit_test(test_jitter_keeps_order_and_bounds),
		cmocka_unit_test(test_reordering),
		cmocka_unit_test(test_duplicates),
		cmocka_unit_test(test_new_rate_for_what_waits),
		cmocka_unit_test(test_slower_link_finishes_what_it_began),
		cmocka_unit_test(test_shorter_delay_keeps_order),
		cmocka_unit_test(test_a_bad_change_changes_nothing),
		cmocka_unit_test(test_conservation),
		cmocka_unit_test(test_trace),
		cmocka_unit_test(test_trace_text),
		cmocka_unit_test(test_impossible_parameters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * The window never closes for good: every schedule, with a backend that often takes less than it is offered, so that
 * many streams hold a chunk while what they sent before waits for its COMMIT. And on a long path it keeps no stream idle.
 *
 * check: no-tsan (one thread computes it all)
 */
#include "kmod-free-tests/sim.h"
#include "transport/amst_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define BYTES (32u << 20)

static void run(enum amst_sched sched, uint64_t seed)
{
	struct mem_faults f = {
		.path = { { .delay_ns = NS_PER_MS, .jitter_ns = NS_PER_MS, .bytes_per_s = 2000000000 } },
		.done_delay_ns = 2 * NS_PER_MS,
		.short_ppm = 900000,
	};
	struct amst_extent x = { .len = BYTES };
	struct msg_xfer_result r;
	struct client_config cfg;
	struct be_token token;
	struct err e = { 0 };
	struct sim s;
	uint8_t *src = malloc(BYTES);
	uint64_t len;

	assert_non_null(src);
	rng_fill(src, BYTES, seed);
	assert_int_equal(sim_open(&s, &mem_ops, &f, seed, 1, NULL), 0);
	cfg = sim_client(&s);
	cfg.streams = 24;
	cfg.workers = 1;
	cfg.sched = sched;
	assert_int_equal(client_open(&s.client, &cfg, NULL, &e), 0);
	assert_int_equal(client_region_make(s.client, 1, BYTES, 0, &token, NULL, &e), 0);

	struct amst_tx tx = {
		.chunk = 256 << 10, .passes = 1, .extents = &x, .n_extents = 1, .base = src, .token = token
	};
	int rc = client_transfer(s.client, &tx, XFER_PUT, NULL, &r, &e);

	if (rc)
		print_error("schedule %d, seed %llu: %s\n", sched, (unsigned long long)seed, e.why);
	assert_int_equal(rc, 0);
	assert_true(r.whole);
	assert_memory_equal(sim_region(&s, 1, &len), src, BYTES);
	sim_close(&s);
	free(src);
}

static void test_window(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 6; seed++)
		for (int sched = SCHED_PULL; sched <= SCHED_LEAST_LOADED; sched++)
			run((enum amst_sched)sched, seed);
}

/* ---- a long path -------------------------------------------------------------------------------- */

#define FEW 8
#define MOST_UNANSWERED (4u * WIRE_COMMIT_MAX)

struct watch {
	uint64_t looks, idle, lumps; /* of single streams: nothing under way; all of it waits for one answer */
};

/* While there is enough to do for everybody. */
static void watch_streams(struct sim *s)
{
	const struct amst *a = s->client ? client_amst(s->client) : NULL;
	const struct worker *w = a ? &a->w[0] : NULL;
	struct watch *v = s->step_ctx;

	if (!w || !w->tx || !w->acked_bytes || w->tx->cursor + MOST_UNANSWERED > w->tx->total)
		return;
	for (uint32_t i = 0; i < w->n_streams; i++) {
		const struct wstream *t = &w->streams[i];

		v->looks++;
		v->idle += t->head == t->tail;
		v->lumps += t->cut - t->head > 1 && t->c_tail - t->c_head == 1;
	}
}

/* A stream that loses or waits does so alone: each of them has something to send, and answers come one by one. */
static void test_long_path(void **state)
{
	const struct mem_path path = { .delay_ns = 25 * NS_PER_MS, .bytes_per_s = 20000000 };
	const struct mem_faults f = { .path = { path, path }, .done_delay_ns = NS_PER_MS };
	struct amst_extent x = { .len = BYTES };
	struct watch watch = { 0 };
	struct client_config cfg;
	struct msg_xfer_result r;
	struct be_token token;
	struct err e = { 0 };
	struct sim s;
	uint8_t *src = calloc(1, BYTES);

	(void)state;
	assert_non_null(src);
	assert_int_equal(sim_open(&s, &mem_ops, &f, 1, 1, NULL), 0);
	cfg = sim_client(&s);
	cfg.streams = FEW;
	cfg.workers = 1;
	assert_int_equal(client_open(&s.client, &cfg, NULL, &e), 0);
	assert_int_equal(client_region_make(s.client, 1, BYTES, 0, &token, NULL, &e), 0);
	s.step = watch_streams;
	s.step_ctx = &watch;

	struct amst_tx tx = {
		.chunk = 256 << 10, .passes = 8, .extents = &x, .n_extents = 1, .base = src, .token = token
	};

	assert_int_equal(client_transfer(s.client, &tx, XFER_PUT, NULL, &r, &e), 0);
	s.step = NULL;
	print_message("%llu looks at a stream: %llu times nothing under way, %llu times all behind one COMMIT\n",
		      (unsigned long long)watch.looks, (unsigned long long)watch.idle, (unsigned long long)watch.lumps);
	assert_true(watch.looks > 1000);
	assert_true(watch.idle < watch.looks / 50);
	assert_true(watch.lumps < watch.looks / 50);
	sim_close(&s);
	free(src);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_window), cmocka_unit_test(test_long_path) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

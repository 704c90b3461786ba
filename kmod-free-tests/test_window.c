/* SPDX-License-Identifier: MIT */
/*
 * The window never closes for good: every schedule, with a backend that often takes less than it is offered, so that
 * many streams hold a chunk while what they sent before waits for its COMMIT.
 */
#include "kmod-free-tests/sim.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_window) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

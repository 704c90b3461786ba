/* SPDX-License-Identifier: MIT */
/*
 * Simulated migrations that are held, slowed down, or refused what they send; and what is left of them at the destination.
 *
 * check: timeout=300
 */
#include "kmod-free-tests/migrate_world.h"
#include "migrate/guest_synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

/* Held for longer than every time-out, at any moment: it goes on afterwards as if nothing had been. And no faster than it
 * may. */
static void test_held_and_paced(void **state)
{
	unsigned held = 0;

	(void)state;
	for (uint64_t seed = 3; seed <= 6; seed++) {
		struct migrate_result r = { 0 };
		struct err e = { 0 };
		struct world w;

		world_open(&w, seed);
		w.writes = 1;
		w.hold_from = seed * 5 * NS_PER_MS;
		w.hold_until = w.hold_from + (seed == 3 ? 150 : 6) * NS_PER_S;
		w.max_bandwidth = 4u << 20;
		if (world_migrate(&w, &r, &e) < 0)
			fail_msg("seed %llu: %s", (unsigned long long)seed, e.why);
		assert_int_equal(r.outcome, OUTCOME_COMPLETED);
		world_expect_there(&w);
		held += r.held_ns > 5 * NS_PER_S;
		for (unsigned i = 0; i < r.n_rounds; i++)
			if (!r.rounds[i].paused) /* and what was encoded already, and frames */
				assert_true((double)r.rounds[i].bytes_wire <
					    1.05 * (double)w.max_bandwidth * (double)r.rounds[i].ns / 1e9 +
						    (192 << 10));
		world_close(&w);
	}
	assert_int_equal(held, 4);
}

/* Held before anything was sent, for longer than every time-out: whatever the policy, the guest runs here until then. */
static void test_held_from_the_beginning(void **state)
{
	(void)state;
	for (size_t i = 0; migrate_policy_names[i]; i++) {
		struct migrate_result r = { 0 };
		struct err e = { 0 };
		struct world w;

		world_open(&w, 3 + i);
		w.policy = &migrate_policies[i];
		w.writes = 1;
		w.hold_until = 150 * NS_PER_S;
		if (world_migrate(&w, &r, &e) < 0)
			fail_msg("%s: %s", w.policy->name, e.why);
		assert_int_equal(r.outcome, OUTCOME_COMPLETED);
		assert_true(r.held_ns > 149 * NS_PER_S && r.downtime_ns < NS_PER_S);
		assert_true(w.paused_at - w.began >= w.hold_until);
		world_expect_there(&w);
		world_close(&w);
	}
}

/* The blackout is not slowed down where rounds are: it fits if that is known, and the reason says so if it is not. */
static void test_switchover_bandwidth(void **state)
{
	(void)state;
	for (int known = 0; known < 2; known++)
		for (uint64_t seed = 1; seed <= 4; seed++) {
			struct migrate_result r = { 0 };
			struct err e = { 0 };
			struct world w;

			world_open(&w, seed);
			w.policy = &migrate_policies[0];
			w.writes = 1;
			w.must_fit = true;
			w.hde.mode = HDE_NONE;
			w.max_bandwidth = 256u << 10;
			w.switchover = known ? 1000u << 20 : 0;
			assert_int_equal(world_migrate(&w, &r, &e), known ? 0 : -ETIMEDOUT);
			assert_true(known || strstr(e.why, "--switchover-bandwidth"));
			assert_int_equal(r.outcome, known ? OUTCOME_COMPLETED : OUTCOME_ROLLED_BACK);
			assert_true(!known || r.downtime_ns < 100 * NS_PER_MS);
			world_close(&w);
		}
}

static struct guest_ops noted_ops;
static unsigned throttled_by;

static void note_throttle(struct guest *g, unsigned percent)
{
	throttled_by = percent;
	guest_synth_ops.throttle(g, percent);
}

/* A migration that is held and let go on all the time, and converges but for that: the guest is not slowed down for it. One
 * that dirties too much is, and not while it is held. */
static void test_held_not_throttled(void **state)
{
	noted_ops = guest_synth_ops;
	noted_ops.throttle = note_throttle;
	(void)state;
	for (int limited = 0; limited < 2; limited++) {
		struct migrate_result r = { 0 };
		struct err e = { 0 };
		struct world w;

		world_open(&w, 3);
		w.guest->ops = &noted_ops;
		w.policy = &migrate_policies[0];
		w.hde.mode = HDE_NONE;
		w.max_bandwidth = 8u << 20;
		w.writes = 1;
		w.auto_converge = true;
		w.dirty_limit = limited ? GUEST_PAGE : 0;
		w.hold_until = 10 * NS_PER_S;
		w.hold_every = 300 * NS_PER_MS;
		w.throttle_held = &throttled_by;
		if (world_migrate(&w, &r, &e) < 0)
			fail_msg("%s", e.why);
		assert_true(r.held_ns > NS_PER_S / 2 && r.n_rounds > 4);
		if (limited)
			assert_true(r.throttle > 0);
		else
			assert_int_equal(r.throttle, 0);
		assert_int_equal(throttled_by, 0);
		world_close(&w);
	}
}

/* What pages were decoded with is not kept with the guest that they have become. */
static void test_decoders_go(void **state)
{
	(void)state;
	for (size_t i = 0; migrate_policy_names[i]; i++) {
		struct migrate_result r = { 0 };
		struct err e = { 0 };
		struct incoming *in;
		struct world w;

		world_open(&w, 3);
		w.policy = &migrate_policies[i];
		hde_opts_default(&w.hde, HDE_DATACENTER);
		if (world_migrate(&w, &r, &e) < 0)
			fail_msg("%s: %s", w.policy->name, e.why);
		in = dest_find(w.dest, &r.id);
		assert_non_null(in);
		assert_true(in->hde || in->unpack);
		client_close(w.sim.client);
		w.sim.client = NULL;
		sim_run(&w.sim, NS_PER_S);
		assert_int_equal(in->sessions, 0);
		assert_null(in->hde);
		assert_null(in->unpack);
		dest_put(in);
		world_expect_there(&w);
		world_close(&w);
	}
}

/* A destination that cannot unpack gets its pages all the same. */
static void test_packed_refused(void **state)
{
	(void)state;
	for (size_t i = 2; migrate_policy_names[i]; i++) {
		struct migrate_result r = { 0 };
		struct err e = { 0 };
		struct world w;

		world_open(&w, 3);
		w.policy = &migrate_policies[i];
		w.writes = 1;
		hde_opts_default(&w.hde, HDE_DATACENTER);
		w.cannot_unpack = true;
		if (world_migrate(&w, &r, &e) < 0)
			fail_msg("%s: %s", w.policy->name, e.why);
		assert_int_equal(r.outcome, OUTCOME_COMPLETED);
		assert_non_null(w.unpack);
		assert_int_equal(r.late.recoveries, 1);
		world_expect_there(&w);
		world_close(&w);
		unpack_close(w.unpack);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_held_and_paced),       cmocka_unit_test(test_held_from_the_beginning),
		cmocka_unit_test(test_switchover_bandwidth), cmocka_unit_test(test_held_not_throttled),
		cmocka_unit_test(test_decoders_go),          cmocka_unit_test(test_packed_refused),
	};

	return cmocka_run_group_tests_name("migrate/hold", tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * Seeded simulations of whole migrations over the mem backend: a guest that writes at every step of time, a bad network,
 * and either side dying or giving up at a random moment. Afterwards at most one side runs the guest, the one that should;
 * its memory is right byte by byte, and the guest's own check finds every write. DWCP_SIM_SEEDS sets how many seeds;
 * DWCP_SIM_SEED runs one, loudly.
 *
 * check: timeout=600
 */
#include "kmod-free-tests/migrate_world.h"
#include "migrate/guest_synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool loud;

static void expect_here(struct world *w)
{
	struct guest *there = w->there_dead ? NULL : world_there(w);
	struct err e = { 0 };

	assert_true(synth_running(w->guest));
	assert_true(!there || !synth_running(there));
	w->guest->ops->pause(w->guest, &e);
	if (w->guest->ops->check(w->guest, &e) < 0)
		fail_msg("%s", e.why);
	w->guest->ops->run(w->guest, &e);
}

/* Calm again: the same guest migrates after all. */
static void and_again(struct world *w)
{
	struct migrate_result r;
	struct err e = { 0 };
	int rc;

	client_close(w->sim.client);
	w->sim.client = NULL;
	sim_calm(&w->sim);
	w->cancel = w->hold = 0;
	w->hold_until = 0;
	w->fate = FATE_NONE;
	w->faults = (struct mem_faults){ 0 };
	w->trouble = (struct sim_trouble){ 0 };
	rc = world_migrate(w, &r, &e);
	if (rc < 0)
		fail_msg("migrated again: %s", e.why);
	assert_int_equal(r.outcome, OUTCOME_COMPLETED);
	assert_true(r.verified || rc == 0);
	world_expect_there(w);
}

/* What the destination does without its source: it ran nothing, and runs nothing. */
static void judge_left(struct world *w)
{
	struct guest *there;
	struct msg_guest_status st[4];
	unsigned n;

	client_close(w->sim.client);
	w->sim.client = NULL;
	sim_run(&w->sim, 200 * NS_PER_S); /* its session times out */
	n = dest_list(w->dest, st, 4);
	there = world_there(w);
	assert_int_equal(n, there ? 1 : 0); /* half a guest is forgotten, a whole one stays */
	assert_true(!there || !synth_running(there));
}

/* Its source gave up: it lacks pages, and waits, when its sessions are over. It was not lost before that. Or its last pages
 * came, and nobody could say so any more: then it runs. */
static void judge_halted(struct world *w)
{
	struct msg_guest_status st;

	client_close(w->sim.client);
	w->sim.client = NULL;
	sim_run(&w->sim, 200 * NS_PER_S);
	assert_int_equal(dest_list(w->dest, &st, 1), 1);
	if (st.phase == PHASE_RUNNING) {
		world_expect_there(w);
		return;
	}
	assert_int_equal(st.phase, PHASE_HALTED);
	assert_false(synth_running(world_there(w)));
}

static void judge(struct world *w, int rc, const struct migrate_result *r, const struct err *e)
{
	struct guest *there;

	switch (r->outcome) {
	case OUTCOME_COMPLETED:
		/* A link that died right after the hand-over may have prevented the comparison; it must not fail. */
		if (rc == -EBADMSG)
			fail_msg("%s", e->why);
		if (!w->there_dead)
			world_expect_there(w);
		break;
	case OUTCOME_INCOMPLETE:
		assert_true(rc < 0 && e->why[0] && r->late.pages);
		assert_false(synth_running(w->guest));
		if (!w->there_dead)
			judge_halted(w);
		break;
	case OUTCOME_IN_DOUBT:
		there = w->there_dead || r->late.pages ? NULL : world_there(w);
		assert_false(synth_running(w->guest));
		/* Whatever it does there is right: it is whole, or was never started. */
		if (there) {
			there->ops->pause(there, NULL);
			assert_int_equal(there->ops->check(there, NULL), 0);
		}
		break;
	default:
		assert_true(rc < 0 && e->why[0]);
		expect_here(w);
		if (!w->there_dead && sim_rand(&w->sim, 2))
			and_again(w);
		else if (!w->there_dead)
			judge_left(w);
	}
}

static unsigned outcomes[5];
static uint64_t late_pages, waited_for, recoveries;

static void run_seed(uint64_t seed)
{
	struct world w;
	struct migrate_result r = { 0 };
	struct err e = { 0 };
	int rc;

	world_open(&w, seed);
	if (sim_rand(&w.sim, 3)) {
		w.faults = sim_faults(&w.sim, sim_rand(&w.sim, 2));

		w.faults.drop_ppm /= 4;
		w.trouble = sim_troubles(&w.sim);
	}
	w.fate = (enum fate)sim_rand(&w.sim, FATE_PARTITION + 1);
	w.fate_at = 1 + sim_rand(&w.sim, sim_rand(&w.sim, 2) ? 60 : 600);
	if (sim_rand(&w.sim, 2)) {
		w.fate_in_blackout = true;
		w.fate_at = sim_rand(&w.sim, 60);
	}
	if (!sim_rand(&w.sim, 3)) {
		w.hold_from = sim_rand(&w.sim, 20) * NS_PER_MS;
		w.hold_until = w.hold_from + (1 + sim_rand(&w.sim, 500)) * NS_PER_MS;
	}
	if (!sim_rand(&w.sim, 3))
		w.max_bandwidth = (1 + sim_rand(&w.sim, 100)) << 20;
	rc = world_migrate(&w, &r, &e);
	if (loud)
		printf("seed %llu: %d %s, %s, %u rounds, %llu late, fate %d%s\n", (unsigned long long)seed, rc,
		       migrate_outcome_name(r.outcome), e.why, r.n_rounds, (unsigned long long)r.late.pages,
		       (int)w.fate, w.there_dead ? ", there dead" : "");
	judge(&w, rc, &r, &e);
	outcomes[r.outcome]++;
	late_pages += r.late.pages;
	waited_for += r.late.network_faults;
	recoveries += r.late.recoveries;
	world_close(&w);
}

static void test_seeds(void **state)
{
	const char *one = getenv("DWCP_SIM_SEED"), *many = getenv("DWCP_SIM_SEEDS"), *set = getenv("TEST_SET");
	uint64_t n = many                        ? strtoull(many, NULL, 10)
		     : set && strcmp(set, "all") ? 60
						 : 200; /* sanitizers: 8 times slower */

	(void)state;
	loud = one;
	if (one) {
		run_seed(strtoull(one, NULL, 10));
		return;
	}
	for (uint64_t seed = 1; seed <= n; seed++)
		run_seed(seed);
	printf("%u completed, %u rolled back, %u cancelled, %u in doubt, %u incomplete; %llu pages late, %llu waited for, "
	       "%llu links recovered\n",
	       outcomes[OUTCOME_COMPLETED], outcomes[OUTCOME_ROLLED_BACK], outcomes[OUTCOME_CANCELLED],
	       outcomes[OUTCOME_IN_DOUBT], outcomes[OUTCOME_INCOMPLETE], (unsigned long long)late_pages,
	       (unsigned long long)waited_for, (unsigned long long)recoveries);
	assert_true(outcomes[OUTCOME_COMPLETED] > n / 4 && outcomes[OUTCOME_ROLLED_BACK] &&
		    outcomes[OUTCOME_CANCELLED]);
	if (n >= 200)
		assert_true(late_pages && waited_for && recoveries && outcomes[OUTCOME_INCOMPLETE]);
}

/* Memory at the destination is the source's at the switch, byte by byte: nothing writes there afterwards. */
static void test_byte_by_byte(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct migrate_result r = { 0 };
		struct err e = { 0 };
		struct guest *there;
		struct world w;

		world_open(&w, seed);
		w.writes = 2;
		assert_int_equal(world_migrate(&w, &r, &e), 0);
		there = world_there(&w);
		assert_non_null(there);
		/* Those who went on writing there went on from the same state: so does the one here. */
		assert_int_equal(there->ops->pause(there, &e), 0);
		while (true) {
			struct guest_work here, moved;

			w.guest->ops->work(w.guest, &here);
			there->ops->work(there, &moved);
			if (here.writes >= moved.writes)
				break;
			w.guest->ops->run(w.guest, &e);
			synth_step(w.guest, (unsigned)(moved.writes - here.writes));
			w.guest->ops->pause(w.guest, &e);
		}
		assert_memory_equal(there->mem, w.guest->mem, w.guest->len);
		world_close(&w);
	}
}

/* A to B, B to C: what was received is dirtied and sent on. */
static void test_chain(void **state)
{
	struct world a, b;
	struct migrate_result r = { 0 }, r2 = { 0 };
	struct err e = { 0 };
	struct guest *own;

	(void)state;
	world_open(&a, 11);
	a.writes = 3;
	assert_int_equal(world_migrate(&a, &r, &e), 0);
	world_open(&b, 12);
	own = b.guest;
	b.guest = world_there(&a);
	assert_non_null(b.guest);
	free(b.at_switch);
	b.at_switch = malloc(b.guest->len);
	assert_non_null(b.at_switch);
	b.writes = 3;
	synth_step(b.guest, 100);
	assert_int_equal(world_migrate(&b, &r2, &e), 0);
	world_expect_there(&b);
	b.guest = own;
	world_close(&b);
	world_close(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_byte_by_byte),
		cmocka_unit_test(test_chain),
		cmocka_unit_test(test_seeds),
	};

	return cmocka_run_group_tests_name("migrate/sim", tests, NULL, NULL);
}

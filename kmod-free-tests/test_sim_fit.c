/* SPDX-License-Identifier: MIT */
/*
 * What is worked out from measurements: the simulator carries out the moves of a calibration at rates that are known, and
 * the same rates must come back, with noise on everything as well.
 *
 * check: no-tsan no-asan (one thread computes it all)
 */
#include "migrate/sim.h"
#include "migrate/sim_fit.h"

#include "base/clock.h"
#include "base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#define MEMORY (128ull << 20)

struct known {
	struct sim_rates r;
	double make_ns, track_ns;
	double noise; /* times of everything are off by so much at most */
	uint64_t rng;
};

static double off(struct known *k)
{
	return 1 + k->noise * (2 * (double)(rng_next(&k->rng) >> 11) * 0x1p-53 - 1);
}

static void blur(struct known *k, struct sim_seen *s)
{
	struct migrate_blackout *b = &s->r.blackout;
	uint64_t *ns[] = { &s->r.prepare_ns, &b->pause_ns, &b->look_ns, &b->ready_ns, &b->start_ns };

	for (size_t i = 0; i < ARRAY_LEN(ns); i++)
		*ns[i] = (uint64_t)((double)*ns[i] * off(k));
	for (unsigned i = 0; i < s->r.n_rounds; i++)
		s->r.rounds[i].ns = (uint64_t)((double)s->r.rounds[i].ns * off(k));
	s->make_ns *= off(k);
	s->track_ns *= off(k);
	s->source_ns *= off(k);
	s->dest_ns *= off(k);
}

static void move(struct known *k, bool tiny, double zeros, double dirty, int hde, unsigned workers,
		 struct sim_seen *seen)
{
	struct sim_config c = {
		.rates = &k->r,
		.seed = rng_next(&k->rng),
		.vms = 1,
		.links = 1,
		.memory_min = tiny ? GUEST_MEMORY_MIN : MEMORY,
		.dirty_min = dirty,
		.dirty_max = dirty,
		.working_set = 100,
		.zeros = zeros,
		.same_host = true,
		.workers = workers,
		.chunk = hde ? 512 << 10 : 256 << 10,
		.hde = (enum hde_mode)hde,
		.precopy = true,
		.limits = { .downtime_ns = NS_PER_MS, .rounds_max = 8 },
		.force = true,
	};
	const struct sim_hde_rates *h = &k->r.hde[hde ? hde - 1 : 0];
	struct sim_totals t;
	struct sim_vm vm;
	struct err e = { 0 };
	double pages, others;

	c.memory_max = c.memory_min;
	if (sim_migrate(&c, &vm, &t, &e) < 0)
		fail_msg("%s", e.why);
	seen->r = vm.r;
	pages = (double)vm.memory / GUEST_PAGE;
	others = pages - (double)vm.r.zero_pages;
	seen->make_ns = pages * k->make_ns;
	seen->track_ns = pages * k->track_ns;
	seen->source_ns = (double)vm.r.zero_pages * k->r.zero_send_ns + others * (hde ? h->send_ns : k->r.raw_send_ns);
	seen->dest_ns = (double)vm.r.zero_pages * k->r.zero_recv_ns + others * (hde ? h->recv_ns : k->r.raw_recv_ns);
	blur(k, seen);
}

static void turn(struct known *k, struct sim_turn *t)
{
	memset(t, 0, sizeof *t);
	t->guest_cpus = k->r.guest_cpus * off(k);
	t->write_ns = k->r.write_ns * off(k);
	t->fault_ns = k->r.fault_ns * off(k);
	move(k, true, 100, 0, 0, 2, &t->move[MOVE_TINY]);
	move(k, false, 100, 0, 0, 2, &t->move[MOVE_ZEROS]);
	move(k, false, 0, 0, 0, 2, &t->move[MOVE_RAW]);
	move(k, false, 0, 0, 0, 1, &t->move[MOVE_SINGLE]);
	move(k, false, 0, SIM_SLOW_RATE, 0, 2, &t->move[MOVE_SLOW]);
	move(k, false, 0, SIM_FAST_RATE, 0, 2, &t->move[MOVE_FAST]);
	for (int mode = 0; mode < SIM_MODES; mode++) {
		struct sim_seen *s = &t->move[MOVE_HDE + 3 * mode];

		move(k, true, 60, 0, mode + 1, 2, &s[0]);
		move(k, false, 60, 0, mode + 1, 2, &s[1]);
		move(k, false, 60, 100, mode + 1, 2, &s[2]);
	}
}

static struct known known(uint64_t seed, double noise)
{
	struct known k = { .make_ns = 500, .track_ns = 80, .noise = noise, .rng = seed };

	sim_rates_default(&k.r);
	k.r.prepare_ns = k.make_ns + k.track_ns;
	/* A guest that is at work takes from the others; so that rates are comparable it does not here. */
	k.r.guest_cpus = k.r.write_ns = k.r.fault_ns = 0;
	return k;
}

static void expect(const char *name, double got, double want, double part)
{
	if (!(fabs(got - want) <= part * fabs(want) + 1e-9))
		fail_msg("%s: %g, not %g", name, got, want);
}

#define SAME(field, part) expect(#field, r.field, k.r.field, part)

static void check(struct known k, unsigned turns, double part)
{
	static struct sim_turn t[SIM_TURNS_MAX];
	struct sim_rates r;
	struct err e = { 0 };

	for (unsigned i = 0; i < turns; i++)
		turn(&k, &t[i]);
	if (sim_fit(t, turns, &r, &e) < 0)
		fail_msg("%s", e.why);
	SAME(prepare_ns, part);
	SAME(zero_send_ns, part);
	SAME(zero_recv_ns, part);
	SAME(zero_bytes, part);
	SAME(raw_send_ns, part);
	SAME(raw_recv_ns, part);
	SAME(raw_bytes, part);
	SAME(pause_ms, part);
	SAME(state_ms, part);
	SAME(start_ms, part);
	SAME(round_ms, .15 + part);
	SAME(dirty_factor, .15 + part);
	SAME(look_ns, 3 * part);   /* so is this */
	SAME(look_ms, .02 + part); /* the tiny guest's pages are in it */
	SAME(wait_ms, .2 + part);  /* how many pages it was is chance */
	SAME(cpus, .03 + part);    /* a round besides its pages is in the first one */
	SAME(worker_cpus, .03 + part);
	for (int i = 0; i < SIM_MODES; i++) {
		SAME(hde[i].send_ns, part);
		SAME(hde[i].recv_ns, part);
		SAME(hde[i].bytes, part);
		SAME(hde[i].delta_bytes, part);
		SAME(hde[i].delta_ns, .25 + part);
	}
}

static void test_exact(void **state)
{
	(void)state;
	check(known(1, 0), 1, .02);
	check(known(2, 0), 5, .02);
}

static void test_noise(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 4; seed++)
		check(known(seed, .1), 7, .15);
}

/* A turn of five that everything else on the machine spoilt is outvoted. */
static void test_one_bad_turn(void **state)
{
	static struct sim_turn t[5];
	struct known k = known(3, 0), slow = known(3, 0);
	struct sim_rates r;
	struct err e = { 0 };

	(void)state;
	slow.r.raw_send_ns *= 20;
	slow.r.round_ms *= 50;
	slow.r.pause_ms *= 100;
	for (unsigned i = 0; i < ARRAY_LEN(t); i++)
		turn(i == 2 ? &slow : &k, &t[i]);
	assert_int_equal(sim_fit(t, ARRAY_LEN(t), &r, &e), 0);
	SAME(raw_send_ns, .02);
	SAME(pause_ms, .02);
	SAME(round_ms, .2);
}

static void test_impossible(void **state)
{
	static struct sim_turn t;
	struct known k = known(4, 0);
	struct sim_rates r;
	struct err e = { 0 };

	(void)state;
	assert_int_equal(sim_fit(&t, 0, &r, &e), -EINVAL);
	assert_int_equal(sim_fit(&t, SIM_TURNS_MAX + 1, &r, &e), -EINVAL);
	turn(&k, &t);
	t.move[MOVE_RAW].r.rounds[0].bytes_wire = 0;
	assert_int_equal(sim_fit(&t, 1, &r, &e), -EINVAL);
	assert_non_null(strstr(e.why, "raw_bytes"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exact),
		cmocka_unit_test(test_noise),
		cmocka_unit_test(test_one_bad_turn),
		cmocka_unit_test(test_impossible),
	};

	return cmocka_run_group_tests_name("migrate/sim_fit", tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * The simulator: fair shares as properties over random jobs, what guests dirty against real guests that are stepped, whole
 * migrations against sums by hand, and what must hold whatever the configuration. Calibration files, good and bad.
 *
 * check: no-tsan no-asan (one thread computes it all)
 */
#include "migrate/sim.h"
#include "migrate/sim_codec.h"
#include "migrate/sim_guest.h"
#include "migrate/sim_share.h"

#include "base/clock.h"
#include "base/hugebuf.h"
#include "base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static double uniform(uint64_t *rng, double low, double high)
{
	return low + (high - low) * (double)(rng_next(rng) >> 11) * 0x1p-53;
}

static bool about(double got, double want, double part)
{
	if (fabs(got - want) <= part * fabs(want))
		return true;
	print_error("%g, not about %g\n", got, want);
	return false;
}

/* ---- shares ------------------------------------------------------------------------------------ */

#define JOBS 40

static double dominant(const struct share_job *j, const double capacity[SHARE_RESOURCES])
{
	double most = 0;

	for (int r = 0; r < SHARE_RESOURCES; r++)
		if (!isinf(capacity[r]))
			most = fmax(most, j->speed * j->need[r] / capacity[r]);
	return most;
}

/* Nobody could have more without one that has no more than it having less. */
static void check_shares(struct share_job *const *jobs, size_t n, const double capacity[SHARE_RESOURCES])
{
	double used[SHARE_RESOURCES] = { 0 }, most[SHARE_RESOURCES] = { 0 };

	for (size_t i = 0; i < n; i++)
		for (int r = 0; r < SHARE_RESOURCES; r++) {
			used[r] += jobs[i]->speed * jobs[i]->need[r];
			if (jobs[i]->need[r] > 0)
				most[r] = fmax(most[r], dominant(jobs[i], capacity));
		}
	for (int r = 0; r < SHARE_RESOURCES; r++)
		assert_true(used[r] <= capacity[r] * (1 + 1e-9));
	for (size_t i = 0; i < n; i++) {
		bool at_limit = jobs[i]->speed >= jobs[i]->most * (1 - 1e-9);

		for (int r = 0; r < SHARE_RESOURCES && !at_limit; r++)
			at_limit = jobs[i]->need[r] > 0 && used[r] >= capacity[r] * (1 - 1e-9) &&
				   dominant(jobs[i], capacity) >= most[r] * (1 - 1e-9);
		assert_true(at_limit);
		assert_true(jobs[i]->speed > 0 && jobs[i]->speed <= jobs[i]->most * (1 + 1e-9));
	}
}

static bool same_needs(const struct share_job *a, const struct share_job *b)
{
	int r = 0;

	while (r < SHARE_RESOURCES && a->need[r] == b->need[r])
		r++;
	return r == SHARE_RESOURCES;
}

static void test_shares(void **state)
{
	uint64_t rng = 3;

	(void)state;
	for (int k = 0; k < 3000; k++) {
		struct share_job job[JOBS], *jobs[JOBS];
		size_t n = 1 + rng_next(&rng) % JOBS;
		double capacity[SHARE_RESOURCES];

		for (int r = 0; r < SHARE_RESOURCES; r++)
			capacity[r] = rng_next(&rng) % 3 ? exp(uniform(&rng, -3, 3)) : INFINITY;
		for (size_t i = 0; i < n; i++) {
			jobs[i] = &job[i];
			job[i] = (struct share_job){ .most = exp(uniform(&rng, -3, 3)) };
			for (int r = 0; r < SHARE_RESOURCES; r++)
				job[i].need[r] = rng_next(&rng) % 4 ? exp(uniform(&rng, -3, 3)) : 0;
			if (i && rng_next(&rng) % 3 == 0)
				job[i] = job[i - 1];
		}
		share_fairly(jobs, n, capacity);
		check_shares(jobs, n, capacity);
		for (size_t i = 1; i < n; i++)
			if (same_needs(&job[i], &job[i - 1]) && job[i].most == job[i - 1].most)
				assert_true(about(job[i].speed, job[i - 1].speed, 1e-6));
	}
}

static void test_shares_by_hand(void **state)
{
	struct share_job a = { .need = { 1, 10, 0 }, .most = 100 }, b = { .need = { 4, 10, 0 }, .most = 100 },
			 c = { .need = { 0, 10, 0 }, .most = 1 }, *jobs[] = { &a, &b, &c };
	const double capacity[] = { 1000, 60, INFINITY }, none[] = { INFINITY, 0, INFINITY };

	(void)state;
	/* c cannot use its 20 of the link, only 10; the others have 25 each. */
	share_fairly(jobs, 3, capacity);
	assert_true(about(a.speed, 2.5, 1e-6) && about(b.speed, 2.5, 1e-6) && about(c.speed, 1, 1e-6));
	share_fairly(jobs, 3, none);
	assert_true(a.speed == 0 && b.speed == 0 && c.speed == 0);
}

/* ---- guests ------------------------------------------------------------------------------------ */

#define PAGES 65536u
#define REGION 512u /* pages of 2 MB */

/* Pages that a real guest wrote to with so many writes; *touched: pages that lie in 2 MB of which one was written to. */
static double written(int pattern, double set, unsigned writes, double *touched)
{
	struct synth_opts o = { .pattern = pattern, .working_set = set, .threads = 1, .seed = 9, .stepped = true };
	struct hugebuf mem;
	struct guest *g;
	struct err e;
	double n = 0;
	size_t last = SIZE_MAX;

	*touched = 0;
	assert_int_equal(hugebuf_alloc(&mem, (size_t)PAGES * GUEST_PAGE, false, &e), 0);
	assert_int_equal(guest_synth_ops.open(&g, mem.addr, mem.len, &o, &e), 0);
	guest_synth_ops.run(g, &e);
	synth_step(g, writes);
	for (size_t p = 0; p < PAGES; p++) {
		uint64_t count;

		memcpy(&count, g->mem + p * GUEST_PAGE, sizeof count);
		n += count > 0;
		if (count && p / REGION != last) {
			last = p / REGION;
			*touched += REGION;
		}
	}
	guest_synth_ops.close(g);
	hugebuf_free(&mem);
	return n;
}

/* A stepped guest makes a write per millisecond. */
static void test_dirties_like_a_guest(void **state)
{
	static const int patterns[] = { SYNTH_UNIFORM, SYNTH_ZIPF, SYNTH_SEQUENTIAL, SYNTH_PHASES };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(patterns); i++)
		for (unsigned writes = 64; writes <= 32768; writes *= 8)
			for (int set = 100; set > 10; set -= 60) {
				struct sim_guest g = { .pages = PAGES,
						       .pattern = patterns[i],
						       .writes = 1000,
						       .set = PAGES * (double)set / 100 };
				double touched, real = written(patterns[i], set, writes, &touched);

				assert_true(fabs(sim_guest_touched(&g, 0, writes / 1000.0) - touched / PAGES) < .08);
				assert_true(writes < 500 || about(sim_guest_dirty(&g, 0, writes / 1000.0), real,
								  patterns[i] == SYNTH_ZIPF ? .12 : .05));
			}
}

static void test_dirty_properties(void **state)
{
	uint64_t rng = 11;

	(void)state;
	for (int k = 0; k < 3000; k++) {
		struct sim_guest g = { .pages = exp(uniform(&rng, 6, 16)),
				       .pattern = (int)(rng_next(&rng) % SYNTH_PATTERNS) };
		double from = uniform(&rng, 0, 20), a = uniform(&rng, 0, 5), b = uniform(&rng, 0, 5), one, both, behind;

		g.writes = g.pages * exp(uniform(&rng, -7, 1));
		g.set = fmax(g.pages * uniform(&rng, .01, 1), 1);
		one = sim_guest_dirty(&g, from, from + a);
		both = sim_guest_dirty(&g, from, from + a + b);
		behind = sim_guest_dirty_behind(&g, from, from + a);
		assert_true(one >= 0 && both <= g.pages * (1 + 1e-9));
		assert_true(both >= one * (1 - 1e-9)); /* never fewer by waiting */
		assert_true(both <= one + sim_guest_dirty(&g, from + a, from + a + b) + 1e-6 * g.pages);
		assert_true(behind <= one * (1 + 1e-9) + 1e-9);
		assert_true(sim_guest_dirty(&g, from, from) == 0);
		g.slowed = .5;
		assert_true(sim_guest_dirty(&g, from, from + a) <= one * (1 + 1e-9));
	}
}

/* ---- migrations -------------------------------------------------------------------------------- */

static struct sim_rates rates(void)
{
	struct sim_rates r;

	sim_rates_default(&r);
	return r;
}

static struct sim_config usual(const struct sim_rates *r)
{
	return (struct sim_config){
		.rates = r,
		.seed = 1,
		.vms = 1,
		.links = 1,
		.memory_min = 1ull << 30,
		.memory_max = 1ull << 30,
		.dirty_min = 1,
		.dirty_max = 1,
		.working_set = 100,
		.zeros = 60,
		.warm_up_ns = NS_PER_S,
		.workers = 2,
		.chunk = 256 << 10,
		.precopy = true,
		.limits = { .downtime_ns = 30 * NS_PER_MS, .timeout_ns = 300 * NS_PER_S, .rounds_max = 60 },
		.outage_ns = 2 * NS_PER_S,
		.timeout_ns = 60 * NS_PER_S,
		.retry_ns = NS_PER_S,
		.retries = 3
	};
}

static struct sim_vm *simulate(const struct sim_config *c, struct sim_totals *t)
{
	struct sim_vm *vms = calloc(c->vms, sizeof *vms);
	struct err e = { 0 };

	assert_non_null(vms);
	if (sim_migrate(c, vms, t, &e) < 0)
		fail_msg("%s", e.why);
	return vms;
}

/* Stop-and-copy of a guest that writes nothing: a sum. */
static void test_by_hand(void **state)
{
	struct sim_rates r = rates();
	struct sim_config c = usual(&r);
	struct sim_totals t;
	struct sim_vm *vm;
	double pages = 262144, zeros = pages * .6, raw = pages * .4, s, wire;

	(void)state;
	c.dirty_min = c.dirty_max = 0;
	c.precopy = false;
	c.same_host = true;
	r.guest_cpus = 0;
	vm = simulate(&c, &t);
	wire = zeros * r.zero_bytes + raw * r.raw_bytes;
	assert_true(about((double)vm->r.bytes_wire, wire, 1e-6));
	s = (zeros * (r.zero_send_ns + r.zero_recv_ns) + raw * (r.raw_send_ns + r.raw_recv_ns)) / r.cpus / 1e9;
	assert_true(about((double)vm->r.downtime_ns / 1e9,
			  s + (r.pause_ms + r.round_ms + r.state_ms + r.start_ms) / 1e3, 1e-6));
	assert_true(about((double)(vm->r.total_ns - vm->r.downtime_ns) / 1e9,
			  r.prepare_ms / 1e3 + pages * r.prepare_ns / r.cpus / 1e9, 1e-6));
	assert_int_equal(vm->r.n_rounds, 1);
	assert_true(vm->r.rounds[0].paused);
	free(vm);
	/* Over a link that is the limit. */
	c.same_host = false;
	c.bits_per_s = 1e9;
	vm = simulate(&c, &t);
	assert_true(
		about((double)vm->r.blackout.transfer_ns / 1e9, wire * 8 / 1e9 * 1500 / 1448 + r.round_ms / 1e3, 1e-6));
	free(vm);
}

static void test_same_seed_same_answer(void **state)
{
	struct sim_rates r = rates();
	struct sim_config c = usual(&r);
	struct sim_totals t[3];
	struct sim_vm *vm[3];

	(void)state;
	c.vms = 40;
	c.links = 3;
	c.memory_max = 8ull << 30;
	c.dirty_max = 10;
	c.bits_per_s = 10e9;
	c.failures_per_hour = 20;
	c.outages_per_hour = 60;
	for (int i = 0; i < 3; i++) {
		c.seed = i == 2 ? 2 : 1;
		vm[i] = simulate(&c, &t[i]);
	}
	assert_memory_equal(vm[0], vm[1], c.vms * sizeof *vm[0]);
	assert_memory_equal(&t[0], &t[1], sizeof t[0]);
	assert_true(t[0].makespan_ns != t[2].makespan_ns);
	for (int i = 0; i < 3; i++)
		free(vm[i]);
}

static struct sim_config random_config(const struct sim_rates *r, uint64_t seed)
{
	uint64_t rng = seed * 977;
	struct sim_config c = usual(r);

	c.seed = seed;
	c.vms = 1 + (unsigned)(rng_next(&rng) % 24);
	c.links = 1 + (unsigned)(rng_next(&rng) % c.vms);
	c.parallel = (unsigned)(rng_next(&rng) % 5);
	c.ramp_ns = rng_next(&rng) % 2 * 20 * NS_PER_S;
	c.memory_min = (uint64_t)exp(uniform(&rng, log(1 << 20), log(1ull << 34)));
	c.memory_max = c.memory_min * (1 + rng_next(&rng) % 4);
	c.dirty_min = exp(uniform(&rng, -3, 4));
	c.dirty_max = c.dirty_min * 2;
	c.working_set = uniform(&rng, 1, 100);
	c.pattern = (int)(rng_next(&rng) % SYNTH_PATTERNS);
	c.bits_per_s = rng_next(&rng) % 4 ? exp(uniform(&rng, log(1e7), log(1e11))) : 0;
	c.rtt_ns = (uint64_t)exp(uniform(&rng, log(1e3), log(3e8)));
	c.same_host = rng_next(&rng) % 3 == 0;
	c.workers = 1 + (unsigned)(rng_next(&rng) % 8);
	c.hde = (enum hde_mode)(rng_next(&rng) % 4);
	c.precopy = rng_next(&rng) % 5;
	c.force = rng_next(&rng) % 2;
	c.auto_converge = rng_next(&rng) % 3 == 0;
	c.failures_per_hour = rng_next(&rng) % 2 ? 0 : uniform(&rng, 0, 200);
	c.outages_per_hour = rng_next(&rng) % 2 ? 0 : uniform(&rng, 0, 100);
	c.outage_ns = rng_next(&rng) % 5 ? 2 * NS_PER_S : 90 * NS_PER_S;
	c.retries = (unsigned)(rng_next(&rng) % 4);
	return c;
}

static void check_vm(const struct sim_config *c, const struct sim_vm *v)
{
	double least = c->bits_per_s > 0 ? (double)v->r.bytes_wire * 8 / c->bits_per_s : 0;

	assert_true(v->asked_ns <= v->began_ns && v->began_ns < v->ended_ns);
	assert_true(v->tries >= 1 && v->tries <= c->retries + 1 && v->failures <= v->tries);
	assert_true(v->memory >= GUEST_MEMORY_MIN && v->memory <= c->memory_max);
	assert_true(v->r.outcome == OUTCOME_COMPLETED || v->r.outcome == OUTCOME_ROLLED_BACK ||
		    v->r.outcome == OUTCOME_IN_DOUBT);
	assert_true(v->r.outcome != OUTCOME_IN_DOUBT || v->failures > 0);
	/* No link carries more than it can. */
	assert_true((double)(v->ended_ns - v->began_ns) / 1e9 >= least * .999);
	if (v->r.outcome != OUTCOME_COMPLETED)
		return;
	assert_true(v->r.downtime_ns > 0 && v->r.downtime_ns <= v->r.total_ns);
	assert_true(v->r.n_rounds >= 1 && v->r.rounds[0].pages == v->memory / GUEST_PAGE);
	assert_int_equal(v->r.blackout.pause_ns + v->r.blackout.look_ns + v->r.blackout.transfer_ns +
				 v->r.blackout.ready_ns + v->r.blackout.start_ns,
			 v->r.downtime_ns);
}

static void test_whatever_the_configuration(void **state)
{
	struct sim_rates r = rates();
	unsigned outcomes[4] = { 0 };

	(void)state;
	for (uint64_t seed = 1; seed <= 300; seed++) {
		struct sim_config c = random_config(&r, seed);
		struct sim_totals t;
		struct sim_vm *vm = simulate(&c, &t);

		for (unsigned i = 0; i < c.vms; i++) {
			check_vm(&c, &vm[i]);
			outcomes[vm[i].r.outcome]++;
		}
		assert_int_equal(t.completed + t.rolled_back + t.in_doubt, c.vms);
		assert_true(t.efficiency >= 0 && (c.hde != HDE_NONE || t.efficiency <= 1 + 1e-6));
		free(vm);
	}
	assert_true(outcomes[OUTCOME_COMPLETED] > 1000 && outcomes[OUTCOME_ROLLED_BACK] > 50);
}

/* How many are under way at the worst moment. */
static unsigned most_at_once(const struct sim_vm *vm, unsigned n)
{
	unsigned most = 0;

	for (unsigned i = 0; i < n; i++) {
		unsigned now = 0;

		for (unsigned k = 0; k < n; k++)
			now += vm[k].began_ns <= vm[i].began_ns && vm[k].ended_ns > vm[i].began_ns;
		most = now > most ? now : most;
	}
	return most;
}

static void test_many_at_once(void **state)
{
	struct sim_rates r = rates();
	struct sim_config c = usual(&r);
	struct sim_totals t, few;
	struct sim_vm *vm;

	(void)state;
	c.vms = 1000;
	c.memory_min = c.memory_max = 1ull << 30;
	c.bits_per_s = 40e9;
	c.cpus = c.workers = 64;
	c.dirty_min = c.dirty_max = .1;
	c.limits.timeout_ns = 0;
	vm = simulate(&c, &t);
	assert_int_equal(t.completed, 1000);
	assert_true(t.vm_bytes <= 1200000);
	/* Alike and at once: all of them end in the last part. */
	for (unsigned i = 0; i < c.vms; i++)
		assert_true((double)vm[i].ended_ns >= .8 * (double)t.makespan_ns);
	free(vm);
	c.parallel = 10;
	vm = simulate(&c, &few);
	assert_int_equal(most_at_once(vm, c.vms), 10);
	/* The link is full either way; fewer at once send less again. */
	assert_true(few.makespan_ns <= t.makespan_ns && few.bytes_wire < t.bytes_wire);
	free(vm);
}

static void test_a_faster_link_is_no_slower(void **state)
{
	struct sim_rates r = rates();
	struct sim_config c = usual(&r);
	uint64_t last = UINT64_MAX;

	(void)state;
	c.dirty_min = c.dirty_max = 0;
	for (int k = 0; k <= 10; k++) {
		struct sim_totals t;
		struct sim_vm *vm;

		c.bits_per_s = 1e7 * pow(3, k);
		vm = simulate(&c, &t);
		assert_true(t.makespan_ns <= last);
		last = t.makespan_ns;
		free(vm);
	}
	/* Compression pays where the link is slow. */
	for (int mode = HDE_AUTO; mode <= HDE_INTERNET; mode++) {
		struct sim_totals plain, coded;

		c.bits_per_s = 1e8;
		c.hde = HDE_NONE;
		free(simulate(&c, &plain));
		c.hde = (enum hde_mode)mode;
		free(simulate(&c, &coded));
		assert_true(coded.makespan_ns < plain.makespan_ns / 2 && coded.bytes_wire < plain.bytes_wire / 2);
	}
}

static void test_what_goes_wrong(void **state)
{
	struct sim_rates r = rates();
	struct sim_config c = usual(&r), calm;
	struct sim_totals t, none;
	struct sim_vm *vm;

	(void)state;
	c.vms = 30;
	c.bits_per_s = 1e9;
	c.dirty_min = c.dirty_max = .1;
	c.limits.timeout_ns = 0;
	calm = c;
	free(simulate(&calm, &none));
	assert_int_equal(none.completed, 30);
	assert_int_equal(none.failures + none.outages, 0);
	c.failures_per_hour = 3600;
	c.retries = 0;
	vm = simulate(&c, &t);
	assert_true(t.rolled_back > 20 && t.failures == t.rolled_back + t.in_doubt);
	free(vm);
	/* Short outages cost what they last, long ones the session. */
	c.failures_per_hour = 0;
	c.outages_per_hour = 120;
	vm = simulate(&c, &t);
	assert_int_equal(t.completed, 30);
	assert_true(t.outages > 1 && t.makespan_ns > none.makespan_ns + t.outages * c.outage_ns / 2);
	free(vm);
	c.outage_ns = 100 * NS_PER_S;
	vm = simulate(&c, &t);
	assert_true(t.failures > 0 && t.rolled_back > 0);
	free(vm);
}

static void test_never_converges(void **state)
{
	struct sim_rates r = rates();
	struct sim_config c = usual(&r);
	struct sim_totals t;
	struct sim_vm *vm;

	(void)state;
	c.bits_per_s = 1e9;
	c.dirty_min = c.dirty_max = 50;
	vm = simulate(&c, &t);
	assert_int_equal(vm->r.outcome, OUTCOME_ROLLED_BACK);
	free(vm);
	c.force = true;
	vm = simulate(&c, &t);
	assert_int_equal(vm->r.outcome, OUTCOME_COMPLETED);
	assert_true(vm->r.downtime_ns > c.limits.downtime_ns);
	free(vm);
	c.force = false;
	c.auto_converge = true;
	vm = simulate(&c, &t);
	assert_int_equal(vm->r.outcome, OUTCOME_COMPLETED);
	assert_true(vm->r.throttle >= 20 && vm->r.downtime_ns < 2 * c.limits.downtime_ns);
	free(vm);
	c.auto_converge = false;
	c.dirty_limit = 20000000;
	vm = simulate(&c, &t);
	assert_int_equal(vm->r.outcome, OUTCOME_COMPLETED);
	free(vm);
}

static void refused(struct sim_config c, const char *text)
{
	struct sim_totals t;
	struct sim_vm vm;
	struct err e = { 0 };

	assert_int_equal(sim_migrate(&c, &vm, &t, &e), -EINVAL);
	if (!strstr(e.why, text))
		fail_msg("\"%s\" does not say \"%s\"", e.why, text);
}

static void test_refusals(void **state)
{
	struct sim_rates r = rates();
	const struct sim_config good = usual(&r);
	struct sim_config c;

	(void)state;
#define REFUSED(text, ...)        \
	do {                      \
		c = good;         \
		__VA_ARGS__;      \
		refused(c, text); \
	} while (0)
	REFUSED("guests", c.vms = 0);
	REFUSED("guests", c.vms = SIM_VMS_MAX + 1);
	REFUSED("links", c.links = 0);
	REFUSED("links", c.links = 2);
	REFUSED("--memory", c.memory_min = 1);
	REFUSED("--memory", c.memory_max = 1 << 20);
	REFUSED("--dirty-rate", c.dirty_min = -1);
	REFUSED("--dirty-rate", c.dirty_max = NAN);
	REFUSED("--working-set", c.working_set = 0);
	REFUSED("--zeros", c.zeros = 101);
	REFUSED("--cpus", c.cpus = -1);
	REFUSED("--cpus", c.failures_per_hour = -1);
	REFUSED("workers", c.workers = 0);
	REFUSED("raw_send_ns", r.raw_send_ns = 0);
	r = rates();
	REFUSED("look_ns", r.look_ns = -1);
}

/* ---- codecs ------------------------------------------------------------------------------------ */

static void test_codecs_follow_the_link(void **state)
{
	struct sim_rates r = rates();
	struct sim_codec *c;
	struct err e;

	(void)state;
	assert_int_equal(sim_codec_open(&c, &e), 0);
	for (int mode = HDE_AUTO; mode <= HDE_INTERNET; mode++) {
		struct sim_hde_rates at, slow, again;

		sim_codec_cost(c, &r, (enum hde_mode)mode, INFINITY, &at);
		assert_memory_equal(&at, &r.hde[mode - 1], sizeof at);
		sim_codec_cost(c, &r, (enum hde_mode)mode, 1e6, &slow);
		sim_codec_cost(c, &r, (enum hde_mode)mode, 1e6, &again);
		assert_memory_equal(&slow, &again, sizeof slow);
		/* Fewer bytes, for more time. */
		assert_true(slow.bytes <= at.bytes && slow.send_ns >= at.send_ns);
		assert_true(slow.bytes > 0 && slow.recv_ns > 0);
		assert_true(slow.delta_bytes == at.delta_bytes);
	}
	sim_codec_close(c);
}

/* ---- calibration files ------------------------------------------------------------------------- */

static char path[] = "/tmp/dwcp-rates.XXXXXX";

static void write_file(const char *text, const char *without, const char *instead)
{
	FILE *f = fopen(path, "we");
	char line[300];
	const char *at = text, *end;

	assert_non_null(f);
	for (; (end = strchr(at, '\n')); at = end + 1) {
		snprintf(line, sizeof line, "%.*s", (int)(end - at), at);
		if (without && strstr(line, without))
			fprintf(f, "%s\n", instead);
		else
			fprintf(f, "%s\n", line);
	}
	assert_int_equal(fclose(f), 0);
}

static void load_refuses(const char *text)
{
	struct sim_rates r;
	struct err e = { 0 };

	assert_true(sim_rates_load(&r, path, &e) < 0);
	if (!strstr(e.why, text))
		fail_msg("\"%s\" does not say \"%s\"", e.why, text);
}

static void test_files(void **state)
{
	struct sim_rates r = rates(), back;
	struct err e = { 0 };
	char text[16384];
	size_t n;
	FILE *f;
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	r.raw_send_ns = 1234.5;
	r.hde[2].delta_bytes = 77;
	assert_int_equal(sim_rates_write(&r, "by a test", path, &e), 0);
	assert_int_equal(sim_rates_load(&back, path, &e), 0);
	assert_memory_equal(&r, &back, sizeof r);
	f = fopen(path, "re");
	assert_non_null(f);
	n = fread(text, 1, sizeof text - 1, f);
	text[n] = 0;
	fclose(f);
	write_file(text, "  look_ns:", "  # nothing");
	load_refuses("look_ns is missing");
	write_file(text, "  internet_bytes:", "");
	load_refuses("internet_bytes is missing");
	write_file(text, "  look_ns:", "  look_ms_: 3\n  look_ns: 1");
	load_refuses("look_ms_");
	write_file(text, "  cpus:", "  cpus: 0");
	load_refuses("cpus");
	write_file(text, "  pause_ms:", "  pause_ms: -4");
	load_refuses("pause_ms");
	write_file(text, "  pause_ms:", "  pause_ms: 1e12");
	load_refuses("impossible");
	write_file(text, "  pause_ms:", "  pause_ms: fast");
	load_refuses("pause_ms");
	write_file(text, "rates:", "rates: [");
	load_refuses("rates");
	unlink(path);
	load_refuses(path + 5);
	assert_true(sim_rates_write(&r, "", "/nonexistent/x.yaml", &e) < 0);
	assert_non_null(strstr(e.why, "--output"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shares),
		cmocka_unit_test(test_shares_by_hand),
		cmocka_unit_test(test_dirties_like_a_guest),
		cmocka_unit_test(test_dirty_properties),
		cmocka_unit_test(test_by_hand),
		cmocka_unit_test(test_same_seed_same_answer),
		cmocka_unit_test(test_whatever_the_configuration),
		cmocka_unit_test(test_many_at_once),
		cmocka_unit_test(test_a_faster_link_is_no_slower),
		cmocka_unit_test(test_what_goes_wrong),
		cmocka_unit_test(test_never_converges),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_codecs_follow_the_link),
		cmocka_unit_test(test_files),
	};

	return cmocka_run_group_tests_name("migrate/simulate", tests, NULL, NULL);
}

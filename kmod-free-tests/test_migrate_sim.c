/* SPDX-License-Identifier: MIT */
/*
 * Seeded simulations of whole migrations over the mem backend: a guest that writes at every step of time, a bad network,
 * and either side dying or giving up at a random moment. Afterwards at most one side runs the guest, the one that should;
 * its memory is right byte by byte, and the guest's own check finds every write. DWCP_SIM_SEEDS sets how many seeds;
 * DWCP_SIM_SEED runs one, loudly.
 *
 * check: timeout=600
 */
#include "kmod-free-tests/sim.h"
#include "base/hugebuf.h"
#include "migrate/dest_impl.h"
#include "migrate/guest_synth.h"
#include "migrate/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum fate { FATE_NONE, FATE_CANCEL, FATE_CRASH, FATE_PARTITION }; /* FATE_CRASH: of the destination */

struct world {
	struct sim sim;
	struct dest *dest;
	struct hugebuf mem;
	struct guest *guest;
	uint8_t *at_switch;            /* memory when it was paused last… */
	uint64_t paused_at;            /* …and when that was */
	const struct msg_guest_id *id; /* when it is known */
	unsigned writes;               /* of each step */
	enum fate fate;
	uint64_t fate_at;      /* steps from now, or… */
	bool fate_in_blackout; /* …from when the guest is paused */
	bool there_dead;
	volatile sig_atomic_t cancel, hold;
	uint64_t hold_from, hold_until; /* since the migration's begin… */
	uint64_t hold_every;            /* …half of each so long; 0: all of it */
	uint64_t held_since;
	uint32_t chunk;
	bool cannot_unpack;
	struct unpack *unpack;         /* that was taken away from the destination */
	const unsigned *throttle_held; /* must be 0 meanwhile */
	bool auto_converge;
	uint64_t dirty_limit;
	uint64_t began;
	uint64_t max_bandwidth, switchover;
	bool must_fit;            /* it is not switched over by force */
	struct mem_faults faults; /* from when the session is there */
	struct sim_trouble trouble;
	bool was_running; /* here, at the last step */
	struct hde_opts hde;
	const struct migrate_policy *policy; /* NULL: any */
};

static bool loud;

static struct guest *guest_there(struct world *w)
{
	return w->id ? dest_guest(w->dest, w->id) : NULL;
}

/* What must hold at every moment: never two. */
static void look_at(struct world *w)
{
	struct guest *there = w->there_dead ? NULL : guest_there(w);

	if (there)
		assert_false(synth_running(w->guest) && synth_running(there));
}

static void meet_fate(struct world *w)
{
	struct sim *s = &w->sim;

	switch (w->fate) {
	case FATE_CANCEL:
		w->cancel = 1;
		break;
	case FATE_CRASH:
		sim_crash_server(s);
		w->there_dead = true;
		break;
	case FATE_PARTITION:
		/* longer than every time-out; or than a session's only, and not than what post-copy waits for */
		s->heal_at = s->now + (sim_rand(s, 2) ? 100 : 3 + sim_rand(s, 12)) * NS_PER_S;
		mem_partition(s->fabric, true);
		break;
	default:
		break;
	}
}

/* A page that has not come makes the guest wait, as it would be made to. */
static bool page_there(void *ctx, uint64_t page)
{
	struct world *w = ctx;

	return dest_touch(w->dest, w->id, page);
}

static void hold_it(struct world *w, uint64_t at)
{
	bool was = w->hold;

	w->hold = at >= w->hold_from && at < w->hold_until &&
		  (!w->hold_every || at % w->hold_every < w->hold_every / 2);
	if (!was)
		w->held_since = at;
	/* It takes a turn or two to be noticed. */
	if (w->throttle_held && w->hold && at - w->held_since > 100 * NS_PER_MS && synth_running(w->guest))
		assert_int_equal(*w->throttle_held, 0);
}

static void take_unpack(struct world *w)
{
	struct incoming *in = dest_find(w->dest, w->id);

	if (!in)
		return;
	if (in->unpack) {
		w->unpack = in->unpack;
		in->unpack = NULL;
	}
	dest_put(in);
}

static void step(struct sim *s)
{
	struct world *w = s->step_ctx;
	struct guest *there;

	look_at(w);
	synth_step(w->guest, w->writes);
	there = w->there_dead ? NULL : guest_there(w);
	if (there) {
		synth_gate(there, page_there, w);
		synth_step(there, w->writes);
	}
	if (w->was_running && !synth_running(w->guest)) {
		memcpy(w->at_switch, w->guest->mem, w->guest->len);
		w->fate_in_blackout = false;
		w->paused_at = s->now;
	}
	w->was_running = synth_running(w->guest);
	if (w->cannot_unpack)
		take_unpack(w);
	hold_it(w, s->now - w->began);
	if (w->fate && !w->fate_in_blackout && !w->fate_at--) {
		meet_fate(w);
		w->fate = FATE_NONE;
	}
}

static int reconnect(void *ctx, struct client **out, struct err *e)
{
	struct world *w = ctx;
	struct client_config cfg = sim_client(&w->sim);

	cfg.timeout_ns = 2 * NS_PER_S;
	cfg.stage_chunk = migrate_chunk_room(w->chunk);
	return client_open(out, &cfg, NULL, e);
}

static void open_world(struct world *w, uint64_t seed)
{
	struct sim pick = { .rng = seed * 2654435761u + 7 };
	struct synth_opts o = {
		.pattern = (int)sim_rand(&pick, SYNTH_PATTERNS),
		.dirty_rate = 1,
		.working_set = 1 + (double)sim_rand(&pick, 100),
		.threads = 1 + (uint32_t)sim_rand(&pick, 4),
		.seed = seed,
		.stepped = true,
	};
	struct err e;

	memset(w, 0, sizeof *w);
	assert_int_equal(dest_open(&w->dest,
				   &(struct dest_config){ .memory_max = 8u << 20, .workers = 4, .manual = true }, &e),
			 0);
	assert_int_equal(
		sim_open_service(&w->sim, &mem_ops, seed, 1 + (unsigned)sim_rand(&pick, 3), dest_service(w->dest)), 0);
	assert_int_equal(hugebuf_alloc(&w->mem, (1u << 20) + sim_rand(&pick, 64) * GUEST_PAGE, true, &e), 0);
	w->at_switch = malloc(w->mem.len);
	assert_non_null(w->at_switch);
	assert_int_equal(guest_synth_ops.open(&w->guest, w->mem.addr, w->mem.len, &o, &e), 0);
	guest_synth_ops.run(w->guest, &e);
	w->was_running = true;
	w->writes = (unsigned)sim_rand(&pick, 4);
	synth_step(w->guest, 200);
	if (sim_rand(&pick, 2)) {
		hde_opts_default(&w->hde, 1 + (int)sim_rand(&pick, HDE_INTERNET));
		w->hde.cache = 1u << 20;
	}
	w->sim.step_ctx = w;
	w->sim.rng ^= sim_rand(&pick, UINT32_MAX);
}

static void close_world(struct world *w)
{
	sim_close(&w->sim);
	dest_close(w->dest);
	w->guest->ops->close(w->guest);
	hugebuf_free(&w->mem);
	free(w->at_switch);
}

static void connect_world(struct world *w, uint32_t chunk)
{
	struct client_config cfg = sim_client(&w->sim);
	struct err e = { 0 };
	int rc;

	cfg.streams = 1 + (unsigned)sim_rand(&w->sim, 6);
	cfg.workers = 1 + (unsigned)sim_rand(&w->sim, cfg.streams < 3 ? cfg.streams : 3);
	cfg.stage_chunk = migrate_chunk_room(chunk);
	cfg.timeout_ns = 5 * NS_PER_S;
	rc = client_open(&w->sim.client, &cfg, NULL, &e);
	if (rc < 0)
		fail_msg("%s", e.why);
}

static const struct tracker_ops *some_tracker(struct sim *s)
{
	const struct tracker_ops *ops = NULL;
	struct err e;

	if (sim_rand(s, 2))
		tracker_choose("", &guest_synth_ops, &ops, &e);
	return ops ? ops : &dirty_sigsegv_ops;
}

/* One of migrate_policies: pre-copy and post-copy are the long ones. */
static unsigned some_policy(struct sim *s)
{
	static const unsigned rows[] = { 0, 0, 0, 1, 2, 2, 3, 3 };

	return rows[sim_rand(s, ARRAY_LEN(rows))];
}

static int migrate_world(struct world *w, struct migrate_result *r, struct err *e)
{
	struct sim *s = &w->sim;
	uint32_t chunk = GUEST_PAGE << sim_rand(s, 6);
	struct migrate_config cfg = {
		.guest = w->guest,
		.name = "sim",
		.tracker = some_tracker(s),
		.policy = &migrate_policies[some_policy(s)],
		.chunk = chunk,
		.sum = SUM_XXH3,
		.hde = w->hde,
		.limits = { .downtime_ns = 20 * NS_PER_MS, .rounds_max = 8, .blackout_bytes_per_s = w->switchover },
		.force = !w->must_fit,
		.auto_converge = w->auto_converge,
		.dirty_limit = w->dirty_limit,
		.verify = (enum migrate_verify)sim_rand(s, 3),
		.clock = clock_manual(&s->now),
		.cancel = &w->cancel,
		.hold = &w->hold,
		.max_bandwidth = w->max_bandwidth,
		.reconnect = reconnect,
		.ctx = w,
		.doubt_ns = 20 * NS_PER_S,
		.late_rounds = 1 + (unsigned)sim_rand(s, 3),
		.recover_ns = 20 * NS_PER_S,
	};

	if (w->policy)
		cfg.policy = w->policy;
	if (cfg.policy->late) /* or it would fit into the blackout */
		cfg.limits.downtime_ns = 1;
	w->chunk = chunk;
	connect_world(w, chunk);
	*mem_fabric_faults(s->fabric) = w->faults;
	s->trouble = w->trouble;
	cfg.client = s->client;
	w->id = &r->id;
	w->began = s->now;
	s->step = step;
	return migrate_run(&cfg, r, e);
}

/* The guest where it is now, and what its memory was at the switch. */
static void expect_there(struct world *w)
{
	struct guest *there = guest_there(w);
	struct err e = { 0 };

	assert_non_null(there);
	assert_true(synth_running(there));
	assert_false(synth_running(w->guest));
	there->ops->pause(there, &e);
	if (there->ops->check(there, &e) < 0)
		fail_msg("%s", e.why);
}

static void expect_here(struct world *w)
{
	struct guest *there = w->there_dead ? NULL : guest_there(w);
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
	rc = migrate_world(w, &r, &e);
	if (rc < 0)
		fail_msg("migrated again: %s", e.why);
	assert_int_equal(r.outcome, OUTCOME_COMPLETED);
	assert_true(r.verified || rc == 0);
	expect_there(w);
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
	there = guest_there(w);
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
		expect_there(w);
		return;
	}
	assert_int_equal(st.phase, PHASE_HALTED);
	assert_false(synth_running(guest_there(w)));
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
			expect_there(w);
		break;
	case OUTCOME_INCOMPLETE:
		assert_true(rc < 0 && e->why[0] && r->late.pages);
		assert_false(synth_running(w->guest));
		if (!w->there_dead)
			judge_halted(w);
		break;
	case OUTCOME_IN_DOUBT:
		there = w->there_dead || r->late.pages ? NULL : guest_there(w);
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

	open_world(&w, seed);
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
	rc = migrate_world(&w, &r, &e);
	if (loud)
		printf("seed %llu: %d %s, %s, %u rounds, %llu late, fate %d%s\n", (unsigned long long)seed, rc,
		       migrate_outcome_name(r.outcome), e.why, r.n_rounds, (unsigned long long)r.late.pages,
		       (int)w.fate, w.there_dead ? ", there dead" : "");
	judge(&w, rc, &r, &e);
	outcomes[r.outcome]++;
	late_pages += r.late.pages;
	waited_for += r.late.network_faults;
	recoveries += r.late.recoveries;
	close_world(&w);
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

		open_world(&w, seed);
		w.writes = 2;
		assert_int_equal(migrate_world(&w, &r, &e), 0);
		there = guest_there(&w);
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
		close_world(&w);
	}
}

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

		open_world(&w, seed);
		w.writes = 1;
		w.hold_from = seed * 5 * NS_PER_MS;
		w.hold_until = w.hold_from + (seed == 3 ? 150 : 6) * NS_PER_S;
		w.max_bandwidth = 4u << 20;
		if (migrate_world(&w, &r, &e) < 0)
			fail_msg("seed %llu: %s", (unsigned long long)seed, e.why);
		assert_int_equal(r.outcome, OUTCOME_COMPLETED);
		expect_there(&w);
		held += r.held_ns > 5 * NS_PER_S;
		for (unsigned i = 0; i < r.n_rounds; i++)
			if (!r.rounds[i].paused) /* and what was encoded already, and frames */
				assert_true((double)r.rounds[i].bytes_wire <
					    1.05 * (double)w.max_bandwidth * (double)r.rounds[i].ns / 1e9 +
						    (192 << 10));
		close_world(&w);
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

		open_world(&w, 3 + i);
		w.policy = &migrate_policies[i];
		w.writes = 1;
		w.hold_until = 150 * NS_PER_S;
		if (migrate_world(&w, &r, &e) < 0)
			fail_msg("%s: %s", w.policy->name, e.why);
		assert_int_equal(r.outcome, OUTCOME_COMPLETED);
		assert_true(r.held_ns > 149 * NS_PER_S && r.downtime_ns < NS_PER_S);
		assert_true(w.paused_at - w.began >= w.hold_until);
		expect_there(&w);
		close_world(&w);
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

			open_world(&w, seed);
			w.policy = &migrate_policies[0];
			w.writes = 1;
			w.must_fit = true;
			w.hde.mode = HDE_NONE;
			w.max_bandwidth = 256u << 10;
			w.switchover = known ? 1000u << 20 : 0;
			assert_int_equal(migrate_world(&w, &r, &e), known ? 0 : -ETIMEDOUT);
			assert_true(known || strstr(e.why, "--switchover-bandwidth"));
			assert_int_equal(r.outcome, known ? OUTCOME_COMPLETED : OUTCOME_ROLLED_BACK);
			assert_true(!known || r.downtime_ns < 100 * NS_PER_MS);
			close_world(&w);
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

		open_world(&w, 3);
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
		if (migrate_world(&w, &r, &e) < 0)
			fail_msg("%s", e.why);
		assert_true(r.held_ns > NS_PER_S / 2 && r.n_rounds > 4);
		if (limited)
			assert_true(r.throttle > 0);
		else
			assert_int_equal(r.throttle, 0);
		assert_int_equal(throttled_by, 0);
		close_world(&w);
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

		open_world(&w, 3);
		w.policy = &migrate_policies[i];
		hde_opts_default(&w.hde, HDE_DATACENTER);
		if (migrate_world(&w, &r, &e) < 0)
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
		expect_there(&w);
		close_world(&w);
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

		open_world(&w, 3);
		w.policy = &migrate_policies[i];
		w.writes = 1;
		hde_opts_default(&w.hde, HDE_DATACENTER);
		w.cannot_unpack = true;
		if (migrate_world(&w, &r, &e) < 0)
			fail_msg("%s: %s", w.policy->name, e.why);
		assert_int_equal(r.outcome, OUTCOME_COMPLETED);
		assert_non_null(w.unpack);
		assert_int_equal(r.late.recoveries, 1);
		expect_there(&w);
		close_world(&w);
		unpack_close(w.unpack);
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
	open_world(&a, 11);
	a.writes = 3;
	assert_int_equal(migrate_world(&a, &r, &e), 0);
	open_world(&b, 12);
	own = b.guest;
	b.guest = guest_there(&a);
	assert_non_null(b.guest);
	free(b.at_switch);
	b.at_switch = malloc(b.guest->len);
	assert_non_null(b.at_switch);
	b.writes = 3;
	synth_step(b.guest, 100);
	assert_int_equal(migrate_world(&b, &r2, &e), 0);
	expect_there(&b);
	b.guest = own;
	close_world(&b);
	close_world(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_byte_by_byte),
		cmocka_unit_test(test_chain),
		cmocka_unit_test(test_held_and_paced),
		cmocka_unit_test(test_switchover_bandwidth),
		cmocka_unit_test(test_held_not_throttled),
		cmocka_unit_test(test_packed_refused),
		cmocka_unit_test(test_decoders_go),
		cmocka_unit_test(test_held_from_the_beginning),
		cmocka_unit_test(test_seeds),
	};

	return cmocka_run_group_tests_name("migrate/sim", tests, NULL, NULL);
}

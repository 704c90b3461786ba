/* SPDX-License-Identifier: MIT */
#include "kmod-free-tests/migrate_world.h"
#include "migrate/guest_synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

struct guest *world_there(struct world *w)
{
	return w->id ? dest_guest(w->dest, w->id) : NULL;
}

/* What must hold at every moment: never two. */
static void look_at(struct world *w)
{
	struct guest *there = w->there_dead ? NULL : world_there(w);

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
	there = w->there_dead ? NULL : world_there(w);
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

void world_open(struct world *w, uint64_t seed)
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

void world_close(struct world *w)
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

int world_migrate(struct world *w, struct migrate_result *r, struct err *e)
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

void world_expect_there(struct world *w)
{
	struct guest *there = world_there(w);
	struct err e = { 0 };

	assert_non_null(there);
	assert_true(synth_running(there));
	assert_false(synth_running(w->guest));
	there->ops->pause(there, &e);
	if (there->ops->check(there, &e) < 0)
		fail_msg("%s", e.why);
}

/* SPDX-License-Identifier: MIT */
/*
 * A running session is steered: streams come and go, congestion control changes, the mode switches by what the path is
 * like. Nothing may be lost, and nothing sent twice: over a network without faults that is exact.
 */
#include "kmod-free-tests/sim.h"
#include "transport/client_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define BYTES (2u << 20)
#define CHUNK 8192
#define STREAMS 12

struct flight {
	struct sim sim;
	uint8_t *src;
	struct be_token token;
	struct amst_tx tx;
};

static void take_off(struct flight *f, const struct mem_faults *faults, uint64_t seed, const struct client_config *how)
{
	struct client_config cfg;
	struct err e = { 0 };

	f->src = malloc(BYTES);
	assert_non_null(f->src);
	rng_fill(f->src, BYTES, seed);
	assert_int_equal(sim_open(&f->sim, &mem_ops, faults, seed, 2, NULL), 0);
	cfg = sim_client(&f->sim);
	cfg.streams = STREAMS;
	cfg.workers = 2;
	cfg.streams_first = how->streams_first;
	cfg.pilot = how->pilot;
	cfg.mode = how->mode;
	cfg.mode_steers = how->mode_steers;
	assert_int_equal(client_open(&f->sim.client, &cfg, NULL, &e), 0);
	assert_int_equal(client_region_make(f->sim.client, 1, BYTES, 0, &f->token, NULL, &e), 0);
}

/* All of it, each chunk once. */
static void fly(struct flight *f, uint64_t passes, const struct client_tick *tick)
{
	struct amst_extent x = { .len = BYTES };
	struct amst_counters before, after;
	struct msg_xfer_result r;
	struct be_counters bc;
	struct err e = { 0 };
	uint64_t len;
	int rc;

	f->tx = (struct amst_tx){ .chunk = CHUNK,
				  .sum = SUM_XXH3,
				  .passes = passes,
				  .extents = &x,
				  .n_extents = 1,
				  .base = f->src,
				  .token = f->token };
	amst_counters(client_amst(f->sim.client), &before, &bc);
	rc = client_transfer(f->sim.client, &f->tx, XFER_PUT, tick, &r, &e);
	if (rc)
		print_error("%s\n", e.why);
	assert_int_equal(rc, 0);
	assert_true(r.whole);
	amst_counters(client_amst(f->sim.client), &after, &bc);
	assert_int_equal(after.chunks_sent - before.chunks_sent, f->tx.acked);
	assert_int_equal(r.placed, f->tx.acked);
	assert_int_equal(after.chunks_returned, 0);
	if (passes != UINT64_MAX)
		assert_int_equal(f->tx.acked_bytes, passes * BYTES);
	assert_memory_equal(sim_region(&f->sim, 1, &len), f->src, BYTES);
}

static void land(struct flight *f)
{
	sim_close(&f->sim);
	free(f->src);
}

static struct mem_faults calm(uint64_t delay_ns, uint64_t bytes_per_s)
{
	struct mem_path p = { .delay_ns = delay_ns, .bytes_per_s = bytes_per_s };

	return (struct mem_faults){ .path = { p, p }, .done_delay_ns = NS_PER_MS };
}

/* ---- streams ------------------------------------------------------------------------------------ */

static void come_and_go(struct sim *s)
{
	if (!s->client || !s->client->established || sim_rand(s, 30))
		return;
	if (sim_rand(s, 6))
		client_set_streams(s->client, 1 + (unsigned)sim_rand(s, STREAMS + 3));
	else
		client_renew_streams(s->client);
}

static void test_nothing_lost_nothing_twice(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 60; seed++) {
		struct mem_faults faults = calm(seed % 3 * NS_PER_MS, seed % 2 ? 0 : 20000000);
		struct flight f;

		take_off(&f, &faults, seed, &(struct client_config){ .streams_first = 1 + (unsigned)seed % STREAMS });
		assert_int_equal(client_streams_up(f.sim.client), 1 + seed % STREAMS);
		f.sim.step = come_and_go;
		for (unsigned round = 0; round < 3; round++)
			fly(&f, 2, NULL);
		f.sim.step = NULL;
		assert_int_equal(client_reconnects(f.sim.client), 0);
		/* It comes to rest at what was asked for last. */
		client_set_streams(f.sim.client, 5);
		for (int i = 0; i < 5000 && (f.sim.client->open_streams != 5 || client_streams_up(f.sim.client) != 5 ||
					     sim_counters(&f.sim).streams_now != 5);
		     i++)
			assert_int_equal(client_turn(f.sim.client, 0, NULL), 0);
		assert_int_equal(client_streams_up(f.sim.client), 5);
		assert_int_equal(sim_counters(&f.sim).streams_now, 5);
		land(&f);
	}
}

static void test_bounds(void **state)
{
	struct mem_faults faults = calm(0, 0);
	struct flight f;

	(void)state;
	take_off(&f, &faults, 1, &(struct client_config){ .streams_first = 500 });
	assert_int_equal(f.sim.client->wanted, STREAMS);
	client_set_streams(f.sim.client, 0);
	assert_int_equal(f.sim.client->wanted, 1);
	client_set_streams(f.sim.client, UINT32_MAX);
	assert_int_equal(f.sim.client->wanted, STREAMS);
	fly(&f, 1, NULL);
	land(&f);
}

/* ---- the pilot ---------------------------------------------------------------------------------- */

struct log {
	unsigned looks, told;
	uint64_t bytes, ns, last_ns;
	uint32_t most, least;
};

static bool log_look(void *ctx, const struct pilot_seen *s, struct pilot_wants *w)
{
	struct log *l = ctx;

	assert_true(s->ns > 0 && s->at_ns > l->last_ns);
	assert_int_equal(s->chunk, CHUNK);
	assert_false(s->starved);
	assert_true(s->rtt_ns == 2 * NS_PER_MS && s->rtt_least_ns == 2 * NS_PER_MS);
	assert_true(s->queue <= 64u << 20);
	l->last_ns = s->at_ns;
	l->looks++;
	l->bytes += s->bytes;
	l->ns += s->ns;
	l->most = s->streams > l->most ? s->streams : l->most;
	l->least = s->streams < l->least ? s->streams : l->least;
	w->streams = l->looks % 4 < 2 ? 2 : 1000; /* more than there can be */
	w->window = l->looks % 2 ? 1 : UINT64_MAX;
	w->chunk = 4096;
	l->told++;
	return true;
}

static void test_pilot(void **state)
{
	static const struct pilot_ops ops = { .name = "log", .look = log_look };
	struct mem_faults faults = calm(NS_PER_MS, 4000000);
	struct log l = { .least = UINT32_MAX };
	struct flight f;

	(void)state;
	take_off(&f, &faults, 3, &(struct client_config){ .pilot = { &ops, &l } });
	assert_int_equal(client_chunk(f.sim.client, 77), 77);
	fly(&f, 8, NULL);
	assert_true(l.looks >= 20);
	assert_true(l.bytes <= 8 * BYTES && l.bytes > 6 * BYTES);
	assert_int_equal(l.most, STREAMS);
	assert_int_equal(l.least, 2);
	assert_int_equal(client_chunk(f.sim.client, 77), 4096);
	land(&f);
}

/* ---- the mode ----------------------------------------------------------------------------------- */

static bool all_send_by(struct client *c, const char *name)
{
	for (uint32_t i = 0; i < c->cfg.streams; i++)
		if (amst_path(c->amst, i)->up && strcmp(amst_path(c->amst, i)->info.congestion, name))
			return false;
	return true;
}

/* A link that goes far away and comes back, and an end when both switches are seen. */
struct trip {
	struct flight f;
	struct mode mode;
	enum mode_kind seen[4];
	unsigned n;
	bool steered[4];
};

static bool travel(void *ctx, uint64_t now_ns, uint64_t bytes)
{
	struct trip *t = ctx;
	struct client *c = t->f.sim.client;

	(void)now_ns;
	(void)bytes;
	if (t->n && t->mode.now == t->seen[t->n - 1]) {
		t->steered[t->n - 1] |= all_send_by(c, mode_ways[t->mode.now].congestion);
		return t->n == 3 && t->steered[2];
	}
	assert_true(t->n < 3);
	t->seen[t->n++] = t->mode.now;
	*mem_fabric_faults(t->f.sim.fabric) = t->n == 1 ? calm(30 * NS_PER_MS, 40000000) : calm(100000, 140000000);
	return false;
}

static void test_mode_switches_there_and_back(void **state)
{
	struct mode_rules rules = mode_documented;
	struct mem_faults near = calm(100000, 140000000);
	struct trip t = { .n = 0 };
	const struct client_tick tick = { .fn = travel, .ctx = &t };

	(void)state;
	rules.interval_ns = 200 * NS_PER_MS; /* the documented proportions, faster */
	rules.least_ns = 1200 * NS_PER_MS;
	mode_init(&t.mode, &rules);
	take_off(&t.f, &near, 4, &(struct client_config){ .mode = &t.mode, .mode_steers = true });
	assert_int_equal(t.mode.now, MODE_DATACENTER); /* by the round trip alone, before a byte moved */
	fly(&t.f, UINT64_MAX, &tick);
	assert_int_equal(t.n, 3);
	assert_int_equal(t.seen[0], MODE_DATACENTER);
	assert_int_equal(t.seen[1], MODE_INTERNET);
	assert_int_equal(t.seen[2], MODE_DATACENTER);
	assert_true(t.steered[0] && t.steered[1] && t.steered[2]);
	assert_int_equal(t.mode.switches, 2);
	assert_int_equal(client_reconnects(t.f.sim.client), 0);
	land(&t.f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_lost_nothing_twice),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_pilot),
		cmocka_unit_test(test_mode_switches_there_and_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

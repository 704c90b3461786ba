/* SPDX-License-Identifier: MIT */
#include "kmod-free-tests/sim.h"

#include "transport/amst_impl.h"
#include "transport/client_impl.h"
#include "transport/session.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_NS (200 * NS_PER_US)
#define STEP_LEAST_NS (10 * NS_PER_US)
#define DARK_STEP_NS (5 * NS_PER_MS) /* while nothing can arrive, or nobody waits */

void sim_failed(const char *file, int line, const char *what)
{
	fprintf(stderr, "%s:%d: %s does not hold\n", file, line, what);
	abort();
}

uint64_t sim_rand(struct sim *s, uint64_t n)
{
	return rng_next(&s->rng) % n;
}

struct mem_faults sim_faults(struct sim *r, bool corrupt)
{
	struct mem_faults f = { 0 };

	for (int d = 0; d < 2; d++) {
		f.path[d].delay_ns = sim_rand(r, 3) ? sim_rand(r, 2 * NS_PER_MS) : 0;
		f.path[d].jitter_ns = sim_rand(r, 2) ? sim_rand(r, 3 * NS_PER_MS) : 0;
		f.path[d].bytes_per_s = sim_rand(r, 4) ? 0 : 10000000 + sim_rand(r, 1000000000);
	}
	f.done_delay_ns = sim_rand(r, 2) ? sim_rand(r, NS_PER_MS) : 0;
	f.done_jitter_ns = sim_rand(r, 2) ? sim_rand(r, NS_PER_MS) : 0;
	f.notice_jitter_ns = sim_rand(r, 2) ? sim_rand(r, (sim_rand(r, 2) ? 20 : 200) * NS_PER_MS) : 0;
	f.short_ppm = sim_rand(r, 2) ? (uint32_t)sim_rand(r, 400000) : 0;
	f.torn_ppm = sim_rand(r, 2) ? (uint32_t)sim_rand(r, 300000) : 0;
	f.drop_ppm = sim_rand(r, 2) ? (uint32_t)sim_rand(r, 15000) : 0;
	f.late_ppm = sim_rand(r, 2) ? (uint32_t)sim_rand(r, 1000000) : 0;
	f.refuse_ppm = sim_rand(r, 4) ? 0 : (uint32_t)sim_rand(r, 200000);
	f.lose_ppm = sim_rand(r, 4) ? 0 : (uint32_t)sim_rand(r, 100000);
	f.corrupt_ppm = corrupt ? (uint32_t)sim_rand(r, 20000) : 0;
	f.connect_timeout_ns = 200 * NS_PER_MS;
	f.idle_timeout_ns = 2 * NS_PER_S;
	return f;
}

struct sim_trouble sim_troubles(struct sim *r)
{
	return (struct sim_trouble){
		.drop_control = sim_rand(r, 4) ? 0 : (uint32_t)sim_rand(r, 20000),
		.drop_stream = sim_rand(r, 2) ? 0 : (uint32_t)sim_rand(r, 50000),
		.partition = sim_rand(r, 8) ? 0 : 1000,
		.partition_ns = 4 * NS_PER_S,
		.times = (uint32_t)sim_rand(r, 20),
	};
}

static bool befalls(struct sim *s, uint32_t ppm)
{
	return ppm && sim_rand(s, 1000000) < ppm;
}

static void make_trouble(struct sim *s)
{
	struct sim_trouble *t = &s->trouble;

	if (s->heal_at && s->now >= s->heal_at) {
		mem_partition(s->fabric, false);
		s->heal_at = 0;
	}
	if (t->times && befalls(s, t->drop_control)) {
		t->times--;
		sim_drop_control(s);
	}
	if (t->times && s->client && befalls(s, t->drop_stream)) {
		t->times--;
		sim_drop_stream(s, (uint32_t)sim_rand(s, s->client->cfg.streams));
	}
	if (t->times && !s->heal_at && befalls(s, t->partition)) {
		t->times--;
		s->heal_at = s->now + 1 + sim_rand(s, t->partition_ns);
		mem_partition(s->fabric, true);
	}
	if (s->step)
		s->step(s);
}

/* What must hold at every moment, whatever happens: a session goes on only when no stream of before is left. */
static void check(struct sim *s)
{
	const struct client *c = s->client;

	if (c && c->lost_at && c->ctl_state == CTL_CONNECTING)
		sim_must(!c->open_streams);
	for (uint32_t i = 0; s->server && i < s->server->cfg.sessions; i++)
		if (s->server->counters.sessions_resumed != s->resumed && s->server->counters.sessions_now == 1 &&
		    s->server->sessions[i].used)
			sim_must(!s->server->sessions[i].live);
	s->resumed = s->server ? s->server->counters.sessions_resumed : 0;
}

static void drive(void *ctx)
{
	struct sim *s = ctx;
	uint64_t next = mem_fabric_next(s->fabric), step = s->heal_at || s->idle ? DARK_STEP_NS : STEP_NS;

	make_trouble(s);
	if (s->server)
		server_turn(s->server, 0);
	check(s);
	/* What is overdue waits for somebody to poll: time must not stand still for it. */
	s->now += max_u64(min_u64(next - s->now, step), STEP_LEAST_NS);
}

void sim_run(struct sim *s, uint64_t ns)
{
	s->idle = true;
	for (uint64_t until = s->now + ns; s->now < until;)
		drive(s);
	s->idle = false;
}

static int open_sim(struct sim *s, const struct be_ops *ops, const struct mem_faults *faults, uint64_t seed,
		    unsigned workers, struct store *store, struct service service)
{
	struct server_config cfg = {
		.ops = ops,
		.workers = workers,
		.sessions = 4,
		.memory_max = 64u << 20,
		.store = store,
		.service = service,
		.timeout_ns = 60 * NS_PER_S,
		.release = "sim",
		.seed = seed ^ 0x5e77e7,
		.manual = true,
	};
	struct err e;
	int rc;

	memset(s, 0, sizeof *s);
	s->ops = ops;
	s->rng = seed;
	s->now = NS_PER_S;
	s->at.in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(7411) };
	s->at.len = sizeof s->at.in;
	rc = mem_fabric_open(&s->fabric, faults, seed, clock_manual(&s->now), &e);
	if (rc < 0)
		return rc;
	cfg.clock = clock_manual(&s->now);
	cfg.fabric = s->fabric;
	cfg.listen = s->at;
	return server_open(&s->server, &cfg, &e);
}

int sim_open(struct sim *s, const struct be_ops *ops, const struct mem_faults *faults, uint64_t seed, unsigned workers,
	     struct store *store)
{
	return open_sim(s, ops, faults, seed, workers, store, (struct service){ .ops = NULL });
}

int sim_open_service(struct sim *s, const struct be_ops *ops, uint64_t seed, unsigned workers, struct service service)
{
	return open_sim(s, ops, NULL, seed, workers, NULL, service);
}

struct client_config sim_client(struct sim *s)
{
	return (struct client_config){
		.target = "sim:7411",
		.addrs = &s->at,
		.n_addrs = 1,
		.ops = s->ops,
		.streams = 1,
		.workers = 1,
		.sum = SUM_XXH3,
		.timeout_ns = 30 * NS_PER_S,
		.clock = clock_manual(&s->now),
		.seed = rng_next(&s->rng),
		.manual = true,
		.fabric = s->fabric,
		.drive = drive,
		.drive_ctx = s,
	};
}

void sim_calm(struct sim *s)
{
	s->trouble = (struct sim_trouble){ 0 };
	s->step = NULL;
	s->heal_at = 0;
	mem_partition(s->fabric, false);
	*mem_fabric_faults(s->fabric) = (struct mem_faults){ 0 };
}

void sim_close(struct sim *s)
{
	if (s->fabric)
		sim_calm(s);
	client_close(s->client);
	server_close(s->server);
	mem_fabric_close(s->fabric);
}

/* ---- trouble on purpose ------------------------------------------------------------------------ */

void sim_drop_control(struct sim *s)
{
	if (s->client && s->client->ctl && s->client->ctl_stream)
		mem_drop(s->client->ctl, s->client->ctl_stream);
}

void sim_drop_stream(struct sim *s, uint32_t i)
{
	struct amst *a = s->client ? s->client->amst : NULL;
	struct worker *w = a ? &a->w[i % a->n] : NULL;

	if (w && w->streams[i / a->n].h)
		mem_drop(w->be, w->streams[i / a->n].h);
}

static void crash_amst(struct amst *a)
{
	for (unsigned i = 0; a && i < a->n; i++)
		mem_crash(a->w[i].be);
}

void sim_crash_client(struct sim *s)
{
	mem_crash(s->client->ctl);
	crash_amst(s->client->amst);
}

void sim_crash_server(struct sim *s)
{
	mem_crash(s->server->ctl);
	for (uint32_t i = 0; i < s->server->cfg.sessions; i++)
		if (s->server->sessions[i].used)
			crash_amst(s->server->sessions[i].amst);
}

/* ---- what is over there ------------------------------------------------------------------------ */

uint8_t *sim_region(struct sim *s, uint32_t id, uint64_t *len)
{
	for (uint32_t i = 0; i < s->server->cfg.sessions; i++) {
		struct session *x = &s->server->sessions[i];

		if (x->used && !x->dying && x->regions[id].addr) {
			*len = x->regions[id].len;
			return x->regions[id].addr;
		}
	}
	return NULL;
}

struct server_counters sim_counters(struct sim *s)
{
	struct server_counters sc;
	struct amst_counters ac;
	struct be_counters bc;

	server_counters(s->server, &sc, &ac, &bc);
	return sc;
}

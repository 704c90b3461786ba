/* SPDX-License-Identifier: MIT */
#include "kmod-free-tests/sim.h"

#include "transport/session.h"
#include <errno.h>
#include <string.h>

#define STEP_NS (200 * NS_PER_US) /* the clock moves at most so far at once… */
#define STEP_LEAST (5 * NS_PER_US) /* …and at least so far, or a run of tiny steps takes for ever */

static void drive(void *ctx)
{
	struct sim *s = ctx;
	uint64_t next = mem_fabric_next(s->fabric);

	if (s->trouble)
		s->trouble(s);
	server_turn(s->server, 0);
	s->now = max_u64(min_u64(next, s->now + STEP_NS), s->now + STEP_LEAST);
}

uint64_t sim_rand(struct sim *s, uint64_t n)
{
	return rng_next(&s->rng) % n;
}

int sim_open(struct sim *s, const struct be_ops *ops, const struct mem_faults *faults, uint64_t seed, unsigned workers,
	     struct store *store)
{
	struct server_config cfg = {
		.ops = ops,
		.workers = workers,
		.sessions = 4,
		.memory_max = 64u << 20,
		.store = store,
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

struct client_config sim_client(struct sim *s)
{
	return (struct client_config){
		.target = "sim:7411",
		.addrs = &s->at,
		.n_addrs = 1,
		.ops = s->ops,
		.streams = 1,
		.workers = 1,
		.timeout_ns = 30 * NS_PER_S,
		.clock = clock_manual(&s->now),
		.seed = rng_next(&s->rng),
		.manual = true,
		.fabric = s->fabric,
		.drive = drive,
		.drive_ctx = s,
	};
}

void sim_close(struct sim *s)
{
	client_close(s->client);
	server_close(s->server);
	mem_fabric_close(s->fabric);
}

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

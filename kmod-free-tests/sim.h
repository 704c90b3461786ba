/* SPDX-License-Identifier: MIT */
/*
 * A server and a client in one thread over the mem backend, on a clock of their own: a run is a function of its seed.
 */
#ifndef DWCP_TESTS_SIM_H
#define DWCP_TESTS_SIM_H

#include "transport/client.h"
#include "transport/mem.h"
#include "transport/server.h"

struct sim {
	uint64_t now;
	struct mem_fabric *fabric;
	struct server *server;
	struct client *client;
	const struct be_ops *ops;
	struct be_addr at;
	uint64_t rng;
	/* Called with every step, to make trouble. */
	void (*trouble)(struct sim *s);
	void *trouble_ctx;
};

/* Opens fabric and server. store may be NULL. 0 or -errno. */
int sim_open(struct sim *s, const struct be_ops *ops, const struct mem_faults *faults, uint64_t seed, unsigned workers,
	     struct store *store);
/* Fills what every client of the simulation shares. */
struct client_config sim_client(struct sim *s);
void sim_close(struct sim *s);

/* The memory of the server's region `id` in its first live session, and its length. */
uint8_t *sim_region(struct sim *s, uint32_t id, uint64_t *len);

/* 0 … n-1 */
uint64_t sim_rand(struct sim *s, uint64_t n);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * A server and a client in one thread over the mem backend, on a clock of their own: a run is a function of its seed.
 */
#ifndef DWCP_TESTS_SIM_H
#define DWCP_TESTS_SIM_H

#include "transport/client.h"
#include "transport/mem.h"
#include "transport/server.h"

/* What may befall a session between two steps of 200 µs, in parts per million. */
struct sim_trouble {
	uint32_t drop_control;
	uint32_t drop_stream;
	uint32_t partition;
	uint64_t partition_ns; /* at most so long */
	uint32_t times;        /* in all at most so often */
};

struct sim {
	uint64_t now;
	struct mem_fabric *fabric;
	struct server *server;
	struct client *client;
	const struct be_ops *ops;
	struct be_addr at;
	uint64_t rng;
	struct sim_trouble trouble;
	uint64_t heal_at; /* 0: not partitioned */
	uint64_t resumed; /* sessions, so far */
	bool idle;        /* sim_run: the client does nothing */
	/* Called with every step, to make more trouble. */
	void (*step)(struct sim *s);
	void *step_ctx;
};

/* Opens fabric and server. store may be NULL. 0 or -errno. */
int sim_open(struct sim *s, const struct be_ops *ops, const struct mem_faults *faults, uint64_t seed, unsigned workers,
	     struct store *store);
/* The same with a service. */
int sim_open_service(struct sim *s, const struct be_ops *ops, uint64_t seed, unsigned workers, struct service service);
/* Fills what every client of the simulation shares. */
struct client_config sim_client(struct sim *s);
/* A perfect network from now on; client and server end. */
void sim_close(struct sim *s);

/* Server and time go on, the client does nothing. */
void sim_run(struct sim *s, uint64_t ns);

/* A bad network, and what befalls the session on it: random, but so that it can be survived. */
struct mem_faults sim_faults(struct sim *r, bool corrupt);
struct sim_trouble sim_troubles(struct sim *r);

/* No trouble and a perfect network from now on. */
void sim_calm(struct sim *s);

/* Breaks the client's control stream, or data stream number `i`. */
void sim_drop_control(struct sim *s);
void sim_drop_stream(struct sim *s, uint32_t i);

/* Every instance of the client or of the server is dead from now on; sim_close or client_close frees it. */
void sim_crash_client(struct sim *s);
void sim_crash_server(struct sim *s);

/* The memory of the server's region `id` in its first live session, and its length. */
uint8_t *sim_region(struct sim *s, uint32_t id, uint64_t *len);

struct server_counters sim_counters(struct sim *s);

/* For what fuzzers use, too: cmocka is not there. */
#define sim_must(x) ((x) ? (void)0 : sim_failed(__FILE__, __LINE__, #x))
void sim_failed(const char *file, int line, const char *what) __attribute__((noreturn));

/* 0 … n-1 */
uint64_t sim_rand(struct sim *s, uint64_t n);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * When to send another round and when to switch over. Sans I/O: told what each round was, it answers what comes next.
 * The migration (session.c) and the simulator (sim.h) run this same code.
 *
 * What is left is predicted to take
 *
 *     pages × bytes per page ÷ bandwidth + fixed costs
 *
 * with bytes per page and bandwidth as the last rounds had them (or a greater bandwidth that the blackout is said to have,
 * which is not slowed down where rounds are), and the fixed costs (pausing, looking for dirty pages,
 * the round's and the hand-over's round trips) as measured so far.
 */
#ifndef DWCP_MIGRATE_ROUND_H
#define DWCP_MIGRATE_ROUND_H

#include <stdbool.h>
#include <stdint.h>

struct round_config {
	uint64_t downtime_ns;          /* limit of the blackout */
	uint64_t timeout_ns;           /* of all of it, since round_begin */
	uint32_t rounds_max;           /* of pre-copy */
	uint64_t blackout_bytes_per_s; /* that it may count on where rounds are slowed down; 0: what they had */
};

/* A round that has ended. */
struct round_sample {
	uint64_t pages;
	uint64_t bytes_wire;
	uint64_t ns;
	uint64_t dirtied; /* pages found written since the round before was planned… */
	uint64_t over_ns; /* …in so long */
};

enum round_next {
	ROUND_MORE,    /* send what is dirty, the guest running */
	ROUND_SWITCH,  /* pause and send the rest: it fits the limit */
	ROUND_TIMEOUT, /* time or rounds are used up, and it does not fit */
};

struct round_plan {
	struct round_config cfg;
	uint64_t began_ns;
	uint32_t rounds;
	uint32_t polished; /* rounds since what is left fitted the limit */
	double bandwidth;  /* bytes/s */
	double page_bytes; /* on the wire */
	double dirty_rate; /* pages/s */
	uint64_t round_ns; /* what a round takes besides its bytes, least seen */
	uint64_t fixed_ns; /* of the blackout, besides a round */
};

void round_begin(struct round_plan *p, const struct round_config *cfg, uint64_t now_ns);

/* What the blackout costs besides its round: a pause, one look for dirty pages and two calls, as long as they were
 * measured to take last. */
void round_fixed(struct round_plan *p, uint64_t look_ns, uint64_t rtt_ns);

void round_note(struct round_plan *p, const struct round_sample *s);

/* How long the blackout would last if it began now with so many dirty pages. */
uint64_t round_predict(const struct round_plan *p, uint64_t pending);

enum round_next round_decide(struct round_plan *p, uint64_t pending, uint64_t now_ns);

#endif

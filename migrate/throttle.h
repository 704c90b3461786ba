/* SPDX-License-Identifier: MIT */
/*
 * How much of its time a guest is denied, so that rounds get shorter. Sans I/O; the migration (session.c) and the
 * simulator (sim.h) run this same code. Only where it was asked for: a guest is never slowed down by itself.
 */
#ifndef DWCP_MIGRATE_THROTTLE_H
#define DWCP_MIGRATE_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

#define THROTTLE_MOST 99 /* percent */

struct throttle_config {
	bool auto_converge; /* a step more when rounds do not get shorter */
	double dirty_limit; /* pages/s; 0: none */
};

struct throttle {
	struct throttle_config cfg;
	unsigned percent; /* in force */
	unsigned stalled; /* rounds in a row that left nearly what they had to send */
};

/* After a round of `sent` pages that left `pending`, the guest dirtying so many pages per second with `percent` in force.
 * Returns what is to be in force from now on, and takes it to be. */
unsigned throttle_next(struct throttle *t, uint64_t sent, uint64_t pending, double dirty_rate);

#endif

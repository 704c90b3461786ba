/* SPDX-License-Identifier: MIT */
/*
 * Fair shares of a few resources among many jobs. Each job makes progress at a speed; at speed 1 it uses need[r] of
 * resource r. All get the same part of the resource that they need most of (dominant resource fairness: Ghodsi et al.,
 * NSDI 2011), and what one cannot use is the others'. Where all wait for the same thing, a link or the CPUs, each has
 * the same of it, as with TCP and a round-robin scheduler. Sans I/O.
 */
#ifndef DWCP_MIGRATE_SIM_SHARE_H
#define DWCP_MIGRATE_SIM_SHARE_H

#include <stdbool.h>
#include <stddef.h>

enum { SHARE_SOURCE, SHARE_LINK, SHARE_DEST, SHARE_RESOURCES };

struct share_job {
	double need[SHARE_RESOURCES]; /* per unit of progress; 0: does not use it */
	double most;                  /* speed that it has alone, finite */
	double speed;                 /* the answer */
	/* while it is worked out */
	double weight; /* speed for a dominant share of 1 */
	bool settled;
};

/* Sets every job's speed. capacity: of each resource, INFINITY where there is no limit. */
void share_fairly(struct share_job *const *jobs, size_t n, const double capacity[SHARE_RESOURCES]);

#endif

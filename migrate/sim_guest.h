/* SPDX-License-Identifier: MIT */
/*
 * A guest in figures: how many of its pages are found written after it ran for a while. The patterns are those of
 * guest_synth.h, worked out instead of carried out, so that a guest of 32 GB takes no more room than one of 1 MB.
 */
#ifndef DWCP_MIGRATE_SIM_GUEST_H
#define DWCP_MIGRATE_SIM_GUEST_H

#include "migrate/guest_synth.h"

struct sim_guest {
	double pages;
	int pattern;     /* enum synth_pattern */
	double writes;   /* per second, when nobody slows it down */
	double set;      /* pages that are written to */
	double slowed;   /* share of its time that it is denied */
	uint64_t *noise; /* random numbers; NULL: the mean */
};

/* Pages found written at `to`, of those that were clean at `from` (seconds that it has run). */
double sim_guest_dirty(const struct sim_guest *g, double from, double to);

/* The same where every page was made clean some time between the two, one after the other. */
double sim_guest_dirty_behind(const struct sim_guest *g, double from, double to);

/* Share of its pages that lie in 2 MB of which a page was written to between the two. */
double sim_guest_touched(const struct sim_guest *g, double from, double to);

/* Writes per second at a moment. */
double sim_guest_rate(const struct sim_guest *g, double at);

#endif

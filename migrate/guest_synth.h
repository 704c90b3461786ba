/* SPDX-License-Identifier: MIT */
/*
 * A guest made of threads: memory filled with the documented mix (60 % zero pages, 30 % text, 10 % random) or from an
 * image file, and writers that dirty it at a set rate in a set pattern. Each write advances a counter and a hash chain in
 * its page and a sum in the writer's registers; `check` walks memory and finds a single write that was lost, repeated,
 * or only half there.
 */
#ifndef DWCP_MIGRATE_GUEST_SYNTH_H
#define DWCP_MIGRATE_GUEST_SYNTH_H

#include "migrate/guest.h"

enum synth_pattern {
	SYNTH_UNIFORM,    /* every page of the working set alike */
	SYNTH_ZIPF,       /* few pages get most writes */
	SYNTH_SEQUENTIAL, /* one after the other */
	SYNTH_BURSTY,     /* uniform; a fifth of each second at five times the rate */
	SYNTH_PHASES,     /* uniform; the working set moves every two seconds */
	SYNTH_PATTERNS
};

extern const char *const synth_pattern_names[]; /* NULL-terminated, same order */

struct synth_opts {
	int pattern;
	double dirty_rate;  /* page writes per second, in percent of memory's pages */
	double working_set; /* percent of memory that is written to */
	uint32_t threads;
	uint64_t seed;
	char image[4096]; /* "" the mix */
	bool compute;     /* read and hash memory between writes, as fast as it goes: `work` counts it */
	bool stepped;     /* no threads: synth_step does the writing (simulations) */
};

extern const struct guest_ops guest_synth_ops;

/* A stepped guest, of either side: while it runs, makes so many writes. Does nothing while it is paused. */
void synth_step(struct guest *g, unsigned writes);
bool synth_running(const struct guest *g);
/* A stepped guest asks before each write whether the page is there; false: that write waits for the next step. */
void synth_gate(struct guest *g, bool (*there)(void *ctx, uint64_t page), void *ctx);

#endif

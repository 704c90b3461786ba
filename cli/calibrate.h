/* SPDX-License-Identifier: MIT */
/* What `dwcp calibrate` (cmd_calibrate.c) measures, in calibrate_run.c. */
#ifndef DWCP_CLI_CALIBRATE_H
#define DWCP_CLI_CALIBRATE_H

#include "cli/bench_peer.h"
#include "cli/transfer.h"
#include "migrate/sim_fit.h"

enum contents { CONTENTS_ZEROS, CONTENTS_RANDOM, CONTENTS_MIX };

/* One migration between two processes of this host. */
struct calibrate_move {
	enum contents contents;
	uint64_t memory;
	double dirty_rate; /* percent of pages per second */
	int hde;           /* enum hde_mode */
	bool one_stream;
};

struct calibrate {
	uint64_t memory;
	unsigned turns;
	struct transfer_opts transfer_opts;
	const struct tracker_ops *tracker;
	struct sim_turn turn[SIM_TURNS_MAX];
	unsigned done; /* turns */
	void (*progress)(unsigned turn, unsigned turns, unsigned move, unsigned moves);
};

/* The next turn. -EINTR: interrupted. */
int calibrate_run_turn(struct calibrate *c, struct err *e);

#endif

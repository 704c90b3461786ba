/* SPDX-License-Identifier: MIT */
/*
 * From migrations that were measured to what things cost (sim_rates.h). Sans I/O: `dwcp calibrate` carries out the
 * moves, this works out the figures, and test_sim_fit lets the simulator carry them out and gets its own figures back.
 */
#ifndef DWCP_MIGRATE_SIM_FIT_H
#define DWCP_MIGRATE_SIM_FIT_H

#include "migrate/session.h"
#include "migrate/sim_rates.h"

#define SIM_TURNS_MAX 25
#define SIM_SLOW_RATE 20 /* per cent of memory a second, of MOVE_SLOW… */
#define SIM_FAST_RATE 150

/* The moves of a turn, each once, of guests without zeros unless it says so. */
enum sim_move {
	MOVE_TINY,   /* 1 MB of zeros: what does not depend on pages */
	MOVE_ZEROS,  /* a page of zeros */
	MOVE_RAW,    /* any other */
	MOVE_SINGLE, /* with one worker */
	MOVE_SLOW,   /* rounds of few pages… */
	MOVE_FAST,   /* …and of many */
	MOVE_HDE,    /* three for each mode: tiny; the documented mix at rest; written to */
	MOVES = MOVE_HDE + 3 * SIM_MODES
};

struct sim_seen {
	struct migrate_result r;
	/* CPU time of the two processes: making memory there, beginning to track here, and the first round. */
	double make_ns, track_ns, source_ns, dest_ns;
};

struct sim_turn {
	struct sim_seen move[MOVES];
	/* By themselves, without a migration. */
	double guest_cpus;         /* of a guest that writes nothing */
	double write_ns, fault_ns; /* the guest's time: a write; the first to a page since it was made clean */
};

/* Medians over n turns, 1 … SIM_TURNS_MAX. -EINVAL: impossible figures (e says which): the machine was too busy. */
int sim_fit(const struct sim_turn *turns, unsigned n, struct sim_rates *r, struct err *e);

#endif

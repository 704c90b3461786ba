/* SPDX-License-Identifier: MIT */
/* One whole migration over the mem backend, on a clock of its own: a guest that writes at every step, and what befalls it. */
#ifndef DWCP_TESTS_MIGRATE_WORLD_H
#define DWCP_TESTS_MIGRATE_WORLD_H

#include "base/hugebuf.h"
#include "kmod-free-tests/sim.h"
#include "migrate/dest_impl.h"
#include "migrate/session.h"

enum fate { FATE_NONE, FATE_CANCEL, FATE_CRASH, FATE_PARTITION }; /* FATE_CRASH: of the destination */

struct world {
	struct sim sim;
	struct dest *dest;
	struct hugebuf mem;
	struct guest *guest;
	uint8_t *at_switch;            /* memory when it was paused last… */
	uint64_t paused_at;            /* …and when that was */
	const struct msg_guest_id *id; /* when it is known */
	unsigned writes;               /* of each step */
	enum fate fate;
	uint64_t fate_at;      /* steps from now, or… */
	bool fate_in_blackout; /* …from when the guest is paused */
	bool there_dead;
	volatile sig_atomic_t cancel, hold;
	uint64_t hold_from, hold_until; /* since the migration's begin… */
	uint64_t hold_every;            /* …half of each so long; 0: all of it */
	uint64_t held_since;
	uint32_t chunk;
	bool cannot_unpack;
	struct unpack *unpack;         /* that was taken away from the destination */
	const unsigned *throttle_held; /* must be 0 meanwhile */
	bool auto_converge;
	uint64_t dirty_limit;
	uint64_t began;
	uint64_t max_bandwidth, switchover;
	bool must_fit;            /* it is not switched over by force */
	struct mem_faults faults; /* from when the session is there */
	struct sim_trouble trouble;
	bool was_running; /* here, at the last step */
	struct hde_opts hde;
	const struct migrate_policy *policy; /* NULL: any */
};

void world_open(struct world *w, uint64_t seed);
void world_close(struct world *w);
/* Everything that is not in *w is chosen by its seed. As migrate_run. */
int world_migrate(struct world *w, struct migrate_result *r, struct err *e);
struct guest *world_there(struct world *w); /* the guest at the destination, or NULL */
/* The guest where it is now, and what its memory was at the switch. */
void world_expect_there(struct world *w);

#endif

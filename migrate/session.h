/* SPDX-License-Identifier: MIT */
/*
 * One migration, at its source: rounds while the guest runs, the blackout, the hand-over, and what happens when any of it
 * fails. Exactly one side runs the guest, always: before START is sent only this one may, afterwards only the other one,
 * and where it is not known whether START arrived, none does until that is found out.
 *
 * Threads: the caller's; it blocks until the end. `cancel` may be set by any thread or signal handler.
 */
#ifndef DWCP_MIGRATE_SESSION_H
#define DWCP_MIGRATE_SESSION_H

#include "compress/hde.h"
#include "migrate/dirty.h"
#include "migrate/message.h"
#include "migrate/round.h"
#include "transport/client.h"

#define MIGRATE_ROUNDS_MAX 128 /* that are remembered one by one */

/* How memory moves; a row of a table. */
struct migrate_policy {
	const char *name, *help;
	bool precopy; /* rounds while the guest runs */
	bool late;    /* what remains then follows when the guest runs at the destination */
};
extern const struct migrate_policy migrate_policies[];
extern const char *const migrate_policy_names[]; /* NULL-terminated, same order */

enum migrate_verify {
	VERIFY_NONE,
	VERIFY_PAGES, /* sums of pages as they were placed, against the source's memory; outside the blackout */
	VERIFY_FULL   /* sums of the destination's memory, taken before START: a longer blackout */
};
extern const char *const migrate_verify_names[];

enum migrate_state {
	MIGRATE_PREPARING,
	MIGRATE_COPYING,
	MIGRATE_BLACKOUT,
	MIGRATE_HANDING_OVER, /* START was sent, or is about to be */
	MIGRATE_DOUBT,
	MIGRATE_FILLING,    /* post-copy: it runs there, and pages follow */
	MIGRATE_RECOVERING, /* …and the link is broken */
	MIGRATE_OVER
};
const char *migrate_state_name(enum migrate_state s);

/* OUTCOME_INCOMPLETE: it is the destination's, which lacks pages that only this process has. */
enum migrate_outcome {
	OUTCOME_ROLLED_BACK,
	OUTCOME_CANCELLED,
	OUTCOME_COMPLETED,
	OUTCOME_IN_DOUBT,
	OUTCOME_INCOMPLETE
};
const char *migrate_outcome_name(enum migrate_outcome o); /* "completed", "rolled_back", … */

struct migrate_progress {
	enum migrate_state state;
	unsigned round;
	uint64_t pages, total_pages; /* of this round, acknowledged so far */
	uint64_t remaining_pages;    /* when it was planned */
	double dirty_pages_per_s, bytes_per_s;
	uint64_t predicted_downtime_ns;
	bool held; /* nothing is sent, because somebody wants that */
};

struct migrate_config {
	struct guest *guest; /* running */
	const char *name;    /* for people */
	const struct tracker_ops *tracker;
	const struct migrate_policy *policy;
	struct client *client; /* opened for staged chunks of migrate_chunk_room(chunk) */
	uint32_t chunk;        /* bytes of pages: a multiple of GUEST_PAGE, at most PAGES_CHUNK_MAX */
	enum sum_kind sum;
	struct hde_opts hde; /* mode HDE_NONE: pages go as they are, but for zeros */
	struct round_config limits;
	bool force;               /* when time or rounds are used up: switch over all the same */
	bool auto_converge;       /* slow the guest down when rounds do not get shorter */
	uint64_t dirty_limit;     /* bytes/s that the guest may dirty, by slowing it down; 0: none */
	uint64_t max_bandwidth;   /* bytes/s that the streams send at most, but for the blackout; 0: no limit */
	uint64_t blackout_max_ns; /* a blackout that takes longer is given up: the guest goes on here */
	enum migrate_verify verify;
	struct clock clock;
	const volatile sig_atomic_t *cancel; /* non-zero: give up, if START was not sent yet; may be NULL */
	/* Non-zero: from START on, look no longer for what became of it, nor for a link that broke. NULL: `cancel` says so, too. */
	const volatile sig_atomic_t *quit;
	/* Non-zero: nothing is sent until it is zero again. The guest runs on, where it is, and what it waits for in post-copy
	 * still comes (without `urgent` it does not: it shares what is held); a blackout is not held. May be NULL. */
	const volatile sig_atomic_t *hold;

	void (*progress)(void *ctx, const struct migrate_progress *p); /* about every 50 ms; may be NULL */
	/* A new session to the same destination, when the first was lost after START; may be NULL. */
	int (*reconnect)(void *ctx, struct client **out, struct err *e);
	/* Post-copy: a second session, with one stream and no staged chunks, for pages that are waited for; called in the thread
	 * that will have it. NULL: they go over the first, between chunks (simulations). */
	int (*urgent)(void *ctx, struct client **out, struct err *e);
	void *ctx;
	uint64_t doubt_ns;    /* for so long it is tried to find out */
	unsigned late_rounds; /* a policy that has both: so many rounds of pre-copy at most */
	uint64_t recover_ns;  /* post-copy: for so long a broken link is tried again; 0: until cancelled */
};

struct migrate_round {
	uint64_t pages, bytes_wire, ns;
	uint64_t at_ns;           /* its beginning, since that of the migration */
	double dirty_pages_per_s; /* since the round before */
	bool paused;
};

struct migrate_blackout {
	uint64_t pause_ns, look_ns, transfer_ns, ready_ns, start_ns;
};

/* Post-copy: what followed when the guest ran there. */
struct migrate_late {
	uint64_t pages;                          /* that were missing at START */
	uint64_t bytes_wire, ns;                 /* until the last of them was there */
	uint64_t faults;                         /* times that a thread of the guest had to wait */
	uint64_t network_faults;                 /* pages that it waited for */
	uint64_t working_set_pages;              /* that the guest may write to */
	uint64_t p50_ns, p95_ns, p99_ns, max_ns; /* of a wait */
	uint64_t asked, neighbours, requests;    /* fill.h */
	unsigned recoveries;
};

struct migrate_result {
	enum migrate_outcome outcome;
	struct msg_guest_id id; /* by which the destination knows it */
	struct migrate_round rounds[MIGRATE_ROUNDS_MAX];
	unsigned n_rounds, more_rounds; /* more: not remembered */
	uint64_t total_ns;
	uint64_t downtime_ns; /* from the request to pause to the destination's word that it runs */
	struct migrate_blackout blackout;
	uint64_t rollback_ns; /* from the failure to the guest running here again; 0: it never stopped */
	bool stands;          /* rolled back, and it could not be made to run here again */
	uint64_t prepare_ns;
	uint64_t held_ns; /* that somebody held it for */
	uint64_t bytes_wire, zero_pages, duplicate_pages, delta_pages, raw_pages;
	unsigned throttle; /* percent, the most there was */
	struct tracker_cost tracking;
	struct migrate_late late; /* pages 0: there was none */
	bool verified;
	double verify_seconds;
};

/* What the session's staged chunks must hold (client_config.stage_chunk). */
uint32_t migrate_chunk_room(uint32_t chunk);

/*
 * Migrates. 0: completed, and verified if that was asked for. Otherwise the reason is in e, and result->outcome says
 * where the guest is: rolled_back and cancelled: it runs here; in_doubt: it is paused here, and must not be run before
 * it is known that the destination does not run it; incomplete: it is the destination's, and waits there for pages that
 * only this process has; completed (with an error): it runs there, and what was verified is not equal. After completed the guest here stays paused and is only good for being closed.
 */
int migrate_run(const struct migrate_config *cfg, struct migrate_result *result, struct err *e);

/* Asks the destination to pause, check and go on with a guest that it runs. *work may be NULL. */
int migrate_check(struct client *c, const struct msg_guest_id *id, struct guest_work *work, struct err *e);

#endif

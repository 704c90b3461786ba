/* SPDX-License-Identifier: MIT */
/*
 * What source and destination say on the control stream, in the service's range of types (transport/wire.h has the
 * header, docs/WIRE.md the prose). Every request names the guest by the 16 bytes that its source chose, so that it can
 * be asked for again in another session.
 */
#ifndef DWCP_MIGRATE_MESSAGE_H
#define DWCP_MIGRATE_MESSAGE_H

#include "migrate/guest.h"
#include "transport/wire.h"

#define MIGRATE_VERSION 2
#define GUEST_NAME_LEN 64

enum guest_msg {
	GUEST_PREPARE = MSG_SERVICE, /* msg_guest_prepare: room for a guest; its pages follow as XFER_SERVICE */
	GUEST_READY,                 /* msg_guest_id, flags u8, len u16, state: this is all of it; may you run it? */
	GUEST_START,     /* msg_guest_id: it is yours. Whoever sends it never runs the guest again by itself */
	GUEST_ABANDON,   /* msg_guest_id: it is mine, forget it */
	GUEST_QUERY,     /* msg_guest_id → msg_guest_status */
	GUEST_SUMS,      /* msg_guest_id → msg_guest_sums */
	GUEST_PAGE_SUMS, /* msg_guest_id, first u64, n u16 → n u64 */
	GUEST_CHECK,     /* msg_guest_id: pause, check, go on → msg_guest_check */
	GUEST_LIST,      /* → n u16, n msg_guest_status */
	GUEST_RESUME,    /* msg_guest_id: by an operator, who knows that the source does not run it */
	GUEST_DROP,      /* msg_guest_id: by an operator */
	/* Post-copy: the guest runs there, and pages are still here. */
	GUEST_ATTACH, /* msg_guest_id: this session will bring pages, too → msg_guest_status */
	GUEST_HAVE,   /* msg_guest_id, first u64 → n u16, n u64: bits of the pages that are there */
	GUEST_FETCH, /* msg_guest_fetch, then pages (pages.h) or nothing → missing u64, n u16, n page u32: what is waited for */
	GUEST_LATE, /* msg_guest_id → msg_guest_late */
	/* On from here to another host, by an operator; by pre-copy, while the one who asks may leave. */
	GUEST_MOVE, /* msg_guest_move */
	GUEST_MOVED, /* msg_guest_id → msg_guest_moved: what has become of its last move, also when the guest is gone */
	GUEST_STAY, /* msg_guest_id: give the move up, if the guest was not handed over yet */
	GUEST_LAST = GUEST_STAY
};

/* READY's flags */
#define READY_FULL 1u /* sum up all memory first */
#define READY_LATE 2u /* pages may be missing: they come after START */

#define GUEST_PAGE_SUMS_MAX 4096
#define GUEST_HAVE_WORDS 4096 /* of one answer */
#define GUEST_FETCH_PAGES 256 /* of one answer */
#define GUEST_FETCH_WAIT_MS 1000

struct msg_guest_id {
	uint64_t hi, lo;
};

/* Which pages come after START. */
enum guest_late { LATE_NONE, LATE_SOME, LATE_ALL };

struct msg_guest_prepare {
	struct msg_guest_id id;
	uint16_t version;
	uint32_t page; /* bytes */
	uint64_t memory;
	uint8_t hde;  /* 1: pages will come as HDE payloads, late ones packed */
	uint8_t late; /* enum guest_late */
	char kind[GUEST_KIND_LEN];
	char name[GUEST_NAME_LEN];
};

/* As the destination sees it.
 *
 *   receiving ─READY─► ready ─START─► running ─GUEST_DROP─► (gone)
 *       │                │ ABANDON, GUEST_DROP
 *       └─ session over ─┴─► (gone)
 *
 * A ready guest whose session ends stays, paused: only its source, or an operator, knows whether it may run.
 *
 * Post-copy: ready ─START─► filling ─last page─► running; filling ─sessions over─► halted ─ATTACH─► filling. A halted
 * guest lacks pages that only its source has: it runs again when that comes back, and not before.
 *
 * running ─MOVE─► leaving ─► (gone); or running again, where it failed; or in doubt, where nobody knows whether it
 * arrived ─RESUME─► running. */
enum guest_phase {
	PHASE_UNKNOWN,
	PHASE_RECEIVING,
	PHASE_READY,
	PHASE_RUNNING,
	PHASE_LOST,
	PHASE_FILLING,
	PHASE_HALTED,
	PHASE_LEAVING, /* runs, and is moved to another host; or ran, and is there */
	PHASE_DOUBT    /* paused, because it may run at another host: only an operator can say */
};

struct msg_guest_status {
	struct msg_guest_id id;
	uint8_t phase;
	uint64_t memory, writes;
	char kind[GUEST_KIND_LEN];
	char name[GUEST_NAME_LEN];
};

struct msg_guest_started {
	uint64_t run_ns; /* from the request to the guest running */
};

struct msg_guest_sums {
	uint64_t lo, hi; /* XXH3-128 of the table of every page's XXH3-64, as placed before START */
};

struct msg_guest_check {
	int32_t status; /* 0, or what the guest's own check says */
	uint64_t writes, steps;
	char text[WIRE_TEXT];
};

struct msg_guest_fetch {
	struct msg_guest_id id;
	uint16_t wait_ms; /* at most so long for the first page that is waited for; GUEST_FETCH_WAIT_MS at most */
};

/* late_stats (late.h) */
struct msg_guest_late {
	uint64_t missing_first, missing, faults, pages, p50_ns, p95_ns, p99_ns, max_ns;
};

#define GUEST_PEER_LEN 280

struct msg_guest_move {
	struct msg_guest_id id;
	uint64_t downtime_ns, timeout_ns; /* round_config (round.h) */
	bool force;                       /* migrate_config (session.h) */
	char tracker[16];                 /* "": the first that is possible */
	char to[GUEST_PEER_LEN];          /* HOST[:PORT] of another `dwcp serve` */
};

enum move_state { MOVE_NONE, MOVE_RUNS, MOVE_OVER };

struct msg_guest_moved {
	uint8_t state;   /* enum move_state; what follows: of a move that is over */
	uint8_t outcome; /* enum migrate_outcome (session.h) */
	int32_t status;  /* 0, or why not; then text says it */
	uint32_t rounds;
	uint64_t total_ns, downtime_ns, bytes_wire;
	struct msg_guest_id there; /* by which the other host knows it */
	char text[WIRE_TEXT];
};

extern const struct wire_def guest_move_def, guest_moved_def;
extern const struct wire_def guest_fetch_def, guest_late_def, guest_id_def, guest_prepare_def, guest_status_def,
	guest_started_def, guest_sums_def, guest_check_def;

const char *guest_phase_name(enum guest_phase p);

#endif

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

#define MIGRATE_VERSION 1
#define GUEST_NAME_LEN 64

enum guest_msg {
	GUEST_PREPARE = MSG_SERVICE, /* msg_guest_prepare: room for a guest; its pages follow as XFER_SERVICE */
	GUEST_READY,                 /* msg_guest_id, len u16, state: this is all of it; may you run it? */
	GUEST_START,     /* msg_guest_id: it is yours. Whoever sends it never runs the guest again by itself */
	GUEST_ABANDON,   /* msg_guest_id: it is mine, forget it */
	GUEST_QUERY,     /* msg_guest_id → msg_guest_status */
	GUEST_SUMS,      /* msg_guest_id → msg_guest_sums */
	GUEST_PAGE_SUMS, /* msg_guest_id, first u64, n u16 → n u64 */
	GUEST_CHECK,     /* msg_guest_id: pause, check, go on → msg_guest_check */
	GUEST_LIST,      /* → n u16, n msg_guest_status */
	GUEST_RESUME,    /* msg_guest_id: by an operator, who knows that the source does not run it */
	GUEST_DROP,      /* msg_guest_id: by an operator */
	GUEST_LAST = GUEST_DROP
};

#define GUEST_PAGE_SUMS_MAX 4096

struct msg_guest_id {
	uint64_t hi, lo;
};

struct msg_guest_prepare {
	struct msg_guest_id id;
	uint16_t version;
	uint32_t page; /* bytes */
	uint64_t memory;
	uint8_t hde; /* 1: pages will come as HDE payloads */
	char kind[GUEST_KIND_LEN];
	char name[GUEST_NAME_LEN];
};

/* As the destination sees it.
 *
 *   receiving ─READY─► ready ─START─► running ─GUEST_DROP─► (gone)
 *       │                │ ABANDON, GUEST_DROP
 *       └─ session over ─┴─► (gone)
 *
 * A ready guest whose session ends stays, paused: only its source, or an operator, knows whether it may run. */
enum guest_phase { PHASE_UNKNOWN, PHASE_RECEIVING, PHASE_READY, PHASE_RUNNING, PHASE_LOST };

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

extern const struct wire_def guest_id_def, guest_prepare_def, guest_status_def, guest_started_def, guest_sums_def,
	guest_check_def;

const char *guest_phase_name(enum guest_phase p);

#endif

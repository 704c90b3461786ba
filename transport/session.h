/* SPDX-License-Identifier: MIT */
/* Private to server.c and session*.c: one session at its listening end. */
#ifndef DWCP_TRANSPORT_SESSION_H
#define DWCP_TRANSPORT_SESSION_H

#include "base/hugebuf.h"
#include "base/jobs.h"
#include "transport/server.h"
#include <pthread.h>

#define HELLO_TIMEOUT (10 * NS_PER_S)
#define SHED_AFTER NS_PER_S        /* who has said nothing for so long makes room when there is none */
#define IDLE_TIMEOUTS 10           /* a session in which nothing happens ends after so many of its time-outs… */
#define IDLE_LEAST (60 * NS_PER_S) /* …and not before: the client may be reading its files */
#define STAGE_CHUNK_MAX ((1u << 20) + 4096) /* a megabyte, and what a stage adds to it at most */
#define EXTENT_MIN 512 /* least length of a transfer's extents, but for the last of a region or file: a disk's sector */
#define FILE_TEXT 200  /* of one file's status, so that a full batch fits an answer */

/* A data stream, seen from here.
 *
 *   none ─PRE_DATA─► opening ─UP─► up
 *    ▲                  └──────┬────┘ fence, newer incarnation, resume
 *    └────── DOWN ◄── closing ◄┘
 */
enum ss_state { SS_NONE, SS_OPENING, SS_UP, SS_CLOSING };

struct sstream {
	enum ss_state state;
	uint32_t incarnation; /* highest seen: older ones are refused */
	uint32_t accept_incarnation;
	struct be_request *waiting; /* a newer incarnation, until the older one is down */
	bool fenced, fence_due;     /* STREAM_DOWN came; its answer is due */
	uint32_t fence_id;
	bool lost_due;             /* STREAM_LOST is to be sent… */
	uint32_t lost_incarnation; /* …of this one: a newer one may be up by then */
};

/* What the request in progress waits for. */
enum op {
	OP_NONE,
	OP_JOB,
	OP_FILES,
	OP_REGION,
	OP_REGION_FAILED,
	OP_REGION_DROP,
	OP_RX_READY,
	OP_RX_END,
	OP_PULL_WAIT,
	OP_SAMPLE
};

struct session {
	struct server *srv;
	uint32_t slot, generation;
	bool used, agreed, bye, dying, destroyed;
	bool visible; /* under srv->mu: amst may be read by other threads */
	uint8_t id[16];
	char peer[64];
	bool local; /* the peer is on this host */
	uint64_t opened_at, lost_at, timeout_ns;
	uint64_t active_at, looked_at, moved; /* last sign of activity; when chunks were looked at, and their sum */
	uint64_t probed_at,
		proven_at; /* since when its host owes a sign of life, 0: not asked; when it last gave one */
	be_stream ctl, last_ctl;
	unsigned ctl_open; /* control streams not DOWN yet: they may still use `reply` */
	uint64_t dying_at;
	struct be_request *resume; /* waits until every stream is down */

	struct amst *amst;
	int cpus[AMST_WORKERS_MAX]; /* of its workers, which read it when they start */
	unsigned n_streams;
	struct sstream *streams;
	unsigned live;    /* streams not SS_NONE */
	bool streams_due; /* some fence_due or lost_due */

	struct hugebuf regions[AMST_REGIONS_MAX];
	bool offered[AMST_REGIONS_MAX];
	uint64_t region_bytes;

	struct amst_rx rx;
	bool rx_active;
	uint64_t rx_distinct;
	struct amst_tx tx;
	struct amst_extent tx_extent;
	bool tx_active, tx_ended;
	bool tx_failed_due;              /* PULL_FAILED is to be sent */
	struct stage stage;              /* files as they are */
	const struct filter *filters[2]; /* opened, by kind of transfer (enum xfer_kind); NULL: not yet */
	struct stage filtered[2];
	void *service; /* the service's state of this session */

	struct store_file *files[WIRE_BATCH_MAX];
	bool folder[WIRE_BATCH_MAX];
	bool aside[WIRE_BATCH_MAX]; /* could not be opened now: the sender tries again… */
	uint32_t files_later;       /* …and was told that so many will be */
	uint32_t n_files, files_good, files_bad;
	uint64_t file_bytes;    /* what the peer said that they will hold */
	struct rcur files_in;   /* the list of FILES_OPEN, from its beginning… */
	uint64_t files_at;      /* …when it came… */
	uint32_t files_refused; /* …how many of it were refused when it was last tried… */
	bool files_busy;        /* …and whether another transfer had one of them */

	/* The request in progress: its frame is kept until it is answered. */
	enum op op;
	struct msg_head req;
	struct rcur in;
	uint32_t frame, held_frame; /* + 1; 0: none */
	const uint8_t *held_data;
	uint32_t held_len;
	uint8_t *reply;
	struct wcur out;
	uint32_t reply_id, reply_len;
	bool reply_due, reply_flying;

	void (*job_run)(struct session *s);
	void (*job_done)(struct session *s);
	bool job_running;
	struct jobs *jobs; /* a thread of the session's own: what blocks one session blocks no other */
	struct err job_err, region_err;
	struct msg_hello job_hello;
	struct msg_region job_region;
	struct msg_digest job_digest;
	struct msg_xfer_begin job_xfer;
	struct digest128 digest;
};

struct server {
	struct server_config cfg;
	struct be *ctl;
	struct be_addr bound;
	pthread_mutex_t mu;       /* sessions' visibility and the totals; never in the data path */
	struct session *sessions; /* `slots` of them: twice the sessions allowed, for those that are on their way out */
	uint32_t slots;
	bool stopping;
	bool soon; /* a session waits for something that is no event */
	uint64_t region_bytes;
	struct server_counters counters;
	struct amst_counters ended_ac;
	struct be_counters ended_bc;
};

/* session.c */
struct session *session_start(struct server *srv, const uint8_t id[16], struct be_request *r);
void session_ctl_event(struct session *s, const struct be_event *ev);
void session_resume(struct session *s, struct be_request *r);
bool session_turn(struct session *s);
void session_goodbye(struct session *s, const char *why);
bool session_shed(struct server *srv); /* ends the oldest that said nothing for SHED_AFTER; false: there is none */
bool session_probe(struct session *s); /* sends what clients ignore, to see it taken; false: not now */
void session_end(struct session *s, bool failed);
void session_destroy(struct session *s); /* any state; blocks; twice is fine */
void session_destroyed(struct session *s);
void session_notify(void *srv); /* wakes the control thread */
bool session_job(struct session *s, void (*run)(struct session *), void (*done)(struct session *));
void session_reply(struct session *s, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void session_reply_send(struct session *s);
void server_reject(struct server *srv, struct be_request *r, enum pre_status why);
void server_regions_add(struct server *srv, uint64_t bytes); /* and its gauge: before the session's own is gone */

void session_put_ok(const struct session *s, uint8_t reply[BE_PREAMBLE]);
void session_fail(struct session *s, const char *why); /* ends it, and says why to the peer and in the log */
bool session_send_small(struct session *s, uint16_t type, uint32_t id, const struct wire_def *def, const void *fields);

/* session_streams.c */
void session_data_request(struct session *s, const struct preamble *p, struct be_request *r);
void session_stream_close(struct session *s, uint32_t i);
void session_stream_down(struct session *s, uint32_t i, int err);
void session_fence(struct session *s, uint32_t id, struct rcur *in); /* STREAM_DOWN came */
void session_flush_streams(struct session *s);

/* session_req.c */
void session_request(struct session *s);
void session_req_event(struct session *s, const struct amst_event *ev);
void session_req_turn(struct session *s);
void session_answer(struct session *s, int status, const char *text); /* without fields */
bool session_start_job(struct session *s, void (*run)(struct session *), void (*done)(struct session *));

/* session_xfer.c */
void session_xfer_begin(struct session *s);
void session_xfer_end(struct session *s);
void session_pull(struct session *s);
void session_pull_wait(struct session *s);
void session_pull_stop(struct session *s);
void session_xfer_event(struct session *s, const struct amst_event *ev);
void session_close_filters(struct session *s); /* no worker decodes any more */

/* session_files.c */
void session_files_open(struct session *s);
void session_file_hash(struct session *s);
void session_files_write(struct session *s);
void session_files_close(struct session *s);
void session_files_turn(struct session *s);
void session_drop_files(struct session *s);
void session_count_files(struct session *s);

#endif

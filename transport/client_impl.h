/* SPDX-License-Identifier: MIT */
/* Private to client*.c. */
#ifndef DWCP_TRANSPORT_CLIENT_IMPL_H
#define DWCP_TRANSPORT_CLIENT_IMPL_H

#include "transport/client.h"

/* A data stream as the session sees it.
 *
 *   idle ─connect─► connecting ─UP─► up
 *    ▲                  │            │
 *    │                  └── DOWN ────┴──► lost ─fence answered─► waiting ─back-off over─► connecting
 *    └─────── not wanted any more ──────────────────┘
 */
enum cs_state { CS_IDLE, CS_CONNECTING, CS_UP, CS_LOST, CS_WAITING };

struct cstream {
	enum cs_state state;
	uint32_t incarnation;
	bool closing;   /* the peer lost it: our end is being closed */
	bool retiring;  /* it ends because we want it to */
	bool known;     /* was up since it was wanted: coming up again is a reconnect */
	uint32_t fails; /* in a row */
	uint64_t retry_at;
	bool fence_sent;   /* lost: STREAM_DOWN is on its way… */
	uint32_t fence_id; /* …under this number */
};

/* One request that waits for its answer; `out` is kept to be sent again after a resume. */
struct call {
	bool busy, sent, answered;
	unsigned flying; /* sends of `out` that are not DONE */
	uint32_t id;
	uint32_t len;
	uint8_t *out;
};

/* What client_pilot.c remembers between two looks at the paths. */
struct sight {
	bool on, asked, staged;
	uint32_t chunk;
	uint64_t next_ns;                      /* look not before */
	uint64_t at_ns, bytes, segments, lost; /* as of the last look */
	uint64_t bytes_now, sent;              /* confirmed by now; the workers' count when the transfer began */
	uint64_t buffer;                       /* that the streams were told */
	struct pilot_wants wants;
	/* of the mode's current interval */
	uint64_t mode_ns, mode_bytes, mode_segments, mode_lost, mode_rtt_ns;
	bool mode_starved;
};

enum ctl_state { CTL_NONE, CTL_CONNECTING, CTL_UP, CTL_LOST };

struct client {
	struct client_config cfg;
	uint8_t session[16];
	struct be_addr peer; /* the one of cfg.addrs that answered */

	struct be *ctl;
	be_stream ctl_stream;
	enum ctl_state ctl_state;
	int ctl_err;
	uint8_t ctl_reply[BE_PREAMBLE]; /* of a refusal, or a stranger's first bytes */
	uint32_t ctl_reply_len;
	bool ctl_strange; /* who accepted is not the server that was asked for */
	uint64_t lost_at, resume_at;
	uint64_t shaky_at; /* the first loss since the last answer or byte of data… */
	uint32_t losses;   /* …and how many there were */
	bool closing, established;
	bool agreed; /* HELLO was answered: the session can be resumed */
	char goodbye[WIRE_TEXT];

	struct call call;
	uint32_t next_id;
	uint8_t *reply; /* of `call`: a copy of the frame */
	uint32_t reply_len;

	struct amst *amst;
	struct cstream *streams;
	unsigned wanted; /* streams 0 … wanted-1 are kept up */
	unsigned up;
	unsigned open_streams; /* not yet DOWN at the worker: connecting or up */
	int stream_err;        /* of the last stream that went down */
	uint8_t stream_reply[BE_PREAMBLE];
	bool stream_refused;
	uint64_t none_up_since;
	uint64_t stayed_at; /* client_stay asked last */

	struct sight sight;

	struct msg_hello_reply peer_hello;
	uint64_t reconnects, resumes;

	/* outcomes of amst commands that somebody waits for */
	bool tx_done, tx_ended, rx_ready, rx_ended, region_added, sampled;
	int region_err;
	struct be_token region_token;
	uint32_t next_transfer;
	uint32_t pull_failed; /* the transfer of which the peer said so */
};

/* client_call.c. A request in two steps, so that something else happens meanwhile. */
int client_call_post(struct client *c, uint16_t type, const void *fields, uint32_t len, struct err *e);
int client_call_wait(struct client *c, uint16_t type, struct rcur *reply, struct err *e);
int client_short_answer(const struct client *c, struct err *e);
int client_wait_flag(struct client *c, const bool *flag, struct err *e);

/* client_conn.c */
int conn_open(struct client *c, struct err *e);
int conn_check(struct client *c, struct err *e);
bool conn_events(struct client *c);
void conn_amst_event(struct client *c, const struct amst_event *ev);
void conn_upkeep(struct client *c);
void conn_flush(struct client *c);
int conn_streams(struct client *c, struct err *e);
/* Streams from `first` on end in order; who is wanted comes up again. */
void conn_retire(struct client *c, unsigned first);
bool conn_interrupted(const struct client *c);
/* No stream went down that the peer might still take old chunks from. */
unsigned conn_unfenced(const struct client *c);
uint64_t conn_now(const struct client *c);

/* client_text.c: fill *e and return its code. */
int refused_text(const struct client *c, const uint8_t *reply, uint32_t len, struct err *e);
int connect_text(const struct client *c, int err, struct err *e);
int stream_text(const struct client *c, struct err *e);
/* "" or what to do, to follow the text of an error. */
const char *memory_remedy(int err);

/* client_pilot.c. The session is agreed and no stream is up yet. */
void pilot_first(struct client *c);
/* From the begin of a transfer to its end; pilot_turn with what is confirmed by now. */
void pilot_begin(struct client *c, const struct amst_tx *tx);
void pilot_turn(struct client *c, uint64_t bytes);
void pilot_sampled(struct client *c);
void pilot_end(struct client *c);

#endif

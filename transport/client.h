/* SPDX-License-Identifier: MIT */
/*
 * The connecting end of a session: control stream, N data streams, transfers.
 *
 * Calls block, but never for longer than cfg.timeout_ns without progress, and
 * all waiting is done in client_turn, which keeps the session alive meanwhile:
 * a data stream that dies is fenced (MSG_STREAM_DOWN), its chunks go to the
 * others, and it reconnects with back-off; a control stream that dies takes the
 * session through PRE_RESUME. Errors name the peer and the remedy.
 *
 * Threads: one thread owns a client.
 */
#ifndef DWCP_TRANSPORT_CLIENT_H
#define DWCP_TRANSPORT_CLIENT_H

#include "base/hugebuf.h"
#include "base/pilot.h"
#include "transport/amst.h"
#include "transport/mode.h"
#include <signal.h>

#define DWCP_PORT 7411

struct client_config {
	const char *target;          /* as the user wrote it, for messages */
	const struct be_addr *addrs; /* 1 … 64, tried in order: each for 2 s, the last for the whole
				      * time-out; then again for the whole time-out those that were only slow */
	int n_addrs;
	const struct be_ops *ops;
	const void *be_opts;
	unsigned streams, workers; /* streams: most at once */
	unsigned streams_first;    /* with these it begins; 0: with all */
	uint32_t stage_chunk;      /* largest staged chunk; 0: puts only */
	enum amst_sched sched;
	enum sum_kind sum;
	uint64_t timeout_ns; /* without progress; also how long a lost session may be resumed */
	const int *cpus;     /* per worker, or NULL */
	/* Who says how many streams and how much under way while a transfer runs; ops NULL: nobody. Regions, and files
	 * that are sent; what is pulled is flown by who sends it. */
	struct pilot pilot;
	/* Decides from the path what kind it is; NULL: nobody asks. The caller keeps it until client_close. */
	struct mode *mode;
	bool mode_steers;   /* congestion control and pacing are as the mode says (mode_ways) */
	bool sizes_buffers; /* send buffers follow what the paths hold */
	struct clock clock;
	uint64_t seed;
	const volatile sig_atomic_t *interrupted; /* non-zero: calls end with -EINTR; may be NULL */

	/* Simulations: no threads; drive() moves everything else and the clock instead of sleeping. */
	bool manual;
	void *fabric;
	void (*drive)(void *ctx);
	void *drive_ctx;
};

struct client;

/* Connects the control stream and all data streams. setup_ns (may be NULL): from first connect to the last stream up. */
int client_open(struct client **out, const struct client_config *cfg, uint64_t *setup_ns, struct err *e);
/* Says BYE if it can (bounded: 1 s), then frees everything. NULL is fine. */
void client_close(struct client *c);

const struct msg_hello_reply *client_peer(const struct client *c);
struct amst *client_amst(struct client *c);
unsigned client_streams_up(const struct client *c);
/* How many streams there are to be from now on, 1 … cfg.streams. Those that are too many take no chunk any more and
 * end when their last one is acknowledged; those that are wanted connect. Nothing is lost or sent twice. */
void client_set_streams(struct client *c, unsigned n);
/* Every stream ends in order and comes up anew, as if its path were new. */
void client_renew_streams(struct client *c);
/* How streams send from now on; see amst_steer. */
int client_steer(struct client *c, const struct be_steer *how);
/* How much the data streams send per second from now on; see amst_pace. A transfer that is held back is not one that does
 * not move. */
void client_pace(struct client *c, uint64_t bytes_per_s);
/* Servers end sessions in which nothing moves: who waits for long, turn by turn, calls this besides, and the server is asked
 * something now and then. A transfer that is held does so by itself. */
int client_stay(struct client *c, struct err *e);
/* The size of chunks that the pilot wants for the next transfer, or `usual`. */
uint32_t client_chunk(const struct client *c, uint32_t usual);
/* Streams that were lost and came back, sessions resumed. */
uint64_t client_reconnects(const struct client *c);
uint64_t client_resumes(const struct client *c);

/* From now on this flag ends calls with -EINTR instead of cfg.interrupted; NULL: nothing does. */
void client_interrupted_by(struct client *c, const volatile sig_atomic_t *flag);

/* One round of events, waiting at most wait_ns. <0: the session is lost for good (e filled). */
int client_turn(struct client *c, uint64_t wait_ns, struct err *e);

/* Sends a request of `len` bytes of fields, waits for its answer. *reply is set to what follows status and text; valid
 * until the next call. A status other than 0 is returned with the server's text in e. */
int client_call(struct client *c, uint16_t type, const void *fields, uint32_t len, struct rcur *reply, struct err *e);
/* The same for one struct each way; NULLs where there is none. */
int client_call_msg(struct client *c, uint16_t type, const struct wire_def *req_def, const void *req,
		    const struct wire_def *rep_def, void *rep, struct err *e);

/* A region over there, and its token. */
int client_region_make(struct client *c, uint32_t id, uint64_t bytes, uint64_t seed, struct be_token *token,
		       enum huge_kind *pages, struct err *e);
/* A region of ours that the peer may put into (reverse). token: what the peer has to name. */
int client_region_offer(struct client *c, uint32_t id, void *addr, uint64_t len, struct be_token *token, struct err *e);
/* XXH3-128 of part of the peer's region. */
int client_digest(struct client *c, uint32_t region, uint64_t offset, uint64_t bytes, struct digest128 *d,
		  struct err *e);

/* What a caller wants to do while a transfer runs. */
struct client_tick {
	/* Called about every 50 ms, and at the end. Return true to stop early, in order. */
	bool (*fn)(void *ctx, uint64_t now_ns, uint64_t bytes);
	void *ctx;
};

/*
 * Runs a transfer to its end. The caller filled tx but for id (and token for puts is set); kind tells the
 * peer what to expect. result (may be NULL): what the receiver says it got; -EBADMSG when that is not
 * whole. Chunks that cannot be written there end it with the peer's errno (tx->status_object tells the object).
 */
int client_transfer(struct client *c, struct amst_tx *tx, enum xfer_kind kind, const struct client_tick *tick,
		    struct msg_xfer_result *result, struct err *e);

/* The reverse: asks the peer to put `bytes` × passes of its region `from` into our region `to` (offered before). */
int client_pull(struct client *c, uint32_t from, uint32_t to, struct be_token to_token, uint64_t to_bytes,
		uint64_t bytes, uint64_t passes, uint32_t chunk, const struct client_tick *tick,
		struct msg_pull_result *result, struct err *e);

int client_info(struct client *c, struct msg_info *info, struct err *e);
/* Makes amst_retransmits fresh. Asks only our own workers: works, within a second, also when interrupted. */
int client_sample(struct client *c, struct err *e);
/* Facts of the control connection, which has the same options as the data streams. 0, or -errno when it is down. */
int client_path(struct client *c, struct be_info *out);

/* Makes a peer's text fit for a terminal, in place: what is a control character or no UTF-8 becomes '?'. Returns it. */
char *client_clean(char *text);

#endif

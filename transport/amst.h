/* SPDX-License-Identifier: MIT */
/*
 * AMST's data plane: one session's N streams over W workers, at one of its two
 * ends. The same object sends and receives. Who connects, who offers regions
 * and when a transfer starts is the business of client.c and server.c, which
 * talk over the control stream; this module moves chunks.
 *
 * A worker is one thread with its own backend instance. Workers share nothing
 * in the data path but the transfer's cursor (one fetch-and-add per chunk), its sums
 * (one add per COMMIT) and its ring of returned chunks (touched only after a failure).
 *
 *                 owner thread (client.c / server.c)
 *                    │ commands (spsc)   ▲ events (spsc, notify)
 *                    ▼                   │
 *      worker 0 [backend: streams 0, W, 2W…]   worker 1 [streams 1, W+1…]  …
 *
 * Threads: every function here is called by the owner thread. In manual mode
 * there are no worker threads: amst_step runs each worker once, so that a
 * simulation drives both ends and the clock from one thread.
 */
#ifndef DWCP_TRANSPORT_AMST_H
#define DWCP_TRANSPORT_AMST_H

#include "base/digest.h"
#include "base/ring.h"
#include "base/stage.h"
#include "base/stats.h"
#include "transport/backend.h"
#include "transport/wire.h"

#define AMST_WORKERS_MAX 64
#define AMST_REGIONS_MAX 16
#define AMST_WINDOW 128 /* chunks of one stream sent and not acknowledged, at most */

/* Which stream takes the next chunk (values are indices into amst_scheds). */
enum amst_sched { SCHED_PULL, SCHED_ROUND_ROBIN, SCHED_LEAST_LOADED };
extern const char *const amst_sched_names[]; /* NULL-terminated */

struct amst_config {
	const struct be_ops *ops;
	const void *be_opts; /* the backend's option struct, or NULL */
	unsigned workers;    /* 1 … AMST_WORKERS_MAX, at most streams */
	unsigned streams;    /* 1 … WIRE_STREAMS_MAX */
	uint32_t chunk; /* largest payload of a staged chunk, its stage's overhead included: sizes frames; 0: none */
	bool encodes;   /* this end will send staged chunks: encode buffers are made */
	enum amst_sched sched;
	uint32_t domain;
	const int *cpus; /* CPU of each worker, or NULL: not pinned */
	bool manual;     /* no threads */
	struct clock clock;
	uint64_t seed;
	void *fabric;
	void (*notify)(void *ctx); /* any worker thread: events are waiting */
	void *notify_ctx;
};

/* Counters of one worker (amst_metrics has the rows). */
struct amst_counters {
	uint64_t chunks_sent, chunks_acked, chunks_refused, chunks_returned;
	uint64_t chunks_placed, chunks_bad;
	uint64_t bytes_sent, bytes_placed; /* of chunks, before any stage */
	uint64_t wire_acked;               /* payload bytes of the chunks acknowledged: after the stage */
	uint64_t commits, streams_up, streams_lost;
	uint64_t turns; /* of the worker's loop */
};
extern const struct metric amst_metrics[];
extern const size_t amst_metrics_n;

/* What one stream's path was like at the last sample. */
struct amst_path {
	bool up;             /* otherwise the rest is of its last life */
	uint64_t bytes;      /* of its chunks that the peer acknowledged, all incarnations */
	struct be_info info; /* of this incarnation */
};

/* A piece of a transfer: len bytes from `from` of the local object to `to` of the peer's. */
struct amst_extent {
	uint64_t from, to, len;
	uint32_t object; /* staged: file number, both sides. puts: unused */
};

/*
 * A transfer to be sent. The caller fills the first part, keeps it unchanged
 * and alive from amst_tx_start to AMST_TX_ENDED. Chunks are numbered through the
 * extents in order; extents do not overlap. Each pass sends all of them.
 */
struct amst_tx {
	uint32_t id;
	uint32_t chunk;
	enum sum_kind sum;
	uint64_t passes; /* 1, or more to send the same again and again; UINT64_MAX: until stopped */
	const struct amst_extent *extents;
	uint64_t n_extents;
	const struct stage *stage; /* NULL: puts only */
	const uint8_t *base;       /* puts, also those that a stage asks for: the local region… */
	struct be_token token;     /* …and the peer's */

	/* filled by amst_tx_prepare */
	uint64_t *first; /* first chunk number of each extent, and one past the last */
	uint64_t pass_chunks;
	struct mpmc returned; /* chunks to be sent again */
	uint64_t total;       /* chunks in all; falls when stopped early */
	int status;           /* 0 or why it failed (first cause) */
	uint32_t status_object;
	cacheline_aligned uint64_t cursor; /* next chunk nobody has taken; STOPPED once it must not be taken from */
	cacheline_aligned uint64_t acked;
	uint64_t acked_bytes;
	uint64_t refused, refused_row; /* in all; since the last good one */
	uint32_t failing;              /* somebody decided status */
	uint32_t told;                 /* TX_DONE was sent */
};

/* Allocates what the transfer needs (first[], returned). -EINVAL: more than 2^40 chunks, or chunk 0. */
int amst_tx_prepare(struct amst_tx *tx, unsigned streams, struct err *e);
void amst_tx_free(struct amst_tx *tx);

/* A transfer to be received. */
struct amst_rx {
	uint32_t id;
	enum sum_kind sum;
	const struct stage *stage; /* staged chunks go here; NULL, or its `placed`: puts are taken */
	uint64_t pass_chunks;
	uint64_t *map; /* pass_chunks bits: which were placed, good */
	cacheline_aligned uint64_t placed;
	uint64_t bytes, bad;
	int status;
	uint32_t status_object;
	uint32_t failing; /* somebody decided status */
};

/* pass_chunks is a peer's number: at most 2^28, a map of 32 MB. */
int amst_rx_prepare(struct amst_rx *rx, uint64_t pass_chunks, struct err *e);
void amst_rx_free(struct amst_rx *rx);

enum amst_event_type {
	AMST_NONE,
	AMST_STREAM_UP,      /* stream, incarnation */
	AMST_STREAM_DOWN,    /* stream, incarnation, err; reply holds what the peer answered, if it did */
	AMST_REGION_ADDED,   /* id, err, token */
	AMST_REGION_DROPPED, /* id */
	AMST_TX_DONE,        /* every chunk is acknowledged, or it failed (tx->status): call amst_tx_end */
	AMST_TX_ENDED,       /* no worker knows the transfer any more: it may be freed */
	AMST_RX_READY,       /* every worker takes chunks of it */
	AMST_RX_ENDED,       /* no worker touches it any more */
	AMST_SAMPLED,        /* amst_retransmits and amst_path are fresh */
};

struct amst_event {
	enum amst_event_type type;
	int err;
	uint32_t stream, incarnation, id;
	struct be_token token;
	bool has_reply;
	uint8_t reply[BE_PREAMBLE]; /* also the first bytes of a peer that is not dwcp */
	uint32_t reply_len;
};

struct amst;

/* So many workers stay within a session's budget of frames and encode buffers: each has four of either at least. */
unsigned amst_workers_most(uint32_t chunk);

int amst_open(struct amst **out, const struct amst_config *cfg, struct err *e);
/* Any state: aborts streams, joins workers, bounded (1 s + backend close). Transfers and regions may be freed afterwards. */
void amst_close(struct amst *a);

bool amst_poll(struct amst *a, struct amst_event *ev);
/* Manual mode: one turn of every worker; true if anything happened. */
bool amst_step(struct amst *a);

/* All of these are commands to workers: the outcome is an event. They return 0, or -EAGAIN when a
 * worker's command ring is full (poll events, then try again), or -EINVAL. The ring holds four commands for each
 * stream and 64 more: who waits for each outcome before the next command to the same stream never fills it.
 *
 * Four of them are never refused for want of room, because nobody could go on without them: amst_stream_close,
 * amst_reclaim, amst_tx_end and amst_rx_end. What the ring does not take is kept, and amst_poll hands it on; until then
 * other commands to that stream are answered with -EAGAIN. */

/* Connects a stream (client). pre: BE_PREAMBLE bytes. */
int amst_connect(struct amst *a, uint32_t stream, uint32_t incarnation, const struct be_addr *to, const uint8_t *pre);
/* Takes a connection that came in (server). The request is used up. An older
 * incarnation of the stream must be DOWN. */
int amst_accept(struct amst *a, uint32_t stream, uint32_t incarnation, struct be_request *r, const uint8_t *reply);
/* Ends the stream's connection now; STREAM_DOWN follows if it was up or connecting. */
int amst_stream_close(struct amst *a, uint32_t stream);
/* Ends it in order: no chunk is taken any more, what is under way on it is finished; then as amst_stream_close. A stream
 * that is not up ends at once. What the peer is sending on it is not waited for. */
int amst_retire(struct amst *a, uint32_t stream);
/* From now on every stream sends like this, those that come up later, too. What is zero stays as it is. A wish that a
 * path cannot meet is left out there: amst_path says what it does. -EAGAIN as above, -ENOTSUP: the backend cannot. */
int amst_steer(struct amst *a, const struct be_steer *how);
/* Bytes that all streams together may have under way; 0: each worker's own rule. Takes effect within 10 ms of
 * acknowledgements, and never stops the last two chunks of a worker, on a long path of a stream. */
void amst_window(struct amst *a, uint64_t bytes);
/* From now on so many bytes of payload per second leave at most, all streams together; 0: no limit; AMST_HELD: no chunk is
 * taken until this is called again. What is under way is finished. A chunk goes as a whole: long ones make it uneven. */
#define AMST_HELD UINT64_MAX
void amst_pace(struct amst *a, uint64_t bytes_per_s);
/* Is it the pace that lets nothing out just now? */
bool amst_paced(const struct amst *a);
/* …and is that why nothing of this transfer moves: it is held, or nothing of it waits to be acknowledged? */
bool amst_waits(const struct amst *a, const struct amst_tx *tx);
/* The peer's end of a DOWN stream is known to be down too: chunks that were under way on it may be
 * sent again by others. Until then they wait, so that an old copy can never be placed after a new one. */
int amst_reclaim(struct amst *a, uint32_t stream);

int amst_region_add(struct amst *a, uint32_t id, void *addr, uint64_t len);
int amst_region_drop(struct amst *a, uint32_t id);
/* Hint: puts will come from this memory. */
int amst_source_add(struct amst *a, const void *addr, uint64_t len);

int amst_tx_start(struct amst *a, struct amst_tx *tx); /* one at a time */
/* No chunk is taken any more; what is under way is finished: TX_DONE follows. */
void amst_tx_stop(struct amst *a, struct amst_tx *tx);
/* Makes every worker let go: streams that still have chunks of it under way are closed. → TX_ENDED.
 * Harmless when asked twice. */
int amst_tx_end(struct amst *a, struct amst_tx *tx);
int amst_rx_start(struct amst *a, struct amst_rx *rx);
int amst_rx_end(struct amst *a, struct amst_rx *rx);

/* Sums over the workers; counters of running workers are read without stopping them. */
void amst_counters(const struct amst *a, struct amst_counters *c, struct be_counters *b);
/* Latency of chunks, post to acknowledged placement. Between transfers only. */
void amst_latency(const struct amst *a, struct hist *out);
void amst_latency_reset(struct amst *a);
/* Asks the workers to look at their streams' path facts; amst_retransmits is the sum they saw last. */
int amst_sample(struct amst *a);
uint64_t amst_retransmits(const struct amst *a);
/* As far as the backend knows: segments sent, and those of them that did not arrive, not counting what was sent again for
 * nothing. */
void amst_segments(const struct amst *a, uint64_t *sent, uint64_t *lost);
/* As of the last sample: between AMST_SAMPLED and the next amst_sample. */
const struct amst_path *amst_path(const struct amst *a, uint32_t stream);
unsigned amst_workers(const struct amst *a);

#endif

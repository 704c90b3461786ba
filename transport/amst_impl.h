/* SPDX-License-Identifier: MIT */
/* Private to amst*.c and worker.c. */
#ifndef DWCP_TRANSPORT_AMST_IMPL_H
#define DWCP_TRANSPORT_AMST_IMPL_H

#include "base/bitmap.h"
#include "base/hugebuf.h"
#include "transport/amst.h"
#include <pthread.h>

#define TX_STOPPED (1ull << 62)
#define TX_OPS_MAX 12                     /* chunks posted and not DONE, per stream */
#define TX_POSTED (2u << 20)              /* …and about this many bytes of them, but two chunks at least */
#define TX_BURST (2u << 20)               /* bytes one stream takes before it is another's turn: one large send */
#define TX_WINDOW (4u << 20)              /* bytes one worker has under way at least; more by rate and round trip */
#define TX_EACH (256u << 10)              /* on a long path: bytes a stream has under way, and two chunks at least */
#define TX_LONG (2 * NS_PER_MS)           /* a round trip longer than that is no longer about caches */
#define TX_LOOK (10 * NS_PER_MS)          /* how often rate and round trip are looked at */
#define PACE_SLACK (5 * NS_PER_MS)        /* a worker that was late may catch up so much */
#define BE_SENDS 24                       /* operations a backend keeps per stream: chunks, COMMITs, ACKs */
#define REFUSED_ROW (4 * WIRE_COMMIT_MAX) /* so many refused one after the other are no accident */
#define FRAME_ROOM 4096                   /* of a frame, beside a staged chunk: the largest other message fits */
#define FRAME_BUDGET (24u << 20)          /* bytes of frames, all workers together */
#define ENCODE_BUDGET (16u << 20)         /* bytes of encode buffers, all workers together */

struct tx_rec {
	struct chunk_rec r;
	uint32_t wire; /* bytes of its payload */
	bool put;
	uint64_t posted_ns;
};

struct commit_out {
	uint32_t seq, n;
};

struct ack_out {
	uint32_t transfer;
	struct msg_ack m;
};

/* A chunk that arrived and whose COMMIT did not yet. */
struct rx_entry {
	uint64_t offset, sum;
	uint32_t object, len;
	bool good, staged;
};

struct wstream {
	be_stream h; /* 0: none */
	uint32_t index, incarnation;
	bool up;
	bool retiring;                        /* takes no chunk any more; closed when nothing is under way */
	bool failing;                         /* stream_close was called; nothing more is sent */
	int fail_err;                         /* why, where AMST itself decided */
	uint64_t retransmits, segments, lost; /* of this incarnation, when last looked at */
	uint64_t acked_bytes;
	struct amst_path path; /* written by a sample only */

	/* sender: win[head…cut) committed, [cut…tail) posted; free-running indices */
	uint32_t head, cut, tail;
	uint32_t posted; /* chunks accepted by the backend and not DONE */
	uint64_t posted_bytes;
	bool held; /* win[tail] is filled and the backend did not take it yet */
	int32_t held_buf;
	uint32_t held_len;
	uint32_t seq, c_head, c_tail;
	struct commit_out commits[WIRE_CREDITS];
	struct tx_rec win[AMST_WINDOW];

	/* receiver */
	uint32_t rx_seq;
	uint32_t rx_head, rx_tail;
	struct rx_entry rx[WIRE_UNCOMMITTED];
	uint32_t a_head, a_tail;
	struct ack_out acks[WIRE_CREDITS];
};

enum wcmd_type {
	CMD_CONNECT,
	CMD_ACCEPT,
	CMD_CLOSE,
	CMD_RETIRE,
	CMD_STEER,
	CMD_RECLAIM,
	CMD_REGION_ADD,
	CMD_REGION_DROP,
	CMD_SOURCE_ADD,
	CMD_TX_START,
	CMD_TX_END,
	CMD_RX_START,
	CMD_RX_END,
	CMD_SAMPLE,
	CMD_STOP,
};

struct wcmd {
	enum wcmd_type type;
	uint32_t stream, incarnation, id;
	void *ptr;
	uint64_t len;
	union {
		struct {
			struct be_addr addr;
			uint8_t pre[BE_PREAMBLE];
		};
		struct be_steer steer;
	};
};

struct wregion {
	uint8_t *addr;
	uint64_t len;
	bool dropping;
};

struct worker {
	struct amst *a;
	struct be *be;
	unsigned index;
	pthread_t thread;
	bool running;
	struct spsc cmds, evs;

	struct wstream *streams; /* n_streams of them, stream i of the session is streams[i / W] of worker i % W */
	uint32_t n_streams;
	uint32_t n_sending; /* up, and neither retiring nor failing */
	uint32_t n_retiring;
	struct be_steer steer; /* what every stream was told, and those that come are */
	struct wregion regions[AMST_REGIONS_MAX];

	struct amst_tx *tx;
	bool tx_ending;
	bool paced;                 /* the pace held a chunk back in this pump… */
	uint64_t at;                /* …until then; 0: until somebody says so */
	uint32_t ticket, last_wire; /* paid for the chunk that is being made; how long the last one was */
	bool pump;                  /* something happened that may let chunks out: look once, at the end of the turn */
	uint32_t rr;                /* round_robin: whose turn */
	uint32_t next;              /* where the next look at all streams begins */
	/* Bytes posted and not acknowledged, and how many that may be: TX_WINDOW and four times what the path
	 * holds (rate x round trip). On a short path more only makes the caches cold; on a long one TCP decides. */
	uint64_t inflight, window;
	uint64_t look_at, look_bytes, acked_bytes, rtt_ns;
	struct amst_rx *rx;

	struct hugebuf buf_mem; /* encode buffers */
	uint32_t buf_bytes, n_free, n_bufs;
	int32_t *free_bufs;

	struct hist latency;
	struct amst_counters counters;
	uint64_t retransmits, retransmits_gone; /* at the last sample; of streams that are down */
	uint64_t segments, segments_gone, lost, lost_gone;
	bool stop;
	bool told_events; /* events pushed since the last notify */
};

struct sched_ops {
	const char *name;
	bool (*may)(const struct worker *w, const struct wstream *s);
	void (*took)(struct worker *w, const struct wstream *s);
};
extern const struct sched_ops amst_scheds[];

/* What the owner waits for from all workers together. */
struct gather {
	unsigned left;
	int err;
	struct be_token token;
};

struct amst {
	struct amst_config cfg;
	const struct sched_ops *sched;
	unsigned n;
	struct worker *w;
	unsigned next_poll;
	struct gather region[AMST_REGIONS_MAX], drop[AMST_REGIONS_MAX];
	struct gather tx_end, rx_start, rx_end, sample;
	uint64_t window;        /* amst_window: atomic */
	uint64_t pace, pace_at; /* amst_pace; when the next chunk may go: atomic */
	/* Commands that found their worker's ring full and must not be lost: amst_poll hands them on. */
	uint8_t *kept; /* of each stream: KEPT_* */
	bool any_kept, kept_tx_end, kept_rx_end;
	uint32_t tx_end_id, rx_end_id;
	bool tell_done; /* amst_tx_stop found the transfer complete itself */
	uint32_t tell_id;
};

/* Chunks of a stream that are not acknowledged. */
static inline uint32_t load_of(const struct wstream *s)
{
	return s->tail - s->head;
}

/* Cookie of an operation, 64 bits: kind 4, stream 12, bytes 32, encode buffer 16. */
enum cookie_kind { COOKIE_PUT, COOKIE_CHUNK, COOKIE_COMMIT, COOKIE_ACK };
#define COOKIE(kind, s, len, buf) \
	((uint64_t)(kind) | (uint64_t)(s)->index << 4 | (uint64_t)(len) << 16 | (uint64_t)(uint16_t)(buf) << 48)
#define COOKIE_KIND(c) ((enum cookie_kind)((c)&15))
#define COOKIE_STREAM(c) ((uint32_t)((c) >> 4 & 0xfff))
#define COOKIE_LEN(c) ((uint32_t)((c) >> 16))
#define COOKIE_BUF(c) ((int32_t)((c) >> 48))

/* worker.c */
void worker_event(struct worker *w, const struct amst_event *ev);
void stream_fail(struct worker *w, struct wstream *s, int err);
bool worker_turn(struct worker *w);
void *worker_main(void *arg);

/* amst_tx.c */
void tx_pump_all(struct worker *w);
void tx_done(struct worker *w, struct wstream *s, const struct be_event *ev);
void tx_retire(struct worker *w);
void tx_ack(struct worker *w, struct wstream *s, uint32_t transfer, struct rcur *c);
void tx_stream_down(struct worker *w, struct wstream *s);
void tx_reclaim(struct worker *w, struct wstream *s);
void tx_end(struct worker *w);
bool tx_try_end(struct worker *w);

/* amst_pace.c. May a chunk leave now? It pays at once what the worker's last one was worth, so that no other worker leaves
 * beside it, and pace_pay, which must follow, puts that right when its length is known (0: there was none). */
bool pace_take(struct worker *w, const struct amst_tx *tx);
void pace_pay(struct worker *w, uint32_t bytes);

/* amst_rx.c */
void rx_placed(struct worker *w, struct wstream *s, const struct be_event *ev);
void rx_chunk(struct worker *w, struct wstream *s, uint32_t transfer, struct rcur *c);
void rx_commit(struct worker *w, struct wstream *s, uint32_t transfer, struct rcur *c);
void rx_flush_acks(struct worker *w, struct wstream *s);
void rx_stream_reset(struct wstream *s);

#endif

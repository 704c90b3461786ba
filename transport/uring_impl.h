/* SPDX-License-Identifier: MIT */
/*
 * Inside of the TCP backend: shared by transport/uring*.c only.
 *
 * One rule carries the design: SQEs are made at one place, below ring_flush, from wishes (W_*) that the
 * rest leaves on streams and requests. So a full queue delays, and never fails, an operation.
 * What completes is kept in the stream until poll has room to report it.
 *
 *   FREE ── connect ─► CONNECTING ─ connected ─► GREETING ── accepted ──► OPEN
 *   FREE ── accept ─────────────────────────────────────────────────────► OPEN
 *   OPEN ── stream_close(graceful) ─► CLOSING: sends the rest, FIN, waits for FIN
 *   any of them ── stream_die ─► DYING: cancels; in flight == 0 ─► DONEs, DOWN ─► FREE
 */
#ifndef DWCP_TRANSPORT_URING_IMPL_H
#define DWCP_TRANSPORT_URING_IMPL_H

#include "transport/tcp_frame.h"
#include "transport/uring.h"
#include <liburing.h>
#include <stdatomic.h>

/* Newer than the headers of Linux 6.0 and liburing 2.3. */
#ifndef IORING_SEND_ZC_REPORT_USAGE
#define IORING_SEND_ZC_REPORT_USAGE (1U << 3) /* 6.2 */
#endif
#ifndef IORING_NOTIF_USAGE_ZC_COPIED
#define IORING_NOTIF_USAGE_ZC_COPIED (1U << 31) /* 6.2 */
#endif

#define U_STREAMS_MAX 4096
#define U_SENDS_MAX 1024
#define U_FRAME_MAX (16u << 20)
#define U_PUT_MAX (1u << 30)

#define U_BUNDLE_OPS 64
#define U_BUNDLE_BYTES (1u << 20)
#define U_ZC_RECORDS 16
#define U_ZC_FAR (2 * NS_PER_MS) /* round trip above which zero-copy is not chosen */
#define U_ZC_COPIED_LIMIT 4      /* copied notifications in a row that end zero-copy */
#define U_ARENA 4096             /* power of two, more than one header and head */
#define U_SOURCES 64
#define U_SOURCE_SLICE (1ull << 30) /* the kernel's limit of one registered buffer */
#define U_SPARE_REQUESTS 64         /* places for connections that take over from dropped ones */
#define U_EVENT_DATA 64
#define U_ACCEPT_BACKOFF (50 * NS_PER_MS)
#define U_LAST_WORDS NS_PER_S /* how long a stream that cannot send may still receive */
#define U_NONE UINT32_MAX

enum u_state { U_FREE, U_CONNECTING, U_GREETING, U_OPEN, U_CLOSING, U_DYING };

/* Wishes that ring_flush turns into SQEs. */
enum { W_CONNECT = 1, W_RECV = 2, W_SEND = 4, W_CANCEL = 8, W_WATCH = 16 };

/* What an SQE was: low byte of its user_data; then 8 bits (zero-copy record), then the index of the owner. */
enum u_kind { UD_CANCEL, UD_WAKE, UD_ACCEPT, UD_REQUEST, UD_CONNECT, UD_RECV, UD_SEND, UD_LEAD, UD_ZC, UD_WATCH };

static inline uint64_t ud_make(enum u_kind kind, uint32_t record, uint32_t owner)
{
	return (uint64_t)kind | (uint64_t)record << 8 | (uint64_t)owner << 32;
}

/* One accepted send or put: `lead` (header, and the head of a message), then `body`. */
struct u_op {
	uint8_t head[TCP_FRAME_HEADER]; /* lead of a put */
	const uint8_t *lead;
	const uint8_t *body;
	uint32_t lead_len, body_len;
	uint32_t arena_end; /* message: where its lead ends in the arena */
	bool message;
	uint64_t cookie;
};

/* A zero-copy request whose notification is outstanding. */
struct u_zc {
	uint32_t first_op;
	uint32_t payload;
	bool sent, notified;
};

struct u_stream {
	enum u_state state;
	uint32_t index;
	uint16_t generation;
	int fd;
	bool fixed; /* in the ring's file table, at `index` */
	bool ready_queued, work_queued, frame_queued;
	uint8_t wishes;
	uint32_t inflight; /* CQEs to come, cancels apart */
	struct u_stream *ready_next, *work_next, *frame_next;

	/* receive */
	bool rx_armed, rx_has, rx_stuck; /* stuck: waits for a frame, and meanwhile */
	bool watch_armed;                /* watches for a reset, which no receive would tell */
	int rx_res;
	uint32_t rx_frame, rx_region; /* where rx.dst is, or U_NONE */
	struct tcp_rx rx;
	struct iovec rx_iov[2];
	struct msghdr rx_msg;

	/* send: op_head <= op_done <= op_sent <= op_tail, counting from 0 */
	bool tx_armed, tx_lead_armed, connect_armed, fin_sent;
	bool connect_begun; /* the kernel goes on with it by itself; we wait until it is done */
	bool zc, zc_forced;
	uint8_t zc_copied; /* in a row */
	int tx_err;
	uint32_t op_head, op_done, op_sent, op_tail, op_off;
	uint32_t zc_head, zc_tail, zc_current;
	uint32_t arena_head, arena_tail;
	struct u_op *ops;
	uint8_t *arena;
	struct msghdr tx_msg;
	struct iovec tx_iov[2 * U_BUNDLE_OPS];
	struct u_zc zcs[U_ZC_RECORDS];

	/* life */
	bool connected_pending, connected_data, peer_fin;
	int down_err;
	const uint8_t *down_data; /* what DOWN carries */
	uint8_t down_len;
	uint32_t domain;
	uint64_t cookie;
	uint64_t deadline; /* 0: none */
	uint64_t bytes_sent, bytes_received;
	struct be_addr peer;
	uint8_t greet_out[TCP_GREETING], greet_in[TCP_GREETING];
	uint8_t greet_out_len, greet_out_done, greet_in_have;
};

enum r_state { R_FREE, R_PREAMBLE, R_DROPPED, R_OFFERED };

/* A connection that nobody has accepted. Belongs to the listening instance until it is offered
 * (BE_INCOMING), then to whoever accepts or rejects it; comes back through uring.returned. */
struct be_request {
	struct uring *owner;
	enum r_state state;
	uint32_t index;
	int fd;
	bool armed, wants_recv, wants_cancel, wish_queued;
	uint32_t have;
	uint64_t deadline;
	struct be_request *prev, *next; /* in the list of its state */
	struct be_request *wish_next;
	_Atomic(struct be_request *) returned_next;
	struct be_addr peer;
	uint8_t preamble[BE_PREAMBLE];
};

struct u_requests {
	struct be_request *head, *tail;
};

struct u_region {
	void *addr;
	uint64_t len;
	uint64_t key;
	uint32_t domain, id;
	uint32_t next; /* in its bucket or the free list */
	uint32_t busy; /* streams that receive into it */
	bool used, dropped;
};

struct u_source {
	const uint8_t *addr;
	uint64_t len;
	uint32_t first, slices; /* registered buffers */
	bool used, registered;
};

struct u_list {
	struct u_stream *head, *tail;
};

struct u_out {
	struct be_event *ev;
	int n, max;
};

struct uring {
	struct be be;
	struct uring_opts opts;
	struct clock clock;
	uint64_t idle_ns;       /* bound of a graceful close */
	uint64_t next_deadline; /* UINT64_MAX: none */

	/* ring */
	struct io_uring ring;
	bool ring_open, disabled, enabled, closing;
	pid_t owner; /* the thread that the ring is bound to */
	bool multishot, files_ok, buffers_ok, has_zc, wake_armed;
	int wake_fd;
	uint64_t wake_buf;
	atomic_bool woken;
	uint32_t inflight; /* SQEs whose last CQE is to come, cancels apart */

	/* streams */
	struct u_stream *streams;
	uint32_t n_streams, n_sends;
	uint32_t *free_streams, n_free_streams;
	struct u_op *op_store;
	uint8_t *arena_store;
	struct u_list ready, work, frame_wait;

	/* frames */
	uint8_t *frame_store;
	uint32_t n_frames, frame_bytes, frame_stride;
	uint32_t *free_frames, n_free_frames;
	uint8_t *frame_state; /* 0 free, 1 receiving, 2 the caller's */

	/* regions and sources */
	struct u_region *regions;
	uint32_t *region_buckets, region_mask, n_regions, free_region;
	struct u_source sources[U_SOURCES];
	bool zc_streams; /* there was one that may send zero-copy */

	/* listener */
	int listen_fd, spare_fd;
	bool accept_armed;
	uint64_t accept_after; /* back-off, 0: none */
	struct be_request *requests;
	uint32_t n_requests, n_pending;
	struct u_requests request_free, half_open, incoming; /* incoming: to be offered */
	struct be_request *request_wishes;
	_Atomic(struct be_request *) returned;

	uint8_t event_data[U_EVENT_DATA][TCP_GREETING];
	uint32_t n_event_data;
};

static inline struct uring *uring_of(struct be *be)
{
	return (struct uring *)be;
}

/* uring_ring.c */
int ring_probe(struct err *e);
int ring_open(struct uring *u, uint32_t cq_entries, struct err *e);
void ring_close(struct uring *u);
void ring_enter(struct uring *u);                      /* submits; never sleeps */
void ring_sleep(struct uring *u, uint64_t timeout_ns); /* submits, sleeps until a completion */
void ring_drain(struct uring *u);                      /* hands completions to their owners */
bool ring_bound_here(const struct uring *u);           /* may this thread use the ring? */
struct io_uring_sqe *ring_sqe(struct uring *u);        /* below ring_flush only; room was checked */
bool ring_room(struct uring *u, unsigned n);
bool ring_file_set(struct uring *u, uint32_t slot, int fd);
int ring_buffers_set(struct uring *u, uint32_t slot, const struct iovec *iov, uint32_t n);
void uring_wake(struct be *be);

/* uring_conn.c */
/* -EINVAL for what never was a stream, -ENOTCONN for one that is no more. */
int stream_find(struct uring *u, be_stream name, struct u_stream **out);
/* Takes over fd in any case; NULL: all streams in use. */
struct u_stream *stream_new(struct uring *u, int fd, const struct be_addr *peer, enum u_state state, uint32_t domain,
			    uint64_t cookie);
be_stream stream_name(const struct u_stream *s);
void stream_ready(struct uring *u, struct u_stream *s);
void stream_wish(struct uring *u, struct u_stream *s, uint8_t wishes);
void stream_die(struct uring *u, struct u_stream *s, int err);
void stream_deliver(struct uring *u, struct u_stream *s, struct u_out *out);
void stream_path(struct uring *u, struct u_stream *s);
void stream_connected(struct uring *u, struct u_stream *s, int res);
void stream_expire(struct uring *u, struct u_stream *s);
void stream_deadline(struct uring *u, uint64_t *field, uint64_t after);
const void *event_keep(struct uring *u, const void *data, size_t len);
struct be_event *out_add(struct u_out *out, enum be_event_type type, const struct u_stream *s); /* NULL: full */
int uring_connect(struct be *be, const struct be_addr *to, const void *pre, uint32_t domain, uint64_t cookie,
		  be_stream *out, struct err *e);
void uring_stream_close(struct be *be, be_stream name, bool graceful);

/* uring_tx.c */
int uring_send(struct be *be, be_stream name, const struct be_msg *v, int n);
int uring_put(struct be *be, be_stream name, const struct be_put *v, int n);
void tx_prepare(struct uring *u, struct u_stream *s); /* takes at most two SQEs */
void tx_cqe(struct uring *u, struct u_stream *s, enum u_kind kind, uint32_t record, int res, uint32_t flags);
bool tx_deliver(struct uring *u, struct u_stream *s, struct u_out *out, bool all);
/* wanted: by `auto` */
void tx_zc_choose(struct uring *u, struct u_stream *s, bool wanted);

/* uring_rx.c */
void rx_prepare(struct uring *u, struct u_stream *s);
void rx_watch(struct uring *u, struct u_stream *s);
void rx_watched(struct uring *u, struct u_stream *s);
bool rx_deliver(struct uring *u, struct u_stream *s, struct u_out *out);
void rx_drop(struct uring *u, struct u_stream *s);
void uring_release(struct be *be, uint32_t frame);

/* uring_listen.c */
int uring_listen(struct be *be, const struct be_addr *at, struct be_addr *bound, struct err *e);
int uring_accept(struct be *be, struct be_request *r, const void *reply, uint32_t domain, uint64_t cookie,
		 be_stream *out);
void uring_reject(struct be *be, struct be_request *r, const void *reply);
int requests_open(struct uring *u, struct err *e);
void requests_close(struct uring *u); /* stops listening; what is in flight is cancelled */
void requests_free(struct uring *u);
void requests_collect(struct uring *u); /* takes returned ones back */
void requests_expire(struct uring *u, uint64_t now);
void requests_deliver(struct uring *u, struct u_out *out);
void requests_flush(struct uring *u);
void accept_cqe(struct uring *u, int res, uint32_t flags);
void request_cqe(struct uring *u, struct be_request *r, int res);

/* uring_sock.c */
int sock_check(const struct uring_opts *o, struct err *e);
/* Turns sizes that this process may not have into auto, with one warning for each option. */
void sock_limit_buffers(struct uring_opts *o);
/* To connect to or to listen at an address: its congestion control is chosen here already. */
int sock_new(const struct uring_opts *o, const struct be_addr *at, struct err *e);
void sock_tune(const struct uring_opts *o, int fd);
/* For an accepted connection, whose listener did not know where from. */
void sock_tune_path(const struct uring_opts *o, int fd, bool local);
bool sock_is_local(int fd, const struct be_addr *peer);
/* The least that TCP saw so far, in ns; 0: not known. */
uint64_t sock_round_trip(int fd);
void sock_reset(int fd);
/* After a receive of nothing: 0 when that was the peer's FIN, else what the connection died of. A send that had gone
 * half way may have been told instead, and reports its half. */
int sock_ended(int fd);
int uring_info(struct be *be, be_stream name, struct be_info *out);
int uring_steer(struct be *be, be_stream name, const struct be_steer *how);

/* uring_region.c */
int regions_open(struct uring *u, uint32_t n, struct err *e);
void regions_close(struct uring *u);
int uring_region_add(struct be *be, uint32_t domain, uint32_t id, void *addr, uint64_t len, struct be_token *out,
		     struct err *e);
int uring_region_drop(struct be *be, uint32_t domain, uint32_t id);
int uring_region_key(struct be *be, uint32_t domain, uint32_t id, uint64_t key);
uint32_t region_find(const struct uring *u, uint32_t domain, uint32_t id, uint64_t key);
void region_unbusy(struct uring *u, uint32_t region);
int uring_source_add(struct be *be, const void *addr, uint64_t len, struct err *e);
void uring_source_drop(struct be *be, const void *addr);
void sources_register(struct uring *u);
int source_buffer(const struct uring *u, const void *p, uint64_t len); /* registered buffer that holds it, or -1 */

#endif

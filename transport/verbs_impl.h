/* SPDX-License-Identifier: MIT */
/*
 * Inside of plugins/rdma.so: shared by transport/verbs_*.c only.
 *
 *   FREE ── connect ─► RESOLVING ─ route ─► CONNECTING ── reply ──────► OPEN
 *   FREE ── accept ──────────────────────► ACCEPTING ──── HELLO ──────► OPEN
 *   OPEN ── stream_close(graceful) ─► CLOSING: sends the rest, BYE, waits for the peer's end
 *   any of them ── vs_die ─► DYING: queue pair in error, flushed, destroyed; DONEs, DOWN ─► FREE
 *
 * What is accepted waits in the stream; v_flush turns it into chains of work requests, below poll and wait. What
 * completes is kept in the stream until poll has room to report it.
 *
 *   v_dev (process) ◄── v_pd (process; one per device and domain) ◄── v_mr (process; once per memory)
 *     ▲                   ▲
 *   verbs (instance) ──► v_dom (instance's share of a domain: receive buffers, SRQ, registered send memory)
 *     └── v_stream (queue pair)
 */
#ifndef DWCP_TRANSPORT_VERBS_IMPL_H
#define DWCP_TRANSPORT_VERBS_IMPL_H

#include "base/util.h"
#include "transport/verbs.h"
#include "transport/verbs_wire.h"
#include <infiniband/verbs.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <stdatomic.h>

#define V_STREAMS_MAX 4096
#define V_SENDS_MAX 1024
#define V_FRAME_MAX (16u << 20)
#define V_PUT_MAX (1u << 30)
#define V_ARENA 4096 /* power of two, more than one message's head */
#define V_CHAIN 64
#define V_SGE 3
#define V_POLL 64 /* completions looked at together */
#define V_DOMAINS 64
#define V_SOURCES 64
#define V_SLOT (16u << 10) /* a copy of memory that is not registered */
#define V_SLOTS 32
#define V_EVENT_DATA 64
#define V_SPARE_REQUESTS 64
#define V_CREDITS 8       /* receive buffers of a stream, at least */
#define V_CREDITS_MOST 64 /* of a busy one on a shared receive queue */
#define V_OWN_CREDITS 32  /* on a receive queue of its own */
#define V_RECV_BUDGET (8u << 20)
#define V_SRQ_STREAMS 16
#define V_CELL 32                       /* a segment's header, and a greeting */
#define V_RECV_LEAD 64                  /* before a receive buffer's payload; ends with the header */
#define V_MUTE_TIME (500 * NS_PER_MS)   /* from a request that failed to a port that is seen to be down */
#define V_FLUSH_BOUND (500 * NS_PER_MS) /* for the work requests of a dead queue pair to come back */
#define V_CM_LOOK (NS_PER_MS)           /* how often descriptors are looked at without a wait */
#define V_TICK (100 * NS_PER_MS)        /* how often deadlines are */
#define V_REPLY (BE_PREAMBLE + VGREET)
#define V_RNR_RETRIES 6 /* never needed: credits see to it */
#define V_NONE UINT32_MAX

enum v_state { V_FREE, V_RESOLVING, V_CONNECTING, V_ACCEPTING, V_OPEN, V_CLOSING, V_DYING };

/* --- of the process: verbs_dev.c, verbs_mr.c --- */

struct v_pd {
	struct v_pd *next;
	struct ibv_context *ctx;
	struct ibv_pd *pd;
	uint32_t domain, users;
};

struct v_mr {
	struct v_mr *next;
	struct v_pd *pd;
	struct ibv_mr *mr; /* NULL: being registered, or failed */
	const void *addr;
	uint64_t len;
	uint32_t id; /* V_NONE: only sent from */
	uint32_t users;
	int err;
};

/* --- of an instance --- */

struct v_rbuf {
	uint32_t next;   /* in a list of buffers */
	uint32_t stream; /* be_stream that it is posted for, or came from */
	uint32_t bytes;  /* that arrived */
	bool posted;     /* to a queue pair of its own */
};

struct v_list {
	uint32_t head, tail, n;
};

/* A domain on this instance. */
struct v_dom {
	uint32_t domain, index;
	struct v_pd *pd;
	struct ibv_mr *tx_mr, *rx_mr;
	struct ibv_srq *srq; /* NULL: streams have receive queues of their own */
	uint8_t *rx_store;
	struct v_rbuf *rbufs;
	uint32_t n_rbufs;
	struct v_list free;   /* own queues: buffers of no stream */
	struct v_list repost; /* shared queue: to be posted */
	uint32_t spare;       /* shared queue: posted, and nobody's credit; … */
	uint32_t debt;        /* …those that were taken beyond that */
	struct v_mr *source[V_SOURCES];
};

/* One accepted send or put. */
struct v_op {
	const uint8_t *head; /* message: in the arena */
	const uint8_t *body;
	uint32_t head_len, body_len;
	uint32_t arena_end;
	uint32_t rkey;
	uint64_t raddr;
	bool message;
	uint64_t cookie;
};

/* One work request in a send queue. */
struct v_wr {
	uint32_t zero_copy, copied; /* bytes of payload */
	uint32_t slot;
	bool ends_op;
};

struct v_stream {
	enum v_state state;
	uint32_t index;
	uint16_t generation;
	struct verbs *u;
	struct rdma_cm_id *id;
	struct ibv_qp *qp;
	struct v_dom *dom;
	bool ready_queued, work_queued, frame_queued;
	struct v_stream *ready_next, *work_next, *frame_next;
	struct v_stream *qpn_next;

	/* receive */
	struct v_list arrived; /* buffers with segments of messages */
	struct v_list repost;  /* own queue */
	struct vasm assembly;
	uint32_t rx_frame;
	uint32_t granted; /* credits that the peer has, or will be told of */
	uint32_t owed;    /* of them, not yet told */
	bool rx_stuck;    /* waits for a frame */
	bool peer_bye;

	/* send: op_head <= op_done <= op_sent <= op_tail, wr_head <= wr_tail, counting from 0 */
	uint32_t depth, credits, peer_seg, max_write;
	uint32_t op_head, op_done, op_sent, op_tail, op_off;
	uint32_t wr_head, wr_tail, unsignalled;
	uint32_t arena_head, arena_tail;
	struct v_op *ops;
	struct v_wr *wrs;
	uint8_t *cells; /* headers of segments, one for each work request */
	uint8_t *arena;
	bool hello_due, bye_due, bye_sent, probe_due;

	/* life */
	bool connected_pending, connected_data, clean;
	bool disconnecting;   /* rdma_disconnect was called… */
	bool disconnected;    /* …or the peer's was heard of, or there is no connection that could be */
	bool mute;            /* …or will be: later, and not before the port is up */
	bool flushed;         /* the queue pair is gone, and every completion of it was seen */
	atomic_int async_err; /* set by whoever reads the device's events */
	int down_err;
	bool down_data;
	uint32_t domain;
	uint64_t cookie;
	uint64_t deadline; /* of set-up, of a graceful close, of dying */
	uint64_t heard_at; /* last completion or arrival; 0: as of the next look at the clock */
	uint64_t bytes_sent, bytes_received;
	struct be_addr local, peer;
	uint8_t pre[BE_PREAMBLE]; /* ours to send, then the peer's reply */
};

enum r_state { R_FREE, R_OFFERED };

/* An incoming connection. Belongs to the listening instance until it is offered (BE_INCOMING), then to whoever accepts
 * or rejects it; comes back through verbs.returned. */
struct be_request {
	struct verbs *owner;
	enum r_state state;
	struct rdma_cm_id *id;
	struct be_request *next;
	_Atomic(struct be_request *) returned_next;
	uint8_t preamble[BE_PREAMBLE];
};

/* An identifier whose stream is over and whose disconnect is not answered: destroyed before, it would keep us in the
 * kernel for as long as that goes on asking (a minute, in Linux 6.1). */
struct v_zombie {
	struct rdma_cm_id *id; /* NULL: free */
	bool mute;             /* not disconnected yet: by and by, if its port is up then */
	uint64_t until;        /* the next step */
};

enum v_left { V_ANSWERED, V_ASKED, V_MUTE }; /* how far the disconnect of an identifier is */

struct v_region {
	bool used;
	uint32_t domain, id;
	struct v_mr *mr;
};

struct v_source {
	bool used;
	const uint8_t *addr;
	uint64_t len;
};

struct v_out {
	struct be_event *ev;
	int n, max;
};

struct verbs {
	struct be be;
	struct verbs *next; /* in the process's list */
	struct verbs_opts opts;
	struct clock clock;
	uint64_t now, looked_at, ticked_at;
	uint32_t polls;
	bool closing;

	int ep, wake_fd;
	struct rdma_event_channel *cm;
	atomic_bool woken;
	_Atomic uint32_t async; /* V_ASYNC_* */
	bool look;              /* at the descriptors, soon */
	uint32_t n_setup;       /* streams that wait for the connection manager */
	uint32_t n_dying;

	/* the device; ctx NULL until the first domain */
	struct ibv_context *ctx;
	struct ibv_device_attr attr;
	struct ibv_comp_channel *comp;
	struct ibv_cq *cq;
	bool armed;
	uint32_t cq_events;
	uint32_t depth, inline_max, max_sge;
	struct v_dom *doms[V_DOMAINS];
	bool repost_due; /* one of them has buffers to post again */

	/* receive buffers of each domain */
	uint32_t seg, stride, n_rbufs;
	uint32_t own; /* of a stream, without SRQ */
	bool srq;

	/* streams */
	struct v_stream *streams;
	uint32_t n_streams, n_sends;
	uint32_t op_mask, wr_mask; /* of a stream's rings, which its counters outlive */
	uint32_t *free_streams, n_free_streams;
	struct v_op *op_store;
	struct v_wr *wr_store;
	struct v_stream **by_qpn; /* buckets */
	uint32_t qpn_mask;
	struct {
		struct v_stream *head, *tail;
	} ready, work, frame_wait;

	/* memory that is sent from: cells and arenas of streams, then slots */
	uint8_t *tx_store;
	size_t tx_bytes, cells_bytes;
	uint8_t *slots;
	uint32_t free_slots[V_SLOTS], n_free_slots;

	/* frames: where messages of several segments are put together; others stay in their receive buffer */
	uint8_t *frame_store;
	uint32_t n_frames, frame_bytes, frame_stride;
	uint32_t *free_frames, n_free_frames;
	struct v_held {
		bool callers;
		struct v_dom *dom;
		uint32_t rbuf; /* V_NONE: in the frame's own memory */
	} * frames;

	struct v_region *regions;
	uint32_t n_regions;
	struct v_source sources[V_SOURCES];

	struct v_zombie *zombies; /* one for each stream, and as many for those that follow */
	uint32_t n_zombies, n_undead;

	/* listener */
	struct rdma_cm_id *listener;
	struct be_request *requests, *request_free, *incoming, *incoming_tail;
	uint32_t n_requests, n_pending;
	_Atomic(struct be_request *) returned;

	uint8_t event_data[V_EVENT_DATA][BE_PREAMBLE];
	uint32_t n_event_data;
};

/* A copy of the manager's. */
struct cm_event {
	enum rdma_cm_event_type type;
	int status;
	struct rdma_cm_id *id, *listener;
	uint8_t data[V_REPLY];
	size_t len; /* of data */
};

enum v_fd { FD_COMP, FD_ASYNC, FD_CM, FD_WAKE }; /* what epoll says is readable */
enum { V_ASYNC_STREAM = 1, V_ASYNC_PORT = 2, V_ASYNC_GONE = 4 };

static inline struct verbs *verbs_of(struct be *be)
{
	return (struct verbs *)be;
}

static inline uint8_t *rbuf_at(const struct verbs *u, const struct v_dom *d, uint32_t i)
{
	return d->rx_store + (size_t)i * u->stride + V_RECV_LEAD - VSEG_HEADER;
}

/* What a work request's completion says: bit 63 a receive, else a send of a stream. */
#define WR_RECV (1ull << 63)
static inline uint64_t wr_recv(const struct v_dom *d, uint32_t rbuf)
{
	return WR_RECV | (uint64_t)d->index << 32 | rbuf;
}

static inline uint64_t wr_send(const struct v_stream *s, uint32_t seq)
{
	return (uint64_t)s->index << 48 | (uint64_t)s->generation << 32 | seq;
}

static inline be_stream vs_name(const struct v_stream *s)
{
	return s->index | (uint32_t)s->generation << 16;
}

/* It has events to report, or may have. */
static inline void vs_ready(struct v_stream *s)
{
	struct verbs *u = s->u;

	if (s->ready_queued)
		return;
	s->ready_queued = true;
	s->ready_next = NULL;
	if (u->ready.head)
		u->ready.tail->ready_next = s;
	else
		u->ready.head = s;
	u->ready.tail = s;
}

/* It has something for the device. */
static inline void vs_work(struct v_stream *s)
{
	struct verbs *u = s->u;

	if (s->work_queued)
		return;
	s->work_queued = true;
	s->work_next = NULL;
	if (u->work.head)
		u->work.tail->work_next = s;
	else
		u->work.head = s;
	u->work.tail = s;
}

static inline void list_add(struct v_dom *d, struct v_list *l, uint32_t rbuf)
{
	d->rbufs[rbuf].next = V_NONE;
	if (l->n++)
		d->rbufs[l->tail].next = rbuf;
	else
		l->head = rbuf;
	l->tail = rbuf;
}

static inline uint32_t list_take(struct v_dom *d, struct v_list *l)
{
	uint32_t rbuf = l->head;

	if (!l->n)
		return V_NONE;
	l->n--;
	l->head = d->rbufs[rbuf].next;
	return rbuf;
}

static inline bool tx_idle(const struct v_stream *s)
{
	return s->op_done == s->op_tail;
}

/* Half of what the peer may have: then it cannot have run dry while all of ours waits to be told. */
static inline bool tx_credits_due(const struct v_stream *s)
{
	return s->owed >= max_u64(s->granted / 2, 2) && !(s->peer_bye && s->bye_sent);
}

/* There is something to send, whether or not it may go yet. */
static inline bool tx_wants(const struct v_stream *s)
{
	return s->op_sent != s->op_tail || s->hello_due || s->bye_due || s->probe_due || tx_credits_due(s);
}

/* verbs_dev.c */
int dev_probe(struct err *e);
int dev_find(const struct verbs_opts *o, struct ibv_context **out, struct err *e); /* where no connection tells */
bool dev_is(const struct ibv_context *ctx, const char *name);                      /* "": any is */
bool dev_port_up(struct ibv_context *ctx, uint32_t port);
int dev_bind(struct verbs *u, struct ibv_context *ctx, struct err *e); /* 0 too when it is bound to that already */
void dev_unbind(struct verbs *u);
void dev_join(struct verbs *u); /* so that the device's events find its streams */
void dev_leave(struct verbs *u);
void dev_events(struct verbs *u);
struct v_pd *pd_take(struct ibv_context *ctx, uint32_t domain, struct err *e);
void pd_drop(struct v_pd *pd);

/* verbs_mr.c */
struct v_mr *mr_take(struct v_pd *pd, const void *addr, uint64_t len, uint32_t id, struct err *e);
void mr_drop(struct v_mr *m);
int v_region_add(struct be *be, uint32_t domain, uint32_t id, void *addr, uint64_t len, struct be_token *out,
		 struct err *e);
int v_region_drop(struct be *be, uint32_t domain, uint32_t id);
int v_source_add(struct be *be, const void *addr, uint64_t len, struct err *e);
void v_source_drop(struct be *be, const void *addr);
void sources_register(struct verbs *u, struct v_dom *d);
uint32_t source_lkey(const struct verbs *u, const struct v_dom *d, const void *p, uint64_t len); /* 0: none */
void regions_close(struct verbs *u);

/* verbs_dom.c */
struct v_dom *dom_get(struct verbs *u, struct ibv_context *ctx, uint32_t domain, struct err *e);
void dom_close(struct verbs *u, struct v_dom *d);

/* verbs_stream.c */
int vs_find(struct verbs *u, be_stream name, struct v_stream **out);
struct v_stream *vs_new(struct verbs *u, enum v_state state, uint32_t domain, uint64_t cookie);
void vs_free(struct v_stream *s);
void vs_state(struct v_stream *s, enum v_state state);
void vs_die(struct v_stream *s, int err);
void vs_lost(struct v_stream *s, int err);     /* the same where the route may have failed */
void vs_protocol(struct v_stream *s, int err); /* the peer's mistake */
void vs_deliver(struct v_stream *s, struct v_out *out);
void vs_reap(struct v_stream *s); /* of a dying one: is its queue pair flushed? */
void vs_tick(struct v_stream *s);
struct v_stream *vs_by_qpn(const struct verbs *u, uint32_t qpn);
int vs_queue_pair(struct v_stream *s, struct err *e);
const void *event_keep(struct verbs *u, const void *data);
struct be_event *out_add(struct v_out *out, enum be_event_type type, const struct v_stream *s); /* NULL: full */
void v_stream_close(struct be *be, be_stream name, bool graceful);
int v_info(struct be *be, be_stream name, struct be_info *out);

/* verbs_cm.c */
int v_connect(struct be *be, const struct be_addr *to, const void *pre, uint32_t domain, uint64_t cookie,
	      be_stream *out, struct err *e);
void cm_events(struct verbs *u);
void cm_end(struct verbs *u, struct rdma_cm_id *id, enum v_left how); /* destroys it, at once or later */
void cm_tick(struct verbs *u);
bool cm_quiet(const struct verbs *u); /* nothing is left to be destroyed */
bool cm_mute(const struct verbs *u);  /* something is left that is not disconnected yet */
void cm_close(struct verbs *u);
uint8_t cm_mtu(const struct verbs *u, uint8_t path);
uint8_t cm_path_mtu(struct v_stream *s);
int cm_qp_start(struct v_stream *s, uint8_t mtu); /* ready to receive and to send; mtu: what both ends use */
void cm_addr_keep(struct be_addr *out, const struct sockaddr *sa);
void cm_addresses(struct v_stream *s);
bool cm_asked_for(const struct verbs_opts *o); /* a certain device or port */

/* verbs_listen.c */
int v_listen(struct be *be, const struct be_addr *at, struct be_addr *bound, struct err *e);
int v_accept(struct be *be, struct be_request *r, const void *reply, uint32_t domain, uint64_t cookie, be_stream *out);
void v_reject(struct be *be, struct be_request *r, const void *reply);
int requests_open(struct verbs *u, struct err *e);
void requests_close(struct verbs *u);
void requests_collect(struct verbs *u);
void v_warn_of(struct verbs *u, struct rdma_cm_id *id, const char *what, const char *became, const struct err *e);
void requests_deliver(struct verbs *u, struct v_out *out);
void request_new(struct verbs *u, const struct cm_event *ev);

/* verbs_tx.c */
int v_send(struct be *be, be_stream name, const struct be_msg *v, int n);
int v_put(struct be *be, be_stream name, const struct be_put *v, int n);
void v_flush(struct verbs *u);
void tx_completion(struct v_stream *s, const struct ibv_wc *wc);
void tx_drop(struct v_stream *s);
bool tx_deliver(struct v_stream *s, struct v_out *out, bool all);

/* verbs_rx.c */
int rx_open(struct v_stream *s);    /* its first receive buffers are posted; granted says how many */
void rx_repost(struct v_stream *s); /* those of its own queue */
void rx_completion(struct verbs *u, const struct ibv_wc *wc);
void rx_flush(struct verbs *u); /* posts buffers again */
bool rx_deliver(struct v_stream *s, struct v_out *out);
void rx_drop(struct v_stream *s);
void v_release(struct be *be, uint32_t frame);

/* verbs_poll.c */
int v_poll(struct be *be, struct be_event *ev, int max);
int v_wait_fd(struct be *be, uint64_t *timeout_ns);
void v_wait(struct be *be, uint64_t timeout_ns);
void v_wake(struct be *be);
void v_warn(const char *text);     /* a line for the log */
uint32_t v_drain(struct verbs *u); /* hands completions to their owners; how many there were */

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Inside mem: what a fabric, an instance and a stream are. mem.c holds the hooks, mem_net.c the
 * network between them: delivery, faults, endings.
 *
 * States of a stream and who moves it:
 *
 *   FREE ──mem_connect──► CONNECTING ──step_connecting (the reply arrived)──► UP
 *   FREE ──mem_accept──► UP ──stream_close(graceful)──► CLOSING
 *   any ──mem_abort_stream, or mem_step when a cut is noticed──► DYING
 *   DYING ──step_dying (the DONEs that are left, then DOWN)──► FREE
 *
 * An operation waits in the ring of the stream that sends it until the receiver's poll takes it from
 * there (deliver): bytes go from source to place in one copy. Cutting a stream clears `peer` at both
 * ends at once, and with it the only way to each other's memory; each end notices at its own cut_ns.
 */
#ifndef DWCP_TRANSPORT_MEM_NET_H
#define DWCP_TRANSPORT_MEM_NET_H

#include "base/util.h"
#include "transport/mem.h"

enum {
	MEM_FRAME_MAX = 4 << 20,
	MEM_PUT_MAX = 64 << 20,
	MEM_SLOT_BITS = 12, /* a handle is slot | generation << MEM_SLOT_BITS */
	MEM_STREAMS_MAX = 1 << MEM_SLOT_BITS,
	MEM_SENDS_MAX = 1 << 16,
	MEM_FIRST_PORT = 20000,
};

struct mem_op {
	const uint8_t *body;
	uint64_t len; /* of body; wider than any valid put, for mem_inject_put */
	uint64_t offset, cookie;
	uint64_t due_ns;  /* delivered not before */
	uint64_t done_ns; /* DONE not before; set on delivery */
	uint64_t placed;  /* of a torn put: what has arrived */
	struct be_token token;
	uint32_t head_len;
	bool is_put, waited, drop, corrupt, torn;
};

/* A put that was under way when its stream broke, with bytes of its own: the sender's may change by now. */
struct mem_late {
	struct mem_late *next;
	struct mem_op op;
	uint8_t bytes[];
};

enum mem_state { FREE, CONNECTING, UP, CLOSING, DYING };

struct mem_stream {
	struct mem *mem;
	struct mem_stream *peer;     /* NULL: nobody to deliver to or from */
	struct mem_request *request; /* our connect, while a listener holds it */
	enum mem_state state;
	uint32_t gen, domain;
	uint64_t cookie;
	struct be_addr local, remote;
	uint64_t due_ns;      /* CONNECTING: when the request arrives there, then the reply here */
	uint64_t deadline_ns; /* CONNECTING, CLOSING */
	uint64_t cut_ns;      /* when this end notices that it is cut */
	int err;              /* of the cut: what DOWN says */
	bool cut, is_acceptor, accepted, refused, lost, has_reply, tell, turn;

	/* Outgoing operations, free-running: done <= delivered <= tail <= done + sends. */
	uint64_t done, delivered, tail;
	uint64_t lost_ok; /* so many undelivered operations are DONE without error all the same */
	uint64_t last_due_ns;
	struct mem_late *late;    /* incoming, in order */
	struct mem_region *holds; /* a dropped region that this stream keeps busy */
	struct mem_op *ops;
	uint8_t (*heads)[BE_HEAD_MAX];

	uint64_t sent, received;
	char congestion[16];
	uint8_t pre[BE_PREAMBLE];
	uint8_t reply[2][BE_PREAMBLE]; /* by generation: an event may still point at the one before */
};

/* A connect that a listener has reported and nobody has answered. */
struct mem_request {
	struct mem *listener;
	struct mem_stream *from; /* NULL: it gave up */
	bool used;
	uint8_t pre[BE_PREAMBLE];
};

struct mem_region {
	uint8_t *addr;
	uint64_t len, key;
	uint32_t domain, id;
	uint32_t busy; /* dropped: streams that were placing into it and are not DOWN yet */
	bool used, dropping;
};

struct mem {
	struct be be;
	struct mem_fabric *fabric;
	struct mem *next;
	struct be_open o;
	struct be_addr at; /* of the listener */
	uint32_t next_slot, n_free_frames;
	bool listening, crashed;
	bool woken; /* atomic: the one field that other threads write */
	struct mem_stream *streams;
	struct mem_op *ops;
	uint8_t (*heads)[BE_HEAD_MAX];
	struct mem_request *requests;
	struct mem_region *regions;
	uint8_t *frames;
	uint32_t *free_frames; /* a stack */
	bool *frame_held;
};

struct mem_fabric {
	struct mem_faults faults;
	struct clock clock;
	uint64_t rng, secret;
	uint64_t link_free_ns[2]; /* when the bandwidth limit lets the next byte go */
	uint64_t partition_ns;
	struct mem *members;
	uint32_t connecting; /* streams in that state */
	uint16_t next_port;
	bool partitioned;
};

static inline struct mem *mem_of(struct be *be)
{
	return (struct mem *)be;
}

static inline uint64_t now_of(const struct mem *m)
{
	return clock_now(&m->fabric->clock);
}

static inline bool chance(struct mem_fabric *f, uint32_t ppm)
{
	return ppm && rng_next(&f->rng) % 1000000 < ppm;
}

/* 0 … most */
static inline uint64_t pick(struct mem_fabric *f, uint64_t most)
{
	return most ? rng_next(&f->rng) % (most + 1) : 0;
}

static inline uint64_t path_delay(const struct mem_stream *s)
{
	struct mem_fabric *f = s->mem->fabric;
	const struct mem_path *p = &f->faults.path[s->is_acceptor];

	return p->delay_ns + pick(f, p->jitter_ns);
}

static inline uint64_t idle_ns(const struct mem_fabric *f)
{
	return f->faults.idle_timeout_ns ? f->faults.idle_timeout_ns : 30 * NS_PER_S;
}

static inline struct mem_op *op_at(const struct mem_stream *s, uint64_t i)
{
	return &s->ops[i % s->mem->o.sends];
}

static inline uint16_t mem_port(const struct be_addr *a)
{
	return ntohs(a->sa.sa_family == AF_INET6 ? a->in6.sin6_port : a->in.sin_port);
}

/* The instance that listens at `port`, or NULL. */
struct mem *mem_listener_at(const struct mem_fabric *f, uint16_t port);

be_stream mem_handle(const struct mem_stream *s);

/* -EINVAL for what never was a stream, -ENOTCONN for one that is no more. */
int mem_stream_find(struct mem *m, be_stream h, struct mem_stream **out);

/* A free slot in its new state and generation; NULL when there is none. */
struct mem_stream *mem_stream_take(struct mem *m, enum mem_state state, uint32_t domain, uint64_t cookie);
void mem_set_state(struct mem_stream *s, enum mem_state to);
struct mem_region *mem_region_find(const struct mem *m, uint32_t domain, uint32_t id);

/* One end is on its own from now on, and will notice at `at`. The first cut counts. */
void mem_cut(struct mem_stream *s, int err, uint64_t at);

/* Breaks a stream for a reason found at this end, at once; the peer hears of it a delay later. */
void mem_sever(struct mem_stream *s, int err, int peer_err);

/* This instance ends the stream itself: what has not been delivered is lost, and its DONEs say so. */
void mem_abort_stream(struct mem_stream *s, int err, int peer_err);

/* Uses a request up; returns who asked, or NULL if that one has gone. */
struct mem_stream *mem_request_end(struct be_request *opaque);
void mem_refuse(struct mem_stream *from, const void *reply);

/* Moves a stream by at most one event: returns 1 when *ev is filled. *moved: something changed without one. */
int mem_step(struct mem_stream *s, struct be_event *ev, bool *moved);

#endif

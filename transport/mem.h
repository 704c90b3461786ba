/* SPDX-License-Identifier: MIT */
/*
 * The in-process backend: streams between instances of one *fabric*, with faults
 * injected on purpose. It is the model for anyone who writes a backend, and the
 * network under the simulations.
 *
 * Threads: every instance of a fabric, and the fabric, belong to one thread (there
 * are no locks); only `wake` may be called from others. With a manual clock a run is
 * therefore a function of the seed and of the order of calls: a failure repeats.
 *
 * The fabric's clock rules; be_open.clock is not read. be_open.seed stirs the
 * fabric's generator. `wait` never sleeps: whoever drives the instances moves the
 * clock (mem_fabric_next tells how far). An address selects a listener by its port
 * alone.
 *
 * Bytes are copied once, from the source to their place, when they are delivered;
 * the receiving instance counts them as copied. DONE follows delivery, except on a
 * stream that broke: there some lost operations are DONE without error, as with a
 * kernel that took the bytes and could not get rid of them.
 */
#ifndef DWCP_TRANSPORT_MEM_H
#define DWCP_TRANSPORT_MEM_H

#include "transport/backend.h"

struct mem_fabric;

/* One direction of every stream. */
struct mem_path {
	uint64_t delay_ns;    /* of every operation */
	uint64_t jitter_ns;   /* 0 … this is added. A stream keeps its order, streams overtake one another */
	uint64_t bytes_per_s; /* shared by all streams of the fabric; 0: no limit */
};

/* All zero: a perfect network. Probabilities are in parts per million. */
struct mem_faults {
	struct mem_path path[2]; /* [0] from the connecting side, [1] from the accepting side */
	uint64_t done_delay_ns;  /* DONE after delivery */
	uint64_t done_jitter_ns;
	uint64_t notice_jitter_ns;   /* the two ends of a broken stream learn of it up to this much later */
	uint64_t connect_timeout_ns; /* 0: 10 s */
	uint64_t idle_timeout_ns;    /* of a partition and of a graceful close; 0: 30 s */
	uint32_t drop_ppm;           /* per operation: its stream breaks instead, a put perhaps half placed */
	uint32_t short_ppm;          /* per send/put call: accepts fewer, or none while a DONE is still to come */
	uint32_t corrupt_ppm;        /* per operation: one bit of a put or of a message body flips */
	uint32_t torn_ppm;           /* per put: arrives in two parts, the second a later poll's */
	uint32_t refuse_ppm;         /* per connect: refused */
	uint32_t late_ppm;           /* per end of a broken stream: puts under way arrive until it notices */
	uint32_t lose_ppm;           /* per connect: the request never arrives, the connect times out */
};

/* faults NULL: none. */
int mem_fabric_open(struct mem_fabric **out, const struct mem_faults *faults, uint64_t seed, struct clock clock,
		    struct err *e);
void mem_fabric_close(struct mem_fabric *f); /* after every instance is closed; NULL is fine */

/* The faults now in force; may be changed at any time between calls, and acts on what is sent from then on. */
struct mem_faults *mem_fabric_faults(struct mem_fabric *f);

/* When the next thing falls due: later than now, or UINT64_MAX when only a caller can move things. */
uint64_t mem_fabric_next(const struct mem_fabric *f);

/* While partitioned nothing is delivered and no connect arrives; after idle_timeout_ns streams go DOWN
 * with -ETIMEDOUT. What was under way arrives when it is healed. */
void mem_partition(struct mem_fabric *f, bool on);

/* Breaks one stream now: both ends get DONEs and DOWN with -ECONNRESET. A stale handle is ignored. */
void mem_drop(struct be *be, be_stream h);

/* The instance is dead from now on, without goodbye: peers get DOWN with -ECONNRESET, its own hooks
 * answer -ENOTCONN or nothing. Only close is left to call. */
void mem_crash(struct be *be);

/* Test only: sends what `put` would refuse to, as a hostile peer might. src needs min(len, caps.put_max)
 * bytes. As put for one operation. */
int mem_inject_put(struct be *be, be_stream h, struct be_token token, uint64_t offset, const void *src, uint64_t len,
		   uint64_t cookie);

extern const struct be_ops mem_ops;

/* The same with one-sided puts that the receiver does not see ("mem1"); not in backends[]. */
extern const struct be_ops mem_one_sided_ops;

#endif

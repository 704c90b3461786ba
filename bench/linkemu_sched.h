/* SPDX-License-Identifier: MIT */
/*
 * One direction of an emulated link: a queue of bytes in front of a transmitter of a given rate, then a line that
 * delays, loses, reorders and repeats. No I/O, no thread, no clock of its own: packets go in and come out with the
 * time as an argument, and the same seed and the same calls give the same packets.
 *
 *	arrival ─► queue (bytes, drops its tail) ─► transmitter (rate or trace) ─► loss ─► delay + wander ─► delivery
 *
 * A packet that is lost was on the wire before, so that it has taken its time of the transmitter. Jitter does not
 * reorder: the delay wanders between delay − jitter and delay + jitter along straight lines, a new corner every
 * 4 × jitter. Reordering is told apart: a packet is held back by `reorder_delay` while the ones behind it pass.
 *
 * Loss in bursts is the model of Gilbert (1960) and Elliott (1963), its good state losing nothing: a burst lasts
 * `loss_burst` packets in the mean, loses the share `loss_in_burst` of its packets, and comes as often as `loss` asks.
 *
 * All times are nanoseconds of one clock that never goes back; rates are bits per second and count bytes of IP packets.
 * Thread rule: one thread. Allocates in open and set only.
 */
#ifndef DWCP_BENCH_LINKEMU_SCHED_H
#define DWCP_BENCH_LINKEMU_SCHED_H

#include "base/err.h"
#include "bench/linkemu_trace.h"
#include <stdbool.h>
#include <stdint.h>

struct link_params {
	uint64_t rate;                  /* 0: no limit */
	const struct link_trace *trace; /* in place of `rate`, or NULL; the caller's, outlives its use */
	uint64_t delay_ns, jitter_ns;
	double loss;          /* share of packets, 0..1 */
	double loss_burst;    /* mean packets in a burst; 1 or less: each packet for itself */
	double loss_in_burst; /* share lost within a burst, above 0 */
	double reorder;       /* share of packets held back */
	uint64_t reorder_delay_ns;
	double duplicate; /* share of packets delivered twice */
	uint64_t queue;   /* bytes that wait and are under transmission, at most */
};

struct link_counters {
	uint64_t in_packets, in_bytes;   /* offered */
	uint64_t out_packets, out_bytes; /* delivered, repetitions included */
	uint64_t queue_drops;            /* the queue was full */
	uint64_t lost, lost_bursts;      /* by the loss model; runs of lost packets */
	uint64_t reordered, duplicated;
	uint64_t overflow; /* dropped because the emulator had no room: not part of the model, should be 0 */
};

struct link_packet {
	void *frame;  /* the caller's */
	uint32_t seg; /* the caller's */
	uint32_t len;
	uint64_t sent_ns; /* the transmitter was done with it */
	uint64_t due_ns;
	uint8_t copies; /* 0: it is lost */
	bool held;
};

struct link_sched;

/* What cannot be (a share above 1, jitter above delay, bursts that cannot make up the loss …): -EINVAL. */
int link_params_check(const struct link_params *p, struct err *e);
/* Bytes that wait or are under way, at most; the room an emulator needs. */
uint64_t link_params_bytes(const struct link_params *p);

/* `trace` begins at start_ns. */
int link_sched_open(struct link_sched **out, const struct link_params *p, uint64_t seed, uint64_t start_ns,
		    struct err *e);
/* What is on the wire stays there; what waits is sent under the new parameters. A trace begins at now_ns, unless it is
 * the one that runs. On error nothing has changed. */
int link_sched_set(struct link_sched *s, const struct link_params *p, uint64_t now_ns, struct err *e);
/* Frames inside are forgotten: to release them, pop with now_ns = UINT64_MAX before. */
void link_sched_close(struct link_sched *s);

/* False: dropped, the frame stays the caller's. */
bool link_sched_push(struct link_sched *s, uint64_t now_ns, void *frame, uint32_t seg, uint32_t len);
/* The next packet that is due at now_ns, lost ones among them (copies 0); false: none. */
bool link_sched_pop(struct link_sched *s, uint64_t now_ns, struct link_packet *out);
/* When the next one is due; UINT64_MAX: none is inside. */
uint64_t link_sched_next(const struct link_sched *s);

uint64_t link_sched_backlog(struct link_sched *s, uint64_t now_ns); /* bytes in the queue */
const struct link_counters *link_sched_counters(const struct link_sched *s);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The thread of one direction: reads what one TUN device sends, asks the scheduler, writes into the other device what
 * is due. No allocation, lock or log call per packet.
 */
#ifndef DWCP_BENCH_LINKEMU_PUMP_H
#define DWCP_BENCH_LINKEMU_PUMP_H

#include "base/stats.h"
#include "bench/linkemu_sched.h"

struct pump;

struct pump_status {
	struct link_counters link;
	uint64_t queue_bytes;                           /* now */
	uint64_t refused;                               /* packets that the receiving device did not take */
	uint64_t unknown;                               /* frames that are no IP */
	uint64_t late_p50_ns, late_p99_ns, late_max_ns; /* how long after its time a packet was delivered */
};

/* Starts the thread. The descriptors are the caller's, and stay open until pump_close. */
int pump_open(struct pump **out, int from, int to, const struct link_params *p, uint64_t seed, struct err *e);
void pump_close(struct pump *p);

/* Both wait for the thread, up to a second: -ETIMEDOUT. */
int pump_set(struct pump *p, const struct link_params *params, struct err *e);
int pump_status(struct pump *p, struct pump_status *out, struct err *e);

#endif

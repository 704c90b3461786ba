/* SPDX-License-Identifier: MIT */
/*
 * The receiver that a benchmark or migration without --peer starts for itself: a process of
 * its own on loopback, so that both ends are measured apart. It ends with its
 * one session, when told to, and when its parent dies.
 */
#ifndef DWCP_CLI_BENCH_PEER_H
#define DWCP_CLI_BENCH_PEER_H

#include "cli/bench_link.h"
#include "cli/transfer.h"
#include <sys/types.h>

struct bench_peer {
	pid_t pid; /* 0: none */
	struct be_addr addr;
};

/* Forks: to be called before there are threads. On loopback, or on side B of the link if there is one that is up (NULL:
 * none). guest_sessions: it takes migrated guests, too, as `dwcp serve` does, which come in so many; 0: none. */
int bench_peer_start(struct bench_peer *p, const struct transfer *t, struct bench_link *link, uint64_t memory_max,
		     unsigned guest_sessions, struct err *e);
/* Any state. done: its session was ended in order, so it ends by itself: waits for that, bounded, then kills it.
 * Otherwise ends it now. */
void bench_peer_stop(struct bench_peer *p, bool done);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The listening end: many sessions, each with its own workers, regions and
 * files. One control thread owns everything here; what blocks (opening and
 * joining workers, prefaulting, hashing, fsync) runs in a job thread, one for each session.
 *
 * A peer is not trusted: connections, sessions, memory, files and message
 * sizes are bounded; a session's mistakes end that session and nothing else. A session that
 * lost its control stream ends after its time-out; one in which nothing is asked and nothing
 * moves ends after ten times its time-out (a minute at least).
 */
#ifndef DWCP_TRANSPORT_SERVER_H
#define DWCP_TRANSPORT_SERVER_H

#include "base/json.h"
#include "transport/amst.h"
#include "transport/service.h"
#include "transport/store.h"

struct server_config {
	const struct be_ops *ops;
	const void *be_opts;
	struct be_addr listen;
	unsigned workers;    /* most per session */
	unsigned sessions;   /* most at once; as many again may be giving their memory back. A quarter of the backend's
			      * streams_max less a few, or server_open says how many */
	uint64_t memory_max; /* bytes of regions, all sessions together */
	struct store *store; /* NULL: files are refused */
	struct service service;
	const struct filter *const *filters; /* that clients may name, NULL-terminated; NULL: none */
	const int *cpus;                     /* workers of a session are pinned to cpus[i % n_cpus]; NULL: not pinned */
	unsigned n_cpus;
	uint64_t timeout_ns; /* most that a session without control stream is kept, whatever the client asks; ten times
				as long, a minute at least, if it is idle */
	struct clock clock;
	const char *release; /* dwcp's version, told to clients */
	uint64_t seed;

	bool manual; /* simulations: no threads; server_turn also steps the workers */
	void *fabric;
};

struct server_counters {
	uint64_t sessions_started, sessions_ended, sessions_failed, sessions_resumed;
	uint64_t connections_refused;
	uint64_t files_received, files_failed;
	uint64_t sessions_now, streams_now, region_bytes_now;
};
extern const struct metric server_metrics[];
extern const size_t server_metrics_n;

struct server;

int server_open(struct server **out, const struct server_config *cfg, struct err *e);
/* Ends sessions: GOODBYE, and up to 3 s for it to be sent and for jobs to end. Then it joins every worker and job thread,
 * which takes as long as the file system or the kernel keeps one of them: a write to a disk that has died has no
 * time-out. NULL is fine. */
void server_close(struct server *s);
const struct be_addr *server_bound(const struct server *s);

/* One round of events, waiting at most wait_ns. */
void server_turn(struct server *s, uint64_t wait_ns);
/* Ends the wait of a server_turn. Any thread, also a signal handler's thread. */
void server_wake(struct server *s);

/* Everything that was ever counted, ended sessions included. Any thread. */
void server_counters(struct server *s, struct server_counters *sc, struct amst_counters *ac, struct be_counters *bc);
/* {"counters":{…}, "sessions":[{peer, streams, seconds, bytes_received, bytes_sent, …}]}. Any thread. */
json_t *server_stats(struct server *s);

#endif

/* SPDX-License-Identifier: MIT */
/* What `dwcp migrate` (cmd_migrate.c) measures, how it is shown (migrate_report.c), and what other commands show of it. */
#ifndef DWCP_CLI_MIGRATE_H
#define DWCP_CLI_MIGRATE_H

#include "base/hugebuf.h"
#include "base/json.h"
#include "cli/bench_peer.h"
#include "migrate/session.h"

#define MIGRATE_GUESTS_MAX 512

struct migrate_opts {
	char guest[GUEST_KIND_LEN];
	char name[GUEST_NAME_LEN];
	uint64_t memory;
	char peer[280], link[1024];
	int policy, verify;
	char tracker[16];
	uint64_t downtime_ns, timeout_ns, blackout_max_ns, doubt_ns;
	uint64_t recover_ns;
	uint32_t rounds, late_rounds, guests, parallel; /* parallel 0: all */
	bool force, auto_converge;
	uint64_t dirty_limit, max_bandwidth; /* bits/s, as options; 0: none */
	uint64_t switchover_bandwidth;       /* the same; 0: as measured */
	uint64_t warm_up_ns, settle_ns;
	bool timeline;
	char plot[4096]; /* PNG or SVG; "": none */
};

struct migrate_cmd {
	struct migrate_opts opts;
	struct transfer_opts transfer_opts;
	struct transfer transfer;
	struct bench_link *net; /* between here and our own process there; not up: none */
	bool text;              /* results to standard output */
	bool live;              /* and progress to standard error */

	const struct guest_ops *kind;
	void *kind_opts;
	const struct tracker_ops *tracker;
	struct hugebuf memory;
	struct guest *guest;
	struct client *client;
	uint64_t progress_ns;

	/* results */
	struct migrate_result result;
	double guest_writes_per_s; /* before the migration */
	double guest_steps_per_s;
	bool checked; /* the guest's own check was made, wherever it is */
	bool check_ok;
	struct err check_err;
	uint64_t writes_here, writes_there; /* at the hand-over; when it was checked */
};

/* The parts of one migration: a guest that is made and runs; a session; the move; what the guest itself says then. A
 * session belongs to the thread that opened it. */
void migrate_catch_hold(void); /* SIGUSR1 and SIGUSR2 */
int migrate_make_guest(struct migrate_cmd *m, struct err *e);
int migrate_connect(struct migrate_cmd *m, struct client **out, struct err *e);
int migrate_move(struct migrate_cmd *m, struct err *e);
int migrate_check_guest(struct migrate_cmd *m, struct err *e);

/* Many guests at once (migrate_many.c). plan: before the transfer is planned. peer: the own process, 0: none. Returns the
 * exit status. */
unsigned migrate_at_once(const struct migrate_opts *o); /* guests on their way at a time */
void migrate_many_plan(struct migrate_cmd *m);
int migrate_many(const struct migrate_cmd *m, pid_t peer, const char *json);

void migrate_print_head(const struct migrate_cmd *m);
void migrate_print(const struct migrate_cmd *m);
int migrate_print_json(const struct migrate_cmd *m, const char *path, struct err *e);
/* When what happened: as text; as a picture, for which -ENOENT says that gnuplot is missing. */
void migrate_print_timeline(const struct migrate_cmd *m);
int migrate_plot(const struct migrate_cmd *m, const char *path, struct err *e);
void migrate_progress_line(const struct migrate_progress *p);

/* {id, name, kind, phase, memory_bytes, writes} */
json_t *guest_json(const struct msg_guest_status *st);
#define GUEST_ID_TEXT 33
char *guest_id_text(char out[GUEST_ID_TEXT], const struct msg_guest_id *id);

#endif

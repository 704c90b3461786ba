/* SPDX-License-Identifier: MIT */
/*
 * dwcp migrate --guests=N: many at once, from this process to one destination. Each has a thread and a session; they share
 * CPUs and link as the kernel shares them, and with one worker each none gets more of either than another. --parallel: the
 * others keep their session alive and their guest running until enough of those before them are over.
 */
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/migrate.h"
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TURN (20 * NS_PER_MS)

struct lane {
	struct many *all;
	struct migrate_cmd m;
	pthread_t thread;
	uint64_t began, ended;
	int rc;
	struct err err;
};

struct many {
	const struct migrate_cmd *model;
	struct lane *lane;
	unsigned n;
	unsigned connected, over; /* lanes, or those that could not; atomic */
	unsigned moved;           /* or failed; atomic */
	bool give_up;             /* not all could be started; atomic */
	pid_t peer;
	double here_mb, there_mb; /* memory for each migration, besides the guest; NAN: not known */
};

unsigned migrate_at_once(const struct migrate_opts *o)
{
	return o->parallel && o->parallel < o->guests ? o->parallel : o->guests;
}

void migrate_many_plan(struct migrate_cmd *m)
{
	unsigned cpus = transfer_cpu_count(), at_once = migrate_at_once(&m->opts);
	unsigned each = cpus / at_once ? cpus / at_once : 1;

	m->transfer_opts.workers = m->transfer_opts.workers ? m->transfer_opts.workers : each;
	m->transfer_opts.streams = m->transfer_opts.streams ? m->transfer_opts.streams : m->transfer_opts.workers;
	/* Guests share the CPUs; pinned workers of all of them would share the first. */
	if (!m->transfer_opts.affinity[0] && each < cpus)
		snprintf(m->transfer_opts.affinity, sizeof m->transfer_opts.affinity, "none");
}

/* A process' memory in MB: "VmRSS" now, "VmHWM" the most there was; NAN: not known. */
static double memory_mb(pid_t pid, const char *what)
{
	char path[64], line[128];
	size_t len = strlen(what);
	double kb = NAN;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, what, len) && line[len] == ':')
			kb = strtod(line + len + 1, NULL);
	if (f)
		fclose(f);
	return kb * 1024 / 1e6;
}

/* Until all are there; sessions are kept alive meanwhile. They begin together, and none ends before the last has moved, or
 * the destination would take the first for the last. */
static void meet(struct lane *l, unsigned *there)
{
	struct many *a = l->all;
	struct err e;

	__atomic_add_fetch(there, 1, __ATOMIC_ACQ_REL);
	while (__atomic_load_n(there, __ATOMIC_ACQUIRE) < a->n && !__atomic_load_n(&a->give_up, __ATOMIC_ACQUIRE))
		if (!l->m.client || client_turn(l->m.client, TURN, &e) < 0 || client_stay(l->m.client, &e) < 0)
			poll(NULL, 0, (int)(TURN / NS_PER_MS));
}

/* First come, first served. */
static void wait_turn(struct lane *l)
{
	struct many *a = l->all;
	unsigned before = (unsigned)(l - a->lane), most = migrate_at_once(&a->model->opts);
	struct err e;

	while (before >= __atomic_load_n(&a->moved, __ATOMIC_ACQUIRE) + most && l->rc == 0 && !cmd_signal &&
	       !__atomic_load_n(&a->give_up, __ATOMIC_ACQUIRE))
		if (client_turn(l->m.client, TURN, &e) < 0 || client_stay(l->m.client, &e) < 0)
			poll(NULL, 0, (int)(TURN / NS_PER_MS));
}

static void *run_lane(void *arg)
{
	struct lane *l = arg;
	struct err why = { 0 };

	l->rc = migrate_connect(&l->m, &l->m.client, &l->err);
	meet(l, &l->all->connected);
	l->began = l->ended = clock_now(&clock_mono);
	wait_turn(l);
	if (l->rc == 0 && !__atomic_load_n(&l->all->give_up, __ATOMIC_ACQUIRE)) {
		l->rc = migrate_move(&l->m, &l->err);
		l->ended = clock_now(&clock_mono);
		client_interrupted_by(l->m.client, NULL);
	}
	__atomic_add_fetch(&l->all->moved, 1, __ATOMIC_ACQ_REL);
	meet(l, &l->all->over);
	if (l == l->all->lane && l->all->peer)
		l->all->there_mb = memory_mb(l->all->peer, "VmHWM");
	if (l->m.result.total_ns && migrate_check_guest(&l->m, &why) < 0 && l->rc == 0) {
		l->rc = why.code;
		l->err = why;
	}
	l->m.check_err = why;
	client_close(l->m.client);
	return NULL;
}

/* ---- before and after -------------------------------------------------------------------------- */

static int make_lanes(struct many *a, struct err *e)
{
	uint64_t warm_up = a->model->opts.warm_up_ns, until;
	int rc = 0;

	for (unsigned i = 0; i < a->n && rc == 0; i++) {
		struct lane *l = &a->lane[i];

		l->all = a;
		l->m = *a->model;
		l->m.live = false;
		l->m.opts.warm_up_ns = 0;
		snprintf(l->m.opts.name, sizeof l->m.opts.name, "%.40s-%u", a->model->opts.name, i);
		rc = migrate_make_guest(&l->m, e);
	}
	until = clock_now(&clock_mono) + warm_up;
	while (rc == 0 && !cmd_signal && clock_now(&clock_mono) < until)
		poll(NULL, 0, (int)(TURN / NS_PER_MS));
	return rc == 0 && cmd_signal ? err_set(e, -EINTR, "interrupted") : rc;
}

static void free_lanes(struct many *a)
{
	for (unsigned i = 0; a->lane && i < a->n; i++) {
		struct migrate_cmd *m = &a->lane[i].m;

		if (m->guest)
			m->kind->close(m->guest);
		hugebuf_free(&m->memory);
	}
	free(a->lane);
}

static int move_all(struct many *a, struct err *e)
{
	double here = memory_mb(getpid(), "VmRSS"), there = a->peer ? memory_mb(a->peer, "VmRSS") : NAN;
	unsigned started = 0;
	int rc = 0;

	a->there_mb = NAN;
	while (rc == 0 && started < a->n) {
		rc = -pthread_create(&a->lane[started].thread, NULL, run_lane, &a->lane[started]);
		started += rc == 0;
	}
	if (rc < 0)
		__atomic_store_n(&a->give_up, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < started; i++)
		pthread_join(a->lane[i].thread, NULL);
	if (rc < 0)
		return err_set(e, rc, "cannot start %u threads: %s; raise ulimit -u, or move fewer guests", a->n,
			       strerror(-rc));
	a->here_mb = (memory_mb(getpid(), "VmHWM") - here) / a->n;
	a->there_mb = (a->there_mb - there) / a->n - (double)a->model->opts.memory / 1e6;
	return 0;
}

/* ---- results ----------------------------------------------------------------------------------- */

static struct stats_interval over_lanes(const struct many *a, double (*of)(const struct migrate_result *r))
{
	double *v = calloc(a->n, sizeof *v);
	struct stats_interval s = { NAN, NAN, NAN, 0 };
	size_t n = 0;

	for (unsigned i = 0; v && i < a->n; i++)
		if (a->lane[i].m.result.outcome == OUTCOME_COMPLETED)
			v[n++] = of(&a->lane[i].m.result);
	if (n)
		s = stats_bootstrap(v, n, 1);
	free(v);
	return s;
}

static double total_s(const struct migrate_result *r)
{
	return (double)r->total_ns / 1e9;
}

static double downtime_ms(const struct migrate_result *r)
{
	return (double)r->downtime_ns / 1e6;
}

static double most(const struct many *a, double (*of)(const struct migrate_result *r))
{
	double v = 0;

	for (unsigned i = 0; i < a->n; i++)
		v = fmax(v, of(&a->lane[i].m.result));
	return v;
}

struct sums {
	unsigned completed, verified, checked;
	double seconds, bytes_wire;
};

static struct sums add_up(const struct many *a)
{
	struct sums s = { 0 };
	uint64_t began = UINT64_MAX, ended = 0;

	for (unsigned i = 0; i < a->n; i++) {
		const struct lane *l = &a->lane[i];

		began = min_u64(began, l->began);
		ended = max_u64(ended, l->ended);
		s.completed += l->m.result.outcome == OUTCOME_COMPLETED;
		s.verified += l->m.result.verified;
		s.checked += l->m.check_ok;
		s.bytes_wire += (double)l->m.result.bytes_wire;
	}
	s.seconds = fmax((double)(ended - began) / 1e9, 1e-9);
	return s;
}

static void print(const struct many *a)
{
	const struct migrate_opts *o = &a->model->opts;
	struct stats_interval total = over_lanes(a, total_s), down = over_lanes(a, downtime_ms);
	struct sums s = add_up(a);
	char memory[32];

	printf("%u guests of %s (%s), %u at once to %s, %u streams and %u workers each\n", a->n,
	       format_size(memory, sizeof memory, o->memory), a->model->kind->name, migrate_at_once(o),
	       o->peer[0] ? a->model->transfer.target : "own process", a->model->transfer.streams,
	       a->model->transfer.workers);
	bench_link_print(a->model->net, o->link);
	printf("  %-16s %u completed, %u verified, of %u the guest's own check is good\n", "outcome", s.completed,
	       s.verified, s.checked);
	printf("  %-16s %.3f s: %.3f migrations/s, %.3f GB/s of guest memory, %.2f MB on the wire\n", "all of them",
	       s.seconds, s.completed / s.seconds, s.completed * (double)o->memory / 1e9 / s.seconds,
	       s.bytes_wire / 1e6);
	printf("  %-16s median %.3f s, most %.3f\n", "total", total.median, most(a, total_s));
	printf("  %-16s median %.2f ms, most %.2f\n", "downtime", down.median, most(a, downtime_ms));
	printf("  %-16s %.2f MB of memory here for each besides the guest", "overhead", a->here_mb);
	if (isfinite(a->there_mb))
		printf(", %.2f there", a->there_mb);
	putchar('\n');
	fflush(stdout);
}

static json_t *lanes_json(const struct many *a)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < a->n; i++) {
		const struct lane *l = &a->lane[i];
		const struct migrate_result *r = &l->m.result;

		json_array_append_new(
			list, json_pack("{s:s, s:s, s:f, s:f, s:f, s:I, s:i, s:b, s:o}", "name", l->m.opts.name,
					"outcome", migrate_outcome_name(r->outcome), "total_seconds", total_s(r),
					"downtime_ms", downtime_ms(r), "prepare_ms", (double)r->prepare_ns / 1e6,
					"bytes_wire", (json_int_t)r->bytes_wire, "n_rounds",
					(int)(r->n_rounds + r->more_rounds), "verified", r->verified, "self_check",
					l->m.checked ? json_boolean(l->m.check_ok) : json_null()));
	}
	return list;
}

static int print_json(const struct many *a, const char *path, struct err *e)
{
	const struct migrate_cmd *m = a->model;
	json_t *result = json_result("migrate", true), *part;
	struct sums s = add_up(a);
	int rc;

	part = json_pack(
		"{s:i, s:i, s:s, s:I, s:s, s:s, s:i, s:i, s:i, s:b, s:b, s:f, s:f, s:f, s:o, s:o, s:f, s:f, s:o, s:o, s:o}",
		"guests", (int)a->n, "parallel", (int)migrate_at_once(&m->opts), "guest", m->kind->name, "memory_bytes",
		(json_int_t)m->opts.memory, "policy", migrate_policies[m->opts.policy].name, "backend",
		m->transfer.ops->name, "streams", (int)m->transfer.streams, "workers", (int)m->transfer.workers,
		"completed", (int)s.completed, "verified", s.verified == a->n, "self_check", s.checked == a->n,
		"makespan_seconds", s.seconds, "migrations_per_s", s.completed / s.seconds, "memory_gbytes_per_s",
		s.completed * (double)m->opts.memory / 1e9 / s.seconds, "total_seconds",
		json_interval(over_lanes(a, total_s)), "downtime_ms", json_interval(over_lanes(a, downtime_ms)),
		"total_seconds_max", most(a, total_s), "downtime_ms_max", most(a, downtime_ms),
		"source_mbytes_per_migration", json_number(a->here_mb), "destination_mbytes_per_migration",
		json_number(a->there_mb), "migrations", lanes_json(a));
	json_object_update(result, part);
	json_decref(part);
	bench_link_json(m->net, m->opts.link, result);
	rc = json_write(result, path, e);
	json_decref(result);
	return rc;
}

int migrate_many(const struct migrate_cmd *m, pid_t peer, const char *json)
{
	struct many a = { .model = m, .n = m->opts.guests, .peer = peer };
	struct err e = { 0 };
	int rc, status = CMD_OK;

	a.lane = calloc(a.n, sizeof *a.lane);
	rc = a.lane ? make_lanes(&a, &e) : err_set(&e, -ENOMEM, "no memory for %u guests", a.n);
	if (rc == 0)
		rc = move_all(&a, &e);
	bench_link_leave(m->net);
	if (rc == 0 && m->text)
		print(&a);
	if (rc == 0 && *json)
		rc = print_json(&a, json, &e);
	for (unsigned i = 0; rc == 0 && i < a.n; i++) {
		rc = a.lane[i].rc;
		e = a.lane[i].err;
	}
	if (rc < 0)
		status = transfer_fail("migrate", &e);
	free_lanes(&a);
	return status;
}

/* SPDX-License-Identifier: MIT */
/* Migrations between this process and a second one, with their CPU time; and a guest by itself. */
#include "base/bitmap.h"
#include "base/hugebuf.h"
#include "base/util.h"
#include "cli/calibrate.h"
#include "cli/cmd.h"
#include "migrate/guest_synth.h"
#include "migrate/pages.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TINY GUEST_MEMORY_MIN
#define ROOM (64u << 20) /* of the receiver, besides the guest */
#define DOWNTIME NS_PER_MS
#define ROUNDS 8u /* so that there are short ones and long ones */
#define WATCH (300 * NS_PER_MS)
#define WATCH_LOOK 10 /* ms */
#define WATCH_RATE 400.0

static double cpu_of(clockid_t clock)
{
	struct timespec t = { 0 };

	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double cpu_of_process(pid_t pid)
{
	clockid_t clock;

	return clock_getcpuclockid(pid, &clock) ? 0 : cpu_of(clock);
}

/* ---- a guest ----------------------------------------------------------------------------------- */

struct held {
	struct hugebuf memory;
	struct guest *guest;
};

static void let_go(struct held *h)
{
	if (h->guest)
		h->guest->ops->close(h->guest);
	hugebuf_free(&h->memory);
}

static int hold(struct held *h, enum contents contents, uint64_t bytes, double dirty_rate, struct err *e)
{
	struct synth_opts o = { .dirty_rate = dirty_rate, .working_set = 100, .threads = 1, .seed = 1 };
	int rc;

	*h = (struct held){ .guest = NULL };
	rc = hugebuf_alloc(&h->memory, bytes, true, e);
	if (rc == 0)
		rc = guest_synth_ops.open(&h->guest, h->memory.addr, bytes, &o, e);
	if (rc < 0) {
		let_go(h);
		return rc;
	}
	if (contents == CONTENTS_ZEROS)
		memset(h->memory.addr, 0, bytes);
	for (uint64_t at = 0; contents == CONTENTS_RANDOM && at < bytes; at += GUEST_PAGE)
		rng_fill((uint8_t *)h->memory.addr + at + 16, GUEST_PAGE - 16, at + 1);
	return 0;
}

static void nap(uint64_t until)
{
	uint64_t at;

	while (!cmd_signal && (at = clock_now(&clock_mono)) < until)
		poll(NULL, 0, (int)min_u64((until - at) / NS_PER_MS + 1, WATCH_LOOK));
}

/* ---- one migration ----------------------------------------------------------------------------- */

static int open_session(const struct transfer *t, uint32_t chunk, struct client **out, struct err *e)
{
	struct client_config cfg;

	transfer_client(t, true, &cfg);
	cfg.stage_chunk = migrate_chunk_room(chunk);
	return client_open(out, &cfg, NULL, e);
}

/*
 * A tracker in front of the tracker: it is opened when memory has been made there, and first asked when the first round is
 * over, which is when the two processes' CPU time is looked at. One migration at a time.
 */
static struct {
	const struct tracker_ops *real;
	pid_t peer;
	struct sim_seen *seen;
	double here, there; /* at the last look */
	bool asked;
} probe;

static void take(double *here, double *there)
{
	double h = cpu_of(CLOCK_PROCESS_CPUTIME_ID), t = cpu_of_process(probe.peer);

	*here = h - probe.here;
	*there = t - probe.there;
	probe.here = h;
	probe.there = t;
}

static int64_t probe_fetch(struct tracker *t, uint64_t first, uint64_t n, uint64_t *map)
{
	if (!probe.asked)
		take(&probe.seen->source_ns, &probe.seen->dest_ns);
	probe.asked = true;
	return probe.real->fetch(t, first, n, map);
}

static void probe_clean(struct tracker *t, uint64_t first, uint64_t n)
{
	if (probe.real->clean)
		probe.real->clean(t, first, n);
}

static void probe_close(struct tracker *t)
{
	probe.real->close(t);
}

static int probe_open(struct tracker **out, struct guest *g, struct err *e);

static const struct tracker_ops probe_ops = {
	.name = "probe",
	.help = "looks at CPU time",
	.open = probe_open,
	.close = probe_close,
	.fetch = probe_fetch,
	.clean = probe_clean,
};

static int probe_open(struct tracker **out, struct guest *g, struct err *e)
{
	double unused;
	int rc;

	take(&unused, &probe.seen->make_ns);
	rc = probe.real->open(out, g, e);
	if (rc < 0)
		return rc;
	(*out)->ops = &probe_ops;
	take(&probe.seen->track_ns, &unused);
	return 0;
}

static int migrate(const struct calibrate *c, const struct calibrate_move *m, struct held *h, struct client *client,
		   uint32_t chunk, pid_t peer, struct sim_seen *seen, struct err *e)
{
	struct migrate_config cfg = {
		.guest = h->guest,
		.name = "calibration",
		.tracker = &probe_ops,
		.policy = &migrate_policies[0],
		.client = client,
		.chunk = chunk,
		.sum = (enum sum_kind)c->transfer_opts.sum,
		.hde = c->transfer_opts.hde,
		.limits = { .downtime_ns = DOWNTIME, .rounds_max = ROUNDS },
		.force = true,
		.verify = VERIFY_NONE,
		.clock = clock_mono,
		.cancel = &cmd_signal,
	};
	double here, there;

	cfg.hde.mode = m->hde;
	probe.real = c->tracker;
	probe.peer = peer;
	probe.seen = seen;
	probe.asked = false;
	take(&here, &there);
	return migrate_run(&cfg, &seen->r, e);
}

static int move(const struct calibrate *c, const struct calibrate_move *m, struct sim_seen *seen, struct err *e)
{
	const struct be_addr loopback = { .len = sizeof(struct sockaddr_in),
					  .in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	uint32_t chunk = m->hde ? PAGES_CHUNK_MAX : PAGES_CHUNK_MAX / 2;
	struct transfer_opts o = c->transfer_opts;
	struct transfer t = { 0 };
	struct bench_peer peer = { .pid = 0 };
	struct client *client = NULL;
	struct held h;
	int rc;

	o.streams = m->one_stream ? 1 : o.streams;
	o.chunk = chunk;
	rc = transfer_plan_addr(&t, &o, &loopback, "own process", e);
	if (rc == 0) /* before there is a thread: it forks */
		rc = bench_peer_start(&peer, &t, NULL, m->memory + ROOM, 1, e);
	if (rc < 0)
		return rc;
	t.peer[0] = peer.addr;
	rc = hold(&h, m->contents, m->memory, m->dirty_rate, e);
	if (rc == 0)
		rc = h.guest->ops->run(h.guest, e);
	if (rc == 0)
		rc = open_session(&t, chunk, &client, e);
	if (rc == 0)
		rc = migrate(c, m, &h, client, chunk, peer.pid, seen, e);
	client_close(client);
	let_go(&h);
	bench_peer_stop(&peer, rc >= 0);
	return rc;
}

/* ---- a guest by itself ------------------------------------------------------------------------- */

/* What a guest's threads did while they were watched, and the CPU time that it took. */
struct watched {
	double cpu_ns, ns, writes, found;
};

static void watch_for_a_while(struct held *h, struct tracker *t, uint64_t *map, struct watched *w)
{
	uint64_t pages = h->guest->len / GUEST_PAGE, began = clock_now(&clock_mono);
	double process = cpu_of(CLOCK_PROCESS_CPUTIME_ID), own = cpu_of(CLOCK_THREAD_CPUTIME_ID);
	struct guest_work before, after;

	h->guest->ops->work(h->guest, &before);
	h->guest->ops->run(h->guest, NULL);
	while (!cmd_signal && clock_now(&clock_mono) < began + WATCH) {
		nap(clock_now(&clock_mono) + WATCH_LOOK * NS_PER_MS);
		if (t)
			w->found += (double)t->ops->fetch(t, 0, pages, map);
	}
	h->guest->ops->pause(h->guest, NULL);
	h->guest->ops->work(h->guest, &after);
	w->cpu_ns = cpu_of(CLOCK_PROCESS_CPUTIME_ID) - process - (cpu_of(CLOCK_THREAD_CPUTIME_ID) - own);
	w->ns = (double)(clock_now(&clock_mono) - began);
	w->writes = (double)(after.writes - before.writes);
}

/* tracker NULL: it is not tracked. */
static int watch(const struct calibrate *c, const struct tracker_ops *tracker, double rate, struct watched *w,
		 struct err *e)
{
	uint64_t pages = c->memory / GUEST_PAGE, words = bitmap_words(pages), *map;
	struct tracker *t = NULL;
	struct held h;
	int rc = hold(&h, CONTENTS_RANDOM, c->memory, rate, e);

	*w = (struct watched){ 0 };
	if (rc < 0)
		return rc;
	assert(words);
	map = calloc(words, sizeof *map);
	if (!map)
		rc = err_set(e, -ENOMEM, "no memory for the dirty bitmap of a guest: free some, or use less --memory");
	if (rc == 0 && tracker)
		rc = tracker->open(&t, h.guest, e);
	if (rc == 0) {
		if (t) /* all of it counts as written at first */
			t->ops->fetch(t, 0, pages, map);
		watch_for_a_while(&h, t, map, w);
	}
	if (t)
		t->ops->close(t);
	free(map);
	let_go(&h);
	return rc;
}

static int watch_alone(const struct calibrate *c, struct sim_turn *t, struct err *e)
{
	struct watched idle, plain, tracked;
	int rc = watch(c, NULL, 0, &idle, e);

	if (rc == 0)
		rc = watch(c, NULL, WATCH_RATE, &plain, e);
	if (rc == 0)
		rc = watch(c, c->tracker, WATCH_RATE, &tracked, e);
	if (rc)
		return rc;
	t->guest_cpus = idle.cpu_ns / idle.ns;
	t->write_ns = plain.cpu_ns / fmax(plain.writes, 1);
	t->fault_ns = fmax(tracked.cpu_ns - tracked.writes * t->write_ns, 0) / fmax(tracked.found, 1);
	return 0;
}

/* ---- a turn ------------------------------------------------------------------------------------ */

static struct calibrate_move describe(const struct calibrate *c, unsigned i)
{
	const struct calibrate_move plain[] = {
		[MOVE_TINY] = { .contents = CONTENTS_ZEROS, .memory = TINY },
		[MOVE_ZEROS] = { .contents = CONTENTS_ZEROS, .memory = c->memory },
		[MOVE_RAW] = { .contents = CONTENTS_RANDOM, .memory = c->memory },
		[MOVE_SINGLE] = { .contents = CONTENTS_RANDOM, .memory = c->memory, .one_stream = true },
		[MOVE_SLOW] = { .contents = CONTENTS_RANDOM, .memory = c->memory, .dirty_rate = SIM_SLOW_RATE },
		[MOVE_FAST] = { .contents = CONTENTS_RANDOM, .memory = c->memory, .dirty_rate = SIM_FAST_RATE },
	};
	struct calibrate_move m = { .contents = CONTENTS_MIX, .memory = c->memory };

	if (i < MOVE_HDE)
		return plain[i];
	m.hde = HDE_AUTO + (int)(i - MOVE_HDE) / 3;
	if ((i - MOVE_HDE) % 3 == 0)
		m.memory = TINY;
	if ((i - MOVE_HDE) % 3 == 2)
		m.dirty_rate = 100;
	return m;
}

int calibrate_run_turn(struct calibrate *c, struct err *e)
{
	struct sim_turn *turn = &c->turn[c->done];
	int rc = watch_alone(c, turn, e);

	for (unsigned i = 0; rc == 0 && i < MOVES; i++) {
		struct calibrate_move m = describe(c, i);

		if (c->progress)
			c->progress(c->done, c->turns, i, MOVES);
		rc = cmd_signal ? err_set(e, -EINTR, "interrupted") : move(c, &m, &turn->move[i], e);
	}
	c->done += rc == 0;
	return rc;
}

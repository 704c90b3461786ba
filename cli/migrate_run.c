/* SPDX-License-Identifier: MIT */
/* One migration, part by part. */
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/migrate.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>

#define PROGRESS_NS (500 * NS_PER_MS)

static volatile sig_atomic_t hold;

static void on_hold(int sig)
{
	hold = sig == SIGUSR1;
}

void migrate_catch_hold(void)
{
	struct sigaction sa = { .sa_handler = on_hold, .sa_flags = SA_RESTART };

	sigemptyset(&sa.sa_mask);
	sigaction(SIGUSR1, &sa, NULL);
	sigaction(SIGUSR2, &sa, NULL);
}

static uint64_t now(void)
{
	return clock_now(&clock_mono);
}

/* Until then, or until a signal. */
static void wait_until(uint64_t until)
{
	uint64_t at;

	while (!cmd_signal && (at = now()) < until)
		poll(NULL, 0, (int)min_u64((until - at + NS_PER_MS - 1) / NS_PER_MS, 1000));
}

/* While the guest runs there the session must be kept alive. */
static int settle(struct migrate_cmd *m, struct err *e)
{
	uint64_t until = now() + m->opts.settle_ns, at;
	int rc = 0;

	while (rc >= 0 && !cmd_signal && (at = now()) < until) {
		rc = client_turn(m->client, min_u64(until - at, NS_PER_S), e);
		if (rc >= 0)
			rc = client_stay(m->client, e);
	}
	return rc;
}

int migrate_connect(struct migrate_cmd *m, struct client **out, struct err *e)
{
	struct client_config cfg;

	transfer_client(&m->transfer, true, &cfg);
	cfg.stage_chunk = migrate_chunk_room((uint32_t)m->transfer_opts.chunk);
	return client_open(out, &cfg, NULL, e);
}

static int reconnect(void *ctx, struct client **out, struct err *e)
{
	return migrate_connect(ctx, out, e);
}

/* For what the guest waits for: requests only. */
static int connect_urgent(void *ctx, struct client **out, struct err *e)
{
	struct migrate_cmd *m = ctx;
	struct client_config cfg;

	transfer_client(&m->transfer, true, &cfg);
	cfg.streams = cfg.streams_first = cfg.workers = 1;
	cfg.stage_chunk = 0;
	return client_open(out, &cfg, NULL, e);
}

static void progress(void *ctx, const struct migrate_progress *p)
{
	struct migrate_cmd *m = ctx;

	if (!m->live || now() < m->progress_ns)
		return;
	m->progress_ns = now() + PROGRESS_NS;
	migrate_progress_line(p);
}

int migrate_make_guest(struct migrate_cmd *m, struct err *e)
{
	struct guest_work before, after;
	uint64_t began;
	int rc = hugebuf_alloc(&m->memory, m->opts.memory, true, e);

	if (rc == 0)
		rc = m->kind->open(&m->guest, m->memory.addr, m->memory.len, m->kind_opts, e);
	if (rc == 0)
		rc = m->kind->run(m->guest, e);
	if (rc < 0)
		return rc;
	began = now();
	m->kind->work(m->guest, &before);
	wait_until(began + m->opts.warm_up_ns);
	m->kind->work(m->guest, &after);
	if (m->opts.warm_up_ns) {
		double s = (double)(now() - began) / 1e9;

		m->guest_writes_per_s = (double)(after.writes - before.writes) / s;
		m->guest_steps_per_s = (double)(after.steps - before.steps) / s;
	}
	return cmd_signal ? err_set(e, -EINTR, "interrupted") : 0;
}

int migrate_move(struct migrate_cmd *m, struct err *e)
{
	const struct migrate_opts *o = &m->opts;
	struct migrate_config cfg = {
		.guest = m->guest,
		.name = o->name,
		.tracker = m->tracker,
		.policy = &migrate_policies[o->policy],
		.client = m->client,
		.chunk = (uint32_t)m->transfer_opts.chunk,
		.sum = (enum sum_kind)m->transfer_opts.sum,
		.hde = m->transfer_opts.hde,
		.limits = { .downtime_ns = o->downtime_ns,
			    .timeout_ns = o->timeout_ns,
			    .rounds_max = o->rounds,
			    .blackout_bytes_per_s = o->switchover_bandwidth / 8 / migrate_at_once(o) },
		.force = o->force,
		.auto_converge = o->auto_converge,
		.dirty_limit = o->dirty_limit / 8,
		.max_bandwidth = o->max_bandwidth / 8 / migrate_at_once(o),
		.blackout_max_ns = o->blackout_max_ns,
		.verify = (enum migrate_verify)o->verify,
		.clock = clock_mono,
		.cancel = &cmd_signal,
		.hold = &hold,
		.progress = progress,
		.reconnect = reconnect,
		.urgent = connect_urgent,
		.ctx = m,
		.doubt_ns = o->doubt_ns,
		.late_rounds = o->late_rounds,
		.recover_ns = o->recover_ns,
	};

	return migrate_run(&cfg, &m->result, e);
}

static int check_there(struct migrate_cmd *m, struct guest_work *work, struct err *e)
{
	int rc = settle(m, e);

	return rc < 0 ? rc : migrate_check(m->client, &m->result.id, work, e);
}

/* The session of before may be gone, where the link broke and post-copy went on in another one. */
static int check_completed(struct migrate_cmd *m, struct guest_work *work, struct err *e)
{
	int rc = check_there(m, work, e);

	if (rc >= 0 || rc == -EBADMSG || !m->result.late.recoveries || cmd_signal)
		return rc;
	client_close(m->client);
	m->client = NULL;
	rc = migrate_connect(m, &m->client, e);
	return rc < 0 ? rc : check_there(m, work, e);
}

/* The guest looks at itself, wherever it is. */
int migrate_check_guest(struct migrate_cmd *m, struct err *e)
{
	struct guest_work work = { 0 };
	int rc;

	m->kind->work(m->guest, &work);
	m->writes_here = m->writes_there = work.writes;
	if (!m->opts.settle_ns || m->result.outcome == OUTCOME_IN_DOUBT || m->result.outcome == OUTCOME_INCOMPLETE)
		return 0;
	if (m->result.outcome == OUTCOME_COMPLETED) {
		rc = check_completed(m, &work, e);
		m->writes_there = work.writes;
	} else {
		rc = m->kind->pause(m->guest, e);
		if (rc == 0)
			rc = m->kind->check(m->guest, e);
	}
	m->checked = rc >= 0 || rc == -EBADMSG;
	m->check_ok = rc >= 0;
	return rc;
}

/* SPDX-License-Identifier: MIT */
/* dwcp migrate: a guest is made, runs, and moves. */
#include "base/log.h"
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/guest_options.h"
#include "cli/migrate.h"
#include "cli/plot.h"
#include "migrate/pages.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROGRESS_NS (500 * NS_PER_MS)
#define ROOM_THERE (64u << 20) /* of our own receiver, besides the guest */

static const struct cmd_usage usage = {
	.name = "migrate",
	.operands = "",
	.about =
		"Makes a guest, lets it run, and moves it while it runs: to a second process on this host, or with --peer to a "
		"`dwcp serve`, where it goes on. Measures rounds, downtime and bytes; compares memory at both ends; the guest "
		"checks its own writes. On any failure before the hand-over it goes on here. SIGUSR1 holds the migration, not the "
		"guest; SIGUSR2 lets it go on; SIGINT and SIGTERM cancel it, before the hand-over. GB/s are 10^9 bytes per second.",
	.examples = "  dwcp migrate --memory=1GB --dirty-rate=5\n"
		    "  dwcp migrate --peer=10.0.0.2 --memory=8GB --pattern=zipf --json=result.json\n"
		    "  dwcp migrate --policy=stopcopy --verify=full\n"
		    "  dwcp migrate --policy=postcopy --peer=10.0.0.2 --memory=8GB --dirty-rate=50\n",
};

#define FIELD(f) offsetof(struct migrate_opts, f)
#define ROOM(f) sizeof(((struct migrate_opts *)0)->f)

static const struct opt rows[] = {
	{ .name = "guest",
	  .type = OPT_STR,
	  .offset = FIELD(guest),
	  .def = "synth",
	  .max = ROOM(guest),
	  .unit = "KIND",
	  .help = "what is migrated; synth: threads that write to memory at a set rate, and check every write; kvm: a "
		  "virtual machine with a program of our own" },
	{ .name = "memory",
	  .type = OPT_SIZE,
	  .offset = FIELD(memory),
	  .def = "1GB",
	  .min = GUEST_MEMORY_MIN,
	  .max = GUEST_MEMORY_MAX,
	  .help = "the guest's memory, a multiple of 4 KB" },
	{ .name = "name",
	  .type = OPT_STR,
	  .offset = FIELD(name),
	  .def = "auto",
	  .max = ROOM(name),
	  .auto_ok = true,
	  .unit = "NAME",
	  .help = "of the guest, for people; auto: its kind and this process' number" },
	{ .name = "guests",
	  .type = OPT_U32,
	  .offset = FIELD(guests),
	  .def = "1",
	  .min = 1,
	  .max = MIGRATE_GUESTS_MAX,
	  .help = "so many alike, all moved at once, each over a session of its own to the one destination; --streams=auto "
		  "shares the CPUs out among them" },
	{ .name = "peer",
	  .type = OPT_STR,
	  .offset = FIELD(peer),
	  .def = "",
	  .max = ROOM(peer),
	  .unit = "HOST[:PORT]",
	  .help = "a running `dwcp serve`; without it an own process on loopback" },
	{ .name = "policy",
	  .type = OPT_ENUM,
	  .offset = FIELD(policy),
	  .def = "precopy",
	  .values = migrate_policy_names,
	  .help = "precopy: rounds while the guest runs, then the rest; stopcopy: pause, then everything; postcopy: hand over at "
		  "once, then everything, what the guest waits for first; hybrid: a few rounds, then post-copy" },
	{ .name = "tracker",
	  .type = OPT_STR,
	  .offset = FIELD(tracker),
	  .def = "auto",
	  .max = ROOM(tracker),
	  .auto_ok = true,
	  .unit = TRACKER_NAMES,
	  .help = "how writes are noticed; auto: the first that this machine has" },
	{ .name = "downtime-limit",
	  .type = OPT_TIME,
	  .offset = FIELD(downtime_ns),
	  .def = "30ms",
	  .min = NS_PER_MS,
	  .max = 3600 * NS_PER_S,
	  .help = "switch over when what is left is predicted to fit" },
	{ .name = "time-limit",
	  .type = OPT_TIME,
	  .offset = FIELD(timeout_ns),
	  .def = "5m",
	  .max = 24 * 3600 * NS_PER_S,
	  .help = "give up (or switch over, with --force) when it did not fit by then; 0: never" },
	{ .name = "max-rounds",
	  .type = OPT_U32,
	  .offset = FIELD(rounds),
	  .def = "60",
	  .min = 1,
	  .max = 100000,
	  .help = "the same for rounds" },
	{ .name = "hybrid-rounds",
	  .type = OPT_U32,
	  .offset = FIELD(late_rounds),
	  .def = "2",
	  .min = 1,
	  .max = 1000,
	  .help = "of pre-copy before a hybrid migration hands over, where the rest did not fit the downtime limit before" },
	{ .name = "recover-time",
	  .type = OPT_TIME,
	  .offset = FIELD(recover_ns),
	  .def = "0s",
	  .max = 24 * 3600 * NS_PER_S,
	  .help = "for so long a link that breaks in post-copy is tried again, while the guest waits there; 0: until "
		  "interrupted" },
	{ .name = "force",
	  .type = OPT_BOOL,
	  .offset = FIELD(force),
	  .def = "no",
	  .help = "when time or rounds are used up, switch over however long that takes" },
	{ .name = "blackout-max",
	  .type = OPT_TIME,
	  .offset = FIELD(blackout_max_ns),
	  .def = "0s",
	  .max = 24 * 3600 * NS_PER_S,
	  .help = "a blackout that takes longer is given up, the guest goes on here; 0: as long as the session lives" },
	{ .name = "doubt-time",
	  .type = OPT_TIME,
	  .offset = FIELD(doubt_ns),
	  .def = "60s",
	  .max = 24 * 3600 * NS_PER_S,
	  .help = "for so long the destination is asked whether the guest runs there, when the hand-over was not answered" },
	{ .name = "auto-converge",
	  .type = OPT_BOOL,
	  .offset = FIELD(auto_converge),
	  .def = "no",
	  .help = "slow the guest down, step by step, when rounds do not get shorter" },
	{ .name = "dirty-limit",
	  .type = OPT_RATE,
	  .offset = FIELD(dirty_limit),
	  .def = "0",
	  .help = "slow the guest down when it dirties more than that; 0: never" },
	{ .name = "max-bandwidth",
	  .type = OPT_RATE,
	  .offset = FIELD(max_bandwidth),
	  .def = "0",
	  .help = "what leaves here per second at most, of all guests together; the blackout's pages and those that a guest waits "
		  "for do not wait for it; 0: no limit" },
	{ .name = "verify",
	  .type = OPT_ENUM,
	  .offset = FIELD(verify),
	  .def = "pages",
	  .values = migrate_verify_names,
	  .help = "compare memory at both ends; pages: by sums taken as pages were placed; full: by sums of the whole memory "
		  "there, within the blackout" },
	{ .name = "warm-up",
	  .type = OPT_TIME,
	  .offset = FIELD(warm_up_ns),
	  .def = "1s",
	  .max = 3600 * NS_PER_S,
	  .help = "let the guest run for so long before" },
	{ .name = "settle",
	  .type = OPT_TIME,
	  .offset = FIELD(settle_ns),
	  .def = "500ms",
	  .max = 3600 * NS_PER_S,
	  .help = "let it run for so long at the destination, then let it check itself; 0: no check" },
	{ .name = "timeline",
	  .type = OPT_BOOL,
	  .offset = FIELD(timeline),
	  .def = "no",
	  .help = "show when each round and the blackout were" },
	{ .name = "plot",
	  .type = OPT_STR,
	  .offset = FIELD(plot),
	  .def = "",
	  .max = ROOM(plot),
	  .unit = "FILE.png|FILE.svg",
	  .help = "draw that there, with gnuplot" },
};

static volatile sig_atomic_t hold;

static void on_hold(int sig)
{
	hold = sig == SIGUSR1;
}

static void catch_hold(void)
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

/* ---- plan -------------------------------------------------------------------------------------- */

static int plan_transfer(struct migrate_cmd *m, struct err *e)
{
	const struct be_addr loopback = { .len = sizeof(struct sockaddr_in),
					  .in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	struct transfer_opts *o = &m->transfer_opts;

	if (o->chunk % GUEST_PAGE || o->chunk > PAGES_CHUNK_MAX)
		return err_set(e, -EINVAL,
			       "--chunk-size: a guest's pages go in chunks of a multiple of 4 KB, at most %u KB",
			       PAGES_CHUNK_MAX >> 10);
	return m->opts.peer[0] ? transfer_plan(&m->transfer, o, m->opts.peer, e)
			       : transfer_plan_addr(&m->transfer, o, &loopback, "own process", e);
}

static int plan(struct migrate_cmd *m, struct err *e)
{
	struct migrate_opts *o = &m->opts;
	int rc;

	m->kind = guest_find(o->guest);
	if (!m->kind)
		return err_set(e, -EINVAL, "--guest: there is no kind \"%s\"; see --help", o->guest);
	if (o->memory % GUEST_PAGE)
		return err_set(e, -EINVAL, "--memory must be a multiple of 4 KB");
	if (o->max_bandwidth && !(migrate_policies[o->policy].precopy || migrate_policies[o->policy].late))
		return err_set(
			e, -EINVAL,
			"--max-bandwidth: with --policy=%s everything is sent in the blackout, which is not slowed "
			"down; choose precopy",
			migrate_policies[o->policy].name);
	if (!o->name[0])
		snprintf(o->name, sizeof(o->name), "%s-%d", m->kind->name, getpid());
	rc = plot_check(o->plot, e);
	if (rc == 0)
		rc = m->kind->probe(e);
	if (rc == 0)
		rc = tracker_choose(o->tracker, m->kind, &m->tracker, e);
	return rc < 0 ? rc : plan_transfer(m, e);
}

/* ---- run --------------------------------------------------------------------------------------- */

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

	while (rc >= 0 && !cmd_signal && (at = now()) < until)
		rc = client_turn(m->client, until - at, e);
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
		.limits = { .downtime_ns = o->downtime_ns, .timeout_ns = o->timeout_ns, .rounds_max = o->rounds },
		.force = o->force,
		.auto_converge = o->auto_converge,
		.dirty_limit = o->dirty_limit / 8,
		.max_bandwidth = o->max_bandwidth / 8 / o->guests,
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

static int run_phases(struct migrate_cmd *m, struct err *e)
{
	struct err why = { 0 };
	int rc = migrate_make_guest(m, e), checked;

	if (rc == 0)
		rc = migrate_connect(m, &m->client, e);
	if (rc < 0)
		return rc;
	if (m->text)
		migrate_print_head(m);
	rc = migrate_move(m, e);
	client_interrupted_by(m->client, NULL);
	checked = migrate_check_guest(m, &why);
	m->check_err = why;
	if (rc == 0 && checked < 0) {
		*e = why;
		rc = checked;
	}
	return rc;
}

static int report(const struct migrate_cmd *m, int rc, bool moved, const char *json, const struct err *why)
{
	int status = rc < 0 ? transfer_fail(usage.name, why) : CMD_OK;
	struct err e = { 0 };

	if (!moved)
		return status;
	if (m->text)
		migrate_print(m);
	if (m->text && m->opts.timeline)
		migrate_print_timeline(m);
	if (*m->opts.plot && migrate_plot(m, m->opts.plot, &e) < 0)
		status = cmd_fail(usage.name, &e);
	if (*json && migrate_print_json(m, json, &e) < 0)
		status = cmd_fail(usage.name, &e);
	return status;
}

static int run(struct migrate_cmd *m, const char *json)
{
	uint64_t room = m->opts.guests * (m->opts.memory + ROOM_THERE);
	struct bench_peer peer = { .pid = 0 };
	struct err e = { 0 };
	bool moved;
	int rc = 0, status;

	transfer_raise_limits();
	cmd_catch_signals();
	catch_hold();
	if (!m->opts.peer[0]) {
		rc = bench_peer_start(&peer, &m->transfer, NULL, room, m->opts.guests, &e);
		m->transfer.peer[0] = peer.addr;
		addr_format(m->transfer.target, sizeof(m->transfer.target), &peer.addr);
	}
	if (rc >= 0 && m->opts.guests > 1) {
		status = migrate_many(m, peer.pid, json);
		bench_peer_stop(&peer, status == CMD_OK);
		return status;
	}
	if (rc >= 0)
		rc = run_phases(m, &e);
	moved = m->result.total_ns > 0;
	client_close(m->client);
	bench_peer_stop(&peer, rc >= 0);
	status = report(m, rc, moved, json, &e);
	if (m->guest)
		m->kind->close(m->guest);
	hugebuf_free(&m->memory);
	return status;
}

/* ---- options ----------------------------------------------------------------------------------- */

static int run_options(struct migrate_cmd *m, void **bases, const char *json)
{
	struct err e = { 0 };
	int rc;

	if (!m->transfer_opts.chunk)
		m->transfer_opts.chunk = m->transfer_opts.hde.mode ? PAGES_CHUNK_MAX : PAGES_CHUNK_MAX / 2;
	transfer_apply_mode(&m->transfer_opts);
	if (m->opts.guests > 1)
		migrate_many_plan(m);
	rc = plan(m, &e);
	if (rc < 0) {
		cmd_fail(usage.name, &e);
		return rc == -EINVAL ? CMD_USAGE : CMD_FAILED;
	}
	m->kind_opts = guest_options_of(m->kind, bases);
	if (m->tracker->prepare)
		m->tracker->prepare(m->kind_opts);
	m->text = strcmp(json, "-") != 0;
	m->live = !*json && isatty(STDERR_FILENO);
	return run(m, json);
}

int cmd_migrate(int argc, char **argv)
{
	struct migrate_cmd m = { 0 };
	struct cmd_output output = { 0 };
	struct opt_group groups[CMD_GROUPS_MAX] = {
		{ .name = "migrate", .help = "Migration", .rows = rows, .n = ARRAY_LEN(rows), .base = &m.opts },
		transfer_group(&m.transfer_opts),
		transfer_compress_group(&m.transfer_opts),
		transfer_tcp_group(&m.transfer_opts.tcp),
		cmd_output_group(&output),
	};
	void *bases[CMD_GROUPS_MAX] = { 0 };
	int n, status = CMD_FAILED, kinds = guest_option_groups(groups + 5, bases);

	if (kinds >= 0)
		status = cmd_options(&usage, groups, 5 + (size_t)kinds, 0, 0, argc, argv, &n);
	if (status == CMD_RUN)
		status = run_options(&m, bases, output.json);
	for (size_t i = 0; i < ARRAY_LEN(bases); i++)
		free(bases[i]);
	return status;
}

/* SPDX-License-Identifier: MIT */
/* dwcp migrate: a guest is made, runs, and moves. */
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/guest_options.h"
#include "cli/migrate.h"
#include "cli/plot.h"
#include "migrate/pages.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
		    "  dwcp migrate --link=transatlantic --memory=64MB --compress=internet\n"
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
	  .help = "so many alike, moved at once, each over a session of its own to the one destination; --streams=auto "
		  "shares the CPUs out among them" },
	{ .name = "parallel",
	  .type = OPT_U32,
	  .offset = FIELD(parallel),
	  .def = "auto",
	  .max = MIGRATE_GUESTS_MAX,
	  .auto_ok = true,
	  .help = "of --guests, so many on their way at a time, the others run on until it is their turn; auto: all" },
	{ .name = "peer",
	  .type = OPT_STR,
	  .offset = FIELD(peer),
	  .def = "",
	  .max = ROOM(peer),
	  .unit = "HOST[:PORT]",
	  .help = "a running `dwcp serve`; without it an own process on loopback" },
	{ .name = "link",
	  .type = OPT_STR,
	  .offset = FIELD(link),
	  .def = "",
	  .max = ROOM(link),
	  .unit = "PROFILE|FILE",
	  .help = "to the own process at the other end of an emulated network: a profile of `dwcp linkemu` or a YAML file" },
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
	{ .name = "switchover-bandwidth",
	  .type = OPT_RATE,
	  .offset = FIELD(switchover_bandwidth),
	  .def = "auto",
	  .auto_ok = true,
	  .help = "with --max-bandwidth: what the link has for the blackouts of all guests together, which do not keep to that "
		  "limit; auto: they are predicted at the rate that rounds have, so that with a low limit one that would fit "
		  "--downtime-limit seems not to" },
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

/* ---- plan -------------------------------------------------------------------------------------- */

static int plan_transfer(struct migrate_cmd *m, struct err *e)
{
	const struct be_addr loopback = { .len = sizeof(struct sockaddr_in),
					  .in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	const struct be_addr side_b = bench_link_addr();
	struct transfer_opts *o = &m->transfer_opts;

	if (o->chunk % GUEST_PAGE || o->chunk > PAGES_CHUNK_MAX)
		return err_set(e, -EINVAL,
			       "--chunk-size: a guest's pages go in chunks of a multiple of 4 KB, at most %u KB",
			       PAGES_CHUNK_MAX >> 10);
	return m->opts.peer[0]
		       ? transfer_plan(&m->transfer, o, m->opts.peer, e)
		       : transfer_plan_addr(&m->transfer, o, m->opts.link[0] ? &side_b : &loopback, "own process", e);
}

static int plan(struct migrate_cmd *m, struct err *e)
{
	static const struct link_opts nothing;
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
	if (o->max_bandwidth &&
	    (double)o->max_bandwidth / 8 / migrate_at_once(o) * (double)m->transfer_opts.timeout_ns / 1e9 <
		    (double)(2 * m->transfer_opts.chunk))
		return err_set(
			e, -EINVAL,
			"--max-bandwidth: a chunk of %llu bytes takes half of --timeout and more for each of %u guests; "
			"give it more, 0 for no limit, or a smaller --chunk-size",
			(unsigned long long)m->transfer_opts.chunk, migrate_at_once(o));
	if (o->switchover_bandwidth && !o->max_bandwidth)
		return err_set(
			e, -EINVAL,
			"--switchover-bandwidth is what a blackout has more than --max-bandwidth: set that, too, or "
			"leave it out");
	if (!o->name[0])
		snprintf(o->name, sizeof(o->name), "%s-%d", m->kind->name, getpid());
	if (o->link[0] && o->peer[0])
		return err_set(e, -EINVAL, "--link is a network to an own process: choose it or --peer");
	rc = o->link[0] ? link_settings_make(&m->net->settings, o->link, &nothing, e) : 0;
	if (rc >= 0)
		rc = plot_check(o->plot, e);
	if (rc == 0)
		rc = m->kind->probe(e);
	if (rc == 0)
		rc = tracker_choose(o->tracker, m->kind, &m->tracker, e);
	return rc < 0 ? rc : plan_transfer(m, e);
}

/* ---- run ------------------------------------------------------------------------------------------- */

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

/* The destination, unless it is somebody else's: the network to it, its process, and this thread at its end. */
static int start_peer(struct migrate_cmd *m, struct bench_peer *peer, struct err *e)
{
	/* What is waited for in post-copy comes in a session of its own. */
	unsigned sessions = m->opts.guests * (migrate_policies[m->opts.policy].late ? 2 : 1);
	uint64_t room = m->opts.guests * (m->opts.memory + ROOM_THERE);
	int rc = m->opts.link[0] ? bench_link_up(m->net, e) : 0;

	if (rc >= 0)
		rc = bench_peer_start(peer, &m->transfer, m->net, room, sessions, e);
	if (rc < 0)
		return rc;
	m->transfer.peer[0] = peer->addr;
	addr_format(m->transfer.target, sizeof(m->transfer.target), &peer->addr);
	return bench_link_enter(m->net, LINK_A, e);
}

static int run_one(struct migrate_cmd *m, struct bench_peer *peer, const char *json)
{
	struct err e = { 0 };
	int rc = run_phases(m, &e), status;

	client_close(m->client);
	bench_peer_stop(peer, rc >= 0);
	bench_link_leave(m->net);
	status = report(m, rc, m->result.total_ns > 0, json, &e);
	if (m->guest)
		m->kind->close(m->guest);
	hugebuf_free(&m->memory);
	return status;
}

static int run(struct migrate_cmd *m, const char *json)
{
	struct bench_peer peer = { .pid = 0 };
	struct err e = { 0 };
	int rc = 0, status;

	transfer_raise_limits();
	cmd_catch_signals();
	migrate_catch_hold();
	if (!m->opts.peer[0])
		rc = start_peer(m, &peer, &e);
	if (rc < 0) {
		bench_peer_stop(&peer, false);
		status = transfer_fail(usage.name, &e);
	} else if (m->opts.guests > 1) {
		status = migrate_many(m, peer.pid, json);
		bench_peer_stop(&peer, status == CMD_OK);
	} else {
		status = run_one(m, &peer, json);
	}
	bench_link_leave(m->net);
	bench_link_down(m->net);
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

#define OWN_GROUPS 6 /* besides those of the kinds of guests */

int cmd_migrate(int argc, char **argv)
{
	struct bench_link net = { .name = "" };
	struct migrate_cmd m = { .net = &net };
	struct cmd_output output = { 0 };
	struct opt_group groups[CMD_GROUPS_MAX] = {
		{ .name = "migrate", .help = "Migration", .rows = rows, .n = ARRAY_LEN(rows), .base = &m.opts },
		transfer_group(&m.transfer_opts),
		transfer_compress_group(&m.transfer_opts),
		transfer_tcp_group(&m.transfer_opts.tcp),
		transfer_rdma_group(&m.transfer_opts.rdma),
		cmd_output_group(&output),
	};
	void *bases[CMD_GROUPS_MAX] = { 0 };
	int n, status = CMD_FAILED, kinds = guest_option_groups(groups + OWN_GROUPS, bases);

	if (kinds >= 0)
		status = cmd_options(&usage, groups, OWN_GROUPS + (size_t)kinds, 0, 0, argc, argv, &n);
	if (status == CMD_RUN)
		status = run_options(&m, bases, output.json);
	for (size_t i = 0; i < ARRAY_LEN(bases); i++)
		free(bases[i]);
	return status;
}

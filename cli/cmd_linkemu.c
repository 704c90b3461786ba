/* SPDX-License-Identifier: MIT */
/* dwcp linkemu: two hosts with a bad network in between, on one machine. */
#include "base/util.h"
#include "bench/linkemu.h"
#include "cli/cmd.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAME_DEFAULT "link0"

struct linkemu_opts {
	char name[LINK_NAME_MAX + 8];
};

static const struct opt rows[] = {
	{ .name = "name",
	  .letter = 'n',
	  .type = OPT_STR,
	  .offset = offsetof(struct linkemu_opts, name),
	  .def = NAME_DEFAULT,
	  .max = sizeof(((struct linkemu_opts *)0)->name),
	  .unit = "NAME",
	  .help = "which link: there may be several at once" },
};

static struct opt_group name_group(struct linkemu_opts *o)
{
	return (struct opt_group){
		.name = "linkemu", .help = "Which link", .rows = rows, .n = ARRAY_LEN(rows), .base = o
	};
}

/* An error's exit status: what the user can write better is wrong usage. */
static int failed(const struct cmd_usage *u, const struct err *e)
{
	cmd_fail(u->name, e);
	return e->code == -EINVAL ? CMD_USAGE : CMD_FAILED;
}

/* ---- status ------------------------------------------------------------------------------------ */

static uint64_t count(const json_t *direction, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(direction, key));
}

static void print_direction(const char *arrow, const struct link_dir_opts *d, const json_t *c, bool counters)
{
	char text[512], in[32], out[32];

	printf("  %s  %s\n", arrow, link_direction_text(d, text, sizeof(text)));
	if (!counters)
		return;
	printf("       %llu packets (%s) in, %llu (%s) out, %llu lost, %llu dropped by the queue\n",
	       (unsigned long long)count(c, "packets_in"), format_size(in, sizeof(in), count(c, "bytes_in")),
	       (unsigned long long)count(c, "packets_out"), format_size(out, sizeof(out), count(c, "bytes_out")),
	       (unsigned long long)count(c, "packets_lost"), (unsigned long long)count(c, "packets_dropped_by_queue"));
	printf("       delivered late by %.0f us (median), %.0f us (p99)\n",
	       json_number_value(json_object_get(c, "late_p50_us")),
	       json_number_value(json_object_get(c, "late_p99_us")));
	if (count(c, "emulator_dropped"))
		printf("       %llu packets dropped by the emulator itself: this machine cannot carry that much\n",
		       (unsigned long long)count(c, "emulator_dropped"));
}

static int print_link(const json_t *status, bool counters, struct err *e)
{
	struct link_settings s;
	int rc = link_settings_read(&s, json_object_get(status, "settings"), e);

	if (rc < 0)
		return rc;
	printf("%s: A %s1 %s1, B %s2 %s2, MTU %u, process %lld\n", json_string_value(json_object_get(status, "name")),
	       LINK_IPV4, LINK_IPV6, LINK_IPV4, LINK_IPV6, s.common.mtu,
	       (long long)json_integer_value(json_object_get(status, "pid")));
	print_direction("A→B", &s.dir[LINK_AB], json_object_get(status, "ab"), counters);
	print_direction("B→A", &s.dir[LINK_BA], json_object_get(status, "ba"), counters);
	return 0;
}

/* One link or all of them. */
static int print_links(const struct cmd_usage *u, const char *name, bool counters, const char *json, struct err *e)
{
	json_t *names = name ? json_pack("[s]", name) : linkemu_list(), *links = json_array(), *one, *status = NULL;
	size_t i;
	int rc = 0;

	json_array_foreach(names, i, one)
	{
		json_t *link = NULL;

		rc = linkemu_status(json_string_value(one), &status, e);
		if (rc == -ENOENT && !name) /* it ended meanwhile */
			continue;
		if (rc >= 0 && *json)
			rc = linkemu_describe(status, &link, e);
		else if (rc >= 0)
			rc = print_link(status, counters, e);
		if (link)
			json_array_append_new(links, link);
		json_decref(status);
		status = NULL;
		if (rc < 0)
			break;
	}
	if (rc >= 0 && *json) {
		json_t *result = json_result(u->name, true);

		json_object_set(result, "links", links);
		rc = json_write(result, json, e);
		json_decref(result);
	} else if (rc >= 0 && !json_array_size(names)) {
		puts("no link; `dwcp linkemu up PROFILE` makes one");
	}
	json_decref(names);
	json_decref(links);
	return rc == -ENOENT && !name ? 0 : rc;
}

static const struct cmd_usage status_usage = {
	.name = "linkemu status",
	.operands = "",
	.about =
		"Shows the links of this machine: what was asked for, and what has happened to packets. A link is seen from "
		"the network namespace that it was made in.",
	.examples = "  dwcp linkemu status\n  dwcp linkemu status --name=link0 --json\n",
};

static int cmd_status(int argc, char **argv)
{
	struct linkemu_opts opts = { 0 };
	bool given = false;
	struct cmd_output output = { 0 };
	struct opt_group groups[] = { name_group(&opts), cmd_output_group(&output) };
	struct err e = { 0 };
	int n, status;

	groups[0].given = &given;
	status = cmd_options(&status_usage, groups, ARRAY_LEN(groups), 0, 0, argc, argv, &n);
	if (status != CMD_RUN)
		return status;
	if (print_links(&status_usage, given ? opts.name : NULL, true, output.json, &e) < 0)
		return failed(&status_usage, &e);
	return CMD_OK;
}

static const struct cmd_usage profiles_usage = {
	.name = "linkemu profiles",
	.operands = "",
	.about =
		"Lists the profiles that `up` and `benchmark amst --link` know by name. A profile is a YAML file with the options "
		"of `up` in the sections link (both directions), ab, ba and hosts.",
};

static int cmd_profiles(int argc, char **argv)
{
	struct cmd_output output = { 0 };
	const struct opt_group groups[] = { cmd_output_group(&output) };
	json_t *profiles, *one, *result;
	struct err e = { 0 };
	size_t i;
	int n, rc = 0, status = cmd_options(&profiles_usage, groups, ARRAY_LEN(groups), 0, 0, argc, argv, &n);

	if (status != CMD_RUN)
		return status;
	profiles = link_profiles();
	if (output.json[0]) {
		result = json_result(profiles_usage.name, true);
		json_object_set(result, "profiles", profiles);
		rc = json_write(result, output.json, &e);
		json_decref(result);
	} else {
		json_array_foreach(profiles, i, one)
		{
			printf("%-20s %s\n", json_string_value(json_object_get(one, "name")),
			       json_string_value(json_object_get(one, "about")));
		}
	}
	json_decref(profiles);
	return rc < 0 ? failed(&profiles_usage, &e) : CMD_OK;
}

/* ---- up, set, down ----------------------------------------------------------------------------- */

static const struct cmd_usage up_usage = {
	.name = "linkemu up",
	.operands = "[PROFILE]",
	.about =
		"Makes two network namespaces, A and B, joined by a link with the rate, delay, loss and so on of a profile "
		"(`dwcp linkemu profiles`, or a YAML file); options on the command line win over it. A has the addresses "
		"198.18.0.1 and fd64:7763:70::1, B the same with 2. Needs root (or a user namespace), no kernel module. The "
		"link stays until `down`, or until its process ends; nothing of it is in the file system.",
	.examples =
		"  dwcp linkemu up simulated_internet\n"
		"  dwcp linkemu exec B iperf3 -s -D\n"
		"  dwcp linkemu exec A iperf3 -c 198.18.0.2\n"
		"  dwcp linkemu up --name=cell --rate=50Mbps --ba-rate=10Mbps --delay=30ms --jitter=10ms --loss=0.5\n"
		"  dwcp linkemu down\n",
};

static int cmd_up(int argc, char **argv)
{
	struct linkemu_opts opts = { 0 };
	struct link_opts link = { 0 };
	struct cmd_output output = { 0 };
	struct opt_group groups[LINK_GROUPS + 2] = { name_group(&opts), cmd_output_group(&output) };
	struct link_settings settings;
	struct err e = { 0 };
	int n, status, rc;

	link_groups(&link, groups + 2);
	status = cmd_options(&up_usage, groups, ARRAY_LEN(groups), 0, 1, argc, argv, &n);
	if (status != CMD_RUN)
		return status;
	rc = link_settings_make(&settings, n ? argv[0] : NULL, &link, &e);
	if (rc >= 0)
		rc = linkemu_up(opts.name, &settings, NULL, &e);
	if (rc >= 0)
		rc = print_links(&up_usage, opts.name, false, output.json, &e);
	return rc < 0 ? failed(&up_usage, &e) : CMD_OK;
}

static const struct cmd_usage set_usage = {
	.name = "linkemu set",
	.operands = "",
	.about =
		"Changes a link while traffic runs: only what is given. Packets on the way stay on their way; what waits in the "
		"queue is sent at the new rate. A trace that is given anew begins anew.",
	.examples =
		"  dwcp linkemu set --rate=100Mbps\n  dwcp linkemu set --name=link0 --ab-loss=5 --ab-loss-burst=20\n",
};

static bool any(const bool *given, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (given[i])
			return true;
	return false;
}

/* Nothing to change, or what a link keeps. */
static int check_set(const struct link_opts *o, struct err *e)
{
	if (o->given_common[1] || o->given_common[2])
		return err_set(e, -EINVAL, "offload and seed are set when a link is made: `down` and `up`");
	if (!any(o->given_common, LINK_COMMON_ROWS) && !any(o->given_both, LINK_ROWS) &&
	    !any(o->given_dir[0], LINK_ROWS) && !any(o->given_dir[1], LINK_ROWS))
		return err_set(e, -EINVAL, "nothing is given to be changed: e.g. --rate=100Mbps; see --help");
	return 0;
}

static int change(const char *name, const struct link_opts *o, struct err *e)
{
	struct link_settings settings;
	json_t *status = NULL;
	int rc = linkemu_status(name, &status, e);

	if (rc < 0)
		return rc;
	rc = link_settings_read(&settings, json_object_get(status, "settings"), e);
	json_decref(status);
	if (rc >= 0)
		rc = link_settings_apply(&settings, o, e);
	return rc < 0 ? rc : linkemu_set(name, &settings, e);
}

static int cmd_set(int argc, char **argv)
{
	struct linkemu_opts opts = { 0 };
	struct link_opts link = { 0 };
	struct opt_group groups[LINK_GROUPS + 1] = { name_group(&opts) };
	struct err e = { 0 };
	int n, status, rc;

	link_groups(&link, groups + 1);
	status = cmd_options(&set_usage, groups, ARRAY_LEN(groups), 0, 0, argc, argv, &n);
	if (status != CMD_RUN)
		return status;
	rc = check_set(&link, &e);
	if (rc >= 0)
		rc = change(opts.name, &link, &e);
	if (rc >= 0)
		rc = print_links(&set_usage, opts.name, false, "", &e);
	return rc < 0 ? failed(&set_usage, &e) : CMD_OK;
}

static const struct cmd_usage down_usage = {
	.name = "linkemu down",
	.operands = "",
	.about = "Ends a link, and the processes that still run in its namespaces.",
	.examples = "  dwcp linkemu down\n  dwcp linkemu down --name=cell\n",
};

static int cmd_down(int argc, char **argv)
{
	struct linkemu_opts opts = { 0 };
	const struct opt_group groups[] = { name_group(&opts) };
	struct err e = { 0 };
	int n, status;

	status = cmd_options(&down_usage, groups, ARRAY_LEN(groups), 0, 0, argc, argv, &n);
	if (status != CMD_RUN)
		return status;
	n = linkemu_down(opts.name, &e);
	if (n < 0)
		return failed(&down_usage, &e);
	if (n)
		fprintf(stderr, "dwcp: linkemu down: ended %d process%s that ran in the link\n", n, n == 1 ? "" : "es");
	return CMD_OK;
}

/* ---- exec -------------------------------------------------------------------------------------- */

static const struct cmd_usage exec_usage = {
	.name = "linkemu exec",
	.operands = "A|B [--] COMMAND [ARGUMENT…]",
	.about = "Runs a command on one side of a link. It finds its own address in $DWCP_HERE and the other side's in "
		 "$DWCP_THERE. Its exit status is the command's; 127: there is no such command.",
	.examples = "  dwcp linkemu exec B dwcp serve --listen=198.18.0.2:7411\n"
		    "  dwcp linkemu exec A -- ping -c 5 198.18.0.2\n  dwcp linkemu exec --name=cell A sh\n",
};

/* The options end at the side: what follows is the command's. */
static int find_side(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "A") || !strcmp(argv[i], "B"))
			return i;
	return argc;
}

static int enter(const char *name, enum link_side side, struct err *e)
{
	char text[32];
	int rc = linkemu_join(name, side, e);

	if (rc < 0)
		return rc;
	snprintf(text, sizeof(text), LINK_IPV4 "%d", side == LINK_A ? 1 : 2);
	setenv("DWCP_HERE", text, 1);
	snprintf(text, sizeof(text), LINK_IPV4 "%d", side == LINK_A ? 2 : 1);
	setenv("DWCP_THERE", text, 1);
	setenv("DWCP_LINK", name, 1);
	return 0;
}

static int cmd_exec(int argc, char **argv)
{
	struct linkemu_opts opts = { 0 };
	const struct opt_group groups[] = { name_group(&opts) };
	int side = find_side(argc, argv), command = side + 1, n, status;
	struct err e = { 0 };

	status = cmd_options(&exec_usage, groups, ARRAY_LEN(groups), 0, 0, side, argv, &n);
	if (status != CMD_RUN)
		return status;
	if (command < argc && !strcmp(argv[command], "--"))
		command++;
	if (command >= argc) {
		err_set(&e, -EINVAL, "%s: `dwcp linkemu exec A ping 198.18.0.2`",
			side >= argc ? "name a side, A or B, and a command" : "a command is missing");
		return failed(&exec_usage, &e);
	}
	if (enter(opts.name, *argv[side] == 'A' ? LINK_A : LINK_B, &e) < 0)
		return failed(&exec_usage, &e);
	signal(SIGPIPE, SIG_DFL);
	execvp(argv[command], argv + command);
	err_set(&e, -errno, "cannot run %s: %s", argv[command], strerror(errno));
	cmd_fail(exec_usage.name, &e);
	return errno == ENOENT ? 127 : 126;
}

const struct command cmd_linkemu_table[] = {
	{ .name = "up", .run = cmd_up, .help = "make a link" },
	{ .name = "exec", .run = cmd_exec, .help = "run a command on one side of it" },
	{ .name = "set", .run = cmd_set, .help = "change it while traffic runs" },
	{ .name = "status", .run = cmd_status, .help = "show links and what happened to packets" },
	{ .name = "down", .run = cmd_down, .help = "end a link" },
	{ .name = "profiles", .run = cmd_profiles, .help = "list the profiles there are" },
	{ 0 },
};

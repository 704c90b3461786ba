/* SPDX-License-Identifier: MIT */
/* dwcp stats: what a running server has done. */
#include "base/json.h"
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/stats_socket.h"
#include "transport/client.h"
#include "transport/server.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct cmd_usage usage = {
	.name = "stats",
	.operands = "[PORT]",
	.about =
		"Prints what a running `dwcp serve` of this host has done: counters since its start, and its sessions. The "
		"server is found by its port (7411) or by its socket.",
	.examples = "  dwcp stats\n  dwcp stats 7412 --json\n  dwcp stats --socket=/run/dwcp-7411.sock\n",
};

struct stats_opts {
	char socket[128];
};

static const struct opt rows[] = {
	{ .name = "socket",
	  .type = OPT_STR,
	  .offset = offsetof(struct stats_opts, socket),
	  .def = "",
	  .max = sizeof(((struct stats_opts *)0)->socket),
	  .unit = "PATH",
	  .help = "the server's statistics socket; else those of the port are tried: dwcp-PORT.sock in $XDG_RUNTIME_DIR "
		  "and /run, dwcp-UID-PORT.sock in /tmp" },
};

static int port_operand(const char *text, uint16_t *port, struct err *e)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || !v || v > 65535)
		return err_set(e, -EINVAL,
			       "\"%.40s\" is not a port; give the one that the server listens on, or --socket", text);
	*port = (uint16_t)v;
	return 0;
}

/* ---- text -------------------------------------------------------------------------------------- */

static const char *text_of(const json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "-";
}

static uint64_t whole_of(const json_t *obj, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(obj, key));
}

/* Text that came from elsewhere. */
static void put_plain(const char *s)
{
	char text[4096];

	snprintf(text, sizeof(text), "%s", s);
	fputs(client_clean(text), stdout);
}

static void print_rows(const struct metric *m, size_t n, const json_t *counters, bool zeros)
{
	char size[32];

	for (size_t i = 0; i < n; i++) {
		const json_t *v = json_object_get(counters, m[i].name);

		if (!v || (!zeros && !json_integer_value(v)))
			continue;
		if (!strcmp(m[i].unit, "bytes"))
			printf("  %16s  %s\n", format_size(size, sizeof(size), (uint64_t)json_integer_value(v)),
			       m[i].help);
		else
			printf("  %16lld  %s\n", (long long)json_integer_value(v), m[i].help);
	}
}

static void print_sessions(const json_t *sessions)
{
	const json_t *one;
	char received[32], sent[32];
	size_t i;

	if (!json_array_size(sessions)) {
		puts("\nno session now");
		return;
	}
	printf("\n%-28s %7s %9s %12s %12s\n", "SESSION WITH", "STREAMS", "SECONDS", "RECEIVED", "SENT");
	json_array_foreach(sessions, i, one)
	{
		printf("%-28s %7llu %9.1f %12s %12s\n", text_of(one, "peer"),
		       (unsigned long long)whole_of(one, "streams"), json_number_value(json_object_get(one, "seconds")),
		       format_size(received, sizeof(received), whole_of(one, "bytes_received")),
		       format_size(sent, sizeof(sent), whole_of(one, "bytes_sent")));
	}
}

static void print_text(const json_t *stats)
{
	const json_t *counters = json_object_get(stats, "counters");
	double up = json_number_value(json_object_get(stats, "uptime_seconds"));
	char time[32];

	printf("dwcp %s on ", text_of(stats, "release"));
	put_plain(text_of(stats, "listen"));
	printf(" (%s, process %llu), up %s, files ", text_of(stats, "backend"),
	       (unsigned long long)whole_of(stats, "pid"), format_time(time, sizeof(time), (uint64_t)(up * 1e9)));
	put_plain(json_is_string(json_object_get(stats, "store")) ? text_of(stats, "store") : "refused");
	puts("\n");
	print_rows(server_metrics, server_metrics_n, counters, true);
	print_rows(amst_metrics, amst_metrics_n, counters, false);
	print_rows(be_metrics, be_metrics_n, counters, false);
	print_sessions(json_object_get(stats, "sessions"));
}

/* ---- JSON -------------------------------------------------------------------------------------- */

static int print_json(const json_t *stats, const char *path, struct err *e)
{
	json_t *result = json_result(usage.name, true);
	int rc;

	json_object_update_missing(result, (json_t *)(uintptr_t)stats);
	rc = json_write(result, path, e);
	json_decref(result);
	return rc;
}

int cmd_stats(int argc, char **argv)
{
	struct stats_opts opts = { 0 };
	struct cmd_output output = { 0 };
	const struct opt_group groups[] = {
		{ .name = "stats", .help = "Server", .rows = rows, .n = ARRAY_LEN(rows), .base = &opts },
		cmd_output_group(&output),
	};
	uint16_t port = DWCP_PORT;
	struct err e = { 0 };
	json_t *stats = NULL;
	int n, status, rc;

	status = cmd_options(&usage, groups, ARRAY_LEN(groups), 0, 1, argc, argv, &n);
	if (status != CMD_RUN)
		return status;
	if (n && port_operand(argv[0], &port, &e) < 0) {
		cmd_fail(usage.name, &e);
		return CMD_USAGE;
	}
	rc = stats_socket_ask(opts.socket, port, &stats, &e);
	if (rc >= 0 && output.json[0])
		rc = print_json(stats, output.json, &e);
	else if (rc >= 0)
		print_text(stats);
	json_decref(stats);
	return rc < 0 ? cmd_fail(usage.name, &e) : CMD_OK;
}

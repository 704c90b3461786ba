/* SPDX-License-Identifier: MIT */
/* dwcp calibrate: what a migration's parts cost on this host, for dwcp simulate. */
#include "base/json.h"
#include "base/util.h"
#include "cli/calibrate.h"
#include "cli/cmd.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct cmd_usage usage = {
	.name = "calibrate",
	.operands = "",
	.about =
		"Measures what a migration's parts cost on this host: a page of zeros, any other page, a page that was written to, "
		"compression in every mode, making memory, a round, a look for dirty pages, pausing and handing over. It "
		"migrates small guests to a second process, again and again, and looks at both processes' CPU time. `dwcp "
		"simulate --calibration` calculates with the file that it writes. Takes about ten seconds a turn; other work on "
		"the host spoils it.",
	.examples = "  dwcp calibrate --output=host.yaml\n"
		    "  dwcp simulate --calibration=host.yaml --vms=100 --memory=4GB --link=10Gbps\n",
};

struct calibrate_opts {
	uint64_t memory;
	uint32_t turns;
	char output[4096];
};

#define FIELD(f) offsetof(struct calibrate_opts, f)

static const struct opt rows[] = {
	{ .name = "output",
	  .type = OPT_STR,
	  .offset = FIELD(output),
	  .def = "dwcp-calibration.yaml",
	  .max = sizeof(((struct calibrate_opts *)0)->output),
	  .unit = "FILE",
	  .help = "where the figures go; none: nowhere" },
	{ .name = "memory",
	  .type = OPT_SIZE,
	  .offset = FIELD(memory),
	  .def = "128MB",
	  .min = 16 << 20,
	  .max = 64ull << 30,
	  .help = "of the guests that are moved" },
	{ .name = "turns",
	  .letter = 'n',
	  .type = OPT_U32,
	  .offset = FIELD(turns),
	  .def = "3",
	  .min = 1,
	  .max = SIM_TURNS_MAX,
	  .help = "how often everything is measured; the median counts" },
};

static void progress(unsigned turn, unsigned turns, unsigned move, unsigned moves)
{
	fprintf(stderr, "\r\033[Kturn %u of %u, migration %u of %u", turn + 1, turns, move + 1, moves);
	if (turn + 1 == turns && move + 1 == moves)
		fputs("\r\033[K", stderr);
}

static int measure(struct calibrate *c, struct err *e)
{
	int rc = tracker_choose("", guest_find("synth"), &c->tracker, e);

	while (rc == 0 && c->done < c->turns)
		rc = calibrate_run_turn(c, e);
	return rc;
}

static void print_text(const struct sim_rates *r, const struct calibrate *c)
{
	bool given[64];
	struct opt_group g = sim_rates_group((struct sim_rates *)(uintptr_t)r, given);

	printf("measured on this host, medians of %u turns, guests of %llu MB\n", c->done,
	       (unsigned long long)(c->memory >> 20));
	for (size_t i = 0; i < g.n; i++) {
		double v;

		memcpy(&v, (const char *)r + g.rows[i].offset, sizeof v);
		printf("  %-24s %12.4g %-6s %s\n", g.rows[i].name, v, g.rows[i].unit, g.rows[i].help);
	}
	fflush(stdout);
}

static int print_json(const struct sim_rates *r, const struct calibrate *c, const char *path, struct err *e)
{
	json_t *result = json_result("calibrate", true);
	int rc;

	json_object_set_new(result, "turns", json_integer(c->done));
	json_object_set_new(result, "memory_bytes", json_integer((json_int_t)c->memory));
	json_object_set_new(result, "tracker", json_string(c->tracker->name));
	json_object_set_new(result, "rates", sim_rates_json(r));
	rc = json_write(result, path, e);
	json_decref(result);
	return rc;
}

static int write_file(const struct sim_rates *r, const struct calibrate *c, const char *path, struct err *e)
{
	time_t now = time(NULL);
	char how[256], when[32];
	struct tm tm;

	strftime(when, sizeof when, "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &tm));
	snprintf(how, sizeof how, "Measured by `dwcp calibrate --memory=%lluMB --turns=%u`, dwcp %s, %s.",
		 (unsigned long long)(c->memory >> 20), c->done, cmd_version, when);
	return sim_rates_write(r, how, path, e);
}

static int run(struct calibrate *c, const struct calibrate_opts *o, const char *json, struct err *e)
{
	bool keep = strcmp(o->output, "none") != 0;
	struct sim_rates r;
	int rc = keep ? json_check(o->output, e) : 0;

	if (rc == 0 && *json)
		rc = json_check(json, e);
	if (rc == 0)
		rc = measure(c, e);
	if (rc == 0)
		rc = sim_fit(c->turn, c->done, &r, e);
	if (rc == 0 && keep)
		rc = write_file(&r, c, o->output, e);
	if (rc == 0 && strcmp(json, "-"))
		print_text(&r, c);
	return rc == 0 && *json ? print_json(&r, c, json, e) : rc;
}

int cmd_calibrate(int argc, char **argv)
{
	struct calibrate *c = calloc(1, sizeof *c);
	struct calibrate_opts opts = { 0 };
	struct cmd_output output = { 0 };
	struct err e = { 0 };
	int n, rc, status;

	if (!c) {
		err_set(&e, -ENOMEM, "no memory for what is measured");
		return cmd_fail(usage.name, &e);
	}
	const struct opt_group groups[] = {
		{ .name = "calibrate", .help = "Calibration", .rows = rows, .n = ARRAY_LEN(rows), .base = &opts },
		transfer_group(&c->transfer_opts),
		transfer_tcp_group(&c->transfer_opts.tcp),
		cmd_output_group(&output),
	};
	status = cmd_options(&usage, groups, ARRAY_LEN(groups), 0, 0, argc, argv, &n);
	if (status != CMD_RUN)
		goto out;
	c->transfer_opts.chunk = max_u64(c->transfer_opts.chunk, 1); /* it is chosen for each move */
	transfer_apply_mode(&c->transfer_opts);
	hde_opts_default(&c->transfer_opts.hde, HDE_NONE); /* so is the mode */
	c->memory = opts.memory / (2 << 20) * (2 << 20);
	c->turns = opts.turns;
	c->progress = isatty(STDERR_FILENO) && !output.json[0] ? progress : NULL;
	transfer_raise_limits();
	cmd_catch_signals();
	rc = run(c, &opts, output.json, &e);
	status = rc < 0 ? transfer_fail(usage.name, &e) : CMD_OK;
out:
	free(c);
	return status;
}

/* SPDX-License-Identifier: MIT */
/* dwcp tune: options and flow. */
#include "base/log.h"
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/plot.h"
#include "cli/tune.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct cmd_usage usage = {
	.name = "tune",
	.operands = "",
	.about =
		"Measures which number of streams, chunk size and congestion control carry most to a running `dwcp serve`, by a "
		"few short probes that load the link: each ends as soon as its rate is known well enough to be compared. Shows "
		"them as a table and a curve, with the documented recommendation beside the measured best, and writes a file "
		"for --config. Mb/s are 10^6 bits per second.",
	.examples = "  dwcp tune --peer=10.0.0.2\n"
		    "  dwcp tune --peer=10.0.0.2 --output=link.yaml --plot=link.svg\n"
		    "  dwcp send --config=link.yaml disk.img 10.0.0.2\n"
		    "  dwcp tune --peer=10.0.0.2 --exhaustive --probe=10s --json=all.json\n",
};

#define FIELD(f) offsetof(struct tune_opts, f)
#define ROOM(f) sizeof(((struct tune_opts *)0)->f)

static const struct opt rows[] = {
	{ .name = "peer",
	  .type = OPT_STR,
	  .offset = FIELD(peer),
	  .def = "",
	  .max = ROOM(peer),
	  .unit = "HOST[:PORT]",
	  .help = "a running `dwcp serve` (needed)" },
	{ .name = "output",
	  .letter = 'o',
	  .type = OPT_STR,
	  .offset = FIELD(output),
	  .def = "dwcp-tune.yaml",
	  .max = ROOM(output),
	  .unit = "FILE",
	  .help = "where the configuration goes; none: nowhere" },
	{ .name = "plot",
	  .type = OPT_STR,
	  .offset = FIELD(plot),
	  .def = "",
	  .max = ROOM(plot),
	  .unit = "FILE.png|FILE.svg",
	  .help = "draw the curve there, with gnuplot" },
	{ .name = "exhaustive",
	  .type = OPT_BOOL,
	  .offset = FIELD(exhaustive),
	  .def = "no",
	  .help = "no search: every combination, each for --probe" },
	{ .name = "most-streams",
	  .type = OPT_U32,
	  .offset = FIELD(streams_most),
	  .def = "256",
	  .min = 1,
	  .max = WIRE_STREAMS_MAX,
	  .help = "not more than these are tried; --streams says with how many it begins" },
	{ .name = "probe",
	  .type = OPT_TIME,
	  .offset = FIELD(probe_ns),
	  .def = "5s",
	  .min = 100 * NS_PER_MS,
	  .max = 600 * NS_PER_S,
	  .help = "longest time of one probe" },
	{ .name = "limit",
	  .type = OPT_TIME,
	  .offset = FIELD(limit_ns),
	  .def = "auto",
	  .min = 1 * NS_PER_S,
	  .max = 24 * 3600 * NS_PER_S,
	  .auto_ok = true,
	  .help = "time of all probes together; then the best so far is it. auto: a fifth of what --exhaustive would take" },
};

/* What is told is taken; what is not is tried: the kernel's own choice and BBR. */
static void choose_congestion(struct tune_run *r, struct transfer_opts *o)
{
	const char *told = o->tcp.congestion;

	if (*told && strcmp(told, "auto")) {
		snprintf(r->cc[r->n_cc++], sizeof(r->cc[0]), "%s", told);
		return;
	}
	if (!strstr(r->transfer->ops->name, "tcp")) {
		snprintf(r->cc[r->n_cc++], sizeof(r->cc[0]), "none");
		return;
	}
	for (size_t i = 0; i < 2; i++) {
		static const char *const names[] = { "cubic", "bbr" };

		if (transfer_congestion(names[i]))
			snprintf(r->cc[r->n_cc++], sizeof(r->cc[0]), "%s", names[i]);
		else
			log_warn("this kernel does not offer %s: it is not tried (`modprobe tcp_%s` loads it)",
				 names[i], names[i]);
	}
	if (!r->n_cc)
		snprintf(r->cc[r->n_cc++], sizeof(r->cc[0]), "default");
	snprintf(o->tcp.congestion, sizeof(o->tcp.congestion), "%s", r->cc[0]);
}

static void begin(struct tune_run *r, const struct transfer_opts *o)
{
	static const uint32_t chunks[] = { 256u << 10, 64u << 10, TRANSFER_STAGED_MAX };
	struct tune_config cfg = {
		.streams_first = (uint32_t)min_u64(o->streams ? o->streams : TRANSFER_STREAMS, r->opts->streams_most),
		.streams_most = r->opts->streams_most,
		.chunk = { o->chunk ? (uint32_t)o->chunk : chunks[0] },
		.n_chunks = 1,
		.n_cc = r->n_cc,
		.probe_least_ns = 500 * NS_PER_MS,
		.probe_most_ns = r->opts->probe_ns,
		.limit_ns = r->opts->limit_ns,
		.apart = 0.02,
		.all = r->opts->exhaustive,
	};
	for (size_t i = 0; i < ARRAY_LEN(chunks); i++)
		if (chunks[i] != cfg.chunk[0])
			cfg.chunk[cfg.n_chunks++] = chunks[i];
	tune_begin(&r->tune, &cfg);
}

static void warn(const struct tune_run *r)
{
	if (r->others)
		log_warn("%u other session%s at %s: what they moved is missing here; tune again when they are over",
			 r->others, r->others == 1 ? " was" : "s were", r->transfer->target);
	if (r->tune.changed)
		log_warn(
			"the link changed while it was measured, and was measured anew: tune again if this is not how it "
			"usually is");
	if (r->tune.out_of_time)
		log_warn("--limit was over before the search: this is the best so far");
}

static int report(const struct tune_run *r, int rc, const char *json, const struct err *why)
{
	int status = rc < 0 ? transfer_fail(usage.name, why) : CMD_OK;
	struct err e = { 0 };

	if (!tune_best(&r->tune)) {
		if (rc >= 0)
			err_set(&e, -ENODATA, "nothing moved to %s within --limit: raise it", r->transfer->target);
		return rc < 0 ? status : cmd_fail(usage.name, &e);
	}
	warn(r);
	if (strcmp(json, "-"))
		tune_print(r);
	if (*json && tune_print_json(r, json, &e) < 0)
		status = cmd_fail(usage.name, &e);
	if (rc < 0) /* half a search is shown, but is no configuration */
		return status;
	if (strcmp(r->opts->output, "none") && *r->opts->output) {
		if (tune_write_yaml(r, r->opts->output, &e) < 0)
			status = cmd_fail(usage.name, &e);
		else if (strcmp(json, "-"))
			printf("wrote %s: dwcp COMMAND --config=%s\n", r->opts->output, r->opts->output);
	}
	if (*r->opts->plot && tune_plot(r, r->opts->plot, &e) < 0)
		status = cmd_fail(usage.name, &e);
	return status;
}

static int check(const struct tune_opts *o, struct err *e)
{
	if (!o->peer[0])
		return err_set(e, -EINVAL, "--peer is missing: name a host on which `dwcp serve` runs");
	return plot_check(o->plot, e);
}

int cmd_tune(int argc, char **argv)
{
	static struct tune_run r;
	struct tune_opts opts = { 0 };
	struct transfer_opts transfer_opts = { 0 };
	struct cmd_output output = { 0 };
	const struct opt_group groups[] = {
		{ .name = "tune", .help = "Tune", .rows = rows, .n = ARRAY_LEN(rows), .base = &opts },
		transfer_group(&transfer_opts),
		transfer_tcp_group(&transfer_opts.tcp),
		transfer_rdma_group(&transfer_opts.rdma),
		cmd_output_group(&output),
	};
	struct transfer t = { 0 };
	struct err e = { 0 };
	int n, status, rc;

	status = cmd_options(&usage, groups, ARRAY_LEN(groups), 0, 0, argc, argv, &n);
	if (status != CMD_RUN)
		return status;
	rc = check(&opts, &e);
	if (rc >= 0)
		rc = transfer_plan(&t, &transfer_opts, opts.peer, &e);
	if (rc < 0) {
		cmd_fail(usage.name, &e);
		return rc == -EINVAL ? CMD_USAGE : CMD_FAILED;
	}
	r = (struct tune_run){ .opts = &opts, .transfer = &t, .bar = !output.json[0] };
	choose_congestion(&r, &transfer_opts);
	begin(&r, &transfer_opts);
	transfer_raise_limits();
	cmd_catch_signals();
	rc = tune_run(&r, &e);
	return report(&r, rc, output.json, &e);
}

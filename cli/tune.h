/* SPDX-License-Identifier: MIT */
/*
 * `dwcp tune`: the search (transport/tune.h) over a real session (tune_run.c),
 * how it is asked for (cmd_tune.c) and shown (tune_report.c).
 */
#ifndef DWCP_CLI_TUNE_H
#define DWCP_CLI_TUNE_H

#include "cli/progress.h"
#include "cli/transfer.h"

struct tune_opts {
	char peer[280];
	char output[4096]; /* YAML; "none": not written */
	char plot[4096];   /* PNG or SVG; "": none */
	bool exhaustive;
	uint32_t streams_most;
	uint64_t probe_ns, limit_ns;
};

struct tune_run {
	const struct tune_opts *opts;
	const struct transfer *transfer;
	bool bar;
	struct tune tune;
	char cc[TUNE_CC_MAX][16]; /* what is tried, in the search's order */
	unsigned n_cc;

	/* while it runs */
	struct client *client;
	struct progress progress;
	uint32_t cc_now;
	bool stop; /* the transfer, for chunks of another size */
	bool over;

	/* what was found besides */
	uint64_t rtt_least_ns, bytes;
	uint32_t others; /* sessions at the peer besides this one */
	double seconds;
	bool interrupted;
};

/* Measures. On error what was measured so far is in the run. */
int tune_run(struct tune_run *r, struct err *e);

/* The link as measured, and what is documented for such a one. */
struct tune_link {
	double rtt_ms, loss, mbps;
	enum mode_kind mode;
	unsigned documented_streams;
	const struct tune_tried *documented; /* measured with as many, the best of these; NULL: was not tried */
};
struct tune_link tune_link_of(const struct tune_run *r);

void tune_print(const struct tune_run *r);
int tune_print_json(const struct tune_run *r, const char *path, struct err *e);
/* The configuration that --config reads. */
int tune_write_yaml(const struct tune_run *r, const char *path, struct err *e);
/* By gnuplot; the file's ending says which format. -ENOENT: there is no gnuplot. */
int tune_plot(const struct tune_run *r, const char *path, struct err *e);

#endif

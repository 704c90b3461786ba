/* SPDX-License-Identifier: MIT */
/*
 * Contenders that take turns. Machines drift: what is compared runs A B A B, after a round that only warms up, and a
 * ratio is taken within each round.
 */
#ifndef DWCP_BENCH_SCENARIO_H
#define DWCP_BENCH_SCENARIO_H

#include "base/json.h"
#include "bench/proc.h"
#include <stdbool.h>

#define ROUNDS_MAX 100

/* Where and how long; the same for every scenario. */
struct lab {
	char dwcp[4096];  /* the program */
	char bench[4096]; /* folder of the others */
	char dir[4096];   /* scratch folder, on the disk that files are measured on */
	unsigned rounds;
	double seconds;     /* one timed run */
	uint64_t region;    /* cold memory */
	uint64_t file_size; /* files */
	char links[256];    /* profiles of emulated links, separated by commas */
	bool cold_start;    /* contenders do not run once before */
	char images[4096];  /* folder of guests' memory */
	double busiest;     /* other programs' share of the CPUs before any section, 0..1 */
	json_t *report;
};

struct contender {
	char label[80];
	char args[256]; /* words, what they mean is up to `run` */
	unsigned streams;
	/* One run: an object of results, which the caller owns. */
	int (*run)(const struct lab *lab, const struct contender *c, json_t **result, struct err *e);
	void *ctx;
	json_t *runs; /* array, one result per round; scenario_free */
};

/* Runs all of them once without looking at the result, then `rounds` times. Progress goes to standard error. */
int scenario_run(struct lab *lab, const char *what, struct contender *c, size_t n, unsigned rounds, struct err *e);
void scenario_free(struct contender *c, size_t n);

/* Values at `path` ("rss_mbytes.sender") over the rounds, and of a over b within each round. */
struct stats_interval scenario_value(const struct contender *c, const char *path);
struct stats_interval scenario_ratio(const struct contender *a, const struct contender *b, const char *path);
/* Single values, sorted by round; returns how many. Not a number where a run has none. */
size_t scenario_series(const struct contender *c, const char *path, double out[ROUNDS_MAX]);
/* The one with the highest median at `path`. */
const struct contender *scenario_best(const struct contender *c, size_t n, const char *path);

/* What the contenders' `run` may be. Each result has "gbytes_per_s". */
int run_dwcp(const struct lab *lab, const struct contender *c, json_t **result, struct err *e);    /* benchmark amst */
int run_rawloop(const struct lab *lab, const struct contender *c, json_t **result, struct err *e); /* the yardstick */
int run_iperf3(const struct lab *lab, const struct contender *c, json_t **result, struct err *e);
/* Runs an iperf3 client (with -J) and gives {"gbytes_per_s", "version"}. */
int iperf3_result(const struct command_line *client, unsigned timeout_s, json_t **result, struct err *e);

/* A port of loopback that is free now. */
int free_port(void);
/* Waits until something listens there. */
int wait_port(int port, struct err *e);

/* The share of the CPUs, 0..1, that was busy for so long from now. */
double cpu_busy(unsigned ms);

#endif

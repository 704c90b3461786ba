/* SPDX-License-Identifier: MIT */
/*
 * `dwcp benchmark amst`: what is measured (bench_amst_run) apart from how it is
 * asked for (bench_amst.c) and shown (bench_amst_report.c).
 *
 * GB/s are 10^9 bytes per second; sizes are 1024-based.
 */
#ifndef DWCP_CLI_BENCH_AMST_H
#define DWCP_CLI_BENCH_AMST_H

#include "base/stats.h"
#include "cli/bench_peer.h"
#include "cli/progress.h"
#include "cli/transfer.h"

struct bench_amst_opts {
	uint64_t data_size, region; /* region 0: the data size */
	uint32_t iterations;
	uint64_t duration_ns, omit_ns, interval_ns; /* 0: off */
	char peer[280];                             /* "": own receiver */
	bool reverse;
	char content[256]; /* "random" or a file */
	char link[1024];
	bool check;
	double target; /* GB/s */
};

struct bench_interval {
	double from, to;             /* seconds since the measurement began */
	uint64_t bytes, retransmits; /* retransmits: ours, none of the peer's in reverse */
	bool full;                   /* not the rest at the end */
};

/* A growing array; what it holds is bounded by duration/interval and iterations. */
struct bench_samples {
	double *v; /* GB/s */
	size_t n, cap;
};

struct bench_result {
	uint64_t data_bytes;   /* of one transfer, rounded up to whole passes of the region */
	uint64_t region_bytes; /* touched on both sides */
	enum huge_kind pages, peer_pages;
	bool own_peer;
	uint64_t setup_ns;

	uint64_t bytes, chunks, refused, transfers;
	uint64_t ns; /* measured */
	struct bench_samples samples;
	struct bench_interval *intervals;
	size_t n_intervals, cap_intervals;
	struct hist latency; /* of chunks; empty in reverse */
	char congestion[16]; /* what the kernel runs where the bytes are sent; "": not known */
	struct be_counters be;
	struct amst_counters amst;
	bool peer_told; /* it answered at the end, too: what is the peer's is known */
	uint64_t peer_tx_zero_copy, peer_tx_copied, peer_rx_zero_copy, peer_rx_copied;
	double cpu_s, peer_cpu_s;
	struct hde_stats hde;
	uint64_t rss, peer_rss; /* bytes at the end, regions included unless they are of reserved huge pages */
	uint64_t peer_regions;  /* bytes of the session's regions there */
	uint64_t retransmits;   /* of the sending side */
	uint64_t reconnects, resumes;

	uint64_t verified_bytes;
	bool verified, interrupted;
};

struct bench_amst {
	const struct bench_amst_opts *opts;
	const struct transfer *transfer;
	struct bench_link *link; /* not up: none */
	bool text;               /* results and interval lines to standard output */
	bool bar;                /* progress, on a terminal */
	struct bench_result result;

	/* while it runs */
	struct client *client;
	struct hugebuf region;
	struct be_token token;
	struct hde_stage *hde; /* NULL: not compressed */
	struct stage stage;
	struct progress progress;
	bool counting;
	uint64_t start_ns, stop_ns;           /* of the measurement; stop_ns 0: not by time */
	uint64_t base_bytes;                  /* of the transfers before this one */
	uint64_t interval_at, interval_bytes; /* where the current interval began */
	uint64_t interval_end;                /* when it is over */
	uint64_t interval_retransmits;
	bool sampled;
	uint64_t stamp_cpu_ns; /* of changing contents between iterations: not of the measurement */
};

/* Measures. On error (-EINTR, too) what was measured so far is in the result. */
int bench_amst_run(struct bench_amst *b, struct err *e);
void bench_amst_free(struct bench_amst *b);

int cmd_benchmark_amst(int argc, char **argv);

struct stats_interval bench_amst_throughput(const struct bench_amst *b);
void bench_amst_print_head(const struct bench_amst *b);
void bench_amst_print_interval(const struct bench_amst *b, const struct bench_interval *i);
void bench_amst_print(const struct bench_amst *b);
int bench_amst_print_json(const struct bench_amst *b, const char *path, struct err *e);

#endif

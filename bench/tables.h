/* SPDX-License-Identifier: MIT */
/* The tables of the benchmark. Each runs its scenarios and adds one section to lab->report. */
#ifndef DWCP_BENCH_TABLES_H
#define DWCP_BENCH_TABLES_H

#include "bench/report.h"
#include "bench/scenario.h"

int table_like_for_like(struct lab *lab, struct err *e); /* hot memory, against iperf3 */
int table_cold(struct lab *lab, struct err *e);          /* cold memory, against the raw loop */
int table_checksum(struct lab *lab, struct err *e);      /* what checksums cost */
int table_streams(struct lab *lab, struct err *e);       /* 1 to 512 streams: rate, set-up, memory */
int table_sizes(struct lab *lab, struct err *e);         /* 4 KB to 16 MB: rate, latency, copies */
int table_setup(struct lab *lab, struct err *e);         /* how long a session takes to begin */
int table_files(struct lab *lab, struct err *e);         /* file to file, against cp and tar | socat */
int table_links(struct lab *lab, struct err *e);         /* emulated links, against iperf3 */
int table_migrate(struct lab *lab, struct err *e);       /* running guests between two processes */
int table_migrate_links(struct lab *lab, struct err *e); /* a real guest's memory over emulated links */
int table_tracking(struct lab *lab, struct err *e);      /* what dirty tracking costs a guest */
int table_simulate(struct lab *lab, struct err *e);      /* the simulator against real migrations */
int table_concurrent(struct lab *lab, struct err *e);    /* many real migrations at once */
int table_cost(struct lab *lab, struct err *e);          /* allocations, locks and system calls per chunk */
int table_tune_sim(struct lab *lab, struct err *e);      /* the search for streams, over simulated links */
int table_modes(struct lab *lab, struct err *e);         /* mode detection against the truth */
int table_tune_links(struct lab *lab, struct err *e);    /* dwcp tune against a sweep, over emulated links */
int table_switch(struct lab *lab, struct err *e);        /* what a mode switch costs */

int table_hde_images(struct lab *lab, struct err *e);   /* guests' memory: HDE against zstd, and the changed pages */
int table_hde_suite(struct lab *lab, struct err *e);    /* the documented tables, on synthetic memory */
int table_hde_selector(struct lab *lab, struct err *e); /* regret, on images that the model has not seen */
int table_hde_scan(struct lab *lab, struct err *e);     /* zero pages and random pages */

/* "--duration=… --omit=…" of one timed run. */
#define TIMED_MAX 64
char *timed(const struct lab *lab, char out[TIMED_MAX]);

/* GB/s of `benchmark amst --json --interval=…`: what arrived in these seconds of a run. Its end, when slow streams finish
 * what they have and the others wait, is no part of it: iperf3 cuts its streams off. NAN: there is no such interval. */
double rate_within(const json_t *run, double from, double to);

#endif

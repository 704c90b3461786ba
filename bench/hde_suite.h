/* SPDX-License-Identifier: MIT */
/*
 * The documented tables of compression (`dwcp benchmark hde --suite`), on synthetic memory of stated kinds: each adds
 * one section to a report (bench/report.h). `make bench` prints the same ones.
 */
#ifndef DWCP_BENCH_HDE_SUITE_H
#define DWCP_BENCH_HDE_SUITE_H

#include "bench/hde_blocks.h"
#include "bench/hde_bench.h"
#include "bench/report.h"

int hb_suite_ratio(json_t *report, const struct hb_settings *s, uint64_t bytes, struct err *e);    /* 25 scenarios */
int hb_suite_speed(json_t *report, const struct hb_settings *s, uint64_t bytes, struct err *e);    /* 32 */
int hb_suite_delta(json_t *report, const struct hb_settings *s, uint64_t bytes, struct err *e);    /* 6 */
int hb_suite_parallel(json_t *report, const struct hb_settings *s, uint64_t bytes, struct err *e); /* 6 */

/* The documented table of 100 MB of VM state, on any memory. */
int hb_vm_state(json_t *report, const struct memory *m, const struct hb_settings *s, struct err *e);
/* zstd-1, -3 and -19 on units of 4 to 256 KB with and without a dictionary trained on other parts of the same memory. */
int hb_dictionary(json_t *report, const struct memory *m, struct err *e);

/* What `dwcp benchmark hde` prints. */
void hb_report_image(json_t *report, const struct memory *m, const struct hb_result *r, size_t n);
void hb_report_delta(json_t *report, const struct memory *m, const struct memory *base, const struct hb_delta *d,
		     const struct hb_result *r, size_t n);
/* Regret over the grid: `all` gets hb_grid_links * hb_grid_cpu_n points of each image, image by image. */
void hb_report_regret(json_t *report, const struct hb_blocks *images, size_t n, const struct hb_regret *all);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Every choice of the selector tried on blocks as HDE forms them: what its models are trained with, and what shows how far
 * the selector is from the best that could have been done.
 *
 * Sizes are exact; times are the median of 5 tries (of as many as fit 20 ms, at least 1, where a choice is slow), of the
 * thread's CPU time.
 */
#ifndef DWCP_BENCH_HDE_BLOCKS_H
#define DWCP_BENCH_HDE_BLOCKS_H

#include "bench/hde_bench.h"
#include "compress/select.h"

struct hb_block {
	struct sel_features features;
	uint32_t n;
	double select_ns; /* features and choice */
	struct {
		uint32_t size;
		double encode_ns, decode_ns;
	} choice[SEL_CHOICES];
};

struct hb_blocks {
	struct hb_block *v;
	size_t n;
	uint64_t seen; /* blocks that the image had; n of them, evenly spread, were tried */
	char name[256];
};

/* HDE goes over the image once (mode auto); at most `most` of its blocks are tried. */
int hb_blocks_measure(struct hb_blocks *b, const struct memory *m, size_t most, const struct hb_settings *s,
		      struct err *e);
void hb_blocks_free(struct hb_blocks *b);

/* Fits sel_model to blocks: ridge regression of the logarithms, each image with the same weight. */
int hb_train(struct sel_model *m, const struct hb_blocks *images, size_t n, struct err *e);

/* One point of the regret study. */
struct hb_regret {
	double link_bits, cpus;
	double best_s;     /* lower bound of any selector, try-everything included: the linear program's value */
	double selector_s; /* its own time included */
	double fixed_s;    /* the best single choice, known afterwards */
	double raw_s;
	unsigned fixed; /* that choice */
	double regret;  /* selector_s / best_s - 1 */
};

/* The selector of `model` (NULL: shipped) goes over the blocks in order, as HDE would, and learns from the times that
 * were measured. */
void hb_regret(const struct hb_blocks *b, const struct sel_model *model, double link_bits, double cpus,
	       struct hb_regret *r);

/* The grid of the study: bandwidths × CPU budgets. */
extern const double hb_grid_link[], hb_grid_cpus[];
extern const size_t hb_grid_links, hb_grid_cpu_n;

#endif

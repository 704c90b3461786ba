/* SPDX-License-Identifier: MIT */
/* Sample statistics: quantiles, bootstrap intervals, and a histogram for latencies. */
#ifndef DWCP_BASE_STATS_H
#define DWCP_BASE_STATS_H

#include <stddef.h>
#include <stdint.h>

/* Quantile q in 0..1 by linear interpolation (Hyndman & Fan type 7). Sorts v. NaN when n is 0. */
double stats_quantile(double *v, size_t n, double q);
double stats_median(double *v, size_t n); /* sorts v */

struct stats_interval {
	double median, ci95_low, ci95_high;
	size_t n;
};

/* Median with a percentile-bootstrap 95 % interval (1,000 resamples, seeded: same input, same
 * answer). n < 2 gives the median thrice. Allocates; not for the data path.
 * Source: Efron & Tibshirani, "An Introduction to the Bootstrap", ch. 13. */
struct stats_interval stats_bootstrap(const double *v, size_t n, uint64_t seed);

/*
 * Log-linear histogram of nanoseconds, fixed size, no allocation: 64 linear
 * steps per power of two, relative error < 1.6 %; values up to 2^42 ns (73 min),
 * larger ones count in the last bucket. One writer.
 */
#define HIST_SUB_BITS 6
#define HIST_BUCKETS ((42 - HIST_SUB_BITS + 1) << HIST_SUB_BITS)

struct hist {
	uint64_t n, max, sum;
	uint32_t bucket[HIST_BUCKETS];
};

void hist_reset(struct hist *h);
void hist_add(struct hist *h, uint64_t ns);
void hist_merge(struct hist *into, const struct hist *from);
uint64_t hist_quantile(const struct hist *h, double q); /* upper edge of the bucket, at most max; 0 when empty */

#endif

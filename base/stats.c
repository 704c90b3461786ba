/* SPDX-License-Identifier: MIT */
#include "base/stats.h"
#include "base/util.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RESAMPLES 1000

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double sorted_quantile(const double *v, size_t n, double q)
{
	double at, below;
	size_t i;

	if (!n || !(q >= 0 && q <= 1))
		return NAN;
	at = q * (double)(n - 1);
	below = floor(at);
	i = (size_t)below;
	if (i + 1 >= n || at == below)
		return v[i];
	return v[i] + (at - below) * (v[i + 1] - v[i]);
}

double stats_quantile(double *v, size_t n, double q)
{
	if (n)
		qsort(v, n, sizeof *v, by_value);
	return sorted_quantile(v, n, q);
}

double stats_median(double *v, size_t n)
{
	return stats_quantile(v, n, 0.5);
}

/* k-th smallest (from 0) of the resample in which sorted[i] occurs count[i] times. */
static double resampled(const double *sorted, const uint32_t *count, size_t k)
{
	size_t i = 0, seen = count[0];

	while (seen <= k)
		seen += count[++i];
	return sorted[i];
}

/* Counting draws by rank gives a resample's median in O(n), without sorting it. */
static double resample_median(const double *sorted, uint32_t *count, size_t n, uint64_t *rng)
{
	memset(count, 0, n * sizeof *count);
	for (size_t i = 0; i < n; i++)
		count[(size_t)(((unsigned __int128)rng_next(rng) * n) >> 64)]++;
	if (n % 2)
		return resampled(sorted, count, n / 2);
	return (resampled(sorted, count, n / 2 - 1) + resampled(sorted, count, n / 2)) / 2;
}

struct stats_interval stats_bootstrap(const double *v, size_t n, uint64_t seed)
{
	struct stats_interval s = { .median = NAN, .ci95_low = NAN, .ci95_high = NAN, .n = n };
	double *sorted = NULL, *medians = NULL;
	uint32_t *count = NULL;

	if (!n || n > UINT32_MAX)
		return s;
	sorted = malloc(n * sizeof *sorted);
	medians = malloc(RESAMPLES * sizeof *medians);
	count = malloc(n * sizeof *count);
	if (!sorted || !medians || !count)
		goto out;

	memcpy(sorted, v, n * sizeof *sorted);
	s.median = s.ci95_low = s.ci95_high = stats_median(sorted, n);
	if (n < 2)
		goto out;
	for (size_t i = 0; i < RESAMPLES; i++)
		medians[i] = resample_median(sorted, count, n, &seed);
	s.ci95_low = stats_quantile(medians, RESAMPLES, 0.025);
	s.ci95_high = sorted_quantile(medians, RESAMPLES, 0.975);
out:
	free(count);
	free(medians);
	free(sorted);
	return s;
}

#define HIST_STEPS (1u << HIST_SUB_BITS)

/* Below 64 a bucket per value; above, 64 buckets per power of two. */
static unsigned hist_index(uint64_t ns)
{
	unsigned shift;

	if (ns < HIST_STEPS)
		return (unsigned)ns;
	shift = 63u - (unsigned)__builtin_clzll(ns) - HIST_SUB_BITS;
	if (((shift + 1) << HIST_SUB_BITS) >= HIST_BUCKETS)
		return HIST_BUCKETS - 1;
	return ((shift + 1) << HIST_SUB_BITS) + (unsigned)(ns >> shift & (HIST_STEPS - 1));
}

static uint64_t hist_upper_edge(unsigned index)
{
	unsigned shift;

	if (index < HIST_STEPS)
		return index;
	shift = (index >> HIST_SUB_BITS) - 1;
	return ((uint64_t)((index & (HIST_STEPS - 1)) + HIST_STEPS + 1) << shift) - 1;
}

void hist_reset(struct hist *h)
{
	memset(h, 0, sizeof *h);
}

void hist_add(struct hist *h, uint64_t ns)
{
	uint32_t *b = &h->bucket[hist_index(ns)];

	*b += *b != UINT32_MAX;
	h->n++;
	h->sum += ns;
	if (ns > h->max)
		h->max = ns;
}

void hist_merge(struct hist *into, const struct hist *from)
{
	for (size_t i = 0; i < HIST_BUCKETS; i++)
		if (__builtin_add_overflow(into->bucket[i], from->bucket[i], &into->bucket[i]))
			into->bucket[i] = UINT32_MAX;
	into->n += from->n;
	into->sum += from->sum;
	into->max = max_u64(into->max, from->max);
}

uint64_t hist_quantile(const struct hist *h, double q)
{
	uint64_t seen = 0, rank;

	if (!h->n)
		return 0;
	if (!(q < 1))
		return h->max;
	rank = q > 0 ? (uint64_t)ceil(q * (double)h->n) : 1;
	rank = rank ? rank : 1;
	/* The last bucket has no upper edge of its own: it also holds what was too large. */
	for (unsigned i = 0; i < HIST_BUCKETS - 1; i++) {
		seen += h->bucket[i];
		if (seen >= rank)
			return min_u64(hist_upper_edge(i), h->max);
	}
	return h->max;
}

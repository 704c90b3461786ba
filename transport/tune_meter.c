/* SPDX-License-Identifier: MIT */
#include "transport/tune_meter.h"

#include "base/util.h"
#include <math.h>

#define BATCHES_LEAST 8 /* of what is left after the start is cut off */

void tune_meter_reset(struct tune_meter *m)
{
	*m = (struct tune_meter){ .per_slice = 1 };
}

static void halve(struct tune_meter *m)
{
	for (unsigned i = 0; i < m->n / 2; i++)
		m->v[i] = (m->v[2 * i] + m->v[2 * i + 1]) / 2;
	m->n /= 2;
	m->per_slice *= 2;
}

void tune_meter_add(struct tune_meter *m, const struct pilot_seen *s)
{
	m->ns += s->ns;
	m->bytes += s->bytes;
	m->segments += s->segments;
	m->lost += s->lost;
	m->rtt_ns = s->rtt_ns ? s->rtt_ns : m->rtt_ns;
	if (s->rtt_least_ns)
		m->rtt_least_ns = s->rtt_least_ns;
	m->part += (double)s->bytes * 1e9 / (double)s->ns;
	if (++m->part_n < m->per_slice)
		return;
	m->v[m->n++] = m->part / m->part_n;
	m->part = 0;
	m->part_n = 0;
	m->slice_ns = m->ns / m->n;
	if (m->n == TUNE_SLICES)
		halve(m);
}

static double mean_of(const double *v, unsigned n)
{
	double sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += v[i];
	return n ? sum / n : 0;
}

static double variance_of(const double *v, unsigned n, double mean)
{
	double sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += (v[i] - mean) * (v[i] - mean);
	return n > 1 ? sum / (n - 1) : 0;
}

/* Lag-1 autocorrelation: what one batch has in common with the next. Few values hide some of it (Marriott and Pope,
 * Biometrika 41, 1954). */
static double correlation_of(const double *v, unsigned n, double mean, double variance)
{
	double sum = 0, r;

	for (unsigned i = 0; i + 1 < n; i++)
		sum += (v[i] - mean) * (v[i + 1] - mean);
	r = variance > 0 && n > 2 ? sum / (n - 1) / variance : 0;
	return fmin(fmax(r + (1 + 3 * r) / n, 0), 0.8);
}

/* Mann and Kendall: more later values above earlier ones than chance, and correlation r, would bring about. */
static bool rising(const double *v, unsigned n, double r)
{
	double s = 0, deviation = sqrt(n * (n - 1.0) * (2.0 * n + 5) / 18 * (1 + r) / (1 - r));

	for (unsigned i = 0; i < n; i++)
		for (unsigned k = i + 1; k < n; k++)
			s += (v[k] > v[i]) - (v[k] < v[i]);
	return s > 2 * deviation;
}

/* Where the start ends: the cut that leaves the least standard error, in the first half. */
static unsigned mser(const double *v, unsigned n)
{
	double least = INFINITY;
	unsigned cut = 0;

	for (unsigned d = 0; d <= n / 2; d++) {
		double mean = mean_of(v + d, n - d), z = variance_of(v + d, n - d, mean) / (n - d);

		if (z < least) {
			least = z;
			cut = d;
		}
	}
	return cut;
}

/* Batches are not shorter than a round trip: within one, rates only say how acknowledgements came. */
static unsigned make_batches(const struct tune_meter *m, double *out)
{
	uint64_t per = m->slice_ns ? max_u64(div_up_u64(m->rtt_ns, m->slice_ns), 1) : 1;
	unsigned n = 0;

	per = max_u64(per, m->n / 64);
	for (uint64_t i = 0; i + per <= m->n; i += per)
		out[n++] = mean_of(m->v + i, (unsigned)per);
	return n;
}

struct tune_estimate tune_estimate_of(const struct tune_meter *m)
{
	double b[TUNE_SLICES], variance, r;
	unsigned n = make_batches(m, b), cut = mser(b, n), left = n - cut;
	struct tune_estimate e = { .error = INFINITY };

	if (left < 2) {
		e.rate = mean_of(b, n);
		return e;
	}
	e.rate = mean_of(b + cut, left);
	variance = variance_of(b + cut, left, e.rate);
	r = correlation_of(b + cut, left, e.rate, variance);
	/* Few values do not know their own spread: about what Student's t adds. */
	e.error = sqrt(variance / left * (1 + r) / (1 - r)) * (1 + 1.5 / left);
	e.settled = left >= BATCHES_LEAST && cut < n / 2 && !rising(b + cut, left, r);
	return e;
}

/* SPDX-License-Identifier: MIT */
/*
 * Fits the selector's models. For every choice three straight lines over the features: log2 of bytes out per byte in, and
 * log2 of nanoseconds per byte each way. Least squares with a small ridge, by Cholesky's decomposition.
 */
#include "base/util.h"
#include "bench/hde_blocks.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define F SEL_FEATURES
#define RIDGE 1e-3 /* per weight of a block: the features are about 0…1 */

struct fit {
	double a[F][F], b[F];
};

static void fit_add(struct fit *f, const float *x, double y, double weight)
{
	for (unsigned i = 0; i < F; i++) {
		for (unsigned j = 0; j < F; j++)
			f->a[i][j] += weight * (double)x[i] * (double)x[j];
		f->b[i] += weight * (double)x[i] * y;
	}
}

/* In place: a becomes its lower triangle L, with a = L·Lᵀ. */
static bool cholesky(double a[F][F])
{
	for (unsigned i = 0; i < F; i++)
		for (unsigned j = 0; j <= i; j++) {
			double sum = a[i][j];

			for (unsigned k = 0; k < j; k++)
				sum -= a[i][k] * a[j][k];
			if (i == j && !(sum > 0))
				return false;
			a[i][j] = i == j ? sqrt(sum) : sum / a[j][j];
		}
	return true;
}

static bool fit_solve(struct fit *f, float out[F])
{
	double y[F];

	for (unsigned i = 1; i < F; i++)
		f->a[i][i] += RIDGE;
	f->a[0][0] += 1e-9;
	if (!cholesky(f->a))
		return false;
	for (unsigned i = 0; i < F; i++) {
		y[i] = f->b[i];
		for (unsigned k = 0; k < i; k++)
			y[i] -= f->a[i][k] * y[k];
		y[i] /= f->a[i][i];
	}
	for (unsigned i = F; i-- > 0;) {
		for (unsigned k = i + 1; k < F; k++)
			y[i] -= f->a[k][i] * y[k];
		y[i] /= f->a[i][i];
		out[i] = (float)y[i];
	}
	return true;
}

static bool fit_choice(struct sel_choice_model *m, const struct hb_blocks *images, size_t n, unsigned c)
{
	struct fit size = { 0 }, encode = { 0 }, decode = { 0 };

	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < images[i].n; j++) {
			const struct hb_block *b = &images[i].v[j];
			double weight = 1 / (double)(images[i].n * n), bytes = b->n;

			fit_add(&size, b->features.v, log2(b->choice[c].size / bytes), weight);
			fit_add(&encode, b->features.v, log2(fmax(b->choice[c].encode_ns, 1) / bytes), weight);
			fit_add(&decode, b->features.v, log2(fmax(b->choice[c].decode_ns, 1) / bytes), weight);
		}
	return fit_solve(&size, m->size) && fit_solve(&encode, m->encode) && fit_solve(&decode, m->decode);
}

int hb_train(struct sel_model *m, const struct hb_blocks *images, size_t n, struct err *e)
{
	size_t blocks = 0;

	for (size_t i = 0; i < n; i++)
		blocks += images[i].n;
	if (blocks < 10 * F)
		return err_set(e, -EINVAL,
			       "%zu blocks are too few to train with: give larger or more images, or raise --blocks",
			       blocks);
	for (unsigned c = 0; c < SEL_CHOICES; c++)
		if (!fit_choice(&m->choice[c], images, n, c))
			return err_set(e, -EINVAL, "the images are too much alike to train with; give different ones");
	return 0;
}

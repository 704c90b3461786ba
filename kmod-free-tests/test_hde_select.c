/* SPDX-License-Identifier: MIT */
/* The selector, with a model whose answers are known: what it takes on fast and slow links, and that it learns. */
#include "base/util.h"
#include "compress/select.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#define N (256u << 10)
#define MOST 4000u

/* What a block really is: of each choice bytes out and nanoseconds. */
struct truth {
	double size[SEL_CHOICES], encode_ns[SEL_CHOICES], decode_ns[SEL_CHOICES];
};

/* Higher levels are slower and smaller: from LZ4's 1.5 at 600 MB/s to zstd-19's 4 at 3 MB/s. */
static void like_text(struct truth *t)
{
	t->size[0] = N;
	t->encode_ns[0] = t->decode_ns[0] = N * .1;
	for (unsigned c = 1; c < SEL_CHOICES; c++) {
		t->size[c] = N / (1.5 + .2 * c);
		t->encode_ns[c] = N * .5 * pow(1.7, c);
		t->decode_ns[c] = N * .8;
	}
}

static void like_noise(struct truth *t)
{
	like_text(t);
	for (unsigned c = 0; c < SEL_CHOICES; c++)
		t->size[c] = N;
}

/* A model that says this of every block, sizes `wrong` times as large. */
static void model_of(struct sel_model *m, const struct truth *t, double wrong)
{
	memset(m, 0, sizeof *m);
	for (unsigned c = 0; c < SEL_CHOICES; c++) {
		m->choice[c].size[0] = (float)log2(t->size[c] * (c ? wrong : 1) / N);
		m->choice[c].encode[0] = (float)log2(t->encode_ns[c] / N);
		m->choice[c].decode[0] = (float)log2(t->decode_ns[c] / N);
	}
}

struct sums {
	double cpu, link, receiver;
	unsigned taken[SEL_CHOICES];
};

static double longest(const struct sums *s)
{
	return fmax(fmax(s->cpu, s->link), s->receiver);
}

static void add(struct sums *s, const struct truth *t, unsigned c, const struct sel_cost *cost)
{
	s->cpu += t->encode_ns[c] * 1e-9 / cost->cpu;
	s->link += t->size[c] / cost->link_bytes_per_s;
	s->receiver += t->decode_ns[c] * 1e-9 / cost->receiver;
	s->taken[c]++;
}

static void run(const struct sel_model *m, const struct truth *t, const struct sel_cost *cost, unsigned blocks,
		struct sums *sums)
{
	const struct sel_features one = { .v = { 1 } };
	struct selector s;

	memset(sums, 0, sizeof *sums);
	sel_init(&s, m, cost);
	for (unsigned i = 0; i < blocks; i++) {
		bool look = sel_look(&s);
		unsigned c = look ? sel_choose(&s, &one, N, NULL) : 0;

		assert_true(c < SEL_CHOICES);
		assert_true(!cost->allowed || cost->allowed >> c & 1);
		sel_learn(&s, look ? &one : NULL, N, c, (size_t)t->size[c], (uint64_t)t->encode_ns[c],
			  (uint64_t)t->decode_ns[c]);
		add(sums, t, c, cost);
	}
}

static double best_fixed(const struct truth *t, const struct sel_cost *cost, unsigned blocks)
{
	double best = INFINITY;

	for (unsigned c = 0; c < SEL_CHOICES; c++) {
		struct sums one = { 0 };

		add(&one, t, c, cost);
		best = fmin(best, longest(&one) * blocks);
	}
	return best;
}

static const double links[] = { 1.25e6, 12.5e6, 125e6, 1250e6, 5000e6 };
static const double cpus[] = { .5, 1, 4 };

/* With answers that are right it is as good as the best single choice, which nobody told it, wherever the link is. */
static void test_right_model(void **state)
{
	struct sel_model m;
	struct truth t;

	(void)state;
	like_text(&t);
	model_of(&m, &t, 1);
	for (unsigned i = 0; i < ARRAY_LEN(links); i++)
		for (unsigned k = 0; k < ARRAY_LEN(cpus); k++) {
			struct sel_cost cost = { .cpu = cpus[k], .link_bytes_per_s = links[i], .receiver = cpus[k] };
			struct sums sums;

			run(&m, &t, &cost, MOST, &sums);
			assert_true(longest(&sums) < 1.03 * best_fixed(&t, &cost, MOST));
		}
}

/* Noise costs no more than raw, whatever the model believes at first. */
static void test_noise(void **state)
{
	struct truth noise, text;
	struct sel_model m;

	(void)state;
	like_noise(&noise);
	like_text(&text);
	model_of(&m, &text, 1);
	for (unsigned i = 0; i < ARRAY_LEN(links); i++)
		for (unsigned k = 0; k < ARRAY_LEN(cpus); k++) {
			struct sel_cost cost = { .cpu = cpus[k], .link_bytes_per_s = links[i], .receiver = cpus[k] };
			struct sums sums, raw = { 0 };

			run(&m, &noise, &cost, MOST, &sums);
			for (unsigned b = 0; b < MOST; b++)
				add(&raw, &noise, 0, &cost);
			assert_true(longest(&sums) < 1.02 * longest(&raw));
		}
}

/* A model that takes text for noise is found out, on a link where that matters. */
static void test_wrong_model(void **state)
{
	const struct sel_cost cost = { .cpu = 1, .link_bytes_per_s = 12.5e6, .receiver = 1 };
	struct sel_model m;
	struct truth t;
	struct sums sums;

	(void)state;
	like_text(&t);
	model_of(&m, &t, 4);
	run(&m, &t, &cost, MOST, &sums);
	assert_true(sums.taken[0] < MOST / 10);
	assert_true(longest(&sums) < 1.15 * best_fixed(&t, &cost, MOST));
}

static void test_only_what_is_allowed(void **state)
{
	struct sel_cost cost = { .cpu = .5, .link_bytes_per_s = 5000e6, .receiver = 1, .allowed = 1u << 6 | 1u << 13 };
	struct sel_model m;
	struct truth t;
	struct sums sums;

	(void)state;
	like_text(&t);
	model_of(&m, &t, 1);
	run(&m, &t, &cost, 100, &sums);
	assert_int_equal(sums.taken[6] + sums.taken[13], 100);
}

static void test_features_of_little(void **state)
{
	static const size_t sizes[] = { 1, 2, 7, 8, 63, 64, 100, 511, 512, 513, 4096, N };
	uint8_t *data = test_malloc(N);
	struct sel_features a, b;

	(void)state;
	rng_fill(data, N, 5);
	for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
		sel_features(&a, data + N - sizes[i], sizes[i]); /* a read beyond it is seen by a sanitizer */
		sel_features(&b, data + N - sizes[i], sizes[i]);
		assert_memory_equal(&a, &b, sizeof a);
		for (unsigned k = 0; k < SEL_FEATURES; k++)
			assert_true(fabsf(a.v[k]) <= 2);
	}
	test_free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_right_model),        cmocka_unit_test(test_noise),
		cmocka_unit_test(test_wrong_model),        cmocka_unit_test(test_only_what_is_allowed),
		cmocka_unit_test(test_features_of_little),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

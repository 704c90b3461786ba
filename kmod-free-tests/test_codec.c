/* SPDX-License-Identifier: MIT */
/* Codecs: every level of each, blocks of any size, room that is too small, hostile bytes; dictionaries; no allocation. */
#include "base/util.h"
#include "compress/codec.h"
#include "compress/dict.h"

#include <errno.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define ROOM (CODEC_BLOCK_MAX * 5 / 4 + 4096)

static struct codec_ctx *ctx;
static uint8_t *in, *out, *back;

static void fill(uint8_t *p, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n;) {
		uint64_t v = rng_next(&seed), len = v % 97 + 3;

		for (size_t k = 0; k < len && i < n; k++, i++)
			p[i] = v & 1024 && i > 500 ? p[i - 500]
			       : v & 2048          ? (uint8_t)rng_next(&seed)
						   : (uint8_t)(v >> 32);
	}
}

static int open_all(void **state)
{
	struct err e;

	(void)state;
	in = malloc(CODEC_BLOCK_MAX);
	out = malloc(ROOM);
	back = malloc(CODEC_BLOCK_MAX + 64);
	return in && out && back ? codec_open(&ctx, true, true, 19, &e) : -1;
}

static int close_all(void **state)
{
	(void)state;
	codec_close(ctx);
	free(in);
	free(out);
	free(back);
	return 0;
}

static void test_every_level(void **state)
{
	static const size_t sizes[] = { 1, 100, 4096, 16384, 70000, 131072, 200000, CODEC_BLOCK_MAX };

	(void)state;
	for (unsigned c = 0; c < CODECS; c++)
		for (int level = codecs[c]->level_min; level <= codecs[c]->level_max; level += c == CODEC_LZ4 ? 9 : 1)
			for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
				size_t n = sizes[i], len;

				if (level > 12 && n > 70000 && n < CODEC_BLOCK_MAX)
					continue;
				fill(in, n, n);
				len = codecs[c]->encode(ctx, level, NULL, in, n, out, ROOM);
				if (!len)
					fail_msg("%s %d cannot encode %zu bytes", codecs[c]->name, level, n);
				assert_true(c == CODEC_RAW || n < 4096 || len < n);
				memset(back, 0x55, n + 64);
				assert_int_equal(codecs[c]->decode(ctx, NULL, out, len, back, n), 0);
				assert_memory_equal(in, back, n);
				assert_int_equal(back[n], 0x55);
				/* Of another size than is said. */
				assert_int_equal(codecs[c]->decode(ctx, NULL, out, len, back, n - 1), -EBADMSG);
				if (n < CODEC_BLOCK_MAX)
					assert_int_equal(codecs[c]->decode(ctx, NULL, out, len, back, n + 1), -EBADMSG);
				assert_int_equal(codecs[c]->decode(ctx, NULL, out, len - 1, back, n), -EBADMSG);
				assert_int_equal(back[n + 1], 0x55);
			}
}

static void test_no_room(void **state)
{
	size_t n = 65536;

	(void)state;
	rng_fill(in, n, 1);
	for (unsigned c = 0; c < CODECS; c++) {
		memset(out, 0x55, ROOM);
		assert_int_equal(codecs[c]->encode(ctx, codecs[c]->level_default, NULL, in, n, out, n / 2), 0);
		assert_int_equal(out[n / 2], 0x55);
	}
}

static void test_garbage(void **state)
{
	uint64_t seed = 5;

	(void)state;
	for (unsigned i = 0; i < 4000; i++) {
		size_t len = rng_next(&seed) % 600, n = 1 + rng_next(&seed) % 5000;
		unsigned c = 1 + i % (CODECS - 1);

		rng_fill(in, len, rng_next(&seed));
		memset(back, 0x55, n + 64);
		assert_int_not_equal(codecs[c]->decode(ctx, NULL, in, len, back, n), 1);
		assert_int_equal(back[n], 0x55);
	}
}

static void test_dictionary(void **state)
{
	size_t sizes[400], cap = 16384, n, plain, with;
	uint8_t *samples = malloc(400 * 2048), *made = malloc(cap);
	struct codec_base base;
	struct dict d, other;
	struct err e;

	(void)state;
	assert_true(samples && made);
	for (unsigned i = 0; i < 400; i++) {
		sizes[i] = 2048;
		fill(samples + i * 2048u, 2048, i % 20);
	}
	assert_int_equal(dict_train(made, cap, samples, sizes, 0), 0);
	n = dict_train(made, cap, samples, sizes, 400);
	assert_true(n > 1000 && n <= cap);
	assert_int_equal(dict_open(&d, made, n, 3, &e), 0);
	assert_int_not_equal(d.id, 0);
	base.dict = &d;
	plain = codecs[CODEC_ZSTD]->encode(ctx, 3, NULL, samples, 2048, out, ROOM);
	with = codecs[CODEC_ZSTD]->encode(ctx, 3, &base, samples, 2048, out, ROOM);
	assert_true(with && with < plain);
	assert_int_equal(codecs[CODEC_ZSTD]->decode(ctx, &base, out, with, back, 2048), 0);
	assert_memory_equal(samples, back, 2048);
	/* Afterwards without it, as if there had been none; and never right with none. */
	assert_int_equal(codecs[CODEC_ZSTD]->encode(ctx, 3, NULL, samples, 2048, in, CODEC_BLOCK_MAX), plain);
	if (codecs[CODEC_ZSTD]->decode(ctx, NULL, out, with, back, 2048) == 0)
		assert_memory_not_equal(samples, back, 2048);
	assert_int_equal(dict_open(&other, made, 0, 0, &e), -EINVAL);
	assert_int_equal(dict_open(&other, made, DICT_BYTES_MAX + 1, 0, &e), -EINVAL);
	dict_close(&d);
	dict_close(&other);
	free(samples);
	free(made);
}

/* What LZ4 and zstd need is there from the beginning. */
static void test_no_allocation(void **state)
{
	size_t n = CODEC_BLOCK_MAX, before, len;

	(void)state;
	fill(in, n, 3);
	codecs[CODEC_GZIP]->encode(ctx, 6, NULL, in, n, out, ROOM);
	before = mallinfo2().uordblks;
	for (int i = 0; i < 40; i++) {
		int level = i % 25 - 5;

		len = codecs[CODEC_ZSTD]->encode(ctx, level, NULL, in, n / (1 + (size_t)i % 5), out, ROOM);
		assert_int_equal(codecs[CODEC_ZSTD]->decode(ctx, NULL, out, len, back, n / (1 + (size_t)i % 5)), 0);
		len = codecs[CODEC_LZ4]->encode(ctx, 1, NULL, in, n, out, ROOM);
		assert_int_equal(codecs[CODEC_LZ4]->decode(ctx, NULL, out, len, back, n), 0);
		assert_int_equal(mallinfo2().uordblks, before);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_level),   cmocka_unit_test(test_no_room),
		cmocka_unit_test(test_garbage),       cmocka_unit_test(test_dictionary),
		cmocka_unit_test(test_no_allocation),
	};

	return cmocka_run_group_tests(tests, open_all, close_all);
}

/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/digest.h"
#include "base/digest_xxh3.h"
#include "base/util.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h> /* the shared library is the oracle: base/digest.c inlines its own builds */

static void crc32c_as_in_rfc_3720(void **state)
{
	/* B.4, "CRC Examples"; the last is an iSCSI Read (10) command */
	static const uint8_t pdu[48] = { 0x01, 0xc0, 0, 0, 0, 0, 0,    0, 0,    0, 0, 0,    0, 0, 0, 0,
					 0x14, 0,    0, 0, 0, 0, 0x04, 0, 0,    0, 0, 0x14, 0, 0, 0, 0x18,
					 0x28, 0,    0, 0, 0, 0, 0,    0, 0x02, 0, 0, 0,    0, 0, 0, 0 };
	uint8_t buf[32];

	(void)state;
	memset(buf, 0, sizeof buf);
	assert_int_equal(crc32c(buf, sizeof buf), 0x8a9136aa);
	memset(buf, 0xff, sizeof buf);
	assert_int_equal(crc32c(buf, sizeof buf), 0x62a8ab43);
	for (size_t i = 0; i < sizeof buf; i++)
		buf[i] = (uint8_t)i;
	assert_int_equal(crc32c(buf, sizeof buf), 0x46dd794e);
	for (size_t i = 0; i < sizeof buf; i++)
		buf[i] = (uint8_t)(31 - i);
	assert_int_equal(crc32c(buf, sizeof buf), 0x113fdb5c);
	assert_int_equal(crc32c(pdu, sizeof pdu), 0xd9963a56);
	assert_int_equal(crc32c("123456789", 9), 0xe3069283);
	assert_int_equal(crc32c(NULL, 0), 0);
}

/* Bit by bit, from the polynomial. */
static uint32_t crc32c_slowly(const uint8_t *p, size_t n)
{
	uint32_t crc = ~0u;

	while (n--) {
		crc ^= *p++;
		for (int k = 0; k < 8; k++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

static uint8_t *noise(size_t n)
{
	uint8_t *p = malloc(n);
	uint64_t seed = 7;

	assert_non_null(p);
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)rng_next(&seed);
	return p;
}

static void every_length_and_alignment(void **state)
{
	size_t most = 1100;
	uint8_t *p = noise(most + 64);

	(void)state;
	for (size_t len = 0; len <= most; len++) {
		const uint8_t *at = p + len % 61;
		XXH128_hash_t want = XXH3_128bits(at, len);
		struct digest128 got = digest128_of(at, len);

		assert_int_equal(sum_of(SUM_CRC32C, at, len), crc32c_slowly(at, len));
		assert_int_equal(sum_of(SUM_XXH3, at, len), XXH3_64bits(at, len));
		assert_int_equal(sum_of(SUM_NONE, at, len), 0);
		assert_true(got.lo == want.low64 && got.hi == want.high64);
	}
	free(p);
}

/* The build that this CPU does not choose must answer the same. */
static void every_build_agrees(void **state)
{
	const struct xxh3_ops *builds[2] = { &xxh3_base };
	size_t n = 1, len = 70000;
	uint8_t *p = noise(len);

	(void)state;
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		builds[n++] = &xxh3_avx2;
#endif
	for (size_t b = 0; b < n; b++)
		for (size_t at = 0; at < len; at = at * 17 / 16 + 1) {
			XXH128_hash_t want = XXH3_128bits(p, at);
			struct digest128 got = builds[b]->h128(p, at);
			struct sum_state s;

			assert_int_equal(builds[b]->h64(p, at), XXH3_64bits(p, at));
			assert_true(got.lo == want.low64 && got.hi == want.high64);
			builds[b]->begin(s.xxh);
			builds[b]->add(s.xxh, p, at / 3);
			builds[b]->add(s.xxh, p + at / 3, at - at / 3);
			assert_int_equal(builds[b]->end(s.xxh), XXH3_64bits(p, at));
		}
	free(p);
}

static void published_xxh3_of_nothing(void **state)
{
	struct digest128 d = digest128_of("", 0);

	(void)state;
	assert_int_equal(sum_of(SUM_XXH3, "", 0), 0x2d06800538d394c2ull);
	assert_int_equal(d.hi, 0x99aa06d3014798d8ull);
	assert_int_equal(d.lo, 0x6001c324468d497full);
	assert_true(strcmp(digest_variant(), "avx2") == 0 || strcmp(digest_variant(), "baseline") == 0);
}

static void pieces_equal_the_whole(void **state)
{
	size_t len = 300000;
	uint8_t *p = noise(len);
	uint64_t seed = 1;

	(void)state;
	for (int kind = 0; kind < SUM_KINDS; kind++)
		for (int round = 0; round < 20; round++) {
			struct sum_state s;

			sum_begin(&s, (enum sum_kind)kind);
			for (size_t at = 0; at < len;) {
				size_t n = (size_t)min_u64(len - at, rng_next(&seed) % (round < 10 ? 700 : 90000));

				sum_add(&s, p + at, n);
				at += n;
			}
			sum_add(&s, NULL, 0);
			assert_int_equal(sum_end(&s), sum_of((enum sum_kind)kind, p, len));
		}
	assert_int_equal(sum_of(SUM_XXH3, p, len), XXH3_64bits(p, len));
	free(p);
}

static void one_flipped_bit_shows(void **state)
{
	size_t len = 4096;
	uint8_t *p = noise(len);
	uint32_t crc = crc32c(p, len);
	uint64_t xxh = sum_of(SUM_XXH3, p, len);
	struct digest128 d = digest128_of(p, len);

	(void)state;
	for (size_t bit = 0; bit < len * 8; bit += 37) {
		struct digest128 now;

		p[bit / 8] ^= (uint8_t)(1 << bit % 8);
		now = digest128_of(p, len);
		assert_true(crc32c(p, len) != crc);
		assert_true(sum_of(SUM_XXH3, p, len) != xxh);
		assert_true(now.lo != d.lo && now.hi != d.hi);
		p[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	free(p);
}

/* ISA-L counts in int: lengths that do not fit one must still be right. */
static void longer_than_an_int(void **state)
{
	size_t len = ((size_t)2 << 30) + 37, piece = (size_t)16 << 20;
	void *p = mmap(NULL, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_POPULATE, -1, 0);
	struct sum_state s;

	(void)state;
	if (p == MAP_FAILED) {
		print_message("skipped: no 2 GB of address space\n");
		skip();
	}
	sum_begin(&s, SUM_CRC32C);
	for (size_t at = 0; at < len; at += piece)
		sum_add(&s, p, (size_t)min_u64(piece, len - at));
	assert_int_equal(sum_end(&s), crc32c(p, len));
	munmap(p, len);
}

static void names(void **state)
{
	(void)state;
	assert_string_equal(sum_names[SUM_NONE], "none");
	assert_string_equal(sum_names[SUM_CRC32C], "crc32c");
	assert_string_equal(sum_names[SUM_XXH3], "xxh3");
	assert_null(sum_names[SUM_KINDS]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crc32c_as_in_rfc_3720),  cmocka_unit_test(every_length_and_alignment),
		cmocka_unit_test(every_build_agrees),     cmocka_unit_test(published_xxh3_of_nothing),
		cmocka_unit_test(pieces_equal_the_whole), cmocka_unit_test(one_flipped_bit_shows),
		cmocka_unit_test(longer_than_an_int),     cmocka_unit_test(names),
	};

	return cmocka_run_group_tests_name("base/digest", tests, NULL, NULL);
}

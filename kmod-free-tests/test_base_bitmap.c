/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/bitmap.h"
#include "base/util.h"
#include <pthread.h>
#include <string.h>

static void words_and_set(void **state)
{
	uint64_t map[3] = { 0 };

	(void)state;
	assert_int_equal(bitmap_words(0), 0);
	assert_int_equal(bitmap_words(1), 1);
	assert_int_equal(bitmap_words(64), 1);
	assert_int_equal(bitmap_words(65), 2);
	assert_int_equal(bitmap_words(1ull << 40), 1ull << 34);

	assert_false(bitmap_test(map, 63));
	assert_true(bitmap_set(map, 63));
	assert_false(bitmap_set(map, 63));
	assert_true(bitmap_test(map, 63));
	assert_false(bitmap_test(map, 64));
	assert_int_equal(map[0], 1ull << 63);
	assert_int_equal(map[1], 0);
}

static void count_stops_at_the_end(void **state)
{
	uint64_t map[3];

	(void)state;
	memset(map, 0xff, sizeof map);
	for (uint64_t bits = 0; bits <= 192; bits++)
		assert_int_equal(bitmap_count(map, bits), bits);
}

#define BITS 20000
static uint64_t shared[(BITS + 63) / 64];

/* Counts the bits that this thread was first to set. */
static void *setter(void *arg)
{
	uint64_t *first = arg, seed = 42;

	*first = 0;
	for (int i = 0; i < 30000; i++)
		*first += bitmap_set(shared, rng_next(&seed) % BITS);
	return NULL;
}

static void each_bit_has_one_first_setter(void **state)
{
	uint64_t first[2], seed = 42, expected = 0;
	static uint64_t alone[(BITS + 63) / 64];
	pthread_t t[2];

	(void)state;
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, setter, &first[i]), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < 30000; i++)
		expected += bitmap_set(alone, rng_next(&seed) % BITS);
	assert_memory_equal(shared, alone, sizeof shared);
	assert_int_equal(bitmap_count(shared, BITS), expected);
	assert_int_equal(first[0] + first[1], expected);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_and_set),
		cmocka_unit_test(count_stops_at_the_end),
		cmocka_unit_test(each_bit_has_one_first_setter),
	};

	return cmocka_run_group_tests_name("base/bitmap", tests, NULL, NULL);
}

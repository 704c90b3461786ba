/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/ring.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#define ITEMS 100000

struct item {
	uint64_t n;
	uint64_t copies[4]; /* of n: a torn item shows */
	uint8_t odd[3];
};

static struct item item_of(uint64_t n)
{
	return (struct item){ .n = n, .copies = { n, n, n, n }, .odd = { (uint8_t)n, (uint8_t)n, (uint8_t)n } };
}

static void spsc_fills_and_empties(void **state)
{
	struct spsc r;
	uint32_t v = 0;

	(void)state;
	assert_int_equal(spsc_init(&r, 5, sizeof v), 0); /* 8 */
	assert_false(spsc_pop(&r, &v));
	/* many laps, and the counters themselves wrap */
	r.head = r.tail = UINT32_MAX - 20;
	for (uint32_t lap = 0; lap < 10; lap++) {
		for (uint32_t i = 0; i < 8; i++) {
			v = lap * 8 + i;
			assert_int_equal(spsc_len(&r), i);
			assert_true(spsc_push(&r, &v));
		}
		assert_false(spsc_push(&r, &v));
		assert_int_equal(spsc_len(&r), 8);
		for (uint32_t i = 0; i < 8; i++) {
			assert_true(spsc_pop(&r, &v));
			assert_int_equal(v, lap * 8 + i);
		}
		assert_false(spsc_pop(&r, &v));
	}
	spsc_free(&r);
	assert_null(r.slots);
}

static void sizes_at_the_edge(void **state)
{
	struct spsc s;
	struct mpmc m;
	uint64_t v;

	(void)state;
	assert_int_equal(spsc_init(&s, UINT32_MAX, 8), -ENOMEM);
	assert_int_equal(spsc_init(&s, 1u << 31, UINT32_MAX), -ENOMEM);
	spsc_free(&s); /* after a failed init too */
	assert_int_equal(spsc_init(&s, 0, 8), 0);
	v = 9;
	assert_true(spsc_push(&s, &v));
	assert_false(spsc_push(&s, &v));
	spsc_free(&s);

	assert_int_equal(mpmc_init(&m, UINT64_MAX), -ENOMEM);
	assert_int_equal(mpmc_init(&m, 1ull << 62), -ENOMEM);
	mpmc_free(&m);
	assert_int_equal(mpmc_init(&m, 1), 0); /* 2 */
	assert_true(mpmc_empty(&m));
	assert_true(mpmc_push(&m, 1));
	assert_true(mpmc_push(&m, 2));
	assert_false(mpmc_push(&m, 3));
	assert_false(mpmc_empty(&m));
	for (uint64_t i = 1; i <= 2; i++) {
		assert_true(mpmc_pop(&m, &v));
		assert_int_equal(v, i);
	}
	assert_false(mpmc_pop(&m, &v));
	assert_true(mpmc_empty(&m));
	mpmc_free(&m);
}

static void *spsc_producer(void *arg)
{
	for (uint64_t i = 0; i < ITEMS; i++) {
		struct item it = item_of(i);

		while (!spsc_push(arg, &it))
			sched_yield();
	}
	return NULL;
}

static void spsc_two_threads(void **state)
{
	struct spsc r;
	pthread_t t;

	(void)state;
	assert_int_equal(spsc_init(&r, 16, sizeof(struct item)), 0);
	assert_int_equal(pthread_create(&t, NULL, spsc_producer, &r), 0);
	for (uint64_t i = 0; i < ITEMS; i++) {
		struct item it, want = item_of(i);

		assert_true(spsc_len(&r) <= 16);
		while (!spsc_pop(&r, &it))
			sched_yield();
		if (it.n != want.n || memcmp(it.copies, want.copies, sizeof it.copies) || memcmp(it.odd, want.odd, 3))
			fail_msg("item %lu is out of order or torn", (unsigned long)i);
	}
	pthread_join(t, NULL);
	assert_int_equal(spsc_len(&r), 0);
	spsc_free(&r);
}

struct taker {
	struct mpmc *ring;
	uint64_t id; /* of a producer, in the value's high half */
	uint64_t *left;
	uint8_t (*seen)[ITEMS];
	bool ordered;
};

static void *mpmc_producer(void *arg)
{
	struct taker *t = arg;

	for (uint64_t i = 0; i < ITEMS; i++)
		while (!mpmc_push(t->ring, t->id << 32 | i))
			sched_yield();
	return NULL;
}

static void *mpmc_consumer(void *arg)
{
	struct taker *t = arg;
	uint64_t next[2] = { 0, 0 }, v;

	t->ordered = true;
	while (__atomic_load_n(t->left, __ATOMIC_RELAXED)) {
		if (!mpmc_pop(t->ring, &v)) {
			sched_yield();
			continue;
		}
		__atomic_fetch_sub(t->left, 1, __ATOMIC_RELAXED);
		__atomic_fetch_add(&t->seen[v >> 32][(uint32_t)v], 1, __ATOMIC_RELAXED);
		/* one consumer sees each producer's values in the order they were pushed */
		t->ordered &= (uint32_t)v >= next[v >> 32];
		next[v >> 32] = (uint32_t)v + 1ull;
	}
	return NULL;
}

static void mpmc_two_by_two(void **state)
{
	static uint8_t seen[2][ITEMS];
	uint64_t left = 2ull * ITEMS;
	struct taker who[4];
	struct mpmc r;
	pthread_t t[4];

	(void)state;
	assert_int_equal(mpmc_init(&r, 64), 0);
	for (size_t i = 0; i < 4; i++) {
		who[i] = (struct taker){ .ring = &r, .id = i & 1, .left = &left, .seen = seen };
		assert_int_equal(pthread_create(&t[i], NULL, i < 2 ? mpmc_producer : mpmc_consumer, &who[i]), 0);
	}
	for (size_t i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	assert_true(who[2].ordered && who[3].ordered);
	for (size_t p = 0; p < 2; p++)
		for (size_t i = 0; i < ITEMS; i++)
			if (seen[p][i] != 1)
				fail_msg("value %zu of producer %zu came %u times", i, p, seen[p][i]);
	assert_true(mpmc_empty(&r));
	mpmc_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(spsc_fills_and_empties),
		cmocka_unit_test(sizes_at_the_edge),
		cmocka_unit_test(spsc_two_threads),
		cmocka_unit_test(mpmc_two_by_two),
	};

	return cmocka_run_group_tests_name("base/ring", tests, NULL, NULL);
}

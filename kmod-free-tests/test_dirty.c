/* SPDX-License-Identifier: MIT */
/* Every tracker: what is written is found, what is not is not, and nothing is lost while writers run. */
#include "migrate/dirty.h"

#include "base/bitmap.h"
#include "base/hugebuf.h"
#include "base/thread.h"
#include "base/util.h"
#include "migrate/guest_synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGES 2048u
#define LEN ((uint64_t)PAGES * GUEST_PAGE)

static struct hugebuf mem;
static struct guest guest;
static struct tracker *t;
static uint64_t map[PAGES / 64];
static struct err e;

static bool begin(const struct tracker_ops *ops)
{
	if (ops->probe(&guest_synth_ops, &e) < 0) {
		print_message("SKIP: %s: %s\n", ops->name, e.why);
		return false;
	}
	assert_int_equal(hugebuf_alloc(&mem, LEN, true, &e), 0);
	guest = (struct guest){ .ops = &guest_synth_ops, .mem = mem.addr, .len = LEN };
	assert_int_equal(ops->open(&t, &guest, &e), 0);
	return true;
}

static void end(void)
{
	t->ops->close(t);
	memset(mem.addr, 1, LEN); /* can be written again */
	hugebuf_free(&mem);
}

static uint64_t fetch(uint64_t first, uint64_t n)
{
	memset(map, 0, sizeof map);
	return (uint64_t)t->ops->fetch(t, first, n, map);
}

static void write_to(uint64_t page)
{
	((volatile uint8_t *)guest.mem)[page * GUEST_PAGE + page % GUEST_PAGE]++;
}

static void exact(const struct tracker_ops *ops)
{
	uint64_t rng = 5, written[PAGES / 64];

	/* At first everything counts as written. */
	assert_int_equal(fetch(0, PAGES), PAGES);
	assert_int_equal(bitmap_count(map, PAGES), PAGES);
	assert_int_equal(fetch(0, PAGES), 0);
	for (int round = 0; round < 20; round++) {
		memset(written, 0, sizeof written);
		for (uint64_t i = rng_next(&rng) % 300; i; i--) {
			uint64_t p = rng_next(&rng) % PAGES;

			write_to(p);
			bitmap_set(written, p);
		}
		assert_int_equal(fetch(0, PAGES), bitmap_count(written, PAGES));
		assert_memory_equal(map, written, sizeof map);
	}
	/* Parts; reading is no writing. */
	write_to(0);
	write_to(63);
	write_to(64);
	write_to(PAGES - 1);
	assert_int_equal(((volatile uint8_t *)guest.mem)[700 * GUEST_PAGE], 0);
	assert_int_equal(fetch(1, 63), 1);
	assert_true(bitmap_test(map, 63));
	if (ops->clean)
		ops->clean(t, 64, 64);
	assert_int_equal(fetch(0, PAGES), ops->clean ? 2 : 3);
	assert_true(bitmap_test(map, 0) && bitmap_test(map, PAGES - 1));
	assert_true(t->cost.fetches >= 20 && t->cost.pages >= PAGES);
}

/* A writer counts up in each page; the reader fetches, then copies what was found. In the end the copy is complete. */
static uint32_t stop;

static __attribute__((no_sanitize_thread)) void *writer(void *arg)
{
	uint64_t rng = (uintptr_t)arg;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		volatile uint64_t *page = (uint64_t *)(void *)(guest.mem + rng_next(&rng) % PAGES * GUEST_PAGE);

		page[(uintptr_t)arg]++;
	}
	return NULL;
}

static __attribute__((no_sanitize_thread)) void copy_found(uint8_t *copy)
{
	for (uint64_t p = 0; p < PAGES; p++)
		if (bitmap_test(map, p))
			memcpy(copy + p * GUEST_PAGE, guest.mem + p * GUEST_PAGE, 64);
}

static void nothing_lost(void)
{
	uint8_t *copy = malloc(LEN);
	pthread_t thread[2];

	assert_non_null(copy);
	memcpy(copy, guest.mem, LEN);
	stop = 0;
	for (uintptr_t i = 0; i < 2; i++)
		assert_int_equal(thread_start(&thread[i], "writer", writer, (void *)(i + 1)), 0);
	for (int round = 0; round < 60; round++) {
		fetch(0, PAGES);
		copy_found(copy);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	fetch(0, PAGES);
	copy_found(copy);
	for (uint64_t p = 0; p < PAGES; p++)
		assert_memory_equal(copy + p * GUEST_PAGE, guest.mem + p * GUEST_PAGE, 64);
	free(copy);
}

static void every_tracker(void **state)
{
	(void)state;
	for (size_t i = 0; trackers[i]; i++) {
		if (!begin(trackers[i]))
			continue;
		exact(trackers[i]);
		nothing_lost();
		end();
	}
}

static void one_guest_once(void **state)
{
	(void)state;
	for (size_t i = 0; trackers[i]; i++) {
		struct tracker *other = NULL;

		if (!begin(trackers[i]))
			continue;
		assert_int_equal(trackers[i]->open(&other, &guest, &e), -EBUSY);
		assert_non_null(strstr(e.why, "another migration"));
		end();
	}
}

/* Closed while writers run: they go on. */
static void closed_under_writers(void **state)
{
	(void)state;
	for (size_t i = 0; trackers[i]; i++) {
		pthread_t thread;

		if (!begin(trackers[i]))
			continue;
		stop = 0;
		assert_int_equal(thread_start(&thread, "writer", writer, (void *)1), 0);
		for (int k = 0; k < 50; k++) {
			fetch(0, PAGES);
			t->ops->close(t);
			assert_int_equal(trackers[i]->open(&t, &guest, &e), 0);
		}
		__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		end();
	}
}

static void choosing(void **state)
{
	const struct tracker_ops *ops = NULL;

	(void)state;
	assert_int_equal(tracker_choose("", &guest_synth_ops, &ops, &e), 0);
	assert_non_null(ops);
	assert_int_equal(tracker_choose("sigsegv", &guest_synth_ops, &ops, &e), 0);
	assert_ptr_equal(ops, &dirty_sigsegv_ops);
	assert_int_equal(tracker_choose("nonsense", NULL, &ops, &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_tracker),
		cmocka_unit_test(one_guest_once),
		cmocka_unit_test(closed_under_writers),
		cmocka_unit_test(choosing),
	};

	return cmocka_run_group_tests_name("migrate/dirty", tests, NULL, NULL);
}

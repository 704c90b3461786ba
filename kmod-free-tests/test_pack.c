/* SPDX-License-Identifier: MIT */
/* Late pages, compressed: what is packed comes back in its order, and what was damaged does not come at all. */
#include "migrate/pack.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGES 512u
#define ROOM (PAGES_CHUNK_MAX + HDE_OVERHEAD)

static uint8_t mem[PAGES * GUEST_PAGE], got[PAGES * GUEST_PAGE], out[ROOM];
static struct page_list list;
static struct pack *p;
static struct unpack *u;
static unsigned told, zeros, ended;
static struct err e;

/* A third zeros, a third text, a third noise; every third page of them. */
static int setup(void **state)
{
	uint64_t rng = 3;

	(void)state;
	for (uint32_t i = 0; i < PAGES; i++)
		for (uint32_t at = 0; i % 3 && at < GUEST_PAGE; at += 8) {
			uint64_t v = i % 3 == 1 ? 0x656d617320656874 : rng_next(&rng);

			memcpy(mem + i * GUEST_PAGE + at, &v, 8);
		}
	list.n = PAGES_MOST;
	for (uint32_t i = 0; i < list.n; i++)
		list.page[i] = 4 * i + i % 2;
	memset(got, 1, sizeof got);
	told = zeros = ended = 0;
	assert_int_equal(unpack_open(&u, 2, &e), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	pack_close(p);
	p = NULL;
	unpack_close(u);
	return 0;
}

static ssize_t packed(enum hde_mode mode)
{
	struct hde_opts o;

	hde_opts_default(&o, (int)mode);
	pack_close(p);
	assert_int_equal(pack_open(&p, 2, &o, &e), 0);
	return pack_put(p, 1, &list, mem, out, sizeof out);
}

static int sink(void *ctx, uint64_t page, enum page_kind kind, const uint8_t *contents)
{
	assert_ptr_equal(ctx, &list);
	assert_int_equal(page, list.page[told++]);
	assert_int_equal(!contents, kind == PAGE_ZERO);
	zeros += !contents;
	if (contents)
		memcpy(got + page * GUEST_PAGE, contents, GUEST_PAGE);
	else
		memset(got + page * GUEST_PAGE, 0, GUEST_PAGE);
	return 0;
}

static int done(void *ctx)
{
	assert_ptr_equal(ctx, &list);
	ended++;
	return 0;
}

static int unpacked(const void *in, size_t len)
{
	struct rcur body = rcur_init(in, len);

	told = 0;
	return unpack_get(u, 7, &list, &body, sink, done, &list);
}

static void comes_back(void **state)
{
	(void)state;
	for (int mode = HDE_AUTO; mode <= HDE_INTERNET; mode++) {
		ssize_t n = packed((enum hde_mode)mode);
		struct source_counts c;

		assert_in_range(n, 1, mode == HDE_INTERNET ? list.n * GUEST_PAGE / 2 : list.n * GUEST_PAGE * 3 / 4);
		pack_acked(p, 1, list.n * GUEST_PAGE, (uint64_t)n);
		assert_int_equal(unpacked(out, (size_t)n), 0);
		assert_int_equal(told, list.n);
		for (uint32_t i = 0; i < list.n; i++)
			assert_memory_equal(got + list.page[i] * GUEST_PAGE, mem + list.page[i] * GUEST_PAGE,
					    GUEST_PAGE);
		c = pack_counts(p);
		assert_int_equal(c.zero_pages + c.duplicate_pages + c.raw_pages, list.n);
		assert_true(zeros > list.n / 4);
		zeros = 0;
	}
	assert_int_equal(ended, 3);
}

static void damaged(void **state)
{
	ssize_t n = packed(HDE_AUTO);
	uint8_t *copy = malloc((size_t)n);

	(void)state;
	assert_non_null(copy);
	for (ssize_t at = 0; at < n; at += n / 300 + 1) {
		memcpy(copy, out, (size_t)n);
		copy[at] ^= (uint8_t)(1u << at % 8);
		assert_int_equal(unpacked(copy, (size_t)n), -EBADMSG);
		assert_int_equal(unpacked(out, (size_t)at), -EBADMSG);
		assert_int_equal(told, 0);
	}
	/* The right bytes, about another number of pages. */
	list.n--;
	assert_int_equal(unpacked(out, (size_t)n), -EBADMSG);
	assert_int_equal(ended, 0);
	free(copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(comes_back, setup, teardown),
		cmocka_unit_test_setup_teardown(damaged, setup, teardown),
	};

	return cmocka_run_group_tests_name("migrate/pack", tests, NULL, NULL);
}

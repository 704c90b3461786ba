/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/hugebuf.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define MB ((size_t)1 << 20)

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) || \
	__has_feature(thread_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static bool all_zero(const uint8_t *p, size_t n)
{
	return !n || (!p[0] && memcmp(p, p + 1, n - 1) == 0);
}

static long free_huge_pages(void)
{
	FILE *f = fopen("/proc/meminfo", "r");
	char line[256];
	long n = 0;

	while (f && fgets(line, sizeof line, f))
		sscanf(line, "HugePages_Free: %ld", &n);
	if (f)
		fclose(f);
	return n;
}

static void usable_at_every_size(void **state)
{
	static const size_t sizes[] = { 1, 4095, 4096, 4097, MB, 2 * MB - 1, 2 * MB, 2 * MB + 1, 9 * MB + 123 };

	(void)state;
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
		for (int prefault = 0; prefault < 2; prefault++) {
			struct hugebuf b;
			struct err e = { 0 };

			if (hugebuf_alloc(&b, sizes[i], prefault, &e))
				fail_msg("%zu bytes: %s", sizes[i], e.why);
			assert_int_equal(b.len, sizes[i]);
			assert_true(b.mapped >= b.len);
			assert_true(all_zero(b.addr, b.len));
			memset(b.addr, 0xa5, b.len);
			if (sizes[i] >= 2 * MB)
				assert_int_equal((uintptr_t)b.addr % (2 * MB), 0);
			else
				assert_int_equal(b.kind, HUGE_NONE);
			hugebuf_free(&b);
			assert_null(b.addr);
			hugebuf_free(&b);
		}
}

static void prefault_makes_pages_resident(void **state)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), len = 8 * MB + page;
	unsigned char *in = malloc(len / page);
	struct hugebuf b;

	(void)state;
	assert_non_null(in);
	assert_int_equal(hugebuf_alloc(&b, len, true, NULL), 0);
	assert_int_equal(mincore(b.addr, len, in), 0);
	for (size_t i = 0; i < len / page; i++)
		assert_true(in[i] & 1);
	hugebuf_free(&b);
	free(in);
}

static void too_much_is_refused(void **state)
{
	static const size_t sizes[] = { (size_t)1 << 45, SIZE_MAX / 2, SIZE_MAX - 1, SIZE_MAX };
	struct hugebuf b = { .len = 77 };
	struct err e;

	(void)state;
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		memset(&e, 0, sizeof e);
		assert_int_equal(hugebuf_alloc(&b, sizes[i], true, &e), -ENOMEM);
		assert_non_null(strstr(e.why, "available"));
		assert_non_null(strstr(e.why, "use a smaller size"));
	}
	assert_int_equal(hugebuf_alloc(&b, 0, false, &e), -EINVAL);
	assert_int_equal(b.len, 77); /* outputs are set on success only */
}

static void address_space_limit_is_an_error(void **state)
{
	struct rlimit old, low;
	struct hugebuf b;
	struct err e;
	int rc;

	(void)state;
	if (SANITIZED) {
		print_message("skipped: a sanitizer itself needs terabytes of address space\n");
		skip();
	}
	getrlimit(RLIMIT_AS, &old);
	low = old;
	low.rlim_cur = 512 * MB;
	setrlimit(RLIMIT_AS, &low);
	rc = hugebuf_alloc(&b, 1024 * MB, true, &e);
	setrlimit(RLIMIT_AS, &old);
	assert_int_equal(rc, -ENOMEM);
	assert_non_null(strstr(e.why, "1 GB"));
}

static void uses_reserved_huge_pages(void **state)
{
	struct hugebuf b;

	(void)state;
	if (free_huge_pages() < 2) {
		print_message("skipped: no free 2 MB pages (sysctl vm.nr_hugepages=4)\n");
		skip();
	}
	assert_int_equal(hugebuf_alloc(&b, 3 * MB, true, NULL), 0);
	assert_int_equal(b.kind, HUGE_TLB);
	assert_int_equal(b.mapped, 4 * MB);
	memset(b.addr, 1, b.mapped);
	hugebuf_free(&b);
}

static void falls_back_when_huge_pages_run_out(void **state)
{
	long n = free_huge_pages();
	struct hugebuf b;

	(void)state;
	if (n > 64) {
		print_message("skipped: %ld free huge pages, falling back would need a larger buffer\n", n);
		skip();
	}
	assert_int_equal(hugebuf_alloc(&b, (size_t)(n + 1) * 2 * MB, true, NULL), 0);
	assert_int_not_equal(b.kind, HUGE_TLB);
	memset(b.addr, 1, b.len);
	hugebuf_free(&b);
}

static void names(void **state)
{
	(void)state;
	assert_string_equal(huge_kind_name(HUGE_TLB), "hugetlb");
	assert_string_equal(huge_kind_name(HUGE_THP), "thp");
	assert_string_equal(huge_kind_name(HUGE_NONE), "none");
}

static void prefaulted_in_threads(void **state)
{
	(void)state;
	for (unsigned threads = 0; threads < 5; threads++) {
		const size_t len = ((size_t)5 << 20) + 4096;
		size_t resident = 0, pages = (len + 4095) / 4096;
		unsigned char *in = calloc(pages, 1);
		struct hugebuf b;
		struct err e;

		assert_non_null(in);
		assert_int_equal(hugebuf_alloc(&b, len, false, &e), 0);
		assert_int_equal(hugebuf_prefault(&b, threads, &e), 0);
		assert_int_equal(mincore(b.addr, len, in), 0);
		for (size_t i = 0; i < pages; i++)
			resident += in[i] & 1;
		assert_int_equal(resident, pages);
		free(in);
		hugebuf_free(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(usable_at_every_size),
		cmocka_unit_test(prefault_makes_pages_resident),
		cmocka_unit_test(too_much_is_refused),
		cmocka_unit_test(address_space_limit_is_an_error),
		cmocka_unit_test(uses_reserved_huge_pages),
		cmocka_unit_test(falls_back_when_huge_pages_run_out),
		cmocka_unit_test(names),
		cmocka_unit_test(prefaulted_in_threads),
	};

	return cmocka_run_group_tests_name("base/hugebuf", tests, NULL, NULL);
}

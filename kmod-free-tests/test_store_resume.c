/* SPDX-License-Identifier: MIT */
/* The file store: what an interrupted transfer leaves, and how the next one goes on from it. */
#include "kmod-free-tests/store_fixture.h"
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define MB ((size_t)1 << 20)

static void test_abandon(void **state)
{
	struct store_file *f = begin("f", 4, false, 0);

	(void)state;
	put(f, "ab", 2, 0);
	store_abandon(f, false);
	assert_int_equal(tree_count(dir), 0);
	f = begin("f", 4, false, 0);
	put(f, "ab", 2, 0);
	store_abandon(f, true);
	assert_true(tree_has(dir, ".f.dwcp-part"));
	store_abandon(begin("f", 4, true, 4), true); /* an earlier handle has written */
	tree_expect(dir, ".f.dwcp-part", "ab\0\0", 4);
	store_abandon(begin("f", 4, true, 4), false);
	assert_int_equal(tree_count(dir), 0);
}

static void test_resume_from_part(void **state)
{
	size_t len = 3 * MB + 5;
	uint8_t *data = data_new(len, 5);
	struct store_file *f = begin("f", len, true, 0);

	(void)state;
	put(f, data, MB, 0);
	put(f, data + 2 * MB, MB + 5, 2 * MB);
	store_abandon(f, true);
	f = begin("f", len, true, len);
	assert_true(same(hash_one(f, 0), digest128_of(data, MB)));
	assert_false(same(hash_one(f, 1), digest128_of(data + MB, MB)));
	assert_true(same(hash_one(f, 2), digest128_of(data + 2 * MB, MB)));
	assert_true(same(hash_one(f, 3), digest128_of(data + 3 * MB, 5)));
	put(f, data + MB, MB, MB);
	finish(f, false);
	tree_expect(dir, "f", data, len);
	assert_int_equal(tree_count(dir), 1);
	free(data);
}

static void test_resume_from_complete_file(void **state)
{
	size_t len = 3 * MB;
	uint8_t *old = data_new(len, 6), *data = data_new(len, 6);
	struct store_file *f;

	(void)state;
	tree_write(dir, "f", old, len);
	tree_fill(data + MB, 100, 7);
	f = begin("f", len, true, len);
	assert_true(same(hash_one(f, 0), digest128_of(data, MB)));
	assert_false(same(hash_one(f, 1), digest128_of(data + MB, MB)));
	assert_int_equal(tree_count(dir), 1); /* compared in place */
	assert_int_equal(store_write(f, data, MB, 0), -EINVAL);
	assert_int_equal(store_prepare(f, NULL), 0);
	assert_int_equal(store_prepare(f, NULL), 0);
	assert_true(same(hash_one(f, 0), digest128_of(data, MB)));
	put(f, data + MB, MB, MB);
	tree_expect(dir, "f", old, len);
	finish(f, false);
	tree_expect(dir, "f", data, len);
	/* Only a copy, nothing written: it may have taken longer than the sender waited, and the next try goes on from it. */
	f = begin("f", len + 9, true, len);
	store_abandon(f, true);
	assert_int_equal(tree_count(dir), 1);
	f = begin("f", len + 9, true, len);
	assert_int_equal(store_prepare(f, NULL), 0);
	store_abandon(f, true);
	assert_true(tree_has(dir, ".f.dwcp-part"));
	f = begin("f", len + 9, true, len + 9);
	assert_true(same(hash_one(f, 0), digest128_of(data, MB)));
	store_abandon(f, false);
	assert_int_equal(tree_count(dir), 1);
	tree_expect(dir, "f", data, len);
	free(old);
	free(data);
}

/* An equal file stays what it is, with its other names; only mode and time follow. */
static void test_equal_file_stays(void **state)
{
	uint8_t *data = data_new(MB + 5, 11);
	struct stat before, after;
	struct store_file *f;

	(void)state;
	tree_write(dir, "f", data, MB + 5);
	before = tree_stat(dir, "f");
	f = begin("f", MB + 5, true, MB + 5);
	assert_true(same(hash_one(f, 1), digest128_of(data + MB, 5)));
	assert_int_equal(tree_count(dir), 1);
	finish(f, true);
	after = tree_stat(dir, "f");
	assert_int_equal(before.st_ino, after.st_ino);
	assert_int_equal(after.st_mode & 07777, 0644);
	assert_int_equal(after.st_mtim.tv_sec, 1000000000);
	assert_int_equal(after.st_mtim.tv_nsec, 123456789);
	finish(begin("f", MB + 5, true, MB + 5), false);
	before = tree_stat(dir, "f");
	assert_memory_equal(&after.st_ctim, &before.st_ctim, sizeof after.st_ctim);
	tree_expect(dir, "f", data, MB + 5);
	/* Another length is never equal. */
	finish(begin("f", MB, true, MB), false);
	tree_expect(dir, "f", data, MB);
	assert_int_equal(tree_count(dir), 1);
	free(data);
}

/* What was compared gave way, or was written to: it must not pass for what was sent. */
static void test_equal_file_changes(void **state)
{
	struct err e = { 0 };
	struct store_file *f;

	(void)state;
	tree_write(dir, "f", "abc", 3);
	f = begin("f", 3, true, 3);
	assert_int_equal(unlink(tree_path(dir, "f")), 0);
	tree_write(dir, "f", "xyz", 3);
	assert_int_equal(store_finish(f, false, &e), -ESTALE);
	tree_expect(dir, "f", "xyz", 3);
	f = begin("f", 3, true, 3);
	tree_write(dir, "f", "xyzw", 4);
	assert_int_equal(store_prepare(f, &e), -ESTALE);
	assert_int_equal(store_finish(f, false, &e), -ESTALE);
	assert_int_equal(tree_count(dir), 1);
	f = begin("f", 4, true, 4);
	assert_int_equal(unlink(tree_path(dir, "f")), 0);
	assert_int_equal(store_finish(f, false, &e), -ESTALE);
	assert_int_equal(tree_count(dir), 0);
}

static void test_resume_with_other_sizes(void **state)
{
	uint8_t *old = data_new(2 * MB, 8), *zero = calloc(1, MB);
	struct store_file *f;

	(void)state;
	assert_non_null(zero);
	tree_write(dir, ".f.dwcp-part", old, 2 * MB); /* larger than the new file */
	f = begin("f", MB / 2, true, MB / 2);
	assert_int_equal(tree_stat(dir, ".f.dwcp-part").st_size, MB / 2);
	assert_true(same(hash_one(f, 0), digest128_of(old, MB / 2)));
	finish(f, false);
	tree_expect(dir, "f", old, MB / 2);

	tree_write(dir, ".g.dwcp-part", old, MB); /* smaller: the rest reads as zeros */
	f = begin("g", 2 * MB, true, MB);
	assert_true(same(hash_one(f, 0), digest128_of(old, MB)));
	assert_true(same(hash_one(f, 1), digest128_of(zero, MB)));
	put(f, old + MB, MB, MB);
	finish(f, false);
	tree_expect(dir, "g", old, 2 * MB);

	tree_write(dir, ".h.dwcp-part", old, 2 * MB); /* without resume nothing of it is left */
	f = begin("h", MB, false, 0);
	assert_true(same(hash_one(f, 0), digest128_of(zero, MB)));
	finish(f, false);
	tree_expect(dir, "h", zero, MB);

	tree_write(dir, ".i.dwcp-part", old, MB);
	store_abandon(begin("i", 0, true, 0), true);
	tree_write(dir, ".j.dwcp-part", "", 0); /* an empty part is none: the complete file counts */
	tree_write(dir, "j", old, MB);
	f = begin("j", MB, true, MB);
	assert_true(same(hash_one(f, 0), digest128_of(old, MB)));
	store_abandon(f, false);
	free(old);
	free(zero);
}

static int killed_before_finish(void *ctx)
{
	struct store_spec s = spec_of("f", 2 * MB, false);
	struct store_file *f;
	struct store *mine;
	uint64_t have;

	if (store_open(&mine, dir, NULL) || store_begin(mine, &s, &f, &have, NULL) || store_write(f, ctx, MB, 0) ||
	    store_write(f, (uint8_t *)ctx + MB, 1000, MB))
		return 1;
	raise(SIGKILL);
	return 2;
}

static void test_killed_before_finish(void **state)
{
	uint8_t *data = data_new(2 * MB, 9);
	struct store_file *f;

	(void)state;
	tree_write(dir, "f", "complete", 8);
	assert_int_equal(tree_fork(killed_before_finish, data, NULL, -1), 128 + SIGKILL);
	tree_expect(dir, "f", "complete", 8);
	f = begin("f", 2 * MB, true, 2 * MB); /* its lock died with it */
	assert_true(same(hash_one(f, 0), digest128_of(data, MB)));
	assert_false(same(hash_one(f, 1), digest128_of(data + MB, MB)));
	put(f, data + MB, MB, MB);
	finish(f, false);
	tree_expect(dir, "f", data, 2 * MB);
	assert_int_equal(tree_count(dir), 1);
	free(data);
}

/* Names of 244 bytes have the longest plain part name; one more and a hash stands for it. */
static void test_long_and_odd_names(void **state)
{
	static const size_t lens[] = { 243, 244, 245, 254, 255 };
	char name[2][NAME_MAX + 1], part[NAME_MAX + 16];
	struct store_file *f, *twin;
	struct digest128 d;

	(void)state;
	for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
		for (int k = 0; k < 2; k++) {
			memset(name[k], 0xe4, lens[i]); /* not UTF-8 */
			name[k][0] = 'x';
			name[k][lens[i] - 1] = (char)('a' + k);
			name[k][lens[i]] = 0;
		}
		f = begin(name[0], 4, false, 0);
		twin = begin(name[1], 4, false, 0);
		d = digest128_of(name[1], lens[i]);
		if (lens[i] <= 244)
			snprintf(part, sizeof part, ".%s.dwcp-part", name[1]);
		else
			snprintf(part, sizeof part, ".%016" PRIx64 "%016" PRIx64 ".dwcp-part", d.hi, d.lo);
		assert_true(tree_has(dir, part));
		put(f, "one", 3, 0);
		put(twin, "two!", 4, 0);
		store_abandon(f, true);
		finish(twin, false);
		f = begin(name[0], 4, true, 4); /* found again */
		put(f, "!", 1, 3);
		finish(f, false);
		tree_expect(dir, name[0], "one!", 4);
		tree_expect(dir, name[1], "two!", 4);
		assert_int_equal(tree_count(dir), 2 * (i + 1));
	}
	finish(begin("sp ace/\xff\xfe/.hidden/-dash/...", 0, false, 0), false);
	assert_true(tree_has(dir, "sp ace/\xff\xfe/.hidden/-dash/..."));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)
		TEST(test_abandon),
		TEST(test_resume_from_part),
		TEST(test_resume_from_complete_file),
		TEST(test_equal_file_stays),
		TEST(test_equal_file_changes),
		TEST(test_resume_with_other_sizes),
		TEST(test_killed_before_finish),
		TEST(test_long_and_odd_names),
	};

	return cmocka_run_group_tests_name("store_resume", tests, NULL, NULL);
}

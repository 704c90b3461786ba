/* SPDX-License-Identifier: MIT */
/* The file store as it is meant to be used. What goes wrong is in test_store_faults.c. */
#include "kmod-free-tests/tree.h"
#include "transport/store.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define MB ((size_t)1 << 20)

static char *dir;
static struct store *store;

static int setup(void **state)
{
	(void)state;
	dir = tree_make();
	return store_open(&store, dir, NULL);
}

static int teardown(void **state)
{
	(void)state;
	store_close(store);
	tree_remove(dir);
	return 0;
}

static struct store_spec spec_of(const char *name, uint64_t size, bool resume)
{
	struct store_spec s = { .kind = STORE_FILE,
				.resume = resume,
				.mode = 0644,
				.size = size,
				.mtime_s = 1000000000,
				.mtime_ns = 123456789,
				.data_bytes = size };

	snprintf(s.name, sizeof s.name, "%s", name);
	return s;
}

static struct store_file *begin(const char *name, uint64_t size, bool resume, uint64_t expect_have)
{
	struct store_spec s = spec_of(name, size, resume);
	struct store_file *f = NULL;
	uint64_t have = 12345;
	struct err e = { 0 };

	if (store_begin(store, &s, &f, &have, &e) < 0)
		fail_msg("%s", e.why);
	assert_int_equal(have, expect_have);
	assert_string_equal(store_file_name(f), name);
	return f;
}

static void finish(struct store_file *f, bool sync)
{
	struct err e = { 0 };

	if (store_finish(f, sync, &e) < 0)
		fail_msg("%s", e.why);
}

static void put(struct store_file *f, const uint8_t *data, size_t len, uint64_t offset)
{
	assert_int_equal(store_write(f, data, (uint32_t)len, offset), 0);
}

static uint8_t *data_new(size_t len, uint64_t seed)
{
	uint8_t *p = malloc(len + 1);

	assert_non_null(p);
	tree_fill(p, len, seed);
	return p;
}

static struct digest128 hash_one(struct store_file *f, uint64_t block)
{
	struct digest128 d = { 0, 0 };
	struct err e = { 0 };

	if (store_hash(f, block, 1, &d, &e) < 0)
		fail_msg("%s", e.why);
	return d;
}

static bool same(struct digest128 a, struct digest128 b)
{
	return a.lo == b.lo && a.hi == b.hi;
}

static void test_blocks_in_any_order(void **state)
{
	size_t len = 3 * MB + 17, step = 64 * 1024, n = (len + step - 1) / step;
	uint8_t *data = data_new(len, 1);
	struct store_file *f = begin("new", len, false, 0);
	struct stat st;

	(void)state;
	for (size_t i = 0; i < n; i++) {
		size_t at = i * 29 % n * step; /* 29 and 49 have no common divisor: each block once */

		put(f, data + at, at + step < len ? step : len - at, at);
	}
	assert_false(tree_has(dir, "new"));
	assert_int_equal(tree_stat(dir, ".new.dwcp-part").st_mode & 07777, 0600);
	finish(f, false);
	tree_expect(dir, "new", data, len);
	assert_int_equal(tree_count(dir), 1);
	st = tree_stat(dir, "new");
	assert_int_equal(st.st_mode & 07777, 0644);
	assert_int_equal(st.st_mtim.tv_sec, 1000000000);
	assert_int_equal(st.st_mtim.tv_nsec, 123456789);
	free(data);
}

static void test_empty_file(void **state)
{
	(void)state;
	finish(begin("empty", 0, false, 0), true);
	tree_expect(dir, "empty", "", 0);
	finish(begin("empty", 0, true, 0), false);
	tree_expect(dir, "empty", "", 0);
	store_abandon(begin("other", 0, false, 0), true);
	assert_int_equal(tree_count(dir), 1);
}

static void test_mode_and_times(void **state)
{
	struct store_spec s = spec_of("m", 3, false);
	struct store_file *f;
	uint64_t have;
	mode_t mask = umask(077);
	struct stat st;

	(void)state;
	s.mode = 06755;
	s.mtime_s = -5; /* before 1970 */
	s.mtime_ns = 999999999;
	assert_int_equal(store_begin(store, &s, &f, &have, NULL), 0);
	put(f, (const uint8_t *)"abc", 3, 0);
	finish(f, false);
	umask(mask);
	st = tree_stat(dir, "m");
	assert_int_equal(st.st_mode & 07777, 0755);
	assert_int_equal(st.st_mtim.tv_sec, -5);
	assert_int_equal(st.st_mtim.tv_nsec, 999999999);
	s.mtime_ns = 1000000000;
	assert_int_equal(store_begin(store, &s, &f, &have, NULL), -EINVAL);
}

/* A reader sees the old file until the new one is whole, whatever the old one's mode. */
static void test_replaces_read_only_file_at_once(void **state)
{
	struct store_file *f;
	char seen[4] = "";
	int fd;

	(void)state;
	tree_write(dir, "f", "old", 3);
	assert_int_equal(chmod(tree_path(dir, "f"), 0444), 0);
	fd = open(tree_path(dir, "f"), O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	f = begin("f", 5, false, 0);
	put(f, (const uint8_t *)"newer", 5, 0);
	tree_expect(dir, "f", "old", 3);
	finish(f, false);
	tree_expect(dir, "f", "newer", 5);
	assert_int_equal(read(fd, seen, 3), 3);
	assert_string_equal(seen, "old");
	close(fd);
}

static void test_sparse_stays_sparse(void **state)
{
	uint64_t size = 256 * MB;
	uint8_t *block = calloc(1, STORE_BLOCK);
	struct digest128 zero, some;
	struct store_file *f = begin("holes", size, false, 0);

	(void)state;
	assert_non_null(block);
	zero = digest128_of(block, STORE_BLOCK);
	tree_fill(block, 4096, 3);
	put(f, block, 4096, 100 * MB);
	put(f, block, 1, size - 1);
	some = digest128_of(block, STORE_BLOCK);
	assert_true(same(hash_one(f, 0), zero));
	assert_true(same(hash_one(f, 99), zero));
	assert_true(same(hash_one(f, 100), some));
	assert_false(same(hash_one(f, 255), zero));
	finish(f, false);
	assert_int_equal(tree_stat(dir, "holes").st_size, size);
	assert_true(tree_stat(dir, "holes").st_blocks * 512 < (blkcnt_t)MB);
	/* A copy made for a resume keeps them too. */
	store_abandon(begin("holes", size, true, size), true);
	f = begin("holes", size, true, size);
	assert_true(same(hash_one(f, 100), some));
	assert_true(tree_stat(dir, ".holes.dwcp-part").st_blocks * 512 < (blkcnt_t)MB);
	store_abandon(f, true);
	free(block);
}

static void test_folders(void **state)
{
	struct store_spec s = spec_of("a/d", 0, false);
	struct store_file *folder, *f;
	uint64_t have;
	mode_t mask = umask(022);

	(void)state;
	f = begin("a/b/c", 1, false, 0);
	put(f, (const uint8_t *)"x", 1, 0);
	finish(f, true);
	assert_int_equal(tree_stat(dir, "a/b").st_mode & 07777, 0755);
	s.kind = STORE_DIR;
	/* Nobody else gets in before its mode is set. */
	s.mode = 0600;
	snprintf(s.name, sizeof s.name, "private");
	assert_int_equal(store_begin(store, &s, &folder, &have, NULL), 0);
	assert_int_equal(tree_stat(dir, "private").st_mode & 07777, 0700);
	finish(folder, false);
	assert_int_equal(tree_stat(dir, "private").st_mode & 07777, 0600);
	s = spec_of("a/d", 0, false);
	s.kind = STORE_DIR;
	s.mode = 0555;
	for (int again = 0; again < 2; again++) { /* the second time into what is read-only */
		assert_int_equal(store_begin(store, &s, &folder, &have, NULL), 0);
		assert_int_equal(tree_stat(dir, "a/d").st_mode & 07777, 0755);
		f = begin("a/d/x", 2, false, 0);
		put(f, (const uint8_t *)"xy", 2, 0);
		finish(f, false);
		finish(folder, again);
		assert_int_equal(tree_stat(dir, "a/d").st_mode & 07777, 0555);
		assert_int_equal(tree_stat(dir, "a/d").st_mtim.tv_sec, 1000000000);
		assert_int_equal(tree_stat(dir, "a/d").st_mtim.tv_nsec, 123456789);
	}
	umask(mask);
	tree_expect(dir, "a/d/x", "xy", 2);
	assert_int_equal(store_begin(store, &s, &folder, &have, NULL), 0);
	assert_int_equal(store_write(folder, "x", 1, 0), -EINVAL);
	store_abandon(folder, false);
	assert_true(tree_has(dir, "a/d/x"));
}

static void test_bounds(void **state)
{
	struct store_file *f = begin("f", 10, false, 0);
	struct digest128 d[3];
	struct err e = { 0 };

	(void)state;
	assert_int_equal(store_write(f, "x", 1, 10), -EINVAL);
	assert_int_equal(store_write(f, "xx", 2, 9), -EINVAL);
	assert_int_equal(store_write(f, "x", 1, UINT64_MAX), -EINVAL);
	assert_int_equal(store_write(f, "xx", 2, UINT64_MAX - 1), -EINVAL);
	assert_int_equal(store_write(f, "0123456789a", 11, 0), -EINVAL);
	assert_int_equal(store_write(f, "x", 0, 10), 0);
	assert_int_equal(store_hash(f, 1, 1, d, &e), -EINVAL);
	assert_int_equal(e.code, -EINVAL);
	assert_int_equal(store_hash(f, 0, 2, d, NULL), -EINVAL);
	assert_int_equal(store_hash(f, UINT64_MAX, 1, d, NULL), -EINVAL);
	assert_int_equal(store_hash(f, UINT64_MAX, 2, d, NULL), -EINVAL);
	assert_int_equal(store_hash(f, 1, 0, d, NULL), 0);
	store_abandon(f, true); /* nothing was written */
	assert_int_equal(tree_count(dir), 0);
}

static void test_abandon(void **state)
{
	struct store_file *f = begin("f", 4, false, 0);

	(void)state;
	put(f, (const uint8_t *)"ab", 2, 0);
	store_abandon(f, false);
	assert_int_equal(tree_count(dir), 0);
	f = begin("f", 4, false, 0);
	put(f, (const uint8_t *)"ab", 2, 0);
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
	put(f, data + MB, MB, MB);
	tree_expect(dir, "f", old, len);
	finish(f, false);
	tree_expect(dir, "f", data, len);
	/* Only a copy, nothing written: not worth keeping, and the file stays. */
	store_abandon(begin("f", len + 9, true, len), true);
	store_abandon(begin("f", 10, true, 10), true);
	assert_int_equal(tree_count(dir), 1);
	tree_expect(dir, "f", data, len);
	free(old);
	free(data);
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
		put(f, (const uint8_t *)"one", 3, 0);
		put(twin, (const uint8_t *)"two!", 4, 0);
		store_abandon(f, true);
		finish(twin, false);
		f = begin(name[0], 4, true, 4); /* found again */
		put(f, (const uint8_t *)"!", 1, 3);
		finish(f, false);
		tree_expect(dir, name[0], "one!", 4);
		tree_expect(dir, name[1], "two!", 4);
		assert_int_equal(tree_count(dir), 2 * (i + 1));
	}
	finish(begin("sp ace/\xff\xfe/.hidden/-dash/...", 0, false, 0), false);
	assert_true(tree_has(dir, "sp ace/\xff\xfe/.hidden/-dash/..."));
}

#define WRITERS 8
#define PIECE 50001u

struct writer {
	struct store_file *f;
	const uint8_t *data;
	size_t len;
	unsigned first;
	int rc;
};

static void *write_share(void *arg)
{
	struct writer *w = arg;

	for (size_t at = (size_t)w->first * PIECE; at < w->len && !w->rc; at += (size_t)WRITERS * PIECE)
		w->rc = store_write(w->f, w->data + at, (uint32_t)(at + PIECE < w->len ? PIECE : w->len - at), at);
	return NULL;
}

static void test_many_writers(void **state)
{
	size_t len = 16 * MB + 3;
	uint8_t *data = data_new(len, 10);
	struct store_file *f = begin("f", len, false, 0);
	struct writer w[WRITERS];
	pthread_t t[WRITERS];

	(void)state;
	for (unsigned i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){ f, data, len, i, 0 };
		assert_int_equal(pthread_create(&t[i], NULL, write_share, &w[i]), 0);
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(w[i].rc, 0);
	}
	finish(f, false);
	tree_expect(dir, "f", data, len);
	free(data);
}

static int descriptors(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_descriptors(void **state)
{
	struct store_spec s = spec_of("d/e", 0, false);
	struct store_file *f, *folder;
	int before = descriptors();
	uint64_t have;

	(void)state;
	s.kind = STORE_DIR;
	assert_int_equal(store_begin(store, &s, &folder, &have, NULL), 0);
	assert_int_equal(descriptors(), before);
	f = begin("d/e/f", 1, true, 0);
	assert_int_equal(descriptors(), before + 2);
	finish(f, true);
	finish(folder, true);
	store_abandon(begin("d/e/f", 1, true, 1), false);
	s.kind = STORE_FILE;
	assert_int_equal(store_begin(store, &s, &f, &have, NULL), -EISDIR);
	assert_int_equal(descriptors(), before);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		TEST(test_blocks_in_any_order),
		TEST(test_empty_file),
		TEST(test_mode_and_times),
		TEST(test_replaces_read_only_file_at_once),
		TEST(test_sparse_stays_sparse),
		TEST(test_folders),
		TEST(test_bounds),
		TEST(test_abandon),
		TEST(test_resume_from_part),
		TEST(test_resume_from_complete_file),
		TEST(test_resume_with_other_sizes),
		TEST(test_killed_before_finish),
		TEST(test_long_and_odd_names),
		TEST(test_many_writers),
		TEST(test_descriptors),
	};

	return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}

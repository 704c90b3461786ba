/* SPDX-License-Identifier: MIT */
/* The file store as it is meant to be used. Resuming is in test_store_resume.c, what goes wrong in test_store_faults.c. */
#include "kmod-free-tests/store_fixture.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#define MB ((size_t)1 << 20)

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
	put(f, "abc", 3, 0);
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
	put(f, "newer", 5, 0);
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
	f = begin("holes", size, true, size);
	assert_int_equal(store_prepare(f, NULL), 0);
	assert_true(same(hash_one(f, 100), some));
	assert_true(tree_stat(dir, ".holes.dwcp-part").st_blocks * 512 < (blkcnt_t)MB);
	store_abandon(f, true);
	free(block);
}

/* Takes the place of libc's, and counts. */
static int flushed;

int count_flush(int fd) __asm__("fdatasync");

int count_flush(int fd)
{
	flushed++;
	return (int)syscall(SYS_fdatasync, fd);
}

/* Without sync only what replaces an older file is flushed, and before it does. */
static void test_flushes_before_replacing(void **state)
{
	struct store_file *f;

	(void)state;
	flushed = 0;
	f = begin("f", 3, false, 0);
	put(f, "old", 3, 0);
	finish(f, false);
	assert_int_equal(flushed, 0);
	f = begin("f", 3, false, 0);
	put(f, "new", 3, 0);
	finish(f, false);
	assert_int_equal(flushed, 1);
	tree_expect(dir, "f", "new", 3);
	finish(begin("g", 0, false, 0), false);
	assert_int_equal(flushed, 1);
}

static void test_folders(void **state)
{
	struct store_spec s = spec_of("a/d", 0, false);
	struct store_file *folder, *f;
	uint64_t have;
	mode_t mask = umask(022);

	(void)state;
	f = begin("a/b/c", 1, false, 0);
	put(f, "x", 1, 0);
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
		put(f, "xy", 2, 0);
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

/* A read-only folder is opened up for a transfer; when that comes to no end, it is as before. */
static void test_folder_gets_its_mode_back(void **state)
{
	struct store_spec s = spec_of("d", 0, false);
	struct store_file *folder;
	uint64_t have;

	(void)state;
	s.kind = STORE_DIR;
	s.mode = 0700;
	assert_int_equal(mkdir(tree_path(dir, "d"), 0755), 0);
	assert_int_equal(chmod(tree_path(dir, "d"), 02555), 0);
	assert_int_equal(store_begin(store, &s, &folder, &have, NULL), 0);
	assert_int_equal(tree_stat(dir, "d").st_mode & 07777, 0755);
	store_abandon(folder, false);
	assert_int_equal(tree_stat(dir, "d").st_mode & 07777, 02555);
	/* Prepared for others that go into it, in this handle's time and later. */
	assert_int_equal(store_begin(store, &s, &folder, &have, NULL), 0);
	store_abandon(folder, true);
	assert_int_equal(tree_stat(dir, "d").st_mode & 07777, 0755);
	finish(begin("d/f", 0, false, 0), false);
	store_close(store);
	assert_int_equal(tree_stat(dir, "d").st_mode & 07777, 02555);
	assert_int_equal(store_open(&store, dir, NULL), 0);
	/* What was finished, or changed by somebody else, stays. */
	for (int other = 0; other < 2; other++) {
		assert_int_equal(chmod(tree_path(dir, "d"), 0555), 0);
		assert_int_equal(store_begin(store, &s, &folder, &have, NULL), 0);
		if (other)
			assert_int_equal(chmod(tree_path(dir, "d"), 0711), 0);
		else
			finish(folder, false);
		if (other)
			store_abandon(folder, true);
		store_close(store);
		assert_int_equal(tree_stat(dir, "d").st_mode & 07777, other ? 0711 : 0700);
		assert_int_equal(store_open(&store, dir, NULL), 0);
	}
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
	s.mode = 0755;
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
#define TEST(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)
		TEST(test_blocks_in_any_order),
		TEST(test_empty_file),
		TEST(test_mode_and_times),
		TEST(test_replaces_read_only_file_at_once),
		TEST(test_sparse_stays_sparse),
		TEST(test_flushes_before_replacing),
		TEST(test_folders),
		TEST(test_folder_gets_its_mode_back),
		TEST(test_bounds),
		TEST(test_many_writers),
		TEST(test_descriptors),
	};

	return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}

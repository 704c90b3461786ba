/* SPDX-License-Identifier: MIT */
#include "kmod-free-tests/store_fixture.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

char *top;
const char *dir;
struct store *store;

int store_setup(void **state)
{
	static char buf[PATH_MAX];

	(void)state;
	top = tree_make();
	snprintf(buf, sizeof buf, "%s", tree_path(top, "in"));
	dir = buf;
	return mkdir(dir, 0755) || store_open(&store, dir, NULL);
}

int store_teardown(void **state)
{
	(void)state;
	store_close(store);
	tree_remove(top);
	return 0;
}

struct store_spec spec_of(const char *name, uint64_t size, bool resume)
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

struct store_file *begin(const char *name, uint64_t size, bool resume, uint64_t expect_have)
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

void finish(struct store_file *f, bool sync)
{
	struct err e = { 0 };

	if (store_finish(f, sync, &e) < 0)
		fail_msg("%s", e.why);
}

void put(struct store_file *f, const void *data, size_t len, uint64_t offset)
{
	assert_int_equal(store_write(f, data, (uint32_t)len, offset), 0);
}

uint8_t *data_new(size_t len, uint64_t seed)
{
	uint8_t *p = malloc(len + 1);

	assert_non_null(p);
	tree_fill(p, len, seed);
	return p;
}

struct digest128 hash_one(struct store_file *f, uint64_t block)
{
	struct digest128 d = { 0, 0 };
	struct err e = { 0 };

	if (store_hash(f, block, 1, &d, &e) < 0)
		fail_msg("%s", e.why);
	return d;
}

bool same(struct digest128 a, struct digest128 b)
{
	return a.lo == b.lo && a.hi == b.hi;
}

int try_begin(struct store *s, const char *name, uint64_t size, bool resume, struct store_file **f, struct err *e)
{
	struct store_spec spec = spec_of(name, size, resume);
	uint64_t have;

	return store_begin(s, &spec, f, &have, e);
}

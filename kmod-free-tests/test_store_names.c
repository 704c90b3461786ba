/* SPDX-License-Identifier: MIT */
/* The file store and what a peer or a neighbour may put in its way: names, links, things of another kind. */
#include "base/util.h"
#include "kmod-free-tests/store_fixture.h"
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static int try_folder(const char *name)
{
	struct store_spec spec = { .kind = STORE_DIR, .mode = 0755 };
	struct store_file *f;
	uint64_t have;
	int rc;

	snprintf(spec.name, sizeof spec.name, "%s", name);
	rc = store_begin(store, &spec, &f, &have, NULL);
	if (!rc)
		store_abandon(f, false);
	return rc;
}

static void refused(const char *name, int code)
{
	struct store_file *f = (struct store_file *)&refused;
	struct err e = { 0 };

	assert_int_equal(try_begin(store, name, 1, false, &f, &e), code);
	assert_int_equal(e.code, code);
	assert_true(strlen(e.why) > 20);
	assert_ptr_equal(f, &refused);
	assert_int_equal(try_folder(name), code);
}

static void test_refused_names(void **state)
{
	static const char *const names[] = {
		"",
		"/",
		"/etc/x",
		"//x",
		".",
		"..",
		"../x",
		"a/../../x",
		"a/..",
		"a/.",
		"./a",
		"a/./b",
		"a//b",
		"a/",
		"a/b/",
		"x\n",
		"\x1b[2J",
		"a/\x7f",
		"\tx",
		"x.dwcp-part",
		".x.dwcp-part",
		".dwcp-part",
		"a.dwcp-part/b",
	};
	static const char *const fine[] = { "a",     "...", "..a",          "a..", ".a",  "a b",  "\xc3\xa4", "\xff",
					    "a/...", "-",   "x.dwcp-part2", "~",   "con", "a\\b", "C:" };
	char name[STORE_NAME_MAX + 8];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		refused(names[i], -EINVAL);
	memset(name, 'a', sizeof name);
	name[NAME_MAX + 1] = 0;
	refused(name, -ENAMETOOLONG);
	for (size_t i = 0; i < sizeof name; i += 2)
		memcpy(name + i, "a/", 2);
	name[STORE_NAME_MAX] = 0;
	assert_int_equal(store_name_check(name, NULL), -ENAMETOOLONG);
	memset(name, 'a', sizeof name); /* no NUL within the field */
	assert_int_equal(store_name_check(name, NULL), -ENAMETOOLONG);
	assert_int_equal(tree_count(top), 1);
	for (size_t i = 0; i < ARRAY_LEN(fine); i++)
		assert_int_equal(store_name_check(fine[i], NULL), 0);
}

static void test_deepest_name(void **state)
{
	char name[STORE_NAME_MAX];
	struct store_file *f;

	(void)state;
	for (size_t i = 0; i < sizeof name; i += 2)
		memcpy(name + i, "a/", 2);
	name[sizeof name - 1] = 0; /* 1024 components */
	assert_int_equal(store_name_check(name, NULL), 0);
	assert_int_equal(try_begin(store, name, 0, false, &f, NULL), 0);
	assert_int_equal(store_finish(f, false, NULL), 0);
	assert_int_equal(tree_count(dir), STORE_NAME_MAX / 2);
}

static void test_links_are_not_followed(void **state)
{
	struct store_file *f;
	struct err e = { 0 };

	(void)state;
	assert_int_equal(mkdir(tree_path(top, "out"), 0755), 0);
	tree_write(top, "out/secret", "secret", 6);
	assert_int_equal(symlink("../out", tree_path(dir, "mid")), 0);
	assert_int_equal(symlink("../out/secret", tree_path(dir, "last")), 0);
	assert_int_equal(symlink("/nowhere/at/all", tree_path(dir, "dangling")), 0);
	assert_int_equal(symlink("../out/new", tree_path(dir, ".p.dwcp-part")), 0);
	assert_int_equal(mkdir(tree_path(dir, "real"), 0755), 0);
	assert_int_equal(symlink("real", tree_path(dir, "inside")), 0);
	refused("mid/x", -ELOOP);
	refused("mid/y/x", -ELOOP);
	refused("inside/x", -ELOOP); /* also where it would stay inside */
	refused("dangling/x", -ELOOP);
	assert_int_equal(try_begin(store, "last", 1, false, &f, &e), -ELOOP);
	assert_non_null(strstr(e.why, "last"));
	assert_int_equal(try_begin(store, "last", 1, true, &f, NULL), -ELOOP);
	assert_int_equal(try_begin(store, "p", 1, false, &f, NULL), -ELOOP);
	assert_true(try_folder("mid") < 0);
	assert_int_equal(tree_count(tree_path(top, "out")), 1);
	tree_expect(top, "out/secret", "secret", 6);

	/* A link that appears at the name meanwhile is replaced, not followed. */
	assert_int_equal(try_begin(store, "late", 3, false, &f, NULL), 0);
	assert_int_equal(store_write(f, "new", 3, 0), 0);
	assert_int_equal(symlink("../out/secret", tree_path(dir, "late")), 0);
	assert_int_equal(store_finish(f, false, NULL), 0);
	tree_expect(dir, "late", "new", 3);
	tree_expect(top, "out/secret", "secret", 6);
}

static void test_kinds_clash(void **state)
{
	struct store_file *f;

	(void)state;
	assert_int_equal(mkdir(tree_path(dir, "folder"), 0755), 0);
	tree_write(dir, "file", "x", 1);
	assert_int_equal(mkfifo(tree_path(dir, "fifo"), 0644), 0);
	assert_int_equal(mkfifo(tree_path(dir, ".p.dwcp-part"), 0644), 0);
	assert_int_equal(mkdir(tree_path(dir, ".q.dwcp-part"), 0755), 0);
	assert_int_equal(try_begin(store, "folder", 1, false, &f, NULL), -EISDIR);
	assert_int_equal(try_begin(store, "file/x", 1, false, &f, NULL), -ENOTDIR);
	assert_int_equal(try_begin(store, "file/x/y", 1, false, &f, NULL), -ENOTDIR);
	assert_int_equal(try_begin(store, "fifo", 1, true, &f, NULL), -EEXIST);
	assert_int_equal(try_begin(store, "p", 1, false, &f, NULL), -EEXIST);
	assert_int_equal(try_begin(store, "q", 1, false, &f, NULL), -EISDIR);
	assert_int_equal(try_folder("file"), -ENOTDIR);
	assert_int_equal(try_folder("file/x"), -ENOTDIR);
	assert_int_equal(tree_count(dir), 5);

	/* A folder that appears meanwhile: the part stays. */
	assert_int_equal(try_begin(store, "f", 1, false, &f, NULL), 0);
	assert_int_equal(store_write(f, "x", 1, 0), 0);
	assert_int_equal(mkdir(tree_path(dir, "f"), 0755), 0);
	assert_int_equal(store_finish(f, false, NULL), -EISDIR);
	tree_expect(dir, ".f.dwcp-part", "x", 1);
}

static void test_open(void **state)
{
	struct store *s = NULL;
	struct err e = { 0 };

	(void)state;
	assert_int_equal(store_open(&s, tree_path(top, "missing"), &e), -ENOENT);
	assert_non_null(strstr(e.why, "missing"));
	tree_write(top, "file", "", 0);
	assert_int_equal(store_open(&s, tree_path(top, "file"), NULL), -ENOTDIR);
	assert_null(s);
	store_close(NULL);
}

static void test_shown_names(void **state)
{
	char buf[16];

	(void)state;
	assert_string_equal(store_name_show(buf, sizeof buf, "short"), "short");
	assert_string_equal(store_name_show(buf, sizeof buf, "exactly fifteen"), "exactly fifteen");
	assert_string_equal(store_name_show(buf, sizeof buf, "one more than that"), "one mo...n that");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)
		TEST(test_refused_names), TEST(test_deepest_name), TEST(test_links_are_not_followed),
		TEST(test_kinds_clash),   TEST(test_open),         TEST(test_shown_names),
	};

	return cmocka_run_group_tests_name("store_names", tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/* The walk over the operands of `dwcp send`. Open files are in test_source.c. */
#include "base/log.h"
#include "base/util.h"
#include "kmod-free-tests/tree.h"
#include "transport/source.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#define NOBODY 65534

static char *dir;
static char *fast; /* in memory where the machine has such a folder, else NULL */

static int setup(void **state)
{
	(void)state;
	dir = tree_make();
	log_set_level(LOG_ERROR);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	log_set_level(LOG_WARN);
	tree_remove(dir);
	if (fast)
		tree_remove(fast);
	fast = NULL;
	return 0;
}

static int walk(struct source_list *l, bool recursive, struct err *e, const char *a, const char *b)
{
	char *operands[2] = { (char *)a, (char *)b };

	return source_walk(l, operands, b ? 2 : 1, recursive, e);
}

/* Walks one operand below dir and compares names, in order; "x/" stands for a folder. */
static void expect_names(const char *operand, const char *const *names, size_t n, uint64_t skipped)
{
	struct source_list l;
	struct err e = { 0 };

	if (walk(&l, true, &e, operand, NULL) < 0)
		fail_msg("%s", e.why);
	assert_int_equal(l.n, n);
	assert_int_equal(l.skipped, skipped);
	for (size_t i = 0; i < n; i++) {
		size_t len = strlen(names[i]);
		bool folder = names[i][len - 1] == '/';
		struct stat st;

		assert_int_equal(strlen(l.v[i]->name), len - folder);
		assert_memory_equal(l.v[i]->name, names[i], len - folder);
		assert_int_equal(l.v[i]->kind, folder ? STORE_DIR : STORE_FILE);
		assert_int_equal(stat(l.v[i]->path, &st), 0);
		assert_int_equal(l.v[i]->mode, st.st_mode & 0777);
		assert_int_equal(l.v[i]->mtime_s, st.st_mtim.tv_sec);
		assert_int_equal(l.v[i]->mtime_ns, st.st_mtim.tv_nsec);
		assert_int_equal(l.v[i]->size, folder ? 0 : st.st_size);
	}
	source_list_free(&l);
	assert_null(l.v);
}

static void make_tree(void)
{
	assert_int_equal(mkdir(tree_path(dir, "t"), 0755), 0);
	assert_int_equal(mkdir(tree_path(dir, "t/b"), 0750), 0);
	assert_int_equal(mkdir(tree_path(dir, "t/b/empty"), 0755), 0);
	assert_int_equal(mkdir(tree_path(dir, "t/b/sub"), 0755), 0);
	tree_write(dir, "t/z", "zz", 2);
	tree_write(dir, "t/a", "", 0);
	tree_write(dir, "t/b/\xff\xfe", "bytes", 5);
	tree_write(dir, "t/b/sub/.h", "h", 1);
}

static void test_names_and_order(void **state)
{
	static const char *const whole[] = { "t/",         "t/a",      "t/b/",         "t/z",
					     "t/b/empty/", "t/b/sub/", "t/b/\xff\xfe", "t/b/sub/.h" };
	static const char *const contents[] = { "a", "b/", "z", "b/empty/", "b/sub/", "b/\xff\xfe", "b/sub/.h" };
	static const char *const linked[] = { "link/",         "link/a",      "link/b/",         "link/z",
					      "link/b/empty/", "link/b/sub/", "link/b/\xff\xfe", "link/b/sub/.h" };
	static const char *const one[] = { "z" }, *const one_link[] = { "other name" };
	static const char *const same_contents[] = { "t/.", "t/./", "t/./.", "t//.//", "t/b/.." };
	char here[PATH_MAX];

	(void)state;
	make_tree();
	assert_int_equal(symlink("t", tree_path(dir, "link")), 0);
	assert_int_equal(symlink("t/z", tree_path(dir, "other name")), 0);
	expect_names(tree_path(dir, "t"), whole, ARRAY_LEN(whole), 0);
	expect_names(tree_path(dir, "t/"), whole, ARRAY_LEN(whole), 0);
	expect_names(tree_path(dir, "t///"), whole, ARRAY_LEN(whole), 0);
	expect_names(tree_path(dir, "./t"), whole, ARRAY_LEN(whole), 0);
	expect_names(tree_path(dir, "link"), linked, ARRAY_LEN(linked), 0);
	expect_names(tree_path(dir, "link/"), linked, ARRAY_LEN(linked), 0);
	expect_names(tree_path(dir, "t/z"), one, 1, 0);
	expect_names(tree_path(dir, "other name"), one_link, 1, 0);
	for (size_t i = 0; i < ARRAY_LEN(same_contents); i++)
		expect_names(tree_path(dir, same_contents[i]), contents, ARRAY_LEN(contents), 0);

	assert_non_null(getcwd(here, sizeof here));
	assert_int_equal(chdir(tree_path(dir, "t")), 0);
	expect_names(".", contents, ARRAY_LEN(contents), 0);
	expect_names("./", contents, ARRAY_LEN(contents), 0);
	expect_names("z", one, 1, 0);
	assert_int_equal(chdir("b"), 0);
	expect_names("..", contents, ARRAY_LEN(contents), 0);
	expect_names("../", contents, ARRAY_LEN(contents), 0);
	assert_int_equal(chdir(here), 0);
}

static void refused(const char *a, const char *b, bool recursive, int code, const char *word)
{
	struct source_list l;
	struct err e = { 0 };

	assert_int_equal(walk(&l, recursive, &e, a, b), code);
	assert_int_equal(e.code, code);
	if (!strstr(e.why, word))
		fail_msg("\"%s\" does not say \"%s\"", e.why, word);
	assert_int_equal(l.n, 0);
	assert_null(l.v);
}

static void test_refused_operands(void **state)
{
	struct source_list l;
	char *deep, *p;

	(void)state;
	make_tree();
	refused(tree_path(dir, "t"), NULL, false, -EISDIR, "-r");
	refused(tree_path(dir, "t/."), NULL, false, -EISDIR, "-r");
	refused(tree_path(dir, "missing"), NULL, true, -ENOENT, "missing");
	refused("", NULL, true, -ENOENT, "\"\"");
	refused(tree_path(dir, "t/z/"), NULL, true, -ENOTDIR, "t/z/");
	refused(tree_path(dir, "t/a"), tree_path(dir, "missing"), true, -ENOENT, "missing");
	assert_int_equal(symlink("nowhere", tree_path(dir, "dangling")), 0);
	refused(tree_path(dir, "dangling"), NULL, true, -ENOENT, "dangling");
	assert_int_equal(symlink("loop", tree_path(dir, "loop")), 0);
	refused(tree_path(dir, "loop"), NULL, true, -ELOOP, "loop");
	assert_int_equal(mkfifo(tree_path(dir, "fifo"), 0644), 0);
	refused(tree_path(dir, "fifo"), NULL, true, -EINVAL, "fifo");
	refused("/dev/null", NULL, true, -EINVAL, "/dev/null");
	tree_write(dir, "x.dwcp-part", "", 0);
	refused(tree_path(dir, "x.dwcp-part"), NULL, true, -EINVAL, "unfinished");

	/* The same name there. */
	tree_write(dir, "a", "", 0);
	refused(tree_path(dir, "a"), tree_path(dir, "t/a"), true, -EEXIST, "t/a");
	refused(tree_path(dir, "a"), tree_path(dir, "t/."), true, -EEXIST, "same name");
	refused(tree_path(dir, "t"), tree_path(dir, "t/"), true, -EEXIST, "same name");

	/* Names that no store takes. */
	tree_write(dir, "t/b/new\nline", "", 0);
	assert_int_equal(walk(&l, true, NULL, tree_path(dir, "t"), NULL), 0);
	assert_int_equal(l.failed, 1);
	assert_true(l.n > 2);
	source_list_free(&l);
	assert_int_equal(unlink(tree_path(dir, "t/b/new\nline")), 0);
	assert_int_equal(mkdir(tree_path(dir, "deep"), 0755), 0);
	deep = malloc(PATH_MAX);
	assert_non_null(deep);
	snprintf(deep, PATH_MAX, "%s", tree_path(dir, "deep"));
	for (p = deep + strlen(deep); p - deep < 2400; p += 201) {
		*p = '/';
		memset(p + 1, 'd', 200);
		p[201] = 0;
		assert_int_equal(mkdir(deep, 0755), 0);
	}
	free(deep);
	assert_int_equal(walk(&l, true, NULL, tree_path(dir, "deep"), NULL), 0);
	assert_int_equal(l.failed, 1);
	source_list_free(&l);
}

static void test_skipped(void **state)
{
	static const char *const names[] = { "t/",         "t/a",      "t/b/",         "t/z",
					     "t/b/empty/", "t/b/sub/", "t/b/\xff\xfe", "t/b/sub/.h" };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	make_tree();
	assert_int_equal(symlink("..", tree_path(dir, "t/b/up")), 0);
	assert_int_equal(symlink("z", tree_path(dir, "t/link")), 0);
	assert_int_equal(symlink("nowhere", tree_path(dir, "t/dangling")), 0);
	assert_int_equal(mkfifo(tree_path(dir, "t/fifo"), 0644), 0);
	tree_write(dir, "t/.z.dwcp-part", "half", 4);
	assert_true(fd >= 0);
	assert_true(strlen(tree_path(dir, "t/sock")) < sizeof addr.sun_path);
	snprintf(addr.sun_path, sizeof addr.sun_path, "%s", tree_path(dir, "t/sock"));
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
	close(fd);
	expect_names(tree_path(dir, "t"), names, ARRAY_LEN(names), 6);
}

/* Ten lines by name, then one with the number of the others. */
static void test_warnings(void **state)
{
	char name[32], text[8192] = "";
	int saved, out, lines = 0, named = 0;
	struct source_list l;

	(void)state;
	assert_int_equal(mkdir(tree_path(dir, "t"), 0755), 0);
	for (int i = 0; i < 25; i++) {
		snprintf(name, sizeof name, "t/link%02d", i);
		assert_int_equal(symlink("nowhere", tree_path(dir, name)), 0);
	}
	out = open(tree_path(dir, "err"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	saved = dup(STDERR_FILENO);
	assert_true(out >= 0 && saved >= 0);
	log_set_level(LOG_WARN);
	assert_true(dup2(out, STDERR_FILENO) >= 0);
	assert_int_equal(walk(&l, true, NULL, tree_path(dir, "t"), NULL), 0);
	dup2(saved, STDERR_FILENO);
	close(saved);
	assert_int_equal(l.skipped, 25);
	source_list_free(&l);
	assert_true(pread(out, text, sizeof text - 1, 0) > 0);
	close(out);
	for (char *p = text; (p = strchr(p, '\n')); p++)
		lines++;
	for (char *p = text; (p = strstr(p, "t/link")); p++)
		named++;
	assert_int_equal(lines, 11);
	assert_int_equal(named, 10);
	assert_non_null(strstr(text, "t/link09"));
	assert_non_null(strstr(text, "15 more"));
}

static int read_as_nobody(void *ctx)
{
	char *file[] = { (char *)"t/shut" }, *tree[] = { (char *)"t" }, *folder[] = { (char *)"u" };
	struct source_list l;
	struct err e = { 0 };

	(void)ctx;
	if (source_walk(&l, file, 1, true, &e) != -EACCES || !strstr(e.why, "t/shut"))
		return 1;
	/* What can be read is sent; what cannot is counted. */
	if (source_walk(&l, tree, 1, true, &e) || l.failed != 1 || l.n != 2 || strcmp(l.v[1]->name, "t/open"))
		return 2;
	source_list_free(&l);
	if (source_walk(&l, folder, 1, true, &e) || l.failed != 1 || l.n != 2)
		return 3;
	source_list_free(&l);
	return 0;
}

static void test_unreadable(void **state)
{
	(void)state;
	assert_int_equal(mkdir(tree_path(dir, "t"), 0755), 0);
	assert_int_equal(mkdir(tree_path(dir, "u"), 0755), 0);
	assert_int_equal(mkdir(tree_path(dir, "u/closed"), 0), 0);
	tree_write(dir, "t/open", "x", 1);
	tree_write(dir, "t/shut", "x", 1);
	assert_int_equal(chmod(tree_path(dir, "t/shut"), 0), 0);
	assert_int_equal(chmod(dir, 0755), 0);
	assert_int_equal(tree_fork(read_as_nobody, NULL, dir, NOBODY), 0);
}

/* A hundred thousand entries, with few descriptors and some hundred bytes each. */
static void test_huge_tree(void **state)
{
	struct rlimit old, few = { 32, 0 };
	struct source_list l;
	struct err e = { 0 };
	uint64_t bytes = 0;
	const char *at;
	char name[160];
	int rc;

	(void)state;
	fast = strdup("/dev/shm/dwcp-source.XXXXXX");
	assert_non_null(fast);
	if (!mkdtemp(fast)) {
		free(fast);
		fast = NULL;
	}
	at = fast ? fast : dir;
	assert_int_equal(mkdir(tree_path(at, "t"), 0755), 0);
	for (unsigned i = 0; i < 100; i++) {
		snprintf(name, sizeof name, "t/%02u", i);
		assert_int_equal(mkdir(tree_path(at, name), 0755), 0);
		for (unsigned k = 0; k < 1000; k++) {
			snprintf(name, sizeof name, "t/%02u/file-%03u", i, k);
			assert_int_equal(mknod(tree_path(at, name), S_IFREG | 0644, 0), 0);
		}
	}
	snprintf(name, sizeof name, "t/chain");
	assert_int_equal(mkdir(tree_path(at, name), 0755), 0);
	for (unsigned i = 0; i < 50; i++) { /* deeper than there are descriptors */
		memcpy(name + 7 + 2 * i, "/d", 3);
		assert_int_equal(mkdir(tree_path(at, name), 0755), 0);
	}
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	rc = walk(&l, true, &e, tree_path(at, "t"), NULL);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	if (rc < 0)
		fail_msg("%s", e.why);
	assert_int_equal(l.n, 1 + 100 + 100000 + 51);
	for (uint64_t i = 0; i < l.n; i++)
		bytes += sizeof *l.v[i] + strlen(l.v[i]->path) + 1;
	assert_true(bytes + l.cap * sizeof l.v[0] < l.n * 300);
	assert_string_equal(l.v[102]->name, "t/00/file-000");
	assert_string_equal(l.v[l.n - 1]->name, name);
	source_list_free(&l);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		TEST(test_names_and_order), TEST(test_refused_operands), TEST(test_skipped),
		TEST(test_warnings),        TEST(test_unreadable),       TEST(test_huge_tree),
	};

	return cmocka_run_group_tests_name("source_walk", tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/* Open files of the source: what the receiver is told, holes, reads, changes. The walk is in test_source_walk.c. */
#include "base/log.h"
#include "base/util.h"
#include "kmod-free-tests/tree.h"
#include "transport/source.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define MB ((size_t)1 << 20)

static char *dir;

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
	return 0;
}

static int walk(struct source_list *l, bool recursive, struct err *e, const char *a, const char *b)
{
	char *operands[2] = { (char *)a, (char *)b };

	return source_walk(l, operands, b ? 2 : 1, recursive, e);
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

static void test_totals_and_spec(void **state)
{
	struct source_file f;
	struct source_list l;
	struct store_spec s;

	(void)state;
	make_tree();
	assert_int_equal(walk(&l, true, NULL, tree_path(dir, "t"), NULL), 0);
	assert_int_equal(l.total_bytes, 8);
	source_spec(l.v[2], NULL, true, &s);
	assert_string_equal(s.name, "t/b");
	assert_int_equal(s.kind, STORE_DIR);
	assert_int_equal(s.mode, 0750);
	assert_true(s.resume);
	source_spec(l.v[3], NULL, false, &s);
	assert_int_equal(s.size, 2);

	/* What counts is the file as it was opened, not as it was listed. */
	tree_write(dir, "t/z", "longer", 6);
	assert_int_equal(source_open(&f, l.v[3], NULL), 0);
	source_spec(l.v[3], &f, false, &s);
	assert_string_equal(s.name, "t/z");
	assert_int_equal(s.kind, STORE_FILE);
	assert_int_equal(s.size, 6);
	assert_int_equal(s.data_bytes, 6);
	assert_int_equal(s.mtime_s, f.mtime_s);
	assert_int_equal(s.mtime_ns, f.mtime_ns);
	assert_false(s.resume);
	source_close(&f);
	source_close(&f);
	source_list_free(&l);
}

static struct source_entry *entry_of(struct source_list *l, const char *name)
{
	assert_int_equal(walk(l, false, NULL, tree_path(dir, name), NULL), 0);
	assert_int_equal(l->n, 1);
	return l->v[0];
}

static void open_it(struct source_list *l, struct source_file *f, const char *name)
{
	struct err e = { 0 };

	if (source_open(f, entry_of(l, name), &e) < 0)
		fail_msg("%s", e.why);
}

static void expect_changed(const struct source_file *f, const char *how)
{
	struct err e = { 0 };

	assert_int_equal(source_unchanged(f, &e), -ESTALE);
	if (!strstr(e.why, how))
		fail_msg("\"%s\" does not say \"%s\"", e.why, how);
}

static void test_reads(void **state)
{
	size_t len = 300001;
	char *data = malloc(len), *got = malloc(len);
	struct source_list l;
	struct source_file f;

	(void)state;
	assert_non_null(data);
	assert_non_null(got);
	tree_fill(data, len, 1);
	tree_write(dir, "f", data, len);
	open_it(&l, &f, "f");
	assert_int_equal(f.size, len);
	assert_int_equal(source_read(&f, got, (uint32_t)len, 0), 0);
	assert_memory_equal(got, data, len);
	assert_int_equal(source_read(&f, got, 1, len - 1), 0);
	assert_int_equal(got[0], data[len - 1]);
	assert_int_equal(source_read(&f, got, 0, len), 0);
	assert_int_equal(source_read(&f, got, 1, len), -ESTALE);
	assert_int_equal(source_read(&f, got, 2, len - 1), -ESTALE);
	assert_int_equal(source_read(&f, got, 2, UINT64_MAX), -EINVAL);
	assert_int_equal(source_unchanged(&f, NULL), 0); /* reading is no change */
	assert_int_equal(truncate(tree_path(dir, "f"), 100), 0);
	assert_int_equal(source_read(&f, got, 101, 0), -ESTALE);
	assert_int_equal(source_read(&f, got, 100, 0), 0);
	source_close(&f);
	source_list_free(&l);
	free(data);
	free(got);
}

/* Each change at once after the open: none hides in the tick of the clock that it shares with the last write. */
static void test_changes(void **state)
{
	struct timespec times[2];
	struct source_list l;
	struct source_file f;
	int fd;

	(void)state;
	for (int i = 0; i < 7; i++) {
		tree_write(dir, "f", "0123456789", 10);
		open_it(&l, &f, "f");
		assert_int_equal(source_unchanged(&f, NULL), 0);
		fd = open(tree_path(dir, "f"), O_WRONLY | O_CLOEXEC);
		switch (i) {
		case 0:
			assert_int_equal(ftruncate(fd, 9), 0);
			expect_changed(&f, "shorter");
			break;
		case 1:
			assert_int_equal(pwrite(fd, "x", 1, 10), 1);
			expect_changed(&f, "longer");
			break;
		case 2: /* same size */
			assert_int_equal(pwrite(fd, "x", 1, 3), 1);
			expect_changed(&f, "written to");
			break;
		case 3: /* same size, and the time put back */
			times[0] = times[1] = (struct timespec){ f.mtime_s, f.mtime_ns };
			assert_int_equal(pwrite(fd, "x", 1, 3), 1);
			assert_int_equal(futimens(fd, times), 0);
			expect_changed(&f, "was changed");
			break;
		case 4:
			assert_int_equal(futimens(fd, NULL), 0);
			expect_changed(&f, "written to");
			break;
		case 5:
			tree_write(dir, "new", "other", 5);
			assert_int_equal(rename(tree_path(dir, "new"), tree_path(dir, "f")), 0);
			expect_changed(&f, "replaced");
			break;
		default:
			assert_int_equal(fchmod(fd, 0600), 0);
			expect_changed(&f, "was changed");
			break;
		}
		close(fd);
		source_close(&f);
		source_list_free(&l);
	}
}

static void test_opened_is_not_what_was_listed(void **state)
{
	struct source_list l;
	struct source_file f = { .fd = -1 };
	struct err e = { 0 };

	(void)state;
	make_tree();
	assert_int_equal(mkdir(tree_path(dir, "out"), 0755), 0);
	tree_write(dir, "out/.h", "secret", 6);
	tree_write(dir, "secret", "secret", 6);
	assert_int_equal(walk(&l, true, NULL, tree_path(dir, "t"), NULL), 0);
	assert_string_equal(l.v[7]->name, "t/b/sub/.h");
	assert_int_equal(unlink(tree_path(dir, "t/b/sub/.h")), 0);
	assert_int_equal(source_open(&f, l.v[7], &e), -ENOENT);
	assert_non_null(strstr(e.why, "t/b/sub/.h"));
	/* Links put where a file and a folder were. */
	assert_int_equal(symlink("../../../secret", tree_path(dir, "t/b/sub/.h")), 0);
	assert_int_equal(source_open(&f, l.v[7], NULL), -ELOOP);
	assert_int_equal(unlink(tree_path(dir, "t/b/sub/.h")), 0);
	assert_int_equal(rmdir(tree_path(dir, "t/b/sub")), 0);
	assert_int_equal(symlink("../../out", tree_path(dir, "t/b/sub")), 0);
	assert_int_equal(source_open(&f, l.v[7], NULL), -ELOOP);
	/* A fifo neither blocks nor passes for a file. */
	assert_int_equal(unlink(tree_path(dir, "t/a")), 0);
	assert_int_equal(mkfifo(tree_path(dir, "t/a"), 0644), 0);
	assert_int_equal(source_open(&f, l.v[1], NULL), -ESTALE);
	assert_int_equal(f.fd, -1);
	source_list_free(&l);
}

static void check_extents(const char *where)
{
	enum { block = 64 * 1024 }; /* more than the largest usual file system block */
	static char data[block];
	struct source_extent *v;
	struct source_list l;
	struct source_file f;
	uint64_t n, sum = 0;
	char path[PATH_MAX];
	struct stat st;
	int fd;

	memset(data, 7, block);
	snprintf(path, sizeof path, "%s/holes", where);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	for (int i = 0; i < 3; i++) /* data in 1, 5 and 9 of 12 */
		assert_true(pwrite(fd, data, block, (off_t)((1 + 4 * (size_t)i) * block)) == (ssize_t)block);
	assert_int_equal(ftruncate(fd, (off_t)(12 * block)), 0);
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	if ((size_t)st.st_blocks * 512 >= 12 * block) {
		unlink(path);
		print_message("SKIP test_extents: the file system of %s keeps no holes\n", where);
		skip();
	}
	assert_int_equal(walk(&l, false, NULL, path, NULL), 0);
	assert_int_equal(l.total_bytes, 3 * block);
	assert_int_equal(l.v[0]->size, 12 * block);
	assert_int_equal(source_open(&f, l.v[0], NULL), 0);
	assert_int_equal(f.data_bytes, 3 * block);
	assert_int_equal(source_extents(&f, &v, &n, NULL), 0);
	assert_int_equal(n, 3);
	for (uint64_t i = 0; i < n; i++) {
		assert_int_equal(v[i].offset, (1 + 4 * i) * block);
		assert_int_equal(v[i].len, block);
		sum += v[i].len;
	}
	assert_int_equal(sum, f.data_bytes);
	/* What was cut or grew since the open: never beyond the size at open. */
	assert_int_equal(truncate(path, (off_t)(5 * block + 10)), 0);
	free(v);
	assert_int_equal(source_extents(&f, &v, &n, NULL), 0);
	assert_true(n >= 1 && v[n - 1].offset + v[n - 1].len <= 12 * block);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	for (size_t i = 11; i < 14; i++)
		assert_true(pwrite(fd, data, block, (off_t)(i * block)) == (ssize_t)block);
	close(fd);
	free(v);
	assert_int_equal(source_extents(&f, &v, &n, NULL), 0);
	assert_int_equal(n, 3);
	assert_int_equal(v[2].offset + v[2].len, 12 * block);
	free(v);
	source_close(&f);
	source_list_free(&l);
	unlink(path);
}

static void test_extents(void **state)
{
	(void)state;
	check_extents(dir);
}

static void test_extents_tmpfs(void **state)
{
	char where[] = "/dev/shm/dwcp-source.XXXXXX";

	(void)state;
	if (!mkdtemp(where)) {
		print_message("SKIP test_extents_tmpfs: /dev/shm is not writable\n");
		skip();
	}
	check_extents(where);
	assert_int_equal(rmdir(where), 0);
}

static void test_extents_of_plain_files(void **state)
{
	struct source_extent *v;
	struct source_list l;
	struct source_file f;
	uint64_t n;

	(void)state;
	tree_write(dir, "empty", "", 0);
	open_it(&l, &f, "empty");
	assert_int_equal(source_extents(&f, &v, &n, NULL), 0);
	assert_int_equal(n, 0);
	assert_null(v);
	source_close(&f);
	source_list_free(&l);

	tree_write(dir, "hole", "", 0);
	assert_int_equal(truncate(tree_path(dir, "hole"), 1 << 20), 0);
	open_it(&l, &f, "hole");
	assert_int_equal(f.size, 1 << 20);
	assert_int_equal(l.total_bytes, 0);
	assert_int_equal(source_extents(&f, &v, &n, NULL), 0);
	assert_int_equal(n, 0);
	free(v);
	source_close(&f);
	source_list_free(&l);

	tree_write(dir, "plain", "abc", 3);
	open_it(&l, &f, "plain");
	assert_int_equal(source_extents(&f, &v, &n, NULL), 0);
	assert_int_equal(n, 1);
	assert_int_equal(v[0].offset, 0);
	assert_int_equal(v[0].len, 3);
	free(v);
	source_close(&f);
	source_list_free(&l);
}

/* More stretches of data than a list may have: the short holes go first, and no data is left out. */
static void test_too_many_extents(void **state)
{
	uint64_t n, sum = 0, pieces = SOURCE_EXTENTS_MAX + 1000, step = 8192, far;
	struct source_extent *v;
	struct source_list l;
	struct source_file f;
	int fd;

	(void)state;
	if (sysconf(_SC_AVPHYS_PAGES) < ((long)1 << 30) / sysconf(_SC_PAGESIZE)) {
		print_message("SKIP test_too_many_extents: needs 1 GB of free memory\n");
		skip();
	}
	/* In memory, without a name of its own. */
	fd = memfd_create("dwcp", MFD_CLOEXEC);
	assert_true(fd >= 0);
	for (uint64_t i = 0; i < pieces; i++)
		assert_int_equal(pwrite(fd, "x", 1, (off_t)(i * step)), 1);
	far = pieces * step + MB;
	assert_int_equal(pwrite(fd, "x", 1, (off_t)far), 1);
	tree_write(dir, "f", "", 0);
	open_it(&l, &f, "f");
	close(f.fd);
	f.fd = fd;
	f.size = far + 1;
	assert_int_equal(source_extents(&f, &v, &n, NULL), 0);
	assert_true(n >= 2 && n <= SOURCE_EXTENTS_MAX);
	for (uint64_t i = 0, k = 0; i < pieces; i++) {
		while (k < n && v[k].offset + v[k].len <= i * step)
			k++;
		if (k == n || v[k].offset > i * step)
			fail_msg("piece %llu is in no extent", (unsigned long long)i);
	}
	for (uint64_t i = 0; i < n; i++) {
		assert_true(!i || v[i].offset > v[i - 1].offset + v[i - 1].len);
		sum += v[i].len;
	}
	assert_int_equal(v[n - 1].offset, far); /* the long hole is still one */
	assert_true(sum < far - MB / 2);
	free(v);
	source_close(&f);
	source_list_free(&l);
}

/* Puts a folder and a link that leads out under the same name in turn, until killed. */
static int churn(const char *a, const char *b)
{
	alarm(30);
	for (;;)
		if (renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE))
			return 1;
}

static void test_folder_swapped_for_link(void **state)
{
	char a[PATH_MAX], b[PATH_MAX], got[8] = "";
	unsigned opened = 0, stopped = 0;
	struct source_list l;
	struct source_file f;
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(mkdir(tree_path(dir, "t"), 0755), 0);
	assert_int_equal(mkdir(tree_path(dir, "t/d"), 0755), 0);
	assert_int_equal(mkdir(tree_path(dir, "out"), 0755), 0);
	tree_write(dir, "t/d/f", "mine", 4);
	tree_write(dir, "out/f", "hers", 4);
	tree_write(dir, "out/g", "hers", 4);
	assert_int_equal(symlink("../out", tree_path(dir, "t/link")), 0);
	assert_int_equal(walk(&l, true, NULL, tree_path(dir, "t"), NULL), 0);
	assert_int_equal(l.n, 3);
	snprintf(a, sizeof a, "%s/t/d", dir);
	snprintf(b, sizeof b, "%s/t/link", dir);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(churn(a, b));
	for (unsigned i = 0; i < 100000 && (opened < 500 || stopped < 500); i++) {
		struct source_list now;
		int rc = source_open(&f, l.v[2], NULL);

		if (!rc) {
			assert_int_equal(source_read(&f, got, 4, 0), 0);
			assert_string_equal(got, "mine");
			source_close(&f);
			opened++;
		} else {
			stopped++;
		}
		if (i % 16)
			continue;
		rc = walk(&now, true, NULL, tree_path(dir, "t"), NULL);
		for (uint64_t k = 0; !rc && k < now.n; k++)
			assert_string_not_equal(now.v[k]->name + strlen(now.v[k]->name) - 1, "g");
		source_list_free(&now);
	}
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_true(opened > 0 && stopped > 0);
	source_list_free(&l);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		TEST(test_totals_and_spec),
		TEST(test_reads),
		TEST(test_changes),
		TEST(test_opened_is_not_what_was_listed),
		TEST(test_extents),
		TEST(test_extents_tmpfs),
		TEST(test_extents_of_plain_files),
		TEST(test_too_many_extents),
		TEST(test_folder_swapped_for_link),
	};

	return cmocka_run_group_tests_name("source", tests, NULL, NULL);
}

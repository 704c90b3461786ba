/* SPDX-License-Identifier: MIT */
/* The file store against races, other transfers, full disks and missing permissions. */
#include "base/util.h"
#include "kmod-free-tests/store_fixture.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define MB ((size_t)1 << 20)
#define NOBODY 65534
/* Exit statuses of children. */
#define CHILD_SKIP 77
#define EXPECT(cond)                                                               \
	do {                                                                       \
		if (!(cond)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			return 1;                                                  \
		}                                                                  \
	} while (0)

/* In place of the C library's: a disk that fails cannot be had everywhere. */
static int flush_error;
static unsigned flushes, company; /* how many there were; how many must be under way before one of them ends */

int fdatasync(int fd) /* NOLINT(readability-inconsistent-declaration-parameter-name) */
{
	__atomic_fetch_add(&flushes, 1, __ATOMIC_SEQ_CST);
	for (int ms = 0; __atomic_load_n(&flushes, __ATOMIC_SEQ_CST) < company; ms++)
		if (ms == 10000 || usleep(1000))
			abort();
	if (!flush_error)
		return (int)syscall(SYS_fdatasync, fd);
	errno = flush_error;
	return -1;
}

/* A second flush of the same data would succeed: the kernel has forgotten what it could not write. */
static void test_flush_fails(void **state)
{
	struct store_file *f;
	struct err e = { 0 };

	(void)state;
	tree_write(dir, "f", "old", 3);
	assert_int_equal(try_begin(store, "f", 3, false, &f, NULL), 0);
	assert_int_equal(store_write(f, "new", 3, 0), 0);
	flush_error = EIO;
	assert_int_equal(store_finish(f, false, &e), -EIO);
	flush_error = 0;
	assert_non_null(strstr(e.why, "\"f\""));
	tree_expect(dir, "f", "old", 3);
	assert_int_equal(tree_count(dir), 1);
	assert_int_equal(try_begin(store, "f", 3, true, &f, NULL), 0);
	store_abandon(f, false);
}

/* Several at once: they are flushed together and once, and each tells of its own failure. */
static void test_settled_together(void **state)
{
	struct store_file *f[40];
	struct err e = { 0 };
	char name[8];

	(void)state;
	for (int bad = 1; bad >= 0; bad--) {
		for (size_t i = 0; i < ARRAY_LEN(f); i++) {
			snprintf(name, sizeof name, "f%zu", i);
			if (bad)
				tree_write(dir, name, "old", 3);
			assert_int_equal(try_begin(store, name, 3, false, &f[i], NULL), 0);
			assert_int_equal(store_write(f[i], "new", 3, 0), 0);
			assert_int_equal(store_written(f[i]), 3);
		}
		store_abandon(f[7], false);
		f[7] = NULL;
		flush_error = bad ? EIO : 0;
		flushes = 0;
		company = 4;
		store_settle(f, ARRAY_LEN(f), false);
		company = 0;
		for (size_t i = 0; i < ARRAY_LEN(f); i++) {
			snprintf(name, sizeof name, "f%zu", i);
			if (f[i])
				assert_int_equal(store_finish(f[i], false, &e), bad ? -EIO : 0);
			if (f[i] && bad)
				assert_non_null(strstr(e.why, name));
			tree_expect(dir, name, bad || !f[i] ? "old" : "new", 3);
		}
		assert_int_equal(flushes, ARRAY_LEN(f) - 1);
		assert_int_equal(tree_count(dir), ARRAY_LEN(f));
	}
}

/* Somebody cut the part: what was written is not all there any more. */
static void test_part_cut(void **state)
{
	struct store_file *f;
	struct err e = { 0 };

	(void)state;
	tree_write(dir, "f", "old", 3);
	assert_int_equal(try_begin(store, "f", 3, false, &f, NULL), 0);
	assert_int_equal(store_write(f, "new", 3, 0), 0);
	assert_int_equal(truncate(tree_path(dir, ".f.dwcp-part"), 1), 0);
	assert_int_equal(store_finish(f, false, &e), -ESTALE);
	assert_non_null(strstr(e.why, "all of the part file of \"f\""));
	tree_expect(dir, "f", "old", 3);
}

static int begin_elsewhere(void *ctx)
{
	struct store_file *f;
	struct store *mine;
	int rc;

	EXPECT(!store_open(&mine, dir, NULL));
	rc = try_begin(mine, ctx, 1, true, &f, NULL);
	return rc == -EBUSY ? 16 : rc ? 1 : 0;
}

static void test_two_receivers(void **state)
{
	struct store_file *f, *g;
	struct err e = { 0 };

	(void)state;
	tree_write(dir, "f", "old", 3);
	assert_int_equal(try_begin(store, "f", 3, false, &f, NULL), 0);
	assert_int_equal(try_begin(store, "f", 3, false, &g, &e), -EBUSY);
	assert_non_null(strstr(e.why, "another transfer"));
	assert_int_equal(tree_fork(begin_elsewhere, (void *)"f", NULL, -1), 16);
	assert_int_equal(store_write(f, "new", 3, 0), 0);
	assert_int_equal(store_finish(f, false, NULL), 0);
	tree_expect(dir, "f", "new", 3);
	assert_int_equal(try_begin(store, "f", 3, false, &g, NULL), 0);
	store_abandon(g, false);
	assert_int_equal(tree_fork(begin_elsewhere, (void *)"f", NULL, -1), 0);
}

static void test_part_taken_away(void **state)
{
	struct store_file *f;
	struct err e = { 0 };

	(void)state;
	tree_write(dir, "f", "old", 3);
	assert_int_equal(try_begin(store, "f", 3, false, &f, NULL), 0);
	assert_int_equal(unlink(tree_path(dir, ".f.dwcp-part")), 0);
	assert_int_equal(store_finish(f, false, &e), -ESTALE);
	assert_non_null(strstr(e.why, "\"f\""));
	assert_int_equal(try_begin(store, "f", 3, false, &f, NULL), 0);
	tree_write(dir, "x", "bad", 3);
	assert_int_equal(rename(tree_path(dir, "x"), tree_path(dir, ".f.dwcp-part")), 0);
	assert_int_equal(store_finish(f, false, NULL), -ESTALE);
	tree_expect(dir, "f", "old", 3);
	assert_int_equal(try_begin(store, "f", 3, true, &f, NULL), 0);
	assert_int_equal(rename(tree_path(dir, ".f.dwcp-part"), tree_path(dir, "y")), 0);
	tree_write(dir, ".f.dwcp-part", "mine", 4);
	store_abandon(f, false); /* removes its own part only */
	tree_expect(dir, ".f.dwcp-part", "mine", 4);
}

static void test_part_with_second_name(void **state)
{
	struct store_file *f;

	(void)state;
	tree_write(top, "precious", "precious", 8);
	assert_int_equal(link(tree_path(top, "precious"), tree_path(dir, ".f.dwcp-part")), 0);
	assert_int_equal(try_begin(store, "f", 3, false, &f, NULL), 0);
	assert_int_equal(store_write(f, "new", 3, 0), 0);
	assert_int_equal(store_finish(f, false, NULL), 0);
	tree_expect(top, "precious", "precious", 8);
	tree_expect(dir, "f", "new", 3);
}

/* Puts a folder and a link that leads out under the same name in turn, until killed. */
static int swap_for_ever(void *ctx)
{
	char a[PATH_MAX], b[PATH_MAX];

	(void)ctx;
	snprintf(a, sizeof a, "%s/d", dir);
	snprintf(b, sizeof b, "%s/link", dir);
	alarm(30);
	for (;;)
		if (renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE))
			return 1;
}

static void test_folder_swapped_for_link(void **state)
{
	unsigned done = 0, stopped = 0;
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(mkdir(tree_path(top, "out"), 0755), 0);
	assert_int_equal(mkdir(tree_path(dir, "d"), 0755), 0);
	assert_int_equal(symlink("../out", tree_path(dir, "link")), 0);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(swap_for_ever(NULL));
	for (unsigned i = 0; i < 100000 && (done < 1000 || stopped < 1000); i++) {
		struct store_file *f;
		char name[64];
		int rc;

		snprintf(name, sizeof name, i % 3 ? "d/f%u" : "d/sub%u/f", i);
		rc = try_begin(store, name, 3, i % 2, &f, NULL);
		if (!rc)
			rc = store_write(f, "abc", 3, 0) ? -EIO : store_finish(f, false, NULL);
		if (rc)
			stopped++;
		else
			done++;
		assert_true(!rc || rc == -ELOOP || rc == -ENOTDIR || rc == -ENOENT || rc == -EXDEV);
	}
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(tree_count(tree_path(top, "out")), 0);
	assert_true(done > 0 && stopped > 0);
}

/* Writes the whole file in its own letter, over and over; who finds it busy tries the next time. */
static int write_letter(void *ctx)
{
	char letter = *(const char *)ctx, block[1000];
	struct store *mine;
	unsigned done = 0;

	memset(block, letter, sizeof block);
	EXPECT(!store_open(&mine, dir, NULL));
	for (unsigned i = 0; i < 3000 && done < 200; i++) {
		struct store_file *f;
		int rc = try_begin(mine, "f", 4000, letter == 'a', &f, NULL);

		if (rc == -EBUSY) {
			sched_yield();
			continue;
		}
		EXPECT(!rc);
		rc = store_prepare(f, NULL); /* what there is to compare may have given way */
		if (rc == -EBUSY || rc == -ESTALE) {
			store_abandon(f, false);
			continue;
		}
		EXPECT(!rc);
		for (unsigned k = 0; k < 4; k++)
			EXPECT(!store_write(f, block, sizeof block, k * sizeof block));
		if (i % 5 == 4) {
			store_abandon(f, i % 2);
			continue;
		}
		EXPECT(!store_finish(f, false, NULL));
		done++;
	}
	store_close(mine);
	return 0;
}

static void test_receivers_take_turns(void **state)
{
	pid_t pid[2];
	int status;
	char got[4001];

	(void)state;
	tree_write(dir, "f", "", 0);
	fflush(NULL);
	for (int i = 0; i < 2; i++) {
		pid[i] = fork();
		assert_true(pid[i] >= 0);
		if (!pid[i])
			_exit(write_letter((void *)(i ? "b" : "a")));
	}
	for (unsigned i = 0; i < 2000; i++) { /* what is there is whole, always */
		int fd = open(tree_path(dir, "f"), O_RDONLY | O_CLOEXEC);
		ssize_t n;

		assert_true(fd >= 0);
		n = read(fd, got, sizeof got);
		close(fd);
		assert_true(n == 0 || n == 4000);
		for (ssize_t k = 1; k < n; k++)
			assert_int_equal(got[k], got[0]);
	}
	for (int i = 0; i < 2; i++) {
		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		assert_int_equal(status, 0);
	}
}

static bool set_map(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* A file system of 4 MB over the store's folder, which only this process sees. */
static bool small_disk(void)
{
	char uid[32], gid[32];

	snprintf(uid, sizeof uid, "0 %u 1", geteuid());
	snprintf(gid, sizeof gid, "0 %u 1", getegid());
	if (unshare(CLONE_NEWNS) && (unshare(CLONE_NEWUSER | CLONE_NEWNS) || !set_map("/proc/self/setgroups", "deny") ||
				     !set_map("/proc/self/uid_map", uid) || !set_map("/proc/self/gid_map", gid)))
		return false;
	return !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) && !mount("none", dir, "tmpfs", 0, "size=4m");
}

static int fill_disk(void *ctx)
{
	static uint8_t block[STORE_BLOCK];
	struct store_spec spec = { .name = "big", .kind = STORE_FILE, .mode = 0644, .size = 64 * MB };
	struct digest128 got, zero = digest128_of(block, sizeof block);
	struct store_file *f;
	struct store *mine;
	struct err e = { 0 };
	struct stat st;
	uint64_t have;
	int rc = 0;

	(void)ctx;
	if (!small_disk())
		return CHILD_SKIP;
	EXPECT(!store_open(&mine, dir, NULL));

	/* Known to be too much: refused at once, nothing left behind. */
	spec.data_bytes = 5 * MB;
	EXPECT(store_begin(mine, &spec, &f, &have, &e) == -ENOSPC);
	EXPECT(strstr(e.why, "big") && strstr(e.why, "free some space"));
	EXPECT(stat(tree_path(dir, ".big.dwcp-part"), &st) && errno == ENOENT);

	/* The size alone is none: holes take no room. */
	spec.data_bytes = 3 * MB;
	memset(block, 1, sizeof block);
	EXPECT(!store_begin(mine, &spec, &f, &have, NULL));
	for (unsigned i = 0; i < 8 && !rc; i++)
		rc = store_write(f, block, sizeof block, (2 * i) * MB);
	EXPECT(rc == -ENOSPC);
	store_abandon(f, true);

	/* What the part holds already counts. */
	spec.resume = true;
	spec.data_bytes = 4 * MB;
	EXPECT(!store_begin(mine, &spec, &f, &have, NULL));
	EXPECT(have == 64 * MB);
	store_abandon(f, true);
	spec.data_bytes = 5 * MB;
	EXPECT(store_begin(mine, &spec, &f, &have, NULL) == -ENOSPC);
	EXPECT(!stat(tree_path(dir, ".big.dwcp-part"), &st)); /* still worth a resume */
	spec.resume = false;
	spec.data_bytes = 4 * MB - 65536; /* fits once the old part is cut */
	EXPECT(!store_begin(mine, &spec, &f, &have, NULL));
	store_abandon(f, false);

	/* No room for a copy of the old file: nothing of it changes, and without resume there is. */
	spec.size = 3 * MB;
	spec.data_bytes = 3 * MB;
	EXPECT(!store_begin(mine, &spec, &f, &have, NULL));
	for (unsigned i = 0; i < 3; i++)
		EXPECT(!store_write(f, block, sizeof block, i * MB));
	EXPECT(!store_finish(f, false, NULL));
	spec.resume = true;
	EXPECT(!store_begin(mine, &spec, &f, &have, NULL) && have == 3 * MB);
	EXPECT(store_prepare(f, &e) == -ENOSPC);
	store_abandon(f, true);
	spec.data_bytes = 4096;
	EXPECT(!store_begin(mine, &spec, &f, &have, NULL) && have == 3 * MB);
	EXPECT(store_prepare(f, &e) == -ENOSPC);
	EXPECT(stat(tree_path(dir, ".big.dwcp-part"), &st) && errno == ENOENT);
	store_abandon(f, true);
	spec.resume = false;
	EXPECT(!store_begin(mine, &spec, &f, &have, NULL));
	EXPECT(have == 0);
	EXPECT(!store_hash(f, 0, 1, &got, NULL) && got.lo == zero.lo && got.hi == zero.hi);
	EXPECT(!store_write(f, block, 4096, 0));
	EXPECT(!store_finish(f, true, NULL));
	store_close(mine);
	return 0;
}

static void test_disk_full(void **state)
{
	int rc = tree_fork(fill_disk, NULL, NULL, -1);

	(void)state;
	if (rc == CHILD_SKIP) {
		print_message("SKIP test_disk_full: this machine allows no mount namespace with a tmpfs\n");
		skip();
	}
	assert_int_equal(rc, 0);
	assert_int_equal(tree_count(dir), 0);
}

static int exceed_limit(void *ctx)
{
	static uint8_t block[STORE_BLOCK];
	struct rlimit limit = { 2 * MB, 2 * MB };
	struct store_file *f;
	struct store *mine;
	struct stat st;

	(void)ctx;
	signal(SIGXFSZ, SIG_IGN);
	EXPECT(!store_open(&mine, dir, NULL));
	EXPECT(!setrlimit(RLIMIT_FSIZE, &limit));
	EXPECT(try_begin(mine, "f", 3 * MB, false, &f, NULL) == -EFBIG);
	EXPECT(stat(tree_path(dir, ".f.dwcp-part"), &st) && errno == ENOENT);
	EXPECT(!try_begin(mine, "f", 2 * MB, false, &f, NULL));
	EXPECT(!store_write(f, block, MB, MB));
	limit.rlim_cur = MB;
	EXPECT(!setrlimit(RLIMIT_FSIZE, &limit));
	EXPECT(!store_write(f, block, 10, 0));
	EXPECT(store_write(f, block, 10, MB) == -EFBIG);
	EXPECT(store_write(f, block, 10, MB - 5) == -EFBIG); /* the first five fit: a short write */
	store_abandon(f, true);
	store_close(mine);
	return 0;
}

static void test_file_size_limit(void **state)
{
	(void)state;
	assert_int_equal(tree_fork(exceed_limit, NULL, NULL, -1), 0);
}

/* As a user for whom permission bits count; its working folder is the store. */
static int without_privilege(void *ctx)
{
	struct store_file *f, *g;
	struct store *mine;
	struct err e = { 0 };
	struct stat st;

	(void)ctx;
	EXPECT(store_open(&mine, "ro", &e) == -EACCES);
	EXPECT(strstr(e.why, "permissions"));
	EXPECT(store_open(&mine, "none", NULL) == -EACCES);
	EXPECT(!store_open(&mine, ".", NULL));
	EXPECT(try_begin(mine, "ro/f", 1, false, &f, &e) == -EACCES);
	EXPECT(strstr(e.why, "ro/f"));
	EXPECT(try_begin(mine, "ro/new/f", 1, false, &f, NULL) == -EACCES);

	/* Killed between its last chmod and its rename. */
	EXPECT(!try_begin(mine, "f", 3, false, &f, NULL));
	EXPECT(!store_write(f, "abc", 3, 0));
	store_abandon(f, true);
	EXPECT(!chmod(".f.dwcp-part", 0444));
	EXPECT(!try_begin(mine, "f", 3, true, &f, NULL));
	EXPECT(!store_write(f, "X", 1, 0));
	EXPECT(!store_finish(f, false, NULL));
	EXPECT(!stat("f", &st) && (st.st_mode & 07777) == 0644 && st.st_size == 3);

	/* The same with a mode that keeps its owner out; while another holds it, it keeps that mode. */
	EXPECT(!try_begin(mine, "f", 3, false, &f, NULL));
	EXPECT(!store_write(f, "abc", 3, 0));
	EXPECT(!chmod(".f.dwcp-part", 0200));
	EXPECT(try_begin(mine, "f", 3, true, &g, NULL) == -EBUSY);
	EXPECT(!stat(".f.dwcp-part", &st) && (st.st_mode & 07777) == 0200);
	store_abandon(f, true);
	EXPECT(!chmod(".f.dwcp-part", 0));
	EXPECT(!try_begin(mine, "f", 3, true, &f, NULL));
	EXPECT(!store_write(f, "X", 1, 0));
	EXPECT(!store_finish(f, false, NULL));
	EXPECT(!stat("f", &st) && (st.st_mode & 07777) == 0644 && st.st_size == 3);

	/* An old file that we may not read is no help for a resume, and no obstacle. */
	EXPECT(!chmod("f", 0));
	EXPECT(!try_begin(mine, "f", 3, true, &f, NULL));
	EXPECT(!store_write(f, "new", 3, 0));
	EXPECT(!store_finish(f, false, NULL));

	/* A part of somebody else is not written to. */
	EXPECT(!stat(".g.dwcp-part", &st) && st.st_uid != geteuid());
	EXPECT(!try_begin(mine, "g", 3, true, &f, NULL));
	EXPECT(!stat(".g.dwcp-part", &st) && st.st_uid == geteuid());
	store_abandon(f, false);

	/* A folder of ours that lost its bits is opened up, then gets the mode that was sent. */
	struct store_spec spec = { .name = "none", .kind = STORE_DIR, .mode = 0500 };
	struct store_file *folder;
	uint64_t have;

	EXPECT(!store_begin(mine, &spec, &folder, &have, NULL));
	EXPECT(!try_begin(mine, "none/f", 0, false, &f, NULL));
	EXPECT(!store_finish(f, false, NULL));
	EXPECT(!store_finish(folder, true, NULL));
	EXPECT(!stat("none", &st) && (st.st_mode & 07777) == 0500);
	store_close(mine);
	return 0;
}

static void test_without_privilege(void **state)
{
	(void)state;
	if (geteuid()) {
		print_message("SKIP test_without_privilege: only root can make files of two owners\n");
		skip();
	}
	assert_int_equal(mkdir(tree_path(dir, "ro"), 0555), 0);
	assert_int_equal(mkdir(tree_path(dir, "none"), 0), 0);
	tree_write(dir, ".g.dwcp-part", "bait", 4);
	assert_int_equal(chmod(tree_path(dir, ".g.dwcp-part"), 0666), 0);
	assert_int_equal(chown(tree_path(dir, "none"), NOBODY, NOBODY), 0);
	assert_int_equal(chown(dir, NOBODY, NOBODY), 0);
	assert_int_equal(tree_fork(without_privilege, NULL, dir, NOBODY), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)
		TEST(test_two_receivers),
		TEST(test_part_taken_away),
		TEST(test_part_with_second_name),
		TEST(test_folder_swapped_for_link),
		TEST(test_receivers_take_turns),
		TEST(test_disk_full),
		TEST(test_file_size_limit),
		TEST(test_without_privilege),
		TEST(test_flush_fails),
		TEST(test_settled_together),
		TEST(test_part_cut),
	};

	return cmocka_run_group_tests_name("store_faults", tests, NULL, NULL);
}

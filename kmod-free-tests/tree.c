/* SPDX-License-Identifier: MIT */
#include "kmod-free-tests/tree.h"

#include "base/util.h"
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

char *tree_make(void)
{
	const char *at = getenv("TEST_TMP");
	char *dir = NULL;

	if (!at)
		at = getenv("TMPDIR");
	assert_true(asprintf(&dir, "%s/dwcp-tree.XXXXXX", at ? at : "/tmp") > 0);
	assert_non_null(mkdtemp(dir));
	return dir;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static int open_up(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)ftw;
	if (type == FTW_D || type == FTW_DNR)
		(void)!chmod(path, (st->st_mode & 0777) | 0700);
	return 0;
}

void tree_remove(char *dir)
{
	nftw(dir, open_up, 32, FTW_PHYS);
	assert_int_equal(nftw(dir, remove_one, 32, FTW_DEPTH | FTW_PHYS), 0);
	free(dir);
}

const char *tree_path(const char *dir, const char *name)
{
	static char buf[8][PATH_MAX];
	static unsigned turn;
	char *p = buf[turn++ % 8];

	assert_true(snprintf(p, PATH_MAX, "%s/%s", dir, name) < PATH_MAX);
	return p;
}

void tree_write(const char *dir, const char *name, const void *data, size_t len)
{
	int fd = open(tree_path(dir, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_true(write(fd, data, len) == (ssize_t)len);
	close(fd);
}

void tree_expect(const char *dir, const char *name, const void *data, size_t len)
{
	int fd = open(tree_path(dir, name), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	char *got = malloc(len + 1);
	size_t n = 0;

	assert_true(fd >= 0);
	assert_non_null(got);
	for (ssize_t r = 1; n < len + 1 && r > 0; n += (size_t)r) {
		r = read(fd, got + n, len + 1 - n);
		assert_true(r >= 0);
	}
	close(fd);
	assert_int_equal(n, len);
	if (len)
		assert_memory_equal(got, data, len);
	free(got);
}

bool tree_has(const char *dir, const char *name)
{
	struct stat st;

	return !lstat(tree_path(dir, name), &st);
}

struct stat tree_stat(const char *dir, const char *name)
{
	struct stat st;

	assert_int_equal(lstat(tree_path(dir, name), &st), 0);
	return st;
}

static unsigned counted;

static int count_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)path, (void)st, (void)type;
	counted += ftw->level > 0;
	return 0;
}

unsigned tree_count(const char *dir)
{
	counted = 0;
	assert_int_equal(nftw(dir, count_one, 32, FTW_PHYS), 0);
	return counted;
}

void tree_fill(void *buf, size_t len, uint64_t seed)
{
	uint8_t *p = buf;

	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = rng_next(&seed);

		memcpy(p + i, &v, len - i < 8 ? len - i : 8);
	}
}

int tree_fork(int (*body)(void *ctx), void *ctx, const char *dir, int uid)
{
	int status = 0;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		if (uid >= 0 && (chdir(dir) ||
				 (!geteuid() && (setgroups(0, NULL) || setresgid((gid_t)uid, (gid_t)uid, (gid_t)uid) ||
						 setresuid((uid_t)uid, (uid_t)uid, (uid_t)uid)))))
			_exit(126);
		_exit(body(ctx));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

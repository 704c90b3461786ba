/* SPDX-License-Identifier: MIT */
/* Scratch folders for tests of files. Whatever fails here fails the test (not for use in forked children). */
#ifndef DWCP_TESTS_TREE_H
#define DWCP_TESTS_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

/* A new empty folder in $TEST_TMP, $TMPDIR or /tmp; tree_remove frees the name as well. */
char *tree_make(void);
void tree_remove(char *dir);

/* dir/name in one of eight static buffers that take turns. */
const char *tree_path(const char *dir, const char *name);

void tree_write(const char *dir, const char *name, const void *data, size_t len);
void tree_expect(const char *dir, const char *name, const void *data, size_t len); /* is exactly that */
bool tree_has(const char *dir, const char *name);                                  /* does not follow links */
struct stat tree_stat(const char *dir, const char *name);                          /* does not follow links */
unsigned tree_count(const char *dir);                                              /* entries below, at any depth */

/* Bytes that depend on seed and position. */
void tree_fill(void *buf, size_t len, uint64_t seed);

/* Runs body(ctx) in a child process and returns its exit status, or 128 + the signal. As `uid` (>= 0) when the
 * caller is root; the child's working folder is `dir` then. */
int tree_fork(int (*body)(void *ctx), void *ctx, const char *dir, int uid);

#endif

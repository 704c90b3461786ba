/* SPDX-License-Identifier: MIT */
/* Names and opens that stay below a folder: what the file store and the file source share. Internal to transport/. */
#ifndef DWCP_TRANSPORT_STORE_PATH_H
#define DWCP_TRANSPORT_STORE_PATH_H

#include "base/err.h"
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#define STORE_PART_SUFFIX ".dwcp-part"

/* True when the last component of name ends in STORE_PART_SUFFIX. */
bool store_is_part_name(const char *name);

/* The part file's name of a file whose last component is `base`: `.BASE.dwcp-part`, or `.HASH.dwcp-part`
 * (32 hex digits of BASE's XXH3-128) where that is longer than NAME_MAX. */
void store_part_name(char out[NAME_MAX + 1], const char *base);

/*
 * openat2(2) below dirfd: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS, close-on-exec. `mode` matters with
 * O_CREAT only. Returns the descriptor or -errno; a symbolic link anywhere in path gives -ELOOP.
 */
int store_open_at(int dirfd, const char *path, int flags, uint32_t mode);

/* Opens (O_PATH) the folder that holds `name`; makes what is missing of it (0755 & ~umask). -errno on failure. */
int store_open_parent(int root, const char *name);

/* Flushes the folders from root down to the one that holds `name`. 0 or -errno. */
int store_sync_parents(int root, const char *name);

/* chmod(2) of what an O_PATH descriptor names. 0 or -errno. */
int store_chmod_path(int path_fd, uint32_t mode);

/* "cannot WHAT NAME: reason; remedy"; returns code. */
int store_fail(struct err *e, int code, const char *what, const char *name);

#endif

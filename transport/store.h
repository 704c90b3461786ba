/* SPDX-License-Identifier: MIT */
/*
 * The receiver's file store: files arrive as blocks in any order, and take
 * their name only when they are whole.
 *
 * A file NAME is written to `.NAME.dwcp-part` in NAME's own folder and renamed
 * when store_finish is called, so that a reader sees the old file or the new
 * one and nothing between. An interrupted transfer leaves the part file;
 * the next one with `resume` goes on from it.
 *
 * Names come from a peer. They are relative, '/'-separated, at most
 * STORE_NAME_MAX-1 bytes, each component at most NAME_MAX (else -ENAMETOOLONG); empty
 * components, ".", "..", a leading '/', control characters and components that
 * end in ".dwcp-part" are refused (-EINVAL), and every open is by
 * openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS, mount points may be crossed) below the
 * store's folder, so a symbolic link inside the store is never followed (-ELOOP). Any other byte is taken as it is.
 * Where `.NAME.dwcp-part` would be longer than NAME_MAX, a hash of NAME stands for it.
 *
 * Threads: begin, hash, finish, abandon of one file from one thread at a time;
 * store_write from any number of threads between begin and finish. Different
 * files are independent. A file in progress holds two descriptors (three while store_prepare copies), a folder none.
 *
 * A write beyond `ulimit -f` is -EFBIG only where SIGXFSZ is ignored: the program sees to that.
 */
#ifndef DWCP_TRANSPORT_STORE_H
#define DWCP_TRANSPORT_STORE_H

#include "base/digest.h"
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STORE_NAME_MAX 2048
#define STORE_NAME_SHOWN 112 /* a buffer for store_name_show */
/* Resume compares blocks of this size. */
#define STORE_BLOCK (1u << 20)

enum store_kind { STORE_FILE, STORE_DIR }; /* values travel on the wire */

struct store_spec {
	char name[STORE_NAME_MAX];
	uint8_t kind;
	bool resume;
	uint32_t mode; /* permission bits; set-uid, set-gid and sticky are dropped */
	uint64_t size;
	int64_t mtime_s;
	uint32_t mtime_ns;   /* < 1,000,000,000 */
	uint64_t data_bytes; /* bytes that will be sent at most (size less holes): checked against free space */
};

struct store;
struct store_file;

/* Opens the folder (must exist and be writable). */
int store_open(struct store **out, const char *dir, struct err *e);
/* NULL is fine; all files must be finished or abandoned. Gives folders that were made writable and never finished their
 * modes back. */
void store_close(struct store *s);

/* Checks a name as described above. */
int store_name_check(const char *name, struct err *e);

/* A name or path for a message: the middle of a long one becomes "...". cap >= 16. Returns buf. */
char *store_name_show(char *buf, size_t cap, const char *name);

/*
 * Starts to receive one entry; parent folders are made (0755 & ~umask). STORE_DIR makes the folder
 * (an existing one is fine and is made writable for its owner); its mode and times are set by store_finish, so
 * folders are finished after what is in them, deepest first.
 * Without resume an old part file is truncated. With resume and a part file that is not empty, *have is the part's
 * size, at most spec->size; with resume, no part file and an existing complete NAME that can be read, *have is NAME's
 * size, at most spec->size, and NAME is compared in place: no part file is made before store_prepare; else 0. Bytes below *have may hold anything: the caller compares them by store_hash, and writes zeros
 * where the new file has a hole and the part has not. Bytes from *have on read as zeros.
 * Two receivers of one NAME at once: the second gets -EBUSY (flock on the part file).
 * An existing NAME that is a folder (or the other way round): -EISDIR / -ENOTDIR; a symbolic link: -ELOOP; a
 * device, socket or fifo: -EEXIST. Not enough free space for data_bytes less what the part already holds: -ENOSPC.
 * Sets the part file's size (sparse).
 */
int store_begin(struct store *s, const struct store_spec *spec, struct store_file **out, uint64_t *have, struct err *e);

/* To be called before the first store_write of a file whose *have was not 0: where NAME is compared in place, the part is
 * made of a copy of it (reflink or copy_file_range), which may take its time: not for a thread that serves connections,
 * nor while anybody writes. Errors as store_begin's, and -ESTALE when NAME changed meanwhile; the handle stays as it was. */
int store_prepare(struct store_file *f, struct err *e);

/* Writes whole or fails (-ENOSPC, -EIO, -EFBIG…; -EINVAL outside the file's size or without a part). Data path: no log, no
 * allocation. */
int store_write(struct store_file *f, const void *data, uint32_t len, uint64_t offset);

/* Bytes that store_write has written through this handle, what came twice counted twice. */
uint64_t store_written(const struct store_file *f);

/* XXH3-128 of blocks first … first+n-1 (STORE_BLOCK each, the last may be shorter) as they are in the part. */
int store_hash(struct store_file *f, uint64_t first, uint32_t n, struct digest128 *out, struct err *e);

/* Sets mode and modification time, with `sync` flushes data and folders to disk, renames. Without, the data is flushed
 * only where NAME exists already, so that a power loss leaves the old file or the new one; a NAME that is new may be
 * missing, short or full of zeros after one. Where NAME was compared in place and nothing was written, NAME stays, and only
 * a mode or time that differs is set; -ESTALE when it changed meanwhile. The handle is gone afterwards, on error too: the part file then stays, but
 * after a failed flush, of which no later one would tell. -ESTALE: another process has removed or replaced the part
 * file. Errors name the file. Owner and access time are not kept. */
int store_finish(struct store_file *f, bool sync, struct err *e);

/* Of several files that will be finished together: gives them their modes and times and flushes what store_finish with
 * this `sync` would flush, many at once, so that the file system commits them together. Each may be NULL. What fails is told by
 * that file's store_finish, which must be the next call about it, or store_abandon. */
void store_settle(struct store_file *const *files, uint32_t n, bool sync);

/* Gives up: the part file stays for a later resume if keep and it holds anything: written, by this handle or an earlier one
 * that it resumed, or copied (not cloned) from NAME; else it is removed. A folder stays, and with keep it
 * stays writable until it is begun again and finished, or the store is closed: then, and without keep, a folder that
 * was there before gets its mode back. A process that is killed gives none back: the next transfer of that folder does. */
void store_abandon(struct store_file *f, bool keep);

const char *store_file_name(const struct store_file *f);

#endif

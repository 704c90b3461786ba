/* SPDX-License-Identifier: MIT */
/*
 * The sender's files: walks the operands of `dwcp send`, keeps holes, reads
 * blocks for the workers, notices a file that changes while it is sent.
 *
 * Below an operand every open is by openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS), as in the store: who
 * swaps a folder for a link while it is sent cannot make the sender read elsewhere.
 */
#ifndef DWCP_TRANSPORT_SOURCE_H
#define DWCP_TRANSPORT_SOURCE_H

#include "base/err.h"
#include "transport/store.h"
#include <stdbool.h>
#include <stdint.h>

/* One thing to send, as it was when it was listed. */
struct source_entry {
	const char *name;    /* there: relative to the store; the end of path */
	uint64_t size;       /* 0 for a folder */
	uint64_t data_bytes; /* size less holes */
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint32_t mode;
	uint32_t operand_len; /* so many bytes of path are the operand; the rest is below it */
	uint32_t kind;        /* enum store_kind */
	char path[];          /* here */
};

/* What is not sent, and why. */
struct source_left {
	bool failed;      /* it should have been */
	const char *name; /* there: as a source_entry's */
	const char *why;  /* "is a symbolic link"; of what failed a sentence with its name */
	char path[];
};

struct source_list {
	struct source_entry **v; /* parents before children, the same order each time */
	uint64_t n, cap;
	uint64_t total_bytes; /* of data (holes not counted) */
	/* Not sent: symbolic links, devices, sockets, fifos, unfinished part files, what vanished while it was
	 * listed. The first ten are warned about by name, the others by their number. */
	uint64_t skipped;
	/* Not sent, and should have been: what lies below an operand and cannot be read, or has a name that no store takes.
	 * Each is told as an error. */
	uint64_t failed;
	struct source_left **left; /* both, in the order in which they were found: skipped + failed of them */
	uint64_t left_cap;
};

/*
 * Walks the operands: a file is sent under its base name; a folder needs
 * `recursive` (else -EISDIR naming -r) and is sent with its name (a last component "." or ".." sends the
 * contents). Symbolic links given as operands are followed, those inside folders are skipped. Two
 * operands that would get the same name there: -EEXIST. An operand that is missing, unreadable or neither file nor
 * folder is an error that names it; what cannot be read or named inside a folder is counted, and the rest is listed.
 * Fills e and frees everything on error.
 */
int source_walk(struct source_list *l, char *const *operands, int n, bool recursive, struct err *e);
void source_list_free(struct source_list *l);

struct source_extent {
	uint64_t offset, len;
};

/* An open file: as it is now, which may be other than when it was listed. */
struct source_file {
	int fd;
	const struct source_entry *entry;
	uint64_t dev, ino, size, data_bytes;
	int64_t mtime_s, ctime_s;
	uint32_t mtime_ns, ctime_ns, mode;
};

/* Opens a file. -ESTALE when it is no file any more. A file that was written to within the last 10 ms is waited
 * for that long, so that no later write can hide in the same tick of the file system's clock. */
int source_open(struct source_file *f, const struct source_entry *entry, struct err *e);
void source_close(struct source_file *f); /* twice is fine */

/* What the receiver is told. f: the entry opened, whose size, mode and time count; NULL for a folder. */
void source_spec(const struct source_entry *entry, const struct source_file *f, bool resume, struct store_spec *out);

/* A file gives this many extents at most: where it has more, the shortest holes are sent as zeros. */
#define SOURCE_EXTENTS_MAX 65536

/* Data extents by SEEK_DATA/SEEK_HOLE, ascending, not touching; a file system without them gives one extent.
 * *v is malloc'ed (NULL when *n is 0), the caller frees it. */
int source_extents(const struct source_file *f, struct source_extent **v, uint64_t *n, struct err *e);

/* 0 if the file is still what it was at open; -ESTALE (e says what changed) if not. A change of name, links or mode
 * counts as one; a write through a mapping may be seen late. */
int source_unchanged(const struct source_file *f, struct err *e);

/* Reads exactly len bytes; -ESTALE when the file has become shorter. Data path: no log, no allocation. */
int source_read(const struct source_file *f, void *out, uint32_t len, uint64_t offset);

#endif

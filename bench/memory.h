/* SPDX-License-Identifier: MIT */
/*
 * Memory to compress: an image of a guest from a file (bench/image.sh makes such), or synthetic memory of a stated kind.
 *
 * Synthetic memory is made by seed and is the same everywhere. Its text comes from no file: it is a chain of words, half
 * of them one of 4 habits of the word before, the others drawn by Zipf's law from 8,192 made-up words, in sentences; one
 * paragraph of six is lines of a log instead. In 256 KB it shrinks to what prose and logs shrink to (LZ4 1.7 ×, zstd-1
 * 2.6 ×, zstd-19 3.3 ×); a manual page or a licence shrinks further.
 */
#ifndef DWCP_BENCH_MEMORY_H
#define DWCP_BENCH_MEMORY_H

#include "base/err.h"
#include "base/hugebuf.h"
#include <stdint.h>

#define MEMORY_PAGE 4096u

enum memory_kind {
	MEMORY_ZEROS,
	MEMORY_TEXT,
	MEMORY_RANDOM,
	MEMORY_VM,    /* pages: 60 % zeros, 30 % text, 10 % random, in runs of 1 to 64 */
	MEMORY_MIXED, /* every page a quarter each zeros and random, half text */
	MEMORY_KINDS
};
extern const char *const memory_kind_names[MEMORY_KINDS + 1];

struct memory {
	struct hugebuf buf;
	uint8_t *data;
	uint64_t bytes;
	char name[256]; /* the file, or "synthetic KIND" */
};

/* most: 0, or pieces of 1 MB from all over the file, in order, so many bytes in all. Not readable, not a regular file,
 * empty, not whole pages: an error that says so. */
int memory_load(struct memory *m, const char *path, uint64_t most, struct err *e);
int memory_make(struct memory *m, enum memory_kind kind, uint64_t bytes, uint64_t seed, struct err *e);
/* A copy that the caller changes. */
int memory_copy(struct memory *m, const struct memory *from, struct err *e);
void memory_free(struct memory *m); /* any state */

/* Changes `share` (0…1) of the pages, one at least: in each, 1 to 32 aligned words of 8 bytes, half of them counted up, half
 * of them new. Returns how many pages. */
uint64_t memory_dirty(struct memory *m, double share, uint64_t seed);

/* Writes so many bytes and gives them back: pages that the kernel, or a virtual machine's host, has to find first are charged
 * to whoever takes them. */
int memory_warm(uint64_t bytes, struct err *e);

#endif

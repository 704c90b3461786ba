/* SPDX-License-Identifier: MIT */
/*
 * Private to checkpoint*.c: the file of one checkpoint (docs/CHECKPOINT.md), written and read block by block.
 *
 *   head │ block head, payload │ … │ block head, payload of CKPT_END
 *
 * Little-endian. Every block head has a CRC and its payload's sum, the end has the sum of the head and all block heads: so a
 * file is whole, or the reader says at which byte it is not. The reader is sans I/O and trusts nothing.
 */
#ifndef DWCP_MIGRATE_CHECKPOINT_FILE_H
#define DWCP_MIGRATE_CHECKPOINT_FILE_H

#include "base/digest.h"
#include "compress/hde.h"
#include "migrate/checkpoint.h"
#include "migrate/pages.h"
#include <sys/types.h>

#define CKPT_VERSION 1
#define CKPT_HEAD 256u
#define CKPT_BLOCK_HEAD 32u
#define CKPT_END_BYTES 48u
#define CKPT_PAYLOAD_MAX (PAGES_CHUNK_MAX + PAGES_HEAD_MAX + HDE_OVERHEAD)

enum ckpt_type {
	CKPT_PAGES = 1, /* migrate/pages.h; a page that comes twice counts as it came last */
	CKPT_STATE,     /* the guest's, once */
	CKPT_END        /* struct ckpt_end; nothing follows */
};

struct ckpt_end {
	uint64_t blocks, bytes;  /* before it */
	uint64_t pages;          /* different ones */
	uint64_t sum;            /* XXH3-64 of the head and of the block heads before it */
	struct digest128 memory; /* XXH3-128 of the table of every page's XXH3-64, all of the guest's memory */
};

/* ---- head -------------------------------------------------------------------------------------- */

void ckpt_put_head(uint8_t out[CKPT_HEAD], const struct checkpoint_head *h);
/* 0; -EBADMSG; -EPROTO another version; -EINVAL other pages or an impossible guest. *why is static text. */
int ckpt_get_head(const uint8_t in[CKPT_HEAD], struct checkpoint_head *h, const char **why);

/* ---- reading ----------------------------------------------------------------------------------- */

/* Reads n bytes, less only at the end: how many, or -errno. */
typedef ssize_t (*ckpt_read_fn)(void *ctx, void *buf, size_t n);

struct ckpt_reader {
	struct sum_state sum;
	ckpt_read_fn read;
	void *ctx;
	uint8_t *payload; /* CKPT_PAYLOAD_MAX */
	struct checkpoint_head head;
	struct ckpt_end end; /* once it was read */
	uint64_t at, blocks;
	bool state, ended;
	const char *why; /* of a refusal, … */
	uint64_t why_at; /* …and its place: a byte of the file */
};

/* Reads the head. As ckpt_get_head, or the read's errno, or -ENOMEM. Close it in any case. */
int ckpt_reader_open(struct ckpt_reader *r, ckpt_read_fn read, void *ctx);
/* The next block, its sum right: its type, r->payload and *len are valid until the next call. 0: the end was read, and all of
 * the file is right. -EBADMSG: it is not. */
int ckpt_reader_next(struct ckpt_reader *r, size_t *len);
void ckpt_reader_close(struct ckpt_reader *r);

/* Where the pages of a file go. */
struct ckpt_memory {
	uint8_t *mem; /* zero where no page was placed */
	uint64_t len;
	uint64_t *have;      /* bit: the page was placed, by this file or one before */
	struct hde_dec *hde; /* of this file; made when it is needed */
};

/* Places the pages of a block. 0, -EBADMSG with *why, -ENOMEM. */
int ckpt_place(struct ckpt_memory *m, const void *payload, size_t len, const char **why);
void ckpt_memory_next(struct ckpt_memory *m); /* between files, and at the end */

/* XXH3-64 of every page into sums, and what struct ckpt_end says of it. */
struct digest128 ckpt_sum_memory(const uint8_t *mem, uint64_t pages, uint64_t *sums);

/* ---- a directory ------------------------------------------------------------------------------- */

#define CKPT_NAME 32
#define CKPT_NUMBER_MAX 99999999u

struct ckpt_dir {
	int fd;
	char path[4096];
};

int ckpt_dir_open(struct ckpt_dir *d, const char *path, struct err *e);
void ckpt_dir_close(struct ckpt_dir *d);
/* One writer or many readers; waits up to a minute for others. Closing it unlocks. */
int ckpt_dir_lock(struct ckpt_dir *d, bool writer, struct err *e);
void ckpt_dir_unlock(struct ckpt_dir *d);
/* Numbers of the checkpoints that are there, ascending; the caller frees them. */
int ckpt_dir_scan(const struct ckpt_dir *d, uint32_t **numbers, size_t *n, struct err *e);
int ckpt_dir_head(const struct ckpt_dir *d, uint32_t number, struct checkpoint_head *h, struct err *e);
/* What is needed for one checkpoint, the full one first; number 0: the newest. The caller frees it. */
int ckpt_dir_chain(const struct ckpt_dir *d, uint32_t number, struct checkpoint_head **chain, size_t *n, struct err *e);
void ckpt_name(char out[CKPT_NAME], uint32_t number);
/* Opens a checkpoint's file and its head. *fd is the caller's, and the reader, also after an error (-1: not opened). */
int ckpt_dir_read(const struct ckpt_dir *d, uint32_t number, int *fd, struct ckpt_reader *r, struct err *e);
/* Says in words what the reader, or ckpt_place, did not like. Returns rc. */
int ckpt_refused(const struct ckpt_dir *d, uint32_t number, int rc, const struct ckpt_reader *r, const char *why,
		 struct err *e);
/* Every block's sums, nothing is placed. */
int ckpt_dir_verify(const struct ckpt_dir *d, uint32_t number, struct err *e);

/* ---- writing ----------------------------------------------------------------------------------- */

/* A file that has its name only when it is whole and on the disk. */
struct ckpt_writer {
	struct sum_state sum;
	const struct ckpt_dir *dir;
	uint32_t number;
	int fd;
	uint64_t at, blocks;
};

int ckpt_writer_open(struct ckpt_writer *w, const struct ckpt_dir *d, const struct checkpoint_head *h, struct err *e);
int ckpt_writer_block(struct ckpt_writer *w, enum ckpt_type type, const void *payload, size_t len, struct err *e);
/* Writes the end (pages and memory of it are the caller's), then fsync, rename, fsync of the directory. */
int ckpt_writer_commit(struct ckpt_writer *w, struct ckpt_end *end, struct err *e);
void ckpt_writer_abort(struct ckpt_writer *w); /* any state; after commit it does nothing */

/* Pages on their way into a file. */
struct ckpt_pages {
	uint64_t len; /* the guest's memory */
	struct hde_enc *hde;
	uint8_t *snapshot, *out;
	uint64_t *sums; /* of every page, as written last */
	uint64_t zero_pages;
};

/* frozen: memory that does not change, or NULL. Fills e; close it in any case. */
int ckpt_pages_open(struct ckpt_pages *p, uint64_t len, const void *frozen, const struct hde_opts *hde, struct err *e);
void ckpt_pages_close(struct ckpt_pages *p);
/* Writes pages, ascending. from: page i of the list at i * GUEST_PAGE, or NULL: from mem, by their numbers. */
int ckpt_pages_write(struct ckpt_pages *p, struct ckpt_writer *w, const uint32_t *list, uint64_t n, const uint8_t *mem,
		     const uint8_t *from, const volatile sig_atomic_t *cancel, struct err *e);

#endif

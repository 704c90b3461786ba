/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints: a running guest's memory and state in a directory, from which it goes on in another process or on another
 * host. A full checkpoint holds all of it, an incremental one what was written since its base; so checkpoints form chains,
 * each beginning with a full one. The format is docs/CHECKPOINT.md.
 *
 *   00000001.ckpt  full          00000002.ckpt  base 1          00000003.ckpt  base 2 …
 *
 * A checkpoint has its name when it is whole and on the disk, and no name before: written beside it, fsync, rename, fsync of
 * the directory. Nothing is ever replaced but by checkpoint_merge, by the same checkpoint in one piece, in the same way.
 *
 * The guest stands still while what is still dirty is copied aside and its state is read; all else, also what is written
 * after that, happens while it runs. Threads: the caller's; every call blocks.
 */
#ifndef DWCP_MIGRATE_CHECKPOINT_H
#define DWCP_MIGRATE_CHECKPOINT_H

#include "base/hugebuf.h"
#include "compress/hde.h"
#include "migrate/dirty.h"
#include "migrate/message.h"
#include <signal.h>

struct checkpoint_head {
	uint32_t number;      /* 1 … */
	uint32_t base_number; /* 0: full */
	struct msg_guest_id id, base;
	uint64_t memory;
	uint64_t created_ns; /* since 1970 */
	char kind[GUEST_KIND_LEN];
	char name[GUEST_NAME_LEN];
};

/* ---- taking ------------------------------------------------------------------------------------ */

struct checkpoint;

struct checkpoint_config {
	struct guest *guest; /* running, until checkpoint_close; nobody else tracks it */
	const struct tracker_ops *tracker;
	const char *name; /* for people */
	const char *dir;  /* is there; one guest's */
	struct hde_opts hde;
	uint64_t aside; /* bytes that are copied within the pause at most; what is more is written within it */
	const volatile sig_atomic_t *cancel; /* non-zero: give the checkpoint under way up; may be NULL */
};

struct checkpoint_pause {
	uint64_t stop_ns, look_ns, copy_ns, state_ns, run_ns;
};

struct checkpoint_result {
	uint32_t number, base_number;
	uint64_t pages;        /* different ones in the file */
	uint64_t live_pages;   /* written while the guest ran, before the pause; some of them again after it */
	uint64_t paused_pages; /* copied aside, or written, within the pause */
	uint64_t zero_pages, bytes;
	uint64_t pause_ns;     /* from the request to pause to the guest running again… */
	uint64_t pause_cpu_ns; /* …of which the calling thread computed: the rest others took, or the guest to stop */
	struct checkpoint_pause parts;
	uint64_t write_ns, sync_ns, total_ns; /* the guest running; total has the pause */
	uint64_t writes;                      /* the guest's count when it stood still */
	bool overflow; /* more was dirty than fits aside: some of it was written within the pause */
};

/* Begins to track. Fills e; on error nothing is left. */
int checkpoint_open(struct checkpoint **out, const struct checkpoint_config *cfg, struct err *e);
void checkpoint_close(struct checkpoint *c); /* the guest goes on; NULL is fine */

/* Takes one: the first is full, later ones when `full` says so. On failure the directory is as it was, the guest runs, and
 * the next checkpoint holds what this one would have. -EBUSY: another guest's checkpoints came between. */
int checkpoint_take(struct checkpoint *c, bool full, struct checkpoint_result *r, struct err *e);

const struct tracker_cost *checkpoint_tracking(const struct checkpoint *c);

/* ---- restoring --------------------------------------------------------------------------------- */

struct checkpoint_image {
	struct checkpoint_head head;
	struct hugebuf mem; /* the guest's; outlives it */
	uint8_t state[GUEST_STATE_MAX];
	uint32_t state_len;
	struct digest128 memory;
	uint32_t files; /* that it was made of */
	uint64_t bytes; /* of these */
	uint64_t ns;    /* to read and check them */
};

/* Reads a checkpoint (number 0: the newest) with all it builds on, and proves that memory is what it was. An error names
 * the newest checkpoint that is whole. Nothing is left on error. */
int checkpoint_load(const char *dir, uint32_t number, struct checkpoint_image *out, struct err *e);
void checkpoint_image_free(struct checkpoint_image *im); /* after the guest was closed; zeroed is fine */
/* Makes the guest, paused, in the image's memory. */
int checkpoint_restore(struct checkpoint_image *im, struct guest **out, struct err *e);

/* ---- a directory ------------------------------------------------------------------------------- */

struct checkpoint_info {
	struct checkpoint_head head;
	uint64_t bytes;
	bool readable; /* head is valid */
	int status;    /* 0: it and all it builds on are whole */
	struct err why;
};

/* All of them, by number; verified to the last byte. The caller frees *out. */
int checkpoint_list(const char *dir, struct checkpoint_info **out, size_t *n, struct err *e);

struct checkpoint_merged {
	uint32_t number, files; /* files: that it was made of; 1: it was full, nothing was done */
	uint64_t bytes_before, bytes;
};

/* Makes a checkpoint (number 0: the newest) full, in its place, and then removes those that it was made of. Later ones build
 * on it as before; a running checkpoint_take may come between. Needs memory for the guest. */
int checkpoint_merge(const char *dir, uint32_t number, const struct hde_opts *hde, struct checkpoint_merged *r,
		     struct err *e);

#endif

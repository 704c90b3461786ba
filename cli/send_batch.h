/* SPDX-License-Identifier: MIT */
/* Private to send_*.c: the files that are open here and there at one time. */
#ifndef DWCP_CLI_SEND_BATCH_H
#define DWCP_CLI_SEND_BATCH_H

#include "cli/send_files.h"

/* A reply holds a status and a text for each file, and must fit into WIRE_CTL_MAX. */
#define BATCH_FILES 224
/* A transfer that one file ends is done again without it, and without what is whole there. */
#define BATCH_BYTES ((uint64_t)1 << 30)
#define BATCH_EXTENTS 131072

struct batch_item {
	const struct source_entry *entry;
	uint64_t index;          /* in the list */
	struct source_file file; /* zero for a folder */
	struct source_extent *data;
	uint64_t n_data;
	uint64_t have;        /* bytes over there that may be equal */
	uint64_t plan, equal; /* bytes to be sent, and not to be sent because they are there */
	uint64_t acked;       /* of the plan, in the transfer under way or the last one; atomic */
	int status;           /* 0, or why it cannot be sent; reported already, unless it is… */
	bool later;           /* …refused for want of descriptors there: another try may be better */
	int read_error;       /* of a worker */
};

struct batch {
	struct batch_item v[BATCH_FILES];
	uint32_t n;
	uint64_t bytes, extents;
	size_t request; /* bytes of the FILES_OPEN request so far */

	struct amst_extent *ext; /* the transfer's */
	uint64_t n_ext, cap_ext;
	uint8_t *scratch; /* WIRE_CTL_MAX bytes */
	uint8_t *block;   /* STORE_BLOCK bytes */
	bool zero_known;
	struct digest128 zero; /* of STORE_BLOCK zeros, once known */
};

int batch_alloc(struct batch *b, struct err *e);
void batch_free(struct batch *b);  /* any state */
void batch_clear(struct batch *b); /* closes what is open here */

/* Its plan is there, as far as is known here. */
static inline bool batch_item_whole(const struct batch_item *it)
{
	return __atomic_load_n(&it->acked, __ATOMIC_RELAXED) >= it->plan;
}

bool batch_has_room(const struct batch *b, const struct source_entry *entry);
/* Opens it here. An error of this entry is its own: the batch stays as it was. */
int batch_add(struct batch *b, const struct source_entry *entry, uint64_t index, struct err *e);

/* Reports a file that cannot be sent. text: one line that holds its name. */
void batch_report(struct send_job *job, struct batch_item *it, int status, const char *text);

/* FILES_OPEN; entries refused there are reported. <0: the session is lost. */
int batch_open(struct send_job *job, struct batch *b, bool resume, struct err *e);
/* Decides what must be sent, after comparing what is there. <0: the session is lost, or no memory. */
int batch_plan(struct send_job *job, struct batch *b, struct err *e);
/* FILES_CLOSE, complete where status is 0. folders: these, too. <0: the session is lost. */
int batch_close(struct send_job *job, struct batch *b, bool folders, struct err *e);

#endif

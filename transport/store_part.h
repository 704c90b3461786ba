/* SPDX-License-Identifier: MIT */
/*
 * The part file of a file that is being received: found or made, locked, filled
 * from what can be resumed, checked for room. Internal to the store.
 */
#ifndef DWCP_TRANSPORT_STORE_PART_H
#define DWCP_TRANSPORT_STORE_PART_H

#include "base/err.h"
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define PART_MODE 0600u

struct part {
	int parent;      /* O_PATH of the folder that it is in; -1: none */
	int fd;          /* locked; -1: none */
	int old;         /* NAME as it is, to be compared in place while there is no part; -1: not */
	struct stat was; /* of old, when it was opened */
	uint64_t size, data_bytes;
	const char *name; /* the whole name below the store, the caller's memory */
	const char *base; /* its last component */
	bool worth;       /* holds bytes that are worth a resume; set by any writing thread */
	uint64_t written; /* bytes, by any writing thread */
	char file[NAME_MAX + 1];
};

/* The part of `name`, not open yet: part_close is fine from here on. */
struct part part_of(const char *name);

/* As store_begin describes. On error only part_close is allowed; what is not worth a resume is removed. */
int part_begin(struct part *p, int root, uint64_t size, uint64_t data_bytes, bool resume, uint64_t *have,
	       struct err *e);

/* Where NAME is compared in place: makes the part, of a copy of NAME. Else, and the second time, there is nothing to do. */
int part_make(struct part *p, struct err *e);

/* 1 when NAME, compared in place, can stay: it is of the right size, ours, and still what was opened. 0: it needs a part.
 * -ESTALE: it changed meanwhile. */
int part_old_stays(const struct part *p);

/* 1 when the part's name still leads to the file that is held, 0 when not, or -errno. */
int part_is_ours(const struct part *p);

/* Removes the part's name, if it still leads to the file that is held. */
void part_remove(const struct part *p);

void part_close(struct part *p);

#endif

/* SPDX-License-Identifier: MIT */
/* What the store's own files share. */
#ifndef DWCP_TRANSPORT_STORE_IMPL_H
#define DWCP_TRANSPORT_STORE_IMPL_H

#include "transport/store.h"
#include "transport/store_part.h"
#include <pthread.h>
#include <time.h>

struct widened;

struct store {
	int root;
	pthread_mutex_t lock;
	struct widened *widened; /* the latest first, so that what is inside comes before what it is in */
};

struct store_file {
	struct store *store;
	struct part part; /* not open for a folder */
	uint8_t kind;
	bool zero_known;
	uint32_t mode;
	uint64_t size;
	struct timespec mtime;
	bool settled;
	int settle_rc; /* when settled, with settle_err */
	struct err settle_err;
	struct digest128 zero; /* of STORE_BLOCK zeros, once known */
	uint8_t *block;        /* store_hash's buffer, made on first use */
	char name[];
};

/* store_finish of a file; the handle stays. */
int store_finish_file(struct store_file *f, bool sync, struct err *e);

#endif

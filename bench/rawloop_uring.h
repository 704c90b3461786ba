/* SPDX-License-Identifier: MIT */
/*
 * The yardstick: what one thread moves over TCP sockets with io_uring when it does nothing else. Chunks of one region
 * go out, chunks come in wherever the cursor stands: no frame, no placement, no checksum, no credit.
 */
#ifndef DWCP_BENCH_RAWLOOP_URING_H
#define DWCP_BENCH_RAWLOOP_URING_H

#include "base/util.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct raw_stream {
	int fd; /* connected; the caller's */
	char *at;
	size_t left;
};

struct raw_worker {
	bool receive;
	char *base; /* this worker's part of the region, a multiple of chunk; its streams share the cursor */
	size_t len, cursor;
	size_t chunk;
	struct raw_stream *streams;
	unsigned n_streams;
	const bool *stop; /* senders only: set by another thread */

	cacheline_aligned uint64_t bytes; /* written by the worker, read by others, atomics */
	bool ended;                       /* likewise */
};

/* Runs in its own thread until *stop (sender; shuts its streams down) or the end of every stream (receiver). */
int raw_worker_run(struct raw_worker *w);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The stage contract: how a chunk becomes the payload of a message and comes
 * back. AMST calls it in the worker that sends or received the chunk. Through it meet the transport
 * and what it must not know: files (pread/pwrite) now, HDE (compression, delta) later.
 *
 * A chunk without a stage is a raw put from region to region.
 */
#ifndef DWCP_BASE_STAGE_H
#define DWCP_BASE_STAGE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct stage_chunk {
	uint32_t object; /* what it belongs to: a region or file number of this session */
	uint32_t len;    /* bytes when decoded */
	uint64_t offset; /* in the object */
};

/*
 * encode: writes the payload of `c` to out (cap bytes, at least c->len plus
 *   `overhead`); returns its length (0 is allowed) or -errno, which ends the transfer.
 * decode: takes the payload of `len` bytes back and places it. Data is
 *   hostile: every length, offset and object is checked. Returns 0 or
 *   -errno; -EBADMSG asks the sender to send the chunk again, any other ends the transfer.
 * Both run in worker threads: `worker` (0…) tells which, one call at a time
 * per worker, several workers at once. No allocation, no lock, no log.
 */
struct stage_ops {
	const char *name;
	uint32_t overhead; /* most bytes by which a payload may be longer than its chunk */
	ssize_t (*encode)(void *stage, unsigned worker, const struct stage_chunk *c, void *out, size_t cap);
	int (*decode)(void *stage, unsigned worker, const struct stage_chunk *c, const void *in, size_t len);
};

struct stage {
	const struct stage_ops *ops;
	void *ctx;
};

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The stage contract: how a chunk becomes the payload of a message and comes
 * back. AMST calls it in the worker that sends or received the chunk. Through it meet the transport
 * and what it must not know: files (pread/pwrite) now, HDE (compression, delta) later.
 *
 * A chunk without a stage is a raw put from region to region.
 *
 * A stage may be a *filter*'s: what makes payloads smaller on one side and undoes it on the other. Who sends names the
 * filter when the transfer begins; who receives looks the name up among those it was given. The transport knows
 * nothing else of it.
 */
#ifndef DWCP_BASE_STAGE_H
#define DWCP_BASE_STAGE_H

#include "base/err.h"
#include <limits.h>
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
 *   `overhead`); returns its length (0 is allowed) or -errno, which ends the transfer. STAGE_PUT, where the transfer has
 *   memory besides its stage: the chunk goes as a raw put.
 * decode: takes the payload of `len` bytes back and places it. Data is
 *   hostile: every length, offset and object is checked. Returns 0 or
 *   -errno; -EBADMSG asks the sender to send the chunk again, any other ends the transfer.
 * acked (may be NULL): the receiver has placed the chunk, for which `wire` bytes of payload went over the link.
 * placed (NULL: puts are not taken): at the receiver, a chunk of the transfer came as a raw put and is right.
 * All run in worker threads: `worker` (0…) tells which, one call at a time
 * per worker, several workers at once. No allocation, no lock, no log.
 */
#define STAGE_PUT ((ssize_t)SSIZE_MAX)

struct stage_ops {
	const char *name;
	const char *filter; /* what has to undo it over there, FILTER_NAME at most; NULL: nothing, or both ends know */
	uint32_t overhead;  /* most bytes by which a payload may be longer than its chunk */
	ssize_t (*encode)(void *stage, unsigned worker, const struct stage_chunk *c, void *out, size_t cap);
	int (*decode)(void *stage, unsigned worker, const struct stage_chunk *c, const void *in, size_t len);
	void (*acked)(void *stage, unsigned worker, const struct stage_chunk *c, uint64_t wire);
	void (*placed)(void *stage, unsigned worker, const struct stage_chunk *c);
};

struct stage {
	const struct stage_ops *ops;
	void *ctx;
};

/* ---- filters ----------------------------------------------------------------------------------- */

#define FILTER_NAME 16 /* bytes of a name, NUL included */

/* Where a filter's decoder puts things: memory by number, or bytes of files. */
struct filter_target {
	void *ctx;
	unsigned objects; /* numbers are below this */
	/* The region of that number and its length, or NULL. write NULL: everything is memory. */
	void *(*memory)(void *ctx, uint32_t object, uint64_t *len);
	int (*write)(void *ctx, uint32_t object, const void *data, uint32_t len, uint64_t offset); /* 0 or -errno */
};

/* The receiving half. open: all memory is taken here; out->ops->decode (and placed) are called as above. What it knows
 * of a region lasts until close: one opened once serves many transfers. */
struct filter {
	const char *name;
	int (*open)(struct stage *out, const struct filter_target *to, unsigned workers, struct err *e);
	void (*close)(struct stage *s); /* zeroed is fine */
};

#endif

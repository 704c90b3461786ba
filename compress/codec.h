/* SPDX-License-Identifier: MIT */
/*
 * The codecs of HDE: rows of one table. A codec turns a block of at most
 * CODEC_BLOCK_MAX bytes into another and back; it knows nothing of pages.
 *
 * A context belongs to one worker. It holds the state of every codec, allocated
 * when it is opened: encode and decode allocate nothing. The vendors' headers are
 * included in codec_*.c and dict.c only.
 */
#ifndef DWCP_COMPRESS_CODEC_H
#define DWCP_COMPRESS_CODEC_H

#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CODEC_BLOCK_MAX (256u << 10) /* bytes of a decoded block, at most */

/* Values travel on the wire: do not renumber. */
enum codec_id { CODEC_RAW, CODEC_LZ4, CODEC_ZSTD, CODEC_SNAPPY, CODEC_GZIP, CODECS };

struct codec_ctx; /* one worker's */
struct dict;      /* compress/dict.h */

/* What both sides have besides the block. A dictionary's level is its own. */
struct codec_base {
	const struct dict *dict;
};

struct codec {
	const char *name; /* "raw", "lz4", "zstd", "snappy", "gzip" */
	int level_min, level_max, level_default;
	bool takes_base; /* base below may be given; NULL otherwise */

	/* Writes the encoded block to out. Returns its length, or 0 when that would be more than cap (which may be
	 * less than n: "not smaller" is found out early). Never fails otherwise. level is within the row's range. */
	size_t (*encode)(struct codec_ctx *c, int level, const struct codec_base *base, const void *in, size_t n,
			 void *out, size_t cap);
	/* Decodes hostile bytes into exactly n bytes of out, with exactly len bytes used. 0 or -EBADMSG; out is
	 * scratch: what it holds after an error is undefined, but nothing outside out[0…n) is written. */
	int (*decode)(struct codec_ctx *c, const struct codec_base *base, const void *in, size_t len, void *out,
		      size_t n);
};

extern const struct codec *const codecs[CODECS];

/* encodes, decodes: which halves are needed. level_max: the highest zstd level that will be asked for (memory: 1.5 MB
 * at 3, 6 MB at 19). -ENOMEM with e filled. */
int codec_open(struct codec_ctx **out, bool encodes, bool decodes, int level_max, struct err *e);
void codec_close(struct codec_ctx *c); /* NULL is fine */

/* A row by name; CODECS when there is none. */
enum codec_id codec_by_name(const char *name);

#endif

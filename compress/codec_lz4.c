/* SPDX-License-Identifier: MIT */
#include "compress/codec_impl.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>

int codec_lz4_open(struct codec_ctx *c)
{
	c->lz4 = aligned_alloc(64, (size_t)(LZ4_sizeofState() + 63) / 64 * 64);
	return c->lz4 ? 0 : -ENOMEM;
}

void codec_lz4_close(struct codec_ctx *c)
{
	free(c->lz4);
}

static size_t encode(struct codec_ctx *c, int level, const struct codec_base *base, const void *in, size_t n, void *out,
		     size_t cap)
{
	(void)base;
	return (size_t)LZ4_compress_fast_extState(c->lz4, in, out, (int)n, (int)cap, level);
}

static int decode(struct codec_ctx *c, const struct codec_base *base, const void *in, size_t len, void *out, size_t n)
{
	(void)c;
	(void)base;
	if (len > (size_t)LZ4_COMPRESSBOUND(CODEC_BLOCK_MAX) || n > CODEC_BLOCK_MAX)
		return -EBADMSG;
	return LZ4_decompress_safe(in, out, (int)len, (int)n) == (int)n ? 0 : -EBADMSG;
}

const struct codec codec_lz4 = {
	.name = "lz4",
	.level_min = 1,
	.level_max = 64,
	.level_default = 1,
	.encode = encode,
	.decode = decode,
};

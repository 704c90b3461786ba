/* SPDX-License-Identifier: MIT */
/* zlib's deflate without a wrapper: for comparison. */
#include "compress/codec_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>

#define WINDOW_BITS (-15) /* raw deflate: a block has its own checksum */

struct codec_gzip {
	z_stream enc, dec;
	bool encodes, decodes;
};

int codec_gzip_open(struct codec_ctx *c, bool encodes, bool decodes)
{
	struct codec_gzip *g = c->gzip = calloc(1, sizeof *g);

	if (!g)
		return -ENOMEM;
	if (encodes) {
		if (deflateInit2(&g->enc, 6, Z_DEFLATED, WINDOW_BITS, 8, Z_DEFAULT_STRATEGY) != Z_OK)
			return -ENOMEM;
		g->encodes = true;
	}
	if (decodes) {
		if (inflateInit2(&g->dec, WINDOW_BITS) != Z_OK)
			return -ENOMEM;
		g->decodes = true;
	}
	return 0;
}

void codec_gzip_close(struct codec_ctx *c)
{
	if (!c->gzip)
		return;
	if (c->gzip->encodes)
		deflateEnd(&c->gzip->enc);
	if (c->gzip->decodes)
		inflateEnd(&c->gzip->dec);
	free(c->gzip);
}

static size_t encode(struct codec_ctx *c, int level, const struct codec_base *base, const void *in, size_t n, void *out,
		     size_t cap)
{
	z_stream *z = &c->gzip->enc;

	(void)base;
	deflateReset(z);
	deflateParams(z, level, Z_DEFAULT_STRATEGY);
	z->next_in = (Bytef *)(uintptr_t)in;
	z->avail_in = (uInt)n;
	z->next_out = out;
	z->avail_out = (uInt)cap;
	return deflate(z, Z_FINISH) == Z_STREAM_END ? z->total_out : 0;
}

static int decode(struct codec_ctx *c, const struct codec_base *base, const void *in, size_t len, void *out, size_t n)
{
	z_stream *z = &c->gzip->dec;

	(void)base;
	inflateReset(z);
	z->next_in = (Bytef *)(uintptr_t)in;
	z->avail_in = (uInt)len;
	z->next_out = out;
	z->avail_out = (uInt)n;
	return inflate(z, Z_FINISH) == Z_STREAM_END && z->total_out == n && !z->avail_in ? 0 : -EBADMSG;
}

const struct codec codec_gzip = {
	.name = "gzip",
	.level_min = 1,
	.level_max = 9,
	.level_default = 6,
	.encode = encode,
	.decode = decode,
};

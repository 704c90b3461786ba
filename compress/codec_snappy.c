/* SPDX-License-Identifier: MIT */
/* For comparison: the library allocates its hash table in each call. */
#include "compress/codec_impl.h"

#include <errno.h>
#include <snappy-c.h>

static size_t encode(struct codec_ctx *c, int level, const struct codec_base *base, const void *in, size_t n, void *out,
		     size_t cap)
{
	size_t len = cap;

	(void)c;
	(void)level;
	(void)base;
	/* It wants room for its worst case. */
	if (snappy_max_compressed_length(n) > cap || snappy_compress(in, n, out, &len) != SNAPPY_OK)
		return 0;
	return len;
}

static int decode(struct codec_ctx *c, const struct codec_base *base, const void *in, size_t len, void *out, size_t n)
{
	size_t said = 0;

	(void)c;
	(void)base;
	if (snappy_uncompressed_length(in, len, &said) != SNAPPY_OK || said != n ||
	    snappy_uncompress(in, len, out, &said) != SNAPPY_OK || said != n)
		return -EBADMSG;
	return 0;
}

const struct codec codec_snappy = {
	.name = "snappy",
	.encode = encode,
	.decode = decode,
};

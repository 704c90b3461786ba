/* SPDX-License-Identifier: MIT */
/*
 * zstd in memory of our own: contexts of a size known beforehand, so that no call allocates. Frames have no magic, size,
 * checksum or dictionary id: the block's head says all that.
 */
#define ZSTD_STATIC_LINKING_ONLY
#include "base/util.h"
#include "compress/codec_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <zstd.h>

#define WINDOW_LOG_MAX 20 /* a block behind a dictionary, and some */

struct codec_zstd {
	void *enc_mem, *dec_mem;
	ZSTD_CCtx *enc;
	ZSTD_DCtx *dec;
	int level; /* set in enc */
};

/* The most that any block up to CODEC_BLOCK_MAX needs, with and without a dictionary. zstd chooses by size class. */
static size_t enc_bytes(int level_max)
{
	static const size_t sizes[] = { 16 << 10, 128 << 10, CODEC_BLOCK_MAX }, dicts[] = { 0, DICT_BYTES_MAX };
	size_t most = 0;

	for (int level = codec_zstd.level_min; level <= level_max; level++)
		for (unsigned i = 0; i < ARRAY_LEN(sizes) * ARRAY_LEN(dicts); i++)
			most = max_u64(most, ZSTD_estimateCCtxSize_usingCParams(ZSTD_getCParams(
						     level, sizes[i % ARRAY_LEN(sizes)], dicts[i / ARRAY_LEN(sizes)])));
	return most + 4096;
}

static size_t whole_lines(size_t n)
{
	return div_up_u64(n, CACHE_LINE) * CACHE_LINE;
}

int codec_zstd_open(struct codec_ctx *c, bool encodes, bool decodes, int level_max)
{
	struct codec_zstd *z = c->zstd = calloc(1, sizeof *z);

	if (!z)
		return -ENOMEM;
	if (encodes) {
		size_t n = whole_lines(enc_bytes(level_max > 1 ? level_max : 1));

		z->enc_mem = aligned_alloc(CACHE_LINE, n);
		z->enc = z->enc_mem ? ZSTD_initStaticCCtx(z->enc_mem, n) : NULL;
		if (!z->enc)
			return -ENOMEM;
		ZSTD_CCtx_setParameter(z->enc, ZSTD_c_format, ZSTD_f_zstd1_magicless);
		ZSTD_CCtx_setParameter(z->enc, ZSTD_c_contentSizeFlag, 0);
		ZSTD_CCtx_setParameter(z->enc, ZSTD_c_checksumFlag, 0);
		ZSTD_CCtx_setParameter(z->enc, ZSTD_c_dictIDFlag, 0);
		ZSTD_CCtx_setParameter(z->enc, ZSTD_c_compressionLevel, z->level = 1);
	}
	if (decodes) {
		size_t n = whole_lines(ZSTD_estimateDCtxSize());

		z->dec_mem = aligned_alloc(CACHE_LINE, n);
		z->dec = z->dec_mem ? ZSTD_initStaticDCtx(z->dec_mem, n) : NULL;
		if (!z->dec)
			return -ENOMEM;
		ZSTD_DCtx_setParameter(z->dec, ZSTD_d_format, ZSTD_f_zstd1_magicless);
		ZSTD_DCtx_setParameter(z->dec, ZSTD_d_windowLogMax, WINDOW_LOG_MAX);
	}
	return 0;
}

void codec_zstd_close(struct codec_ctx *c)
{
	if (!c->zstd)
		return;
	free(c->zstd->enc_mem);
	free(c->zstd->dec_mem);
	free(c->zstd);
}

static size_t encode(struct codec_ctx *c, int level, const struct codec_base *base, const void *in, size_t n, void *out,
		     size_t cap)
{
	struct codec_zstd *z = c->zstd;
	size_t len;

	if (level != z->level)
		ZSTD_CCtx_setParameter(z->enc, ZSTD_c_compressionLevel, z->level = level);
	if (base)
		ZSTD_CCtx_refCDict(z->enc, base->dict->cdict);
	len = ZSTD_compress2(z->enc, out, cap, in, n);
	if (base)
		ZSTD_CCtx_refCDict(z->enc, NULL);
	return ZSTD_isError(len) ? 0 : len;
}

static int decode(struct codec_ctx *c, const struct codec_base *base, const void *in, size_t len, void *out, size_t n)
{
	struct codec_zstd *z = c->zstd;
	size_t got;

	if (base)
		ZSTD_DCtx_refDDict(z->dec, base->dict->ddict);
	got = ZSTD_decompressDCtx(z->dec, out, n, in, len);
	if (base)
		ZSTD_DCtx_refDDict(z->dec, NULL);
	return got == n ? 0 : -EBADMSG;
}

const struct codec codec_zstd = {
	.name = "zstd",
	.level_min = -5,
	.level_max = 19,
	.level_default = 3,
	.takes_base = true,
	.encode = encode,
	.decode = decode,
};

/* SPDX-License-Identifier: MIT */
#include "compress/codec_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static size_t raw_encode(struct codec_ctx *c, int level, const struct codec_base *base, const void *in, size_t n,
			 void *out, size_t cap)
{
	(void)c;
	(void)level;
	(void)base;
	if (n > cap)
		return 0;
	memcpy(out, in, n);
	return n;
}

static int raw_decode(struct codec_ctx *c, const struct codec_base *base, const void *in, size_t len, void *out,
		      size_t n)
{
	(void)c;
	(void)base;
	if (len != n)
		return -EBADMSG;
	memcpy(out, in, n);
	return 0;
}

const struct codec *const codecs[CODECS] = {
	[CODEC_RAW] = &(const struct codec){ .name = "raw", .encode = raw_encode, .decode = raw_decode },
	[CODEC_LZ4] = &codec_lz4,
	[CODEC_ZSTD] = &codec_zstd,
	[CODEC_SNAPPY] = &codec_snappy,
	[CODEC_GZIP] = &codec_gzip,
};

enum codec_id codec_by_name(const char *name)
{
	unsigned i = 0;

	while (i < CODECS && strcmp(codecs[i]->name, name))
		i++;
	return (enum codec_id)i;
}

int codec_open(struct codec_ctx **out, bool encodes, bool decodes, int level_max, struct err *e)
{
	struct codec_ctx *c = calloc(1, sizeof *c);
	int rc = c ? 0 : -ENOMEM;

	if (rc == 0 && encodes)
		rc = codec_lz4_open(c);
	if (rc == 0)
		rc = codec_zstd_open(c, encodes, decodes, level_max);
	if (rc == 0)
		rc = codec_gzip_open(c, encodes, decodes);
	if (rc < 0) {
		codec_close(c);
		return err_set(e, rc, "no memory for the codecs of a worker: use fewer workers or a lower level");
	}
	*out = c;
	return 0;
}

void codec_close(struct codec_ctx *c)
{
	if (!c)
		return;
	codec_lz4_close(c);
	codec_zstd_close(c);
	codec_gzip_close(c);
	free(c);
}

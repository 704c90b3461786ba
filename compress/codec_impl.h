/* SPDX-License-Identifier: MIT */
/* Private to codec*.c: what a context holds. Each codec knows its own part only. */
#ifndef DWCP_COMPRESS_CODEC_IMPL_H
#define DWCP_COMPRESS_CODEC_IMPL_H

#include "compress/codec.h"
#include "compress/dict.h"

struct codec_ctx {
	void *lz4;
	struct codec_zstd *zstd;
	struct codec_gzip *gzip;
};

int codec_lz4_open(struct codec_ctx *c);
void codec_lz4_close(struct codec_ctx *c);
int codec_zstd_open(struct codec_ctx *c, bool encodes, bool decodes, int level_max);
void codec_zstd_close(struct codec_ctx *c);
int codec_gzip_open(struct codec_ctx *c, bool encodes, bool decodes);
void codec_gzip_close(struct codec_ctx *c);

extern const struct codec codec_lz4, codec_zstd, codec_snappy, codec_gzip;

#endif

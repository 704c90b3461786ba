/* SPDX-License-Identifier: MIT */
/*
 * What `dwcp benchmark hde` and `make bench` measure: algorithms that take turns over the same memory, in one thread,
 * by the CPU time of that thread (so another program costs less of the figure); parallel encoding by the clock on the wall.
 *
 * An algorithm is a codec by itself over blocks of --block bytes ("lz4", "zstd-3", "none" is a copy), or HDE in one of its
 * modes ("hde-auto", …; "hde-zstd-1": with one codec for all blocks): zero pages, duplicates, matches, grouping and selection included, in batches as a
 * transfer has them. Whatever is encoded is decoded into scrubbed memory and compared with the input.
 * MB are 10^6 bytes; speeds are bytes of memory per second, before encoding and after decoding.
 */
#ifndef DWCP_BENCH_HDE_BENCH_H
#define DWCP_BENCH_HDE_BENCH_H

#include "base/json.h"
#include "bench/memory.h"
#include "compress/codec.h"
#include "compress/hde.h"
#include <stdbool.h>

#define HB_ITERATIONS_MAX 1000u
#define HB_ALGORITHMS_MAX 40u

struct hb_algorithm {
	char name[32];
	bool hde;
	enum codec_id codec; /* !hde, or mode HDE_FIXED */
	int level;           /* of codec; 0 where it has none */
	int mode;            /* hde: enum hde_mode */
};

/* "all", or names separated by commas: a codec, codec-LEVEL, "none", "hde", "hde-MODE", "hde-CODEC-LEVEL" (all of HDE but
 * the selector). */
int hb_algorithms(struct hb_algorithm out[HB_ALGORITHMS_MAX], size_t *n, const char *list, struct err *e);

struct hb_settings {
	unsigned iterations;
	uint32_t block;                              /* bytes of a block of the plain codecs */
	uint32_t batch;                              /* bytes of a batch of HDE */
	uint64_t cache;                              /* base cache, 0: as HDE chooses */
	uint64_t link_bits;                          /* what HDE is told of the link; 0: nothing */
	const struct sel_model *model;               /* NULL: shipped */
	const volatile int *stop;                    /* not 0: end after this iteration; NULL */
	void (*progress)(void *ctx, uint64_t bytes); /* so many more bytes are done; NULL */
	void *progress_ctx;
};

struct hb_result {
	struct hb_algorithm algorithm;
	uint64_t bytes_in, bytes_out;
	double encode_s[HB_ITERATIONS_MAX], decode_s[HB_ITERATIONS_MAX];
	size_t n;
	bool verified;
	struct hde_stats stats; /* hde: of the last iteration */
};

struct stats_interval hb_encode_mbytes(const struct hb_result *r);
struct stats_interval hb_decode_mbytes(const struct hb_result *r);
/* Of a's speed over b's, within each turn. */
struct stats_interval hb_encode_ratio(const struct hb_result *a, const struct hb_result *b);
struct stats_interval hb_decode_ratio(const struct hb_result *a, const struct hb_result *b);
double hb_ratio(const struct hb_result *r); /* NaN when nothing was measured */
/* The documented object; more fields for HDE. */
json_t *hb_json(const struct hb_result *r);

/* Every algorithm over all of `m`: one turn that only warms up, then iterations. What was measured stands in results on
 * error, too. -EBADMSG: something came back wrong (that result's `verified` is false). */
int hb_image(const struct memory *m, const struct hb_algorithm *a, size_t n, const struct hb_settings *s,
	     struct hb_result *results, struct err *e);

/* The pages of `m` that differ from `base`, which the receiver has; what goes back to the base between two turns is not
 * measured. Plain codecs know nothing of the base. */
struct hb_delta {
	uint64_t pages, changed;
	uint64_t xbzrle_bytes;  /* what QEMU's encoding would take (bench/xbzrle.h), every base in its cache */
	uint64_t encoded_pages; /* of the changed: not too long for XBZRLE */
};
int hb_delta(const struct memory *m, const struct memory *base, const struct hb_algorithm *a, size_t n,
	     const struct hb_settings *s, struct hb_delta *d, struct hb_result *results, struct err *e);

/* HDE over all of `m` with workers[i] threads (at most HDE_WORKERS_MAX), by the clock on the wall. No acknowledgements
 * come, so pages are found only within a batch: what one worker does is what several do. */
int hb_parallel(const struct memory *m, const struct hb_algorithm *a, const unsigned *workers, size_t n,
		const struct hb_settings *s, struct hb_result *results, struct err *e);

#endif

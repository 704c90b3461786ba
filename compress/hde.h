/* SPDX-License-Identifier: MIT */
/*
 * HDE: a batch of pages becomes few bytes, and comes back.
 *
 *   batch of pages ─► zero? ─► a few bytes changed? ─► same as another? ─► group by class ─► codec by cost ─► payload
 *                     zero.c          delta.c                 dedup.c          hde_enc.c       select.c, codec.c
 *
 * An encoder serves one region (a guest's memory, a memory region of a session, or anonymous data such as files) and
 * knows what its receiver has: which version of each page was acknowledged, and, in a bounded cache, that version's
 * bytes. A decoder serves the same region at the other end. docs/WIRE.md, "HDE payloads", is the format.
 *
 * Versions. A *round* is a span in which each page is sent at most once (pre-copy rounds; one pass of a transfer).
 * hde_round begins the next. A page's version is the number of the round that last sent it. A payload refers only to pages
 * that the receiver surely has: acknowledged (hde_acked) in a version that is not being replaced in this round. A page that is encoded a second time in a round (its chunk was lost or refused) is
 * sent without any reference, whatever the receiver has. A payload names the versions it builds on, and each
 * block has a checksum of its decoded bytes: a lost, late or repeated base is refused with -EBADMSG and never yields
 * wrong memory.
 *
 * Threads: `worker` (0 … workers-1) is the caller's number; one call at a time per worker, several workers at once. No
 * two calls name the same page at the same time. hde_round and hde_forget are called while no worker encodes, hde_rates
 * at any time. No allocation, lock, or log call after open.
 */
#ifndef DWCP_COMPRESS_HDE_H
#define DWCP_COMPRESS_HDE_H

#include "base/err.h"
#include "base/metrics.h"
#include "base/opt.h"
#include "compress/select.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define HDE_PAGE 4096u
#define HDE_BATCH_PAGES 256u /* in one batch, at most: 1 MB */
#define HDE_BATCH_MAX (HDE_BATCH_PAGES * HDE_PAGE)
#define HDE_OVERHEAD 4096u /* most bytes by which a payload may be longer than its batch */
#define HDE_WORKERS_MAX 64u
#define HDE_PUT ((ssize_t)0) /* hde_encode: send the batch as it is, by a raw put */

/* HDE_FIXED is not a mode of the command line: one codec and level, for measurements. */
enum hde_mode { HDE_NONE, HDE_AUTO, HDE_DATACENTER, HDE_INTERNET, HDE_FIXED };
extern const char *const hde_mode_names[]; /* "none", "auto", "datacenter", "internet", NULL */

/* The user's part: fields of options (hde_group). */
struct hde_opts {
	int mode;                 /* enum hde_mode */
	uint64_t block;           /* "compress-block": bytes of a block, 64 … 256 KB */
	uint64_t cache;           /* base cache, bytes; 0: auto (the region, at most a quarter of the host's memory) */
	uint64_t link_bits_per_s; /* predicted bandwidth; 0: auto, measured from acknowledgements */
	double cpu;               /* CPU share of a worker, 0.01 … 1 */
	bool prefetch;            /* touch the next pages while this one is worked on */
};

struct opt_group hde_group(struct hde_opts *o);

/* What a mode may choose from: bit i is sel_choices[i]. */
uint32_t hde_choices(enum hde_mode mode);

struct hde_config {
	struct hde_opts opts;
	unsigned workers; /* 1 … HDE_WORKERS_MAX */
	uint64_t bytes;   /* of the region; 0: anonymous data (batches refer to nothing outside themselves) */
	/* The region itself, if its bytes do not change from hde_round to the last hde_acked of that round (a file, a
	 * stopped guest, a benchmark): then pages need no cache to be referred to within the round. NULL: only
	 * the cache is trusted. */
	const void *frozen;
	bool puts; /* HDE_PUT may be answered for batches that do not shrink */
	/* Measurements. */
	struct sel_choice fixed;                                /* HDE_FIXED */
	bool no_zero, no_dedup, no_delta, no_match;             /* stages left out */
	const struct sel_model *model;                          /* NULL: shipped */
	void (*on_block)(void *ctx, const void *raw, size_t n); /* sees each block before its codec; NULL */
	void *on_block_ctx;
};

/* Pages of one region, ascending and distinct, and a snapshot of them. */
struct hde_batch {
	uint64_t first;        /* number of the first page… */
	const uint32_t *pages; /* …and NULL: n pages from there on; or n page numbers relative to first, ascending */
	uint32_t n;            /* 1 … HDE_BATCH_PAGES */
	uint32_t bytes;        /* n * HDE_PAGE; less only where the last page is the region's short end */
	const void *data;      /* page i at i * HDE_PAGE; unchanged during the call */
};

struct hde_enc;

/* Defaults for a mode, as hde_group's table has them. */
void hde_opts_default(struct hde_opts *o, int mode);

/* Memory: per worker about 3 MB (9 with zstd 19), per page of the region 28 bytes, as many again for each
 * page of the cache, the table of matches (match.h), and the cache. Fills e. */
int hde_enc_open(struct hde_enc **out, const struct hde_config *cfg, struct err *e);
void hde_enc_close(struct hde_enc *e); /* NULL is fine */

/* Begins the next round. dirty (may be NULL: all of the region): bit per page that this round will send. */
void hde_round(struct hde_enc *e, const uint64_t *dirty);
/* The receiver has nothing any more (another session): nothing is referred to until it is sent again. */
void hde_forget(struct hde_enc *e);
/* What the link carries (bits/s, 0: measure) and what the receiver's CPU allows (CPU seconds per second, all its workers). */
void hde_rates(struct hde_enc *e, double link_bits_per_s, double receiver_cpus);

/* Encodes a batch into out (cap at least b->bytes + HDE_OVERHEAD). Returns the payload's length, HDE_PUT where the config
 * allows it, or -EINVAL for a batch outside the region. */
ssize_t hde_encode(struct hde_enc *e, unsigned worker, const struct hde_batch *b, void *out, size_t cap);
/* The receiver has placed this batch (b->data is not looked at). Until then its pages are no base for others. Any
 * worker. wire: bytes that went over the link for it, which is how the link is measured; 0: not known. */
void hde_acked(struct hde_enc *e, unsigned worker, const struct hde_batch *b, uint64_t wire);

struct hde_dec;

struct hde_dec_config {
	unsigned workers;
	/* Where pages go: memory of `bytes` bytes, … */
	void *memory;
	uint64_t bytes;
	bool fresh; /* …all zero now, and no raw put will come: pages of zeros that come first are not even read */
	/* …or, memory NULL, anonymous data: write places len decoded bytes at offset of `object`. 0 or -errno. */
	int (*write)(void *ctx, uint32_t object, const void *data, uint32_t len, uint64_t offset);
	void *write_ctx;
};

/* Why and where a payload was refused. */
struct hde_refusal {
	int block;       /* index of the block in the payload; -1: its head */
	uint32_t at;     /* byte of the payload */
	const char *why; /* static text */
};

int hde_dec_open(struct hde_dec **out, const struct hde_dec_config *cfg, struct err *e);
void hde_dec_close(struct hde_dec *d);

/* Decodes and places a payload. at, bytes: what it must be about, as the caller knows it from elsewhere (a chunk's offset
 * and length). Memory: bytes 0 is whatever pages the payload names, within the region. Anonymous: the payload's pages
 * begin at 0, and go to `at` of `object`. Hostile bytes: 0, or -EBADMSG with *why (may be NULL) filled and nothing
 * written; write's errno. */
int hde_decode(struct hde_dec *d, unsigned worker, uint32_t object, uint64_t at, uint32_t bytes, const void *in,
	       size_t len, struct hde_refusal *why);
/* The same for memory, where the payload must name just these pages, in order. Of two payloads for one worker at once, which
 * two senders of one region can bring about, the second is refused. */
int hde_decode_list(struct hde_dec *d, unsigned worker, const uint32_t *list, uint32_t n, const void *in, size_t len,
		    struct hde_refusal *why);
/* These bytes were placed by a raw put: their pages are no base any more. */
void hde_dec_put(struct hde_dec *d, unsigned worker, uint64_t at, uint32_t bytes);

/* Sums over workers; read while they run. */
struct hde_stats {
	uint64_t batches, pages, bytes_in, bytes_out;
	uint64_t zero_pages, duplicate_pages, delta_pages, coded_pages, raw_pages, put_pages;
	uint64_t matched_bytes;                             /* found elsewhere in what the receiver has */
	uint64_t delta_bytes;                               /* of deltas, before the codec */
	uint64_t cache_hits, cache_misses, cache_evictions; /* base of a page that was sent before */
	uint64_t blocks, select_ns, encode_ns, decode_ns;
	uint64_t choice[SEL_CHOICES]; /* blocks by choice */
	uint64_t refused;
};
extern const struct metric hde_metrics[];
extern const size_t hde_metrics_n;
void hde_enc_stats(const struct hde_enc *e, struct hde_stats *s);
void hde_dec_stats(const struct hde_dec *d, struct hde_stats *s);

/* Which scanners this CPU uses: "scalar" or "avx2". */
const char *hde_variant(void);

#endif

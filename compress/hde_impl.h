/* SPDX-License-Identifier: MIT */
/* Private to hde*.c: the payload's layout (docs/WIRE.md, "HDE payloads", in code) and the two ends' state. */
#ifndef DWCP_COMPRESS_HDE_IMPL_H
#define DWCP_COMPRESS_HDE_IMPL_H

#include "base/digest.h"
#include "base/util.h"
#include "base/wire.h"
#include "compress/cache.h"
#include "compress/dedup.h"
#include "compress/delta.h"
#include "compress/dict.h"
#include "compress/hde.h"
#include "compress/match.h"

/* ---- payload ----------------------------------------------------------------------------------- */

#define HW_VERSION 1
#define HW_HEAD 32       /* bytes */
#define HW_CRC_AT 28     /* of the crc in the head */
#define HW_BLOCK_HEAD 24 /* bytes */
#define HW_BLOCKS_MAX 64
#define HW_ROUND_FIRST 2 /* version 1: placed by a put; 0: never placed */
#define HW_KIND_ZERO 0   /* any other kind k: page is in block k - 1 */

enum hw_flag { HW_LIST = 1 };
enum hw_type { HW_CODED, HW_DELTA, HW_TYPES };
enum hw_block_flag { HW_MATCHES = 1, HW_BLOCK_FLAGS = 1 };

struct hw_head {
	uint64_t first;
	uint64_t bases; /* bases_add over every page that the payload refers to */
	uint32_t round;
	uint16_t n, last, blocks; /* pages; bytes of the last one */
	uint8_t flags;
};

struct hw_block {
	uint8_t type, codec, flags;
	uint32_t raw; /* bytes of the pages */
	uint32_t mid; /* bytes that the codec makes */
	uint32_t len; /* bytes that follow */
	uint64_t sum; /* hw_sum over the XXH3 of each page */
};

/* Order matters: a digest of (page, version) pairs. */
static inline uint64_t bases_add(uint64_t sum, uint64_t page, uint32_t version)
{
	sum = (sum ^ (page << 24) ^ version) * 0x9e3779b97f4a7c15ull;
	return sum ^ sum >> 29;
}

/* A block's checksum: of its pages' in order. */
static inline uint64_t hw_sum(uint64_t sum, uint64_t page)
{
	sum = (sum ^ page) * 0x9e3779b97f4a7c15ull;
	return sum ^ sum >> 32;
}

/* Where each page of a batch is, in order: the same walk on both sides. */
static inline uint32_t hw_page_bytes(uint32_t n, uint32_t last, uint32_t i)
{
	return i + 1 == n ? last : HDE_PAGE;
}

/* LEB128 of up to 5 bytes. */
static inline void put_leb32(struct wcur *c, uint32_t v)
{
	for (; v >= 128; v >>= 7)
		put_u8(c, (uint8_t)(v | 128));
	put_u8(c, (uint8_t)v);
}

static inline uint32_t get_leb32(struct rcur *c)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 35; shift += 7) {
		uint8_t b = get_u8(c);

		v |= (uint64_t)(b & 127) << shift;
		if (b < 128)
			break;
		if (shift == 28)
			c->bad = true;
	}
	if (v > UINT32_MAX)
		c->bad = true;
	return (uint32_t)v;
}

static inline uint32_t zigzag(int64_t v)
{
	return (uint32_t)((uint64_t)v << 1 ^ (v < 0 ? ~0ull : 0));
}

static inline int64_t unzigzag(uint32_t v)
{
	return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

/* ---- the sending end --------------------------------------------------------------------------- */

/* What was last sent of a page, and what was last acknowledged: rounds; 0 never. */
struct page_state {
	uint32_t sent, acked;
};

/* Pages of one class share blocks; those of DELTA and COPY are no pages any more but what is left of them. */
enum page_class { CLASS_TEXT, CLASS_BINARY, CLASS_SPARSE, CLASS_RANDOM, CLASS_COPY, CLASS_DELTA, CLASSES };

struct enc_worker {
	struct codec_ctx *codec;
	struct selector sel;
	uint8_t *raw;                        /* pages of a block, gathered: CODEC_BLOCK_MAX */
	uint8_t *mid;                        /* what the codec gets where that is not raw: CODEC_BLOCK_MAX */
	uint8_t *rec;                        /* where the rest is found: MATCH_REC_MAX */
	uint8_t *ctl, *data;                 /* deltas of a batch, one after the other */
	struct delta deltas;                 /* bytes of all of them so far */
	struct delta delta[HDE_BATCH_PAGES]; /* of page i; ctl 0: it is none */
	uint64_t hash[HDE_BATCH_PAGES];      /* of page i, where hashed[i] */
	bool hashed[HDE_BATCH_PAGES];
	uint32_t copy_of[HDE_BATCH_PAGES];
	uint8_t kind[HDE_BATCH_PAGES];
	uint16_t group[CLASSES][HDE_BATCH_PAGES]; /* pages of a class, in order */
	uint32_t n_group[CLASSES];
	uint32_t quiet;                                     /* batches in a row that nothing could be done with */
	uint64_t look_at, look_busy, look_wire, busy, wire; /* the link, measured */
	uint64_t acked_at;                                  /* atomic */
	double link;                                        /* bytes/s, 0: not yet */
	struct hde_stats stats;
} __attribute__((aligned(CACHE_LINE)));

struct hde_enc {
	struct hde_config cfg;
	uint64_t n_pages; /* 0: anonymous */
	uint32_t round;
	bool all_dirty;
	uint64_t *dirty;
	struct page_state *pages;
	struct dedup dedup;
	struct match_table match;
	struct cache cache;
	double link_bytes_per_s, receiver; /* of all workers; 0: measured */
	struct enc_worker *w;
};

/* One batch under way, and its blocks as planned. */
struct block_plan {
	uint8_t class;
	uint16_t at, n; /* of the class's group */
};

struct batch_enc {
	struct hde_enc *e;
	struct enc_worker *w;
	const struct hde_batch *b;
	struct wcur out;
	uint64_t bases;
	uint32_t blocks;
	struct delta deltas; /* of w->ctl and w->data: in blocks already */
	bool alone;          /* refers to nothing */
	struct block_plan plan[HW_BLOCKS_MAX];
};

#define MATCH_REC_MAX (64u << 10) /* bytes of a block's matches */
#define HDE_DELTA_MOST 2048u      /* changed bytes of a page; more is no delta */

static inline uint32_t batch_page(const struct hde_batch *b, uint32_t i)
{
	return (uint32_t)(b->first + (b->pages ? b->pages[i] : i));
}

static inline const uint8_t *batch_bytes(const struct hde_batch *b, uint32_t i)
{
	return (const uint8_t *)b->data + (size_t)i * HDE_PAGE;
}

static inline uint32_t batch_len(const struct hde_batch *b, uint32_t i)
{
	return i + 1 == b->n ? b->bytes - i * HDE_PAGE : HDE_PAGE;
}

static inline struct page_state *batch_state(const struct batch_enc *x, uint32_t i)
{
	return &x->e->pages[batch_page(x->b, i)];
}

/* hde_enc.c: does the receiver have what was last sent of this page, and will it keep it during this round? */
bool enc_has(const struct hde_enc *e, uint32_t page);
/* XXH3 of page i of the batch. */
uint64_t page_hash(struct batch_enc *x, uint32_t i);

/* hde_block.c: encodes the planned block and appends it to x->out. */
void block_encode(struct batch_enc *x, const struct block_plan *p);

/* hde_match.c: gathers the n pages v at `plain` (CODEC_BLOCK_MAX bytes of room), without what the receiver has elsewhere,
 * which goes to w->rec. Returns bytes of w->rec, or 0: there is nothing of that, or it would not pay, and all of them are
 * there. *lits: bytes at plain. */
uint32_t block_match(struct batch_enc *x, const uint16_t *v, uint32_t n, uint8_t *plain, uint32_t *lits);

/* hde_rate.c: the link as its acknowledgements show it. */
void rate_encoded(struct hde_enc *e, struct enc_worker *w, uint64_t began, uint64_t ended);
void rate_acked(struct hde_enc *e, struct enc_worker *w, uint64_t wire);
struct sel_cost rate_cost(const struct hde_enc *e, const struct enc_worker *w);

#endif

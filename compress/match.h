/* SPDX-License-Identifier: MIT */
/*
 * Where else is this content? Long matches at any distance and any alignment, which neither a codec's window nor whole
 * pages find: file contents that a guest holds twice (page cache and heap, archive and member) seldom lie at
 * the same offset of a page.
 *
 * Anchors are places that the content itself picks (one of 64 bytes on average, by a hash of 4 bytes), so that equal
 * content has equal anchors wherever it lies. The 32 bytes at an anchor are looked up in a table of hints: 8 bytes each, of
 * page, offset and some bits of hash. A hint may be old or wrong: the caller compares bytes.
 *
 * Anchors are found by SIMD where the CPU can; the scalar twin finds the same. Threads: any; entries are single words.
 */
#ifndef DWCP_COMPRESS_MATCH_H
#define DWCP_COMPRESS_MATCH_H

#include <stddef.h>
#include <stdint.h>

#define MATCH_PAGE 4096u
#define MATCH_LEAST 32u    /* bytes that are hashed, and the shortest match */
#define MATCH_ANCHORS 128u /* of a page, at most */
#define MATCH_WAYS 4u

struct match_table {
	uint64_t *slots;
	uint64_t mask; /* of buckets */
	size_t bytes;
};

struct match_anchor {
	uint16_t at;
	uint64_t hash;
};

struct match_place {
	uint32_t page;
	uint16_t at;
};

/* For a region of so many pages: up to 12.5 % of it, 128 MB at most, touched as content needs it. 0 or -ENOMEM. */
int match_open(struct match_table *t, uint64_t pages);
void match_close(struct match_table *t);
void match_clear(struct match_table *t);

/* The anchors of a page (MATCH_PAGE bytes) in order; returns how many. Their table entries are touched ahead. */
unsigned match_anchors(const struct match_table *t, const uint8_t *page, struct match_anchor out[MATCH_ANCHORS]);

unsigned match_find(const struct match_table *t, uint64_t hash, struct match_place out[MATCH_WAYS]);
void match_add(struct match_table *t, uint64_t hash, struct match_place place);

/* Bit i of word w: there may be an anchor at byte 64 w + i. The last 64 bytes are left out: they would need more than the
 * page has, and what begins there is too short, or nearly. */
#define MATCH_WORDS (MATCH_PAGE / 64 - 1)
void match_mask_scalar(const uint8_t *page, uint64_t mask[MATCH_WORDS]);
#ifdef __x86_64__
void match_mask_avx2(const uint8_t *page, uint64_t mask[MATCH_WORDS]);
#endif
#define MATCH_MUL 0x9e3779b1u
#define MATCH_SHIFT 26 /* 6 bits: one position of 64 */
#define MATCH_VALUE 0x15u

#endif

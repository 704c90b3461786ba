/* SPDX-License-Identifier: MIT */
/*
 * Checksums of chunks and digests of regions. CRC32C through ISA-L, XXH3
 * through xxHash; the fastest variant of this CPU is chosen once.
 */
#ifndef DWCP_BASE_DIGEST_H
#define DWCP_BASE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

/* Values travel on the wire: do not renumber. */
enum sum_kind { SUM_NONE, SUM_CRC32C, SUM_XXH3, SUM_KINDS };

/* NULL-terminated names "none", "crc32c", "xxh3", for option tables. */
extern const char *const sum_names[];

/* Checksum of one chunk, 0 for SUM_NONE. CRC32C is the Castagnoli polynomial as in RFC 3720 (zero-
 * extended to 64 bits); XXH3 is XXH3_64bits with seed 0. Any thread, no allocation. */
uint64_t sum_of(enum sum_kind kind, const void *data, size_t len);

/* The same over pieces, in order: state starts with sum_begin, ends with sum_end. 64-byte aligned;
 * lives on the stack or in a stream; no allocation. */
struct sum_state {
	enum sum_kind kind;
	uint32_t crc;
	uint8_t xxh[576] __attribute__((aligned(64))); /* XXH3_state_t, checked at compile time */
};

void sum_begin(struct sum_state *s, enum sum_kind kind);
void sum_add(struct sum_state *s, const void *data, size_t len);
uint64_t sum_end(struct sum_state *s);

uint32_t crc32c(const void *data, size_t len);

struct digest128 {
	uint64_t lo, hi;
};

/* XXH3_128bits, seed 0. */
struct digest128 digest128_of(const void *data, size_t len);

/* Which build of XXH3 this CPU uses: "baseline" or "avx2". */
const char *digest_variant(void);

#endif

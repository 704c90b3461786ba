/* SPDX-License-Identifier: MIT */
/*
 * What changed in a page. A delta is two strings: runs, and the new bytes of the runs. The strings of
 * many pages are joined, runs with runs and bytes with bytes, before a codec sees them: both kinds then
 * compress well.
 *
 * Runs of one page: their number (1 byte), then for each: bytes skipped since the end of the last run, its
 * length less 1 (LEB128 each, at most 2 bytes). A gap shorter than DELTA_GAP does not end a run. Runs do not overlap and end
 * within the page.
 *
 * The bit per byte that tells what changed is found by SIMD where the CPU can; everything else is common code, so that
 * variants give equal deltas.
 */
#ifndef DWCP_COMPRESS_DELTA_H
#define DWCP_COMPRESS_DELTA_H

#include <stddef.h>
#include <stdint.h>

#define DELTA_PAGE 4096u
#define DELTA_GAP 4u
#define DELTA_RUNS_MAX 255u
#define DELTA_CTL_MAX (1u + DELTA_RUNS_MAX * 4u) /* runs of one page, bytes */

struct delta {
	uint32_t ctl, data; /* bytes written */
};

/* Both pages of DELTA_PAGE bytes. Writes to ctl (DELTA_CTL_MAX bytes of room) and data (`most` bytes of room).
 * 0, or -ENOSPC when more than DELTA_RUNS_MAX runs or `most` changed bytes would be needed. No change: ctl 1, data 0. */
int delta_encode(const uint8_t *old, const uint8_t *now, uint8_t *ctl, uint8_t *data, uint32_t most, struct delta *d);

/* Applies one page's delta in place. Reads at most ctl_len and data_len bytes; *d tells how many were used. 0 or -EBADMSG;
 * hostile input: nothing outside the page is written. */
int delta_decode(uint8_t *page, const uint8_t *ctl, size_t ctl_len, const uint8_t *data, size_t data_len,
		 struct delta *d);

/* Bit i of map: byte i differs. */
#define DELTA_WORDS (DELTA_PAGE / 64)
void delta_map_scalar(const uint8_t *old, const uint8_t *now, uint64_t map[DELTA_WORDS]);
#ifdef __x86_64__
void delta_map_avx2(const uint8_t *old, const uint8_t *now, uint64_t map[DELTA_WORDS]);
#endif
/* The two halves of delta_encode, for tests: runs and bytes of a map. */
int delta_of_map(const uint64_t map[DELTA_WORDS], const uint8_t *now, uint8_t *ctl, uint8_t *data, uint32_t most,
		 struct delta *d);

#endif

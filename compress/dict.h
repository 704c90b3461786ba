/* SPDX-License-Identifier: MIT */
/*
 * A dictionary for small blocks: content that many of them share. It is trained from samples (zstd's fastCover), known
 * by an id that is a hash of its bytes, and sent once. Large blocks find their repeats themselves: see DICT_BLOCK_MAX.
 *
 * Threads: made by one, then read only.
 */
#ifndef DWCP_COMPRESS_DICT_H
#define DWCP_COMPRESS_DICT_H

#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

#define DICT_BYTES_MAX (128u << 10)
#define DICT_BLOCK_MAX (32u << 10) /* larger blocks are encoded without */

struct dict {
	uint32_t id; /* never 0 */
	uint32_t bytes;
	const uint8_t *data;
	void *cdict, *ddict; /* zstd's tables; NULL: that side was not asked for */
	int level;
};

/* Trains a dictionary of at most `cap` bytes from n samples that lie one after the other in `samples`. Returns its
 * length, or 0 when the samples are too few or have nothing in common. Takes seconds at 10 MB: not for the data path. */
size_t dict_train(void *out, size_t cap, const void *samples, const size_t *sizes, unsigned n);

uint32_t dict_id(const void *data, size_t n);

/* Copies data. level: of the encoder's tables; 0: for decoding only. -ENOMEM, or -EINVAL (not 1 … DICT_BYTES_MAX). */
int dict_open(struct dict *d, const void *data, size_t n, int level, struct err *e);
void dict_close(struct dict *d); /* zeroed is fine */

#endif

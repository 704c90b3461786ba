/* SPDX-License-Identifier: MIT */
#define ZDICT_STATIC_LINKING_ONLY
#include "compress/dict.h"

#include "base/digest.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zdict.h>
#include <zstd.h>

size_t dict_train(void *out, size_t cap, const void *samples, const size_t *sizes, unsigned n)
{
	/* k, d and f as zstd's own command line starts with; trying many would take minutes. */
	ZDICT_fastCover_params_t p = { .k = 200, .d = 8, .f = 20, .accel = 1 };
	size_t got;

	if (!n)
		return 0;
	p.zParams.compressionLevel = 3;
	got = ZDICT_trainFromBuffer_fastCover(out, cap, samples, sizes, n, p);
	return ZDICT_isError(got) ? 0 : got;
}

uint32_t dict_id(const void *data, size_t n)
{
	uint32_t id = (uint32_t)digest128_of(data, n).lo;

	return id ? id : 1;
}

int dict_open(struct dict *d, const void *data, size_t n, int level, struct err *e)
{
	uint8_t *copy;

	*d = (struct dict){ .level = level };
	if (!n || n > DICT_BYTES_MAX)
		return err_set(e, -EINVAL, "a dictionary of %zu bytes: it must have 1 to %u", n, DICT_BYTES_MAX);
	copy = malloc(n);
	if (!copy)
		return err_set(e, -ENOMEM, "no memory for a dictionary of %zu bytes", n);
	memcpy(copy, data, n);
	d->data = copy;
	d->bytes = (uint32_t)n;
	d->id = dict_id(data, n);
	d->cdict = level ? ZSTD_createCDict(copy, n, level) : NULL;
	d->ddict = ZSTD_createDDict(copy, n);
	if ((level && !d->cdict) || !d->ddict) {
		dict_close(d);
		return err_set(e, -ENOMEM, "the dictionary of %zu bytes cannot be used: no memory, or it is damaged",
			       n);
	}
	return 0;
}

void dict_close(struct dict *d)
{
	ZSTD_freeCDict(d->cdict);
	ZSTD_freeDDict(d->ddict);
	free((void *)(uintptr_t)d->data);
	*d = (struct dict){ 0 };
}

/* SPDX-License-Identifier: MIT */
/*
 * Every decoder of HDE. The first byte says which: a payload for a region that holds something (head and tables get the
 * right checksum, which a fuzzer cannot guess), a payload for files, one page's delta, a block of one of the codecs.
 * What is refused must have written nothing.
 */
#include "base/digest.h"
#include "base/util.h"
#include "compress/delta.h"
#include "compress/hde.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PAGES 64u
#define BYTES (PAGES * HDE_PAGE)
#define HEAD 32u
#define CRC_AT 28u

static uint8_t *memory, *first, *out;
static struct hde_dec *dec, *files;
static struct codec_ctx *codec;

#define CHECK(x)                                                                \
	do {                                                                    \
		if (!(x)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x); \
			abort();                                                \
		}                                                               \
	} while (0)

static int write_nothing(void *ctx, uint32_t object, const void *data, uint32_t len, uint64_t offset)
{
	(void)ctx;
	(void)object;
	(void)offset;
	/* Reads all of it: a sanitizer sees whether it is there. */
	return crc32c(data, len) == 1 ? -EIO : 0;
}

/* A region whose pages were sent once, in the first round. */
static void open_region(void)
{
	struct hde_dec_config d = { .workers = 1, .memory = memory, .bytes = BYTES };
	struct hde_config cfg = { .workers = 1, .bytes = BYTES };
	struct hde_batch b = { .n = PAGES, .bytes = BYTES, .data = first };
	struct hde_enc *enc;
	struct err e;
	ssize_t n;

	hde_dec_close(dec);
	memset(memory, 0, BYTES);
	hde_opts_default(&cfg.opts, HDE_FIXED);
	CHECK(hde_enc_open(&enc, &cfg, &e) == 0 && hde_dec_open(&dec, &d, &e) == 0);
	n = hde_encode(enc, 0, &b, out, BYTES + HDE_OVERHEAD);
	CHECK(n > 0 && hde_decode(dec, 0, 0, 0, 0, out, (size_t)n, NULL) == 0);
	CHECK(!memcmp(memory, first, BYTES));
	hde_enc_close(enc);
}

static void open_all(void)
{
	struct hde_dec_config d = { .workers = 1, .write = write_nothing };
	struct err e;

	memory = malloc(BYTES);
	first = malloc(BYTES);
	out = malloc(HDE_BATCH_MAX + HDE_OVERHEAD);
	CHECK(memory && first && out);
	for (unsigned i = 0; i < PAGES; i++)
		memset(first + (size_t)i * HDE_PAGE, (int)i, HDE_PAGE);
	CHECK(hde_dec_open(&files, &d, &e) == 0 && codec_open(&codec, false, true, 0, &e) == 0);
	open_region();
}

static size_t leb(const uint8_t *p, size_t n, size_t at)
{
	while (at < n && p[at] & 128)
		at++;
	return at + 1;
}

/* Where the tables end: as the decoder finds it. */
static void set_crc(uint8_t *p, size_t n)
{
	size_t at = HEAD, pages = n > HEAD ? p[2] | (size_t)p[3] << 8 : 0;

	if (n <= HEAD)
		return;
	for (size_t i = 1; (p[1] & 1) && i < pages && at < n; i++)
		at = leb(p, n, at);
	for (size_t i = 0; i < pages && at + 1 < n; at += 2)
		i += p[at + 1] + 1u;
	if (at > n)
		return;
	memset(p + CRC_AT, 0, 4);
	uint32_t crc = htole32(crc32c(p, at));

	memcpy(p + CRC_AT, &crc, 4);
}

static void payload(struct hde_dec *d, const uint8_t *in, size_t n, bool region)
{
	uint8_t *copy = malloc(n ? n : 1);
	struct hde_refusal why = { .why = NULL };
	int rc;

	CHECK(copy);
	memcpy(copy, in, n);
	set_crc(copy, n);
	rc = hde_decode(d, 0, 0, 0, region ? 0 : BYTES, copy, n, &why);
	CHECK(rc == 0 || rc == -EBADMSG || (rc == -EIO && !region));
	CHECK(rc != -EBADMSG || (why.why && why.at <= n));
	if (region && rc < 0)
		CHECK(!memcmp(memory, first, BYTES));
	else if (region)
		open_region();
	free(copy);
}

static void delta(const uint8_t *in, size_t n)
{
	static uint8_t page[DELTA_PAGE];
	size_t ctl = n ? in[0] : 0;
	struct delta d;

	if (n < 1 + ctl)
		return;
	if (delta_decode(page, in + 1, ctl, in + 1 + ctl, n - 1 - ctl, &d) == 0)
		CHECK(d.ctl <= ctl && d.data <= n - 1 - ctl);
}

static void block(unsigned id, const uint8_t *in, size_t n)
{
	size_t len = n >= 3 ? (in[0] | (size_t)in[1] << 8 | (size_t)(in[2] & 3) << 16) + 1 : 0;
	struct codec_base base = { .prefix = first, .prefix_bytes = HDE_PAGE };
	uint8_t *to;
	int rc;

	if (!len)
		return;
	to = malloc(len); /* exactly: a sanitizer sees a byte too many */
	CHECK(to);
	rc = codecs[id]->decode(codec, codecs[id]->takes_base && in[2] & 128 ? &base : NULL, in + 3, n - 3, to, len);
	CHECK(rc == 0 || rc == -EBADMSG);
	free(to);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!memory)
		open_all();
	if (!size)
		return 0;
	switch (data[0] % 8) {
	case 0:
		payload(dec, data + 1, size - 1, true);
		break;
	case 1:
		payload(files, data + 1, size - 1, false);
		break;
	case 2:
		delta(data + 1, size - 1);
		break;
	default:
		block(data[0] % 8 - 3, data + 1, size - 1);
	}
	return 0;
}

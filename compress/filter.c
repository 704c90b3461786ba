/* SPDX-License-Identifier: MIT */
#include "compress/filter.h"

#include "base/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FILTER "hde"

/* ---- sending ----------------------------------------------------------------------------------- */

struct hde_stage {
	struct hde_enc *enc;
	const uint8_t *memory;
	uint64_t bytes;
	struct stage inner;
	uint8_t *plain; /* a chunk of the inner stage for each worker */
};

/* The chunk as pages of the region. False: it does not begin or end with one. */
static bool batch_of(const struct hde_stage *s, const struct stage_chunk *c, struct hde_batch *b)
{
	*b = (struct hde_batch){
		.first = c->offset / HDE_PAGE,
		.n = (uint32_t)div_up_u64(c->len, HDE_PAGE),
		.bytes = c->len,
		.data = s->memory + c->offset,
	};
	return c->offset % HDE_PAGE == 0 && c->len <= HDE_CHUNK_MAX &&
	       (c->len % HDE_PAGE == 0 || c->offset + c->len == s->bytes);
}

static ssize_t encode_memory(void *ctx, unsigned worker, const struct stage_chunk *c, void *out, size_t cap)
{
	struct hde_stage *s = ctx;
	struct hde_batch b;
	ssize_t n;

	if (!batch_of(s, c, &b))
		return STAGE_PUT;
	n = hde_encode(s->enc, worker, &b, out, cap);
	return n == HDE_PUT ? STAGE_PUT : n;
}

static void memory_acked(void *ctx, unsigned worker, const struct stage_chunk *c, uint64_t wire)
{
	struct hde_stage *s = ctx;
	struct hde_batch b;

	if (batch_of(s, c, &b))
		hde_acked(s->enc, worker, &b, wire);
}

static ssize_t encode_inner(void *ctx, unsigned worker, const struct stage_chunk *c, void *out, size_t cap)
{
	struct hde_stage *s = ctx;
	uint8_t *plain = s->plain + (size_t)worker * HDE_CHUNK_MAX;
	ssize_t n = c->len > HDE_CHUNK_MAX ? -EMSGSIZE
					   : s->inner.ops->encode(s->inner.ctx, worker, c, plain, HDE_CHUNK_MAX);
	struct hde_batch b = { .n = (uint32_t)div_up_u64(c->len, HDE_PAGE), .bytes = c->len, .data = plain };

	return n < 0 ? n : hde_encode(s->enc, worker, &b, out, cap);
}

static void inner_acked(void *ctx, unsigned worker, const struct stage_chunk *c, uint64_t wire)
{
	struct hde_stage *s = ctx;
	struct hde_batch b = { .n = 1, .bytes = c->len };

	hde_acked(s->enc, worker, &b, wire);
	if (s->inner.ops->acked)
		s->inner.ops->acked(s->inner.ctx, worker, c, wire);
}

static const struct stage_ops memory_ops = {
	.name = "hde",
	.filter = FILTER,
	.overhead = HDE_OVERHEAD,
	.encode = encode_memory,
	.acked = memory_acked,
};

static const struct stage_ops inner_ops = {
	.name = "hde",
	.filter = FILTER,
	.overhead = HDE_OVERHEAD,
	.encode = encode_inner,
	.acked = inner_acked,
};

int hde_stage_open(struct hde_stage **out, struct stage *stage, const struct hde_config *cfg, const void *memory,
		   uint64_t bytes, const struct stage *inner, struct err *e)
{
	struct hde_stage *s = calloc(1, sizeof *s);
	struct hde_config c = *cfg;
	int rc = 0;

	if (!s)
		return err_set(e, -ENOMEM, "no memory for compression");
	s->memory = memory;
	s->bytes = bytes;
	if (inner)
		s->inner = *inner;
	c.puts = memory != NULL;
	if (!memory && !(s->plain = malloc((size_t)cfg->workers * HDE_CHUNK_MAX)))
		rc = err_set(e, -ENOMEM, "no memory for %u workers that compress", cfg->workers);
	if (rc == 0)
		rc = hde_enc_open(&s->enc, &c, e);
	if (rc < 0) {
		hde_stage_close(s);
		return rc;
	}
	*stage = (struct stage){ .ops = memory ? &memory_ops : &inner_ops, .ctx = s };
	*out = s;
	return 0;
}

void hde_stage_close(struct hde_stage *s)
{
	if (!s)
		return;
	hde_enc_close(s->enc);
	free(s->plain);
	free(s);
}

struct hde_enc *hde_stage_enc(struct hde_stage *s)
{
	return s->enc;
}

/* ---- receiving --------------------------------------------------------------------------------- */

/* A decoder for each region, or one for files. */
struct sink {
	unsigned n;
	struct hde_dec *dec[];
};

static int decode_memory(void *ctx, unsigned worker, const struct stage_chunk *c, const void *in, size_t len)
{
	struct sink *s = ctx;

	if (c->object >= s->n || !s->dec[c->object])
		return -EPROTO;
	return hde_decode(s->dec[c->object], worker, c->object, c->offset, c->len, in, len, NULL);
}

static void memory_placed(void *ctx, unsigned worker, const struct stage_chunk *c)
{
	struct sink *s = ctx;

	if (c->object < s->n && s->dec[c->object])
		hde_dec_put(s->dec[c->object], worker, c->offset, c->len);
}

static int decode_files(void *ctx, unsigned worker, const struct stage_chunk *c, const void *in, size_t len)
{
	struct sink *s = ctx;

	return hde_decode(s->dec[0], worker, c->object, c->offset, c->len, in, len, NULL);
}

static const struct stage_ops to_memory = { .name = FILTER, .decode = decode_memory, .placed = memory_placed };
static const struct stage_ops to_files = { .name = FILTER, .decode = decode_files };

static void close_filter(struct stage *stage)
{
	struct sink *s = stage->ctx;

	for (unsigned i = 0; s && i < s->n; i++)
		hde_dec_close(s->dec[i]);
	free(s);
	*stage = (struct stage){ 0 };
}

static int open_filter(struct stage *out, const struct filter_target *to, unsigned workers, struct err *e)
{
	unsigned n = to->write ? 1 : to->objects;
	struct sink *s = calloc(1, sizeof *s + n * sizeof(struct hde_dec *));
	int rc = 0;

	if (!s)
		return err_set(e, -ENOMEM, "no memory for decompression");
	s->n = n;
	for (unsigned i = 0; rc == 0 && i < n; i++) {
		struct hde_dec_config cfg = { .workers = workers, .write = to->write, .write_ctx = to->ctx };

		if (!to->write)
			cfg.memory = to->memory(to->ctx, i, &cfg.bytes);
		if (to->write || cfg.memory)
			rc = hde_dec_open(&s->dec[i], &cfg, e);
	}
	*out = (struct stage){ .ops = to->write ? &to_files : &to_memory, .ctx = s };
	if (rc < 0)
		close_filter(out);
	return rc;
}

const struct filter hde_filter = { .name = FILTER, .open = open_filter, .close = close_filter };

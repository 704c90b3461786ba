/* SPDX-License-Identifier: MIT */
/* Algorithms that take turns over the same memory, in this thread. */
#include "base/bitmap.h"
#include "base/clock.h"
#include "base/util.h"
#include "bench/hde_bench.h"
#include "bench/hde_runner.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SCRUB 0xa5
#define STOP_EVERY 64 /* blocks between two looks at s->stop */

/* ---- one algorithm ----------------------------------------------------------------------------- */

bool hb_stopped(const struct hb_settings *s, size_t unit)
{
	return unit % STOP_EVERY == 0 && s->stop && *s->stop;
}

void hb_told(const struct hb_settings *s, uint64_t bytes)
{
	if (s->progress)
		s->progress(s->progress_ctx, bytes);
}

int hb_units_open(struct hb_units *u, uint64_t bytes, uint32_t unit, struct err *e)
{
	uint64_t n = div_up_u64(bytes, unit);
	struct hb_units new = { .unit = unit, .n = n };
	int rc;

	new.slot = unit + unit / 6 + HDE_OVERHEAD; /* Snappy wants so much, whatever comes out */
	rc = hugebuf_alloc(&new.out, n * new.slot, true, e);

	if (rc < 0)
		return rc;
	new.len = calloc(n, sizeof(*new.len));
	if (!new.len) {
		hugebuf_free(&new.out);
		return err_set(e, -ENOMEM, "no memory for %llu blocks", (unsigned long long)n);
	}
	*u = new;
	return 0;
}

void hb_units_free(struct hb_units *u)
{
	hugebuf_free(&u->out);
	free(u->len);
	*u = (struct hb_units){ 0 };
}

uint8_t *hb_unit_out(const struct hb_units *u, uint64_t i)
{
	return (uint8_t *)u->out.addr + i * u->slot;
}

static uint32_t unit_bytes(const struct hb_units *u, uint64_t bytes, uint64_t i)
{
	return (uint32_t)min_u64(u->unit, bytes - i * u->unit);
}

/* What does not shrink stays as it is: its length says so. */
static int codec_encode(struct codec_ctx *ctx, const struct hb_algorithm *a, const uint8_t *data, uint64_t bytes,
			struct hb_units *u, const struct hb_settings *s)
{
	const struct codec *c = codecs[a->codec];

	for (uint64_t i = 0; i < u->n; i++) {
		uint32_t n = unit_bytes(u, bytes, i);
		size_t len = 0;

		if (hb_stopped(s, i))
			return -EINTR;
		if (a->codec != CODEC_RAW)
			len = c->encode(ctx, a->level, NULL, data + i * u->unit, n, hb_unit_out(u, i), u->slot);
		if (!len || len >= n) {
			memcpy(hb_unit_out(u, i), data + i * u->unit, n);
			len = n;
		}
		u->len[i] = (uint32_t)len;
	}
	return 0;
}

static int codec_decode(struct codec_ctx *ctx, const struct hb_algorithm *a, uint8_t *to, uint64_t bytes,
			const struct hb_units *u)
{
	const struct codec *c = codecs[a->codec];
	int rc = 0;

	for (uint64_t i = 0; i < u->n && rc >= 0; i++) {
		uint32_t n = unit_bytes(u, bytes, i);

		if (u->len[i] == n)
			memcpy(to + i * u->unit, hb_unit_out(u, i), n);
		else
			rc = c->decode(ctx, NULL, hb_unit_out(u, i), u->len[i], to + i * u->unit, n);
	}
	return rc;
}

static uint64_t sum(const struct hb_units *u)
{
	uint64_t all = 0;

	for (uint64_t i = 0; i < u->n; i++)
		all += u->len[i];
	return all;
}

/* ---- a turn ------------------------------------------------------------------------------------ */

void hb_note(struct hb_result *r, bool counts, uint64_t encode_ns, uint64_t decode_ns)
{
	if (!counts)
		return;
	r->encode_s[r->n] = (double)max_u64(encode_ns, 1) / 1e9;
	r->decode_s[r->n] = (double)max_u64(decode_ns, 1) / 1e9;
	r->n++;
}

int hb_wrong(struct hb_result *r, const char *why, struct err *e)
{
	r->verified = false;
	return err_set(e, -EBADMSG, "%s: %s: this is a bug, keep the image", r->algorithm.name, why);
}

int hb_compare(struct hb_result *r, const uint8_t *is, const uint8_t *should_be, uint64_t bytes, struct err *e)
{
	char why[96];

	for (uint64_t at = 0; at < bytes; at += MEMORY_PAGE) {
		if (!memcmp(is + at, should_be + at, min_u64(MEMORY_PAGE, bytes - at)))
			continue;
		snprintf(why, sizeof(why), "page %llu was decoded to something else",
			 (unsigned long long)(at / MEMORY_PAGE));
		return hb_wrong(r, why, e);
	}
	r->verified = true;
	return 0;
}

int hb_refused(struct hb_result *r, uint64_t unit, const struct hde_refusal *why, struct err *e)
{
	char text[160];

	snprintf(text, sizeof(text), "batch %llu is refused, block %d, byte %u: %s", (unsigned long long)unit,
		 why->block, why->at, why->why ? why->why : "no reason");
	return hb_wrong(r, text, e);
}

int hb_codec_turn(const uint8_t *data, uint64_t bytes, uint8_t *to, struct hb_units *u, const struct hb_settings *s,
		  struct hb_result *r, bool counts, struct err *e)
{
	struct codec_ctx *ctx;
	uint64_t t[3];
	int rc = codec_open(&ctx, true, true, r->algorithm.codec == CODEC_ZSTD ? r->algorithm.level : 3, e);

	if (rc < 0)
		return rc;
	memset(to, SCRUB, bytes);
	t[0] = clock_now(&clock_thread);
	rc = codec_encode(ctx, &r->algorithm, data, bytes, u, s);
	t[1] = clock_now(&clock_thread);
	if (rc < 0) {
		err_set(e, rc, "interrupted");
		goto out;
	}
	hb_told(s, bytes);
	rc = codec_decode(ctx, &r->algorithm, to, bytes, u);
	t[2] = clock_now(&clock_thread);
	hb_told(s, bytes);
	rc = rc < 0 ? hb_wrong(r, "a block is refused", e) : hb_compare(r, to, data, bytes, e);
	if (rc < 0)
		goto out;
	r->bytes_in = bytes;
	r->bytes_out = sum(u);
	hb_note(r, counts, t[1] - t[0], t[2] - t[1]);
out:
	codec_close(ctx);
	return rc;
}

void hb_hde_config(struct hde_config *c, const struct hb_algorithm *a, const struct hb_settings *s, uint64_t bytes)
{
	*c = (struct hde_config){ .workers = 1, .bytes = bytes, .puts = true, .model = s->model };
	hde_opts_default(&c->opts, a->mode);
	c->fixed = (struct sel_choice){ .codec = (uint8_t)a->codec, .level = (int8_t)a->level };
	c->opts.link_bits_per_s = s->link_bits ? s->link_bits : c->opts.link_bits_per_s;
	c->opts.cache = s->cache;
}

static struct hde_batch batch_of(const uint8_t *data, uint64_t bytes, uint32_t size, uint64_t i)
{
	uint32_t n = (uint32_t)min_u64(size, bytes - i * size);

	return (struct hde_batch){
		.first = i * size / HDE_PAGE, .n = n / HDE_PAGE, .bytes = n, .data = data + i * size
	};
}

/* A payload of the whole length is a batch that goes by a raw put. */
static int hde_encode_all(struct hde_enc *enc, const uint8_t *data, uint64_t bytes, struct hb_units *u,
			  const struct hb_settings *s)
{
	for (uint64_t i = 0; i < u->n; i++) {
		struct hde_batch b = batch_of(data, bytes, u->unit, i);
		ssize_t len;

		if (hb_stopped(s, i))
			return -EINTR;
		len = hde_encode(enc, 0, &b, hb_unit_out(u, i), (size_t)b.bytes + HDE_OVERHEAD);
		if (len < 0)
			return (int)len;
		u->len[i] = (uint32_t)len;
		hde_acked(enc, 0, &b, 0);
	}
	return 0;
}

static int hde_decode_all(struct hde_dec *dec, const uint8_t *data, uint64_t bytes, uint8_t *to,
			  const struct hb_units *u, struct hb_result *r, struct err *e)
{
	struct hde_refusal why = { 0 };
	int rc = 0;

	for (uint64_t i = 0; i < u->n && rc >= 0; i++) {
		struct hde_batch b = batch_of(data, bytes, u->unit, i);

		if (u->len[i]) {
			rc = hde_decode(dec, 0, 0, b.first * HDE_PAGE, b.bytes, hb_unit_out(u, i), u->len[i], &why);
			if (rc < 0)
				hb_refused(r, i, &why, e);
		} else {
			memcpy(to + i * u->unit, b.data, b.bytes);
			hde_dec_put(dec, 0, b.first * HDE_PAGE, b.bytes);
		}
	}
	return rc;
}

static uint64_t hde_sum(const uint8_t *data, uint64_t bytes, const struct hb_units *u)
{
	uint64_t all = 0;

	for (uint64_t i = 0; i < u->n; i++)
		all += u->len[i] ? u->len[i] : batch_of(data, bytes, u->unit, i).bytes;
	return all;
}

static int hde_turn(const uint8_t *data, uint64_t bytes, uint8_t *to, struct hb_units *u, const struct hb_settings *s,
		    struct hb_result *r, bool counts, struct err *e)
{
	struct hde_dec_config dc = { .workers = 1, .memory = to, .bytes = bytes, .fresh = true };
	struct hde_config ec;
	struct hde_enc *enc = NULL;
	struct hde_dec *dec = NULL;
	uint64_t t[4];
	int rc;

	hb_hde_config(&ec, &r->algorithm, s, bytes);
	ec.frozen = data;
	memset(to, 0, bytes);
	rc = memory_warm(bytes, e);
	if (rc >= 0)
		rc = hde_enc_open(&enc, &ec, e);
	if (rc >= 0)
		rc = hde_dec_open(&dec, &dc, e);
	if (rc < 0)
		goto out;
	hde_round(enc, NULL);
	t[0] = clock_now(&clock_thread);
	rc = hde_encode_all(enc, data, bytes, u, s);
	t[1] = clock_now(&clock_thread);
	hb_told(s, bytes);
	if (rc < 0) {
		err_set(e, rc, rc == -EINTR ? "interrupted" : "%s: encoding failed", r->algorithm.name);
		goto out;
	}
	t[2] = clock_now(&clock_thread);
	rc = hde_decode_all(dec, data, bytes, to, u, r, e);
	t[3] = clock_now(&clock_thread);
	hb_told(s, bytes);
	if (rc >= 0)
		rc = hb_compare(r, to, data, bytes, e);
	if (rc < 0)
		goto out;
	r->bytes_in = bytes;
	r->bytes_out = hde_sum(data, bytes, u);
	hde_enc_stats(enc, &r->stats);
	hb_note(r, counts, t[1] - t[0], t[3] - t[2]);
out:
	hde_dec_close(dec);
	hde_enc_close(enc);
	return rc;
}

int hb_image(const struct memory *m, const struct hb_algorithm *a, size_t n, const struct hb_settings *s,
	     struct hb_result *results, struct err *e)
{
	struct hb_units blocks = { 0 }, batches = { 0 };
	struct hugebuf to = { 0 };
	int rc = hugebuf_alloc(&to, m->bytes, true, e);

	if (rc >= 0)
		rc = hb_units_open(&blocks, m->bytes, s->block, e);
	if (rc >= 0)
		rc = hb_units_open(&batches, m->bytes, s->batch, e);
	for (size_t i = 0; i < n; i++)
		results[i] = (struct hb_result){ .algorithm = a[i] };
	for (unsigned turn = 0; turn <= s->iterations && rc >= 0; turn++)
		for (size_t i = 0; i < n && rc >= 0; i++)
			rc = a[i].hde ? hde_turn(m->data, m->bytes, to.addr, &batches, s, &results[i], turn > 0, e)
				      : hb_codec_turn(m->data, m->bytes, to.addr, &blocks, s, &results[i], turn > 0, e);
	hb_units_free(&batches);
	hb_units_free(&blocks);
	hugebuf_free(&to);
	return rc;
}

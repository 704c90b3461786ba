/* SPDX-License-Identifier: MIT */
#include "bench/hde_blocks.h"
#include "base/clock.h"
#include "base/util.h"
#include "bench/hde_runner.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TRIES 5u
#define TRY_NS (20 * NS_PER_MS)
#define LOOKS 16u /* between two looks at the clock, which takes as long as a look at a block */

/* ---- blocks of an image ------------------------------------------------------------------------ */

/* Blocks are counted first, then those that are wanted are kept: two passes see the same ones. */
struct taker {
	uint64_t seen, every; /* keep one of `every` */
	size_t n, most;
	uint8_t *bytes; /* CODEC_BLOCK_MAX each */
	uint32_t *len;
};

static void take(void *ctx, const void *raw, size_t n)
{
	struct taker *t = ctx;

	if (n > CODEC_BLOCK_MAX || !n)
		return;
	if (t->every && t->seen % t->every == 0 && t->n < t->most) {
		memcpy(t->bytes + t->n * CODEC_BLOCK_MAX, raw, n);
		t->len[t->n++] = (uint32_t)n;
	}
	t->seen++;
}

static int one_pass(const struct memory *m, const struct hb_settings *s, struct taker *t, struct err *e)
{
	static const struct hb_algorithm fast = { .name = "hde-datacenter", .hde = true, .mode = HDE_DATACENTER };
	struct hde_config c;
	struct hde_enc *enc;
	uint8_t *out;
	int rc = 0;

	hb_hde_config(&c, &fast, s, m->bytes);
	c.frozen = m->data;
	c.puts = false;
	c.on_block = take;
	c.on_block_ctx = t;
	out = malloc((size_t)s->batch + HDE_OVERHEAD);
	if (!out)
		return err_set(e, -ENOMEM, "no memory for a batch");
	rc = hde_enc_open(&enc, &c, e);
	if (rc < 0)
		goto out;
	hde_round(enc, NULL);
	for (uint64_t at = 0; at < m->bytes && rc >= 0; at += s->batch) {
		uint32_t n = (uint32_t)min_u64(s->batch, m->bytes - at);
		struct hde_batch b = { .first = at / HDE_PAGE, .n = n / HDE_PAGE, .bytes = n, .data = m->data + at };
		ssize_t len = hde_encode(enc, 0, &b, out, (size_t)n + HDE_OVERHEAD);

		if (len < 0)
			rc = err_set(e, (int)len, "%s: encoding failed", m->name);
		else
			hde_acked(enc, 0, &b, 0);
	}
	hde_enc_close(enc);
out:
	free(out);
	return rc;
}

/* ---- every choice ------------------------------------------------------------------------------ */

/* One choice on one block: size, and the medians. */
static int try_choice(struct codec_ctx *ctx, const struct sel_choice *c, const uint8_t *raw, uint32_t n, uint8_t *out,
		      uint8_t *back, struct hb_block *b, unsigned i, struct err *e)
{
	const struct codec *codec = codecs[c->codec];
	double encode[TRIES], decode[TRIES];
	uint64_t begin = clock_now(&clock_thread), t[3];
	unsigned tries = 0;
	size_t len = 0;
	int rc = 0;

	do {
		t[0] = clock_now(&clock_thread);
		if (c->codec == CODEC_RAW)
			memcpy(out, raw, n);
		else
			len = codec->encode(ctx, c->level, NULL, raw, n, out, n - 1);
		t[1] = clock_now(&clock_thread);
		if (len)
			rc = codec->decode(ctx, NULL, out, len, back, n);
		else
			memcpy(back, raw, n);
		t[2] = clock_now(&clock_thread);
		encode[tries] = (double)(t[1] - t[0]);
		decode[tries] = (double)(t[2] - t[1]);
	} while (++tries < TRIES && t[2] - begin < TRY_NS && rc >= 0);
	if (rc < 0 || memcmp(back, raw, n) != 0)
		return err_set(e, -EBADMSG, "%s %d: what was decoded is not what was encoded: this is a bug",
			       codec->name, c->level);
	b->choice[i].size = (uint32_t)(len ? len : n);
	b->choice[i].encode_ns = stats_median(encode, tries);
	b->choice[i].decode_ns = stats_median(decode, tries);
	return 0;
}

static double time_selection(struct hb_block *b, const uint8_t *raw, uint32_t n, struct selector *s)
{
	double ns[TRIES];

	for (unsigned i = 0; i < TRIES; i++) {
		uint64_t t = clock_now(&clock_thread);

		for (unsigned k = 0; k < LOOKS; k++) {
			sel_features(&b->features, raw, n);
			(void)sel_choose(s, &b->features, n, NULL);
		}
		ns[i] = (double)(clock_now(&clock_thread) - t) / LOOKS;
	}
	return stats_median(ns, TRIES);
}

static int measure(struct hb_blocks *blocks, const struct taker *t, const struct hb_settings *s, struct err *e)
{
	const struct sel_cost cost = { .cpu = 1, .link_bytes_per_s = 125e6, .receiver = 1 };
	uint8_t *room = malloc(2 * CODEC_BLOCK_MAX);
	struct codec_ctx *ctx = NULL;
	struct selector sel;
	int rc = room ? codec_open(&ctx, true, true, 19, e) : err_set(e, -ENOMEM, "no memory for a block");

	sel_init(&sel, s->model, &cost);
	for (size_t i = 0; i < t->n && rc >= 0; i++) {
		const uint8_t *raw = t->bytes + i * CODEC_BLOCK_MAX;
		struct hb_block *b = &blocks->v[i];

		b->n = t->len[i];
		b->select_ns = time_selection(b, raw, b->n, &sel);
		for (unsigned c = 0; c < SEL_CHOICES && rc >= 0; c++)
			rc = try_choice(ctx, &sel_choices[c], raw, b->n, room, room + CODEC_BLOCK_MAX, b, c, e);
		if (rc >= 0 && s->stop && *s->stop)
			rc = err_set(e, -EINTR, "interrupted");
		if (s->progress)
			s->progress(s->progress_ctx, b->n);
	}
	codec_close(ctx);
	free(room);
	return rc;
}

int hb_blocks_measure(struct hb_blocks *b, const struct memory *m, size_t most, const struct hb_settings *s,
		      struct err *e)
{
	struct hb_blocks new = { 0 };
	struct taker t = { 0 };
	int rc = one_pass(m, s, &t, e);

	if (rc < 0)
		return rc;
	if (!t.seen)
		return err_set(e, -EINVAL, "%s: nothing is left for a codec, every page is zero or the same", m->name);
	snprintf(new.name, sizeof(new.name), "%s", m->name);
	new.seen = t.seen;
	t.every = div_up_u64(t.seen, most);
	t.most = div_up_u64(t.seen, t.every);
	t.seen = 0;
	t.bytes = malloc(t.most * CODEC_BLOCK_MAX);
	t.len = calloc(t.most, sizeof(*t.len));
	new.v = calloc(t.most, sizeof(*new.v));
	if (!t.bytes || !t.len || !new.v)
		rc = err_set(e, -ENOMEM, "no memory for %zu blocks", t.most);
	else
		rc = one_pass(m, s, &t, e);
	new.n = t.n;
	if (rc >= 0)
		rc = measure(&new, &t, s, e);
	free(t.len);
	free(t.bytes);
	if (rc < 0)
		hb_blocks_free(&new);
	else
		*b = new;
	return rc;
}

void hb_blocks_free(struct hb_blocks *b)
{
	free(b->v);
	*b = (struct hb_blocks){ 0 };
}

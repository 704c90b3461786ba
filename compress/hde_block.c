/* SPDX-License-Identifier: MIT */
/* One block: pages of a class, or what is left of them, and the codec that takes them. */
#include "compress/hde_impl.h"

#include "base/clock.h"
#include "base/util.h"
#include <string.h>

#define TINY 64 /* bytes: no codec makes them fewer */

static const uint16_t *pages_of(const struct batch_enc *x, const struct block_plan *p)
{
	return &x->w->group[p->class][p->at];
}

/* The pages of a block, one after the other: where they lie, if they lie so, or a copy. */
static const uint8_t *gather(struct batch_enc *x, const struct block_plan *p)
{
	const uint16_t *v = pages_of(x, p);

	if (v[p->n - 1] - v[0] + 1 == p->n)
		return batch_bytes(x->b, v[0]);
	for (uint32_t k = 0; k < p->n; k++)
		memcpy(x->w->raw + (size_t)k * HDE_PAGE, batch_bytes(x->b, v[k]), batch_len(x->b, v[k]));
	return x->w->raw;
}

static void put_block_head(uint8_t *at, const struct hw_block *h)
{
	struct wcur c = wcur_init(at, HW_BLOCK_HEAD);

	put_u8(&c, h->type);
	put_u8(&c, h->codec);
	put_u8(&c, h->flags);
	put_u8(&c, 0);
	put_u32(&c, h->raw);
	put_u32(&c, h->mid);
	put_u32(&c, h->len);
	put_u64(&c, h->sum);
}

/* What the rule says; the choice's index, or SEL_CHOICES where it was not asked. *looked: f is filled. */
static unsigned choose(struct batch_enc *x, const void *data, uint32_t n, struct sel_features *f, bool *looked,
		       struct sel_choice *choice)
{
	const struct hde_config *cfg = &x->e->cfg;
	uint64_t began;
	unsigned c;

	if (cfg->opts.mode == HDE_FIXED) {
		*choice = cfg->fixed;
		return SEL_CHOICES;
	}
	*looked = sel_look(&x->w->sel);
	if (!*looked)
		return 0;
	began = clock_now(&clock_mono);
	sel_features(f, data, n);
	c = sel_choose(&x->w->sel, f, n, NULL);
	metric_add(&x->w->stats.select_ns, clock_now(&clock_mono) - began);
	*choice = sel_choices[c];
	return c;
}

/* Encodes mid (h->mid bytes) behind the block's head. */
static void append(struct batch_enc *x, struct hw_block *h, const uint8_t *mid, bool random)
{
	struct hde_stats *s = &x->w->stats;
	struct sel_choice choice = { CODEC_RAW, 0 };
	unsigned c = SEL_CHOICES;
	struct sel_features f;
	bool looked = false;
	uint8_t *head = x->out.p;
	uint64_t began = 0;
	size_t len = 0;

	if (h->mid >= TINY && !(random && x->e->cfg.opts.mode != HDE_FIXED))
		c = choose(x, mid, h->mid, &f, &looked, &choice);
	x->out.p += HW_BLOCK_HEAD;
	began = clock_now(&clock_mono);
	if (choice.codec != CODEC_RAW)
		len = codecs[choice.codec]->encode(x->w->codec, choice.level, NULL, mid, h->mid, x->out.p,
						   x->e->cfg.opts.mode == HDE_FIXED ? (size_t)(x->out.end - x->out.p)
										    : h->mid - 1);
	if (!len || len >= h->mid) {
		choice.codec = CODEC_RAW;
		memcpy(x->out.p, mid, h->mid);
		len = h->mid;
	}
	if (c < SEL_CHOICES) {
		sel_learn(&x->w->sel, looked ? &f : NULL, h->mid, c, len, clock_now(&clock_mono) - began, 0);
		metric_add(&s->choice[c], 1);
	}
	h->codec = choice.codec;
	h->len = (uint32_t)len;
	x->out.p += len;
	put_block_head(head, h);
}

static void encode_deltas(struct batch_enc *x, const struct block_plan *p)
{
	const uint16_t *v = pages_of(x, p);
	struct enc_worker *w = x->w;
	struct hw_block h = { .type = HW_DELTA, .raw = p->n * HDE_PAGE };
	struct wcur c = wcur_init(w->mid, CODEC_BLOCK_MAX);
	struct delta n = { 0 };

	for (uint32_t k = 0; k < p->n; k++) {
		uint32_t i = v[k];

		n.ctl += w->delta[i].ctl;
		n.data += w->delta[i].data;
		h.sum = hw_sum(h.sum, page_hash(x, i));
		x->bases = bases_add(x->bases, batch_page(x->b, i), batch_state(x, i)->acked);
	}
	put_u32(&c, n.ctl);
	put_bytes(&c, w->ctl + x->deltas.ctl, n.ctl);
	put_bytes(&c, w->data + x->deltas.data, n.data);
	x->deltas.ctl += n.ctl;
	x->deltas.data += n.data;
	h.mid = (uint32_t)(c.p - w->mid);
	metric_add(&w->stats.delta_bytes, h.mid);
	append(x, &h, w->mid, false);
}

static void encode_copies(struct batch_enc *x, const struct block_plan *p)
{
	const uint16_t *v = pages_of(x, p);
	struct enc_worker *w = x->w;
	struct hw_block h = { .type = HW_CODED, .flags = HW_MATCHES, .raw = p->n * HDE_PAGE };
	struct wcur c = wcur_init(w->mid, CODEC_BLOCK_MAX);
	int64_t last = 0;

	put_u32(&c, 0); /* no literals */
	for (uint32_t k = 0; k < p->n; k++) {
		uint32_t from = w->copy_of[v[k]];

		put_leb32(&c, 0);
		put_leb32(&c, HDE_PAGE);
		put_leb32(&c, zigzag((int64_t)from - last));
		put_leb32(&c, 0);
		last = from;
		h.sum = hw_sum(h.sum, page_hash(x, v[k]));
		x->bases = bases_add(x->bases, from, __atomic_load_n(&x->e->pages[from].acked, __ATOMIC_RELAXED));
	}
	h.mid = (uint32_t)(c.p - w->mid);
	append(x, &h, w->mid, false);
}

/* The pages without what is found elsewhere, behind it where; false: all of them are at w->mid + 4. */
static bool take_out_matches(struct batch_enc *x, const struct block_plan *p, struct hw_block *h)
{
	struct enc_worker *w = x->w;
	uint32_t lits, rec = block_match(x, pages_of(x, p), p->n, w->mid + 4, &lits);
	struct wcur c = wcur_init(w->mid, 4);

	if (!rec)
		return false;
	put_u32(&c, lits);
	memcpy(w->mid + 4 + lits, w->rec, rec);
	h->mid = 4 + lits + rec;
	h->flags |= HW_MATCHES;
	return true;
}

static void encode_pages(struct batch_enc *x, const struct block_plan *p)
{
	const struct hde_config *cfg = &x->e->cfg;
	struct hde_stats *s = &x->w->stats;
	struct hw_block h = { .type = HW_CODED };
	const uint8_t *mid;

	for (uint32_t k = 0; k < p->n; k++) {
		h.raw += batch_len(x->b, pages_of(x, p)[k]);
		h.sum = hw_sum(h.sum, page_hash(x, pages_of(x, p)[k]));
	}
	h.mid = h.raw;
	if (!x->e->n_pages || x->alone || cfg->no_match || p->class == CLASS_RANDOM)
		mid = gather(x, p);
	else
		mid = take_out_matches(x, p, &h) ? x->w->mid : x->w->mid + 4;
	if (cfg->on_block)
		cfg->on_block(cfg->on_block_ctx, mid, h.mid);
	append(x, &h, mid, p->class == CLASS_RANDOM);
	metric_add(h.codec == CODEC_RAW ? &s->raw_pages : &s->coded_pages, p->n);
}

void block_encode(struct batch_enc *x, const struct block_plan *p)
{
	if (p->class == CLASS_DELTA)
		encode_deltas(x, p);
	else if (p->class == CLASS_COPY)
		encode_copies(x, p);
	else
		encode_pages(x, p);
}

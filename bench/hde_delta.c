/* SPDX-License-Identifier: MIT */
/* The pages that changed between two images, as a round of pre-copy sends them. */
#include "base/bitmap.h"
#include "base/clock.h"
#include "base/util.h"
#include "bench/hde_runner.h"
#include "bench/xbzrle.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Changed pages side by side, as a snapshot is taken: page i of it is page number[i] of the memory. */
struct changes {
	uint64_t n;
	uint64_t *number, *bitmap;
	uint8_t *now, *before;
	struct hugebuf now_buf, before_buf;
};

static void changes_free(struct changes *c)
{
	hugebuf_free(&c->now_buf);
	hugebuf_free(&c->before_buf);
	free(c->number);
	free(c->bitmap);
	*c = (struct changes){ 0 };
}

static const uint8_t *page(const struct memory *m, uint64_t i)
{
	return m->data + i * MEMORY_PAGE;
}

static int find_changes(struct changes *c, const struct memory *m, const struct memory *base, struct hb_delta *d,
			struct err *e)
{
	uint64_t pages = m->bytes / MEMORY_PAGE;

	if (m->bytes != base->bytes)
		return err_set(e, -EINVAL,
			       "%s has %llu bytes and %s %llu: give two images of one guest, some seconds apart",
			       m->name, (unsigned long long)m->bytes, base->name, (unsigned long long)base->bytes);
	c->number = malloc(pages * sizeof(*c->number));
	c->bitmap = calloc(bitmap_words(pages), sizeof(*c->bitmap));
	if (!c->number || !c->bitmap)
		return err_set(e, -ENOMEM, "no memory for a list of %llu pages", (unsigned long long)pages);
	*d = (struct hb_delta){ .pages = pages };
	for (uint64_t i = 0; i < pages; i++) {
		if (!memcmp(page(m, i), page(base, i), MEMORY_PAGE))
			continue;
		bitmap_set(c->bitmap, i);
		c->number[c->n++] = i;
		d->xbzrle_bytes += xbzrle_wire(page(base, i), page(m, i));
		d->encoded_pages += xbzrle_encoded(page(base, i), page(m, i)) != XBZRLE_OVERFLOW;
	}
	d->changed = c->n;
	return 0;
}

static int gather(struct changes *c, const struct memory *m, const struct memory *base, struct err *e)
{
	uint64_t bytes = c->n * MEMORY_PAGE;
	int rc;

	if (!c->n)
		return err_set(e, -EINVAL, "%s and %s are the same; give an older image that differs", m->name,
			       base->name);
	rc = hugebuf_alloc(&c->now_buf, bytes, true, e);
	if (rc >= 0)
		rc = hugebuf_alloc(&c->before_buf, bytes, true, e);
	if (rc < 0)
		return rc;
	c->now = c->now_buf.addr;
	c->before = c->before_buf.addr;
	for (uint64_t i = 0; i < c->n; i++) {
		memcpy(c->now + i * MEMORY_PAGE, page(m, c->number[i]), MEMORY_PAGE);
		memcpy(c->before + i * MEMORY_PAGE, page(base, c->number[i]), MEMORY_PAGE);
	}
	return 0;
}

/* ---- HDE --------------------------------------------------------------------------------------- */

/* A guest's memory at both ends; rounds go back and forth between two images. */
struct pair {
	struct hde_enc *enc;
	struct hde_dec *dec;
	struct hugebuf there;
	uint32_t batch_pages;
	struct hb_units units; /* of changed pages */
};

static int pass(struct pair *p, const struct hde_batch *b, uint8_t *out, uint32_t *len)
{
	ssize_t n = hde_encode(p->enc, 0, b, out, (size_t)b->bytes + HDE_OVERHEAD);

	if (n < 0)
		return (int)n;
	*len = (uint32_t)n;
	hde_acked(p->enc, 0, b, 0);
	return 0;
}

/* Everything once, so that the receiver has it. */
static int first_round(struct pair *p, const struct memory *base)
{
	uint32_t size = p->batch_pages * HDE_PAGE, len = 0;
	int rc = 0;

	hde_round(p->enc, NULL);
	for (uint64_t at = 0; at < base->bytes && rc >= 0; at += size) {
		uint32_t n = (uint32_t)min_u64(size, base->bytes - at);
		struct hde_batch b = { .first = at / HDE_PAGE, .n = n / HDE_PAGE, .bytes = n, .data = base->data + at };

		rc = pass(p, &b, p->units.out.addr, &len);
		if (rc >= 0)
			rc = hde_decode(p->dec, 0, 0, b.first * HDE_PAGE, b.bytes, p->units.out.addr, len, NULL);
	}
	return rc;
}

static void list_batch(const struct pair *p, const struct changes *c, const uint8_t *data, uint64_t i,
		       struct hde_batch *b, uint32_t list[HDE_BATCH_PAGES])
{
	uint64_t from = i * p->batch_pages;

	b->first = c->number[from];
	b->n = (uint32_t)min_u64(p->batch_pages, c->n - from);
	b->bytes = b->n * HDE_PAGE;
	b->pages = list;
	b->data = data + from * HDE_PAGE;
	for (uint32_t j = 0; j < b->n; j++)
		list[j] = (uint32_t)(c->number[from + j] - b->first);
}

static int encode_changes(struct pair *p, const struct changes *c, const uint8_t *data)
{
	int rc = 0;

	for (uint64_t i = 0; i < p->units.n && rc >= 0; i++) {
		uint32_t list[HDE_BATCH_PAGES];
		struct hde_batch b;

		list_batch(p, c, data, i, &b, list);
		rc = pass(p, &b, hb_unit_out(&p->units, i), &p->units.len[i]);
	}
	return rc;
}

static int decode_changes(struct pair *p, struct hb_result *r, struct err *e)
{
	struct hde_refusal why = { 0 };
	int rc = 0;

	for (uint64_t i = 0; i < p->units.n && rc >= 0; i++) {
		rc = hde_decode(p->dec, 0, 0, 0, 0, hb_unit_out(&p->units, i), p->units.len[i], &why);
		if (rc < 0)
			hb_refused(r, i, &why, e);
	}
	return rc;
}

static int pair_open(struct pair *p, const struct memory *base, const struct changes *c, const struct hb_algorithm *a,
		     const struct hb_settings *s, struct err *e)
{
	struct hde_dec_config dc = { .workers = 1, .bytes = base->bytes };
	struct hde_config ec;
	int rc;

	p->batch_pages = s->batch / HDE_PAGE;
	hb_hde_config(&ec, a, s, base->bytes);
	ec.puts = false; /* lists of pages go as payloads */
	rc = hb_units_open(&p->units, c->n * HDE_PAGE, s->batch, e);
	if (rc >= 0)
		rc = hugebuf_alloc(&p->there, base->bytes, true, e);
	dc.memory = p->there.addr;
	if (rc >= 0)
		rc = hde_enc_open(&p->enc, &ec, e);
	if (rc >= 0)
		rc = hde_dec_open(&p->dec, &dc, e);
	if (rc >= 0) {
		rc = first_round(p, base);
		if (rc < 0)
			err_set(e, rc, "%s: the first round failed", a->name);
	}
	return rc;
}

static void pair_close(struct pair *p)
{
	hde_dec_close(p->dec);
	hde_enc_close(p->enc);
	hugebuf_free(&p->there);
	hb_units_free(&p->units);
}

static int compare_changes(const struct pair *p, const struct changes *c, const uint8_t *data, struct hb_result *r,
			   struct err *e)
{
	const uint8_t *there = p->there.addr;
	int rc = 0;

	for (uint64_t i = 0; i < c->n && rc >= 0; i++)
		rc = hb_compare(r, there + c->number[i] * HDE_PAGE, data + i * HDE_PAGE, HDE_PAGE, e);
	return rc;
}

static int one_way(struct pair *p, const struct changes *c, const uint8_t *data, struct hb_result *r, uint64_t ns[2],
		   struct err *e)
{
	uint64_t t[3];
	int rc;

	hde_round(p->enc, c->bitmap);
	t[0] = clock_now(&clock_thread);
	rc = encode_changes(p, c, data);
	t[1] = clock_now(&clock_thread);
	if (rc < 0)
		return err_set(e, rc, "%s: encoding failed: %s", r->algorithm.name, strerror(-rc));
	rc = decode_changes(p, r, e);
	t[2] = clock_now(&clock_thread);
	ns[0] = t[1] - t[0];
	ns[1] = t[2] - t[1];
	return rc < 0 ? rc : compare_changes(p, c, data, r, e);
}

/* There and back: the way there is measured. */
static int hde_round_trip(struct pair *p, const struct changes *c, struct hb_result *r, bool counts, struct err *e)
{
	uint64_t ns[2], bytes = 0;
	int rc = one_way(p, c, c->now, r, ns, e);

	if (rc < 0)
		return rc;
	for (uint64_t i = 0; i < p->units.n; i++)
		bytes += p->units.len[i];
	r->bytes_in = c->n * HDE_PAGE;
	r->bytes_out = bytes;
	hde_enc_stats(p->enc, &r->stats);
	hb_note(r, counts, ns[0], ns[1]);
	return one_way(p, c, c->before, r, ns, e);
}

int hb_delta(const struct memory *m, const struct memory *base, const struct hb_algorithm *a, size_t n,
	     const struct hb_settings *s, struct hb_delta *d, struct hb_result *results, struct err *e)
{
	struct pair pairs[HB_ALGORITHMS_MAX] = { 0 };
	struct hb_units blocks = { 0 };
	struct hugebuf to = { 0 };
	struct changes c = { 0 };
	int rc = find_changes(&c, m, base, d, e);

	for (size_t i = 0; i < n; i++)
		results[i] = (struct hb_result){ .algorithm = a[i] };
	if (rc >= 0)
		rc = gather(&c, m, base, e);
	if (rc >= 0)
		rc = hugebuf_alloc(&to, c.n * MEMORY_PAGE, true, e);
	if (rc >= 0)
		rc = hb_units_open(&blocks, c.n * MEMORY_PAGE, s->block, e);
	for (size_t i = 0; i < n && rc >= 0; i++)
		if (a[i].hde)
			rc = pair_open(&pairs[i], base, &c, &a[i], s, e);
	for (unsigned turn = 0; turn <= s->iterations && rc >= 0; turn++)
		for (size_t i = 0; i < n && rc >= 0; i++) {
			if (hb_stopped(s, 0))
				rc = err_set(e, -EINTR, "interrupted");
			else if (a[i].hde)
				rc = hde_round_trip(&pairs[i], &c, &results[i], turn > 0, e);
			else
				rc = hb_codec_turn(c.now, c.n * MEMORY_PAGE, to.addr, &blocks, s, &results[i], turn > 0,
						   e);
		}
	for (size_t i = 0; i < n; i++)
		pair_close(&pairs[i]);
	hb_units_free(&blocks);
	hugebuf_free(&to);
	changes_free(&c);
	return rc;
}

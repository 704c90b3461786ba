/* SPDX-License-Identifier: MIT */
/* Pages into a checkpoint's file, and out of it. */
#include "migrate/checkpoint_file.h"

#include "base/bitmap.h"
#include "base/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- out of a file ----------------------------------------------------------------------------- */

static int place(void *ctx, uint64_t page, enum page_kind kind, const uint8_t *contents)
{
	struct ckpt_memory *m = ctx;
	uint8_t *at = m->mem + page * GUEST_PAGE;
	bool first;

	/* No page of a checkpoint comes later. */
	if (kind == PAGE_LATE)
		return -EBADMSG;
	first = bitmap_set(m->have, page);
	if (kind == PAGE_RAW)
		memcpy(at, contents, GUEST_PAGE);
	else if (!first)
		memset(at, 0, GUEST_PAGE);
	return 0;
}

static int place_hde(struct ckpt_memory *m, const struct page_list *l, const struct rcur *body, const char **why)
{
	struct hde_dec_config cfg = { .workers = 1, .memory = m->mem, .bytes = m->len };
	struct hde_refusal refusal = { 0 };
	int rc = 0;

	if (!m->hde) {
		cfg.fresh = !bitmap_count(m->have, m->len / GUEST_PAGE);
		rc = hde_dec_open(&m->hde, &cfg, NULL);
	}
	if (rc == 0)
		rc = hde_decode_list(m->hde, 0, l->page, l->n, body->p, rcur_left(body), &refusal);
	if (rc == -EBADMSG)
		*why = refusal.why ? refusal.why : "its pages cannot be decoded";
	for (uint32_t i = 0; rc == 0 && i < l->n; i++)
		bitmap_set(m->have, l->page[i]);
	return rc;
}

int ckpt_place(struct ckpt_memory *m, const void *payload, size_t len, const char **why)
{
	enum pages_form form;
	struct page_list l;
	struct rcur body;

	*why = "it names pages that cannot be";
	if (pages_get_head(payload, len, m->len / GUEST_PAGE, &l, &form, &body) < 0)
		return -EBADMSG;
	if (form == PAGES_HDE)
		return place_hde(m, &l, &body, why);
	/* A decoder that is open has seen every page that was placed. */
	return form != PAGES_PLAIN || m->hde || pages_get_plain(&l, &body, place, m) < 0 ? -EBADMSG : 0;
}

void ckpt_memory_next(struct ckpt_memory *m)
{
	hde_dec_close(m->hde);
	m->hde = NULL;
}

struct digest128 ckpt_sum_memory(const uint8_t *mem, uint64_t pages, uint64_t *sums)
{
	for (uint64_t p = 0; p < pages; p++)
		sums[p] = sum_of(SUM_XXH3, mem + p * GUEST_PAGE, GUEST_PAGE);
	return digest128_of(sums, pages * sizeof *sums);
}

/* ---- into a file ------------------------------------------------------------------------------- */

int ckpt_pages_open(struct ckpt_pages *p, uint64_t len, const void *frozen, const struct hde_opts *hde, struct err *e)
{
	struct hde_config cfg = { .opts = *hde, .workers = 1, .bytes = len, .frozen = frozen };

	memset(p, 0, sizeof *p);
	p->len = len;
	p->snapshot = malloc(PAGES_CHUNK_MAX);
	p->out = malloc(CKPT_PAYLOAD_MAX);
	p->sums = calloc(len / GUEST_PAGE, sizeof *p->sums);
	if (!p->snapshot || !p->out || !p->sums)
		return err_set(e, -ENOMEM, "no memory to write checkpoints");
	return hde->mode == HDE_NONE ? 0 : hde_enc_open(&p->hde, &cfg, e);
}

void ckpt_pages_close(struct ckpt_pages *p)
{
	hde_enc_close(p->hde);
	free(p->snapshot);
	free(p->out);
	free(p->sums);
	memset(p, 0, sizeof *p);
}

/* The batch's pages at `data`, in order. Returns the payload's length. */
static ssize_t encode(struct ckpt_pages *p, const struct page_list *l, const uint8_t *data, struct hde_batch *b,
		      uint32_t relative[PAGES_MOST])
{
	size_t head = pages_put_head(l, p->hde ? PAGES_HDE : PAGES_PLAIN, p->out);
	struct page_list in_order;
	uint32_t zeros;
	ssize_t n;

	if (!p->hde) {
		pages_name(&in_order, NULL, 0, l->n);
		n = (ssize_t)pages_put_plain(&in_order, data, p->out + head, &zeros);
		p->zero_pages += zeros;
		return (ssize_t)head + n;
	}
	for (uint32_t i = 0; i < l->n; i++)
		relative[i] = l->page[i] - l->page[0];
	*b = (struct hde_batch){
		.first = l->page[0], .pages = relative, .n = l->n, .bytes = l->n * GUEST_PAGE, .data = data
	};
	n = hde_encode(p->hde, 0, b, p->out + head, CKPT_PAYLOAD_MAX - head);
	return n < 0 ? n : (ssize_t)head + n;
}

static int write_batch(struct ckpt_pages *p, struct ckpt_writer *w, const struct page_list *l, const uint8_t *data,
		       struct err *e)
{
	uint32_t relative[PAGES_MOST];
	struct hde_batch b;
	ssize_t n;
	int rc;

	for (uint32_t i = 0; i < l->n; i++)
		p->sums[l->page[i]] = sum_of(SUM_XXH3, data + (size_t)i * GUEST_PAGE, GUEST_PAGE);
	n = encode(p, l, data, &b, relative);
	if (n < 0)
		return err_set(e, (int)n, "cannot encode a guest's pages: please report this as a bug");
	rc = ckpt_writer_block(w, CKPT_PAGES, p->out, (size_t)n, e);
	if (rc == 0 && p->hde)
		hde_acked(p->hde, 0, &b, (uint64_t)n);
	return rc;
}

int ckpt_pages_write(struct ckpt_pages *p, struct ckpt_writer *w, const uint32_t *list, uint64_t n, const uint8_t *mem,
		     const uint8_t *from, const volatile sig_atomic_t *cancel, struct err *e)
{
	struct page_list l;
	int rc = 0;

	for (uint64_t i = 0; rc == 0 && i < n; i += l.n) {
		const uint8_t *data = from ? from + i * GUEST_PAGE : p->snapshot;

		if (cancel && *cancel)
			return err_set(e, -EINTR, "interrupted");
		pages_name(&l, list + i, 0, (uint32_t)min_u64(PAGES_MOST, n - i));
		for (uint32_t k = 0; !from && k < l.n; k++)
			memcpy(p->snapshot + (size_t)k * GUEST_PAGE, mem + (uint64_t)l.page[k] * GUEST_PAGE,
			       GUEST_PAGE);
		rc = write_batch(p, w, &l, data, e);
	}
	return rc;
}

/* SPDX-License-Identifier: MIT */
#include "migrate/pack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- source ------------------------------------------------------------------------------------ */

struct pack {
	struct hde_enc *enc;
	unsigned workers;
	uint8_t *row; /* of each worker: a chunk's pages, one after the other */
};

int pack_open(struct pack **out, unsigned workers, const struct hde_opts *opts, struct err *e)
{
	struct pack *p = calloc(1, sizeof *p);
	int rc = 0;

	if (p) {
		p->workers = workers;
		p->row = malloc((size_t)workers * PAGES_CHUNK_MAX);
	}
	if (!p || !p->row)
		rc = err_set(e, -ENOMEM, "no memory for %u workers that compress", workers);
	if (rc == 0)
		rc = hde_enc_open(&p->enc, &(struct hde_config){ .opts = *opts, .workers = workers }, e);
	if (rc < 0) {
		pack_close(p);
		return rc;
	}
	*out = p;
	return 0;
}

void pack_close(struct pack *p)
{
	if (!p)
		return;
	hde_enc_close(p->enc);
	free(p->row);
	free(p);
}

ssize_t pack_put(struct pack *p, unsigned worker, const struct page_list *l, const uint8_t *mem, void *out, size_t cap)
{
	uint8_t *row = p->row + (size_t)worker * PAGES_CHUNK_MAX;
	struct hde_batch b = { .n = l->n, .bytes = l->n * GUEST_PAGE, .data = row };

	if (worker >= p->workers)
		return -EINVAL;
	for (uint32_t i = 0; i < l->n; i++)
		memcpy(row + (size_t)i * GUEST_PAGE, mem + (uint64_t)l->page[i] * GUEST_PAGE, GUEST_PAGE);
	return hde_encode(p->enc, worker, &b, out, cap);
}

void pack_acked(struct pack *p, unsigned worker, uint32_t bytes, uint64_t wire)
{
	struct hde_batch b = { .n = 1, .bytes = bytes };

	hde_acked(p->enc, worker, &b, wire);
}

struct source_counts pack_counts(const struct pack *p)
{
	struct hde_stats st;

	hde_enc_stats(p->enc, &st);
	return (struct source_counts){ .zero_pages = st.zero_pages,
				       .duplicate_pages = st.duplicate_pages,
				       .raw_pages = st.coded_pages + st.raw_pages };
}

/* ---- destination ------------------------------------------------------------------------------- */

/* Whoever unpacks takes one: two sessions, the old one and its successor, have workers of the same number. */
struct unpacker {
	cacheline_aligned bool taken; /* atomic */
	const struct page_list *l;
	page_sink sink;
	int (*done)(void *ctx);
	void *ctx;
};

struct unpack {
	struct hde_dec *dec;
	unsigned workers;
	struct unpacker *w;
};

static int place(void *ctx, uint32_t slot, const void *data, uint32_t len, uint64_t offset)
{
	struct unpack *u = ctx;
	struct unpacker *w = &u->w[slot];
	int rc = 0;

	(void)offset;
	(void)len;
	for (uint32_t i = 0; rc == 0 && i < w->l->n; i++) {
		const uint8_t *page = (const uint8_t *)data + (size_t)i * GUEST_PAGE;
		bool zero = page_is_zero(page);

		rc = w->sink(w->ctx, w->l->page[i], zero ? PAGE_ZERO : PAGE_RAW, zero ? NULL : page);
	}
	return rc < 0 ? rc : w->done(w->ctx);
}

int unpack_open(struct unpack **out, unsigned workers, struct err *e)
{
	struct unpack *u = calloc(1, sizeof *u);
	int rc = 0;

	if (u) {
		u->workers = workers;
		u->w = aligned_alloc(CACHE_LINE, workers * sizeof *u->w);
	}
	if (!u || !u->w)
		rc = err_set(e, -ENOMEM, "no memory for %u workers that decompress", workers);
	else
		memset(u->w, 0, workers * sizeof *u->w);
	if (rc == 0)
		rc = hde_dec_open(&u->dec,
				  &(struct hde_dec_config){ .workers = workers, .write = place, .write_ctx = u }, e);
	if (rc < 0) {
		unpack_close(u);
		return rc;
	}
	*out = u;
	return 0;
}

void unpack_close(struct unpack *u)
{
	if (!u)
		return;
	hde_dec_close(u->dec);
	free(u->w);
	free(u);
}

/* A free one, that of the worker's number first; `workers`: there is none. */
static unsigned take(struct unpack *u, unsigned worker)
{
	for (unsigned i = 0; i < u->workers; i++) {
		unsigned slot = (worker + i) % u->workers;

		if (!__atomic_exchange_n(&u->w[slot].taken, true, __ATOMIC_ACQUIRE))
			return slot;
	}
	return u->workers;
}

int unpack_get(struct unpack *u, unsigned worker, const struct page_list *l, struct rcur *body, page_sink sink,
	       int (*done)(void *ctx), void *ctx)
{
	unsigned slot = take(u, worker);
	struct unpacker *w = &u->w[slot];
	int rc;

	if (slot == u->workers)
		return -EBADMSG;
	w->l = l;
	w->sink = sink;
	w->done = done;
	w->ctx = ctx;
	rc = hde_decode(u->dec, slot, slot, 0, l->n * GUEST_PAGE, body->p, rcur_left(body), NULL);
	__atomic_store_n(&w->taken, false, __ATOMIC_RELEASE);
	return rc;
}

/* SPDX-License-Identifier: MIT */
#include "migrate/source.h"

#include "base/bitmap.h"
#include "base/clock.h"
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define CLEAN_PAGES 512 /* 2 MB: a huge page stays whole */
#define CLEAN_RUN 16    /* shorter runs are not worth a system call just before they are sent */

enum { BLOCK_DIRTY, BLOCK_BUSY, BLOCK_CLEAN };

/* ---- encode: in the workers -------------------------------------------------------------------- */

/* The first chunk of a block makes all of it clean, and the others wait for that: who reads a page before its bit is
 * cleared would lose what is written in between. */
static void clean_block(struct page_source *s, uint64_t block)
{
	uint8_t was = BLOCK_DIRTY;
	uint64_t first = block * CLEAN_PAGES;

	if (__atomic_compare_exchange_n(&s->cleaned[block], &was, BLOCK_BUSY, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE)) {
		s->tracker->ops->clean(s->tracker, first, min_u64(CLEAN_PAGES, guest_pages(s->guest) - first));
		__atomic_store_n(&s->cleaned[block], BLOCK_CLEAN, __ATOMIC_RELEASE);
		return;
	}
	while (__atomic_load_n(&s->cleaned[block], __ATOMIC_ACQUIRE) != BLOCK_CLEAN)
		sched_yield();
}

static void clean_runs(struct page_source *s, const uint32_t *list, uint32_t n)
{
	uint32_t from = 0;

	for (uint32_t i = 1; i <= n; i++) {
		if (i < n && list[i] == list[i - 1] + 1)
			continue;
		if (i - from >= CLEAN_RUN)
			s->tracker->ops->clean(s->tracker, list[from], i - from);
		from = i;
	}
}

static void chunk_pages(const struct page_source *s, const struct stage_chunk *c, struct page_list *l)
{
	uint64_t first = c->offset / GUEST_PAGE;

	pages_name(l, s->whole ? NULL : s->list + first, first, c->len / GUEST_PAGE);
}

static void clean(struct page_source *s, const struct page_list *l)
{
	if (!s->tracker || !s->tracker->ops->clean)
		return;
	if (!s->whole) {
		clean_runs(s, l->page, l->n);
		return;
	}
	for (uint64_t b = l->page[0] / CLEAN_PAGES; b <= l->page[l->n - 1] / CLEAN_PAGES; b++)
		clean_block(s, b);
}

/* As HDE wants them: relative to the first. */
static struct hde_batch batch_of(const struct page_list *l, uint32_t relative[PAGES_MOST], const void *data)
{
	for (uint32_t i = 0; i < l->n; i++)
		relative[i] = l->page[i] - l->page[0];
	return (struct hde_batch){
		.first = l->page[0], .pages = relative, .n = l->n, .bytes = l->n * GUEST_PAGE, .data = data
	};
}

static ssize_t encode_hde(struct page_source *s, unsigned worker, const struct page_list *l, uint8_t *out, size_t cap)
{
	uint8_t *snapshot = (uint8_t *)s->snapshots.addr + (size_t)worker * s->chunk;
	uint32_t relative[PAGES_MOST];
	struct hde_batch b;

	for (uint32_t i = 0; i < l->n; i++)
		memcpy(snapshot + (size_t)i * GUEST_PAGE, s->guest->mem + (uint64_t)l->page[i] * GUEST_PAGE,
		       GUEST_PAGE);
	b = batch_of(l, relative, snapshot);
	return hde_encode(s->hde, worker, &b, out, cap);
}

static ssize_t encode(void *ctx, unsigned worker, const struct stage_chunk *c, void *out, size_t cap)
{
	struct page_source *s = ctx;
	struct source_counts *counts = &s->worker[worker].c;
	struct page_list l;
	uint32_t zeros;
	size_t head;
	ssize_t n;

	if (c->len > PAGES_CHUNK_MAX || cap < c->len + (s->hde ? PAGES_HEAD_MAX + HDE_OVERHEAD : PAGES_OVERHEAD))
		return -EMSGSIZE;
	chunk_pages(s, c, &l);
	clean(s, &l);
	head = pages_put_head(&l, s->hde ? PAGES_HDE : PAGES_PLAIN, out);
	if (s->hde) {
		n = encode_hde(s, worker, &l, (uint8_t *)out + head, cap - head);
		return n < 0 ? n : (ssize_t)head + n;
	}
	n = (ssize_t)pages_put_plain(&l, s->guest->mem, (uint8_t *)out + head, &zeros);
	metric_add(&counts->zero_pages, zeros);
	metric_add(&counts->raw_pages, l.n - zeros);
	return (ssize_t)head + n;
}

static void acked(void *ctx, unsigned worker, const struct stage_chunk *c, uint64_t wire)
{
	struct page_source *s = ctx;
	uint32_t relative[PAGES_MOST];
	struct page_list l;
	struct hde_batch b;

	if (!s->hde)
		return;
	chunk_pages(s, c, &l);
	b = batch_of(&l, relative, NULL);
	hde_acked(s->hde, worker, &b, wire);
}

static ssize_t encode_late(void *ctx, unsigned worker, const struct stage_chunk *c, void *out, size_t cap)
{
	struct page_source *s = ctx;
	struct page_list l;
	size_t head;

	(void)worker;
	if (c->len > PAGES_CHUNK_MAX || cap < PAGES_OVERHEAD)
		return -EMSGSIZE;
	chunk_pages(s, c, &l);
	head = pages_put_head(&l, PAGES_PLAIN, out);
	return (ssize_t)(head + pages_put_late(&l, (uint8_t *)out + head));
}

static const struct stage_ops late_ops = { .name = "late pages", .overhead = PAGES_OVERHEAD, .encode = encode_late };

static const struct stage_ops page_source_ops = {
	.name = "guest pages", .overhead = PAGES_HEAD_MAX + HDE_OVERHEAD, .encode = encode, .acked = acked
};

/* ---- rounds ------------------------------------------------------------------------------------ */

static int open_hde(struct page_source *s, const struct hde_opts *opts, struct err *e)
{
	struct hde_config cfg = { .opts = *opts,
				  .workers = amst_workers(client_amst(s->client)),
				  .bytes = s->guest->len };
	int rc = hugebuf_alloc(&s->snapshots, (size_t)cfg.workers * s->chunk, true, e);

	return rc < 0 ? rc : hde_enc_open(&s->hde, &cfg, e);
}

int page_source_open(struct page_source *s, struct guest *g, struct tracker *t, struct client *c, uint32_t chunk,
		     const struct hde_opts *hde, struct err *e)
{
	uint64_t pages = guest_pages(g);
	int rc = 0;

	memset(s, 0, sizeof *s);
	s->client = c;
	s->guest = g;
	s->tracker = t;
	s->chunk = chunk;
	s->stage = (struct stage){ .ops = &page_source_ops, .ctx = s };
	s->pending = calloc(bitmap_words(pages), sizeof *s->pending);
	s->list = malloc(pages * sizeof *s->list);
	s->cleaned = calloc(pages / CLEAN_PAGES + 1, 1);
	if (!s->pending || !s->list || !s->cleaned)
		rc = err_set(e, -ENOMEM, "no memory to keep track of %llu pages", (unsigned long long)pages);
	if (rc == 0 && hde->mode != HDE_NONE)
		rc = open_hde(s, hde, e);
	if (rc < 0) {
		page_source_close(s);
		return rc;
	}
	bitmap_set_run(s->pending, 0, pages);
	s->whole = true;
	return 0;
}

void page_source_close(struct page_source *s)
{
	hde_enc_close(s->hde);
	hugebuf_free(&s->snapshots);
	s->hde = NULL;
	free(s->pending);
	free(s->list);
	free(s->cleaned);
	s->pending = NULL;
	s->list = NULL;
	s->cleaned = NULL;
}

int64_t page_source_look(struct page_source *s, struct err *e)
{
	uint64_t began = clock_now(&clock_mono);
	int64_t n = 0;

	/* Until memory was sent once every page is to be sent: bits are cleared block by block then. */
	if (s->tracker && !s->whole)
		n = s->tracker->ops->fetch(s->tracker, 0, guest_pages(s->guest), s->pending);
	s->fetch_ns = clock_now(&clock_mono) - began;
	if (n < 0)
		return err_set(e, (int)n, "the tracker %s cannot tell what was written: %s", s->tracker->ops->name,
			       strerror((int)-n));
	return (int64_t)bitmap_count(s->pending, guest_pages(s->guest));
}

/* Moves what is pending to the list. */
static void make_list(struct page_source *s)
{
	uint64_t pages = guest_pages(s->guest), at = 0, n;

	s->n_list = 0;
	while ((at = bitmap_next_run(s->pending, pages, at, &n)) < pages)
		for (; n; n--)
			s->list[s->n_list++] = (uint32_t)at++;
	memset(s->pending, 0, bitmap_words(pages) * sizeof *s->pending);
}

uint64_t page_source_wire(struct client *c)
{
	struct amst_counters ac;
	struct be_counters bc;

	amst_counters(client_amst(c), &ac, &bc);
	return bc.tx_bytes;
}

static void pending_again(struct page_source *s)
{
	for (uint64_t i = 0; i < s->n_list; i++)
		bitmap_set(s->pending, s->list[i]);
}

/* One transfer of the pages in the list. */
static int send_list(struct page_source *s, const struct stage *stage, const struct client_tick *tick,
		     uint64_t *wire_bytes, struct err *e)
{
	uint64_t before = page_source_wire(s->client);
	struct amst_extent x = { .len = s->n_list * GUEST_PAGE };
	struct amst_tx tx = {
		.chunk = s->chunk, .sum = s->sum, .passes = 1, .extents = &x, .n_extents = 1, .stage = stage
	};
	struct msg_xfer_result r;
	int rc;

	*wire_bytes = 0;
	if (!s->n_list)
		return 0;
	rc = client_transfer(s->client, &tx, XFER_SERVICE, tick, &r, e);
	if (rc == 0 && tx.acked_bytes < x.len)
		rc = err_set(e, -ECANCELED, "the round was stopped");
	*wire_bytes = page_source_wire(s->client) - before;
	return rc;
}

int page_source_send(struct page_source *s, const struct client_tick *tick, uint64_t *wire_bytes, struct err *e)
{
	int rc;

	if (s->hde)
		hde_round(s->hde, s->pending);
	make_list(s);
	rc = send_list(s, &s->stage, tick, wire_bytes, e);
	if (rc < 0)
		pending_again(s);
	else if (s->n_list)
		s->whole = false;
	return rc;
}

int page_source_announce(struct page_source *s, const struct client_tick *tick, uint64_t *wire_bytes, struct err *e)
{
	const struct stage late = { .ops = &late_ops, .ctx = s };
	int rc;

	make_list(s);
	rc = send_list(s, &late, tick, wire_bytes, e);
	pending_again(s);
	return rc;
}

struct source_counts page_source_counts(const struct page_source *s)
{
	struct source_counts sum = { 0 };

	for (size_t i = 0; i < SOURCE_WORKERS; i++) {
		sum.zero_pages += __atomic_load_n(&s->worker[i].c.zero_pages, __ATOMIC_RELAXED);
		sum.raw_pages += __atomic_load_n(&s->worker[i].c.raw_pages, __ATOMIC_RELAXED);
	}
	if (s->hde) {
		struct hde_stats st;

		hde_enc_stats(s->hde, &st);
		sum.zero_pages += st.zero_pages;
		sum.duplicate_pages += st.duplicate_pages;
		sum.delta_pages += st.delta_pages;
		sum.raw_pages += st.coded_pages + st.raw_pages;
	}
	return sum;
}

int page_source_sums(const struct page_source *s, uint64_t **table, struct digest128 *d, struct err *e)
{
	uint64_t pages = guest_pages(s->guest);
	uint64_t *sum = calloc(pages, sizeof *sum);

	if (!sum)
		return err_set(e, -ENOMEM, "no memory to sum up %llu pages", (unsigned long long)pages);
	for (uint64_t p = 0; p < pages; p++)
		sum[p] = sum_of(SUM_XXH3, s->guest->mem + p * GUEST_PAGE, GUEST_PAGE);
	*d = digest128_of(sum, pages * sizeof *sum);
	*table = sum;
	return 0;
}

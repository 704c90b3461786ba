/* SPDX-License-Identifier: MIT */
/* A batch becomes a payload: what each page is, which blocks come of that, and the tables that say so. */
#include "compress/hde_impl.h"

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/util.h"
#include "compress/zero.h"
#include <assert.h>
#include <errno.h>
#include <string.h>

#define TOUCH_STATE 12 /* pages ahead of their turn: what is known of them, … */
#define TOUCH_SLOT 6   /* …where their last version is, … */
#define TOUCH_BYTES 2  /* …and both versions' bytes */
#define NONE UINT32_MAX
#define QUIET 4      /* batches of random pages in a row after which only some pages are looked at */
#define QUIET_STEP 8 /* one in so many */
#define SAMPLES 8    /* pieces that tell a page's class, … */
#define SAMPLE 16    /* …of so many bytes, … */
#define SAMPLE_STEP(len) (((len)-SAMPLE) / (SAMPLES - 1)) /* …the last at its end */
#define RANDOM_LEAST 84 /* different bytes among 128: chance gives 101 ± 4, the densest code and text stay below 75 */
#define SPARSE_LEAST 80 /* zeros among 128 */
#define TEXT_LEAST 116  /* printable bytes among 128 */
#define RUNS_FEW 8      /* of a delta: more of them take longer than to copy the page */
#define SMALL_BLOCK 16u /* pages: classes that are smaller do not get blocks of their own */

bool enc_has(const struct hde_enc *e, uint32_t page)
{
	const struct page_state *p = &e->pages[page];
	uint32_t acked = __atomic_load_n(&p->acked, __ATOMIC_ACQUIRE);

	if (!acked || acked != __atomic_load_n(&p->sent, __ATOMIC_RELAXED))
		return false;
	return acked == e->round || (!e->all_dirty && !bitmap_test(e->dirty, page));
}

/* ---- what a page is ---------------------------------------------------------------------------- */

static void touch_samples(const uint8_t *page)
{
	for (unsigned i = 0; i < SAMPLES; i++)
		__builtin_prefetch(page + i * SAMPLE_STEP(HDE_PAGE));
}

static enum page_class class_of(const uint8_t *page, uint32_t len)
{
	uint8_t look[SAMPLES * SAMPLE], seen[256] = { 0 };
	uint32_t zeros = 0, text = 0, different = 0;

	if (len < sizeof look)
		return CLASS_BINARY;
	for (unsigned i = 0; i < SAMPLES; i++)
		memcpy(look + i * SAMPLE, page + i * SAMPLE_STEP(len), SAMPLE);
	/* One loop each: the compiler makes vectors of them. */
	for (unsigned k = 0; k < sizeof look; k++)
		seen[look[k]] = 1;
	for (unsigned k = 0; k < sizeof seen; k++)
		different += seen[k];
	if (different >= RANDOM_LEAST)
		return CLASS_RANDOM;
	for (unsigned k = 0; k < sizeof look; k++)
		zeros += !look[k];
	for (unsigned k = 0; k < sizeof look; k++)
		text += (uint8_t)(look[k] - 0x20) < 0x5f || look[k] == '\n' || look[k] == '\t';
	return zeros >= SPARSE_LEAST ? CLASS_SPARSE : text >= TEXT_LEAST ? CLASS_TEXT : CLASS_BINARY;
}

/* Are these the bytes that the receiver has for the page? Only what cannot have changed since is asked. */
static bool sent_bytes_equal(struct hde_enc *e, uint32_t page, const uint8_t *data)
{
	uint32_t round = __atomic_load_n(&e->pages[page].acked, __ATOMIC_RELAXED);
	int64_t slot = cache_pin(&e->cache, page, round);
	bool equal;

	if (slot >= 0) {
		equal = !memcmp(cache_bytes(&e->cache, slot), data, HDE_PAGE);
		cache_unpin(&e->cache, slot);
		return equal;
	}
	return e->cfg.frozen && round == e->round && (uint64_t)(page + 1ull) * HDE_PAGE <= e->cfg.bytes &&
	       !memcmp((const uint8_t *)e->cfg.frozen + (uint64_t)page * HDE_PAGE, data, HDE_PAGE);
}

uint64_t page_hash(struct batch_enc *x, uint32_t i)
{
	struct enc_worker *w = x->w;

	if (!w->hashed[i])
		w->hash[i] = sum_of(SUM_XXH3, batch_bytes(x->b, i), batch_len(x->b, i));
	w->hashed[i] = true;
	return w->hash[i];
}

static bool find_copy(struct batch_enc *x, uint32_t i)
{
	struct hde_enc *e = x->e;
	const uint8_t *data = batch_bytes(x->b, i);
	uint64_t hash = page_hash(x, i);
	uint32_t found[DEDUP_WAYS], page = batch_page(x->b, i);
	unsigned n = dedup_find(&e->dedup, hash, found);

	for (unsigned k = 0; k < n; k++)
		if (found[k] != page && found[k] < e->n_pages && enc_has(e, found[k]) &&
		    sent_bytes_equal(e, found[k], data)) {
			x->w->copy_of[i] = found[k];
			return true;
		}
	dedup_add(&e->dedup, hash, page);
	return false;
}

/* The new bytes by themselves, or all of the page where that is many small copies. */
static void renew(struct cache *c, int64_t slot, uint32_t round, const uint8_t *now, const uint8_t *ctl,
		  const uint8_t *data, const struct delta *d)
{
	uint8_t *page = cache_renew(c, slot, round);
	struct delta used;
	int rc = 0;

	if (*ctl > RUNS_FEW)
		memcpy(page, now, HDE_PAGE);
	else
		rc = delta_decode(page, ctl, d->ctl, data, d->data, &used);
	assert(rc == 0); /* made a moment ago */
	(void)rc;
}

static bool find_delta(struct batch_enc *x, uint32_t i)
{
	struct enc_worker *w = x->w;
	struct delta *d = &w->delta[i];
	uint8_t *ctl = w->ctl + w->deltas.ctl, *data = w->data + w->deltas.data;
	uint32_t page = batch_page(x->b, i);
	int64_t slot = cache_pin(&x->e->cache, page, batch_state(x, i)->acked);
	int rc;

	metric_add(slot < 0 ? &w->stats.cache_misses : &w->stats.cache_hits, 1);
	if (slot < 0)
		return false;
	rc = delta_encode(cache_bytes(&x->e->cache, slot), batch_bytes(x->b, i), ctl, data, HDE_DELTA_MOST, d);
	if (rc == 0) {
		/* While both are at hand: what changed, instead of all of it later. */
		renew(&x->e->cache, slot, x->e->round, batch_bytes(x->b, i), ctl, data, d);
		page_hash(x, i);
		w->deltas.ctl += d->ctl;
		w->deltas.data += d->data;
	}
	cache_unpin(&x->e->cache, slot);
	return rc == 0;
}

static bool may_refer(const struct batch_enc *x, uint32_t i)
{
	return x->e->n_pages && batch_len(x->b, i) == HDE_PAGE && !x->alone;
}

static bool try_delta(struct batch_enc *x, uint32_t i)
{
	const struct page_state *p;

	if (x->e->cfg.no_delta || !may_refer(x, i))
		return false;
	p = batch_state(x, i);
	return p->acked && p->acked == p->sent && find_delta(x, i);
}

static bool may_be_copy(const struct batch_enc *x, uint32_t i)
{
	return !x->e->cfg.no_dedup && may_refer(x, i);
}

static void add_to(struct enc_worker *w, enum page_class c, uint32_t i)
{
	w->group[c][w->n_group[c]++] = (uint16_t)i;
}

/* What a page is that is no delta; NONE: there is no such page. */
static void classify(struct batch_enc *x, uint32_t i)
{
	if (i == NONE)
		return;
	if (may_be_copy(x, i) && find_copy(x, i))
		add_to(x->w, CLASS_COPY, i);
	else
		add_to(x->w, class_of(batch_bytes(x->b, i), batch_len(x->b, i)), i);
}

static void touch_state(const struct batch_enc *x, uint32_t i)
{
	if (i + TOUCH_STATE < x->b->n) {
		__builtin_prefetch(batch_state(x, i + TOUCH_STATE), 1);
		cache_touch(&x->e->cache, batch_page(x->b, i + TOUCH_STATE));
	}
	if (i + TOUCH_SLOT < x->b->n)
		cache_touch_slot(&x->e->cache, batch_page(x->b, i + TOUCH_SLOT));
}

/* What is read of pages to come. */
static void touch(const struct batch_enc *x, uint32_t i)
{
	uint32_t step = HDE_PAGE / SAMPLES;

	if (x->e->n_pages)
		touch_state(x, i);
	i += TOUCH_BYTES;
	if (i >= x->b->n)
		return;
	if (x->e->n_pages && batch_state(x, i)->acked) {
		step = CACHE_LINE;
		cache_touch_bytes(&x->e->cache, batch_page(x->b, i));
	}
	for (uint32_t at = 0; at < HDE_PAGE; at += step)
		__builtin_prefetch(batch_bytes(x->b, i) + at);
}

static void look_at_pages(struct batch_enc *x)
{
	struct enc_worker *w = x->w;
	uint32_t waits = NONE; /* a page whose duplicates are looked for when their place in the table has arrived */

	memset(w->n_group, 0, sizeof w->n_group);
	memset(w->hashed, 0, sizeof w->hashed);
	memset(w->delta, 0, sizeof w->delta);
	w->deltas = (struct delta){ 0 };
	for (uint32_t i = 0; i < x->b->n; i++) {
		if (x->e->cfg.opts.prefetch)
			touch(x, i);
		w->kind[i] = HW_KIND_ZERO;
		if (!x->e->cfg.no_zero && zero_test(batch_bytes(x->b, i), batch_len(x->b, i)))
			continue;
		w->kind[i] = 1; /* which block is not known yet */
		if (try_delta(x, i)) {
			add_to(w, CLASS_DELTA, i);
			continue;
		}
		if (may_be_copy(x, i))
			dedup_touch(&x->e->dedup, page_hash(x, i));
		classify(x, waits);
		waits = i;
	}
	classify(x, waits);
}

/* ---- nothing to gain --------------------------------------------------------------------------- */

/* After some batches in which every page was random, a look at a few pages of the next has to do. */
static bool still_random(const struct batch_enc *x)
{
	if (!x->e->cfg.puts || x->w->quiet < QUIET)
		return false;
	for (uint32_t i = 0; i < x->b->n; i++) {
		uint64_t first = 0;

		memcpy(&first, batch_bytes(x->b, i), min_u64(sizeof first, batch_len(x->b, i)));
		if (!first)
			return false;
		if (i % QUIET_STEP != x->w->quiet % QUIET_STEP)
			continue;
		if (i + QUIET_STEP < x->b->n)
			touch_samples(batch_bytes(x->b, i + QUIET_STEP));
		if (class_of(batch_bytes(x->b, i), batch_len(x->b, i)) != CLASS_RANDOM)
			return false;
	}
	return true;
}

static ssize_t send_as_put(struct batch_enc *x)
{
	x->w->quiet++;
	metric_add(&x->w->stats.put_pages, x->b->n);
	metric_add(&x->w->stats.bytes_out, x->b->bytes);
	return HDE_PUT;
}

/* ---- blocks ------------------------------------------------------------------------------------ */

/* Moves the pages of one class into another; both stay in order. */
static void merge_into(struct enc_worker *w, enum page_class from, enum page_class to)
{
	uint16_t *out = &w->group[to][w->n_group[to] + w->n_group[from]];
	uint32_t a = w->n_group[from], b = w->n_group[to];

	w->n_group[to] += a;
	w->n_group[from] = 0;
	while (a) /* from the end, in place */
		*--out = b && w->group[to][b - 1] > w->group[from][a - 1] ? w->group[to][--b] : w->group[from][--a];
}

/* Classes of which there is little go together: small blocks cost more than mixed ones. */
static void merge_groups(struct enc_worker *w)
{
	static const enum page_class small[] = { CLASS_TEXT, CLASS_SPARSE };

	for (unsigned k = 0; k < ARRAY_LEN(small); k++)
		if (w->n_group[small[k]] < SMALL_BLOCK || w->n_group[CLASS_BINARY] < SMALL_BLOCK)
			merge_into(w, small[k], CLASS_BINARY);
}

static void plan_block(struct batch_enc *x, enum page_class c, uint32_t at, uint32_t n)
{
	for (uint32_t k = at; k < at + n; k++)
		x->w->kind[x->w->group[c][k]] = (uint8_t)(x->blocks + 1);
	x->plan[x->blocks++] = (struct block_plan){ .class = (uint8_t)c, .at = (uint16_t)at, .n = (uint16_t)n };
}

/* As many deltas as a codec takes at once. */
static void plan_deltas(struct batch_enc *x)
{
	const struct enc_worker *w = x->w;
	uint32_t at = 0, bytes = 4;

	for (uint32_t k = 0; k < w->n_group[CLASS_DELTA]; k++) {
		const struct delta *d = &w->delta[w->group[CLASS_DELTA][k]];

		if (bytes + d->ctl + d->data > CODEC_BLOCK_MAX) {
			plan_block(x, CLASS_DELTA, at, k - at);
			at = k;
			bytes = 4;
		}
		bytes += d->ctl + d->data;
	}
	if (w->n_group[CLASS_DELTA] > at)
		plan_block(x, CLASS_DELTA, at, w->n_group[CLASS_DELTA] - at);
}

static void plan(struct batch_enc *x)
{
	struct enc_worker *w = x->w;
	uint32_t most = (uint32_t)(x->e->cfg.opts.block / HDE_PAGE);

	merge_groups(w);
	plan_deltas(x);
	if (w->n_group[CLASS_COPY])
		plan_block(x, CLASS_COPY, 0, w->n_group[CLASS_COPY]);
	for (unsigned c = CLASS_TEXT; c <= CLASS_RANDOM; c++) {
		uint32_t n = w->n_group[c], blocks = (uint32_t)div_up_u64(n, most), at = 0;

		for (uint32_t k = 0; k < blocks; k++) { /* of equal size */
			uint32_t part = (n - at) / (blocks - k);

			plan_block(x, (enum page_class)c, at, part);
			at += part;
		}
	}
}

/* ---- the payload ------------------------------------------------------------------------------- */

static void put_tables(struct batch_enc *x)
{
	const struct hde_batch *b = x->b;
	const uint8_t *kind = x->w->kind;

	for (uint32_t i = 1; b->pages && i < b->n; i++)
		put_leb32(&x->out, b->pages[i] - b->pages[i - 1] - 1);
	for (uint32_t i = 0, run; i < b->n; i += run) {
		for (run = 1; i + run < b->n && kind[i + run] == kind[i]; run++)
			;
		put_u8(&x->out, kind[i]);
		put_u8(&x->out, (uint8_t)(run - 1));
	}
}

static void put_head(const struct batch_enc *x, uint8_t *at, size_t tables)
{
	const struct hde_batch *b = x->b;
	struct wcur c = wcur_init(at, HW_HEAD);

	put_u8(&c, HW_VERSION);
	put_u8(&c, b->pages ? HW_LIST : 0);
	put_u16(&c, (uint16_t)b->n);
	put_u64(&c, b->first + (b->pages ? b->pages[0] : 0));
	put_u16(&c, (uint16_t)batch_len(b, b->n - 1));
	put_u16(&c, (uint16_t)x->blocks);
	put_u32(&c, x->e->round);
	put_u64(&c, x->bases);
	put_u32(&c, 0);
	c = wcur_init(at + HW_CRC_AT, 4);
	put_u32(&c, crc32c(at, HW_HEAD + tables));
}

/* The snapshot is what the receiver will have: the base of what comes later. */
static void remember(struct batch_enc *x, bool put)
{
	for (uint32_t i = 0; x->e->n_pages && i < x->b->n; i++) {
		struct page_state *p = batch_state(x, i);

		/* A put says no version: such pages are no base. */
		__atomic_store_n(&p->sent, put ? 0 : x->e->round, __ATOMIC_RELAXED);
		if (put)
			__atomic_store_n(&p->acked, 0, __ATOMIC_RELAXED);
		if (!x->e->cache.n)
			continue;
		if (!put && x->w->delta[i].ctl)
			continue;
		if (put || x->w->kind[i] == HW_KIND_ZERO || batch_len(x->b, i) < HDE_PAGE)
			cache_drop(&x->e->cache, batch_page(x->b, i));
		else
			cache_put(&x->e->cache, batch_page(x->b, i), x->e->round, batch_bytes(x->b, i));
	}
}

static bool fits(const struct hde_enc *e, const struct hde_batch *b, size_t cap)
{
	uint64_t last;

	if (!b->n || b->n > HDE_BATCH_PAGES || b->bytes > b->n * HDE_PAGE || b->bytes <= (b->n - 1) * HDE_PAGE ||
	    cap < b->bytes + HDE_OVERHEAD)
		return false;
	last = b->first + (b->pages ? b->pages[b->n - 1] : b->n - 1);
	for (uint32_t i = 1; b->pages && i < b->n; i++)
		if (b->pages[i] <= b->pages[i - 1])
			return false;
	if (!e->n_pages)
		return true;
	return last < e->n_pages &&
	       (b->bytes == b->n * HDE_PAGE ? (last + 1) * HDE_PAGE <= e->cfg.bytes
					    : last * HDE_PAGE + batch_len(b, b->n - 1) == e->cfg.bytes);
}

static void count(struct batch_enc *x, size_t len)
{
	struct hde_stats *s = &x->w->stats;

	metric_add(&s->batches, 1);
	metric_add(&s->pages, x->b->n);
	metric_add(&s->bytes_in, x->b->bytes);
	metric_add(&s->bytes_out, len);
	metric_add(&s->blocks, x->blocks);
	metric_add(&s->duplicate_pages, x->w->n_group[CLASS_COPY]);
	metric_add(&s->delta_pages, x->w->n_group[CLASS_DELTA]);
	for (uint32_t i = 0; i < x->b->n; i++)
		metric_add(&s->zero_pages, x->w->kind[i] == HW_KIND_ZERO);
}

static ssize_t encode(struct batch_enc *x, void *out, size_t cap)
{
	size_t tables;

	if (still_random(x))
		return send_as_put(x);
	look_at_pages(x);
	if (x->e->cfg.puts && x->w->n_group[CLASS_RANDOM] == x->b->n)
		return send_as_put(x);
	x->w->quiet = 0;
	plan(x);
	x->out = wcur_init(out, cap);
	x->out.p += HW_HEAD;
	put_tables(x);
	tables = (size_t)(x->out.p - (uint8_t *)out) - HW_HEAD;
	for (uint32_t k = 0; k < x->blocks; k++)
		block_encode(x, &x->plan[k]);
	put_head(x, out, tables);
	return x->out.p - (uint8_t *)out;
}

ssize_t hde_encode(struct hde_enc *e, unsigned worker, const struct hde_batch *b, void *out, size_t cap)
{
	struct enc_worker *w = &e->w[worker];
	struct batch_enc x = { .e = e, .w = w, .b = b };
	uint64_t began = clock_now(&clock_mono), ended;
	ssize_t len;

	if (!fits(e, b, cap))
		return -EINVAL;
	/* Sent before in this round: it was lost or refused, and what the receiver has of it is not known. */
	x.alone = e->n_pages && batch_state(&x, 0)->sent == e->round;
	len = encode(&x, out, cap);
	remember(&x, len == HDE_PUT);
	if (len > 0)
		count(&x, (size_t)len);
	ended = clock_now(&clock_mono);
	metric_add(&w->stats.encode_ns, ended - began);
	rate_encoded(e, w, began, ended);
	return len;
}

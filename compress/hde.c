/* SPDX-License-Identifier: MIT */
/* Options, opening and closing an encoder, rounds, counters. */
#include "compress/hde_impl.h"

#include "base/bitmap.h"
#include "base/util.h"
#include "compress/zero.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

const char *const hde_mode_names[] = { "none", "auto", "datacenter", "internet", NULL };

#define FIELD(f) offsetof(struct hde_opts, f)

static const struct opt rows[] = {
	{ .name = "compress",
	  .type = OPT_ENUM,
	  .offset = FIELD(mode),
	  .def = "none",
	  .values = hde_mode_names,
	  .help = "fewer bytes by zero elision, deduplication, deltas and codecs; which codec follows from link and CPU: "
		  "datacenter takes fast ones, internet any, auto any and measures the link" },
	{ .name = "compress-block",
	  .type = OPT_SIZE,
	  .offset = FIELD(block),
	  .def = "256KB",
	  .min = 64 << 10,
	  .max = CODEC_BLOCK_MAX,
	  .help = "bytes that one codec call gets" },
	{ .name = "delta-cache",
	  .type = OPT_SIZE,
	  .offset = FIELD(cache),
	  .def = "auto",
	  .max = 1ull << 44,
	  .auto_ok = true,
	  .help = "memory for the last version sent of pages, from which deltas are made; auto: the region's size, at most "
		  "a quarter of this host's memory" },
	{ .name = "compress-bandwidth",
	  .type = OPT_RATE,
	  .offset = FIELD(link_bits_per_s),
	  .def = "auto",
	  .min = 1000,
	  .max = 1000000000000,
	  .auto_ok = true,
	  .help = "what the link carries, by which codecs are chosen; auto: measured" },
	{ .name = "compress-cpu",
	  .type = OPT_F64,
	  .offset = FIELD(cpu),
	  .def = "1",
	  .max = 1,
	  .help = "share of a worker's CPU that compression may take; more than 0" },
	{ .name = "prefetch",
	  .alias = "prefetch_enabled",
	  .type = OPT_BOOL,
	  .offset = FIELD(prefetch),
	  .def = "true",
	  .help = "touch pages ahead of the scan" },
};

struct opt_group hde_group(struct hde_opts *o)
{
	return (struct opt_group){ .name = "hde", .help = "Compression", .rows = rows, .n = ARRAY_LEN(rows), .base = o };
}

void hde_opts_default(struct hde_opts *o, int mode)
{
	struct opt_group g = hde_group(o);

	opt_defaults(&g, 1);
	o->mode = mode;
}

const char *hde_variant(void)
{
	return zero_variant();
}

/* ---- open and close ---------------------------------------------------------------------------- */

static void *map_zeroed(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int open_region(struct hde_enc *e, struct err *err)
{
	uint64_t cache = e->cfg.opts.cache, host = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	int rc;

	if (!e->n_pages)
		return 0;
	if (e->n_pages > INT32_MAX)
		return err_set(err, -EINVAL, "a region of %llu bytes is too large to be compressed: 8 TB are the most",
			       (unsigned long long)e->cfg.bytes);
	if (!cache)
		cache = min_u64(e->n_pages * HDE_PAGE, host / 4);
	e->pages = map_zeroed(e->n_pages * sizeof *e->pages);
	e->dirty = map_zeroed(bitmap_words(e->n_pages) * 8);
	rc = e->pages && e->dirty ? dedup_open(&e->dedup, e->n_pages) : -ENOMEM;
	if (rc == 0)
		rc = match_open(&e->match, e->n_pages);
	if (rc < 0)
		return err_set(err, rc, "no memory to keep track of %llu pages", (unsigned long long)e->n_pages);
	/* With memory that does not change and no later round there is nothing a copy is good for. */
	return cache_open(&e->cache, e->n_pages, e->cfg.no_delta ? 0 : cache, err);
}

static int open_worker(struct hde_enc *e, struct enc_worker *w, struct err *err)
{
	bool dear = e->cfg.opts.mode == HDE_INTERNET || e->cfg.opts.mode == HDE_AUTO;
	int level = e->cfg.opts.mode == HDE_FIXED ? e->cfg.fixed.level : dear ? 19 : 3;
	struct sel_cost cost;
	int rc = codec_open(&w->codec, true, false, level, err);

	if (rc < 0)
		return rc;
	w->raw = malloc(CODEC_BLOCK_MAX);
	w->mid = malloc(4 + CODEC_BLOCK_MAX + MATCH_REC_MAX);
	w->rec = malloc(MATCH_REC_MAX);
	w->ctl = malloc((size_t)HDE_BATCH_PAGES * DELTA_CTL_MAX);
	w->data = malloc((size_t)HDE_BATCH_PAGES * HDE_DELTA_MOST);
	if (!w->raw || !w->mid || !w->rec || !w->ctl || !w->data)
		return err_set(err, -ENOMEM, "no memory for a worker that compresses: use fewer workers");
	cost = rate_cost(e, w);
	sel_init(&w->sel, e->cfg.model, &cost);
	return 0;
}

int hde_enc_open(struct hde_enc **out, const struct hde_config *cfg, struct err *err)
{
	struct hde_enc *e;
	int rc = 0;

	if (!cfg->workers || cfg->workers > HDE_WORKERS_MAX)
		return err_set(err, -EINVAL, "%u workers that compress: use 1 to %u", cfg->workers, HDE_WORKERS_MAX);
	if (cfg->opts.mode == HDE_FIXED && cfg->fixed.codec >= CODECS)
		return err_set(err, -EINVAL, "there is no codec number %u", cfg->fixed.codec);
	if (!(cfg->opts.cpu > 0 && cfg->opts.cpu <= 1))
		return err_set(err, -EINVAL, "--compress-cpu is a share: more than 0, at most 1");
	e = calloc(1, sizeof *e);
	if (!e)
		return err_set(err, -ENOMEM, "no memory for an encoder");
	e->cfg = *cfg;
	e->n_pages = div_up_u64(cfg->bytes, HDE_PAGE);
	e->round = HW_ROUND_FIRST;
	e->all_dirty = true;
	e->link_bytes_per_s = (double)cfg->opts.link_bits_per_s / 8;
	e->w = aligned_alloc(CACHE_LINE, cfg->workers * sizeof *e->w);
	if (!e->w)
		rc = err_set(err, -ENOMEM, "no memory for %u workers that compress", cfg->workers);
	else
		memset(e->w, 0, cfg->workers * sizeof *e->w);
	for (unsigned i = 0; rc == 0 && i < cfg->workers; i++)
		rc = open_worker(e, &e->w[i], err);
	if (rc == 0)
		rc = open_region(e, err);
	if (rc < 0) {
		hde_enc_close(e);
		return rc;
	}
	*out = e;
	return 0;
}

void hde_enc_close(struct hde_enc *e)
{
	if (!e)
		return;
	for (unsigned i = 0; e->w && i < e->cfg.workers; i++) {
		struct enc_worker *w = &e->w[i];

		codec_close(w->codec);
		free(w->raw);
		free(w->mid);
		free(w->rec);
		free(w->ctl);
		free(w->data);
	}
	free(e->w);
	cache_close(&e->cache);
	match_close(&e->match);
	dedup_close(&e->dedup);
	if (e->pages)
		munmap(e->pages, e->n_pages * sizeof *e->pages);
	if (e->dirty)
		munmap(e->dirty, bitmap_words(e->n_pages) * 8);
	free(e);
}

/* ---- rounds ------------------------------------------------------------------------------------ */

void hde_round(struct hde_enc *e, const uint64_t *dirty)
{
	e->round++;
	e->all_dirty = !dirty;
	if (dirty && e->n_pages)
		memcpy(e->dirty, dirty, bitmap_words(e->n_pages) * 8);
}

void hde_forget(struct hde_enc *e)
{
	if (!e->n_pages)
		return;
	/* Pages go back to zeros that cost nothing. */
	madvise(e->pages, e->n_pages * sizeof *e->pages, MADV_DONTNEED);
	match_clear(&e->match);
	dedup_clear(&e->dedup);
	cache_clear(&e->cache);
	e->round++;
	e->all_dirty = true;
}

void hde_acked(struct hde_enc *e, unsigned worker, const struct hde_batch *b, uint64_t wire)
{
	rate_acked(e, &e->w[worker], wire);
	for (uint32_t i = 0; e->n_pages && i < b->n; i++) {
		struct page_state *p = &e->pages[batch_page(b, i)];

		__atomic_store_n(&p->acked, __atomic_load_n(&p->sent, __ATOMIC_RELAXED), __ATOMIC_RELEASE);
	}
}

/* ---- counters ---------------------------------------------------------------------------------- */

#define ROW(field, unit_, help_)                                                                                 \
	{                                                                                                        \
		.name = "hde_" #field, .unit = unit_, .help = help_, .offset = offsetof(struct hde_stats, field) \
	}

const struct metric hde_metrics[] = {
	ROW(batches, "batches", "batches of pages encoded or decoded"),
	ROW(pages, "pages", "pages in them"),
	ROW(bytes_in, "bytes", "bytes of the pages"),
	ROW(bytes_out, "bytes", "bytes of the payloads"),
	ROW(zero_pages, "pages", "pages of zeros"),
	ROW(duplicate_pages, "pages", "pages that the receiver had elsewhere"),
	ROW(delta_pages, "pages", "pages sent as what changed"),
	ROW(coded_pages, "pages", "pages that a codec made smaller"),
	ROW(raw_pages, "pages", "pages sent as they are"),
	ROW(put_pages, "pages", "pages sent by raw puts"),
	ROW(matched_bytes, "bytes", "bytes found elsewhere in what the receiver has"),
	ROW(delta_bytes, "bytes", "bytes of deltas before the codec"),
	ROW(cache_hits, "pages", "pages sent again whose last version was kept"),
	ROW(cache_misses, "pages", "pages sent again whose last version was not kept"),
	ROW(cache_evictions, "pages", "versions given up for others"),
	ROW(blocks, "blocks", "blocks"),
	ROW(select_ns, "nanoseconds", "time spent choosing codecs"),
	ROW(encode_ns, "nanoseconds", "time spent encoding"),
	ROW(decode_ns, "nanoseconds", "time spent decoding"),
	ROW(refused, "payloads", "payloads refused"),
};
const size_t hde_metrics_n = ARRAY_LEN(hde_metrics);

void hde_enc_stats(const struct hde_enc *e, struct hde_stats *s)
{
	*s = (struct hde_stats){ 0 };
	for (unsigned i = 0; i < e->cfg.workers; i++) {
		metrics_sum(hde_metrics, hde_metrics_n, s, &e->w[i].stats);
		for (unsigned c = 0; c < SEL_CHOICES; c++)
			s->choice[c] += __atomic_load_n(&e->w[i].stats.choice[c], __ATOMIC_RELAXED);
	}
	s->cache_evictions = __atomic_load_n(&e->cache.evictions, __ATOMIC_RELAXED);
}

/* SPDX-License-Identifier: MIT */
/*
 * A payload becomes pages again. Everything in it is a stranger's word: tables are checked first, every block is decoded
 * into scratch of its declared size and compared with its checksum, then the digest of what was referred to is compared;
 * and only then is anything written.
 */
#include "compress/hde_impl.h"

#include "base/clock.h"
#include "base/util.h"
#include "compress/zero.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define VERSION_PUT 1

struct dec_worker {
	struct codec_ctx *codec;
	uint8_t *pages; /* HDE_BATCH_MAX: pages of the blocks, block after block */
	uint8_t *mid;   /* CODEC_BLOCK_MAX */
	uint8_t *flat;  /* HDE_BATCH_MAX: anonymous data in order */
	const uint8_t *at[HDE_BATCH_PAGES];
	uint64_t page[HDE_BATCH_PAGES];
	uint8_t kind[HDE_BATCH_PAGES];
	bool taken; /* by a payload under way */
	struct hde_stats stats;
} __attribute__((aligned(CACHE_LINE)));

struct hde_dec {
	struct hde_dec_config cfg;
	uint64_t n_pages;  /* 0: anonymous */
	uint32_t *version; /* the round that placed a page */
	struct dec_worker *w;
};

/* One payload under way. */
struct payload {
	struct hde_dec *d;
	struct dec_worker *w;
	struct hw_head h;
	struct rcur in;
	const uint8_t *start;
	uint64_t bases;
	uint32_t used; /* bytes of w->pages */
	int block;
	struct hde_refusal *why;
};

static int refuse(struct payload *p, const char *why)
{
	if (p->why)
		*p->why = (struct hde_refusal){ .block = p->block, .at = (uint32_t)(p->in.p - p->start), .why = why };
	return -EBADMSG;
}

/* ---- head and tables --------------------------------------------------------------------------- */

static int read_head(struct payload *p)
{
	struct rcur c = p->in;
	uint8_t version;

	version = get_u8(&c);
	p->h.flags = get_u8(&c);
	p->h.n = get_u16(&c);
	p->h.first = get_u64(&c);
	p->h.last = get_u16(&c);
	p->h.blocks = get_u16(&c);
	p->h.round = get_u32(&c);
	p->h.bases = get_u64(&c);
	get_u32(&c); /* the crc, when the tables are known */
	if (c.bad)
		return refuse(p, "shorter than its head");
	if (version != HW_VERSION || (p->h.flags & ~HW_LIST))
		return refuse(p, "of another version of the format");
	if (!p->h.n || p->h.n > HDE_BATCH_PAGES || !p->h.last || p->h.last > HDE_PAGE || p->h.blocks > HW_BLOCKS_MAX ||
	    p->h.round < HW_ROUND_FIRST)
		return refuse(p, "a number in the head is out of range");
	p->in = c;
	return 0;
}

static int read_tables(struct payload *p)
{
	struct dec_worker *w = p->w;
	uint64_t page = p->h.first;

	w->page[0] = page;
	for (uint32_t i = 1; i < p->h.n; i++) {
		page += 1 + (p->h.flags & HW_LIST ? (uint64_t)get_leb32(&p->in) : 0);
		w->page[i] = page;
	}
	for (uint32_t i = 0; i < p->h.n && !p->in.bad;) {
		uint8_t kind = get_u8(&p->in);
		uint32_t run = get_u8(&p->in) + 1u;

		if (run > p->h.n - i || kind > p->h.blocks)
			return refuse(p, "a page of it is in no block");
		memset(w->kind + i, kind, run);
		i += run;
	}
	if (p->in.bad)
		return refuse(p, "shorter than its tables");
	return 0;
}

/* The crc covers head and tables as sent, its own field as zero. */
static int check_crc(struct payload *p)
{
	uint8_t copy[HDE_OVERHEAD];
	size_t n = (size_t)(p->in.p - p->start);
	uint32_t crc;

	if (n > sizeof copy)
		return refuse(p, "its tables are too long");
	memcpy(copy, p->start, n);
	memcpy(&crc, copy + HW_CRC_AT, sizeof crc);
	memset(copy + HW_CRC_AT, 0, sizeof crc);
	return crc32c(copy, n) == le32toh(crc) ? 0 : refuse(p, "the checksum of its head is wrong");
}

static uint32_t page_bytes(const struct payload *p, uint32_t i)
{
	return hw_page_bytes(p->h.n, p->h.last, i);
}

static int check_place(struct payload *p, uint64_t at, uint32_t bytes)
{
	const struct hde_dec *d = p->d;
	uint64_t last = p->w->page[p->h.n - 1], end;

	if (bytes && ((p->h.flags & HW_LIST) || p->h.first != (d->n_pages ? at / HDE_PAGE : 0) ||
		      (d->n_pages && at % HDE_PAGE) || (uint32_t)(p->h.n - 1) * HDE_PAGE + p->h.last != bytes))
		return refuse(p, "it is about other pages than its chunk");
	if (!d->n_pages)
		return bytes ? 0 : refuse(p, "it does not say where its pages belong");
	if (p->h.first >= d->n_pages || last >= d->n_pages)
		return refuse(p, "it names pages outside the region");
	end = last * HDE_PAGE + p->h.last;
	if (end > d->cfg.bytes || (p->h.last < HDE_PAGE && end != d->cfg.bytes))
		return refuse(p, "its last page ends elsewhere than the region");
	for (uint32_t i = 0; i < p->h.n; i++)
		if (__atomic_load_n(&d->version[p->w->page[i]], __ATOMIC_RELAXED) > p->h.round)
			return refuse(p, "it is older than what was placed");
	return 0;
}

/* ---- blocks ------------------------------------------------------------------------------------ */

static const uint8_t *refer(struct payload *p, uint64_t page)
{
	const struct hde_dec *d = p->d;

	if (page >= d->n_pages || (page + 1) * HDE_PAGE > d->cfg.bytes)
		return NULL;
	p->bases = bases_add(p->bases, page, __atomic_load_n(&d->version[page], __ATOMIC_ACQUIRE));
	return (const uint8_t *)d->cfg.memory + page * HDE_PAGE;
}

static int read_block_head(struct payload *p, struct hw_block *h)
{
	h->type = get_u8(&p->in);
	h->codec = get_u8(&p->in);
	h->flags = get_u8(&p->in);
	if (get_u8(&p->in))
		return refuse(p, "a field that must be zero is not");
	h->raw = get_u32(&p->in);
	h->mid = get_u32(&p->in);
	h->len = get_u32(&p->in);
	h->sum = get_u64(&p->in);
	if (p->in.bad || h->len > rcur_left(&p->in))
		return refuse(p, "a block is longer than what is there");
	if (h->type >= HW_TYPES || h->codec >= CODECS)
		return refuse(p, "a block of an unknown type or codec");
	if (h->flags & ~HW_BLOCK_FLAGS)
		return refuse(p, "a block with unknown flags");
	if (h->mid > CODEC_BLOCK_MAX)
		return refuse(p, "a block that grows beyond 256 KB");
	return 0;
}

/* Gives the block's pages their places in w->pages; their bytes, or 0. */
static uint32_t lay_out(struct payload *p, uint8_t *out)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < p->h.n; i++)
		if (p->w->kind[i] == p->block + 1) {
			p->w->at[i] = out + n;
			n += page_bytes(p, i);
		}
	return n;
}

static int apply_matches(struct payload *p, const struct hw_block *h, uint8_t *out)
{
	struct rcur c = rcur_init(p->w->mid, h->mid), lit;
	uint32_t n = get_u32(&c), at = 0;
	int64_t page = 0;

	if (c.bad || n > rcur_left(&c))
		return refuse(p, "the literals are longer than their block");
	lit = rcur_init(c.p, n);
	c = rcur_init(c.p + n, rcur_left(&c) - n);
	while (rcur_left(&c)) {
		uint32_t plain = get_leb32(&c), len = get_leb32(&c), offset;
		const uint8_t *from;

		page += unzigzag(get_leb32(&c));
		offset = get_leb32(&c);
		if (c.bad || plain > h->raw - at || plain > rcur_left(&lit) || len > h->raw - at - plain ||
		    offset > HDE_PAGE || len > HDE_PAGE - offset || page < 0)
			return refuse(p, "a match is outside its block or page");
		from = refer(p, (uint64_t)page);
		if (!from)
			return refuse(p, "a match is outside the region");
		get_bytes(&lit, out + at, plain);
		memcpy(out + at + plain, from + offset, len);
		at += plain + len;
	}
	if (c.bad || rcur_left(&lit) != h->raw - at)
		return refuse(p, "a block has other bytes than it says");
	get_bytes(&lit, out + at, h->raw - at);
	return 0;
}

static int apply_deltas(struct payload *p, const struct hw_block *h, uint8_t *out)
{
	struct rcur c = rcur_init(p->w->mid, h->mid);
	uint32_t n = get_u32(&c);
	const uint8_t *ctl = c.p, *data;
	size_t left;

	if (c.bad || n > rcur_left(&c))
		return refuse(p, "a list of runs is longer than its block");
	data = ctl + n;
	left = rcur_left(&c) - n;
	for (uint32_t i = 0; i < p->h.n; i++) {
		const uint8_t *old;
		struct delta d;

		if (p->w->kind[i] != p->block + 1)
			continue;
		old = page_bytes(p, i) == HDE_PAGE ? refer(p, p->w->page[i]) : NULL;
		if (!old)
			return refuse(p, "a delta of a page that is not there");
		memcpy(out, old, HDE_PAGE);
		if (delta_decode(out, ctl, n, data, left, &d) < 0)
			return refuse(p, "a delta is outside its page");
		ctl += d.ctl;
		n -= d.ctl;
		data += d.data;
		left -= d.data;
		out += HDE_PAGE;
	}
	return n || left ? refuse(p, "a block has other bytes than it says") : 0;
}

static uint64_t sum_pages(const struct payload *p)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < p->h.n; i++)
		if (p->w->kind[i] == p->block + 1)
			sum = hw_sum(sum, sum_of(SUM_XXH3, p->w->at[i], page_bytes(p, i)));
	return sum;
}

static int decode_pages(struct payload *p, const struct hw_block *h, const uint8_t *in)
{
	uint8_t *out = p->w->pages + p->used;
	bool direct = h->type == HW_CODED && !(h->flags & HW_MATCHES);
	int rc;

	if (lay_out(p, out) != h->raw || !h->raw)
		return refuse(p, "a block has other pages than it says");
	if (direct && h->mid != h->raw)
		return refuse(p, "a block has other bytes than it says");
	if (codecs[h->codec]->decode(p->w->codec, NULL, in, h->len, direct ? out : p->w->mid, h->mid) < 0)
		return refuse(p, "a block's codec cannot read it");
	rc = h->type == HW_DELTA ? apply_deltas(p, h, out) : direct ? 0 : apply_matches(p, h, out);
	if (rc < 0)
		return rc;
	if (sum_pages(p) != h->sum)
		return refuse(p, "a block's checksum is wrong");
	p->used += h->raw;
	return 0;
}

static int decode_blocks(struct payload *p)
{
	for (p->block = 0; p->block < p->h.blocks; p->block++) {
		struct hw_block h;
		const uint8_t *in;
		int rc = read_block_head(p, &h);

		if (rc < 0)
			return rc;
		in = p->in.p;
		rc = decode_pages(p, &h, in);
		if (rc < 0)
			return rc;
		p->in.p += h.len;
	}
	p->block = -1;
	if (rcur_left(&p->in))
		return refuse(p, "longer than its blocks");
	return p->bases == p->h.bases ? 0 : refuse(p, "it builds on other versions than are here");
}

/* ---- placing ----------------------------------------------------------------------------------- */

static void place_page(struct payload *p, uint32_t i)
{
	struct hde_dec *d = p->d;
	uint64_t page = p->w->page[i];
	uint8_t *to = (uint8_t *)d->cfg.memory + page * HDE_PAGE;
	uint32_t len = page_bytes(p, i), was = __atomic_load_n(&d->version[page], __ATOMIC_RELAXED);

	if (p->w->kind[i] != HW_KIND_ZERO)
		memcpy(to, p->w->at[i], len);
	else if (!(d->cfg.fresh && !was) && !zero_test(to, len))
		memset(to, 0, len); /* a page of zeros that is read only stays clean */
	__atomic_store_n(&d->version[page], p->h.round, __ATOMIC_RELEASE);
}

static int place_anonymous(struct payload *p, uint32_t object, uint64_t to)
{
	uint32_t bytes = (uint32_t)(p->h.n - 1) * HDE_PAGE + p->h.last;
	const uint8_t *from = p->w->at[0];
	bool row = p->w->kind[0] != HW_KIND_ZERO;

	for (uint32_t i = 1; i < p->h.n && row; i++)
		row = p->w->kind[i] != HW_KIND_ZERO && p->w->at[i] == from + (size_t)i * HDE_PAGE;
	if (!row) {
		for (uint32_t i = 0; i < p->h.n; i++) {
			uint8_t *flat = p->w->flat + (size_t)i * HDE_PAGE;

			if (p->w->kind[i] == HW_KIND_ZERO)
				memset(flat, 0, page_bytes(p, i));
			else
				memcpy(flat, p->w->at[i], page_bytes(p, i));
		}
		from = p->w->flat;
	}
	return p->d->cfg.write(p->d->cfg.write_ctx, object, from, bytes, to);
}

static int place(struct payload *p, uint32_t object, uint64_t at)
{
	if (!p->d->n_pages)
		return place_anonymous(p, object, at);
	for (uint32_t i = 0; i < p->h.n; i++)
		place_page(p, i);
	return 0;
}

static int check_list(struct payload *p, const uint32_t *list, uint32_t n)
{
	bool same = p->h.n == n;

	for (uint32_t i = 0; same && i < n; i++)
		same = p->w->page[i] == list[i];
	return same ? 0 : refuse(p, "it is about other pages than its chunk");
}

/* What a payload has to be about: a range, or a list. */
struct about {
	uint32_t object, bytes, n;
	uint64_t at;
	const uint32_t *list; /* NULL: the range */
};

static int decode(struct payload *p, const struct about *a, size_t len)
{
	struct dec_worker *w = p->w;
	int rc = read_head(p);

	if (rc == 0)
		rc = read_tables(p);
	if (rc == 0)
		rc = check_crc(p);
	if (rc == 0)
		rc = check_place(p, a->at, a->bytes);
	if (rc == 0 && a->list)
		rc = check_list(p, a->list, a->n);
	if (rc == 0)
		rc = decode_blocks(p);
	if (rc == 0)
		rc = place(p, a->object, a->at);
	if (rc == 0) {
		metric_add(&w->stats.batches, 1);
		metric_add(&w->stats.pages, p->h.n);
		metric_add(&w->stats.blocks, p->h.blocks);
		metric_add(&w->stats.bytes_in, (uint64_t)(p->h.n - 1) * HDE_PAGE + p->h.last);
		metric_add(&w->stats.bytes_out, len);
	}
	return rc;
}

/* A worker of one session has the number of one of another's: two that decode at once would share all that is checked. */
static int decode_alone(struct hde_dec *d, unsigned worker, const struct about *a, const void *in, size_t len,
			struct hde_refusal *why)
{
	struct dec_worker *w = &d->w[worker];
	struct payload p = { .d = d, .w = w, .in = rcur_init(in, len), .start = in, .block = -1, .why = why };
	uint64_t began = clock_now(&clock_mono);
	int rc;

	if (__atomic_exchange_n(&w->taken, true, __ATOMIC_ACQUIRE))
		return refuse(&p, "another payload is decoded by the same worker: a region has one sender");
	rc = decode(&p, a, len);
	if (rc == -EBADMSG)
		metric_add(&w->stats.refused, 1);
	metric_add(&w->stats.decode_ns, clock_now(&clock_mono) - began);
	__atomic_store_n(&w->taken, false, __ATOMIC_RELEASE);
	return rc;
}

int hde_decode(struct hde_dec *d, unsigned worker, uint32_t object, uint64_t at, uint32_t bytes, const void *in,
	       size_t len, struct hde_refusal *why)
{
	const struct about a = { .object = object, .bytes = bytes, .at = at };

	return decode_alone(d, worker, &a, in, len, why);
}

int hde_decode_list(struct hde_dec *d, unsigned worker, const uint32_t *list, uint32_t n, const void *in, size_t len,
		    struct hde_refusal *why)
{
	const struct about a = { .list = list, .n = n };

	return decode_alone(d, worker, &a, in, len, why);
}

void hde_dec_put(struct hde_dec *d, unsigned worker, uint64_t at, uint32_t bytes)
{
	uint64_t page = at / HDE_PAGE, end = div_up_u64(at + bytes, HDE_PAGE);

	for (; page < end && page < d->n_pages; page++)
		__atomic_store_n(&d->version[page], VERSION_PUT, __ATOMIC_RELEASE);
	metric_add(&d->w[worker].stats.put_pages, bytes / HDE_PAGE);
}

/* ---- open and close ---------------------------------------------------------------------------- */

static int open_worker(struct hde_dec *d, struct dec_worker *w, struct err *e)
{
	int rc = codec_open(&w->codec, false, true, 0, e);

	if (rc < 0)
		return rc;
	w->pages = malloc(HDE_BATCH_MAX);
	w->mid = malloc(CODEC_BLOCK_MAX);
	w->flat = d->n_pages ? NULL : malloc(HDE_BATCH_MAX);
	if (!w->pages || !w->mid || (!d->n_pages && !w->flat))
		return err_set(e, -ENOMEM, "no memory for a worker that decompresses: use fewer workers");
	return 0;
}

int hde_dec_open(struct hde_dec **out, const struct hde_dec_config *cfg, struct err *e)
{
	struct hde_dec *d = calloc(1, sizeof *d);
	int rc = 0;

	if (!d)
		return err_set(e, -ENOMEM, "no memory for a decoder");
	d->cfg = *cfg;
	d->n_pages = cfg->memory ? div_up_u64(cfg->bytes, HDE_PAGE) : 0;
	d->w = aligned_alloc(CACHE_LINE, cfg->workers * sizeof *d->w);
	if (!d->w)
		rc = err_set(e, -ENOMEM, "no memory for %u workers that decompress", cfg->workers);
	else
		memset(d->w, 0, cfg->workers * sizeof *d->w);
	for (unsigned i = 0; rc == 0 && i < cfg->workers; i++)
		rc = open_worker(d, &d->w[i], e);
	if (rc == 0 && d->n_pages) {
		void *p = mmap(NULL, d->n_pages * sizeof *d->version, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (p == MAP_FAILED)
			rc = err_set(e, -ENOMEM, "no memory to keep track of %llu pages",
				     (unsigned long long)d->n_pages);
		else
			d->version = p;
	}
	if (rc < 0) {
		hde_dec_close(d);
		return rc;
	}
	*out = d;
	return 0;
}

void hde_dec_close(struct hde_dec *d)
{
	if (!d)
		return;
	for (unsigned i = 0; d->w && i < d->cfg.workers; i++) {
		codec_close(d->w[i].codec);
		free(d->w[i].pages);
		free(d->w[i].mid);
		free(d->w[i].flat);
	}
	free(d->w);
	if (d->version)
		munmap(d->version, d->n_pages * sizeof *d->version);
	free(d);
}

void hde_dec_stats(const struct hde_dec *d, struct hde_stats *s)
{
	*s = (struct hde_stats){ 0 };
	for (unsigned i = 0; i < d->cfg.workers; i++)
		metrics_sum(hde_metrics, hde_metrics_n, s, &d->w[i].stats);
}

/* SPDX-License-Identifier: MIT */
/* Takes out of a block what the receiver has elsewhere. */
#include "compress/hde_impl.h"

#include "base/util.h"
#include <string.h>

#define WORTH 32 /* a block of n bytes keeps its matches if they save n / WORTH */

/* Matches of one block: records and literals grow apart, and are joined at the end. */
struct matcher {
	struct batch_enc *x;
	struct wcur rec;
	uint8_t *lit; /* where the next literal goes */
	uint64_t bases;
	uint32_t plain;   /* literals since the last match */
	uint32_t matched; /* bytes */
	int64_t last;     /* page of the last match */
};

/* The page as the receiver has it, or NULL; *slot is what to unpin, or -1. */
static const uint8_t *there(struct hde_enc *e, uint32_t page, int64_t *slot)
{
	uint32_t acked;

	*slot = -1;
	if (page >= e->n_pages || (page + 1ull) * HDE_PAGE > e->cfg.bytes || !enc_has(e, page))
		return NULL;
	acked = __atomic_load_n(&e->pages[page].acked, __ATOMIC_RELAXED);
	*slot = cache_pin(&e->cache, page, acked);
	if (*slot >= 0)
		return cache_bytes(&e->cache, *slot);
	return e->cfg.frozen && acked == e->round ? (const uint8_t *)e->cfg.frozen + (uint64_t)page * HDE_PAGE : NULL;
}

static uint32_t same_after(const uint8_t *a, const uint8_t *b, uint32_t most)
{
	uint32_t n = 0;

	while (n + 8 <= most) {
		uint64_t u, v;

		memcpy(&u, a + n, 8);
		memcpy(&v, b + n, 8);
		if (u != v)
			return n + (uint32_t)__builtin_ctzll(le64toh(u ^ v)) / 8;
		n += 8;
	}
	while (n < most && a[n] == b[n])
		n++;
	return n;
}

static uint32_t same_before(const uint8_t *a, const uint8_t *b, uint32_t most)
{
	uint32_t n = 0;

	while (n < most && a[-1 - (ptrdiff_t)n] == b[-1 - (ptrdiff_t)n])
		n++;
	return n;
}

struct found {
	uint32_t page, from, at, len; /* bytes at `from` of that page are those at `at` of ours */
};

/* The longest match over this anchor; done: bytes of the page that are taken care of. */
static struct found longest(struct batch_enc *x, const uint8_t *page, const struct match_anchor *a, uint32_t done)
{
	struct match_place place[MATCH_WAYS];
	unsigned n = match_find(&x->e->match, a->hash, place);
	struct found best = { .len = 0 };

	for (unsigned i = 0; i < n; i++) {
		uint32_t at = a->at, from = place[i].at, len, back;
		int64_t slot;
		const uint8_t *there_is = there(x->e, place[i].page, &slot);

		if (!there_is)
			continue;
		len = same_after(page + at, there_is + from, HDE_PAGE - (at > from ? at : from));
		if (len >= MATCH_LEAST) {
			back = same_before(page + at, there_is + from, at - done < from ? at - done : from);
			if (len + back > best.len)
				best = (struct found){ place[i].page, from - back, at - back, len + back };
		}
		if (slot >= 0)
			cache_unpin(&x->e->cache, slot);
	}
	return best;
}

static void add_literals(struct matcher *m, const uint8_t *p, uint32_t n)
{
	memcpy(m->lit, p, n);
	m->lit += n;
	m->plain += n;
}

static void add_match(struct matcher *m, const struct found *f)
{
	put_leb32(&m->rec, m->plain);
	put_leb32(&m->rec, f->len);
	put_leb32(&m->rec, zigzag((int64_t)f->page - m->last));
	put_leb32(&m->rec, f->from);
	m->bases = bases_add(m->bases, f->page, __atomic_load_n(&m->x->e->pages[f->page].acked, __ATOMIC_RELAXED));
	m->last = f->page;
	m->plain = 0;
	m->matched += f->len;
}

static void match_page(struct matcher *m, uint32_t number, const uint8_t *page, const struct match_anchor *a,
		       unsigned n)
{
	struct hde_enc *e = m->x->e;
	uint32_t done = 0;

	for (unsigned i = 0; i < n; i++) {
		struct found f;

		if (a[i].at < done)
			continue;
		f = longest(m->x, page, &a[i], done);
		if (!f.len || (size_t)(m->rec.end - m->rec.p) < 32) {
			/* What is found is known already. */
			match_add(&e->match, a[i].hash, (struct match_place){ .page = number, .at = a[i].at });
			continue;
		}
		add_literals(m, page + done, f.at - done);
		add_match(m, &f);
		done = f.at + f.len;
	}
	add_literals(m, page + done, HDE_PAGE - done);
}

uint32_t block_match(struct batch_enc *x, const uint16_t *v, uint32_t n, uint8_t *plain, uint32_t *lits)
{
	struct enc_worker *w = x->w;
	struct match_anchor a[2][MATCH_ANCHORS];
	struct matcher m = { .x = x, .bases = x->bases, .lit = plain, .rec = wcur_init(w->rec, MATCH_REC_MAX) };
	unsigned n_a[2] = { 0 };
	uint32_t rec, raw = (n - 1) * HDE_PAGE + batch_len(x->b, v[n - 1]);

	if (batch_len(x->b, v[0]) == HDE_PAGE)
		n_a[0] = match_anchors(&x->e->match, batch_bytes(x->b, v[0]), a[0]);
	for (uint32_t k = 0; k < n; k++) {
		const uint8_t *page = batch_bytes(x->b, v[k]);

		/* The next page's anchors are looked for now, so that their table entries have arrived when they are wanted. */
		if (k + 1 < n && batch_len(x->b, v[k + 1]) == HDE_PAGE)
			n_a[~k & 1] = match_anchors(&x->e->match, batch_bytes(x->b, v[k + 1]), a[~k & 1]);
		if (batch_len(x->b, v[k]) == HDE_PAGE)
			match_page(&m, batch_page(x->b, v[k]), page, a[k & 1], n_a[k & 1]);
		else
			add_literals(&m, page, batch_len(x->b, v[k]));
	}
	rec = (uint32_t)(m.rec.p - w->rec);
	*lits = (uint32_t)(m.lit - plain);
	if (4 + rec + *lits <= raw - raw / WORTH) {
		x->bases = m.bases;
		metric_add(&w->stats.matched_bytes, m.matched);
		return rec;
	}
	if (rec)
		for (uint32_t k = 0; k < n; k++)
			memcpy(plain + (size_t)k * HDE_PAGE, batch_bytes(x->b, v[k]), batch_len(x->b, v[k]));
	*lits = raw;
	return 0;
}

/* SPDX-License-Identifier: MIT */
/* One encoder and one decoder, several workers, by the clock on the wall. */
#include "base/clock.h"
#include "base/util.h"
#include "bench/hde_runner.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>

struct crew {
	const uint8_t *data;
	uint64_t bytes;
	uint8_t *to;
	struct hb_units *u;
	struct hde_enc *enc;
	struct hde_dec *dec;
	uint64_t next; /* unit to take, atomic */
	int rc;        /* the first failure, atomic */
};

struct hand {
	struct crew *crew;
	unsigned worker;
	pthread_t thread;
};

static int encode_unit(struct crew *c, unsigned worker, const struct hde_batch *b, uint64_t i)
{
	ssize_t n = hde_encode(c->enc, worker, b, hb_unit_out(c->u, i), (size_t)b->bytes + HDE_OVERHEAD);

	if (n < 0)
		return (int)n;
	c->u->len[i] = (uint32_t)n;
	return 0;
}

static int decode_unit(struct crew *c, unsigned worker, const struct hde_batch *b, uint64_t i)
{
	if (c->u->len[i])
		return hde_decode(c->dec, worker, 0, b->first * HDE_PAGE, b->bytes, hb_unit_out(c->u, i), c->u->len[i],
				  NULL);
	memcpy(c->to + b->first * HDE_PAGE, b->data, b->bytes);
	hde_dec_put(c->dec, worker, b->first * HDE_PAGE, b->bytes);
	return 0;
}

static void *hand_main(void *arg)
{
	struct hand *h = arg;
	struct crew *c = h->crew;
	uint64_t i;

	while ((i = __atomic_fetch_add(&c->next, 1, __ATOMIC_RELAXED)) < c->u->n) {
		uint32_t n = (uint32_t)min_u64(c->u->unit, c->bytes - i * c->u->unit);
		struct hde_batch b = { .first = i * c->u->unit / HDE_PAGE,
				       .n = n / HDE_PAGE,
				       .bytes = n,
				       .data = c->data + i * c->u->unit };
		int rc = c->enc ? encode_unit(c, h->worker, &b, i) : decode_unit(c, h->worker, &b, i);

		if (rc < 0) {
			__atomic_store_n(&c->rc, rc, __ATOMIC_RELAXED);
			break;
		}
	}
	return NULL;
}

/* All workers over all units; nanoseconds. */
static int go(struct crew *c, unsigned workers, uint64_t *ns)
{
	struct hand hands[HDE_WORKERS_MAX];
	uint64_t begin = clock_now(&clock_mono);
	unsigned n = 0;
	int rc = 0;

	c->next = 0;
	c->rc = 0;
	for (; n < workers && rc == 0; n++) {
		hands[n] = (struct hand){ .crew = c, .worker = n };
		rc = -pthread_create(&hands[n].thread, NULL, hand_main, &hands[n]);
		if (rc < 0)
			break;
	}
	for (unsigned i = 0; i < n; i++)
		pthread_join(hands[i].thread, NULL);
	*ns = clock_now(&clock_mono) - begin;
	return rc < 0 ? rc : c->rc;
}

static int turn(struct crew *c, unsigned workers, const struct hb_settings *s, struct hb_result *r, bool counts,
		struct err *e)
{
	struct hde_dec_config dc = { .workers = workers, .memory = c->to, .bytes = c->bytes, .fresh = true };
	struct hde_config ec;
	struct hde_enc *enc = NULL;
	uint64_t encode_ns, decode_ns;
	int rc;

	hb_hde_config(&ec, &r->algorithm, s, c->bytes);
	ec.workers = workers;
	ec.frozen = c->data;
	memset(c->to, 0, c->bytes);
	rc = hde_enc_open(&enc, &ec, e);
	if (rc < 0)
		return rc;
	hde_round(enc, NULL);
	c->enc = enc;
	rc = go(c, workers, &encode_ns);
	c->enc = NULL;
	hde_enc_stats(enc, &r->stats);
	hde_enc_close(enc);
	if (rc < 0)
		return err_set(e, rc, "%s, %u workers: encoding failed: %s", r->algorithm.name, workers, strerror(-rc));
	rc = hde_dec_open(&c->dec, &dc, e);
	if (rc < 0)
		return rc;
	rc = go(c, workers, &decode_ns);
	hde_dec_close(c->dec);
	rc = rc < 0 ? hb_wrong(r, "a batch is refused", e) : hb_compare(r, c->to, c->data, c->bytes, e);
	if (rc < 0)
		return rc;
	r->bytes_in = c->bytes;
	r->bytes_out = 0;
	for (uint64_t i = 0; i < c->u->n; i++)
		r->bytes_out += c->u->len[i] ? c->u->len[i] : min_u64(c->u->unit, c->bytes - i * c->u->unit);
	hb_note(r, counts, encode_ns, decode_ns);
	return 0;
}

int hb_parallel(const struct memory *m, const struct hb_algorithm *a, const unsigned *workers, size_t n,
		const struct hb_settings *s, struct hb_result *results, struct err *e)
{
	struct hb_units u = { 0 };
	struct hugebuf to = { 0 };
	struct crew c = { .data = m->data, .bytes = m->bytes, .u = &u };
	int rc = hugebuf_alloc(&to, m->bytes, true, e);

	c.to = to.addr;
	if (rc >= 0)
		rc = hb_units_open(&u, m->bytes, s->batch, e);
	for (size_t i = 0; i < n; i++)
		results[i] = (struct hb_result){ .algorithm = *a };
	for (unsigned t = 0; t <= s->iterations && rc >= 0; t++)
		for (size_t i = 0; i < n && rc >= 0; i++)
			rc = hb_stopped(s, 0) ? err_set(e, -EINTR, "interrupted")
					      : turn(&c, workers[i], s, &results[i], t > 0, e);
	hb_units_free(&u);
	hugebuf_free(&to);
	return rc;
}

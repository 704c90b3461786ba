/* SPDX-License-Identifier: MIT */
/*
 * The receiving half. Puts land in their region by themselves; where the
 * backend sees them arrive, the checksum is taken at once, while the bytes are in the
 * cache, and compared when the COMMIT names what was meant. Staged chunks are
 * checked and handed to the stage. Every COMMIT gets one ACK.
 */
#include "transport/amst_impl.h"

#include <errno.h>
#include <stdlib.h>

int amst_rx_prepare(struct amst_rx *rx, uint64_t pass_chunks, struct err *e)
{
	if (pass_chunks > 1ull << 28)
		return err_set(e, -EINVAL, "a transfer of %llu chunks is too many: use a larger --chunk-size",
			       (unsigned long long)pass_chunks);
	rx->map = calloc(bitmap_words(pass_chunks) + 1, sizeof *rx->map);
	if (!rx->map)
		return err_set(e, -ENOMEM, "no memory to keep track of %llu chunks: use a larger --chunk-size",
			       (unsigned long long)pass_chunks);
	rx->pass_chunks = pass_chunks;
	rx->placed = rx->bytes = rx->bad = 0;
	rx->status = 0;
	rx->failing = 0;
	return 0;
}

void amst_rx_free(struct amst_rx *rx)
{
	free(rx->map);
	rx->map = NULL;
}

void rx_stream_reset(struct wstream *s)
{
	s->rx_seq = 0;
	s->rx_head = s->rx_tail = 0;
	s->a_head = s->a_tail = 0;
}

static void rx_fail(struct amst_rx *rx, int err, uint32_t object)
{
	/* The first one speaks: whoever sees the status sees the object that belongs to it. */
	if (__atomic_exchange_n(&rx->failing, 1, __ATOMIC_SEQ_CST))
		return;
	__atomic_store_n(&rx->status_object, object, __ATOMIC_RELAXED);
	__atomic_store_n(&rx->status, err, __ATOMIC_RELEASE);
}

static bool rx_note(struct wstream *s, struct rx_entry entry)
{
	if (s->rx_tail - s->rx_head == WIRE_UNCOMMITTED)
		return false;
	s->rx[s->rx_tail++ % WIRE_UNCOMMITTED] = entry;
	return true;
}

/* NULL if the bytes are not inside a region that is offered. */
static const uint8_t *region_at(const struct worker *w, uint32_t id, uint64_t offset, uint64_t len)
{
	const struct wregion *r = id < AMST_REGIONS_MAX ? &w->regions[id] : NULL;

	if (!r || !r->addr || offset > r->len || len > r->len - offset)
		return NULL;
	return r->addr + offset;
}

void rx_placed(struct worker *w, struct wstream *s, const struct be_event *ev)
{
	const uint8_t *at = region_at(w, ev->region, ev->offset, ev->len);

	if (!w->rx || (w->rx->stage && !w->rx->stage->ops->placed) || !at ||
	    !rx_note(s, (struct rx_entry){ .offset = ev->offset,
					   .object = ev->region,
					   .len = ev->len,
					   .sum = sum_of(w->rx->sum, at, ev->len),
					   .good = true }))
		stream_fail(w, s, -EPROTO);
}

void rx_chunk(struct worker *w, struct wstream *s, uint32_t transfer, struct rcur *c)
{
	struct amst_rx *rx = w->rx;
	struct chunk_rec r;
	struct rx_entry entry;
	size_t len;
	int rc;

	if (wire_get_chunk(c, &r) < 0 || !rx || !rx->stage || rx->id != transfer) {
		stream_fail(w, s, -EPROTO);
		return;
	}
	len = rcur_left(c);
	entry = (struct rx_entry){ .offset = r.offset, .object = r.object, .len = r.len, .sum = r.sum, .staged = true };
	/* After a failure nothing more is written, and nothing that was not written is good. */
	entry.good = sum_of(rx->sum, c->p, len) == r.sum && !__atomic_load_n(&rx->status, __ATOMIC_RELAXED);
	if (entry.good) {
		rc = rx->stage->ops->decode(
			rx->stage->ctx, w->index,
			&(struct stage_chunk){ .object = r.object, .len = r.len, .offset = r.offset }, c->p, len);
		if (rc < 0)
			entry.good = false;
		if (rc < 0 && rc != -EBADMSG)
			rx_fail(rx, rc, r.object);
	}
	if (!rx_note(s, entry))
		stream_fail(w, s, -EPROTO);
}

/* Where puts may come unseen: the next that was seen, or the next staged chunk, is this one. */
static bool next_is(const struct wstream *s, const struct chunk_rec *r)
{
	const struct rx_entry *x = &s->rx[s->rx_head % WIRE_UNCOMMITTED];

	return s->rx_head != s->rx_tail && x->offset == r->offset && x->object == r->object && x->len == r->len;
}

/* A put is right: the stage beside which it came may want to know. */
static int rx_put_good(struct worker *w, const struct amst_rx *rx, const struct chunk_rec *r)
{
	if (rx->stage)
		rx->stage->ops->placed(
			rx->stage->ctx, w->index,
			&(struct stage_chunk){ .object = r->object, .len = r->len, .offset = r->offset });
	return 1;
}

/* Was what the COMMIT names placed, and right? <0: the peer contradicts itself. */
static int rx_check(struct worker *w, struct wstream *s, const struct amst_rx *rx, const struct chunk_rec *r)
{
	const struct be_caps *caps = &w->a->cfg.ops->caps;
	const uint8_t *at;

	if ((caps->one_sided || !caps->sees_puts) && !next_is(s, r)) {
		at = rx->stage && !rx->stage->ops->placed ? NULL : region_at(w, r->object, r->offset, r->len);
		if (!at)
			return -EPROTO;
		/* Nobody here moved these bytes, so nobody has counted them. */
		if (caps->zero_copy) {
			metric_add(&w->be->counters.rx_bytes, r->len);
			metric_add(&w->be->counters.rx_zero_copy_bytes, r->len);
		}
		return sum_of(rx->sum, at, r->len) == r->sum ? rx_put_good(w, rx, r) : 0;
	}
	if (s->rx_head == s->rx_tail)
		return -EPROTO;
	const struct rx_entry *x = &s->rx[s->rx_head++ % WIRE_UNCOMMITTED];

	if (x->offset != r->offset || x->object != r->object || x->len != r->len)
		return -EPROTO;
	if (!x->good || x->sum != r->sum)
		return 0;
	return x->staged ? 1 : rx_put_good(w, rx, r);
}

void rx_commit(struct worker *w, struct wstream *s, uint32_t transfer, struct rcur *c)
{
	struct amst_rx *rx = w->rx;
	struct msg_commit m;
	struct ack_out ack = { .transfer = transfer };
	uint64_t good = 0, bytes = 0;

	if (wire_get_commit(c, &m) < 0 || !rx || rx->id != transfer || m.seq != s->rx_seq ||
	    s->a_tail - s->a_head == WIRE_CREDITS) {
		stream_fail(w, s, -EPROTO);
		return;
	}
	s->rx_seq++;
	for (uint32_t i = 0; i < m.n; i++) {
		int rc = rx->pass_chunks ? rx_check(w, s, rx, &m.rec[i]) : -EPROTO;

		if (rc < 0) {
			stream_fail(w, s, rc);
			return;
		}
		if (!rc)
			continue;
		bitmap_set(rx->map, m.rec[i].chunk % rx->pass_chunks);
		ack.m.ok |= 1ull << i;
		good++;
		bytes += m.rec[i].len;
	}
	__atomic_fetch_add(&rx->placed, good, __ATOMIC_RELAXED);
	__atomic_fetch_add(&rx->bytes, bytes, __ATOMIC_RELAXED);
	metric_add(&w->counters.chunks_placed, good);
	metric_add(&w->counters.bytes_placed, bytes);
	if (good < m.n) {
		__atomic_fetch_add(&rx->bad, m.n - good, __ATOMIC_RELAXED);
		metric_add(&w->counters.chunks_bad, m.n - good);
	}
	ack.m.seq = m.seq;
	ack.m.status = __atomic_load_n(&rx->status, __ATOMIC_ACQUIRE);
	ack.m.object = __atomic_load_n(&rx->status_object, __ATOMIC_ACQUIRE);
	s->acks[s->a_tail++ % WIRE_CREDITS] = ack;
	rx_flush_acks(w, s);
}

void rx_flush_acks(struct worker *w, struct wstream *s)
{
	while (s->up && !s->failing && s->a_head != s->a_tail) {
		const struct ack_out *a = &s->acks[s->a_head % WIRE_CREDITS];
		uint8_t head[64];
		int rc = w->a->cfg.ops->send(
			w->be, s->h,
			&(struct be_msg){ .head = head,
					  .head_len = wire_put_ack(head, sizeof head, a->transfer, &a->m),
					  .cookie = COOKIE(COOKIE_ACK, s, 0, 0) },
			1);

		if (rc < 0)
			stream_fail(w, s, rc);
		if (rc <= 0)
			return;
		s->a_head++;
	}
}

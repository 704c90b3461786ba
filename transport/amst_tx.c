/* SPDX-License-Identifier: MIT */
/*
 * The sending half: take a chunk, post it, commit, wait for the answer.
 *
 *   cursor ─tx_take─► held ─accepted─► posted ─COMMIT─► committed ─ACK ok─► acknowledged
 *      ▲                                  │                 │  └─ACK bad─► returned
 *      └── returned ◄── reclaim ◄── stream down ◄───────────┘
 */
#include "transport/amst_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the transfer ------------------------------------------------------------------------------ */

static bool tx_take(struct amst_tx *tx, uint64_t *chunk)
{
	if (!mpmc_empty(&tx->returned) && mpmc_pop(&tx->returned, chunk))
		return true;
	if (__atomic_load_n(&tx->cursor, __ATOMIC_RELAXED) >= __atomic_load_n(&tx->total, __ATOMIC_RELAXED))
		return false;
	*chunk = __atomic_fetch_add(&tx->cursor, 1, __ATOMIC_SEQ_CST);
	return *chunk < __atomic_load_n(&tx->total, __ATOMIC_SEQ_CST);
}

static bool tx_dry(const struct amst_tx *tx)
{
	return __atomic_load_n(&tx->cursor, __ATOMIC_RELAXED) >= __atomic_load_n(&tx->total, __ATOMIC_RELAXED) &&
	       mpmc_empty(&tx->returned);
}

/* Says once that nothing is left to do. */
static void tx_tell(struct worker *w, struct amst_tx *tx)
{
	if (!__atomic_exchange_n(&tx->told, 1, __ATOMIC_SEQ_CST))
		worker_event(w, &(struct amst_event){ .type = AMST_TX_DONE, .id = tx->id });
}

static void tx_fail(struct worker *w, struct amst_tx *tx, int err, uint32_t object)
{
	/* The first one speaks: whoever sees the status sees the object that belongs to it. */
	if (__atomic_exchange_n(&tx->failing, 1, __ATOMIC_SEQ_CST))
		return;
	__atomic_store_n(&tx->status_object, object, __ATOMIC_RELAXED);
	__atomic_store_n(&tx->status, err, __ATOMIC_RELEASE);
	__atomic_store_n(&tx->cursor, TX_STOPPED, __ATOMIC_SEQ_CST);
	tx_tell(w, tx);
}

/* Where chunk number `chunk` comes from and goes to. */
static const struct amst_extent *tx_locate(const struct amst_tx *tx, uint64_t chunk, struct chunk_rec *r,
					   uint64_t *from)
{
	uint64_t c = chunk % tx->pass_chunks, lo = 0, hi = tx->n_extents - 1;
	const struct amst_extent *x;
	uint64_t at;

	while (lo < hi) {
		uint64_t mid = (lo + hi + 1) / 2;

		if (tx->first[mid] <= c)
			lo = mid;
		else
			hi = mid - 1;
	}
	x = &tx->extents[lo];
	at = (c - tx->first[lo]) * tx->chunk;
	*from = x->from + at;
	*r = (struct chunk_rec){
		.chunk = chunk,
		.offset = x->to + at,
		.len = (uint32_t)min_u64(x->len - at, tx->chunk),
		.object = x->object,
	};
	return x;
}

/* ---- one stream -------------------------------------------------------------------------------- */

static void buf_free(struct worker *w, int32_t b)
{
	if (b >= 0)
		w->free_bufs[w->n_free++] = b;
}

static uint8_t *buf_at(const struct worker *w, int32_t b)
{
	return (uint8_t *)w->buf_mem.addr + (size_t)b * w->buf_bytes;
}

/* Fills win[tail] with the next chunk. */
static bool tx_fill(struct worker *w, struct wstream *s, struct amst_tx *tx)
{
	struct tx_rec *rec = &s->win[s->tail % AMST_WINDOW];
	uint64_t chunk, from;
	int32_t b = -1;
	ssize_t n;

	if (!w->a->sched->may(w, s) || (tx->stage && !w->n_free) || !pace_take(w, tx))
		return false;
	if (!tx_take(tx, &chunk)) {
		pace_pay(w, 0);
		return false;
	}
	tx_locate(tx, chunk, &rec->r, &from);
	s->held_len = rec->r.len;
	rec->put = !tx->stage;
	if (tx->stage) {
		struct stage_chunk c = { .object = rec->r.object, .len = rec->r.len, .offset = from };

		b = w->free_bufs[--w->n_free];
		n = tx->stage->ops->encode(tx->stage->ctx, w->index, &c, buf_at(w, b), w->buf_bytes);
		if (n < 0) {
			buf_free(w, b);
			pace_pay(w, 0);
			tx_fail(w, tx, (int)n, rec->r.object);
			return false;
		}
		if (n == STAGE_PUT) {
			buf_free(w, b);
			b = -1;
			rec->put = true;
		} else {
			s->held_len = (uint32_t)n;
			rec->r.sum = sum_of(tx->sum, buf_at(w, b), (size_t)n);
		}
	}
	if (rec->put) {
		rec->r.object = tx->token.id;
		rec->r.sum = sum_of(tx->sum, tx->base + from, rec->r.len);
	}
	rec->wire = s->held_len;
	pace_pay(w, s->held_len);
	s->held = true;
	s->held_buf = b;
	w->a->sched->took(w, s);
	return true;
}

static int tx_post(struct worker *w, struct wstream *s, struct amst_tx *tx, const struct tx_rec *rec)
{
	const struct be_ops *ops = w->a->cfg.ops;

	if (!rec->put) {
		uint8_t head[WIRE_HEAD + 64];
		struct be_msg m = {
			.head = head,
			.head_len = wire_put_chunk(head, sizeof head, tx->id, &rec->r),
			.body = buf_at(w, s->held_buf),
			.body_len = s->held_len,
			.cookie = COOKIE(COOKIE_CHUNK, s, s->held_len, s->held_buf),
		};

		return ops->send(w->be, s->h, &m, 1);
	}
	struct chunk_rec r;
	uint64_t from;

	tx_locate(tx, rec->r.chunk, &r, &from);
	struct be_put p = {
		.src = tx->base + from,
		.len = r.len,
		.token = tx->token,
		.offset = r.offset,
		.cookie = COOKIE(COOKIE_PUT, s, r.len, 0),
	};

	return ops->put(w->be, s->h, &p, 1);
}

static bool is_long(const struct worker *w)
{
	return w->rtt_ns > TX_LONG;
}

static bool window_full(const struct worker *w, const struct amst_tx *tx)
{
	return w->inflight >= max_u64(w->window, 2ull * tx->chunk);
}

/* On a long path a stream waits for round trips and losses of its own: it always has enough under way to send on
 * meanwhile, whatever the window says. */
static bool may_always(const struct worker *w, const struct wstream *s, const struct amst_tx *tx)
{
	return is_long(w) && (uint64_t)load_of(s) * tx->chunk < max_u64(2ull * tx->chunk, TX_EACH);
}

static bool tx_room(const struct worker *w, const struct wstream *s, const struct amst_tx *tx)
{
	if (window_full(w, tx) && !may_always(w, s, tx))
		return false;
	if (s->tail - s->head >= AMST_WINDOW || s->tail - s->cut >= WIRE_UNCOMMITTED || s->posted >= TX_OPS_MAX)
		return false;
	return s->posted < 2 || s->posted_bytes + tx->chunk <= (is_long(w) ? TX_EACH : TX_POSTED);
}

/* Posts at most one chunk; true if it did. */
static bool tx_post_next(struct worker *w, struct wstream *s, struct amst_tx *tx)
{
	struct tx_rec *rec = &s->win[s->tail % AMST_WINDOW];
	int rc;

	if (!s->up || s->failing || !tx_room(w, s, tx) || (!s->held && (s->retiring || !tx_fill(w, s, tx))))
		return false;
	rec->posted_ns = clock_now(&w->a->cfg.clock);
	rc = tx_post(w, s, tx, rec);
	if (rc == 0)
		return false;
	if (rc < 0) {
		stream_fail(w, s, rc);
		return false;
	}
	s->held = false;
	s->tail++;
	s->posted++;
	s->posted_bytes += s->held_len;
	w->inflight += rec->r.len;
	metric_add(&w->counters.chunks_sent, 1);
	metric_add(&w->counters.bytes_sent, rec->r.len);
	return true;
}

/* On a short path a whole burst: each answer wakes a worker that shares its CPU with the one that answers. On a long
 * one a stream that waits for an answer with nothing to send loses a round trip and the growth of its TCP window. */
static uint32_t commit_every(const struct worker *w, const struct amst_tx *tx)
{
	uint64_t bytes = is_long(w) ? max_u64(TX_EACH / 4, w->window / 8 / max_u64(w->n_sending, 1))
				    : max_u64(TX_BURST, w->window / 4);
	uint64_t n = min_u64(4u << 20, bytes) / tx->chunk;

	return (uint32_t)(n < 1 ? 1 : n > WIRE_COMMIT_MAX ? WIRE_COMMIT_MAX : n);
}

/* all: also what is less than a full COMMIT, because nothing will be added to it soon. */
static void tx_commit(struct worker *w, struct wstream *s, struct amst_tx *tx, bool all)
{
	uint32_t every = commit_every(w, tx);

	while (s->up && !s->failing && s->tail != s->cut && s->c_tail - s->c_head < WIRE_CREDITS) {
		uint32_t n = s->tail - s->cut;
		struct msg_commit m = { .seq = s->seq };
		uint8_t head[BE_HEAD_MAX];
		int rc;

		if (n < every && !all)
			return;
		m.n = (uint16_t)(n < every ? n : every);
		for (uint32_t i = 0; i < m.n; i++)
			m.rec[i] = s->win[(s->cut + i) % AMST_WINDOW].r;
		rc = w->a->cfg.ops->send(w->be, s->h,
					 &(struct be_msg){ .head = head,
							   .head_len = wire_put_commit(head, sizeof head, tx->id, &m),
							   .cookie = COOKIE(COOKIE_COMMIT, s, 0, 0) },
					 1);
		if (rc < 0)
			stream_fail(w, s, rc);
		if (rc <= 0)
			return;
		s->commits[s->c_tail++ % WIRE_CREDITS] = (struct commit_out){ .seq = s->seq++, .n = m.n };
		s->cut += m.n;
		metric_add(&w->counters.commits, 1);
	}
}

/* How many chunks a stream takes in its turn: few when there are few, so that every stream gets some. */
static uint64_t tx_burst(const struct worker *w, const struct amst_tx *tx)
{
	uint64_t cursor = __atomic_load_n(&tx->cursor, __ATOMIC_RELAXED);
	uint64_t total = __atomic_load_n(&tx->total, __ATOMIC_RELAXED);
	uint64_t share = cursor < total ? (total - cursor) / max_u64(w->n_sending * w->a->n, 1) : 0;

	return max_u64(min_u64(share, TX_BURST / tx->chunk), 1);
}

static bool tx_pump(struct worker *w, struct wstream *s)
{
	struct amst_tx *tx = w->tx;
	uint64_t burst, n = 0;

	if (!tx || w->tx_ending)
		return false;
	burst = tx_burst(w, tx);
	while (n < burst && tx_post_next(w, s, tx))
		n++;
	tx_commit(w, s, tx, w->paced || window_full(w, tx) || (!s->held && (s->retiring || tx_dry(tx))));
	return n > 0;
}

/* What fills the window must be acknowledged for anything to go on, also where a chunk is held that no room is for. */
static void tx_commit_all(struct worker *w)
{
	for (uint32_t i = 0; i < w->n_streams; i++)
		tx_commit(w, &w->streams[i], w->tx, true);
}

void tx_pump_all(struct worker *w)
{
	bool more = w->tx && !w->tx_ending;

	w->paced = false;
	w->at = 0;
	while (more) {
		uint32_t first = w->next;

		more = false;
		for (uint32_t i = 0; i < w->n_streams; i++) {
			uint32_t k = (first + i) % w->n_streams;

			if (!tx_pump(w, &w->streams[k]))
				continue;
			more = true;
			w->next = (k + 1) % w->n_streams;
			if (window_full(w, w->tx) && !is_long(w)) {
				tx_commit_all(w);
				return;
			}
		}
	}
}

/* Closes those whose last chunk is acknowledged. */
void tx_retire(struct worker *w)
{
	for (uint32_t i = 0; i < w->n_streams; i++) {
		struct wstream *s = &w->streams[i];

		if (s->retiring && !s->failing && !s->held && !s->posted && s->head == s->tail)
			stream_fail(w, s, -ECANCELED);
	}
}

void tx_done(struct worker *w, struct wstream *s, const struct be_event *ev)
{
	enum cookie_kind kind = COOKIE_KIND(ev->cookie);

	if (kind == COOKIE_PUT || kind == COOKIE_CHUNK) {
		s->posted--;
		s->posted_bytes -= COOKIE_LEN(ev->cookie);
		if (kind == COOKIE_CHUNK)
			buf_free(w, COOKIE_BUF(ev->cookie));
	}
	w->pump = true;
}

/* ---- answers ----------------------------------------------------------------------------------- */

static void tx_return(struct worker *w, struct amst_tx *tx, uint64_t chunk)
{
	/* Room for every chunk that can be under way: a full ring is a bug of ours. */
	if (!mpmc_push(&tx->returned, chunk))
		tx_fail(w, tx, -ENOBUFS, 0);
	metric_add(&w->counters.chunks_returned, 1);
}

/* Follows the path: how much it carries and how long it is. */
static void tx_look(struct worker *w, struct wstream *s, uint64_t now)
{
	struct be_info info;
	uint64_t rate, most;

	/* Over a round trip at least: a rate of less than that is one of bursts. */
	if (now - w->look_at < max_u64(TX_LOOK, w->rtt_ns))
		return;
	rate = (uint64_t)((double)(w->acked_bytes - w->look_bytes) * 1e9 / (double)(now - w->look_at));
	w->look_at = now;
	w->look_bytes = w->acked_bytes;
	/* The least: what waits in queues on the way is not what the path holds. */
	if (w->a->cfg.ops->info(w->be, s->h, &info) == 0)
		w->rtt_ns = info.rtt_least_ns;
	w->window = TX_WINDOW + (uint64_t)(4.0 * (double)rate * (double)w->rtt_ns / 1e9);
	most = __atomic_load_n(&w->a->window, __ATOMIC_RELAXED) / w->a->n;
	if (most)
		w->window = min_u64(w->window, most);
}

static void wake_others(struct worker *w)
{
	for (unsigned i = 0; i < w->a->n; i++)
		if (&w->a->w[i] != w)
			w->a->cfg.ops->wake(w->a->w[i].be);
}

/* A stage may want to know what the receiver has. */
static void tx_tell_stage(struct worker *w, const struct amst_tx *tx, const struct tx_rec *rec)
{
	struct chunk_rec r;
	uint64_t from;

	if (!tx->stage || !tx->stage->ops->acked)
		return;
	tx_locate(tx, rec->r.chunk, &r, &from);
	tx->stage->ops->acked(tx->stage->ctx, w->index,
			      &(struct stage_chunk){ .object = r.object, .len = r.len, .offset = from }, rec->wire);
}

static void tx_ack_recs(struct worker *w, struct wstream *s, struct amst_tx *tx, const struct msg_ack *m, uint32_t n)
{
	uint64_t now = clock_now(&w->a->cfg.clock), good = 0, bytes = 0, wire = 0, acked;

	tx_look(w, s, now);
	for (uint32_t i = 0; i < n; i++) {
		const struct tx_rec *rec = &s->win[s->head++ % AMST_WINDOW];

		w->inflight -= rec->r.len;
		if (m->ok >> i & 1) {
			hist_add(&w->latency, now - rec->posted_ns);
			good++;
			bytes += rec->r.len;
			wire += rec->wire;
			tx_tell_stage(w, tx, rec);
		} else if (!m->status) {
			tx_return(w, tx, rec->r.chunk);
		}
	}
	w->acked_bytes += bytes;
	s->acked_bytes += bytes;
	metric_add(&w->counters.wire_acked, wire);
	metric_add(&w->counters.chunks_acked, good);
	if (good < n)
		metric_add(&w->counters.chunks_refused, n - good);
	if (good && __atomic_load_n(&tx->refused_row, __ATOMIC_RELAXED))
		__atomic_store_n(&tx->refused_row, 0, __ATOMIC_RELAXED);
	__atomic_fetch_add(&tx->acked_bytes, bytes, __ATOMIC_RELAXED);
	acked = __atomic_add_fetch(&tx->acked, good, __ATOMIC_SEQ_CST);
	if (m->status) {
		tx_fail(w, tx, m->status, m->object);
	} else if (good < n) {
		uint64_t refused = __atomic_add_fetch(&tx->refused, n - good, __ATOMIC_RELAXED);

		uint64_t row = __atomic_add_fetch(&tx->refused_row, n - good, __ATOMIC_RELAXED);

		/* Much of it is damaged, or something is each time. */
		if ((refused > WIRE_COMMIT_MAX && refused > acked / 8) || row > REFUSED_ROW)
			tx_fail(w, tx, -EBADMSG, s->win[(s->head - 1) % AMST_WINDOW].r.object);
		wake_others(w);
	}
	if (acked == __atomic_load_n(&tx->total, __ATOMIC_SEQ_CST))
		tx_tell(w, tx);
}

void tx_ack(struct worker *w, struct wstream *s, uint32_t transfer, struct rcur *c)
{
	struct msg_ack m;

	if (wire_get_ack(c, &m) < 0 || !w->tx || w->tx->id != transfer || s->c_head == s->c_tail ||
	    s->commits[s->c_head % WIRE_CREDITS].seq != m.seq) {
		stream_fail(w, s, -EPROTO);
		return;
	}
	tx_ack_recs(w, s, w->tx, &m, s->commits[s->c_head++ % WIRE_CREDITS].n);
	w->pump = true;
}

/* ---- failure and end --------------------------------------------------------------------------- */

void tx_stream_down(struct worker *w, struct wstream *s)
{
	/* Chunks under way stay in the window until the peer's end is known to be down, too. */
	if (s->held)
		buf_free(w, s->held_buf);
	if (s->held && w->tx && !w->tx_ending) {
		tx_return(w, w->tx, s->win[s->tail % AMST_WINDOW].r.chunk);
		wake_others(w);
	}
	for (uint32_t i = s->head; i != s->tail; i++)
		w->inflight -= s->win[i % AMST_WINDOW].r.len;
	s->held = false;
	s->posted = 0;
	s->posted_bytes = 0;
	s->c_head = s->c_tail = 0;
	s->seq = 0;
	w->pump = true;
}

void tx_reclaim(struct worker *w, struct wstream *s)
{
	bool any = s->head != s->tail;

	if (s->h) /* a bug of the caller, or a new incarnation already: nothing of the old one is left */
		return;
	for (; s->head != s->tail; s->head++)
		if (w->tx && !w->tx_ending)
			tx_return(w, w->tx, s->win[s->head % AMST_WINDOW].r.chunk);
	s->head = s->cut = s->tail = 0;
	if (any)
		wake_others(w);
	w->pump = true;
}

void tx_end(struct worker *w)
{
	w->tx_ending = true;
	for (uint32_t i = 0; i < w->n_streams; i++) {
		struct wstream *s = &w->streams[i];

		if (s->held) {
			buf_free(w, s->held_buf);
			s->held = false;
		}
		if (s->h && s->head != s->tail)
			stream_fail(w, s, -ECANCELED);
		else if (!s->h)
			s->head = s->cut = s->tail = 0;
	}
	tx_try_end(w);
}

bool tx_try_end(struct worker *w)
{
	for (uint32_t i = 0; i < w->n_streams; i++) {
		struct wstream *s = &w->streams[i];

		if (s->h && (s->posted || s->head != s->tail))
			return false;
		if (!s->h)
			s->head = s->cut = s->tail = 0;
	}
	worker_event(w, &(struct amst_event){ .type = AMST_TX_ENDED, .id = w->tx->id });
	w->tx = NULL;
	w->tx_ending = false;
	return true;
}

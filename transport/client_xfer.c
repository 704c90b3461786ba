/* SPDX-License-Identifier: MIT */
/* Transfers at the connecting end: what is sent, and what is pulled. */
#include "transport/client_impl.h"

#include "base/bitmap.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TICK_NS (50 * NS_PER_MS)
#define PULL_LOOK_NS (200 * NS_PER_US) /* nothing wakes a puller when the last chunk has arrived */

/* ---- transfers --------------------------------------------------------------------------------- */

/* A transfer that failed may have left chunks on streams that are down here and not yet there: they must not be placed
 * after those of the next one. */
static int wait_fenced(struct client *c, struct err *e)
{
	uint64_t started = conn_now(c);
	unsigned left = conn_unfenced(c), before = left;
	int rc = 0;

	while (rc == 0 && left) {
		rc = client_turn(c, 100 * NS_PER_MS, e);
		left = conn_unfenced(c);
		if (left < before)
			started = conn_now(c);
		before = left;
		if (rc == 0 && !c->lost_at && conn_now(c) - started > c->cfg.timeout_ns)
			rc = err_set(e, -ETIMEDOUT, "streams to %s keep breaking: check the link", c->cfg.target);
	}
	return rc;
}

/* What a transfer's waiting looks at besides the session: ticks, and whether anything moves. */
struct watch {
	const struct client_tick *tick;
	uint64_t next, last_bytes, moved_at;
};

static struct watch watch_begin(struct client *c, const struct client_tick *tick)
{
	uint64_t now = conn_now(c);

	return (struct watch){ .tick = tick, .next = now + TICK_NS, .moved_at = now };
}

/* After a turn: what has moved by now, unless nothing was to. 1: the caller wants to stop. */
static int watch_look(struct client *c, struct watch *w, uint64_t bytes, bool waits, struct err *e)
{
	uint64_t now = conn_now(c);

	if (bytes != w->last_bytes)
		c->losses = 0;
	if (bytes != w->last_bytes || c->lost_at || waits) {
		w->last_bytes = bytes;
		w->moved_at = now;
	}
	if (now - w->moved_at > c->cfg.timeout_ns)
		return err_set(e, -ETIMEDOUT,
			       "nothing moved to or from %s for the whole time-out: check the link and the peer's "
			       "disk and load, or raise --timeout",
			       c->cfg.target);
	if (now < w->next)
		return 0;
	w->next = now + TICK_NS;
	return w->tick && w->tick->fn && w->tick->fn(w->tick->ctx, now, bytes);
}

static int run_tx(struct client *c, struct amst_tx *tx, const struct client_tick *tick, struct err *e)
{
	struct watch w = watch_begin(c, tick);
	int rc = 0;

	c->tx_done = c->tx_ended = false;
	rc = amst_tx_start(c->amst, tx);
	while (rc >= 0 && !c->tx_done) {
		rc = client_turn(c, TICK_NS, e);
		if (rc >= 0) {
			uint64_t bytes = __atomic_load_n(&tx->acked_bytes, __ATOMIC_RELAXED);

			pilot_turn(c, bytes);
			rc = watch_look(c, &w, bytes, amst_waits(c->amst, tx), e);
		}
		if (rc > 0)
			amst_tx_stop(c->amst, tx);
		if (rc == 0 && amst_paced(c->amst))
			rc = client_stay(c, e);
	}
	if (tick && tick->fn)
		tick->fn(tick->ctx, conn_now(c), __atomic_load_n(&tx->acked_bytes, __ATOMIC_RELAXED));
	return rc < 0 ? rc : 0;
}

/* Workers must let go of the transfer before its memory may be freed, also when the session is lost. */
static void let_go(struct client *c, struct amst_tx *tx)
{
	struct amst_event ev;

	while (!c->tx_ended) {
		amst_tx_end(c->amst, tx);
		if (c->cfg.manual)
			amst_step(c->amst);
		if (c->cfg.manual && c->cfg.drive)
			c->cfg.drive(c->cfg.drive_ctx);
		while (amst_poll(c->amst, &ev))
			conn_amst_event(c, &ev);
		if (!c->tx_ended && !c->cfg.manual)
			c->cfg.ops->wait(c->ctl, 10 * NS_PER_MS);
	}
}

static int end_tx(struct client *c, struct amst_tx *tx, struct msg_xfer_result *result, struct err *e)
{
	struct msg_xfer_end end;
	int rc = amst_tx_end(c->amst, tx);

	if (rc == 0)
		rc = client_wait_flag(c, &c->tx_ended, e);
	if (rc == 0) {
		end.chunks = tx->acked; /* of a transfer that failed it rises until now */
		rc = client_call_msg(c, MSG_XFER_END, &wire_xfer_end, &end, &wire_xfer_result, result, e);
	}
	if (rc < 0)
		return rc;
	if (!tx->status && (!result->whole || result->placed < tx->acked))
		return err_set(e, -EBADMSG,
			       "%s did not get everything (%llu of %llu chunks): please report this as a bug",
			       c->cfg.target, (unsigned long long)result->placed, (unsigned long long)tx->acked);
	return 0;
}

static int begin_tx(struct client *c, const struct amst_tx *tx, enum xfer_kind kind, struct err *e)
{
	struct msg_xfer_begin begin = {
		.kind = (uint8_t)kind,
		.sum = (uint8_t)tx->sum,
		.chunks = tx->pass_chunks,
		.chunk = tx->chunk,
	};
	uint8_t fields[64 + FILTER_NAME];
	struct wcur w = wcur_init(fields, sizeof fields);
	struct rcur in;

	if (tx->stage && tx->stage->ops->filter)
		snprintf(begin.filter, sizeof begin.filter, "%s", tx->stage->ops->filter);
	put_u32(&w, tx->id);
	wire_put(&w, &wire_xfer_begin, &begin);
	return client_call(c, MSG_XFER_BEGIN, fields, (uint32_t)(w.p - fields), &in, e);
}

static int status_text(const struct client *c, int status, struct err *e)
{
	if (status == -EBADMSG)
		return err_set(e, status,
			       "chunks keep arriving damaged at %s: check memory and network hardware of both hosts",
			       c->cfg.target);
	return err_set(e, status, "the transfer to %s stopped: %s", c->cfg.target, strerror(-status));
}

int client_transfer(struct client *c, struct amst_tx *tx, enum xfer_kind kind, const struct client_tick *tick,
		    struct msg_xfer_result *result, struct err *e)
{
	struct msg_xfer_result r = { 0 };
	int rc;

	rc = wait_fenced(c, e);
	if (rc < 0)
		return rc;
	tx->id = ++c->next_transfer;
	rc = amst_tx_prepare(tx, c->cfg.streams, e);
	if (rc < 0)
		return rc;
	rc = begin_tx(c, tx, kind, e);
	if (rc == 0) {
		pilot_begin(c, tx);
		rc = run_tx(c, tx, tick, e);
		pilot_end(c);
		if (rc == 0)
			rc = end_tx(c, tx, &r, e);
		let_go(c, tx);
	}
	if (rc == 0 && tx->status)
		rc = status_text(c, tx->status, e);
	amst_tx_free(tx);
	if (result)
		*result = r;
	return rc;
}

/* As let_go, for what is received. */
static void rx_let_go(struct client *c, struct amst_rx *rx)
{
	bool asked = false;

	while (!asked || !c->rx_ended) {
		if (!asked)
			asked = amst_rx_end(c->amst, rx) == 0;
		conn_events(c);
		if (c->cfg.manual && c->cfg.drive)
			c->cfg.drive(c->cfg.drive_ctx);
		else if (!c->rx_ended)
			c->cfg.ops->wait(c->ctl, 10 * NS_PER_MS);
	}
}

int client_pull(struct client *c, uint32_t from, uint32_t to, struct be_token to_token, uint64_t to_bytes,
		uint64_t bytes, uint64_t passes, uint32_t chunk, const struct client_tick *tick,
		struct msg_pull_result *result, struct err *e)
{
	struct amst_rx rx = { .id = ++c->next_transfer, .sum = c->cfg.sum };
	struct watch w = watch_begin(c, tick);
	struct amst_counters base, now;
	struct be_counters b;
	struct msg_pull m = { .region = from,
			      .to = to,
			      .to_key = to_token.key,
			      .to_bytes = to_bytes,
			      .bytes = bytes,
			      .passes = passes,
			      .chunk = chunk,
			      .sum = (uint8_t)c->cfg.sum };
	uint8_t fields[128];
	struct wcur out = wcur_init(fields, sizeof fields);
	struct rcur in;
	bool stop = false, done = false;
	uint64_t whole, distinct;
	int rc;

	if (!chunk)
		return err_set(e, -EINVAL, "a transfer needs a chunk size");
	rc = wait_fenced(c, e);
	if (rc == 0)
		rc = amst_rx_prepare(&rx, div_up_u64(bytes, chunk), e);
	if (rc < 0)
		return rc;
	whole = passes < UINT64_MAX / (rx.pass_chunks + 1) ? rx.pass_chunks * passes : UINT64_MAX;
	amst_counters(c->amst, &base, &b);
	c->rx_ready = c->rx_ended = false;
	rc = amst_rx_start(c->amst, &rx);
	if (rc == 0)
		rc = client_wait_flag(c, &c->rx_ready, e);
	put_u32(&out, rx.id);
	wire_put(&out, &wire_pull, &m);
	if (rc == 0)
		rc = client_call(c, MSG_PULL, fields, (uint32_t)(out.p - fields), &in, e);
	/* Bytes that arrive are the sign of life; the answer to PULL_WAIT says that everything was acknowledged. */
	while (rc == 0 && !done) {
		rc = client_turn(c, PULL_LOOK_NS, e);
		amst_counters(c->amst, &now, &b);
		if (rc >= 0)
			rc = watch_look(c, &w, now.bytes_placed - base.bytes_placed, false, e);
		stop |= rc > 0;
		if (rc > 0)
			rc = client_call(c, MSG_PULL_STOP, NULL, 0, &in, e);
		done = stop || c->pull_failed == rx.id || now.chunks_placed - base.chunks_placed >= whole;
	}
	if (rc == -ETIMEDOUT && !c->lost_at) /* what stopped may be its own doing: it knows */
		client_call(c, MSG_PULL_STOP, NULL, 0, &in, NULL);
	if (rc == 0 || (rc == -ETIMEDOUT && !c->lost_at)) {
		int told = client_call_msg(c, MSG_PULL_WAIT, NULL, NULL, &wire_pull_result, result, rc ? NULL : e);

		if (rc == 0 || (told == 0 && result->status))
			rc = told;
	}
	if (tick && tick->fn) {
		amst_counters(c->amst, &now, &b);
		tick->fn(tick->ctx, conn_now(c), now.bytes_placed - base.bytes_placed);
	}
	rx_let_go(c, &rx);
	if (rc == 0 && (result->status > 0 || result->status < -WIRE_ERRNO_MAX))
		rc = err_set(e, -EPROTO, "%s sent a result that this dwcp does not understand", c->cfg.target);
	if (rc == 0 && result->status)
		rc = err_set(e, result->status, "%s could not send its region: %s", c->cfg.target,
			     strerror(-result->status));
	distinct = bitmap_count(rx.map, rx.pass_chunks);
	if (rc == 0 && (rx.placed < result->chunks || distinct < min_u64(result->chunks, rx.pass_chunks)))
		rc = err_set(e, -EBADMSG, "%llu of %llu chunks from %s arrived whole: please report this as a bug",
			     (unsigned long long)rx.placed, (unsigned long long)result->chunks, c->cfg.target);
	amst_rx_free(&rx);
	return rc;
}

/* SPDX-License-Identifier: MIT */
/*
 * Sending. Accepted operations wait in the stream; v_flush makes work requests of them, in order, as long as the send
 * queue and the peer's credits have room, and hands them to the device in chains. Only some ask for a completion, and
 * one stands for all before it.
 */
#include "base/util.h"
#include "transport/verbs_impl.h"
#include <errno.h>
#include <string.h>

struct chain {
	struct v_stream *s;
	int n;
	struct ibv_send_wr wr[V_CHAIN];
	struct ibv_sge sge[V_CHAIN][V_SGE];
};

static struct v_op *op_at(const struct v_stream *s, uint32_t seq)
{
	return &s->ops[seq & s->u->op_mask];
}

static struct v_wr *wr_at(const struct v_stream *s, uint32_t seq)
{
	return &s->wrs[seq & s->u->wr_mask];
}

/* --- acceptance --- */

static void flush_stream(struct v_stream *s);

static int stream_to_send(struct verbs *u, be_stream name, struct v_stream **out)
{
	int r = vs_find(u, name, out);

	if (r < 0)
		return r;
	return (*out)->state == V_OPEN && !(*out)->peer_bye ? 0 : -ENOTCONN;
}

static bool ops_full(const struct v_stream *s)
{
	return s->op_tail - s->op_head == s->u->n_sends;
}

/* n contiguous bytes that stay until the operation's DONE, or NULL. Heads are freed in order. */
static uint8_t *arena_take(struct v_stream *s, uint32_t n, uint32_t *end)
{
	uint32_t at, skip;

	if (s->arena_head == s->arena_tail)
		s->arena_head = s->arena_tail = 0;
	at = s->arena_tail % V_ARENA;
	skip = V_ARENA - at < n ? V_ARENA - at : 0;
	if (s->arena_tail + skip + n - s->arena_head > V_ARENA)
		return NULL;
	s->arena_tail += skip + n;
	*end = s->arena_tail;
	return s->arena + (skip ? 0 : at);
}

/* i of n operations were taken; err: why the next was not, if it was wrong. */
static int accepted(struct v_stream *s, int i, int n, int err, uint64_t *counter)
{
	if (i) {
		metric_add(counter, (uint64_t)i);
		if (tx_wants(s))
			vs_work(s);
	} else if (err) {
		return err;
	} else if (n > 0) {
		metric_add(&s->u->be.counters.backpressure, 1);
	}
	return i;
}

int v_send(struct be *be, be_stream name, const struct be_msg *v, int n)
{
	struct verbs *u = verbs_of(be);
	struct v_stream *s;
	int i, r = stream_to_send(u, name, &s);
	bool idle;

	if (r < 0)
		return r;
	idle = tx_idle(s);
	if (idle)
		s->heard_at = 0;
	for (i = 0; i < n && !ops_full(s); i++) {
		struct v_op *op = op_at(s, s->op_tail);
		uint8_t *head;

		if (v[i].head_len > BE_HEAD_MAX || (uint64_t)v[i].head_len + v[i].body_len > V_FRAME_MAX) {
			r = -EINVAL;
			break;
		}
		head = arena_take(s, v[i].head_len, &op->arena_end);
		if (!head)
			break;
		if (v[i].head_len)
			memcpy(head, v[i].head, v[i].head_len);
		op->head = head;
		op->head_len = v[i].head_len;
		op->body = v[i].body;
		op->body_len = v[i].body_len;
		op->message = true;
		op->cookie = v[i].cookie;
		s->op_tail++;
	}
	/* With nothing under way there is nothing that it could share a doorbell with. */
	if (idle && i > 0)
		flush_stream(s);
	return accepted(s, i, n, r, &be->counters.messages);
}

int v_put(struct be *be, be_stream name, const struct be_put *v, int n)
{
	struct verbs *u = verbs_of(be);
	struct v_stream *s;
	int i, r = stream_to_send(u, name, &s);

	if (r < 0)
		return r;
	if (tx_idle(s))
		s->heard_at = 0;
	for (i = 0; i < n && !ops_full(s); i++) {
		struct v_op *op = op_at(s, s->op_tail);

		if (!v[i].len || v[i].len > V_PUT_MAX) {
			r = -EINVAL;
			break;
		}
		*op = (struct v_op){ .body = v[i].src,
				     .body_len = v[i].len,
				     .rkey = vtoken_rkey(v[i].token),
				     .raddr = vtoken_address(v[i].token, v[i].offset),
				     .cookie = v[i].cookie };
		s->op_tail++;
	}
	return accepted(s, i, n, r, &be->counters.puts);
}

/* --- work requests --- */

static struct ibv_send_wr *wr_new(struct chain *c, enum ibv_wr_opcode opcode)
{
	struct v_stream *s = c->s;
	struct ibv_send_wr *wr = &c->wr[c->n];

	*wr = (struct ibv_send_wr){ .wr_id = wr_send(s, s->wr_tail), .sg_list = c->sge[c->n], .opcode = opcode };
	*wr_at(s, s->wr_tail) = (struct v_wr){ .slot = V_NONE };
	if (c->n)
		c->wr[c->n - 1].next = wr;
	c->n++;
	return wr;
}

/* It is complete: it counts from here on. */
static void wr_done(struct chain *c, struct ibv_send_wr *wr)
{
	struct v_stream *s = c->s;

	if (++s->unsignalled >= s->u->opts.signal_interval) {
		wr->send_flags |= IBV_SEND_SIGNALED;
		s->unsignalled = 0;
	}
	s->wr_tail++;
}

static void sge_add(struct ibv_send_wr *wr, const void *at, uint32_t len, uint32_t lkey)
{
	wr->sg_list[wr->num_sge++] = (struct ibv_sge){ .addr = (uintptr_t)at, .length = len, .lkey = lkey };
}

static uint8_t *slot_at(const struct verbs *u, uint32_t slot)
{
	return u->slots + (size_t)slot * V_SLOT;
}

static uint8_t *cell_of(const struct v_stream *s)
{
	return s->cells + (size_t)(s->wr_tail & s->u->wr_mask) * V_CELL;
}

/* A segment's header takes a credit of the peer's and gives back what we owe. */
static void segment_header(struct v_stream *s, uint8_t *at, enum vseg_type type, uint32_t len)
{
	vseg_put(at, type, (uint16_t)s->owed, len);
	s->owed = 0;
	s->credits--;
}

static void small_segment(struct chain *c, enum vseg_type type)
{
	struct v_stream *s = c->s;
	struct ibv_send_wr *wr = wr_new(c, IBV_WR_SEND);
	uint8_t *cell = cell_of(s);
	uint32_t len = VSEG_HEADER;

	if (type == VSEG_HELLO) {
		vgreet_put(cell + VSEG_HEADER,
			   &(struct vgreet){ .seg = s->u->seg, .credits = (uint16_t)s->granted, .mtu = 1 });
		s->owed = 0;
		len += VGREET;
	}
	segment_header(s, cell, type, 0);
	sge_add(wr, cell, len, s->dom->tx_mr->lkey);
	if (len <= s->u->inline_max)
		wr->send_flags |= IBV_SEND_INLINE;
	wr_done(c, wr);
}

/* What a piece of an operation becomes: of the head, then of the body; in place, inline, or copied into a slot. */
struct piece {
	uint32_t head, body;
	const uint8_t *head_at, *body_at;
	uint32_t lkey; /* of the body, where it is sent in place */
	bool in_line;
	uint8_t *copy; /* NULL: not copied */
	uint32_t slot;
};

/* False: it must be copied, and no slot is free. lead: bytes that go before it, in a piece of their own. */
static bool piece_plan(struct v_stream *s, struct piece *p, uint32_t lead)
{
	struct verbs *u = s->u;
	uint32_t pieces = (lead > 0) + (p->head > 0) + (p->body > 0);

	p->slot = V_NONE;
	p->in_line = lead + p->head + p->body <= u->inline_max && pieces <= u->max_sge;
	if (p->in_line)
		return true;
	p->lkey = p->body ? source_lkey(u, s->dom, p->body_at, p->body) : 1;
	if (p->lkey && pieces <= u->max_sge)
		return true;
	if (!u->n_free_slots)
		return false;
	p->slot = u->free_slots[--u->n_free_slots];
	p->copy = slot_at(u, p->slot);
	if (lead + p->head + p->body > V_SLOT)
		p->body = V_SLOT - lead - p->head;
	if (p->head)
		memcpy(p->copy + lead, p->head_at, p->head);
	if (p->body)
		memcpy(p->copy + lead + p->head, p->body_at, p->body);
	return true;
}

static void piece_add(struct chain *c, struct ibv_send_wr *wr, const struct piece *p, const uint8_t *lead_at,
		      uint32_t lead)
{
	struct v_stream *s = c->s;
	struct v_wr *w = wr_at(s, s->wr_tail);
	uint32_t ours = s->dom->tx_mr->lkey;

	w->slot = p->slot;
	if (p->copy) {
		sge_add(wr, p->copy, lead + p->head + p->body, ours);
	} else {
		if (lead)
			sge_add(wr, lead_at, lead, ours);
		if (p->head)
			sge_add(wr, p->head_at, p->head, ours);
		if (p->body)
			sge_add(wr, p->body_at, p->body, p->lkey);
	}
	if (p->in_line)
		wr->send_flags |= IBV_SEND_INLINE;
	w->zero_copy = p->copy || p->in_line ? 0 : p->body;
	w->copied = p->head + p->body - w->zero_copy;
}

/* The operation's next `n` bytes are in a work request. */
static void op_advance(struct v_stream *s, const struct v_op *op, uint32_t n)
{
	s->op_off += n;
	if (s->op_off < op->head_len + op->body_len)
		return;
	wr_at(s, s->wr_tail)->ends_op = true;
	s->op_off = 0;
	s->op_sent++;
}

static bool message_segment(struct chain *c, const struct v_op *op)
{
	struct v_stream *s = c->s;
	uint32_t off = s->op_off, n = (uint32_t)min_u64(op->head_len + op->body_len - off, s->peer_seg);
	struct piece p = { .head = off < op->head_len ? (uint32_t)min_u64(n, op->head_len - off) : 0 };
	struct ibv_send_wr *wr;
	uint8_t *lead;

	p.body = n - p.head;
	p.head_at = op->head + off;
	p.body_at = p.body ? op->body + (off + p.head - op->head_len) : NULL;
	if (!piece_plan(s, &p, VSEG_HEADER))
		return false;
	wr = wr_new(c, IBV_WR_SEND);
	lead = p.copy ? p.copy : cell_of(s);
	segment_header(s, lead, off ? VSEG_MORE : VSEG_FIRST, off ? 0 : op->head_len + op->body_len);
	piece_add(c, wr, &p, lead, VSEG_HEADER);
	op_advance(s, op, p.head + p.body);
	wr_done(c, wr);
	return true;
}

/* What must go in several WRITEs goes from its end to its start: a put that is too long fails before it has written. */
static bool write_part(struct chain *c, const struct v_op *op)
{
	struct v_stream *s = c->s;
	uint32_t most = source_lkey(s->u, s->dom, op->body, op->body_len) ? s->max_write : V_SLOT;
	uint32_t left = op->body_len - s->op_off, n = (uint32_t)min_u64(left, most);
	struct piece p = { .body = n, .body_at = op->body + (left - n) };
	struct ibv_send_wr *wr;

	if (!piece_plan(s, &p, 0))
		return false;
	wr = wr_new(c, IBV_WR_RDMA_WRITE);
	wr->wr.rdma.remote_addr = op->raddr + (left - n);
	wr->wr.rdma.rkey = op->rkey;
	piece_add(c, wr, &p, NULL, 0);
	op_advance(s, op, p.body);
	wr_done(c, wr);
	return true;
}

/* A WRITE of nothing needs no key (IBTA C9-88), and the peer's device acknowledges it. */
static void probe(struct chain *c)
{
	wr_done(c, wr_new(c, IBV_WR_RDMA_WRITE));
	c->s->probe_due = false;
}

/* The next work request, if there may be one. */
static bool next_wr(struct chain *c)
{
	struct v_stream *s = c->s;
	const struct v_op *op = s->op_sent != s->op_tail ? op_at(s, s->op_sent) : NULL;

	if (s->hello_due) {
		small_segment(c, VSEG_HELLO);
		s->hello_due = false;
		return true;
	}
	if (op && op->message && s->credits >= 2)
		return message_segment(c, op) || (vs_work(s), false);
	if (tx_credits_due(s) && s->credits && (!s->bye_sent || s->credits > 1)) {
		small_segment(c, VSEG_CREDIT);
		return true;
	}
	if (op && !op->message)
		return write_part(c, op) || (vs_work(s), false);
	if (!op && s->bye_due && s->credits) {
		small_segment(c, VSEG_BYE);
		s->bye_due = false;
		s->bye_sent = true;
		return true;
	}
	if (s->probe_due) {
		probe(c);
		return true;
	}
	return false;
}

static void post(struct chain *c)
{
	struct v_stream *s = c->s;
	struct ibv_send_wr *bad;
	int rc;

	/* Nothing more may come for a while: what is under way must not wait for it. */
	c->wr[c->n - 1].send_flags |= IBV_SEND_SIGNALED;
	s->unsignalled = 0;
	metric_add(&s->u->be.counters.syscalls, 1);
	rc = ibv_post_send(s->qp, c->wr, &bad);
	if (rc)
		vs_die(s, rc > 0 ? -rc : -EIO);
}

static void flush_stream(struct v_stream *s)
{
	struct verbs *u = s->u;
	struct chain c;

	c.s = s;
	while ((s->state == V_OPEN || s->state == V_CLOSING) && !s->disconnected) {
		c.n = 0;
		while (c.n < (int)u->opts.chain && s->wr_tail - s->wr_head < s->depth && next_wr(&c))
			;
		if (!c.n)
			return;
		post(&c);
	}
}

void v_flush(struct verbs *u)
{
	struct v_stream *s;

	rx_flush(u);
	s = u->work.head;
	/* Those that want to go on later queue themselves anew. */
	u->work.head = NULL;
	while (s) {
		struct v_stream *next = s->work_next;

		s->work_queued = false;
		/* What somebody waits for goes before the buffers of what may follow. */
		if (s->op_sent != s->op_tail)
			flush_stream(s);
		rx_repost(s);
		flush_stream(s);
		s = next;
	}
}

/* --- completions --- */

static int error_of(enum ibv_wc_status status)
{
	switch (status) {
	case IBV_WC_REM_ACCESS_ERR:
		return -EACCES;
	case IBV_WC_REM_INV_REQ_ERR:
	case IBV_WC_REM_OP_ERR:
	case IBV_WC_REM_ABORT_ERR:
		return -EREMOTEIO;
	case IBV_WC_RETRY_EXC_ERR:
	case IBV_WC_RNR_RETRY_EXC_ERR:
	case IBV_WC_RESP_TIMEOUT_ERR:
		return -ETIMEDOUT;
	default:
		return -EIO;
	}
}

/* The peer's device has just said so. */
static bool answered(enum ibv_wc_status status)
{
	return error_of(status) == -EACCES || error_of(status) == -EREMOTEIO || status == IBV_WC_RNR_RETRY_EXC_ERR;
}

static void retire(struct v_stream *s, bool ok)
{
	struct verbs *u = s->u;
	const struct v_wr *w = wr_at(s, s->wr_head++);

	if (w->slot != V_NONE)
		u->free_slots[u->n_free_slots++] = w->slot;
	if (!ok)
		return;
	metric_add(&u->be.counters.tx_bytes, w->zero_copy + w->copied);
	metric_add(&u->be.counters.tx_zero_copy_bytes, w->zero_copy);
	metric_add(&u->be.counters.tx_copied_bytes, w->copied);
	s->bytes_sent += w->zero_copy + w->copied;
	if (w->ends_op)
		s->op_done++;
}

void tx_completion(struct v_stream *s, const struct ibv_wc *wc)
{
	struct verbs *u = s->u;
	uint32_t seq = (uint32_t)wc->wr_id;
	bool flushed = wc->status == IBV_WC_WR_FLUSH_ERR;

	/* An error of its own says that all before it were acknowledged. */
	while (s->wr_head != seq && (int32_t)(seq - s->wr_head) > 0)
		retire(s, !flushed || s->clean);
	if (s->wr_head == seq)
		retire(s, wc->status == IBV_WC_SUCCESS || s->clean);
	s->heard_at = u->now;
	if (wc->status != IBV_WC_SUCCESS && s->state != V_DYING && !s->disconnected) {
		if (!flushed) {
			(answered(wc->status) ? vs_die : vs_lost)(s, error_of(wc->status));
		} else { /* something else ended the queue pair: its reason may be the next completion */
			atomic_store(&s->async_err, -EPROTO);
			atomic_fetch_or(&u->async, V_ASYNC_STREAM);
		}
	}
	if (s->state != V_DYING && tx_wants(s))
		vs_work(s);
	vs_ready(s);
}

/* The queue pair is gone: what did not come back never will. */
void tx_drop(struct v_stream *s)
{
	while (s->wr_head != s->wr_tail)
		retire(s, s->clean);
}

/* Reports finished operations, with `all` also those that never will be. False: no room for more. */
bool tx_deliver(struct v_stream *s, struct v_out *out, bool all)
{
	uint32_t end = all ? s->op_tail : s->op_done;

	if (all)
		tx_drop(s);
	for (; (int32_t)(end - s->op_head) > 0; s->op_head++) {
		const struct v_op *op = op_at(s, s->op_head);
		struct be_event *ev = out_add(out, BE_DONE, s);

		if (!ev)
			return false;
		ev->cookie = op->cookie;
		if ((int32_t)(s->op_head - s->op_done) >= 0)
			ev->err = s->down_err ? s->down_err : -EPIPE;
		if (op->message && op->head_len)
			s->arena_head = op->arena_end;
	}
	return true;
}

/* SPDX-License-Identifier: MIT */
/*
 * Receiving messages. A message of one segment is delivered where it arrived, in its receive buffer; longer ones are
 * put together in a frame. Either way a frame is what the caller holds, so frames bound both.
 *
 * On a shared queue every buffer is posted all the time. Who may fill how many is a matter of credits: a stream has
 * V_CREDITS, a busy one more as long as those that are not connected yet could still have theirs.
 */
#include "base/util.h"
#include "transport/verbs_impl.h"
#include <errno.h>
#include <string.h>

#define POST_CHAIN 32

/* --- buffers --- */

static int post_list(struct verbs *u, struct v_dom *d, struct v_list *l, struct v_stream *own)
{
	struct ibv_recv_wr wr[POST_CHAIN], *bad;
	struct ibv_sge sge[POST_CHAIN];
	int n = 0, rc = 0;

	for (; n < POST_CHAIN && l->n; n++) {
		uint32_t rbuf = list_take(d, l);

		sge[n] = (struct ibv_sge){ .addr = (uintptr_t)rbuf_at(u, d, rbuf),
					   .length = VSEG_HEADER + u->seg,
					   .lkey = d->rx_mr->lkey };
		wr[n] = (struct ibv_recv_wr){ .wr_id = wr_recv(d, rbuf), .sg_list = &sge[n], .num_sge = 1 };
		if (n)
			wr[n - 1].next = &wr[n];
		if (own) {
			d->rbufs[rbuf].posted = true;
			d->rbufs[rbuf].stream = vs_name(own);
		}
	}
	if (n)
		rc = own ? ibv_post_recv(own->qp, wr, &bad) : ibv_post_srq_recv(d->srq, wr, &bad);
	return rc ? -(rc > 0 ? rc : EIO) : n;
}

static void grant(struct v_stream *s, uint32_t n)
{
	s->granted += n;
	s->owed += n;
	if (tx_credits_due(s))
		vs_work(s);
}

static bool takes_credits(const struct v_stream *s)
{
	return s->state == V_OPEN || s->state == V_CLOSING || s->state == V_ACCEPTING || s->state == V_CONNECTING;
}

/* To whom a buffer that is posted again belongs: the stream that used it, and as it is busy perhaps one more. */
static void repay(struct verbs *u, struct v_dom *d, be_stream name)
{
	struct v_stream *s;

	if (d->debt)
		d->debt--;
	else
		d->spare++;
	if (vs_find(u, name, &s) < 0 || s->dom != d || !takes_credits(s))
		return;
	for (int i = 0; i < 2 && s->granted < V_CREDITS_MOST; i++) {
		if (!d->spare || (i && d->spare <= u->n_free_streams * V_CREDITS))
			return;
		d->spare--;
		grant(s, 1);
	}
}

void rx_flush(struct verbs *u)
{
	if (!u->repost_due)
		return;
	for (uint32_t i = 0; i < V_DOMAINS; i++) {
		struct v_dom *d = u->doms[i];

		while (d && d->repost.n) {
			struct v_list l = d->repost;
			int n = post_list(u, d, &d->repost, NULL);

			if (n < 0) {
				atomic_fetch_or(&u->async, V_ASYNC_GONE);
				return;
			}
			for (; n; n--) {
				be_stream name = d->rbufs[l.head].stream;

				l.head = d->rbufs[l.head].next;
				if (name)
					repay(u, d, name);
			}
		}
	}
	u->repost_due = false;
}

void rx_repost(struct v_stream *s)
{
	while (s->repost.n && s->qp && s->state != V_DYING) {
		int n = post_list(s->u, s->dom, &s->repost, s);

		if (n < 0)
			vs_die(s, n);
		else
			grant(s, (uint32_t)n);
	}
}

int rx_open(struct v_stream *s)
{
	struct verbs *u = s->u;
	struct v_dom *d = s->dom;
	uint32_t n = d->srq ? V_CREDITS : u->own;

	if (d->srq) {
		rx_flush(u);
		n = (uint32_t)min_u64(n, d->spare);
		d->spare -= n;
		s->granted = n;
	} else {
		for (uint32_t rbuf; s->repost.n < n && (rbuf = list_take(d, &d->free)) != V_NONE;)
			list_add(d, &s->repost, rbuf);
		rx_repost(s);
	}
	s->owed = 0;
	return s->granted >= VGREET_CREDITS_MIN ? 0 : -ENOBUFS;
}

/* The buffer may be filled anew. name: of the stream that it was for. */
static void recycle(struct verbs *u, struct v_dom *d, uint32_t rbuf, be_stream name)
{
	struct v_stream *s;

	d->rbufs[rbuf].stream = name;
	if (d->srq) {
		list_add(d, &d->repost, rbuf);
		u->repost_due = true;
	} else if (vs_find(u, name, &s) == 0 && s->dom == d && takes_credits(s)) {
		list_add(d, &s->repost, rbuf);
		vs_work(s);
	} else {
		list_add(d, &d->free, rbuf);
	}
}

/* --- completions --- */

static void hello(struct v_stream *s, const struct vseg *seg)
{
	struct vgreet g;

	if (s->state != V_ACCEPTING || vgreet_parse(seg->payload, seg->payload_len, &g) < 0) {
		vs_protocol(s, -EPROTO);
		return;
	}
	s->peer_seg = g.seg;
	s->credits = g.credits;
	s->connected_pending = true;
	rdma_notify(s->id, IBV_EVENT_COMM_EST); /* whatever became of the last packet of the hand-shake */
	vs_state(s, V_OPEN);
	vs_ready(s);
}

/* True: the buffer is kept, until its message is delivered. */
static bool segment(struct v_stream *s, const struct vseg *seg, uint32_t rbuf)
{
	if (seg->type == VSEG_HELLO) {
		hello(s, seg);
		return false;
	}
	if ((s->state != V_OPEN && s->state != V_CLOSING) || vcredits_add(&s->credits, seg->credits) < 0 ||
	    (s->peer_bye && seg->type != VSEG_CREDIT)) {
		vs_protocol(s, -EPROTO);
		return false;
	}
	if (seg->credits ? tx_wants(s) : tx_credits_due(s))
		vs_work(s);
	s->peer_bye |= seg->type == VSEG_BYE;
	vs_ready(s);
	if (seg->type != VSEG_FIRST && seg->type != VSEG_MORE)
		return false;
	list_add(s->dom, &s->arrived, rbuf);
	return true;
}

static void failed(struct v_stream *s, const struct ibv_wc *wc)
{
	if (s->state == V_DYING)
		return;
	if (s->disconnected) { /* it ends when what arrived before is taken */
		vs_ready(s);
		return;
	}
	if (wc->status == IBV_WC_LOC_LEN_ERR) {
		vs_protocol(s, -EPROTO);
	} else if (wc->status == IBV_WC_WR_FLUSH_ERR) { /* the reason may be the next completion */
		atomic_store(&s->async_err, -EPROTO);
		atomic_fetch_or(&s->u->async, V_ASYNC_STREAM);
	} else {
		vs_die(s, -EIO);
	}
}

/* Nobody's credit was used: of a stream that is over, whose credits went back, or of a peer that had none. */
static void overdrawn(struct v_dom *d, struct v_stream *s)
{
	if (d->spare)
		d->spare--;
	else
		d->debt++;
	if (s)
		vs_protocol(s, -EPROTO);
}

void rx_completion(struct verbs *u, const struct ibv_wc *wc)
{
	struct v_dom *d = u->doms[wc->wr_id >> 32 & 0x7fff];
	uint32_t rbuf = (uint32_t)wc->wr_id;
	struct v_stream *s = vs_by_qpn(u, wc->qp_num);
	struct vseg seg;

	if (!s && !d->srq) /* of a queue pair that is no more: its buffers were taken back */
		return;
	d->rbufs[rbuf].posted = false;
	if (s && s->granted)
		s->granted--;
	else if (d->srq)
		overdrawn(d, s);
	if (!s || wc->status != IBV_WC_SUCCESS || s->state == V_DYING) {
		if (s && wc->status != IBV_WC_SUCCESS)
			failed(s, wc);
		recycle(u, d, rbuf, d->srq ? V_NONE : 0);
		return;
	}
	s->heard_at = u->now;
	d->rbufs[rbuf].bytes = wc->byte_len;
	/* A WRITE with immediate data takes a buffer too, puts nothing there, and has a length of its own. */
	if (wc->opcode != IBV_WC_RECV || wc->byte_len > VSEG_HEADER + u->seg ||
	    vseg_parse(rbuf_at(u, d, rbuf), wc->byte_len, &seg) < 0)
		vs_protocol(s, -EPROTO);
	else if (segment(s, &seg, rbuf))
		return;
	recycle(u, d, rbuf, vs_name(s));
}

/* --- frames --- */

/* The stream that waits longest gets it. */
static void frame_give(struct verbs *u, uint32_t frame)
{
	while (u->frame_wait.head) {
		struct v_stream *s = u->frame_wait.head;

		u->frame_wait.head = s->frame_next;
		s->frame_queued = false;
		if (!s->rx_stuck)
			continue;
		s->rx_stuck = false;
		s->rx_frame = frame;
		vs_ready(s);
		return;
	}
	u->free_frames[u->n_free_frames++] = frame;
}

static void frame_await(struct v_stream *s)
{
	struct verbs *u = s->u;

	if (s->rx_stuck)
		return;
	s->rx_stuck = true;
	metric_add(&u->be.counters.frame_waits, 1);
	if (s->frame_queued)
		return;
	s->frame_queued = true;
	s->frame_next = NULL;
	if (u->frame_wait.head)
		u->frame_wait.tail->frame_next = s;
	else
		u->frame_wait.head = s;
	u->frame_wait.tail = s;
}

void v_release(struct be *be, uint32_t frame)
{
	struct verbs *u = verbs_of(be);
	struct v_held *h = frame < u->n_frames ? &u->frames[frame] : NULL;

	if (!h || !h->callers)
		return;
	h->callers = false;
	if (h->rbuf != V_NONE)
		recycle(u, h->dom, h->rbuf, h->dom->rbufs[h->rbuf].stream);
	frame_give(u, frame);
}

/* --- delivery --- */

static void report(struct v_stream *s, struct v_out *out, const uint8_t *data, uint32_t rbuf)
{
	struct verbs *u = s->u;
	struct be_event *ev = out_add(out, BE_MESSAGE, s);
	uint32_t len = s->assembly.len;

	ev->data = data;
	ev->len = len;
	ev->frame = s->rx_frame;
	u->frames[s->rx_frame] = (struct v_held){ .callers = true, .dom = s->dom, .rbuf = rbuf };
	s->rx_frame = V_NONE;
	s->bytes_received += len;
	metric_add(&u->be.counters.rx_bytes, len);
	metric_add(rbuf != V_NONE ? &u->be.counters.rx_zero_copy_bytes : &u->be.counters.rx_copied_bytes, len);
	metric_add(&u->be.counters.frames_received, 1);
}

/* The oldest segment that arrived. False: it waits for a frame, or the stream dies. */
static bool take_segment(struct v_stream *s, struct v_out *out)
{
	struct verbs *u = s->u;
	struct v_dom *d = s->dom;
	uint32_t rbuf = s->arrived.head, at = s->assembly.open ? s->assembly.got : 0;
	struct vseg seg;
	uint8_t *frame;
	int r;

	if (s->rx_frame == V_NONE && u->n_free_frames)
		s->rx_frame = u->free_frames[--u->n_free_frames];
	if (s->rx_frame == V_NONE) {
		frame_await(s);
		return false;
	}
	vseg_parse(rbuf_at(u, d, rbuf), d->rbufs[rbuf].bytes, &seg);
	r = vasm_take(&s->assembly, &seg, u->frame_bytes);
	if (r < 0) {
		vs_protocol(s, r);
		return false;
	}
	list_take(d, &s->arrived);
	d->rbufs[rbuf].stream = vs_name(s);
	if (r == 1 && seg.type == VSEG_FIRST) {
		report(s, out, seg.payload, rbuf);
		return true;
	}
	frame = u->frame_store + (size_t)s->rx_frame * u->frame_stride;
	memcpy(frame + at, seg.payload, seg.payload_len);
	recycle(u, d, rbuf, vs_name(s));
	if (r == 1)
		report(s, out, frame, V_NONE);
	return true;
}

/* Goes on as far as segments, frames and room for events last. False: no room for more. */
bool rx_deliver(struct v_stream *s, struct v_out *out)
{
	while (s->arrived.n) {
		if (s->connected_pending || out->n == out->max)
			return false;
		if (!take_segment(s, out))
			break;
	}
	return true;
}

/* The stream is over: what was its is free again. */
void rx_drop(struct v_stream *s)
{
	struct verbs *u = s->u;
	struct v_dom *d = s->dom;
	be_stream name = vs_name(s);

	if (s->rx_frame != V_NONE)
		frame_give(u, s->rx_frame);
	s->rx_frame = V_NONE;
	s->rx_stuck = false;
	if (!d)
		return;
	for (uint32_t rbuf; (rbuf = list_take(d, &s->arrived)) != V_NONE;)
		recycle(u, d, rbuf, V_NONE);
	for (uint32_t rbuf; (rbuf = list_take(d, &s->repost)) != V_NONE;)
		list_add(d, &d->free, rbuf);
	if (d->srq)
		d->spare += s->granted;
	for (uint32_t i = 0; !d->srq && i < d->n_rbufs; i++)
		if (d->rbufs[i].posted && d->rbufs[i].stream == name) {
			d->rbufs[i].posted = false;
			list_add(d, &d->free, i);
		}
	s->granted = 0;
}

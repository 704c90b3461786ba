/* SPDX-License-Identifier: MIT */
/*
 * Receiving. Puts go straight into their region, messages into a frame; both were checked
 * when the header arrived, before the receive is armed. One receive per stream is in flight.
 */
#include "base/util.h"
#include "transport/uring_impl.h"
#include <errno.h>
#include <string.h>

enum { FRAME_FREE, FRAME_RECEIVING, FRAME_CALLERS };

/* --- frames --- */

static uint32_t frame_take(struct uring *u)
{
	uint32_t f;

	if (!u->n_free_frames)
		return U_NONE;
	f = u->free_frames[--u->n_free_frames];
	u->frame_state[f] = FRAME_RECEIVING;
	return f;
}

/* The stream that waits longest gets it. */
static void frame_give(struct uring *u, uint32_t frame)
{
	while (u->frame_wait.head) {
		struct u_stream *s = u->frame_wait.head;

		u->frame_wait.head = s->frame_next;
		s->frame_queued = false;
		if (!s->rx_stuck)
			continue;
		u->frame_state[frame] = FRAME_RECEIVING;
		s->rx_stuck = false;
		s->rx_frame = frame;
		stream_ready(u, s);
		return;
	}
	u->frame_state[frame] = FRAME_FREE;
	u->free_frames[u->n_free_frames++] = frame;
}

static void frame_await(struct uring *u, struct u_stream *s)
{
	if (s->rx_stuck)
		return;
	s->rx_stuck = true;
	stream_wish(u, s, W_WATCH);
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

void uring_release(struct be *be, uint32_t frame)
{
	struct uring *u = uring_of(be);

	if (frame < u->n_frames && u->frame_state[frame] == FRAME_CALLERS)
		frame_give(u, frame);
}

/* --- arming --- */

void rx_prepare(struct uring *u, struct u_stream *s)
{
	struct io_uring_sqe *sqe;
	int fd = s->fixed ? (int)s->index : s->fd, n = 1;

	if (s->rx_armed || s->rx_has)
		return;
	sqe = ring_sqe(u);
	if (s->state == U_GREETING)
		s->rx_iov[0] =
			(struct iovec){ s->greet_in + s->greet_in_have, (size_t)(TCP_GREETING - s->greet_in_have) };
	else
		n = tcp_rx_iov(&s->rx, s->rx_iov, u->opts.recv_max);
	if (n == 1) {
		io_uring_prep_recv(sqe, fd, s->rx_iov[0].iov_base, s->rx_iov[0].iov_len, 0);
	} else {
		s->rx_msg = (struct msghdr){ .msg_iov = s->rx_iov, .msg_iovlen = (size_t)n };
		io_uring_prep_recvmsg(sqe, fd, &s->rx_msg, 0);
	}
	if (s->fixed)
		sqe->flags |= IOSQE_FIXED_FILE;
	sqe->user_data = ud_make(UD_RECV, 0, s->index);
	s->rx_armed = true;
	s->inflight++;
	u->inflight++;
}

/* No event asked for: ERR and HUP come always. After our FIN the peer's would be HUP too, with data before it. */
void rx_watch(struct uring *u, struct u_stream *s)
{
	struct io_uring_sqe *sqe;

	if (!s->rx_stuck || s->watch_armed || s->fin_sent)
		return;
	sqe = ring_sqe(u);
	io_uring_prep_poll_add(sqe, s->fixed ? (int)s->index : s->fd, 0);
	if (s->fixed)
		sqe->flags |= IOSQE_FIXED_FILE;
	sqe->user_data = ud_make(UD_WATCH, 0, s->index);
	s->watch_armed = true;
	s->inflight++;
	u->inflight++;
}

void rx_watched(struct uring *u, struct u_stream *s)
{
	int err = 0;
	socklen_t len = sizeof err;

	s->watch_armed = false;
	if (!s->rx_stuck || s->fin_sent)
		return;
	getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &err, &len);
	stream_die(u, s, err ? -err : -ECONNRESET);
}

/* --- what arrived --- */

static void protocol_error(struct uring *u, struct u_stream *s, int err)
{
	metric_add(&u->be.counters.protocol_errors, 1);
	stream_die(u, s, err);
}

/* The connector reads the answer to its preamble. */
static void greeting_arrived(struct uring *u, struct u_stream *s, uint32_t n)
{
	int r;

	s->greet_in_have = (uint8_t)(s->greet_in_have + n);
	r = tcp_greeting_check(s->greet_in, s->greet_in_have);
	switch (r) {
	case 0:
		stream_wish(u, s, W_RECV);
		break;
	case 1:
		s->state = U_OPEN;
		s->deadline = 0;
		s->connected_pending = true;
		s->connected_data = true;
		stream_wish(u, s, W_RECV);
		break;
	case 2:
		s->down_data = s->greet_in + 1;
		s->down_len = BE_PREAMBLE;
		stream_die(u, s, -ECONNREFUSED);
		break;
	default:
		s->down_data = s->greet_in;
		s->down_len = s->greet_in_have;
		protocol_error(u, s, r);
	}
}

static void rx_ended(struct uring *u, struct u_stream *s, int res)
{
	if (res == -EAGAIN || res == -EINTR) {
		stream_wish(u, s, W_RECV);
		return;
	}
	/* Behind our own FIN the connection may be over in order. */
	if (res == 0 && !s->fin_sent)
		res = sock_ended(s->fd);
	s->peer_fin = res == 0;
	if (s->state == U_CLOSING)
		stream_die(u, s, -ECANCELED);
	else if (res == -ETIMEDOUT || (res < 0 && !s->tx_err))
		stream_die(u, s, res);
	else if (s->tx_err)
		stream_die(u, s, s->tx_err);
	else if (s->state == U_GREETING || !tcp_rx_at_boundary(&s->rx))
		stream_die(u, s, -ECONNRESET);
	else
		stream_die(u, s, 0);
}

static void take_result(struct uring *u, struct u_stream *s)
{
	uint32_t n = (uint32_t)s->rx_res, payload;

	s->rx_has = false;
	if (s->rx_res <= 0) {
		rx_ended(u, s, s->rx_res);
		return;
	}
	s->bytes_received += n;
	if (s->state == U_GREETING) {
		greeting_arrived(u, s, n);
		return;
	}
	payload = tcp_rx_took(&s->rx, n);
	metric_add(&u->be.counters.rx_bytes, payload);
	metric_add(&u->be.counters.rx_copied_bytes, payload);
}

static bool place_message(struct uring *u, struct u_stream *s)
{
	if (s->rx_frame == U_NONE)
		s->rx_frame = frame_take(u);
	if (s->rx_frame == U_NONE) {
		frame_await(u, s);
		return false;
	}
	tcp_rx_place(&s->rx, u->frame_store + (size_t)s->rx_frame * u->frame_stride);
	return true;
}

static bool place_put(struct uring *u, struct u_stream *s)
{
	const struct tcp_frame *f = &s->rx.frame;
	uint32_t r = region_find(u, s->domain, f->region, f->key);

	if (r == U_NONE || f->len > U_PUT_MAX || !tcp_put_fits(f, u->regions[r].len)) {
		protocol_error(u, s, -EPROTO);
		return false;
	}
	u->regions[r].busy++;
	s->rx_region = r;
	tcp_rx_place(&s->rx, (uint8_t *)u->regions[r].addr + f->offset);
	return true;
}

/* The header of a new frame is in s->rx.frame. False: the stream waits or dies. */
static bool place(struct uring *u, struct u_stream *s)
{
	if (s->rx.frame.type == TCP_FRAME_PUT)
		return place_put(u, s);
	if (s->rx.frame.len > u->frame_bytes) {
		protocol_error(u, s, -EPROTO);
		return false;
	}
	return place_message(u, s);
}

static void report(struct uring *u, struct u_stream *s, struct u_out *out)
{
	const struct tcp_frame *f = &s->rx.frame;
	struct be_event *ev = out_add(out, f->type == TCP_FRAME_PUT ? BE_PLACED : BE_MESSAGE, s);

	ev->len = f->len;
	if (f->type == TCP_FRAME_PUT) {
		ev->offset = f->offset;
		ev->region = f->region;
		metric_add(&u->be.counters.placed, 1);
		region_unbusy(u, s->rx_region);
		s->rx_region = U_NONE;
	} else {
		ev->data = s->rx.dst;
		ev->frame = s->rx_frame;
		u->frame_state[s->rx_frame] = FRAME_CALLERS;
		metric_add(&u->be.counters.frames_received, 1);
		s->rx_frame = U_NONE;
	}
}

/* Goes on as far as bytes, frames and room for events last. False: no room for more events, or CONNECTED comes first. */
bool rx_deliver(struct uring *u, struct u_stream *s, struct u_out *out)
{
	if (s->rx_armed)
		return true;
	if (s->rx_has)
		take_result(u, s);
	while (s->state == U_OPEN || s->state == U_CLOSING) {
		int r;

		if (s->connected_pending || out->n == out->max)
			return false;
		r = tcp_rx_step(&s->rx);
		if (r == TCP_RX_FRAME) {
			report(u, s, out);
		} else if (r == TCP_RX_HEADER) {
			if (!place(u, s))
				return true;
		} else if (r == TCP_RX_MORE) {
			stream_wish(u, s, W_RECV);
			return true;
		} else {
			protocol_error(u, s, r);
		}
	}
	return true;
}

/* The stream is over: what it received into is free again. */
void rx_drop(struct uring *u, struct u_stream *s)
{
	if (s->rx_frame != U_NONE)
		frame_give(u, s->rx_frame);
	if (s->rx_region != U_NONE)
		region_unbusy(u, s->rx_region);
	s->rx_frame = s->rx_region = U_NONE;
	s->rx_stuck = false;
}

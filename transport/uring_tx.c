/* SPDX-License-Identifier: MIT */
/*
 * Sending. Accepted operations wait in the stream; one request per socket is in flight and
 * carries everything that waits, up to a bundle. A zero-copy request keeps its record until
 * the kernel's notification; op_done stops at the oldest record.
 */
#include "base/util.h"
#include "transport/uring_impl.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

static struct u_op *op_at(const struct uring *u, const struct u_stream *s, uint32_t seq)
{
	return &s->ops[seq % u->n_sends];
}

static uint32_t op_bytes(const struct u_op *op)
{
	return op->lead_len + op->body_len;
}

/* --- acceptance --- */

static int stream_to_send(struct uring *u, be_stream name, struct u_stream **out)
{
	int r = stream_find(u, name, out);

	if (r < 0)
		return r;
	return (*out)->state == U_OPEN && !(*out)->tx_err ? 0 : -ENOTCONN;
}

static bool ops_full(const struct uring *u, const struct u_stream *s)
{
	return s->op_tail - s->op_head == u->n_sends;
}

/* n contiguous bytes that stay until the operation's DONE, or NULL. Leads are freed in order. */
static uint8_t *arena_take(struct u_stream *s, uint32_t n, uint32_t *end)
{
	uint32_t at, skip;

	if (s->arena_head == s->arena_tail)
		s->arena_head = s->arena_tail = 0;
	at = s->arena_tail % U_ARENA;
	skip = U_ARENA - at < n ? U_ARENA - at : 0;
	if (s->arena_tail + skip + n - s->arena_head > U_ARENA)
		return NULL;
	s->arena_tail += skip + n;
	*end = s->arena_tail;
	return s->arena + (skip ? 0 : at);
}

/* i of n operations were taken; err: why the next was not, if it was wrong. */
static int accepted(struct uring *u, struct u_stream *s, int i, int n, int err, uint64_t *counter)
{
	if (i) {
		metric_add(counter, (uint64_t)i);
		stream_wish(u, s, W_SEND);
	} else if (err) {
		return err;
	} else if (n > 0) {
		metric_add(&u->be.counters.backpressure, 1);
	}
	return i;
}

int uring_send(struct be *be, be_stream name, const struct be_msg *v, int n)
{
	struct uring *u = uring_of(be);
	struct u_stream *s;
	int i, r = stream_to_send(u, name, &s);

	if (r < 0)
		return r;
	for (i = 0; i < n && !ops_full(u, s); i++) {
		struct u_op *op = op_at(u, s, s->op_tail);
		struct tcp_frame f = { .type = TCP_FRAME_MESSAGE };
		uint8_t *lead;

		if (v[i].head_len > BE_HEAD_MAX || (uint64_t)v[i].head_len + v[i].body_len > U_FRAME_MAX) {
			r = -EINVAL;
			break;
		}
		lead = arena_take(s, TCP_FRAME_HEADER + v[i].head_len, &op->arena_end);
		if (!lead)
			break;
		f.len = v[i].head_len + v[i].body_len;
		tcp_frame_encode(lead, &f);
		if (v[i].head_len)
			memcpy(lead + TCP_FRAME_HEADER, v[i].head, v[i].head_len);
		op->lead = lead;
		op->lead_len = TCP_FRAME_HEADER + v[i].head_len;
		op->body = v[i].body;
		op->body_len = v[i].body_len;
		op->message = true;
		op->cookie = v[i].cookie;
		s->op_tail++;
	}
	return accepted(u, s, i, n, r, &be->counters.messages);
}

int uring_put(struct be *be, be_stream name, const struct be_put *v, int n)
{
	struct uring *u = uring_of(be);
	struct u_stream *s;
	int i, r = stream_to_send(u, name, &s);

	if (r < 0)
		return r;
	for (i = 0; i < n && !ops_full(u, s); i++) {
		struct u_op *op = op_at(u, s, s->op_tail);

		if (!v[i].len || v[i].len > U_PUT_MAX) {
			r = -EINVAL;
			break;
		}
		tcp_frame_encode(op->head, &(struct tcp_frame){ .type = TCP_FRAME_PUT,
								.len = v[i].len,
								.key = v[i].token.key,
								.offset = v[i].offset,
								.region = v[i].token.id });
		op->lead = op->head;
		op->lead_len = TCP_FRAME_HEADER;
		op->body = v[i].src;
		op->body_len = v[i].len;
		op->message = false;
		op->cookie = v[i].cookie;
		s->op_tail++;
	}
	return accepted(u, s, i, n, r, &be->counters.puts);
}

/* --- requests --- */

static void finish(struct uring *u, struct u_stream *s, struct io_uring_sqe *sqe, uint64_t user_data)
{
	if (s->fixed)
		sqe->flags |= IOSQE_FIXED_FILE;
	sqe->user_data = user_data;
	s->inflight++;
	u->inflight++;
}

static int sqe_fd(const struct u_stream *s)
{
	return s->fixed ? (int)s->index : s->fd;
}

static bool op_zc(const struct uring *u, const struct u_stream *s, const struct u_op *op)
{
	return s->zc && op->body_len >= u->opts.zerocopy_threshold;
}

/* Fills tx_iov with what waits, all of it zero-copy or none. */
static size_t bundle(struct uring *u, struct u_stream *s, bool zc)
{
	uint32_t off = s->op_off, room = U_BUNDLE_BYTES;
	size_t n = 0;

	for (uint32_t seq = s->op_sent; seq != s->op_tail && n + 2 <= ARRAY_LEN(s->tx_iov) && room; seq++, off = 0) {
		const struct u_op *op = op_at(u, s, seq);
		uint32_t body_off = off > op->lead_len ? off - op->lead_len : 0;
		uint32_t body = (uint32_t)min_u64(op->body_len - body_off, room);

		if (op_zc(u, s, op) != zc)
			break;
		if (off < op->lead_len)
			s->tx_iov[n++] = (struct iovec){ (void *)(op->lead + off), op->lead_len - off };
		if (body)
			s->tx_iov[n++] = (struct iovec){ (void *)(op->body + body_off), body };
		room -= body;
	}
	return n;
}

static uint32_t record_new(struct u_stream *s)
{
	uint32_t i = s->zc_tail++ % U_ZC_RECORDS;

	s->zcs[i] = (struct u_zc){ .first_op = s->op_sent };
	s->zc_current = i;
	return i;
}

/* A put from a registered buffer: the header, linked before the bytes. */
static void arm_registered(struct uring *u, struct u_stream *s, const struct u_op *op, int buffer)
{
	uint32_t record = record_new(s), off = 0;
	struct io_uring_sqe *sqe;

	if (s->op_off < op->lead_len) {
		sqe = ring_sqe(u);
		io_uring_prep_send(sqe, sqe_fd(s), op->lead + s->op_off, op->lead_len - s->op_off,
				   MSG_NOSIGNAL | MSG_MORE | MSG_WAITALL);
		finish(u, s, sqe, ud_make(UD_LEAD, 0, s->index));
		sqe->flags |= IOSQE_IO_LINK;
		s->tx_lead_armed = true;
	} else {
		off = s->op_off - op->lead_len;
	}
	sqe = ring_sqe(u);
	io_uring_prep_send_zc_fixed(sqe, sqe_fd(s), op->body + off, min_u64(op->body_len - off, U_BUNDLE_BYTES),
				    MSG_NOSIGNAL, IORING_SEND_ZC_REPORT_USAGE, (unsigned)buffer);
	finish(u, s, sqe, ud_make(UD_ZC, record, s->index));
}

static void arm_bundle(struct uring *u, struct u_stream *s, bool zc)
{
	struct io_uring_sqe *sqe = ring_sqe(u);

	s->tx_msg = (struct msghdr){ .msg_iov = s->tx_iov, .msg_iovlen = bundle(u, s, zc) };
	if (zc) {
		io_uring_prep_sendmsg_zc(sqe, sqe_fd(s), &s->tx_msg, MSG_NOSIGNAL);
		sqe->ioprio |= IORING_SEND_ZC_REPORT_USAGE;
		finish(u, s, sqe, ud_make(UD_ZC, record_new(s), s->index));
	} else {
		io_uring_prep_sendmsg(sqe, sqe_fd(s), &s->tx_msg, MSG_NOSIGNAL | MSG_WAITALL);
		finish(u, s, sqe, ud_make(UD_SEND, 0, s->index));
	}
}

static void arm_greeting(struct uring *u, struct u_stream *s)
{
	struct io_uring_sqe *sqe = ring_sqe(u);

	io_uring_prep_send(sqe, sqe_fd(s), s->greet_out + s->greet_out_done,
			   (size_t)(s->greet_out_len - s->greet_out_done), MSG_NOSIGNAL);
	finish(u, s, sqe, ud_make(UD_SEND, 0, s->index));
}

void tx_prepare(struct uring *u, struct u_stream *s)
{
	const struct u_op *op = op_at(u, s, s->op_sent);
	int buffer = -1;
	bool zc;

	if (s->tx_armed || s->tx_lead_armed || s->tx_err || s->fin_sent)
		return;
	if (s->greet_out_done < s->greet_out_len) {
		arm_greeting(u, s);
		s->tx_armed = true;
		return;
	}
	if (s->op_sent == s->op_tail) {
		if (s->state == U_CLOSING)
			s->fin_sent = shutdown(s->fd, SHUT_WR) == 0;
		return;
	}
	zc = op_zc(u, s, op);
	if (zc && s->zc_tail - s->zc_head == U_ZC_RECORDS)
		return; /* the next notification wishes again */
	if (zc && !op->message)
		buffer = source_buffer(u, op->body, op->body_len);
	if (buffer >= 0)
		arm_registered(u, s, op, buffer);
	else
		arm_bundle(u, s, zc);
	s->tx_armed = true;
}

/* --- completion --- */

/* How many of n bytes, `from` bytes into an operation, are not its header. */
static uint32_t payload_of(uint32_t from, uint32_t n)
{
	return n - (from < TCP_FRAME_HEADER ? (uint32_t)min_u64(TCP_FRAME_HEADER - from, n) : 0);
}

/* n bytes were taken by the kernel; returns how many of them are payload. */
static uint32_t advance(struct uring *u, struct u_stream *s, uint32_t n)
{
	uint32_t payload = 0;

	s->bytes_sent += n;
	while (n && s->op_sent != s->op_tail) {
		const struct u_op *op = op_at(u, s, s->op_sent);
		uint32_t take = (uint32_t)min_u64(n, op_bytes(op) - s->op_off);

		payload += payload_of(s->op_off, take);
		s->op_off += take;
		n -= take;
		if (s->op_off < op_bytes(op))
			break;
		s->op_off = 0;
		s->op_sent++;
	}
	metric_add(&u->be.counters.tx_bytes, payload);
	return payload;
}

/* A stream that cannot send may still hold the peer's last words: receiving goes on until it ends. */
static void tx_fail(struct uring *u, struct u_stream *s, int err)
{
	if (s->state == U_DYING)
		return;
	if ((err == -EPIPE || err == -ECONNRESET) && s->state != U_CONNECTING && !s->tx_err) {
		s->tx_err = -ECONNRESET;
		stream_deadline(u, &s->deadline, U_LAST_WORDS);
		return;
	}
	stream_die(u, s, err == -EPIPE ? -ECONNRESET : err);
}

static void zc_off(struct uring *u, struct u_stream *s)
{
	if (!s->zc)
		return;
	s->zc = false;
	metric_add(&u->be.counters.zero_copy_fallbacks, 1);
}

static bool is_zc_refusal(int err)
{
	return err == -EINVAL || err == -EOPNOTSUPP || err == -ENOBUFS || err == -ENOMEM || err == -EFAULT;
}

static void tx_result(struct uring *u, struct u_stream *s, enum u_kind kind, uint32_t record, int res)
{
	if (res > 0 && s->greet_out_done < s->greet_out_len) {
		s->greet_out_done = (uint8_t)(s->greet_out_done + res);
		s->bytes_sent += (uint32_t)res;
	} else if (res > 0) {
		uint32_t payload = advance(u, s, (uint32_t)res);

		if (kind == UD_ZC)
			s->zcs[record].payload = payload;
		else
			metric_add(&u->be.counters.tx_copied_bytes, payload);
	} else if (kind == UD_ZC && is_zc_refusal(res)) {
		u->has_zc = u->has_zc && res != -EINVAL; /* a kernel without REPORT_USAGE */
		zc_off(u, s);
	} else if (res != -EAGAIN && res != -EINTR && res != -ECANCELED) {
		tx_fail(u, s, res ? res : -EPIPE);
	}
}

static void record_over(struct uring *u, struct u_stream *s, struct u_zc *z, bool copied)
{
	z->notified = true;
	metric_add(copied ? &u->be.counters.tx_copied_bytes : &u->be.counters.tx_zero_copy_bytes, z->payload);
	if (!copied)
		s->zc_copied = 0;
	else if (z->payload && !s->zc_forced && ++s->zc_copied >= U_ZC_COPIED_LIMIT)
		zc_off(u, s);
}

static void records_retire(struct u_stream *s)
{
	while (s->zc_head != s->zc_tail) {
		const struct u_zc *z = &s->zcs[s->zc_head % U_ZC_RECORDS];

		if (!z->sent || !z->notified)
			break;
		s->zc_head++;
	}
	s->op_done = s->zc_head == s->zc_tail ? s->op_sent : s->zcs[s->zc_head % U_ZC_RECORDS].first_op;
}

void tx_cqe(struct uring *u, struct u_stream *s, enum u_kind kind, uint32_t record, int res, uint32_t flags)
{
	struct u_zc *z = &s->zcs[record];

	if (flags & IORING_CQE_F_NOTIF) {
		record_over(u, s, z, (uint32_t)res & IORING_NOTIF_USAGE_ZC_COPIED);
	} else {
		if (kind == UD_LEAD)
			s->tx_lead_armed = false;
		else
			s->tx_armed = false;
		tx_result(u, s, kind, record, res);
		if (kind == UD_ZC) {
			z->sent = true;
			if (!(flags & IORING_CQE_F_MORE))
				record_over(u, s, z, true);
		}
	}
	records_retire(s);
	if (s->state != U_DYING)
		stream_wish(u, s, W_SEND);
}

/* Reports finished operations, with `all` also those that never will be. False: no room for more. */
bool tx_deliver(struct uring *u, struct u_stream *s, struct u_out *out, bool all)
{
	uint32_t end = all ? s->op_tail : s->op_done;

	for (; (int32_t)(end - s->op_head) > 0; s->op_head++) {
		const struct u_op *op = op_at(u, s, s->op_head);
		struct be_event *ev = out_add(out, BE_DONE, s);

		if (!ev)
			return false;
		ev->cookie = op->cookie;
		if ((int32_t)(s->op_head - s->op_done) >= 0)
			ev->err = s->down_err ? s->down_err : -EPIPE;
		if (op->message)
			s->arena_head = op->arena_end;
	}
	return true;
}

void tx_zc_choose(struct uring *u, struct u_stream *s, bool wanted)
{
	s->zc_forced = u->opts.zerocopy == URING_ZC_ON;
	s->zc = u->has_zc && (s->zc_forced || wanted);
	if (s->zc && !u->zc_streams) {
		u->zc_streams = true;
		sources_register(u);
	}
}

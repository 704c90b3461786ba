/* SPDX-License-Identifier: MIT */
/* A session's data streams at the listening end: accepting, fencing, telling that one was lost. */
#include "transport/session.h"

#include "base/log.h"
#include <string.h>

void session_flush_streams(struct session *s)
{
	bool left = false;

	if (!s->streams_due)
		return;
	for (uint32_t i = 0; i < s->n_streams; i++) {
		struct sstream *t = &s->streams[i];

		if (t->fence_due)
			t->fence_due = !session_send_small(s, MSG_STREAM_DOWN | WIRE_REPLY, t->fence_id, &wire_status,
							   &(struct msg_status){ 0 });
		if (t->lost_due)
			t->lost_due = !session_send_small(s, MSG_STREAM_LOST, 0, &wire_stream_down,
							  &(struct msg_stream_down){ i, t->lost_incarnation });
		left |= t->fence_due || t->lost_due;
	}
	s->streams_due = left;
}

static void stream_accept(struct session *s, uint32_t i)
{
	struct sstream *t = &s->streams[i];
	struct be_request *r = t->waiting;
	uint8_t reply[BE_PREAMBLE];

	session_put_ok(s, reply);
	t->waiting = NULL;
	if (amst_accept(s->amst, i, t->accept_incarnation, r, reply) < 0) {
		server_reject(s->srv, r, PRE_NOT_NOW);
		return;
	}
	t->state = SS_OPENING;
	s->live++;
	metric_add(&s->srv->counters.streams_now, 1);
}

void session_stream_close(struct session *s, uint32_t i)
{
	struct sstream *t = &s->streams[i];

	if (t->state != SS_OPENING && t->state != SS_UP)
		return;
	if (amst_stream_close(s->amst, i) == 0)
		t->state = SS_CLOSING;
}

void session_data_request(struct session *s, const struct preamble *p, struct be_request *r)
{
	struct sstream *t;

	if (!s->agreed || s->dying || s->resume || !s->ctl) {
		server_reject(s->srv, r, s->dying ? PRE_NO_SESSION : PRE_NOT_NOW);
		return;
	}
	if (p->stream >= s->n_streams) {
		server_reject(s->srv, r, PRE_BAD_STREAM);
		return;
	}
	t = &s->streams[p->stream];
	if (p->incarnation <= t->incarnation || t->waiting) {
		server_reject(s->srv, r, PRE_DUPLICATE);
		return;
	}
	t->incarnation = t->accept_incarnation = p->incarnation;
	t->waiting = r;
	if (t->state == SS_NONE)
		stream_accept(s, p->stream);
	else
		session_stream_close(s, p->stream);
}

void session_fence(struct session *s, uint32_t id, struct rcur *in)
{
	struct msg_stream_down m;
	struct sstream *t;

	wire_get(in, &wire_stream_down, &m);
	if (in->bad || !s->agreed || m.stream >= s->n_streams) {
		session_fail(s, "it fenced a stream that it does not have");
		return;
	}
	t = &s->streams[m.stream];
	if (t->waiting && m.incarnation >= t->accept_incarnation) {
		server_reject(s->srv, t->waiting, PRE_DUPLICATE);
		t->waiting = NULL;
	}
	/* A connection of this incarnation may still be on its way: it comes too late now. */
	if (m.incarnation > t->incarnation)
		t->incarnation = m.incarnation;
	t->fence_id = id;
	t->lost_due = false; /* it knows */
	if (t->state == SS_NONE) {
		amst_reclaim(s->amst, m.stream);
		t->fence_due = s->streams_due = true;
		session_flush_streams(s);
		return;
	}
	t->fenced = true;
	session_stream_close(s, m.stream);
}

void session_stream_down(struct session *s, uint32_t i, int err)
{
	struct sstream *t = &s->streams[i];
	bool asked = t->state == SS_CLOSING;

	if (t->state == SS_NONE)
		return;
	t->state = SS_NONE;
	s->live--;
	metric_add(&s->srv->counters.streams_now, -1ull);
	log_debug("%s: session %u: stream %u is down: %s", s->peer, s->slot, i, strerror(-err));
	if (t->fenced) {
		t->fenced = false;
		t->fence_due = s->streams_due = true;
		amst_reclaim(s->amst, i);
	} else if (!asked) {
		t->lost_due = s->streams_due = true;
		t->lost_incarnation = t->accept_incarnation;
	}
	if (t->waiting)
		stream_accept(s, i);
}

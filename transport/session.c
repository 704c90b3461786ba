/* SPDX-License-Identifier: MIT */
/*
 * A session's life at the listening end: its control stream, its data streams,
 * resuming, ending. What requests do is in session_req.c.
 *
 *   (free) ─session_start─► greeted ─HELLO─► agreed ◄─session_resume─ lost
 *      ▲                      │                │ └── control DOWN ──────▲ │
 *      │                      │ time-out       │ BYE, mistake            │ time-out
 *      └─ session_destroyed ◄─┴── session_end ◄┴─────────────────────────┘
 */
#include "transport/session.h"

#include "base/log.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOODBYE_TIME (2 * NS_PER_S) /* for the last words to be sent */
#define COOKIE_OTHER (1ull << 62)   /* sent, nothing to remember */
#define COOKIE_REPLY (1ull << 61)

static uint64_t now_of(const struct session *s)
{
	return clock_now(&s->srv->cfg.clock);
}

static uint64_t cookie_of(const struct session *s)
{
	return (uint64_t)s->generation << 16 | (s->slot + 1);
}

void session_put_ok(const struct session *s, uint8_t reply[BE_PREAMBLE])
{
	struct pre_reply r = { .version = WIRE_VERSION, .status = PRE_OK };

	memcpy(r.session, s->id, sizeof r.session);
	wire_put_reply(reply, &r);
}

/* ---- start and end ----------------------------------------------------------------------------- */

struct session *session_start(struct server *srv, const uint8_t id[16], struct be_request *r)
{
	uint8_t reply[BE_PREAMBLE];
	struct session *s = NULL;
	uint32_t slot, generation;
	struct be_info info;
	struct err e = { .why = "no memory" };
	int rc;

	for (slot = 0; slot < srv->slots && !s; slot++)
		if (!srv->sessions[slot].used)
			s = &srv->sessions[slot];
	if (!s)
		return NULL;
	slot = (uint32_t)(s - srv->sessions);
	generation = (s->generation + 1) & 0xffffff;
	pthread_mutex_lock(&srv->mu); /* others look whether it is visible */
	*s = (struct session){ .srv = srv, .slot = slot, .generation = generation, .used = true };
	pthread_mutex_unlock(&srv->mu);
	memcpy(s->id, id, sizeof s->id);
	s->opened_at = s->active_at = now_of(s);
	s->timeout_ns = srv->cfg.timeout_ns;
	s->reply = malloc(WIRE_CTL_MAX);
	if (!s->reply || jobs_open(&s->jobs, 1, !srv->cfg.manual, session_notify, srv, &e) < 0) {
		log_error("a connection is refused: %s", e.why);
		srv->cfg.ops->reject(srv->ctl, r, NULL);
		goto out;
	}
	session_put_ok(s, reply);
	rc = srv->cfg.ops->accept(srv->ctl, r, reply, 0, cookie_of(s), &s->ctl);
	if (rc < 0) {
		log_error("a connection is refused: %s", strerror(-rc));
		goto out;
	}
	s->last_ctl = s->ctl;
	s->ctl_open = 1;
	if (srv->cfg.ops->info(srv->ctl, s->ctl, &info) == 0) {
		addr_format(s->peer, sizeof s->peer, &info.peer);
		s->local = addr_is_loopback(&info.peer);
	}
	metric_add(&srv->counters.sessions_started, 1);
	metric_add(&srv->counters.sessions_now, 1);
	log_info("%s: session %u starts", s->peer, s->slot);
	return s;
out:
	jobs_close(s->jobs);
	free(s->reply);
	s->jobs = NULL;
	s->reply = NULL;
	s->used = false;
	return NULL;
}

/* From one place to the other under one lock: totals never go back. */
static void retire_counters(struct session *s)
{
	struct server *srv = s->srv;
	struct amst_counters ac;
	struct be_counters bc;

	pthread_mutex_lock(&srv->mu);
	if (s->visible) {
		amst_counters(s->amst, &ac, &bc);
		metrics_sum(amst_metrics, amst_metrics_n, &srv->ended_ac, &ac);
		metrics_sum(be_metrics, be_metrics_n, &srv->ended_bc, &bc);
	}
	s->visible = false;
	pthread_mutex_unlock(&srv->mu);
}

void session_destroy(struct session *s)
{
	retire_counters(s);
	amst_close(s->amst);
	s->amst = NULL;
	if (s->service)
		s->srv->cfg.service.ops->ended(s->srv->cfg.service.ctx, s->service);
	s->service = NULL;
	session_close_filters(s);
	session_drop_files(s);
	for (uint32_t i = 0; i < AMST_REGIONS_MAX; i++)
		hugebuf_free(&s->regions[i]);
	amst_rx_free(&s->rx);
	amst_tx_free(&s->tx);
}

void session_destroyed(struct session *s)
{
	struct server *srv = s->srv;

	server_regions_add(srv, -s->region_bytes);
	session_count_files(s);
	metric_add(&srv->counters.sessions_ended, 1);
	metric_add(&srv->counters.sessions_now, -1ull);
	jobs_close(s->jobs);
	free(s->streams);
	free(s->reply);
	s->jobs = NULL;
	s->streams = NULL;
	s->reply = NULL;
	s->used = false;
	log_info("%s: session %u has ended", s->peer, s->slot);
}

static void drop_frames(struct session *s)
{
	const struct be_ops *ops = s->srv->cfg.ops;

	if (s->frame)
		ops->release(s->srv->ctl, s->frame - 1);
	if (s->held_frame)
		ops->release(s->srv->ctl, s->held_frame - 1);
	s->frame = s->held_frame = 0;
}

void session_end(struct session *s, bool failed)
{
	struct server *srv = s->srv;

	if (s->dying)
		return;
	s->dying = true;
	s->dying_at = now_of(s);
	s->op = OP_NONE;
	if (failed)
		metric_add(&srv->counters.sessions_failed, 1);
	/* A running job may still read its frame. */
	if (!s->job_running)
		drop_frames(s);
	if (s->ctl)
		srv->cfg.ops->stream_close(srv->ctl, s->ctl, true);
	s->ctl = 0;
	if (s->resume)
		server_reject(srv, s->resume, PRE_NO_SESSION);
	s->resume = NULL;
	for (uint32_t i = 0; i < s->n_streams; i++) {
		if (s->streams[i].waiting)
			server_reject(srv, s->streams[i].waiting, PRE_NO_SESSION);
		s->streams[i].waiting = NULL;
	}
	metric_add(&srv->counters.streams_now, -(uint64_t)s->live);
	s->live = 0;
}

/* A dying session's memory goes in the job thread: joining workers and unmapping take their time. */
static void try_destroy(struct session *s)
{
	if (s->ctl_open && now_of(s) - s->dying_at > GOODBYE_TIME)
		s->srv->cfg.ops->stream_close(s->srv->ctl, s->last_ctl, false);
	if (s->destroyed || s->job_running || s->ctl_open)
		return;
	drop_frames(s);
	s->destroyed = session_job(s, session_destroy, session_destroyed);
}

void session_notify(void *srv)
{
	server_wake(srv);
}

bool session_job(struct session *s, void (*run)(struct session *), void (*done)(struct session *))
{
	s->job_run = run;
	s->job_done = done;
	s->job_running = true;
	if (jobs_add(s->jobs, (struct job){ .run = (void (*)(void *))run, .arg = s }))
		return true;
	s->job_running = false;
	return false;
}

void session_fail(struct session *s, const char *why)
{
	log_warn("%s: session %u is ended: %s", s->peer, s->slot, why);
	session_goodbye(s, why);
	session_end(s, true);
}

bool session_shed(struct server *srv)
{
	struct session *oldest = NULL;

	for (uint32_t i = 0; i < srv->slots; i++) {
		struct session *s = &srv->sessions[i];

		if (s->used && !s->agreed && !s->dying && !s->job_running && now_of(s) - s->opened_at >= SHED_AFTER &&
		    (!oldest || s->opened_at < oldest->opened_at))
			oldest = s;
	}
	if (!oldest)
		return false;
	session_fail(oldest, "it said nothing while others wait for its place");
	srv->cfg.ops->stream_close(srv->ctl, oldest->last_ctl, false);
	return true;
}

/* ---- answers ----------------------------------------------------------------------------------- */

/* Begins the answer to the request in progress; fields may follow, then session_reply_send. */
void session_reply(struct session *s, int status, const char *fmt, ...)
{
	struct msg_status m = { .status = status };
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(m.text, sizeof m.text, fmt, ap);
	va_end(ap);
	s->out = wcur_init(s->reply, WIRE_CTL_MAX);
	wire_put_head(&s->out, s->req.type | WIRE_REPLY, s->req.id);
	wire_put(&s->out, &wire_status, &m);
}

bool session_send_small(struct session *s, uint16_t type, uint32_t id, const struct wire_def *def, const void *fields)
{
	const struct be_ops *ops = s->srv->cfg.ops;
	uint8_t msg[WIRE_HEAD + WIRE_TEXT + 8];
	struct wcur w = wcur_init(msg, sizeof msg);
	uint32_t len;

	wire_put_head(&w, type, id);
	wire_put(&w, def, fields);
	len = (uint32_t)(w.p - msg);
	wire_seal(msg, len);
	return s->ctl &&
	       ops->send(s->srv->ctl, s->ctl,
			 &(struct be_msg){ .head = msg, .head_len = len, .cookie = COOKIE_OTHER | cookie_of(s) },
			 1) == 1;
}

void session_goodbye(struct session *s, const char *why)
{
	struct msg_goodbye m;

	snprintf(m.text, sizeof m.text, "%s", why);
	session_send_small(s, MSG_GOODBYE, 0, &wire_goodbye, &m);
}

bool session_probe(struct session *s)
{
	return session_send_small(s, MSG_STREAM_LOST, 0, &wire_stream_down, &(struct msg_stream_down){ UINT32_MAX, 0 });
}

static void flush(struct session *s)
{
	const struct be_ops *ops = s->srv->cfg.ops;

	/* That a stream was lost is told first: the client fences it before it goes on. */
	session_flush_streams(s);
	if (s->tx_failed_due)
		s->tx_failed_due = !session_send_small(s, MSG_PULL_FAILED, 0, &wire_pull_failed,
						       &(struct msg_pull_failed){ s->tx.id });
	if (!s->ctl || !s->reply_due || s->reply_flying || s->streams_due)
		return;
	if (ops->send(s->srv->ctl, s->ctl,
		      &(struct be_msg){
			      .body = s->reply, .body_len = s->reply_len, .cookie = COOKIE_REPLY | cookie_of(s) },
		      1) == 1) {
		s->reply_due = false;
		s->reply_flying = true;
	}
}

void session_reply_send(struct session *s)
{
	if (s->out.bad) {
		session_reply(s, -EMSGSIZE, "the answer does not fit a message: ask for less at a time");
	}
	s->reply_len = (uint32_t)(s->out.p - s->reply);
	wire_seal(s->reply, s->reply_len);
	s->reply_id = s->req.id;
	s->reply_due = true;
	s->active_at = now_of(s);
	s->op = OP_NONE;
	if (s->frame)
		s->srv->cfg.ops->release(s->srv->ctl, s->frame - 1);
	s->frame = 0;
	flush(s);
}

/* ---- resuming ---------------------------------------------------------------------------------- */

void session_resume(struct session *s, struct be_request *r)
{
	if (!s->agreed || s->dying || s->resume) {
		server_reject(s->srv, r, s->resume ? PRE_DUPLICATE : PRE_NO_SESSION);
		return;
	}
	s->resume = r;
	if (s->ctl)
		s->srv->cfg.ops->stream_close(s->srv->ctl, s->ctl, false);
	s->ctl = 0;
	if (!s->lost_at)
		s->lost_at = now_of(s);
	for (uint32_t i = 0; i < s->n_streams; i++) {
		if (s->streams[i].waiting)
			server_reject(s->srv, s->streams[i].waiting, PRE_DUPLICATE);
		s->streams[i].waiting = NULL;
		session_stream_close(s, i);
	}
}

static void try_resume(struct session *s)
{
	uint8_t reply[BE_PREAMBLE];
	struct be_request *r = s->resume;

	if (!r || s->live)
		return;
	for (uint32_t i = 0; i < s->n_streams; i++) {
		amst_reclaim(s->amst, i);
		s->streams[i].fence_due = s->streams[i].lost_due = s->streams[i].fenced = false;
	}
	session_put_ok(s, reply);
	s->resume = NULL;
	if (s->srv->cfg.ops->accept(s->srv->ctl, r, reply, 0, cookie_of(s), &s->ctl) < 0) {
		s->ctl = 0;
		return;
	}
	s->last_ctl = s->ctl;
	s->ctl_open++;
	s->tx_failed_due = s->tx_active && s->tx_ended && s->tx.status; /* it may have been lost */
	s->lost_at = 0;
	s->active_at = now_of(s);
	metric_add(&s->srv->counters.sessions_resumed, 1);
	log_info("%s: session %u resumes", s->peer, s->slot);
}

/* ---- control stream ---------------------------------------------------------------------------- */

static void take_request(struct session *s, const uint8_t *data, uint32_t len, uint32_t frame)
{
	wire_open(data, len, &s->in, &s->req);
	s->frame = frame + 1;
	s->active_at = now_of(s);
	session_request(s);
}

static void on_message(struct session *s, const struct be_event *ev)
{
	const struct be_ops *ops = s->srv->cfg.ops;
	struct rcur c;
	struct msg_head h;
	bool bad = wire_open(ev->data, ev->len, &c, &h) < 0;
	bool repeated = !bad && (s->op != OP_NONE ? h.id == s->req.id : s->reply_len && h.id == s->reply_id);

	if (s->dying || bad || h.type == MSG_STREAM_DOWN || repeated) {
		/* A damaged message costs the control stream; a client that means well resumes. */
		if (!s->dying && bad)
			ops->stream_close(s->srv->ctl, s->ctl, false);
		else if (!s->dying && h.type == MSG_STREAM_DOWN)
			session_fence(s, h.id, &c);
		else if (!s->dying && s->op == OP_NONE)
			s->reply_due = true; /* asked again after a resume: the answer is kept */
		ops->release(s->srv->ctl, ev->frame);
		return;
	}
	if (s->op == OP_NONE && !s->reply_flying && !s->reply_due) {
		take_request(s, ev->data, ev->len, ev->frame);
		return;
	}
	/* The answer before it is on its way, but its memory is not ours again yet. */
	if (s->op == OP_NONE && !s->held_frame) {
		s->held_frame = ev->frame + 1;
		s->held_data = ev->data;
		s->held_len = ev->len;
		return;
	}
	ops->release(s->srv->ctl, ev->frame);
	if (h.type == MSG_BYE) /* whoever gives up need not wait for the answer */
		session_end(s, false);
	else
		session_fail(s, "it sent a request before the last one was answered");
}

static void on_ctl_down(struct session *s)
{
	s->ctl = 0;
	if (s->bye || !s->agreed) {
		session_end(s, !s->bye);
		return;
	}
	log_info("%s: session %u lost its control connection", s->peer, s->slot);
	s->lost_at = now_of(s);
}

void session_ctl_event(struct session *s, const struct be_event *ev)
{
	if (ev->type == BE_DONE && ev->cookie & COOKIE_REPLY)
		s->reply_flying = false;
	if (ev->type == BE_DOWN)
		s->ctl_open--;
	/* An older control stream of the same session has nothing to say any more. */
	if (ev->stream != s->ctl) {
		if (ev->type == BE_MESSAGE)
			s->srv->cfg.ops->release(s->srv->ctl, ev->frame);
		return;
	}
	switch (ev->type) {
	case BE_MESSAGE:
		on_message(s, ev);
		break;
	case BE_DOWN:
		on_ctl_down(s);
		break;
	default:
		break;
	}
}

/* ---- the turn ---------------------------------------------------------------------------------- */

static bool job_events(struct session *s)
{
	struct job job;

	if (!jobs_done(s->jobs, &job))
		return false;
	s->job_running = false;
	if (!s->dying || s->destroyed)
		s->job_done(s);
	return true;
}

static bool amst_events(struct session *s)
{
	struct amst_event ev;
	bool any = false;

	if (s->destroyed || !s->agreed) /* the job thread closes or opens it */
		return false;
	if (s->srv->cfg.manual)
		any = amst_step(s->amst);
	while (amst_poll(s->amst, &ev)) {
		any = true;
		if (s->dying)
			continue;
		if (ev.type == AMST_STREAM_UP && s->streams[ev.stream].state == SS_OPENING)
			s->streams[ev.stream].state = SS_UP;
		else if (ev.type == AMST_STREAM_DOWN)
			session_stream_down(s, ev.stream, ev.err);
		else
			session_req_event(s, &ev);
	}
	return any;
}

/* For how long nobody has asked anything of the session and no chunk of it moved. */
static uint64_t idle_for(struct session *s, uint64_t now)
{
	struct amst_counters ac;
	struct be_counters bc;

	if (now - s->looked_at >= s->timeout_ns) {
		s->looked_at = now;
		amst_counters(s->amst, &ac, &bc);
		if (s->job_running || bc.rx_bytes + bc.tx_bytes != s->moved)
			s->active_at = now;
		s->moved = bc.rx_bytes + bc.tx_bytes;
	}
	return now - s->active_at;
}

static void check_time(struct session *s)
{
	uint64_t now = now_of(s);

	if (!s->agreed && now - s->opened_at > HELLO_TIMEOUT)
		session_fail(s, "it did not say hello in time");
	else if (s->lost_at && now - s->lost_at > s->timeout_ns)
		session_fail(s, "it lost its connection and did not come back in time; its part files are kept");
	else if (s->agreed && !s->lost_at && idle_for(s, now) > max_u64(IDLE_TIMEOUTS * s->timeout_ns, IDLE_LEAST))
		session_fail(s, "nothing was asked of it or moved in it for ten times its time-out");
}

bool session_turn(struct session *s)
{
	bool any = job_events(s);

	if (!s->used)
		return true;
	any |= amst_events(s);
	if (!s->dying)
		check_time(s);
	if (s->dying) {
		try_destroy(s);
		return any;
	}
	try_resume(s);
	session_req_turn(s);
	flush(s);
	if (s->held_frame && s->op == OP_NONE && !s->reply_flying && !s->reply_due) {
		uint32_t frame = s->held_frame - 1;

		s->held_frame = 0;
		take_request(s, s->held_data, s->held_len, frame);
		any = true;
	}
	if (!s->dying && s->bye && !s->reply_due && !s->reply_flying)
		session_end(s, false);
	return any;
}

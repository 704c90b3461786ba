/* SPDX-License-Identifier: MIT */
/*
 * A worker's loop: commands from the owner, events from the backend, chunks out.
 *
 * A stream's life, with the functions that move it:
 *
 *   none ─cmd_connect/cmd_accept─► opening ─BE_CONNECTED─► up ─stream_fail─► failing
 *    ▲                                └──────── BE_DOWN (on_down) ◄──┴───────────┘
 *    └── the owner is told; tx_reclaim frees the window once the peer's end is down too
 */
#include "transport/amst_impl.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#define TURN_EVENTS 64
#define IDLE_NS (500 * NS_PER_MS)

static const struct be_ops *ops_of(const struct worker *w)
{
	return w->a->cfg.ops;
}

void worker_event(struct worker *w, const struct amst_event *ev)
{
	/* Sized for two events per stream and one per command: the owner cannot cause more. */
	bool room = spsc_push(&w->evs, ev);

	assert(room);
	(void)room;
	w->told_events = true;
}

static void look_at_path(struct worker *w, struct wstream *s, struct be_info *info)
{
	if (!s->up || ops_of(w)->info(w->be, s->h, info) < 0)
		return;
	s->retransmits = info->retransmits;
	s->segments = info->segments;
	s->lost = info->retransmits - min_u64(info->spurious, info->retransmits);
}

static bool sending(const struct wstream *s)
{
	return s->up && !s->failing && !s->retiring;
}

void stream_fail(struct worker *w, struct wstream *s, int err)
{
	struct be_info info;

	if (!s->h || s->failing)
		return;
	look_at_path(w, s, &info);
	w->n_sending -= sending(s);
	s->failing = true;
	s->fail_err = err;
	ops_of(w)->stream_close(w->be, s->h, false);
}

/* ---- commands ---------------------------------------------------------------------------------- */

static void tell_down(struct worker *w, struct wstream *s, int err, const void *reply, uint32_t len)
{
	struct amst_event ev = {
		.type = AMST_STREAM_DOWN,
		.err = err,
		.stream = s->index,
		.incarnation = s->incarnation,
		.has_reply = reply && len,
	};

	if (ev.has_reply) {
		ev.reply_len = len < BE_PREAMBLE ? len : BE_PREAMBLE;
		memcpy(ev.reply, reply, ev.reply_len);
	}
	worker_event(w, &ev);
}

static void cmd_connect(struct worker *w, struct wstream *s, const struct wcmd *c)
{
	struct err e;
	int rc;

	assert(!s->h);
	/* The peer connects again only when its old end is down. */
	tx_reclaim(w, s);
	s->incarnation = c->incarnation;
	s->failing = s->retiring = false;
	s->fail_err = 0;
	rx_stream_reset(s);
	if (c->type == CMD_CONNECT)
		rc = ops_of(w)->connect(w->be, &c->addr, c->pre, w->a->cfg.domain, s->index, &s->h, &e);
	else
		rc = ops_of(w)->accept(w->be, c->ptr, c->pre, w->a->cfg.domain, s->index, &s->h);
	if (rc < 0) {
		s->h = 0;
		tell_down(w, s, rc, NULL, 0);
	}
}

static void cmd_region_add(struct worker *w, const struct wcmd *c)
{
	struct amst_event ev = { .type = AMST_REGION_ADDED, .id = c->id };
	struct err e;

	ev.err = ops_of(w)->region_add(w->be, w->a->cfg.domain, c->id, c->ptr, c->len, &ev.token, &e);
	if (!ev.err)
		w->regions[c->id] = (struct wregion){ .addr = c->ptr, .len = c->len };
	worker_event(w, &ev);
}

static bool region_try_drop(struct worker *w, uint32_t id)
{
	int rc = ops_of(w)->region_drop(w->be, w->a->cfg.domain, id);

	if (rc == -EBUSY)
		return false;
	w->regions[id] = (struct wregion){ 0 };
	worker_event(w, &(struct amst_event){ .type = AMST_REGION_DROPPED, .id = id });
	return true;
}

static void cmd_sample(struct worker *w)
{
	uint64_t retransmits = w->retransmits_gone, segments = w->segments_gone, lost = w->lost_gone;

	for (uint32_t i = 0; i < w->n_streams; i++) {
		struct wstream *s = &w->streams[i];

		s->path.up = s->up && !s->failing;
		s->path.bytes = s->acked_bytes;
		look_at_path(w, s, &s->path.info);
		retransmits += s->retransmits;
		segments += s->segments;
		lost += s->lost;
	}
	__atomic_store_n(&w->retransmits, retransmits, __ATOMIC_RELAXED);
	__atomic_store_n(&w->segments, segments, __ATOMIC_RELAXED);
	__atomic_store_n(&w->lost, lost, __ATOMIC_RELAXED);
	worker_event(w, &(struct amst_event){ .type = AMST_SAMPLED });
}

static void cmd_retire(struct worker *w, struct wstream *s)
{
	if (!s->h || s->failing || s->retiring)
		return;
	w->n_sending -= sending(s);
	s->retiring = true;
	w->n_retiring++;
	w->pump = true;
}

static void cmd_steer(struct worker *w, const struct be_steer *how)
{
	if (how->congestion[0])
		memcpy(w->steer.congestion, how->congestion, sizeof w->steer.congestion);
	w->steer.pacing_rate = how->pacing_rate ? how->pacing_rate : w->steer.pacing_rate;
	w->steer.send_buffer = how->send_buffer ? how->send_buffer : w->steer.send_buffer;
	for (uint32_t i = 0; i < w->n_streams; i++)
		if (w->streams[i].up && !w->streams[i].failing)
			ops_of(w)->steer(w->be, w->streams[i].h, how);
}

static void run_cmd(struct worker *w, const struct wcmd *c)
{
	struct wstream *s = &w->streams[c->stream / w->a->n];

	switch (c->type) {
	case CMD_CONNECT:
	case CMD_ACCEPT:
		cmd_connect(w, s, c);
		break;
	case CMD_CLOSE:
		stream_fail(w, s, -ECANCELED);
		break;
	case CMD_RETIRE:
		cmd_retire(w, s);
		break;
	case CMD_STEER:
		cmd_steer(w, &c->steer);
		break;
	case CMD_RECLAIM:
		tx_reclaim(w, s);
		break;
	case CMD_REGION_ADD:
		cmd_region_add(w, c);
		break;
	case CMD_REGION_DROP:
		w->regions[c->id].dropping = !region_try_drop(w, c->id);
		break;
	case CMD_SOURCE_ADD:
		if (ops_of(w)->source_add)
			ops_of(w)->source_add(w->be, c->ptr, c->len, NULL);
		break;
	case CMD_TX_START:
		w->tx = c->ptr;
		w->pump = true;
		break;
	case CMD_TX_END:
		if (w->tx && !w->tx_ending)
			tx_end(w);
		else if (!w->tx)
			worker_event(w, &(struct amst_event){ .type = AMST_TX_ENDED, .id = c->id });
		break;
	case CMD_RX_START:
		w->rx = c->ptr;
		worker_event(w, &(struct amst_event){ .type = AMST_RX_READY, .id = w->rx->id });
		break;
	case CMD_RX_END:
		w->rx = NULL;
		worker_event(w, &(struct amst_event){ .type = AMST_RX_ENDED, .id = c->id });
		break;
	case CMD_SAMPLE:
		cmd_sample(w);
		break;
	case CMD_STOP:
		w->stop = true;
		break;
	}
}

/* ---- backend events ---------------------------------------------------------------------------- */

static void on_connected(struct worker *w, struct wstream *s)
{
	struct be_info info = { 0 };

	if (s->failing)
		return;
	s->up = true;
	w->n_sending += sending(s);
	if (ops_of(w)->steer)
		ops_of(w)->steer(w->be, s->h, &w->steer);
	look_at_path(w, s, &info);
	w->rtt_ns = info.rtt_least_ns; /* how long the path is matters from the first chunk on */
	metric_add(&w->counters.streams_up, 1);
	worker_event(w,
		     &(struct amst_event){ .type = AMST_STREAM_UP, .stream = s->index, .incarnation = s->incarnation });
	w->pump = true;
}

static void on_down(struct worker *w, struct wstream *s, const struct be_event *ev)
{
	int err = s->failing && s->fail_err ? s->fail_err : ev->err;

	w->n_sending -= sending(s);
	w->n_retiring -= s->retiring;
	s->h = 0;
	s->up = s->retiring = false;
	w->retransmits_gone += s->retransmits;
	w->segments_gone += s->segments;
	w->lost_gone += s->lost;
	s->retransmits = s->segments = s->lost = 0;
	metric_add(&w->counters.streams_lost, 1);
	tx_stream_down(w, s);
	tell_down(w, s, err, ev->data, ev->len);
}

static void on_message(struct worker *w, struct wstream *s, const struct be_event *ev)
{
	struct rcur c;
	struct msg_head h;
	int rc;

	if (s->failing)
		return;
	rc = wire_open(ev->data, ev->len, &c, &h);
	if (rc < 0) {
		stream_fail(w, s, rc);
		return;
	}
	switch (h.type) {
	case MSG_CHUNK:
		rx_chunk(w, s, h.id, &c);
		break;
	case MSG_COMMIT:
		rx_commit(w, s, h.id, &c);
		break;
	case MSG_ACK:
		tx_ack(w, s, h.id, &c);
		break;
	default:
		stream_fail(w, s, -EPROTO);
	}
}

static void on_event(struct worker *w, const struct be_event *ev)
{
	struct wstream *s;
	uint32_t index;

	if (ev->type == BE_WOKEN) {
		w->pump = true;
		return;
	}
	/* An operation's cookie names its stream, too. */
	index = ev->type == BE_DONE ? COOKIE_STREAM(ev->cookie) : (uint32_t)ev->cookie;
	s = &w->streams[index / w->a->n];
	switch (ev->type) {
	case BE_CONNECTED:
		on_connected(w, s);
		break;
	case BE_DONE:
		tx_done(w, s, ev);
		rx_flush_acks(w, s);
		break;
	case BE_PLACED:
		if (!s->failing)
			rx_placed(w, s, ev);
		break;
	case BE_MESSAGE:
		on_message(w, s, ev);
		ops_of(w)->release(w->be, ev->frame);
		break;
	case BE_DOWN:
		on_down(w, s, ev);
		break;
	default:
		break;
	}
}

/* One turn without sleeping; true if anything happened. */
bool worker_turn(struct worker *w)
{
	struct be_event ev[TURN_EVENTS];
	struct wcmd c;
	bool any = false;
	int n;

	while (spsc_pop(&w->cmds, &c)) {
		run_cmd(w, &c);
		any = true;
	}
	n = ops_of(w)->poll(w->be, ev, TURN_EVENTS);
	for (int i = 0; i < n; i++)
		on_event(w, &ev[i]);
	if (w->at && clock_now(&w->a->cfg.clock) >= w->at)
		w->pump = true;
	if (w->pump) {
		w->pump = false;
		tx_pump_all(w);
		if (w->n_retiring)
			tx_retire(w);
	}
	if (w->tx_ending)
		tx_try_end(w);
	for (uint32_t i = 0; i < AMST_REGIONS_MAX; i++)
		if (w->regions[i].dropping)
			w->regions[i].dropping = !region_try_drop(w, i);
	if (w->told_events) {
		w->told_events = false;
		if (w->a->cfg.notify)
			w->a->cfg.notify(w->a->cfg.notify_ctx);
	}
	metric_add(&w->counters.turns, 1);
	return any || n > 0;
}

/* How long it may sleep. */
static uint64_t idle_ns(const struct worker *w)
{
	uint64_t now = w->at ? clock_now(&w->a->cfg.clock) : 0;

	return !w->at ? IDLE_NS : w->at <= now ? 1 : min_u64(w->at - now, IDLE_NS);
}

void *worker_main(void *arg)
{
	struct worker *w = arg;
	int cpu = w->a->cfg.cpus ? w->a->cfg.cpus[w->index] : -1;

	if (cpu >= 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		pthread_setaffinity_np(pthread_self(), sizeof set, &set);
	}
	while (!w->stop)
		if (!worker_turn(w) && !w->stop)
			ops_of(w)->wait(w->be, idle_ns(w));
	return NULL;
}

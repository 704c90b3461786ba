/* SPDX-License-Identifier: MIT */
/* Life of a stream: its queue pair, its events, its end. States are drawn in verbs_impl.h. */
#include "base/util.h"
#include "transport/verbs_impl.h"
#include <assert.h>
#include <errno.h>
#include <string.h>

/* --- names and lists --- */

int vs_find(struct verbs *u, be_stream name, struct v_stream **out)
{
	uint32_t index = name & 0xffff, generation = name >> 16;

	if (!generation || index >= u->n_streams)
		return -EINVAL;
	if (u->streams[index].generation != generation || u->streams[index].state == V_FREE)
		return -ENOTCONN;
	*out = &u->streams[index];
	return 0;
}

static struct v_stream **bucket(const struct verbs *u, uint32_t qpn)
{
	return &u->by_qpn[(qpn * 2654435761u >> 16) & u->qpn_mask];
}

struct v_stream *vs_by_qpn(const struct verbs *u, uint32_t qpn)
{
	struct v_stream *s = *bucket(u, qpn);

	while (s && s->qp->qp_num != qpn)
		s = s->qpn_next;
	return s;
}

static bool setting_up(enum v_state state)
{
	return state == V_RESOLVING || state == V_CONNECTING || state == V_ACCEPTING;
}

/* Keeps count of those that the connection manager's events matter for. */
void vs_state(struct v_stream *s, enum v_state state)
{
	struct verbs *u = s->u;

	u->n_setup += (uint32_t)setting_up(state) - (uint32_t)setting_up(s->state);
	u->n_dying += (uint32_t)(state == V_DYING) - (uint32_t)(s->state == V_DYING);
	s->state = state;
	s->heard_at = u->now;
}

/* --- events --- */

struct be_event *out_add(struct v_out *out, enum be_event_type type, const struct v_stream *s)
{
	struct be_event *ev;

	if (out->n == out->max)
		return NULL;
	ev = &out->ev[out->n++];
	*ev = (struct be_event){ .type = type };
	if (s) {
		ev->stream = vs_name(s);
		ev->cookie = s->cookie;
	}
	return ev;
}

/* Room that lasts until the next poll, so that an event outlives its stream. */
const void *event_keep(struct verbs *u, const void *data)
{
	assert(u->n_event_data < V_EVENT_DATA);
	return memcpy(u->event_data[u->n_event_data++], data, BE_PREAMBLE);
}

/* --- begin and end --- */

struct v_stream *vs_new(struct verbs *u, enum v_state state, uint32_t domain, uint64_t cookie)
{
	struct v_stream *s, old;

	if (!u->n_free_streams)
		return NULL;
	s = &u->streams[u->free_streams[--u->n_free_streams]];
	old = *s;
	memset(s, 0, sizeof *s);
	s->index = old.index;
	s->generation = (uint16_t)(old.generation + 1 ? old.generation + 1 : 1);
	if (!s->generation)
		s->generation = 1;
	s->u = u;
	u->now = clock_now(&u->clock);
	s->ready_queued = old.ready_queued;
	s->work_queued = old.work_queued;
	s->frame_queued = old.frame_queued;
	s->ready_next = old.ready_next;
	s->work_next = old.work_next;
	s->frame_next = old.frame_next;
	s->ops = old.ops;
	s->wrs = old.wrs;
	s->cells = old.cells;
	s->arena = old.arena;
	s->rx_frame = V_NONE;
	s->domain = domain;
	s->cookie = cookie;
	vs_state(s, state);
	s->deadline = u->now + u->opts.connection_timeout;
	return s;
}

static struct ibv_qp *create_qp(struct v_stream *s, uint32_t inline_bytes)
{
	struct verbs *u = s->u;
	struct ibv_qp_init_attr attr = {
		.qp_context = s,
		.send_cq = u->cq,
		.recv_cq = u->cq,
		.srq = s->dom->srq,
		.cap = { .max_send_wr = u->depth,
			 .max_send_sge = u->max_sge,
			 .max_recv_wr = s->dom->srq ? 0 : u->own,
			 .max_recv_sge =
				 s->dom->srq ? 0 : (uint32_t)min_u64(u->opts.max_recv_sge, (uint64_t)u->attr.max_sge),
			 .max_inline_data = inline_bytes },
		.qp_type = IBV_QPT_RC,
	};
	struct ibv_qp *qp = ibv_create_qp(s->dom->pd->pd, &attr);

	if (qp)
		u->inline_max = (uint32_t)min_u64(attr.cap.max_inline_data, inline_bytes);
	return qp;
}

/* Makes the queue pair and posts its first receive buffers; s->id is known. */
int vs_queue_pair(struct v_stream *s, struct err *e)
{
	struct verbs *u = s->u;
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT };
	struct ibv_port_attr port;
	int mask = 0, rc;

	s->dom = dom_get(u, s->id->verbs, s->domain, e);
	if (!s->dom)
		return e->code;
	if (u->opts.port && s->id->port_num != u->opts.port)
		return err_set(e, -ENODEV,
			       "the peer is reached over port %u of %s, not over port %u: change --rdma-port",
			       s->id->port_num, ibv_get_device_name(u->ctx->device), u->opts.port);
	s->qp = create_qp(s, (uint32_t)u->opts.send_inline_size);
	if (!s->qp && errno == EINVAL)
		s->qp = create_qp(s, 0); /* a device without inline data, or with less */
	if (!s->qp)
		return err_set(
			e, errno ? -errno : -ENOMEM,
			"%s: no queue pair (%s): use fewer --streams, a lower --queue-depth, or end what else uses the "
			"device (`rdma resource`)",
			ibv_get_device_name(u->ctx->device), strerror(errno));
	s->depth = u->depth;
	s->max_write = ibv_query_port(u->ctx, s->id->port_num, &port) ? V_SLOT
								      : (uint32_t)min_u64(port.max_msg_sz, V_PUT_MAX);
	s->qpn_next = *bucket(u, s->qp->qp_num);
	*bucket(u, s->qp->qp_num) = s;
	rc = rdma_init_qp_attr(s->id, &attr, &mask);
	/* Before there is a connection its manager grants nothing; after, reading too, which nobody is to do. */
	attr.qp_access_flags = IBV_ACCESS_REMOTE_WRITE;
	if (rc || ibv_modify_qp(s->qp, &attr, mask | IBV_QP_ACCESS_FLAGS))
		return err_set(e, errno ? -errno : -EIO, "%s: the queue pair cannot be set up: %s",
			       ibv_get_device_name(u->ctx->device), strerror(errno));
	rc = rx_open(s);
	return rc < 0 ? err_set(e, rc, "%s takes no receive buffers: %s", ibv_get_device_name(u->ctx->device),
				strerror(-rc))
		      : 0;
}

static void queue_pair_error(struct v_stream *s)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_ERR };

	if (s->qp)
		ibv_modify_qp(s->qp, &attr, IBV_QP_STATE);
}

/* Destroys the queue pair: from here on the device places nothing of it. Its last completions are taken first. */
static void queue_pair_end(struct v_stream *s)
{
	struct v_stream **at;
	uint32_t qpn;

	if (!s->qp)
		return;
	v_drain(s->u);
	qpn = s->qp->qp_num;
	at = bucket(s->u, qpn);
	while (*at != s)
		at = &(*at)->qpn_next;
	*at = s->qpn_next;
	ibv_destroy_qp(s->qp);
	s->qp = NULL;
}

void vs_free(struct v_stream *s)
{
	struct verbs *u = s->u;

	queue_pair_end(s);
	tx_drop(s);
	rx_drop(s);
	if (s->id)
		cm_end(u, s->id,
		       s->disconnected    ? V_ANSWERED
		       : s->mute          ? V_MUTE
		       : s->disconnecting ? V_ASKED
					  : V_ANSWERED);
	s->id = NULL;
	s->dom = NULL;
	vs_state(s, V_FREE);
	u->free_streams[u->n_free_streams++] = s->index;
}

/* A route goes some time before its port is down, and requests fail from then on: so no peer of this process, whose control
 * connection and workers are instances of their own, is told at once. */
static uint64_t lost_at;

static bool recently_lost(const struct verbs *u)
{
	uint64_t at = __atomic_load_n(&lost_at, __ATOMIC_RELAXED);

	return at && u->now < at + V_MUTE_TIME; /* another thread's may be later than our now */
}

void vs_die(struct v_stream *s, int err)
{
	enum v_state was = s->state;

	if (was == V_DYING || was == V_FREE)
		return;
	s->u->now = clock_now(&s->u->clock);
	s->down_err = err;
	s->connected_pending = false;
	s->rx_stuck = false;
	/* The peer ended in order while we did: it has taken everything before our BYE. */
	s->clean = was == V_CLOSING && s->bye_sent && (s->peer_bye || s->disconnected);
	vs_state(s, V_DYING);
	s->deadline = s->u->now + V_FLUSH_BOUND;
	if (s->qp && (was == V_OPEN || was == V_CLOSING || was == V_ACCEPTING || was == V_CONNECTING)) {
		queue_pair_error(s);
		/* A message of the manager's that has no route leaves soft-RoCE of Linux 6.1 without a manager for good;
		 * where the port is down none would arrive anyhow. */
		s->mute = (was != V_CONNECTING && recently_lost(s->u)) || !dev_port_up(s->id->verbs, s->id->port_num);
		s->disconnecting = !s->mute && rdma_disconnect(s->id) == 0;
	}
	vs_ready(s);
}

void vs_lost(struct v_stream *s, int err)
{
	if (s->state == V_DYING || s->state == V_FREE)
		return;
	s->u->now = clock_now(&s->u->clock);
	__atomic_store_n(&lost_at, s->u->now, __ATOMIC_RELAXED);
	vs_die(s, err);
}

void vs_protocol(struct v_stream *s, int err)
{
	if (s->state == V_DYING || s->state == V_FREE)
		return;
	metric_add(&s->u->be.counters.protocol_errors, 1);
	vs_die(s, err);
}

/* Everything that was in its send queue has come back, or the device takes too long. */
void vs_reap(struct v_stream *s)
{
	if (s->state != V_DYING || s->flushed)
		return;
	if (s->qp && s->wr_head != s->wr_tail && s->u->now < s->deadline)
		return;
	queue_pair_end(s);
	s->flushed = true;
	vs_ready(s);
}

/* --- delivery --- */

static bool deliver_down(struct v_stream *s, struct v_out *out)
{
	struct verbs *u = s->u;
	struct be_event *ev;

	if (!tx_deliver(s, out, true) || u->n_event_data == V_EVENT_DATA)
		return false;
	ev = out_add(out, BE_DOWN, s);
	if (!ev)
		return false;
	ev->err = s->down_err;
	if (s->down_data) {
		ev->data = event_keep(u, s->pre);
		ev->len = BE_PREAMBLE;
	}
	metric_add(&u->be.counters.streams_down, 1);
	vs_free(s);
	return true;
}

static bool deliver_connected(struct v_stream *s, struct v_out *out)
{
	struct verbs *u = s->u;
	struct be_event *ev;

	if (u->n_event_data == V_EVENT_DATA)
		return false;
	ev = out_add(out, BE_CONNECTED, s);
	if (!ev)
		return false;
	if (s->connected_data) {
		ev->data = event_keep(u, s->pre);
		ev->len = BE_PREAMBLE;
	}
	s->connected_pending = false;
	return true;
}

/* A graceful end: ours is over when the peer has taken everything, and has nothing more to say. */
static void check_end(struct v_stream *s)
{
	if (s->arrived.n)
		return;
	if (s->state == V_CLOSING && s->disconnected)
		vs_die(s, -ECANCELED);
	if (!s->peer_bye)
		return;
	if (s->assembly.open) /* in the middle of a message */
		vs_protocol(s, -EPROTO);
	if (s->state == V_OPEN)
		vs_die(s, 0);
	else if (s->state == V_CLOSING && s->bye_sent && tx_idle(s) && s->wr_head == s->wr_tail)
		vs_die(s, -ECANCELED);
}

static bool deliver(struct v_stream *s, struct v_out *out)
{
	if (s->connected_pending && !deliver_connected(s, out))
		return false;
	if (!tx_deliver(s, out, false))
		return false;
	if ((s->state == V_OPEN || s->state == V_CLOSING) && !rx_deliver(s, out))
		return false;
	if (s->state == V_OPEN || s->state == V_CLOSING)
		check_end(s);
	if (s->state == V_DYING && s->flushed)
		return deliver_down(s, out);
	return true;
}

void vs_deliver(struct v_stream *s, struct v_out *out)
{
	vs_reap(s);
	if (s->state != V_FREE && !deliver(s, out))
		vs_ready(s);
}

/* --- time --- */

static void check_progress(struct v_stream *s)
{
	const struct verbs_opts *o = &s->u->opts;
	uint64_t silent;

	if (!s->heard_at)
		s->heard_at = s->u->now;
	silent = s->u->now - s->heard_at;
	if (!tx_idle(s) && silent > o->idle_timeout)
		vs_lost(s, -ETIMEDOUT);
	else if (s->state == V_OPEN && o->keepalive_interval && s->wr_head == s->wr_tail &&
		 silent > o->keepalive_interval) {
		s->probe_due = true;
		vs_work(s);
	}
}

/* About every V_TICK. */
void vs_tick(struct v_stream *s)
{
	uint64_t now = s->u->now;

	if (setting_up(s->state) && now >= s->deadline)
		vs_lost(s, -ETIMEDOUT);
	else if (s->state == V_CLOSING && now >= s->deadline)
		vs_lost(s, -ECANCELED);
	else if (s->state == V_DYING)
		vs_reap(s);
	else if (s->state == V_OPEN || s->state == V_CLOSING)
		check_progress(s);
}

/* --- hooks --- */

void v_stream_close(struct be *be, be_stream name, bool graceful)
{
	struct verbs *u = verbs_of(be);
	struct v_stream *s;

	if (vs_find(u, name, &s) < 0 || s->state == V_DYING)
		return;
	if (!graceful || setting_up(s->state)) {
		vs_die(s, -ECANCELED);
		return;
	}
	if (s->state == V_CLOSING)
		return;
	u->now = clock_now(&u->clock);
	vs_state(s, V_CLOSING);
	s->deadline = u->now + u->opts.idle_timeout;
	s->bye_due = true;
	vs_work(s);
}

int v_info(struct be *be, be_stream name, struct be_info *out)
{
	struct v_stream *s;
	int r = vs_find(verbs_of(be), name, &s);

	if (r < 0)
		return r;
	*out = (struct be_info){
		.bytes_sent = s->bytes_sent, .bytes_received = s->bytes_received, .local = s->local, .peer = s->peer
	};
	return 0;
}

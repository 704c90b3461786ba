/* SPDX-License-Identifier: MIT */
/*
 * Connections, by the RDMA connection manager. Queue pairs are ours and not its (rdma_create_qp), so that their
 * attributes are, too. An event is copied and acknowledged at once: whoever migrates or destroys an identifier waits
 * for acknowledgements.
 */
#include "base/util.h"
#include "transport/verbs_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define REJECTED_NO_SERVICE 8 /* IBTA 12.6.7.2, table of reasons: invalid service ID */
#define REJECTED_CONSUMER 28
#define RESOLVE_MS 200

/* --- small parts --- */

void cm_addr_keep(struct be_addr *out, const struct sockaddr *sa)
{
	out->len = sa->sa_family == AF_INET6 ? sizeof out->in6 : sizeof out->in;
	memcpy(&out->ss, sa, out->len);
}

void cm_addresses(struct v_stream *s)
{
	cm_addr_keep(&s->local, rdma_get_local_addr(s->id));
	cm_addr_keep(&s->peer, rdma_get_peer_addr(s->id));
}

static uint32_t timeout_ms(const struct verbs *u)
{
	return (uint32_t)max_u64(u->opts.connection_timeout / NS_PER_MS, 1);
}

/* The code of 4.096 us x 2^n that is not shorter. */
static uint8_t ack_code(uint64_t ns)
{
	uint8_t n = 0;

	while (n < 31 && (4096ull << n) < ns)
		n++;
	return n;
}

/* Never more than the option allows; IBTA codes: 1 is 256 bytes. */
uint8_t cm_mtu(const struct verbs *u, uint8_t path)
{
	return u->opts.mtu && u->opts.mtu < path ? (uint8_t)u->opts.mtu : path;
}

uint8_t cm_path_mtu(struct v_stream *s)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_RTR };
	int mask;

	return rdma_init_qp_attr(s->id, &attr, &mask) ? 0 : (uint8_t)attr.path_mtu;
}

/* Ready to receive and to send; mtu: what both ends use. */
int cm_qp_start(struct v_stream *s, uint8_t mtu)
{
	const struct verbs_opts *o = &s->u->opts;
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_RTR };
	int mask;

	if (rdma_init_qp_attr(s->id, &attr, &mask))
		return -errno;
	attr.path_mtu = (enum ibv_mtu)mtu;
	attr.max_dest_rd_atomic = 1;
	if (ibv_modify_qp(s->qp, &attr, mask))
		return -errno;
	attr = (struct ibv_qp_attr){ .qp_state = IBV_QPS_RTS };
	if (rdma_init_qp_attr(s->id, &attr, &mask))
		return -errno;
	attr.max_rd_atomic = 1;
	attr.timeout = ack_code(o->ack_timeout);
	attr.retry_cnt = (uint8_t)o->retry_count;
	attr.rnr_retry = V_RNR_RETRIES;
	return ibv_modify_qp(s->qp, &attr, mask) ? -errno : 0;
}

static void set_class(struct v_stream *s)
{
	uint8_t tos = (uint8_t)s->u->opts.traffic_class;

	if (s->u->opts.traffic_class < 256)
		rdma_set_option(s->id, RDMA_OPTION_ID, RDMA_OPTION_ID_TOS, &tos, sizeof tos);
}

/* A certain device or port: it is said at once, and in so many words, that it is not there. */
bool cm_asked_for(const struct verbs_opts *o)
{
	return o->device[0] || o->port;
}

/* --- connecting --- */

/*
 * A neighbour whose answer comes before the kernel has queued the question (soft-RoCE over a veth pair does that, to
 * Linux 6.1) is seen only when the time is over: so it is asked in short steps, until the stream's deadline.
 */
static int resolve(struct v_stream *s, const struct be_addr *to)
{
	return rdma_resolve_addr(s->id, NULL, (struct sockaddr *)&to->sa, (int)min_u64(timeout_ms(s->u), RESOLVE_MS));
}

int v_connect(struct be *be, const struct be_addr *to, const void *pre, uint32_t domain, uint64_t cookie,
	      be_stream *out, struct err *e)
{
	struct verbs *u = verbs_of(be);
	struct ibv_context *ctx;
	struct v_stream *s;
	char name[64];
	int rc;

	if (!u->ctx && cm_asked_for(&u->opts)) {
		rc = dev_find(&u->opts, &ctx, e);
		if (rc < 0)
			return rc;
	}
	s = vs_new(u, V_RESOLVING, domain, cookie);
	if (!s)
		return err_set(e, -ENOSPC, "connect: all %u streams of this instance are in use", u->n_streams);
	memcpy(s->pre, pre, BE_PREAMBLE);
	if (rdma_create_id(u->cm, &s->id, s, RDMA_PS_TCP) || (set_class(s), resolve(s, to))) {
		rc = errno ? -errno : -EIO;
		vs_free(s);
		return err_set(e, rc,
			       "cannot connect to %s over RDMA: %s; check address and route, or use --backend=tcp",
			       addr_format(name, sizeof name, to), strerror(-rc));
	}
	s->peer = *to;
	metric_add(&be->counters.streams_opened, 1);
	*out = vs_name(s);
	return 0;
}

static void on_addr(struct v_stream *s)
{
	if (s->state == V_RESOLVING && rdma_resolve_route(s->id, (int)timeout_ms(s->u)))
		vs_die(s, errno ? -errno : -EHOSTUNREACH);
}

static void on_addr_error(struct v_stream *s, int err)
{
	if (s->state == V_RESOLVING && err == -ETIMEDOUT && clock_now(&s->u->clock) < s->deadline &&
	    resolve(s, &s->peer) == 0)
		return;
	vs_die(s, err);
}

static void on_route(struct v_stream *s)
{
	struct rdma_conn_param p = { .private_data = s->pre,
				     .private_data_len = BE_PREAMBLE,
				     .responder_resources = 1,
				     .initiator_depth = 1,
				     .retry_count = (uint8_t)s->u->opts.retry_count,
				     .rnr_retry_count = V_RNR_RETRIES };
	struct err e = { 0 };
	int rc;

	if (s->state != V_RESOLVING)
		return;
	rc = vs_queue_pair(s, &e);
	if (rc < 0) {
		v_warn_of(s->u, s->id, "the connection to", "fails", &e);
		vs_die(s, rc);
		return;
	}
	p.qp_num = s->qp->qp_num;
	p.srq = s->dom->srq != NULL;
	cm_addresses(s);
	vs_state(s, V_CONNECTING);
	if (rdma_connect(s->id, &p))
		vs_die(s, errno ? -errno : -EIO);
}

static void on_response(struct v_stream *s, const struct cm_event *ev)
{
	struct vgreet g;
	int rc;

	if (s->state != V_CONNECTING)
		return;
	if (ev->len < V_REPLY || vgreet_parse(ev->data + BE_PREAMBLE, VGREET, &g) < 0 || g.mtu > cm_path_mtu(s)) {
		vs_protocol(s, -EPROTO);
		return;
	}
	rc = cm_qp_start(s, g.mtu);
	if (rc == 0 && rdma_establish(s->id))
		rc = errno ? -errno : -EIO;
	if (rc < 0) {
		vs_die(s, rc);
		return;
	}
	memcpy(s->pre, ev->data, BE_PREAMBLE);
	s->peer_seg = g.seg;
	s->credits = g.credits;
	s->connected_pending = s->connected_data = true;
	s->hello_due = true;
	vs_state(s, V_OPEN);
	vs_work(s);
	vs_ready(s);
}

static void on_rejected(struct v_stream *s, const struct cm_event *ev)
{
	struct vgreet g;

	if (s->state != V_ACCEPTING && s->state != V_CONNECTING)
		return;
	s->disconnected = true;
	if (s->state == V_ACCEPTING) { /* whoever asked has gone meanwhile */
		vs_die(s, -ECONNRESET);
		return;
	}
	if (ev->status == REJECTED_CONSUMER && ev->len >= V_REPLY &&
	    vgreet_parse(ev->data + BE_PREAMBLE, VGREET, &g) == 0) {
		memcpy(s->pre, ev->data, BE_PREAMBLE);
		s->down_data = true;
		vs_die(s, -ECONNREFUSED);
		return;
	}
	vs_die(s, ev->status == REJECTED_NO_SERVICE ? -ECONNREFUSED : -ECONNRESET);
}

/* --- what became of a connection --- */

static bool in_error(struct v_stream *s)
{
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr;

	return ibv_query_qp(s->qp, &attr, IBV_QP_STATE, &init) == 0 && attr.qp_state == IBV_QPS_ERR;
}

static void on_disconnected(struct v_stream *s)
{
	v_drain(s->u); /* what arrived before it */
	s->disconnected = true;
	switch (s->state) {
	case V_CLOSING:
		if (s->arrived.n) /* it ends when they are taken */
			vs_ready(s);
		else
			vs_die(s, -ECANCELED);
		break;
	case V_OPEN:
		/* A queue pair that fell into error by itself did so over a request that it must not carry out. */
		if (in_error(s))
			vs_protocol(s, -EPROTO);
		else if (!s->peer_bye)
			vs_die(s, -ECONNRESET);
		else
			vs_ready(s);
		break;
	default:
		vs_die(s, -ECONNRESET);
	}
}

static int failure(const struct cm_event *ev, int otherwise)
{
	return ev->status < 0 && ev->status > -4096 ? ev->status : otherwise;
}

static void stream_event(struct v_stream *s, const struct cm_event *ev)
{
	switch (ev->type) {
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		on_addr(s);
		break;
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		on_route(s);
		break;
	case RDMA_CM_EVENT_CONNECT_RESPONSE:
		on_response(s, ev);
		break;
	case RDMA_CM_EVENT_REJECTED:
		on_rejected(s, ev);
		break;
	case RDMA_CM_EVENT_ADDR_ERROR:
		on_addr_error(s, failure(ev, -EHOSTUNREACH));
		break;
	case RDMA_CM_EVENT_ROUTE_ERROR:
		vs_die(s, failure(ev, -EHOSTUNREACH));
		break;
	case RDMA_CM_EVENT_UNREACHABLE:
		s->disconnected = true;
		vs_die(s, failure(ev, -ETIMEDOUT));
		break;
	case RDMA_CM_EVENT_CONNECT_ERROR:
		s->disconnected = true;
		vs_die(s, failure(ev, -ECONNABORTED));
		break;
	case RDMA_CM_EVENT_DISCONNECTED:
		on_disconnected(s);
		break;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		s->disconnected = true;
		vs_die(s, -ENODEV);
		break;
	default:
		break;
	}
}

/* --- identifiers of streams that are over --- */

#define ZOMBIE_TIME (3 * NS_PER_S)

static bool is_zombie(const struct rdma_cm_id *id)
{
	return (uintptr_t)id->context & 1;
}

static struct v_zombie *zombie_of(const struct rdma_cm_id *id)
{
	return (struct v_zombie *)((uintptr_t)id->context & ~(uintptr_t)1);
}

static void zombie_end(struct verbs *u, struct v_zombie *z)
{
	rdma_destroy_id(z->id);
	z->id = NULL;
	u->n_undead--;
}

/* A free place; who is not disconnected yet takes that of one who only waits for an answer. */
static struct v_zombie *zombie_place(struct verbs *u, enum v_left how)
{
	struct v_zombie *end = u->zombies + u->n_zombies, *z = u->zombies, *asked = NULL;

	for (; z < end && z->id; z++)
		if (!z->mute)
			asked = z;
	if (z < end)
		return z;
	if (how != V_MUTE || !asked)
		return NULL;
	zombie_end(u, asked);
	return asked;
}

void cm_end(struct verbs *u, struct rdma_cm_id *id, enum v_left how)
{
	struct v_zombie *z = how == V_ANSWERED ? NULL : zombie_place(u, how);

	if (!z) {
		rdma_destroy_id(id);
		return;
	}
	*z = (struct v_zombie){ .id = id,
				.mute = how == V_MUTE,
				.until = u->now + (how == V_MUTE ? V_MUTE_TIME : ZOMBIE_TIME) };
	u->n_undead++;
	id->context = (void *)((uintptr_t)z | 1);
}

static void zombie_tick(struct verbs *u, struct v_zombie *z)
{
	/* The end of an identifier may be a message, too. */
	if (u->now < z->until || !dev_port_up(z->id->verbs, z->id->port_num))
		return;
	if (!z->mute) {
		zombie_end(u, z);
		return;
	}
	z->mute = false;
	z->until = u->now + ZOMBIE_TIME;
	if (rdma_disconnect(z->id))
		zombie_end(u, z);
}

void cm_tick(struct verbs *u)
{
	for (uint32_t i = 0; u->n_undead && i < u->n_zombies; i++)
		if (u->zombies[i].id)
			zombie_tick(u, &u->zombies[i]);
}

bool cm_quiet(const struct verbs *u)
{
	return !u->n_undead;
}

bool cm_mute(const struct verbs *u)
{
	for (uint32_t i = 0; u->n_undead && i < u->n_zombies; i++)
		if (u->zombies[i].id && u->zombies[i].mute)
			return true;
	return false;
}

void cm_close(struct verbs *u)
{
	for (uint32_t i = 0; u->n_undead && i < u->n_zombies; i++)
		if (u->zombies[i].id)
			zombie_end(u, &u->zombies[i]);
	free(u->zombies);
}

/* --- events --- */

static bool next_event(struct verbs *u, struct cm_event *out)
{
	struct rdma_cm_event *ev;

	if (rdma_get_cm_event(u->cm, &ev))
		return false;
	*out = (struct cm_event){ .type = ev->event, .status = ev->status, .id = ev->id, .listener = ev->listen_id };
	if (ev->param.conn.private_data && ev->event != RDMA_CM_EVENT_DISCONNECTED) {
		out->len = min_u64(ev->param.conn.private_data_len, sizeof out->data);
		memcpy(out->data, ev->param.conn.private_data, out->len);
	}
	rdma_ack_cm_event(ev);
	return true;
}

/* Nobody waits for a disconnect's answer any more, or there is nothing to be disconnected. */
static bool is_last(enum rdma_cm_event_type type, const struct v_zombie *z)
{
	switch (type) {
	case RDMA_CM_EVENT_CONNECT_RESPONSE:
		/* It was given up while it connected: the peer is told by the end of it, later. */
		return !z->mute;
	case RDMA_CM_EVENT_DISCONNECTED:
	case RDMA_CM_EVENT_TIMEWAIT_EXIT:
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_REJECTED:
		return true;
	default:
		return false;
	}
}

void cm_events(struct verbs *u)
{
	struct cm_event ev;

	while (next_event(u, &ev)) {
		if (ev.type == RDMA_CM_EVENT_CONNECT_REQUEST) {
			request_new(u, &ev);
		} else if (is_zombie(ev.id)) {
			if (is_last(ev.type, zombie_of(ev.id)))
				zombie_end(u, zombie_of(ev.id));
		} else if (ev.id->context) {
			stream_event(ev.id->context, &ev);
		}
	}
}

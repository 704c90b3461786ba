/* SPDX-License-Identifier: MIT */
/* The listening end of connections: requests, and what becomes of them. */
#include "base/util.h"
#include "transport/verbs_impl.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BACKLOG 1024
#define TELL_AGAIN (10 * NS_PER_S)

/* --- listening --- */

int requests_open(struct verbs *u, struct err *e)
{
	u->n_requests = u->opts.pending_max;
	u->requests = calloc(u->n_requests, sizeof *u->requests);
	if (!u->requests)
		return err_set(e, -ENOMEM, "no memory for %u pending connections", u->n_requests);
	for (uint32_t i = 0; i < u->n_requests; i++) {
		u->requests[i].owner = u;
		u->requests[i].next = u->request_free;
		u->request_free = &u->requests[i];
	}
	return 0;
}

/* Back to its owner, from any thread. */
static void request_return(struct be_request *r)
{
	struct verbs *u = r->owner;
	struct be_request *head = atomic_load_explicit(&u->returned, memory_order_relaxed);

	r->id = NULL;
	do
		atomic_store_explicit(&r->returned_next, head, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(&u->returned, &head, r, memory_order_release,
						      memory_order_relaxed));
}

void requests_collect(struct verbs *u)
{
	struct be_request *r;

	if (!atomic_load_explicit(&u->returned, memory_order_relaxed))
		return;
	r = atomic_exchange_explicit(&u->returned, NULL, memory_order_acquire);
	while (r) {
		struct be_request *next = atomic_load_explicit(&r->returned_next, memory_order_relaxed);

		r->state = R_FREE;
		r->next = u->request_free;
		u->request_free = r;
		r = next;
	}
}

static void refuse(struct rdma_cm_id *id)
{
	rdma_reject(id, NULL, 0);
	rdma_destroy_id(id);
}

void request_new(struct verbs *u, const struct cm_event *ev)
{
	struct be_request *r;

	requests_collect(u);
	ev->id->context = NULL; /* its events mean nothing until a stream has it */
	r = u->request_free;
	if (!r || ev->len < BE_PREAMBLE) {
		refuse(ev->id);
		return;
	}
	u->request_free = r->next;
	r->state = R_OFFERED;
	r->id = ev->id;
	r->next = NULL;
	memcpy(r->preamble, ev->data, BE_PREAMBLE);
	if (u->incoming)
		u->incoming_tail->next = r;
	else
		u->incoming = r;
	u->incoming_tail = r;
}

void requests_deliver(struct verbs *u, struct v_out *out)
{
	while (u->incoming) {
		struct be_request *r = u->incoming;
		struct be_event *ev = out_add(out, BE_INCOMING, NULL);

		if (!ev)
			return;
		u->incoming = r->next;
		ev->request = r;
		ev->data = r->preamble;
		ev->len = BE_PREAMBLE;
	}
}

void requests_close(struct verbs *u)
{
	if (u->listener)
		rdma_destroy_id(u->listener);
	u->listener = NULL;
	requests_collect(u);
	for (uint32_t i = 0; u->requests && i < u->n_requests; i++)
		if (u->requests[i].state == R_OFFERED && u->requests[i].id)
			refuse(u->requests[i].id);
	free(u->requests);
	u->requests = NULL;
	u->n_requests = 0;
}

/* An address of one device's must be of the device that was asked for; one that stands for all is of none. */
static int listening_on(const struct verbs *u, const struct rdma_cm_id *id, const char *at, struct err *e)
{
	const char *device = u->opts.device;

	if (!id->verbs || dev_is(id->verbs, device))
		return 0;
	return err_set(e, -ENODEV, "%s is an address of RDMA device %s, not of %s: change --listen or --rdma-device",
		       at, ibv_get_device_name(id->verbs->device), device);
}

int v_listen(struct be *be, const struct be_addr *at, struct be_addr *bound, struct err *e)
{
	struct verbs *u = verbs_of(be);
	struct ibv_context *ctx;
	struct rdma_cm_id *id;
	char name[64];
	int r;

	if (u->listener)
		return err_set(e, -EBUSY, "this instance listens already; open another one");
	if (cm_asked_for(&u->opts)) {
		r = dev_find(&u->opts, &ctx, e);
		if (r < 0)
			return r;
	}
	addr_format(name, sizeof name, at);
	if (rdma_create_id(u->cm, &id, NULL, RDMA_PS_TCP))
		return err_set(e, errno ? -errno : -EIO, "cannot listen on %s over RDMA: %s", name, strerror(errno));
	if (rdma_bind_addr(id, (struct sockaddr *)&at->sa) || rdma_listen(id, BACKLOG)) {
		r = errno ? -errno : -EIO;
		err_set(e, r, "cannot listen on %s over RDMA: %s%s", name, strerror(-r),
			r == -EADDRINUSE                      ? "; choose another port or stop what listens there"
			: r == -EADDRNOTAVAIL || r == -ENODEV ? "; choose an address of an RDMA device (`rdma link`)"
			: r == -EACCES                        ? "; choose a port above 1023"
							      : "");
		rdma_destroy_id(id);
		return r;
	}
	r = listening_on(u, id, name, e);
	if (r < 0) {
		rdma_destroy_id(id);
		return r;
	}
	u->listener = id;
	if (bound) {
		uint16_t port = rdma_get_src_port(id);

		*bound = *at;
		if (at->sa.sa_family == AF_INET6)
			bound->in6.sin6_port = port;
		else
			bound->in.sin_port = port;
	}
	return 0;
}

/* --- accepting --- */

static int accept_on(struct v_stream *s, const void *reply, struct err *e)
{
	struct verbs *u = s->u;
	uint8_t data[V_REPLY];
	struct rdma_conn_param p = { .private_data = data,
				     .private_data_len = V_REPLY,
				     .responder_resources = 1,
				     .initiator_depth = 1,
				     .rnr_retry_count = V_RNR_RETRIES };
	struct vgreet g = { .seg = u->seg };
	int rc = vs_queue_pair(s, e);

	if (rc < 0)
		return rc;
	g.credits = (uint16_t)s->granted;
	g.mtu = cm_mtu(u, cm_path_mtu(s));
	s->owed = 0;
	memcpy(data, reply, BE_PREAMBLE);
	vgreet_put(data + BE_PREAMBLE, &g);
	p.qp_num = s->qp->qp_num;
	p.srq = s->dom->srq != NULL;
	cm_addresses(s);
	rc = cm_qp_start(s, g.mtu);
	if (rc == 0 && rdma_accept(s->id, &p))
		rc = errno ? -errno : -EIO;
	return rc < 0 ? err_set(e, rc, "%s: the queue pair cannot be connected: %s",
				ibv_get_device_name(u->ctx->device), strerror(-rc))
		      : 0;
}

/* Whoever is refused tries again, often many at a time: one line for all. what, became: "the connection to", "fails". */
void v_warn_of(struct verbs *u, struct rdma_cm_id *id, const char *what, const char *became, const struct err *e)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static uint64_t told_at, untold;
	uint64_t now = clock_now(&u->clock), more;
	char text[512], name[64], others[48] = "";
	struct be_addr peer;
	bool tell;

	pthread_mutex_lock(&lock);
	tell = !told_at || now - told_at >= TELL_AGAIN;
	more = untold;
	untold = tell ? 0 : untold + 1;
	told_at = tell ? now : told_at;
	pthread_mutex_unlock(&lock);
	if (!tell)
		return;
	if (more)
		snprintf(others, sizeof others, " (and %llu others before)", (unsigned long long)more);
	cm_addr_keep(&peer, rdma_get_peer_addr(id));
	snprintf(text, sizeof text, "%s %s over RDMA %s%s: %s", what, addr_format(name, sizeof name, &peer), became,
		 others, e->why);
	v_warn(text);
}

/* The peer only hears that it was refused. */
static void not_accepted(struct verbs *u, struct rdma_cm_id *id, const struct err *e)
{
	v_warn_of(u, id, "a connection from", "is refused", e);
}

int v_accept(struct be *be, struct be_request *r, const void *reply, uint32_t domain, uint64_t cookie, be_stream *out)
{
	struct verbs *u = verbs_of(be);
	struct rdma_cm_id *id = r->id;
	struct err e = { 0 };
	struct v_stream *s;

	request_return(r);
	s = vs_new(u, V_ACCEPTING, domain, cookie);
	if (!s) {
		err_set(&e, -ENOSPC, "all %u streams of this instance are in use", u->n_streams);
		not_accepted(u, id, &e);
		refuse(id);
		return e.code;
	}
	if (id->channel != u->cm && rdma_migrate_id(id, u->cm)) {
		err_set(&e, errno ? -errno : -EIO, "it cannot be handed to a worker: %s", strerror(errno));
		not_accepted(u, id, &e);
		refuse(id);
		vs_free(s);
		return e.code;
	}
	id->context = s;
	s->id = id;
	if (accept_on(s, reply, &e) < 0) {
		not_accepted(u, id, &e);
		rdma_reject(id, NULL, 0);
		vs_free(s);
		return e.code;
	}
	u->look = true;
	metric_add(&be->counters.streams_opened, 1);
	*out = vs_name(s);
	return 0;
}

void v_reject(struct be *be, struct be_request *r, const void *reply)
{
	struct rdma_cm_id *id = r->id;
	uint8_t data[V_REPLY];

	(void)be;
	request_return(r);
	if (!reply) {
		refuse(id);
		return;
	}
	memcpy(data, reply, BE_PREAMBLE);
	vgreet_put(data + BE_PREAMBLE,
		   &(struct vgreet){ .seg = VGREET_SEG_MIN, .credits = VGREET_CREDITS_MIN, .mtu = 1 });
	rdma_reject(id, data, V_REPLY);
	rdma_destroy_id(id);
}

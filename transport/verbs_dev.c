/* SPDX-License-Identifier: MIT */
/* Devices and protection domains of the process, and an instance's part of a device. */
#include "base/util.h"
#include "transport/verbs_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Everything of the process: never held across a call that registers memory or waits. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct v_pd *pds;
static struct verbs *instances;
static struct ibv_context *last_used; /* the device of the last connection */

/* Lists from rdma_get_devices keep their devices open, and are kept: instances are on them. */
static struct device_list {
	struct device_list *next;
	struct ibv_context **v;
	int n;
} * device_lists;

/* --- finding one --- */

bool dev_port_up(struct ibv_context *ctx, uint32_t port)
{
	struct ibv_port_attr p;

	return ibv_query_port(ctx, (uint8_t)port, &p) == 0 && p.state == IBV_PORT_ACTIVE;
}

static bool usable(struct ibv_context *ctx, uint32_t port)
{
	struct ibv_device_attr a;

	if (port)
		return dev_port_up(ctx, port);
	if (ibv_query_device(ctx, &a))
		return false;
	for (uint32_t i = 1; i <= a.phys_port_cnt; i++)
		if (dev_port_up(ctx, i))
			return true;
	return false;
}

bool dev_is(const struct ibv_context *ctx, const char *name)
{
	return !*name || !strcmp(ibv_get_device_name(ctx->device), name);
}

/* In the newest list; names: what there is, for errors. */
static struct ibv_context *pick(const char *name, uint32_t port, char *names, size_t cap)
{
	struct ibv_context *down = NULL;
	size_t used = 0;

	names[0] = 0;
	for (int i = 0; device_lists && i < device_lists->n; i++) {
		struct ibv_context *ctx = device_lists->v[i];
		int n = snprintf(names + used, cap - used, "%s%s", used ? ", " : "", ibv_get_device_name(ctx->device));

		used = n < 0 ? used : min_u64(used + (size_t)n, cap - 1);
		if (!dev_is(ctx, name))
			continue;
		if (usable(ctx, port))
			return ctx;
		down = ctx;
	}
	return down;
}

static int refresh(struct err *e)
{
	struct device_list *l = calloc(1, sizeof *l);
	int rc;

	if (!l)
		return err_set(e, -ENOMEM, "rdma: no memory");
	l->v = rdma_get_devices(&l->n);
	if (!l->v) {
		rc = errno ? -errno : -ENODEV;
		free(l);
		return err_set(e, rc,
			       "no RDMA device: load its driver, or make a software one over a network device: "
			       "`modprobe rdma_rxe; rdma link add rxe0 type rxe netdev eth0`");
	}
	l->next = device_lists;
	device_lists = l;
	return 0;
}

static int no_port(struct ibv_context *ctx, uint32_t port, struct err *e)
{
	const char *name = ibv_get_device_name(ctx->device);
	struct ibv_device_attr a;

	if (!port)
		return err_set(e, -ENETDOWN,
			       "no port of RDMA device %s is active: bring its network device up (see `rdma link`)",
			       name);
	if (ibv_query_device(ctx, &a) == 0 && port > a.phys_port_cnt)
		return err_set(e, -ENODEV, "RDMA device %s has no port %u, its last is %u: change --rdma-port", name,
			       port, a.phys_port_cnt);
	return err_set(e, -ENETDOWN,
		       "port %u of RDMA device %s is not active: bring its network device up (see `rdma link`), or "
		       "change --rdma-port",
		       port, name);
}

static int find_locked(const char *name, uint32_t port, struct ibv_context **out, struct err *e)
{
	char names[128];
	struct ibv_context *ctx = pick(name, port, names, sizeof names);
	int rc;

	if (!ctx || !usable(ctx, port)) {
		rc = refresh(e);
		if (rc < 0)
			return rc;
		ctx = pick(name, port, names, sizeof names);
	}
	if (!ctx && *name)
		return err_set(e, -ENODEV, "there is no RDMA device \"%s\" here, but %s: choose with --rdma-device",
			       name, names[0] ? names : "none");
	if (!ctx)
		return err_set(e, -ENODEV,
			       "no RDMA device: load its driver, or make a software one over a network device: "
			       "`modprobe rdma_rxe; rdma link add rxe0 type rxe netdev eth0`");
	if (!usable(ctx, port))
		return no_port(ctx, port, e);
	*out = ctx;
	return 0;
}

int dev_find(const struct verbs_opts *o, struct ibv_context **out, struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&lock);
	if (last_used && dev_is(last_used, o->device) && (!o->port || dev_port_up(last_used, o->port)))
		*out = last_used;
	else
		rc = find_locked(o->device, o->port, out, e);
	pthread_mutex_unlock(&lock);
	return rc;
}

int dev_probe(struct err *e)
{
	struct rdma_event_channel *ch;
	struct ibv_context *ctx;
	int n = 0, rc;
	struct ibv_device **list = ibv_get_device_list(&n);

	if (list)
		ibv_free_device_list(list);
	if (!list || !n)
		return err_set(e, -ENODEV,
			       "no RDMA device: load its driver, or make a software one over a network device: "
			       "`modprobe rdma_rxe; rdma link add rxe0 type rxe netdev eth0`");
	ch = rdma_create_event_channel();
	if (!ch)
		return err_set(e, -errno, "the RDMA connection manager cannot be used: %s; %s", strerror(errno),
			       errno == EACCES ? "give this user access to /dev/infiniband/rdma_cm"
					       : "`modprobe rdma_ucm`");
	rdma_destroy_event_channel(ch);
	pthread_mutex_lock(&lock);
	rc = find_locked("", 0, &ctx, e);
	pthread_mutex_unlock(&lock);
	return rc;
}

/* --- an instance and its device --- */

static int watch(struct verbs *u, int fd, enum v_fd what)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.u32 = what };
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || epoll_ctl(u->ep, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -errno;
	return 0;
}

/* How long send queues may be, so that no completion is ever lost: every work request may end with one. */
static int plan_queues(struct verbs *u, uint32_t *entries, struct err *e)
{
	uint64_t most = u->opts.completion_queue_size ? u->opts.completion_queue_size : UINT32_MAX;
	uint64_t receives = u->srq ? min_u64((uint64_t)u->n_streams * V_CREDITS_MOST, u->n_rbufs) : u->n_rbufs;
	uint64_t depth = min_u64(u->opts.queue_depth, (uint64_t)u->attr.max_qp_wr);

	most = min_u64(most, (uint64_t)u->attr.max_cqe);
	depth = most > receives ? min_u64(depth, (most - receives) / u->n_streams) : 0;
	if (depth < 4)
		return err_set(
			e, -ENOSPC,
			"%s: a completion queue of %llu entries is too short for %u streams: use more --workers, "
			"fewer --streams or a larger --completion-queue-size",
			ibv_get_device_name(u->ctx->device), (unsigned long long)most, u->n_streams);
	u->depth = (uint32_t)depth;
	*entries = (uint32_t)(receives + depth * u->n_streams);
	if (u->opts.completion_queue_size)
		*entries = (uint32_t)most;
	return 0;
}

/* Every stream has V_CREDITS buffers at least, and frames that are held take none of them away. */
static void plan_receives(struct verbs *u)
{
	bool can = u->attr.max_srq > 0 && u->attr.max_srq_wr > 0;
	uint64_t most = V_RECV_BUDGET / u->seg, least = (uint64_t)u->n_streams * V_CREDITS + u->n_frames;

	u->srq = can &&
		 (u->opts.srq == VERBS_SRQ_ON || (u->opts.srq == VERBS_SRQ_AUTO && u->n_streams >= V_SRQ_STREAMS));
	u->own = (uint32_t)min_u64(max_u64(most / u->n_streams, V_CREDITS), V_OWN_CREDITS);
	u->n_rbufs = u->n_streams * u->own + u->n_frames;
	if (u->srq)
		u->n_rbufs = (uint32_t)min_u64(max_u64(least, min_u64(most, least + 24ull * u->n_streams)),
					       (uint64_t)u->attr.max_srq_wr);
	u->max_sge = (uint32_t)min_u64(min_u64(u->opts.max_send_sge, V_SGE), max_u64((uint64_t)u->attr.max_sge, 1));
}

static int open_device(struct verbs *u, struct err *e)
{
	const char *name = ibv_get_device_name(u->ctx->device);
	uint32_t entries = 0;
	int rc;

	if (ibv_query_device(u->ctx, &u->attr))
		return err_set(e, -EIO, "%s does not answer: see `rdma link`", name);
	plan_receives(u);
	rc = plan_queues(u, &entries, e);
	if (rc < 0)
		return rc;
	u->comp = ibv_create_comp_channel(u->ctx);
	u->cq = u->comp ? ibv_create_cq(u->ctx, (int)entries, NULL, u->comp, 0) : NULL;
	if (!u->cq)
		return err_set(
			e, errno ? -errno : -ENOMEM,
			"%s: no completion queue of %u entries (%s): use fewer --streams, or end what else uses the "
			"device (`rdma resource`)",
			name, entries, strerror(errno));
	rc = watch(u, u->comp->fd, FD_COMP);
	if (rc == 0)
		rc = watch(u, u->ctx->async_fd, FD_ASYNC);
	return rc < 0 ? err_set(e, rc, "%s: cannot watch its events: %s", name, strerror(-rc)) : 0;
}

int dev_bind(struct verbs *u, struct ibv_context *ctx, struct err *e)
{
	int rc;

	if (u->ctx == ctx)
		return 0;
	if (u->ctx)
		return err_set(
			e, -EXDEV,
			"this worker is on RDMA device %s, the connection is over %s: choose one with --rdma-device",
			ibv_get_device_name(u->ctx->device), ibv_get_device_name(ctx->device));
	if (!dev_is(ctx, u->opts.device))
		return err_set(e, -ENODEV, "the peer is reached over RDMA device %s, not over %s: change --rdma-device",
			       ibv_get_device_name(ctx->device), u->opts.device);
	u->ctx = ctx;
	rc = open_device(u, e);
	if (rc < 0) {
		dev_unbind(u);
		return rc;
	}
	pthread_mutex_lock(&lock);
	last_used = ctx;
	pthread_mutex_unlock(&lock);
	return 0;
}

void dev_unbind(struct verbs *u)
{
	if (!u->ctx)
		return;
	if (u->cq) {
		ibv_ack_cq_events(u->cq, u->cq_events);
		ibv_destroy_cq(u->cq);
	}
	if (u->comp)
		ibv_destroy_comp_channel(u->comp);
	epoll_ctl(u->ep, EPOLL_CTL_DEL, u->ctx->async_fd, NULL);
	u->cq = NULL;
	u->comp = NULL;
	u->ctx = NULL;
	u->cq_events = 0;
}

/* --- asynchronous events: one queue per device and process, read by whichever instance looks first --- */

void dev_join(struct verbs *u)
{
	pthread_mutex_lock(&lock);
	u->next = instances;
	instances = u;
	pthread_mutex_unlock(&lock);
}

void dev_leave(struct verbs *u)
{
	struct verbs **at = &instances;

	pthread_mutex_lock(&lock);
	while (*at && *at != u)
		at = &(*at)->next;
	if (*at)
		*at = u->next;
	pthread_mutex_unlock(&lock);
}

static void tell(struct verbs *u, uint32_t what)
{
	uint64_t one = 1;

	atomic_fetch_or(&u->async, what);
	(void)!write(u->wake_fd, &one, sizeof one);
}

static void tell_all(const struct ibv_context *ctx, uint32_t what)
{
	for (struct verbs *u = instances; u; u = u->next)
		if (u->ctx == ctx)
			tell(u, what);
}

static void tell_stream(struct ibv_qp *qp, int err)
{
	struct v_stream *s = qp->qp_context;

	atomic_store(&s->async_err, err);
	tell(s->u, V_ASYNC_STREAM);
}

static void route(struct ibv_context *ctx, struct ibv_async_event *ev)
{
	switch (ev->event_type) {
	case IBV_EVENT_QP_ACCESS_ERR:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_LAST_WQE_REACHED: /* of a queue pair that went into error: the responder's finding */
		tell_stream(ev->element.qp, -EPROTO);
		break;
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_PATH_MIG_ERR:
		tell_stream(ev->element.qp, -EIO);
		break;
	case IBV_EVENT_PORT_ERR:
		/* It may be long ago: events wait in the device until an instance is on it. */
		if (!dev_port_up(ctx, (uint32_t)ev->element.port_num))
			tell_all(ctx, V_ASYNC_PORT);
		break;
	case IBV_EVENT_DEVICE_FATAL:
	case IBV_EVENT_CQ_ERR:
	case IBV_EVENT_SRQ_ERR:
		if (ev->event_type == IBV_EVENT_DEVICE_FATAL && last_used == ctx)
			last_used = NULL;
		tell_all(ctx, V_ASYNC_GONE);
		break;
	default:
		break;
	}
}

void dev_events(struct verbs *u)
{
	struct ibv_async_event ev;

	if (!u->ctx)
		return;
	pthread_mutex_lock(&lock);
	while (ibv_get_async_event(u->ctx, &ev) == 0) {
		route(u->ctx, &ev);
		ibv_ack_async_event(&ev);
	}
	pthread_mutex_unlock(&lock);
}

/* --- protection domains --- */

struct v_pd *pd_take(struct ibv_context *ctx, uint32_t domain, struct err *e)
{
	struct v_pd *p;

	pthread_mutex_lock(&lock);
	for (p = pds; p; p = p->next)
		if (p->ctx == ctx && p->domain == domain)
			break;
	if (p) {
		p->users++;
		goto out;
	}
	p = calloc(1, sizeof *p);
	if (p)
		p->pd = ibv_alloc_pd(ctx);
	if (!p || !p->pd) {
		err_set(e, errno ? -errno : -ENOMEM, "%s: no protection domain (%s): end what else uses the device",
			ibv_get_device_name(ctx->device), strerror(errno));
		free(p);
		p = NULL;
		goto out;
	}
	p->ctx = ctx;
	p->domain = domain;
	p->users = 1;
	p->next = pds;
	pds = p;
out:
	pthread_mutex_unlock(&lock);
	return p;
}

void pd_drop(struct v_pd *pd)
{
	struct v_pd **at = &pds;

	pthread_mutex_lock(&lock);
	if (!--pd->users) {
		while (*at != pd)
			at = &(*at)->next;
		*at = pd->next;
		ibv_dealloc_pd(pd->pd);
		free(pd);
	}
	pthread_mutex_unlock(&lock);
}

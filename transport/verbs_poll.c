/* SPDX-License-Identifier: MIT */
/* An instance as a whole: open, poll, wait, close; and what the shared object exports. */
#include "base/util.h"
#include "transport/verbs_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CLOSE_BOUND (700 * NS_PER_MS)
#define CLOSE_ANSWERS (50 * NS_PER_MS)
#define AWAY (4 * V_TICK) /* nobody polled: what was not heard meanwhile is not the peer's silence */

static const struct be_ops *table;
static void (*warn)(const char *text);

/* --- open --- */

static int check(const struct be_open *o, struct err *e)
{
	if (!o->streams || o->streams > V_STREAMS_MAX)
		return err_set(e, -EINVAL, "rdma: streams must be 1…%u, not %u", V_STREAMS_MAX, o->streams);
	if (!o->sends || o->sends > V_SENDS_MAX)
		return err_set(e, -EINVAL, "rdma: sends must be 1…%u, not %u", V_SENDS_MAX, o->sends);
	if (o->frame_bytes > V_FRAME_MAX)
		return err_set(e, -EINVAL, "rdma: frames of %u bytes are over the limit of %u", o->frame_bytes,
			       V_FRAME_MAX);
	return 0;
}

static int streams_open(struct verbs *u, const struct be_open *o, struct err *e)
{
	uint32_t buckets = 16, depth = pow2_up_u32(u->opts.queue_depth), slots = pow2_up_u32(o->sends);

	while (buckets < 2 * o->streams)
		buckets *= 2;
	u->n_streams = o->streams;
	u->n_sends = o->sends;
	u->op_mask = slots - 1;
	u->wr_mask = depth - 1;
	u->qpn_mask = buckets - 1;
	u->cells_bytes = (size_t)depth * V_CELL;
	u->tx_bytes = o->streams * (u->cells_bytes + V_ARENA) + (size_t)V_SLOTS * V_SLOT;
	u->tx_bytes = (u->tx_bytes + 4095) & ~(size_t)4095;
	u->streams = calloc(o->streams, sizeof *u->streams);
	u->free_streams = calloc(o->streams, sizeof *u->free_streams);
	u->op_store = calloc((size_t)o->streams * slots, sizeof *u->op_store);
	u->wr_store = calloc((size_t)o->streams * depth, sizeof *u->wr_store);
	u->n_zombies = 2 * o->streams;
	u->zombies = calloc(u->n_zombies, sizeof *u->zombies);
	u->by_qpn = calloc(buckets, sizeof(struct v_stream *));
	u->tx_store = aligned_alloc(4096, u->tx_bytes);
	if (!u->streams || !u->free_streams || !u->op_store || !u->wr_store || !u->zombies || !u->by_qpn ||
	    !u->tx_store)
		return err_set(e, -ENOMEM, "rdma: no memory for %u streams of %u sends", o->streams, o->sends);
	memset(u->tx_store, 0, u->tx_bytes);
	for (uint32_t i = 0; i < o->streams; i++) {
		struct v_stream *s = &u->streams[i];

		s->index = i;
		s->u = u;
		s->ops = u->op_store + (size_t)i * slots;
		s->wrs = u->wr_store + (size_t)i * depth;
		s->arena = u->tx_store + (size_t)i * (V_ARENA + u->cells_bytes);
		s->cells = s->arena + V_ARENA;
		u->free_streams[o->streams - 1 - i] = i;
	}
	u->n_free_streams = o->streams;
	u->slots = u->tx_store + o->streams * (V_ARENA + u->cells_bytes);
	for (uint32_t i = 0; i < V_SLOTS; i++)
		u->free_slots[u->n_free_slots++] = i;
	return 0;
}

/* How large a segment is: so that every stream's receive buffers and those that callers may hold fit the budget. */
static uint32_t segment_size(const struct be_open *o)
{
	uint64_t each = V_RECV_BUDGET / ((uint64_t)o->streams * V_CREDITS + o->frames);
	uint32_t seg = 4096;

	while (2 * seg <= each && seg < o->frame_bytes && seg < 32768)
		seg *= 2;
	return seg;
}

static int frames_open(struct verbs *u, const struct be_open *o, struct err *e)
{
	uint32_t stride = (o->frame_bytes + CACHE_LINE - 1) & ~(uint32_t)(CACHE_LINE - 1);
	uint32_t n = o->frames ? o->frames : 1;

	u->seg = segment_size(o);
	u->stride = u->seg + V_RECV_LEAD;
	u->frame_bytes = o->frame_bytes;
	u->frame_stride = stride ? stride : CACHE_LINE;
	u->n_frames = o->frames;
	u->frame_store = aligned_alloc(CACHE_LINE, (size_t)n * u->frame_stride);
	u->free_frames = calloc(n, sizeof *u->free_frames);
	u->frames = calloc(n, sizeof *u->frames);
	u->regions = calloc(o->regions ? o->regions : 1, sizeof *u->regions);
	u->n_regions = o->regions;
	if (!u->frame_store || !u->free_frames || !u->frames || !u->regions)
		return err_set(e, -ENOMEM, "rdma: no memory for %u frames of %u bytes", o->frames, o->frame_bytes);
	for (uint32_t i = 0; i < o->frames; i++)
		u->free_frames[i] = o->frames - 1 - i;
	u->n_free_frames = o->frames;
	return 0;
}

static int watch(struct verbs *u, int fd, uint32_t what)
{
	return epoll_ctl(u->ep, EPOLL_CTL_ADD, fd, &(struct epoll_event){ .events = EPOLLIN, .data.u32 = what });
}

static int channels_open(struct verbs *u, struct err *e)
{
	u->ep = epoll_create1(EPOLL_CLOEXEC);
	u->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->ep < 0 || u->wake_fd < 0 || watch(u, u->wake_fd, FD_WAKE) < 0)
		return err_set(e, -errno, "rdma: no descriptors (%s): raise the limit (`ulimit -n`)", strerror(errno));
	u->cm = rdma_create_event_channel();
	if (!u->cm)
		return err_set(e, errno ? -errno : -ENODEV,
			       "the RDMA connection manager cannot be used: %s; `modprobe rdma_ucm`", strerror(errno));
	if (fcntl(u->cm->fd, F_SETFL, fcntl(u->cm->fd, F_GETFL) | O_NONBLOCK) < 0 || watch(u, u->cm->fd, FD_CM) < 0)
		return err_set(e, -errno, "rdma: cannot watch the connection manager: %s", strerror(errno));
	return 0;
}

/* Everything that open took, in any state of it. */
static void free_all(struct verbs *u)
{
	cm_close(u);
	requests_close(u);
	regions_close(u);
	for (uint32_t i = 0; i < V_DOMAINS; i++)
		if (u->doms[i])
			dom_close(u, u->doms[i]);
	dev_unbind(u);
	if (u->cm)
		rdma_destroy_event_channel(u->cm);
	if (u->wake_fd >= 0)
		close(u->wake_fd);
	if (u->ep >= 0)
		close(u->ep);
	free(u->frames);
	free(u->free_frames);
	free(u->frame_store);
	free(u->tx_store);
	free(u->by_qpn);
	free(u->wr_store);
	free(u->op_store);
	free(u->free_streams);
	free(u->streams);
	free(u);
}

static int v_open(const struct be_open *o, struct be **out, struct err *e)
{
	struct verbs *u;
	int r = check(o, e);

	if (r < 0)
		return r;
	u = calloc(1, sizeof *u);
	if (!u)
		return err_set(e, -ENOMEM, "rdma: no memory");
	u->be.ops = table;
	u->ep = u->wake_fd = -1;
	u->clock = o->clock.now ? o->clock : clock_mono;
	u->opts = *(const struct verbs_opts *)o->opts;
	u->now = clock_now(&u->clock);
	if ((r = streams_open(u, o, e)) < 0 || (r = frames_open(u, o, e)) < 0 || (r = requests_open(u, e)) < 0 ||
	    (r = channels_open(u, e)) < 0) {
		free_all(u);
		return r;
	}
	dev_join(u);
	*out = &u->be;
	return 0;
}

/* --- close --- */

static void look(struct verbs *u);

/* Until every queue pair is flushed; and a little for peers to answer, which they need not do. */
static bool closed(struct verbs *u, uint64_t answers)
{
	bool left = false;

	u->now = clock_now(&u->clock);
	v_drain(u);
	look(u);
	cm_tick(u);
	for (uint32_t i = 0; i < u->n_streams; i++) {
		vs_reap(&u->streams[i]);
		left |= u->streams[i].state == V_DYING && !u->streams[i].flushed;
	}
	for (uint32_t i = 0; !left && i < u->n_streams; i++)
		if (u->streams[i].state != V_FREE)
			vs_free(&u->streams[i]);
	return !left && (cm_quiet(u) || (u->now > answers && !cm_mute(u)));
}

static void v_close(struct be *be)
{
	struct verbs *u = verbs_of(be);
	uint64_t begun = clock_now(&u->clock), end = begun + CLOSE_BOUND;

	u->closing = true;
	for (uint32_t i = 0; i < u->n_streams; i++)
		vs_die(&u->streams[i], -ECANCELED);
	while (!closed(u, begun + CLOSE_ANSWERS) && u->now < end)
		sched_yield();
	for (uint32_t i = 0; i < u->n_streams; i++)
		if (u->streams[i].state != V_FREE)
			vs_free(&u->streams[i]);
	dev_leave(u);
	free_all(u);
}

/* --- poll --- */

uint32_t v_drain(struct verbs *u)
{
	struct ibv_wc wc[V_POLL];
	uint32_t total = 0;
	int n;

	if (!u->cq)
		return 0;
	do {
		n = ibv_poll_cq(u->cq, V_POLL, wc);
		for (int i = 0; i < n; i++) {
			uint64_t id = wc[i].wr_id;
			struct v_stream *s = &u->streams[id >> 48 & 0x7fff];

			if (id & WR_RECV)
				rx_completion(u, &wc[i]);
			else if (s->generation == (uint16_t)(id >> 32) && s->state != V_FREE)
				tx_completion(s, &wc[i]);
		}
		total += n > 0 ? (uint32_t)n : 0;
	} while (n == V_POLL);
	return total;
}

/* What the device said of streams, of ports, of itself. */
static void take_async(struct verbs *u)
{
	uint32_t what = atomic_exchange(&u->async, 0);

	for (uint32_t i = 0; what && i < u->n_streams; i++) {
		struct v_stream *s = &u->streams[i];
		int err = atomic_exchange(&s->async_err, 0);

		if (s->state == V_FREE || s->state == V_DYING)
			continue;
		if (what & V_ASYNC_GONE)
			vs_die(s, -ENODEV);
		else if (what & V_ASYNC_PORT)
			vs_lost(s, -ENETDOWN);
		else if (err == -EPROTO)
			vs_protocol(s, err);
		else if (err)
			vs_lost(s, err);
	}
}

static void look(struct verbs *u)
{
	struct epoll_event ev[8];
	uint64_t count;
	int n = epoll_wait(u->ep, ev, 8, 0);

	u->look = false;
	u->looked_at = u->now;
	for (int i = 0; i < n; i++) {
		if (ev[i].data.u32 == FD_CM)
			cm_events(u);
		else if (ev[i].data.u32 == FD_ASYNC)
			dev_events(u);
		else if (ev[i].data.u32 == FD_WAKE)
			(void)!read(u->wake_fd, &count, sizeof count);
		else if (ev[i].data.u32 == FD_COMP) {
			struct ibv_cq *cq;
			void *ctx;

			while (ibv_get_cq_event(u->comp, &cq, &ctx) == 0)
				u->cq_events++;
			u->armed = false;
		}
	}
}

static void tick(struct verbs *u)
{
	bool away;

	if (u->now - u->ticked_at < (u->n_dying ? NS_PER_MS : V_TICK))
		return;
	away = u->now - u->ticked_at > AWAY;
	u->ticked_at = u->now;
	cm_tick(u);
	for (uint32_t i = 0; i < u->n_streams; i++) {
		if (away)
			u->streams[i].heard_at = 0;
		if (u->streams[i].state != V_FREE)
			vs_tick(&u->streams[i]);
	}
}

/* Moves everything that needs no room for events. */
static void step(struct verbs *u)
{
	/* Polls without a pause between them need no clock each: nothing here is about microseconds. */
	if (u->look || !(u->polls++ & 7))
		u->now = clock_now(&u->clock);
	if (u->work.head)
		v_flush(u);
	v_drain(u);
	if (u->look || u->n_setup || u->now - u->looked_at >= V_CM_LOOK)
		look(u);
	if (atomic_load_explicit(&u->async, memory_order_relaxed))
		take_async(u);
	tick(u);
	v_flush(u);
}

int v_poll(struct be *be, struct be_event *ev, int max)
{
	struct verbs *u = verbs_of(be);
	struct v_out out = { .ev = ev, .max = max };

	u->n_event_data = 0;
	requests_collect(u);
	step(u);
	if (max > 0 && atomic_load_explicit(&u->woken, memory_order_relaxed) && atomic_exchange(&u->woken, false))
		out_add(&out, BE_WOKEN, NULL);
	requests_deliver(u, &out);
	while (u->ready.head && out.n < out.max && u->n_event_data < V_EVENT_DATA) {
		struct v_stream *s = u->ready.head;

		u->ready.head = s->ready_next;
		s->ready_queued = false;
		vs_deliver(s, &out);
	}
	return out.n;
}

/* --- wait --- */

static bool busy(const struct verbs *u)
{
	return u->ready.head || u->incoming || atomic_load(&u->woken) || atomic_load(&u->async);
}

/* Asks for the next completion's event; one that came just before is seen by looking once more. */
static bool arm(struct verbs *u)
{
	if (!u->cq || u->armed)
		return true;
	if (ibv_req_notify_cq(u->cq, 0))
		return false;
	u->armed = true;
	metric_add(&u->be.counters.syscalls, 1);
	return v_drain(u) == 0;
}

static uint64_t next_look(const struct verbs *u, uint64_t timeout_ns)
{
	if (u->n_dying)
		return min_u64(timeout_ns, NS_PER_MS);
	return u->n_free_streams < u->n_streams || u->n_undead ? min_u64(timeout_ns, V_TICK) : timeout_ns;
}

int v_wait_fd(struct be *be, uint64_t *timeout_ns)
{
	struct verbs *u = verbs_of(be);
	uint64_t spin = clock_now(&u->clock) + u->opts.busy_poll;

	do {
		step(u);
		if (busy(u))
			return -EAGAIN;
	} while (u->opts.busy_poll && u->now < spin);
	if (!arm(u) || busy(u))
		return -EAGAIN;
	*timeout_ns = next_look(u, *timeout_ns);
	metric_add(&u->be.counters.syscalls, 1);
	u->look = true;
	return u->ep;
}

void v_wait(struct be *be, uint64_t timeout_ns)
{
	struct epoll_event ev;
	int ep = v_wait_fd(be, &timeout_ns);

	if (ep >= 0)
		epoll_wait(ep, &ev, 1, (int)min_u64(div_up_u64(timeout_ns, NS_PER_MS), 1u << 30));
}

void v_wake(struct be *be)
{
	struct verbs *u = verbs_of(be);
	uint64_t one = 1;

	if (!atomic_exchange(&u->woken, true))
		(void)!write(u->wake_fd, &one, sizeof one);
}

/* --- what is exported --- */

static const struct be_ops hooks = {
	.probe = dev_probe,
	.open = v_open,
	.close = v_close,
	.listen = v_listen,
	.connect = v_connect,
	.accept = v_accept,
	.reject = v_reject,
	.stream_close = v_stream_close,
	.region_add = v_region_add,
	.region_drop = v_region_drop,
	.source_add = v_source_add,
	.source_drop = v_source_drop,
	.send = v_send,
	.put = v_put,
	.poll = v_poll,
	.release = v_release,
	.wait = v_wait,
	.wait_fd = v_wait_fd,
	.wake = v_wake,
	.info = v_info,
};

static void attach(const struct be_ops *as, void (*to)(const char *text))
{
	table = as;
	warn = to;
}

void v_warn(const char *text)
{
	if (warn)
		warn(text);
}

extern const struct verbs_plugin dwcp_verbs_plugin;
__attribute__((visibility("default"))) const struct verbs_plugin dwcp_verbs_plugin = {
	.abi = VERBS_PLUGIN_ABI,
	.sizes = VERBS_PLUGIN_SIZES,
	.hooks = &hooks,
	.attach = attach,
};

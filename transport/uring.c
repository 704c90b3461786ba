/* SPDX-License-Identifier: MIT */
#include "transport/uring.h"
#include "base/util.h"
#include "transport/uring_impl.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLOSE_BOUND (800 * NS_PER_MS)
#define CLOSE_STEP (20 * NS_PER_MS)
#define CQ_ENTRIES_MAX 32768

#define FIELD(f) offsetof(struct uring_opts, f)

static const char *const zerocopy_names[] = { "auto", "on", "off", NULL };
static const char *const mode_names[] = { "auto", "basic", NULL };

static const struct opt options[] = {
	{ "congestion", "congestion_algorithm", 0, OPT_STR, FIELD(congestion), "auto", 0, 16, false, NULL, NULL, "name",
	  "congestion control; auto: cubic on this host, else the system's default" },
	{ "pacing-enabled", NULL, 0, OPT_BOOL, FIELD(pacing_enabled), "false", 0, 0, false, NULL, NULL, NULL,
	  "limit the rate of every stream to pacing-rate" },
	{ "pacing-rate", NULL, 0, OPT_RATE, FIELD(pacing_rate), "1Gbps", 8000, 0, false, NULL, NULL, NULL,
	  "rate of one stream, when pacing is enabled" },
	{ "send-buffer-size", NULL, 0, OPT_SIZE, FIELD(send_buffer_size), "auto", 4096, 1 << 30, true, NULL, NULL, NULL,
	  "socket send buffer; auto, or more than this user may have: the kernel's tuning" },
	{ "recv-buffer-size", NULL, 0, OPT_SIZE, FIELD(recv_buffer_size), "auto", 4096, 1 << 30, true, NULL, NULL, NULL,
	  "socket receive buffer; auto, or more than this user may have: the kernel's tuning" },
	{ "keepalive-interval", NULL, 0, OPT_TIME, FIELD(keepalive_interval), "60s", 0, 9 * 3600 * NS_PER_S, false,
	  NULL, NULL, NULL, "silence after which the peer is probed; 0: never" },
	{ "connection-timeout", NULL, 0, OPT_TIME, FIELD(connection_timeout), "30s", NS_PER_MS, 3600 * NS_PER_S, false,
	  NULL, NULL, NULL, "longest wait for a connection and the peer's answer" },
	{ "idle-timeout", NULL, 0, OPT_TIME, FIELD(idle_timeout), "20s", 0, 24 * 3600 * NS_PER_S, false, NULL, NULL,
	  NULL,
	  "longest wait for the peer to take sent bytes, also while it is alive and its disk is not; keep it below "
	  "the transfer's timeout; 0: the kernel's" },
	{ "nodelay", NULL, 0, OPT_BOOL, FIELD(nodelay), "true", 0, 0, false, NULL, NULL, NULL,
	  "send small messages at once" },
	{ "zerocopy", NULL, 0, OPT_ENUM, FIELD(zerocopy), "auto", 0, 0, false, NULL, zerocopy_names, NULL,
	  "zero-copy send; auto: to other hosts less than 2 ms away, until the kernel reports copies" },
	{ "zerocopy-threshold", NULL, 0, OPT_SIZE, FIELD(zerocopy_threshold), "32KB", 1, 1 << 30, false, NULL, NULL,
	  NULL, "smallest operation that is sent zero-copy" },
	{ "recv-max", NULL, 0, OPT_SIZE, FIELD(recv_max), "1MB", 4096, 64 << 20, false, NULL, NULL, NULL,
	  "most bytes per receive, so that streams take turns" },
	{ "ring-mode", NULL, 0, OPT_ENUM, FIELD(ring_mode), "auto", 0, 0, false, NULL, mode_names, NULL,
	  "io_uring features; basic: only those of the oldest supported kernel" },
	{ "ring-entries", NULL, 0, OPT_U32, FIELD(ring_entries), "256", 16, 4096, false, NULL, NULL, NULL,
	  "length of the submission queue" },
	{ "busy-poll", NULL, 0, OPT_TIME, FIELD(busy_poll), "0s", 0, NS_PER_S, false, NULL, NULL, NULL,
	  "time to spin before sleeping" },
	{ "pending-max", NULL, 0, OPT_U32, FIELD(pending_max), "1024", 1, 65536, false, NULL, NULL, NULL,
	  "most incoming connections not yet accepted" },
	{ "preamble-timeout", NULL, 0, OPT_TIME, FIELD(preamble_timeout), "5s", NS_PER_MS, 3600 * NS_PER_S, false, NULL,
	  NULL, NULL, "longest wait for an incoming connection to introduce itself" },
};

/* --- open --- */

static int check(const struct be_open *o, struct err *e)
{
	if (!o->streams || o->streams > U_STREAMS_MAX)
		return err_set(e, -EINVAL, "tcp: streams must be 1…%u, not %u", U_STREAMS_MAX, o->streams);
	if (!o->sends || o->sends > U_SENDS_MAX)
		return err_set(e, -EINVAL, "tcp: sends must be 1…%u, not %u", U_SENDS_MAX, o->sends);
	if (o->frame_bytes > U_FRAME_MAX)
		return err_set(e, -EINVAL, "tcp: frames of %u bytes are over the limit of %u", o->frame_bytes,
			       U_FRAME_MAX);
	return 0;
}

static int streams_open(struct uring *u, const struct be_open *o, struct err *e)
{
	u->n_streams = o->streams;
	u->n_sends = o->sends;
	u->streams = calloc(o->streams, sizeof *u->streams);
	u->free_streams = calloc(o->streams, sizeof *u->free_streams);
	u->op_store = calloc((size_t)o->streams * o->sends, sizeof *u->op_store);
	u->arena_store = calloc(o->streams, U_ARENA);
	if (!u->streams || !u->free_streams || !u->op_store || !u->arena_store)
		return err_set(e, -ENOMEM, "tcp: no memory for %u streams of %u sends", o->streams, o->sends);
	for (uint32_t i = 0; i < o->streams; i++) {
		u->streams[i].index = i;
		u->streams[i].fd = -1;
		u->streams[i].ops = u->op_store + (size_t)i * o->sends;
		u->streams[i].arena = u->arena_store + (size_t)i * U_ARENA;
		u->free_streams[o->streams - 1 - i] = i;
	}
	u->n_free_streams = o->streams;
	return 0;
}

static int frames_open(struct uring *u, const struct be_open *o, struct err *e)
{
	uint32_t stride = (o->frame_bytes + CACHE_LINE - 1) & ~(uint32_t)(CACHE_LINE - 1);
	uint32_t n = o->frames ? o->frames : 1;

	u->frame_bytes = o->frame_bytes;
	u->frame_stride = stride ? stride : CACHE_LINE;
	u->n_frames = o->frames;
	u->frame_store = aligned_alloc(CACHE_LINE, (size_t)n * u->frame_stride);
	u->free_frames = calloc(n, sizeof *u->free_frames);
	u->frame_state = calloc(n, sizeof *u->frame_state);
	if (!u->frame_store || !u->free_frames || !u->frame_state)
		return err_set(e, -ENOMEM, "tcp: no memory for %u frames of %u bytes", o->frames, o->frame_bytes);
	for (uint32_t i = 0; i < o->frames; i++)
		u->free_frames[i] = o->frames - 1 - i;
	u->n_free_frames = o->frames;
	return 0;
}

/* Everything that open took, in any state of it. */
static void free_all(struct uring *u)
{
	ring_close(u);
	requests_free(u);
	if (u->regions)
		regions_close(u);
	free(u->frame_state);
	free(u->free_frames);
	free(u->frame_store);
	free(u->arena_store);
	free(u->op_store);
	free(u->free_streams);
	free(u->streams);
	free(u);
}

static uint32_t cq_entries(const struct uring *u)
{
	uint64_t want = 4ull * u->n_streams + 2ull * u->n_requests + 64, n = 2ull * u->opts.ring_entries;

	while (n < want && n < CQ_ENTRIES_MAX)
		n *= 2;
	return (uint32_t)n;
}

static int uring_open(const struct be_open *o, struct be **out, struct err *e)
{
	struct uring *u;
	int r = check(o, e);

	if (r < 0)
		return r;
	u = aligned_alloc(CACHE_LINE, (sizeof *u + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1));
	if (!u)
		return err_set(e, -ENOMEM, "tcp: no memory");
	memset(u, 0, sizeof *u);
	u->be.ops = &uring_ops;
	u->listen_fd = u->spare_fd = -1;
	u->clock = o->clock.now ? o->clock : clock_mono;
	u->next_deadline = UINT64_MAX;
	if (o->opts)
		u->opts = *(const struct uring_opts *)o->opts;
	else
		opt_defaults(
			&(struct opt_group){
				.name = "tcp", .rows = options, .n = ARRAY_LEN(options), .base = &u->opts },
			1);
	u->idle_ns = u->opts.idle_timeout ? u->opts.idle_timeout : u->opts.connection_timeout;
	sock_limit_buffers(&u->opts);
	if ((r = sock_check(&u->opts, e)) < 0 || (r = streams_open(u, o, e)) < 0 || (r = frames_open(u, o, e)) < 0 ||
	    (r = regions_open(u, o->regions, e)) < 0 || (r = requests_open(u, e)) < 0 ||
	    (r = ring_open(u, cq_entries(u), e)) < 0) {
		free_all(u);
		return r;
	}
	*out = &u->be;
	return 0;
}

/* --- close --- */

/* Returns when the kernel holds no memory of ours any more, within CLOSE_BOUND. */
static void quiesce(struct uring *u)
{
	uint64_t end = clock_now(&clock_mono) + CLOSE_BOUND;

	u->closing = true;
	requests_close(u);
	for (uint32_t i = 0; i < u->n_streams; i++)
		stream_die(u, &u->streams[i], -ECANCELED);
	/* The thread that used the ring has ended, and with it what it had in flight; or there was none. */
	if (!ring_bound_here(u))
		return;
	uring_wake(&u->be);
	while (u->inflight && clock_now(&clock_mono) < end) {
		ring_sleep(u, CLOSE_STEP);
		ring_drain(u);
	}
}

static void uring_close(struct be *be)
{
	struct uring *u = uring_of(be);

	quiesce(u);
	for (uint32_t i = 0; i < u->n_streams; i++)
		if (u->streams[i].state != U_FREE)
			close(u->streams[i].fd);
	free_all(u);
}

/* --- poll and wait --- */

static void expire(struct uring *u)
{
	uint64_t now;

	if (u->next_deadline == UINT64_MAX)
		return;
	now = clock_now(&u->clock);
	if (now < u->next_deadline)
		return;
	u->next_deadline = UINT64_MAX;
	requests_expire(u, now);
	for (uint32_t i = 0; i < u->n_streams; i++) {
		struct u_stream *s = &u->streams[i];

		if (s->state == U_FREE || !s->deadline)
			continue;
		if (s->deadline <= now)
			stream_expire(u, s);
		else
			u->next_deadline = min_u64(u->next_deadline, s->deadline);
	}
}

static int uring_poll(struct be *be, struct be_event *ev, int max)
{
	struct uring *u = uring_of(be);
	struct u_out out = { .ev = ev, .max = max };

	u->n_event_data = 0;
	expire(u);
	requests_collect(u);
	ring_enter(u);
	ring_drain(u);
	if (max > 0 && atomic_load_explicit(&u->woken, memory_order_relaxed) && atomic_exchange(&u->woken, false))
		out_add(&out, BE_WOKEN, NULL);
	requests_deliver(u, &out);
	while (u->ready.head && out.n < out.max && u->n_event_data < U_EVENT_DATA) {
		struct u_stream *s = u->ready.head;

		u->ready.head = s->ready_next;
		s->ready_queued = false;
		stream_deliver(u, s, &out);
	}
	return out.n;
}

/* False: there is something to do already. Else *timeout_ns is no longer than the next deadline allows. */
static bool may_sleep(struct uring *u, uint64_t *timeout_ns)
{
	if (u->ready.head || u->incoming.head || atomic_load(&u->woken) || io_uring_cq_ready(&u->ring))
		return false;
	if (u->next_deadline != UINT64_MAX) {
		uint64_t now = clock_now(&u->clock);

		*timeout_ns = min_u64(*timeout_ns, u->next_deadline > now ? u->next_deadline - now : 0);
	}
	return true;
}

static void uring_wait(struct be *be, uint64_t timeout_ns)
{
	struct uring *u = uring_of(be);

	if (may_sleep(u, &timeout_ns))
		ring_sleep(u, timeout_ns);
}

static int uring_wait_fd(struct be *be, uint64_t *timeout_ns)
{
	struct uring *u = uring_of(be);

	if (!may_sleep(u, timeout_ns))
		return -EAGAIN;
	ring_enter(u);
	return io_uring_cq_ready(&u->ring) ? -EAGAIN : u->ring.ring_fd;
}

const struct be_ops uring_ops = {
	.name = "tcp",
	.alias = "uring",
	.help = "TCP over io_uring",
	.caps = {
		.zero_copy = true,
		.sees_puts = true,
		.frame_max = U_FRAME_MAX,
		.put_max = U_PUT_MAX,
		.align = CACHE_LINE,
		.streams_max = U_STREAMS_MAX,
	},
	.opts = options,
	.n_opts = ARRAY_LEN(options),
	.opts_size = sizeof(struct uring_opts),
	.probe = ring_probe,
	.open = uring_open,
	.close = uring_close,
	.listen = uring_listen,
	.connect = uring_connect,
	.accept = uring_accept,
	.reject = uring_reject,
	.stream_close = uring_stream_close,
	.region_add = uring_region_add,
	.region_drop = uring_region_drop,
	.region_key = uring_region_key,
	.source_add = uring_source_add,
	.source_drop = uring_source_drop,
	.send = uring_send,
	.put = uring_put,
	.poll = uring_poll,
	.release = uring_release,
	.wait = uring_wait,
	.wait_fd = uring_wait_fd,
	.wake = uring_wake,
	.info = uring_info,
	.steer = uring_steer,
};

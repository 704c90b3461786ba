/* SPDX-License-Identifier: MIT */
/* Life of a stream: connect, report, close, die. States are drawn in uring_impl.h. */
#include "base/util.h"
#include "transport/uring_impl.h"
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- names and lists --- */

int stream_find(struct uring *u, be_stream name, struct u_stream **out)
{
	uint32_t index = name & 0xffff, generation = name >> 16;

	if (!generation || index >= u->n_streams)
		return -EINVAL;
	if (u->streams[index].generation != generation || u->streams[index].state == U_FREE)
		return -ENOTCONN;
	*out = &u->streams[index];
	return 0;
}

be_stream stream_name(const struct u_stream *s)
{
	return s->index | (uint32_t)s->generation << 16;
}

void stream_ready(struct uring *u, struct u_stream *s)
{
	if (s->ready_queued)
		return;
	s->ready_queued = true;
	s->ready_next = NULL;
	if (u->ready.head)
		u->ready.tail->ready_next = s;
	else
		u->ready.head = s;
	u->ready.tail = s;
}

void stream_wish(struct uring *u, struct u_stream *s, uint8_t wishes)
{
	s->wishes |= wishes;
	if (s->work_queued)
		return;
	s->work_queued = true;
	s->work_next = NULL;
	if (u->work.head)
		u->work.tail->work_next = s;
	else
		u->work.head = s;
	u->work.tail = s;
}

void stream_deadline(struct uring *u, uint64_t *field, uint64_t after)
{
	*field = clock_now(&u->clock) + after;
	u->next_deadline = min_u64(u->next_deadline, *field);
}

/* --- events --- */

struct be_event *out_add(struct u_out *out, enum be_event_type type, const struct u_stream *s)
{
	struct be_event *ev;

	if (out->n == out->max)
		return NULL;
	ev = &out->ev[out->n++];
	*ev = (struct be_event){ .type = type };
	if (s) {
		ev->stream = stream_name(s);
		ev->cookie = s->cookie;
	}
	return ev;
}

/* Room that lasts until the next poll, so that an event outlives its stream. */
const void *event_keep(struct uring *u, const void *data, size_t len)
{
	assert(u->n_event_data < U_EVENT_DATA && len <= TCP_GREETING);
	return memcpy(u->event_data[u->n_event_data++], data, len);
}

/* --- begin and end --- */

struct u_stream *stream_new(struct uring *u, int fd, const struct be_addr *peer, enum u_state state, uint32_t domain,
			    uint64_t cookie)
{
	struct u_stream *s, old;

	if (!u->n_free_streams) {
		close(fd);
		return NULL;
	}
	s = &u->streams[u->free_streams[--u->n_free_streams]];
	old = *s;
	*s = (struct u_stream){
		.state = state,
		.index = old.index,
		.generation = (uint16_t)(old.generation + 1),
		.fd = fd,
		.fixed = ring_file_set(u, old.index, fd),
		.ready_queued = old.ready_queued,
		.work_queued = old.work_queued,
		.frame_queued = old.frame_queued,
		.ready_next = old.ready_next,
		.work_next = old.work_next,
		.frame_next = old.frame_next,
		.rx_frame = U_NONE,
		.rx_region = U_NONE,
		.ops = old.ops,
		.arena = old.arena,
		.domain = domain,
		.cookie = cookie,
		.peer = *peer,
	};
	if (!s->generation)
		s->generation = 1;
	metric_add(&u->be.counters.streams_opened, 1);
	return s;
}

static void stream_free(struct uring *u, struct u_stream *s)
{
	rx_drop(u, s);
	if (s->fixed)
		ring_file_set(u, s->index, -1);
	close(s->fd);
	s->fd = -1;
	s->state = U_FREE;
	s->wishes = 0;
	u->free_streams[u->n_free_streams++] = s->index;
}

/*
 * Is everything that this side began in the kernel, so that FIN tells the truth? A graceful close that
 * ends before the peer's FIN came to no good end: the peer has not taken it all.
 */
static bool clean(const struct u_stream *s, enum u_state was)
{
	return s->op_sent == s->op_tail && !s->op_off && s->zc_head == s->zc_tail && !s->tx_err &&
	       s->greet_out_done == s->greet_out_len && (was != U_CLOSING || s->peer_fin);
}

/* Whatever is in flight is cut off; poll reports the end once the kernel has let go of all memory. */
void stream_die(struct uring *u, struct u_stream *s, int err)
{
	enum u_state was = s->state;

	if (was == U_DYING || was == U_FREE)
		return;
	s->state = U_DYING;
	s->down_err = err;
	s->deadline = 0;
	s->connected_pending = false;
	s->rx_stuck = false;
	/* A socket that connects would start anew after a reset: there the cancel alone must do. */
	if (was != U_CONNECTING) {
		if ((err == 0 || err == -ECANCELED) && clean(s, was))
			shutdown(s->fd, SHUT_RDWR);
		else
			sock_reset(s->fd);
	}
	stream_wish(u, s, W_CANCEL);
	stream_ready(u, s);
}

/* --- delivery --- */

static bool deliver_down(struct uring *u, struct u_stream *s, struct u_out *out)
{
	struct be_event *ev;

	if (!tx_deliver(u, s, out, true) || u->n_event_data == U_EVENT_DATA)
		return false;
	ev = out_add(out, BE_DOWN, s);
	if (!ev)
		return false;
	ev->err = s->down_err;
	if (s->down_len) {
		ev->data = event_keep(u, s->down_data, s->down_len);
		ev->len = s->down_len;
	}
	metric_add(&u->be.counters.streams_down, 1);
	stream_free(u, s);
	return true;
}

static bool deliver_connected(struct uring *u, struct u_stream *s, struct u_out *out)
{
	struct be_event *ev;

	if (u->n_event_data == U_EVENT_DATA)
		return false;
	ev = out_add(out, BE_CONNECTED, s);
	if (!ev)
		return false;
	if (s->connected_data) {
		ev->data = event_keep(u, s->greet_in + 1, BE_PREAMBLE);
		ev->len = BE_PREAMBLE;
	}
	s->connected_pending = false;
	return true;
}

static bool deliver(struct uring *u, struct u_stream *s, struct u_out *out)
{
	if (s->connected_pending && !deliver_connected(u, s, out))
		return false;
	if (!tx_deliver(u, s, out, false))
		return false;
	if (s->state != U_DYING && s->state != U_CONNECTING && !rx_deliver(u, s, out))
		return false;
	if (s->state == U_DYING && s->inflight == 0)
		return deliver_down(u, s, out);
	return true;
}

void stream_deliver(struct uring *u, struct u_stream *s, struct u_out *out)
{
	if (s->state != U_FREE && !deliver(u, s, out))
		stream_ready(u, s);
}

/* --- hooks --- */

/* What depends on where the peer is. */
void stream_path(struct uring *u, struct u_stream *s)
{
	/* Memory that is sent zero-copy is busy until it is acknowledged. On a long path that is a round trip for the few
	 * operations that a stream keeps, and a copy costs nothing in comparison. */
	tx_zc_choose(u, s, !sock_is_local(s->fd, &s->peer) && sock_round_trip(s->fd) <= U_ZC_FAR);
}

/* What became of a connection that the kernel went on with by itself. */
static int connect_outcome(const struct u_stream *s)
{
	int err = 0;
	socklen_t len = sizeof(err);

	return getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 ? -errno : -err;
}

void stream_connected(struct uring *u, struct u_stream *s, int res)
{
	if (s->state != U_CONNECTING)
		return;
	/* A worker of the ring's was interrupted while it waited; seen 3 times in 150 over a link of 1 ms. */
	if (res == -EINTR && !s->connect_begun) {
		s->connect_begun = true;
		stream_wish(u, s, W_CONNECT);
		return;
	}
	if (res >= 0 && s->connect_begun)
		res = connect_outcome(s);
	if (res < 0) {
		stream_die(u, s, res == -ECANCELED ? -ETIMEDOUT : res);
		return;
	}
	s->state = U_GREETING;
	stream_path(u, s);
	stream_wish(u, s, W_SEND | W_RECV);
}

int uring_connect(struct be *be, const struct be_addr *to, const void *pre, uint32_t domain, uint64_t cookie,
		  be_stream *out, struct err *e)
{
	struct uring *u = uring_of(be);
	struct u_stream *s;
	int fd;

	if (!u->n_free_streams)
		return err_set(e, -ENOSPC, "connect: all %u streams of this instance are in use", u->n_streams);
	fd = sock_new(&u->opts, to, e);
	if (fd < 0)
		return fd;
	sock_tune(&u->opts, fd);
	s = stream_new(u, fd, to, U_CONNECTING, domain, cookie);
	memcpy(s->greet_out, pre, BE_PREAMBLE);
	s->greet_out_len = BE_PREAMBLE;
	stream_deadline(u, &s->deadline, u->opts.connection_timeout);
	stream_wish(u, s, W_CONNECT);
	*out = stream_name(s);
	return 0;
}

void uring_stream_close(struct be *be, be_stream name, bool graceful)
{
	struct uring *u = uring_of(be);
	struct u_stream *s;

	if (stream_find(u, name, &s) < 0 || s->state == U_DYING)
		return;
	if (!graceful || s->tx_err || s->state == U_CONNECTING || s->state == U_GREETING) {
		stream_die(u, s, -ECANCELED);
		return;
	}
	if (s->state == U_CLOSING)
		return;
	s->state = U_CLOSING;
	stream_deadline(u, &s->deadline, u->idle_ns);
	stream_wish(u, s, W_SEND);
}

/* The stream's deadline passed. */
void stream_expire(struct uring *u, struct u_stream *s)
{
	s->deadline = 0;
	if (s->state == U_CONNECTING || s->state == U_GREETING)
		stream_die(u, s, -ETIMEDOUT);
	else if (s->state == U_CLOSING)
		stream_die(u, s, -ECANCELED);
	else if (s->tx_err)
		stream_die(u, s, s->tx_err);
}

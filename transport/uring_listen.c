/* SPDX-License-Identifier: MIT */
/*
 * Incoming connections. A request is FREE, then reads its PREAMBLE, then is OFFERED (the
 * caller's, on any thread), then back; DROPPED while a receive of a refused one is in flight.
 * Their number is bounded: when all are in use, the oldest that still owes its preamble goes.
 */
#include "base/clock.h"
#include "base/util.h"
#include "transport/uring_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 4096
#define BIND_PATIENCE NS_PER_S
#define SHED_MAX 64 /* connections turned away per back-off, when descriptors ran out */

/* --- lists --- */

static void list_add(struct u_requests *l, struct be_request *r)
{
	r->prev = l->tail;
	r->next = NULL;
	if (l->tail)
		l->tail->next = r;
	else
		l->head = r;
	l->tail = r;
}

static void list_del(struct u_requests *l, struct be_request *r)
{
	*(r->prev ? &r->prev->next : &l->head) = r->next;
	*(r->next ? &r->next->prev : &l->tail) = r->prev;
}

static void wish(struct uring *u, struct be_request *r)
{
	if (r->wish_queued)
		return;
	r->wish_queued = true;
	r->wish_next = u->request_wishes;
	u->request_wishes = r;
}

int requests_open(struct uring *u, struct err *e)
{
	u->n_requests = u->opts.pending_max + U_SPARE_REQUESTS;
	u->requests = calloc(u->n_requests, sizeof *u->requests);
	if (!u->requests)
		return err_set(e, -ENOMEM, "no memory for %u pending connections", u->n_requests);
	for (uint32_t i = 0; i < u->n_requests; i++) {
		u->requests[i].owner = u;
		u->requests[i].index = i;
		u->requests[i].fd = -1;
		list_add(&u->request_free, &u->requests[i]);
	}
	return 0;
}

/* --- life of a request --- */

/* Back to its owner, from any thread. */
static void request_return(struct be_request *r)
{
	struct uring *u = r->owner;
	struct be_request *head = atomic_load_explicit(&u->returned, memory_order_relaxed);

	r->fd = -1;
	do
		atomic_store_explicit(&r->returned_next, head, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(&u->returned, &head, r, memory_order_release,
						      memory_order_relaxed));
}

static void request_free(struct uring *u, struct be_request *r)
{
	if (r->fd >= 0)
		close(r->fd);
	r->fd = -1;
	r->state = R_FREE;
	list_add(&u->request_free, r);
	u->n_pending--;
}

void requests_collect(struct uring *u)
{
	struct be_request *r;

	if (!atomic_load_explicit(&u->returned, memory_order_relaxed))
		return;
	r = atomic_exchange_explicit(&u->returned, NULL, memory_order_acquire);
	while (r) {
		struct be_request *next = atomic_load_explicit(&r->returned_next, memory_order_relaxed);

		request_free(u, r);
		r = next;
	}
}

/* A request that reads its preamble goes away. */
static void request_drop(struct uring *u, struct be_request *r)
{
	list_del(&u->half_open, r);
	if (!r->armed) {
		request_free(u, r);
		return;
	}
	r->state = R_DROPPED;
	r->wants_cancel = true;
	sock_reset(r->fd);
	wish(u, r);
}

static void refuse(int fd)
{
	sock_reset(fd);
	close(fd);
}

static void request_new(struct uring *u, int fd)
{
	struct be_request *r;

	requests_collect(u);
	if (u->n_pending >= u->opts.pending_max && u->half_open.head)
		request_drop(u, u->half_open.head);
	r = u->request_free.head;
	if (!r || u->n_pending >= u->n_requests || (u->n_pending >= u->opts.pending_max && !u->half_open.head)) {
		refuse(fd);
		return;
	}
	list_del(&u->request_free, r);
	u->n_pending++;
	r->state = R_PREAMBLE;
	r->fd = fd;
	r->have = 0;
	r->peer.len = sizeof r->peer.ss;
	if (getpeername(fd, &r->peer.sa, &r->peer.len) < 0) {
		request_free(u, r);
		return;
	}
	stream_deadline(u, &r->deadline, u->opts.preamble_timeout);
	list_add(&u->half_open, r);
	r->wants_recv = true;
	wish(u, r);
}

void request_cqe(struct uring *u, struct be_request *r, int res)
{
	r->armed = false;
	if (r->state == R_DROPPED) {
		request_free(u, r);
		return;
	}
	if (res <= 0 && res != -EAGAIN && res != -EINTR) {
		request_drop(u, r);
		return;
	}
	r->have += res > 0 ? (uint32_t)res : 0;
	if (r->have < BE_PREAMBLE) {
		r->wants_recv = true;
		wish(u, r);
		return;
	}
	list_del(&u->half_open, r);
	r->state = R_OFFERED;
	list_add(&u->incoming, r);
}

void requests_deliver(struct uring *u, struct u_out *out)
{
	while (u->incoming.head) {
		struct be_request *r = u->incoming.head;
		struct be_event *ev = out_add(out, BE_INCOMING, NULL);

		if (!ev)
			return;
		list_del(&u->incoming, r);
		ev->request = r;
		ev->data = r->preamble;
		ev->len = BE_PREAMBLE;
	}
}

/* Oldest first: all have the same time-out. */
void requests_expire(struct uring *u, uint64_t now)
{
	while (u->half_open.head && u->half_open.head->deadline <= now)
		request_drop(u, u->half_open.head);
	if (u->half_open.head)
		u->next_deadline = min_u64(u->next_deadline, u->half_open.head->deadline);
	if (u->accept_after && u->accept_after <= now)
		u->accept_after = 0;
	if (u->accept_after)
		u->next_deadline = min_u64(u->next_deadline, u->accept_after);
}

/* --- accepting from the kernel --- */

/* Descriptors ran out: with the spare one, those who wait are turned away instead of left hanging. */
static void shed(struct uring *u)
{
	struct pollfd p = { .fd = u->listen_fd, .events = POLLIN };
	int flags = fcntl(u->listen_fd, F_GETFL);

	if (u->spare_fd < 0 || flags < 0 || fcntl(u->listen_fd, F_SETFL, flags | O_NONBLOCK) < 0)
		goto out;
	close(u->spare_fd);
	u->spare_fd = -1;
	for (int i = 0; i < SHED_MAX && poll(&p, 1, 0) == 1; i++) {
		int fd = accept4(u->listen_fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			break;
		refuse(fd);
	}
	fcntl(u->listen_fd, F_SETFL, flags);
out:
	if (u->spare_fd < 0)
		u->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

void accept_cqe(struct uring *u, int res, uint32_t flags)
{
	if (!(flags & IORING_CQE_F_MORE))
		u->accept_armed = false;
	if (u->closing) {
		if (res >= 0)
			close(res);
		return;
	}
	if (res >= 0) {
		request_new(u, res);
		return;
	}
	switch (res) {
	case -ECONNABORTED:
	case -EPROTO:
	case -EINTR:
	case -EAGAIN:
	case -ECANCELED:
	case -ENETDOWN:
	case -ENETUNREACH:
	case -EHOSTUNREACH:
	case -ENOPROTOOPT:
	case -EOPNOTSUPP:
		return;
	case -EINVAL:
		if (u->multishot) {
			u->multishot = false;
			return;
		}
		break;
	case -EMFILE:
	case -ENFILE:
		shed(u);
		break;
	default:
		break;
	}
	stream_deadline(u, &u->accept_after, U_ACCEPT_BACKOFF);
}

static void arm_accept(struct uring *u)
{
	struct io_uring_sqe *sqe;

	if (u->listen_fd < 0 || u->accept_armed || u->accept_after || u->closing || !ring_room(u, 1))
		return;
	sqe = ring_sqe(u);
	if (u->multishot)
		io_uring_prep_multishot_accept(sqe, u->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	else
		io_uring_prep_accept(sqe, u->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	sqe->user_data = ud_make(UD_ACCEPT, 0, 0);
	u->accept_armed = true;
	u->inflight++;
}

static void arm_request(struct uring *u, struct be_request *r)
{
	struct io_uring_sqe *sqe;

	if (r->wants_cancel && r->armed) {
		sqe = ring_sqe(u);
		io_uring_prep_cancel64(sqe, ud_make(UD_REQUEST, 0, r->index), 0);
		sqe->user_data = ud_make(UD_CANCEL, 0, 0);
	} else if (r->wants_recv && r->state == R_PREAMBLE) {
		sqe = ring_sqe(u);
		io_uring_prep_recv(sqe, r->fd, r->preamble + r->have, BE_PREAMBLE - r->have, 0);
		sqe->user_data = ud_make(UD_REQUEST, 0, r->index);
		r->armed = true;
		u->inflight++;
	}
	r->wants_cancel = r->wants_recv = false;
}

void requests_flush(struct uring *u)
{
	arm_accept(u);
	while (u->request_wishes && ring_room(u, 1)) {
		struct be_request *r = u->request_wishes;

		u->request_wishes = r->wish_next;
		r->wish_queued = false;
		arm_request(u, r);
	}
}

/* --- hooks --- */

/* A process that was killed holds its port until the kernel has taken its ring apart, some time after its end. */
static int bind_patiently(int fd, const struct be_addr *at)
{
	uint64_t until = clock_now(&clock_mono) + BIND_PATIENCE;

	while (bind(fd, &at->sa, at->len) < 0) {
		if (errno != EADDRINUSE || clock_now(&clock_mono) >= until)
			return -1;
		usleep(20000);
	}
	return 0;
}

int uring_listen(struct be *be, const struct be_addr *at, struct be_addr *bound, struct err *e)
{
	struct uring *u = uring_of(be);
	struct be_addr got = { .len = sizeof got.ss };
	char name[64];
	int fd, r, one = 1, zero = 0;

	if (u->listen_fd >= 0)
		return err_set(e, -EBUSY, "this instance listens already; open another one");
	addr_format(name, sizeof name, at);
	fd = sock_new(&u->opts, at, e);
	if (fd < 0)
		return fd;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (at->sa.sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
	if (bind_patiently(fd, at) < 0 || listen(fd, BACKLOG) < 0 || getsockname(fd, &got.sa, &got.len) < 0) {
		r = -errno;
		err_set(e, r, "cannot listen on %s: %s%s", name, strerror(-r),
			r == -EADDRINUSE      ? "; choose another port or stop what listens there"
			: r == -EADDRNOTAVAIL ? "; choose an address of this host"
			: r == -EACCES        ? "; choose a port above 1023"
					      : "");
		close(fd);
		return r;
	}
	u->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	u->listen_fd = fd;
	if (bound)
		*bound = got;
	return 0;
}

int uring_accept(struct be *be, struct be_request *r, const void *reply, uint32_t domain, uint64_t cookie,
		 be_stream *out)
{
	struct uring *u = uring_of(be);
	struct be_addr peer = r->peer;
	struct u_stream *s;
	int fd = r->fd;

	request_return(r);
	sock_tune(&u->opts, fd);
	sock_tune_path(&u->opts, fd, sock_is_local(fd, &peer));
	s = stream_new(u, fd, &peer, U_OPEN, domain, cookie);
	if (!s)
		return -ENOSPC;
	tcp_greeting_encode(s->greet_out, TCP_STATUS_ACCEPTED, reply);
	s->greet_out_len = TCP_GREETING;
	s->connected_pending = true;
	stream_path(u, s);
	stream_wish(u, s, W_SEND | W_RECV);
	stream_ready(u, s);
	*out = stream_name(s);
	return 0;
}

void uring_reject(struct be *be, struct be_request *r, const void *reply)
{
	uint8_t greeting[TCP_GREETING];
	int fd = r->fd;

	(void)be;
	request_return(r);
	if (reply) {
		/* An empty send buffer takes it whole; if not, the peer sees a closed connection. */
		tcp_greeting_encode(greeting, TCP_STATUS_REJECTED, reply);
		(void)!send(fd, greeting, sizeof greeting, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	close(fd);
}

/* --- close --- */

void requests_close(struct uring *u)
{
	if (u->listen_fd >= 0)
		shutdown(u->listen_fd, SHUT_RDWR);
	while (u->half_open.head)
		request_drop(u, u->half_open.head);
}

void requests_free(struct uring *u)
{
	for (uint32_t i = 0; u->requests && i < u->n_requests; i++)
		if (u->requests[i].fd >= 0)
			close(u->requests[i].fd);
	free(u->requests);
	if (u->listen_fd >= 0)
		close(u->listen_fd);
	if (u->spare_fd >= 0)
		close(u->spare_fd);
}

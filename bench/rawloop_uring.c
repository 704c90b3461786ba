/* SPDX-License-Identifier: MIT */
#include "bench/rawloop_uring.h"
#include <errno.h>
#include <liburing.h>
#include <sys/socket.h>

#define ENTRIES 1024

/* What the kernel has of the newer modes: they save wake-ups and interrupts of a running worker. */
static int open_ring(struct io_uring *ring)
{
	static const unsigned modes[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN,
		IORING_SETUP_COOP_TASKRUN,
		0,
	};
	int rc = -EINVAL;

	for (unsigned i = 0; rc == -EINVAL && i < ARRAY_LEN(modes); i++) {
		struct io_uring_params p = { .flags = modes[i] };

		rc = io_uring_queue_init_params(ENTRIES, ring, &p);
	}
	return rc;
}

static void next_chunk(struct raw_worker *w, struct raw_stream *s)
{
	if (w->cursor + w->chunk > w->len)
		w->cursor = 0;
	s->at = w->base + w->cursor;
	s->left = w->chunk;
	w->cursor += w->chunk;
}

/* The ring has room for every stream's one operation. */
static void post(struct io_uring *ring, const struct raw_worker *w, struct raw_stream *s)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (w->receive)
		io_uring_prep_recv(sqe, s->fd, s->at, s->left, MSG_WAITALL);
	else
		io_uring_prep_send(sqe, s->fd, s->at, s->left, MSG_WAITALL | MSG_NOSIGNAL);
	io_uring_sqe_set_data(sqe, s);
}

/* 1: go on with this stream, 0: it is over, or -errno. */
static int completed(struct raw_worker *w, struct raw_stream *s, int res)
{
	if (res < 0)
		return res;
	if (res == 0)
		return w->receive ? 0 : -EPIPE;
	__atomic_store_n(&w->bytes, w->bytes + (uint64_t)res, __ATOMIC_RELAXED);
	s->at += res;
	s->left -= (size_t)res;
	if (s->left)
		return 1;
	if (!w->receive && __atomic_load_n(w->stop, __ATOMIC_RELAXED)) {
		shutdown(s->fd, SHUT_WR);
		return 0;
	}
	next_chunk(w, s);
	return 1;
}

static int run(struct raw_worker *w, struct io_uring *ring)
{
	unsigned live = w->n_streams;

	for (unsigned i = 0; i < w->n_streams; i++) {
		next_chunk(w, &w->streams[i]);
		post(ring, w, &w->streams[i]);
	}
	while (live) {
		struct io_uring_cqe *cqe;
		unsigned head, seen = 0;
		int rc = io_uring_submit_and_wait(ring, 1);

		if (rc < 0 && rc != -EINTR)
			return rc;
		io_uring_for_each_cqe(ring, head, cqe)
		{
			struct raw_stream *s = io_uring_cqe_get_data(cqe);

			seen++;
			rc = completed(w, s, cqe->res);
			if (rc < 0)
				return rc;
			if (rc > 0)
				post(ring, w, s);
			else
				live--;
		}
		io_uring_cq_advance(ring, seen);
	}
	return 0;
}

int raw_worker_run(struct raw_worker *w)
{
	struct io_uring ring;
	int rc = w->n_streams > ENTRIES ? -E2BIG : open_ring(&ring);

	if (rc < 0)
		return rc;
	rc = run(w, &ring);
	io_uring_queue_exit(&ring);
	__atomic_store_n(&w->ended, true, __ATOMIC_RELEASE);
	return rc;
}

/* SPDX-License-Identifier: MIT */
#include "bench/linkemu_pump.h"
#include "base/clock.h"
#include "base/util.h"
#include "bench/linkemu_frame.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define BURST 64                    /* frames read between two looks at what is due */
#define MODERATION (50 * NS_PER_US) /* under load: time between two rounds, as of a network card's interrupts */
#define ROOM_SPARE (16u << 20)      /* what small packets and rounding to sizes of frames cost besides */
#define REQUEST_WAIT_MS 1000

struct request {
	const struct link_params *set; /* NULL: none */
	struct pump_status *status;    /* NULL: none */
	struct err *e;
	int rc;
};

struct pump {
	int from, to, wake, answer;
	struct link_sched *sched;
	struct frame_pool *pool;
	pthread_t thread;
	bool started;
	_Atomic bool stop;
	_Atomic(struct request *) request;

	/* the thread's */
	uint64_t now, refused, unknown, no_room;
	struct hist late;
	/* packets of one frame that leave together */
	struct frame *frame;
	uint32_t first, n;
};

/* ---- packets ----------------------------------------------------------------------------------- */

static void write_packets(struct pump *p, const struct frame *f, uint32_t first, uint32_t n)
{
	struct frame_headers headers = { 0 };
	struct iovec iov[2];
	int n_iov = frame_emit(f, first, n, &headers, iov);

	if (writev(p->to, iov, n_iov) < 0)
		p->refused += n;
}

static void flush_row(struct pump *p)
{
	if (!p->n)
		return;
	write_packets(p, p->frame, p->first, p->n);
	for (uint32_t i = 0; i < p->n; i++)
		frame_drop(p->pool, p->frame);
	p->n = 0;
}

static void deliver(struct pump *p)
{
	struct link_packet k;

	while (link_sched_pop(p->sched, p->now, &k)) {
		struct frame *f = k.frame;

		if (k.copies == 1 && p->n && f == p->frame && k.seg == p->first + p->n) {
			p->n++;
			continue;
		}
		flush_row(p);
		if (k.copies)
			hist_add(&p->late, p->now - k.due_ns);
		if (k.copies == 1) {
			p->frame = f;
			p->first = k.seg;
			p->n = 1;
			continue;
		}
		for (; k.copies; k.copies--)
			write_packets(p, f, k.seg, 1);
		frame_drop(p->pool, f);
	}
	flush_row(p);
}

static void take_in(struct pump *p, uint32_t len)
{
	bool bad;
	struct frame *f = frame_take(p->pool, len, &bad);
	uint32_t packets = f ? f->packets : 0;

	p->unknown += bad;
	p->no_room += !f && !bad;
	for (uint32_t i = 0; i < packets; i++)
		if (!link_sched_push(p->sched, p->now, f, i, frame_packet_len(f, i)))
			frame_drop(p->pool, f);
}

static unsigned read_burst(struct pump *p)
{
	unsigned n = 0;

	for (; n < BURST; n++) {
		ssize_t got = read(p->from, frame_space(p->pool), FRAME_DATA_MAX);

		if (got <= 0)
			break;
		take_in(p, (uint32_t)got);
	}
	return n;
}

/* ---- requests ---------------------------------------------------------------------------------- */

static uint64_t room(const struct link_params *p)
{
	return link_params_bytes(p) + link_params_bytes(p) / 2 + ROOM_SPARE;
}

static void fill_status(struct pump *p, struct pump_status *s)
{
	s->link = *link_sched_counters(p->sched);
	s->link.overflow += p->no_room;
	s->queue_bytes = link_sched_backlog(p->sched, p->now);
	s->refused = p->refused;
	s->unknown = p->unknown;
	s->late_p50_ns = hist_quantile(&p->late, .5);
	s->late_p99_ns = hist_quantile(&p->late, .99);
	s->late_max_ns = p->late.max;
}

static void serve_request(struct pump *p)
{
	struct request *r = atomic_exchange(&p->request, NULL);
	uint64_t one = 1;

	if (!r)
		return;
	r->rc = 0;
	if (r->set) {
		r->rc = link_sched_set(p->sched, r->set, p->now, r->e);
		if (r->rc >= 0)
			frame_pool_limit(p->pool, room(r->set));
	}
	if (r->status)
		fill_status(p, r->status);
	if (write(p->answer, &one, sizeof(one)) < 0)
		return; /* an eventfd's counter is never that high */
}

static int ask(struct pump *p, struct request *r, struct err *e)
{
	struct pollfd answer = { .fd = p->answer, .events = POLLIN };
	uint64_t one = 1;

	atomic_store(&p->request, r);
	if (write(p->wake, &one, sizeof(one)) < 0)
		return err_set(e, -errno, "the link's thread cannot be woken: %s", strerror(errno));
	while (poll(&answer, 1, REQUEST_WAIT_MS) <= 0)
		if (atomic_exchange(&p->request, NULL) == r)
			return err_set(e, -ETIMEDOUT, "the link's thread does not answer: is the machine overloaded?");
	if (read(p->answer, &one, sizeof(one)) < 0)
		return err_set(e, -errno, "the link's thread does not answer: %s", strerror(errno));
	return r->rc;
}

int pump_set(struct pump *p, const struct link_params *params, struct err *e)
{
	struct request r = { .set = params, .e = e };

	return ask(p, &r, e);
}

int pump_status(struct pump *p, struct pump_status *out, struct err *e)
{
	struct request r = { .status = out, .e = e };

	return ask(p, &r, e);
}

/* ---- the thread -------------------------------------------------------------------------------- */

static uint64_t now(void)
{
	return clock_now(&clock_mono);
}

/* Until a packet comes, one is due, or somebody asks. A round that follows closely on the last one waits a little:
 * what comes meanwhile is read at once. */
static void wait_for_work(struct pump *p, uint64_t began, bool busy)
{
	struct pollfd fds[2] = { { .fd = p->from, .events = POLLIN }, { .fd = p->wake, .events = POLLIN } };
	uint64_t next = link_sched_next(p->sched), t = now();
	struct timespec ts;
	uint64_t value;

	if (busy && t < began + MODERATION) {
		uint64_t ns = began + MODERATION - t;

		ts = (struct timespec){ .tv_nsec = (long)ns };
		nanosleep(&ts, NULL);
		t += ns;
	}
	if (next <= t)
		return;
	ts = (struct timespec){ .tv_sec = (time_t)((next - t) / NS_PER_S), .tv_nsec = (long)((next - t) % NS_PER_S) };
	if (ppoll(fds, 2, next == UINT64_MAX ? NULL : &ts, NULL) > 0 && fds[1].revents & POLLIN)
		while (read(p->wake, &value, sizeof(value)) > 0)
			continue;
}

/* A packet's time comes before other work, where we are allowed to say so. */
static void take_precedence(void)
{
	const struct sched_param fifo = { .sched_priority = 1 };

	prctl(PR_SET_TIMERSLACK, 1ul);
	if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &fifo) != 0)
		setpriority(PRIO_PROCESS, 0, -20);
}

static void *run(void *arg)
{
	struct pump *p = arg;

	take_precedence();
	while (!atomic_load_explicit(&p->stop, memory_order_relaxed)) {
		uint64_t began = now();
		bool busy;

		p->now = began;
		busy = read_burst(p) > 0;
		p->now = now();
		deliver(p);
		if (atomic_load_explicit(&p->request, memory_order_relaxed))
			serve_request(p);
		wait_for_work(p, began, busy);
	}
	return NULL;
}

int pump_open(struct pump **out, int from, int to, const struct link_params *params, uint64_t seed, struct err *e)
{
	struct pump *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return err_set(e, -ENOMEM, "no memory for a link");
	p->from = from;
	p->to = to;
	p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->answer = eventfd(0, EFD_CLOEXEC);
	rc = p->wake < 0 || p->answer < 0 ? err_set(e, -errno, "no descriptor for a link: raise ulimit -n") : 0;
	if (rc >= 0)
		rc = link_sched_open(&p->sched, params, seed, now(), e);
	if (rc >= 0)
		rc = frame_pool_open(&p->pool, room(params), e);
	if (rc >= 0) {
		rc = -pthread_create(&p->thread, NULL, run, p);
		p->started = rc == 0;
		if (rc < 0)
			err_set(e, rc, "no thread for a link: %s; raise ulimit -u", strerror(-rc));
	}
	if (rc < 0)
		pump_close(p);
	else
		*out = p;
	return rc;
}

void pump_close(struct pump *p)
{
	uint64_t one = 1;

	if (!p)
		return;
	atomic_store(&p->stop, true);
	if (p->started && write(p->wake, &one, sizeof(one)) > 0)
		pthread_join(p->thread, NULL);
	link_sched_close(p->sched);
	frame_pool_close(p->pool);
	if (p->wake >= 0)
		close(p->wake);
	if (p->answer >= 0)
		close(p->answer);
	free(p);
}

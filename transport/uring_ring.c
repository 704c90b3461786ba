/* SPDX-License-Identifier: MIT */
/* The ring: what the kernel offers, set-up, submission, completions, sleep and wake. */
#include "transport/uring_impl.h"
#include "base/log.h"
#include "base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define FEATURES_NEEDED (IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG)
#define SQES_PER_STREAM 8 /* most that one stream's wishes take */

static const unsigned modes[] = {
	/* 6.1: completions run only when this thread asks for them */
	IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
		IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
	/* 5.19: they do not interrupt it */
	IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE |
		IORING_SETUP_CLAMP,
	/* 5.11 */
	IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
};

static int disabled_level(void)
{
	int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
	char c = '0';

	if (fd < 0)
		return 0;
	if (read(fd, &c, 1) != 1)
		c = '0';
	close(fd);
	return c - '0';
}

static int explain(int err, struct err *e)
{
	switch (err) {
	case -ENOSYS:
		return err_set(e, err, "io_uring: this kernel has none; use Linux 5.11 or newer");
	case -EPERM:
	case -EACCES:
		if (disabled_level() == 2)
			return err_set(e, err, "io_uring: switched off; set sysctl kernel.io_uring_disabled=0");
		if (disabled_level() == 1)
			return err_set(e, err,
				       "io_uring: reserved to a group; join kernel.io_uring_group or set sysctl "
				       "kernel.io_uring_disabled=0");
		return err_set(e, err,
			       "io_uring: forbidden, as a container's seccomp profile does; allow io_uring_setup, "
			       "io_uring_enter and io_uring_register");
	case -ENOMEM:
		return err_set(e, err, "io_uring: no memory for a ring; raise RLIMIT_MEMLOCK (ulimit -l)");
	case -EMFILE:
	case -ENFILE:
		return err_set(e, err, "io_uring: no file descriptor for a ring; raise RLIMIT_NOFILE (ulimit -n)");
	default:
		return err_set(e, err, "io_uring: cannot set up a ring: %s", strerror(-err));
	}
}

static int check_features(const struct io_uring_params *p, struct err *e)
{
	if ((p->features & FEATURES_NEEDED) == FEATURES_NEEDED)
		return 0;
	return err_set(e, -EOPNOTSUPP, "io_uring: this kernel's is too old; use Linux 5.11 or newer");
}

int ring_probe(struct err *e)
{
	struct io_uring_params p = { 0 };
	struct io_uring ring;
	int r = io_uring_queue_init_params(4, &ring, &p);

	if (r < 0)
		return explain(r, e);
	io_uring_queue_exit(&ring);
	return check_features(&p, e);
}

static bool has_op(struct io_uring *ring, int op)
{
	struct io_uring_probe *p = io_uring_get_probe_ring(ring);
	bool has = p && io_uring_opcode_supported(p, op);

	io_uring_free_probe(p);
	return has;
}

/*
 * Does the kernel tell whether a send was zero-copy in the end (6.2)? One that does not refuses the wish, and without an
 * answer nobody could see that zero-copy is of no use. Asked once, with a send that cannot be: flags are looked at
 * before the file.
 */
static bool kernel_reports_usage(void)
{
	static atomic_int known; /* 0: not asked yet, 1: it does not, 2: it does */
	struct io_uring_params p = { 0 };
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	struct io_uring ring;
	const char byte = 0;

	if (atomic_load(&known) || io_uring_queue_init_params(2, &ring, &p) < 0)
		return atomic_load(&known) == 2;
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_send_zc(sqe, -1, &byte, sizeof byte, MSG_NOSIGNAL, IORING_SEND_ZC_REPORT_USAGE);
	io_uring_submit_and_wait(&ring, 1);
	if (io_uring_peek_cqe(&ring, &cqe) == 0)
		atomic_store(&known, cqe->res == -EINVAL ? 1 : 2);
	io_uring_queue_exit(&ring);
	return atomic_load(&known) == 2;
}

static void warn_no_zero_copy(void)
{
	static atomic_flag warned = ATOMIC_FLAG_INIT;

	if (!atomic_flag_test_and_set(&warned))
		log_warn("tcp: zerocopy=on needs Linux 6.2 and ring-mode=auto: everything is sent with copies; use "
			 "another kernel or --zerocopy=auto");
}

static void set_up_extras(struct uring *u, unsigned flags)
{
	bool basic = u->opts.ring_mode == URING_MODE_BASIC;

	u->disabled = flags & IORING_SETUP_R_DISABLED;
	u->multishot = !basic;
	u->files_ok = !basic && io_uring_register_files_sparse(&u->ring, u->n_streams) == 0;
	u->has_zc = !basic && u->opts.zerocopy != URING_ZC_OFF && has_op(&u->ring, IORING_OP_SENDMSG_ZC) &&
		    kernel_reports_usage();
	if (u->opts.zerocopy == URING_ZC_ON && !u->has_zc)
		warn_no_zero_copy();
	u->buffers_ok = u->has_zc && io_uring_register_buffers_sparse(&u->ring, U_SOURCES) == 0;
}

int ring_open(struct uring *u, uint32_t cq_entries, struct err *e)
{
	size_t first = u->opts.ring_mode == URING_MODE_BASIC ? ARRAY_LEN(modes) - 1 : 0;
	struct io_uring_params p;
	int r = -EINVAL;

	for (size_t i = first; i < ARRAY_LEN(modes) && r == -EINVAL; i++) {
		p = (struct io_uring_params){ .flags = modes[i], .cq_entries = cq_entries };
		r = io_uring_queue_init_params(u->opts.ring_entries, &u->ring, &p);
	}
	if (r < 0)
		return explain(r, e);
	r = check_features(&p, e);
	if (r < 0)
		goto out_ring;
	u->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (u->wake_fd < 0) {
		r = err_set(e, -errno, "eventfd: %s", strerror(errno));
		goto out_ring;
	}
	set_up_extras(u, p.flags);
	u->ring_open = true;
	return 0;
out_ring:
	io_uring_queue_exit(&u->ring);
	return r;
}

bool ring_bound_here(const struct uring *u)
{
	return u->enabled && u->owner == gettid();
}

void ring_close(struct uring *u)
{
	if (!u->ring_open)
		return;
	/* The registered index means another ring, or none, in another thread. */
	if (!ring_bound_here(u))
		u->ring.int_flags = 0;
	io_uring_queue_exit(&u->ring);
	close(u->wake_fd);
	u->ring_open = false;
}

static void enable(struct uring *u)
{
	if (u->enabled)
		return;
	if (u->disabled)
		io_uring_register((unsigned)u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	if (u->opts.ring_mode != URING_MODE_BASIC)
		io_uring_register_ring_fd(&u->ring);
	u->owner = gettid();
	u->enabled = true;
}

bool ring_file_set(struct uring *u, uint32_t slot, int fd)
{
	return u->files_ok && io_uring_register_files_update(&u->ring, slot, &fd, 1) == 1;
}

int ring_buffers_set(struct uring *u, uint32_t slot, const struct iovec *iov, uint32_t n)
{
	static const __u64 tags[U_SOURCES];
	int r = io_uring_register_buffers_update_tag(&u->ring, slot, iov, tags, n);

	return r < 0 ? r : r == (int)n ? 0 : -ENOMEM;
}

/* --- submission --- */

bool ring_room(struct uring *u, unsigned n)
{
	if (io_uring_sq_space_left(&u->ring) >= n)
		return true;
	metric_add(&u->be.counters.syscalls, 1);
	io_uring_submit(&u->ring);
	return io_uring_sq_space_left(&u->ring) >= n;
}

struct io_uring_sqe *ring_sqe(struct uring *u)
{
	return io_uring_get_sqe(&u->ring);
}

static void arm_wake(struct uring *u)
{
	struct io_uring_sqe *sqe;

	if (u->wake_armed || u->closing || !ring_room(u, 1))
		return;
	sqe = ring_sqe(u);
	io_uring_prep_read(sqe, u->wake_fd, &u->wake_buf, sizeof u->wake_buf, 0);
	sqe->user_data = ud_make(UD_WAKE, 0, 0);
	u->wake_armed = true;
	u->inflight++;
}

static void cancel(struct uring *u, uint64_t user_data)
{
	struct io_uring_sqe *sqe = ring_sqe(u);

	io_uring_prep_cancel64(sqe, user_data, 0);
	sqe->user_data = ud_make(UD_CANCEL, 0, 0);
}

static void cancel_stream(struct uring *u, struct u_stream *s)
{
	if (!s->inflight)
		return;
	if (s->rx_armed)
		cancel(u, ud_make(UD_RECV, 0, s->index));
	if (s->tx_lead_armed)
		cancel(u, ud_make(UD_LEAD, 0, s->index));
	if (s->tx_armed) {
		cancel(u, ud_make(UD_SEND, 0, s->index));
		cancel(u, ud_make(UD_ZC, s->zc_current, s->index));
	}
	if (s->connect_armed)
		cancel(u, ud_make(UD_CONNECT, 0, s->index));
	if (s->watch_armed)
		cancel(u, ud_make(UD_WATCH, 0, s->index));
}

static void arm_connect(struct uring *u, struct u_stream *s)
{
	struct io_uring_sqe *sqe = ring_sqe(u);

	if (s->connect_begun)
		io_uring_prep_poll_add(sqe, s->fixed ? (int)s->index : s->fd, POLLOUT);
	else
		io_uring_prep_connect(sqe, s->fixed ? (int)s->index : s->fd, &s->peer.sa, s->peer.len);
	if (s->fixed)
		sqe->flags |= IOSQE_FIXED_FILE;
	sqe->user_data = ud_make(UD_CONNECT, 0, s->index);
	s->connect_armed = true;
	s->inflight++;
	u->inflight++;
}

static void flush_stream(struct uring *u, struct u_stream *s)
{
	uint8_t w = s->wishes;

	s->wishes = 0;
	if (w & W_CANCEL)
		cancel_stream(u, s);
	if (s->state == U_DYING || s->state == U_FREE)
		return;
	if (w & W_CONNECT)
		arm_connect(u, s);
	if (w & W_RECV)
		rx_prepare(u, s);
	if (w & W_SEND)
		tx_prepare(u, s);
	if (w & W_WATCH)
		rx_watch(u, s);
}

static void ring_flush(struct uring *u)
{
	arm_wake(u);
	requests_flush(u);
	while (u->work.head && ring_room(u, SQES_PER_STREAM)) {
		struct u_stream *s = u->work.head;

		u->work.head = s->work_next;
		s->work_queued = false;
		flush_stream(u, s);
	}
}

static unsigned kernel_flags(const struct uring *u)
{
	return __atomic_load_n(u->ring.sq.kflags, __ATOMIC_RELAXED) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

void ring_enter(struct uring *u)
{
	enable(u);
	ring_flush(u);
	if (!io_uring_sq_ready(&u->ring) && !kernel_flags(u))
		return;
	metric_add(&u->be.counters.syscalls, 1);
	io_uring_submit_and_get_events(&u->ring);
}

static bool spun_up(const struct uring *u)
{
	for (int i = 0; i < 64; i++) {
		if (io_uring_cq_ready(&u->ring) || kernel_flags(u))
			return true;
		cpu_relax();
	}
	return false;
}

/* Spins for a part of the time that the caller would sleep; returns the rest of that time. */
static uint64_t spin(struct uring *u, uint64_t timeout_ns)
{
	uint64_t start = clock_now(&clock_mono), most = min_u64(u->opts.busy_poll, timeout_ns), spent = 0;

	ring_enter(u);
	while (spent < most && !spun_up(u))
		spent = clock_now(&clock_mono) - start;
	return timeout_ns - min_u64(spent, timeout_ns);
}

void ring_sleep(struct uring *u, uint64_t timeout_ns)
{
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;

	enable(u);
	if (u->opts.busy_poll && timeout_ns && !u->closing)
		timeout_ns = spin(u, timeout_ns);
	else
		ring_flush(u);
	if (io_uring_cq_ready(&u->ring))
		return;
	ts = (struct __kernel_timespec){
		.tv_sec = (int64_t)(timeout_ns / NS_PER_S),
		.tv_nsec = (int64_t)(timeout_ns % NS_PER_S),
	};
	metric_add(&u->be.counters.syscalls, 1);
	io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
}

/* --- completions --- */

static void dispatch(struct uring *u, const struct io_uring_cqe *cqe)
{
	enum u_kind kind = (enum u_kind)(cqe->user_data & 0xff);
	uint32_t record = cqe->user_data >> 8 & 0xff, owner = (uint32_t)(cqe->user_data >> 32);
	bool last = !(cqe->flags & IORING_CQE_F_MORE);
	struct u_stream *s = NULL;

	if (kind == UD_CANCEL)
		return;
	u->inflight -= last;
	if (kind >= UD_CONNECT) {
		s = &u->streams[owner];
		s->inflight -= last;
	}
	switch (kind) {
	case UD_WAKE:
		u->wake_armed = false;
		break;
	case UD_ACCEPT:
		accept_cqe(u, cqe->res, cqe->flags);
		break;
	case UD_REQUEST:
		request_cqe(u, &u->requests[owner], cqe->res);
		break;
	case UD_CONNECT:
		s->connect_armed = false;
		stream_connected(u, s, cqe->res);
		break;
	case UD_RECV:
		s->rx_armed = false;
		s->rx_has = true;
		s->rx_res = cqe->res;
		break;
	case UD_SEND:
	case UD_LEAD:
	case UD_ZC:
		tx_cqe(u, s, kind, record, cqe->res, cqe->flags);
		break;
	case UD_WATCH:
		rx_watched(u, s);
		break;
	case UD_CANCEL:
		break;
	}
	if (s)
		stream_ready(u, s);
}

void ring_drain(struct uring *u)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&u->ring, head, cqe)
	{
		dispatch(u, cqe);
		n++;
	}
	io_uring_cq_advance(&u->ring, n);
}

/* `woken` stands from the first wake until poll reports it, so that more wakes cost no system call. */
void uring_wake(struct be *be)
{
	struct uring *u = uring_of(be);
	uint64_t one = 1;

	if (atomic_exchange(&u->woken, true))
		return;
	while (write(u->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

/* SPDX-License-Identifier: MIT */
/*
 * Zero-copy on a kernel that cannot tell whether it was one, as Linux 6.1: the wish for a report is a flag that it does
 * not know. Here liburing's calls go through this program, which turns the flag into one that no kernel knows.
 */
#include "kmod-free-tests/uring_peer.h"
#include "transport/uring_impl.h"
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNKNOWN_FLAG (1u << 15)

static bool old_kernel;
static unsigned refused;

static void age(struct io_uring *ring)
{
	for (unsigned i = ring->sq.sqe_head; old_kernel && i != ring->sq.sqe_tail; i++) {
		struct io_uring_sqe *sqe = &ring->sq.sqes[i & ring->sq.ring_mask];

		if ((sqe->opcode != IORING_OP_SEND_ZC && sqe->opcode != IORING_OP_SENDMSG_ZC) ||
		    !(sqe->ioprio & IORING_SEND_ZC_REPORT_USAGE))
			continue;
		sqe->ioprio |= UNKNOWN_FLAG;
		refused++;
	}
}

static void *next_of(const char *name)
{
	void *f = dlsym(RTLD_NEXT, name);

	if (!f)
		fail_msg("%s: %s", name, dlerror());
	return f;
}

int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait_nr)
{
	age(ring);
	return ((int (*)(struct io_uring *, unsigned))next_of("io_uring_submit_and_wait"))(ring, wait_nr);
}

int io_uring_submit_and_get_events(struct io_uring *ring)
{
	age(ring);
	return ((int (*)(struct io_uring *))next_of("io_uring_submit_and_get_events"))(ring);
}

int io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe_ptr, unsigned wait_nr,
				     struct __kernel_timespec *ts, sigset_t *sigmask)
{
	age(ring);
	return ((int (*)(struct io_uring *, struct io_uring_cqe **, unsigned, struct __kernel_timespec *,
			 sigset_t *))next_of("io_uring_submit_and_wait_timeout"))(ring, cqe_ptr, wait_nr, ts, sigmask);
}

static unsigned registered(const struct side *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < U_SOURCES; i++)
		n += uring_of(s->be)->sources[i].registered;
	return n;
}

/* Known from the beginning: nothing is pinned for it, no send is refused, and whoever wished it is told. */
static int on_an_old_kernel(void)
{
	struct uring_opts o = peer_opts("zerocopy", "on", "zerocopy-threshold", "1", NULL);
	static uint8_t src[PEER_REGION_LEN];
	FILE *log = tmpfile();
	char text[400] = "";
	struct side a, b;
	struct err e;
	int bad = 0;

	old_kernel = true;
	if (!log || dup2(fileno(log), STDERR_FILENO) < 0)
		return 100;
	sides_open(&a, &b, &o);
	refused = 0;
	uring_ops.source_add(a.be, src, sizeof src, &e);
	bad |= registered(&a) != 0;
	sides_transfer(&a, &b, 5);
	bad |= (refused != 0) << 1;
	bad |= (a.be->counters.tx_copied_bytes != a.be->counters.tx_bytes) << 2;
	side_close(&a);
	side_close(&b);
	rewind(log);
	bad |= (!fgets(text, sizeof text, log) || !strstr(text, "zerocopy=on needs Linux 6.2")) << 3;
	return bad;
}

static void kernel_without_reports(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	fflush(NULL);
	pid = fork();
	if (!pid)
		_exit(on_an_old_kernel());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* A kernel that has it and refuses it later: what was pinned for it is given back. */
static void refused_later(void **state)
{
	struct uring_opts o = peer_opts("zerocopy", "on", "zerocopy-threshold", "1", NULL);
	static uint8_t src[PEER_REGION_LEN];
	struct side a, b;
	struct err e;

	(void)state;
	sides_open(&a, &b, &o);
	if (!uring_of(a.be)->buffers_ok) {
		side_close(&a);
		side_close(&b);
		print_message("skipped: this kernel has no zero-copy send\n");
		skip();
	}
	assert_int_equal(uring_ops.source_add(a.be, src, sizeof src, &e), 0);
	sides_transfer(&a, &b, 2);
	assert_int_equal(registered(&a), 1);
	old_kernel = true;
	sides_transfer(&a, &b, 5);
	assert_true(refused > 0);
	assert_int_equal(a.be->counters.zero_copy_fallbacks, 1);
	assert_int_equal(registered(&a), 0);
	uring_ops.source_drop(a.be, src);
	assert_int_equal(uring_ops.source_add(a.be, src, sizeof src, &e), 0);
	assert_int_equal(registered(&a), 0);
	sides_transfer(&a, &b, 2);
	old_kernel = false;
	side_close(&a);
	side_close(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kernel_without_reports), /* first: it asks the kernel, once in a process */
		cmocka_unit_test(refused_later),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

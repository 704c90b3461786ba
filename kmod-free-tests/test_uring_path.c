/* SPDX-License-Identifier: MIT */
/* The TCP backend and what the machine offers: zero-copy, routes, a kernel that refuses io_uring. */
#include "kmod-free-tests/uring_peer.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- zero-copy --- */

static uint64_t tx_sum(const struct side *s)
{
	return s->be->counters.tx_copied_bytes + s->be->counters.tx_zero_copy_bytes;
}

/* The loopback device copies always, and the counters say so. */
static void zero_copy_forced(void **state)
{
	struct uring_opts o = peer_opts("zerocopy", "on", "zerocopy-threshold", "1", NULL);
	struct side a, b;

	(void)state;
	sides_open(&a, &b, &o);
	sides_transfer(&a, &b, 20);
	assert_int_equal(tx_sum(&a), a.be->counters.tx_bytes);
	assert_int_equal(a.be->counters.tx_zero_copy_bytes, 0);
	assert_int_equal(b.be->counters.rx_copied_bytes, a.be->counters.tx_bytes);
	side_close(&a);
	side_close(&b);
}

static void zero_copy_registered(void **state)
{
	struct uring_opts o = peer_opts("zerocopy", "on", "zerocopy-threshold", "1", "send-buffer-size", "8192", NULL);
	uint8_t *src = malloc(PEER_REGION_LEN);
	struct side a, b;
	struct err e;

	(void)state;
	sides_open(&a, &b, &o);
	assert_int_equal(uring_ops.source_add(a.be, src, PEER_REGION_LEN, &e), 0);
	for (uint32_t i = 0; i < 40; i++) {
		struct be_put p[3] = { { src, 30000, b.token, 0, 1 },
				       { src + 30000, 30000, b.token, 30000, 2 },
				       { src + 60000, PEER_REGION_LEN - 60000, b.token, 60000, 3 } };

		if (i == 30)
			uring_ops.source_drop(a.be, src);
		peer_fill(src, PEER_REGION_LEN, i);
		assert_int_equal(uring_ops.put(a.be, a.stream, p, 3), 3);
		SIDES_UNTIL(&a, &b, b.placed == 3 * (i + 1) && a.done == 3 * (i + 1));
		assert_memory_equal(side_memory(&b), src, PEER_REGION_LEN);
	}
	assert_int_equal(tx_sum(&a), a.be->counters.tx_bytes);
	side_close(&a);
	side_close(&b);
	free(src);
}

static void zero_copy_auto_is_off_here(void **state)
{
	struct side a, b;

	(void)state;
	sides_open(&a, &b, NULL);
	sides_transfer(&a, &b, 10);
	assert_int_equal(a.be->counters.zero_copy_fallbacks, 0);
	assert_int_equal(a.be->counters.tx_copied_bytes, a.be->counters.tx_bytes);
	side_close(&a);
	side_close(&b);
}

/* --- two hosts, as two network namespaces with a wire between them --- */

struct hosts {
	int home, a, b; /* namespaces */
};

/* A shell command; fmt gets this process's number and arg. */
static bool run(const char *fmt, int arg)
{
	char command[256];
	int status;
	pid_t pid;

	snprintf(command, sizeof command, fmt, getpid(), arg);
	pid = fork();
	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	return waitpid(pid, &status, 0) == pid && status == 0;
}

static int here(void)
{
	return open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

static void hosts_leave(struct hosts *h)
{
	setns(h->home, CLONE_NEWNET);
	close(h->home);
	close(h->a);
	close(h->b);
}

static struct be_addr host_addr(const char *ip, uint16_t port)
{
	struct be_addr a = { .len = sizeof a.in };

	a.in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port) };
	inet_pton(AF_INET, ip, &a.in.sin_addr);
	return a;
}

/* Ends in host a, 10.213.0.1; b is 10.213.0.2; 10.214.0.0/16 is reported as unreachable. */
static void hosts_enter(struct hosts *h)
{
	*h = (struct hosts){ here(), -1, -1 };
	if (unshare(CLONE_NEWNET) == 0 && (h->a = here()) >= 0 && unshare(CLONE_NEWNET) == 0 && (h->b = here()) >= 0 &&
	    run("ip link add va type veth peer name vb && ip link set va netns /proc/%d/fd/%d", h->a) &&
	    run("ip addr add 10.213.0.2/24 dev vb && ip link set vb up", 0) && setns(h->a, CLONE_NEWNET) == 0 &&
	    run("ip addr add 10.213.0.1/24 dev va && ip link set va up && ip route add unreachable 10.214.0.0/16", 0))
		return;
	hosts_leave(h);
	print_message("skipped: no right to make network namespaces with a veth pair, or no ip(8)\n");
	skip();
}

/* A veth pair copies in the end: auto begins with zero-copy, learns it from the notifications and stops. */
static void zero_copy_falls_back(void **state)
{
	struct be_addr at = host_addr("10.213.0.2", 0);
	struct side a, b;
	struct hosts h;
	struct err e = { 0 };

	(void)state;
	hosts_enter(&h);
	side_open(&a, NULL, 2);
	side_open(&b, NULL, 2);
	side_region(&b);
	setns(h.b, CLONE_NEWNET);
	if (uring_ops.listen(b.be, &at, &b.at, &e) < 0)
		fail_msg("%s", e.why);
	setns(h.a, CLONE_NEWNET);
	for (uint32_t i = 1; i <= 2; i++) {
		sides_pair(&a, &b);
		sides_transfer(&a, &b, 20);
		assert_int_equal(tx_sum(&a), a.be->counters.tx_bytes);
		assert_int_equal(a.be->counters.tx_zero_copy_bytes, 0);
		assert_int_equal(a.be->counters.zero_copy_fallbacks, i);
	}
	side_close(&a);
	side_close(&b);
	hosts_leave(&h);
}

/* Auto is cubic between addresses of one host, whatever they are, and else the system's default. */
static void congestion_by_path(void **state)
{
	static const struct {
		const char *ip, *want;
	} cases[] = { { "10.213.0.1", "cubic" }, { "10.213.0.2", "reno" } };
	struct be_info info;
	struct side a, b;
	struct hosts h;
	struct err e = { 0 };

	(void)state;
	hosts_enter(&h);
	if (!run("ip link set lo up && echo reno >/proc/sys/net/ipv4/tcp_congestion_control", 0)) {
		hosts_leave(&h);
		print_message("skipped: the system's congestion control cannot be set here\n");
		skip();
	}
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct be_addr at = host_addr(cases[i].ip, 0);

		side_open(&a, NULL, 1);
		side_open(&b, NULL, 1);
		setns(i ? h.b : h.a, CLONE_NEWNET);
		if (uring_ops.listen(b.be, &at, &b.at, &e) < 0)
			fail_msg("%s", e.why);
		setns(h.a, CLONE_NEWNET);
		sides_pair(&a, &b);
		assert_int_equal(uring_ops.info(a.be, a.stream, &info), 0);
		assert_string_equal(info.congestion, cases[i].want);
		if (!i) { /* the other host has a default of its own */
			assert_int_equal(uring_ops.info(b.be, b.stream, &info), 0);
			assert_string_equal(info.congestion, cases[i].want);
		}
		side_close(&a);
		side_close(&b);
	}
	hosts_leave(&h);
}

static int next_fd(void)
{
	int fd = dup(STDIN_FILENO);

	close(fd);
	return fd;
}

static void assert_congestion(int fd, const char *want)
{
	char name[16] = "";
	socklen_t len = sizeof name - 1;

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len), 0);
	assert_string_equal(name, want);
}

/*
 * A socket that begins as BBR is paced for life, and at 2 GB/s instead of 5 on a loopback: on this host none may begin
 * so, neither the one that connects nor, from its listener, the accepted one.
 */
static void congestion_before_connection(void **state)
{
	static const struct {
		const char *ip, *want;
	} cases[] = { { "10.213.0.1", "cubic" }, { "127.0.0.1", "cubic" }, { "10.213.0.2", "reno" } };
	uint8_t pre[BE_PREAMBLE] = { 0 };
	struct hosts h;

	(void)state;
	hosts_enter(&h);
	if (!run("ip link set lo up && echo reno >/proc/sys/net/ipv4/tcp_congestion_control", 0)) {
		hosts_leave(&h);
		print_message("skipped: the system's congestion control cannot be set here\n");
		skip();
	}
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct be_addr at = host_addr(cases[i].ip, 0);
		struct side a;
		struct err e;
		int fd;

		side_open(&a, NULL, 1);
		if (!strcmp(cases[i].want, "cubic")) {
			fd = next_fd();
			assert_int_equal(uring_ops.listen(a.be, &at, &at, &e), 0);
			assert_congestion(fd, "cubic");
		}
		fd = next_fd();
		assert_int_equal(uring_ops.connect(a.be, &at, pre, PEER_DOMAIN, 1, &a.stream, &e), 0);
		assert_congestion(fd, cases[i].want);
		side_close(&a);
	}
	hosts_leave(&h);
}

static void unreachable(void **state)
{
	static const struct {
		const char *ip;
		int err;
	} cases[] = { { "203.0.113.9", -ENETUNREACH },
		      { "10.214.1.1", -EHOSTUNREACH },
		      { "10.213.0.2", -ECONNREFUSED } };
	uint8_t pre[BE_PREAMBLE] = { 0 };
	struct side a;
	struct hosts h;

	(void)state;
	hosts_enter(&h);
	side_open(&a, NULL, 1);
	for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct be_addr to = host_addr(cases[i].ip, 7411);
		struct err e;

		assert_int_equal(uring_ops.connect(a.be, &to, pre, PEER_DOMAIN, 1, &a.stream, &e), 0);
		SIDES_UNTIL(&a, NULL, a.down == i + 1);
		assert_int_equal(a.down_err, cases[i].err);
	}
	side_close(&a);
	hosts_leave(&h);
}

/* --- a machine that cannot --- */

static void refuse_io_uring(int with)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)with),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ARRAY_LEN(filter), filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		_exit(3);
}

/* In a child, since a filter never goes away: probe and open say why and what to do. */
static int probe_refused(int with, const char *word)
{
	struct be_open open = { .clock = clock_mono, .streams = 1, .frames = 1, .frame_bytes = 64, .sends = 1 };
	struct err e = { 0 }, o = { 0 };
	struct be *be;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		refuse_io_uring(with);
		if (uring_ops.probe(&e) != -with || !strstr(e.why, word))
			_exit(1);
		_exit(uring_ops.open(&open, &be, &o) == -with && strstr(o.why, word) ? 0 : 2);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void probe_says_why(void **state)
{
	int r = probe_refused(EPERM, "seccomp");

	(void)state;
	if (r == 3) {
		print_message("skipped: no seccomp filters here\n");
		skip();
	}
	assert_int_equal(r, 0);
	assert_int_equal(probe_refused(ENOSYS, "5.11"), 0);
	assert_int_equal(probe_refused(ENOMEM, "RLIMIT_MEMLOCK"), 0);
}

/* fcntl(F_SETFL) fails from now on. */
static bool refuse_set_flags(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fcntl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, F_SETFL, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ARRAY_LEN(filter), filter };

	return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static int descriptors(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* In a child: how many descriptors stay open after a time when none was left and nobody could be turned away. */
static int lost_descriptors(void)
{
	int first = descriptors(), next, peer;
	struct rlimit old, low;
	struct side s;

	side_open(&s, NULL, 1);
	side_listen(&s);
	peer = tcp_peer_connect(&s.at);
	if (!refuse_set_flags())
		return 77;
	next = dup(0);
	close(next);
	getrlimit(RLIMIT_NOFILE, &old);
	low = old;
	low.rlim_cur = (rlim_t)next;
	setrlimit(RLIMIT_NOFILE, &low);
	for (int i = 0; i < 30; i++) {
		side_poll(&s);
		uring_ops.wait(s.be, 5 * NS_PER_MS);
	}
	setrlimit(RLIMIT_NOFILE, &old);
	uring_ops.close(s.be);
	close(peer);
	return descriptors() - first;
}

static void spare_descriptor_stays(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	pid = fork();
	if (pid == 0)
		_exit(lost_descriptors());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("skipped: no seccomp filters here\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(zero_copy_forced),
		cmocka_unit_test(zero_copy_registered),
		cmocka_unit_test(zero_copy_auto_is_off_here),
		cmocka_unit_test(zero_copy_falls_back),
		cmocka_unit_test(congestion_by_path),
		cmocka_unit_test(congestion_before_connection),
		cmocka_unit_test(unreachable),
		cmocka_unit_test(probe_says_why),
		cmocka_unit_test(spare_descriptor_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

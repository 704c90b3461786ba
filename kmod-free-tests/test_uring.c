/* SPDX-License-Identifier: MIT */
/* The TCP backend beyond the contract: its ring modes, buffers, options and threads. */
#include "kmod-free-tests/uring_peer.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- rings and buffers --- */

static void transfer_with(const struct uring_opts *o, int rounds)
{
	struct side a, b;

	sides_open(&a, &b, o);
	sides_transfer(&a, &b, rounds);
	side_close(&a);
	side_close(&b);
}

static void tiny_buffers(void **state)
{
	struct uring_opts o =
		peer_opts("send-buffer-size", "4096", "recv-buffer-size", "4096", "recv-max", "4096", NULL);

	(void)state;
	transfer_with(&o, 8);
}

static void basic_ring(void **state)
{
	struct uring_opts o = peer_opts("ring-mode", "basic", "ring-entries", "16", NULL);

	(void)state;
	transfer_with(&o, 20);
}

/* More streams than the submission queue has entries. */
static void short_queue(void **state)
{
	struct uring_opts o = peer_opts("ring-entries", "16", NULL);
	uint8_t byte[16] = "one in each";
	struct side a, b;

	(void)state;
	side_open(&b, &o, 200);
	side_listen(&b);
	side_region(&b);
	side_open(&a, &o, 200);
	be_stream all[200];

	for (int i = 0; i < 200; i++) {
		sides_pair(&a, &b);
		all[i] = a.stream;
	}
	for (uint32_t i = 0; i < 200; i++) {
		struct be_put p = { byte, sizeof byte, b.token, i * sizeof byte, i };

		assert_int_equal(uring_ops.put(a.be, all[i], &p, 1), 1);
	}
	SIDES_UNTIL(&a, &b, b.placed == 200 && a.done == 200);
	for (size_t i = 0; i < 200; i++)
		assert_memory_equal(side_memory(&b) + i * sizeof byte, byte, sizeof byte);
	side_close(&b);
	SIDES_UNTIL(&a, NULL, a.down == 200);
	side_close(&a);
}

/* A bundle's limit is in vectors: an odd one first must not let it go one over. */
static void odd_bundle(const struct uring_opts *o)
{
	const uint32_t big = (1 << 20) + 50000, n = 127;
	uint8_t *src = malloc(big + n), *to = calloc(1, big + n);
	struct be_token token;
	struct be_put p[127];
	struct side a, b;
	struct err e = { 0 };

	peer_fill(src, big + n, 5);
	side_open(&b, o, 2);
	side_listen(&b);
	side_open_deep(&a, o, 2, 128);
	sides_pair(&a, &b);
	assert_int_equal(uring_ops.region_add(b.be, PEER_DOMAIN, 9, to, big + n, &token, &e), 0);
	for (uint32_t i = 0; i < n; i++)
		p[i] = (struct be_put){ src + big + i, 1, token, big + i, i };
	/* A message without body takes one vector. */
	assert_int_equal(uring_ops.send(a.be, a.stream, &(struct be_msg){ "head", 4, 0, NULL, 1 }, 1), 1);
	assert_int_equal(uring_ops.put(a.be, a.stream, p, (int)n), n);
	SIDES_UNTIL(&a, &b, b.placed == n && b.messages == 1 && a.done == n + 1);
	assert_memory_equal(to + big, src + big, n);
	/* So does the rest of a put that a bundle could not hold whole. */
	memset(to, 0, big + n);
	assert_int_equal(uring_ops.put(a.be, a.stream, &(struct be_put){ src, big, token, 0, 1 }, 1), 1);
	assert_int_equal(uring_ops.put(a.be, a.stream, p, (int)n), n);
	SIDES_UNTIL(&a, &b, b.placed == 2 * n + 1 && a.done == 2 * n + 2);
	assert_memory_equal(to, src, big + n);
	assert_int_equal(a.failed, 0);
	side_close(&a);
	side_close(&b);
	free(src);
	free(to);
}

static void odd_bundles(void **state)
{
	struct uring_opts zc = peer_opts("zerocopy", "on", "zerocopy-threshold", "1", NULL);

	(void)state;
	odd_bundle(NULL);
	odd_bundle(&zc);
}

/* The region of a put that has half arrived is busy until its stream is DOWN, and free from then on. */
static void dropped_while_arriving(void **state)
{
	uint8_t half[1000];
	struct tcp_frame f = { .type = TCP_FRAME_PUT, .len = 2000, .region = PEER_REGION };
	struct be_info info;
	struct side s;
	struct err e;
	int fd;

	(void)state;
	memset(half, 0x3c, sizeof half);
	side_open(&s, NULL, 2);
	side_listen(&s);
	side_region(&s);
	fd = peer_greet(&s);
	f.key = s.token.key;
	peer_frame(fd, &f);
	peer_write(fd, half, sizeof half);
	SIDES_UNTIL(&s, NULL, (uring_ops.info(s.be, s.stream, &info), info.bytes_received >= TCP_FRAME_HEADER + 1000));
	assert_memory_equal(side_memory(&s), half, sizeof half);
	for (int i = 0; i < 2; i++)
		assert_int_equal(uring_ops.region_drop(s.be, PEER_DOMAIN, PEER_REGION), -EBUSY);
	assert_int_equal(uring_ops.region_add(s.be, PEER_DOMAIN, PEER_REGION, s.memory, 1, &s.token, &e), -EEXIST);
	SIDES_UNTIL(&s, NULL, s.down == 1);
	assert_int_equal(s.down_err, -ECONNABORTED);
	assert_int_equal(uring_ops.region_add(s.be, PEER_DOMAIN, PEER_REGION, s.memory, 1, &s.token, &e), 0);
	side_close(&s);
	close(fd);
}

/* --- a reader that does not read --- */

static void slow_reader(void **state)
{
	uint8_t *src = malloc(1 << 20), *got = malloc(1 << 20), pre[BE_PREAMBLE] = { 0 }, answer[TCP_GREETING];
	uint8_t head[TCP_FRAME_HEADER];
	struct be_put p = { src, 1 << 20, { 1, 2 }, 0, 0 };
	struct tcp_frame f;
	uint32_t n = 0, read = 0;
	struct be_addr at;
	struct side a;
	struct err e;
	int listener = peer_listen(&at), fd;

	(void)state;
	peer_fill(src, 1 << 20, 9);
	side_open(&a, NULL, 1);
	assert_int_equal(uring_ops.connect(a.be, &at, pre, PEER_DOMAIN, 1, &a.stream, &e), 0);
	side_poll(&a);
	fd = accept(listener, NULL, NULL);
	tcp_greeting_encode(answer, TCP_STATUS_ACCEPTED, pre);
	peer_write(fd, answer, sizeof answer);
	SIDES_UNTIL(&a, NULL, a.connected == 1);
	assert_int_equal(peer_read(fd, pre, sizeof pre), sizeof pre);
	/* Until nothing moves any more: what was accepted and is not DONE stays bounded. */
	for (int quiet = 0; quiet < 50; quiet++) {
		if (uring_ops.put(a.be, a.stream, &p, 1) == 1)
			quiet = 0, n++;
		side_poll(&a);
		uring_ops.wait(a.be, NS_PER_MS);
		assert_true(n - a.done <= 16);
	}
	assert_true(a.be->counters.backpressure > 0);
	assert_true(n - a.done > 0);
	uring_ops.stream_close(a.be, a.stream, true);
	while (a.down == 0) {
		if (read < n && recv(fd, head, 1, MSG_PEEK | MSG_DONTWAIT) == 1 && peer_read(fd, head, 32) == 32) {
			assert_int_equal(tcp_frame_decode(head, &f), 0);
			assert_int_equal(f.len, 1 << 20);
			for (size_t have = 0; have < f.len;) {
				ssize_t k = recv(fd, got + have, f.len - have, MSG_DONTWAIT);

				have += k > 0 ? (size_t)k : 0;
				side_poll(&a);
			}
			assert_memory_equal(got, src, 1 << 20);
			read++;
		}
		if (read == n && recv(fd, head, 1, MSG_DONTWAIT) == 0)
			shutdown(fd, SHUT_WR);
		side_poll(&a);
	}
	assert_int_equal(a.done, n);
	assert_int_equal(a.failed, 0);
	assert_int_equal(a.down_err, -ECANCELED);
	side_close(&a);
	close(fd);
	close(listener);
	free(src);
	free(got);
}

/* A peer whose kernel answers and who takes nothing counts as gone after the idle time-out. */
static void reader_never_reads(void **state)
{
	struct uring_opts o = peer_opts("idle-timeout", "500ms", NULL);
	uint8_t *src = calloc(1, 1 << 20), pre[BE_PREAMBLE] = { 0 }, answer[TCP_GREETING];
	struct be_put p = { src, 1 << 20, { 1, 2 }, 0, 0 };
	struct be_addr at;
	struct side a;
	struct err e;
	int listener = peer_listen(&at), fd;

	(void)state;
	side_open(&a, &o, 1);
	assert_int_equal(uring_ops.connect(a.be, &at, pre, PEER_DOMAIN, 1, &a.stream, &e), 0);
	side_poll(&a);
	fd = accept(listener, NULL, NULL);
	tcp_greeting_encode(answer, TCP_STATUS_ACCEPTED, pre);
	peer_write(fd, answer, sizeof answer);
	SIDES_UNTIL(&a, NULL, a.connected == 1);
	SIDES_UNTIL(&a, NULL, (uring_ops.put(a.be, a.stream, &p, 1), a.down == 1));
	assert_int_equal(a.down_err, -ETIMEDOUT);
	assert_true(a.failed > 0);
	side_close(&a);
	close(fd);
	close(listener);
	free(src);
}

/* --- options reach the socket --- */

/* The descriptor of the stream's socket, found by its local address. */
static int socket_of(struct side *s)
{
	struct be_info info;

	assert_int_equal(uring_ops.info(s->be, s->stream, &info), 0);
	for (int fd = 3; fd < 256; fd++) {
		struct be_addr local = { .len = sizeof local.ss }, peer = { .len = sizeof peer.ss };

		if (getsockname(fd, &local.sa, &local.len) || getpeername(fd, &peer.sa, &peer.len))
			continue;
		if (local.in.sin_port == info.local.in.sin_port && peer.in.sin_port == info.peer.in.sin_port)
			return fd;
	}
	fail_msg("the stream has no socket");
	return -1;
}

static int64_t sock_int(int fd, int level, int name)
{
	int64_t v = 0;
	socklen_t len = sizeof v;

	assert_int_equal(getsockopt(fd, level, name, &v, &len), 0);
	return len == sizeof(int) ? (int)v : v;
}

static void options_reach_the_socket(void **state)
{
	struct uring_opts o = peer_opts("pacing-enabled", "true", "pacing-rate", "800Mbps", "keepalive-interval", "7s",
					"idle-timeout", "9s", "congestion_algorithm", "reno", "send-buffer-size",
					"100000", "nodelay", "true", NULL);
	struct be_info info;
	struct side a, b;
	int fd;

	(void)state;
	sides_open(&a, &b, &o);
	fd = socket_of(&a);
	assert_int_equal(sock_int(fd, SOL_SOCKET, SO_MAX_PACING_RATE), 100000000);
	assert_int_equal(sock_int(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(sock_int(fd, IPPROTO_TCP, TCP_KEEPIDLE), 7);
	assert_int_equal(sock_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 9000);
	assert_int_equal(sock_int(fd, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(sock_int(fd, SOL_SOCKET, SO_SNDBUF), 200000);
	assert_int_equal(uring_ops.info(a.be, a.stream, &info), 0);
	assert_string_equal(info.congestion, "reno");
	assert_int_equal(info.bytes_sent, BE_PREAMBLE);
	assert_int_equal(info.bytes_received, TCP_GREETING);
	assert_true(info.rtt_ns > 0 && info.cwnd_bytes > 0);
	side_close(&a);
	side_close(&b);
}

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

static bool drop_net_admin(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2];

	if (syscall(SYS_capget, &head, caps))
		return false;
	caps[CAP_TO_INDEX(CAP_NET_ADMIN)].effective &= ~CAP_TO_MASK(CAP_NET_ADMIN);
	return syscall(SYS_capset, &head, caps) == 0;
}

/* In a child without the capability: 0, or which step failed. */
static int buffers_unprivileged(const char *log)
{
	struct uring_opts within = peer_opts("send-buffer-size", "100000", NULL);
	struct uring_opts over = peer_opts("send-buffer-size", "1GB", "recv-buffer-size", "1GB", NULL);
	char text[4096] = "";
	struct side a, b;
	int fd;

	if (!drop_net_admin() || !freopen(log, "w+", stderr))
		return 1;
	sides_open(&a, &b, &within);
	if (sock_int(socket_of(&a), SOL_SOCKET, SO_SNDBUF) != 200000)
		return 2;
	side_close(&a);
	side_close(&b);
	if (ftell(stderr))
		return 3;
	for (int i = 0; i < 3; i++) {
		sides_open(&a, &b, &over);
		fd = socket_of(&a);
		if (sock_int(fd, SOL_SOCKET, SO_BUF_LOCK)) /* fixed sizes, which the kernel does not tune */
			return 4;
		side_close(&a);
		side_close(&b);
	}
	fd = open(log, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof text - 1) <= 0)
		return 5;
	close(fd);
	for (int i = 0; i < 2; i++) {
		const char *name = i ? "net.core.rmem_max" : "net.core.wmem_max", *at = strstr(text, name);

		if (!at || strstr(at + 1, name))
			return 6;
	}
	return 0;
}

static bool have_address(const struct be_addr *a)
{
	int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok;
	struct be_addr any_port = *a;

	any_port.in.sin_port = 0;
	ok = fd >= 0 && bind(fd, &any_port.sa, any_port.len) == 0;
	if (fd >= 0)
		close(fd);
	return ok;
}

/* More than sysctl allows and no CAP_NET_ADMIN: the kernel goes on tuning, and the user is told once. */
static void buffers_over_the_limit(void **state)
{
	char log[] = "/tmp/dwcp-test-XXXXXX";
	int64_t lock = 0;
	socklen_t len = sizeof lock;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), limit, status;
	pid_t pid;

	(void)state;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){ INT32_MAX / 2 }, sizeof(int));
	limit = (int)sock_int(fd, SOL_SOCKET, SO_SNDBUF);
	status = getsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &lock, &len);
	close(fd);
	if (status || limit >= 1 << 30 || limit < 200000) {
		print_message("skipped: wmem_max is unusual here, or the kernel is older than 5.14\n");
		skip();
	}
	fd = mkstemp(log);
	assert_true(fd >= 0);
	close(fd);
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		_exit(buffers_unprivileged(log));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	unlink(log);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void no_such_congestion_control(void **state)
{
	struct uring_opts o = peer_opts("congestion", "nonesuch", NULL);
	struct be_open open = {
		.opts = &o, .clock = clock_mono, .streams = 1, .frames = 1, .frame_bytes = 64, .sends = 1
	};
	struct err e = { 0 };
	struct be *be;

	(void)state;
	assert_int_equal(uring_ops.open(&open, &be, &e), -EINVAL);
	assert_non_null(strstr(e.why, "nonesuch"));
	assert_non_null(strstr(e.why, "reno"));
}

/* "*" is every address: clients of both families get in. */
static void any_address(void **state)
{
	struct be_addr at, to;
	struct side a, b;
	struct err e = { 0 };

	(void)state;
	side_open(&a, NULL, 4);
	side_open(&b, NULL, 4);
	side_region(&b);
	assert_int_equal(addr_resolve("*:0", 1, true, &at, 1, &e), 1);
	if (uring_ops.listen(b.be, &at, &at, &e) < 0)
		fail_msg("%s", e.why);
	for (int i = 0; i < 2; i++) {
		uint16_t port = ntohs(at.sa.sa_family == AF_INET6 ? at.in6.sin6_port : at.in.sin_port);

		assert_int_equal(addr_resolve(i ? "::1" : "127.0.0.1", port, false, &to, 1, &e), 1);
		if (i && !have_address(&to)) {
			print_message("IPv6 was not tried: this machine has no ::1\n");
			break;
		}
		b.at = to;
		sides_pair(&a, &b);
		sides_transfer(&a, &b, 2);
	}
	side_close(&a);
	side_close(&b);
}

/* --- threads --- */

struct worker {
	struct side s;
	pthread_t thread;
	atomic_bool stop;
	_Atomic(struct be_request *) handed; /* accept it */
	atomic_uint accepted, placed, messages;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	uint8_t reply[BE_PREAMBLE] = "from the worker";

	while (!atomic_load(&w->stop)) {
		struct be_request *r = atomic_exchange(&w->handed, NULL);

		if (r && uring_ops.accept(w->s.be, r, reply, PEER_DOMAIN, 1, &w->s.stream) == 0)
			atomic_fetch_add(&w->accepted, 1);
		side_poll(&w->s);
		atomic_store(&w->placed, w->s.placed);
		atomic_store(&w->messages, w->s.messages);
		uring_ops.wait(w->s.be, NS_PER_S);
	}
	return NULL;
}

/* Opened and closed here, used there; requests go from the listener's thread to the worker's. */
static void requests_across_threads(void **state)
{
	uint8_t pre[BE_PREAMBLE] = { 0 }, src[1000];
	struct side listener, client;
	struct worker w = { 0 };
	struct err e;

	(void)state;
	side_open(&listener, NULL, 4);
	side_listen(&listener);
	listener.auto_accept = false;
	side_open(&w.s, NULL, 4);
	side_region(&w.s);
	side_open(&client, NULL, 4);
	memset(src, 0x3c, sizeof src);
	assert_int_equal(pthread_create(&w.thread, NULL, work, &w), 0);
	for (uint32_t i = 0; i < 40; i++) {
		struct be_put p = { src, sizeof src, w.s.token, 0, 1 };
		struct be_msg m = { "end", 3, 0, NULL, 2 };

		assert_int_equal(uring_ops.connect(client.be, &listener.at, pre, PEER_DOMAIN, 1, &client.stream, &e),
				 0);
		SIDES_UNTIL(&client, &listener, listener.incoming == i + 1);
		if (i % 4 == 3) {
			uring_ops.reject(w.s.be, listener.request, pre);
			SIDES_UNTIL(&client, &listener, client.down == i + 1);
			assert_int_equal(client.down_err, -ECONNREFUSED);
			continue;
		}
		atomic_store(&w.handed, listener.request);
		uring_ops.wake(w.s.be);
		SIDES_UNTIL(&client, &listener,
			    client.connected == atomic_load(&w.accepted) && client.connected == i - i / 4 + 1);
		assert_int_equal(uring_ops.put(client.be, client.stream, &p, 1), 1);
		assert_int_equal(uring_ops.send(client.be, client.stream, &m, 1), 1);
		SIDES_UNTIL(&client, &listener, atomic_load(&w.messages) == i - i / 4 + 1);
		assert_int_equal(atomic_load(&w.placed), i - i / 4 + 1);
		uring_ops.stream_close(client.be, client.stream, true);
		SIDES_UNTIL(&client, &listener, client.down == i + 1);
	}
	atomic_store(&w.stop, true);
	uring_ops.wake(w.s.be);
	pthread_join(w.thread, NULL);
	assert_int_equal(side_memory(&w.s)[0], 0x3c);
	side_close(&w.s);
	side_close(&client);
	side_close(&listener);
}

/* close by another thread, after the owner ended with traffic under way: nothing is written afterwards. */
static void close_elsewhere(void **state)
{
	static uint8_t src[PEER_REGION_LEN];
	struct worker w = { 0 };
	struct side client;

	(void)state;
	side_open(&w.s, NULL, 4);
	side_listen(&w.s);
	side_region(&w.s);
	client.be = NULL;
	side_open(&client, NULL, 4);
	assert_int_equal(pthread_create(&w.thread, NULL, work, &w), 0);
	client.at = w.s.at;
	assert_int_equal(uring_ops.connect(client.be, &w.s.at, src, PEER_DOMAIN, 1, &client.stream, NULL), 0);
	SIDES_UNTIL(&client, NULL, client.connected == 1);
	memset(src, 0x44, sizeof src);
	while (client.done < 50) {
		struct be_put p = { src, sizeof src, w.s.token, 0, 1 };

		uring_ops.put(client.be, client.stream, &p, 1);
		side_poll(&client);
	}
	atomic_store(&w.stop, true);
	uring_ops.wake(w.s.be);
	pthread_join(w.thread, NULL);
	uring_ops.close(w.s.be);
	w.s.be = NULL;
	memset(side_memory(&w.s), 0x55, PEER_REGION_LEN);
	SIDES_UNTIL(&client, NULL, client.down == 1);
	for (size_t i = 0; i < PEER_REGION_LEN; i++)
		assert_int_equal(side_memory(&w.s)[i], 0x55);
	side_close(&client);
	side_close(&w.s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tiny_buffers),
		cmocka_unit_test(basic_ring),
		cmocka_unit_test(short_queue),
		cmocka_unit_test(odd_bundles),
		cmocka_unit_test(dropped_while_arriving),
		cmocka_unit_test(slow_reader),
		cmocka_unit_test(reader_never_reads),
		cmocka_unit_test(options_reach_the_socket),
		cmocka_unit_test(buffers_over_the_limit),
		cmocka_unit_test(no_such_congestion_control),
		cmocka_unit_test(any_address),
		cmocka_unit_test(requests_across_threads),
		cmocka_unit_test(close_elsewhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * Whole sessions over TCP on 127.0.0.1: the server in a thread of its own, several workers on both sides, sockets
 * broken while data moves, peers that are no dwcp. Memory and files are compared byte for byte.
 *
 * check: timeout=240 tsan
 */
#include "kmod-free-tests/sim_files.h"
#include "kmod-free-tests/store_fixture.h"
#include "transport/client.h"
#include "transport/server.h"
#include "transport/uring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BYTES (8u << 20)

/*
 * liburing maps its rings by system calls that ThreadSanitizer does not see: a ring is taken for the one that another
 * thread had at the same address before. test_uring watches over that file with rings that stay.
 */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:transport/uring_ring.c\n";
}

static struct server *server;
static pthread_t server_thread;
static sem_t opened;
static bool stopping;
static struct be_addr at;
static uint8_t *src, *dst;

static pthread_t opened_by;

static int no_filter(struct stage *out, const struct filter_target *to, unsigned workers, struct err *e)
{
	(void)out, (void)to, (void)workers;
	opened_by = pthread_self();
	return err_set(e, -ENOMEM, "there is no memory for this filter");
}

static const struct filter slow_filter = { .name = "slow", .open = no_filter };
static const struct filter *const filters[] = { &slow_filter, NULL };

static struct server_config server_shape(struct store *st)
{
	return (struct server_config){
		.ops = &uring_ops,
		.listen = at,
		.workers = 3,
		.sessions = 3, /* as many as test_sessions_side_by_side has clients: who left does not count */
		.memory_max = 256u << 20,
		.store = st,
		.timeout_ns = 5 * NS_PER_S,
		.clock = clock_mono,
		.release = "test",
		.filters = filters
	};
}

/* A server belongs to one thread from open to close. */
static void *serve(void *st)
{
	struct server_config cfg = server_shape(st);
	struct err e = { 0 };
	int rc = server_open(&server, &cfg, &e);

	if (rc < 0)
		print_message("%s\n", e.why);
	else
		at = *server_bound(server);
	sem_post(&opened);
	while (rc == 0 && !__atomic_load_n(&stopping, __ATOMIC_ACQUIRE))
		server_turn(server, 20 * NS_PER_MS);
	if (rc == 0)
		server_close(server);
	return NULL;
}

static void start_server(struct store *st)
{
	server = NULL;
	stopping = false;
	sem_init(&opened, 0, 0);
	assert_int_equal(pthread_create(&server_thread, NULL, serve, st), 0);
	while (sem_wait(&opened) < 0)
		;
	assert_non_null(server);
}

static void stop_server(void)
{
	__atomic_store_n(&stopping, true, __ATOMIC_RELEASE); /* no wake: it may be gone already */
	pthread_join(server_thread, NULL);
	server = NULL;
}

static void at_any_port(void)
{
	at = (struct be_addr){ .len = sizeof at.in };
	at.in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static int setup(void **state)
{
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	src = malloc(BYTES);
	dst = calloc(1, BYTES);
	if (!src || !dst)
		return -1;
	rng_fill(src, BYTES, 77);
	return store_setup(state);
}

static int teardown(void **state)
{
	free(src);
	free(dst);
	src = NULL;
	return store_teardown(state);
}

/* Without io_uring there is nothing to test. */
static void need_uring(void)
{
	struct err e;

	if (uring_ops.probe(&e) < 0) {
		print_message("SKIP: %s\n", e.why);
		skip();
	}
}

static struct client_config client_shape(unsigned streams)
{
	struct client_config cfg = { .target = "127.0.0.1",
				     .addrs = &at,
				     .n_addrs = 1,
				     .ops = &uring_ops,
				     .streams = streams,
				     .workers = streams < 3 ? streams : 3,
				     .stage_chunk = 65536,
				     .sum = SUM_XXH3,
				     .timeout_ns = 5 * NS_PER_S,
				     .clock = clock_mono };

	return cfg;
}

static struct client *join(unsigned streams)
{
	struct client_config cfg = client_shape(streams);
	struct client *c = NULL;
	struct err e = { 0 };

	if (client_open(&c, &cfg, NULL, &e) < 0)
		fail_msg("%s", e.why);
	assert_int_equal(client_streams_up(c), streams);
	return c;
}

static int send_once(struct client *c, struct be_token t, uint64_t seed, const struct client_tick *tick, struct err *e)
{
	struct amst_extent x = { .len = BYTES };
	struct amst_tx tx = {
		.chunk = 65536, .sum = SUM_XXH3, .passes = 1, .extents = &x, .n_extents = 1, .base = src, .token = t
	};

	rng_fill(src, BYTES, seed);
	return client_transfer(c, &tx, XFER_PUT, tick, NULL, e);
}

static void expect_same(struct client *c)
{
	struct digest128 there, here = digest128_of(src, BYTES);
	struct err e = { 0 };

	if (client_digest(c, 1, 0, BYTES, &there, &e) < 0)
		fail_msg("%s", e.why);
	assert_true(there.lo == here.lo && there.hi == here.hi);
}

/* ---- breaking sockets --------------------------------------------------------------------------- */

/* Shuts down one TCP connection of this process to or from the server's port, both ends of which are ours: the
 * `pick`th found; false when there are fewer. */
static bool break_socket(unsigned pick)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *entry;
	bool done = false;

	assert_non_null(d);
	while (!done && (entry = readdir(d))) {
		struct sockaddr_in local = { 0 }, peer = { 0 };
		socklen_t len = sizeof local, plen = sizeof peer;
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] == '.' || getsockname(fd, (struct sockaddr *)&local, &len) ||
		    getpeername(fd, (struct sockaddr *)&peer, &plen) || local.sin_family != AF_INET)
			continue;
		if (local.sin_port != at.in.sin_port && peer.sin_port != at.in.sin_port)
			continue;
		if (pick--)
			continue;
		shutdown(fd, SHUT_RDWR);
		done = true;
	}
	closedir(d);
	return done;
}

struct breaker {
	uint64_t rng;
	unsigned breaks, left;
};

#define BREAKS_AT_ONCE 16
#define QUIET_NS (400 * NS_PER_MS) /* a slow machine answers within it, else it would never get on */

/* A thread that breaks sockets every few milliseconds: ticks come too rarely on loopback. Each row of breaks ends with
 * time enough for an answer. */
static void *break_often(void *ctx)
{
	struct breaker *b = ctx;

	while (__atomic_load_n(&b->left, __ATOMIC_RELAXED)) {
		struct timespec t = { .tv_nsec = 1000000 + (long)(rng_next(&b->rng) % 4000000) };

		nanosleep(&t, NULL);
		if (!break_socket((unsigned)(rng_next(&b->rng) % 14)) || ++b->breaks % BREAKS_AT_ONCE)
			continue;
		t.tv_nsec = QUIET_NS;
		nanosleep(&t, NULL);
	}
	return NULL;
}

static void test_sockets_break_while_regions_move(void **state)
{
	struct breaker b = { .rng = 5, .left = 1 };
	struct client *c;
	struct be_token t;
	struct err e = { 0 };
	pthread_t breaker;
	uint64_t until;

	(void)state;
	need_uring();
	at_any_port();
	start_server(NULL);
	c = join(6);
	assert_int_equal(client_region_make(c, 1, BYTES, 0, &t, NULL, &e), 0);
	assert_int_equal(pthread_create(&breaker, NULL, break_often, &b), 0);
	until = clock_now(&clock_mono) + 3 * NS_PER_S;
	for (uint64_t seed = 1; clock_now(&clock_mono) < until || !client_resumes(c) || client_reconnects(c) < 10;
	     seed++) {
		if (send_once(c, t, seed, NULL, &e) < 0)
			break;
		expect_same(c);
		assert_true(clock_now(&clock_mono) < until + 60 * NS_PER_S);
	}
	__atomic_store_n(&b.left, 0, __ATOMIC_RELAXED);
	pthread_join(breaker, NULL);
	if (e.code)
		fail_msg("%s", e.why);
	assert_true(client_reconnects(c) >= 10);
	assert_true(client_resumes(c) >= 1);
	/* Left alone, every stream comes back. */
	until = clock_now(&clock_mono) + 10 * NS_PER_S;
	while (client_streams_up(c) < 6 && clock_now(&clock_mono) < until)
		assert_int_equal(client_turn(c, 10 * NS_PER_MS, &e), 0);
	assert_int_equal(client_streams_up(c), 6);
	assert_int_equal(send_once(c, t, 1000, NULL, &e), 0);
	expect_same(c);
	client_close(c);
	stop_server();
}

static void test_sockets_break_while_regions_come(void **state)
{
	struct breaker b = { .rng = 6, .left = 1 };
	struct be_token there, here;
	struct msg_pull_result r;
	struct client *c;
	struct err e = { 0 };
	pthread_t breaker;

	(void)state;
	need_uring();
	at_any_port();
	start_server(NULL);
	c = join(6);
	assert_int_equal(client_region_make(c, 1, BYTES, 9, &there, NULL, &e), 0);
	assert_int_equal(client_region_offer(c, 2, dst, BYTES, &here, &e), 0);
	rng_fill(src, BYTES, 9);
	assert_int_equal(pthread_create(&breaker, NULL, break_often, &b), 0);
	for (int i = 0; i < 20 && !e.code; i++) {
		memset(dst, 0, BYTES);
		if (client_pull(c, 1, 2, here, BYTES, BYTES, 3, 65536, NULL, &r, &e) < 0)
			break;
		assert_memory_equal(dst, src, BYTES);
	}
	__atomic_store_n(&b.left, 0, __ATOMIC_RELAXED);
	pthread_join(breaker, NULL);
	if (e.code)
		fail_msg("%s", e.why);
	assert_true(b.breaks > 3);
	client_close(c);
	stop_server();
}

static void test_sockets_break_while_files_move(void **state)
{
	struct breaker b = { .rng = 7, .left = 1 };
	struct sim_files v = { .n = 4 };
	struct client *c;
	struct err e = { 0 };
	pthread_t breaker;
	int rc = 0;

	(void)state;
	need_uring();
	at_any_port();
	start_server(store);
	for (unsigned i = 0; i < v.n; i++) {
		snprintf(v.f[i].name, sizeof v.f[i].name, "d%u/f", i);
		v.f[i].size = BYTES / (i + 1);
		v.f[i].data = src;
	}
	c = join(5);
	assert_int_equal(pthread_create(&breaker, NULL, break_often, &b), 0);
	for (int i = 0; i < 10 && rc == 0; i++) {
		rc = sim_files_open(c, &v, false, &e);
		rc = rc < 0 ? rc : sim_files_send(c, &v, 65536, SUM_XXH3, NULL, NULL, &e);
		rc = rc < 0 ? rc : sim_files_close(c, &v, true, &e);
		for (unsigned k = 0; k < v.n && rc == 0; k++)
			tree_expect(dir, v.f[k].name, src, v.f[k].size);
	}
	__atomic_store_n(&b.left, 0, __ATOMIC_RELAXED);
	pthread_join(breaker, NULL);
	if (rc < 0)
		fail_msg("%s", e.why);
	client_close(c);
	stop_server();
}

/* ---- several at once ---------------------------------------------------------------------------- */

static void *one_client(void *arg)
{
	struct client_config cfg = client_shape(4);
	struct amst_extent x = { .len = 1 << 20 };
	struct amst_tx tx = { .chunk = 65536, .sum = SUM_CRC32C, .passes = 3, .extents = &x, .n_extents = 1 };
	uint8_t *mine = malloc(1 << 20);
	struct digest128 d, here;
	struct client *c = NULL;
	struct err e = { 0 };
	bool ok = false;

	rng_fill(mine, 1 << 20, (uintptr_t)arg);
	tx.base = mine;
	if (client_open(&c, &cfg, NULL, &e) == 0 && client_region_make(c, 1, 1 << 20, 0, &tx.token, NULL, &e) == 0 &&
	    client_transfer(c, &tx, XFER_PUT, NULL, NULL, &e) == 0 && client_digest(c, 1, 0, 1 << 20, &d, &e) == 0) {
		here = digest128_of(mine, 1 << 20);
		ok = d.lo == here.lo && d.hi == here.hi;
	}
	if (!ok)
		print_message("%s\n", e.why);
	client_close(c);
	free(mine);
	return ok ? arg : NULL;
}

static void test_sessions_side_by_side(void **state)
{
	pthread_t t[3];
	struct server_counters sc;
	struct amst_counters ac;
	struct be_counters bc;
	void *rc;

	(void)state;
	need_uring();
	at_any_port();
	start_server(NULL);
	for (int round = 0; round < 3; round++) {
		for (uintptr_t i = 0; i < 3; i++)
			assert_int_equal(pthread_create(&t[i], NULL, one_client, (void *)(i + 1)), 0);
		for (int i = 0; i < 20; i++) {
			json_t *j = server_stats(server); /* from another thread than the server's */

			assert_non_null(json_object_get(j, "sessions"));
			json_decref(j);
			usleep(500);
		}
		for (int i = 0; i < 3; i++) {
			pthread_join(t[i], &rc);
			assert_non_null(rc);
		}
	}
	for (int i = 0; i < 400; i++) {
		server_counters(server, &sc, &ac, &bc);
		if (!sc.sessions_now)
			break;
		usleep(10000);
	}
	assert_int_equal(sc.sessions_started, 9);
	assert_int_equal(sc.sessions_ended, 9);
	assert_int_equal(sc.sessions_failed, 0);
	assert_int_equal(sc.streams_now, 0);
	assert_int_equal(sc.region_bytes_now, 0);
	assert_int_equal(ac.bytes_placed, 9ull * 3 << 20);
	stop_server();
}

/* ---- what blocks --------------------------------------------------------------------------------- */

static ssize_t encode_nothing(void *stage, unsigned worker, const struct stage_chunk *c, void *out, size_t cap)
{
	(void)stage, (void)worker, (void)c, (void)out, (void)cap;
	return -EIO;
}

/* A filter's memory is made by the session's job thread: the others' requests do not wait for it. */
static void test_filter_opens_in_a_job(void **state)
{
	static const struct stage_ops ops = { .name = "slow", .filter = "slow", .encode = encode_nothing };
	struct stage stage = { .ops = &ops };
	struct amst_extent x = { .len = BYTES };
	struct amst_tx tx = {
		.chunk = 65536, .sum = SUM_XXH3, .passes = 1, .extents = &x, .n_extents = 1, .base = src, .stage = &stage
	};
	struct client *c;
	struct err e = { 0 };

	(void)state;
	need_uring();
	at_any_port();
	start_server(NULL);
	c = join(1);
	assert_int_equal(client_region_make(c, 1, BYTES, 0, &tx.token, NULL, &e), 0);
	assert_int_equal(client_transfer(c, &tx, XFER_PUT, NULL, NULL, &e), -ENOMEM);
	assert_non_null(strstr(e.why, "no memory for this filter"));
	client_close(c);
	stop_server();
	assert_false(pthread_equal(opened_by, server_thread));
}

/* ---- ends ---------------------------------------------------------------------------------------- */

struct endless {
	struct err e;
	int rc;
	double close_s;
};

static bool note_move(void *ctx, uint64_t now, uint64_t bytes)
{
	(void)now;
	if (bytes)
		sem_post(ctx);
	return false;
}

static sem_t moving;

static void *send_endlessly(void *arg)
{
	struct endless *x = arg;
	struct client_config cfg = client_shape(4);
	struct client_tick tick = { .fn = note_move, .ctx = &moving };
	struct amst_extent ext = { .len = BYTES };
	struct amst_tx tx = {
		.chunk = 65536, .sum = SUM_XXH3, .passes = UINT64_MAX, .extents = &ext, .n_extents = 1, .base = src
	};
	struct client *c = NULL;
	uint64_t started;

	x->rc = client_open(&c, &cfg, NULL, &x->e);
	x->rc = x->rc < 0 ? x->rc : client_region_make(c, 1, BYTES, 0, &tx.token, NULL, &x->e);
	x->rc = x->rc < 0 ? x->rc : client_transfer(c, &tx, XFER_PUT, &tick, NULL, &x->e);
	sem_post(&moving);
	started = clock_now(&clock_mono);
	client_close(c);
	x->close_s = (double)(clock_now(&clock_mono) - started) / 1e9;
	return NULL;
}

/* One in the middle of a transfer, one that says nothing and does not listen either. */
static void test_server_closes_with_live_sessions(void **state)
{
	struct endless x = { 0 };
	struct client *b;
	pthread_t sender;
	uint64_t started;

	(void)state;
	need_uring();
	at_any_port();
	start_server(NULL);
	sem_init(&moving, 0, 0);
	b = join(2);
	assert_int_equal(pthread_create(&sender, NULL, send_endlessly, &x), 0);
	sem_wait(&moving);
	started = clock_now(&clock_mono);
	stop_server();
	assert_true(clock_now(&clock_mono) - started < 5 * NS_PER_S);
	pthread_join(sender, NULL);
	if (x.rc != -ESHUTDOWN || !strstr(x.e.why, "shutting down"))
		fail_msg("%d %s", x.rc, x.e.why);
	assert_true(x.close_s < 3);
	client_close(b);
}

static void test_no_server(void **state)
{
	struct client_config cfg = client_shape(1);
	struct client *c = NULL;
	struct err e = { 0 };

	(void)state;
	need_uring();
	at_any_port();
	start_server(NULL);
	stop_server();
	assert_int_equal(client_open(&c, &cfg, NULL, &e), -ECONNREFUSED);
	assert_non_null(strstr(e.why, "dwcp serve"));
	assert_null(c);
}

/* A killed server, with a process of its own: the client resumes into nothing and says so in time. */
static void test_server_process_is_killed(void **state)
{
	struct be_token t;
	struct err e = { 0 };
	struct client *c;
	uint64_t started;
	int fds[2], status;
	pid_t pid;

	(void)state;
	need_uring();
	at_any_port();
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct server_config cfg = server_shape(NULL);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (server_open(&server, &cfg, &e) < 0 || write(fds[1], server_bound(server), sizeof at) != sizeof at)
			_exit(1);
		for (;;)
			server_turn(server, NS_PER_S);
	}
	assert_int_equal(read(fds[0], &at, sizeof at), sizeof at);
	c = join(4);
	assert_int_equal(client_region_make(c, 1, BYTES, 0, &t, NULL, &e), 0);
	assert_int_equal(send_once(c, t, 1, NULL, &e), 0);
	kill(pid, SIGKILL);
	started = clock_now(&clock_mono);
	assert_int_equal(send_once(c, t, 2, NULL, &e), -ETIMEDOUT);
	assert_non_null(strstr(e.why, "--resume"));
	assert_true(clock_now(&clock_mono) - started < 12 * NS_PER_S);
	client_close(c);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(fds[0]);
	close(fds[1]);
}

/* ---- strangers ----------------------------------------------------------------------------------- */

static int dial(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, &at.sa, at.len), 0);
	return fd;
}

static void test_strangers_at_the_server(void **state)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
	int idle[40], fd;
	uint8_t junk[4096];
	struct be_token t;
	struct client *c;
	struct err e = { 0 };

	(void)state;
	need_uring();
	at_any_port();
	start_server(NULL);
	for (unsigned i = 0; i < ARRAY_LEN(idle); i++)
		idle[i] = dial(); /* half open: they say nothing */
	for (unsigned i = 0; i < 20; i++) {
		fd = dial();
		rng_fill(junk, sizeof junk, i);
		if (send(fd, i % 2 ? (const void *)junk : http, i % 2 ? sizeof junk : strlen(http), MSG_NOSIGNAL) < 0)
			assert_true(errno == EPIPE || errno == ECONNRESET);
		if (i % 4 == 1) { /* enough to be judged; less is waited for, in bounds */
			struct pollfd p = { .fd = fd, .events = POLLIN };

			assert_int_equal(poll(&p, 1, 5000), 1); /* closed, or told */
		}
		close(fd);
	}
	c = join(4);
	assert_int_equal(client_region_make(c, 1, BYTES, 0, &t, NULL, &e), 0);
	assert_int_equal(send_once(c, t, 3, NULL, &e), 0);
	expect_same(c);
	client_close(c);
	for (unsigned i = 0; i < ARRAY_LEN(idle); i++)
		close(idle[i]);
	stop_server();
}

/* Something else listens there, and speaks first. */
static void *ssh_banner(void *arg)
{
	int fd, listener = *(int *)arg;

	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		char buf[256];

		if (send(fd, "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", 32, MSG_NOSIGNAL) > 0)
			while (recv(fd, buf, sizeof buf, 0) > 0)
				;
		close(fd);
	}
	return NULL;
}

static void test_stranger_at_the_client(void **state)
{
	struct client_config cfg = client_shape(1);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	struct client *c = NULL;
	struct err e = { 0 };
	pthread_t t;

	(void)state;
	need_uring();
	at_any_port();
	assert_int_equal(bind(listener, &at.sa, at.len), 0);
	assert_int_equal(listen(listener, 8), 0);
	assert_int_equal(getsockname(listener, &at.sa, &at.len), 0);
	assert_int_equal(pthread_create(&t, NULL, ssh_banner, &listener), 0);
	assert_int_equal(client_open(&c, &cfg, NULL, &e), -EPROTO);
	print_message("%s\n", e.why);
	assert_non_null(strstr(e.why, "dwcp serve"));
	shutdown(listener, SHUT_RDWR);
	pthread_join(t, NULL);
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_server_process_is_killed), /* first: forks, which sanitizers bear before threads */
		cmocka_unit_test(test_sockets_break_while_regions_move),
		cmocka_unit_test(test_sockets_break_while_regions_come),
		cmocka_unit_test(test_sockets_break_while_files_move),
		cmocka_unit_test(test_sessions_side_by_side),
		cmocka_unit_test(test_filter_opens_in_a_job),
		cmocka_unit_test(test_server_closes_with_live_sessions),
		cmocka_unit_test(test_no_server),
		cmocka_unit_test(test_strangers_at_the_server),
		cmocka_unit_test(test_stranger_at_the_client),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

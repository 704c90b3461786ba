/* SPDX-License-Identifier: MIT */
/* check: tsan timeout=100 no-valgrind alone */
/*
 * How true an emulated link is, from outside: probes between its namespaces, looked at where the receiving kernel
 * stamped them, so that a busy machine does not make a link look slow. Loss is counted, delay is a quantile over many
 * probes, a rate is how fast a queue drains that was filled before.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/util.h"
#include "bench/linkemu.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sock_diag.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT 5201
#define PROBES_MAX 200000u
#define PROBES 200u
#define HEADERS 28u /* IPv4 and UDP */
#define MS NS_PER_MS

/* What probes carry. */
struct probe {
	uint64_t sent_ns;
	uint32_t seq;
};

/* What both sides and the test share. */
struct shared {
	_Atomic bool ready, stop;
	uint32_t received, dropped_by_socket;
	uint64_t sent_ns[PROBES_MAX], at_ns[PROBES_MAX]; /* of what came, in its order; the kernel's stamps */
	uint32_t seq[PROBES_MAX];
	int64_t result;
};

static struct shared *shared;
static char name[LINK_NAME_MAX + 1];
static int owner = -1;
static char missing[400]; /* what this machine lacks; "": nothing */

static uint64_t wall_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* ---- links ------------------------------------------------------------------------------------- */

static struct link_settings settings(void)
{
	static const struct link_opts nothing;
	struct link_settings s;

	assert_int_equal(link_settings_make(&s, NULL, &nothing, NULL), 0);
	return s;
}

static void up(const struct link_settings *s)
{
	struct err e = { .why = "" };

	if (*missing) {
		print_message("%s\n", missing);
		skip();
	}
	if (linkemu_up(name, s, &owner, &e) < 0)
		fail_msg("%s", e.why);
}

static void set(const struct link_settings *s)
{
	struct err e = { .why = "" };

	if (linkemu_set(name, s, &e) < 0)
		fail_msg("%s", e.why);
}

static int down(void **state)
{
	(void)state;
	if (owner < 0)
		return 0;
	linkemu_down(name, NULL);
	close(owner);
	owner = -1;
	return 0;
}

static int64_t counter(const char *direction, const char *key)
{
	json_t *status = NULL;
	int64_t v;

	assert_int_equal(linkemu_status(name, &status, NULL), 0);
	v = json_integer_value(json_object_get(json_object_get(status, direction), key));
	json_decref(status);
	return v;
}

/* Runs f on one side, in a process of its own. */
static pid_t start(enum link_side side, int (*f)(void *arg), void *arg)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(linkemu_join(name, side, NULL) < 0 ? 99 : f(arg));
	}
	return pid;
}

static void finish(pid_t pid)
{
	int status = 0;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- probes ------------------------------------------------------------------------------------ */

static void note(const struct msghdr *m, const struct probe *p)
{
	struct timespec t = { 0 };
	uint32_t n = shared->received;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)m, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS)
			memcpy(&t, CMSG_DATA(c), sizeof(t));
	if (n == PROBES_MAX)
		return;
	shared->at_ns[n] = (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
	shared->sent_ns[n] = p->sent_ns;
	shared->seq[n] = p->seq;
	shared->received = n + 1;
}

/* Receives until it is told to stop and nothing has come for a while. */
static int receiver(void *arg)
{
	const struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	int s = socket(AF_INET, SOCK_DGRAM, 0), on = 1, room = 128 << 20;
	uint32_t info[SK_MEMINFO_VARS] = { 0 };
	socklen_t len = sizeof(info);

	(void)arg;
	setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (setsockopt(s, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on)) < 0 ||
	    bind(s, (const struct sockaddr *)&at, sizeof(at)) < 0)
		return 1;
	shared->ready = true;
	for (;;) {
		struct pollfd fd = { .fd = s, .events = POLLIN };
		char control[128];
		struct probe p[128];
		struct iovec iov = { .iov_base = p, .iov_len = sizeof(p) };
		struct msghdr m = {
			.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
		};
		bool stop = shared->stop;

		if (recvmsg(s, &m, MSG_DONTWAIT) >= (ssize_t)sizeof(p[0]))
			note(&m, &p[0]);
		else if (poll(&fd, 1, 100) == 0 && stop)
			break;
	}
	getsockopt(s, SOL_SOCKET, SO_MEMINFO, info, &len);
	shared->dropped_by_socket = info[SK_MEMINFO_DROPS];
	return 0;
}

struct load {
	uint32_t n, bytes; /* of IP */
	uint32_t burst;    /* sent at once… */
	uint64_t pause_ns; /* …then a pause */
	uint32_t ahead; /* at most that many more than have come, else the device's own queue drops some; 0: no bound */
};

static uint32_t next_to_come(void)
{
	uint32_t n = shared->received;

	return n ? shared->seq[n - 1] + 1 : 0;
}

static int sender(void *arg)
{
	const struct load *l = arg;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	char data[65536] = { 0 };

	inet_pton(AF_INET, LINK_IPV4 "2", &to.sin_addr);
	if (connect(s, (const struct sockaddr *)&to, sizeof(to)) < 0)
		return 1;
	for (uint32_t i = 0; i < l->n; i++) {
		const struct timespec pause = { .tv_nsec = (long)l->pause_ns };
		struct probe p = { .sent_ns = wall_ns(), .seq = i };

		memcpy(data, &p, sizeof(p));
		if (send(s, data, l->bytes - HEADERS, 0) < 0)
			return 2;
		if ((i + 1) % l->burst == 0 && l->pause_ns)
			nanosleep(&pause, NULL);
		for (unsigned k = 0; l->ahead && i + 1 - next_to_come() > l->ahead && k < 10000; k++)
			usleep(100); /* all of them may be lost: not forever */
	}
	return 0;
}

static pid_t start_receiver(void)
{
	pid_t pid;

	memset(shared, 0, sizeof(*shared));
	pid = start(LINK_B, receiver, NULL);
	while (!shared->ready) {
		int status;

		assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
		poll(NULL, 0, 5);
	}
	return pid;
}

/* Sends it all and receives what comes. */
static void probe(struct load load)
{
	pid_t to = start_receiver();

	finish(start(LINK_A, sender, &load));
	poll(NULL, 0, 200); /* longer than any delay here */
	shared->stop = true;
	finish(to);
}

/* ---- accuracy ---------------------------------------------------------------------------------- */

/* ThreadSanitizer makes the link's own thread several times slower: what it finds is not about accuracy. */
static void needs_full_speed(void)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
	print_message("skipped: a sanitizer slows the link down\n");
	skip();
#endif
}

static void test_delay(void **state)
{
	static const unsigned delays[] = { 1, 25, 100 };

	(void)state;
	needs_full_speed();
	for (size_t i = 0; i < ARRAY_LEN(delays); i++) {
		struct link_settings s = settings();
		double delay[PROBES], median;

		s.dir[LINK_AB].delay_ns = delays[i] * MS;
		s.dir[LINK_AB].rate = 1000000000;
		if (owner < 0)
			up(&s);
		else
			set(&s);
		probe((struct load){ .n = PROBES, .bytes = 100, .burst = 1, .pause_ns = MS });
		assert_int_equal(shared->received, PROBES);
		for (unsigned k = 0; k < PROBES; k++)
			delay[k] = (double)(shared->at_ns[k] - shared->sent_ns[k]) / 1e6;
		median = stats_median(delay, PROBES); /* sorts */
		print_message("delay of %u ms: least %.3f, median %.3f, p90 %.3f ms\n", delays[i], delay[0], median,
			      delay[PROBES * 9 / 10]);
		assert_true(delay[0] >= delays[i]);
		assert_true(delay[PROBES / 4] <= delays[i] + .5);
	}
}

static void check_loss(double percent, double burst, double within)
{
	struct load load = { .n = 100000, .bytes = 60, .burst = 1000, .ahead = 500 };
	uint32_t came, lost, bursts = 0, next = 0;
	double share;

	probe(load);
	came = shared->received + shared->dropped_by_socket;
	lost = load.n - came;
	share = (double)lost / load.n * 100;
	for (uint32_t i = 0; i < shared->received; i++) {
		bursts += shared->seq[i] != next;
		next = shared->seq[i] + 1;
	}
	print_message("loss of %g %%: %.3f %% in %u runs (%u more were lost by a full socket)\n", percent, share,
		      bursts, shared->dropped_by_socket);
	assert_true(fabs(share / percent - 1) < within);
	if (!shared->dropped_by_socket)
		assert_true(fabs((double)lost / bursts / burst - 1) < .15);
}

static void test_loss(void **state)
{
	struct link_settings s = settings();

	(void)state;
	needs_full_speed();
	s.dir[LINK_AB].loss = 1;
	up(&s);
	check_loss(1, 1 / .99, .1);
	assert_int_equal(counter("ab", "packets_lost"), 100000 - shared->received - shared->dropped_by_socket);
	s.dir[LINK_AB].loss = 5;
	s.dir[LINK_AB].loss_burst = 8;
	set(&s);
	check_loss(5, 8, .1);
}

/* Of packets [from, to) the one that came least late, at this rate: a busy machine delivers some of them late. */
static uint32_t most_punctual(uint32_t from, uint32_t to, uint64_t rate)
{
	double least = INFINITY;
	uint32_t best = from;

	for (uint32_t i = from; i < to; i++) {
		double late = (double)(shared->at_ns[i] - shared->at_ns[from]) -
			      (double)(shared->seq[i] - shared->seq[from]) * 1500 * 8e9 / (double)rate;

		if (late < least) {
			least = late;
			best = i;
		}
	}
	return best;
}

/* A queue is filled at almost no rate, then the rate is set: it drains at that. In bits per second. */
static double drain(struct link_settings *s, uint64_t rate, uint32_t packets)
{
	struct load load = { .n = packets, .bytes = 1500, .burst = 100, .pause_ns = 100000 };
	pid_t to = start_receiver();
	uint32_t first, last;
	double seen;

	s->dir[LINK_AB].rate = 1000;
	set(s);
	finish(start(LINK_A, sender, &load));
	s->dir[LINK_AB].rate = rate;
	set(s);
	while (counter("ab", "queue_bytes"))
		poll(NULL, 0, 20);
	shared->stop = true;
	finish(to);
	assert_true(shared->received > packets / 2); /* a socket may have lost some at the end */
	first = most_punctual(shared->received / 10, shared->received * 4 / 10, rate);
	last = most_punctual(shared->received * 7 / 10, shared->received, rate);
	seen = (double)(shared->seq[last] - shared->seq[first]) * 1500 * 8e9 /
	       (double)(shared->at_ns[last] - shared->at_ns[first]);
	print_message("rate of %g Mb/s: %.1f Mb/s over %.0f ms\n", (double)rate / 1e6, seen / 1e6,
		      (double)(shared->at_ns[last] - shared->at_ns[first]) / 1e6);
	return seen;
}

#define WINDOWS 5
#define NO_RATE 100000000000

/*
 * At 2 Gb/s the pump needs most of a CPU: whoever takes part of it slows the link, and nothing makes it faster. So a
 * window counts only if the link without a rate, at once after it, was half as fast again.
 */
static void check_high_rate(struct link_settings *s, uint64_t rate, uint32_t packets)
{
	double most = 0;
	unsigned counted = 0;

	for (int k = 0; k < WINDOWS; k++) {
		double seen = drain(s, rate, packets) / (double)rate;
		double able = drain(s, NO_RATE, packets) / (double)rate;

		assert_true(seen < 1.03);
		if (able < 1.5)
			continue;
		counted++;
		most = fmax(most, seen);
	}
	if (counted)
		assert_true(most > .97);
	else
		print_message("skipped: the link cannot do %g Mb/s here, having too little of a CPU\n",
			      (double)rate / 1e6);
}

static void test_rate(void **state)
{
	static const struct {
		uint64_t rate;
		uint32_t packets;
	} rows[] = { { 10000000, 500 }, { 300000000, 8000 }, { 1000000000, 20000 } };
	struct link_settings s = settings();

	(void)state;
	needs_full_speed();
	s.dir[LINK_AB].queue = 80u << 20;
	s.dir[LINK_AB].rate = 1000;
	up(&s);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		double seen[WINDOWS];

		for (int k = 0; k < WINDOWS; k++)
			seen[k] = drain(&s, rows[i].rate, rows[i].packets) / (double)rows[i].rate;
		assert_true(fabs(stats_median(seen, WINDOWS) - 1) < .03);
	}
	check_high_rate(&s, 2000000000, 40000);
}

static void test_reordering_and_duplicates(void **state)
{
	struct link_settings s = settings();
	uint32_t highest = 0, late = 0, twice = 0;
	static uint8_t seen[20000];

	(void)state;
	s.dir[LINK_AB].reorder = 2;
	s.dir[LINK_AB].reorder_delay_ns = 3 * MS;
	s.dir[LINK_AB].duplicate = 5;
	up(&s);
	memset(seen, 0, sizeof(seen));
	probe((struct load){ .n = 20000, .bytes = 60, .burst = 100, .pause_ns = MS });
	assert_int_equal(shared->received + shared->dropped_by_socket, 20000 + counter("ab", "packets_duplicated"));
	for (uint32_t i = 0; i < shared->received; i++) {
		twice += seen[shared->seq[i]]++;
		late += shared->seq[i] < highest;
		highest = (uint32_t)max_u64(highest, shared->seq[i]);
	}
	print_message("%u late of 2 %%, %u twice of 5 %% of 20000\n", late, twice);
	assert_in_range(twice, 850, 1150);
	assert_in_range(late, 300, 550); /* some of them twice */
}

/* ---- TCP --------------------------------------------------------------------------------------- */

#define STREAM_BYTES (8u << 20)

static int tcp_receiver(void *arg)
{
	int family = *(const int *)arg, l = socket(family, SOCK_STREAM, 0), s, on = 1;
	const struct sockaddr_in6 at6 = { .sin6_family = AF_INET6, .sin6_port = htons(PORT) };
	const struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	uint8_t *got = malloc(STREAM_BYTES), *want = malloc(STREAM_BYTES);
	size_t n = 0;
	ssize_t r;

	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(l, family == AF_INET ? (const void *)&at : (const void *)&at6,
		 family == AF_INET ? sizeof(at) : sizeof(at6)) < 0 ||
	    listen(l, 1) < 0)
		return 1;
	shared->ready = true;
	s = accept(l, NULL, NULL);
	while (n < STREAM_BYTES && (r = recv(s, got + n, STREAM_BYTES - n, 0)) > 0)
		n += (size_t)r;
	rng_fill(want, STREAM_BYTES, 11);
	return n == STREAM_BYTES && !memcmp(got, want, STREAM_BYTES) ? 0 : 2;
}

static int tcp_sender(void *arg)
{
	int family = *(const int *)arg, s = socket(family, SOCK_STREAM, 0);
	struct sockaddr_in6 to6 = { .sin6_family = AF_INET6, .sin6_port = htons(PORT) };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	uint8_t *data = malloc(STREAM_BYTES);
	size_t n = 0;
	ssize_t r;

	inet_pton(AF_INET, LINK_IPV4 "2", &to.sin_addr);
	inet_pton(AF_INET6, LINK_IPV6 "2", &to6.sin6_addr);
	rng_fill(data, STREAM_BYTES, 11);
	if (connect(s, family == AF_INET ? (const void *)&to : (const void *)&to6,
		    family == AF_INET ? sizeof(to) : sizeof(to6)) < 0)
		return 3;
	while (n < STREAM_BYTES && (r = send(s, data + n, STREAM_BYTES - n, MSG_NOSIGNAL)) > 0)
		n += (size_t)r;
	return n == STREAM_BYTES ? 0 : 4;
}

/* What offload joins, the link takes apart, loses in parts and joins again: TCP's bytes stay what they were. */
static void test_tcp_over_what_loses(void **state)
{
	static const struct {
		int family;
		bool offload;
	} rows[] = { { AF_INET, true }, { AF_INET6, true }, { AF_INET, false } };

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct link_settings s = settings();
		int family = rows[i].family, probe_fd = socket(family, SOCK_DGRAM, 0);
		pid_t to;

		if (probe_fd < 0)
			continue; /* a kernel without IPv6 */
		close(probe_fd);
		s.common.offload = rows[i].offload;
		for (int d = 0; d < 2; d++) {
			s.dir[d].delay_ns = 500000;
			s.dir[d].rate = 1000000000;
			s.dir[d].loss = .5;
			s.dir[d].reorder = .5;
			s.dir[d].reorder_delay_ns = 300000;
			s.dir[d].duplicate = 1;
		}
		up(&s);
		memset(shared, 0, sizeof(*shared));
		to = start(LINK_B, tcp_receiver, &family);
		while (!shared->ready)
			poll(NULL, 0, 5);
		finish(start(LINK_A, tcp_sender, &family));
		finish(to);
		assert_true(counter("ab", "packets_lost") > 0);
		assert_true(counter("ab", "packets_in") >= STREAM_BYTES / 1500); /* of its MTU, each one */
		down(state);
	}
}

/* ---- ends -------------------------------------------------------------------------------------- */

static int sleeper(void *arg)
{
	(void)arg;
	signal(SIGTERM, SIG_IGN);
	shared->ready = true;
	for (int i = 0; i < 100; i++)
		poll(NULL, 0, 1000);
	return 0;
}

/* Its process is killed: what ran in it ends, and the name is free. */
static void test_killed(void **state)
{
	struct link_settings s = settings();
	json_t *status = NULL;
	int end = 0;
	pid_t pid;

	(void)state;
	up(&s);
	memset(shared, 0, sizeof(*shared));
	pid = start(LINK_A, sleeper, NULL);
	while (!shared->ready)
		poll(NULL, 0, 5);
	assert_int_equal(linkemu_status(name, &status, NULL), 0);
	assert_int_equal(kill((pid_t)json_integer_value(json_object_get(status, "pid")), SIGKILL), 0);
	json_decref(status);
	assert_int_equal(waitpid(pid, &end, 0), pid);
	assert_true(WIFSIGNALED(end) && WTERMSIG(end) == SIGKILL);
	close(owner);
	up(&s);
}

/* Its owner is gone: so is it. */
static void test_owner_gone(void **state)
{
	struct link_settings s = settings();
	struct err e;
	int rc = 0;

	(void)state;
	up(&s);
	close(owner);
	owner = -1;
	for (int i = 0; i < 500 && (rc = linkemu_status(name, &(json_t *){ NULL }, &e)) != -ENOENT; i++)
		poll(NULL, 0, 20);
	assert_int_equal(rc, -ENOENT);
}

static int can_run(void **state)
{
	struct link_settings s = settings();
	struct err e = { .why = "" };

	(void)state;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	snprintf(name, sizeof(name), "test-%d", (int)getpid());
	if (linkemu_up(name, &s, &owner, &e) < 0) {
		if (e.code != -EPERM && e.code != -EACCES && e.code != -ENOENT && e.code != -ENODEV &&
		    e.code != -ENOSYS)
			fail_msg("%s", e.why);
		snprintf(missing, sizeof(missing), "%s", e.why);
	}
	return down(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_delay, down),
		cmocka_unit_test_teardown(test_loss, down),
		cmocka_unit_test_teardown(test_rate, down),
		cmocka_unit_test_teardown(test_reordering_and_duplicates, down),
		cmocka_unit_test_teardown(test_tcp_over_what_loses, down),
		cmocka_unit_test_teardown(test_killed, down),
		cmocka_unit_test_teardown(test_owner_gone, down),
	};

	return cmocka_run_group_tests(tests, can_run, NULL);
}

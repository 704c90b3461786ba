/* SPDX-License-Identifier: MIT */
/*
 * rawloop: the fastest plain loop this project knows, to compare `dwcp benchmark amst` with. A sender and a receiver
 * process over loopback; worker i of both on CPU i; stream s belongs to worker s % W on both sides, so that the two
 * ends of a stream share a CPU and its cache. Both regions are touched before anything is timed. The receiver counts
 * its bytes over --duration, after --omit.
 */
#include "base/clock.h"
#include "base/hugebuf.h"
#include "base/json.h"
#include "base/opt.h"
#include "base/proc.h"
#include "bench/rawloop_uring.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STREAMS_MAX 512
#define WORKERS_MAX 64

struct raw_opts {
	uint32_t streams, workers;
	uint64_t chunk, region;
	uint64_t duration_ns, omit_ns;
	bool pinned;
	char json[4096];
};

#define FIELD(f) offsetof(struct raw_opts, f)

static const struct opt rows[] = {
	{ .name = "streams",
	  .type = OPT_U32,
	  .offset = FIELD(streams),
	  .def = "2",
	  .min = 1,
	  .max = STREAMS_MAX,
	  .help = "connections" },
	{ .name = "workers",
	  .type = OPT_U32,
	  .offset = FIELD(workers),
	  .def = "auto",
	  .min = 1,
	  .max = WORKERS_MAX,
	  .auto_ok = true,
	  .help = "threads per side; auto: one per CPU, at most one per stream" },
	{ .name = "chunk-size",
	  .type = OPT_SIZE,
	  .offset = FIELD(chunk),
	  .def = "256KB",
	  .min = 4096,
	  .max = 64u << 20,
	  .help = "bytes of one operation" },
	{ .name = "region",
	  .type = OPT_SIZE,
	  .offset = FIELD(region),
	  .def = "1GB",
	  .min = 4096,
	  .max = 1ull << 46,
	  .help = "memory on each side, walked through again and again" },
	{ .name = "duration",
	  .type = OPT_TIME,
	  .offset = FIELD(duration_ns),
	  .def = "2s",
	  .min = NS_PER_MS,
	  .max = 3600 * NS_PER_S,
	  .help = "time measured" },
	{ .name = "omit",
	  .type = OPT_TIME,
	  .offset = FIELD(omit_ns),
	  .def = "1s",
	  .max = 3600 * NS_PER_S,
	  .help = "time before that" },
	{ .name = "pinned",
	  .type = OPT_BOOL,
	  .offset = FIELD(pinned),
	  .def = "yes",
	  .help = "worker i on the i-th CPU on both sides" },
	{ .name = "json",
	  .type = OPT_STR,
	  .offset = FIELD(json),
	  .def = "",
	  .max = sizeof(((struct raw_opts *)0)->json),
	  .optional_value = "-",
	  .unit = "FILE",
	  .help = "print one JSON object instead of the one number" },
};

/* One process: the sender, or the receiver. */
struct side {
	const struct raw_opts *o;
	bool receive;
	struct hugebuf region;
	struct raw_stream streams[WORKERS_MAX][STREAMS_MAX];
	struct raw_worker workers[WORKERS_MAX];
	pthread_t threads[WORKERS_MAX];
	int rc[WORKERS_MAX];
	unsigned started;
	bool stop;
};

/* What the receiver tells the sender: once when its memory is touched, once at the end. */
struct report {
	int rc;
	uint64_t bytes, ns, cpu_ns;
	struct err err;
};

static struct side side;

struct thread_arg {
	unsigned i;
};

static struct thread_arg thread_args[WORKERS_MAX];

static void pin(unsigned i)
{
	cpu_set_t may, one;
	unsigned n;

	if (sched_getaffinity(0, sizeof(may), &may) < 0)
		return;
	n = (unsigned)CPU_COUNT(&may);
	for (unsigned cpu = 0, at = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &may) || at++ != i % n)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
	}
}

static void *thread(void *arg)
{
	unsigned i = ((struct thread_arg *)arg)->i;

	if (side.o->pinned)
		pin(i);
	side.rc[i] = raw_worker_run(&side.workers[i]);
	return NULL;
}

static void sleep_ns(uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S) };

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR)
		;
}

/* ---- set-up ------------------------------------------------------------------------------------ */

static void tune(int fd)
{
	setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5); /* buffers stay at the kernel's tuning */
}

static int listen_on(struct sockaddr_in *at, struct err *e)
{
	socklen_t len = sizeof(*at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*at = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	if (fd < 0)
		return err_set(e, -errno, "cannot make a socket: %s; raise ulimit -n", strerror(errno));
	tune(fd);
	if (bind(fd, (struct sockaddr *)at, len) == 0 && listen(fd, STREAMS_MAX) == 0 &&
	    getsockname(fd, (struct sockaddr *)at, &len) == 0)
		return fd;
	err_set(e, -errno, "cannot listen on loopback: %s; is the interface lo up?", strerror(errno));
	close(fd);
	return e->code;
}

static int open_stream(int listener, const struct sockaddr_in *at)
{
	int fd = listener >= 0 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC)
			       : socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	tune(fd);
	if (listener < 0 && connect(fd, (const struct sockaddr *)at, sizeof(*at)) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd;
}

/* One after the other, so that the s-th of both sides is the same connection. */
static int open_streams(int listener, const struct sockaddr_in *at, struct err *e)
{
	const struct raw_opts *o = side.o;

	for (unsigned s = 0; s < o->streams; s++) {
		struct raw_worker *w = &side.workers[s % o->workers];
		int fd = open_stream(listener, at);

		if (fd < 0)
			return err_set(e, fd, "cannot open stream %u: %s; raise ulimit -n", s, strerror(-fd));
		w->streams[w->n_streams++].fd = fd;
	}
	return 0;
}

static int open_side(const struct raw_opts *o, bool receive, struct err *e)
{
	int rc = hugebuf_alloc(&side.region, o->region, true, e);

	if (rc < 0)
		return rc;
	side.o = o;
	side.receive = receive;
	rng_fill(side.region.addr, side.region.len, 1);
	for (unsigned i = 0; i < o->workers; i++) {
		struct raw_worker *w = &side.workers[i];

		w->receive = receive;
		w->chunk = o->chunk;
		w->len = o->region / o->workers / o->chunk * o->chunk;
		w->base = (char *)side.region.addr + i * w->len;
		w->streams = side.streams[i];
		w->stop = &side.stop;
	}
	return 0;
}

static int start(struct err *e)
{
	for (; side.started < side.o->workers; side.started++) {
		struct thread_arg *arg = &thread_args[side.started];
		int rc;

		arg->i = side.started;
		rc = pthread_create(&side.threads[side.started], NULL, thread, arg);
		if (rc)
			return err_set(e, -rc, "no thread: %s; raise ulimit -u", strerror(rc));
	}
	return 0;
}

static int join(struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; i < side.started; i++) {
		pthread_join(side.threads[i], NULL);
		if (side.rc[i] < 0 && rc == 0)
			rc = err_set(e, side.rc[i],
				     "%s %u failed: %s; is io_uring disabled (kernel.io_uring_disabled)?",
				     side.receive ? "receiver" : "sender", i, strerror(-side.rc[i]));
	}
	return rc;
}

/* ---- receiver ---------------------------------------------------------------------------------- */

static uint64_t received(bool *ended)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < side.o->workers; i++) {
		sum += __atomic_load_n(&side.workers[i].bytes, __ATOMIC_RELAXED);
		*ended |= __atomic_load_n(&side.workers[i].ended, __ATOMIC_ACQUIRE);
	}
	return sum;
}

static int count(struct report *r)
{
	bool ended = false;
	uint64_t bytes, at, cpu;

	sleep_ns(side.o->omit_ns);
	bytes = received(&ended);
	cpu = proc_cpu_ns();
	at = clock_now(&clock_mono);
	sleep_ns(side.o->duration_ns);
	r->bytes = received(&ended) - bytes;
	r->ns = clock_now(&clock_mono) - at;
	r->cpu_ns = proc_cpu_ns() - cpu;
	return ended ? err_set(&r->err, -EPIPE, "a stream ended before the time was over") : 0;
}

static __attribute__((noreturn)) void receiver(const struct raw_opts *o, int listener, int out, pid_t parent)
{
	struct report r = { 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	r.rc = open_side(o, true, &r.err);
	if (write(out, &r, sizeof(r)) != sizeof(r) || r.rc < 0)
		_exit(1);
	r.rc = open_streams(listener, NULL, &r.err);
	if (r.rc >= 0)
		r.rc = start(&r.err);
	if (r.rc >= 0)
		r.rc = count(&r);
	if (write(out, &r, sizeof(r)) != sizeof(r) || r.rc < 0)
		_exit(1);
	_exit(join(&r.err) < 0);
}

/* ---- sender ------------------------------------------------------------------------------------ */

static int hear(int in, struct report *r, struct err *e)
{
	ssize_t n;

	do
		n = read(in, r, sizeof(*r));
	while (n < 0 && errno == EINTR);
	if (n != sizeof(*r))
		return err_set(e, -ECHILD, "the receiver process died; is there memory for two regions?");
	if (r->rc < 0)
		*e = r->err;
	return r->rc;
}

static int sender(const struct raw_opts *o, const struct sockaddr_in *at, int in, struct report *r, struct err *e)
{
	struct err why = { 0 };
	int rc = open_side(o, false, e), joined;

	if (rc >= 0)
		rc = hear(in, r, e);
	if (rc >= 0)
		rc = open_streams(-1, at, e);
	if (rc >= 0)
		rc = start(e);
	if (rc >= 0)
		rc = hear(in, r, e);
	__atomic_store_n(&side.stop, true, __ATOMIC_RELAXED);
	joined = join(&why);
	if (rc >= 0 && joined < 0)
		*e = why;
	return rc < 0 ? rc : joined;
}

static int measure(const struct raw_opts *o, struct report *r, struct err *e)
{
	struct sockaddr_in at;
	pid_t me = getpid(), pid;
	int fds[2], rc, listener = listen_on(&at, e);

	if (listener < 0)
		return listener;
	if (pipe(fds) < 0 || (pid = fork()) < 0)
		return err_set(e, -errno, "cannot start the receiver: %s; raise ulimit -u", strerror(errno));
	if (pid == 0)
		receiver(o, listener, fds[1], me);
	close(fds[1]);
	close(listener);
	rc = sender(o, &at, fds[0], r, e);
	if (rc < 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return rc;
}

/* ---- options and result ------------------------------------------------------------------------ */

static int decide(struct raw_opts *o, struct err *e)
{
	cpu_set_t may;

	if (!o->workers)
		o->workers = sched_getaffinity(0, sizeof(may), &may) < 0 ? 1 : (uint32_t)CPU_COUNT(&may);
	o->workers = (uint32_t)min_u64(min_u64(o->workers, WORKERS_MAX), o->streams);
	if (o->region / o->workers < o->chunk)
		return err_set(e, -EINVAL, "--region: each of %u workers needs a chunk of its own; choose more",
			       o->workers);
	return 0;
}

static int print(const struct raw_opts *o, const struct report *r, struct err *e)
{
	double rate = (double)r->bytes / (double)r->ns;
	json_t *result, *more;
	int rc;

	if (!o->json[0]) {
		printf("%.3f\n", rate);
		return 0;
	}
	result = json_result("rawloop", true);
	more = json_pack("{s:I, s:I, s:b, s:I, s:I, s:s, s:I, s:f, s:f, s:f}", "streams", (json_int_t)o->streams,
			 "workers", (json_int_t)o->workers, "pinned", o->pinned, "chunk_bytes", (json_int_t)o->chunk,
			 "region_bytes", (json_int_t)o->region, "pages", huge_kind_name(side.region.kind), "bytes",
			 (json_int_t)r->bytes, "seconds", (double)r->ns / 1e9, "gbytes_per_s", rate,
			 "receiver_cpu_seconds", (double)r->cpu_ns / 1e9);
	json_object_update(result, more);
	json_decref(more);
	rc = json_write(result, o->json, e);
	json_decref(result);
	return rc;
}

int main(int argc, char **argv)
{
	static struct raw_opts o;
	const struct opt_group group = {
		.name = "rawloop", .help = "Raw loop", .rows = rows, .n = ARRAY_LEN(rows), .base = &o
	};
	struct report r = { 0 };
	struct rlimit files;
	struct err e = { 0 };
	int rc;

	opt_defaults(&group, 1);
	rc = opt_parse(&group, 1, NULL, argc, argv, NULL, &e);
	if (rc == 1) {
		puts("Usage: rawloop [OPTION…]: GB/s (10^9 bytes) of a plain io_uring loop over loopback\n");
		opt_help(&group, 1, stdout);
		return 0;
	}
	if (rc >= 0)
		rc = decide(&o, &e);
	if (rc < 0) {
		fprintf(stderr, "rawloop: %s\n", e.why);
		return 2;
	}
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	signal(SIGPIPE, SIG_IGN);
	rc = measure(&o, &r, &e);
	if (rc >= 0)
		rc = print(&o, &r, &e);
	if (rc < 0)
		fprintf(stderr, "rawloop: %s\n", e.why);
	return rc < 0;
}

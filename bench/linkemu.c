/* SPDX-License-Identifier: MIT */
/* The process that is the link: makes both ends, then serves requests until it is told to end. */
#include "bench/linkemu.h"
#include "base/clock.h"
#include "base/util.h"
#include "bench/linkemu_ctl.h"
#include "bench/linkemu_pump.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_WAIT_MS 20000

struct emulator {
	char name[LINK_NAME_MAX + 1];
	int control, owner, signals;
	int guard; /* the guardian ends what is left when this closes */
	pid_t guardian;
	struct link_end end[2];
	struct pump *pump[2];
	struct link_settings settings;
	struct link_trace *traces[2];
};

/* What the process says when it is ready, or cannot be; less than a pipe takes at once. */
struct hello {
	int rc;
	struct err err;
};

int linkemu_name_check(const char *name, struct err *e)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
	size_t len = strlen(name);

	if (!len || len > LINK_NAME_MAX || strspn(name, letters) != len || strchr("_.-", *name) || !strcmp(name, "A") ||
	    !strcmp(name, "B"))
		return err_set(
			e, -EINVAL,
			"\"%.40s\" is no name for a link: 1 to %d letters, digits, '.', '-' and '_', and not A or B",
			name, LINK_NAME_MAX);
	return 0;
}

/* ---- set-up ------------------------------------------------------------------------------------ */

/* Leaves open, of the descriptors above standard error, those that are told. */
static void close_others(int a, int b, int c)
{
	int keep[] = { a, b, c };
	int from = STDERR_FILENO + 1;

	for (int i = 0; i < 3; i++)
		for (int k = i + 1; k < 3; k++)
			if (keep[k] < keep[i]) {
				int t = keep[i];

				keep[i] = keep[k];
				keep[k] = t;
			}
	for (int i = 0; i < 3; i++) {
		if (keep[i] < from)
			continue;
		if (keep[i] > from)
			close_range((unsigned)from, (unsigned)keep[i] - 1, 0);
		from = keep[i] + 1;
	}
	close_range((unsigned)from, ~0u, 0);
}

static void detach_output(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = 0; null >= 0 && fd <= STDERR_FILENO; fd++)
		dup2(null, fd);
	if (null > STDERR_FILENO)
		close(null);
}

static __attribute__((noreturn)) void guardian(int fd, const int ns[2])
{
	char byte;

	setsid();
	signal(SIGTERM, SIG_IGN); /* it ends with the link */
	signal(SIGINT, SIG_IGN);
	close_others(fd, ns[0], ns[1]);
	detach_output();
	while (read(fd, &byte, 1) < 0 && errno == EINTR)
		continue;
	link_end_processes(ns);
	_exit(0);
}

static int start_guardian(struct emulator *m, struct err *e)
{
	const int ns[2] = { m->end[LINK_A].ns, m->end[LINK_B].ns };
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set(e, -errno, "cannot guard the link: %s; raise ulimit -n", strerror(errno));
	m->guardian = fork();
	if (m->guardian == 0)
		guardian(fds[0], ns);
	close(fds[0]);
	m->guard = fds[1];
	if (m->guardian < 0)
		return err_set(e, -errno, "cannot guard the link: %s; raise ulimit -u", strerror(errno));
	return 0;
}

static int open_ends(struct emulator *m, struct err *e)
{
	int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), rc;

	if (home < 0)
		return err_set(e, -errno, "cannot open /proc/thread-self/ns/net: %s; is /proc mounted?",
			       strerror(errno));
	rc = link_end_open(&m->end[LINK_A], LINK_A, &m->settings.common, e);
	if (rc >= 0)
		rc = link_end_open(&m->end[LINK_B], LINK_B, &m->settings.common, e);
	if (setns(home, CLONE_NEWNET) < 0 && rc >= 0)
		rc = err_set(e, -errno, "cannot go back to the first network namespace: %s", strerror(errno));
	close(home);
	return rc;
}

static int open_pumps(struct emulator *m, struct err *e)
{
	struct link_params params[2];
	int rc = link_settings_params(&m->settings, params, m->traces, e);

	for (int d = 0; rc >= 0 && d < 2; d++) {
		uint64_t seed = m->settings.common.seed * 2ull + (unsigned)d;

		rc = pump_open(&m->pump[d], m->end[d].tun, m->end[!d].tun, &params[d], rng_next(&seed), e);
	}
	return rc;
}

static int open_signals(struct err *e)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	fd = signalfd(-1, &set, SFD_CLOEXEC);
	return fd < 0 ? err_set(e, -errno, "cannot wait for signals: %s", strerror(errno)) : fd;
}

static int set_up(struct emulator *m, struct err *e)
{
	int rc = m->control = link_ctl_listen(m->name, e);

	if (rc >= 0)
		rc = m->signals = open_signals(e);
	if (rc >= 0)
		rc = open_ends(m, e);
	if (rc >= 0)
		rc = start_guardian(m, e);
	if (rc >= 0)
		rc = open_pumps(m, e);
	return rc;
}

static unsigned tear_down(struct emulator *m)
{
	const int ns[2] = { m->end[LINK_A].ns, m->end[LINK_B].ns };
	unsigned processes = ns[1] > 0 ? link_end_processes(ns) : 0;

	for (int d = 0; d < 2; d++) {
		pump_close(m->pump[d]);
		link_trace_free(m->traces[d]);
	}
	for (int s = 0; s < 2; s++)
		link_end_close(&m->end[s]);
	if (m->guard > 0)
		close(m->guard);
	if (m->guardian > 0)
		waitpid(m->guardian, NULL, 0);
	return processes;
}

/* ---- requests ---------------------------------------------------------------------------------- */

static json_t *error_json(const struct err *e)
{
	return json_pack("{s:s, s:i}", "error", e->why, "code", e->code);
}

static json_t *counters_json(const struct pump_status *s, uint64_t dropped)
{
	json_t *obj = json_object();
	const struct {
		const char *name;
		uint64_t value;
	} rows[] = {
		{ "packets_in", s->link.in_packets },
		{ "bytes_in", s->link.in_bytes },
		{ "packets_out", s->link.out_packets },
		{ "bytes_out", s->link.out_bytes },
		{ "packets_lost", s->link.lost },
		{ "loss_bursts", s->link.lost_bursts },
		{ "packets_dropped_by_queue", s->link.queue_drops },
		{ "packets_reordered", s->link.reordered },
		{ "packets_duplicated", s->link.duplicated },
		{ "queue_bytes", s->queue_bytes },
		{ "emulator_dropped", s->link.overflow + s->refused + s->unknown + dropped },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		json_object_set_new(obj, rows[i].name, json_integer((json_int_t)rows[i].value));
	json_object_set_new(obj, "late_p50_us", json_real((double)s->late_p50_ns / 1e3));
	json_object_set_new(obj, "late_p99_us", json_real((double)s->late_p99_ns / 1e3));
	json_object_set_new(obj, "late_max_us", json_real((double)s->late_max_ns / 1e3));
	return obj;
}

static json_t *status_json(struct emulator *m)
{
	struct pump_status s[2];
	struct err e = { 0 };

	for (int d = 0; d < 2; d++)
		if (pump_status(m->pump[d], &s[d], &e) < 0)
			return error_json(&e);
	return json_pack("{s:s, s:i, s:o, s:o, s:o}", "name", m->name, "pid", (int)getpid(), "settings",
			 link_settings_json(&m->settings), "ab",
			 counters_json(&s[LINK_AB], link_end_dropped(&m->end[LINK_A])), "ba",
			 counters_json(&s[LINK_BA], link_end_dropped(&m->end[LINK_B])));
}

static int apply(struct emulator *m, const struct link_settings *s, struct err *e)
{
	struct link_params params[2];
	struct link_trace *traces[2];
	int rc = link_settings_params(s, params, traces, e);

	if (rc < 0)
		return rc;
	for (int d = 0; rc >= 0 && d < 2; d++) {
		/* a trace that has not changed goes on */
		if (traces[d] && m->traces[d] && !strcmp(s->dir[d].trace, m->settings.dir[d].trace)) {
			link_trace_free(traces[d]);
			traces[d] = m->traces[d];
			params[d].trace = traces[d];
		}
		rc = pump_set(m->pump[d], &params[d], e);
		if (rc >= 0 && traces[d] != m->traces[d]) {
			link_trace_free(m->traces[d]);
			m->traces[d] = traces[d];
		}
		if (rc >= 0)
			m->settings.dir[d] = s->dir[d];
	}
	return rc;
}

static json_t *set(struct emulator *m, const json_t *request)
{
	struct link_settings s;
	struct err e = { 0 };
	int rc = link_settings_read(&s, json_object_get(request, "settings"), &e);

	if (rc >= 0)
		rc = apply(m, &s, &e);
	for (int side = 0; rc >= 0 && side < 2 && s.common.mtu != m->settings.common.mtu; side++)
		rc = link_end_mtu(&m->end[side], s.common.mtu, &e);
	if (rc >= 0)
		m->settings.common.mtu = s.common.mtu;
	return rc < 0 ? error_json(&e) : json_object();
}

/* Returns false when the link is to end. */
static bool serve(struct emulator *m)
{
	json_t *request = NULL;
	int conn = link_ctl_accept(m->control, &request);
	const char *op = json_string_value(json_object_get(request, "op"));
	struct err unknown = { .code = -EPROTO, .why = "the link does not know this request" };
	bool go_on = true;

	if (conn < 0)
		return true;
	if (op && !strcmp(op, "status")) {
		link_ctl_answer(conn, status_json(m), -1);
	} else if (op && !strcmp(op, "join")) {
		link_ctl_answer(conn, json_object(),
				m->end[json_integer_value(json_object_get(request, "side")) == LINK_B].ns);
	} else if (op && !strcmp(op, "set")) {
		link_ctl_answer(conn, set(m, request), -1);
	} else if (op && !strcmp(op, "down")) {
		close(m->control); /* the name is free when the answer comes */
		link_ctl_answer(conn, json_pack("{s:i}", "processes", (int)tear_down(m)), -1);
		go_on = false;
	} else {
		link_ctl_answer(conn, error_json(&unknown), -1);
	}
	json_decref(request);
	close(conn);
	return go_on;
}

static void serve_all(struct emulator *m)
{
	struct pollfd fds[] = {
		{ .fd = m->control, .events = POLLIN },
		{ .fd = m->signals, .events = POLLIN },
		{ .fd = m->owner, .events = POLLIN }, /* -1: ignored */
	};

	for (;;) {
		if (poll(fds, ARRAY_LEN(fds), -1) < 0)
			continue;
		if (fds[1].revents || fds[2].revents)
			break;
		if (fds[0].revents && !serve(m))
			return;
	}
	close(m->control); /* the name is free from now on */
	tear_down(m);
}

/* ---- start ------------------------------------------------------------------------------------- */

static __attribute__((noreturn)) void emulate(const char *name, const struct link_settings *s, int hello, int owner)
{
	struct emulator m = { .settings = *s, .owner = owner };
	struct hello h = { 0 };

	setsid();
	close_others(hello, owner, -1);
	memcpy(m.name, name, strlen(name) + 1);
	h.rc = set_up(&m, &h.err);
	detach_output();
	if (write(hello, &h, sizeof(h)) != sizeof(h) || h.rc < 0) {
		tear_down(&m);
		_exit(1);
	}
	close(hello);
	if (chdir("/") == 0) /* nobody's folder is in use */
		serve_all(&m);
	_exit(0);
}

static int hear_hello(int fd, struct hello *h, struct err *e)
{
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	uint64_t until = clock_now(&clock_mono) + START_WAIT_MS * NS_PER_MS, now;

	while ((now = clock_now(&clock_mono)) < until)
		if (poll(&ready, 1, (int)((until - now) / NS_PER_MS) + 1) > 0)
			break;
	if (read(fd, h, sizeof(*h)) != sizeof(*h))
		return err_set(e, -ECHILD, "the link's process did not start: is there memory?");
	if (h->rc < 0 && e)
		*e = h->err;
	return h->rc < 0 ? h->rc : 0;
}

/* What cannot be is said before there is a process. */
static int check(const char *name, const struct link_settings *s, struct err *e)
{
	struct link_params params[2];
	struct link_trace *traces[2];
	int rc = linkemu_name_check(name, e);

	if (rc >= 0)
		rc = link_settings_params(s, params, traces, e);
	for (int d = 0; rc >= 0 && d < 2; d++)
		link_trace_free(traces[d]);
	return rc;
}

int linkemu_up(const char *name, const struct link_settings *s, int *owner, struct err *e)
{
	struct hello h = { 0 };
	int hello[2], own[2] = { -1, -1 }, rc = check(name, s, e);
	pid_t pid;

	if (rc < 0)
		return rc;
	if (pipe2(hello, O_CLOEXEC) < 0)
		return err_set(e, -errno, "cannot start a link: %s; raise ulimit -n", strerror(errno));
	if (owner && pipe2(own, O_CLOEXEC) < 0) {
		rc = err_set(e, -errno, "cannot start a link: %s; raise ulimit -n", strerror(errno));
		close(hello[0]);
		close(hello[1]);
		return rc;
	}
	pid = fork();
	if (pid == 0) {
		/* once more, so that the link is nobody's child to wait for */
		pid = fork();
		if (pid == 0)
			emulate(name, s, hello[1], own[0]);
		_exit(pid < 0);
	}
	rc = pid < 0 ? err_set(e, -errno, "cannot start a link's process: %s; raise ulimit -u", strerror(errno)) : 0;
	close(hello[1]);
	if (owner)
		close(own[0]);
	if (rc >= 0) {
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			continue;
		rc = hear_hello(hello[0], &h, e);
	}
	close(hello[0]);
	if (owner && rc >= 0)
		*owner = own[1];
	else if (owner)
		close(own[1]);
	return rc;
}

int linkemu_join(const char *name, enum link_side side, struct err *e)
{
	json_t *answer = NULL;
	int fd = -1, rc = link_ctl_ask(name, json_pack("{s:s, s:i}", "op", "join", "side", (int)side), &answer, &fd, e);

	json_decref(answer);
	if (rc < 0)
		return rc;
	rc = fd >= 0 && setns(fd, CLONE_NEWNET) == 0 ? 0 : fd < 0 ? -EPROTO : -errno;
	if (fd >= 0)
		close(fd);
	if (rc < 0)
		return err_set(e, rc, "cannot enter the link \"%s\": %s; CAP_SYS_ADMIN is needed: run as root", name,
			       strerror(-rc));
	return 0;
}

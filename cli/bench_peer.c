/* SPDX-License-Identifier: MIT */
#include "cli/bench_peer.h"
#include "base/log.h"
#include "cli/cmd.h"
#include "migrate/dest.h"
#include "transport/server.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_WAIT_MS 20000
#define END_WAIT_MS 3000
#define END_STEP_MS 5
#define SESSIONS_MORE 3 /* one that was lost after START is asked for in another */

/* What the child says when it is ready, or cannot be; less than a pipe takes at once. */
struct hello {
	int rc;
	struct be_addr addr;
	struct err err;
};

static int open_server(struct server **s, const struct transfer *t, struct bench_link *link, uint64_t memory_max,
		       struct dest *d, unsigned guest_sessions, struct err *e)
{
	const struct be_addr loopback = { .len = sizeof(struct sockaddr_in),
					  .in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	struct server_config cfg = {
		.ops = t->ops,
		.be_opts = t->be_opts,
		.listen = link && link->name[0] ? bench_link_addr() : loopback,
		.workers = t->workers,
		.sessions = d ? guest_sessions + SESSIONS_MORE : 1,
		.memory_max = memory_max,
		.service = d ? dest_service(d) : (struct service){ .ops = NULL },
		.cpus = t->cpus.n ? t->cpus.v : NULL,
		.n_cpus = t->cpus.n,
		.filters = transfer_filters,
		.timeout_ns = t->opts->timeout_ns,
		.clock = clock_mono,
		.release = cmd_version,
		.seed = 1,
	};

	int rc = link ? bench_link_enter(link, LINK_B, e) : 0;

	return rc < 0 ? rc : server_open(s, &cfg, e);
}

static bool session_over(struct server *s)
{
	struct server_counters sc;
	struct amst_counters ac;
	struct be_counters bc;

	server_counters(s, &sc, &ac, &bc);
	return sc.sessions_started && !sc.sessions_now;
}

static __attribute__((noreturn)) void child(int fd, pid_t parent, const struct transfer *t, struct bench_link *link,
					    uint64_t memory_max, unsigned guest_sessions)
{
	struct hello h = { 0 };
	struct dest *d = NULL;
	struct server *s = NULL;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(CMD_FAILED);
	signal(SIGINT, SIG_IGN); /* the terminal sends it to both; the parent decides */
	signal(SIGTERM, SIG_DFL);
	if (guest_sessions)
		h.rc = dest_open(&d, &(struct dest_config){ .memory_max = memory_max, .workers = t->workers }, &h.err);
	if (h.rc == 0)
		h.rc = open_server(&s, t, link, memory_max, d, guest_sessions, &h.err);
	if (h.rc == 0)
		h.addr = *server_bound(s);
	if (write(fd, &h, sizeof(h)) != sizeof(h) || h.rc < 0)
		_exit(CMD_FAILED);
	close(fd);
	while (!session_over(s))
		server_turn(s, NS_PER_S);
	server_close(s);
	dest_close(d);
	_exit(CMD_OK);
}

/* What the child says; 0, or why it said nothing. */
static int hear_hello(int fd, struct hello *h, struct err *e)
{
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	uint64_t until = clock_now(&clock_mono) + START_WAIT_MS * NS_PER_MS, now;
	ssize_t n = -1;

	while (n < 0 && !cmd_signal && (now = clock_now(&clock_mono)) < until)
		if (poll(&ready, 1, (int)((until - now) / NS_PER_MS) + 1) > 0) {
			n = read(fd, h, sizeof(*h));
			if (n < 0 && errno != EINTR)
				break;
		}
	if (n == sizeof(*h))
		return 0;
	if (cmd_signal)
		return err_set(e, -EINTR, "interrupted");
	return err_set(e, -ECHILD, "the receiver process did not start; name a --peer instead");
}

int bench_peer_start(struct bench_peer *p, const struct transfer *t, struct bench_link *link, uint64_t memory_max,
		     unsigned guest_sessions, struct err *e)
{
	struct hello h = { 0 };
	pid_t parent = getpid();
	int fds[2], rc;

	*p = (struct bench_peer){ .pid = 0 };
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set(e, -errno, "cannot start a receiver: %s; raise ulimit -n", strerror(errno));
	fflush(NULL);
	p->pid = fork();
	if (p->pid == 0)
		child(fds[1], parent, t, link, memory_max, guest_sessions);
	rc = p->pid < 0 ? -errno : 0;
	close(fds[1]);
	if (rc < 0) {
		p->pid = 0;
		close(fds[0]);
		return err_set(e, rc, "cannot start a receiver process: %s; raise ulimit -u", strerror(-rc));
	}
	rc = hear_hello(fds[0], &h, e);
	close(fds[0]);
	if (rc == 0 && h.rc < 0) {
		*e = h.err;
		rc = h.rc;
	}
	if (rc < 0)
		bench_peer_stop(p, false);
	else
		p->addr = h.addr;
	return rc;
}

void bench_peer_stop(struct bench_peer *p, bool done)
{
	int status = 0;

	if (!p->pid)
		return;
	if (!done)
		kill(p->pid, SIGKILL);
	for (int waited = 0; waitpid(p->pid, &status, WNOHANG) == 0; waited += END_STEP_MS) {
		if (waited == END_WAIT_MS) {
			log_info("the receiver process does not end by itself: it is killed");
			kill(p->pid, SIGKILL);
		}
		poll(NULL, 0, END_STEP_MS);
	}
	if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
		log_warn("the receiver process died of signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	p->pid = 0;
}

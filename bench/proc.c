/* SPDX-License-Identifier: MIT */
#include "bench/proc.h"
#include "base/clock.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY_WAIT_NS (20 * NS_PER_S)
#define READY_STEP_MS 2
#define STOP_WAIT_S 5
#define KEEP_MAX (64u << 20)
#define LIVE_MAX 16

static volatile pid_t live[LIVE_MAX]; /* leaders of groups; 0: none. Read by a signal's handler. */

static void live_swap(pid_t from, pid_t to)
{
	for (unsigned i = 0; i < LIVE_MAX; i++) {
		if (live[i] == from) {
			live[i] = to;
			return;
		}
	}
}

void proc_kill_all(void)
{
	for (unsigned i = 0; i < LIVE_MAX; i++)
		if (live[i] > 0)
			kill(-live[i], SIGKILL);
}

/* ---- commands ---------------------------------------------------------------------------------- */

void command_add(struct command_line *c, const char *fmt, ...)
{
	size_t room = sizeof(c->text) - c->used;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(c->text + c->used, room, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= room || c->n >= PROC_ARGS) {
		c->n = PROC_ARGS + 1;
		return;
	}
	c->argv[c->n++] = c->text + c->used;
	c->used += (size_t)n + 1;
}

void command_words(struct command_line *c, const char *words)
{
	while (*words) {
		size_t n = strcspn(words, " ");

		if (n)
			command_add(c, "%.*s", (int)n, words);
		words += n + (words[n] == ' ');
	}
}

/* ---- start ------------------------------------------------------------------------------------- */

static __attribute__((noreturn)) void child(const struct proc *p, const struct command_line *c, const char *dir,
					    const char *const *env, pid_t parent)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	if (null < 0 || dup2(null, 0) < 0 || dup2(p->out, 1) < 0 || dup2(p->err, 2) < 0)
		_exit(127);
	if (dir && chdir(dir) < 0) {
		dprintf(2, "cannot change to %s: %s\n", dir, strerror(errno));
		_exit(127);
	}
	for (; env && *env; env++)
		putenv((char *)*env);
	execvp(c->argv[0], (char *const *)c->argv);
	dprintf(2, "cannot run %s: %s\n", c->argv[0], strerror(errno));
	_exit(127);
}

static void forget(struct proc *p)
{
	if (p->out >= 0)
		close(p->out);
	if (p->err >= 0)
		close(p->err);
	*p = (struct proc){ .pid = 0, .out = -1, .err = -1 };
}

int proc_start(struct proc *p, const struct command_line *c, const char *dir, const char *const *env, struct err *e)
{
	const char *base = c->n ? strrchr(c->argv[0], '/') : NULL;
	pid_t parent = getpid();
	int rc;

	*p = (struct proc){ .pid = 0, .out = -1, .err = -1 };
	if (c->n == 0 || c->n > PROC_ARGS)
		return err_set(e, -E2BIG, "a command is longer than %u words: please report this as a bug", PROC_ARGS);
	snprintf(p->name, sizeof(p->name), "%s", base ? base + 1 : c->argv[0]);
	p->out = memfd_create("out", MFD_CLOEXEC);
	p->err = memfd_create("err", MFD_CLOEXEC);
	p->start_ns = clock_now(&clock_mono);
	p->pid = p->out < 0 || p->err < 0 ? -1 : fork();
	if (p->pid == 0)
		child(p, c, dir, env, parent);
	if (p->pid > 0) {
		live_swap(0, p->pid);
		setpgid(p->pid, p->pid); /* also done by the child: whoever comes first */
		return 0;
	}
	rc = err_set(e, -errno, "cannot start %s: %s", p->name, strerror(errno));
	forget(p);
	return rc;
}

/* ---- output ------------------------------------------------------------------------------------ */

/* All of a file that may still be written to; NULL when there is no memory. */
static char *slurp(int fd)
{
	struct stat st;
	size_t len, got = 0;
	char *text;

	if (fstat(fd, &st) < 0 || st.st_size > KEEP_MAX)
		return NULL;
	len = (size_t)st.st_size;
	text = malloc(len + 1);
	while (text && got < len) {
		ssize_t n = pread(fd, text + got, len - got, (off_t)got);

		if (n <= 0)
			break;
		got += (size_t)n;
	}
	if (text)
		text[got] = 0;
	return text;
}

/* The last line of standard error that says something; standard output's when there is none (iperf3 does that). */
static void quote(const struct proc *p, char *line, size_t cap)
{
	line[0] = 0;
	for (int i = 0; i < 2 && !line[0]; i++) {
		char *text = slurp(i == 0 ? p->err : p->out), *save = NULL;

		for (char *l = text ? strtok_r(text, "\n", &save) : NULL; l; l = strtok_r(NULL, "\n", &save))
			if (l[strspn(l, " \t{}[]")])
				snprintf(line, cap, "%s", l);
		free(text);
	}
}

static bool find_line(const struct proc *p, const char *prefix, char *rest, size_t cap)
{
	char *text = slurp(p->out), *at = text;
	bool found = false;

	while (at && !found) {
		char *end = strchr(at, '\n');

		if (!end)
			break;
		*end = 0;
		found = strncmp(at, prefix, strlen(prefix)) == 0;
		if (found && rest)
			snprintf(rest, cap, "%s", at + strlen(prefix));
		at = end + 1;
	}
	free(text);
	return found;
}

static bool is_over(const struct proc *p)
{
	siginfo_t info = { 0 };

	return waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == p->pid;
}

int proc_ready(struct proc *p, const char *prefix, char *rest, size_t cap, struct err *e)
{
	char why[160];

	while (!find_line(p, prefix, rest, cap)) {
		bool late = clock_now(&clock_mono) - p->start_ns > READY_WAIT_NS;

		if (late || (is_over(p) && !find_line(p, prefix, rest, cap))) {
			quote(p, why, sizeof(why));
			return err_set(e, late ? -ETIMEDOUT : -ECHILD, "%s did not become ready: %s", p->name, why);
		}
		poll(NULL, 0, READY_STEP_MS);
	}
	return 0;
}

/* ---- end --------------------------------------------------------------------------------------- */

/* True when it ended in time. */
static bool wait_end(const struct proc *p, unsigned timeout_s)
{
	struct pollfd end = { .fd = (int)syscall(SYS_pidfd_open, p->pid, 0), .events = POLLIN };
	int rc;

	if (end.fd < 0)
		return is_over(p);
	do
		rc = poll(&end, 1, (int)timeout_s * 1000);
	while (rc < 0 && errno == EINTR);
	close(end.fd);
	return rc > 0;
}

static int reap(const struct proc *p)
{
	int status = 0;

	while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR)
		;
	live_swap(p->pid, 0);
	return status;
}

int proc_wait(struct proc *p, unsigned timeout_s, struct proc_end *end, struct err *e)
{
	bool in_time = wait_end(p, timeout_s);
	uint64_t ns = clock_now(&clock_mono) - p->start_ns;
	char why[200];
	int status, rc = 0;

	if (!in_time)
		kill(-p->pid, SIGKILL);
	status = reap(p);
	quote(p, why, sizeof(why));
	if (!in_time)
		rc = err_set(e, -ETIMEDOUT, "%s was not done after %u s and was killed", p->name, timeout_s);
	else if (WIFSIGNALED(status))
		rc = err_set(e, -ECHILD, "%s died of signal %d: %s", p->name, WTERMSIG(status), why);
	else if (WEXITSTATUS(status))
		rc = err_set(e, -ECHILD, "%s failed with status %d: %s", p->name, WEXITSTATUS(status), why);
	if (rc == 0 && end) {
		end->seconds = (double)ns / 1e9;
		end->out = slurp(p->out);
		if (!end->out)
			rc = err_set(e, -ENOMEM, "%s printed more than there is memory for", p->name);
	}
	forget(p);
	return rc;
}

void proc_stop(struct proc *p)
{
	if (p->pid <= 0)
		return;
	kill(p->pid, SIGTERM);
	if (!wait_end(p, STOP_WAIT_S))
		kill(-p->pid, SIGKILL);
	reap(p);
	forget(p);
}

int proc_run(const struct command_line *c, const char *dir, const char *const *env, unsigned timeout_s,
	     struct proc_end *end, struct err *e)
{
	struct proc p;
	int rc = proc_start(&p, c, dir, env, e);

	return rc < 0 ? rc : proc_wait(&p, timeout_s, end, e);
}

/* SPDX-License-Identifier: MIT */
#include "cli/stats_socket.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define PATHS 3
#define ANSWER_MAX ((size_t)16 << 20)
#define PEER_WAIT_S 5
#define ANSWER_TIME (4 * NS_PER_S) /* for a reader to take it: others wait meanwhile */

struct stats_socket {
	struct sockaddr_un at;
	dev_t dev;
	ino_t ino;
	int fd, stop_fd;
	json_t *(*make)(void *);
	void *ctx;
	pthread_t thread;
};

/* ---- where ------------------------------------------------------------------------------------- */

static int path_set(struct sockaddr_un *at, const char *path, struct err *e)
{
	*at = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(at->sun_path))
		return err_set(e, -ENAMETOOLONG,
			       "statistics socket %.80s…: a path has at most %zu bytes; use a shorter one", path,
			       sizeof(at->sun_path) - 1);
	memcpy(at->sun_path, path, strlen(path) + 1);
	return 0;
}

/* The places for a port, best first. Returns how many. */
static int paths_for(uint16_t port, struct sockaddr_un at[PATHS])
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	char path[sizeof(at->sun_path) + 64];
	int n = 0;

	if (run && *run == '/') {
		int len = snprintf(path, sizeof(path), "%s/dwcp-%u.sock", run, port);

		if (len > 0 && (size_t)len < sizeof(path) && path_set(&at[n], path, NULL) == 0)
			n++;
	}
	snprintf(path, sizeof(path), "/run/dwcp-%u.sock", port);
	path_set(&at[n++], path, NULL);
	snprintf(path, sizeof(path), "/tmp/dwcp-%u-%u.sock", (unsigned)geteuid(), port);
	path_set(&at[n++], path, NULL);
	return n;
}

static int unix_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

/* Connects with bounded waits; -errno. */
static int dial(const struct sockaddr_un *at)
{
	struct timeval limit = { .tv_sec = PEER_WAIT_S };
	int fd = unix_socket(), rc;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)); /* also bounds connect */
	if (connect(fd, (const struct sockaddr *)at, sizeof(*at)) == 0)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

/* ---- the server's side ------------------------------------------------------------------------- */

static int bind_at(const struct sockaddr_un *at)
{
	int fd = unix_socket(), rc;

	if (fd < 0)
		return -errno;
	/* The file that bind makes takes the mode of the socket. */
	if (fchmod(fd, 0600) == 0 && bind(fd, (const struct sockaddr *)at, sizeof(*at)) == 0 && listen(fd, 8) == 0)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

/* True when the path was a socket of ours that nobody answers on, and is gone now. */
static bool remove_stale(const struct sockaddr_un *at)
{
	struct stat st;
	int fd;

	if (lstat(at->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode) || st.st_uid != geteuid())
		return false;
	fd = dial(at);
	if (fd >= 0)
		close(fd);
	return fd == -ECONNREFUSED && unlink(at->sun_path) == 0;
}

static int claim(struct stats_socket *s, const struct sockaddr_un *at)
{
	struct stat st;
	int fd = bind_at(at);

	if (fd == -EADDRINUSE && remove_stale(at))
		fd = bind_at(at);
	if (fd < 0)
		return fd;
	if (lstat(at->sun_path, &st) == 0) {
		s->dev = st.st_dev;
		s->ino = st.st_ino;
	}
	s->at = *at;
	s->fd = fd;
	return 0;
}

static int claim_any(struct stats_socket *s, const char *path, uint16_t port, struct err *e)
{
	struct sockaddr_un at[PATHS];
	int n = 1, rc = 0;

	if (*path) {
		rc = path_set(&at[0], path, e);
		if (rc < 0)
			return rc;
	} else {
		n = paths_for(port, at);
	}
	for (int i = 0; i < n; i++) {
		rc = claim(s, &at[i]);
		if (rc == 0)
			return 0;
		log_debug("statistics socket %s: %s", at[i].sun_path, strerror(-rc));
	}
	return err_set(e, rc, "statistics socket %s: %s; choose another with --stats-socket, or none",
		       at[n - 1].sun_path, rc == -EADDRINUSE ? "in use" : strerror(-rc));
}

/* Until the reader takes more. False: it had its time, or the server ends. */
static bool reader_ready(const struct stats_socket *s, int fd, uint64_t until)
{
	struct pollfd p[2] = { { .fd = fd, .events = POLLOUT }, { .fd = s->stop_fd, .events = POLLIN } };
	uint64_t now = clock_now(&clock_mono);

	return now < until && poll(p, 2, (int)div_up_u64(until - now, NS_PER_MS)) > 0 && !p[1].revents;
}

static void answer(struct stats_socket *s, int fd)
{
	uint64_t until = clock_now(&clock_mono) + ANSWER_TIME;
	json_t *obj = s->make(s->ctx);
	char *text = obj ? json_dumps(obj, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0;

	for (size_t at = 0; at < len && reader_ready(s, fd, until);) {
		ssize_t n = send(fd, text + at, len - at, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno != EAGAIN && errno != EINTR)
			break;
		at += n > 0 ? (size_t)n : 0;
	}
	free(text);
	json_decref(obj);
}

static void *serve_readers(void *arg)
{
	struct stats_socket *s = arg;
	struct pollfd p[2] = { { .fd = s->fd, .events = POLLIN }, { .fd = s->stop_fd, .events = POLLIN } };

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			break;
		if (p[1].revents)
			break;
		if (!p[0].revents)
			continue;
		int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0) {
			poll(&p[1], 1, 100); /* out of descriptors: do not spin */
			continue;
		}
		answer(s, fd);
		close(fd);
	}
	return NULL;
}

int stats_socket_open(struct stats_socket **out, const char *path, uint16_t port, json_t *(*make)(void *), void *ctx,
		      struct err *e)
{
	struct stats_socket *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_set(e, -ENOMEM, "no memory for the statistics socket");
	s->make = make;
	s->ctx = ctx;
	s->stop_fd = -1;
	rc = claim_any(s, path, port, e);
	if (rc < 0)
		goto out;
	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	rc = s->stop_fd < 0 ? -errno : thread_start(&s->thread, "dwcp-stats", serve_readers, s);
	if (rc == 0) {
		*out = s;
		return 0;
	}
	err_set(e, rc, "no thread for the statistics socket: %s; raise ulimit -n and -u", strerror(-rc));
	unlink(s->at.sun_path);
	close(s->fd);
	if (s->stop_fd >= 0)
		close(s->stop_fd);
out:
	free(s);
	return rc;
}

void stats_socket_close(struct stats_socket *s)
{
	struct stat st;

	if (!s)
		return;
	eventfd_write(s->stop_fd, 1);
	pthread_join(s->thread, NULL);
	/* not that of a server which has taken the place */
	if (lstat(s->at.sun_path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
		unlink(s->at.sun_path);
	close(s->fd);
	close(s->stop_fd);
	free(s);
}

const char *stats_socket_path(const struct stats_socket *s)
{
	return s->at.sun_path;
}

/* ---- the reader's side ------------------------------------------------------------------------- */

static int check_owner(int fd, const char *path, struct err *e)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return err_set(e, -errno, "%s: cannot tell who answers: %s; name the server's socket with --socket",
			       path, strerror(errno));
	if (peer.uid != geteuid() && peer.uid != 0 && geteuid() != 0)
		return err_set(e, -EPERM,
			       "%s belongs to user %u, who is not you: name your server's socket with --socket", path,
			       peer.uid);
	return 0;
}

static int read_answer(int fd, const char *path, json_t **out, struct err *e)
{
	size_t len = 0, cap = 65536;
	char *text = malloc(cap);
	json_error_t why;
	ssize_t n = 0;
	int rc = 0;

	while (text && (n = read(fd, text + len, cap - len)) > 0) {
		len += (size_t)n;
		if (len < cap)
			continue;
		char *bigger = cap < ANSWER_MAX ? realloc(text, cap *= 2) : NULL;

		if (!bigger)
			break;
		text = bigger;
	}
	if (!text || len == cap)
		rc = err_set(e, -ENOMEM, "%s: the answer does not fit into memory", path);
	else if (n < 0)
		rc = err_set(e, -errno, "%s: the server does not answer (%s): look at its load and log", path,
			     strerror(errno));
	else if (!(*out = json_loadb(text, len, 0, &why)))
		rc = err_set(e, -EPROTO, "%s: what answers there is no dwcp serve: name its socket with --socket",
			     path);
	free(text);
	return rc;
}

int stats_socket_ask(const char *path, uint16_t port, json_t **out, struct err *e)
{
	struct sockaddr_un at[PATHS];
	int n = 1, fd = -ENOENT, i, rc;

	if (*path) {
		rc = path_set(&at[0], path, e);
		if (rc < 0)
			return rc;
	} else {
		n = paths_for(port, at);
	}
	for (i = 0; i < n && fd < 0; i++)
		fd = dial(&at[i]);
	if (fd < 0 && *path)
		return err_set(e, fd, "no server answers at %s (%s): start one with `dwcp serve --stats-socket=%s`",
			       path, strerror(-fd), path);
	if (fd < 0)
		return err_set(e, fd,
			       "no server for port %u runs here: start `dwcp serve`, or name its port or --socket",
			       port);
	rc = check_owner(fd, at[i - 1].sun_path, e);
	if (rc == 0)
		rc = read_answer(fd, at[i - 1].sun_path, out, e);
	close(fd);
	return rc;
}

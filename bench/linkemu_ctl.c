/* SPDX-License-Identifier: MIT */
#include "bench/linkemu_ctl.h"
#include "bench/linkemu.h"
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define PREFIX "dwcp-linkemu/"
#define REQUEST_WAIT_S 2
#define ANSWER_WAIT_S 10

static socklen_t address(struct sockaddr_un *un, const char *name)
{
	*un = (struct sockaddr_un){ .sun_family = AF_UNIX };
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
			   (size_t)snprintf(un->sun_path + 1, sizeof(un->sun_path) - 1, PREFIX "%s", name));
}

static void limit_wait(int fd, int seconds)
{
	const struct timeval t = { .tv_sec = seconds };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
}

/* The other end is root or who we are: abstract names have no permissions. */
static bool is_ours(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && (peer.uid == 0 || peer.uid == geteuid());
}

static int send_message(int fd, const json_t *message, int passed)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	char *text = json_dumps(message, JSON_COMPACT);
	struct iovec iov = { .iov_base = text, .iov_len = text ? strlen(text) : 0 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (!text || iov.iov_len > LINK_MESSAGE_MAX) {
		free(text);
		return -EMSGSIZE;
	}
	if (passed >= 0) {
		m.msg_control = control.bytes;
		m.msg_controllen = sizeof(control.bytes);
		*CMSG_FIRSTHDR(&m) = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
						       .cmsg_type = SCM_RIGHTS,
						       .cmsg_len = CMSG_LEN(sizeof(int)) };
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &passed, sizeof(int));
	}
	do
		n = sendmsg(fd, &m, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	free(text);
	return n < 0 ? -errno : 0;
}

static int receive_message(int fd, json_t **message, int *passed)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	char text[LINK_MESSAGE_MAX];
	struct iovec iov = { .iov_base = text, .iov_len = sizeof(text) };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)
	};
	int got = -1;
	ssize_t n;

	/* A ring of the asking process interrupts a wait that has a limit. */
	do
		n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
			memcpy(&got, CMSG_DATA(c), sizeof(int));
	*message = n && !(m.msg_flags & MSG_TRUNC) ? json_loadb(text, (size_t)n, 0, NULL) : NULL;
	if (passed && *message)
		*passed = got;
	else if (got >= 0)
		close(got);
	return *message ? 0 : n ? -EPROTO : -ECONNRESET;
}

int link_ctl_listen(const char *name, struct err *e)
{
	struct sockaddr_un un;
	socklen_t len = address(&un, name);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), rc;

	if (fd >= 0 && bind(fd, (struct sockaddr *)&un, len) == 0 && listen(fd, 16) == 0)
		return fd;
	rc = -errno;
	if (fd >= 0)
		close(fd);
	if (rc == -EADDRINUSE)
		return err_set(e, -EEXIST,
			       "there is a link \"%s\" already: `dwcp linkemu down --name=%s`, or choose another "
			       "name with --name",
			       name, name);
	return err_set(e, rc, "cannot open the link's control socket: %s", strerror(-rc));
}

int link_ctl_accept(int listening, json_t **request)
{
	int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC), rc;

	if (fd < 0)
		return -errno;
	limit_wait(fd, REQUEST_WAIT_S);
	rc = is_ours(fd) ? receive_message(fd, request, NULL) : -EPERM;
	if (rc < 0) {
		close(fd);
		return rc;
	}
	return fd;
}

void link_ctl_answer(int conn, json_t *answer, int fd)
{
	send_message(conn, answer, fd);
	json_decref(answer);
}

static int connect_to(const char *name, struct err *e)
{
	struct sockaddr_un un;
	socklen_t len = address(&un, name);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), rc;

	if (fd < 0)
		return err_set(e, -errno, "no socket: %s; raise ulimit -n", strerror(errno));
	limit_wait(fd, ANSWER_WAIT_S);
	if (connect(fd, (struct sockaddr *)&un, len) < 0)
		rc = errno == ECONNREFUSED || errno == ENOENT
			     ? err_set(e, -ENOENT,
				       "there is no link \"%s\": make it with `dwcp linkemu up PROFILE --name=%s`; "
				       "`dwcp linkemu status` lists what there is",
				       name, name)
			     : err_set(e, -errno, "cannot reach the link \"%s\": %s", name, strerror(errno));
	else
		rc = is_ours(fd)
			     ? 0
			     : err_set(e, -EPERM, "the link \"%s\" belongs to another user: use another --name", name);
	if (rc >= 0)
		return fd;
	close(fd);
	return rc;
}

/* A link that is being killed still takes a connection; it is gone by the time that the connection is reset. */
static int no_answer(const char *name, int error, struct err *e)
{
	int fd = error == -ECONNRESET || error == -EPIPE ? connect_to(name, e) : -EBADF;

	if (fd == -ENOENT)
		return fd;
	if (fd >= 0)
		close(fd);
	return err_set(e, error, "the link \"%s\" does not answer: %s", name, strerror(-error));
}

int link_ctl_ask(const char *name, json_t *request, json_t **answer, int *passed, struct err *e)
{
	int fd = connect_to(name, e), rc = fd;
	const json_t *error;

	if (rc >= 0) {
		rc = send_message(fd, request, -1);
		if (rc >= 0)
			rc = receive_message(fd, answer, passed);
		close(fd);
		if (rc < 0)
			rc = no_answer(name, rc, e);
	}
	json_decref(request);
	if (rc < 0)
		return rc;
	error = json_object_get(*answer, "error");
	if (error) {
		rc = (int)json_integer_value(json_object_get(*answer, "code"));
		rc = err_set(e, rc < 0 ? rc : -EPROTO, "%.300s",
			     json_string_value(error) ? json_string_value(error) : "?");
		json_decref(*answer);
		*answer = NULL;
	}
	return rc;
}

/* ---- what programs ask ------------------------------------------------------------------------- */

int linkemu_status(const char *name, json_t **out, struct err *e)
{
	return link_ctl_ask(name, json_pack("{s:s}", "op", "status"), out, NULL, e);
}

int linkemu_set(const char *name, const struct link_settings *s, struct err *e)
{
	json_t *answer = NULL;
	int rc = link_ctl_ask(name, json_pack("{s:s, s:o}", "op", "set", "settings", link_settings_json(s)), &answer,
			      NULL, e);

	json_decref(answer);
	return rc;
}

int linkemu_down(const char *name, struct err *e)
{
	json_t *answer = NULL;
	int rc = link_ctl_ask(name, json_pack("{s:s}", "op", "down"), &answer, NULL, e);

	if (rc >= 0)
		rc = (int)json_integer_value(json_object_get(answer, "processes"));
	json_decref(answer);
	return rc;
}

static json_t *end_json(enum link_side side)
{
	char ipv4[32], ipv6[64];

	snprintf(ipv4, sizeof(ipv4), LINK_IPV4 "%d", side == LINK_A ? 1 : 2);
	snprintf(ipv6, sizeof(ipv6), LINK_IPV6 "%d", side == LINK_A ? 1 : 2);
	return json_pack("{s:s, s:s, s:s}", "ipv4", ipv4, "ipv6", ipv6, "device", LINK_DEVICE);
}

int linkemu_describe(const json_t *status, json_t **out, struct err *e)
{
	static const char *const names[] = { "ab", "ba" };
	struct link_settings s;
	int rc = link_settings_read(&s, json_object_get(status, "settings"), e);

	if (rc < 0)
		return rc;
	*out = json_pack("{s:O, s:O, s:i, s:b, s:i, s:o, s:o}", "name", json_object_get(status, "name"), "pid",
			 json_object_get(status, "pid"), "mtu", (int)s.common.mtu, "offload", s.common.offload, "seed",
			 (int)s.common.seed, "a", end_json(LINK_A), "b", end_json(LINK_B));
	for (int d = 0; d < 2; d++) {
		json_t *direction = link_direction_json(&s.dir[d]);

		json_object_update(direction, json_object_get(status, names[d]));
		json_object_set_new(*out, names[d], direction);
	}
	return 0;
}

json_t *linkemu_list(void)
{
	FILE *f = fopen("/proc/net/unix", "re");
	json_t *names = json_array();
	char line[512];

	while (f && fgets(line, sizeof(line), f)) {
		char *name = strstr(line, " @" PREFIX);
		unsigned flags = 0;

		/* Num RefCount Protocol Flags …: the listening one (__SO_ACCEPTCON) has the name to itself */
		if (!name || sscanf(line, "%*x: %*x %*x %x", &flags) != 1 || !(flags & 0x10000))
			continue;
		name += strlen(" @" PREFIX);
		name[strcspn(name, "\n")] = 0;
		if (linkemu_name_check(name, NULL) == 0)
			json_array_append_new(names, json_string(name));
	}
	if (f)
		fclose(f);
	return names;
}

/* SPDX-License-Identifier: MIT */
#include "kmod-free-tests/uring_peer.h"
#include <arpa/inet.h>
#include <poll.h>
#include <stdarg.h>
#include <unistd.h>

#define FRAME_BYTES 65536

struct uring_opts peer_opts(const char *name, ...)
{
	struct uring_opts o;
	struct opt_group g = { .name = "tcp", .rows = uring_ops.opts, .n = uring_ops.n_opts, .base = &o };
	struct err e;
	va_list ap;

	opt_defaults(&g, 1);
	va_start(ap, name);
	for (; name; name = va_arg(ap, const char *))
		if (opt_set(&g, 1, name, va_arg(ap, const char *), &e) < 0)
			fail_msg("%s", e.why);
	va_end(ap);
	return o;
}

void side_open_deep(struct side *s, const struct uring_opts *o, uint32_t streams, uint32_t sends)
{
	struct be_open open = { .opts = o,
				.clock = clock_mono,
				.streams = streams,
				.frames = 4,
				.frame_bytes = FRAME_BYTES,
				.sends = sends,
				.regions = 4,
				.cpu = -1 };
	struct err e = { 0 };

	if (uring_ops.probe(&e) < 0) {
		print_message("skipped: %s\n", e.why);
		skip();
	}
	memset(s, 0, sizeof *s);
	s->auto_accept = true;
	if (uring_ops.open(&open, &s->be, &e) < 0)
		fail_msg("open: %s", e.why);
}

void side_open(struct side *s, const struct uring_opts *o, uint32_t streams)
{
	side_open_deep(s, o, streams, 16);
}

static struct be_addr any_port(void)
{
	struct be_addr a = { .len = sizeof a.in };

	a.in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	return a;
}

void side_listen(struct side *s)
{
	struct be_addr at = any_port();
	struct err e = { 0 };

	if (uring_ops.listen(s->be, &at, &s->at, &e) < 0)
		fail_msg("listen: %s", e.why);
}

void side_region(struct side *s)
{
	struct err e = { 0 };

	s->memory = malloc(PEER_REGION_LEN + 2 * PEER_GUARD);
	assert_non_null(s->memory);
	memset(s->memory, 0xa5, PEER_REGION_LEN + 2 * PEER_GUARD);
	if (uring_ops.region_add(s->be, PEER_DOMAIN, PEER_REGION, side_memory(s), PEER_REGION_LEN, &s->token, &e) < 0)
		fail_msg("region_add: %s", e.why);
}

uint8_t *side_memory(const struct side *s)
{
	return s->memory + PEER_GUARD;
}

void side_guards(const struct side *s)
{
	for (size_t i = 0; i < PEER_GUARD; i++) {
		assert_int_equal(s->memory[i], 0xa5);
		assert_int_equal(s->memory[PEER_GUARD + PEER_REGION_LEN + i], 0xa5);
	}
}

void side_close(struct side *s)
{
	if (s->be)
		uring_ops.close(s->be);
	free(s->memory);
	s->be = NULL;
	s->memory = NULL;
}

static void side_event(struct side *s, const struct be_event *ev)
{
	uint8_t reply[BE_PREAMBLE] = "reply";

	switch (ev->type) {
	case BE_INCOMING:
		s->incoming++;
		s->request = ev->request;
		if (s->auto_accept)
			uring_ops.accept(s->be, ev->request, reply, PEER_DOMAIN, 1, &s->stream);
		break;
	case BE_CONNECTED:
		s->connected++;
		s->stream = ev->stream;
		break;
	case BE_DONE:
		s->done++;
		s->failed += ev->err != 0;
		break;
	case BE_PLACED:
		s->placed++;
		break;
	case BE_MESSAGE:
		s->messages++;
		s->message_len = ev->len;
		memcpy(s->message, ev->data, ev->len);
		uring_ops.release(s->be, ev->frame);
		break;
	case BE_DOWN:
		s->down++;
		s->down_err = ev->err;
		s->down_len = ev->len;
		if (ev->len)
			memcpy(s->down_data, ev->data, ev->len);
		break;
	case BE_WOKEN:
		s->woken++;
		break;
	default:
		fail_msg("event of unknown type %d", ev->type);
	}
}

int side_poll(struct side *s)
{
	struct be_event ev[32];
	int n = uring_ops.poll(s->be, ev, 32);

	for (int i = 0; i < n; i++)
		side_event(s, &ev[i]);
	return n;
}

void sides_turn(struct side *a, struct side *b, uint64_t end, const char *what)
{
	int n = side_poll(a) + (b ? side_poll(b) : 0);

	if (clock_now(&clock_mono) > end)
		fail_msg("waited 20 s for %s", what);
	if (n)
		return;
	uring_ops.wait(a->be, NS_PER_MS);
	if (b)
		uring_ops.wait(b->be, NS_PER_MS);
}

void sides_pair(struct side *a, struct side *b)
{
	uint8_t pre[BE_PREAMBLE] = "pre";
	uint32_t n = a->connected, m = b->connected;
	struct err e = { 0 };

	if (uring_ops.connect(a->be, &b->at, pre, PEER_DOMAIN, 1, &a->stream, &e) < 0)
		fail_msg("connect: %s", e.why);
	SIDES_UNTIL(a, b, a->connected > n && b->connected > m);
}

/* --- transfers that check every byte --- */

void peer_fill(uint8_t *p, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i += sizeof seed) {
		uint64_t v = rng_next(&seed);

		memcpy(p + i, &v, min_u64(sizeof v, n - i));
	}
}

void sides_transfer(struct side *a, struct side *b, int rounds)
{
	static uint8_t src[PEER_REGION_LEN], text[40000];

	for (int i = 0; i < rounds; i++) {
		uint32_t placed = b->placed, messages = b->messages, done = a->done;
		uint32_t half = PEER_REGION_LEN / 2 + 13 * (uint32_t)i;
		struct be_put p[2] = { { src, half, b->token, 0, 1 },
				       { src + half, PEER_REGION_LEN - half, b->token, half, 2 } };
		struct be_msg m = { "head", 4, sizeof text, text, 3 };

		peer_fill(src, sizeof src, (uint64_t)i + 1);
		peer_fill(text, sizeof text, (uint64_t)i + 100);
		assert_int_equal(uring_ops.put(a->be, a->stream, p, 2), 2);
		assert_int_equal(uring_ops.send(a->be, a->stream, &m, 1), 1);
		SIDES_UNTIL(a, b, b->placed == placed + 2 && b->messages == messages + 1 && a->done == done + 3);
		assert_memory_equal(side_memory(b), src, sizeof src);
		assert_int_equal(b->message_len, sizeof text + 4);
		assert_memory_equal(b->message, "head", 4);
		assert_memory_equal(b->message + 4, text, sizeof text);
		side_guards(b);
	}
	assert_int_equal(a->failed, 0);
}

void sides_open(struct side *a, struct side *b, const struct uring_opts *o)
{
	side_open(b, o, 4);
	side_listen(b);
	side_region(b);
	side_open(a, o, 4);
	sides_pair(a, b);
}

/* --- the peer --- */

static void set_timeouts(int fd)
{
	struct timeval t = { .tv_sec = 20 };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
}

/* The kernel interrupts a connect for work of a ring of this thread; it goes on by itself. */
static int connect_goes_on(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	socklen_t len = sizeof errno;
	int err = ETIMEDOUT;

	while (poll(&p, 1, 20000) < 0 && errno == EINTR)
		;
	if (p.revents)
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
	errno = err;
	return err ? -1 : 0;
}

int tcp_peer_connect(const struct be_addr *to)
{
	int fd = socket(to->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	set_timeouts(fd);
	if (connect(fd, &to->sa, to->len) < 0 && (errno != EINTR || connect_goes_on(fd) < 0))
		fail_msg("connect: %s", strerror(errno));
	return fd;
}

int peer_listen(struct be_addr *at)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*at = any_port();
	assert_true(fd >= 0);
	set_timeouts(fd);
	assert_int_equal(bind(fd, &at->sa, at->len), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(getsockname(fd, &at->sa, &at->len), 0);
	return fd;
}

void peer_write(int fd, const void *data, size_t len)
{
	assert_int_equal(send(fd, data, len, MSG_NOSIGNAL), len);
}

size_t peer_read(int fd, void *data, size_t len)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = recv(fd, (uint8_t *)data + got, len - got, 0);

		if (n <= 0)
			break;
		got += (size_t)n;
	}
	return got;
}

int peer_greet(struct side *s)
{
	uint8_t pre[BE_PREAMBLE] = "hello", answer[TCP_GREETING];
	uint32_t before = s->connected;
	int fd = tcp_peer_connect(&s->at);

	peer_write(fd, pre, sizeof pre);
	SIDES_UNTIL(s, NULL, s->connected > before);
	side_poll(s);
	assert_int_equal(peer_read(fd, answer, sizeof answer), sizeof answer);
	assert_int_equal(answer[0], TCP_STATUS_ACCEPTED);
	assert_string_equal((char *)answer + 1, "reply");
	return fd;
}

void peer_frame(int fd, const struct tcp_frame *f)
{
	uint8_t head[TCP_FRAME_HEADER];

	tcp_frame_encode(head, f);
	peer_write(fd, head, sizeof head);
}

void peer_reset(int fd)
{
	struct linger l = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
	close(fd);
}

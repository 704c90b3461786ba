/* SPDX-License-Identifier: MIT */
/* What a peer may do to the TCP backend: broken frames, other protocols, floods, no descriptors left. */
#include "base/digest.h"
#include "kmod-free-tests/uring_peer.h"
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- broken frames --- */

/* A frame of a good peer still arrives: the instance survived, and its neighbours too. */
static void still_serves(struct side *s, int good)
{
	uint32_t placed = s->placed;
	uint8_t bytes[100];

	memset(bytes, 0x5a, sizeof bytes);
	peer_frame(good, &(struct tcp_frame){ .type = TCP_FRAME_PUT,
					      .len = sizeof bytes,
					      .key = s->token.key,
					      .region = PEER_REGION,
					      .offset = PEER_REGION_LEN - sizeof bytes });
	peer_write(good, bytes, sizeof bytes);
	SIDES_UNTIL(s, NULL, s->placed > placed);
	assert_memory_equal(side_memory(s) + PEER_REGION_LEN - sizeof bytes, bytes, sizeof bytes);
	side_guards(s);
}

static void expect_down(struct side *s, int err)
{
	uint32_t down = s->down;

	SIDES_UNTIL(s, NULL, s->down > down);
	assert_int_equal(s->down_err, err);
}

struct bad {
	struct tcp_frame f;
	int err;
	int flip; /* this byte of the header, after its checksum; -1: none */
	int fake; /* this byte before its checksum */
};

static void broken_frames(void **state)
{
	struct side s;
	int good;

	(void)state;
	side_open(&s, NULL, 4);
	side_listen(&s);
	side_region(&s);
	good = peer_greet(&s);
	const struct tcp_frame put = { TCP_FRAME_PUT, 64, s.token.key, 0, PEER_REGION };
	const struct tcp_frame message = { .type = TCP_FRAME_MESSAGE, .len = 64 };
	struct bad cases[] = {
		{ put, -EBADMSG, 4, -1 },     { put, -EBADMSG, 31, -1 },
		{ message, -EBADMSG, 0, -1 }, { message, -EPROTO, -1, 0 }, /* type */
		{ message, -EPROTO, -1, 1 },                               /* flags */
		{ message, -EPROTO, -1, 2 },                               /* reserved */
		{ message, -EPROTO, -1, 8 },                               /* key of a message */
		{ message, -EPROTO, -1, 24 },                              /* region of a message */
		{ put, -EPROTO, -1, 8 },                                   /* wrong key */
		{ put, -EPROTO, -1, 24 },                                  /* no such region */
		{ message, -EPROTO, -1, -1 },                              /* longer than a frame */
		{ put, -EPROTO, -1, -1 },                                  /* ends behind the region */
		{ put, -EPROTO, -1, -1 },                                  /* starts behind it */
		{ put, -EPROTO, -1, -1 },                                  /* offset + len wraps */
		{ put, -EPROTO, -1, -1 },                                  /* empty */
		{ put, -EPROTO, -1, -1 },                                  /* 4 GB */
	};
	size_t n = ARRAY_LEN(cases);

	cases[n - 6].f.len = 65537;
	cases[n - 5].f.offset = PEER_REGION_LEN - 63;
	cases[n - 4].f.offset = PEER_REGION_LEN;
	cases[n - 3].f.offset = UINT64_MAX - 31;
	cases[n - 2].f.len = 0;
	cases[n - 1].f.len = UINT32_MAX;
	for (size_t i = 0; i < n; i++) {
		uint8_t head[TCP_FRAME_HEADER + 64];
		uint64_t errors = s.be->counters.protocol_errors;
		int fd = peer_greet(&s);

		memset(head, 0xee, sizeof head);
		tcp_frame_encode(head, &cases[i].f);
		if (cases[i].flip >= 0)
			head[cases[i].flip] ^= 0x10;
		if (cases[i].fake >= 0) {
			uint32_t crc;

			head[cases[i].fake] ^= 0x10;
			crc = crc32c(head, 28);
			memcpy(head + 28, &crc, sizeof crc);
		}
		peer_write(fd, head, sizeof head);
		expect_down(&s, cases[i].err);
		assert_int_equal(s.be->counters.protocol_errors, errors + 1);
		assert_int_equal(peer_read(fd, head, 1), 0);
		close(fd);
		still_serves(&s, good);
		assert_int_equal(side_memory(&s)[0], 0xa5);
	}
	close(good);
	side_close(&s);
}

/* The stream ends after `bytes` of a frame. */
static void ends_inside(struct side *s, const struct tcp_frame *f, size_t bytes, bool reset, int err)
{
	uint8_t all[TCP_FRAME_HEADER + 64] = { 0 };
	int fd = peer_greet(s);

	tcp_frame_encode(all, f);
	peer_write(fd, all, bytes ? bytes : sizeof all);
	if (reset) {
		while (side_poll(s))
			;
		peer_reset(fd);
	} else {
		close(fd);
	}
	expect_down(s, err);
}

static void truncated_streams(void **state)
{
	const struct tcp_frame message = { .type = TCP_FRAME_MESSAGE, .len = 64 };
	struct tcp_frame put;
	struct side s;
	int good;

	(void)state;
	side_open(&s, NULL, 4);
	side_listen(&s);
	side_region(&s);
	put = (struct tcp_frame){ TCP_FRAME_PUT, 64, s.token.key, 0, PEER_REGION };
	good = peer_greet(&s);
	for (size_t cut = 1; cut < TCP_FRAME_HEADER + 64; cut += 13) {
		ends_inside(&s, &put, cut, false, -ECONNRESET);
		ends_inside(&s, &message, cut, false, -ECONNRESET);
		ends_inside(&s, &put, cut, true, -ECONNRESET);
	}
	ends_inside(&s, &put, 0, false, 0);
	ends_inside(&s, &message, 0, false, 0);
	still_serves(&s, good);
	close(good);
	side_close(&s);
}

/* A frame that comes byte by byte is whole all the same. */
static void byte_by_byte(void **state)
{
	uint8_t all[TCP_FRAME_HEADER + 40];
	struct side s;
	int fd;

	(void)state;
	side_open(&s, NULL, 4);
	side_listen(&s);
	side_region(&s);
	fd = peer_greet(&s);
	memset(all, 0x11, sizeof all);
	for (uint32_t i = 0; i < 3; i++) {
		tcp_frame_encode(all, &(struct tcp_frame){ .type = i % 2 ? TCP_FRAME_MESSAGE : TCP_FRAME_PUT,
							   .len = 40,
							   .key = i % 2 ? 0 : s.token.key,
							   .region = i % 2 ? 0 : PEER_REGION });
		for (size_t k = 0; k < sizeof all; k++) {
			peer_write(fd, all + k, 1);
			side_poll(&s);
		}
	}
	SIDES_UNTIL(&s, NULL, s.placed == 2 && s.messages == 1);
	assert_memory_equal(side_memory(&s), all + TCP_FRAME_HEADER, 40);
	assert_memory_equal(s.message, all + TCP_FRAME_HEADER, 40);
	close(fd);
	expect_down(&s, 0);
	side_close(&s);
}

/* --- other protocols, silence --- */

static void foreign_server(void **state)
{
	static const char *const banners[] = {
		"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
		"HTTP/1.1 400 Bad Request\r\n\r\n",
		"\xd2",
		"220 mail ready and waiting for somebody who says more than a greeting holds\r\n",
	};
	uint8_t pre[BE_PREAMBLE] = { 0 };
	struct be_addr at;
	struct side s;
	int listener = peer_listen(&at);

	(void)state;
	side_open(&s, NULL, 2);
	for (size_t i = 0; i < ARRAY_LEN(banners); i++) {
		size_t n = min_u64(strlen(banners[i]), TCP_GREETING);
		struct err e;
		int fd;

		assert_int_equal(uring_ops.connect(s.be, &at, pre, PEER_DOMAIN, 1, &s.stream, &e), 0);
		side_poll(&s);
		fd = accept(listener, NULL, NULL);
		peer_write(fd, banners[i], strlen(banners[i]));
		expect_down(&s, -EPROTO);
		assert_int_equal(s.down_len, n);
		assert_memory_equal(s.down_data, banners[i], n);
		close(fd);
	}
	close(listener);
	side_close(&s);
}

static void silent_or_dying_server(void **state)
{
	struct uring_opts o = peer_opts("connection-timeout", "50ms", NULL);
	uint8_t pre[BE_PREAMBLE] = { 0 }, half[20] = { TCP_STATUS_ACCEPTED };
	struct be_addr at;
	struct side s;
	struct err e;
	int listener = peer_listen(&at), fd;

	(void)state;
	side_open(&s, &o, 2);
	assert_int_equal(uring_ops.connect(s.be, &at, pre, PEER_DOMAIN, 1, &s.stream, &e), 0);
	expect_down(&s, -ETIMEDOUT);
	close(accept(listener, NULL, NULL));

	assert_int_equal(uring_ops.connect(s.be, &at, pre, PEER_DOMAIN, 1, &s.stream, &e), 0);
	side_poll(&s);
	fd = accept(listener, NULL, NULL);
	peer_write(fd, half, sizeof half);
	for (int i = 0; i < 5; i++) {
		side_poll(&s);
		uring_ops.wait(s.be, NS_PER_MS);
	}
	assert_int_equal(peer_read(fd, pre, sizeof pre), sizeof pre);
	close(fd);
	expect_down(&s, -ECONNRESET);
	close(listener);
	side_close(&s);
}

/* --- half-open connections --- */

static void half_preambles_time_out(void **state)
{
	struct uring_opts o = peer_opts("preamble-timeout", "30ms", NULL);
	struct side s;
	uint8_t b;
	int fd[8];

	(void)state;
	side_open(&s, &o, 4);
	side_listen(&s);
	for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
		fd[i] = tcp_peer_connect(&s.at);
		peer_write(fd[i], "half a preamble", i);
	}
	for (uint64_t end = clock_now(&clock_mono) + 200 * NS_PER_MS; clock_now(&clock_mono) < end;) {
		side_poll(&s);
		uring_ops.wait(s.be, 10 * NS_PER_MS);
	}
	for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
		assert_int_equal(peer_read(fd[i], &b, 1), 0);
		close(fd[i]);
	}
	assert_int_equal(s.incoming, 0);
	close(peer_greet(&s));
	side_close(&s);
}

/* As many descriptors as the hard limit allows; returns how many connections a test may hold. */
static unsigned room_for_sockets(void)
{
	struct rlimit r;

	getrlimit(RLIMIT_NOFILE, &r);
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_NOFILE, &r);
	return r.rlim_cur < 128 ? 1 : (unsigned)min_u64(3000, (r.rlim_cur - 64) / 3);
}

static void flood(void **state)
{
	struct uring_opts o = peer_opts("pending-max", "32", NULL);
	unsigned n = room_for_sockets();
	static int fd[3000];
	struct side s;

	(void)state;
	side_open(&s, &o, 4);
	side_listen(&s);
	for (unsigned i = 0; i < n; i++) {
		fd[i] = tcp_peer_connect(&s.at);
		if (i % 3)
			peer_write(fd[i], "x", 1);
		if (i % 16 == 0)
			side_poll(&s);
	}
	/* The oldest make room: somebody who speaks at once gets in. */
	close(peer_greet(&s));
	assert_int_equal(s.incoming, 1);
	for (unsigned i = 0; i < n; i++)
		close(fd[i]);
	close(peer_greet(&s));
	side_close(&s);
}

/* Offered and not answered: the bound holds, the next are turned away, rejecting makes room. */
static void offered_and_forgotten(void **state)
{
	struct uring_opts o = peer_opts("pending-max", "2", NULL);
	uint8_t pre[BE_PREAMBLE] = { 0 }, answer[TCP_GREETING];
	struct be_request *r[2];
	struct side s;
	int fd[3];

	(void)state;
	side_open(&s, &o, 4);
	side_listen(&s);
	s.auto_accept = false;
	for (uint32_t i = 0; i < 2; i++) {
		fd[i] = tcp_peer_connect(&s.at);
		peer_write(fd[i], pre, sizeof pre);
		SIDES_UNTIL(&s, NULL, s.incoming == i + 1);
		r[i] = s.request;
	}
	fd[2] = tcp_peer_connect(&s.at);
	for (int i = 0; i < 20; i++) {
		side_poll(&s);
		uring_ops.wait(s.be, NS_PER_MS);
	}
	assert_int_equal(peer_read(fd[2], answer, 1), 0);
	uring_ops.reject(s.be, r[0], "reject: a reply of fifty-six bytes, opaque to TCP.......");
	uring_ops.reject(s.be, r[1], NULL);
	assert_int_equal(peer_read(fd[0], answer, sizeof answer), sizeof answer);
	assert_int_equal(answer[0], TCP_STATUS_REJECTED);
	assert_int_equal(peer_read(fd[1], answer, 1), 0);
	for (int i = 0; i < 3; i++)
		close(fd[i]);
	s.auto_accept = true;
	close(peer_greet(&s));
	side_close(&s);
}

/* No descriptor left: who comes is turned away, and once there are some again the listener works. */
static void descriptors_run_out(void **state)
{
	struct rlimit old, low;
	struct side s;
	uint8_t b;
	int fd[6], spare;

	(void)state;
	side_open(&s, NULL, 4);
	side_listen(&s);
	for (size_t i = 0; i < ARRAY_LEN(fd); i++)
		fd[i] = tcp_peer_connect(&s.at);
	/* The kernel notes the limit when an accept is armed: at the first poll. */
	spare = dup(0);
	close(spare);
	getrlimit(RLIMIT_NOFILE, &old);
	low = old;
	low.rlim_cur = (rlim_t)spare;
	setrlimit(RLIMIT_NOFILE, &low);
	for (int i = 0; i < 30; i++) {
		side_poll(&s);
		uring_ops.wait(s.be, 5 * NS_PER_MS);
	}
	setrlimit(RLIMIT_NOFILE, &old);
	for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
		assert_int_equal(peer_read(fd[i], &b, 1), 0);
		close(fd[i]);
	}
	close(peer_greet(&s));
	side_close(&s);
}

/* --- a peer that is killed --- */

static void put_until_killed(const struct be_addr *to, struct be_token token)
{
	static uint8_t src[PEER_REGION_LEN];
	struct side s;

	side_open(&s, NULL, 1);
	s.at = *to;
	assert_int_equal(uring_ops.connect(s.be, to, src, PEER_DOMAIN, 1, &s.stream, NULL), 0);
	for (;;) {
		struct be_put p = { src, sizeof src, token, 0, 0 };

		side_poll(&s);
		uring_ops.put(s.be, s.stream, &p, 1);
		uring_ops.wait(s.be, NS_PER_MS);
	}
}

static void killed_mid_put(void **state)
{
	struct side s;

	(void)state;
	side_open(&s, NULL, 4);
	side_listen(&s);
	side_region(&s);
	for (uint32_t round = 0; round < 5; round++) {
		uint32_t placed = s.placed, down = s.down;
		pid_t pid = fork();

		if (pid == 0)
			put_until_killed(&s.at, s.token);
		SIDES_UNTIL(&s, NULL, s.placed > placed + round * 10);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		SIDES_UNTIL(&s, NULL, s.down > down);
		assert_true(s.down_err == 0 || s.down_err == -ECONNRESET);
		memset(side_memory(&s), 0x77, PEER_REGION_LEN);
		for (int i = 0; i < 20; i++)
			side_poll(&s);
		for (size_t i = 0; i < PEER_REGION_LEN; i++)
			assert_int_equal(side_memory(&s)[i], 0x77);
		side_guards(&s);
	}
	assert_int_equal(s.be->counters.protocol_errors, 0);
	assert_int_equal(uring_ops.region_drop(s.be, PEER_DOMAIN, PEER_REGION), 0);
	side_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(broken_frames),
		cmocka_unit_test(truncated_streams),
		cmocka_unit_test(byte_by_byte),
		cmocka_unit_test(foreign_server),
		cmocka_unit_test(silent_or_dying_server),
		cmocka_unit_test(half_preambles_time_out),
		cmocka_unit_test(flood),
		cmocka_unit_test(offered_and_forgotten),
		cmocka_unit_test(descriptors_run_out),
		cmocka_unit_test(killed_mid_put),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

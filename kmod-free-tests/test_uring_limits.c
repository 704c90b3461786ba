/* SPDX-License-Identifier: MIT */
/* The TCP backend at the ends of its counters and of its waits. */
#include "kmod-free-tests/uring_peer.h"
#include "transport/uring_impl.h"
#include <unistd.h>

#define PUTS 64
#define PIECE (PEER_REGION_LEN / PUTS)

/* How often each cookie was DONE. */
static void count_done(struct side *s, unsigned done[PUTS])
{
	struct be_event ev[32];
	int n = uring_ops.poll(s->be, ev, 32);

	for (int i = 0; i < n; i++)
		if (ev[i].type == BE_DONE) {
			assert_int_equal(ev[i].err, 0);
			done[ev[i].cookie]++;
			s->done++;
		}
}

/* A stream that has done 2^32 operations goes on: each put is placed once and each cookie comes back once. */
static void counters_wrap_with(const struct uring_opts *o, uint32_t sends)
{
	static uint8_t src[PEER_REGION_LEN];
	unsigned done[PUTS] = { 0 }, posted = 0;
	struct u_stream *s;
	struct side a, b;

	peer_fill(src, sizeof src, sends);
	side_open(&b, o, 2);
	side_listen(&b);
	side_region(&b);
	side_open_deep(&a, o, 2, sends);
	sides_pair(&a, &b);
	assert_int_equal(stream_find(uring_of(a.be), a.stream, &s), 0);
	assert_int_equal(s->op_head, s->op_tail);
	s->op_head = s->op_done = s->op_sent = s->op_tail = UINT32_MAX - PUTS / 2;
	for (uint64_t end = clock_now(&clock_mono) + 20 * NS_PER_S; a.done < PUTS || b.placed < PUTS;) {
		struct be_put p = { src + posted * PIECE, PIECE, b.token, posted * PIECE, posted };

		while (posted < PUTS && uring_ops.put(a.be, a.stream, &p, 1) == 1) {
			posted++;
			p = (struct be_put){ src + posted * PIECE, PIECE, b.token, posted * PIECE, posted };
		}
		count_done(&a, done);
		side_poll(&b);
		if (clock_now(&clock_mono) > end)
			fail_msg("%u sends: %u puts placed, %u done", sends, b.placed, a.done);
	}
	for (unsigned i = 0; i < PUTS; i++)
		assert_int_equal(done[i], 1);
	assert_true(s->op_tail < PUTS);
	assert_memory_equal(side_memory(&b), src, sizeof src);
	side_guards(&b);
	side_close(&a);
	side_close(&b);
}

static void counters_wrap(void **state)
{
	static const uint32_t sends[] = { 1, 7, 16, 24, 33 }; /* 24: what AMST asks for */
	struct uring_opts zc = peer_opts("zerocopy", "on", "zerocopy-threshold", "1", NULL);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sends); i++) {
		counters_wrap_with(NULL, sends[i]);
		counters_wrap_with(&zc, sends[i]);
	}
}

static uint64_t wait_took(struct side *s, uint64_t timeout_ns)
{
	uint64_t start = clock_now(&clock_mono);

	uring_ops.wait(s->be, timeout_ns);
	return clock_now(&clock_mono) - start;
}

/* With a connection that says nothing: its deadline ends the wait. */
static uint64_t deadline_took(struct side *s)
{
	struct uring *u = uring_of(s->be);
	int fd = tcp_peer_connect(&s->at);
	uint64_t took;

	SIDES_UNTIL(s, NULL, u->next_deadline != UINT64_MAX);
	took = wait_took(s, 20 * NS_PER_S);
	SIDES_UNTIL(s, NULL, u->next_deadline == UINT64_MAX);
	close(fd);
	return took;
}

/* Spinning is a way to wait and takes no longer than the wait, which a time-out or a deadline ends. A busy machine may
 * make any one of them long, but not all. */
static void busy_poll_waits_no_longer(void **state)
{
	struct uring_opts o = peer_opts("busy-poll", "1s", "preamble-timeout", "100ms", NULL);
	uint64_t least = UINT64_MAX;
	struct side s;

	(void)state;
	side_open(&s, &o, 2);
	side_listen(&s);
	while (side_poll(&s))
		;
	for (int i = 0; i < 20 && least >= o.busy_poll; i++)
		least = min_u64(least, wait_took(&s, 20 * NS_PER_MS));
	assert_true(least < o.busy_poll);
	least = UINT64_MAX;
	for (int i = 0; i < 20 && least >= o.busy_poll; i++)
		least = min_u64(least, deadline_took(&s));
	assert_true(least < o.busy_poll);
	side_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counters_wrap),
		cmocka_unit_test(busy_poll_waits_no_longer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

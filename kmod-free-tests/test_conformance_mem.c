/* SPDX-License-Identifier: MIT */
/*
 * The conformance suite over mem, on a perfect network and on slow ones, and mem's own faults.
 *
 * check: no-tsan (one thread drives it all)
 */
#include "base/clock.h"
#include "kmod-free-tests/conformance_impl.h"
#include "transport/mem.h"
#include "transport/multi.h"
#include <stdio.h>

/* What a target's ctx points to. */
struct net {
	struct mem_faults faults;
	uint64_t now_ns;
};

static void *net_begin(struct conf_target *t)
{
	struct net *net = t->ctx;
	struct mem_fabric *f = NULL;
	struct err e = { 0 };

	net->now_ns = 0;
	if (mem_fabric_open(&f, &net->faults, 42, clock_manual(&net->now_ns), &e) < 0)
		fail_msg("%s", e.why);
	return f;
}

static void net_end(struct conf_target *t, void *fabric)
{
	(void)t;
	mem_fabric_close(fabric);
}

static void net_idle(struct conf_target *t, void *fabric, struct be *const *be, int n, unsigned round)
{
	struct net *net = t->ctx;
	uint64_t next = mem_fabric_next(fabric);

	(void)be;
	(void)n;
	(void)round;
	if (next != UINT64_MAX)
		net->now_ns = next;
}

static struct be_addr any_port(void)
{
	struct be_addr a = { .len = sizeof a.in };

	a.in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	return a;
}

static struct conf_target target(const char *name, const struct be_ops *ops, struct net *net)
{
	return (struct conf_target){ .name = name,
				     .ops = ops,
				     .listen_at = any_port(),
				     .begin = net_begin,
				     .end = net_end,
				     .idle = net_idle,
				     .drop = mem_drop,
				     .inject_put = mem_inject_put,
				     .ctx = net };
}

/* --- mem's own faults --- */

static struct mem_faults *faults_of(struct conf *c)
{
	return mem_fabric_faults(c->fabric);
}

static uint64_t *now_of_test(struct conf *c)
{
	return &((struct net *)c->t->ctx)->now_ns;
}

static void delay_and_bandwidth(void **state)
{
	struct conf *c = *state;
	int a, b;

	faults_of(c)->path[0] = (struct mem_path){ .delay_ns = 5 * NS_PER_MS, .bytes_per_s = 1000 * 1000 };
	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	assert_int_equal(*now_of_test(c), 5 * NS_PER_MS);
	conf_send(c, a, NULL, 0, c->src, 10000);
	conf_send(c, a, NULL, 0, c->src, 10000);
	WAIT(c, c->st[b].messages == 2);
	assert_int_equal(*now_of_test(c), (5 + 10 + 10 + 5) * NS_PER_MS);
	conf_send(c, b, NULL, 0, c->src, 10000); /* the other way is free */
	WAIT(c, c->st[a].messages == 1);
	assert_int_equal(*now_of_test(c), 30 * NS_PER_MS);
}

static void done_can_be_late(void **state)
{
	struct conf *c = *state;
	int a, b;

	faults_of(c)->done_delay_ns = NS_PER_S;
	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	conf_send(c, a, "x", 1, NULL, 0);
	WAIT(c, c->st[b].messages == 1);
	assert_int_equal(c->st[a].done, 0);
	conf_all_done(c, a);
	assert_true(*now_of_test(c) >= NS_PER_S);
}

static int order[16], n_order;

static void note_order(struct conf *c, struct conf_stream *s, const struct be_event *ev)
{
	(void)ev;
	order[n_order++] = (int)(s - c->st);
}

static void streams_overtake(void **state)
{
	struct conf *c = *state;
	int a[8], b[8], inversions = 0;

	conf_open(c, 2);
	for (int i = 0; i < 8; i++)
		conf_pair(c, 1, 0, &a[i], &b[i]);
	faults_of(c)->path[0].jitter_ns = NS_PER_MS;
	c->on_message = note_order;
	n_order = 0;
	for (int i = 0; i < 8; i++)
		conf_send(c, a[i], "x", 1, NULL, 0);
	WAIT(c, n_order == 8);
	for (int i = 1; i < 8; i++)
		inversions += order[i] < order[i - 1];
	assert_true(inversions > 0);
}

static void short_accept(void **state)
{
	struct conf *c = *state;
	struct be_put v[8];
	int a, b, zeros = 0, fewer = 0;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, 4096);
	conf_pair(c, 1, 0, &a, &b);
	faults_of(c)->short_ppm = 500000;
	for (int round = 0; round < 200; round++) {
		struct conf_stream *s = &c->st[a];
		bool waiting = s->done != s->accepted;
		int n;

		for (int i = 0; i < 8; i++)
			v[i] = (struct be_put){ .src = c->src,
						.len = 16,
						.token = c->region[0].token,
						.cookie = (uint64_t)a << 32 | (uint32_t)(s->accepted + (uint64_t)i) };
		n = c->ops->put(c->be[1], s->s, v, 8);
		assert_in_range(n, waiting ? 0 : 1, 8); /* 0 only while a DONE is to come */
		s->accepted += (uint64_t)n;
		zeros += !n;
		fewer += n > 0 && n < 8;
		if (round % 3 == 0)
			conf_step(c);
	}
	assert_true(zeros > 0 && fewer > 0);
	conf_all_done(c, a);
}

static void corruption(void **state)
{
	struct conf *c = *state;
	uint64_t bits = 0;
	int a, b;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, 4096);
	conf_pair(c, 1, 0, &a, &b);
	faults_of(c)->corrupt_ppm = 1000000;
	c->hold = true;
	conf_put(c, a, c->region[0].token, 0, c->src, 4096);
	conf_send(c, a, c->src, 64, c->src, 256);
	WAIT(c, c->n_held == 1);
	for (int i = 0; i < 4096; i++)
		bits += (uint64_t)__builtin_popcount(c->region[0].base[i] ^ c->src[i]);
	assert_int_equal(bits, 1);
	assert_memory_equal(c->held[0].data, c->src, 64); /* heads stay whole */
	for (int i = 0; i < 256; i++)
		bits += (uint64_t)__builtin_popcount(c->held[0].data[64 + i] ^ c->src[i]);
	assert_int_equal(bits, 2);
	conf_guards(c, 0);
}

static void random_drops(void **state)
{
	struct conf *c = *state;
	int lost_ok = 0, half = 0;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, 4096);
	for (int round = 0; round < 60; round++) {
		uint64_t got;
		int a, b;

		conf_pair(c, 1, 0, &a, &b);
		memset(c->region[0].base, 0, 4096);
		faults_of(c)->drop_ppm = 300000;
		for (int i = 0; i < 12; i++)
			conf_try_put(c, a, c->region[0].token, (uint64_t)i * 256, c->src + i * 256, 256);
		faults_of(c)->drop_ppm = 1000000;
		conf_try_put(c, a, c->region[0].token, 0, c->src, 256);
		WAIT(c, c->st[a].down && c->st[b].down);
		assert_int_equal(c->st[a].down_err, -ECONNRESET);
		assert_int_equal(c->st[b].down_err, -ECONNRESET);
		got = c->st[b].placed;
		assert_true(got < 13);
		assert_memory_equal(c->region[0].base, c->src, got * 256);
		lost_ok += c->st[a].done - c->st[a].failed > got; /* DONE does not mean delivered */
		half += got < 12 && c->region[0].base[got * 256] == c->src[got * 256];
		faults_of(c)->drop_ppm = 0;
	}
	assert_true(lost_ok > 0);
	assert_true(half > 0);
}

static void aborted_operations_say_so(void **state)
{
	struct conf *c = *state;
	int a, b;

	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	faults_of(c)->path[0].delay_ns = NS_PER_S;
	for (int i = 0; i < 10; i++)
		conf_send(c, a, "x", 1, NULL, 0);
	conf_stream_close(c, a, false);
	WAIT(c, c->st[a].down && c->st[b].down);
	assert_int_equal(c->st[a].failed, 10);
	assert_int_equal(c->st[b].messages, 0);
	assert_int_equal(c->st[b].down_err, -ECONNRESET);
}

static void connect_faults(void **state)
{
	struct conf *c = *state;
	int a, b;

	conf_open(c, 2);
	faults_of(c)->refuse_ppm = 1000000;
	a = conf_connect(c, 1, &c->addr, CONF_DOMAIN);
	WAIT(c, c->st[a].down);
	assert_int_equal(c->st[a].down_err, -ECONNREFUSED);
	faults_of(c)->refuse_ppm = 0;
	faults_of(c)->lose_ppm = 1000000;
	faults_of(c)->connect_timeout_ns = 3 * NS_PER_S;
	a = conf_connect(c, 1, &c->addr, CONF_DOMAIN);
	WAIT(c, c->st[a].down);
	assert_int_equal(c->st[a].down_err, -ETIMEDOUT);
	assert_int_equal(*now_of_test(c), 3 * NS_PER_S);
	faults_of(c)->lose_ppm = 0;
	a = conf_connect(c, 1, &c->addr, CONF_DOMAIN); /* nobody ever answers it */
	WAIT(c, c->st[a].down);
	assert_int_equal(c->st[a].down_err, -ETIMEDOUT);
	c->n_pending = 0;
	conf_pair(c, 1, 0, &a, &b);
}

static void partition_heals(void **state)
{
	struct conf *c = *state;
	int a, b;

	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	mem_partition(c->fabric, true);
	conf_send(c, a, "x", 1, NULL, 0);
	conf_send(c, b, "y", 1, NULL, 0);
	for (int i = 0; i < 20; i++)
		assert_int_equal(c->ops->poll(c->be[i % 2], (struct be_event[4]){ 0 }, 4), 0);
	mem_partition(c->fabric, false);
	WAIT(c, c->st[a].messages == 1 && c->st[b].messages == 1);
	mem_partition(c->fabric, true);
	faults_of(c)->idle_timeout_ns = 7 * NS_PER_S;
	conf_send(c, a, "x", 1, NULL, 0);
	WAIT(c, c->st[a].down && c->st[b].down);
	assert_int_equal(c->st[a].down_err, -ETIMEDOUT);
	assert_int_equal(c->st[b].down_err, -ETIMEDOUT);
	assert_true(*now_of_test(c) >= 7 * NS_PER_S);
	mem_partition(c->fabric, false);
	conf_pair(c, 1, 0, &a, &b);
}

static void crash(void **state)
{
	struct conf *c = *state;
	struct be_msg v = { .head = "x", .head_len = 1 };
	struct be_event ev[4];
	struct err e = { 0 };
	be_stream s;
	int a, b, d;

	conf_open(c, 3);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, 65536);
	conf_pair(c, 1, 0, &a, &b);
	d = conf_connect(c, 2, &c->addr, CONF_DOMAIN);
	WAIT(c, c->n_pending == 1);
	while (conf_try_put(c, a, c->region[0].token, 0, c->src, 65536) == 1)
		;
	mem_crash(c->be[0]);
	c->n_pending = 0;
	memset(c->region[0].base, 0xee, 65536);
	WAIT(c, c->st[a].down && c->st[d].down);
	assert_int_equal(c->st[a].down_err, -ECONNRESET);
	assert_int_equal(c->st[d].down_err, -ECONNRESET);
	assert_true(conf_all(c->region[0].base, 65536, 0xee));
	assert_int_equal(c->ops->send(c->be[0], c->st[b].s, &v, 1), -ENOTCONN);
	assert_int_equal(c->ops->poll(c->be[0], ev, 4), 0);
	assert_int_equal(c->ops->connect(c->be[0], &c->addr, c->src, 1, 1, &s, &e), -ENOTCONN);
	d = conf_connect(c, 1, &c->addr, CONF_DOMAIN); /* its listener is gone */
	WAIT(c, c->st[d].down);
	assert_int_equal(c->st[d].down_err, -ECONNREFUSED);
}

static void torn_put_keeps_a_region_busy(void **state)
{
	struct conf *c = *state;
	struct be_token t;
	struct err e;
	int a, b;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, 4096);
	conf_pair(c, 1, 0, &a, &b);
	faults_of(c)->torn_ppm = 1000000;
	conf_put(c, a, c->region[0].token, 0, c->src, 4096);
	c->ops->poll(c->be[0], (struct be_event[4]){ 0 }, 4);
	c->ops->poll(c->be[1], (struct be_event[4]){ 0 }, 4);
	assert_false(conf_all(c->region[0].base, 4096, 0)); /* some of it is there */
	assert_true(memcmp(c->region[0].base, c->src, 4096));
	assert_int_equal(c->ops->region_drop(c->be[0], CONF_DOMAIN, 1), -EBUSY);
	memset(c->region[0].base, 0xee, 4096);
	assert_int_equal(c->ops->region_drop(c->be[0], CONF_DOMAIN, 1), -EBUSY);
	assert_int_equal(c->ops->region_add(c->be[0], CONF_DOMAIN, 1, c->region[0].base, 4096, &t, &e), -EEXIST);
	WAIT(c, c->st[a].down && c->st[b].down);
	assert_int_equal(c->ops->region_add(c->be[0], CONF_DOMAIN, 1, c->region[0].base, 4096, &t, &e), 0);
	assert_int_equal(c->ops->region_drop(c->be[0], CONF_DOMAIN, 1), 0);
	assert_true(conf_all(c->region[0].base, 4096, 0xee));
}

/* Everything at once: returns a digest of all that was observed. */
static uint64_t stormy_run(uint64_t seed)
{
	struct net net = { .faults = { .path = { { NS_PER_MS, NS_PER_MS, 50000000 }, { NS_PER_MS, 0, 0 } },
				       .done_jitter_ns = NS_PER_MS,
				       .notice_jitter_ns = NS_PER_MS,
				       .drop_ppm = 20000,
				       .short_ppm = 200000,
				       .corrupt_ppm = 50000,
				       .torn_ppm = 200000 } };
	struct conf_target t = target("storm", &mem_ops, &net);
	void *state = &t;
	struct conf *c;
	uint64_t seen = 1;
	int a[4], b[4];

	conf_setup(&state);
	c = state;
	c->o.seed = seed;
	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, 65536);
	for (int i = 0; i < 4; i++)
		conf_pair(c, 1, 0, &a[i], &b[i]);
	for (int i = 0; i < 400; i++) {
		int k = i % 4;

		if (!c->st[a[k]].down)
			conf_try_put(c, a[k], c->region[0].token, (uint64_t)k * 1000, c->src + i, 1000);
		if (!c->st[b[k]].down)
			conf_try_send(c, b[k], c->src, 10, c->src, 100);
		seen = seen * 31 + (uint64_t)conf_step(c) + net.now_ns;
	}
	for (int i = 0; i < 65536; i++)
		seen = seen * 31 + c->region[0].base[i];
	for (int i = 0; i < c->n; i++)
		seen = seen * 31 + c->st[i].done + 7 * c->st[i].failed + 13 * c->st[i].placed + c->st[i].down;
	conf_teardown(&state);
	return seen;
}

static void runs_repeat(void **state)
{
	uint64_t first[10];
	int different = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 10; seed++)
		first[seed] = stormy_run(seed);
	for (uint64_t seed = 0; seed < 10; seed++) {
		assert_true(stormy_run(seed) == first[seed]);
		different += seed && first[seed] != first[seed - 1];
	}
	assert_true(different >= 8);
}

static int own_faults(struct conf_target *t)
{
	struct CMUnitTest tests[] = {
		CONF_TEST(delay_and_bandwidth),
		CONF_TEST(done_can_be_late),
		CONF_TEST(streams_overtake),
		CONF_TEST(short_accept),
		CONF_TEST(corruption),
		CONF_TEST(random_drops),
		CONF_TEST(connect_faults),
		CONF_TEST(partition_heals),
		CONF_TEST(crash),
		CONF_TEST(torn_put_keeps_a_region_busy),
		CONF_TEST(aborted_operations_say_so),
	};

	for (size_t i = 0; i < ARRAY_LEN(tests); i++)
		tests[i].initial_state = t;
	return _cmocka_run_group_tests(t->name, tests, ARRAY_LEN(tests), NULL, NULL);
}

int main(void)
{
	static struct net perfect, slow, rough;
	const struct CMUnitTest repeat[] = { cmocka_unit_test(runs_repeat) };
	struct conf_target t = target("mem", &mem_ops, &perfect);
	int failed;

	slow.faults = (struct mem_faults){ .path = { { 5 * NS_PER_MS, 3 * NS_PER_MS, 0 }, { 9 * NS_PER_MS, 0, 0 } },
					   .done_delay_ns = 2 * NS_PER_MS,
					   .done_jitter_ns = 9 * NS_PER_MS };
	rough = slow;
	rough.faults.short_ppm = 300000;
	rough.faults.torn_ppm = 300000;
	rough.faults.notice_jitter_ns = 20 * NS_PER_MS;
	rough.faults.path[0].bytes_per_s = 1000ull << 20;
	failed = conformance_run(&t);
	t = target("mem, slow", &mem_ops, &slow);
	failed += conformance_run(&t);
	t = target("mem, torn and short", &mem_ops, &rough);
	failed += conformance_run(&t);
	t = target("mem1, one-sided", &mem_one_sided_ops, &perfect);
	failed += conformance_run(&t);
	t = target("mem1, torn and short", &mem_one_sided_ops, &rough);
	failed += conformance_run(&t);
	t = target("mem, as one of several", &multi_ops, &perfect); /* two of them: test_multi */
	t.opts = &(struct multi_opts){ .n = 1, .way = { { &mem_ops, NULL } } };
	t.frame_bytes = mem_ops.caps.frame_max;
	t.drop = NULL;
	t.inject_put = NULL;
	failed += conformance_run(&t);
	t = target("faults of mem", &mem_ops, &perfect);
	failed += own_faults(&t);
	return failed + cmocka_run_group_tests_name("mem repeats", repeat, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/* Messages and puts: sizes, order, DONE, back-pressure, frames. */
#include "kmod-free-tests/conformance_impl.h"

#define REGION (8u << 20)

/* The message that the next test event must equal. */
static struct {
	const uint8_t *head, *body;
	uint32_t head_len, body_len;
} expect;

static void expect_message(struct conf *c, struct conf_stream *s, const struct be_event *ev)
{
	const uint8_t *p = ev->data;

	(void)c;
	(void)s;
	assert_int_equal(ev->len, expect.head_len + expect.body_len);
	if (expect.head_len)
		assert_memory_equal(p, expect.head, expect.head_len);
	if (expect.body_len && memcmp(p + expect.head_len, expect.body, expect.body_len))
		fail_msg("body of %u bytes differs", expect.body_len);
}

static void message_sizes(void **state)
{
	struct conf *c = *state;
	uint32_t max = c->t->frame_bytes ? c->t->frame_bytes : c->ops->caps.frame_max;
	const uint32_t sizes[][2] = { /* head, body */
				      { 0, 0 },
				      { 1, 0 },
				      { 0, 1 },
				      { 7, 9 },
				      { BE_HEAD_MAX, 0 },
				      { 64, 4096 },
				      { BE_HEAD_MAX, 4097 },
				      { 0, 65537 },
				      { 100, max - 100 },
				      { 0, max }
	};
	uint64_t n = 0;
	int a, b;

	c->o.frames = 2;
	c->o.frame_bytes = max;
	c->scratch = conf_alloc(max);
	for (uint32_t i = 0; i < max; i++)
		c->scratch[i] = (uint8_t)(i * 2654435761u >> 24);
	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	c->on_message = expect_message;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		if (sizes[i][0] + sizes[i][1] > max)
			continue;
		expect.head = c->src;
		expect.head_len = sizes[i][0];
		expect.body = c->scratch;
		expect.body_len = sizes[i][1];
		conf_send(c, a, expect.head_len ? c->src : NULL, expect.head_len, expect.body_len ? c->scratch : NULL,
			  expect.body_len);
		n++;
		WAIT(c, c->st[b].messages == n);
	}
	conf_all_done(c, a);
	assert_int_equal(c->st[a].failed, 0);
}

static void message_too_large(void **state)
{
	struct conf *c = *state;
	uint32_t max = c->ops->caps.frame_max;
	int a, b;

	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	assert_int_equal(conf_try_send(c, a, NULL, 0, c->src, max + 1), -EINVAL);
	assert_int_equal(conf_try_send(c, a, c->src, 8, c->src, max - 7), -EINVAL);
	assert_int_equal(conf_try_send(c, a, c->src, BE_HEAD_MAX + 1, NULL, 0), -EINVAL);
	assert_int_equal(conf_try_send(c, a, c->src, 8, c->src, UINT32_MAX), -EINVAL);
	conf_send(c, a, "still up", 8, NULL, 0);
	WAIT(c, c->st[b].messages == 1);
}

/* The receiver opened with smaller frames than a peer uses. */
static void message_over_the_peers_frames(void **state)
{
	struct conf *c = *state;
	int a, b;

	c->o.frame_bytes = 1024;
	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	conf_send(c, a, c->src, 24, c->src, 1000);
	WAIT(c, c->st[b].messages == 1);
	conf_send(c, a, c->src, 25, c->src, 1000);
	WAIT(c, c->st[a].down && c->st[b].down);
	assert_int_equal(c->st[b].messages, 1);
	assert_int_equal(c->st[b].down_err, -EPROTO);
	assert_int_equal(c->be[0]->counters.protocol_errors, 1);
}

static uint32_t next_seq;

static void check_seq(struct conf *c, struct conf_stream *s, const struct be_event *ev)
{
	uint32_t seq;

	(void)c;
	(void)s;
	assert_true(ev->len >= sizeof seq);
	memcpy(&seq, ev->data, sizeof seq);
	assert_int_equal(seq, next_seq);
	next_seq++;
}

static void messages_in_order(void **state)
{
	struct conf *c = *state;
	int a, b;

	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	c->on_message = check_seq;
	next_seq = 0;
	for (uint32_t i = 0; i < 2000; i++)
		conf_send(c, a, &i, sizeof i, c->src, i % 300);
	WAIT(c, next_seq == 2000);
	conf_all_done(c, a);
	assert_int_equal(c->st[a].done, 2000);
	assert_int_equal(c->st[a].failed, 0);
}

static void many_at_a_time(void **state)
{
	struct conf *c = *state;
	struct be_msg v[64];
	int a, b;

	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	c->on_message = check_seq;
	next_seq = 0;
	for (uint32_t sent = 0; sent < 500;) {
		struct conf_stream *s = &c->st[a];
		uint32_t seq[64];
		int n = (int)min_u64(64, 500 - sent);

		for (int i = 0; i < n; i++) {
			seq[i] = sent + (uint32_t)i;
			v[i] = (struct be_msg){ .head = &seq[i],
						.head_len = sizeof seq[i],
						.cookie = (uint64_t)a << 32 | seq[i] };
		}
		n = c->ops->send(c->be[1], s->s, v, n);
		assert_in_range(n, 0, c->o.sends);
		s->accepted += (uint64_t)n;
		sent += (uint32_t)n;
		conf_step(c);
	}
	WAIT(c, next_seq == 500);
	conf_all_done(c, a);
	assert_int_equal(c->ops->send(c->be[1], c->st[a].s, v, 0), 0);
}

#define PUT_LARGE (1u << 20)

static void put_sizes(void **state)
{
	struct conf *c = *state;
	uint32_t max = (uint32_t)min_u64(c->ops->caps.put_max, 64u << 20);
	const uint32_t sizes[] = { 1, 2, 3, 7, 8, 63, 64, 65, 4095, 4096, 4097, 65537, (1u << 20) + 1, max };
	uint8_t *src;
	uint64_t n = 0;
	int a, b;

	src = c->scratch = conf_alloc(max);
	for (uint32_t i = 0; i < max; i++)
		src[i] = (uint8_t)(1 + i % 251);
	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 3, max);
	conf_pair(c, 1, 0, &a, &b);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		const uint64_t offsets[] = { 0, 1 + i, max - sizes[i] }; /* start, unaligned, up to the last byte */

		/* What small ones wrote far off would be lost in the large ones' bytes. */
		if (sizes[i] >= PUT_LARGE && (!i || sizes[i - 1] < PUT_LARGE))
			assert_true(conf_all(c->region[0].base, max, 0));
		for (int k = 0; k < 3; k++) {
			uint32_t from = sizes[i] < max ? (uint32_t)k : 0, len = sizes[i];
			uint8_t *at = c->region[0].base + offsets[k];
			uint64_t behind = max - offsets[k] - len;

			if (len > max || offsets[k] + len > max || (k && len == max))
				continue;
			conf_put(c, a, c->region[0].token, offsets[k], src + from, len);
			conf_send(c, a, "placed", 6, NULL, 0);
			n++;
			WAIT(c, c->st[b].messages == n);
			if (memcmp(at, src + from, len))
				fail_msg("put of %u bytes at %llu arrived changed", len,
					 (unsigned long long)offsets[k]);
			if (len < PUT_LARGE && !conf_all(at + len, min_u64(behind, PUT_LARGE), 0))
				fail_msg("put of %u bytes wrote behind its end", len);
			memset(at, 0, len);
		}
	}
	conf_guards(c, 0);
	conf_all_done(c, a);
	assert_int_equal(c->st[a].failed, 0);
	assert_int_equal(c->st[b].placed, c->ops->caps.sees_puts ? n : 0);
}

static void put_not_allowed(void **state)
{
	struct conf *c = *state;
	int a, b;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 3, 4096);
	conf_pair(c, 1, 0, &a, &b);
	assert_int_equal(conf_try_put(c, a, c->region[0].token, 0, c->src, 0), -EINVAL);
	assert_int_equal(conf_try_put(c, a, c->region[0].token, 0, c->src, c->ops->caps.put_max + 1), -EINVAL);
	conf_put(c, a, c->region[0].token, 0, c->src, 8);
	conf_send(c, a, "x", 1, NULL, 0);
	WAIT(c, c->st[b].messages == 1);
}

/* Those before it are taken, it and those behind it are not, and the stream lives on. */
static void arrays_with_a_wrong_one(void **state)
{
	struct conf *c = *state;
	struct conf_stream *s;
	struct be_token t;
	int a, b, n = 0;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 3, 4096);
	conf_pair(c, 1, 0, &a, &b);
	t = c->region[0].token;
	s = &c->st[a];
	for (uint64_t at = 0; at < 3; at++) { /* the wrong one's place */
		uint64_t cookie = (uint64_t)a << 32 | s->accepted;
		struct be_put p[3] = { { c->src, 8, t, 0, cookie },
				       { c->src, 8, t, 8, cookie + 1 },
				       { c->src, 8, t, 16, cookie + 2 } };

		p[at].len = 0;
		WAIT(c, (n = c->ops->put(c->be[1], s->s, p, 3)) != 0);
		assert_true(at ? n >= 1 && n <= (int)at : n == -EINVAL);
		s->accepted += n > 0 ? (uint64_t)n : 0;
		conf_all_done(c, a);
	}
	for (uint64_t at = 0; at < 3; at++) {
		uint64_t cookie = (uint64_t)a << 32 | s->accepted, before = c->st[b].messages;
		struct be_msg m[3] = { { "0", 1, 0, NULL, cookie },
				       { "1", 1, 0, NULL, cookie + 1 },
				       { "2", 1, 0, NULL, cookie + 2 } };

		m[at].head = c->src;
		m[at].head_len = BE_HEAD_MAX + 1;
		WAIT(c, (n = c->ops->send(c->be[1], s->s, m, 3)) != 0);
		assert_true(at ? n >= 1 && n <= (int)at : n == -EINVAL);
		s->accepted += n > 0 ? (uint64_t)n : 0;
		WAIT(c, c->st[b].messages == before + (n > 0 ? (uint64_t)n : 0));
		conf_all_done(c, a);
	}
	assert_int_equal(s->failed, 0);
}

static void placed_before_message(void **state)
{
	struct conf *c = *state;
	struct mix m;
	int a, b;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, REGION);
	conf_pair(c, 1, 0, &a, &b);
	for (uint64_t seed = 1; seed <= 4; seed++) {
		c->st[b].placed = 0;
		memset(c->region[0].base, 0, REGION);
		mix_begin(c, &m, a, b, seed, 0, REGION, 300);
		mix_finish(c, &m);
	}
	conf_guards(c, 0);
}

static void poll_one_event_at_a_time(void **state)
{
	struct conf *c = *state;
	struct mix m;
	int a, b;

	c->max = 1;
	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, REGION);
	conf_pair(c, 1, 0, &a, &b);
	mix_begin(c, &m, a, b, 21, 0, REGION, 300);
	mix_finish(c, &m);
}

static void both_directions(void **state)
{
	struct conf *c = *state;
	struct mix m[2];
	int a, b;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, REGION / 2);
	conf_region(c, 1, 1, CONF_DOMAIN, 1, REGION / 2);
	conf_pair(c, 1, 0, &a, &b);
	mix_begin(c, &m[0], a, b, 5, 0, REGION / 2, 400);
	mix_begin(c, &m[1], b, a, 6, 0, REGION / 2, 400);
	m[1].region = &c->region[1];
	WAIT(c, (mix_step(c, &m[0]), mix_step(c, &m[1]), !m[0].left && !m[1].left));
	mix_finish(c, &m[0]);
	mix_finish(c, &m[1]);
	conf_guards(c, 0);
	conf_guards(c, 1);
}

static void many_streams(void **state)
{
	enum { N = 64 };
	struct conf *c = *state;
	struct mix *m;
	uint64_t part = 2 * REGION / N;
	uint32_t left = N;

	c->scratch = conf_alloc(N * sizeof *m);
	m = (struct mix *)c->scratch;
	c->o.streams = N;
	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, 2 * REGION);
	for (uint64_t i = 0; i < N; i++) {
		int a, b;

		conf_pair(c, 1, 0, &a, &b);
		mix_begin(c, &m[i], a, b, 100 + i, i * part, (i + 1) * part, 40);
	}
	for (uint64_t deadline = conf_deadline(); left; conf_step(c)) {
		left = 0;
		for (int i = 0; i < N; i++) {
			mix_step(c, &m[i]);
			left += m[i].left;
		}
		conf_check_deadline(c, deadline, __FILE__, __LINE__, "all streams to post their operations");
	}
	for (int i = 0; i < N; i++)
		mix_finish(c, &m[i]);
	conf_guards(c, 0);
}

static void back_pressure(void **state)
{
	struct conf *c = *state;
	uint32_t sends = c->o.sends;
	int a, b, rc = 1;

	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	for (int round = 0; round < 3; round++) {
		uint64_t before = c->st[a].accepted;

		for (uint32_t i = 0; i <= sends && rc > 0; i++) /* nobody polls */
			rc = conf_try_send(c, a, "m", 1, c->src, 20000);
		assert_int_equal(rc, 0);
		assert_in_range(c->st[a].accepted - before, 1, sends);
		assert_true(c->be[1]->counters.backpressure > (uint64_t)round);
		before = c->st[a].done;
		WAIT(c, c->st[a].done > before);
		WAIT(c, (rc = conf_try_send(c, a, "m", 1, c->src, 20000)) != 0);
		assert_int_equal(rc, 1);
		conf_all_done(c, a);
	}
	WAIT(c, c->st[b].messages == c->st[a].accepted);
	assert_int_equal(c->st[a].failed, 0);
}

static void frames_run_out(void **state)
{
	struct conf *c = *state;
	int a, b, d, e;

	c->o.frames = 4;
	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, 4096);
	conf_pair(c, 1, 0, &a, &b);
	conf_pair(c, 1, 0, &d, &e);
	c->hold = true;
	c->on_message = check_seq;
	next_seq = 0;
	for (uint32_t i = 0; i < 12; i++)
		conf_send(c, a, &i, sizeof i, c->src, 100);
	WAIT(c, c->n_held == 4);
	conf_steps(c, 30);
	assert_int_equal(c->n_held, 4);
	assert_true(c->be[0]->counters.frame_waits > 0);

	/* Streams are independent: one waits for a frame, the puts of another go on. */
	conf_put(c, d, c->region[0].token, 8, c->src, 64);
	WAIT(c, !memcmp(c->region[0].base + 8, c->src, 64));
	conf_all_done(c, d);
	assert_int_equal(c->n_held, 4);

	for (uint32_t i = 0; i < 8; i++) {
		uint32_t seq;

		memcpy(&seq, c->held[0].data, sizeof seq); /* untouched while it is held */
		assert_int_equal(seq, i);
		assert_memory_equal(c->held[0].data + sizeof seq, c->src, 100);
		conf_release(c, 0);
		WAIT(c, next_seq == 5 + i);
	}
	conf_all_done(c, a);
	assert_int_equal(c->st[a].failed, 0);
	c->hold = false;
	while (c->n_held)
		conf_release(c, 0);
}

static void frame_outlives_its_stream(void **state)
{
	struct conf *c = *state;
	int a, b;

	c->o.frames = 2;
	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	c->hold = true;
	conf_send(c, a, c->src, 100, c->src + 100, 900);
	WAIT(c, c->n_held == 1);
	conf_stream_close(c, a, false);
	WAIT(c, c->st[a].down && c->st[b].down);
	conf_pair(c, 1, 0, &a, &b);
	conf_send(c, a, "other", 5, NULL, 0);
	WAIT(c, c->n_held == 2);
	assert_int_equal(c->held[0].len, 1000);
	assert_memory_equal(c->held[0].data, c->src, 1000);
	conf_release(c, 0);
	conf_release(c, 0);
	c->hold = false;
	for (int i = 0; i < 5; i++) /* both frames are in use again */
		conf_send(c, a, "more", 4, NULL, 0);
	WAIT(c, c->st[b].messages == 6);
}

static void counters_add_up(void **state)
{
	struct conf *c = *state;
	const struct be_counters *tx, *rx;
	int a, b;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, 1 << 20);
	conf_pair(c, 1, 0, &a, &b);
	for (uint32_t i = 0; i < 10; i++) {
		conf_put(c, a, c->region[0].token, i * 100000, c->src, 100000);
		conf_send(c, a, c->src, 32, c->src, 1000);
	}
	WAIT(c, c->st[b].messages == 10);
	conf_all_done(c, a);
	tx = &c->be[1]->counters;
	rx = &c->be[0]->counters;
	assert_int_equal(tx->puts, 10);
	assert_int_equal(tx->messages, 10);
	assert_int_equal(tx->tx_bytes, 10 * 101032);
	assert_int_equal(rx->frames_received, 10);
	if (c->ops->caps.sees_puts) {
		assert_int_equal(rx->placed, 10);
		assert_int_equal(rx->rx_bytes, 10 * 101032);
		assert_int_equal(rx->rx_zero_copy_bytes + rx->rx_copied_bytes, rx->rx_bytes);
	}
	assert_true(tx->tx_zero_copy_bytes + tx->tx_copied_bytes <= tx->tx_bytes);
	assert_int_equal(tx->protocol_errors + rx->protocol_errors, 0);
}

static void hinted_sources(void **state)
{
	struct conf *c = *state;
	struct err e = { 0 };
	int a, b;

	conf_open(c, 2);
	if (!c->ops->source_add) {
		print_message("skipped: %s takes no hints about sources\n", c->ops->name);
		skip();
	}
	conf_region(c, 0, 0, CONF_DOMAIN, 1, CONF_SRC_BYTES);
	conf_pair(c, 1, 0, &a, &b);
	c->scratch = conf_alloc(CONF_SRC_BYTES);
	memcpy(c->scratch, c->src, CONF_SRC_BYTES);
	if (c->ops->source_add(c->be[1], c->scratch, CONF_SRC_BYTES, &e) < 0)
		print_message("source_add declined: %s\n", e.why);
	for (uint32_t i = 0; i < 4; i++) { /* from inside, and across its end it is not */
		conf_put(c, a, c->region[0].token, i * (CONF_SRC_BYTES / 4), c->scratch + i * (CONF_SRC_BYTES / 4),
			 CONF_SRC_BYTES / 4);
		conf_put(c, a, c->region[0].token, i, c->src + i, 1);
	}
	conf_send(c, a, NULL, 0, c->scratch, 1000);
	WAIT(c, c->st[b].messages == 1);
	conf_all_done(c, a);
	assert_memory_equal(c->region[0].base, c->src, CONF_SRC_BYTES);
	c->ops->source_drop(c->be[1], c->scratch);
	conf_put(c, a, c->region[0].token, 0, c->scratch, 1000);
	conf_send(c, a, NULL, 0, c->scratch, 1000);
	WAIT(c, c->st[b].messages == 2);
	conf_all_done(c, a);
	assert_int_equal(c->st[a].failed, 0);
}

const struct CMUnitTest conf_data_tests[] = {
	CONF_TEST(message_sizes),
	CONF_TEST(message_too_large),
	CONF_TEST(message_over_the_peers_frames),
	CONF_TEST(messages_in_order),
	CONF_TEST(many_at_a_time),
	CONF_TEST(put_sizes),
	CONF_TEST(put_not_allowed),
	CONF_TEST(arrays_with_a_wrong_one),
	CONF_TEST(placed_before_message),
	CONF_TEST(poll_one_event_at_a_time),
	CONF_TEST(both_directions),
	CONF_TEST(many_streams),
	CONF_TEST(back_pressure),
	CONF_TEST(frames_run_out),
	CONF_TEST(frame_outlives_its_stream),
	CONF_TEST(counters_add_up),
	CONF_TEST(hinted_sources),
};
const size_t n_conf_data_tests = ARRAY_LEN(conf_data_tests);

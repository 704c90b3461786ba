/* SPDX-License-Identifier: MIT */
/* Who may put where: tokens, domains, bounds, dropping a region. */
#include "kmod-free-tests/conformance_impl.h"

#define REGION 65536u

struct hostile {
	const char *what;
	uint32_t id_off, domain; /* added to the token's id; of the receiving stream */
	uint64_t key_xor, offset;
	uint64_t len;
	bool raw; /* only a peer that breaks the rules can send it */
};

static const struct hostile hostiles[] = {
	{ .what = "wrong key", .key_xor = 1, .len = 8 },
	{ .what = "key 0", .key_xor = UINT64_MAX, .len = 8 },
	{ .what = "wrong region", .id_off = 1, .len = 8 },
	{ .what = "region of another domain", .domain = CONF_DOMAIN + 1, .len = 8 },
	{ .what = "one byte too far", .offset = REGION - 7, .len = 8 },
	{ .what = "starts at the end", .offset = REGION, .len = 1 },
	{ .what = "longer than the region", .len = REGION + 1 },
	{ .what = "far away", .offset = 1ull << 40, .len = 8 },
	{ .what = "offset + len wraps", .offset = UINT64_MAX - 3, .len = 8 },
	{ .what = "offset + len wraps to the start", .offset = UINT64_MAX - 7, .len = 16 },
	{ .what = "length 0", .len = 0, .raw = true },
	{ .what = "length wraps", .offset = 16, .len = UINT64_MAX - 15, .raw = true },
	{ .what = "length of 32 bits and more", .len = (1ull << 32) + 8, .raw = true },
};

static void try_hostile(struct conf *c, const struct hostile *h, int good_tx, int good_rx)
{
	struct be_token token = c->region[0].token;
	uint64_t errors = c->be[0]->counters.protocol_errors, n = c->st[good_rx].messages;
	int a = conf_connect(c, 1, &c->addr, CONF_DOMAIN), b, rc;

	WAIT(c, c->n_pending > 0);
	b = conf_accept(c, 0, h->domain ? h->domain : CONF_DOMAIN);
	WAIT(c, c->st[a].connected && c->st[b].connected);
	token.id += h->id_off;
	token.key = h->key_xor == UINT64_MAX ? 0 : token.key ^ h->key_xor;
	if (!h->raw) {
		conf_put(c, a, token, h->offset, c->src, (uint32_t)h->len);
	} else {
		rc = c->t->inject_put(c->be[1], c->st[a].s, token, h->offset, c->scratch, h->len, (uint64_t)a << 32);
		assert_int_equal(rc, 1);
		c->st[a].accepted++;
	}
	WAIT(c, c->st[a].down && c->st[b].down);
	if (c->st[b].down_err != -EPROTO || c->st[a].down_err >= 0)
		fail_msg("%s: receiver DOWN %d, sender DOWN %d", h->what, c->st[b].down_err, c->st[a].down_err);
	if (!conf_all(c->region[0].base, REGION, 0) || !conf_all(c->region[1].base, REGION, 0))
		fail_msg("%s: a region was written", h->what);
	conf_guards(c, 0);
	conf_guards(c, 1);
	assert_int_equal(c->st[b].placed, 0);
	assert_int_equal(c->be[0]->counters.protocol_errors, errors + 1);
	conf_send(c, good_tx, "x", 1, NULL, 0); /* a neighbour's stream does not notice */
	WAIT(c, c->st[good_rx].messages == n + 1);
}

static void hostile_puts(void **state)
{
	struct conf *c = *state;
	int a, b;

	c->scratch = conf_alloc(c->t->inject_put ? c->ops->caps.put_max : 1);
	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 5, REGION);
	conf_region(c, 1, 0, CONF_DOMAIN + 2, 5, REGION);
	conf_pair(c, 1, 0, &a, &b);
	for (size_t i = 0; i < ARRAY_LEN(hostiles); i++)
		if (!hostiles[i].raw || c->t->inject_put)
			try_hostile(c, &hostiles[i], a, b);
	conf_put(c, a, c->region[0].token, REGION - 8, c->src, 8); /* and the rightful one gets through */
	conf_send(c, a, "x", 1, NULL, 0);
	conf_all_done(c, a);
	WAIT(c, !memcmp(c->region[0].base + REGION - 8, c->src, 8));
}

static void token_of_several_instances(void **state)
{
	struct conf *c = *state;
	struct be_token again;
	struct err e = { 0 };
	int a, b;

	conf_open(c, 3);
	conf_region(c, 0, 0, CONF_DOMAIN, 9, REGION);
	assert_int_equal(c->ops->region_add(c->be[2], CONF_DOMAIN, 9, c->region[0].base, REGION, &again, &e), 0);
	assert_int_equal(again.id, c->region[0].token.id);
	assert_true(again.key == c->region[0].token.key);
	for (int at = 0; at <= 2; at += 2) {
		conf_pair(c, 1, at, &a, &b);
		conf_put(c, a, again, (uint64_t)at * 100, c->src, 100);
		conf_send(c, a, "x", 1, NULL, 0);
		WAIT(c, c->st[b].messages == 1);
		assert_memory_equal(c->region[0].base + at * 100, c->src, 100);
	}
}

static void same_id_in_two_domains(void **state)
{
	struct conf *c = *state;
	int a, b, d, e;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, REGION);
	conf_region(c, 1, 0, CONF_DOMAIN + 1, 1, REGION);
	conf_pair(c, 1, 0, &a, &b);
	d = conf_connect(c, 1, &c->addr, CONF_DOMAIN);
	WAIT(c, c->n_pending == 1);
	e = conf_accept(c, 0, CONF_DOMAIN + 1);
	WAIT(c, c->st[d].connected && c->st[e].connected);
	conf_put(c, a, c->region[0].token, 0, c->src, 100);
	conf_put(c, d, c->region[1].token, 50, c->src + 500, 100);
	conf_send(c, a, "x", 1, NULL, 0);
	conf_send(c, d, "x", 1, NULL, 0);
	WAIT(c, c->st[b].messages == 1 && c->st[e].messages == 1);
	assert_memory_equal(c->region[0].base, c->src, 100);
	assert_memory_equal(c->region[1].base + 50, c->src + 500, 100);
	assert_true(conf_all(c->region[0].base + 100, REGION - 100, 0));
	assert_true(conf_all(c->region[1].base, 50, 0));
}

static void region_errors(void **state)
{
	struct conf *c = *state;
	struct be_token t;
	struct err e = { 0 };
	int rc = 0;

	c->o.regions = 2;
	conf_open(c, 1);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, REGION);
	rc = c->ops->region_add(c->be[0], CONF_DOMAIN, 1, c->region[0].base, REGION, &t, &e);
	assert_true(rc < 0 && e.code == rc && strlen(e.why) > 10);
	conf_region(c, 1, 0, CONF_DOMAIN, 2, REGION);
	e = (struct err){ 0 };
	rc = c->ops->region_add(c->be[0], CONF_DOMAIN, 3, c->region[0].base, REGION, &t, &e);
	assert_true(rc < 0 && e.code == rc && strlen(e.why) > 10);
	assert_int_equal(c->ops->region_drop(c->be[0], CONF_DOMAIN, 3), 0); /* unknown: nothing is placed into it */
	assert_int_equal(c->ops->region_drop(c->be[0], CONF_DOMAIN + 1, 1), 0);
	for (int i = 0; i < 50; i++) { /* places come back */
		assert_int_equal(c->ops->region_drop(c->be[0], CONF_DOMAIN, 2), 0);
		rc = c->ops->region_add(c->be[0], CONF_DOMAIN, 2, c->region[1].base, REGION, &t, &e);
		assert_int_equal(rc, 0);
	}
	assert_int_equal(c->ops->region_drop(c->be[0], CONF_DOMAIN, 2), 0);
	assert_int_equal(c->ops->region_drop(c->be[0], CONF_DOMAIN, 2), 0);
}

static void dropped_region(void **state)
{
	struct conf *c = *state;
	int a, b;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, REGION);
	conf_pair(c, 1, 0, &a, &b);
	conf_put(c, a, c->region[0].token, 0, c->src, 100);
	conf_send(c, a, "x", 1, NULL, 0);
	WAIT(c, c->st[b].messages == 1);
	assert_int_equal(c->ops->region_drop(c->be[0], CONF_DOMAIN, 1), 0);
	memset(c->region[0].base, 0xee, REGION);
	conf_send(c, a, "y", 1, NULL, 0); /* dropping it does not hurt the stream */
	WAIT(c, c->st[b].messages == 2);
	conf_put(c, a, c->region[0].token, 0, c->src, 100);
	WAIT(c, c->st[a].down && c->st[b].down);
	assert_int_equal(c->st[b].down_err, -EPROTO);
	assert_true(conf_all(c->region[0].base, REGION, 0xee));
}

/* Keeps puts coming on every stream that is up. */
static void flood(struct conf *c, const int *tx, int n, uint32_t len)
{
	for (int i = 0; i < n; i++) {
		const struct conf_stream *s = &c->st[tx[i]];

		while (!s->down && conf_try_put(c, tx[i], c->region[0].token, 0, c->src, len) == 1)
			;
	}
}

static void drop_under_traffic(void **state)
{
	struct conf *c = *state;
	const uint32_t len = CONF_SRC_BYTES;
	int rc = -EBUSY;

	for (int round = 0; round < 8; round++) {
		int a[4], b[4], busy = 0;

		if (!round)
			conf_open(c, 2);
		free(c->region[0].memory);
		conf_region(c, 0, 0, CONF_DOMAIN, 1, len);
		for (int i = 0; i < 4; i++)
			conf_pair(c, 1, 0, &a[i], &b[i]);
		for (int i = 0; i <= round * 3; i++) {
			flood(c, a, 4, len);
			conf_step(c);
		}
		WAIT(c, (rc = c->ops->region_drop(c->be[0], CONF_DOMAIN, 1), busy += rc == -EBUSY, rc != -EBUSY));
		assert_int_equal(rc, 0);
		memset(c->region[0].base, 0xee, len); /* ours again: whatever arrives now must not land here */
		WAIT(c, (flood(c, a, 4, len),
			 c->st[a[0]].down && c->st[a[1]].down && c->st[a[2]].down && c->st[a[3]].down));
		WAIT(c, c->st[b[0]].down && c->st[b[1]].down && c->st[b[2]].down && c->st[b[3]].down);
		assert_true(conf_all(c->region[0].base, len, 0xee));
		conf_guards(c, 0);
	}
}

/* After -EBUSY nobody need ask again: when the streams that were placing are DOWN, the id is free. */
static void busy_region_ends_with_its_streams(void **state)
{
	struct conf *c = *state;
	const uint32_t len = CONF_SRC_BYTES;
	struct be_token t;
	struct err e = { 0 };

	conf_open(c, 2);
	for (int round = 0; round < 12; round++) {
		int a[3], b[3], rc;

		free(c->region[0].memory);
		conf_region(c, 0, 0, CONF_DOMAIN, 1, len);
		for (int i = 0; i < 3; i++)
			conf_pair(c, 1, 0, &a[i], &b[i]);
		for (int i = 0; i <= round; i++) {
			flood(c, a, 3, len);
			conf_step(c);
		}
		rc = c->ops->region_drop(c->be[0], CONF_DOMAIN, 1);
		if (rc == -EBUSY)
			assert_true(c->ops->region_add(c->be[0], CONF_DOMAIN, 1, c->region[0].base, len, &t, &e) < 0);
		else
			assert_int_equal(rc, 0);
		WAIT(c, (flood(c, a, 3, len), c->st[a[0]].down && c->st[a[1]].down && c->st[a[2]].down &&
						      c->st[b[0]].down && c->st[b[1]].down && c->st[b[2]].down));
		memset(c->region[0].base, 0xee, len);
		if (c->ops->region_add(c->be[0], CONF_DOMAIN, 1, c->region[0].base, len, &t, &e) < 0)
			fail_msg("after DOWN of every stream: %s", e.why);
		conf_steps(c, 5);
		assert_true(conf_all(c->region[0].base, len, 0xee));
		assert_int_equal(c->ops->region_drop(c->be[0], CONF_DOMAIN, 1), 0);
	}
}

/* What fencing relies on. */
static void nothing_placed_after_down(void **state)
{
	struct conf *c = *state;
	const uint32_t len = CONF_SRC_BYTES;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, len);
	for (int round = 0; round < 10; round++) {
		int a, b;

		conf_pair(c, 1, 0, &a, &b);
		for (int i = 0; i <= round; i++) {
			flood(c, &a, 1, len);
			conf_step(c);
		}
		conf_stream_close(c, b, false);
		WAIT(c, c->st[b].down);
		memset(c->region[0].base, 0xee, len);
		flood(c, &a, 1, len);
		WAIT(c, c->st[a].down);
		conf_steps(c, 25);
		assert_true(conf_all(c->region[0].base, len, 0xee));
	}
}

const struct CMUnitTest conf_region_tests[] = {
	CONF_TEST(hostile_puts),
	CONF_TEST(token_of_several_instances),
	CONF_TEST(same_id_in_two_domains),
	CONF_TEST(region_errors),
	CONF_TEST(dropped_region),
	CONF_TEST(drop_under_traffic),
	CONF_TEST(busy_region_ends_with_its_streams),
	CONF_TEST(nothing_placed_after_down),
};
const size_t n_conf_region_tests = ARRAY_LEN(conf_region_tests);

/* SPDX-License-Identifier: MIT */
/* How streams and instances end. */
#include "kmod-free-tests/conformance_impl.h"
#include <dirent.h>
#include <unistd.h>

static void graceful_close(void **state)
{
	struct conf *c = *state;
	struct be_msg v = { .head = "x", .head_len = 1 };
	uint32_t n;
	int a, b;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, CONF_SRC_BYTES);
	conf_pair(c, 1, 0, &a, &b);
	conf_put(c, a, c->region[0].token, 0, c->src, CONF_SRC_BYTES);
	for (n = 0; n < c->o.sends && conf_try_send(c, a, "m", 1, c->src, 3000) == 1; n++)
		;
	assert_true(n > 0);
	conf_stream_close(c, a, true);
	assert_int_equal(c->ops->send(c->be[1], c->st[a].s, &v, 1), -ENOTCONN);
	conf_stream_close(c, a, true);
	WAIT(c, c->st[a].down && c->st[b].down);
	assert_int_equal(c->st[a].down_err, -ECANCELED);
	assert_int_equal(c->st[b].down_err, 0);
	assert_int_equal(c->st[a].failed, 0);
	assert_int_equal(c->st[b].messages, n);
	assert_memory_equal(c->region[0].base, c->src, CONF_SRC_BYTES);
}

static void both_close_gracefully(void **state)
{
	struct conf *c = *state;
	int a, b;

	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	for (int i = 0; i < 5; i++) {
		conf_send(c, a, "m", 1, c->src, 1000);
		conf_send(c, b, "m", 1, c->src, 1000);
	}
	conf_stream_close(c, a, true);
	conf_stream_close(c, b, true);
	WAIT(c, c->st[a].down && c->st[b].down);
	assert_int_equal(c->st[a].failed + c->st[b].failed, 0);
	assert_int_equal(c->st[a].messages, 5);
	assert_int_equal(c->st[b].messages, 5);
}

/* What had arrived when the other end was through is delivered, however late the caller has room for it. */
static void both_close_and_one_is_slow(void **state)
{
	struct conf *c = *state;
	int a, b;

	c->o.frames = 1;
	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	c->hold = true;
	for (int i = 0; i < 4; i++)
		conf_send(c, b, "m", 1, c->src, 100);
	WAIT(c, c->n_held == 1);
	conf_stream_close(c, b, true);
	conf_stream_close(c, a, true);
	/* Whether b is through before everything was taken is up to the backend. */
	for (int i = 0; i < 60; i++) {
		conf_poll(c);
		usleep(1000);
	}
	c->hold = false;
	conf_release(c, 0);
	WAIT(c, c->st[a].down && c->st[b].down);
	assert_int_equal(c->st[b].failed, 0);
	assert_int_equal(c->st[a].messages, 4);
}

static void abort_with_operations(void **state)
{
	struct conf *c = *state;
	uint32_t n = 0;
	int a, b;

	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, CONF_SRC_BYTES);
	conf_pair(c, 1, 0, &a, &b);
	while (conf_try_put(c, a, c->region[0].token, 0, c->src, CONF_SRC_BYTES) == 1)
		n++;
	assert_true(n > 0);
	conf_stream_close(c, a, false);
	conf_stream_close(c, a, false);
	conf_stream_close(c, a, true);
	assert_true(conf_try_send(c, a, "x", 1, NULL, 0) == -ENOTCONN);
	WAIT(c, c->st[a].down && c->st[b].down);
	assert_int_equal(c->st[a].done, n);
	assert_int_equal(c->st[a].down_err, -ECANCELED);
	if (c->st[a].failed)
		assert_int_equal(c->st[a].done_err, -ECANCELED);
	assert_true(c->st[b].down_err <= 0);
	conf_guards(c, 0);
	conf_pair(c, 1, 0, &a, &b);
}

/* A graceful close that hangs (the peer takes nothing) can still be aborted. */
static void abort_a_graceful_close(void **state)
{
	struct conf *c = *state;
	int a, b;

	c->o.frames = 1;
	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	c->hold = true;
	while (conf_try_send(c, a, NULL, 0, c->src, 65536) == 1)
		;
	WAIT(c, c->n_held == 1);
	conf_stream_close(c, a, true);
	for (int i = 0; i < 5; i++)
		conf_step(c);
	conf_stream_close(c, a, false);
	WAIT(c, c->st[a].down && c->st[b].down);
	assert_int_equal(c->st[a].down_err, -ECANCELED);
	assert_int_equal(c->n_held, 1);
	conf_release(c, 0);
}

static void peer_instance_closes(void **state)
{
	struct conf *c = *state;
	int a[6], b[6];

	conf_open(c, 3);
	conf_region(c, 0, 2, CONF_DOMAIN, 1, CONF_SRC_BYTES);
	for (int i = 0; i < 6; i++) {
		conf_pair(c, 1, 2, &a[i], &b[i]);
		while (i % 2 && conf_try_put(c, a[i], c->region[0].token, 0, c->src, CONF_SRC_BYTES) == 1)
			;
	}
	conf_step(c);
	conf_close(c, 2);
	memset(c->region[0].base, 0xee, CONF_SRC_BYTES);
	for (int i = 0; i < 6; i++)
		WAIT(c, c->st[a[i]].down);
	assert_true(conf_all(c->region[0].base, CONF_SRC_BYTES, 0xee));
	conf_pair(c, 1, 0, &a[0], &b[0]); /* and the instance goes on */
	conf_send(c, a[0], "x", 1, NULL, 0);
	WAIT(c, c->st[b[0]].messages == 1);
}

static void stream_breaks(void **state)
{
	struct conf *c = *state;

	if (!c->t->drop) {
		print_message("skipped: %s cannot break a stream from outside\n", c->t->name);
		skip();
	}
	conf_open(c, 2);
	conf_region(c, 0, 0, CONF_DOMAIN, 1, CONF_SRC_BYTES);
	for (int round = 0; round < 10; round++) {
		int a, b;

		conf_pair(c, 1, 0, &a, &b);
		while (conf_try_put(c, a, c->region[0].token, 0, c->src, CONF_SRC_BYTES) == 1)
			;
		for (int i = 0; i < round; i++)
			conf_step(c);
		c->t->drop(c->be[1], c->st[a].s);
		WAIT(c, c->st[a].down && c->st[b].down);
		assert_true(c->st[a].down_err < 0 && c->st[b].down_err < 0);
		assert_true(c->st[a].down_err != -ECANCELED && c->st[b].down_err != -ECANCELED);
		conf_guards(c, 0);
	}
}

static int open_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	if (!d)
		return 0;
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* One instance of everything that may be going on, closed in the middle of it. */
static void close_in_every_state(void **state)
{
	struct conf *c = *state;
	int before = open_files();
	int a, b, polls;

	for (polls = 0; polls < 6; polls++) {
		c->max = polls % 2 ? 1 : 32;
		conf_open(c, 3);
		conf_region(c, 0, 0, CONF_DOMAIN, 1, CONF_SRC_BYTES);
		c->hold = true;
		for (int i = 0; i < 3; i++) { /* frames held, messages waiting for one, puts in flight */
			conf_pair(c, 1, i == 2 ? 0 : 2, &a, &b);
			conf_send(c, a, "m", 1, c->src, 100);
			while (i == 2 && conf_try_put(c, a, c->region[0].token, 0, c->src, CONF_SRC_BYTES) == 1)
				;
		}
		WAIT(c, c->n_held >= 2);
		conf_pair(c, 1, 0, &a, &b);
		conf_send(c, a, "m", 1, c->src, 60000);
		conf_stream_close(c, a, true); /* closing */
		conf_pair(c, 2, 0, &a, &b);
		conf_stream_close(c, b, false);            /* DOWN not yet delivered */
		conf_connect(c, 1, &c->addr, CONF_DOMAIN); /* becomes pending, perhaps delivered */
		conf_connect(c, 2, &c->addr, CONF_DOMAIN);
		for (int i = 0; i < polls; i++)
			conf_step(c);
		conf_connect(c, 1, &c->addr, CONF_DOMAIN); /* just begun */
		c->ops->wake(c->be[1]);
		c->n_pending = 0; /* the listener takes them back */
		for (int i = 0; i < 3; i++)
			conf_close(c, (i + polls) % 3);
		c->hold = false;
		memset(c->region[0].base, 0xee, CONF_SRC_BYTES);
		conf_steps(c, 5);
		assert_true(conf_all(c->region[0].base, CONF_SRC_BYTES, 0xee));
		free(c->region[0].memory);
		c->region[0].memory = NULL;
		if (open_files() > before)
			fail_msg("%d file descriptors before, %d after close", before, open_files());
	}
}

static void open_and_close(void **state)
{
	struct conf *c = *state;
	int before = open_files();

	for (int i = 0; i < 5; i++) {
		conf_open(c, 2);
		conf_close(c, 1);
		conf_close(c, 0);
		assert_int_equal(open_files(), before);
	}
}

const struct CMUnitTest conf_end_tests[] = {
	CONF_TEST(graceful_close),        CONF_TEST(both_close_gracefully),  CONF_TEST(both_close_and_one_is_slow),
	CONF_TEST(abort_with_operations), CONF_TEST(abort_a_graceful_close), CONF_TEST(peer_instance_closes),
	CONF_TEST(stream_breaks),         CONF_TEST(close_in_every_state),   CONF_TEST(open_and_close),
};
const size_t n_conf_end_tests = ARRAY_LEN(conf_end_tests);

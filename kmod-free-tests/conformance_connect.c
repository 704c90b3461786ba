/* SPDX-License-Identifier: MIT */
/* Listening, connecting, handles, waking. */
#include "kmod-free-tests/conformance_impl.h"
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

static uint16_t port_of(const struct be_addr *a)
{
	return ntohs(a->sa.sa_family == AF_INET6 ? a->in6.sin6_port : a->in.sin_port);
}

static void connect_and_accept(void **state)
{
	struct conf *c = *state;
	char want[BE_PREAMBLE] = "connect 0", reply[BE_PREAMBLE] = "accept 1";
	int a, b;

	conf_open(c, 2);
	assert_true(port_of(&c->addr) != 0);
	a = conf_connect(c, 1, &c->addr, CONF_DOMAIN);
	WAIT(c, c->n_pending == 1);
	assert_memory_equal(c->pending[0].pre, want, BE_PREAMBLE);
	assert_false(c->st[a].connected);
	b = conf_accept(c, 0, CONF_DOMAIN);
	WAIT(c, c->st[a].connected && c->st[b].connected);
	assert_int_equal(c->st[a].data_len, BE_PREAMBLE);
	assert_memory_equal(c->st[a].data, reply, BE_PREAMBLE);
	assert_int_equal(c->st[b].data_len, 0);
	assert_int_equal(c->be[0]->counters.streams_opened, 1);
	assert_int_equal(c->be[1]->counters.streams_opened, 1);
}

static void reject_with_reply(void **state)
{
	struct conf *c = *state;
	char reply[BE_PREAMBLE] = "no: too many";
	int a;

	conf_open(c, 2);
	a = conf_connect(c, 1, &c->addr, CONF_DOMAIN);
	WAIT(c, c->n_pending == 1);
	c->ops->reject(c->be[0], c->pending[--c->n_pending].request, reply);
	WAIT(c, c->st[a].down);
	assert_false(c->st[a].connected);
	assert_int_equal(c->st[a].down_err, -ECONNREFUSED);
	assert_int_equal(c->st[a].data_len, BE_PREAMBLE);
	assert_memory_equal(c->st[a].data, reply, BE_PREAMBLE);
}

static void reject_without_reply(void **state)
{
	struct conf *c = *state;
	int a, b;

	conf_open(c, 2);
	a = conf_connect(c, 1, &c->addr, CONF_DOMAIN);
	WAIT(c, c->n_pending == 1);
	c->ops->reject(c->be[1], c->pending[--c->n_pending].request, NULL);
	WAIT(c, c->st[a].down);
	assert_true(c->st[a].down_err < 0);
	conf_pair(c, 1, 0, &a, &b); /* the listener goes on */
}

static void connect_to_nobody(void **state)
{
	struct conf *c = *state;
	int a;

	conf_open(c, 2);
	conf_close(c, 0);
	a = conf_connect(c, 1, &c->addr, CONF_DOMAIN);
	WAIT(c, c->st[a].down);
	assert_int_equal(c->st[a].down_err, -ECONNREFUSED);
	assert_int_equal(c->st[a].data_len, 0);
	assert_false(c->st[a].connected);
}

static void accept_on_another_instance(void **state)
{
	struct conf *c = *state;
	struct mix m;
	int a, b;

	conf_open(c, 3);
	conf_region(c, 0, 2, CONF_DOMAIN, 1, 1 << 20);
	conf_pair(c, 1, 2, &a, &b);
	mix_begin(c, &m, a, b, 11, 0, 1 << 20, 60);
	mix_finish(c, &m);
	assert_int_equal(c->be[0]->counters.rx_bytes, 0);
	conf_close(c, 0); /* the listener is not needed any more */
	conf_send(c, b, "x", 1, NULL, 0);
	WAIT(c, c->st[a].messages == 1);
}

static void connector_gives_up(void **state)
{
	struct conf *c = *state;
	be_stream s = 0;
	char reply[BE_PREAMBLE] = { 0 };
	int a, b;

	conf_open(c, 2);
	a = conf_connect(c, 1, &c->addr, CONF_DOMAIN);
	WAIT(c, c->n_pending == 1);
	conf_stream_close(c, a, false);
	WAIT(c, c->st[a].down);
	assert_int_equal(c->st[a].down_err, -ECANCELED);
	/* Accepting it now either fails at once, or gives a stream that goes DOWN. */
	c->st[c->n] = (struct conf_stream){ .at = 0 };
	if (c->ops->accept(c->be[0], c->pending[--c->n_pending].request, reply, CONF_DOMAIN,
			   0x5000000000000000ull + (uint64_t)c->n, &s) == 0) {
		c->st[c->n].s = s;
		c->n++;
		WAIT(c, c->st[c->n - 1].down);
	}
	conf_pair(c, 1, 0, &a, &b);
}

static void close_while_connecting(void **state)
{
	struct conf *c = *state;
	int a, b;

	conf_open(c, 2);
	a = conf_connect(c, 1, &c->addr, CONF_DOMAIN);
	conf_stream_close(c, a, true);
	conf_stream_close(c, a, false);
	WAIT(c, c->st[a].down);
	assert_int_equal(c->st[a].down_err, -ECANCELED);
	assert_false(c->st[a].connected);
	conf_steps(c, 30);
	while (c->n_pending) /* it may have arrived all the same */
		c->ops->reject(c->be[0], c->pending[--c->n_pending].request, NULL);
	conf_pair(c, 1, 0, &a, &b);
}

static void all_streams_in_use(void **state)
{
	struct conf *c = *state;
	char reply[BE_PREAMBLE] = { 0 };
	be_stream s = 0;
	struct err e = { 0 };
	int a[3], b[2], rc;

	c->o.streams = 2;
	conf_open_one(c, 2);
	c->o.streams = 8;
	conf_open(c, 2);
	for (int i = 0; i < 2; i++)
		conf_pair(c, 2, 0, &a[i], &b[i]);
	rc = c->ops->connect(c->be[2], &c->addr, reply, CONF_DOMAIN, 1, &s, &e);
	assert_true(rc < 0 && rc == e.code && strlen(e.why) > 10);
	assert_int_equal(s, 0);
	a[2] = conf_connect(c, 1, &c->addr, CONF_DOMAIN);
	WAIT(c, c->n_pending == 1);
	rc = c->ops->accept(c->be[2], c->pending[--c->n_pending].request, reply, CONF_DOMAIN, 1, &s);
	assert_true(rc < 0);
	WAIT(c, c->st[a[2]].down);
	assert_true(c->st[a[2]].down_err < 0);
	conf_stream_close(c, a[0], false);
	WAIT(c, c->st[a[0]].down);
	conf_pair(c, 2, 0, &a[0], &b[0]);
}

static void slots_and_stale_handles(void **state)
{
	struct conf *c = *state;
	struct be_info info;
	be_stream old = 0;
	int a, b;

	c->o.streams = 1;
	conf_open_one(c, 2);
	c->o.streams = 8;
	conf_open(c, 2);
	for (int i = 0; i < 30; i++) {
		struct be_msg v = { .head = "x", .head_len = 1 };
		struct be_put p = { .src = c->src, .len = 1 };

		conf_pair(c, 2, 0, &a, &b);
		assert_true(c->st[a].s != old);
		if (old) {
			assert_int_equal(c->ops->send(c->be[2], old, &v, 1), -ENOTCONN);
			assert_int_equal(c->ops->put(c->be[2], old, &p, 1), -ENOTCONN);
			assert_int_equal(c->ops->info(c->be[2], old, &info), -ENOTCONN);
			c->ops->stream_close(c->be[2], old, false);
			c->ops->stream_close(c->be[2], old, true);
		}
		conf_send(c, a, "x", 1, NULL, 0);
		WAIT(c, c->st[b].messages == 1);
		old = c->st[a].s;
		conf_stream_close(c, a, i % 2);
		WAIT(c, c->st[a].down && c->st[b].down);
	}
	assert_int_equal(c->be[2]->counters.streams_down, 30);
}

static void no_such_stream(void **state)
{
	struct conf *c = *state;
	const be_stream strange[] = { 0, UINT32_MAX, 1, 0x00ffff00 };
	struct be_msg v = { .head = "x", .head_len = 1 };
	struct be_put p = { .src = c->src, .len = 1 };
	struct be_info info;

	conf_open(c, 2);
	for (size_t i = 0; i < ARRAY_LEN(strange); i++) {
		int rc = c->ops->send(c->be[1], strange[i], &v, 1);

		assert_true(rc == -ENOTCONN || rc == -EINVAL);
		rc = c->ops->put(c->be[1], strange[i], &p, 1);
		assert_true(rc == -ENOTCONN || rc == -EINVAL);
		assert_true(c->ops->info(c->be[1], strange[i], &info) < 0);
		c->ops->stream_close(c->be[1], strange[i], false);
	}
}

static void more_connects_than_room(void **state)
{
	struct conf *c = *state;
	struct conf_stream *s = c->st;
	int ended = 0;

	c->o.streams = 2;
	conf_open(c, 1);
	c->o.streams = 8;
	conf_open_one(c, 1);
	for (int i = 0; i < 5; i++)
		conf_connect(c, 1, &c->addr, CONF_DOMAIN);
	WAIT(c, c->n_pending >= 2);
	for (uint64_t deadline = conf_deadline(); ended < 5; conf_step(c)) {
		conf_check_deadline(c, deadline, __FILE__, __LINE__, "five connects, two at a time");
		if (c->n_pending) /* each is served in its turn, or is told that it is not */
			c->ops->reject(c->be[0], c->pending[--c->n_pending].request, NULL);
		ended = s[0].down + s[1].down + s[2].down + s[3].down + s[4].down;
	}
}

static void listen_errors(void **state)
{
	struct conf *c = *state;
	struct be_addr bound;
	struct err e = { 0 };
	int rc;

	conf_open(c, 2);
	rc = c->ops->listen(c->be[0], &c->t->listen_at, &bound, &e);
	assert_true(rc < 0 && e.code == rc && strlen(e.why) > 10);
	e = (struct err){ 0 };
	rc = c->ops->listen(c->be[1], &c->addr, &bound, &e);
	assert_int_equal(rc, -EADDRINUSE);
	assert_true(e.code == rc && strlen(e.why) > 10);
	if (c->ops->listen(c->be[1], &c->t->listen_at, &bound, &e) < 0) /* a failed listen leaves nothing */
		fail_msg("listen after a failed one: %s", e.why);
}

static void open_refuses(void **state)
{
	struct conf *c = *state;
	struct err e = { 0 };
	struct be *be = NULL;
	int rc;

	conf_open(c, 1);
	c->o.frame_bytes = c->ops->caps.frame_max + 1;
	rc = c->ops->open(&c->o, &be, &e);
	assert_true(rc < 0 && e.code == rc && strlen(e.why) > 10);
	assert_null(be);
}

static void info_of_a_stream(void **state)
{
	struct conf *c = *state;
	struct be_info x, y;
	int a, b;

	conf_open(c, 2);
	conf_pair(c, 1, 0, &a, &b);
	conf_send(c, a, "head", 4, c->src, 1000);
	WAIT(c, c->st[b].messages == 1);
	conf_all_done(c, a);
	assert_int_equal(c->ops->info(c->be[1], c->st[a].s, &x), 0);
	assert_int_equal(c->ops->info(c->be[0], c->st[b].s, &y), 0);
	assert_true(x.bytes_sent >= 1004 && y.bytes_received >= 1004);
	assert_int_equal(port_of(&x.peer), port_of(&c->addr));
	assert_int_equal(port_of(&x.local), port_of(&y.peer));
	assert_int_equal(port_of(&y.local), port_of(&x.peer));
	assert_int_equal(x.peer.sa.sa_family, c->t->listen_at.sa.sa_family);
}

struct waker {
	const struct be_ops *ops;
	struct be *be;
};

static void *wake_soon(void *arg)
{
	struct waker *w = arg;

	nanosleep(&(struct timespec){ .tv_nsec = 20 * NS_PER_MS }, NULL);
	w->ops->wake(w->be);
	return NULL;
}

static void wake_ends_wait(void **state)
{
	struct conf *c = *state;
	struct waker w;
	pthread_t th;

	conf_open(c, 2);
	conf_steps(c, 3);
	c->ops->wake(c->be[1]); /* before the wait */
	c->ops->wait(c->be[1], 60 * NS_PER_S);
	WAIT(c, c->woken[1] > 0);
	conf_steps(c, 3);
	c->woken[1] = 0;
	w = (struct waker){ c->ops, c->be[1] };
	assert_int_equal(pthread_create(&th, NULL, wake_soon, &w), 0);
	for (uint64_t deadline = conf_deadline(); !c->woken[1];) {
		struct be_event ev[4];

		c->ops->wait(c->be[1], 60 * NS_PER_S);
		for (int n = c->ops->poll(c->be[1], ev, 4); n > 0; n--)
			c->woken[1] += ev[n - 1].type == BE_WOKEN;
		conf_check_deadline(c, deadline, __FILE__, __LINE__, "BE_WOKEN");
	}
	pthread_join(th, NULL);
	c->ops->wait(c->be[1], NS_PER_MS); /* nothing to come: the time-out ends it */
}

const struct CMUnitTest conf_connect_tests[] = {
	CONF_TEST(connect_and_accept),     CONF_TEST(reject_with_reply),          CONF_TEST(reject_without_reply),
	CONF_TEST(connect_to_nobody),      CONF_TEST(accept_on_another_instance), CONF_TEST(connector_gives_up),
	CONF_TEST(close_while_connecting), CONF_TEST(all_streams_in_use),         CONF_TEST(slots_and_stale_handles),
	CONF_TEST(no_such_stream),         CONF_TEST(more_connects_than_room),    CONF_TEST(listen_errors),
	CONF_TEST(open_refuses),           CONF_TEST(info_of_a_stream),           CONF_TEST(wake_ends_wait),
};
const size_t n_conf_connect_tests = ARRAY_LEN(conf_connect_tests);

/* SPDX-License-Identifier: MIT */
#include "kmod-free-tests/conformance_impl.h"
#include <sched.h>
#include <stdio.h>

#define STREAM_COOKIE 0x5000000000000000ull

/* --- life of a test --- */

/* Not cmocka's: what a test takes is freed by its teardown. */
void *conf_alloc(size_t n)
{
	void *p = calloc(1, n ? n : 1);

	if (!p)
		fail_msg("no memory for %zu bytes", n);
	return p;
}

int conf_setup(void **state)
{
	struct conf_target *t = *state;
	struct conf *c = conf_alloc(sizeof *c);
	uint64_t rng = 1;

	c->t = t;
	c->ops = t->ops;
	c->fabric = t->begin ? t->begin(t) : NULL;
	c->max = 32;
	c->o = (struct be_open){ .opts = t->opts,
				 .clock = clock_mono,
				 .streams = 8,
				 .frames = 16,
				 .frame_bytes = (uint32_t)min_u64(t->ops->caps.frame_max, 65536),
				 .sends = 16,
				 .regions = 4,
				 .cpu = -1,
				 .seed = 1,
				 .fabric = c->fabric };
	c->src = conf_alloc(CONF_SRC_BYTES);
	for (size_t i = 0; i < CONF_SRC_BYTES; i += sizeof rng) {
		uint64_t v = rng_next(&rng);

		memcpy(c->src + i, &v, sizeof v);
	}
	*state = c;
	return 0;
}

int conf_teardown(void **state)
{
	struct conf *c = *state;
	struct conf_target *t = c->t;

	for (int i = 0; i < CONF_INSTANCES; i++)
		conf_close(c, i);
	if (t->end)
		t->end(t, c->fabric);
	for (int r = 0; r < 2; r++)
		free(c->region[r].memory);
	free(c->scratch);
	free(c->src);
	free(c);
	*state = t;
	return 0;
}

struct be *conf_open_one(struct conf *c, int i)
{
	struct err e = { 0 };
	struct err why = { 0 };

	if (c->ops->probe(&why) < 0) {
		print_message("skipped: %s: %s\n", c->ops->name, why.why);
		skip();
	}
	if (c->ops->open(&c->o, &c->be[i], &e) < 0)
		fail_msg("open: %s", e.why);
	assert_ptr_equal(c->be[i]->ops, c->ops);
	return c->be[i];
}

void conf_open(struct conf *c, int n)
{
	struct err e = { 0 };

	for (int i = 0; i < n; i++)
		conf_open_one(c, i);
	if (c->ops->listen(c->be[0], &c->t->listen_at, &c->addr, &e) < 0)
		fail_msg("listen: %s", e.why);
}

void conf_close(struct conf *c, int i)
{
	if (!c->be[i])
		return;
	c->ops->close(c->be[i]);
	c->be[i] = NULL;
	for (int k = 0; k < c->n; k++)
		if (c->st[k].at == i)
			c->st[k].down = true;
	for (int h = 0; h < c->n_held;)
		if (c->held[h].at == i)
			c->held[h] = c->held[--c->n_held];
		else
			h++;
}

/* --- events --- */

static struct conf_stream *stream_of(struct conf *c, int at, const struct be_event *ev)
{
	uint64_t i = ev->type == BE_DONE ? ev->cookie >> 32 : ev->cookie - STREAM_COOKIE;
	struct conf_stream *s;

	if (i >= (uint64_t)c->n)
		fail_msg("event %d with a foreign cookie %#llx", ev->type, (unsigned long long)ev->cookie);
	s = &c->st[i];
	if (s->at != at || s->s != ev->stream)
		fail_msg("event %d on stream %#x of instance %d; its cookie is of stream %#x of instance %d", ev->type,
			 ev->stream, at, s->s, s->at);
	if (s->down)
		fail_msg("event %d after DOWN", ev->type);
	return s;
}

static void on_done(struct conf_stream *s, const struct be_event *ev)
{
	if (s->done >= s->accepted)
		fail_msg("a DONE too many, cookie %#llx", (unsigned long long)ev->cookie);
	if ((uint32_t)ev->cookie != s->done)
		fail_msg("DONE of operation %u, the next is %llu", (uint32_t)ev->cookie, (unsigned long long)s->done);
	s->done++;
	s->done_err = ev->err;
	s->failed += ev->err != 0;
	assert_true(ev->err <= 0);
}

static void on_down(struct conf_stream *s, const struct be_event *ev)
{
	if (s->done != s->accepted)
		fail_msg("DOWN with %llu of %llu operations DONE", (unsigned long long)s->done,
			 (unsigned long long)s->accepted);
	s->down = true;
	s->down_err = ev->err;
	assert_true(ev->err <= 0);
	if (ev->len && ev->err != -ECONNREFUSED)
		fail_msg("DOWN with data and err %d", ev->err);
}

static void mix_message(struct conf *c, struct mix *m, const struct be_event *ev);

static void on_message(struct conf *c, int at, struct conf_stream *s, const struct be_event *ev)
{
	s->messages++;
	if (s->mix)
		mix_message(c, s->mix, ev);
	if (c->on_message)
		c->on_message(c, s, ev);
	if (!c->hold) {
		c->ops->release(c->be[at], ev->frame);
		return;
	}
	assert_true(c->n_held < CONF_HELD);
	c->held[c->n_held].at = at;
	c->held[c->n_held].frame = ev->frame;
	c->held[c->n_held].len = ev->len;
	c->held[c->n_held++].data = ev->data;
}

static void on_event(struct conf *c, int at, const struct be_event *ev)
{
	struct conf_stream *s;

	if (ev->type == BE_WOKEN) {
		c->woken[at]++;
		return;
	}
	if (ev->type == BE_INCOMING) {
		assert_int_equal(ev->len, BE_PREAMBLE);
		assert_true(c->n_pending < CONF_PENDING);
		memcpy(c->pending[c->n_pending].pre, ev->data, BE_PREAMBLE);
		c->pending[c->n_pending++].request = ev->request;
		return;
	}
	s = stream_of(c, at, ev);
	if (ev->type != BE_CONNECTED && ev->type != BE_DOWN && !s->connected)
		fail_msg("event %d before CONNECTED", ev->type);
	if ((ev->type == BE_CONNECTED || ev->type == BE_DOWN) && ev->len) {
		assert_int_equal(ev->len, BE_PREAMBLE);
		memcpy(s->data, ev->data, ev->len);
		s->data_len = ev->len;
	}
	switch (ev->type) {
	case BE_CONNECTED:
		assert_false(s->connected);
		s->connected = true;
		break;
	case BE_DONE:
		on_done(s, ev);
		break;
	case BE_PLACED:
		assert_true(c->ops->caps.sees_puts);
		s->placed++;
		break;
	case BE_MESSAGE:
		on_message(c, at, s, ev);
		break;
	case BE_DOWN:
		on_down(s, ev);
		break;
	default:
		fail_msg("event of unknown type %d", ev->type);
	}
}

int conf_poll(struct conf *c)
{
	struct be_event ev[64];
	int total = 0;

	for (int i = 0; i < CONF_INSTANCES; i++) {
		int n = c->be[i] ? c->ops->poll(c->be[i], ev, c->max) : 0;

		assert_in_range(n, 0, c->max);
		for (int k = 0; k < n; k++)
			on_event(c, i, &ev[k]);
		total += n;
	}
	return total;
}

int conf_step(struct conf *c)
{
	int total = conf_poll(c);

	c->quiet = total ? 0 : c->quiet + 1;
	if (!total)
		c->t->idle(c->t, c->fabric, c->be, CONF_INSTANCES, c->quiet);
	return total;
}

void conf_steps(struct conf *c, int quiet_rounds)
{
	uint64_t deadline = conf_deadline();

	for (int quiet = 0; quiet < quiet_rounds; quiet++) {
		if (conf_step(c))
			quiet = 0;
		conf_check_deadline(c, deadline, __FILE__, __LINE__, "silence");
	}
}

void conf_idle_real(struct conf_target *t, void *fabric, struct be *const *be, int n, unsigned round)
{
	struct be *b = be[round % (unsigned)n];

	(void)fabric;
	if (round < 20 || !b)
		sched_yield();
	else
		t->ops->wait(b, NS_PER_MS);
}

/* Seconds; an emulated machine on a busy one is given more. */
static unsigned long patience(void)
{
	const char *asked = getenv("TEST_PATIENCE");
	unsigned long s = asked ? strtoul(asked, NULL, 10) : 0;

	return s ? s : 10;
}

uint64_t conf_deadline(void)
{
	return clock_now(&clock_mono) + patience() * NS_PER_S;
}

void conf_check_deadline(const struct conf *c, uint64_t deadline, const char *file, int line, const char *what)
{
	if (clock_now(&clock_mono) <= deadline)
		return;
	for (int i = 0; i < c->n; i++)
		if (c->st[i].down)
			print_message("stream %d is down: %s\n", i, strerror(-c->st[i].down_err));
	fail_msg("%s:%d: waited %lu s for %s", file, line, patience(), what);
}

/* --- streams and operations --- */

static struct conf_stream *new_stream(struct conf *c, int at)
{
	assert_true(c->n < CONF_STREAMS);
	c->st[c->n] = (struct conf_stream){ .at = at };
	return &c->st[c->n++];
}

int conf_connect(struct conf *c, int from, const struct be_addr *to, uint32_t domain)
{
	struct conf_stream *s = new_stream(c, from);
	int i = c->n - 1;
	char pre[BE_PREAMBLE] = { 0 };
	struct err e = { 0 };

	snprintf(pre, sizeof pre, "connect %d", i);
	if (c->ops->connect(c->be[from], to, pre, domain, STREAM_COOKIE + (uint64_t)i, &s->s, &e) < 0)
		fail_msg("connect: %s", e.why);
	assert_true(s->s != 0);
	return i;
}

int conf_accept(struct conf *c, int at, uint32_t domain)
{
	struct conf_stream *s = new_stream(c, at);
	int i = c->n - 1, rc;
	char reply[BE_PREAMBLE] = { 0 };

	assert_true(c->n_pending > 0);
	snprintf(reply, sizeof reply, "accept %d", i);
	rc = c->ops->accept(c->be[at], c->pending[0].request, reply, domain, STREAM_COOKIE + (uint64_t)i, &s->s);
	memmove(c->pending, c->pending + 1, (size_t)--c->n_pending * sizeof *c->pending);
	if (rc < 0)
		fail_msg("accept: %s", strerror(-rc));
	assert_true(s->s != 0);
	return i;
}

void conf_pair(struct conf *c, int from, int at, int *connector, int *acceptor)
{
	int a = conf_connect(c, from, &c->addr, CONF_DOMAIN), b;

	WAIT(c, c->n_pending > 0);
	b = conf_accept(c, at, CONF_DOMAIN);
	WAIT(c, c->st[a].connected && c->st[b].connected);
	*connector = a;
	*acceptor = b;
}

void conf_stream_close(struct conf *c, int i, bool graceful)
{
	c->ops->stream_close(c->be[c->st[i].at], c->st[i].s, graceful);
}

static void count_accepted(const struct conf *c, struct conf_stream *s, int n)
{
	assert_true(n <= 1);
	s->accepted += n == 1;
	if (s->accepted - s->done > c->o.sends)
		fail_msg("%u operations at a time were asked for; the stream took more", c->o.sends);
}

static uint64_t op_cookie(const struct conf *c, int i)
{
	return (uint64_t)i << 32 | (uint32_t)c->st[i].accepted;
}

int conf_try_send(struct conf *c, int i, const void *head, uint32_t head_len, const void *body, uint32_t body_len)
{
	struct conf_stream *s = &c->st[i];
	struct be_msg v = {
		.head = head, .head_len = head_len, .body = body, .body_len = body_len, .cookie = op_cookie(c, i)
	};
	int n = c->ops->send(c->be[s->at], s->s, &v, 1);

	count_accepted(c, s, n);
	return n;
}

int conf_try_put(struct conf *c, int i, struct be_token token, uint64_t offset, const void *src, uint32_t len)
{
	struct conf_stream *s = &c->st[i];
	struct be_put v = { .src = src, .len = len, .token = token, .offset = offset, .cookie = op_cookie(c, i) };
	int n = c->ops->put(c->be[s->at], s->s, &v, 1);

	count_accepted(c, s, n);
	return n;
}

void conf_send(struct conf *c, int i, const void *head, uint32_t head_len, const void *body, uint32_t body_len)
{
	int n = 0;

	WAIT(c, (n = conf_try_send(c, i, head, head_len, body, body_len)) != 0);
	if (n < 0)
		fail_msg("send: %s", strerror(-n));
}

void conf_put(struct conf *c, int i, struct be_token token, uint64_t offset, const void *src, uint32_t len)
{
	int n = 0;

	WAIT(c, (n = conf_try_put(c, i, token, offset, src, len)) != 0);
	if (n < 0)
		fail_msg("put: %s", strerror(-n));
}

void conf_all_done(struct conf *c, int i)
{
	WAIT(c, c->st[i].done == c->st[i].accepted);
}

void conf_release(struct conf *c, int held)
{
	c->ops->release(c->be[c->held[held].at], c->held[held].frame);
	memmove(&c->held[held], &c->held[held + 1], (size_t)(--c->n_held - held) * sizeof c->held[0]);
}

/* --- regions --- */

void conf_region(struct conf *c, int r, int at, uint32_t domain, uint32_t id, uint64_t len)
{
	struct conf_region *g = &c->region[r];
	struct err e = { 0 };

	g->memory = conf_alloc(len + 2 * CONF_GUARD);
	memset(g->memory, 0xa5, CONF_GUARD);
	memset(g->memory + CONF_GUARD, 0, len);
	memset(g->memory + CONF_GUARD + len, 0xa5, CONF_GUARD);
	g->base = g->memory + CONF_GUARD;
	g->len = len;
	if (c->ops->region_add(c->be[at], domain, id, g->base, len, &g->token, &e) < 0)
		fail_msg("region_add: %s", e.why);
	assert_int_equal(g->token.id, id);
}

bool conf_all(const uint8_t *p, uint64_t len, uint8_t value)
{
	return !len || (p[0] == value && !memcmp(p, p + 1, len - 1));
}

void conf_guards(const struct conf *c, int r)
{
	const struct conf_region *g = &c->region[r];

	if (!conf_all(g->memory, CONF_GUARD, 0xa5) || !conf_all(g->base + g->len, CONF_GUARD, 0xa5))
		fail_msg("bytes outside the region were written");
}

/* --- traffic that checks itself --- */

struct mix_head {
	uint32_t seq, puts, src, len;
};

void mix_begin(struct conf *c, struct mix *m, int tx, int rx, uint64_t seed, uint64_t from, uint64_t to, uint32_t ops)
{
	memset(m, 0, sizeof *m);
	m->tx = tx;
	m->rx = rx;
	m->rng = seed;
	m->from = from;
	m->to = to;
	m->region = &c->region[0];
	m->put_max = (uint32_t)min_u64(48 * 1024, (to - from) / 4);
	m->left = ops;
	c->st[rx].mix = m;
}

static bool mix_send(struct conf *c, struct mix *m)
{
	uint32_t len = (uint32_t)(rng_next(&m->rng) % 3 ? rng_next(&m->rng) % 64 : rng_next(&m->rng) % 8192);
	struct mix_head h = { m->sent, m->n_puts, (uint32_t)(rng_next(&m->rng) % (CONF_SRC_BYTES / 2)), len };

	if (conf_try_send(c, m->tx, &h, sizeof h, c->src + h.src, len) != 1)
		return false;
	m->sent++;
	return true;
}

static bool mix_put(struct conf *c, struct mix *m)
{
	uint32_t most = rng_next(&m->rng) % 2 ? 512 : m->put_max;
	uint32_t len = 1 + (uint32_t)(rng_next(&m->rng) % most),
		 src = (uint32_t)(rng_next(&m->rng) % (CONF_SRC_BYTES / 2));

	if (m->n_puts == MIX_PUTS || m->used + len > m->to - m->from)
		return mix_send(c, m);
	if (conf_try_put(c, m->tx, m->region->token, m->from + m->used, c->src + src, len) != 1)
		return false;
	m->puts[m->n_puts].offset = m->from + m->used;
	m->puts[m->n_puts].len = len;
	m->puts[m->n_puts++].src = src;
	m->used += len + rng_next(&m->rng) % 7;
	return true;
}

void mix_step(struct conf *c, struct mix *m)
{
	if (!m->left)
		return;
	if (m->left > 1 && rng_next(&m->rng) % 3 ? mix_put(c, m) : mix_send(c, m))
		m->left--;
}

static void mix_message(struct conf *c, struct mix *m, const struct be_event *ev)
{
	struct mix_head h;

	assert_true(ev->len >= sizeof h);
	memcpy(&h, ev->data, sizeof h);
	assert_int_equal(h.seq, m->received);
	m->received++;
	assert_int_equal(ev->len, sizeof h + h.len);
	assert_memory_equal((const uint8_t *)ev->data + sizeof h, c->src + h.src, h.len);
	assert_true(h.puts >= m->verified && h.puts <= m->n_puts);
	for (; m->verified < h.puts; m->verified++) {
		uint32_t i = m->verified;

		if (memcmp(m->region->base + m->puts[i].offset, c->src + m->puts[i].src, m->puts[i].len))
			fail_msg("message %u came before put %u (%u bytes) was placed", h.seq, i, m->puts[i].len);
	}
}

void mix_finish(struct conf *c, struct mix *m)
{
	WAIT(c, (mix_step(c, m), !m->left));
	WAIT(c, m->received == m->sent && m->verified == m->n_puts);
	conf_all_done(c, m->tx);
	assert_int_equal(c->st[m->tx].failed, 0);
	if (c->ops->caps.sees_puts)
		assert_int_equal(c->st[m->rx].placed, m->n_puts);
}

/* --- the suite --- */

static bool left_out(const struct conf_target *t, const char *name)
{
	const char *const *out = t->leave_out;

	while (out && *out && strcmp(*out, name) != 0)
		out++;
	return out && *out;
}

int conformance_run(struct conf_target *t)
{
	const struct {
		const struct CMUnitTest *tests;
		size_t n;
	} parts[] = { { conf_connect_tests, n_conf_connect_tests },
		      { conf_data_tests, n_conf_data_tests },
		      { conf_region_tests, n_conf_region_tests },
		      { conf_end_tests, n_conf_end_tests } };
	size_t n = 0;
	struct CMUnitTest *all;
	int failed;

	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		n += parts[i].n;
	all = calloc(n, sizeof *all);
	if (!all)
		return 1;
	n = 0;
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		for (size_t k = 0; k < parts[i].n; k++) {
			if (left_out(t, parts[i].tests[k].name))
				continue;
			all[n] = parts[i].tests[k];
			all[n++].initial_state = t;
		}
	failed = _cmocka_run_group_tests(t->name, all, n, NULL, NULL);
	free(all);
	return failed;
}

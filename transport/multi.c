/* SPDX-License-Identifier: MIT */
#include "transport/multi.h"
#include "base/log.h"
#include "base/util.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define STREAMS_MAX 4096 /* every way's handles have their slot in the low 12 bits */

struct way {
	const struct be_ops *ops;
	struct be *be; /* NULL: it did not open */
	bool listening;
	uint64_t left_until; /* nothing is connected over it before; 0: it is fine */
	uint32_t streams;
	uint16_t *by_slot; /* the way's slot → our index */
	struct be_counters last;
};

struct stream {
	bool used, connected, closing;
	uint16_t generation;
	uint8_t way;
	be_stream s; /* the way's */
	uint32_t domain;
	uint64_t cookie;
	struct be_addr to;
	uint8_t pre[BE_PREAMBLE];
};

struct multi {
	struct be be;
	struct clock clock;
	struct way ways[MULTI_WAYS];
	unsigned n, turn;
	struct stream *streams;
	uint32_t n_streams, *free_streams, n_free;
};

static struct multi *multi_of(struct be *be)
{
	return (struct multi *)be;
}

/* --- names: a request carries its way in the low bit of its address --- */

static struct be_request *request_tag(struct be_request *r, unsigned way)
{
	return (struct be_request *)((uintptr_t)r | way);
}

static struct be_request *request_of(struct be_request *r, unsigned *way)
{
	*way = (uintptr_t)r & 1;
	return (struct be_request *)((uintptr_t)r & ~(uintptr_t)1);
}

static be_stream name_of(const struct multi *m, const struct stream *s)
{
	return (uint32_t)(s - m->streams) | (uint32_t)s->generation << 16;
}

static int find(struct multi *m, be_stream name, struct stream **out)
{
	uint32_t i = name & 0xffff, generation = name >> 16;

	if (!generation || i >= m->n_streams)
		return -EINVAL;
	if (!m->streams[i].used || m->streams[i].generation != generation)
		return -ENOTCONN;
	*out = &m->streams[i];
	return 0;
}

static struct stream *stream_new(struct multi *m, uint32_t domain, uint64_t cookie)
{
	struct stream *s;
	uint16_t generation;

	if (!m->n_free)
		return NULL;
	s = &m->streams[m->free_streams[--m->n_free]];
	generation = (uint16_t)(s->generation + 1);
	*s = (struct stream){
		.used = true, .generation = generation ? generation : 1, .domain = domain, .cookie = cookie
	};
	return s;
}

static void stream_free(struct multi *m, struct stream *s)
{
	s->used = false;
	m->free_streams[m->n_free++] = (uint32_t)(s - m->streams);
}

static void stream_on(struct multi *m, struct stream *s, unsigned way, be_stream name)
{
	s->way = (uint8_t)way;
	s->s = name;
	m->ways[way].by_slot[name & (STREAMS_MAX - 1)] = (uint16_t)(s - m->streams);
	m->ways[way].streams++;
}

/* --- open and close --- */

static int multi_probe(struct err *e)
{
	(void)e;
	return 0;
}

static void multi_close(struct be *be)
{
	struct multi *m = multi_of(be);

	for (unsigned i = 0; i < m->n; i++) {
		if (m->ways[i].be)
			m->ways[i].ops->close(m->ways[i].be);
		free(m->ways[i].by_slot);
	}
	free(m->free_streams);
	free(m->streams);
	free(m);
}

static int open_ways(struct multi *m, const struct be_open *o, struct err *e)
{
	const struct multi_opts *opts = o->opts;
	struct be_open mine = *o;
	unsigned opened = 0;
	struct err why;
	int rc = -ENODEV;

	for (m->n = 0; m->n < opts->n; m->n++) {
		struct way *w = &m->ways[m->n];

		w->ops = opts->way[m->n].ops;
		w->by_slot = calloc(STREAMS_MAX, sizeof *w->by_slot);
		if (!w->by_slot)
			return err_set(e, -ENOMEM, "no memory for a transport's streams");
		mine.opts = opts->way[m->n].opts;
		rc = w->ops->open(&mine, &w->be, &why);
		opened += rc == 0;
		if (rc < 0)
			log_info("%s is left out: %s", w->ops->name, why.why);
	}
	return opened ? 0 : err_set(e, rc, "%s", why.why);
}

static int multi_open(const struct be_open *o, struct be **out, struct err *e)
{
	struct multi *m;
	int rc;

	if (!o->streams || o->streams > STREAMS_MAX)
		return err_set(e, -EINVAL, "streams must be 1…%d, not %u", STREAMS_MAX, o->streams);
	m = calloc(1, sizeof *m);
	if (!m)
		return err_set(e, -ENOMEM, "no memory for an instance");
	m->be.ops = &multi_ops;
	m->clock = o->clock.now ? o->clock : clock_mono;
	m->n_streams = o->streams;
	m->streams = calloc(o->streams, sizeof *m->streams);
	m->free_streams = calloc(o->streams, sizeof *m->free_streams);
	if (!m->streams || !m->free_streams)
		rc = err_set(e, -ENOMEM, "no memory for %u streams", o->streams);
	else
		rc = open_ways(m, o, e);
	if (rc < 0) {
		multi_close(&m->be);
		return rc;
	}
	while (m->n_free < o->streams) {
		m->free_streams[m->n_free] = o->streams - 1 - m->n_free;
		m->n_free++;
	}
	*out = &m->be;
	return 0;
}

/* --- listening and connecting --- */

static void set_port(struct be_addr *a, const struct be_addr *from)
{
	if (a->sa.sa_family == AF_INET6)
		a->in6.sin6_port = from->in6.sin6_port;
	else
		a->in.sin_port = from->in.sin_port;
}

/* The last way first: where the port is chosen for us, TCP's is the one that others may have. */
static int multi_listen(struct be *be, const struct be_addr *at, struct be_addr *bound, struct err *e)
{
	struct multi *m = multi_of(be);
	struct be_addr want = *at, got;
	unsigned n = 0;
	int rc = -ENODEV;

	for (unsigned i = m->n; i--;) {
		struct way *w = &m->ways[i];
		struct err why = { 0 };
		int one = w->be ? w->ops->listen(w->be, &want, &got, &why) : -ENODEV;

		if (one < 0 && w->be)
			log_warn("not listening over %s: %s", w->ops->name, why.why);
		if (one < 0 && !n && w->be) {
			rc = one;
			err_set(e, one, "%s", why.why);
		}
		if (one < 0)
			continue;
		if (!n++ && bound)
			*bound = got;
		w->listening = true;
		set_port(&want, &got);
	}
	return n ? 0 : rc;
}

static void leave(struct multi *m, unsigned way, int err, const char *why)
{
	struct way *w = &m->ways[way];

	if (!w->left_until)
		log_info("leaving %s for a while: %s", w->ops->name, why ? why : strerror(-err));
	w->left_until = clock_now(&m->clock) + MULTI_RETRY;
}

static bool last_way(const struct multi *m, unsigned way)
{
	for (unsigned i = way + 1; i < m->n; i++)
		if (m->ways[i].be)
			return false;
	return true;
}

static bool may_try(struct multi *m, unsigned way)
{
	struct way *w = &m->ways[way];

	if (w->left_until && clock_now(&m->clock) >= w->left_until)
		w->left_until = 0;
	return w->be && (!w->left_until || last_way(m, way));
}

/* Over the first way from `from` on that takes it. */
static int try_connect(struct multi *m, struct stream *s, unsigned from, struct err *e)
{
	int rc = -ENETUNREACH;

	for (unsigned i = from; i < m->n; i++) {
		struct way *w = &m->ways[i];
		be_stream name;

		if (!may_try(m, i))
			continue;
		rc = w->ops->connect(w->be, &s->to, s->pre, s->domain, (uint64_t)(s - m->streams), &name, e);
		if (rc == 0) {
			stream_on(m, s, i, name);
			return 0;
		}
		if (rc != -ENOSPC)
			leave(m, i, rc, e->why);
	}
	return rc;
}

static int multi_connect(struct be *be, const struct be_addr *to, const void *pre, uint32_t domain, uint64_t cookie,
			 be_stream *out, struct err *e)
{
	struct multi *m = multi_of(be);
	struct stream *s = stream_new(m, domain, cookie);
	int rc;

	if (!s)
		return err_set(e, -ENOSPC, "connect: all %u streams of this instance are in use", m->n_streams);
	s->to = *to;
	memcpy(s->pre, pre, BE_PREAMBLE);
	rc = try_connect(m, s, 0, e);
	if (rc < 0) {
		stream_free(m, s);
		return rc;
	}
	*out = name_of(m, s);
	return 0;
}

static int multi_accept(struct be *be, struct be_request *r, const void *reply, uint32_t domain, uint64_t cookie,
			be_stream *out)
{
	struct multi *m = multi_of(be);
	struct stream *s = stream_new(m, domain, cookie);
	unsigned way;
	be_stream name;
	int rc;

	r = request_of(r, &way);
	if (!s || !m->ways[way].be) {
		if (s)
			stream_free(m, s);
		/* The hooks of a way work on any instance of it; only its table is needed here. */
		m->ways[way].ops->reject(m->ways[way].be, r, NULL);
		return -ENOSPC;
	}
	rc = m->ways[way].ops->accept(m->ways[way].be, r, reply, domain, (uint64_t)(s - m->streams), &name);
	if (rc < 0) {
		stream_free(m, s);
		return rc;
	}
	stream_on(m, s, way, name);
	*out = name_of(m, s);
	return 0;
}

static void multi_reject(struct be *be, struct be_request *r, const void *reply)
{
	struct multi *m = multi_of(be);
	unsigned way;

	r = request_of(r, &way);
	m->ways[way].ops->reject(m->ways[way].be, r, reply);
}

static void multi_stream_close(struct be *be, be_stream name, bool graceful)
{
	struct multi *m = multi_of(be);
	struct stream *s;

	if (find(m, name, &s) < 0)
		return;
	s->closing = true;
	m->ways[s->way].ops->stream_close(m->ways[s->way].be, s->s, graceful);
}

/* --- memory --- */

static int multi_region_drop(struct be *be, uint32_t domain, uint32_t id)
{
	struct multi *m = multi_of(be);
	int rc = 0;

	for (unsigned i = 0; i < m->n; i++)
		if (m->ways[i].be && m->ways[i].ops->region_drop(m->ways[i].be, domain, id) == -EBUSY)
			rc = -EBUSY;
	return rc;
}

static int multi_region_add(struct be *be, uint32_t domain, uint32_t id, void *addr, uint64_t len, struct be_token *out,
			    struct err *e)
{
	struct multi *m = multi_of(be);
	unsigned added = 0, mine = 0;
	int rc = -ENODEV;

	for (unsigned i = 0; i < m->n; i++) {
		struct way *w = &m->ways[i];
		struct be_token t;
		struct err why = { 0 };

		if (!w->be)
			continue;
		rc = w->ops->region_add(w->be, domain, id, addr, len, &t, &why);
		/* A device that is away now, or cannot: streams come over the others. */
		if (rc < 0 && !last_way(m, i)) {
			log_info("%s: %s", w->ops->name, why.why);
			continue;
		}
		mine |= rc == 0 ? 1u << i : 0;
		if (rc == 0 && added && w->ops->region_key)
			rc = w->ops->region_key(w->be, domain, id, out->key);
		if (rc < 0) {
			/* Only what this call added: a region of this number may have been there before. */
			for (unsigned k = 0; k <= i; k++)
				if (mine >> k & 1)
					m->ways[k].ops->region_drop(m->ways[k].be, domain, id);
			return err_set(e, rc, "%s", why.why[0] ? why.why : "no region");
		}
		if (!added++)
			*out = t;
	}
	return added ? 0 : rc;
}

static int multi_source_add(struct be *be, const void *addr, uint64_t len, struct err *e)
{
	struct multi *m = multi_of(be);
	int rc = 0;

	for (unsigned i = 0; i < m->n && rc == 0; i++)
		if (m->ways[i].be && m->ways[i].ops->source_add)
			rc = m->ways[i].ops->source_add(m->ways[i].be, addr, len, e);
	return rc;
}

static void multi_source_drop(struct be *be, const void *addr)
{
	struct multi *m = multi_of(be);

	for (unsigned i = 0; i < m->n; i++)
		if (m->ways[i].be && m->ways[i].ops->source_drop)
			m->ways[i].ops->source_drop(m->ways[i].be, addr);
}

/* --- data --- */

/* Others read our counters while we run: they only ever grow by what the ways' grew. */
static void count(struct multi *m, struct way *w)
{
	uint64_t *into = (uint64_t *)&m->be.counters, *last = (uint64_t *)&w->last;
	const uint64_t *now = (const uint64_t *)&w->be->counters;

	for (size_t i = 0; i < sizeof w->last / sizeof *now; i++)
		if (now[i] != last[i]) {
			metric_add(&into[i], now[i] - last[i]);
			last[i] = now[i];
		}
}

/* What was not taken is counted at once: the next poll may be far away. */
static int posted(struct multi *m, const struct stream *s, int rc)
{
	if (rc == 0)
		count(m, &m->ways[s->way]);
	return rc;
}

static int multi_send(struct be *be, be_stream name, const struct be_msg *v, int n)
{
	struct multi *m = multi_of(be);
	struct stream *s;
	int rc = find(m, name, &s);

	return rc < 0 ? rc : posted(m, s, m->ways[s->way].ops->send(m->ways[s->way].be, s->s, v, n));
}

static int multi_put(struct be *be, be_stream name, const struct be_put *v, int n)
{
	struct multi *m = multi_of(be);
	struct stream *s;
	int rc = find(m, name, &s);

	return rc < 0 ? rc : posted(m, s, m->ways[s->way].ops->put(m->ways[s->way].be, s->s, v, n));
}

static int multi_steer(struct be *be, be_stream name, const struct be_steer *how)
{
	struct multi *m = multi_of(be);
	struct stream *s;
	int rc = find(m, name, &s);

	if (rc < 0 || !m->ways[s->way].ops->steer)
		return rc < 0 ? rc : -EOPNOTSUPP;
	return m->ways[s->way].ops->steer(m->ways[s->way].be, s->s, how);
}

static int multi_info(struct be *be, be_stream name, struct be_info *out)
{
	struct multi *m = multi_of(be);
	struct stream *s;
	int rc = find(m, name, &s);

	return rc < 0 ? rc : m->ways[s->way].ops->info(m->ways[s->way].be, s->s, out);
}

/* A frame's number is its way's; the way is in bit 31. */
static void multi_release(struct be *be, uint32_t frame)
{
	struct multi *m = multi_of(be);
	unsigned way = frame >> 31;

	if (way < m->n && m->ways[way].be)
		m->ways[way].ops->release(m->ways[way].be, frame & 0x7fffffff);
}

/* --- events --- */

/* Is it the way's fault, and not the peer's or our own doing? */
static bool blames_way(int err)
{
	switch (err) {
	case 0:
	case -ECANCELED:
	case -ECONNRESET:
	case -EPROTO:
	case -EBADMSG:
	case -EACCES:
		return false;
	default:
		return true;
	}
}

/* False: nobody is to hear of it, the stream goes on over another way. */
static bool on_down(struct multi *m, unsigned way, struct stream *s, struct be_event *ev)
{
	m->ways[way].streams--;
	if (s->connected || s->closing || ev->len) {
		if (s->connected && blames_way(ev->err))
			leave(m, way, ev->err, NULL);
	} else if (ev->err != -ECONNRESET && !last_way(m, way) &&
		   s->to.len) { /* reset: there is somebody, who will not */
		leave(m, way, ev->err, NULL);
		if (try_connect(m, s, way + 1, NULL) == 0)
			return false;
	}
	stream_free(m, s);
	return true;
}

/* Makes a way's event ours. False: it is none. */
static bool translate(struct multi *m, unsigned way, struct be_event *ev)
{
	struct stream *s;
	be_stream name;

	if (ev->type == BE_INCOMING) {
		ev->request = request_tag(ev->request, way);
		return true;
	}
	if (ev->type == BE_WOKEN || ev->type == BE_NONE)
		return true;
	s = &m->streams[m->ways[way].by_slot[ev->stream & (STREAMS_MAX - 1)]];
	name = name_of(m, s);
	ev->stream = name;
	if (ev->type != BE_DONE)
		ev->cookie = s->cookie;
	if (ev->type == BE_CONNECTED)
		s->connected = true;
	else if (ev->type == BE_MESSAGE)
		ev->frame |= way << 31;
	else if (ev->type == BE_DOWN)
		return on_down(m, way, s, ev);
	return true;
}

static int multi_poll(struct be *be, struct be_event *ev, int max)
{
	struct multi *m = multi_of(be);
	int n = 0;

	m->turn++;
	for (unsigned k = 0; k < m->n; k++) {
		unsigned i = (k + m->turn) % m->n;
		struct way *w = &m->ways[i];
		int got = w->be ? w->ops->poll(w->be, ev + n, max - n) : 0, kept = n;

		for (int j = n; j < n + got; j++)
			if (translate(m, i, &ev[j]))
				ev[kept++] = ev[j];
		n = kept;
		if (w->be)
			count(m, w);
	}
	return n;
}

static bool in_use(const struct way *w)
{
	return w->be && (w->listening || w->streams);
}

static void wait_for_all(struct multi *m, uint64_t timeout_ns)
{
	struct pollfd p[MULTI_WAYS];
	struct timespec ts;
	nfds_t n = 0;

	for (unsigned i = 0; i < m->n; i++) {
		struct way *w = &m->ways[i];
		int fd;

		if (!in_use(w))
			continue;
		if (!w->ops->wait_fd) {
			timeout_ns = min_u64(timeout_ns, NS_PER_MS);
			continue;
		}
		fd = w->ops->wait_fd(w->be, &timeout_ns);
		if (fd < 0)
			return;
		p[n++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
	ts = (struct timespec){ (time_t)(timeout_ns / NS_PER_S), (long)(timeout_ns % NS_PER_S) };
	ppoll(p, n, &ts, NULL);
}

static void multi_wait(struct be *be, uint64_t timeout_ns)
{
	struct multi *m = multi_of(be);
	struct way *only = m->ways;
	unsigned used = 0;

	for (unsigned i = 0; i < m->n; i++)
		if (in_use(&m->ways[i])) {
			only = &m->ways[i];
			used++;
		}
	for (unsigned i = 0; i < m->n && !used; i++)
		only = m->ways[i].be ? &m->ways[i] : only;
	if (used > 1)
		wait_for_all(m, timeout_ns);
	else
		only->ops->wait(only->be, timeout_ns);
}

static void multi_wake(struct be *be)
{
	struct multi *m = multi_of(be);

	for (unsigned i = 0; i < m->n; i++)
		if (m->ways[i].be)
			m->ways[i].ops->wake(m->ways[i].be);
}

const struct be_ops multi_ops = {
	.name = "rdma+tcp",
	.help = "RDMA where both ends have it, else TCP",
	.caps = {
		.one_sided = true,
		.zero_copy = true,
		.sees_puts = true,
		.frame_max = 16u << 20,
		.put_max = 1u << 30,
		.align = CACHE_LINE,
		.streams_max = STREAMS_MAX,
	},
	.probe = multi_probe,
	.open = multi_open,
	.close = multi_close,
	.listen = multi_listen,
	.connect = multi_connect,
	.accept = multi_accept,
	.reject = multi_reject,
	.stream_close = multi_stream_close,
	.region_add = multi_region_add,
	.region_drop = multi_region_drop,
	.source_add = multi_source_add,
	.source_drop = multi_source_drop,
	.send = multi_send,
	.put = multi_put,
	.poll = multi_poll,
	.release = multi_release,
	.wait = multi_wait,
	.wake = multi_wake,
	.info = multi_info,
	.steer = multi_steer,
};

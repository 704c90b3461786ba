/* SPDX-License-Identifier: MIT */
/* The hooks of the in-process backend. The network that they meet, with its faults, is mem_net.c; the
 * states of a stream are drawn in mem_net.h. */
#include "transport/mem.h"
#include "transport/mem_net.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- poll --- */

/* Connects that have arrived here, as long as there is room to remember them. */
static int poll_incoming(struct mem *m, struct be_event *ev, int max)
{
	struct mem_fabric *f = m->fabric;
	uint32_t slot = 0;
	int n = 0;

	if (!m->listening || !f->connecting || f->partitioned)
		return 0;
	for (struct mem *c = f->members; c; c = c->next) {
		for (uint32_t i = 0; i < c->o.streams && n < max; i++) {
			struct mem_stream *s = &c->streams[i];
			struct mem_request *r;

			if (s->state != CONNECTING || s->request || s->accepted || s->cut || s->refused || s->lost ||
			    s->due_ns > now_of(m) || mem_port(&s->remote) != mem_port(&m->at))
				continue;
			while (slot < m->o.streams && m->requests[slot].used)
				slot++;
			if (slot == m->o.streams) { /* no room: the request is sent again later */
				s->due_ns = now_of(m) + NS_PER_MS;
				continue;
			}
			r = &m->requests[slot];
			*r = (struct mem_request){ .listener = m, .from = s, .used = true };
			memcpy(r->pre, s->pre, BE_PREAMBLE);
			s->request = r;
			ev[n++] = (struct be_event){ .type = BE_INCOMING,
						     .data = r->pre,
						     .len = BE_PREAMBLE,
						     .request = (struct be_request *)r };
		}
	}
	return n;
}

static int mem_poll(struct be *be, struct be_event *ev, int max)
{
	struct mem *m = mem_of(be);
	bool moved;
	int n = 0;

	if (m->crashed || max <= 0)
		return 0;
	if (__atomic_exchange_n(&m->woken, false, __ATOMIC_ACQ_REL))
		ev[n++] = (struct be_event){ .type = BE_WOKEN };
	n += poll_incoming(m, ev + n, max - n);
	do {
		uint64_t start = pick(m->fabric, m->o.streams - 1);
		int before = n;

		moved = false;
		for (uint32_t i = 0; i < m->o.streams && n < max; i++)
			n += mem_step(&m->streams[(start + i) % m->o.streams], ev + n, &moved);
		moved |= n > before;
	} while (moved && n < max);
	return n;
}

static void mem_wait(struct be *be, uint64_t timeout_ns)
{
	(void)be;
	(void)timeout_ns;
}

static void mem_wake(struct be *be)
{
	__atomic_store_n(&mem_of(be)->woken, true, __ATOMIC_RELEASE);
}

static void mem_release(struct be *be, uint32_t frame)
{
	struct mem *m = mem_of(be);

	assert(frame < m->o.frames && m->frame_held[frame]);
	m->frame_held[frame] = false;
	m->free_frames[m->n_free_frames++] = frame;
}

/* --- send, put --- */

/* How many of n operations, of which the first `right` are right, the stream takes now. */
static int accept_ops(struct mem *m, be_stream h, int n, int right, struct mem_stream **out)
{
	struct mem_fabric *f = m->fabric;
	struct mem_stream *s;
	uint64_t busy, room;
	int rc = mem_stream_find(m, h, &s);

	if (rc < 0)
		return rc;
	if (s->state != UP)
		return -ENOTCONN;
	busy = s->tail - s->done;
	room = m->o.sends - busy;
	if (n > 0 && room && !right)
		return -EINVAL;
	room = min_u64(room, (uint64_t)right);
	/* 0 means "after a DONE", so it may only be said while one is to come. */
	if (room && chance(f, f->faults.short_ppm))
		room = max_u64(pick(f, room - 1), busy ? 0 : 1);
	if (!room && n > 0)
		metric_add(&m->be.counters.backpressure, 1);
	*out = s;
	return (int)room;
}

/* Takes the next slot of the ring and decides when the operation arrives and what befalls it. */
static struct mem_op *op_push(struct mem_stream *s, uint64_t bytes)
{
	struct mem_fabric *f = s->mem->fabric;
	uint64_t rate = f->faults.path[s->is_acceptor].bytes_per_s;
	uint64_t *link = &f->link_free_ns[s->is_acceptor];
	uint64_t at = now_of(s->mem);
	struct mem_op *op = op_at(s, s->tail++);

	if (rate)
		at = *link = max_u64(at, *link) + bytes * NS_PER_S / rate;
	s->last_due_ns = max_u64(s->last_due_ns, at + path_delay(s));
	*op = (struct mem_op){ .due_ns = s->last_due_ns,
			       .drop = chance(f, f->faults.drop_ppm),
			       .corrupt = chance(f, f->faults.corrupt_ppm) };
	return op;
}

static void push_put(struct mem_stream *s, struct be_token token, uint64_t offset, const void *src, uint64_t len,
		     uint64_t cookie)
{
	struct mem_fabric *f = s->mem->fabric;
	struct mem_op *op = op_push(s, min_u64(len, MEM_PUT_MAX));

	op->is_put = true;
	op->torn = chance(f, f->faults.torn_ppm);
	op->body = src;
	op->len = len;
	op->token = token;
	op->offset = offset;
	op->cookie = cookie;
	metric_add(&s->mem->be.counters.puts, 1);
}

static int puts_right(const struct be_put *v, int n)
{
	int i = 0;

	while (i < n && v[i].len && v[i].len <= MEM_PUT_MAX)
		i++;
	return i;
}

static int mem_put(struct be *be, be_stream h, const struct be_put *v, int n)
{
	struct mem_stream *s;

	n = accept_ops(mem_of(be), h, n, puts_right(v, n), &s);
	for (int i = 0; i < n; i++)
		push_put(s, v[i].token, v[i].offset, v[i].src, v[i].len, v[i].cookie);
	return n;
}

int mem_inject_put(struct be *be, be_stream h, struct be_token token, uint64_t offset, const void *src, uint64_t len,
		   uint64_t cookie)
{
	struct mem_stream *s;
	int n = accept_ops(mem_of(be), h, 1, 1, &s);

	if (n == 1)
		push_put(s, token, offset, src, len, cookie);
	return n;
}

static int messages_right(const struct be_msg *v, int n)
{
	int i = 0;

	while (i < n && v[i].head_len <= BE_HEAD_MAX && v[i].body_len <= MEM_FRAME_MAX - v[i].head_len)
		i++;
	return i;
}

static int mem_send(struct be *be, be_stream h, const struct be_msg *v, int n)
{
	struct mem_stream *s;

	n = accept_ops(mem_of(be), h, n, messages_right(v, n), &s);
	for (int i = 0; i < n; i++) {
		struct mem_op *op = op_push(s, v[i].head_len + v[i].body_len);

		if (v[i].head_len)
			memcpy(s->heads[(s->tail - 1) % s->mem->o.sends], v[i].head, v[i].head_len);
		op->head_len = v[i].head_len;
		op->body = v[i].body;
		op->len = v[i].body_len;
		op->cookie = v[i].cookie;
		metric_add(&be->counters.messages, 1);
	}
	return n;
}

/* --- connections --- */

/* An address of the same family as `like`, on loopback unless `like` is complete. */
static struct be_addr addr_with_port(const struct be_addr *like, uint16_t port, bool loopback)
{
	struct be_addr a = *like;

	if (a.sa.sa_family == AF_INET6) {
		a.in6.sin6_port = htons(port);
		if (loopback)
			a.in6.sin6_addr = in6addr_loopback;
	} else {
		a.in.sin_port = htons(port);
		if (loopback)
			a.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	}
	return a;
}

static uint16_t fresh_port(struct mem_fabric *f)
{
	if (f->next_port < MEM_FIRST_PORT)
		f->next_port = MEM_FIRST_PORT;
	return f->next_port++;
}

static int mem_listen(struct be *be, const struct be_addr *at, struct be_addr *bound, struct err *e)
{
	struct mem *m = mem_of(be);
	uint16_t port = mem_port(at);

	if (m->listening || m->crashed)
		return err_set(e, -EINVAL, "mem: this instance cannot listen (again); open another one");
	if (port && mem_listener_at(m->fabric, port))
		return err_set(e, -EADDRINUSE, "mem: port %u has a listener on this fabric; use another port", port);
	while (!port || mem_listener_at(m->fabric, port))
		port = fresh_port(m->fabric);
	m->at = addr_with_port(at, port, false);
	m->listening = true;
	if (bound)
		*bound = m->at;
	return 0;
}

static int mem_connect(struct be *be, const struct be_addr *to, const void *pre, uint32_t domain, uint64_t cookie,
		       be_stream *out, struct err *e)
{
	struct mem *m = mem_of(be);
	struct mem_fabric *f = m->fabric;
	uint64_t now = now_of(m), timeout = f->faults.connect_timeout_ns;
	struct mem_stream *s = m->crashed ? NULL : mem_stream_take(m, CONNECTING, domain, cookie);

	if (m->crashed)
		return err_set(e, -ENOTCONN, "mem: this instance has crashed; open another one");
	if (!s)
		return err_set(e, -ENOSPC, "mem: all %u streams of this instance are in use; open it with more",
			       m->o.streams);
	memcpy(s->pre, pre, BE_PREAMBLE);
	s->remote = *to;
	s->local = addr_with_port(to, fresh_port(f), true);
	s->due_ns = now + path_delay(s);
	s->deadline_ns = now + (timeout ? timeout : 10 * NS_PER_S);
	s->refused = chance(f, f->faults.refuse_ppm);
	s->lost = chance(f, f->faults.lose_ppm);
	*out = mem_handle(s);
	return 0;
}

static void mem_reject(struct be *be, struct be_request *r, const void *reply)
{
	(void)be;
	mem_refuse(mem_request_end(r), reply);
}

static int mem_accept(struct be *be, struct be_request *r, const void *reply, uint32_t domain, uint64_t cookie,
		      be_stream *out)
{
	struct mem *m = mem_of(be), *listener = ((struct mem_request *)r)->listener;
	struct mem_stream *from = mem_request_end(r), *s;

	if (!from || from->cut)
		return -ECONNRESET;
	s = m->crashed ? NULL : mem_stream_take(m, UP, domain, cookie);
	if (!s) {
		mem_refuse(from, NULL);
		return m->crashed ? -ENOTCONN : -ENOSPC;
	}
	s->is_acceptor = true;
	s->tell = true;
	s->local = listener->at;
	s->remote = from->local;
	s->peer = from;
	from->peer = s;
	from->accepted = true;
	from->due_ns = now_of(m) + path_delay(s);
	memcpy(from->reply[from->gen & 1], reply, BE_PREAMBLE);
	metric_add(&m->be.counters.streams_opened, 1);
	*out = mem_handle(s);
	return 0;
}

static void mem_stream_close(struct be *be, be_stream h, bool graceful)
{
	struct mem *m = mem_of(be);
	struct mem_stream *s;

	if (mem_stream_find(m, h, &s) < 0 || s->state == DYING)
		return;
	if (!graceful || s->state == CONNECTING) {
		mem_abort_stream(s, -ECANCELED, -ECONNRESET);
	} else if (s->state == UP) {
		s->deadline_ns = now_of(m) + idle_ns(m->fabric);
		mem_set_state(s, CLOSING);
	}
}

static int mem_info(struct be *be, be_stream h, struct be_info *out)
{
	struct mem *m = mem_of(be);
	const struct mem_path *path = m->fabric->faults.path;
	struct mem_stream *s;
	int rc = mem_stream_find(m, h, &s);

	if (rc < 0)
		return rc;
	*out = (struct be_info){ .rtt_ns = path[0].delay_ns + path[1].delay_ns,
				 .rtt_least_ns = path[0].delay_ns + path[1].delay_ns,
				 .rttvar_ns = max_u64(path[0].jitter_ns, path[1].jitter_ns),
				 .segments = s->delivered,
				 .delivery_rate = path[s->is_acceptor].bytes_per_s,
				 .bytes_sent = s->sent,
				 .unacked_bytes =
					 s->tail - s->delivered, /* operations: that there are any is what counts */
				 .bytes_received = s->received,
				 .local = s->local,
				 .peer = s->remote };
	memcpy(out->congestion, s->congestion, sizeof out->congestion);
	return 0;
}

/* There is no congestion here: the name is kept, so that a test sees what a stream was told. */
static int mem_steer(struct be *be, be_stream h, const struct be_steer *how)
{
	struct mem_stream *s;
	int rc = mem_stream_find(mem_of(be), h, &s);

	if (rc < 0)
		return rc;
	if (how->congestion[0])
		memcpy(s->congestion, how->congestion, sizeof s->congestion);
	return 0;
}

/* --- regions --- */

/* Tests only: nobody outside this process ever presents it. Equal for all instances that name the
 * same memory alike, different once the number is used for other memory. */
static uint64_t region_key(const struct mem_fabric *f, const struct mem_region *r)
{
	uint64_t x = f->secret ^ ((uint64_t)r->domain << 32 | r->id);

	x = rng_next(&x) ^ (uintptr_t)r->addr;
	x = rng_next(&x) ^ r->len;
	return rng_next(&x);
}

static int mem_region_add(struct be *be, uint32_t domain, uint32_t id, void *addr, uint64_t len, struct be_token *out,
			  struct err *e)
{
	struct mem *m = mem_of(be);

	if (!addr || !len)
		return err_set(e, -EINVAL, "mem: region %u of domain %u is empty; register at least one byte", id,
			       domain);
	if (mem_region_find(m, domain, id))
		return err_set(e, -EEXIST, "mem: domain %u has a region %u; drop it first", domain, id);
	for (uint32_t i = 0; i < m->o.regions; i++) {
		struct mem_region *r = &m->regions[i];

		if (r->used)
			continue;
		*r = (struct mem_region){ .addr = addr, .len = len, .domain = domain, .id = id, .used = true };
		r->key = region_key(m->fabric, r);
		*out = (struct be_token){ .id = id, .key = r->key };
		return 0;
	}
	return err_set(e, -ENOSPC, "mem: all %u regions are in use; open the instance with more", m->o.regions);
}

static int mem_region_drop(struct be *be, uint32_t domain, uint32_t id)
{
	struct mem *m = mem_of(be);
	struct mem_region *r = mem_region_find(m, domain, id);

	if (!r)
		return 0;
	for (uint32_t i = 0; i < m->o.streams && !r->dropping; i++) {
		struct mem_stream *s = &m->streams[i];
		const struct mem_stream *from = s->state == FREE ? NULL : s->peer;
		const struct mem_op *op = from && from->delivered != from->tail ? op_at(from, from->delivered) : NULL;

		if (!op || !op->placed || s->domain != domain || op->token.id != id)
			continue;
		mem_sever(s, -ECONNABORTED, -ECONNRESET);
		s->holds = r;
		r->busy++;
	}
	r->dropping = r->used = r->busy > 0;
	return r->busy ? -EBUSY : 0;
}

/* --- open, close, faults --- */

static int mem_probe(struct err *e)
{
	(void)e;
	return 0;
}

static void mem_free(struct mem *m)
{
	free(m->frame_held);
	free(m->free_frames);
	free(m->frames);
	free(m->regions);
	free(m->requests);
	free(m->heads);
	free(m->ops);
	free(m->streams);
	free(m);
}

static int check_open(const struct be_open *o, struct err *e)
{
	if (!o->fabric)
		return err_set(e, -EINVAL,
			       "mem: reaches only this process; use --backend=tcp, or in a test pass a fabric");
	if (!o->streams || o->streams > MEM_STREAMS_MAX)
		return err_set(e, -EINVAL, "mem: %u streams; choose 1 to %d", o->streams, MEM_STREAMS_MAX);
	if (!o->sends || o->sends > MEM_SENDS_MAX)
		return err_set(e, -EINVAL, "mem: %u operations per stream; choose 1 to %d", o->sends, MEM_SENDS_MAX);
	if (!o->frames || o->frame_bytes > MEM_FRAME_MAX)
		return err_set(e, -EINVAL, "mem: %u frames of %u bytes; choose 1 or more, of at most %d", o->frames,
			       o->frame_bytes, MEM_FRAME_MAX);
	return 0;
}

static int open_as(const struct be_ops *ops, const struct be_open *o, struct be **out, struct err *e)
{
	size_t n_ops = (size_t)o->streams * o->sends;
	struct mem *m;
	int rc = check_open(o, e);

	if (rc < 0)
		return rc;
	m = calloc(1, sizeof *m);
	if (!m)
		return err_set(e, -ENOMEM, "mem: no memory for an instance; free some");
	m->be.ops = ops;
	m->o = *o;
	m->fabric = o->fabric;
	/* Pages of the large ones exist once they are used. */
	m->streams = calloc(o->streams, sizeof *m->streams);
	m->ops = calloc(n_ops, sizeof *m->ops);
	m->heads = calloc(n_ops, sizeof *m->heads);
	m->requests = calloc(o->streams, sizeof *m->requests);
	m->regions = calloc(o->regions + 1ul, sizeof *m->regions);
	m->frames = calloc(o->frames, o->frame_bytes + 1ul);
	m->free_frames = calloc(o->frames, sizeof *m->free_frames);
	m->frame_held = calloc(o->frames, sizeof *m->frame_held);
	if (!m->streams || !m->ops || !m->heads || !m->requests || !m->regions || !m->frames || !m->free_frames ||
	    !m->frame_held) {
		mem_free(m);
		return err_set(e, -ENOMEM, "mem: no memory for %u streams and %u frames of %u bytes; ask for fewer",
			       o->streams, o->frames, o->frame_bytes);
	}
	for (uint32_t i = 0; i < o->streams; i++) {
		m->streams[i].mem = m;
		m->streams[i].ops = m->ops + (size_t)i * o->sends;
		m->streams[i].heads = m->heads + (size_t)i * o->sends;
	}
	for (uint32_t i = 0; i < o->frames; i++)
		m->free_frames[m->n_free_frames++] = o->frames - 1 - i;
	m->fabric->rng += rng_next(&m->o.seed); /* a sum: equal seeds of two instances do not cancel */
	m->next = m->fabric->members;
	m->fabric->members = m;
	*out = &m->be;
	return 0;
}

static int mem_open(const struct be_open *o, struct be **out, struct err *e)
{
	return open_as(&mem_ops, o, out, e);
}

static int mem_one_sided_open(const struct be_open *o, struct be **out, struct err *e)
{
	return open_as(&mem_one_sided_ops, o, out, e);
}

/* Afterwards nothing outside points into the instance. */
static void detach(struct mem *m)
{
	for (uint32_t i = 0; i < m->o.streams; i++) {
		struct mem_stream *s = &m->streams[i];
		struct mem_request *r = &m->requests[i];

		if (s->state != FREE)
			mem_abort_stream(s, -ECANCELED, -ECONNRESET);
		mem_set_state(s, FREE);
		if (r->used && r->from)
			mem_cut(r->from, -ECONNRESET, now_of(m) + path_delay(r->from));
		if (r->used)
			mem_request_end((struct be_request *)r);
	}
	m->listening = false;
}

void mem_crash(struct be *be)
{
	detach(mem_of(be));
	mem_of(be)->crashed = true;
}

static void mem_close(struct be *be)
{
	struct mem *m = mem_of(be), **at = &m->fabric->members;

	detach(m);
	while (*at != m)
		at = &(*at)->next;
	*at = m->next;
	mem_free(m);
}

/* clang-format off */
#define MEM_CAPS .in_process = true, .frame_max = MEM_FRAME_MAX, .put_max = MEM_PUT_MAX, .align = 64, \
	.streams_max = MEM_STREAMS_MAX
#define MEM_HOOKS .probe = mem_probe, .close = mem_close, .listen = mem_listen, .connect = mem_connect, \
	.accept = mem_accept, .reject = mem_reject, .stream_close = mem_stream_close, .region_add = mem_region_add, \
	.region_drop = mem_region_drop, .send = mem_send, .put = mem_put, .poll = mem_poll, .release = mem_release, \
	.wait = mem_wait, .wake = mem_wake, .info = mem_info, .steer = mem_steer
/* clang-format on */

const struct be_ops mem_ops = {
	.name = "mem",
	.help = "within one process, with injected faults (tests and simulation)",
	.caps = { MEM_CAPS, .sees_puts = true },
	.open = mem_open,
	MEM_HOOKS,
};

const struct be_ops mem_one_sided_ops = {
	.name = "mem1",
	.help = "mem with puts that the receiver does not see, as in RDMA (tests)",
	.caps = { MEM_CAPS, .one_sided = true },
	.open = mem_one_sided_open,
	MEM_HOOKS,
};

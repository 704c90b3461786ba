/* SPDX-License-Identifier: MIT */
#include "transport/mem_net.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct mem *mem_listener_at(const struct mem_fabric *f, uint16_t port)
{
	for (struct mem *m = f->members; m; m = m->next)
		if (m->listening && mem_port(&m->at) == port)
			return m;
	return NULL;
}

/* --- streams: handles, cutting, ending --- */

be_stream mem_handle(const struct mem_stream *s)
{
	return (be_stream)(s - s->mem->streams) | s->gen << MEM_SLOT_BITS;
}

int mem_stream_find(struct mem *m, be_stream h, struct mem_stream **out)
{
	uint32_t slot = h & (MEM_STREAMS_MAX - 1), gen = h >> MEM_SLOT_BITS;

	if (!gen || slot >= m->o.streams)
		return -EINVAL;
	if (m->streams[slot].gen != gen || m->streams[slot].state == FREE)
		return -ENOTCONN;
	*out = &m->streams[slot];
	return 0;
}

static void late_pop(struct mem_stream *s)
{
	struct mem_late *l = s->late;

	s->late = l->next;
	free(l);
}

void mem_set_state(struct mem_stream *s, enum mem_state to)
{
	struct mem_fabric *f = s->mem->fabric;

	while (s->late && to != UP && to != CLOSING)
		late_pop(s);
	if (to == FREE && s->holds) {
		s->holds->used = --s->holds->busy > 0;
		s->holds = NULL;
	}
	f->connecting += to == CONNECTING;
	f->connecting -= s->state == CONNECTING;
	s->state = to;
}

/* Slots are taken in turn, so that a generation comes back as late as possible. */
struct mem_stream *mem_stream_take(struct mem *m, enum mem_state state, uint32_t domain, uint64_t cookie)
{
	for (uint32_t i = 0; i < m->o.streams; i++) {
		uint32_t slot = (m->next_slot + i) % m->o.streams;
		struct mem_stream *s = &m->streams[slot];
		uint32_t gen = (s->gen + 1) & (UINT32_MAX >> MEM_SLOT_BITS);

		if (s->state != FREE)
			continue;
		m->next_slot = slot + 1;
		s->peer = NULL;
		s->request = NULL;
		s->gen = gen ? gen : 1;
		s->domain = domain;
		s->cookie = cookie;
		s->err = 0;
		s->cut = s->is_acceptor = s->accepted = s->refused = s->lost = s->has_reply = s->tell = false;
		s->done = s->delivered = s->tail = s->lost_ok = 0;
		s->last_due_ns = s->sent = s->received = 0;
		s->congestion[0] = 0;
		mem_set_state(s, state);
		return s;
	}
	return NULL;
}

/* Takes over what the peer's end has sent and this end not seen, up to the first message. It arrives until `end`. */
static void late_keep(struct mem_stream *s, uint64_t end)
{
	struct mem_fabric *f = s->mem->fabric;
	uint64_t at_ns = now_of(s->mem);
	const struct mem_stream *from = s->peer;
	struct mem_late **at = &s->late;

	if (!from || s->late || (s->state != UP && s->state != CLOSING) || !chance(f, f->faults.late_ppm))
		return;
	for (uint64_t i = from->delivered; i != from->tail && op_at(from, i)->is_put; i++) {
		const struct mem_op *op = op_at(from, i);
		struct mem_late *l = op->len > MEM_PUT_MAX ? NULL : malloc(sizeof *l + op->len);

		if (!l)
			return;
		l->next = NULL;
		l->op = *op;
		l->op.placed = 0;
		at_ns += pick(f, end > at_ns ? end - at_ns : 0);
		l->op.due_ns = max_u64(op->due_ns, at_ns);
		memcpy(l->bytes, op->body, op->len);
		*at = l;
		at = &l->next;
	}
}

void mem_cut(struct mem_stream *s, int err, uint64_t at)
{
	if (s->cut)
		return;
	late_keep(s, at);
	s->cut = true;
	s->peer = NULL;
	s->err = err;
	s->cut_ns = at;
	s->lost_ok = pick(s->mem->fabric, s->tail - s->delivered);
}

void mem_sever(struct mem_stream *s, int err, int peer_err)
{
	uint64_t now = now_of(s->mem);

	if (s->peer)
		mem_cut(s->peer, peer_err, now + path_delay(s));
	mem_cut(s, err, now);
}

void mem_abort_stream(struct mem_stream *s, int err, int peer_err)
{
	if (s->request)
		s->request->from = NULL;
	s->request = NULL;
	mem_sever(s, err, peer_err);
	s->err = err;
	s->lost_ok = 0;
	mem_set_state(s, DYING);
}

/* --- delivery --- */

struct mem_region *mem_region_find(const struct mem *m, uint32_t domain, uint32_t id)
{
	for (uint32_t i = 0; i < m->o.regions; i++) {
		struct mem_region *r = &m->regions[i];

		if (r->used && r->domain == domain && r->id == id)
			return r;
	}
	return NULL;
}

/* Where a put may go: NULL unless domain, number, key and every byte of the range are right. */
static uint8_t *put_target(const struct mem_stream *to, const struct mem_op *op)
{
	const struct mem_region *r = mem_region_find(to->mem, to->domain, op->token.id);

	if (!r || r->dropping || r->key != op->token.key)
		return NULL;
	if (!op->len || op->len > MEM_PUT_MAX || op->offset > r->len || op->len > r->len - op->offset)
		return NULL;
	return r->addr + op->offset;
}

static void flip_bit(struct mem_fabric *f, uint8_t *p, uint64_t len)
{
	uint64_t bit = pick(f, len * 8 - 1);

	p[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

static void protocol_error(struct mem_stream *s)
{
	metric_add(&s->mem->be.counters.protocol_errors, 1);
	mem_sever(s, -EPROTO, -ECONNRESET);
}

static void op_delivered(struct mem_stream *from, struct mem_op *op)
{
	struct mem_fabric *f = from->mem->fabric;
	struct mem_stream *to = from->peer;
	uint64_t bytes = op->head_len + op->len;

	op->done_ns = now_of(from->mem) + f->faults.done_delay_ns + pick(f, f->faults.done_jitter_ns);
	from->delivered++;
	from->sent += bytes;
	to->received += bytes;
	metric_add(&from->mem->be.counters.tx_bytes, bytes);
	metric_add(&to->mem->be.counters.rx_bytes, bytes);
	metric_add(&to->mem->be.counters.rx_copied_bytes, bytes);
}

/* True when the put is placed whole. */
static bool place(struct mem_stream *to, struct mem_op *op)
{
	struct mem_fabric *f = to->mem->fabric;
	uint8_t *dst = put_target(to, op);

	if (!dst) {
		protocol_error(to);
		return false;
	}
	if (op->torn && !op->placed && op->len > 1) {
		op->placed = 1 + pick(f, op->len - 2);
		memcpy(dst, op->body, op->placed);
		op->due_ns = now_of(to->mem) + 1 + path_delay(to->peer);
		return false;
	}
	memcpy(dst + op->placed, op->body + op->placed, op->len - op->placed);
	if (op->corrupt)
		flip_bit(f, dst, op->len);
	metric_add(&to->mem->be.counters.placed, 1);
	op_delivered(to->peer, op);
	return true;
}

static int deliver_message(struct mem_stream *to, struct mem_op *op, struct be_event *ev)
{
	struct mem *m = to->mem;
	struct mem_stream *from = to->peer;
	uint32_t len = op->head_len + (uint32_t)op->len, frame;
	uint8_t *p;

	if (len > m->o.frame_bytes) {
		protocol_error(to);
		return 0;
	}
	if (!m->n_free_frames) {
		if (!op->waited)
			metric_add(&m->be.counters.frame_waits, 1);
		op->waited = true;
		return 0;
	}
	frame = m->free_frames[--m->n_free_frames];
	m->frame_held[frame] = true;
	p = m->frames + (size_t)frame * m->o.frame_bytes;
	memcpy(p, from->heads[from->delivered % from->mem->o.sends], op->head_len);
	if (op->len)
		memcpy(p + op->head_len, op->body, op->len);
	if (op->corrupt && op->len)
		flip_bit(m->fabric, p + op->head_len, op->len);
	metric_add(&m->be.counters.frames_received, 1);
	op_delivered(from, op);
	*ev = (struct be_event){
		.type = BE_MESSAGE, .stream = mem_handle(to), .cookie = to->cookie, .data = p, .len = len, .frame = frame
	};
	return 1;
}

/* The stream breaks with a put half placed. */
static void break_stream(struct mem_stream *s)
{
	struct mem_fabric *f = s->mem->fabric;
	struct mem_stream *ends[2] = { s, s->peer };
	uint64_t now = now_of(s->mem);

	for (int i = 0; i < 2 && s->peer; i++) {
		const struct mem_stream *from = ends[i]->peer;
		const struct mem_op *op = op_at(from, from->delivered);
		uint8_t *dst = from->delivered != from->tail && op->is_put ? put_target(ends[i], op) : NULL;

		if (dst)
			memcpy(dst, op->body, pick(f, op->len - 1));
	}
	for (int i = 0; i < 2; i++)
		if (ends[i])
			mem_cut(ends[i], -ECONNRESET, now + pick(f, f->faults.notice_jitter_ns));
}

/* The next operation that is due at `to`, or NULL. */
static struct mem_op *op_due(const struct mem_stream *to)
{
	const struct mem_stream *from = to->peer;
	struct mem_op *op;

	if (!from || from->delivered == from->tail || to->cut || (to->state != UP && to->state != CLOSING))
		return NULL;
	op = op_at(from, from->delivered);
	return op->due_ns <= now_of(to->mem) && !to->mem->fabric->partitioned ? op : NULL;
}

static int deliver(struct mem_stream *to, struct be_event *ev, bool *moved)
{
	struct mem_op *op = op_due(to);

	if (!op)
		return 0;
	if (op->drop) {
		break_stream(to);
		*moved = true;
		return 0;
	}
	if (!op->is_put)
		return deliver_message(to, op, ev);
	if (!place(to, op)) {
		*moved = to->cut;
		return 0;
	}
	*moved = true;
	if (!to->mem->be.ops->caps.sees_puts)
		return 0;
	*ev = (struct be_event){ .type = BE_PLACED,
				 .stream = mem_handle(to),
				 .cookie = to->cookie,
				 .region = op->token.id,
				 .offset = op->offset,
				 .len = (uint32_t)op->len };
	return 1;
}

static bool late_due(const struct mem_stream *to)
{
	const struct mem_fabric *f = to->mem->fabric;

	return to->late && !f->partitioned && to->late->op.due_ns <= clock_now(&f->clock);
}

static int deliver_late(struct mem_stream *to, struct be_event *ev, bool *moved)
{
	struct mem_op op = to->late->op;
	uint8_t *dst = put_target(to, &op);

	if (dst)
		memcpy(dst, to->late->bytes, op.len);
	late_pop(to);
	*moved = true;
	if (!dst || !to->mem->be.ops->caps.sees_puts)
		return 0;
	*ev = (struct be_event){ .type = BE_PLACED,
				 .stream = mem_handle(to),
				 .cookie = to->cookie,
				 .region = op.token.id,
				 .offset = op.offset,
				 .len = (uint32_t)op.len };
	return 1;
}

/* --- poll --- */

static int step_connecting(struct mem_stream *s, struct be_event *ev, bool *moved)
{
	struct mem_fabric *f = s->mem->fabric;
	uint64_t now = now_of(s->mem);

	if (s->accepted && now >= s->due_ns && !f->partitioned) {
		mem_set_state(s, UP);
		metric_add(&s->mem->be.counters.streams_opened, 1);
		*ev = (struct be_event){ .type = BE_CONNECTED,
					 .stream = mem_handle(s),
					 .cookie = s->cookie,
					 .data = s->reply[s->gen & 1],
					 .len = BE_PREAMBLE };
		return 1;
	}
	if (s->cut && now >= s->cut_ns) {
		mem_set_state(s, DYING);
		*moved = true;
		return 0;
	}
	if (now >= s->deadline_ns) {
		mem_abort_stream(s, -ETIMEDOUT, -ECONNRESET);
		*moved = true;
		return 0;
	}
	if (s->cut || s->accepted || s->request || s->lost || f->partitioned || now < s->due_ns)
		return 0;
	if (s->refused || !mem_listener_at(f, mem_port(&s->remote))) {
		mem_cut(s, -ECONNREFUSED, now);
		*moved = true;
	}
	return 0;
}

static int step_done(struct mem_stream *s, struct be_event *ev)
{
	const struct mem_op *op = op_at(s, s->done);
	int err = 0;

	if (s->state != DYING && (s->done == s->delivered || op->done_ns > now_of(s->mem)))
		return 0;
	if (s->done == s->delivered) { /* lost */
		s->delivered++;
		if (s->lost_ok)
			s->lost_ok--;
		else
			err = s->err ? s->err : -ECONNRESET;
	}
	s->done++;
	*ev = (struct be_event){ .type = BE_DONE, .stream = mem_handle(s), .cookie = op->cookie, .err = err };
	return 1;
}

static int step_dying(struct mem_stream *s, struct be_event *ev)
{
	if (s->done != s->tail)
		return step_done(s, ev);
	*ev = (struct be_event){ .type = BE_DOWN, .stream = mem_handle(s), .cookie = s->cookie, .err = s->err };
	if (s->has_reply && s->err == -ECONNREFUSED) {
		ev->data = s->reply[s->gen & 1];
		ev->len = BE_PREAMBLE;
	}
	metric_add(&s->mem->be.counters.streams_down, 1);
	mem_set_state(s, FREE);
	return 1;
}

/* One-sided: the sender places, whether the peer polls or not. */
static void push_puts(struct mem_stream *s, bool *moved)
{
	struct mem_op *op;
	bool cut = s->cut;

	while (s->peer && (op = op_due(s->peer)) && op->is_put && !op->drop && place(s->peer, op))
		*moved = true;
	*moved |= s->cut && !cut;
}

/* Nothing is left to wait for before a graceful end; a peer that is closing too gets its share. */
static bool drained(const struct mem_stream *s)
{
	const struct mem_stream *p = s->peer;

	return s->done == s->tail && (!p || p->state != CLOSING || p->delivered == p->tail);
}

int mem_step(struct mem_stream *s, struct be_event *ev, bool *moved)
{
	struct mem_fabric *f = s->mem->fabric;
	uint64_t now = now_of(s->mem);
	int n = 0;

	if (s->state == FREE)
		return 0;
	if (s->state == CONNECTING)
		return step_connecting(s, ev, moved);
	if (s->state == DYING)
		return step_dying(s, ev);
	if (s->tell) {
		s->tell = false;
		*ev = (struct be_event){ .type = BE_CONNECTED, .stream = mem_handle(s), .cookie = s->cookie };
		return 1;
	}
	if (f->partitioned && now >= f->partition_ns + idle_ns(f))
		mem_sever(s, -ETIMEDOUT, -ETIMEDOUT);
	if (s->state == CLOSING && !s->cut && (drained(s) || now >= s->deadline_ns)) {
		mem_abort_stream(s, -ECANCELED, drained(s) ? 0 : -ECONNRESET);
		*moved = true;
		return 0;
	}
	if (s->cut && now >= s->cut_ns) {
		mem_set_state(s, DYING);
		*moved = true;
		return 0;
	}
	if (late_due(s))
		return deliver_late(s, ev, moved);
	if (s->mem->be.ops->caps.one_sided)
		push_puts(s, moved);
	s->turn = !s->turn; /* so that neither direction starves the other */
	for (int i = 0; i < 2 && !n; i++)
		n = s->turn == !i ? deliver(s, ev, moved) : step_done(s, ev);
	return n;
}

/* --- what hooks and faults do to a stream --- */

struct mem_stream *mem_request_end(struct be_request *opaque)
{
	struct mem_request *r = (struct mem_request *)opaque;
	struct mem_stream *from = r->from;

	assert(r->used);
	if (from)
		from->request = NULL;
	r->from = NULL;
	r->used = false;
	return from;
}

void mem_refuse(struct mem_stream *from, const void *reply)
{
	if (!from || from->cut)
		return;
	if (reply)
		memcpy(from->reply[from->gen & 1], reply, BE_PREAMBLE);
	from->has_reply = reply;
	mem_cut(from, -ECONNREFUSED, now_of(from->mem) + path_delay(from));
}

void mem_drop(struct be *be, be_stream h)
{
	struct mem_stream *s;

	if (!mem_stream_find(mem_of(be), h, &s) && (s->state == UP || s->state == CLOSING))
		break_stream(s);
}

int mem_fabric_open(struct mem_fabric **out, const struct mem_faults *faults, uint64_t seed, struct clock clock,
		    struct err *e)
{
	struct mem_fabric *f = calloc(1, sizeof *f);

	if (!f)
		return err_set(e, -ENOMEM, "mem: no memory for a fabric; free some");
	if (faults)
		f->faults = *faults;
	f->clock = clock;
	f->rng = seed;
	f->secret = rng_next(&f->rng);
	*out = f;
	return 0;
}

void mem_fabric_close(struct mem_fabric *f)
{
	assert(!f || !f->members);
	free(f);
}

struct mem_faults *mem_fabric_faults(struct mem_fabric *f)
{
	return &f->faults;
}

void mem_partition(struct mem_fabric *f, bool on)
{
	if (on && !f->partitioned)
		f->partition_ns = clock_now(&f->clock);
	f->partitioned = on;
}

/* What is overdue counts as the next instant: somebody has still to poll for it. */
static void sooner(uint64_t *best, uint64_t now, bool applies, uint64_t t)
{
	t = max_u64(t, now + 1);
	if (applies && t < *best)
		*best = t;
}

static uint64_t stream_next(const struct mem_stream *s, uint64_t now)
{
	const struct mem_fabric *f = s->mem->fabric;
	const struct mem_op *op = op_at(s, s->delivered);
	bool flows = s->state == UP || s->state == CLOSING;
	bool arrives = flows && s->delivered != s->tail && s->peer && s->peer->state != CONNECTING;
	uint64_t best = UINT64_MAX;

	if (s->state == FREE)
		return best;
	sooner(&best, now, s->state == DYING || s->tell, now);
	sooner(&best, now, s->cut, s->cut_ns);
	sooner(&best, now, s->late && !f->partitioned, s->late ? s->late->op.due_ns : 0);
	sooner(&best, now, s->state == CONNECTING || s->state == CLOSING, s->deadline_ns);
	sooner(&best, now, s->state == CONNECTING && !s->cut && !s->lost && !s->request && !f->partitioned, s->due_ns);
	sooner(&best, now, flows && s->done != s->delivered, op_at(s, s->done)->done_ns);
	sooner(&best, now, arrives && !f->partitioned && !op->waited, op->due_ns);
	sooner(&best, now, flows && f->partitioned, f->partition_ns + idle_ns(f));
	return best;
}

uint64_t mem_fabric_next(const struct mem_fabric *f)
{
	uint64_t now = clock_now(&f->clock), best = UINT64_MAX;

	for (const struct mem *m = f->members; m; m = m->next) {
		sooner(&best, now, __atomic_load_n(&m->woken, __ATOMIC_ACQUIRE), now);
		for (uint32_t i = 0; i < m->o.streams; i++)
			best = min_u64(best, stream_next(&m->streams[i], now));
	}
	return best;
}

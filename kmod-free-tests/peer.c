/* SPDX-License-Identifier: MIT */
#include "kmod-free-tests/peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PATIENCE (2 * NS_PER_S)
#define STEP (NS_PER_MS)

static void take(struct peer *p, const struct be_event *ev)
{
	struct peer_conn *c = &p->conn[ev->cookie & 0xff];

	switch (ev->type) {
	case BE_CONNECTED:
	case BE_DOWN:
		if (c->h != ev->stream)
			break;
		c->state = ev->type == BE_CONNECTED ? PEER_UP : PEER_DOWN;
		c->err = ev->err;
		if (ev->data && ev->len <= sizeof c->reply) {
			memcpy(c->reply, ev->data, ev->len);
			c->reply_len = ev->len;
		}
		break;
	case BE_MESSAGE:
		if (ev->len >= 2 && *(const uint8_t *)ev->data == MSG_STREAM_LOST && !((const uint8_t *)ev->data)[1]) {
			c->lost++;
		} else {
			c->messages++;
			c->last_len = ev->len;
			memcpy(c->last, ev->data, ev->len);
		}
		p->sim->ops->release(p->be, ev->frame);
		break;
	case BE_PLACED:
		c->placed++;
		break;
	case BE_DONE:
		free((void *)(uintptr_t)(ev->cookie >> 8));
		break;
	default:
		break;
	}
}

static void poll_peer(struct sim *s)
{
	struct peer *p = s->step_ctx;
	struct be_event ev[16];
	int n;

	while (!p->deaf && (n = s->ops->poll(p->be, ev, ARRAY_LEN(ev))) > 0)
		for (int i = 0; i < n; i++)
			take(p, &ev[i]);
}

struct peer *peer_open(struct sim *s, uint64_t seed)
{
	struct peer *p = calloc(1, sizeof *p);
	struct be_open o = { .clock = clock_manual(&s->now),
			     .streams = 64,
			     .frames = 8,
			     .frame_bytes = WIRE_CTL_MAX,
			     .sends = 32,
			     .regions = 4,
			     .cpu = -1,
			     .seed = seed,
			     .fabric = s->fabric };
	struct err e;

	sim_must(p);
	p->sim = s;
	rng_fill(p->session, sizeof p->session, seed);
	sim_must(s->ops->open(&o, &p->be, &e) == 0);
	s->step = poll_peer;
	s->step_ctx = p;
	return p;
}

void peer_close(struct peer *p)
{
	p->deaf = false;
	for (unsigned i = 0; i < PEER_CONNS; i++)
		if (p->conn[i].state == PEER_UP || p->conn[i].state == PEER_CONNECTING)
			p->sim->ops->stream_close(p->be, p->conn[i].h, false);
	peer_run(p, 10 * NS_PER_MS); /* every DONE gives its memory back */
	p->sim->step = NULL;
	p->sim->ops->close(p->be);
	free(p);
}

void peer_run(struct peer *p, uint64_t ns)
{
	sim_run(p->sim, ns);
}

int peer_connect_as(struct peer *p, unsigned i, const uint8_t pre[BE_PREAMBLE])
{
	struct peer_conn *c = &p->conn[i];
	struct pre_reply r;
	struct err e;
	int rc;

	memset(c, 0, offsetof(struct peer_conn, last));
	c->last_len = 0;
	rc = p->sim->ops->connect(p->be, &p->sim->at, pre, 1, i, &c->h, &e);
	if (rc < 0)
		return rc;
	c->state = PEER_CONNECTING;
	for (uint64_t until = p->sim->now + PATIENCE; c->state == PEER_CONNECTING && p->sim->now < until;)
		peer_run(p, STEP);
	if (c->reply_len == BE_PREAMBLE && wire_get_reply(c->reply, &r) == 0)
		return r.status;
	return c->state == PEER_UP ? 0 : c->state == PEER_DOWN ? c->err : -ETIMEDOUT;
}

int peer_connect(struct peer *p, unsigned i, enum pre_kind kind, uint32_t stream, uint32_t incarnation)
{
	struct preamble pre = {
		.version = WIRE_VERSION, .kind = (uint8_t)kind, .stream = stream, .incarnation = incarnation
	};
	uint8_t out[BE_PREAMBLE];

	memcpy(pre.session, p->session, sizeof pre.session);
	wire_put_preamble(out, &pre);
	return peer_connect_as(p, i, out);
}

/* The bytes are the operation's own until it is DONE: its cookie knows them. */
void peer_raw(struct peer *p, unsigned i, const void *msg, uint32_t len)
{
	uint8_t *own = malloc(len + 1);
	struct be_msg m = { .body = own, .body_len = len, .cookie = (uint64_t)(uintptr_t)own << 8 | i };
	int rc;

	sim_must(own);
	memcpy(own, msg, len);
	while ((rc = p->sim->ops->send(p->be, p->conn[i].h, &m, 1)) == 0)
		peer_run(p, STEP);
	if (rc < 0)
		free(own);
}

void peer_send(struct peer *p, unsigned i, uint16_t type, uint32_t id, const void *fields, uint32_t len)
{
	uint8_t *msg = malloc(WIRE_HEAD + len);
	struct wcur w = wcur_init(msg, WIRE_HEAD + len);

	sim_must(msg);
	wire_put_head(&w, type, id);
	put_bytes(&w, fields, len);
	wire_seal(msg, WIRE_HEAD + len);
	peer_raw(p, i, msg, WIRE_HEAD + len);
	free(msg);
}

void peer_put(struct peer *p, unsigned i, struct be_token token, uint64_t offset, const void *src, uint64_t len)
{
	while (mem_inject_put(p->be, p->conn[i].h, token, offset, src, len, i) == 0)
		peer_run(p, STEP);
}

static int answer_of(struct peer *p, struct rcur *in, uint32_t id)
{
	struct peer_conn *c = &p->conn[PEER_CTL];
	char text[WIRE_TEXT];
	struct msg_head h;
	struct rcur r;
	int status;

	if (wire_open(c->last, c->last_len, &r, &h) < 0 || !(h.type & WIRE_REPLY) || h.id != id)
		return 1;
	status = (int)get_u32(&r);
	get_str(&r, text, sizeof text);
	sim_must(!r.bad);
	if (in)
		*in = r;
	return status;
}

int peer_call(struct peer *p, uint16_t type, const void *fields, uint32_t len, struct rcur *in)
{
	struct peer_conn *c = &p->conn[PEER_CTL];
	uint64_t until = p->sim->now + 5 * PATIENCE;
	int rc = 1;

	c->last_len = 0;
	peer_send(p, PEER_CTL, type, ++p->next_id, fields, len);
	while (rc > 0 && c->state == PEER_UP && p->sim->now < until) {
		peer_run(p, STEP);
		rc = answer_of(p, in, p->next_id);
	}
	return rc <= 0 ? rc : c->state == PEER_UP ? -ETIMEDOUT : -ENOTCONN;
}

int peer_call_msg(struct peer *p, uint16_t type, const struct wire_def *def, const void *msg, struct rcur *in)
{
	uint8_t fields[512];
	struct wcur w = wcur_init(fields, sizeof fields);

	wire_put(&w, def, msg);
	return peer_call(p, type, fields, (uint32_t)(w.p - fields), in);
}

const char *peer_text(struct peer *p)
{
	static char text[WIRE_TEXT];
	struct msg_head h;
	struct rcur r;

	text[0] = 0;
	if (wire_open(p->conn[PEER_CTL].last, p->conn[PEER_CTL].last_len, &r, &h) == 0) {
		if (h.type != MSG_GOODBYE)
			get_u32(&r);
		get_str(&r, text, sizeof text);
	}
	return text;
}

void peer_hello(struct peer *p, uint32_t streams, uint32_t chunk)
{
	struct msg_hello h = { .streams = streams, .workers = 2, .chunk = chunk, .sum = SUM_XXH3, .timeout_ms = 5000 };

	sim_must(peer_connect(p, PEER_CTL, PRE_CONTROL, 0, 0) == PRE_OK);
	sim_must(peer_call_msg(p, MSG_HELLO, &wire_hello, &h, NULL) == 0);
}

void peer_join(struct peer *p, uint32_t streams, uint32_t chunk)
{
	peer_hello(p, streams, chunk);
	for (uint32_t i = 0; i < streams; i++)
		sim_must(peer_connect(p, 1 + i, PRE_DATA, i, 1) == PRE_OK);
}

bool peer_ended(struct peer *p, unsigned i)
{
	for (uint64_t until = p->sim->now + PATIENCE; p->conn[i].state != PEER_DOWN && p->sim->now < until;)
		peer_run(p, STEP);
	return p->conn[i].state == PEER_DOWN;
}

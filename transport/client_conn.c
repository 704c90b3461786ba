/* SPDX-License-Identifier: MIT */
/*
 * What keeps a client's session alive: the control stream and its requests,
 * streams that go down and come back, resuming after the control stream was lost.
 */
#include "transport/client_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define RETRY_FIRST (10 * NS_PER_MS)
#define RETRY_MOST (1000 * NS_PER_MS)
#define ADDRESS_FIRST (2 * NS_PER_S) /* for each address but the last, before the others are tried */
#define LOSSES_MOST 16               /* without an answer in between: no progress */
#define CTL_COOKIE 0xc0ull
#define CALL_COOKIE 0xc1ull
#define FENCE_COOKIE 0xf0ull

uint64_t conn_now(const struct client *c)
{
	return clock_now(&c->cfg.clock);
}

bool conn_interrupted(const struct client *c)
{
	return c->cfg.interrupted && __atomic_load_n(c->cfg.interrupted, __ATOMIC_RELAXED) && !c->closing;
}

/* ---- control stream ---------------------------------------------------------------------------- */

static int ctl_connect(struct client *c, const struct be_addr *to, enum pre_kind kind, struct err *e)
{
	uint8_t pre[BE_PREAMBLE];
	struct preamble p = { .version = WIRE_VERSION, .kind = (uint8_t)kind };
	int rc;

	memcpy(p.session, c->session, sizeof p.session);
	wire_put_preamble(pre, &p);
	c->ctl_err = 0;
	c->ctl_reply_len = 0;
	c->ctl_strange = false;
	c->peer = *to;
	rc = c->cfg.ops->connect(c->ctl, to, pre, 0, CTL_COOKIE, &c->ctl_stream, e);
	c->ctl_state = rc < 0 ? CTL_LOST : CTL_CONNECTING;
	return rc;
}

static void fence_answered(struct client *c, uint32_t id)
{
	for (uint32_t i = 0; i < c->cfg.streams; i++) {
		struct cstream *s = &c->streams[i];
		uint64_t wait = RETRY_FIRST << (s->fails < 7 ? s->fails : 7);

		if (s->state != CS_LOST || !s->fence_sent || s->fence_id != id)
			continue;
		amst_reclaim(c->amst, i);
		s->state = i < c->wanted ? CS_WAITING : CS_IDLE;
		s->known &= i < c->wanted;
		s->retry_at = conn_now(c) + (s->fails ? min_u64(wait, RETRY_MOST) : 0);
		return;
	}
}

static void stream_lost_there(struct client *c, struct rcur *in)
{
	struct msg_stream_down m;

	wire_get(in, &wire_stream_down, &m);
	if (in->bad || m.stream >= c->cfg.streams || !c->streams)
		return;
	if (c->streams[m.stream].incarnation == m.incarnation && c->streams[m.stream].state == CS_UP)
		c->streams[m.stream].closing = amst_stream_close(c->amst, m.stream) == 0;
}

static void take_goodbye(struct client *c, struct rcur *in)
{
	get_str(in, c->goodbye, sizeof c->goodbye);
	if (!c->goodbye[0])
		snprintf(c->goodbye, sizeof c->goodbye, "it did not say why");
	client_clean(c->goodbye);
}

static void ctl_message(struct client *c, const void *data, uint32_t len)
{
	struct rcur in;
	struct msg_head h;

	/* A damaged control message costs the control stream; the session resumes. */
	if (wire_open(data, len, &in, &h) < 0) {
		c->cfg.ops->stream_close(c->ctl, c->ctl_stream, false);
		return;
	}
	if (h.type == MSG_STREAM_LOST)
		stream_lost_there(c, &in);
	else if (h.type == MSG_GOODBYE)
		take_goodbye(c, &in);
	else if (h.type == MSG_PULL_FAILED)
		c->pull_failed = get_u32(&in);
	else if (h.type == (MSG_STREAM_DOWN | WIRE_REPLY) && c->streams)
		fence_answered(c, h.id);
	else if ((h.type & WIRE_REPLY) && c->call.busy && h.id == c->call.id && len <= WIRE_CTL_MAX) {
		c->losses = 0;
		memcpy(c->reply, data, len);
		c->reply_len = len;
		c->call.answered = true;
	}
}

static void resumed(struct client *c)
{
	/* The server has fenced every stream before it accepted; ours are down, too. */
	for (uint32_t i = 0; i < c->cfg.streams; i++) {
		amst_reclaim(c->amst, i);
		c->streams[i].state = i < c->wanted ? CS_WAITING : CS_IDLE;
		c->streams[i].known &= i < c->wanted;
		c->streams[i].retry_at = 0;
	}
	c->call.sent = false;
	c->none_up_since = conn_now(c);
	c->resumes++;
}

static void keep_reply(struct client *c, const struct be_event *ev)
{
	c->ctl_reply_len = ev->data ? (uint32_t)min_u64(ev->len, BE_PREAMBLE) : 0;
	if (c->ctl_reply_len)
		memcpy(c->ctl_reply, ev->data, c->ctl_reply_len);
}

static void ctl_down(struct client *c, const struct be_event *ev)
{
	c->ctl_stream = 0;
	c->ctl_err = ev->err;
	if (!c->ctl_strange)
		keep_reply(c, ev);
	c->ctl_state = CTL_LOST;
	if (!c->agreed || c->closing)
		return;
	if (!c->lost_at) {
		c->lost_at = conn_now(c);
		c->resume_at = c->lost_at;
		if (!c->losses++)
			c->shaky_at = c->lost_at;
		/* A resumed session starts with no stream on either side. */
		for (uint32_t i = 0; i < c->cfg.streams; i++)
			if (c->streams[i].state == CS_UP || c->streams[i].state == CS_CONNECTING)
				amst_stream_close(c->amst, i);
	} else {
		c->resume_at = conn_now(c) + 200 * NS_PER_MS;
	}
}

static bool accepts_us(const struct client *c, const struct be_event *ev)
{
	struct pre_reply r;

	return ev->len == BE_PREAMBLE && wire_get_reply(ev->data, &r) == 0 && r.version == WIRE_VERSION &&
	       r.status == PRE_OK && !memcmp(r.session, c->session, sizeof r.session);
}

static void ctl_connected(struct client *c, const struct be_event *ev)
{
	if (!accepts_us(c, ev)) {
		keep_reply(c, ev);
		c->ctl_strange = true;
		c->cfg.ops->stream_close(c->ctl, c->ctl_stream, false);
		return;
	}
	c->ctl_state = CTL_UP;
	if (c->agreed && c->lost_at) {
		c->lost_at = 0;
		resumed(c);
	}
}

static void ctl_event(struct client *c, const struct be_event *ev)
{
	if (ev->type == BE_DONE && ev->cookie == CALL_COOKIE)
		c->call.flying--;
	/* An address that was given up has nothing to say any more. */
	if (ev->stream != c->ctl_stream) {
		if (ev->type == BE_MESSAGE)
			c->cfg.ops->release(c->ctl, ev->frame);
		return;
	}
	switch (ev->type) {
	case BE_CONNECTED:
		ctl_connected(c, ev);
		break;
	case BE_MESSAGE:
		ctl_message(c, ev->data, ev->len);
		c->cfg.ops->release(c->ctl, ev->frame);
		break;
	case BE_DOWN:
		ctl_down(c, ev);
		break;
	default:
		break;
	}
}

/* ---- data streams ------------------------------------------------------------------------------ */

static void stream_connect(struct client *c, uint32_t i)
{
	struct cstream *s = &c->streams[i];
	uint8_t pre[BE_PREAMBLE];
	struct preamble p = {
		.version = WIRE_VERSION, .kind = PRE_DATA, .stream = i, .incarnation = s->incarnation + 1
	};

	memcpy(p.session, c->session, sizeof p.session);
	wire_put_preamble(pre, &p);
	if (amst_connect(c->amst, i, p.incarnation, &c->peer, pre) < 0)
		return;
	s->incarnation = p.incarnation;
	s->state = CS_CONNECTING;
	c->open_streams++;
}

static void stream_up(struct client *c, struct cstream *s)
{
	if (s->state != CS_CONNECTING)
		return;
	s->state = CS_UP;
	s->fails = 0;
	c->up++;
	c->none_up_since = 0;
	c->reconnects += s->known;
	s->known = true;
}

static void stream_down(struct client *c, struct cstream *s, const struct amst_event *ev)
{
	if (s->state == CS_UP)
		c->up--;
	else
		s->fails++;
	if (!c->up && !c->none_up_since)
		c->none_up_since = conn_now(c);
	s->state = CS_LOST;
	s->fence_sent = false;
	s->closing = false;
	s->known &= !s->retiring; /* that it ended was our wish */
	s->retiring = false;
	c->open_streams--;
	c->stream_err = ev->err;
	c->stream_refused = ev->has_reply && ev->reply_len == BE_PREAMBLE;
	memcpy(c->stream_reply, ev->reply, sizeof c->stream_reply);
}

unsigned conn_unfenced(const struct client *c)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < c->cfg.streams; i++)
		n += c->streams[i].state == CS_LOST || c->streams[i].closing;
	return n;
}

void conn_amst_event(struct client *c, const struct amst_event *ev)
{
	switch (ev->type) {
	case AMST_STREAM_UP:
		stream_up(c, &c->streams[ev->stream]);
		break;
	case AMST_STREAM_DOWN:
		stream_down(c, &c->streams[ev->stream], ev);
		break;
	case AMST_REGION_ADDED:
		c->region_added = true;
		c->region_err = ev->err;
		c->region_token = ev->token;
		break;
	case AMST_TX_DONE:
		c->tx_done = true;
		break;
	case AMST_TX_ENDED:
		c->tx_ended = true;
		break;
	case AMST_RX_READY:
		c->rx_ready = true;
		break;
	case AMST_RX_ENDED:
		c->rx_ended = true;
		break;
	case AMST_SAMPLED:
		c->sampled = true;
		pilot_sampled(c);
		break;
	default:
		break;
	}
}

void conn_retire(struct client *c, unsigned first)
{
	for (uint32_t i = first; i < c->cfg.streams; i++) {
		struct cstream *s = &c->streams[i];

		if ((s->state == CS_UP || s->state == CS_CONNECTING) && !s->retiring && !s->closing)
			s->retiring = amst_retire(c->amst, i) == 0;
	}
}

/* ---- the turn ---------------------------------------------------------------------------------- */

bool conn_events(struct client *c)
{
	struct be_event ev[16];
	struct amst_event aev;
	bool any = false;
	int n = c->cfg.ops->poll(c->ctl, ev, ARRAY_LEN(ev));

	for (int i = 0; i < n; i++)
		if (ev[i].type != BE_WOKEN)
			ctl_event(c, &ev[i]);
	any = n > 0;
	if (c->amst && c->cfg.manual)
		any |= amst_step(c->amst);
	while (c->amst && amst_poll(c->amst, &aev)) {
		conn_amst_event(c, &aev);
		any = true;
	}
	return any;
}

static bool send_fence(struct client *c, uint32_t stream)
{
	struct cstream *s = &c->streams[stream];
	struct msg_stream_down m = { stream, s->incarnation };
	uint8_t head[64];
	struct wcur out = wcur_init(head, sizeof head);

	s->fence_id = ++c->next_id;
	wire_put_head(&out, MSG_STREAM_DOWN, s->fence_id);
	wire_put(&out, &wire_stream_down, &m);
	wire_seal(head, (uint32_t)(out.p - head));
	return c->cfg.ops->send(
		       c->ctl, c->ctl_stream,
		       &(struct be_msg){ .head = head, .head_len = (uint32_t)(out.p - head), .cookie = FENCE_COOKIE },
		       1) == 1;
}

static void send_fences(struct client *c)
{
	for (uint32_t i = 0; i < c->cfg.streams; i++) {
		struct cstream *s = &c->streams[i];

		if (s->state == CS_LOST && !s->fence_sent && !(s->fence_sent = send_fence(c, i)))
			return;
	}
}

/* Sends what is due on the control stream. */
void conn_flush(struct client *c)
{
	if (c->ctl_state != CTL_UP)
		return;
	if (c->call.busy && !c->call.sent && !c->call.flying) {
		struct be_msg m = { .body = c->call.out, .body_len = c->call.len, .cookie = CALL_COOKIE };

		c->call.sent = c->cfg.ops->send(c->ctl, c->ctl_stream, &m, 1) == 1;
		c->call.flying += c->call.sent;
	}
	if (c->agreed && !c->closing)
		send_fences(c);
}

void conn_upkeep(struct client *c)
{
	uint64_t now = conn_now(c);

	if (c->closing || !c->agreed)
		return;
	if (c->ctl_state == CTL_LOST && c->lost_at && !c->open_streams && now >= c->resume_at)
		if (ctl_connect(c, &c->peer, PRE_RESUME, NULL) < 0)
			c->resume_at = now + 200 * NS_PER_MS;
	if (c->ctl_state != CTL_UP)
		return;
	if (c->open_streams > c->wanted)
		conn_retire(c, c->wanted);
	for (uint32_t i = 0; i < c->wanted; i++)
		if (c->streams[i].state == CS_IDLE ||
		    (c->streams[i].state == CS_WAITING && now >= c->streams[i].retry_at))
			stream_connect(c, i);
}

/* Is the session lost for good? */
int conn_check(struct client *c, struct err *e)
{
	uint64_t now = conn_now(c);

	if (conn_interrupted(c))
		return err_set(e, -EINTR, "interrupted");
	if (c->goodbye[0])
		return err_set(e, -ESHUTDOWN, "%s ended the session: %s", c->cfg.target, c->goodbye);
	if (c->ctl_state == CTL_LOST && !c->lost_at)
		return c->ctl_reply_len ? refused_text(c, c->ctl_reply, c->ctl_reply_len, e)
					: connect_text(c, c->ctl_err, e);
	if (c->ctl_state == CTL_LOST && c->ctl_reply_len == BE_PREAMBLE) {
		struct pre_reply r;

		if (wire_get_reply(c->ctl_reply, &r) == 0 && r.status == PRE_NO_SESSION)
			return refused_text(c, c->ctl_reply, c->ctl_reply_len, e);
	}
	if (c->lost_at && now - c->lost_at > c->cfg.timeout_ns)
		return err_set(e, -ETIMEDOUT,
			       "%s was lost and could not be reached again within the time-out (%s): check it, "
			       "then start again, files with --resume",
			       c->cfg.target, strerror(c->ctl_err ? -c->ctl_err : ETIMEDOUT));
	if (c->losses > LOSSES_MOST && now - c->shaky_at > c->cfg.timeout_ns)
		return err_set(e, -ETIMEDOUT,
			       "%s can be reached, but the connection breaks each time before anything is answered: "
			       "something between the hosts damages or cuts it",
			       c->cfg.target);
	if (c->established && !c->up && !c->lost_at && c->none_up_since && now - c->none_up_since > c->cfg.timeout_ns)
		return stream_text(c, e);
	return 0;
}

/* A session id must not be guessed, and no two attempts share one: a server may have taken what was given up here. */
static void session_id(struct client *c, unsigned attempt)
{
	uint64_t state = c->cfg.seed + attempt;

	if (c->cfg.manual) /* a simulation must be repeatable */
		for (size_t i = 0; i < sizeof c->session; i++)
			c->session[i] = (uint8_t)rng_next(&state);
	else if (getrandom(c->session, sizeof c->session, 0) != sizeof c->session)
		abort();
}

static void give_up_address(struct client *c)
{
	c->cfg.ops->stream_close(c->ctl, c->ctl_stream, false);
	for (int k = 0; k < 100 && c->ctl_state == CTL_CONNECTING; k++) {
		conn_events(c);
		c->cfg.ops->wait(c->ctl, NS_PER_MS);
	}
}

static int try_address(struct client *c, const struct be_addr *to, uint64_t patience_ns, struct err *e)
{
	uint64_t deadline = conn_now(c) + patience_ns;
	int rc = ctl_connect(c, to, PRE_CONTROL, e);

	while (rc >= 0 && c->ctl_state == CTL_CONNECTING && conn_now(c) < deadline && !conn_interrupted(c))
		rc = client_turn(c, min_u64(100 * NS_PER_MS, patience_ns), e);
	if (rc < 0 || c->ctl_state == CTL_UP)
		return rc;
	if (c->ctl_state == CTL_CONNECTING)
		give_up_address(c);
	return conn_interrupted(c) ? err_set(e, -EINTR, "interrupted") : connect_text(c, -ETIMEDOUT, e);
}

/*
 * Tries the addresses one after the other. A name often has one that leads nowhere, as an IPv6 address without a route:
 * all but the last get a short time first, so that it costs little, and the whole time-out only when nothing else
 * answers.
 */
int conn_open(struct client *c, struct err *e)
{
	uint64_t brief = min_u64(ADDRESS_FIRST, c->cfg.timeout_ns), slow = 0;
	unsigned attempt = 0;
	int rc = -EHOSTUNREACH;

	for (int k = 0; k < 2 * c->cfg.n_addrs; k++) {
		int i = k % c->cfg.n_addrs;
		bool again = k >= c->cfg.n_addrs, patient = again || i == c->cfg.n_addrs - 1;

		if (again && !(slow >> i & 1))
			continue;
		session_id(c, attempt++);
		rc = try_address(c, &c->cfg.addrs[i], patient ? c->cfg.timeout_ns : brief, e);
		if (rc >= 0 || rc == -EINTR)
			return rc;
		if (!patient && rc == -ETIMEDOUT)
			slow |= 1ull << i;
	}
	return rc;
}

/* Will the same stream be refused again, however often it tries? */
static bool refused_for_good(const struct client *c)
{
	struct pre_reply r;

	return wire_get_reply(c->stream_reply, &r) < 0 || (r.status != PRE_NOT_NOW && r.status != PRE_DUPLICATE);
}

/* Brings every stream up. */
int conn_streams(struct client *c, struct err *e)
{
	uint64_t deadline = conn_now(c) + c->cfg.timeout_ns;

	while (c->up < c->wanted) {
		int rc = client_turn(c, 100 * NS_PER_MS, e);

		if (rc < 0)
			return rc;
		if (c->stream_refused && refused_for_good(c))
			return stream_text(c, e);
		if (conn_now(c) > deadline)
			return err_set(
				e, c->stream_err ? c->stream_err : -ETIMEDOUT,
				"only %u of %u streams to %s came up in time (%s): check file limits (ulimit -n) on both "
				"hosts, or use fewer --streams",
				c->up, c->wanted, c->cfg.target, strerror(c->stream_err ? -c->stream_err : ETIMEDOUT));
	}
	c->established = true;
	return 0;
}

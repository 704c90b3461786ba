/* SPDX-License-Identifier: MIT */
/*
 * What keeps a client's session alive: the control stream and its requests,
 * streams that go down and come back, resuming after the control stream was lost.
 */
#include "transport/client_impl.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define RETRY_FIRST (10 * NS_PER_MS)
#define RETRY_MOST (1000 * NS_PER_MS)
#define LOSSES_MOST 16 /* without an answer in between: no progress */
#define CTL_COOKIE 0xc0ull
#define CALL_COOKIE 0xc1ull
#define FENCE_COOKIE 0xf0ull

uint64_t conn_now(const struct client *c)
{
	return clock_now(&c->cfg.clock);
}

bool conn_interrupted(const struct client *c)
{
	return c->cfg.interrupted && *c->cfg.interrupted && !c->closing;
}

/* ---- errors for people ------------------------------------------------------------------------- */

/* The first bytes of a stranger, made printable. */
static void printable(char *out, size_t cap, const uint8_t *in, size_t n)
{
	size_t k = 0;

	for (size_t i = 0; i < n && k + 1 < cap && in[i] != '\r' && in[i] != '\n'; i++)
		out[k++] = isprint(in[i]) ? (char)in[i] : '.';
	out[k] = 0;
}

/* Bytes of the character at p that a terminal only shows; 0: it is a control character, or no UTF-8. */
static size_t shown(const unsigned char *p)
{
	size_t n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

	if (p[0] < 0x80)
		return p[0] >= ' ' && p[0] != 0x7f;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	/* U+0080 to U+009F are controls, too; then longer forms of what is shorter, surrogates, and beyond Unicode */
	if ((p[0] == 0xc2 && p[1] < 0xa0) || (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90))
		return 0;
	return n;
}

char *client_clean(char *text)
{
	for (char *p = text; *p;) {
		size_t n = shown((const unsigned char *)p);

		if (!n)
			*p = '?';
		p += n ? n : 1;
	}
	return text;
}

static int refused_text(const struct client *c, const uint8_t *reply, uint32_t len, struct err *e)
{
	struct pre_reply r;
	char first[40];

	if (len == BE_PREAMBLE && wire_get_reply(reply, &r) == 0) {
		if (r.version != WIRE_VERSION)
			return err_set(e, -EPROTO, "%s speaks protocol version %u, this dwcp speaks %u: %s",
				       c->cfg.target, r.version, WIRE_VERSION,
				       "install the same dwcp release on both hosts");
		if (r.status != PRE_OK)
			return err_set(e, r.status == PRE_NO_SESSION ? -ESTALE : -ECONNREFUSED,
				       "%s refused the connection: %s", c->cfg.target, pre_status_text(r.status));
	}
	printable(first, sizeof first, reply, len);
	return err_set(e, -EPROTO,
		       "%s answers, but not as a dwcp server (it said \"%s\"): check host and port, and that "
		       "`dwcp serve` runs there",
		       c->cfg.target, first);
}

/* What a device may pin is bounded by a limit that does not say its name. */
const char *memory_remedy(int err)
{
	return err == -ENOMEM
		       ? "; RDMA locks memory: raise the limit (`ulimit -l unlimited`, LimitMEMLOCK= of a service), use "
			 "fewer --streams, or --backend=tcp"
		       : "";
}

static int connect_text(const struct client *c, int err, struct err *e)
{
	switch (-err) {
	case ECONNREFUSED:
		return err_set(e, err,
			       "nothing listens on %s: start `dwcp serve --listen ADDR:PORT` there, or check the port",
			       c->cfg.target);
	case EHOSTUNREACH:
	case ENETUNREACH:
		return err_set(e, err, "%s cannot be reached (%s): check the address, the route and the firewall",
			       c->cfg.target, strerror(-err));
	case ETIMEDOUT:
		return err_set(e, err,
			       "%s does not answer in time: check that `dwcp serve` runs there and that no firewall "
			       "drops the port, or raise --timeout",
			       c->cfg.target);
	case EPROTO:
	case EBADMSG:
	case ECONNRESET:
	case EPIPE:
	case 0:
		return err_set(e, err ? err : -ECONNRESET,
			       "%s closed the connection before it answered as a dwcp server: "
			       "check host and port, and its log",
			       c->cfg.target);
	default:
		return err_set(e, err, "the connection to %s failed: %s%s", c->cfg.target, strerror(-err),
			       memory_remedy(err));
	}
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

static int stream_text(const struct client *c, struct err *e)
{
	if (c->stream_refused)
		return refused_text(c, c->stream_reply, BE_PREAMBLE, e);
	return err_set(
		e, c->stream_err ? c->stream_err : -ENOTCONN,
		"no data stream to %s is left (%u wanted): %s; check the link, file limits (ulimit -n) on both hosts, "
		"or use fewer --streams%s",
		c->cfg.target, c->wanted, strerror(c->stream_err ? -c->stream_err : ENOTCONN),
		memory_remedy(c->stream_err));
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

/* Tries the addresses one after the other. */
int conn_open(struct client *c, struct err *e)
{
	int rc = -EHOSTUNREACH;

	for (int i = 0; i < c->cfg.n_addrs; i++) {
		uint64_t deadline = conn_now(c) + c->cfg.timeout_ns;

		rc = ctl_connect(c, &c->cfg.addrs[i], PRE_CONTROL, e);
		if (rc < 0)
			continue;
		while (c->ctl_state == CTL_CONNECTING && conn_now(c) < deadline && !conn_interrupted(c)) {
			rc = client_turn(c, 100 * NS_PER_MS, e);
			if (rc < 0)
				break;
		}
		if (c->ctl_state == CTL_UP)
			return 0;
		if (c->ctl_state == CTL_CONNECTING) {
			c->cfg.ops->stream_close(c->ctl, c->ctl_stream, false);
			for (int k = 0; k < 100 && c->ctl_state == CTL_CONNECTING; k++) {
				conn_events(c);
				c->cfg.ops->wait(c->ctl, NS_PER_MS);
			}
			rc = conn_interrupted(c) ? err_set(e, -EINTR, "interrupted") : connect_text(c, -ETIMEDOUT, e);
		}
		if (rc == -EINTR)
			break;
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

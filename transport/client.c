/* SPDX-License-Identifier: MIT */
/* The calls of client.h: opening, requests, regions, transfers. */
#include "transport/client.h"

#include "base/bitmap.h"
#include "transport/client_impl.h"
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define TICK_NS (50 * NS_PER_MS)
#define PULL_LOOK_NS (200 * NS_PER_US) /* nothing wakes a puller when the last chunk has arrived */
#define BYE_COOKIE 0xb1ull

/* ---- open and close ---------------------------------------------------------------------------- */

static void notify(void *ctx)
{
	struct client *c = ctx;

	c->cfg.ops->wake(c->ctl);
}

static int open_ctl(struct client *c, struct err *e)
{
	struct be_open o = {
		.opts = c->cfg.be_opts,
		.clock = c->cfg.clock,
		.streams = 4,
		.frames = 8,
		.frame_bytes = WIRE_CTL_MAX,
		.sends = 8,
		.regions = 1,
		.cpu = -1,
		.seed = c->cfg.seed,
		.fabric = c->cfg.fabric,
	};

	return c->cfg.ops->open(&o, &c->ctl, e);
}

/* Nobody else's in this process: not another client's, and not a server session's, which count from 1. */
static uint32_t next_domain(void)
{
	static _Atomic uint32_t last;

	return 1u << 31 | atomic_fetch_add(&last, 1);
}

static int open_amst(struct client *c, struct err *e)
{
	struct amst_config a = {
		.ops = c->cfg.ops,
		.be_opts = c->cfg.be_opts,
		.workers = c->cfg.workers,
		.streams = c->cfg.streams,
		.chunk = c->cfg.stage_chunk,
		.encodes = true,
		.sched = c->cfg.sched,
		.domain = next_domain(),
		.cpus = c->cfg.cpus,
		.manual = c->cfg.manual,
		.clock = c->cfg.clock,
		.seed = c->cfg.seed + 1,
		.fabric = c->cfg.fabric,
		.notify = notify,
		.notify_ctx = c,
	};

	return amst_open(&c->amst, &a, e);
}

static int alloc_client(struct client *c, struct err *e)
{
	c->call.out = malloc(WIRE_CTL_MAX);
	c->reply = malloc(WIRE_CTL_MAX);
	c->streams = calloc(c->cfg.streams, sizeof *c->streams);
	if (!c->call.out || !c->reply || !c->streams)
		return err_set(e, -ENOMEM, "no memory for a session of %u streams", c->cfg.streams);
	return 0;
}

static void session_id(struct client *c)
{
	uint64_t state = c->cfg.seed;

	/* A simulation must be repeatable; a session id must not be guessed. */
	if (c->cfg.manual)
		for (size_t i = 0; i < sizeof c->session; i++)
			c->session[i] = (uint8_t)rng_next(&state);
	else if (getrandom(c->session, sizeof c->session, 0) != sizeof c->session)
		abort();
}

static void say_bye(struct client *c)
{
	uint64_t until = conn_now(c) + NS_PER_S;
	uint8_t head[WIRE_HEAD];
	struct wcur w = wcur_init(head, sizeof head);
	bool said = false;

	if (!c->agreed || c->ctl_state != CTL_UP || c->goodbye[0])
		return;
	/* An unanswered request, if there is one, is given up; its bytes may still be on their way. */
	c->call.busy = c->call.sent = true;
	c->call.answered = false;
	c->call.id = ++c->next_id;
	wire_put_head(&w, MSG_BYE, c->call.id);
	wire_seal(head, sizeof head);
	while (!c->call.answered && c->ctl_state == CTL_UP && conn_now(c) < until) {
		if (!said)
			said = c->cfg.ops->send(
				       c->ctl, c->ctl_stream,
				       &(struct be_msg){ .head = head, .head_len = sizeof head, .cookie = BYE_COOKIE },
				       1) == 1;
		if (client_turn(c, 10 * NS_PER_MS, NULL) < 0)
			break;
	}
}

void client_close(struct client *c)
{
	if (!c)
		return;
	c->closing = true;
	if (c->ctl)
		say_bye(c);
	amst_close(c->amst);
	if (c->ctl)
		c->cfg.ops->close(c->ctl);
	free(c->streams);
	free(c->reply);
	free(c->call.out);
	free(c);
}

int client_turn(struct client *c, uint64_t wait_ns, struct err *e)
{
	bool any = conn_events(c);

	conn_upkeep(c);
	conn_flush(c);
	if (!any) {
		if (c->cfg.drive)
			c->cfg.drive(c->cfg.drive_ctx);
		else
			c->cfg.ops->wait(c->ctl, wait_ns);
	}
	return conn_check(c, e);
}

void client_interrupted_by(struct client *c, const volatile sig_atomic_t *flag)
{
	c->cfg.interrupted = flag;
}

const struct msg_hello_reply *client_peer(const struct client *c)
{
	return &c->peer_hello;
}

struct amst *client_amst(struct client *c)
{
	return c->amst;
}

unsigned client_streams_up(const struct client *c)
{
	return c->up;
}

unsigned client_streams_wanted(const struct client *c)
{
	return c->wanted;
}

void client_set_streams(struct client *c, unsigned n)
{
	c->wanted = (unsigned)max_u64(min_u64(n, c->cfg.streams), 1);
	conn_retire(c, c->wanted);
}

void client_renew_streams(struct client *c)
{
	conn_retire(c, 0);
}

int client_steer(struct client *c, const struct be_steer *how)
{
	return amst_steer(c->amst, how);
}

uint32_t client_chunk(const struct client *c, uint32_t usual)
{
	return c->sight.wants.chunk ? c->sight.wants.chunk : usual;
}

uint64_t client_reconnects(const struct client *c)
{
	return c->reconnects;
}

uint64_t client_resumes(const struct client *c)
{
	return c->resumes;
}

/* ---- requests ---------------------------------------------------------------------------------- */

/* Making or hashing gigabytes and writing files out takes its time over there. */
static uint64_t answer_time(const struct client *c, uint16_t type)
{
	switch (type) {
	case MSG_REGION:
	case MSG_DIGEST:
	case MSG_PULL_WAIT:
	case MSG_FILES_OPEN:
	case MSG_FILE_HASH:
	case MSG_FILES_WRITE:
	case MSG_FILES_CLOSE:
		return 10 * c->cfg.timeout_ns;
	default:
		return type >= MSG_SERVICE ? 10 * c->cfg.timeout_ns : c->cfg.timeout_ns;
	}
}

static int parse_reply(struct client *c, uint16_t type, struct rcur *reply, struct err *e)
{
	char text[WIRE_TEXT];
	struct msg_head h;
	int32_t status;

	if (wire_open(c->reply, c->reply_len, reply, &h) < 0)
		reply->bad = true;
	status = (int32_t)get_u32(reply);
	get_str(reply, text, sizeof text);
	if (reply->bad || h.type != (type | WIRE_REPLY) || status > 0 || status < -WIRE_ERRNO_MAX)
		return err_set(e, -EPROTO,
			       "%s sent an answer that this dwcp does not understand: install the same release on "
			       "both hosts",
			       c->cfg.target);
	return status ? err_set(e, status, "%s: %s", c->cfg.target, client_clean(text)) : 0;
}

static int silent_text(const struct client *c, struct err *e)
{
	return err_set(e, -ETIMEDOUT, "%s is connected, but does not answer a request: look at its load and log",
		       c->cfg.target);
}

/* Hands the request to the control stream; its bytes stay in call.out until it is answered. */
static int call_post(struct client *c, uint16_t type, const void *fields, uint32_t len, struct err *e)
{
	struct wcur w = wcur_init(c->call.out, WIRE_CTL_MAX);
	uint64_t started = conn_now(c);
	int rc;

	if (len > WIRE_CTL_MAX - WIRE_HEAD)
		return err_set(e, -EMSGSIZE, "a request of %u bytes is too long", len);
	/* The bytes of a request that was given up are the backend's until DONE. */
	c->call.busy = false;
	while (c->call.flying) {
		rc = client_turn(c, 100 * NS_PER_MS, e);
		if (rc < 0)
			return rc;
		if (conn_now(c) - started > c->cfg.timeout_ns)
			return silent_text(c, e);
	}
	c->call.busy = true;
	c->call.sent = c->call.answered = false;
	c->call.id = ++c->next_id;
	wire_put_head(&w, type, c->call.id);
	put_bytes(&w, fields, len);
	c->call.len = (uint32_t)(w.p - c->call.out);
	wire_seal(c->call.out, c->call.len);
	return 0;
}

static int call_wait(struct client *c, uint16_t type, struct rcur *reply, struct err *e)
{
	uint64_t started = conn_now(c);

	while (!c->call.answered) {
		int rc = client_turn(c, 100 * NS_PER_MS, e);

		if (rc < 0)
			return rc;
		if (c->lost_at)
			started = conn_now(c); /* the resume has its own limit */
		if (!c->call.answered && conn_now(c) - started > answer_time(c, type))
			return silent_text(c, e);
	}
	c->call.busy = false;
	return parse_reply(c, type, reply, e);
}

int client_call(struct client *c, uint16_t type, const void *fields, uint32_t len, struct rcur *reply, struct err *e)
{
	int rc = call_post(c, type, fields, len, e);

	return rc < 0 ? rc : call_wait(c, type, reply, e);
}

static int short_answer(const struct client *c, struct err *e)
{
	return err_set(e, -EPROTO, "%s sent a short answer: install the same dwcp release on both hosts",
		       c->cfg.target);
}

int client_call_msg(struct client *c, uint16_t type, const struct wire_def *req_def, const void *req,
		    const struct wire_def *rep_def, void *rep, struct err *e)
{
	uint8_t fields[512];
	struct wcur w = wcur_init(fields, sizeof fields);
	struct rcur in;
	int rc;

	if (req_def)
		wire_put(&w, req_def, req);
	rc = client_call(c, type, fields, (uint32_t)(w.p - fields), &in, e);
	if (rc < 0 || !rep_def)
		return rc;
	wire_get(&in, rep_def, rep);
	return in.bad ? short_answer(c, e) : 0;
}

/* HELLO, and both ends open their workers at the same time. */
static int open_planes(struct client *c, struct err *e)
{
	struct msg_hello h = {
		.streams = c->cfg.streams,
		.workers = c->cfg.workers,
		.chunk = c->cfg.stage_chunk,
		.sum = (uint8_t)c->cfg.sum,
		.timeout_ms = (uint32_t)min_u64(c->cfg.timeout_ns / NS_PER_MS, UINT32_MAX),
	};
	uint8_t fields[64];
	struct wcur w = wcur_init(fields, sizeof fields);
	struct rcur in;
	int rc;

	wire_put(&w, &wire_hello, &h);
	rc = call_post(c, MSG_HELLO, fields, (uint32_t)(w.p - fields), e);
	if (rc == 0) {
		conn_flush(c);
		conn_events(c);
		rc = open_amst(c, e);
	}
	if (rc == 0)
		rc = call_wait(c, MSG_HELLO, &in, e);
	if (rc < 0)
		return rc;
	wire_get(&in, &wire_hello_reply, &c->peer_hello);
	if (in.bad)
		return short_answer(c, e);
	c->agreed = true;
	return 0;
}

int client_open(struct client **out, const struct client_config *cfg, uint64_t *setup_ns, struct err *e)
{
	struct client *c = calloc(1, sizeof *c);
	uint64_t start;
	int rc;

	if (!c)
		return err_set(e, -ENOMEM, "no memory for a session");
	c->cfg = *cfg;
	c->wanted = cfg->streams_first ? (unsigned)min_u64(cfg->streams_first, cfg->streams) : cfg->streams;
	session_id(c);
	start = conn_now(c);
	rc = alloc_client(c, e);
	if (rc == 0)
		rc = open_ctl(c, e);
	if (rc == 0)
		rc = conn_open(c, e);
	if (rc == 0)
		rc = open_planes(c, e);
	if (rc == 0) {
		pilot_first(c);
		rc = conn_streams(c, e);
	}
	if (rc < 0) {
		client_close(c);
		return rc;
	}
	if (setup_ns)
		*setup_ns = conn_now(c) - start;
	*out = c;
	return 0;
}

int client_region_make(struct client *c, uint32_t id, uint64_t bytes, uint64_t seed, struct be_token *token,
		       enum huge_kind *pages, struct err *e)
{
	struct msg_region m = { .region = id, .bytes = bytes, .seed = seed };
	struct msg_region_reply r;
	int rc = client_call_msg(c, MSG_REGION, &wire_region, &m, &wire_region_reply, &r, e);

	if (rc < 0)
		return rc;
	*token = (struct be_token){ .id = id, .key = r.key };
	if (pages)
		*pages = r.pages <= HUGE_NONE ? (enum huge_kind)r.pages : HUGE_NONE;
	return 0;
}

/* Turns until *flag; bounded by the session's own limits. */
static int wait_flag(struct client *c, const bool *flag, struct err *e)
{
	while (!*flag) {
		int rc = client_turn(c, 100 * NS_PER_MS, e);

		if (rc < 0)
			return rc;
	}
	return 0;
}

int client_region_offer(struct client *c, uint32_t id, void *addr, uint64_t len, struct be_token *token, struct err *e)
{
	int rc;

	c->region_added = false;
	rc = amst_region_add(c->amst, id, addr, len);
	if (rc == 0)
		rc = wait_flag(c, &c->region_added, e);
	if (rc == 0 && c->region_err)
		rc = err_set(e, c->region_err, "cannot register %llu bytes for receiving: %s%s",
			     (unsigned long long)len, strerror(-c->region_err), memory_remedy(c->region_err));
	if (rc == 0)
		*token = c->region_token;
	return rc;
}

int client_digest(struct client *c, uint32_t region, uint64_t offset, uint64_t bytes, struct digest128 *d,
		  struct err *e)
{
	struct msg_digest m = { .region = region, .offset = offset, .bytes = bytes };
	struct msg_digest_reply r;
	int rc = client_call_msg(c, MSG_DIGEST, &wire_digest, &m, &wire_digest_reply, &r, e);

	if (rc == 0)
		*d = (struct digest128){ .lo = r.lo, .hi = r.hi };
	return rc;
}

int client_info(struct client *c, struct msg_info *info, struct err *e)
{
	return client_call_msg(c, MSG_INFO, NULL, NULL, &wire_info, info, e);
}

int client_sample(struct client *c, struct err *e)
{
	uint64_t until = conn_now(c) + NS_PER_S;
	bool asked = false;

	while (!asked || !c->sampled) {
		/* A sample that is under way may have been taken a while ago: it is waited for, then ours is taken. */
		if (!asked) {
			c->sampled = false;
			asked = amst_sample(c->amst) == 0;
		}
		conn_events(c);
		if (conn_now(c) > until)
			return err_set(e, -ETIMEDOUT, "the workers do not answer: look at this machine's load");
		if (c->cfg.manual && c->cfg.drive)
			c->cfg.drive(c->cfg.drive_ctx);
		else if (!c->sampled)
			c->cfg.ops->wait(c->ctl, 10 * NS_PER_MS);
	}
	return 0;
}

int client_path(struct client *c, struct be_info *out)
{
	return c->ctl_state == CTL_UP ? c->cfg.ops->info(c->ctl, c->ctl_stream, out) : -ENOTCONN;
}

/* ---- transfers --------------------------------------------------------------------------------- */

/* A transfer that failed may have left chunks on streams that are down here and not yet there: they must not be placed
 * after those of the next one. */
static int wait_fenced(struct client *c, struct err *e)
{
	uint64_t started = conn_now(c);
	unsigned left = conn_unfenced(c), before = left;
	int rc = 0;

	while (rc == 0 && left) {
		rc = client_turn(c, 100 * NS_PER_MS, e);
		left = conn_unfenced(c);
		if (left < before)
			started = conn_now(c);
		before = left;
		if (rc == 0 && !c->lost_at && conn_now(c) - started > c->cfg.timeout_ns)
			rc = err_set(e, -ETIMEDOUT, "streams to %s keep breaking: check the link", c->cfg.target);
	}
	return rc;
}

/* What a transfer's waiting looks at besides the session: ticks, and whether anything moves. */
struct watch {
	const struct client_tick *tick;
	uint64_t next, last_bytes, moved_at;
};

static struct watch watch_begin(struct client *c, const struct client_tick *tick)
{
	uint64_t now = conn_now(c);

	return (struct watch){ .tick = tick, .next = now + TICK_NS, .moved_at = now };
}

/* After a turn: what has moved by now. 1: the caller wants to stop. */
static int watch_look(struct client *c, struct watch *w, uint64_t bytes, struct err *e)
{
	uint64_t now = conn_now(c);

	if (bytes != w->last_bytes)
		c->losses = 0;
	if (bytes != w->last_bytes || c->lost_at) {
		w->last_bytes = bytes;
		w->moved_at = now;
	}
	if (now - w->moved_at > c->cfg.timeout_ns)
		return err_set(e, -ETIMEDOUT,
			       "nothing moved to or from %s for the whole time-out: check the link and the peer's "
			       "disk and load, or raise --timeout",
			       c->cfg.target);
	if (now < w->next)
		return 0;
	w->next = now + TICK_NS;
	return w->tick && w->tick->fn && w->tick->fn(w->tick->ctx, now, bytes);
}

static int run_tx(struct client *c, struct amst_tx *tx, const struct client_tick *tick, struct err *e)
{
	struct watch w = watch_begin(c, tick);
	int rc = 0;

	c->tx_done = c->tx_ended = false;
	rc = amst_tx_start(c->amst, tx);
	while (rc >= 0 && !c->tx_done) {
		rc = client_turn(c, TICK_NS, e);
		if (rc >= 0) {
			uint64_t bytes = __atomic_load_n(&tx->acked_bytes, __ATOMIC_RELAXED);

			pilot_turn(c, bytes);
			rc = watch_look(c, &w, bytes, e);
		}
		if (rc > 0)
			amst_tx_stop(c->amst, tx);
	}
	if (tick && tick->fn)
		tick->fn(tick->ctx, conn_now(c), __atomic_load_n(&tx->acked_bytes, __ATOMIC_RELAXED));
	return rc < 0 ? rc : 0;
}

/* Workers must let go of the transfer before its memory may be freed, also when the session is lost. */
static void let_go(struct client *c, struct amst_tx *tx)
{
	struct amst_event ev;

	while (!c->tx_ended) {
		amst_tx_end(c->amst, tx);
		if (c->cfg.manual)
			amst_step(c->amst);
		if (c->cfg.manual && c->cfg.drive)
			c->cfg.drive(c->cfg.drive_ctx);
		while (amst_poll(c->amst, &ev))
			conn_amst_event(c, &ev);
		if (!c->tx_ended && !c->cfg.manual)
			c->cfg.ops->wait(c->ctl, 10 * NS_PER_MS);
	}
}

static int end_tx(struct client *c, struct amst_tx *tx, struct msg_xfer_result *result, struct err *e)
{
	struct msg_xfer_end end;
	int rc = amst_tx_end(c->amst, tx);

	if (rc == 0)
		rc = wait_flag(c, &c->tx_ended, e);
	if (rc == 0) {
		end.chunks = tx->acked; /* of a transfer that failed it rises until now */
		rc = client_call_msg(c, MSG_XFER_END, &wire_xfer_end, &end, &wire_xfer_result, result, e);
	}
	if (rc < 0)
		return rc;
	if (!tx->status && (!result->whole || result->placed < tx->acked))
		return err_set(e, -EBADMSG,
			       "%s did not get everything (%llu of %llu chunks): please report this as a bug",
			       c->cfg.target, (unsigned long long)result->placed, (unsigned long long)tx->acked);
	return 0;
}

static int begin_tx(struct client *c, const struct amst_tx *tx, enum xfer_kind kind, struct err *e)
{
	struct msg_xfer_begin begin = {
		.kind = (uint8_t)kind,
		.sum = (uint8_t)tx->sum,
		.chunks = tx->pass_chunks,
		.chunk = tx->chunk,
	};
	uint8_t fields[64 + FILTER_NAME];
	struct wcur w = wcur_init(fields, sizeof fields);
	struct rcur in;

	if (tx->stage && tx->stage->ops->filter)
		snprintf(begin.filter, sizeof begin.filter, "%s", tx->stage->ops->filter);
	put_u32(&w, tx->id);
	wire_put(&w, &wire_xfer_begin, &begin);
	return client_call(c, MSG_XFER_BEGIN, fields, (uint32_t)(w.p - fields), &in, e);
}

static int status_text(const struct client *c, int status, struct err *e)
{
	if (status == -EBADMSG)
		return err_set(e, status,
			       "chunks keep arriving damaged at %s: check memory and network hardware of both hosts",
			       c->cfg.target);
	return err_set(e, status, "the transfer to %s stopped: %s", c->cfg.target, strerror(-status));
}

int client_transfer(struct client *c, struct amst_tx *tx, enum xfer_kind kind, const struct client_tick *tick,
		    struct msg_xfer_result *result, struct err *e)
{
	struct msg_xfer_result r = { 0 };
	int rc;

	rc = wait_fenced(c, e);
	if (rc < 0)
		return rc;
	tx->id = ++c->next_transfer;
	rc = amst_tx_prepare(tx, c->cfg.streams, e);
	if (rc < 0)
		return rc;
	rc = begin_tx(c, tx, kind, e);
	if (rc == 0) {
		pilot_begin(c, tx);
		rc = run_tx(c, tx, tick, e);
		pilot_end(c);
		if (rc == 0)
			rc = end_tx(c, tx, &r, e);
		let_go(c, tx);
	}
	if (rc == 0 && tx->status)
		rc = status_text(c, tx->status, e);
	amst_tx_free(tx);
	if (result)
		*result = r;
	return rc;
}

/* As let_go, for what is received. */
static void rx_let_go(struct client *c, struct amst_rx *rx)
{
	bool asked = false;

	while (!asked || !c->rx_ended) {
		if (!asked)
			asked = amst_rx_end(c->amst, rx) == 0;
		conn_events(c);
		if (c->cfg.manual && c->cfg.drive)
			c->cfg.drive(c->cfg.drive_ctx);
		else if (!c->rx_ended)
			c->cfg.ops->wait(c->ctl, 10 * NS_PER_MS);
	}
}

int client_pull(struct client *c, uint32_t from, uint32_t to, struct be_token to_token, uint64_t to_bytes,
		uint64_t bytes, uint64_t passes, uint32_t chunk, const struct client_tick *tick,
		struct msg_pull_result *result, struct err *e)
{
	struct amst_rx rx = { .id = ++c->next_transfer, .sum = c->cfg.sum };
	struct watch w = watch_begin(c, tick);
	struct amst_counters base, now;
	struct be_counters b;
	struct msg_pull m = { .region = from,
			      .to = to,
			      .to_key = to_token.key,
			      .to_bytes = to_bytes,
			      .bytes = bytes,
			      .passes = passes,
			      .chunk = chunk,
			      .sum = (uint8_t)c->cfg.sum };
	uint8_t fields[128];
	struct wcur out = wcur_init(fields, sizeof fields);
	struct rcur in;
	bool stop = false, done = false;
	uint64_t whole, distinct;
	int rc;

	if (!chunk)
		return err_set(e, -EINVAL, "a transfer needs a chunk size");
	rc = wait_fenced(c, e);
	if (rc == 0)
		rc = amst_rx_prepare(&rx, div_up_u64(bytes, chunk), e);
	if (rc < 0)
		return rc;
	whole = passes < UINT64_MAX / (rx.pass_chunks + 1) ? rx.pass_chunks * passes : UINT64_MAX;
	amst_counters(c->amst, &base, &b);
	c->rx_ready = c->rx_ended = false;
	rc = amst_rx_start(c->amst, &rx);
	if (rc == 0)
		rc = wait_flag(c, &c->rx_ready, e);
	put_u32(&out, rx.id);
	wire_put(&out, &wire_pull, &m);
	if (rc == 0)
		rc = client_call(c, MSG_PULL, fields, (uint32_t)(out.p - fields), &in, e);
	/* Bytes that arrive are the sign of life; the answer to PULL_WAIT says that everything was acknowledged. */
	while (rc == 0 && !done) {
		rc = client_turn(c, PULL_LOOK_NS, e);
		amst_counters(c->amst, &now, &b);
		if (rc >= 0)
			rc = watch_look(c, &w, now.bytes_placed - base.bytes_placed, e);
		stop |= rc > 0;
		if (rc > 0)
			rc = client_call(c, MSG_PULL_STOP, NULL, 0, &in, e);
		done = stop || now.chunks_placed - base.chunks_placed >= whole;
	}
	if (rc == -ETIMEDOUT && !c->lost_at) /* what stopped may be its own doing: it knows */
		client_call(c, MSG_PULL_STOP, NULL, 0, &in, NULL);
	if (rc == 0 || (rc == -ETIMEDOUT && !c->lost_at)) {
		int told = client_call_msg(c, MSG_PULL_WAIT, NULL, NULL, &wire_pull_result, result, rc ? NULL : e);

		if (rc == 0 || (told == 0 && result->status))
			rc = told;
	}
	if (tick && tick->fn) {
		amst_counters(c->amst, &now, &b);
		tick->fn(tick->ctx, conn_now(c), now.bytes_placed - base.bytes_placed);
	}
	rx_let_go(c, &rx);
	if (rc == 0 && (result->status > 0 || result->status < -WIRE_ERRNO_MAX))
		rc = err_set(e, -EPROTO, "%s sent a result that this dwcp does not understand", c->cfg.target);
	if (rc == 0 && result->status)
		rc = err_set(e, result->status, "%s could not send its region: %s", c->cfg.target,
			     strerror(-result->status));
	distinct = bitmap_count(rx.map, rx.pass_chunks);
	if (rc == 0 && (rx.placed < result->chunks || distinct < min_u64(result->chunks, rx.pass_chunks)))
		rc = err_set(e, -EBADMSG, "%llu of %llu chunks from %s arrived whole: please report this as a bug",
			     (unsigned long long)rx.placed, (unsigned long long)result->chunks, c->cfg.target);
	amst_rx_free(&rx);
	return rc;
}

/* SPDX-License-Identifier: MIT */
/* Opening and closing a session, its regions, and what else client.h asks of it. */
#include "transport/client_impl.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BYE_COOKIE 0xb1ull
#define STAY_NS (10 * NS_PER_S)

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

void client_pace(struct client *c, uint64_t bytes_per_s)
{
	amst_pace(c->amst, bytes_per_s);
}

int client_stay(struct client *c, struct err *e)
{
	struct msg_info info;

	if (conn_now(c) - c->stayed_at < STAY_NS)
		return 0;
	c->stayed_at = conn_now(c);
	return client_info(c, &info, e);
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
	rc = client_call_post(c, MSG_HELLO, fields, (uint32_t)(w.p - fields), e);
	if (rc == 0) {
		conn_flush(c);
		conn_events(c);
		rc = open_amst(c, e);
	}
	if (rc == 0)
		rc = client_call_wait(c, MSG_HELLO, &in, e);
	if (rc < 0)
		return rc;
	wire_get(&in, &wire_hello_reply, &c->peer_hello);
	if (in.bad)
		return client_short_answer(c, e);
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

/* ---- regions and counters ---------------------------------------------------------------------- */

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

int client_region_offer(struct client *c, uint32_t id, void *addr, uint64_t len, struct be_token *token, struct err *e)
{
	int rc;

	c->region_added = false;
	rc = amst_region_add(c->amst, id, addr, len);
	if (rc == 0)
		rc = client_wait_flag(c, &c->region_added, e);
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

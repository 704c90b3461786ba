/* SPDX-License-Identifier: MIT */
/* A session's requests: one at a time, asked again after a resume, each with a limit of its own. */
#include "transport/client_impl.h"

#include "base/opt.h"
#include <errno.h>
#include <string.h>

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

/* What a peer was asked to do, for people. */
static const char *asked(uint16_t type)
{
	static const struct {
		uint16_t type;
		const char *what;
	} rows[] = {
		{ MSG_HELLO, "open a session" },
		{ MSG_REGION, "make a region of memory" },
		{ MSG_XFER_BEGIN, "get ready for a transfer" },
		{ MSG_XFER_END, "say what it has received" },
		{ MSG_PULL, "send a region" },
		{ MSG_PULL_WAIT, "finish sending a region" },
		{ MSG_PULL_STOP, "stop sending a region" },
		{ MSG_DIGEST, "check a region's content" },
		{ MSG_INFO, "give its counters" },
		{ MSG_FILES_OPEN, "open files" },
		{ MSG_FILE_HASH, "compare a file with what it has of it" },
		{ MSG_FILES_WRITE, "get files ready to be written to" },
		{ MSG_FILES_CLOSE, "write files out and give them their names" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (rows[i].type == type)
			return rows[i].what;
	return "do what a service of it does";
}

static int silent_text(const struct client *c, uint16_t type, uint64_t waited_ns, struct err *e)
{
	char waited[32];

	return err_set(e, -ETIMEDOUT,
		       "%s is connected, but for %s did not answer when it was asked to %s: look at its load, disk and "
		       "log, or give it longer with --timeout",
		       c->cfg.target, format_time(waited, sizeof waited, waited_ns), asked(type));
}

/* Hands the request to the control stream; its bytes stay in call.out until it is answered. */
int client_call_post(struct client *c, uint16_t type, const void *fields, uint32_t len, struct err *e)
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
			return silent_text(c, type, c->cfg.timeout_ns, e);
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

int client_call_wait(struct client *c, uint16_t type, struct rcur *reply, struct err *e)
{
	uint64_t started = conn_now(c);

	while (!c->call.answered) {
		int rc = client_turn(c, 100 * NS_PER_MS, e);

		if (rc < 0)
			return rc;
		if (c->lost_at)
			started = conn_now(c); /* the resume has its own limit */
		if (!c->call.answered && conn_now(c) - started > answer_time(c, type))
			return silent_text(c, type, answer_time(c, type), e);
	}
	c->call.busy = false;
	return parse_reply(c, type, reply, e);
}

int client_call(struct client *c, uint16_t type, const void *fields, uint32_t len, struct rcur *reply, struct err *e)
{
	int rc = client_call_post(c, type, fields, len, e);

	return rc < 0 ? rc : client_call_wait(c, type, reply, e);
}

int client_short_answer(const struct client *c, struct err *e)
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
	return in.bad ? client_short_answer(c, e) : 0;
}

/* Turns until *flag; bounded by the session's own limits. */
int client_wait_flag(struct client *c, const bool *flag, struct err *e)
{
	while (!*flag) {
		int rc = client_turn(c, 100 * NS_PER_MS, e);

		if (rc < 0)
			return rc;
	}
	return 0;
}

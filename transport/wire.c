/* SPDX-License-Identifier: MIT */
#include "transport/wire.h"

#include <errno.h>
#include <stddef.h>

static const uint8_t magic[4] = { 'D', 'W', 'C', 'P' };

/* The last four bytes of a preamble are the CRC32C of the others. */
#define PRE_SUMMED (BE_PREAMBLE - 4)

static void pre_seal(uint8_t out[BE_PREAMBLE])
{
	struct wcur c = wcur_init(out + PRE_SUMMED, 4);

	put_u32(&c, crc32c(out, PRE_SUMMED));
}

static int pre_open(const uint8_t in[BE_PREAMBLE], struct rcur *c)
{
	struct rcur sum = rcur_init(in + PRE_SUMMED, 4);

	if (memcmp(in, magic, sizeof magic))
		return -EPROTO;
	if (get_u32(&sum) != crc32c(in, PRE_SUMMED))
		return -EBADMSG;
	*c = rcur_init(in + sizeof magic, PRE_SUMMED - sizeof magic);
	return 0;
}

void wire_put_preamble(uint8_t out[BE_PREAMBLE], const struct preamble *p)
{
	struct wcur c = wcur_init(out, PRE_SUMMED);

	memset(out, 0, BE_PREAMBLE);
	put_bytes(&c, magic, sizeof magic);
	put_u8(&c, p->version);
	put_u8(&c, p->kind);
	put_u16(&c, 0);
	put_bytes(&c, p->session, sizeof p->session);
	put_u32(&c, p->stream);
	put_u32(&c, p->incarnation);
	put_bytes(&c, p->auth, sizeof p->auth);
	pre_seal(out);
}

int wire_get_preamble(const uint8_t in[BE_PREAMBLE], struct preamble *p)
{
	struct rcur c;
	int rc = pre_open(in, &c);

	if (rc < 0)
		return rc;
	p->version = get_u8(&c);
	p->kind = get_u8(&c);
	get_u16(&c);
	get_bytes(&c, p->session, sizeof p->session);
	p->stream = get_u32(&c);
	p->incarnation = get_u32(&c);
	get_bytes(&c, p->auth, sizeof p->auth);
	return 0;
}

void wire_put_reply(uint8_t out[BE_PREAMBLE], const struct pre_reply *p)
{
	struct wcur c = wcur_init(out, PRE_SUMMED);

	memset(out, 0, BE_PREAMBLE);
	put_bytes(&c, magic, sizeof magic);
	put_u8(&c, p->version);
	put_u8(&c, p->status);
	put_u16(&c, 0);
	put_bytes(&c, p->session, sizeof p->session);
	pre_seal(out);
}

int wire_get_reply(const uint8_t in[BE_PREAMBLE], struct pre_reply *p)
{
	struct rcur c;
	int rc = pre_open(in, &c);

	if (rc < 0)
		return rc;
	p->version = get_u8(&c);
	p->status = get_u8(&c);
	get_u16(&c);
	get_bytes(&c, p->session, sizeof p->session);
	return 0;
}

const char *pre_status_text(enum pre_status s)
{
	static const char *const text[PRE_STATUSES] = {
		[PRE_OK] = "accepted",
		[PRE_BAD_VERSION] =
			"the server speaks another protocol version: install the same dwcp release on both hosts",
		[PRE_BUSY] = "the server has as many sessions as it allows: try again later, or raise its --sessions",
		[PRE_NO_SESSION] =
			("the server does not know the session (it was restarted, or the session timed out): "
			 "start again, files with --resume"),
		[PRE_DUPLICATE] = "the server already has that connection of the session: try again",
		[PRE_BAD_STREAM] = "the server refused a stream number outside what was agreed",
		[PRE_MALFORMED] =
			"the server could not read the connection request: is something between the hosts changing it?",
		[PRE_STOPPING] = "the server is shutting down: try again when it is back",
		[PRE_NOT_NOW] = "the session is being set up or resumed: try again",
	};

	return (unsigned)s < PRE_STATUSES && text[s] ? text[s]
						     : "the server refused for a reason this release does not know";
}

/* ---- tables ------------------------------------------------------------------------------------ */

#define F(k, t, f)                                                               \
	{                                                                        \
		.kind = k, .offset = offsetof(t, f), .size = sizeof(((t *)0)->f) \
	}
#define DEF(name, ...)                                                    \
	static const struct wire_field name##_fields[] = { __VA_ARGS__ }; \
	const struct wire_def name = { name##_fields, sizeof name##_fields / sizeof name##_fields[0] }

#define T struct msg_commit
DEF(wire_commit_head, F(W_U32, T, seq), F(W_U16, T, n));
#undef T
#define T struct chunk_rec
DEF(wire_chunk_rec, F(W_U64, T, chunk), F(W_U64, T, offset), F(W_U64, T, sum), F(W_U32, T, object), F(W_U32, T, len));
#undef T
#define T struct msg_ack
DEF(wire_ack, F(W_U32, T, seq), F(W_U32, T, status), F(W_U32, T, object), F(W_U64, T, ok));
#undef T
#define T struct msg_hello
DEF(wire_hello, F(W_U32, T, streams), F(W_U32, T, workers), F(W_U32, T, chunk), F(W_U8, T, sum),
    F(W_U32, T, timeout_ms), F(W_U16, T, ext_len));
#undef T
#define T struct msg_hello_reply
DEF(wire_hello_reply, F(W_U32, T, workers), F(W_U32, T, cpus), F(W_U64, T, memory_max), F(W_U8, T, stores),
    F(W_STR, T, host), F(W_STR, T, release), F(W_U16, T, ext_len));
#undef T
#define T struct msg_region
DEF(wire_region, F(W_U32, T, region), F(W_U64, T, bytes), F(W_U64, T, seed));
#undef T
#define T struct msg_region_reply
DEF(wire_region_reply, F(W_U64, T, key), F(W_U8, T, pages));
#undef T
#define T struct msg_xfer_begin
DEF(wire_xfer_begin, F(W_U8, T, kind), F(W_U8, T, sum), F(W_U64, T, chunks), F(W_U32, T, chunk), F(W_STR, T, filter));
#undef T
#define T struct msg_xfer_end
DEF(wire_xfer_end, F(W_U64, T, chunks));
#undef T
#define T struct msg_xfer_result
DEF(wire_xfer_result, F(W_U64, T, placed), F(W_U64, T, distinct), F(W_U64, T, bytes), F(W_U64, T, bad),
    F(W_U8, T, whole));
#undef T
#define T struct msg_pull
DEF(wire_pull, F(W_U32, T, region), F(W_U32, T, to), F(W_U64, T, to_key), F(W_U64, T, to_bytes), F(W_U64, T, bytes),
    F(W_U64, T, passes), F(W_U32, T, chunk), F(W_U8, T, sum));
#undef T
#define T struct msg_pull_result
DEF(wire_pull_result, F(W_U64, T, chunks), F(W_U64, T, bytes), F(W_U64, T, refused), F(W_U32, T, status));
#undef T
#define T struct msg_digest
DEF(wire_digest, F(W_U32, T, region), F(W_U64, T, offset), F(W_U64, T, bytes));
#undef T
#define T struct msg_digest_reply
DEF(wire_digest_reply, F(W_U64, T, lo), F(W_U64, T, hi));
#undef T
#define T struct msg_info
DEF(wire_info, F(W_U64, T, cpu_ns), F(W_U64, T, rss_bytes), F(W_U64, T, region_bytes), F(W_U64, T, tx_zero_copy),
    F(W_U64, T, tx_copied), F(W_U64, T, rx_zero_copy), F(W_U64, T, rx_copied), F(W_U64, T, retransmits),
    F(W_U32, T, sessions));
#undef T
#define T struct store_spec
DEF(wire_file_spec, F(W_STR, T, name), F(W_U8, T, kind), F(W_BOOL, T, resume), F(W_U32, T, mode), F(W_U64, T, size),
    F(W_U64, T, mtime_s), F(W_U32, T, mtime_ns), F(W_U64, T, data_bytes));
#undef T
#define T struct msg_file_status
DEF(wire_file_status, F(W_U32, T, status), F(W_U64, T, have), F(W_STR, T, text));
#undef T
#define T struct msg_file_hash
DEF(wire_file_hash, F(W_U32, T, file), F(W_U64, T, first), F(W_U32, T, n));
#undef T
#define T struct msg_file_close
DEF(wire_file_close, F(W_U8, T, complete), F(W_U64, T, bytes));
#undef T
#define T struct msg_stream_down
DEF(wire_stream_down, F(W_U32, T, stream), F(W_U32, T, incarnation));
#undef T
#define T struct msg_status
DEF(wire_status, F(W_U32, T, status), F(W_STR, T, text));
#undef T
#define T struct msg_goodbye
DEF(wire_goodbye, F(W_STR, T, text));
#undef T
#define T struct msg_pull_failed
DEF(wire_pull_failed, F(W_U32, T, transfer));
#undef T

static void put_field(struct wcur *c, const struct wire_field *f, const uint8_t *at)
{
	switch ((enum wire_kind)f->kind) {
	case W_U8:
	case W_BOOL:
		put_u8(c, *at);
		break;
	case W_U16:
		put_u16(c, *(const uint16_t *)(const void *)at);
		break;
	case W_U32:
		put_u32(c, *(const uint32_t *)(const void *)at);
		break;
	case W_U64:
		put_u64(c, *(const uint64_t *)(const void *)at);
		break;
	case W_STR:
		put_str(c, (const char *)at);
		break;
	}
}

static void get_field(struct rcur *c, const struct wire_field *f, uint8_t *at)
{
	switch ((enum wire_kind)f->kind) {
	case W_U8:
		*at = get_u8(c);
		break;
	case W_BOOL:
		*(bool *)at = get_u8(c) != 0;
		break;
	case W_U16:
		*(uint16_t *)(void *)at = get_u16(c);
		break;
	case W_U32:
		*(uint32_t *)(void *)at = get_u32(c);
		break;
	case W_U64:
		*(uint64_t *)(void *)at = get_u64(c);
		break;
	case W_STR:
		get_str(c, (char *)at, f->size);
		break;
	}
}

void wire_put(struct wcur *c, const struct wire_def *def, const void *msg)
{
	for (uint32_t i = 0; i < def->n; i++)
		put_field(c, &def->fields[i], (const uint8_t *)msg + def->fields[i].offset);
}

void wire_get(struct rcur *c, const struct wire_def *def, void *msg)
{
	for (uint32_t i = 0; i < def->n; i++)
		get_field(c, &def->fields[i], (uint8_t *)msg + def->fields[i].offset);
}

#define CRC_AT 8
#define CHUNK_HEAD (WIRE_HEAD + 32)

void wire_put_head(struct wcur *c, uint16_t type, uint32_t id)
{
	put_u16(c, type);
	put_u16(c, 0);
	put_u32(c, id);
	put_u32(c, 0);
}

void wire_seal(void *msg, uint32_t len)
{
	struct wcur c = wcur_init((uint8_t *)msg + CRC_AT, 4);

	put_u32(&c, crc32c(msg, len));
}

/* The header is summed with its crc field as zero. */
static uint32_t message_crc(const uint8_t *msg, uint32_t len)
{
	static const uint8_t zero[4];
	struct sum_state s;

	sum_begin(&s, SUM_CRC32C);
	sum_add(&s, msg, CRC_AT);
	sum_add(&s, zero, sizeof zero);
	sum_add(&s, msg + WIRE_HEAD, len - WIRE_HEAD);
	return (uint32_t)sum_end(&s);
}

int wire_open(const void *msg, uint32_t len, struct rcur *c, struct msg_head *h)
{
	uint16_t flags;
	uint32_t crc;

	*c = rcur_init(msg, len);
	h->type = get_u16(c);
	flags = get_u16(c);
	h->id = get_u32(c);
	crc = get_u32(c);
	if (c->bad)
		return -EPROTO;
	if (message_crc(msg, h->type == MSG_CHUNK && len > CHUNK_HEAD ? CHUNK_HEAD : len) != crc)
		return -EBADMSG;
	return flags ? -EPROTO : 0;
}

/* ---- data streams ------------------------------------------------------------------------------ */

static uint32_t sealed(const struct wcur *c, void *out)
{
	uint32_t len = (uint32_t)(c->p - (const uint8_t *)out);

	if (c->bad)
		return 0;
	wire_seal(out, len);
	return len;
}

uint32_t wire_put_commit(void *out, size_t cap, uint32_t transfer, const struct msg_commit *m)
{
	struct wcur c = wcur_init(out, cap);

	wire_put_head(&c, MSG_COMMIT, transfer);
	wire_put(&c, &wire_commit_head, m);
	for (uint16_t i = 0; i < m->n; i++)
		wire_put(&c, &wire_chunk_rec, &m->rec[i]);
	return sealed(&c, out);
}

int wire_get_commit(struct rcur *c, struct msg_commit *m)
{
	wire_get(c, &wire_commit_head, m);
	if (c->bad || m->n < 1 || m->n > WIRE_COMMIT_MAX)
		return -EPROTO;
	for (uint16_t i = 0; i < m->n; i++)
		wire_get(c, &wire_chunk_rec, &m->rec[i]);
	return c->bad || rcur_left(c) ? -EPROTO : 0;
}

uint32_t wire_put_ack(void *out, size_t cap, uint32_t transfer, const struct msg_ack *m)
{
	struct wcur c = wcur_init(out, cap);

	wire_put_head(&c, MSG_ACK, transfer);
	wire_put(&c, &wire_ack, m);
	return sealed(&c, out);
}

int wire_get_ack(struct rcur *c, struct msg_ack *m)
{
	wire_get(c, &wire_ack, m);
	return c->bad || rcur_left(c) || m->status > 0 || m->status < -WIRE_ERRNO_MAX ? -EPROTO : 0;
}

uint32_t wire_put_chunk(void *out, size_t cap, uint32_t transfer, const struct chunk_rec *r)
{
	struct wcur c = wcur_init(out, cap);

	wire_put_head(&c, MSG_CHUNK, transfer);
	wire_put(&c, &wire_chunk_rec, r);
	return sealed(&c, out);
}

int wire_get_chunk(struct rcur *c, struct chunk_rec *r)
{
	wire_get(c, &wire_chunk_rec, r);
	return c->bad ? -EPROTO : 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * The messages of docs/WIRE.md: what is written is read, what is cut, damaged or too long is refused.
 *
 * check: valgrind
 */
#include "base/util.h"
#include "transport/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

static const struct wire_def *const defs[] = {
	&wire_commit_head, &wire_chunk_rec,    &wire_ack,        &wire_hello,        &wire_hello_reply,
	&wire_region,      &wire_region_reply, &wire_xfer_begin, &wire_xfer_end,     &wire_xfer_result,
	&wire_pull,        &wire_pull_result,  &wire_digest,     &wire_digest_reply, &wire_info,
	&wire_file_spec,   &wire_file_status,  &wire_file_hash,  &wire_file_close,   &wire_stream_down,
	&wire_pull_failed,
};

static uint8_t damaged(const uint8_t *msg, uint32_t len, uint32_t bit)
{
	uint8_t copy[4096];
	struct msg_head h;
	struct rcur c;

	memcpy(copy, msg, len);
	copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
	return wire_open(copy, len, &c, &h) < 0;
}

static void fill(const struct wire_def *d, uint8_t *msg, uint64_t seed)
{
	for (uint32_t i = 0; i < d->n; i++) {
		const struct wire_field *f = &d->fields[i];

		assert_in_range(f->offset + f->size, 1, 4096);
		rng_fill(msg + f->offset, f->size, seed++);
		if (f->kind == W_BOOL)
			msg[f->offset] &= 1;
		for (uint32_t k = 0; f->kind == W_STR && k < f->size; k++)
			msg[f->offset + k] = k + 1 == f->size ? 0 : msg[f->offset + k] | 1;
	}
}

static void test_every_table_round_trips(void **state)
{
	(void)state;
	for (size_t t = 0; t < ARRAY_LEN(defs); t++) {
		uint8_t in[4096] = { 0 }, out[4096], bytes[4096];
		struct wcur w = wcur_init(bytes, sizeof bytes);
		size_t len;

		fill(defs[t], in, t);
		wire_put(&w, defs[t], in);
		assert_false(w.bad);
		len = (size_t)(w.p - bytes);
		/* Every shorter input is bad, and leaves no byte of the result undefined. */
		for (size_t cut = 0; cut <= len; cut++) {
			struct rcur r = rcur_init(bytes, cut);

			memset(out, 0xee, sizeof out);
			wire_get(&r, defs[t], out);
			assert_int_equal(r.bad, cut < len);
			for (uint32_t i = 0; i < defs[t]->n && cut == len; i++) {
				const struct wire_field *f = &defs[t]->fields[i];

				if (f->kind == W_STR)
					assert_string_equal((char *)out + f->offset, (char *)in + f->offset);
				else
					assert_memory_equal(out + f->offset, in + f->offset, f->size);
			}
		}
		for (size_t cut = 0; cut < len; cut++) {
			struct wcur small = wcur_init(bytes, cut);

			wire_put(&small, defs[t], in);
			assert_true(small.bad);
		}
	}
}

static void test_preamble(void **state)
{
	struct preamble p = { .version = 7, .kind = PRE_DATA, .stream = 0x01020304, .incarnation = 0xa0b0c0d0 }, q;
	struct pre_reply r = { .version = 9, .status = PRE_BUSY }, s;
	uint8_t out[BE_PREAMBLE];

	(void)state;
	rng_fill(p.session, sizeof p.session, 1);
	rng_fill(p.auth, sizeof p.auth, 2);
	wire_put_preamble(out, &p);
	assert_int_equal(wire_get_preamble(out, &q), 0);
	assert_int_equal(q.version, 7);
	assert_int_equal(q.kind, PRE_DATA);
	assert_int_equal(q.stream, p.stream);
	assert_int_equal(q.incarnation, p.incarnation);
	assert_memory_equal(q.session, p.session, sizeof p.session);
	assert_memory_equal(q.auth, p.auth, sizeof p.auth);
	for (uint32_t bit = 0; bit < 8 * BE_PREAMBLE; bit++) {
		out[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(wire_get_preamble(out, &q), bit < 32 ? -EPROTO : -EBADMSG);
		out[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	rng_fill(r.session, sizeof r.session, 3);
	wire_put_reply(out, &r);
	assert_int_equal(wire_get_reply(out, &s), 0);
	assert_int_equal(s.version, 9);
	assert_int_equal(s.status, PRE_BUSY);
	assert_memory_equal(s.session, r.session, sizeof r.session);
	for (uint32_t bit = 0; bit < 8 * BE_PREAMBLE; bit++) {
		out[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_true(wire_get_reply(out, &s) < 0);
		out[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	/* What other servers say first. */
	memset(out, 0, sizeof out);
	memcpy(out, "SSH-2.0-OpenSSH_9.2p1\r\n", 23);
	assert_int_equal(wire_get_reply(out, &s), -EPROTO);
}

static void test_status_texts(void **state)
{
	(void)state;
	for (int i = 0; i < PRE_STATUSES; i++)
		assert_true(strlen(pre_status_text((enum pre_status)i)) > 5);
	assert_non_null(strstr(pre_status_text((enum pre_status)200), "does not know"));
	assert_non_null(strstr(pre_status_text((enum pre_status) - 1), "does not know"));
}

static void test_head(void **state)
{
	uint8_t msg[64];
	struct wcur w = wcur_init(msg, sizeof msg);
	struct msg_head h;
	struct rcur c;
	uint32_t len;

	(void)state;
	wire_put_head(&w, MSG_DIGEST, 77);
	put_u32(&w, 0xdeadbeef);
	len = (uint32_t)(w.p - msg);
	wire_seal(msg, len);
	assert_int_equal(wire_open(msg, len, &c, &h), 0);
	assert_int_equal(h.type, MSG_DIGEST);
	assert_int_equal(h.id, 77);
	assert_int_equal(rcur_left(&c), 4);
	assert_int_equal(get_u32(&c), 0xdeadbeef);
	for (uint32_t bit = 0; bit < 8 * len; bit++)
		assert_true(damaged(msg, len, bit));
	/* Shorter, also than a header; longer. */
	for (uint32_t cut = 0; cut < len; cut++)
		assert_int_equal(wire_open(msg, cut, &c, &h), cut < WIRE_HEAD ? -EPROTO : -EBADMSG);
	msg[len] = 0;
	assert_int_equal(wire_open(msg, len + 1, &c, &h), -EBADMSG);
	/* Flags are for later releases: this one does not know any. */
	w = wcur_init(msg, sizeof msg);
	wire_put_head(&w, MSG_DIGEST, 77);
	msg[2] = 1;
	wire_seal(msg, WIRE_HEAD);
	assert_int_equal(wire_open(msg, WIRE_HEAD, &c, &h), -EPROTO);
}

static uint32_t commit_of(uint8_t *out, size_t cap, uint32_t n, struct msg_commit *m)
{
	*m = (struct msg_commit){ .seq = 5, .n = (uint16_t)n };
	for (uint32_t i = 0; i < n && i < WIRE_COMMIT_MAX; i++)
		m->rec[i] = (struct chunk_rec){ i, i * 10, i * 100, i + 1, i + 2 };
	return wire_put_commit(out, cap, 3, m);
}

static int read_commit(const uint8_t *msg, uint32_t len, struct msg_commit *m)
{
	struct msg_head h;
	struct rcur c;
	int rc = wire_open(msg, len, &c, &h);

	return rc < 0 ? rc : wire_get_commit(&c, m);
}

static void test_commit(void **state)
{
	struct msg_commit m = { 0 }, got = { 0 };
	uint8_t out[BE_HEAD_MAX + 64];
	uint32_t len;

	(void)state;
	for (uint32_t n = 1; n <= WIRE_COMMIT_MAX; n++) {
		len = commit_of(out, BE_HEAD_MAX, n, &m);
		assert_in_range(len, 1, BE_HEAD_MAX);
		assert_int_equal(read_commit(out, len, &got), 0);
		assert_int_equal(got.n, n);
		assert_int_equal(got.seq, 5);
		assert_memory_equal(got.rec, m.rec, n * sizeof m.rec[0]);
	}
	assert_int_equal(commit_of(out, 100, WIRE_COMMIT_MAX, &m), 0);
	/* None, too many, fewer than promised, more than promised. */
	len = commit_of(out, sizeof out, 0, &m);
	assert_int_equal(read_commit(out, len, &got), -EPROTO);
	for (uint32_t n = WIRE_COMMIT_MAX + 1; n < 70000; n = n * 2 + 1) {
		len = commit_of(out, sizeof out, WIRE_COMMIT_MAX, &m);
		out[WIRE_HEAD + 4] = (uint8_t)n;
		out[WIRE_HEAD + 5] = (uint8_t)(n >> 8);
		memset(out + 8, 0, 4);
		wire_seal(out, len);
		assert_int_equal(read_commit(out, len, &got), -EPROTO);
	}
	len = commit_of(out, sizeof out, 3, &m);
	memset(out + 8, 0, 4);
	wire_seal(out, len - 1);
	assert_int_equal(read_commit(out, len - 1, &got), -EPROTO);
	memset(out + 8, 0, 4);
	wire_seal(out, len + 1);
	assert_int_equal(read_commit(out, len + 1, &got), -EPROTO);
}

static int read_ack(int32_t status, uint32_t extra)
{
	struct msg_ack m = { .seq = 1, .status = status, .object = 2, .ok = 3 }, got;
	uint8_t out[128] = { 0 };
	uint32_t len = wire_put_ack(out, sizeof out, 9, &m);
	struct msg_head h;
	struct rcur c;
	int rc;

	memset(out + 8, 0, 4);
	wire_seal(out, len + extra);
	rc = wire_open(out, len + extra, &c, &h);
	rc = rc < 0 ? rc : wire_get_ack(&c, &got);
	if (rc == 0) {
		assert_int_equal(got.status, status);
		assert_int_equal(got.ok, 3);
		assert_int_equal(got.object, 2);
	}
	return rc;
}

static void test_ack(void **state)
{
	(void)state;
	assert_int_equal(read_ack(0, 0), 0);
	assert_int_equal(read_ack(-ENOSPC, 0), 0);
	assert_int_equal(read_ack(0, 1), -EPROTO);
	/* A status is an errno: strerror(-INT_MIN) is not a question to ask. */
	assert_int_equal(read_ack(1, 0), -EPROTO);
	assert_int_equal(read_ack(INT32_MIN, 0), -EPROTO);
	assert_int_equal(read_ack(-WIRE_ERRNO_MAX - 1, 0), -EPROTO);
}

static void test_chunk(void **state)
{
	struct chunk_rec r = { 1, 2, 3, 4, 5 }, got;
	uint8_t out[256];
	uint32_t len = wire_put_chunk(out, sizeof out, 9, &r);
	struct msg_head h;
	struct rcur c;

	(void)state;
	/* The payload has a checksum of its own: the message's covers what is before it. */
	memset(out + len, 0xab, 100);
	assert_int_equal(wire_open(out, len + 100, &c, &h), 0);
	assert_int_equal(wire_get_chunk(&c, &got), 0);
	assert_memory_equal(&got, &r, sizeof r);
	assert_int_equal(rcur_left(&c), 100);
	assert_ptr_equal(c.p, out + len);
	out[len + 50] ^= 1;
	assert_int_equal(wire_open(out, len + 100, &c, &h), 0);
	for (uint32_t bit = 0; bit < 8 * len; bit++)
		assert_true(damaged(out, len + 100, bit));
	assert_int_equal(wire_open(out, len, &c, &h), 0);
	assert_int_equal(wire_get_chunk(&c, &got), 0);
	assert_int_equal(rcur_left(&c), 0);
	for (uint32_t cut = WIRE_HEAD; cut < len; cut++) {
		uint8_t part[256];

		memcpy(part, out, cut);
		memset(part + 8, 0, 4);
		wire_seal(part, cut);
		assert_int_equal(wire_open(part, cut, &c, &h), 0);
		assert_int_equal(wire_get_chunk(&c, &got), -EPROTO);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_table_round_trips),
		cmocka_unit_test(test_preamble),
		cmocka_unit_test(test_status_texts),
		cmocka_unit_test(test_head),
		cmocka_unit_test(test_commit),
		cmocka_unit_test(test_ack),
		cmocka_unit_test(test_chunk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

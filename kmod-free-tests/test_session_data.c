/* SPDX-License-Identifier: MIT */
/*
 * Hostile peers again: regions, transfers, chunks and files. Nothing outside what was offered is touched, nothing is
 * kept, and the server serves the next.
 */
#include "kmod-free-tests/peer.h"
#include "kmod-free-tests/sim_files.h"
#include "kmod-free-tests/store_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct sim sim;
static struct peer *peer;

static int setup(void **state)
{
	if (store_setup(state) || sim_open(&sim, &mem_ops, NULL, 42, 2, store) < 0)
		return -1;
	peer = peer_open(&sim, 7);
	return 0;
}

/* A file and back again what is in it. */
static void normal_session(void)
{
	struct client_config cfg = sim_client(&sim);
	struct sim_files v = { .n = 1, .f = { { .name = "normal", .size = 70001 } } };
	struct err e = { 0 };

	v.f[0].data = data_new(v.f[0].size, 3);
	cfg.streams = 2;
	cfg.stage_chunk = 8192;
	if (client_open(&sim.client, &cfg, NULL, &e) < 0 || sim_files_open(sim.client, &v, false, &e) < 0 ||
	    sim_files_send(sim.client, &v, 8192, SUM_CRC32C, NULL, NULL, &e) < 0 ||
	    sim_files_close(sim.client, &v, true, &e) < 0)
		fail_msg("%s", e.why);
	assert_int_equal(v.f[0].status, 0);
	tree_expect(dir, "normal", v.f[0].data, v.f[0].size);
	free(v.f[0].data);
	client_close(sim.client);
	sim.client = NULL;
}

static int teardown(void **state)
{
	struct server_counters sc;

	normal_session();
	peer_close(peer);
	sim_run(&sim, 20 * NS_PER_S);
	sc = sim_counters(&sim);
	assert_int_equal(sc.sessions_now, 0);
	assert_int_equal(sc.streams_now, 0);
	assert_int_equal(sc.region_bytes_now, 0);
	sim_close(&sim);
	return store_teardown(state);
}

/* ---- regions ----------------------------------------------------------------------------------- */

static int region(uint32_t id, uint64_t bytes, struct be_token *t)
{
	struct msg_region m = { .region = id, .bytes = bytes };
	struct msg_region_reply r;
	struct rcur in;
	int rc = peer_call_msg(peer, MSG_REGION, &wire_region, &m, &in);

	if (rc == 0 && t) {
		wire_get(&in, &wire_region_reply, &r);
		*t = (struct be_token){ .id = id, .key = r.key };
	}
	return rc;
}

static void test_regions_are_bounded(void **state)
{
	(void)state;
	peer_hello(peer, 1, 0);
	assert_int_equal(region(0, 0, NULL), -EINVAL);
	assert_int_equal(region(AMST_REGIONS_MAX, 1, NULL), -EINVAL);
	assert_int_equal(region(UINT32_MAX, 1, NULL), -EINVAL);
	assert_int_equal(region(1, (64u << 20) + 1, NULL), -ENOMEM);
	assert_non_null(strstr(peer_text(peer), "--max-memory"));
	assert_int_equal(region(1, UINT64_MAX, NULL), -ENOMEM);
	assert_int_equal(region(1, 1, NULL), 0);
	assert_int_equal(region(1, 1, NULL), -EINVAL); /* it exists */
	for (uint32_t i = 2; i < 5; i++)
		assert_int_equal(region(i, 20u << 20, NULL), 0);
	assert_int_equal(region(6, 20u << 20, NULL), -ENOMEM); /* all together */
	assert_int_equal(sim_counters(&sim).region_bytes_now, (60u << 20) + 1);
}

static void test_digests(void **state)
{
	static const struct msg_digest bad[] = {
		{ .region = 0, .bytes = 0 }, /* no such region */
		{ .region = AMST_REGIONS_MAX, .bytes = 1 },
		{ .region = UINT32_MAX, .bytes = 1 },
		{ .region = 1, .bytes = 1001 },
		{ .region = 1, .offset = 1001 },
		{ .region = 1, .offset = 1, .bytes = 1000 },
		{ .region = 1, .offset = UINT64_MAX, .bytes = 2 },
		{ .region = 1, .offset = 2, .bytes = UINT64_MAX },
	};
	struct msg_digest ok = { .region = 1, .offset = 1000, .bytes = 0 };

	(void)state;
	peer_hello(peer, 1, 0);
	assert_int_equal(region(1, 1000, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(peer_call_msg(peer, MSG_DIGEST, &wire_digest, &bad[i], NULL), -EINVAL);
	assert_int_equal(peer_call_msg(peer, MSG_DIGEST, &wire_digest, &ok, NULL), 0);
}

/* ---- transfers --------------------------------------------------------------------------------- */

static int begin_xfer(uint32_t id, enum xfer_kind kind, uint64_t chunks)
{
	struct msg_xfer_begin m = { .kind = (uint8_t)kind, .sum = SUM_XXH3, .chunks = chunks, .chunk = 1000 };
	uint8_t fields[64];
	struct wcur w = wcur_init(fields, sizeof fields);

	put_u32(&w, id);
	wire_put(&w, &wire_xfer_begin, &m);
	return peer_call(peer, MSG_XFER_BEGIN, fields, (uint32_t)(w.p - fields), NULL);
}

static int end_xfer(uint64_t chunks, struct msg_xfer_result *r)
{
	struct msg_xfer_end m = { .chunks = chunks };
	struct rcur in;
	int rc = peer_call_msg(peer, MSG_XFER_END, &wire_xfer_end, &m, &in);

	if (rc == 0)
		wire_get(&in, &wire_xfer_result, r);
	return rc;
}

static void test_transfers_that_cannot_be(void **state)
{
	struct msg_xfer_result r = { 0 };

	(void)state;
	peer_hello(peer, 1, 0);
	assert_int_equal(region(1, 100000, NULL), 0);
	assert_int_equal(begin_xfer(1, (enum xfer_kind)2, 1), -EINVAL);
	assert_int_equal(begin_xfer(1, XFER_FILES, 1), -EINVAL); /* no file is open */
	assert_int_equal(begin_xfer(1, XFER_PUT, (1ull << 28) + 1), -EINVAL);
	assert_int_equal(begin_xfer(1, XFER_PUT, UINT64_MAX), -EINVAL);
	assert_int_equal(end_xfer(0, &r), -EINVAL); /* none has begun */
	assert_int_equal(begin_xfer(1, XFER_PUT, 10), 0);
	assert_int_equal(begin_xfer(2, XFER_PUT, 10), -EBUSY);
	assert_int_equal(end_xfer(0, &r), 0);
	assert_int_equal(r.whole, 1); /* as whole as what was acknowledged: nothing */
	assert_int_equal(begin_xfer(3, XFER_PUT, 10), 0);
	assert_int_equal(end_xfer(1, &r), 0);
	assert_int_equal(r.whole, 0);
	assert_int_equal(begin_xfer(4, XFER_PUT, 0), 0);
	assert_int_equal(end_xfer(UINT64_MAX, &r), 0);
	assert_int_equal(r.whole, 0);
}

static int pull(struct msg_pull m)
{
	uint8_t fields[128];
	struct wcur w = wcur_init(fields, sizeof fields);

	put_u32(&w, 1);
	wire_put(&w, &wire_pull, &m);
	return peer_call(peer, MSG_PULL, fields, (uint32_t)(w.p - fields), NULL);
}

static void test_pulls(void **state)
{
	const struct msg_pull ok = { .region = 1,
				     .to = 3,
				     .to_key = 12345,
				     .to_bytes = 1000,
				     .bytes = 1000,
				     .passes = 1,
				     .chunk = 100,
				     .sum = SUM_XXH3 };
	struct msg_pull m;

	(void)state;
	peer_join(peer, 1, 0);
	assert_int_equal(peer_call(peer, MSG_PULL_WAIT, NULL, 0, NULL), -EINVAL);
	assert_int_equal(peer_call(peer, MSG_PULL_STOP, NULL, 0, NULL), 0);
	assert_int_equal(pull(ok), -EINVAL); /* no region */
	assert_int_equal(region(1, 1000, NULL), 0);
	for (int i = 0; i < 9; i++) {
		m = ok;
		m.region = i == 0 ? 2 : i == 1 ? UINT32_MAX : 1;
		m.bytes = i == 2 ? 1001 : i == 3 ? 0 : i == 4 ? UINT64_MAX : 1000;
		m.to_bytes = i == 5 ? 999 : 1000;
		m.chunk = i == 6 ? 0 : i == 7 ? UINT32_MAX : 100;
		m.sum = i == 8 ? SUM_KINDS : SUM_XXH3;
		assert_int_equal(pull(m), -EINVAL);
	}
	m = ok;
	m.passes = 0;
	assert_int_equal(pull(m), -EINVAL);
	/* Without end, a byte at a time, to a token of nothing: our own stream breaks, and the server's session
	 * stays in bounds until it is stopped. */
	m = ok;
	m.passes = UINT64_MAX;
	m.chunk = 1;
	assert_int_equal(pull(m), 0);
	assert_true(peer_ended(peer, 1));
	assert_int_equal(pull(m), -EINVAL); /* one is running */
	assert_int_equal(peer_call(peer, MSG_PULL_STOP, NULL, 0, NULL), 0);
	assert_int_equal(peer_call(peer, MSG_BYE, NULL, 0, NULL), 0);
}

/* ---- chunks ------------------------------------------------------------------------------------ */

struct commit_case {
	const char *what;
	struct msg_commit m;
	uint32_t transfer;
	uint32_t puts; /* of 1000 bytes each, before */
	bool ok;       /* the stream lives */
	uint64_t bits; /* …and the ACK says so */
};

static void send_commit(const struct msg_commit *m, uint32_t transfer)
{
	uint8_t out[BE_HEAD_MAX];
	uint32_t len = wire_put_commit(out, sizeof out, transfer, m);

	peer_raw(peer, 1, out, len);
}

static uint8_t block[1000];

static struct chunk_rec rec(uint64_t chunk)
{
	return (struct chunk_rec){ .chunk = chunk,
				   .offset = chunk * 1000,
				   .object = 1,
				   .len = 1000,
				   .sum = sum_of(SUM_XXH3, block, sizeof block) };
}

static bool stream_lives(uint64_t *bits)
{
	struct msg_ack a = { 0 };
	struct msg_head h;
	struct rcur c;

	peer_run(peer, 50 * NS_PER_MS);
	if (peer->conn[1].messages && wire_open(peer->conn[1].last, peer->conn[1].last_len, &c, &h) == 0 &&
	    h.type == MSG_ACK)
		assert_int_equal(wire_get_ack(&c, &a), 0);
	*bits = a.ok;
	return peer->conn[1].state == PEER_UP;
}

static void test_commits(void **state)
{
	struct commit_case v[] = {
		{ "what was put", { 0, 2, { rec(0), rec(1) } }, 1, 2, true, 3 },
		{ "never sent", { 0, 1, { rec(0) } }, 1, 0, false, 0 },
		{ "one more than was sent", { 0, 2, { rec(0), rec(1) } }, 1, 1, false, 0 },
		{ "another place", { 0, 1, { rec(1) } }, 1, 1, false, 0 },
		{ "wrong sum", { 0, 1, { rec(0) } }, 1, 1, true, 0 },
		{ "wrong length", { 0, 1, { rec(0) } }, 1, 1, false, 0 },
		{ "another object", { 0, 1, { rec(0) } }, 1, 1, false, 0 },
		{ "sequence", { 1, 1, { rec(0) } }, 1, 1, false, 0 },
		{ "another transfer", { 0, 1, { rec(0) } }, 2, 1, false, 0 },
		{ "none", { 0, 0, { rec(0) } }, 1, 1, false, 0 },
		{ "chunk number beyond the pass", { 0, 1, { rec(0) } }, 1, 1, true, 1 },
	};
	struct be_token t = { 0 };
	uint64_t bits;

	(void)state;
	v[4].m.rec[0].sum++;
	v[5].m.rec[0].len--;
	v[6].m.rec[0].object = 2;
	v[10].m.rec[0].chunk = UINT64_MAX;
	peer_join(peer, 1, 4096);
	assert_int_equal(region(1, 100000, &t), 0);
	for (size_t i = 0; i < ARRAY_LEN(v); i++) {
		struct msg_xfer_result r = { 0 };
		bool lives;

		assert_int_equal(begin_xfer(1, XFER_PUT, 100), 0);
		peer->conn[1].messages = 0;
		for (uint32_t k = 0; k < v[i].puts; k++)
			peer_put(peer, 1, t, k * 1000, block, sizeof block);
		send_commit(&v[i].m, v[i].transfer);
		lives = stream_lives(&bits);
		if (lives != v[i].ok || bits != v[i].bits)
			fail_msg("%s: %s, %llx", v[i].what, lives ? "taken" : "refused", (unsigned long long)bits);
		assert_int_equal(end_xfer(0, &r), 0);
		assert_int_equal(r.placed, __builtin_popcountll(v[i].bits));
		assert_int_equal(peer_connect(peer, 1, PRE_DATA, 0, (uint32_t)i + 2), PRE_OK);
	}
}

static void test_puts_that_nobody_expects(void **state)
{
	struct msg_xfer_result r = { 0 };
	struct be_token t = { 0 }, bad = { 0 };
	uint32_t incarnation = 1;
	uint64_t len, bits;
	uint8_t *there;

	(void)state;
	rng_fill(block, sizeof block, 1);
	peer_join(peer, 1, 4096);
	assert_int_equal(region(1, 5000, &t), 0);
	there = sim_region(&sim, 1, &len);
	/* Outside, over the end, to a number or with a key that is none, empty, and larger than a put may be. */
	assert_int_equal(begin_xfer(1, XFER_PUT, 5), 0);
	for (int i = 0; i < 7; i++) {
		static const uint64_t at[] = { 5000, 4001, UINT64_MAX, 0, 0, 0, 0 };

		bad = t;
		bad.id = i == 3 ? 2 : 1;
		bad.key = i == 4 ? t.key + 1 : t.key;
		peer_put(peer, 1, bad, at[i], block, i == 5 ? 0 : i == 6 ? 1ull << 40 : sizeof block);
		assert_true(peer_ended(peer, 1));
		assert_int_equal(peer_connect(peer, 1, PRE_DATA, 0, ++incarnation), PRE_OK);
	}
	for (uint64_t k = 0; k < len; k++)
		assert_int_equal(there[k], 0);
	/* More than a receiver remembers without a COMMIT. */
	for (int i = 0; i <= WIRE_UNCOMMITTED; i++)
		peer_put(peer, 1, t, 0, block, 1);
	assert_false(stream_lives(&bits));
	assert_int_equal(peer_connect(peer, 1, PRE_DATA, 0, ++incarnation), PRE_OK);
	assert_int_equal(end_xfer(0, &r), 0);
	/* Nothing is running. */
	peer_put(peer, 1, t, 0, block, 1);
	assert_false(stream_lives(&bits));
	assert_int_equal(peer_call(peer, MSG_INFO, NULL, 0, NULL), 0);
}

static void test_answers_to_what_was_never_asked(void **state)
{
	uint8_t out[128];
	uint32_t incarnation = 1;

	(void)state;
	peer_join(peer, 1, 4096);
	for (int i = 0; i < 4; i++) {
		if (i == 0)
			peer_raw(peer, 1, out, wire_put_ack(out, sizeof out, 1, &(struct msg_ack){ .ok = UINT64_MAX }));
		else if (i == 1)
			peer_send(peer, 1, MSG_HELLO, 1, NULL, 0);
		else if (i == 2)
			peer_raw(peer, 1, "x", 1);
		else
			peer_raw(peer, 1, out,
				 wire_put_chunk(out, sizeof out, 1, &(struct chunk_rec){ .len = 0 })); /* no transfer */
		assert_true(peer_ended(peer, 1));
		assert_int_equal(peer_connect(peer, 1, PRE_DATA, 0, ++incarnation), PRE_OK);
	}
	assert_int_equal(sim_counters(&sim).sessions_failed, 0);
}

/* ---- files ------------------------------------------------------------------------------------- */

static int open_files(uint32_t n, const char *const *names, uint64_t size, struct rcur *in)
{
	static uint8_t fields[WIRE_CTL_MAX];
	struct wcur w = wcur_init(fields, sizeof fields - 64);

	put_u16(&w, (uint16_t)n);
	for (uint32_t i = 0; i < n; i++) {
		struct msg_file_spec m = { .spec = { .mode = 0644, .size = size, .data_bytes = size } };

		snprintf(m.spec.name, sizeof m.spec.name, "%s", names ? names[i] : "f");
		if (!names)
			snprintf(m.spec.name, sizeof m.spec.name, "f%u", i);
		wire_put(&w, &wire_file_spec, &m);
	}
	assert_false(w.bad);
	return peer_call(peer, MSG_FILES_OPEN, fields, (uint32_t)(w.p - fields), in);
}

static int close_files(uint32_t n, uint32_t said)
{
	uint8_t fields[600] = { 0 };
	struct wcur w = wcur_init(fields, sizeof fields);

	put_u8(&w, 0);
	put_u16(&w, (uint16_t)said);
	return peer_call(peer, MSG_FILES_CLOSE, fields, 3 + n, NULL);
}

static int hash(uint32_t file, uint64_t first, uint32_t n)
{
	struct msg_file_hash m = { .file = file, .first = first, .n = n };

	return peer_call_msg(peer, MSG_FILE_HASH, &wire_file_hash, &m, NULL);
}

static void test_file_lists(void **state)
{
	static const char *const names[] = {
		"../up", "/etc/passwd", "a/../../b",       "good", "good", "", "x\ny", "\xff\xfe",
		".",     "a//b",        "dir/.f.dwcp-part"
	};
	struct msg_file_status st;
	struct rcur in;
	int want[] = { -EINVAL, -EINVAL, -EINVAL, 0, -EBUSY, -EINVAL, -EINVAL, 0, -EINVAL, -EINVAL, -EINVAL };

	(void)state;
	peer_hello(peer, 1, 4096);
	assert_int_equal(open_files(0, NULL, 1, NULL), -EINVAL);
	assert_int_equal(open_files(WIRE_BATCH_MAX + 1, NULL, 1, NULL), -EINVAL);
	assert_int_equal(peer_call(peer, MSG_FILES_OPEN, "\xff\xff", 2, NULL), -EINVAL);
	assert_int_equal(peer_call(peer, MSG_FILES_OPEN, "\x02\x00zz", 4, NULL), -EPROTO);
	assert_int_equal(hash(0, 0, 1), -EINVAL);
	assert_int_equal(open_files(ARRAY_LEN(names), names, 5, &in), 0);
	assert_int_equal(get_u16(&in), ARRAY_LEN(names));
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		wire_get(&in, &wire_file_status, &st);
		if (st.status != want[i])
			fail_msg("file %zu: %d (%s)", i, st.status, st.text);
	}
	assert_false(in.bad);
	/* Out of range, not open, too many. */
	assert_int_equal(hash(ARRAY_LEN(names), 0, 1), -EINVAL);
	assert_int_equal(hash(UINT32_MAX, 0, 1), -EINVAL);
	assert_int_equal(hash(0, 0, 1), -EINVAL);
	assert_int_equal(hash(3, 0, 0), -EINVAL);
	assert_int_equal(hash(3, 0, WIRE_HASHES_MAX + 1), -EINVAL);
	assert_true(hash(3, 1, 1) < 0);
	assert_true(hash(3, UINT64_MAX, 1) < 0);
	assert_true(hash(3, UINT64_MAX / STORE_BLOCK, 2) < 0);
	assert_int_equal(hash(3, 0, 1), 0);
	/* Another number than is open; fewer flags than files. */
	assert_int_equal(close_files(1, 1), -EINVAL);
	assert_int_equal(close_files(0, ARRAY_LEN(names)), 0);
	assert_int_equal(tree_count(top), 1);
	/* The most there may be, all at once. */
	assert_int_equal(open_files(WIRE_BATCH_MAX, NULL, 1, &in), 0);
	assert_int_equal(close_files(WIRE_BATCH_MAX, WIRE_BATCH_MAX), 0);
	assert_int_equal(sim_counters(&sim).files_received, 0);
}

static void send_chunk(uint32_t transfer, uint32_t seq, struct chunk_rec r, const void *payload, uint32_t len)
{
	uint8_t out[8192];
	uint32_t head;

	r.sum = sum_of(SUM_XXH3, payload, len);
	head = wire_put_chunk(out, sizeof out, transfer, &r);
	memcpy(out + head, payload, len);
	peer_raw(peer, 1, out, head + len);
	send_commit(&(struct msg_commit){ .seq = seq, .n = 1, .rec = { r } }, transfer);
}

static void test_chunks_of_files(void **state)
{
	static const struct {
		struct chunk_rec r;
		uint32_t payload;
		int status;
	} v[] = {
		{ { .object = 0, .offset = 0, .len = 500 }, 500, 0 },
		{ { .object = 0, .offset = 501, .len = 500 }, 500, -EINVAL },
		{ { .object = 0, .offset = UINT64_MAX, .len = 500 }, 500, -EINVAL },
		{ { .object = 1, .offset = 0, .len = 500 }, 500, -EPROTO }, /* did not open */
		{ { .object = 2, .offset = 0, .len = 500 }, 500, -EPROTO },
		{ { .object = UINT32_MAX, .offset = 0, .len = 500 }, 500, -EPROTO },
		{ { .object = 0, .offset = 0, .len = 499 }, 500, -EPROTO },
		{ { .object = 0, .offset = 0, .len = 4000000 }, 500, -EPROTO },
	};
	static const char *const names[] = { "f", "../g" };

	(void)state;
	peer_join(peer, 1, 4096);
	assert_int_equal(open_files(2, names, 1000, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(v); i++) {
		struct msg_xfer_result r = { 0 };
		struct msg_ack a;
		struct msg_head h;
		struct rcur c;

		assert_int_equal(begin_xfer(1, XFER_FILES, 2), 0);
		assert_int_equal(open_files(2, names, 1000, NULL), -EINVAL); /* not while it runs */
		assert_int_equal(close_files(2, 2), -EINVAL);
		send_chunk(1, 0, v[i].r, block, v[i].payload);
		peer_run(peer, 50 * NS_PER_MS);
		assert_int_equal(wire_open(peer->conn[1].last, peer->conn[1].last_len, &c, &h), 0);
		assert_int_equal(h.type, MSG_ACK);
		assert_int_equal(wire_get_ack(&c, &a), 0);
		if (a.status != v[i].status || a.ok != (v[i].status ? 0u : 1u))
			fail_msg("case %zu: status %d, ok %llx", i, a.status, (unsigned long long)a.ok);
		if (v[i].status)
			assert_int_equal(a.object, v[i].r.object);
		assert_int_equal(end_xfer(0, &r), 0);
		assert_int_equal(r.placed, v[i].status ? 0 : 1);
		assert_int_equal(peer_connect(peer, 1, PRE_DATA, 0, (uint32_t)i + 2), PRE_OK);
	}
	/* A put in a transfer of files. */
	assert_int_equal(begin_xfer(1, XFER_FILES, 2), 0);
}

static int close_one(uint64_t bytes)
{
	uint8_t fields[16];
	struct wcur w = wcur_init(fields, sizeof fields);
	struct msg_file_status st = { .status = -EPROTO };
	struct rcur in;

	put_u8(&w, 0);
	put_u16(&w, 1);
	wire_put(&w, &wire_file_close, &(struct msg_file_close){ .complete = 1, .bytes = bytes });
	assert_int_equal(peer_call(peer, MSG_FILES_CLOSE, fields, (uint32_t)(w.p - fields), &in), 0);
	assert_int_equal(get_u16(&in), 1);
	wire_get(&in, &wire_file_status, &st);
	return st.status;
}

/* A file of 1000 bytes of which these halves are sent, in a transfer of so many chunks: what closing it answers. */
static int send_halves(unsigned halves, uint64_t chunks, uint32_t incarnation)
{
	static const char *const name[] = { "half" };
	struct msg_xfer_result r = { 0 };

	assert_int_equal(open_files(1, name, 1000, NULL), 0);
	assert_int_equal(begin_xfer(1, XFER_FILES, 2), 0);
	for (unsigned i = 0; i < 2; i++)
		if (halves & 1u << i)
			send_chunk(1, i, (struct chunk_rec){ .chunk = i, .offset = i * 500, .len = 500 },
				   block + i * 500, 500);
	peer_run(peer, 50 * NS_PER_MS);
	assert_int_equal(end_xfer(chunks, &r), 0);
	assert_int_equal(peer_connect(peer, 1, PRE_DATA, 0, incarnation), PRE_OK);
	return close_one(1000);
}

/* Complete is what is here, not what the client calls so: the old file stays. */
static void test_complete_is_looked_at(void **state)
{
	(void)state;
	tree_fill(block, sizeof block, 5);
	tree_write(dir, "half", "old", 3);
	peer_join(peer, 1, 4096);
	assert_int_equal(send_halves(1, 1, 2), -EBADMSG);
	assert_int_equal(send_halves(0, 0, 3), -EBADMSG);
	tree_expect(dir, "half", "old", 3);
	assert_int_equal(send_halves(3, 2, 5), 0);
	tree_expect(dir, "half", block, 1000);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_regions_are_bounded),
		T(test_digests),
		T(test_transfers_that_cannot_be),
		T(test_pulls),
		T(test_commits),
		T(test_puts_that_nobody_expects),
		T(test_answers_to_what_was_never_asked),
		T(test_file_lists),
		T(test_chunks_of_files),
		T(test_complete_is_looked_at),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

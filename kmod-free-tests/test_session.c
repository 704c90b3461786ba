/* SPDX-License-Identifier: MIT */
/*
 * A server and peers that mean no good: connecting, greeting, requests. After each attack the server serves a normal
 * session, holds nothing of the attacker, and has counted it.
 */
#include "kmod-free-tests/peer.h"
#include "kmod-free-tests/sim.h"

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
	(void)state;
	if (sim_open(&sim, &mem_ops, NULL, 42, 2, NULL) < 0)
		return -1;
	peer = peer_open(&sim, 7);
	return 0;
}

static void normal_session(void)
{
	struct client_config cfg = sim_client(&sim);
	struct amst_extent x = { .len = 100000 };
	struct amst_tx tx = { .chunk = 4096, .sum = SUM_XXH3, .passes = 1, .extents = &x, .n_extents = 1 };
	static uint8_t src[100000];
	struct digest128 d = { 0 }, here;
	struct err e = { 0 };

	cfg.streams = 3;
	rng_fill(src, sizeof src, 5);
	tx.base = src;
	if (client_open(&sim.client, &cfg, NULL, &e) < 0 ||
	    client_region_make(sim.client, 1, sizeof src, 0, &tx.token, NULL, &e) < 0 ||
	    client_transfer(sim.client, &tx, XFER_PUT, NULL, NULL, &e) < 0 ||
	    client_digest(sim.client, 1, 0, sizeof src, &d, &e) < 0)
		fail_msg("%s", e.why);
	here = digest128_of(src, sizeof src);
	assert_true(d.lo == here.lo && d.hi == here.hi);
	client_close(sim.client);
	sim.client = NULL;
}

/* The attacker leaves; its session times out; then all is as it was. */
static int teardown(void **state)
{
	struct server_counters sc;

	(void)state;
	normal_session();
	peer_close(peer);
	sim_run(&sim, 65 * NS_PER_S);
	sc = sim_counters(&sim);
	assert_int_equal(sc.sessions_now, 0);
	assert_int_equal(sc.streams_now, 0);
	assert_int_equal(sc.region_bytes_now, 0);
	assert_int_equal(sc.sessions_started, sc.sessions_ended);
	sim_close(&sim);
	return 0;
}

static uint64_t refused(void)
{
	return sim_counters(&sim).connections_refused;
}

/* ---- the first 56 bytes ------------------------------------------------------------------------ */

static void test_another_version(void **state)
{
	struct preamble p = { .version = WIRE_VERSION + 6, .kind = PRE_CONTROL };
	uint8_t out[BE_PREAMBLE];
	struct pre_reply r;

	(void)state;
	wire_put_preamble(out, &p);
	assert_int_equal(peer_connect_as(peer, 0, out), PRE_BAD_VERSION);
	assert_int_equal(wire_get_reply(peer->conn[0].reply, &r), 0);
	assert_int_equal(r.version, WIRE_VERSION);
	assert_int_equal(refused(), 1);
}

static void test_not_dwcp(void **state)
{
	uint8_t out[BE_PREAMBLE] = "GET / HTTP/1.1\r\nHost: example\r\n\r\n";

	(void)state;
	assert_int_equal(peer_connect_as(peer, 0, out), -ECONNREFUSED);
	assert_int_equal(peer->conn[0].reply_len, 0);
	for (int i = 0; i < 50; i++) {
		rng_fill(out, sizeof out, (uint64_t)i);
		assert_int_equal(peer_connect_as(peer, 0, out), -ECONNREFUSED);
	}
	assert_int_equal(refused(), 51);
}

static void test_damaged_preamble(void **state)
{
	struct preamble p = { .version = WIRE_VERSION, .kind = PRE_CONTROL };
	uint8_t out[BE_PREAMBLE];

	(void)state;
	for (unsigned at = 0; at < BE_PREAMBLE; at += 5) {
		wire_put_preamble(out, &p);
		out[at] ^= 0x20;
		assert_int_equal(peer_connect_as(peer, 0, out), -ECONNREFUSED);
	}
}

static void test_unknown_kind_and_session(void **state)
{
	(void)state;
	assert_int_equal(peer_connect(peer, 0, (enum pre_kind)77, 0, 0), PRE_MALFORMED);
	assert_int_equal(peer_connect(peer, 0, PRE_DATA, 0, 1), PRE_NO_SESSION);
	assert_int_equal(peer_connect(peer, 0, PRE_RESUME, 0, 0), PRE_NO_SESSION);
	assert_int_equal(refused(), 3);
	assert_int_equal(sim_counters(&sim).sessions_started, 0);
}

static void test_two_controls_of_one_session(void **state)
{
	(void)state;
	peer_hello(peer, 2, 0);
	assert_int_equal(peer_connect(peer, 7, PRE_CONTROL, 0, 0), PRE_DUPLICATE);
	assert_int_equal(peer_call(peer, MSG_INFO, NULL, 0, NULL), 0);
}

static void test_more_sessions_than_allowed(void **state)
{
	struct peer_conn *c = peer->conn;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		peer->session[0] = (uint8_t)i;
		assert_int_equal(peer_connect(peer, i, PRE_CONTROL, 0, 0), PRE_OK);
	}
	peer->session[0] = 99;
	assert_int_equal(peer_connect(peer, 4, PRE_CONTROL, 0, 0), PRE_BUSY);
	/* Who says nothing makes room again: a slow-loris holds a place for ten seconds. */
	peer_run(peer, 11 * NS_PER_S);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(c[i].state, PEER_DOWN);
	assert_int_equal(sim_counters(&sim).sessions_failed, 4);
	assert_int_equal(peer_connect(peer, 4, PRE_CONTROL, 0, 0), PRE_OK);
}

/* ---- data streams ------------------------------------------------------------------------------ */

static void test_stream_numbers(void **state)
{
	(void)state;
	assert_int_equal(peer_connect(peer, PEER_CTL, PRE_CONTROL, 0, 0), PRE_OK);
	assert_int_equal(peer_connect(peer, 1, PRE_DATA, 0, 1), PRE_NOT_NOW); /* before hello */
	peer_close(peer);
	peer = peer_open(&sim, 8);
	peer_join(peer, 2, 0);
	assert_int_equal(peer_connect(peer, 5, PRE_DATA, 2, 1), PRE_BAD_STREAM);
	assert_int_equal(peer_connect(peer, 5, PRE_DATA, UINT32_MAX, 1), PRE_BAD_STREAM);
	/* Twice, and an older one again. */
	assert_int_equal(peer_connect(peer, 5, PRE_DATA, 1, 1), PRE_DUPLICATE);
	assert_int_equal(peer_connect(peer, 5, PRE_DATA, 1, 0), PRE_DUPLICATE);
	/* A newer one takes the place of the older one. */
	assert_int_equal(peer_connect(peer, 5, PRE_DATA, 1, 9), PRE_OK);
	assert_true(peer_ended(peer, 2));
	assert_int_equal(peer_connect(peer, 6, PRE_DATA, 1, 8), PRE_DUPLICATE);
	assert_int_equal(peer->conn[5].state, PEER_UP);
	assert_int_equal(sim_counters(&sim).streams_now, 2);
}

static void test_ten_thousand_data_connections(void **state)
{
	struct preamble p = { .version = WIRE_VERSION, .kind = PRE_DATA, .stream = 1, .incarnation = 1 };
	uint8_t out[BE_PREAMBLE];
	uint64_t before;
	struct err e;

	(void)state;
	peer_join(peer, 2, 0);
	before = refused();
	memcpy(p.session, peer->session, sizeof p.session);
	wire_put_preamble(out, &p);
	for (unsigned k = 0; k < 10000; k++) {
		be_stream h;

		while (sim.ops->connect(peer->be, &sim.at, out, 1, PEER_CONNS - 1, &h, &e) < 0)
			peer_run(peer, NS_PER_MS);
	}
	for (int i = 0; i < 100 && refused() - before < 10000; i++)
		peer_run(peer, 100 * NS_PER_MS);
	assert_int_equal(refused() - before, 10000);
	assert_int_equal(sim_counters(&sim).streams_now, 2);
	assert_int_equal(peer_call(peer, MSG_INFO, NULL, 0, NULL), 0);
}

/* ---- hello ------------------------------------------------------------------------------------- */

static void test_absurd_hellos(void **state)
{
	static const struct msg_hello bad[] = {
		{ .streams = 0 },
		{ .streams = WIRE_STREAMS_MAX + 1 },
		{ .streams = UINT32_MAX, .workers = UINT32_MAX },
		{ .streams = 1, .chunk = (1u << 20) + 4096 + 1 }, /* a megabyte, and what a stage adds */
		{ .streams = 1, .chunk = UINT32_MAX },
		{ .streams = 1, .sum = SUM_KINDS },
		{ .streams = 1, .sum = 255 },
		{ .streams = 1, .ext_len = 1 },
		{ .streams = 1, .ext_len = UINT16_MAX },
	};
	struct msg_hello ok = { .streams = 3, .workers = UINT32_MAX, .chunk = 1u << 20, .timeout_ms = UINT32_MAX };
	struct msg_hello_reply r;
	struct rcur in;

	(void)state;
	assert_int_equal(peer_connect(peer, PEER_CTL, PRE_CONTROL, 0, 0), PRE_OK);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(peer_call_msg(peer, MSG_HELLO, &wire_hello, &bad[i], NULL), -EPROTO);
	assert_int_equal(peer_call(peer, MSG_HELLO, "abc", 3, NULL), -EPROTO);
	assert_int_equal(peer_call(peer, MSG_HELLO, NULL, 0, NULL), -EPROTO);
	assert_int_equal(peer_call_msg(peer, MSG_HELLO, &wire_hello, &ok, &in), 0);
	wire_get(&in, &wire_hello_reply, &r);
	assert_false(in.bad);
	assert_int_equal(r.workers, 2);
	assert_int_equal(r.stores, 0);
	assert_int_equal(peer_call_msg(peer, MSG_HELLO, &wire_hello, &ok, NULL), -EPROTO); /* once */
	assert_int_equal(peer_call(peer, MSG_INFO, NULL, 0, NULL), 0);
}

static void test_extensions_are_skipped(void **state)
{
	struct msg_hello h = { .streams = 1, .workers = 1, .timeout_ms = 1000, .ext_len = 6 };
	uint8_t fields[128];
	struct wcur w = wcur_init(fields, sizeof fields);

	(void)state;
	wire_put(&w, &wire_hello, &h);
	put_bytes(&w, "\x99\x99\x02\x00ok", 6);
	assert_int_equal(peer_connect(peer, PEER_CTL, PRE_CONTROL, 0, 0), PRE_OK);
	assert_int_equal(peer_call(peer, MSG_HELLO, fields, (uint32_t)(w.p - fields), NULL), 0);
}

static void test_requests_before_hello(void **state)
{
	(void)state;
	assert_int_equal(peer_connect(peer, PEER_CTL, PRE_CONTROL, 0, 0), PRE_OK);
	for (unsigned type = 0; type < 40; type++)
		if (type != MSG_HELLO && type != MSG_BYE && type != MSG_STREAM_DOWN)
			assert_int_equal(peer_call(peer, (uint16_t)type, NULL, 0, NULL), -EPROTO);
	/* A fence has no answer that says no: it ends the session. */
	assert_int_equal(peer_call(peer, MSG_STREAM_DOWN, NULL, 0, NULL), -ENOTCONN);
	assert_int_equal(sim_counters(&sim).sessions_failed, 1);
}

static void test_request_numbered_zero(void **state)
{
	struct msg_hello h = { .streams = 1, .workers = 1, .timeout_ms = 1000 };
	uint8_t fields[64];
	struct wcur w = wcur_init(fields, sizeof fields);

	(void)state;
	assert_int_equal(peer_connect(peer, PEER_CTL, PRE_CONTROL, 0, 0), PRE_OK);
	wire_put(&w, &wire_hello, &h);
	peer_send(peer, PEER_CTL, MSG_HELLO, 0, fields, (uint32_t)(w.p - fields));
	peer_run(peer, 20 * NS_PER_MS);
	assert_int_equal(peer->conn[PEER_CTL].messages, 1);
	assert_true(peer->conn[PEER_CTL].last_len > WIRE_HEAD);
	/* Asked again, the same answer comes again. */
	peer_send(peer, PEER_CTL, MSG_HELLO, 0, fields, (uint32_t)(w.p - fields));
	peer_run(peer, 20 * NS_PER_MS);
	assert_int_equal(peer->conn[PEER_CTL].messages, 2);
	assert_int_equal(peer_call(peer, MSG_INFO, NULL, 0, NULL), 0);
}

/* ---- messages ---------------------------------------------------------------------------------- */

static void test_damaged_message_costs_the_connection(void **state)
{
	uint8_t msg[WIRE_HEAD];
	struct wcur w = wcur_init(msg, sizeof msg);

	(void)state;
	peer_hello(peer, 1, 0);
	wire_put_head(&w, MSG_INFO, 50);
	wire_seal(msg, sizeof msg);
	for (uint32_t bit = 0; bit < 8 * WIRE_HEAD; bit += 7) {
		msg[bit / 8] ^= (uint8_t)(1u << bit % 8);
		peer_raw(peer, PEER_CTL, msg, sizeof msg);
		assert_true(peer_ended(peer, PEER_CTL));
		/* The session lives, and its control connection may come back. */
		assert_int_equal(peer_connect(peer, PEER_CTL, PRE_RESUME, 0, 0), PRE_OK);
		assert_int_equal(peer_call(peer, MSG_INFO, NULL, 0, NULL), 0);
		msg[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	for (uint32_t len = 0; len < WIRE_HEAD; len++) {
		peer_raw(peer, PEER_CTL, msg, len);
		assert_true(peer_ended(peer, PEER_CTL));
		assert_int_equal(peer_connect(peer, PEER_CTL, PRE_RESUME, 0, 0), PRE_OK);
	}
	assert_int_equal(sim_counters(&sim).sessions_failed, 0);
}

/* Every request cut at every length, and much too long: an error or an answer, never more. */
static void test_truncated_and_oversized(void **state)
{
	static uint8_t big[WIRE_CTL_MAX - WIRE_HEAD];
	static const uint16_t types[] = {
		MSG_REGION,     MSG_XFER_BEGIN,  MSG_PULL,        MSG_PULL_WAIT,   MSG_DIGEST,    MSG_INFO,
		MSG_FILES_OPEN, MSG_FILE_HASH,   MSG_FILES_CLOSE, MSG_FILES_WRITE, MSG_PULL_STOP, MSG_XFER_END,
		MSG_HELLO,      MSG_STREAM_LOST, MSG_GOODBYE,     MSG_COMMIT,      MSG_ACK,       60000
	};
	uint8_t *too_big;

	(void)state;
	peer_hello(peer, 1, 0);
	memset(big, 0xff, sizeof big);
	for (size_t t = 0; t < ARRAY_LEN(types); t++) {
		for (uint32_t len = 0; len < 80; len += 1 + len / 8) {
			int rc = peer_call(peer, types[t], big, len, NULL);

			if (rc > 0 || rc == -ENOTCONN || rc == -ETIMEDOUT)
				fail_msg("type %u, %u bytes: %d (%s)", types[t], len, rc, peer_text(peer));
		}
		assert_true(peer_call(peer, types[t], big, sizeof big, NULL) <= 0);
	}
	/* More than a message may have is the backend's to refuse. */
	too_big = calloc(1, WIRE_CTL_MAX + 1);
	peer_raw(peer, PEER_CTL, too_big, WIRE_CTL_MAX + 1);
	free(too_big);
	assert_true(peer_ended(peer, PEER_CTL));
	assert_int_equal(peer_connect(peer, PEER_CTL, PRE_RESUME, 0, 0), PRE_OK);
	assert_int_equal(peer_call(peer, MSG_INFO, NULL, 0, NULL), 0);
}

static void test_request_while_one_is_in_progress(void **state)
{
	(void)state;
	peer_hello(peer, 1, 0);
	peer_send(peer, PEER_CTL, MSG_INFO, 100, NULL, 0);
	peer_send(peer, PEER_CTL, MSG_INFO, 101, NULL, 0);
	peer_send(peer, PEER_CTL, MSG_INFO, 102, NULL, 0);
	peer_send(peer, PEER_CTL, MSG_INFO, 103, NULL, 0);
	assert_true(peer_ended(peer, PEER_CTL));
	assert_non_null(strstr(peer_text(peer), "before the last one was answered"));
	assert_int_equal(sim_counters(&sim).sessions_failed, 1);
	assert_int_equal(peer_connect(peer, PEER_CTL, PRE_RESUME, 0, 0), PRE_NO_SESSION);
}

static void test_bye_while_a_request_is_in_progress(void **state)
{
	(void)state;
	peer_hello(peer, 1, 0);
	peer_send(peer, PEER_CTL, MSG_INFO, 100, NULL, 0);
	peer_send(peer, PEER_CTL, MSG_BYE, 101, NULL, 0);
	assert_true(peer_ended(peer, PEER_CTL));
	assert_int_equal(sim_counters(&sim).sessions_failed, 0);
}

/* The peer asks and asks and never reads: its own session stands still, bounded, and others do not notice. */
static void test_peer_that_never_reads(void **state)
{
	(void)state;
	peer_hello(peer, 1, 0);
	peer->deaf = true;
	for (uint32_t id = 1000; id < 1025 && peer->conn[PEER_CTL].state == PEER_UP; id++)
		mem_fabric_faults(sim.fabric)->path[1].delay_ns = 3600 * NS_PER_S, /* its window is closed */
			peer_send(peer, PEER_CTL, MSG_INFO, id, NULL, 0);
	peer_run(peer, NS_PER_S);
	mem_fabric_faults(sim.fabric)->path[1].delay_ns = 0;
	normal_session();
	peer_run(peer, 10 * NS_PER_S);
	assert_int_equal(sim_counters(&sim).sessions_failed, 1);
	assert_int_equal(sim_counters(&sim).sessions_now, 0);
	peer->deaf = false;
}

static void test_resume_again_and_again(void **state)
{
	(void)state;
	peer_join(peer, 2, 0);
	for (unsigned i = 0; i < 200; i++)
		assert_int_equal(peer_connect(peer, i % 2 ? PEER_CTL : 7, PRE_RESUME, 0, 0), PRE_OK);
	assert_int_equal(sim_counters(&sim).sessions_resumed, 200);
	assert_int_equal(sim_counters(&sim).sessions_now, 1);
	assert_int_equal(sim_counters(&sim).streams_now, 0);
	assert_int_equal(peer_call(peer, MSG_INFO, NULL, 0, NULL), 0);
}

static void test_fences(void **state)
{
	struct msg_stream_down m = { .stream = 1, .incarnation = 1 };

	(void)state;
	peer_join(peer, 2, 0);
	assert_int_equal(peer_call_msg(peer, MSG_STREAM_DOWN, &wire_stream_down, &m, NULL), 0);
	assert_int_equal(sim_counters(&sim).streams_now, 1);
	assert_true(peer_ended(peer, 2));
	/* Again; before there is one; then a connection that was on its way comes too late. */
	assert_int_equal(peer_call_msg(peer, MSG_STREAM_DOWN, &wire_stream_down, &m, NULL), 0);
	m.incarnation = 5;
	assert_int_equal(peer_call_msg(peer, MSG_STREAM_DOWN, &wire_stream_down, &m, NULL), 0);
	assert_int_equal(peer_connect(peer, 2, PRE_DATA, 1, 5), PRE_DUPLICATE);
	assert_int_equal(peer_connect(peer, 2, PRE_DATA, 1, 6), PRE_OK);
	m.stream = 2;
	assert_int_equal(peer_call_msg(peer, MSG_STREAM_DOWN, &wire_stream_down, &m, NULL), -ENOTCONN);
	assert_int_equal(sim_counters(&sim).sessions_failed, 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_another_version),
		T(test_not_dwcp),
		T(test_damaged_preamble),
		T(test_unknown_kind_and_session),
		T(test_two_controls_of_one_session),
		T(test_more_sessions_than_allowed),
		T(test_stream_numbers),
		T(test_ten_thousand_data_connections),
		T(test_absurd_hellos),
		T(test_extensions_are_skipped),
		T(test_requests_before_hello),
		T(test_request_numbered_zero),
		T(test_damaged_message_costs_the_connection),
		T(test_truncated_and_oversized),
		T(test_request_while_one_is_in_progress),
		T(test_bye_while_a_request_is_in_progress),
		T(test_peer_that_never_reads),
		T(test_resume_again_and_again),
		T(test_fences),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

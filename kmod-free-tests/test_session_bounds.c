/* SPDX-License-Identifier: MIT */
/*
 * What a session may take, for how long, and what the server says and counts when it takes no more.
 *
 * check: no-tsan (one thread drives it all)
 */
#include "kmod-free-tests/sim.h"
#include "kmod-free-tests/sim_files.h"
#include "kmod-free-tests/store_fixture.h"
#include "transport/client_impl.h"
#include "transport/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct client *join(const struct client_config *cfg)
{
	struct client *c = NULL;
	struct err e = { 0 };
	int rc = client_open(&c, cfg, NULL, &e);

	if (rc < 0)
		fail_msg("%s", e.why);
	return c;
}

static void start(struct sim *s, const struct be_ops *ops, unsigned workers, unsigned streams)
{
	struct client_config cfg;

	assert_int_equal(sim_open(s, ops, NULL, 11, workers, store), 0);
	cfg = sim_client(s);
	cfg.streams = streams;
	cfg.workers = streams < 2 ? 1 : 2;
	cfg.stage_chunk = 4096;
	cfg.timeout_ns = 6 * NS_PER_S;
	s->client = join(&cfg);
}

/* Time goes on in large steps: nothing is under way. */
static void sleep_s(struct sim *s, unsigned seconds)
{
	for (unsigned i = 0; i < seconds; i++) {
		s->now += NS_PER_S;
		sim_run(s, NS_PER_MS);
	}
}

static struct session *session_at(struct sim *s, uint32_t i)
{
	return s->server->sessions[i].used ? &s->server->sessions[i] : NULL;
}

/* ---- connecting -------------------------------------------------------------------------------- */

/* What the server answers to a connection that the client's session does not make itself. */
static enum pre_status knock(struct sim *s, const struct preamble *p)
{
	struct be_open o = { .clock = clock_manual(&s->now),
			     .streams = 1,
			     .frames = 1,
			     .frame_bytes = 4096,
			     .sends = 1,
			     .regions = 1,
			     .cpu = -1,
			     .fabric = s->fabric };
	struct pre_reply r = { .status = PRE_STATUSES };
	uint8_t pre[BE_PREAMBLE];
	struct be_event ev;
	struct be *be;
	be_stream h;
	struct err e;

	assert_int_equal(s->ops->open(&o, &be, &e), 0);
	wire_put_preamble(pre, p);
	assert_int_equal(s->ops->connect(be, &s->at, pre, 0, 1, &h, &e), 0);
	for (int i = 0; i < 1000 && r.status == PRE_STATUSES; i++) {
		sim_run(s, NS_PER_MS);
		if (s->ops->poll(be, &ev, 1) == 1 && (ev.type == BE_DOWN || ev.type == BE_CONNECTED))
			assert_int_equal(wire_get_reply(ev.data, &r), 0);
	}
	s->ops->close(be);
	return (enum pre_status)r.status;
}

static void test_stream_while_control_is_lost(void **state)
{
	struct sim s;
	struct preamble p = { .version = WIRE_VERSION, .kind = PRE_DATA, .incarnation = 100 };

	(void)state;
	start(&s, &mem_ops, 2, 2);
	memcpy(p.session, s.client->session, sizeof p.session);
	sim_drop_control(&s);
	sim_run(&s, 10 * NS_PER_MS);
	assert_int_equal(session_at(&s, 0)->ctl, 0);
	assert_int_equal(knock(&s, &p), PRE_NOT_NOW);
	p.session[0] ^= 1;
	assert_int_equal(knock(&s, &p), PRE_NO_SESSION);
	sim_close(&s);
}

static void test_workers_fit_the_budget(void **state)
{
	struct client_config cfg;
	struct sim s;

	(void)state;
	assert_int_equal(sim_open(&s, &mem_ops, NULL, 1, 16, NULL), 0);
	cfg = sim_client(&s);
	cfg.streams = cfg.workers = 16;
	s.client = join(&cfg);
	assert_int_equal(client_peer(s.client)->workers, 16);
	client_close(s.client);
	s.client = NULL;
	cfg.stage_chunk = STAGE_CHUNK_MAX;
	cfg.seed++;
	s.client = join(&cfg);
	assert_int_equal(client_peer(s.client)->workers, amst_workers_most(STAGE_CHUNK_MAX));
	assert_in_range(client_peer(s.client)->workers, 1, 4);
	sim_close(&s);
}

/* Both ways of the limit: what fits is served, and the error of what does not says how many would. */
static void test_sessions_that_fit_the_backend(void **state)
{
	struct server_config cfg = { .ops = &mem_ops, .workers = 1, .timeout_ns = NS_PER_S, .manual = true };
	struct server *srv = NULL;
	struct err e = { 0 };
	uint64_t now = 1;

	(void)state;
	cfg.clock = clock_manual(&now);
	cfg.listen.in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(7411) };
	cfg.listen.len = sizeof cfg.listen.in;
	assert_int_equal(mem_fabric_open((struct mem_fabric **)&cfg.fabric, NULL, 1, cfg.clock, &e), 0);
	cfg.sessions = (mem_ops.caps.streams_max - 8) / 4;
	if (server_open(&srv, &cfg, &e) < 0)
		fail_msg("%u sessions: %s", cfg.sessions, e.why);
	server_close(srv);
	for (int i = 0; i < 2; i++) {
		cfg.sessions = i ? 0 : cfg.sessions + 1;
		assert_int_equal(server_open(&srv, &cfg, &e), -EINVAL);
		assert_non_null(strstr(e.why, "--sessions"));
	}
	mem_fabric_close(cfg.fabric);
}

/* ---- idle sessions ----------------------------------------------------------------------------- */

static void test_idle_session_ends(void **state)
{
	struct sim s;
	struct err e = { 0 };
	int rc = 0;

	(void)state;
	start(&s, &mem_ops, 1, 1);
	sleep_s(&s, 50);
	assert_int_equal(sim_counters(&s).sessions_now, 1);
	for (int i = 0; i < 25 && rc == 0; i++) {
		sleep_s(&s, 1);
		rc = client_turn(s.client, 0, &e);
	}
	assert_int_equal(rc, -ESHUTDOWN);
	assert_non_null(strstr(e.why, "nothing was asked"));
	sleep_s(&s, 3);
	assert_int_equal(sim_counters(&s).sessions_now, 0);
	assert_int_equal(sim_counters(&s).sessions_failed, 1);
	sim_close(&s);
}

static void test_asking_keeps_a_session(void **state)
{
	struct msg_info info;
	struct sim s;
	struct err e;

	(void)state;
	start(&s, &mem_ops, 1, 1);
	for (int i = 0; i < 4; i++) {
		sleep_s(&s, 40);
		assert_int_equal(client_info(s.client, &info, &e), 0);
	}
	sim_close(&s);
}

static void test_moving_keeps_a_session(void **state)
{
	uint64_t bytes = 400000, len;
	uint8_t *src = data_new(bytes, 5);
	struct amst_extent x = { .len = bytes };
	struct amst_tx tx = { .chunk = 250, .passes = 1, .extents = &x, .n_extents = 1, .base = src };
	struct err e = { 0 };
	struct sim s;
	int rc;

	(void)state;
	start(&s, &mem_ops, 1, 1);
	assert_int_equal(client_region_make(s.client, 1, bytes, 0, &tx.token, NULL, &e), 0);
	mem_fabric_faults(s.fabric)->path[0].bytes_per_s = 5000; /* 80 s: longer than a session may be idle */
	mem_fabric_faults(s.fabric)->path[1].bytes_per_s = 5000;
	rc = client_transfer(s.client, &tx, XFER_PUT, NULL, NULL, &e);
	if (rc < 0)
		fail_msg("%s", e.why);
	assert_in_range(s.now, 75 * NS_PER_S, 200 * NS_PER_S);
	assert_memory_equal(sim_region(&s, 1, &len), src, bytes);
	sim_close(&s);
	free(src);
}

/* ---- regions ----------------------------------------------------------------------------------- */

static unsigned adds_until_failure;

static int failing_region_add(struct be *be, uint32_t domain, uint32_t id, void *addr, uint64_t len,
			      struct be_token *out, struct err *e)
{
	if (adds_until_failure && !--adds_until_failure)
		return err_set(e, -ENOMEM, "no room for another region");
	return mem_ops.region_add(be, domain, id, addr, len, out, e);
}

static void test_region_that_cannot_be_registered(void **state)
{
	struct be_ops ops = mem_ops;
	uint64_t bytes = 40u << 20; /* of 64: what the first try took must have come back */
	struct be_token token;
	struct msg_info info;
	struct sim s;
	struct err e = { 0 };

	(void)state;
	ops.region_add = failing_region_add;
	start(&s, &ops, 2, 2);
	adds_until_failure = 2; /* one worker has it, the other has not */
	assert_int_equal(client_region_make(s.client, 1, bytes, 0, &token, NULL, &e), -ENOMEM);
	assert_int_equal(adds_until_failure, 0);
	assert_null(session_at(&s, 0)->regions[1].addr);
	assert_int_equal(s.server->region_bytes, 0);
	assert_int_equal(client_region_make(s.client, 1, bytes, 0, &token, NULL, &e), 0);
	assert_int_equal(client_info(s.client, &info, &e), 0);
	assert_int_equal(info.region_bytes, bytes);
	assert_int_equal(s.server->region_bytes, bytes);
	sim_close(&s);
}

static void test_info_is_of_the_session(void **state)
{
	struct client_config cfg;
	struct client *other;
	struct be_token token;
	struct msg_info info;
	struct sim s;
	struct err e;

	(void)state;
	start(&s, &mem_ops, 1, 1);
	assert_int_equal((uintptr_t)s.server->sessions % CACHE_LINE, 0);
	cfg = sim_client(&s);
	other = join(&cfg);
	assert_int_equal(client_region_make(s.client, 1, 8192, 0, &token, NULL, &e), 0);
	assert_int_equal(client_info(other, &info, &e), 0);
	assert_int_equal(info.region_bytes, 0);
	assert_in_range(info.rss_bytes, 1, UINT64_MAX);
	client_close(other);
	sim_close(&s);
}

/* ---- transfers --------------------------------------------------------------------------------- */

static int xfer_begin(struct client *c, int kind, uint64_t chunks, uint32_t chunk)
{
	struct msg_xfer_begin m = { .kind = (uint8_t)kind, .chunks = chunks, .chunk = chunk };
	uint8_t fields[64];
	struct wcur w = wcur_init(fields, sizeof fields);
	struct rcur in;
	struct err e;

	put_u32(&w, 1);
	wire_put(&w, &wire_xfer_begin, &m);
	return client_call(c, MSG_XFER_BEGIN, fields, (uint32_t)(w.p - fields), &in, &e);
}

static void test_chunks_fit_what_is_there(void **state)
{
	struct be_token token;
	struct sim_files v = { .n = 1, .f[0] = { .name = "fits", .size = 1u << 20 } };
	struct sim s;
	struct err e;

	(void)state;
	start(&s, &mem_ops, 1, 1);
	assert_int_equal(xfer_begin(s.client, XFER_PUT, 1, 4096), -EINVAL); /* no region yet */
	assert_int_equal(client_region_make(s.client, 1, 1u << 20, 0, &token, NULL, &e), 0);
	assert_int_equal(sim_files_open(s.client, &v, false, &e), 0);
	for (int kind = XFER_PUT; kind <= XFER_FILES; kind++) {
		assert_int_equal(xfer_begin(s.client, kind, 1, 0), -EINVAL);
		assert_int_equal(xfer_begin(s.client, kind, 1ull << 28, 4096), -EINVAL);
		assert_int_equal(xfer_begin(s.client, kind, UINT64_MAX, 1), -EINVAL);
		/* Each sector a chunk of its own, and no more than that. */
		assert_int_equal(xfer_begin(s.client, kind, (1u << 20) / 512 + (1u << 20) / 4096 + 2, 4096), -EINVAL);
	}
	assert_int_equal(xfer_begin(s.client, XFER_FILES, (1u << 20) / 512, 4096), 0);
	assert_int_equal(xfer_begin(s.client, XFER_FILES, 1, 4096), -EBUSY);
	sim_close(&s);
}

/* ---- files ------------------------------------------------------------------------------------- */

static struct sim_files three_files(const char *prefix)
{
	struct sim_files v = { .n = 3 };

	for (uint32_t i = 0; i < v.n; i++) {
		snprintf(v.f[i].name, sizeof v.f[i].name, "%s%u", prefix, i);
		v.f[i].size = 5000;
		v.f[i].data = data_new(5000, i);
	}
	return v;
}

static void free_files(struct sim_files *v)
{
	for (uint32_t i = 0; i < v->n; i++)
		free(v->f[i].data);
}

static void test_abandoned_files_are_counted(void **state)
{
	struct sim_files v = three_files("left");
	struct sim s;
	struct err e;

	(void)state;
	start(&s, &mem_ops, 1, 1);
	snprintf(v.f[1].name, sizeof v.f[1].name, "../outside");
	assert_int_equal(sim_files_open(s.client, &v, false, &e), 0);
	assert_true(v.f[1].status < 0);
	assert_int_equal(sim_counters(&s).files_failed, 1);
	client_close(s.client);
	s.client = NULL;
	sim_run(&s, NS_PER_S);
	assert_int_equal(sim_counters(&s).sessions_now, 0);
	assert_int_equal(sim_counters(&s).files_failed, 3);
	assert_int_equal(sim_counters(&s).files_received, 0);
	sim_close(&s);
	free_files(&v);
}

static void test_refused_file_is_counted_once(void **state)
{
	struct sim_files v = three_files("once");
	struct sim s;
	struct err e;

	(void)state;
	start(&s, &mem_ops, 1, 1);
	snprintf(v.f[1].name, sizeof v.f[1].name, "../outside");
	assert_int_equal(sim_files_open(s.client, &v, false, &e), 0);
	assert_int_equal(sim_files_send(s.client, &v, 4096, SUM_XXH3, NULL, NULL, &e), 0);
	assert_int_equal(sim_files_close(s.client, &v, true, &e), 0);
	assert_int_equal(sim_counters(&s).files_failed, 1);
	assert_int_equal(sim_counters(&s).files_received, 2);
	sim_close(&s);
	free_files(&v);
}

static void say(struct client *c, uint16_t type, const void *fields, uint32_t len)
{
	uint8_t msg[64];
	struct wcur w = wcur_init(msg, sizeof msg);

	wire_put_head(&w, type, ++c->next_id);
	put_bytes(&w, fields, len);
	wire_seal(msg, (uint32_t)(w.p - msg));
	assert_int_equal(c->cfg.ops->send(c->ctl, c->ctl_stream,
					  &(struct be_msg){ .head = msg, .head_len = (uint32_t)(w.p - msg) }, 1),
			 1);
}

/* The session begins to die while FILES_CLOSE runs: what it renamed is there, and counted. */
static void test_files_closed_by_a_dying_session(void **state)
{
	uint8_t close_all[64];
	struct wcur w = wcur_init(close_all, sizeof close_all);
	struct sim_files v = three_files("dying");
	struct sim s;
	struct err e;

	(void)state;
	start(&s, &mem_ops, 1, 1);
	assert_int_equal(sim_files_open(s.client, &v, false, &e), 0);
	assert_int_equal(sim_files_send(s.client, &v, 4096, SUM_XXH3, NULL, NULL, &e), 0);
	put_u8(&w, 0);
	put_u16(&w, 3);
	for (int i = 0; i < 3; i++)
		wire_put(&w, &wire_file_close, &(struct msg_file_close){ .complete = 1, .bytes = v.f[i].size });
	say(s.client, MSG_FILES_CLOSE, close_all, (uint32_t)(w.p - close_all));
	say(s.client, MSG_BYE, NULL, 0);
	for (int i = 0; i < 1000 && sim_counters(&s).sessions_now; i++) {
		conn_events(s.client);
		sim_run(&s, 10 * NS_PER_MS);
	}
	assert_int_equal(sim_counters(&s).sessions_now, 0);
	assert_int_equal(sim_counters(&s).files_received, 3);
	assert_int_equal(sim_counters(&s).files_failed, 0);
	for (uint32_t i = 0; i < v.n; i++)
		tree_expect(dir, v.f[i].name, v.f[i].data, v.f[i].size);
	sim_close(&s);
	free_files(&v);
}

/* Only the lost session that holds what is sent anew ends. */
static void test_files_of_a_lost_session_sent_anew(void **state)
{
	struct sim_files v = three_files("anew"), w = three_files("other");
	struct client_config cfg;
	struct client *lost[2];
	struct sim s;
	struct err e;

	(void)state;
	start(&s, &mem_ops, 1, 1);
	cfg = sim_client(&s);
	for (int i = 0; i < 2; i++) {
		cfg.seed++;
		lost[i] = join(&cfg);
		assert_int_equal(sim_files_open(lost[i], i ? &w : &v, false, &e), 0);
	}
	mem_crash(lost[0]->ctl);
	mem_crash(lost[1]->ctl);
	sim_run(&s, 100 * NS_PER_MS);
	assert_int_not_equal(session_at(&s, 1)->lost_at, 0);
	assert_int_not_equal(session_at(&s, 2)->lost_at, 0);
	assert_int_equal(sim_files_open(s.client, &v, false, &e), 0);
	for (uint32_t i = 0; i < v.n; i++)
		assert_int_equal(v.f[i].status, 0);
	assert_int_equal(sim_counters(&s).sessions_now, 2);
	assert_null(session_at(&s, 1));
	assert_int_equal(sim_counters(&s).files_failed, 3);
	client_close(lost[0]);
	client_close(lost[1]);
	sim_close(&s);
	free_files(&v);
	free_files(&w);
}

static struct client *polled; /* a client that takes what is sent to it */

static void poll_client(struct sim *s)
{
	(void)s;
	conn_events(polled);
}

/* The holder, and a second sender of the same names. */
static struct client *hold(struct sim *s, struct sim_files *v)
{
	struct client_config cfg;
	struct client *c;
	struct err e;

	start(s, &mem_ops, 1, 1);
	cfg = sim_client(s);
	cfg.seed++;
	c = join(&cfg);
	assert_int_equal(sim_files_open(c, v, false, &e), 0);
	return c;
}

/* Nobody tells that a host has vanished: it takes nothing any more, and that is seen within seconds. */
static void test_files_of_a_host_that_vanished(void **state)
{
	struct sim_files v = three_files("gone");
	struct sim s;
	struct client *gone = hold(&s, &v);
	uint64_t started = s.now;
	struct err e;

	(void)state;
	assert_int_equal(sim_files_open(s.client, &v, false, &e), 0);
	for (uint32_t i = 0; i < v.n; i++)
		assert_int_equal(v.f[i].status, 0);
	assert_in_range(s.now - started, 4 * NS_PER_S, 10 * NS_PER_S);
	assert_null(session_at(&s, 1));
	/* Each file that was given up is counted once, however often the list was tried. */
	assert_int_equal(sim_counters(&s).files_failed, 3);
	client_close(gone);
	sim_close(&s);
	free_files(&v);
}

/* One that is there keeps its files, and who comes second is told so soon. */
static void test_files_of_a_host_that_is_there(void **state)
{
	struct sim_files v = three_files("there");
	struct sim s;
	struct client *there = hold(&s, &v);
	uint64_t started = s.now;
	struct err e;

	(void)state;
	polled = there;
	s.step = poll_client;
	for (int round = 0; round < 2; round++) {
		assert_int_equal(sim_files_open(s.client, &v, false, &e), 0);
		for (uint32_t i = 0; i < v.n; i++)
			assert_int_equal(v.f[i].status, -EBUSY);
		assert_int_equal(sim_counters(&s).files_failed, 3 * (round + 1));
	}
	assert_in_range(s.now - started, 0, NS_PER_S);
	assert_non_null(session_at(&s, 1));
	/* Long afterwards it vanishes, and that is not taken for an old silence. */
	s.step = NULL;
	sleep_s(&s, 20);
	started = s.now;
	assert_int_equal(sim_files_open(s.client, &v, false, &e), 0);
	assert_int_equal(v.f[0].status, 0);
	assert_in_range(s.now - started, 4 * NS_PER_S, 10 * NS_PER_S);
	client_close(there);
	sim_close(&s);
	free_files(&v);
}

static void kill_when_asked(struct sim *s)
{
	if (polled && session_at(s, 0)->files_busy) {
		mem_crash(polled->ctl);
		polled = NULL;
	}
}

/* The sender was killed this moment: the second one is faster than the news, which then end the waiting. */
static void test_files_of_a_sender_just_killed(void **state)
{
	struct sim_files v = three_files("killed");
	struct sim s;
	struct client *killed = hold(&s, &v);
	uint64_t started = s.now;
	struct err e;

	(void)state;
	polled = killed;
	s.step = kill_when_asked;
	assert_int_equal(sim_files_open(s.client, &v, false, &e), 0);
	for (uint32_t i = 0; i < v.n; i++)
		assert_int_equal(v.f[i].status, 0);
	assert_null(polled);
	assert_in_range(s.now - started, 0, NS_PER_S);
	assert_int_equal(sim_counters(&s).files_failed, 3);
	client_close(killed);
	sim_close(&s);
	free_files(&v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stream_while_control_is_lost),
		cmocka_unit_test(test_workers_fit_the_budget),
		cmocka_unit_test(test_sessions_that_fit_the_backend),
		cmocka_unit_test(test_idle_session_ends),
		cmocka_unit_test(test_asking_keeps_a_session),
		cmocka_unit_test(test_moving_keeps_a_session),
		cmocka_unit_test(test_region_that_cannot_be_registered),
		cmocka_unit_test(test_info_is_of_the_session),
		cmocka_unit_test_setup_teardown(test_chunks_fit_what_is_there, store_setup, store_teardown),
		cmocka_unit_test_setup_teardown(test_abandoned_files_are_counted, store_setup, store_teardown),
		cmocka_unit_test_setup_teardown(test_refused_file_is_counted_once, store_setup, store_teardown),
		cmocka_unit_test_setup_teardown(test_files_closed_by_a_dying_session, store_setup, store_teardown),
		cmocka_unit_test_setup_teardown(test_files_of_a_lost_session_sent_anew, store_setup, store_teardown),
		cmocka_unit_test_setup_teardown(test_files_of_a_host_that_vanished, store_setup, store_teardown),
		cmocka_unit_test_setup_teardown(test_files_of_a_host_that_is_there, store_setup, store_teardown),
		cmocka_unit_test_setup_teardown(test_files_of_a_sender_just_killed, store_setup, store_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * Sessions that have bad luck: either end is gone at any moment, the network is away for too long, the disk is full,
 * chunks arrive damaged without end, the user interrupts. The other end says so in time and is left clean.
 */
#include "kmod-free-tests/sim.h"
#include "kmod-free-tests/sim_files.h"
#include "kmod-free-tests/store_fixture.h"
#include "transport/client_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define BYTES 300000
#define TIMEOUT (5 * NS_PER_S)

static struct sim sim;
static uint8_t src[BYTES], dst[BYTES];
static volatile sig_atomic_t interrupted;

static int open_with(const struct be_ops *ops, struct store *st)
{
	interrupted = 0;
	rng_fill(src, sizeof src, 11);
	memset(dst, 0, sizeof dst);
	return sim_open(&sim, ops, NULL, 42, 2, st);
}

static int setup(void **state)
{
	(void)state;
	return open_with(&mem_ops, NULL);
}

static int setup_one_sided(void **state)
{
	(void)state;
	return open_with(&mem_one_sided_ops, NULL);
}

static int setup_store(void **state)
{
	return store_setup(state) || open_with(&mem_ops, store);
}

static struct client_config config(unsigned streams)
{
	struct client_config cfg = sim_client(&sim);

	cfg.streams = streams;
	cfg.workers = streams < 2 ? 1 : 2;
	cfg.timeout_ns = TIMEOUT;
	cfg.stage_chunk = 16384;
	cfg.interrupted = &interrupted;
	return cfg;
}

static void join(unsigned streams)
{
	struct client_config cfg = config(streams);
	struct err e = { 0 };

	if (client_open(&sim.client, &cfg, NULL, &e) < 0)
		fail_msg("%s", e.why);
}

static int send_region(uint32_t chunk, uint64_t passes, const struct client_tick *tick, struct err *e)
{
	struct amst_extent x = { .len = BYTES };
	struct amst_tx tx = {
		.chunk = chunk, .sum = SUM_XXH3, .passes = passes, .extents = &x, .n_extents = 1, .base = src
	};
	int rc = client_region_make(sim.client, 1, BYTES, 0, &tx.token, NULL, e);

	return rc < 0 ? rc : client_transfer(sim.client, &tx, XFER_PUT, tick, NULL, e);
}

static void leave(void)
{
	client_close(sim.client);
	sim.client = NULL;
}

/* After whatever happened: nothing is left over there, and the next one is served. */
static int teardown(void **state)
{
	struct server_counters sc;
	struct err e = { 0 };
	uint64_t len;

	(void)state;
	sim_calm(&sim);
	interrupted = 0;
	leave();
	sim_run(&sim, 3 * TIMEOUT);
	sc = sim_counters(&sim);
	assert_int_equal(sc.sessions_now, 0);
	assert_int_equal(sc.streams_now, 0);
	assert_int_equal(sc.region_bytes_now, 0);
	join(3);
	if (send_region(5000, 1, NULL, &e) < 0)
		fail_msg("%s", e.why);
	assert_memory_equal(sim_region(&sim, 1, &len), src, BYTES);
	sim_close(&sim);
	return 0;
}

static int teardown_store(void **state)
{
	int rc = teardown(state);

	return rc ? rc : store_teardown(state);
}

/* Trouble of a kind, once, so and so many steps after it was armed. */
static void (*bad_luck)(struct sim *s);
static unsigned countdown;

static void step(struct sim *s)
{
	if (countdown && !--countdown)
		bad_luck(s);
}

static void arm(void (*luck)(struct sim *s), unsigned steps)
{
	bad_luck = luck;
	countdown = steps;
	sim.step = step;
}

static void go_dark(struct sim *s)
{
	mem_partition(s->fabric, true);
}

static void interrupt(struct sim *s)
{
	(void)s;
	interrupted = 1;
}

static void slow_network(void)
{
	*mem_fabric_faults(sim.fabric) = (struct mem_faults){
		.path = { { .delay_ns = NS_PER_MS, .bytes_per_s = 20000000 },
			  { .delay_ns = NS_PER_MS, .bytes_per_s = 20000000 } },
		.idle_timeout_ns = NS_PER_S,
		.connect_timeout_ns = NS_PER_S,
	};
}

/* ---- one end is gone ---------------------------------------------------------------------------- */

/* Every request of a session, one after the other. */
static int whole_session(struct err *e)
{
	struct be_token there, here;
	struct msg_pull_result pulled;
	struct digest128 d;
	struct msg_info info;
	int rc = send_region(5000, 1, NULL, e);

	if (rc == 0)
		rc = client_digest(sim.client, 1, 0, BYTES, &d, e);
	if (rc == 0)
		rc = client_region_make(sim.client, 3, BYTES, 9, &there, NULL, e);
	if (rc == 0)
		rc = client_region_offer(sim.client, 2, dst, BYTES, &here, e);
	if (rc == 0)
		rc = client_pull(sim.client, 3, 2, here, BYTES, BYTES, 1, 5000, NULL, &pulled, e);
	if (rc == 0)
		rc = client_info(sim.client, &info, e);
	return rc;
}

/* The server is dead from step n on: the client says so within its time-out (and a little for a last attempt). */
static void test_server_crashes_at_any_moment(void **state)
{
	unsigned n, lost = 0;

	for (n = 1; n < 2000; n += 1 + n / 8) {
		struct err e = { 0 };
		uint64_t started;
		int rc;

		join(3);
		slow_network();
		arm(sim_crash_server, n);
		started = sim.now;
		rc = whole_session(&e);
		if (countdown) { /* it was over before */
			assert_int_equal(rc, 0);
			break;
		}
		lost++;
		assert_int_not_equal(rc, 0);
		assert_true(strlen(e.why) > 20);
		assert_in_range(sim.now - started, 0, 2 * TIMEOUT + 2 * NS_PER_S);
		sim_close(&sim);
		assert_int_equal(setup(state), 0);
	}
	assert_true(lost > 20);
}

/* The client is dead from step n on: the server gives everything back within the session's time-out. */
static void test_client_crashes_at_any_moment(void **state)
{
	unsigned n, lost = 0;

	(void)state;
	for (n = 1; n < 2000; n += 1 + n / 8) {
		struct server_counters sc;
		struct err e = { 0 };
		int rc;

		sim_calm(&sim);
		interrupted = 0;
		join(3);
		slow_network();
		arm(interrupt, n);
		rc = whole_session(&e);
		if (countdown) {
			assert_int_equal(rc, 0);
			break;
		}
		lost++;
		sim_crash_client(&sim); /* before it can say BYE */
		leave();
		sim_run(&sim, TIMEOUT + 4 * NS_PER_S);
		sc = sim_counters(&sim);
		assert_int_equal(sc.sessions_now, 0);
		assert_int_equal(sc.streams_now, 0);
		assert_int_equal(sc.region_bytes_now, 0);
		assert_int_equal(sc.sessions_failed, lost);
	}
	assert_true(lost > 20);
}

static void test_control_stream_lost_in_every_request(void **state)
{
	unsigned n;

	(void)state;
	for (n = 1; n < 2000; n += 1 + n / 12) {
		struct err e = { 0 };
		int rc;

		sim_calm(&sim);
		join(3);
		slow_network();
		arm(sim_drop_control, n);
		rc = whole_session(&e);
		if (rc < 0)
			fail_msg("step %u: %s", n, e.why);
		if (countdown)
			break;
		assert_int_equal(client_resumes(sim.client), 1);
		leave();
	}
	assert_int_equal(sim_counters(&sim).sessions_failed, 0);
}

/* ---- the network is away ------------------------------------------------------------------------ */

static void test_partition_that_lasts(void **state)
{
	struct err e = { 0 };
	uint64_t started;
	int rc;

	(void)state;
	join(3);
	slow_network();
	arm(go_dark, 30);
	started = sim.now;
	rc = send_region(5000, 1, NULL, &e);
	assert_int_equal(rc, -ETIMEDOUT);
	assert_non_null(strstr(e.why, "within the time-out"));
	assert_in_range(sim.now - started, TIMEOUT, TIMEOUT + 4 * NS_PER_S);
	/* Over there it is found out by itself. */
	sim_run(&sim, 2 * TIMEOUT);
	assert_int_equal(sim_counters(&sim).sessions_now, 0);
	assert_int_equal(sim_counters(&sim).sessions_failed, 1);
}

static void heal(struct sim *s)
{
	mem_partition(s->fabric, false);
}

static void dark_for_a_while(struct sim *s)
{
	mem_partition(s->fabric, true);
	arm(heal, 15000); /* three seconds */
}

static void test_partition_that_heals(void **state)
{
	struct err e = { 0 };
	uint64_t len;

	(void)state;
	join(3);
	slow_network();
	arm(dark_for_a_while, 30);
	if (send_region(5000, 1, NULL, &e) < 0)
		fail_msg("%s", e.why);
	assert_int_equal(client_resumes(sim.client), 1);
	assert_memory_equal(sim_region(&sim, 1, &len), src, BYTES);
	assert_int_equal(sim_counters(&sim).sessions_resumed, 1);
	assert_int_equal(sim_counters(&sim).sessions_failed, 0);
}

/* The session is gone when the client comes back: it is told, and need not wait for the time-out. */
static void kill_sessions(struct sim *s)
{
	struct server_config cfg;
	struct err e;

	sim_crash_server(s);
	server_close(s->server);
	cfg = (struct server_config){ .ops = s->ops,
				      .workers = 1,
				      .sessions = 4,
				      .memory_max = 64u << 20,
				      .listen = s->at,
				      .timeout_ns = 60 * NS_PER_S,
				      .clock = clock_manual(&s->now),
				      .seed = 5,
				      .manual = true,
				      .fabric = s->fabric };
	assert_int_equal(server_open(&s->server, &cfg, &e), 0);
}

static void test_server_restarts(void **state)
{
	struct err e = { 0 };
	uint64_t started;

	(void)state;
	join(2);
	slow_network();
	arm(kill_sessions, 25);
	started = sim.now;
	assert_int_equal(send_region(5000, 1, NULL, &e), -ESTALE);
	assert_non_null(strstr(e.why, "does not know the session"));
	assert_non_null(strstr(e.why, "--resume"));
	assert_in_range(sim.now - started, 0, NS_PER_S);
}

/* ---- a server that is there and says nothing ------------------------------------------------------ */

static void drive_time(void *ctx)
{
	(void)ctx;
	sim.now += 50 * NS_PER_MS;
}

/* What it was asked, for how long, and the option that helps where it was only slow. */
static void test_silence_says_what_was_asked(void **state)
{
	struct be_token token;
	struct digest128 d;
	struct err e = { 0 };

	(void)state;
	join(1);
	assert_int_equal(client_region_make(sim.client, 1, BYTES, 0, &token, NULL, &e), 0);
	sim.client->cfg.drive = drive_time;
	assert_int_equal(client_digest(sim.client, 1, 0, BYTES, &d, &e), -ETIMEDOUT);
	if (!strstr(e.why, "check a region's content") || !strstr(e.why, "50 s") || !strstr(e.why, "--timeout"))
		fail_msg("%s", e.why);
	sim.client->cfg.drive = sim_client(&sim).drive;
}

/* ---- who answers is not the server ---------------------------------------------------------------- */

struct stranger {
	struct be *be;
	uint8_t reply[BE_PREAMBLE];
	bool accept;
};

static void drive_stranger(void *ctx)
{
	struct stranger *x = ctx;
	struct be_event ev[4];
	int n = sim.ops->poll(x->be, ev, ARRAY_LEN(ev));
	be_stream h;

	for (int i = 0; i < n; i++)
		if (ev[i].type == BE_INCOMING && x->accept)
			sim.ops->accept(x->be, ev[i].request, x->reply, 0, 1, &h);
		else if (ev[i].type == BE_INCOMING)
			sim.ops->reject(x->be, ev[i].request, x->reply);
	sim_run(&sim, NS_PER_MS);
}

/* A server that accepts with such an answer is no better than one that refuses. */
static void expect_refusal(struct stranger *x, const char *text, int want)
{
	for (int accept = 0; accept < 2; accept++) {
		struct client_config cfg = config(1);
		struct be_addr at = sim.at;
		struct client *c = NULL;
		struct err e = { 0 };
		int rc;

		at.in.sin_port = htons(2222);
		x->accept = accept;
		cfg.addrs = &at;
		cfg.drive = drive_stranger;
		cfg.drive_ctx = x;
		rc = client_open(&c, &cfg, NULL, &e);
		if (rc != want || !strstr(e.why, text))
			fail_msg("%s: %d %s", text, rc, e.why);
	}
}

static void test_who_answers_is_not_the_server(void **state)
{
	struct be_open o = { .clock = clock_manual(&sim.now),
			     .streams = 4,
			     .frames = 4,
			     .frame_bytes = WIRE_CTL_MAX,
			     .sends = 8,
			     .cpu = -1,
			     .fabric = sim.fabric };
	struct be_addr at = sim.at, bound;
	struct stranger x = { .reply = "SSH-2.0-\033[31mOpenSSH\r\n" };
	struct err e;

	(void)state;
	at.in.sin_port = htons(2222);
	assert_int_equal(sim.ops->open(&o, &x.be, &e), 0);
	assert_int_equal(sim.ops->listen(x.be, &at, &bound, &e), 0);
	expect_refusal(&x, "not as a dwcp server (it said \"SSH-2.0-.[31mOpenSSH\")", -EPROTO);
	wire_put_reply(x.reply, &(struct pre_reply){ .version = 9, .status = PRE_BAD_VERSION });
	expect_refusal(&x, "speaks protocol version 9, this dwcp speaks 1", -EPROTO);
	wire_put_reply(x.reply, &(struct pre_reply){ .version = 0, .status = PRE_OK });
	expect_refusal(&x, "speaks protocol version 0, this dwcp speaks 1", -EPROTO);
	wire_put_reply(x.reply, &(struct pre_reply){ .version = 1, .status = PRE_BUSY });
	expect_refusal(&x, "as many sessions as it allows", -ECONNREFUSED);
	wire_put_reply(x.reply, &(struct pre_reply){ .version = 1, .status = PRE_STOPPING });
	expect_refusal(&x, "shutting down", -ECONNREFUSED);
	wire_put_reply(x.reply, &(struct pre_reply){ .version = 1, .status = 200 });
	expect_refusal(&x, "a reason this release does not know", -ECONNREFUSED);
	/* Accepted, but for another session. */
	wire_put_reply(x.reply, &(struct pre_reply){ .version = 1, .status = PRE_OK });
	expect_refusal(&x, "not as a dwcp server", -EPROTO);
	sim.ops->close(x.be);
}

/* ---- a name with several addresses --------------------------------------------------------------- */

/* Opens a session with two addresses whose first accepts nothing; how long it took. */
static uint64_t two_addresses(uint16_t second, int want, const char *text)
{
	struct be_addr to[2] = { sim.at, sim.at };
	struct client_config cfg = config(1);
	uint64_t started = sim.now;
	struct client *c = NULL;
	struct err e = { 0 };
	int rc;

	to[0].in.sin_port = htons(2222);
	to[1].in.sin_port = htons(second);
	cfg.addrs = to;
	cfg.n_addrs = 2;
	rc = client_open(&c, &cfg, NULL, &e);
	if (rc != want || (rc < 0 && !strstr(e.why, text)))
		fail_msg("%d %s", rc, e.why);
	started = sim.now - started;
	client_close(c);
	return started;
}

static struct be *deaf;
static uint64_t accept_at;

static void accept_late(struct sim *s)
{
	struct be_event ev[4];
	uint8_t ok[BE_PREAMBLE];
	be_stream h;

	for (int i = 0, n = s->now >= accept_at ? s->ops->poll(deaf, ev, ARRAY_LEN(ev)) : 0; i < n; i++)
		if (ev[i].type == BE_INCOMING) {
			wire_put_reply(ok, &(struct pre_reply){ .version = WIRE_VERSION, .status = PRE_STOPPING });
			s->ops->accept(deaf, ev[i].request, ok, 0, 1, &h);
		}
}

/* One that leads nowhere costs two seconds, and the whole time-out only where nothing else answers. */
static void test_address_that_leads_nowhere(void **state)
{
	struct be_open o = { .clock = clock_manual(&sim.now),
			     .streams = 8,
			     .frames = 4,
			     .frame_bytes = WIRE_CTL_MAX,
			     .sends = 8,
			     .cpu = -1,
			     .fabric = sim.fabric };
	struct be_addr at = sim.at, bound;
	struct err e;

	(void)state;
	at.in.sin_port = htons(2222);
	assert_int_equal(sim.ops->open(&o, &deaf, &e), 0);
	assert_int_equal(sim.ops->listen(deaf, &at, &bound, &e), 0);
	assert_in_range(two_addresses(7411, 0, ""), 2 * NS_PER_S, 3 * NS_PER_S);
	assert_in_range(two_addresses(7412, -ETIMEDOUT, "in time"), 2 * NS_PER_S + TIMEOUT, 3 * NS_PER_S + TIMEOUT);
	/* It answers in the second round, and that is believed. */
	accept_at = sim.now + 4 * NS_PER_S;
	sim.step = accept_late;
	assert_in_range(two_addresses(7412, -ECONNREFUSED, "shutting down"), 4 * NS_PER_S, 5 * NS_PER_S);
	sim.step = NULL;
	sim.ops->close(deaf);
}

/* ---- the user ----------------------------------------------------------------------------------- */

static void test_interrupted(void **state)
{
	(void)state;
	for (unsigned n = 1; n < 400; n += 1 + n / 4) {
		struct err e = { 0 };
		uint64_t started;
		int rc;

		sim_calm(&sim);
		interrupted = 0;
		join(3);
		slow_network();
		arm(interrupt, n);
		rc = whole_session(&e);
		if (countdown)
			break;
		assert_int_equal(rc, -EINTR);
		assert_string_equal(e.why, "interrupted");
		started = sim.now;
		leave();
		assert_in_range(sim.now - started, 0, 1100 * NS_PER_MS);
		sim_run(&sim, 3 * NS_PER_S);
		assert_int_equal(sim_counters(&sim).sessions_now, 0);
	}
	/* It said goodbye each time. */
	assert_int_equal(sim_counters(&sim).sessions_failed, 0);
}

struct ticks {
	unsigned n, stop_at;
	uint64_t bytes;
};

static bool count_tick(void *ctx, uint64_t now, uint64_t bytes)
{
	struct ticks *t = ctx;

	(void)now;
	assert_true(bytes >= t->bytes);
	t->bytes = bytes;
	return ++t->n >= t->stop_at;
}

static void endless(bool reverse)
{
	struct ticks t = { .stop_at = 8 };
	struct client_tick tick = { .fn = count_tick, .ctx = &t };
	struct be_token there, here;
	struct msg_pull_result r;
	struct err e = { 0 };
	uint64_t len;
	int rc;

	join(3);
	slow_network();
	if (!reverse) {
		rc = send_region(5000, UINT64_MAX, &tick, &e);
	} else {
		rc = client_region_make(sim.client, 1, BYTES, 9, &there, NULL, &e);
		rc = rc < 0 ? rc : client_region_offer(sim.client, 2, dst, BYTES, &here, &e);
		rc = rc < 0 ? rc : client_pull(sim.client, 1, 2, here, BYTES, BYTES, UINT64_MAX, 5000, &tick, &r, &e);
	}
	if (rc < 0)
		fail_msg("%s", e.why);
	assert_true(t.n >= 8);
	assert_true(t.bytes > BYTES);
	assert_memory_equal(sim_region(&sim, 1, &len), reverse ? dst : src, BYTES);
}

static void test_endless_until_stopped(void **state)
{
	(void)state;
	endless(false);
}

static void test_endless_pull_until_stopped(void **state)
{
	(void)state;
	endless(true);
}

static void test_more_passes_than_fit(void **state)
{
	struct ticks t = { .stop_at = 4 };
	struct client_tick tick = { .fn = count_tick, .ctx = &t };
	struct be_token there, here;
	struct msg_pull_result r;
	struct err e = { 0 };

	(void)state;
	join(2);
	slow_network();
	assert_int_equal(client_region_make(sim.client, 3, 4096, 9, &there, NULL, &e), 0);
	assert_int_equal(client_region_offer(sim.client, 2, dst, 4096, &here, &e), 0);
	/* 2^63 passes of four chunks: the product is zero. */
	assert_int_equal(client_pull(sim.client, 3, 2, here, 4096, 4096, 1ull << 63, 1024, &tick, &r, &e), 0);
	assert_true(r.chunks > 4);
	assert_true(t.n >= 4);
}

/* ---- data that never arrives well ---------------------------------------------------------------- */

static void damage_all(struct sim *s)
{
	mem_fabric_faults(s->fabric)->corrupt_ppm = 1000000;
}

static void test_damaged_without_end(void **state)
{
	struct err e = { 0 };
	int rc;

	(void)state;
	join(3);
	slow_network();
	arm(damage_all, 25);
	rc = send_region(2000, 1, NULL, &e);
	sim_calm(&sim);
	/* Requests are damaged, too: which of the two ends it depends on what is first. */
	assert_true(rc == -EBADMSG || rc == -ETIMEDOUT);
	assert_true(strlen(e.why) > 20);
}

static bool puts_wrong;

static int damaging_put(struct be *be, be_stream h, const struct be_put *v, int n)
{
	static const uint8_t junk[4096];
	struct be_put p = *v;

	if (puts_wrong && n > 0 && p.len <= sizeof junk)
		p.src = junk;
	return mem_ops.put(be, h, &p, n > 0);
}

static int setup_damaging(void **state)
{
	static struct be_ops ops;

	(void)state;
	ops = mem_ops;
	ops.put = damaging_put;
	return open_with(&ops, NULL);
}

/* Who pulls is told when what it pulls cannot come: it does not find out by waiting. */
static void test_pull_that_fails_over_there(void **state)
{
	struct be_token there, here;
	struct msg_pull_result r;
	struct err e = { 0 };
	uint64_t started;
	int rc;

	(void)state;
	join(3);
	assert_int_equal(client_region_make(sim.client, 3, BYTES, 9, &there, NULL, &e), 0);
	assert_int_equal(client_region_offer(sim.client, 2, dst, BYTES, &here, &e), 0);
	puts_wrong = true;
	started = sim.now;
	rc = client_pull(sim.client, 3, 2, here, BYTES, BYTES, 1, 2000, NULL, &r, &e);
	puts_wrong = false;
	if (rc != -EBADMSG || !strstr(e.why, "could not send its region"))
		fail_msg("%d %s", rc, e.why);
	assert_in_range(sim.now - started, 0, TIMEOUT / 2);
	/* The session goes on. */
	rc = client_pull(sim.client, 3, 2, here, BYTES, BYTES, 1, 2000, NULL, &r, &e);
	if (rc < 0)
		fail_msg("%s", e.why);
}

static void test_failed_write_names_the_file(void **state)
{
	struct sim_files v = {
		.n = 3,
		.f = { { .name = "a", .size = 50000 }, { .name = "b", .size = 50000 }, { .name = "c", .size = 50000 } }
	};
	struct err e = { 0 };
	uint32_t blame = 99;
	struct rlimit was;

	(void)state;
	for (unsigned i = 0; i < v.n; i++)
		v.f[i].data = src;
	join(3);
	assert_int_equal(sim_files_open(sim.client, &v, false, &e), 0);
	/* The file is shorter over there than what is sent. */
	v.f[1].size = 60000;
	assert_int_equal(sim_files_send(sim.client, &v, 4096, SUM_XXH3, NULL, &blame, &e), -EINVAL);
	assert_int_equal(blame, 1);
	v.f[1].size = 50000;
	/* The system refuses a write, as with a full disk: only the last file reaches so far. */
	v.f[2].size = 60000;
	assert_int_equal(sim_files_close(sim.client, &v, false, &e), 0);
	assert_int_equal(sim_files_open(sim.client, &v, false, &e), 0);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &was);
	setrlimit(RLIMIT_FSIZE, &(struct rlimit){ .rlim_cur = 55000, .rlim_max = was.rlim_max });
	assert_int_equal(sim_files_send(sim.client, &v, 4096, SUM_XXH3, NULL, &blame, &e), -EFBIG);
	setrlimit(RLIMIT_FSIZE, &was);
	assert_int_equal(blame, 2);
	/* The session goes on. */
	assert_int_equal(sim_files_send(sim.client, &v, 4096, SUM_XXH3, NULL, &blame, &e), 0);
	assert_int_equal(sim_files_close(sim.client, &v, true, &e), 0);
	for (unsigned i = 0; i < v.n; i++)
		tree_expect(dir, v.f[i].name, src, v.f[i].size);
}

/* ---- shapes ------------------------------------------------------------------------------------- */

static void test_512_streams(void **state)
{
	struct err e = { 0 };
	uint64_t len;

	(void)state;
	join(512);
	assert_int_equal(client_streams_up(sim.client), 512);
	assert_int_equal(sim_counters(&sim).streams_now, 512);
	sim.trouble = (struct sim_trouble){ .drop_stream = 300000, .drop_control = 20000, .times = 60 };
	slow_network();
	if (send_region(512, 1, NULL, &e) < 0)
		fail_msg("%s", e.why);
	assert_memory_equal(sim_region(&sim, 1, &len), src, BYTES);
}

static void test_one_byte(void **state)
{
	struct amst_extent x = { .len = 1 };
	struct amst_tx tx = { .chunk = 1, .sum = SUM_CRC32C, .passes = 3, .extents = &x, .n_extents = 1, .base = src };
	struct be_token here;
	struct msg_pull_result r;
	struct err e = { 0 };
	uint64_t len;

	(void)state;
	join(3);
	assert_int_equal(client_region_make(sim.client, 1, 1, 0, &tx.token, NULL, &e), 0);
	assert_int_equal(client_transfer(sim.client, &tx, XFER_PUT, NULL, NULL, &e), 0);
	assert_memory_equal(sim_region(&sim, 1, &len), src, 1);
	assert_int_equal(len, 1);
	assert_int_equal(client_region_offer(sim.client, 2, dst, 1, &here, &e), 0);
	assert_int_equal(client_pull(sim.client, 1, 2, here, 1, 1, 3, 1, NULL, &r, &e), 0);
	assert_memory_equal(dst, src, 1);
	assert_int_equal(dst[1], 0);
	/* Nothing at all. */
	tx = (struct amst_tx){
		.chunk = 1, .sum = SUM_CRC32C, .passes = 1, .extents = &x, .n_extents = 0, .base = src, .token = tx.token
	};
	assert_int_equal(client_transfer(sim.client, &tx, XFER_PUT, NULL, NULL, &e), 0);
	assert_int_equal(client_pull(sim.client, 1, 2, here, 1, 0, 1, 1, NULL, &r, &e), -EINVAL);
}

/* Large chunks on a long path: credits are used up while puts could go on. */
static void test_long_path_large_chunks(void **state)
{
	const uint64_t bytes = 48u << 20;
	uint8_t *big = malloc(bytes);
	struct amst_extent x = { .len = bytes };
	struct amst_tx tx = {
		.chunk = 64u << 10, .sum = SUM_NONE, .passes = 4, .extents = &x, .n_extents = 1, .base = big
	};
	struct err e = { 0 };

	(void)state;
	assert_non_null(big);
	memset(big, 1, bytes);
	join(1);
	assert_int_equal(client_region_make(sim.client, 1, bytes, 0, &tx.token, NULL, &e), 0);
	mem_fabric_faults(sim.fabric)->path[0].delay_ns = 100 * NS_PER_MS;
	mem_fabric_faults(sim.fabric)->path[1].delay_ns = 100 * NS_PER_MS;
	if (client_transfer(sim.client, &tx, XFER_PUT, NULL, NULL, &e) < 0)
		fail_msg("%s", e.why);
	assert_int_equal(client_reconnects(sim.client), 0);
	free(big);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define T_ONE_SIDED(f)                                                \
	{                                                             \
#f " (one-sided)", f, setup_one_sided, teardown, NULL \
	}
#define T_STORE(f) cmocka_unit_test_setup_teardown(f, setup_store, teardown_store)
	const struct CMUnitTest tests[] = {
		T(test_server_crashes_at_any_moment),
		T(test_client_crashes_at_any_moment),
		T(test_control_stream_lost_in_every_request),
		T(test_partition_that_lasts),
		T(test_partition_that_heals),
		T(test_server_restarts),
		T(test_silence_says_what_was_asked),
		T(test_who_answers_is_not_the_server),
		T(test_address_that_leads_nowhere),
		T(test_interrupted),
		T(test_endless_until_stopped),
		T(test_endless_pull_until_stopped),
		T(test_more_passes_than_fit),
		T(test_damaged_without_end),
		cmocka_unit_test_setup_teardown(test_pull_that_fails_over_there, setup_damaging, teardown),
		T_STORE(test_failed_write_names_the_file),
		T(test_512_streams),
		T_ONE_SIDED(test_512_streams),
		T(test_one_byte),
		T_ONE_SIDED(test_one_byte),
		T(test_long_path_large_chunks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

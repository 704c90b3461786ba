/* SPDX-License-Identifier: MIT */
/*
 * The data plane's promises, one at a time, over a backend that does what the test says: it accepts or not, and
 * reports what the test puts into its queue.
 */
#include "transport/amst_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#define STREAMS 4
#define EVENTS 16384
#define MESSAGE 1200

struct sent {
	bool put;
	be_stream h;
	uint64_t offset, cookie;
	uint32_t len;
	uint8_t msg[MESSAGE];
};

/* One instance, one worker. */
static struct script {
	struct be be;
	struct be_event ev[EVENTS];
	unsigned head, tail;
	struct sent sent[EVENTS];
	unsigned n_sent;
	be_stream next;
	uint64_t cookie[64]; /* of stream h */
	unsigned closed[64];
	uint8_t frames[64][MESSAGE];
	unsigned next_frame;
	int room_puts, room_messages; /* what is still accepted; -ENOTCONN: the stream is gone */
	bool hold_done;               /* no DONE by itself */
} sc;

static void event(struct be_event ev)
{
	assert_true(sc.tail - sc.head < EVENTS);
	sc.ev[sc.tail++ % EVENTS] = ev;
}

static int s_open(const struct be_open *o, struct be **out, struct err *e)
{
	(void)o;
	(void)e;
	*out = &sc.be;
	return 0;
}

static void s_close(struct be *be)
{
	(void)be;
}

static int s_connect(struct be *be, const struct be_addr *to, const void *pre, uint32_t domain, uint64_t cookie,
		     be_stream *out, struct err *e)
{
	(void)be, (void)to, (void)pre, (void)domain, (void)e;
	*out = ++sc.next;
	sc.cookie[*out] = cookie;
	event((struct be_event){ .type = BE_CONNECTED, .stream = *out, .cookie = cookie });
	return 0;
}

static void s_stream_close(struct be *be, be_stream h, bool graceful)
{
	(void)be, (void)graceful;
	sc.closed[h]++;
}

static int take(int *room, const struct sent *s)
{
	if (*room <= 0)
		return *room;
	--*room;
	assert_true(sc.n_sent < EVENTS);
	sc.sent[sc.n_sent++] = *s;
	if (!sc.hold_done)
		event((struct be_event){ .type = BE_DONE, .stream = s->h, .cookie = s->cookie });
	return 1;
}

static int s_put(struct be *be, be_stream h, const struct be_put *v, int n)
{
	(void)be, (void)n;
	return take(&sc.room_puts,
		    &(struct sent){ .put = true, .h = h, .offset = v->offset, .len = v->len, .cookie = v->cookie });
}

static int s_send(struct be *be, be_stream h, const struct be_msg *v, int n)
{
	struct sent s = { .h = h, .len = v->head_len + v->body_len, .cookie = v->cookie };

	(void)be, (void)n;
	assert_true(s.len <= MESSAGE);
	memcpy(s.msg, v->head, v->head_len);
	if (v->body_len)
		memcpy(s.msg + v->head_len, v->body, v->body_len);
	return take(&sc.room_messages, &s);
}

static int s_poll(struct be *be, struct be_event *ev, int max)
{
	int n = 0;

	(void)be;
	while (n < max && sc.head != sc.tail)
		ev[n++] = sc.ev[sc.head++ % EVENTS];
	return n;
}

static void s_release(struct be *be, uint32_t frame)
{
	(void)be, (void)frame;
}

static void s_wake(struct be *be)
{
	(void)be;
	event((struct be_event){ .type = BE_WOKEN });
}

static int s_info(struct be *be, be_stream h, struct be_info *out)
{
	(void)be, (void)h;
	*out = (struct be_info){ .rtt_ns = NS_PER_MS };
	return 0;
}

static const struct be_ops script_ops = {
	.name = "script",
	.caps = { .sees_puts = true, .frame_max = 1 << 20, .put_max = 64 << 20, .align = 1, .streams_max = 64 },
	.open = s_open,
	.close = s_close,
	.connect = s_connect,
	.stream_close = s_stream_close,
	.put = s_put,
	.send = s_send,
	.poll = s_poll,
	.release = s_release,
	.wake = s_wake,
	.info = s_info,
};

/* ---- the fixture ------------------------------------------------------------------------------- */

static uint64_t now_ns;
static struct amst *a;
static struct amst_tx tx;
static struct amst_extent extent;
static uint8_t memory[1 << 20];
static struct amst_event last_down;
static unsigned downs, n_done, tx_ended;

static void run(void)
{
	struct amst_event ev;

	for (int i = 0; i < 50; i++) {
		now_ns += NS_PER_MS;
		amst_step(a);
		while (amst_poll(a, &ev)) {
			if (ev.type == AMST_STREAM_DOWN) {
				last_down = ev;
				downs++;
			}
			n_done += ev.type == AMST_TX_DONE;
			tx_ended += ev.type == AMST_TX_ENDED;
		}
	}
}

static int setup(void **state)
{
	struct amst_config cfg = { .ops = &script_ops,
				   .workers = 1,
				   .streams = STREAMS,
				   .domain = 1,
				   .manual = true,
				   .clock = clock_manual(&now_ns) };
	struct be_addr to = { 0 };
	struct err e;

	(void)state;
	memset(&sc, 0, sizeof sc);
	sc.be.ops = &script_ops;
	sc.room_puts = sc.room_messages = 1 << 20;
	now_ns = NS_PER_S;
	downs = n_done = tx_ended = 0;
	assert_int_equal(amst_open(&a, &cfg, &e), 0);
	for (uint32_t i = 0; i < STREAMS; i++)
		assert_int_equal(amst_connect(a, i, 1, &to, memory), 0);
	run();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	amst_close(a);
	amst_tx_free(&tx);
	return 0;
}

static void start(uint32_t chunk, uint64_t chunks)
{
	struct err e;

	extent = (struct amst_extent){ .len = chunk * chunks };
	assert_true(extent.len <= sizeof memory);
	tx = (struct amst_tx){ .id = 5,
			       .chunk = chunk,
			       .sum = SUM_CRC32C,
			       .passes = 1,
			       .extents = &extent,
			       .n_extents = 1,
			       .base = memory };
	assert_int_equal(amst_tx_prepare(&tx, STREAMS, &e), 0);
	assert_int_equal(amst_tx_start(a, &tx), 0);
	run();
}

static unsigned puts_at(uint64_t offset)
{
	unsigned n = 0;

	for (unsigned i = 0; i < sc.n_sent; i++)
		n += sc.sent[i].put && sc.sent[i].offset == offset;
	return n;
}

static unsigned sent_puts(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < sc.n_sent; i++)
		n += sc.sent[i].put;
	return n;
}

static void ack(be_stream h, struct msg_ack m)
{
	uint8_t *f = sc.frames[sc.next_frame++ % 64];
	uint32_t len = wire_put_ack(f, MESSAGE, tx.id, &m);

	event((struct be_event){ .type = BE_MESSAGE, .stream = h, .cookie = sc.cookie[h], .data = f, .len = len });
	run();
}

/* Answers every COMMIT that was sent since `from`; good: which chunks are. */
static unsigned answer(unsigned from, bool (*good)(const struct chunk_rec *))
{
	unsigned until = sc.n_sent;

	for (unsigned i = from; i < until; i++) {
		struct msg_commit m;
		struct msg_ack r = { 0 };
		struct msg_head h;
		struct rcur c;

		if (sc.sent[i].put || sc.closed[sc.sent[i].h])
			continue;
		assert_int_equal(wire_open(sc.sent[i].msg, sc.sent[i].len, &c, &h), 0);
		if (h.type != MSG_COMMIT)
			continue;
		assert_int_equal(wire_get_commit(&c, &m), 0);
		r.seq = m.seq;
		for (uint32_t k = 0; k < m.n; k++)
			if (good(&m.rec[k]))
				r.ok |= 1ull << k;
		ack(sc.sent[i].h, r);
	}
	return until;
}

static bool all_good(const struct chunk_rec *r)
{
	(void)r;
	return true;
}

static bool all_but_seven(const struct chunk_rec *r)
{
	return r->chunk != 7;
}

static void down(be_stream h, int err)
{
	event((struct be_event){ .type = BE_DOWN, .stream = h, .cookie = sc.cookie[h], .err = err });
	run();
}

/* ---- sending ----------------------------------------------------------------------------------- */

static void test_every_chunk_once(void **state)
{
	unsigned at = 0;

	(void)state;
	start(1000, 300);
	while (at != sc.n_sent)
		at = answer(at, all_good);
	assert_int_equal(n_done, 1);
	assert_int_equal(tx.status, 0);
	assert_int_equal(tx.acked, 300);
	assert_int_equal(sent_puts(), 300);
	for (unsigned i = 0; i < 300; i++)
		assert_int_equal(puts_at(i * 1000), 1);
	assert_int_equal(amst_tx_end(a, &tx), 0);
	run();
	assert_int_equal(tx_ended, 1);
}

/* A chunk that was under way may still arrive: nobody sends it again before the peer's end is known to be down. */
static void test_fenced_before_sent_again(void **state)
{
	unsigned at = 0, before;

	(void)state;
	start(1000, 12);
	before = sent_puts();
	assert_int_equal(before, 12);
	down(1, -ECONNRESET);
	assert_int_equal(downs, 1);
	for (int i = 0; i < 10; i++) {
		at = answer(at, all_good); /* the others go on */
		run();
	}
	assert_int_equal(sent_puts(), 12);
	assert_true(tx.acked < 12);
	assert_int_equal(n_done, 0);
	assert_int_equal(amst_reclaim(a, 0), 0);
	run();
	assert_true(sent_puts() > 12);
	while (at != sc.n_sent)
		at = answer(at, all_good);
	assert_int_equal(tx.acked, 12);
	assert_int_equal(n_done, 1);
}

/* Back-pressure of messages alone: puts do not run ahead of what a receiver remembers. */
static void test_uncommitted_are_bounded(void **state)
{
	(void)state;
	sc.room_messages = 0;
	start(100, 5000);
	run();
	assert_true(sent_puts() > 0);
	assert_true(sent_puts() <= STREAMS * WIRE_UNCOMMITTED);
	for (be_stream h = 1; h <= STREAMS; h++) {
		unsigned n = 0;

		for (unsigned i = 0; i < sc.n_sent; i++)
			n += sc.sent[i].put && sc.sent[i].h == h;
		assert_true(n <= WIRE_UNCOMMITTED);
	}
}

static void test_answers_that_do_not_fit(void **state)
{
	static const struct msg_ack wrong[] = { { .seq = 1 }, { .seq = UINT32_MAX }, { .seq = 77 } };

	(void)state;
	start(1000, 16);
	for (be_stream h = 1; h <= ARRAY_LEN(wrong); h++) {
		assert_int_equal(sc.closed[h], 0);
		ack(h, wrong[h - 1]);
		assert_int_equal(sc.closed[h], 1);
		down(h, -ECANCELED);
		assert_int_equal(last_down.err, -EPROTO);
	}
	assert_int_equal(tx.acked, 0);
	/* The right one twice. */
	ack(4, (struct msg_ack){ .seq = 0, .ok = UINT64_MAX });
	assert_int_equal(sc.closed[4], 0);
	assert_true(tx.acked > 0);
	ack(4, (struct msg_ack){ .seq = 0, .ok = UINT64_MAX });
	assert_int_equal(sc.closed[4], 1);
}

static void test_status_ends_it(void **state)
{
	(void)state;
	start(1000, 400);
	ack(2, (struct msg_ack){ .seq = 0, .status = -ENOSPC, .object = 9 });
	ack(3, (struct msg_ack){ .seq = 0, .status = -EIO, .object = 1 });
	assert_int_equal(n_done, 1);
	assert_int_equal(tx.status, -ENOSPC);
	assert_int_equal(tx.status_object, 9);
	/* Streams that still have chunks under way are closed, so that the caller's memory is free again. */
	assert_int_equal(amst_tx_end(a, &tx), 0);
	run();
	assert_int_equal(tx_ended, 0);
	for (be_stream h = 1; h <= STREAMS; h++)
		if (sc.closed[h])
			down(h, -ECANCELED);
	assert_int_equal(tx_ended, 1);
}

static void test_chunk_that_is_bad_each_time(void **state)
{
	unsigned at = 0, rounds = 0;

	(void)state;
	start(100, 10000);
	while (!n_done && rounds++ < 5000)
		at = answer(at, all_but_seven);
	assert_int_equal(n_done, 1);
	assert_int_equal(tx.status, -EBADMSG);
	/* Not for an eighth of everything. */
	assert_true(puts_at(7 * 100) < 10000 / 16);
	assert_true(puts_at(7 * 100) > 100);
}

static void test_stop(void **state)
{
	unsigned at = 0, before;

	(void)state;
	start(1000, 1000);
	before = sent_puts();
	assert_true(before < 1000);
	amst_tx_stop(a, &tx);
	amst_tx_stop(a, &tx);
	run();
	while (at != sc.n_sent)
		at = answer(at, all_good);
	assert_int_equal(n_done, 1);
	assert_int_equal(tx.status, 0);
	assert_int_equal(tx.acked, tx.total);
	assert_true(sent_puts() < before + 2 * STREAMS);
}

/* Answers until the pace lets nothing more out: as much as its time was worth. */
static void test_pace(void **state)
{
	unsigned at = 0, puts, before;
	uint64_t since;

	(void)state;
	amst_pace(a, AMST_HELD);
	start(1000, 1000);
	assert_int_equal(sent_puts(), 0);
	assert_true(amst_paced(a));
	since = now_ns;
	amst_pace(a, 10 * 1000); /* ten chunks a second: each answer takes half a tenth here */
	while (sent_puts() < 100) {
		run();
		at = answer(at, all_good);
	}
	puts = sent_puts();
	assert_in_range(puts, (now_ns - since) / (100 * NS_PER_MS) - 1, (now_ns - since) / (100 * NS_PER_MS) + 2);
	amst_pace(a, AMST_HELD);
	before = sent_puts();
	at = answer(at, all_good);
	assert_int_equal(sent_puts(), before);
	assert_int_equal(tx.acked, before);
	amst_pace(a, 0);
	run();
	while (at != sc.n_sent)
		at = answer(at, all_good);
	assert_int_equal(tx.acked, 1000);
	assert_false(amst_paced(a));
}

/* Of what was under way when a held transfer is stopped a chunk comes back: it is sent again all the same. */
static void test_stop_held_with_a_bad_chunk(void **state)
{
	unsigned at = 0;

	(void)state;
	start(1000, 1000);
	amst_pace(a, AMST_HELD);
	run();
	amst_tx_stop(a, &tx);
	run();
	at = answer(at, all_but_seven);
	assert_int_equal(n_done, 0);
	for (unsigned rounds = 0; at != sc.n_sent && rounds < 100; rounds++)
		at = answer(at, all_good);
	assert_int_equal(n_done, 1);
	assert_int_equal(tx.acked, tx.total);
}

/* Workers that wait for the same moment do not leave together; what was paid too much or too little is put right. */
static void test_pace_is_taken_in_turns(void **state)
{
	struct worker other = *a->w;
	uint64_t at;

	(void)state;
	start(1000, 1000);
	amst_pace(a, 100 * 1000);
	now_ns += NS_PER_S;
	a->w->last_wire = other.last_wire = 0;
	assert_true(pace_take(a->w, &tx));
	at = a->pace_at;
	assert_false(pace_take(&other, &tx));
	assert_int_equal(other.at, at);
	pace_pay(a->w, 500);
	assert_int_equal(a->pace_at, at - 5 * NS_PER_MS);
	now_ns = a->pace_at;
	assert_true(pace_take(&other, &tx));
	assert_false(pace_take(a->w, &tx));
	pace_pay(&other, 2000);
	assert_int_equal(a->pace_at, now_ns + 20 * NS_PER_MS);
	now_ns = a->pace_at;
	assert_true(pace_take(a->w, &tx)); /* as its last one: 500 bytes */
	assert_int_equal(a->pace_at, now_ns + 5 * NS_PER_MS);
	pace_pay(a->w, 0);
	assert_int_equal(a->pace_at, now_ns);
}

/* Stopped while it is held: what is under way is finished, and that is all. */
static void test_stop_held(void **state)
{
	unsigned at = 0, before;

	(void)state;
	start(1000, 1000);
	amst_pace(a, AMST_HELD);
	before = sent_puts();
	run();
	amst_tx_stop(a, &tx);
	run();
	while (at != sc.n_sent)
		at = answer(at, all_good);
	assert_int_equal(n_done, 1);
	assert_true(sent_puts() <= before + STREAMS);
	assert_int_equal(tx.acked, tx.total);
}

static void test_stream_that_takes_nothing_any_more(void **state)
{
	(void)state;
	sc.room_puts = -ENOTCONN;
	start(1000, 10);
	for (be_stream h = 1; h <= STREAMS; h++)
		assert_int_equal(sc.closed[h], 1);
	/* A chunk that was not accepted was never under way: another stream may have it at once. */
	down(1, -ECONNRESET);
	assert_int_equal(amst_connect(a, 0, 2, &(struct be_addr){ 0 }, memory), 0);
	sc.room_puts = 1 << 20;
	for (be_stream h = 2; h <= STREAMS; h++)
		down(h, -ECONNRESET);
	run();
	assert_int_equal(sent_puts(), 10);
}

static void test_messages_that_are_none(void **state)
{
	static const uint8_t junk[64] = { 1, 2, 3 };

	(void)state;
	event((struct be_event){
		.type = BE_MESSAGE, .stream = 1, .cookie = sc.cookie[1], .data = junk, .len = sizeof junk });
	event((struct be_event){ .type = BE_MESSAGE, .stream = 2, .cookie = sc.cookie[2], .data = junk, .len = 0 });
	event((struct be_event){ .type = BE_PLACED, .stream = 3, .cookie = sc.cookie[3], .region = 1000000, .len = 5 });
	run();
	assert_int_equal(sc.closed[1], 1);
	assert_int_equal(sc.closed[2], 1);
	assert_int_equal(sc.closed[3], 1);
	assert_int_equal(sc.closed[4], 0);
	/* What comes after that is not looked at. */
	event((struct be_event){ .type = BE_PLACED, .stream = 3, .cookie = sc.cookie[3], .region = 1, .len = 5 });
	run();
	down(1, -ECANCELED);
	assert_int_equal(last_down.err, -EBADMSG);
}

/* ---- commands ---------------------------------------------------------------------------------- */

static void test_commands_are_bounded(void **state)
{
	int n = 0, rc;

	(void)state;
	assert_int_equal(amst_stream_close(a, STREAMS), -EINVAL);
	assert_int_equal(amst_region_add(a, AMST_REGIONS_MAX, memory, 1), -EINVAL);
	assert_int_equal(amst_region_drop(a, UINT32_MAX), -EINVAL);
	while ((rc = amst_retire(a, 1)) == 0 && n < 10000)
		n++;
	assert_int_equal(rc, -EAGAIN);
	/* What a lost control stream causes fits: for each stream a close, a reclaim, a connect. */
	assert_true(n >= 3 * STREAMS);
	assert_int_equal(amst_sample(a), -EAGAIN);
	run();
	assert_int_equal(amst_retire(a, 1), 0);
}

static void fill_commands(void)
{
	int n = 0;

	while (amst_source_add(a, memory, 1) == 0)
		assert_true(++n < 10000);
}

/* What nobody can do without is carried out although the ring was full when it was asked for. */
static void test_ends_are_never_refused(void **state)
{
	struct amst_rx rx = { .id = 5 };
	struct be_addr to = { 0 };
	unsigned rx_ended = 0;
	struct amst_event ev;
	struct err e;

	(void)state;
	start(1000, 12);
	fill_commands();
	assert_int_equal(amst_stream_close(a, 0), 0);
	assert_int_equal(amst_retire(a, 0), -EAGAIN);
	assert_int_equal(sc.closed[1], 0);
	run();
	assert_int_equal(sc.closed[1], 1);
	down(1, -ECANCELED);
	assert_int_equal(downs, 1);
	fill_commands();
	assert_int_equal(amst_reclaim(a, 0), 0);
	assert_int_equal(amst_connect(a, 0, 2, &to, memory), -EAGAIN); /* nothing overtakes it */
	run();
	assert_true(sent_puts() > 12); /* what was under way there goes over the others */
	/* A close whose connection ended by itself is not for the next one. */
	assert_int_equal(amst_connect(a, 0, 2, &to, memory), 0);
	run();
	fill_commands();
	assert_int_equal(amst_stream_close(a, 0), 0);
	event((struct be_event){
		.type = BE_DOWN, .stream = STREAMS + 1, .cookie = sc.cookie[STREAMS + 1], .err = -ECONNRESET });
	amst_step(a);
	while (amst_poll(a, &ev))
		downs += ev.type == AMST_STREAM_DOWN;
	run();
	assert_int_equal(downs, 2);
	assert_int_equal(amst_rx_prepare(&rx, 1, &e), 0);
	assert_int_equal(amst_rx_start(a, &rx), 0);
	run();
	fill_commands();
	assert_int_equal(amst_tx_end(a, &tx), 0);
	assert_int_equal(amst_tx_end(a, &tx), 0);
	assert_int_equal(amst_rx_end(a, &rx), 0);
	for (int i = 0; i < 50; i++) {
		amst_step(a);
		while (amst_poll(a, &ev)) {
			tx_ended += ev.type == AMST_TX_ENDED;
			rx_ended += ev.type == AMST_RX_ENDED;
		}
		for (be_stream h = 1; h <= sc.next; h++) /* streams with chunks of it under way are closed */
			if (sc.closed[h] == 1) {
				sc.closed[h]++;
				event((struct be_event){ .type = BE_DOWN, .stream = h, .cookie = sc.cookie[h] });
			}
	}
	assert_int_equal(tx_ended, 1);
	assert_int_equal(rx_ended, 1);
	amst_rx_free(&rx);
}

static void test_impossible_transfers(void **state)
{
	struct amst_extent x[2] = { { .len = UINT64_MAX / 2 }, { .len = 1 } };
	struct amst_tx t = { .chunk = 1, .passes = 1, .extents = x, .n_extents = 2 };
	struct amst_rx rx;
	struct err e;

	(void)state;
	assert_int_equal(amst_tx_prepare(&t, STREAMS, &e), -EINVAL);
	assert_non_null(strstr(e.why, "--chunk-size"));
	t.chunk = 0;
	assert_int_equal(amst_tx_prepare(&t, STREAMS, &e), -EINVAL);
	t.chunk = 1;
	t.passes = 0;
	assert_int_equal(amst_tx_prepare(&t, STREAMS, &e), -EINVAL);
	/* Endless passes do not overflow. */
	x[0].len = 1000;
	t.passes = UINT64_MAX;
	assert_int_equal(amst_tx_prepare(&t, STREAMS, &e), 0);
	assert_true(t.total >= 1ull << 60);
	amst_tx_free(&t);
	assert_int_equal(amst_rx_prepare(&rx, (1ull << 28) + 1, &e), -EINVAL);
	assert_int_equal(amst_rx_prepare(&rx, UINT64_MAX, &e), -EINVAL);
}

static void test_impossible_shapes(void **state)
{
	static const unsigned v[][2] = { { 0, 1 }, { 1, 0 }, { 2, 1 }, { 65, 512 }, { 1, 513 } };
	struct amst_config cfg = { .ops = &script_ops, .domain = 1, .manual = true, .clock = clock_manual(&now_ns) };
	struct amst *none = NULL;
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(v); i++) {
		cfg.workers = v[i][0];
		cfg.streams = v[i][1];
		assert_int_equal(amst_open(&none, &cfg, &e), -EINVAL);
		assert_null(none);
	}
	cfg.workers = cfg.streams = 1;
	cfg.chunk = 2 << 20; /* more than a message of this backend */
	assert_int_equal(amst_open(&none, &cfg, &e), -EINVAL);
	assert_non_null(strstr(e.why, "does not fit a message"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_every_chunk_once),
		T(test_fenced_before_sent_again),
		T(test_uncommitted_are_bounded),
		T(test_answers_that_do_not_fit),
		T(test_status_ends_it),
		T(test_chunk_that_is_bad_each_time),
		T(test_stop),
		T(test_pace),
		T(test_stop_held),
		T(test_stop_held_with_a_bad_chunk),
		T(test_pace_is_taken_in_turns),
		T(test_stream_that_takes_nothing_any_more),
		T(test_messages_that_are_none),
		T(test_commands_are_bounded),
		T(test_ends_are_never_refused),
		T(test_impossible_transfers),
		cmocka_unit_test(test_impossible_shapes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

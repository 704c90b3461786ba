/* SPDX-License-Identifier: MIT */
/* Several backends as one: which way a connection takes, when a way is left, and when it is tried again. */
#include "transport/multi.h"
#include "base/util.h"
#include "transport/mem.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static int connects[2]; /* tried over each way */
static int refusals[2]; /* connects of it that fail at once */

static int connect_over(int way, struct be *be, const struct be_addr *to, const void *pre, uint32_t domain,
			uint64_t cookie, be_stream *out, struct err *e)
{
	connects[way]++;
	if (refusals[way]) {
		refusals[way]--;
		return err_set(e, -ENETUNREACH, "no way");
	}
	return mem_ops.connect(be, to, pre, domain, cookie, out, e);
}

static int connect_first(struct be *be, const struct be_addr *to, const void *pre, uint32_t domain, uint64_t cookie,
			 be_stream *out, struct err *e)
{
	return connect_over(0, be, to, pre, domain, cookie, out, e);
}

static int connect_second(struct be *be, const struct be_addr *to, const void *pre, uint32_t domain, uint64_t cookie,
			  be_stream *out, struct err *e)
{
	return connect_over(1, be, to, pre, domain, cookie, out, e);
}

struct world {
	struct be_ops first, second;
	struct multi_opts opts;
	struct mem_fabric *fabric;
	uint64_t now;
	struct be *server, *client;
	struct be_addr addr;
	be_stream s;
	int connected, down, down_err, served;
};

static int setup(void **state)
{
	static struct world w;
	struct be_open o = { .streams = 4, .frames = 4, .frame_bytes = 1024, .sends = 4, .regions = 2, .cpu = -1 };
	struct be_addr at = { .len = sizeof at.in, .in = { .sin_family = AF_INET } };
	struct err e;

	memset(&w, 0, sizeof w);
	memset(connects, 0, sizeof connects);
	memset(refusals, 0, sizeof refusals);
	w.first = w.second = mem_ops;
	w.first.name = "first";
	w.first.connect = connect_first;
	w.second.connect = connect_second;
	w.opts = (struct multi_opts){ .n = 2, .way = { { &w.first, NULL }, { &w.second, NULL } } };
	o.clock = clock_manual(&w.now);
	assert_int_equal(mem_fabric_open(&w.fabric, NULL, 1, o.clock, &e), 0);
	o.fabric = w.fabric;
	o.opts = NULL;
	assert_int_equal(mem_ops.open(&o, &w.server, &e), 0);
	assert_int_equal(mem_ops.listen(w.server, &at, &w.addr, &e), 0);
	o.opts = &w.opts;
	assert_int_equal(multi_ops.open(&o, &w.client, &e), 0);
	*state = &w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	multi_ops.close(w->client);
	mem_ops.close(w->server);
	mem_fabric_close(w->fabric);
	return 0;
}

/* Until nothing happens any more. */
static void turn(struct world *w)
{
	static const uint8_t reply[BE_PREAMBLE];
	struct be_event ev[8];
	be_stream s;

	for (int quiet = 0; quiet < 3; quiet++) {
		int n = mem_ops.poll(w->server, ev, 8);

		for (int i = 0; i < n; i++)
			if (ev[i].type == BE_INCOMING && mem_ops.accept(w->server, ev[i].request, reply, 1, 9, &s) == 0)
				w->served++;
		quiet = n ? 0 : quiet;
		n = multi_ops.poll(w->client, ev, 8);
		for (int i = 0; i < n; i++) {
			if (ev[i].type == BE_CONNECTED)
				w->connected++;
			if (ev[i].type == BE_DOWN) {
				assert_int_equal(ev[i].cookie, 77);
				w->down++;
				w->down_err = ev[i].err;
			}
		}
		quiet = n ? 0 : quiet;
		if (!n && mem_fabric_next(w->fabric) != UINT64_MAX && mem_fabric_next(w->fabric) > w->now) {
			w->now = mem_fabric_next(w->fabric);
			quiet = 0;
		}
	}
}

static int dial(struct world *w)
{
	static const uint8_t pre[BE_PREAMBLE];
	struct err e;

	return multi_ops.connect(w->client, &w->addr, pre, 1, 77, &w->s, &e);
}

static void the_first_way_is_taken(void **state)
{
	struct world *w = *state;

	assert_int_equal(dial(w), 0);
	turn(w);
	assert_int_equal(w->connected, 1);
	assert_int_equal(connects[0], 1);
	assert_int_equal(connects[1], 0);
}

static void the_next_when_it_cannot_begin(void **state)
{
	struct world *w = *state;

	refusals[0] = 1;
	assert_int_equal(dial(w), 0);
	turn(w);
	assert_int_equal(w->connected, 1);
	assert_int_equal(w->down, 0);
	assert_int_equal(connects[0], 1);
	assert_int_equal(connects[1], 1);
	assert_int_equal(dial(w), 0); /* it is left for a while… */
	assert_int_equal(connects[0], 1);
	w->now += MULTI_RETRY;
	assert_int_equal(dial(w), 0); /* …and tried again */
	assert_int_equal(connects[0], 2);
	turn(w);
	assert_int_equal(w->connected, 3);
}

/* Nobody hears of the first attempt: the stream keeps its name and comes up over the second. */
static void the_next_when_nobody_answers(void **state)
{
	struct world *w = *state;
	be_stream name;

	mem_fabric_faults(w->fabric)->refuse_ppm = 1000000;
	assert_int_equal(dial(w), 0);
	name = w->s;
	mem_fabric_faults(w->fabric)->refuse_ppm = 0;
	turn(w);
	assert_int_equal(w->connected, 1);
	assert_int_equal(w->down, 0);
	assert_int_equal(connects[0], 1);
	assert_int_equal(connects[1], 1);
	assert_int_equal(multi_ops.send(w->client, name, &(struct be_msg){ .head = "x", .head_len = 1 }, 1), 1);
}

static void down_when_no_way_is_left(void **state)
{
	struct world *w = *state;

	mem_fabric_faults(w->fabric)->refuse_ppm = 1000000;
	assert_int_equal(dial(w), 0);
	turn(w);
	assert_int_equal(w->connected, 0);
	assert_int_equal(w->down, 1);
	assert_int_equal(w->down_err, -ECONNREFUSED);
	refusals[0] = refusals[1] = 1;
	w->now += MULTI_RETRY;
	assert_int_equal(dial(w), -ENETUNREACH);
}

/* A path that dies under a stream: the stream goes down, and the next connection takes another way. */
static void a_way_that_dies_is_left(void **state)
{
	struct world *w = *state;

	assert_int_equal(dial(w), 0);
	turn(w);
	assert_int_equal(w->connected, 1);
	mem_partition(w->fabric, true);
	mem_fabric_faults(w->fabric)->idle_timeout_ns = NS_PER_S;
	assert_int_equal(multi_ops.send(w->client, w->s, &(struct be_msg){ .head = "x", .head_len = 1 }, 1), 1);
	turn(w);
	assert_int_equal(w->down, 1);
	assert_int_equal(w->down_err, -ETIMEDOUT);
	mem_partition(w->fabric, false);
	assert_int_equal(dial(w), 0);
	assert_int_equal(connects[0], 1);
	assert_int_equal(connects[1], 1);
	turn(w);
	assert_int_equal(w->connected, 2);
}

/* What we end ourselves, or the peer resets, says nothing against the way. */
static void an_end_in_order_is_not_blamed(void **state)
{
	struct world *w = *state;

	assert_int_equal(dial(w), 0);
	turn(w);
	multi_ops.stream_close(w->client, w->s, false);
	turn(w);
	assert_int_equal(w->down, 1);
	assert_int_equal(dial(w), 0);
	assert_int_equal(connects[0], 2);
	multi_ops.stream_close(w->client, w->s, false); /* and while it connects, no other way is tried */
	turn(w);
	assert_int_equal(w->down, 2);
	assert_int_equal(connects[1], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_first_way_is_taken, setup, teardown),
		cmocka_unit_test_setup_teardown(the_next_when_it_cannot_begin, setup, teardown),
		cmocka_unit_test_setup_teardown(the_next_when_nobody_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(down_when_no_way_is_left, setup, teardown),
		cmocka_unit_test_setup_teardown(a_way_that_dies_is_left, setup, teardown),
		cmocka_unit_test_setup_teardown(an_end_in_order_is_not_blamed, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * A peer that breaks the rules of transport/verbs_wire.h, made of raw verbs, against the backend. Needs an RDMA device;
 * the guest (kmod-free-tests/guest) has soft-RoCE.
 */
/* check: timeout=120 no-valgrind in-guest */
#include "kmod-free-tests/conformance_impl.h"
#include "kmod-free-tests/rdma_device.h"
#include "transport/verbs.h"
#include "transport/verbs_wire.h"
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <unistd.h>

#define DOMAIN 1
#define REGION_BYTES 4096
#define PAYLOAD 40u
#define RECEIVES 64u
#define RECEIVE_BYTES 256u
#define PATIENCE (30 * NS_PER_S)

struct world {
	/* the backend */
	struct verbs_opts opts;
	struct be *be;
	struct be_addr at;
	be_stream s;
	uint8_t *region;
	struct be_token token;
	uint32_t messages;
	bool down, connected;
	int down_err;

	/* the peer */
	struct rdma_event_channel *ch;
	struct rdma_cm_id *id;
	struct ibv_mr *mr;
	uint8_t *mem; /* what it sends, then its receive buffers */
	struct vgreet greet;
	bool up;
};

static struct err missing;

static void needs_a_device(void **state)
{
	(void)state;
	print_message("skipped: %s\n", missing.why);
	skip();
}

static void server_step(struct world *w)
{
	static const uint8_t reply[BE_PREAMBLE];
	struct be_event ev[16];
	int n = verbs_ops.poll(w->be, ev, 16);

	for (int i = 0; i < n; i++)
		switch (ev[i].type) {
		case BE_INCOMING:
			assert_int_equal(verbs_ops.accept(w->be, ev[i].request, reply, DOMAIN, 0, &w->s), 0);
			break;
		case BE_CONNECTED:
			w->connected = true;
			break;
		case BE_MESSAGE:
			w->messages++;
			assert_int_equal(ev[i].len, PAYLOAD);
			verbs_ops.release(w->be, ev[i].frame);
			break;
		case BE_DOWN:
			w->down = true;
			w->down_err = ev[i].err;
			break;
		default:
			break;
		}
}

static void queue_pair(struct world *w)
{
	struct ibv_qp_init_attr attr = {
		.qp_type = IBV_QPT_RC,
		.cap = { .max_send_wr = 64, .max_recv_wr = RECEIVES, .max_send_sge = 1, .max_recv_sge = 1 },
		.sq_sig_all = 1,
	};
	size_t bytes = 4096 + RECEIVES * RECEIVE_BYTES;

	assert_int_equal(rdma_create_qp(w->id, NULL, &attr), 0);
	w->mem = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);
	assert_non_null(w->mem);
	memset(w->mem, 0, bytes);
	w->mr = ibv_reg_mr(w->id->pd, w->mem, bytes, IBV_ACCESS_LOCAL_WRITE);
	assert_non_null(w->mr);
	for (uint32_t i = 0; i < RECEIVES; i++) {
		struct ibv_sge sge = { (uintptr_t)w->mem + 4096 + i * RECEIVE_BYTES, RECEIVE_BYTES, w->mr->lkey };
		struct ibv_recv_wr wr = { .sg_list = &sge, .num_sge = 1 }, *bad;

		assert_int_equal(ibv_post_recv(w->id->qp, &wr, &bad), 0);
	}
}

static void on_cm(struct world *w, const struct rdma_cm_event *ev)
{
	static const uint8_t preamble[BE_PREAMBLE];
	struct rdma_conn_param p = { .private_data = preamble,
				     .private_data_len = BE_PREAMBLE,
				     .responder_resources = 1,
				     .initiator_depth = 1,
				     .retry_count = 7,
				     .rnr_retry_count = 7 };

	switch (ev->event) {
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		assert_int_equal(rdma_resolve_route(w->id, 2000), 0);
		break;
	case RDMA_CM_EVENT_ADDR_ERROR:
		assert_int_equal(rdma_resolve_addr(w->id, NULL, &w->at.sa, 200), 0);
		break;
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		queue_pair(w);
		assert_int_equal(rdma_connect(w->id, &p), 0);
		break;
	case RDMA_CM_EVENT_ESTABLISHED:
		assert_true(ev->param.conn.private_data_len >= BE_PREAMBLE + VGREET);
		assert_int_equal(
			vgreet_parse((const uint8_t *)ev->param.conn.private_data + BE_PREAMBLE, VGREET, &w->greet), 0);
		w->up = true;
		break;
	default:
		break;
	}
}

static void peer_step(struct world *w)
{
	struct rdma_cm_event *ev, copy;
	struct ibv_wc wc[16];

	if (w->id->qp) {
		while (ibv_poll_cq(w->id->send_cq, 16, wc) > 0)
			;
		while (ibv_poll_cq(w->id->recv_cq, 16, wc) > 0)
			;
	}
	if (rdma_get_cm_event(w->ch, &ev))
		return;
	copy = *ev;
	on_cm(w, &copy);
	rdma_ack_cm_event(ev);
}

#define UNTIL(w, expr)                                                                \
	for (uint64_t end_ = clock_now(&clock_mono) + PATIENCE; !(expr);) {           \
		server_step(w);                                                       \
		peer_step(w);                                                         \
		usleep(100);                                                          \
		if (clock_now(&clock_mono) > end_)                                    \
			fail_msg("line %d: %s does not come about", __LINE__, #expr); \
	}

/* --- what the peer says --- */

static void post(struct world *w, enum ibv_wr_opcode opcode, uint32_t at, uint32_t len)
{
	struct ibv_sge sge = { (uintptr_t)w->mem + at, len, w->mr->lkey };
	struct ibv_send_wr wr = { .sg_list = &sge, .num_sge = 1, .opcode = opcode }, *bad;

	if (opcode != IBV_WR_SEND) {
		wr.wr.rdma.remote_addr = vtoken_address(w->token, 0);
		wr.wr.rdma.rkey = vtoken_rkey(w->token);
	}
	assert_int_equal(ibv_post_send(w->id->qp, &wr, &bad), 0);
}

/* Of the message's len bytes the segment has n; at: where in its memory, for as long as it is under way. */
static void say(struct world *w, uint32_t at, enum vseg_type type, uint32_t len, uint32_t n)
{
	vseg_put(w->mem + at, type, 0, len);
	memset(w->mem + at + VSEG_HEADER, 'x', n);
	post(w, IBV_WR_SEND, at, VSEG_HEADER + n);
}

static void hello(struct world *w)
{
	vseg_put(w->mem, VSEG_HELLO, 0, 0);
	vgreet_put(w->mem + VSEG_HEADER, &(struct vgreet){ .seg = VGREET_SEG_MIN, .credits = RECEIVES / 2, .mtu = 1 });
	post(w, IBV_WR_SEND, 0, VSEG_HEADER + VGREET);
	UNTIL(w, w->connected);
}

/* --- both --- */

static void begin(struct world *w, int srq)
{
	struct be_open open = { .streams = 4,
				.frames = 64,
				.frame_bytes = 4096,
				.sends = 16,
				.regions = 1,
				.clock = clock_mono,
				.cpu = -1 };
	struct err e = { 0 };

	*w = (struct world){ 0 };
	opt_defaults(&(struct opt_group){ .rows = verbs_ops.opts, .n = verbs_ops.n_opts, .base = &w->opts }, 1);
	w->opts.srq = srq;
	open.opts = &w->opts;
	assert_true(rdma_device_address(&w->at));
	assert_int_equal(verbs_ops.open(&open, &w->be, &e), 0);
	assert_int_equal(verbs_ops.listen(w->be, &w->at, &w->at, &e), 0);
	w->region = aligned_alloc(4096, REGION_BYTES);
	assert_non_null(w->region);
	w->ch = rdma_create_event_channel();
	assert_non_null(w->ch);
	assert_return_code(fcntl(w->ch->fd, F_SETFL, fcntl(w->ch->fd, F_GETFL) | O_NONBLOCK), errno);
	assert_int_equal(rdma_create_id(w->ch, &w->id, NULL, RDMA_PS_TCP), 0);
	assert_int_equal(rdma_resolve_addr(w->id, NULL, &w->at.sa, 200), 0);
	UNTIL(w, w->up);
	assert_int_equal(verbs_ops.region_add(w->be, DOMAIN, 1, w->region, REGION_BYTES, &w->token, &e), 0);
	hello(w);
}

static void end(struct world *w)
{
	rdma_disconnect(w->id);
	verbs_ops.close(w->be);
	rdma_destroy_qp(w->id);
	ibv_dereg_mr(w->mr);
	rdma_destroy_id(w->id);
	rdma_destroy_event_channel(w->ch);
	free(w->mem);
	free(w->region);
}

/* --- tests --- */

/* It takes a receive buffer and puts nothing there: what lies in it is an older message's. */
static void write_with_immediate(void **state)
{
	struct world w;

	(void)state;
	begin(&w, VERBS_SRQ_OFF);
	for (uint32_t i = 1; i <= 3 * RECEIVES; i++) { /* every buffer has held one */
		say(&w, 0, VSEG_FIRST, PAYLOAD, PAYLOAD);
		UNTIL(&w, w.messages == i);
	}
	post(&w, IBV_WR_RDMA_WRITE_WITH_IMM, 0, VSEG_HEADER + PAYLOAD);
	UNTIL(&w, w.down);
	assert_int_equal(w.down_err, -EPROTO);
	assert_int_equal(w.messages, 3 * RECEIVES);
	end(&w);
}

static void bye_inside_a_message(void **state)
{
	struct world w;

	(void)state;
	begin(&w, VERBS_SRQ_OFF);
	say(&w, 0, VSEG_FIRST, 100, 10);
	say(&w, 256, VSEG_BYE, 0, 0);
	UNTIL(&w, w.down);
	assert_int_equal(w.down_err, -EPROTO);
	assert_int_equal(w.messages, 0);
	end(&w);
}

/* On a shared receive queue the device does not stop it. */
static void more_than_its_credits(void **state)
{
	struct world w;

	(void)state;
	begin(&w, VERBS_SRQ_ON);
	for (uint32_t i = 0; i < w.greet.credits + 4u; i++)
		say(&w, i * 64, VSEG_FIRST, PAYLOAD, PAYLOAD);
	UNTIL(&w, w.down);
	assert_int_equal(w.down_err, -EPROTO);
	assert_true(w.messages <= w.greet.credits);
	end(&w);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(write_with_immediate),
		cmocka_unit_test(bye_inside_a_message),
		cmocka_unit_test(more_than_its_credits),
	};
	static const struct CMUnitTest none[] = { cmocka_unit_test(needs_a_device) };
	struct be_addr at;

	if (verbs_ops.probe(&missing) < 0 ||
	    (!rdma_device_address(&at) && err_set(&missing, -ENODEV, "no RDMA device has an IPv4 address") < 0))
		return cmocka_run_group_tests_name("rdma, a hostile peer", none, NULL, NULL);
	return cmocka_run_group_tests_name("rdma, a hostile peer", tests, NULL, NULL);
}

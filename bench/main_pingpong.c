/* SPDX-License-Identifier: MIT */
/*
 * pingpong: half the round trip of a small message through a backend, both ends polling without a pause: what ib_send_lat
 * measures of the verbs alone. Run one with --listen, then one with --peer, which prints one JSON object; the first ends
 * with it.
 */
#include "base/json.h"
#include "base/opt.h"
#include "base/stats.h"
#include "base/util.h"
#include "transport/verbs.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ITERATIONS_MAX 1000000
#define SILENCE_NS (60 * NS_PER_S)

struct pingpong_opts {
	char peer[280], listen[280], backend[16];
	uint64_t size;
	uint32_t iterations, warm;
};

#define FIELD(f) offsetof(struct pingpong_opts, f)

static const struct opt rows[] = {
	{ .name = "peer",
	  .type = OPT_STR,
	  .offset = FIELD(peer),
	  .def = "",
	  .max = 280,
	  .unit = "HOST[:PORT]",
	  .help = "where the other one listens" },
	{ .name = "listen",
	  .type = OPT_STR,
	  .offset = FIELD(listen),
	  .def = "",
	  .max = 280,
	  .unit = "HOST[:PORT]",
	  .help = "answer instead" },
	{ .name = "backend",
	  .type = OPT_STR,
	  .offset = FIELD(backend),
	  .def = "rdma",
	  .max = 16,
	  .unit = "NAME",
	  .help = "backend" },
	{ .name = "size",
	  .type = OPT_SIZE,
	  .offset = FIELD(size),
	  .def = "64",
	  .min = 1,
	  .max = 65536,
	  .help = "bytes of a message" },
	{ .name = "iterations",
	  .type = OPT_U32,
	  .offset = FIELD(iterations),
	  .def = "1000",
	  .min = 1,
	  .max = ITERATIONS_MAX,
	  .help = "round trips that count" },
	{ .name = "warm-up",
	  .type = OPT_U32,
	  .offset = FIELD(warm),
	  .def = "100",
	  .max = ITERATIONS_MAX,
	  .help = "round trips before them" },
};

struct end {
	const struct pingpong_opts *o;
	const struct be_ops *ops;
	struct be *be;
	be_stream s;
	bool connected, down;
	uint32_t messages;
	uint8_t *body;
};

static const uint8_t preamble[BE_PREAMBLE];

static int on_event(struct end *p, const struct be_event *ev)
{
	switch (ev->type) {
	case BE_INCOMING:
		if (!p->s)
			return p->ops->accept(p->be, ev->request, preamble, 1, 0, &p->s);
		p->ops->reject(p->be, ev->request, NULL);
		break;
	case BE_CONNECTED:
		p->connected = true;
		break;
	case BE_MESSAGE:
		p->messages++;
		p->ops->release(p->be, ev->frame);
		break;
	case BE_DOWN:
		p->down = true;
		return ev->err;
	default:
		break;
	}
	return 0;
}

/* Polls until the messages are `n` (0: until it is connected). */
static int until(struct end *p, uint32_t n, struct err *e)
{
	uint64_t deadline = clock_now(&clock_mono) + SILENCE_NS;
	struct be_event ev[8];
	uint32_t turn = 0;

	while (n ? p->messages < n : !p->connected) {
		int got = p->ops->poll(p->be, ev, (int)ARRAY_LEN(ev)), rc = 0;

		for (int i = 0; i < got && rc == 0; i++)
			rc = on_event(p, &ev[i]);
		if (p->down || rc < 0)
			return err_set(e, rc ? rc : -ECONNRESET, "the connection is over: %s",
				       strerror(rc ? -rc : ECONNRESET));
		if (!(++turn & 1023) && clock_now(&clock_mono) > deadline)
			return err_set(e, -ETIMEDOUT, "the other end is silent");
	}
	return 0;
}

static int say(struct end *p, struct err *e)
{
	struct be_msg m = { .body = p->body, .body_len = (uint32_t)p->o->size };
	struct be_event ev[8];
	int rc;

	while ((rc = p->ops->send(p->be, p->s, &m, 1)) == 0) {
		int got = p->ops->poll(p->be, ev, (int)ARRAY_LEN(ev));

		for (int i = 0; i < got; i++)
			if (on_event(p, &ev[i]) < 0)
				return err_set(e, -ECONNRESET, "the connection is over");
	}
	return rc < 0 ? err_set(e, rc, "cannot send: %s", strerror(-rc)) : 0;
}

static int answer(struct end *p, struct err *e)
{
	int rc = until(p, 0, e);

	for (uint32_t i = 1; rc == 0; i++) {
		rc = until(p, i, e);
		if (rc == 0)
			rc = say(p, e);
	}
	return p->down && p->messages ? 0 : rc;
}

static int report(const struct pingpong_opts *o, double *us, struct err *e)
{
	json_t *j = json_result("pingpong", true);

	json_object_set_new(j, "backend", json_string(o->backend));
	json_object_set_new(j, "size", json_integer((json_int_t)o->size));
	json_object_set_new(j, "n", json_integer(o->iterations));
	json_object_set_new(j, "median_us", json_number(stats_quantile(us, o->iterations, 0.5)));
	json_object_set_new(j, "p99_us", json_number(stats_quantile(us, o->iterations, 0.99)));
	json_object_set_new(j, "least_us", json_number(stats_quantile(us, o->iterations, 0)));
	return json_write(j, NULL, e);
}

static int ask(struct end *p, struct err *e)
{
	uint32_t all = p->o->warm + p->o->iterations;
	double *us = calloc(all, sizeof *us);
	int rc = us ? until(p, 0, e) : err_set(e, -ENOMEM, "no memory");

	for (uint32_t i = 0; rc == 0 && i < all; i++) {
		uint64_t begun = clock_now(&clock_mono);

		rc = say(p, e);
		if (rc == 0)
			rc = until(p, i + 1, e);
		if (rc == 0)
			us[i] = (double)(clock_now(&clock_mono) - begun) / 2000;
	}
	if (rc == 0)
		rc = report(p->o, us + p->o->warm, e);
	free(us);
	return rc;
}

static int go(struct end *p, const void *opts, struct err *e)
{
	const struct be_open open = { .opts = opts,
				      .streams = 1,
				      .frames = 16,
				      .frame_bytes = 65536,
				      .sends = 16,
				      .regions = 1,
				      .clock = clock_mono,
				      .cpu = -1 };
	bool listening = p->o->listen[0];
	struct be_addr at;
	int rc = addr_resolve(listening ? p->o->listen : p->o->peer, 7412, listening, &at, 1, e);

	if (rc < 0)
		return rc;
	rc = p->ops->open(&open, &p->be, e);
	if (rc < 0)
		return rc;
	if (p->ops->source_add)
		p->ops->source_add(p->be, p->body, p->o->size, NULL);
	if (listening)
		rc = p->ops->listen(p->be, &at, &at, e);
	else
		rc = p->ops->connect(p->be, &at, preamble, 1, 0, &p->s, e);
	if (rc >= 0)
		rc = listening ? answer(p, e) : ask(p, e);
	p->ops->close(p->be);
	return rc;
}

int main(int argc, char **argv)
{
	struct pingpong_opts o = { 0 };
	struct verbs_opts rdma;
	const struct opt_group groups[] = {
		{ .name = "pingpong", .help = "Ping-pong", .rows = rows, .n = ARRAY_LEN(rows), .base = &o },
		{ .name = "rdma", .help = "RDMA", .rows = verbs_ops.opts, .n = verbs_ops.n_opts, .base = &rdma },
	};
	struct end p = { .o = &o };
	struct err e = { 0 };
	int rc;

	opt_defaults(groups, ARRAY_LEN(groups));
	rc = opt_parse(groups, ARRAY_LEN(groups), NULL, argc, argv, NULL, &e);
	if (rc == 1) {
		puts("Usage: pingpong --peer=HOST[:PORT]|--listen=HOST[:PORT] [OPTION…]\n");
		opt_help(groups, 2, stdout);
		return 0;
	}
	if (rc == 0 && !o.peer[0] == !o.listen[0])
		rc = err_set(&e, -EINVAL, "say either --peer or --listen");
	p.ops = backend_find(o.backend);
	if (rc == 0 && !p.ops)
		rc = err_set(&e, -EINVAL, "no backend \"%s\"", o.backend);
	p.body = calloc(1, o.size);
	if (rc == 0)
		rc = p.body ? go(&p, p.ops == &verbs_ops ? &rdma : NULL, &e) : err_set(&e, -ENOMEM, "no memory");
	free(p.body);
	if (rc < 0)
		fprintf(stderr, "pingpong: %s\n", e.why);
	return rc < 0 ? 1 : 0;
}

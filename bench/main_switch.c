/* SPDX-License-Identifier: MIT */
/*
 * switch: what it costs a running transfer to send in another mode. Sends to a `dwcp serve` and steers all streams from
 * one mode to the other at even times, as a session with --mode=auto does when its path has changed; here the path
 * stays, so that what is missing is the switch's. Prints one JSON object.
 */
#include "base/json.h"
#include "base/opt.h"
#include "base/stats.h"
#include "base/util.h"
#include "transport/client.h"
#include "transport/uring.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REGION_BYTES (32u << 20)
#define SWITCHES_MAX 64
#define SLICES_MAX 8192
#define AFTER_NS NS_PER_S /* so long after a switch its cost is looked for */

struct switch_opts {
	char peer[280], from[16], to[16];
	uint32_t streams, switches;
	uint64_t every_ns;
};

#define FIELD(f) offsetof(struct switch_opts, f)

static const struct opt rows[] = {
	{ .name = "peer",
	  .type = OPT_STR,
	  .offset = FIELD(peer),
	  .def = "",
	  .max = 280,
	  .unit = "HOST[:PORT]",
	  .help = "a running `dwcp serve`" },
	{ .name = "from",
	  .type = OPT_STR,
	  .offset = FIELD(from),
	  .def = "cubic",
	  .max = 16,
	  .unit = "NAME",
	  .help = "congestion control of one mode" },
	{ .name = "to",
	  .type = OPT_STR,
	  .offset = FIELD(to),
	  .def = "bbr",
	  .max = 16,
	  .unit = "NAME",
	  .help = "congestion control of the other" },
	{ .name = "streams",
	  .type = OPT_U32,
	  .offset = FIELD(streams),
	  .def = "8",
	  .min = 1,
	  .max = 512,
	  .help = "connections" },
	{ .name = "switches",
	  .type = OPT_U32,
	  .offset = FIELD(switches),
	  .def = "10",
	  .min = 1,
	  .max = SWITCHES_MAX,
	  .help = "how many, there and back" },
	{ .name = "every",
	  .type = OPT_TIME,
	  .offset = FIELD(every_ns),
	  .def = "3s",
	  .min = 2 * NS_PER_S,
	  .max = 60 * NS_PER_S,
	  .help = "time between two" },
};

struct slice {
	uint64_t at_ns, bytes;
};

struct run {
	const struct switch_opts *o;
	struct client *client;
	struct slice v[SLICES_MAX];
	size_t n;
	uint64_t start_ns, at_ns[SWITCHES_MAX];
	unsigned done;
};

static bool tick(void *ctx, uint64_t now_ns, uint64_t bytes)
{
	struct run *r = ctx;
	struct be_steer how = { 0 };

	if (!r->start_ns)
		r->start_ns = now_ns;
	if (r->n < SLICES_MAX)
		r->v[r->n++] = (struct slice){ now_ns, bytes };
	if (now_ns - r->start_ns < (r->done + 1) * r->o->every_ns)
		return false;
	if (r->done == r->o->switches)
		return true;
	snprintf(how.congestion, sizeof(how.congestion), "%s", r->done % 2 ? r->o->from : r->o->to);
	client_steer(r->client, &how);
	r->at_ns[r->done++] = now_ns;
	return false;
}

/* Bytes per second between two times, by the slices inside. */
static double rate_between(const struct run *r, uint64_t from, uint64_t to)
{
	const struct slice *a = NULL, *b = NULL;

	for (size_t i = 0; i < r->n; i++) {
		if (r->v[i].at_ns >= from && !a)
			a = &r->v[i];
		if (r->v[i].at_ns <= to)
			b = &r->v[i];
	}
	return a && b && b->at_ns > a->at_ns ? (double)(b->bytes - a->bytes) * 1e9 / (double)(b->at_ns - a->at_ns) : 0;
}

/* Milliseconds of the lower of the rates before and after, that are missing in the second after a switch. */
static double cost_ms(const struct run *r, unsigned i)
{
	uint64_t at = r->at_ns[i], end = at + r->o->every_ns;
	double before = rate_between(r, at - AFTER_NS, at), after = rate_between(r, at + AFTER_NS, end);
	double usual = fmin(before, after), got = rate_between(r, at, at + AFTER_NS);

	return usual > 0 ? (1 - got / usual) * (double)AFTER_NS / 1e6 : NAN;
}

static int report(const struct run *r, const struct amst_counters *c, const struct msg_xfer_result *x)
{
	json_t *out = json_result("switch", true), *costs = json_array();
	double v[SWITCHES_MAX];
	struct err e;
	int rc;

	for (unsigned i = 0; i < r->done; i++) {
		v[i] = cost_ms(r, i);
		json_array_append_new(costs, json_number(v[i]));
	}
	json_object_set_new(out, "cost_ms", json_interval(stats_bootstrap(v, r->done, 1)));
	json_object_set_new(out, "costs_ms", costs);
	json_object_set_new(out, "gbytes_per_s", json_real(rate_between(r, 0, UINT64_MAX) / 1e9));
	json_object_set_new(out, "chunks", json_integer((json_int_t)c->chunks_acked));
	json_object_set_new(out, "chunks_sent_again", json_integer((json_int_t)(c->chunks_sent - c->chunks_acked)));
	json_object_set_new(out, "chunks_missing", json_integer((json_int_t)(c->chunks_acked - x->placed)));
	rc = json_write(out, "-", &e);
	json_decref(out);
	return rc;
}

static int go(struct run *r, const struct be_addr *peer, int n_peer, const struct uring_opts *tcp, struct err *e)
{
	const struct client_config cfg = { .target = r->o->peer,
					   .addrs = peer,
					   .n_addrs = n_peer,
					   .ops = &uring_ops,
					   .be_opts = tcp,
					   .streams = r->o->streams,
					   .workers = 1,
					   .sum = SUM_XXH3,
					   .timeout_ns = 20 * NS_PER_S,
					   .clock = clock_mono };
	const struct client_tick on_tick = { .fn = tick, .ctx = r };
	struct amst_extent x = { .len = REGION_BYTES };
	struct amst_tx tx = { .chunk = 64u << 10, .sum = SUM_XXH3, .passes = UINT64_MAX, .extents = &x, .n_extents = 1 };
	struct msg_xfer_result result;
	struct hugebuf region;
	struct amst_counters c;
	struct be_counters b;
	int rc = hugebuf_alloc(&region, REGION_BYTES, true, e);

	if (rc < 0)
		return rc;
	rng_fill(region.addr, region.len, 1);
	tx.base = region.addr;
	rc = client_open(&r->client, &cfg, NULL, e);
	if (rc == 0)
		rc = client_region_make(r->client, 1, REGION_BYTES, 0, &tx.token, NULL, e);
	if (rc == 0)
		rc = client_transfer(r->client, &tx, XFER_PUT, &on_tick, &result, e);
	if (rc == 0) {
		amst_counters(client_amst(r->client), &c, &b);
		rc = report(r, &c, &result);
	}
	client_close(r->client);
	hugebuf_free(&region);
	return rc;
}

int main(int argc, char **argv)
{
	static struct run r;
	static struct switch_opts o;
	struct uring_opts tcp;
	const struct opt_group groups[] = {
		{ .name = "switch", .help = "Switch", .rows = rows, .n = ARRAY_LEN(rows), .base = &o },
		{ .name = "tcp", .help = "TCP", .rows = uring_ops.opts, .n = uring_ops.n_opts, .base = &tcp },
	};
	struct be_addr peer[4];
	struct err e = { 0 };
	int n = 0, rc;

	opt_defaults(groups, ARRAY_LEN(groups));
	rc = opt_parse(groups, ARRAY_LEN(groups), NULL, argc, argv, NULL, &e);
	if (rc == 1) {
		puts("Usage: switch --peer=HOST[:PORT] [OPTION…]\n");
		opt_help(groups, 1, stdout);
		return 0;
	}
	if (rc == 0) {
		snprintf(tcp.congestion, sizeof(tcp.congestion), "%s", o.from);
		rc = n = addr_resolve(o.peer, DWCP_PORT, false, peer, (int)ARRAY_LEN(peer), &e);
	}
	r.o = &o;
	if (rc >= 0)
		rc = go(&r, peer, n, &tcp, &e);
	if (rc < 0)
		fprintf(stderr, "switch: %s\n", e.why);
	return rc < 0 ? 1 : 0;
}

/* SPDX-License-Identifier: MIT */
/* dwcp benchmark amst: options and flow. */
#include "cli/bench_amst.h"
#include "base/util.h"
#include "cli/cmd.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct cmd_usage usage = {
	.name = "benchmark amst",
	.operands = "",
	.about =
		"Moves memory to memory over many streams and measures throughput, latency of chunks, copies, CPU time and "
		"memory; the digest of both regions proves what arrived last: the contents change before each iteration, and "
		"between --omit and --duration. Without --peer it starts its own receiver process on "
		"loopback, or with --link over an emulated network. GB/s are 10^9 bytes per second, sizes are 1024-based.",
	.examples = "  dwcp benchmark amst\n"
		    "  dwcp benchmark amst --mode=datacenter --data-size=1GB --streams=512 --iterations=100\n"
		    "  dwcp benchmark amst --duration=10s --omit=1s --region=4MB --checksum=none --streams=2\n"
		    "  dwcp benchmark amst --peer=10.0.0.2 --reverse --json=result.json\n"
		    "  dwcp benchmark amst --link=simulated_internet --duration=10s --data-size=64MB --streams=32\n",
};

#define FIELD(f) offsetof(struct bench_amst_opts, f)

static const struct opt rows[] = {
	{ .name = "data-size",
	  .type = OPT_SIZE,
	  .offset = FIELD(data_size),
	  .def = "1GB",
	  .min = 1,
	  .max = 1ull << 50,
	  .help = "bytes of one transfer" },
	{ .name = "region",
	  .type = OPT_SIZE,
	  .offset = FIELD(region),
	  .def = "auto",
	  .min = 1,
	  .max = 1ull << 46,
	  .auto_ok = true,
	  .help = "memory touched on each side; smaller than the data: sent over and over, as iperf3 does; larger: walked "
		  "through; auto: the data size" },
	{ .name = "iterations",
	  .type = OPT_U32,
	  .offset = FIELD(iterations),
	  .def = "10",
	  .min = 1,
	  .max = 10000000,
	  .help = "transfers that are measured" },
	{ .name = "duration",
	  .type = OPT_TIME,
	  .offset = FIELD(duration_ns),
	  .def = "0s",
	  .max = 7 * 24 * 3600 * NS_PER_S,
	  .help = "send the region again and again for so long, instead of --iterations" },
	{ .name = "omit",
	  .type = OPT_TIME,
	  .offset = FIELD(omit_ns),
	  .def = "0s",
	  .max = 3600 * NS_PER_S,
	  .help = "send for so long before the measurement begins" },
	{ .name = "interval",
	  .type = OPT_TIME,
	  .offset = FIELD(interval_ns),
	  .def = "1s",
	  .max = 3600 * NS_PER_S,
	  .help = "time between interval lines, 100 ms at least; 0: none" },
	{ .name = "peer",
	  .type = OPT_STR,
	  .offset = FIELD(peer),
	  .def = "",
	  .max = sizeof(((struct bench_amst_opts *)0)->peer),
	  .unit = "HOST[:PORT]",
	  .help = "a running `dwcp serve`; without it an own receiver process on loopback. CPU time of that side is its "
		  "whole process', other sessions included" },
	{ .name = "reverse",
	  .letter = 'R',
	  .type = OPT_BOOL,
	  .offset = FIELD(reverse),
	  .def = "no",
	  .help = "the peer sends, this side receives" },
	{ .name = "content",
	  .type = OPT_STR,
	  .offset = FIELD(content),
	  .def = "random",
	  .max = sizeof(((struct bench_amst_opts *)0)->content),
	  .unit = "random|FILE",
	  .help = "what the memory holds: random bytes, which nothing compresses, or a file (a memory image), over and over" },
	{ .name = "link",
	  .type = OPT_STR,
	  .offset = FIELD(link),
	  .def = "",
	  .max = sizeof(((struct bench_amst_opts *)0)->link),
	  .unit = "PROFILE",
	  .help = "sender and receiver at the two ends of an emulated network: a profile of `dwcp linkemu` or a YAML file" },
	{ .name = "check",
	  .type = OPT_BOOL,
	  .offset = FIELD(check),
	  .def = "no",
	  .help = "exit status 3 when the median is below --target-gbytes-per-s" },
	{ .name = "target-gbytes-per-s",
	  .type = OPT_F64,
	  .offset = FIELD(target),
	  .def = "0",
	  .help = "throughput wanted, for --check" },
};

/* The receiver may be on any address; our own one gets one made up, which it replaces by the one it listens on. */
static int plan(struct transfer *t, const struct transfer_opts *o, const struct bench_amst_opts *opts, struct err *e)
{
	const struct be_addr loopback = { .len = sizeof(struct sockaddr_in),
					  .in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	const struct be_addr side_b = bench_link_addr();
	int rc = opts->peer[0] ? transfer_plan(t, o, opts->peer, e)
			       : transfer_plan_addr(t, o, opts->link[0] ? &side_b : &loopback, "own receiver", e);
	char most[32];

	if (rc >= 0 && o->chunk > t->ops->caps.put_max)
		rc = err_set(e, -EINVAL, "--chunk-size: %s sends at most %s at a time; choose less", t->ops->name,
			     format_size(most, sizeof(most), t->ops->caps.put_max));
	return rc;
}

static int check_options(const struct bench_amst_opts *o, bool compress, struct err *e)
{
	if (o->interval_ns && o->interval_ns < 100 * NS_PER_MS)
		return err_set(e, -EINVAL,
			       "--interval: less than 100 ms cannot be told apart; choose more, or 0 for none");
	if (o->link[0] && o->peer[0])
		return err_set(e, -EINVAL, "--link is a network to an own receiver: choose it or --peer");
	if (o->reverse && compress)
		return err_set(e, -EINVAL, "--reverse: a peer sends what it has as it is; leave --compress out");
	if (o->reverse && strcmp(o->content, "random"))
		return err_set(e, -EINVAL, "--content is of the side that sends; leave --reverse out");
	if (o->check && !(o->target > 0))
		return err_set(e, -EINVAL, "--check compares with --target-gbytes-per-s, which is missing");
	if (!o->check && o->target > 0)
		return err_set(e, -EINVAL, "--target-gbytes-per-s is compared by --check, which is missing");
	return 0;
}

static void set_sizes(struct bench_amst *b)
{
	const struct bench_amst_opts *o = b->opts;
	struct bench_result *r = &b->result;

	r->region_bytes = o->region ? o->region : o->data_size;
	r->data_bytes = o->data_size > r->region_bytes ? div_up_u64(o->data_size, r->region_bytes) * r->region_bytes
						       : o->data_size;
	if (o->reverse && r->data_bytes < r->region_bytes)
		r->region_bytes = r->data_bytes; /* the peer sends from the beginning of its region */
}

static int report(const struct bench_amst *b, int rc, const char *json, const struct err *why)
{
	double median = bench_amst_throughput(b).median;
	struct err e = { 0 };
	int status = rc < 0 ? transfer_fail(usage.name, why) : CMD_OK;

	if (rc < 0 && !b->result.bytes)
		return status;
	if (b->text)
		bench_amst_print(b);
	if (*json && bench_amst_print_json(b, json, &e) < 0)
		status = cmd_fail(usage.name, &e);
	if (status == CMD_OK && b->opts->check && median < b->opts->target) {
		fprintf(stderr, "dwcp: benchmark amst: %.3f GB/s is below the target of %.3f GB/s\n", median,
			b->opts->target);
		status = CMD_SHORT;
	}
	return status;
}

static int run(struct bench_amst *b, struct transfer *t, const char *json)
{
	uint64_t memory = b->result.region_bytes + (1u << 20);
	struct bench_peer peer = { .pid = 0 };
	struct err e = { 0 };
	int rc = 0, status;

	transfer_raise_limits();
	cmd_catch_signals();
	b->result.own_peer = !b->opts->peer[0];
	if (b->opts->link[0])
		rc = bench_link_up(b->link, &e);
	if (rc >= 0 && b->result.own_peer) {
		rc = bench_peer_start(&peer, t, b->link, memory, 0, &e);
		t->peer[0] = peer.addr;
		addr_format(t->target, sizeof(t->target), &peer.addr);
	}
	if (rc >= 0)
		rc = bench_link_enter(b->link, LINK_A, &e);
	if (rc >= 0)
		rc = bench_amst_run(b, &e);
	bench_peer_stop(&peer, rc >= 0);
	bench_link_leave(b->link);
	status = report(b, rc, json, &e);
	bench_amst_free(b);
	bench_link_down(b->link);
	return status;
}

int cmd_benchmark_amst(int argc, char **argv)
{
	struct bench_amst_opts opts = { 0 };
	struct transfer_opts transfer_opts = { 0 };
	struct cmd_output output = { 0 };
	const struct opt_group groups[] = {
		{ .name = "benchmark", .help = "Benchmark", .rows = rows, .n = ARRAY_LEN(rows), .base = &opts },
		transfer_group(&transfer_opts),
		transfer_tcp_group(&transfer_opts.tcp),
		transfer_rdma_group(&transfer_opts.rdma),
		transfer_compress_group(&transfer_opts),
		cmd_output_group(&output),
	};
	static struct transfer_flight flight;
	static const struct link_opts nothing;
	struct transfer t = { .flight = &flight };
	struct bench_link link = { .name = "" };
	struct bench_amst b = { .opts = &opts, .transfer = &t, .link = &link };
	struct err e = { 0 };
	int n, status, rc;

	status = cmd_options(&usage, groups, ARRAY_LEN(groups), 0, 0, argc, argv, &n);
	if (status != CMD_RUN)
		return status;
	transfer_apply_mode(&transfer_opts);
	rc = check_options(&opts, transfer_opts.hde.mode != HDE_NONE, &e);
	if (rc >= 0)
		rc = plan(&t, &transfer_opts, &opts, &e);
	if (rc >= 0 && opts.link[0])
		rc = link_settings_make(&link.settings, opts.link, &nothing, &e);
	if (rc < 0) {
		cmd_fail(usage.name, &e);
		return rc == -EINVAL ? CMD_USAGE : CMD_FAILED;
	}
	b.text = strcmp(output.json, "-") != 0;
	b.bar = !output.json[0];
	set_sizes(&b);
	return run(&b, &t, output.json);
}

/* SPDX-License-Identifier: MIT */
/* What `dwcp benchmark amst` prints. */
#include "base/json.h"
#include "base/util.h"
#include "cli/bench_amst.h"
#include "cli/cmd.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define SAMPLES_SHOWN 1000
#define GIB ((double)(1u << 30))
#define MIB ((double)(1u << 20))

struct stats_interval bench_amst_throughput(const struct bench_amst *b)
{
	return stats_bootstrap(b->result.samples.v, b->result.samples.n, 1);
}

/* Reserved huge pages are not counted in a process' resident memory. NAN: it is not known. */
static double over_regions(uint64_t rss, enum huge_kind pages, uint64_t region)
{
	if (!rss)
		return NAN;
	if (pages == HUGE_TLB)
		region = 0;
	return rss > region ? (double)(rss - region) / MIB : 0;
}

static void print_mb(const char *where, double mb)
{
	if (isnan(mb))
		printf("%s not known", where);
	else
		printf("%s %.1f MB", where, mb);
}

static double mean(const struct bench_result *r)
{
	return r->ns ? (double)r->bytes / (double)r->ns : 0;
}

static const char *congestion_option(const struct bench_amst *b)
{
	const char *c = b->transfer->opts->tcp.congestion;

	return *c ? c : "auto";
}

/* Its numbers are known: ours always, the peer's when it answered. */
static bool known(const struct bench_amst *b, bool sender)
{
	return b->result.peer_told || sender != b->opts->reverse;
}

/* ---- text -------------------------------------------------------------------------------------- */

void bench_amst_print_head(const struct bench_amst *b)
{
	const struct transfer *t = b->transfer;
	const struct bench_result *r = &b->result;
	char chunk[32], data[32], region[32];

	printf("%s %s by %s, %u stream%s, %u worker%s%s, chunks of %s, checksum %s, %s, mode %s\n",
	       b->opts->reverse ? "from" : "to", r->own_peer ? "own receiver process" : t->target, t->ops->name,
	       t->streams, t->streams == 1 ? "" : "s", t->workers, t->workers == 1 ? "" : "s",
	       t->cpus.n ? " pinned" : "", format_size(chunk, sizeof(chunk), t->opts->chunk), sum_names[t->opts->sum],
	       amst_sched_names[t->opts->sched], mode_names[t->opts->mode]);
	bench_link_print(b->link, b->opts->link);
	printf("%s a transfer, regions of %s (pages: %s here, %s there), session set-up %.2f ms\n",
	       format_size(data, sizeof(data), r->data_bytes), format_size(region, sizeof(region), r->region_bytes),
	       huge_kind_name(r->pages), huge_kind_name(r->peer_pages), (double)r->setup_ns / 1e6);
	cmd_flush();
}

void bench_amst_print_interval(const struct bench_amst *b, const struct bench_interval *i)
{
	double s = i->to - i->from;

	printf("[%7.2f-%-7.2f sec]  %7.2f GiB  %7.3f GB/s", i->from, i->to, (double)i->bytes / GIB,
	       s > 0 ? (double)i->bytes / s / 1e9 : 0);
	if (!b->opts->reverse)
		printf("  retr %llu", (unsigned long long)i->retransmits);
	putchar('\n');
	cmd_flush();
}

static void print_costs(const struct bench_amst *b)
{
	const struct bench_result *r = &b->result;
	bool rev = b->opts->reverse;
	char zero[32], copied[32];

	if (r->latency.n)
		printf("  %-16s p50 %.0f, p95 %.0f, p99 %.0f, p99.9 %.0f us\n", "chunk latency",
		       (double)hist_quantile(&r->latency, .5) / 1e3, (double)hist_quantile(&r->latency, .95) / 1e3,
		       (double)hist_quantile(&r->latency, .99) / 1e3, (double)hist_quantile(&r->latency, .999) / 1e3);
	if (known(b, true))
		printf("  %-16s sent without a copy %s, by a copy %s\n", "copies",
		       format_size(zero, sizeof(zero), rev ? r->peer_tx_zero_copy : r->be.tx_zero_copy_bytes),
		       format_size(copied, sizeof(copied), rev ? r->peer_tx_copied : r->be.tx_copied_bytes));
	printf("  %-16s here %.3f s", "CPU time", r->cpu_s);
	if (r->peer_told)
		printf(", there %.3f s", r->peer_cpu_s);
	printf("\n  %-16s", "resident memory");
	print_mb(" here", over_regions(r->rss, r->pages, r->region_bytes));
	if (r->peer_told)
		print_mb(", there", over_regions(r->peer_rss, r->peer_pages, r->peer_regions));
	puts(" over the regions");
	if (known(b, true))
		printf("  %-16s %llu segments", "retransmits", (unsigned long long)r->retransmits);
	else
		printf("  %-16s not known, the peer could not be asked", "retransmits");
	if (r->refused)
		printf(", %llu damaged chunks sent again", (unsigned long long)r->refused);
	if (r->reconnects || r->resumes)
		printf(", %llu streams and %llu sessions reconnected", (unsigned long long)r->reconnects,
		       (unsigned long long)r->resumes);
	putchar('\n');
}

void bench_amst_print(const struct bench_amst *b)
{
	const struct bench_result *r = &b->result;
	const struct stats_interval s = bench_amst_throughput(b);
	const char *sum = sum_names[b->transfer->opts->sum];
	char bytes[32], digest[32];

	printf("  %-16s %.3f GB/s", "throughput", s.median);
	if (s.n > 1)
		printf(" (median; 95 %% %.3f to %.3f, n %zu)", s.ci95_low, s.ci95_high, s.n);
	printf("\n  %-16s %s in %.3f s, %.3f GB/s\n", "moved", format_size(bytes, sizeof(bytes), r->bytes),
	       (double)r->ns / 1e9, mean(r));
	if (b->transfer->opts->hde.mode) {
		char wire[32];

		printf("  %-16s %s of payload, %.2f : 1 (--compress=%s)\n", "on the wire",
		       format_size(wire, sizeof(wire), r->amst.wire_acked),
		       r->amst.wire_acked ? (double)r->bytes / (double)r->amst.wire_acked : 0,
		       hde_mode_names[b->transfer->opts->hde.mode]);
	}
	print_costs(b);
	format_size(digest, sizeof(digest), r->verified_bytes);
	if (r->verified)
		printf("  %-16s yes: XXH3-128 of %s is the same on both sides; %llu chunks by checksum %s\n",
		       "verified", digest, (unsigned long long)r->chunks, sum);
	else
		printf("  %-16s no%s\n", "verified", r->interrupted ? ": interrupted" : "");
	cmd_flush();
}

/* ---- JSON -------------------------------------------------------------------------------------- */

static json_t *settings_json(const struct bench_amst *b)
{
	const struct transfer *t = b->transfer;
	const struct bench_result *r = &b->result;

	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:s, s:s?, s:b, s:s, s:b, s:I, s:I, s:I, s:s, s:s, s:f}",
			 "backend", t->ops->name, "mode", mode_names[t->opts->mode], "streams",
			 (json_int_t)transfer_streams(t), "workers", (json_int_t)t->workers, "chunk_bytes",
			 (json_int_t)t->opts->chunk, "checksum", sum_names[t->opts->sum], "scheduling",
			 amst_sched_names[t->opts->sched], "congestion_option", congestion_option(b), "congestion",
			 r->congestion[0] ? r->congestion : NULL, "pinned", t->cpus.n > 0, "peer", t->target,
			 "own_receiver", r->own_peer, "data_bytes", (json_int_t)r->data_bytes, "region_bytes",
			 (json_int_t)r->region_bytes, "iterations", (json_int_t)r->transfers, "pages",
			 huge_kind_name(r->pages), "peer_pages", huge_kind_name(r->peer_pages), "session_setup_ms",
			 (double)r->setup_ns / 1e6);
}

static json_t *latency_json(const struct hist *h)
{
	if (!h->n)
		return json_null();
	return json_pack("{s:f, s:f, s:f, s:f, s:I}", "p50", (double)hist_quantile(h, .5) / 1e3, "p95",
			 (double)hist_quantile(h, .95) / 1e3, "p99", (double)hist_quantile(h, .99) / 1e3, "p999",
			 (double)hist_quantile(h, .999) / 1e3, "n", (json_int_t)h->n);
}

static json_t *count_json(bool is_known, uint64_t v)
{
	return is_known ? json_integer((json_int_t)v) : json_null();
}

/* The two documented fields are the sending side's; the receiving side has its own. */
static json_t *copies_json(const struct bench_amst *b)
{
	const struct bench_result *r = &b->result;
	bool rev = b->opts->reverse, tx = known(b, true), rx = known(b, false);

	return json_pack("{s:o, s:o, s:o, s:o}", "zero_copy_bytes",
			 count_json(tx, rev ? r->peer_tx_zero_copy : r->be.tx_zero_copy_bytes), "copied_bytes",
			 count_json(tx, rev ? r->peer_tx_copied : r->be.tx_copied_bytes), "received_zero_copy_bytes",
			 count_json(rx, rev ? r->be.rx_zero_copy_bytes : r->peer_rx_zero_copy), "received_copied_bytes",
			 count_json(rx, rev ? r->be.rx_copied_bytes : r->peer_rx_copied));
}

static json_t *real_or_null(bool is_known, double v)
{
	return is_known && !isnan(v) ? json_real(v) : json_null();
}

static json_t *two_sides(const struct bench_amst *b, double here, double there)
{
	json_t *ours = real_or_null(true, here), *theirs = real_or_null(b->result.peer_told, there);
	bool rev = b->opts->reverse;

	return json_pack("{s:o, s:o}", "sender", rev ? theirs : ours, "receiver", rev ? ours : theirs);
}

static json_t *intervals_json(const struct bench_amst *b)
{
	const struct bench_result *r = &b->result;
	json_t *list = json_array();

	for (size_t i = 0; i < r->n_intervals; i++) {
		const struct bench_interval *v = &r->intervals[i];
		double s = v->to - v->from;

		json_array_append_new(list, json_pack("{s:f, s:f, s:f, s:I, s:o, s:b}", "t", v->to, "seconds", s,
						      "gbytes_per_s", s > 0 ? (double)v->bytes / s / 1e9 : 0, "bytes",
						      (json_int_t)v->bytes, "retransmits",
						      count_json(!b->opts->reverse, v->retransmits), "full", v->full));
	}
	return list;
}

/* One by one, in order, unless there are very many. */
static json_t *samples_json(const struct bench_samples *s)
{
	json_t *list = json_array();

	for (size_t i = 0; i < s->n && s->n <= SAMPLES_SHOWN; i++)
		json_array_append_new(list, json_number(s->v[i]));
	return list;
}

static json_t *measured_json(const struct bench_amst *b)
{
	const struct bench_result *r = &b->result;

	return json_pack(
		"{s:I, s:f, s:o, s:f, s:o, s:b, s:I, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:o}",
		"bytes", (json_int_t)r->bytes, "seconds", (double)r->ns / 1e9, "throughput_gbytes_per_s",
		json_interval(bench_amst_throughput(b)), "mean_gbytes_per_s", mean(r), "latency_us",
		latency_json(&r->latency), "verified", r->verified, "verified_bytes",
		(json_int_t)(r->verified ? r->verified_bytes : 0), "copies", copies_json(b), "cpu_seconds",
		two_sides(b, r->cpu_s, r->peer_cpu_s), "rss_mbytes",
		two_sides(b, over_regions(r->rss, r->pages, 0), over_regions(r->peer_rss, r->peer_pages, 0)),
		"rss_over_regions_mbytes",
		two_sides(b, over_regions(r->rss, r->pages, r->region_bytes),
			  over_regions(r->peer_rss, r->peer_pages, r->peer_regions)),
		"retransmits", count_json(known(b, true), r->retransmits), "chunks", (json_int_t)r->chunks,
		"chunks_refused", (json_int_t)r->refused, "reconnects", (json_int_t)r->reconnects, "resumes",
		(json_int_t)r->resumes, "syscalls", (json_int_t)r->be.syscalls, "reverse", b->opts->reverse,
		"interrupted", r->interrupted, "intervals", intervals_json(b));
}

int bench_amst_print_json(const struct bench_amst *b, const char *path, struct err *e)
{
	json_t *result = json_result("benchmark amst", true);
	json_t *settings = settings_json(b), *measured = measured_json(b);
	int rc;

	json_object_update(result, settings);
	json_object_update(result, measured);
	json_object_set_new(result, "compress", json_string(hde_mode_names[b->transfer->opts->hde.mode]));
	json_object_set_new(result, "bytes_wire", count_json(!b->opts->reverse, b->result.amst.wire_acked));
	if (b->transfer->opts->hde.mode)
		json_object_set_new(result, "hde", metrics_json(hde_metrics, hde_metrics_n, &b->result.hde));
	json_object_set_new(result, "samples_gbytes_per_s", samples_json(&b->result.samples));
	bench_link_json(b->link, b->opts->link, result);
	if (b->opts->check)
		json_object_set_new(result, "check",
				    json_pack("{s:f, s:b}", "target_gbytes_per_s", b->opts->target, "reached",
					      bench_amst_throughput(b).median >= b->opts->target));
	json_decref(settings);
	json_decref(measured);
	rc = json_write(result, path, e);
	json_decref(result);
	return rc;
}

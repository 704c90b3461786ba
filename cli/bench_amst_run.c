/* SPDX-License-Identifier: MIT */
/* Measuring: regions, transfers, intervals, and what they cost. */
#include "base/util.h"
#include "cli/bench_amst.h"
#include "cli/cmd.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define REGION_THERE 1
#define REGION_HERE 2
#define SEED 0x64776370u
#define SAMPLE_AHEAD (120 * NS_PER_MS) /* retransmits are asked for so long before an interval ends */

static uint64_t now(void)
{
	return clock_now(&clock_mono);
}

static double gbytes_per_s(uint64_t bytes, uint64_t ns)
{
	return ns ? (double)bytes / (double)ns : 0;
}

static void add_sample(struct bench_samples *s, double v)
{
	if (s->n == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 64;
		double *bigger = realloc(s->v, cap * sizeof(*bigger));

		if (!bigger)
			return;
		s->v = bigger;
		s->cap = cap;
	}
	s->v[s->n++] = v;
}

/* ---- intervals --------------------------------------------------------------------------------- */

static void add_interval(struct bench_amst *b, uint64_t at, uint64_t bytes, bool full)
{
	struct bench_result *r = &b->result;
	uint64_t retransmits = amst_retransmits(client_amst(b->client));
	struct bench_interval i = {
		.from = (double)(b->interval_at - b->start_ns) / 1e9,
		.to = (double)(at - b->start_ns) / 1e9,
		.bytes = bytes - b->interval_bytes,
		.retransmits = retransmits - b->interval_retransmits,
		.full = full,
	};

	if (r->n_intervals == r->cap_intervals) {
		size_t cap = r->cap_intervals ? r->cap_intervals * 2 : 64;
		struct bench_interval *bigger = realloc(r->intervals, cap * sizeof(*bigger));

		if (!bigger)
			return;
		r->intervals = bigger;
		r->cap_intervals = cap;
	}
	r->intervals[r->n_intervals++] = i;
	if (full && b->stop_ns)
		add_sample(&r->samples, gbytes_per_s(i.bytes, at - b->interval_at));
	b->interval_at = at;
	b->interval_bytes = bytes;
	b->interval_retransmits = retransmits;
	b->sampled = false;
	/* a rest of a few milliseconds has no rate worth a line */
	if (b->text && (full || (i.to - i.from) * 1e10 >= (double)b->opts->interval_ns))
		bench_amst_print_interval(&i);
}

static void look_at_interval(struct bench_amst *b, uint64_t at, uint64_t bytes)
{
	if (!b->opts->interval_ns)
		return;
	if (!b->sampled && at + SAMPLE_AHEAD >= b->interval_end)
		b->sampled = amst_sample(client_amst(b->client)) == 0;
	if (at >= b->interval_end)
		add_interval(b, at, bytes, true);
	while (b->interval_end <= at) /* on a grid: being late does not add up */
		b->interval_end += b->opts->interval_ns;
}

static bool tick(void *ctx, uint64_t at, uint64_t bytes)
{
	struct bench_amst *b = ctx;

	if (b->counting) {
		look_at_interval(b, at, b->base_bytes + bytes);
		progress_update(&b->progress, b->base_bytes + bytes, at);
	}
	return b->stop_ns && at >= b->stop_ns;
}

/* ---- one transfer ------------------------------------------------------------------------------ */

/* Moves [at, at + len) `passes` times. What arrived is added to the totals when it counts. */
static int push(struct bench_amst *b, uint64_t at, uint64_t len, uint64_t passes, uint64_t *acked, struct err *e)
{
	const struct client_tick on_tick = { .fn = tick, .ctx = b };
	const struct amst_extent extent = { .from = at, .to = at, .len = len };
	struct amst_tx tx = {
		.chunk = (uint32_t)b->transfer->opts->chunk,
		.sum = (enum sum_kind)b->transfer->opts->sum,
		.passes = passes,
		.extents = &extent,
		.n_extents = 1,
		.base = b->region.addr,
		.token = b->token,
	};
	int rc = client_transfer(b->client, &tx, XFER_PUT, &on_tick, NULL, e);

	*acked = tx.acked_bytes;
	if (b->counting) {
		b->result.chunks += tx.acked;
		b->result.refused += tx.refused;
	}
	return rc;
}

static int pull(struct bench_amst *b, uint64_t len, uint64_t passes, uint64_t *acked, struct err *e)
{
	const struct client_tick on_tick = { .fn = tick, .ctx = b };
	struct msg_pull_result r = { 0 };
	int rc = client_pull(b->client, REGION_THERE, REGION_HERE, b->token, b->region.len, len, passes,
			     (uint32_t)b->transfer->opts->chunk, &on_tick, &r, e);

	*acked = r.bytes;
	if (b->counting) {
		b->result.chunks += r.chunks;
		b->result.refused += r.refused;
	}
	return rc;
}

static int move(struct bench_amst *b, uint64_t at, uint64_t len, uint64_t passes, struct err *e)
{
	struct bench_result *r = &b->result;
	uint64_t began = now(), acked = 0, ns;
	int rc = b->opts->reverse ? pull(b, len, passes, &acked, e) : push(b, at, len, passes, &acked, e);

	r->verified_bytes = max_u64(r->verified_bytes, at + min_u64(len, acked));
	if (!b->counting)
		return rc;
	ns = now() - began;
	b->base_bytes += acked;
	r->bytes += acked;
	r->ns += ns;
	r->transfers += rc >= 0;
	if (rc >= 0 && !b->stop_ns)
		add_sample(&r->samples, gbytes_per_s(acked, ns));
	return rc;
}

/* ---- what it costs ----------------------------------------------------------------------------- */

struct cost {
	struct be_counters be;
	struct amst_counters amst;
	struct msg_info peer;
	uint64_t cpu_ns, retransmits;
};

static uint64_t cpu_ns(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * NS_PER_S +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * NS_PER_US;
}

static int look_at_cost(struct bench_amst *b, struct cost *c, struct err *e)
{
	struct amst *a = client_amst(b->client);
	int rc;

	c->cpu_ns = cpu_ns();
	amst_sample(a);
	rc = client_info(b->client, &c->peer, e); /* its answer takes longer than our own workers' look */
	amst_counters(a, &c->amst, &c->be);
	c->retransmits = amst_retransmits(a);
	return rc;
}

/* now less before, field by field: both structs hold uint64_t only. */
static void subtract(void *into, const void *later, const void *earlier, size_t bytes)
{
	uint64_t *d = into;
	const uint64_t *a = later, *z = earlier;

	for (size_t i = 0; i < bytes / sizeof(*d); i++)
		d[i] = a[i] - z[i];
}

static void take_cost(struct bench_amst *b, const struct cost *from, const struct cost *to)
{
	struct bench_result *r = &b->result;
	struct rusage u;

	subtract(&r->be, &to->be, &from->be, sizeof(r->be));
	subtract(&r->amst, &to->amst, &from->amst, sizeof(r->amst));
	r->cpu_s = (double)(to->cpu_ns - from->cpu_ns) / 1e9;
	r->peer_cpu_s = (double)(to->peer.cpu_ns - from->peer.cpu_ns) / 1e9;
	r->peer_rss = to->peer.rss_bytes;
	r->peer_tx_zero_copy = to->peer.tx_zero_copy - from->peer.tx_zero_copy;
	r->peer_tx_copied = to->peer.tx_copied - from->peer.tx_copied;
	r->peer_rx_zero_copy = to->peer.rx_zero_copy - from->peer.rx_zero_copy;
	r->peer_rx_copied = to->peer.rx_copied - from->peer.rx_copied;
	r->retransmits = b->opts->reverse ? to->peer.retransmits - from->peer.retransmits
					  : to->retransmits - from->retransmits;
	if (!b->opts->reverse)
		amst_latency(client_amst(b->client), &r->latency);
	getrusage(RUSAGE_SELF, &u);
	r->rss = (uint64_t)u.ru_maxrss * 1024;
}

/* ---- phases ------------------------------------------------------------------------------------ */

static int make_regions(struct bench_amst *b, struct err *e)
{
	struct bench_result *r = &b->result;
	int rc = client_region_make(b->client, REGION_THERE, r->region_bytes, b->opts->reverse ? SEED : 0, &b->token,
				    &r->peer_pages, e);

	if (rc >= 0 && b->opts->reverse)
		rc = client_region_offer(b->client, REGION_HERE, b->region.addr, r->region_bytes, &b->token, e);
	if (rc >= 0 && !b->opts->reverse)
		amst_source_add(client_amst(b->client), b->region.addr, r->region_bytes);
	return rc;
}

/* For so long, not counted. */
static int warm_up(struct bench_amst *b, struct err *e)
{
	if (!b->opts->omit_ns)
		return 0;
	b->stop_ns = now() + b->opts->omit_ns;
	return move(b, 0, b->result.region_bytes, UINT64_MAX, e);
}

static int measure_by_count(struct bench_amst *b, struct err *e)
{
	const struct bench_result *r = &b->result;
	uint64_t len = min_u64(r->data_bytes, r->region_bytes), passes = r->data_bytes / len, at = 0;
	int rc = 0;

	for (uint32_t i = 0; rc >= 0 && i < b->opts->iterations; i++) {
		rc = move(b, at, len, passes, e);
		/* A region larger than a transfer is walked through, so that small transfers meet cold memory, too. */
		at += len;
		if (at + len > r->region_bytes || b->opts->reverse)
			at = 0;
	}
	return rc;
}

static int measure(struct bench_amst *b, struct err *e)
{
	struct bench_result *r = &b->result;
	uint64_t total = b->opts->duration_ns ? 0 : r->data_bytes * b->opts->iterations;
	struct cost before = { 0 }, after = { 0 };
	struct err why;
	int rc = look_at_cost(b, &before, e);

	if (rc < 0)
		return rc;
	amst_latency_reset(client_amst(b->client));
	b->counting = true;
	b->start_ns = b->interval_at = now();
	b->interval_end = b->start_ns + b->opts->interval_ns;
	b->stop_ns = b->opts->duration_ns ? b->start_ns + b->opts->duration_ns : 0;
	b->interval_retransmits = before.retransmits;
	progress_begin(&b->progress, "measuring", total, b->text && !b->opts->interval_ns, b->start_ns);
	rc = b->opts->duration_ns ? move(b, 0, r->region_bytes, UINT64_MAX, e) : measure_by_count(b, e);
	progress_clear(&b->progress);
	if (b->opts->interval_ns && b->base_bytes > b->interval_bytes)
		add_interval(b, now(), b->base_bytes, false);
	b->counting = false;
	if (!r->samples.n && r->bytes)
		add_sample(&r->samples, gbytes_per_s(r->bytes, r->ns));
	if (look_at_cost(b, &after, &why) >= 0)
		take_cost(b, &before, &after);
	return rc;
}

static int verify(struct bench_amst *b, struct err *e)
{
	struct bench_result *r = &b->result;
	struct digest128 ours, theirs;
	int rc = client_digest(b->client, REGION_THERE, 0, r->verified_bytes, &theirs, e);

	if (rc < 0)
		return rc;
	ours = digest128_of(b->region.addr, r->verified_bytes);
	r->verified = ours.lo == theirs.lo && ours.hi == theirs.hi;
	if (!r->verified)
		return err_set(e, -EBADMSG, "the regions differ after the transfer: please report this as a bug");
	return 0;
}

int bench_amst_run(struct bench_amst *b, struct err *e)
{
	struct bench_result *r = &b->result;
	int rc = hugebuf_alloc(&b->region, r->region_bytes, true, e);

	if (rc < 0)
		return rc;
	r->pages = b->region.kind;
	if (!b->opts->reverse)
		rng_fill(b->region.addr, b->region.len, SEED);
	rc = transfer_connect(b->transfer, false, &b->client, &r->setup_ns, e);
	if (rc >= 0)
		rc = make_regions(b, e);
	if (rc >= 0 && b->text)
		bench_amst_print_head(b);
	if (rc >= 0)
		rc = warm_up(b, e);
	if (rc >= 0)
		rc = measure(b, e);
	if (rc >= 0 && r->verified_bytes)
		rc = verify(b, e);
	if (b->client) {
		r->reconnects = client_reconnects(b->client);
		r->resumes = client_resumes(b->client);
	}
	r->interrupted = rc == -EINTR;
	client_close(b->client);
	b->client = NULL;
	return rc;
}

void bench_amst_free(struct bench_amst *b)
{
	hugebuf_free(&b->region);
	free(b->result.samples.v);
	free(b->result.intervals);
}

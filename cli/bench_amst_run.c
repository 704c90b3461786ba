/* SPDX-License-Identifier: MIT */
/* Measuring: regions, transfers, intervals, and what they cost. */
#include "base/proc.h"
#include "base/util.h"
#include "cli/bench_amst.h"
#include "cli/cmd.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define REGION_THERE 1
#define REGION_HERE 2
#define SEED_THERE 0x64776370u            /* contents: of the peer's region in reverse, … */
#define SEED_FIRST 0x1u                   /* …of ours, … */
#define SEED_MEASURED 0x8000000000000000u /* …and after --omit */
#define STAMP_STEP 4096                   /* the smallest chunk: every chunk of an iteration has a stamp */
#define PIECE (256ull << 20)              /* of work on a region between two looks at the progress */
#define SAMPLE_AHEAD (120 * NS_PER_MS)    /* retransmits are asked for so long before an interval ends */

static uint64_t now(void)
{
	return clock_now(&clock_mono);
}

/* A counter that was 0 again (a session of a peer that started anew) has not run backwards. */
static uint64_t since(uint64_t later, uint64_t earlier)
{
	return later > earlier ? later - earlier : 0;
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
		.retransmits = since(retransmits, b->interval_retransmits),
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
	if (b->text && (full || (i.to - i.from) * 1e10 >= (double)b->opts->interval_ns)) {
		progress_line(&b->progress, at);
		bench_amst_print_interval(b, &i);
	}
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

	if (b->counting)
		look_at_interval(b, at, b->base_bytes + bytes);
	progress_update(&b->progress, b->base_bytes + bytes, at);
	return b->stop_ns && at >= b->stop_ns;
}

/* ---- one transfer ------------------------------------------------------------------------------ */

/* Moves [at, at + len) `passes` times. What arrived is added to the totals when it counts. */
static int push(struct bench_amst *b, uint64_t at, uint64_t len, uint64_t passes, uint64_t *acked, struct err *e)
{
	const struct client_tick on_tick = { .fn = tick, .ctx = b };
	const struct amst_extent extent = { .from = at, .to = at, .len = len, .object = b->token.id };
	struct amst_tx tx = {
		.chunk = (uint32_t)b->transfer->opts->chunk,
		.sum = (enum sum_kind)b->transfer->opts->sum,
		.passes = passes,
		.extents = &extent,
		.n_extents = 1,
		.stage = b->hde ? &b->stage : NULL,
		.base = b->region.addr,
		.token = b->token,
	};

	if (b->hde)
		hde_round(hde_stage_enc(b->hde), NULL);
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
	struct amst_counters before, after;
	struct be_counters be;
	int rc;

	amst_counters(client_amst(b->client), &before, &be);
	rc = client_pull(b->client, REGION_THERE, REGION_HERE, b->token, b->region.len, len, passes,
			 (uint32_t)b->transfer->opts->chunk, &on_tick, &r, e);
	if (rc < 0) { /* the peer did not say what it sent: what arrived is known here */
		amst_counters(client_amst(b->client), &after, &be);
		r.bytes = after.bytes_placed - before.bytes_placed;
		r.chunks = after.chunks_placed - before.chunks_placed;
		r.refused = after.chunks_bad - before.chunks_bad;
	}

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

/* of this thread */
static uint64_t clock_cpu(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* What is known here is taken in any case; <0: the peer did not tell the rest. */
static int look_at_cost(struct bench_amst *b, struct cost *c, struct err *e)
{
	struct amst *a = client_amst(b->client);

	c->cpu_ns = proc_cpu_ns();
	amst_counters(a, &c->amst, &c->be);
	client_sample(b->client, NULL);
	c->retransmits = amst_retransmits(a);
	return client_info(b->client, &c->peer, e);
}

/* now less before, field by field: both structs hold uint64_t only. */
static void subtract(void *into, const void *later, const void *earlier, size_t bytes)
{
	uint64_t *d = into;
	const uint64_t *a = later, *z = earlier;

	for (size_t i = 0; i < bytes / sizeof(*d); i++)
		d[i] = since(a[i], z[i]);
}

static void take_cost(struct bench_amst *b, const struct cost *from, const struct cost *to)
{
	struct bench_result *r = &b->result;

	subtract(&r->be, &to->be, &from->be, sizeof(r->be));
	subtract(&r->amst, &to->amst, &from->amst, sizeof(r->amst));
	r->cpu_s = (double)since(to->cpu_ns - from->cpu_ns, b->stamp_cpu_ns) / 1e9;
	r->rss = proc_rss_bytes();
	if (b->opts->reverse)
		return;
	r->retransmits = since(to->retransmits, from->retransmits);
	amst_latency(client_amst(b->client), &r->latency);
}

static void take_peer_cost(struct bench_amst *b, const struct msg_info *from, const struct msg_info *to)
{
	struct bench_result *r = &b->result;

	r->peer_told = true;
	r->peer_cpu_s = (double)since(to->cpu_ns, from->cpu_ns) / 1e9;
	r->peer_rss = to->rss_bytes;
	r->peer_regions = to->region_bytes;
	r->peer_tx_zero_copy = since(to->tx_zero_copy, from->tx_zero_copy);
	r->peer_tx_copied = since(to->tx_copied, from->tx_copied);
	r->peer_rx_zero_copy = since(to->rx_zero_copy, from->rx_zero_copy);
	r->peer_rx_copied = since(to->rx_copied, from->rx_copied);
	if (b->opts->reverse)
		r->retransmits = since(to->retransmits, from->retransmits);
}

/* ---- contents ---------------------------------------------------------------------------------- */

static void bar(struct bench_amst *b, const char *what, uint64_t total)
{
	progress_begin(&b->progress, what, total, b->bar, now());
}

/* The file's bytes, over and over. */
static int fill_from_file(struct bench_amst *b, struct err *e)
{
	const char *path = b->opts->content;
	uint8_t *p = b->region.addr;
	uint64_t len = b->region.len, have = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n = fd < 0 ? -1 : 1;
	int rc = fd < 0 ? -errno : 0;

	bar(b, "reading", len);
	while (n > 0 && have < len && !cmd_signal) {
		n = pread(fd, p + have, min_u64(PIECE, len - have), (off_t)have);
		rc = n < 0 ? -errno : 0;
		have += n > 0 ? (uint64_t)n : 0;
		progress_update(&b->progress, have, now());
	}
	progress_clear(&b->progress);
	if (n < 0 || !have) {
		err_set(e, n < 0 ? rc : -ENODATA, "--content: cannot read \"%.200s\": %s; name a file with contents",
			path, n < 0 ? strerror(-rc) : "it is empty");
		if (fd >= 0)
			close(fd);
		return e->code;
	}
	close(fd);
	for (uint64_t at = have; at < len; at += have)
		memcpy(p + at, p, min_u64(have, len - at));
	return cmd_signal ? err_set(e, -EINTR, "interrupted") : 0;
}

/* New contents for all of our region. In reverse it is what arrives that must replace them. */
static int fill(struct bench_amst *b, uint64_t seed, struct err *e)
{
	uint8_t *p = b->region.addr;
	uint64_t len = b->region.len;

	if (!b->opts->reverse && strcmp(b->opts->content, "random"))
		return fill_from_file(b, e);
	bar(b, "filling", len);
	for (uint64_t at = 0; at < len && !cmd_signal; at += PIECE) {
		rng_fill(p + at, min_u64(PIECE, len - at), seed + at);
		progress_update(&b->progress, at, now());
	}
	progress_clear(&b->progress);
	return cmd_signal ? err_set(e, -EINTR, "interrupted") : 0;
}

/* Changes every page of what the next iteration moves, so that bytes of an earlier one are not what has to be there
 * at the end. In reverse our copy is spoilt, which the iteration must repair. */
static void stamp(struct bench_amst *b, uint64_t at, uint64_t len)
{
	uint8_t *p = b->region.addr;
	uint64_t began = now(), cpu = clock_cpu(), v, ns;

	for (uint64_t end = at + len; at < end; at += STAMP_STEP) {
		size_t n = min_u64(sizeof(v), end - at);

		v = 0;
		memcpy(&v, p + at, n);
		v += v != 0; /* a page of zeros stays one */
		memcpy(p + at, &v, n);
	}
	/* The measurement's clock stands still meanwhile. */
	ns = now() - began;
	b->start_ns += ns;
	b->interval_at += ns;
	b->interval_end += ns;
	b->stamp_cpu_ns += clock_cpu() - cpu;
}

/* ---- phases ------------------------------------------------------------------------------------ */

/* Each iteration stands for a transfer of its own: no deltas against the one before. */
static int open_hde(struct bench_amst *b, struct err *e)
{
	const struct bench_result *r = &b->result;
	bool once = !b->opts->duration_ns && r->data_bytes <= r->region_bytes;
	const struct hde_config cfg = {
		.opts = b->transfer->opts->hde,
		.workers = b->transfer->workers,
		.bytes = once ? r->region_bytes : 0, /* a page may be under way twice otherwise */
		.frozen = b->region.addr,
		.no_delta = true,
	};

	return hde_stage_open(&b->hde, &b->stage, &cfg, b->region.addr, r->region_bytes, NULL, e);
}

static int make_regions(struct bench_amst *b, struct err *e)
{
	struct bench_result *r = &b->result;
	int rc = client_region_make(b->client, REGION_THERE, r->region_bytes, b->opts->reverse ? SEED_THERE : 0,
				    &b->token, &r->peer_pages, e);

	if (rc >= 0 && b->opts->reverse)
		rc = client_region_offer(b->client, REGION_HERE, b->region.addr, r->region_bytes, &b->token, e);
	if (rc >= 0 && b->transfer->opts->hde.mode)
		rc = open_hde(b, e);
	if (rc >= 0 && !b->opts->reverse)
		amst_source_add(client_amst(b->client), b->region.addr, r->region_bytes);
	return rc;
}

/* For so long, not counted. What it moved must not count as proof either: contents are new afterwards. */
static int warm_up(struct bench_amst *b, struct err *e)
{
	int rc;

	if (!b->opts->omit_ns)
		return 0;
	bar(b, "warming up", 0);
	b->stop_ns = now() + b->opts->omit_ns;
	rc = move(b, 0, b->result.region_bytes, UINT64_MAX, e);
	progress_clear(&b->progress);
	b->result.verified_bytes = 0;
	return rc < 0 ? rc : fill(b, SEED_MEASURED, e);
}

static int measure_by_count(struct bench_amst *b, struct err *e)
{
	const struct bench_result *r = &b->result;
	uint64_t len = min_u64(r->data_bytes, r->region_bytes), passes = r->data_bytes / len, at = 0;
	int rc = 0;

	for (uint32_t i = 0; rc >= 0 && i < b->opts->iterations; i++) {
		stamp(b, at, len);
		rc = move(b, at, len, passes, e);
		/* A region larger than a transfer is walked through, so that small transfers meet cold memory, too. */
		at += len;
		if (at + len > r->region_bytes || b->opts->reverse)
			at = 0;
	}
	return rc;
}

static void count(struct bench_amst *b, const struct cost *before)
{
	uint64_t total = b->opts->duration_ns ? 0 : b->result.data_bytes * b->opts->iterations;

	amst_latency_reset(client_amst(b->client));
	bar(b, "measuring", total);
	b->interval_retransmits = before->retransmits;
	b->start_ns = b->interval_at = now();
	b->interval_end = b->start_ns + b->opts->interval_ns;
	b->stop_ns = b->opts->duration_ns ? b->start_ns + b->opts->duration_ns : 0;
	b->counting = true;
}

static int measure(struct bench_amst *b, struct err *e)
{
	struct bench_result *r = &b->result;
	struct cost before = { 0 }, after = { 0 };
	uint64_t end;
	int rc = look_at_cost(b, &before, e), told;

	if (rc < 0)
		return rc;
	count(b, &before);
	rc = b->opts->duration_ns ? move(b, 0, r->region_bytes, UINT64_MAX, e) : measure_by_count(b, e);
	end = now();
	progress_clear(&b->progress);
	told = look_at_cost(b, &after, NULL);
	if (b->opts->interval_ns && b->base_bytes > b->interval_bytes)
		add_interval(b, end, b->base_bytes, false);
	b->counting = false;
	if (!r->samples.n && r->bytes)
		add_sample(&r->samples, gbytes_per_s(r->bytes, r->ns));
	take_cost(b, &before, &after);
	if (told >= 0)
		take_peer_cost(b, &before.peer, &after.peer);
	return rc;
}

static int verify(struct bench_amst *b, struct err *e)
{
	struct bench_result *r = &b->result;
	const uint8_t *p = b->region.addr;
	int rc = 0;

	bar(b, "verifying", r->verified_bytes);
	for (uint64_t at = 0; rc >= 0 && at < r->verified_bytes; at += PIECE) {
		uint64_t len = min_u64(PIECE, r->verified_bytes - at);
		struct digest128 ours, theirs;

		rc = client_digest(b->client, REGION_THERE, at, len, &theirs, e);
		if (rc < 0)
			break;
		ours = digest128_of(p + at, len);
		if (ours.lo != theirs.lo || ours.hi != theirs.hi)
			rc = err_set(e, -EBADMSG, "the regions differ after the transfer: please report this as a bug");
		progress_update(&b->progress, at + len, now());
	}
	progress_clear(&b->progress);
	r->verified = rc >= 0;
	return rc;
}

/* What the kernel runs on the sending side; the peer's is not known here. */
static void look_at_path(struct bench_amst *b)
{
	struct be_info info;

	if (!b->opts->reverse && client_path(b->client, &info) == 0)
		snprintf(b->result.congestion, sizeof(b->result.congestion), "%s", info.congestion);
}

static int run_phases(struct bench_amst *b, struct err *e)
{
	int rc = make_regions(b, e);

	if (rc < 0)
		return rc;
	look_at_path(b);
	if (b->text)
		bench_amst_print_head(b);
	rc = warm_up(b, e);
	if (rc >= 0)
		rc = measure(b, e);
	if (rc >= 0 && b->result.verified_bytes)
		rc = verify(b, e);
	return rc;
}

int bench_amst_run(struct bench_amst *b, struct err *e)
{
	struct bench_result *r = &b->result;
	int rc = hugebuf_alloc(&b->region, r->region_bytes, true, e);

	if (rc < 0)
		return rc;
	r->pages = b->region.kind;
	if (!b->opts->reverse)
		rc = fill(b, SEED_FIRST, e);
	if (rc >= 0)
		rc = transfer_connect(b->transfer, b->transfer->opts->hde.mode != HDE_NONE, &b->client, &r->setup_ns,
				      e);
	if (rc >= 0)
		rc = run_phases(b, e);
	if (b->client) {
		r->reconnects = client_reconnects(b->client);
		r->resumes = client_resumes(b->client);
	}
	r->interrupted = rc == -EINTR;
	if (b->hde)
		hde_enc_stats(hde_stage_enc(b->hde), &r->hde);
	client_close(b->client);
	b->client = NULL;
	hde_stage_close(b->hde);
	b->hde = NULL;
	return rc;
}

void bench_amst_free(struct bench_amst *b)
{
	hugebuf_free(&b->region);
	free(b->result.samples.v);
	free(b->result.intervals);
}

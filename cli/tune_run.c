/* SPDX-License-Identifier: MIT */
/* One session in which the search has its way: the pilot tells it what moved, and does what it says. */
#include "base/log.h"
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/tune.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define REGION_THERE 1
#define REGION_BYTES (32ull << 20)

static uint64_t now(void)
{
	return clock_now(&clock_mono);
}

/* New connections begin with it: one that ran under another algorithm has its window. */
static void steer(struct tune_run *r, uint32_t cc)
{
	struct be_steer how = { .pacing_rate = 0 };

	memcpy(how.congestion, r->cc[cc], sizeof(how.congestion));
	client_steer(r->client, &how);
	client_renew_streams(r->client);
	r->cc_now = cc;
}

static bool look(void *ctx, const struct pilot_seen *seen, struct pilot_wants *w)
{
	struct tune_run *r = ctx;
	enum tune_say say = tune_look(&r->tune, seen);
	const struct tune_point *p = tune_at(&r->tune);

	if (seen->rtt_least_ns && (!r->rtt_least_ns || seen->rtt_least_ns < r->rtt_least_ns))
		r->rtt_least_ns = seen->rtt_least_ns;
	r->over |= say == TUNE_END;
	if (say != TUNE_MOVE)
		return false;
	w->streams = p->streams;
	w->chunk = p->chunk;
	if (p->cc != r->cc_now)
		steer(r, p->cc);
	r->stop = p->chunk != seen->chunk;
	log_info("tune: %u streams, chunks of %u bytes, %s", p->streams, p->chunk, r->cc[p->cc]);
	return true;
}

static const struct pilot_ops pilot = { .name = "tune_run", .look = look };

static bool tick(void *ctx, uint64_t at, uint64_t bytes)
{
	struct tune_run *r = ctx;

	progress_update(&r->progress, r->bytes + bytes, at);
	return r->stop || r->over;
}

/* As many as the search's point says, which is nothing for a client that was told a plan. */
static int connect_to(struct tune_run *r, struct err *e)
{
	struct client_config cfg;
	int rc;

	transfer_client(r->transfer, false, &cfg);
	cfg.streams = r->tune.cfg.streams_most;
	cfg.streams_first = tune_at(&r->tune)->streams;
	cfg.pilot = (struct pilot){ .ops = &pilot, .ctx = r };
	cfg.mode = NULL;
	rc = client_open(&r->client, &cfg, NULL, e);
	return rc;
}

static void look_around(struct tune_run *r)
{
	struct msg_info info;

	if (client_info(r->client, &info, NULL) == 0 && info.sessions > 1)
		r->others = (uint32_t)max_u64(r->others, info.sessions - 1);
}

static int probe_all(struct tune_run *r, const uint8_t *base, struct be_token token, struct err *e)
{
	const struct client_tick on_tick = { .fn = tick, .ctx = r };
	const struct amst_extent extent = { .len = REGION_BYTES };
	int rc = 0;

	while (rc >= 0 && !r->over) {
		struct amst_tx tx = {
			.chunk = client_chunk(r->client, tune_at(&r->tune)->chunk),
			.sum = (enum sum_kind)r->transfer->opts->sum,
			.passes = UINT64_MAX,
			.extents = &extent,
			.n_extents = 1,
			.base = base,
			.token = token,
		};

		r->stop = false;
		rc = client_transfer(r->client, &tx, XFER_PUT, &on_tick, NULL, e);
		r->bytes += tx.acked_bytes;
	}
	return rc;
}

int tune_run(struct tune_run *r, struct err *e)
{
	struct hugebuf region = { 0 };
	struct be_token token = { 0 };
	uint64_t began = now();
	int rc = hugebuf_alloc(&region, REGION_BYTES, true, e);

	if (rc < 0)
		return rc;
	rng_fill(region.addr, region.len, 1);
	rc = connect_to(r, e);
	if (rc >= 0)
		rc = client_region_make(r->client, REGION_THERE, REGION_BYTES, 0, &token, NULL, e);
	if (rc >= 0) {
		look_around(r);
		progress_begin(&r->progress, "probing", 0, r->bar, now());
		rc = probe_all(r, region.addr, token, e);
		progress_clear(&r->progress);
	}
	if (rc >= 0)
		look_around(r);
	r->interrupted = rc == -EINTR;
	r->seconds = (double)(now() - began) / 1e9;
	client_close(r->client);
	r->client = NULL;
	hugebuf_free(&region);
	return rc;
}

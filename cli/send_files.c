/* SPDX-License-Identifier: MIT */
#include "cli/send_files.h"
#include "base/bitmap.h"
#include "base/log.h"
#include "cli/send_batch.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct run {
	struct send_job *job;
	struct batch batch;
	struct stage stage; /* of every transfer */
	struct hde_stage *hde;
	uint64_t *failed; /* a bit for each entry of the list */
};

/* ---- the stage: a chunk is what the file holds ------------------------------------------------- */

static ssize_t encode(void *ctx, unsigned worker, const struct stage_chunk *c, void *out, size_t cap)
{
	struct batch *b = ctx;
	struct batch_item *it = &b->v[c->object];
	int rc;

	(void)worker;
	if (c->len > cap)
		return -EMSGSIZE;
	rc = source_read(&it->file, out, c->len, c->offset);
	if (rc < 0) {
		__atomic_store_n(&it->read_error, rc, __ATOMIC_RELAXED);
		return rc;
	}
	return (ssize_t)c->len;
}

static int decode(void *ctx, unsigned worker, const struct stage_chunk *c, const void *in, size_t len)
{
	(void)ctx;
	(void)worker;
	(void)c;
	(void)in;
	(void)len;
	return -EPROTO; /* nobody sends files back */
}

static const struct stage_ops read_files = { .name = "files", .overhead = 0, .encode = encode, .decode = decode };

static bool tick(void *ctx, uint64_t now_ns, uint64_t bytes)
{
	struct send_job *job = ctx;

	progress_update(&job->progress, job->totals.bytes_sent + job->totals.bytes_equal + bytes, now_ns);
	return false;
}

/* ---- one batch --------------------------------------------------------------------------------- */

static void drop_failed_extents(struct batch *b)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < b->n_ext; i++)
		if (!b->v[b->ext[i].object].status)
			b->ext[n++] = b->ext[i];
	b->n_ext = n;
}

/* The transfer ended because of one file; the reason is told. False: it was not a file. */
static bool blame(struct send_job *job, struct batch *b, const struct amst_tx *tx)
{
	struct batch_item *it = tx->status_object < b->n ? &b->v[tx->status_object] : NULL;
	char name[STORE_NAME_SHOWN];
	struct err e;
	int rc;

	if (!tx->status || tx->status == -EBADMSG || tx->status == -ENOBUFS || !it || it->status)
		return false;
	rc = __atomic_load_n(&it->read_error, __ATOMIC_RELAXED);
	store_name_show(name, sizeof(name), rc ? it->entry->path : it->entry->name);
	if (rc == -ESTALE)
		err_set(&e, rc, "\"%s\" became shorter while it was sent; send it again", name);
	else if (rc)
		err_set(&e, rc, "cannot read \"%s\": %s; look at its disk", name, strerror(-rc));
	else
		err_set(&e, tx->status, "cannot write \"%s\" at %.80s: %s; %s", name, job->transfer->target,
			strerror(-tx->status),
			tx->status == -ENOSPC || tx->status == -EDQUOT ? "free space there, then --resume"
								       : "look at the server's store");
	batch_report(job, it, tx->status, e.why);
	return true;
}

static uint64_t wire_bytes(const struct send_job *job)
{
	struct amst_counters ac;
	struct be_counters bc;

	amst_counters(client_amst(job->client), &ac, &bc);
	return ac.wire_acked;
}

static int transfer(struct run *r, struct err *e)
{
	struct send_job *job = r->job;
	struct batch *b = &r->batch;
	const struct client_tick on_tick = { .fn = tick, .ctx = job };
	int rc = 0;

	while (drop_failed_extents(b), b->n_ext) {
		struct msg_xfer_result result = { 0 };
		uint64_t wire = wire_bytes(job);
		struct amst_tx tx = {
			.chunk = (uint32_t)job->transfer->opts->chunk,
			.sum = (enum sum_kind)job->transfer->opts->sum,
			.passes = 1,
			.extents = b->ext,
			.n_extents = b->n_ext,
			.stage = &r->stage,
		};

		rc = client_transfer(job->client, &tx, XFER_FILES, &on_tick, &result, e);
		job->totals.bytes_sent += tx.acked_bytes;
		job->totals.bytes_wire += wire_bytes(job) - wire;
		job->totals.chunks += tx.acked;
		job->totals.chunks_refused += tx.refused;
		if (rc >= 0 || !blame(job, b, &tx))
			return rc;
	}
	return 0;
}

/* A file that was written to while it was sent is not complete over there. */
static void check_unchanged(struct send_job *job, struct batch *b)
{
	struct err e;

	for (uint32_t i = 0; i < b->n; i++) {
		struct batch_item *it = &b->v[i];
		int rc = 0;

		if (!it->status && it->entry->kind == STORE_FILE)
			rc = source_unchanged(&it->file, &e);
		if (rc < 0)
			batch_report(job, it, rc, e.why);
	}
}

static int run_batch(struct run *r, bool resume, bool folders, struct err *e)
{
	struct send_job *job = r->job;
	struct batch *b = &r->batch;
	int rc = 0;

	if (b->n) {
		rc = batch_open(job, b, resume, e);
		if (rc >= 0)
			rc = batch_plan(job, b, e);
		if (rc >= 0)
			rc = transfer(r, e);
		if (rc >= 0) {
			check_unchanged(job, b);
			rc = batch_close(job, b, folders, e);
		}
		job->totals.batches++;
	}
	for (uint32_t i = 0; i < b->n; i++) {
		job->totals.bytes_equal += b->v[i].equal;
		if (b->v[i].status)
			bitmap_set(r->failed, b->v[i].index);
	}
	batch_clear(b);
	return rc < 0 ? rc : 0;
}

/* ---- all of them ------------------------------------------------------------------------------- */

static void add(struct run *r, uint64_t i)
{
	const struct source_entry *entry = r->job->list->v[i];
	struct batch_item lost = { .entry = entry };
	struct err e;
	int rc = batch_add(&r->batch, entry, i, &e);

	if (rc < 0) {
		batch_report(r->job, &lost, rc, e.why);
		bitmap_set(r->failed, i);
	}
}

static int send_contents(struct run *r, struct err *e)
{
	const struct source_list *l = r->job->list;
	int rc = 0;

	for (uint64_t i = 0; rc == 0 && i < l->n; i++) {
		if (!batch_has_room(&r->batch, l->v[i]))
			rc = run_batch(r, r->job->resume, false, e);
		if (rc == 0)
			add(r, i);
	}
	return rc == 0 ? run_batch(r, r->job->resume, false, e) : rc;
}

/* Folders once more, deepest first: now nothing changes in them any more. */
static int finish_folders(struct run *r, struct err *e)
{
	const struct source_list *l = r->job->list;
	int rc = 0;

	for (uint64_t i = l->n; rc == 0 && i-- > 0;) {
		if (l->v[i]->kind != STORE_DIR || bitmap_test(r->failed, i))
			continue;
		if (!batch_has_room(&r->batch, l->v[i]))
			rc = run_batch(r, false, true, e);
		if (rc == 0)
			add(r, i);
	}
	return rc == 0 ? run_batch(r, false, true, e) : rc;
}

/* Files are read by the worker that sends them, and compressed there when that is asked for. */
static int open_stage(struct run *r, struct err *e)
{
	const struct stage plain = { .ops = &read_files, .ctx = &r->batch };
	const struct hde_config cfg = { .opts = r->job->transfer->opts->hde, .workers = r->job->transfer->workers };

	r->stage = plain;
	return cfg.opts.mode ? hde_stage_open(&r->hde, &r->stage, &cfg, NULL, 0, &plain, e) : 0;
}

int send_files(struct send_job *job, struct err *e)
{
	struct run *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return err_set(e, -ENOMEM, "no memory for a batch of files: free some");
	r->job = job;
	r->failed = calloc(bitmap_words(job->list->n) + 1, sizeof(*r->failed));
	rc = r->failed ? batch_alloc(&r->batch, e) : err_set(e, -ENOMEM, "no memory for the list of files: free some");
	if (rc == 0)
		rc = open_stage(r, e);
	if (rc == 0)
		rc = send_contents(r, e);
	if (rc == 0)
		rc = finish_folders(r, e);
	progress_clear(&job->progress);
	hde_stage_close(r->hde);
	batch_free(&r->batch);
	free(r->failed);
	free(r);
	return rc;
}

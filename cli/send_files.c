/* SPDX-License-Identifier: MIT */
#include "cli/send_files.h"
#include "base/bitmap.h"
#include "base/log.h"
#include "cli/send_batch.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AGAIN_MOST (2 * BATCH_FILES) /* of a batch, and of one that was begun before it was seen to */
#define FULL_TIMES 4
#define WAITS 50 /* for descriptors over there, each… */
#define WAIT_NS (100 * NS_PER_MS)

struct run {
	struct send_job *job;
	struct batch batch;
	struct stage stage; /* of every transfer */
	struct hde_stage *hde;
	uint64_t *failed;           /* a bit for each entry of the list */
	bool resume, folders;       /* how batches are opened and closed now */
	uint32_t most;              /* files of a batch: what descriptors here and there allowed */
	uint64_t again[AGAIN_MOST]; /* indices of what found no descriptor there */
	uint32_t n_again, waits;
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

static void acked(void *ctx, unsigned worker, const struct stage_chunk *c, uint64_t wire)
{
	struct batch *b = ctx;

	(void)worker;
	(void)wire;
	__atomic_fetch_add(&b->v[c->object].acked, c->len, __ATOMIC_RELAXED);
}

static const struct stage_ops read_files = { .name = "files", .encode = encode, .decode = decode, .acked = acked };

static bool tick(void *ctx, uint64_t now_ns, uint64_t bytes)
{
	struct send_job *job = ctx;

	progress_update(&job->progress, job->totals.bytes_sent + job->totals.bytes_equal + bytes, now_ns);
	return false;
}

/* ---- one batch --------------------------------------------------------------------------------- */

/* What is left to be sent: not of files that failed, nor of those that are whole there. */
static void keep_missing(struct batch *b)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < b->n_ext; i++) {
		const struct batch_item *it = &b->v[b->ext[i].object];

		if (!it->status && !batch_item_whole(it))
			b->ext[n++] = b->ext[i];
	}
	b->n_ext = n;
	for (uint32_t i = 0; i < b->n; i++)
		if (!batch_item_whole(&b->v[i]))
			b->v[i].acked = 0;
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

static int64_t count_whole(const struct batch *b)
{
	int64_t n = 0;

	for (uint32_t i = 0; i < b->n; i++)
		n += !b->v[i].status && batch_item_whole(&b->v[i]);
	return n;
}

/* A disk that is full: how many files were whole when it was seen last, and how often it was since that grew. */
struct full {
	int64_t whole;
	unsigned times;
};

/* What is half there keeps its place for a resume, so others may become whole still; when none does any more, what is left is
 * given up. */
static void disk_full(struct send_job *job, struct batch *b, const struct amst_tx *tx, struct full *f)
{
	int64_t whole = count_whole(b);
	struct amst_tx of = { .status = tx->status };

	f->times = whole > f->whole ? 0 : f->times + 1;
	f->whole = whole;
	if (f->times < FULL_TIMES)
		return;
	for (of.status_object = 0; of.status_object < b->n; of.status_object++)
		if (!batch_item_whole(&b->v[of.status_object]))
			blame(job, b, &of);
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
	struct full full = { .whole = -1 };
	int rc = 0;

	while (keep_missing(b), b->n_ext) {
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
		check_unchanged(job, b); /* whoever cuts one file cuts others, too */
		if (tx.status == -ENOSPC || tx.status == -EDQUOT)
			disk_full(job, b, &tx, &full);
	}
	return 0;
}

/* A folder makes what is in it possible, and hides it: that waits, too. */
static uint32_t count_later(struct batch *b)
{
	bool folder = false;
	uint32_t later = 0;

	for (uint32_t i = 0; i < b->n; i++) {
		struct batch_item *it = &b->v[i];

		if (folder && !it->status) {
			it->later = true;
			it->status = -EMFILE;
		}
		folder |= it->later && it->entry->kind == STORE_DIR;
		later += it->later;
	}
	return later;
}

/* Those that found no descriptor there are put aside, and batches become smaller, with room for what else needs some;
 * when it works they grow again. */
static int put_aside(struct run *r, struct err *e)
{
	struct batch *b = &r->batch;
	uint32_t later = count_later(b);

	if (later < b->n)
		r->waits = 0;
	if (!later) {
		r->most = (uint32_t)min_u64(2ull * r->most, BATCH_FILES);
		return 0;
	}
	/* None at all: others hold them, for some time. */
	if (later == b->n && r->waits >= WAITS)
		return 0;
	r->waits += later == b->n;
	r->most = (uint32_t)max_u64((b->n - later) / 2, 1);
	for (uint32_t i = 0; i < b->n; i++)
		if (b->v[i].later)
			r->again[r->n_again++] = b->v[i].index;
	return later == b->n ? client_turn(r->job->client, WAIT_NS, e) : 0;
}

static void report_later(struct send_job *job, struct batch_item *it)
{
	char why[sizeof(job->later) + sizeof(job->transfer->target) + 8];

	snprintf(why, sizeof(why), "%s, at %s", job->later, job->transfer->target);
	batch_report(job, it, it->status, why);
}

static int run_batch(struct run *r, struct err *e)
{
	struct send_job *job = r->job;
	struct batch *b = &r->batch;
	uint32_t aside = r->n_again;
	int rc = 0;

	if (b->n) {
		rc = batch_open(job, b, r->resume, e);
		if (rc >= 0)
			rc = batch_plan(job, b, e);
		if (rc >= 0)
			rc = put_aside(r, e);
		if (rc >= 0)
			rc = transfer(r, e);
		if (rc >= 0) {
			check_unchanged(job, b);
			rc = batch_close(job, b, r->folders, e);
		}
		job->totals.batches++;
	}
	for (uint32_t i = 0; i < b->n; i++) {
		struct batch_item *it = &b->v[i];

		if (it->later && r->n_again > aside)
			continue; /* again, from its beginning */
		job->totals.bytes_equal += it->equal;
		if (it->later)
			report_later(job, it);
		if (it->status)
			bitmap_set(r->failed, it->index);
	}
	batch_clear(b);
	return rc < 0 ? rc : 0;
}

/* ---- all of them ------------------------------------------------------------------------------- */

static bool no_descriptor(int rc)
{
	return rc == -EMFILE || rc == -ENFILE;
}

/* Adds it to the batch; one that is full is sent before. */
static int add(struct run *r, uint64_t i, struct err *e)
{
	const struct source_entry *entry = r->job->list->v[i];
	struct batch_item lost = { .entry = entry };
	struct batch *b = &r->batch;
	struct err why;
	int rc = b->n < r->most && batch_has_room(b, entry) ? 0 : run_batch(r, e), added;

	if (rc < 0)
		return rc;
	added = batch_add(b, entry, i, &why);
	if (no_descriptor(added) && b->n) {
		r->most = (uint32_t)max_u64(b->n / 2, 1);
		rc = run_batch(r, e);
		added = rc < 0 ? 0 : batch_add(b, entry, i, &why);
	}
	if (added < 0) {
		batch_report(r->job, &lost, added, why.why);
		bitmap_set(r->failed, i);
	}
	return rc;
}

/* What is in the batch, and what was put aside until nothing is. */
static int run_rest(struct run *r, struct err *e)
{
	int rc = run_batch(r, e);

	while (rc == 0 && r->n_again) {
		uint64_t again[AGAIN_MOST];
		uint32_t n = r->n_again;

		memcpy(again, r->again, n * sizeof(again[0]));
		r->n_again = 0;
		for (uint32_t k = 0; rc == 0 && k < n; k++)
			rc = add(r, again[k], e);
		if (rc == 0)
			rc = run_batch(r, e);
	}
	return rc;
}

static int add_or_run(struct run *r, uint64_t i, struct err *e)
{
	int rc = r->n_again ? run_rest(r, e) : 0;

	return rc < 0 ? rc : add(r, i, e);
}

static int send_contents(struct run *r, struct err *e)
{
	const struct source_list *l = r->job->list;
	int rc = 0;

	for (uint64_t i = 0; rc == 0 && i < l->n; i++)
		rc = add_or_run(r, i, e);
	return rc == 0 ? run_rest(r, e) : rc;
}

/* Folders once more, deepest first: now nothing changes in them any more. */
static int finish_folders(struct run *r, struct err *e)
{
	const struct source_list *l = r->job->list;
	int rc = 0;

	r->resume = false;
	r->folders = true;
	for (uint64_t i = l->n; rc == 0 && i-- > 0;)
		if (l->v[i]->kind == STORE_DIR && !bitmap_test(r->failed, i))
			rc = add_or_run(r, i, e);
	return rc == 0 ? run_rest(r, e) : rc;
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
	r->resume = job->resume;
	r->most = BATCH_FILES;
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

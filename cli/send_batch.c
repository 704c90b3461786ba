/* SPDX-License-Identifier: MIT */
#include "cli/send_batch.h"
#include "base/util.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPEC_BYTES 40    /* of a wire_file_spec besides its name */
#define HASHES 128       /* blocks compared per request: the session is looked after in between */
#define REQUEST_ROOM 512 /* for heads and counts */

int batch_alloc(struct batch *b, struct err *e)
{
	memset(b, 0, sizeof(*b));
	b->scratch = malloc(WIRE_CTL_MAX);
	b->block = malloc(STORE_BLOCK);
	if (!b->scratch || !b->block)
		return err_set(e, -ENOMEM, "no memory for a batch of files: free some");
	return 0;
}

void batch_clear(struct batch *b)
{
	for (uint32_t i = 0; i < b->n; i++) {
		if (b->v[i].entry->kind == STORE_FILE)
			source_close(&b->v[i].file);
		free(b->v[i].data);
	}
	b->n = 0;
	b->bytes = b->extents = b->n_ext = 0;
	b->request = 0;
}

void batch_free(struct batch *b)
{
	batch_clear(b);
	free(b->ext);
	free(b->scratch);
	free(b->block);
	memset(b, 0, sizeof(*b));
}

bool batch_has_room(const struct batch *b, const struct source_entry *entry)
{
	size_t request = b->request + SPEC_BYTES + strlen(entry->name);

	if (!b->n)
		return true;
	return b->n < BATCH_FILES && request < WIRE_CTL_MAX - REQUEST_ROOM && b->extents < BATCH_EXTENTS &&
	       b->bytes + entry->data_bytes <= BATCH_BYTES;
}

int batch_add(struct batch *b, const struct source_entry *entry, uint64_t index, struct err *e)
{
	struct batch_item *it = &b->v[b->n];
	int rc = 0;

	*it = (struct batch_item){ .entry = entry, .index = index };
	if (entry->kind == STORE_FILE) {
		rc = source_open(&it->file, entry, e);
		if (rc < 0)
			return rc;
		rc = source_extents(&it->file, &it->data, &it->n_data, e);
		if (rc < 0) {
			source_close(&it->file);
			return rc;
		}
	}
	b->n++;
	b->bytes += entry->data_bytes;
	b->extents += it->n_data;
	b->request += SPEC_BYTES + strlen(entry->name);
	return 0;
}

void batch_report(struct send_job *job, struct batch_item *it, int status, const char *text)
{
	char why[sizeof(((struct err *)0)->why)];

	/* The text may be a peer's, and names may hold anything: a terminal must not take it for a command. */
	snprintf(why, sizeof(why), "%s", text);
	client_clean(why);
	it->status = status;
	job->totals.failed++;
	progress_clear(&job->progress);
	fprintf(stderr, "dwcp: send: %s\n", why);
	if (job->failures)
		json_array_append_new(job->failures, json_pack("{s:o?, s:o?}", "name", json_string(it->entry->name),
							       "reason", json_string(why)));
}

/* ---- open and close there ---------------------------------------------------------------------- */

/* What an answer of statuses is about. */
enum asked { ASKED_OPEN, ASKED_WRITE, ASKED_CLOSE };

static void take_status(struct send_job *job, struct batch_item *it, const struct msg_file_status *st, enum asked asked)
{
	if (asked == ASKED_OPEN)
		it->have = min_u64(st->have, it->file.size);
	if (st->status >= 0 || it->status)
		return;
	if (asked != ASKED_CLOSE && (st->status == -EMFILE || st->status == -ENFILE)) {
		it->later = true;
		it->status = st->status;
		snprintf(job->later, sizeof(job->later), "%s", st->text);
	} else {
		batch_report(job, it, st->status, st->text);
	}
}

/* Reads {n, statuses} of these entries, NULL: of all; one that was fine and is refused is reported, or kept for later. */
static int take_statuses(struct send_job *job, struct batch *b, struct rcur *in, const uint32_t *of, uint32_t n_of,
			 enum asked asked, struct err *e)
{
	uint32_t n = get_u16(in);

	if (n != n_of)
		in->bad = true;
	for (uint32_t i = 0; i < n && !in->bad; i++) {
		struct msg_file_status st;

		wire_get(in, &wire_file_status, &st);
		if (!in->bad)
			take_status(job, &b->v[of ? of[i] : i], &st, asked);
	}
	return in->bad ? err_set(e, -EPROTO,
				 "%s sent an answer that this dwcp does not understand: install the same "
				 "release on both hosts",
				 job->transfer->target)
		       : 0;
}

int batch_open(struct send_job *job, struct batch *b, bool resume, struct err *e)
{
	struct wcur w = wcur_init(b->scratch, WIRE_CTL_MAX - WIRE_HEAD);
	struct store_spec *spec = malloc(sizeof(*spec));
	struct rcur in;
	int rc;

	if (!spec)
		return err_set(e, -ENOMEM, "no memory for a batch of files: free some");
	put_u16(&w, (uint16_t)b->n);
	for (uint32_t i = 0; i < b->n; i++) {
		const struct batch_item *it = &b->v[i];

		source_spec(it->entry, it->entry->kind == STORE_FILE ? &it->file : NULL, resume, spec);
		wire_put(&w, &wire_file_spec, spec);
	}
	free(spec);
	if (w.bad)
		return err_set(e, -EMSGSIZE, "a request of %u files is too long", b->n);
	rc = client_call(job->client, MSG_FILES_OPEN, b->scratch, (uint32_t)(w.p - b->scratch), &in, e);
	return rc < 0 ? rc : take_statuses(job, b, &in, NULL, b->n, ASKED_OPEN, e);
}

static void count_complete(struct send_job *job, const struct batch_item *it)
{
	struct send_totals *t = &job->totals;

	if (it->entry->kind == STORE_DIR) {
		t->folders++;
		return;
	}
	t->files++;
	t->bytes += it->file.size;
	t->bytes_holes += it->file.size - it->plan - it->equal;
}

int batch_close(struct send_job *job, struct batch *b, bool folders, struct err *e)
{
	struct wcur w = wcur_init(b->scratch, WIRE_CTL_MAX - WIRE_HEAD);
	struct rcur in;
	int rc;

	put_u8(&w, job->sync);
	put_u16(&w, (uint16_t)b->n);
	for (uint32_t i = 0; i < b->n; i++) {
		const struct batch_item *it = &b->v[i];
		struct msg_file_close m = { .complete = CLOSE_GIVEN_UP, .bytes = it->plan };

		if (it->later)
			m.complete = CLOSE_LATER;
		else if (!it->status && (folders || it->entry->kind == STORE_FILE))
			m.complete = CLOSE_COMPLETE;
		wire_put(&w, &wire_file_close, &m);
	}
	rc = client_call(job->client, MSG_FILES_CLOSE, b->scratch, (uint32_t)(w.p - b->scratch), &in, e);
	if (rc >= 0)
		rc = take_statuses(job, b, &in, NULL, b->n, ASKED_CLOSE, e);
	for (uint32_t i = 0; rc >= 0 && i < b->n; i++)
		if (!b->v[i].status && (folders || b->v[i].entry->kind == STORE_FILE))
			count_complete(job, &b->v[i]);
	return rc;
}

/* ---- what must be sent ------------------------------------------------------------------------- */

/* Appends to the transfer, joined with what touches it. */
static int plan_extent(struct batch *b, uint32_t object, uint64_t offset, uint64_t len, struct err *e)
{
	struct amst_extent *last = b->n_ext ? &b->ext[b->n_ext - 1] : NULL;

	if (!len)
		return 0;
	b->v[object].plan += len;
	if (last && last->object == object && last->from + last->len == offset) {
		last->len += len;
		return 0;
	}
	if (!b->ext || b->n_ext == b->cap_ext) {
		uint64_t cap = b->cap_ext ? b->cap_ext * 2 : 256;
		struct amst_extent *bigger = realloc(b->ext, cap * sizeof(*bigger));

		if (!bigger)
			return err_set(e, -ENOMEM, "no memory for a list of %llu pieces: free some",
				       (unsigned long long)cap);
		b->ext = bigger;
		b->cap_ext = cap;
	}
	b->ext[b->n_ext++] = (struct amst_extent){ .from = offset, .to = offset, .len = len, .object = object };
	return 0;
}

static uint64_t block_len(const struct batch_item *it, uint64_t block)
{
	return min_u64(STORE_BLOCK, it->file.size - block * STORE_BLOCK);
}

static bool in_hole(const struct batch_item *it, uint64_t offset, uint32_t len)
{
	uint64_t lo = 0, hi = it->n_data;

	while (lo < hi) { /* the first data that ends behind its beginning */
		uint64_t mid = (lo + hi) / 2;

		if (it->data[mid].offset + it->data[mid].len > offset)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo == it->n_data || it->data[lo].offset >= offset + len;
}

/* Digest of a block; one that is a hole is not read. */
static int digest_here(struct batch *b, const struct batch_item *it, uint64_t offset, uint32_t len, bool hole,
		       struct digest128 *out)
{
	int rc = 0;

	if (!hole) {
		rc = source_read(&it->file, b->block, len, offset);
	} else if (!b->zero_known || len != STORE_BLOCK) {
		memset(b->block, 0, len);
	} else {
		*out = b->zero;
		return 0;
	}
	*out = digest128_of(b->block, len);
	if (hole && len == STORE_BLOCK) {
		b->zero = *out;
		b->zero_known = true;
	}
	return rc;
}

/* Compares blocks first … first+n-1 and plans those that differ. <0: as batch_plan; a file that cannot be read is
 * reported and ends with 1. */
static int compare(struct send_job *job, struct batch *b, uint32_t object, uint64_t first, uint32_t n, struct err *e)
{
	struct batch_item *it = &b->v[object];
	struct msg_file_hash m = { .file = object, .first = first, .n = n };
	uint8_t fields[32], theirs[HASHES * 16];
	struct wcur w = wcur_init(fields, sizeof(fields));
	struct rcur in, digests;
	int rc;

	wire_put(&w, &wire_file_hash, &m);
	rc = client_call(job->client, MSG_FILE_HASH, fields, (uint32_t)(w.p - fields), &in, e);
	if (rc < 0)
		return rc;
	if (get_u32(&in) != n)
		in.bad = true;
	get_bytes(&in, theirs, (size_t)n * 16);
	if (in.bad)
		return err_set(e, -EPROTO, "%s sent a short answer: install the same dwcp release on both hosts",
			       job->transfer->target);
	digests = rcur_init(theirs, sizeof(theirs));
	for (uint64_t block = first; block < first + n; block++) {
		uint32_t len = (uint32_t)block_len(it, block);
		bool hole = in_hole(it, block * STORE_BLOCK, len);
		struct digest128 d, t;

		t.lo = get_u64(&digests);
		t.hi = get_u64(&digests);
		rc = digest_here(b, it, block * STORE_BLOCK, len, hole, &d);
		if (rc < 0) {
			it->read_error = rc;
			return 1;
		}
		if (d.lo == t.lo && d.hi == t.hi)
			it->equal += hole ? 0 : len;
		else if ((rc = plan_extent(b, object, block * STORE_BLOCK, len, e)) < 0)
			return rc;
	}
	return 0;
}

static uint64_t done_so_far(const struct send_job *job, const struct batch *b)
{
	uint64_t done = job->totals.bytes_sent + job->totals.bytes_equal;

	for (uint32_t i = 0; i < b->n; i++)
		done += b->v[i].equal;
	return done;
}

static int plan_file(struct send_job *job, struct batch *b, uint32_t object, struct err *e)
{
	struct batch_item *it = &b->v[object];
	uint64_t blocks = div_up_u64(it->have, STORE_BLOCK), from = min_u64(blocks * STORE_BLOCK, it->file.size);
	int rc = 0;

	for (uint64_t block = 0; rc == 0 && block < blocks; block += HASHES) {
		rc = compare(job, b, object, block, (uint32_t)min_u64(HASHES, blocks - block), e);
		progress_update(&job->progress, done_so_far(job, b), clock_now(&clock_mono));
	}
	/* Beyond what is there everything reads as zeros: only data is sent. */
	for (uint64_t i = 0; rc == 0 && i < it->n_data; i++) {
		uint64_t end = it->data[i].offset + it->data[i].len, start = max_u64(it->data[i].offset, from);

		if (end > start)
			rc = plan_extent(b, object, start, end - start, e);
	}
	return rc;
}

/* A file that was compared is made ready over there to be written to. */
static int prepare(struct send_job *job, struct batch *b, struct err *e)
{
	struct wcur w = wcur_init(b->scratch, WIRE_CTL_MAX - WIRE_HEAD);
	uint32_t file[BATCH_FILES], n = 0;
	struct rcur in;
	int rc;

	for (uint64_t i = 0; i < b->n_ext; i++) {
		uint32_t id = b->ext[i].object;

		if (b->v[id].have && !b->v[id].status && (!n || file[n - 1] != id))
			file[n++] = id;
	}
	if (!n)
		return 0;
	put_u16(&w, (uint16_t)n);
	for (uint32_t i = 0; i < n; i++)
		put_u32(&w, file[i]);
	rc = client_call(job->client, MSG_FILES_WRITE, b->scratch, (uint32_t)(w.p - b->scratch), &in, e);
	return rc < 0 ? rc : take_statuses(job, b, &in, file, n, ASKED_WRITE, e);
}

int batch_plan(struct send_job *job, struct batch *b, struct err *e)
{
	b->n_ext = 0;
	for (uint32_t i = 0; i < b->n; i++) {
		struct batch_item *it = &b->v[i];
		char name[STORE_NAME_SHOWN];
		struct err why;
		int rc = 0;

		if (!it->status && it->entry->kind == STORE_FILE)
			rc = plan_file(job, b, i, e);
		if (rc < 0)
			return rc;
		if (rc > 0) {
			err_set(&why, it->read_error, "cannot read \"%s\": %s; send it again",
				store_name_show(name, sizeof(name), it->entry->path), strerror(-it->read_error));
			batch_report(job, it, it->read_error, why.why);
		}
	}
	return prepare(job, b, e);
}

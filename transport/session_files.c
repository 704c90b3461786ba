/* SPDX-License-Identifier: MIT */
/* A session's files: opening a batch of them, comparing, closing; and what becomes of those that another session has. */
#include "transport/session.h"

#include "base/log.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROBE_LEAST (50 * NS_PER_MS) /* for a probe to be sent and taken, or for news that is on its way */
#define PROBE_TIME (5 * NS_PER_S)    /* a host that takes nothing for so long is gone */
#define JOB_PATIENCE NS_PER_S        /* for a job that may be about the same files */

/* ---- files ------------------------------------------------------------------------------------- */

static void drop_files(struct session *s, bool count)
{
	for (uint32_t i = 0; i < s->n_files; i++)
		if (s->files[i]) {
			store_abandon(s->files[i], true);
			s->files_bad += count && !s->folder[i];
		} else {
			s->files_bad += count && s->aside[i];
		}
	memset(s->files, 0, sizeof s->files);
	memset(s->aside, 0, sizeof s->aside);
	s->n_files = 0;
	s->file_bytes = 0;
}

void session_drop_files(struct session *s)
{
	drop_files(s, true);
	s->files_bad += s->files_later;
	s->files_later = 0;
}

static void put_file_status(struct session *s, int status, uint64_t have, const char *text)
{
	struct msg_file_status st = { .status = status, .have = have };

	snprintf(st.text, sizeof st.text, "%.*s", FILE_TEXT, text);
	wire_put(&s->out, &wire_file_status, &st);
}

static void run_files_open(struct session *s)
{
	struct store_spec *spec = malloc(sizeof *spec);
	uint32_t n;

	drop_files(s, !s->files_busy); /* what the last try of this list opened was not given up by anybody */
	s->files_bad -= s->files_refused;
	s->files_refused = s->files_later = 0;
	s->files_busy = false;
	s->in = s->files_in;
	n = get_u16(&s->in);
	session_reply(s, 0, "%s", "");
	put_u16(&s->out, (uint16_t)n);
	for (uint32_t i = 0; i < n && spec; i++) {
		struct err e = { 0 };
		uint64_t have = 0;
		int rc;

		wire_get(&s->in, &wire_file_spec, spec);
		if (s->in.bad)
			break;
		rc = store_begin(s->srv->cfg.store, spec, &s->files[i], &have, &e);
		if (rc < 0)
			s->files[i] = NULL;
		else if (spec->kind == STORE_FILE)
			s->file_bytes += min_u64(spec->size, INT64_MAX / WIRE_BATCH_MAX);
		s->n_files = i + 1;
		s->folder[i] = spec->kind == STORE_DIR;
		/* These are tried again; it is counted when they are not. */
		s->aside[i] = rc == -EMFILE || rc == -ENFILE;
		s->files_refused += rc < 0 && !s->aside[i];
		s->files_bad += rc < 0 && !s->aside[i];
		s->files_busy |= rc == -EBUSY;
		put_file_status(s, rc < 0 ? rc : 0, have, rc < 0 ? e.why : "");
	}
	if (!spec || s->in.bad) {
		session_drop_files(s);
		session_reply(s, -EPROTO, "the list of files cannot be read");
	}
	free(spec);
}

/* The job thread counts for itself; the totals are the control thread's. */
void session_count_files(struct session *s)
{
	metric_add(&s->srv->counters.files_received, s->files_good);
	metric_add(&s->srv->counters.files_failed, s->files_bad);
	s->files_good = s->files_bad = 0;
}

static void files_done(struct session *s)
{
	session_count_files(s);
	session_reply_send(s);
}

/* ---- files that another session has -------------------------------------------------------------- */

static bool lost_one(const struct session *o)
{
	return o->lost_at || o->dying;
}

static bool holds(const struct session *o, const char *name)
{
	for (uint32_t k = 0; k < o->n_files; k++)
		if (o->files[k] && !strcmp(store_file_name(o->files[k]), name))
			return true;
	return false;
}

static bool holds_any(const struct session *o, struct rcur in)
{
	uint32_t n = get_u16(&in);
	struct store_spec spec;
	bool held = false;

	for (uint32_t i = 0; !held && i < n && !in.bad; i++) {
		wire_get(&in, &wire_file_spec, &spec);
		held = !in.bad && holds(o, spec.name);
	}
	return held;
}

/* A host that is gone says nothing, and neither does one that has nothing to say: it is sent something, and one that is
 * there takes it. True: nobody knows yet. */
static bool unproven(struct session *s, struct session *o)
{
	uint64_t now = clock_now(&s->srv->cfg.clock), patience = min_u64(PROBE_TIME, 5 * s->timeout_ns);
	struct be_info info;

	if (o->proven_at > s->files_at)
		return false;
	if (!o->probed_at && !session_probe(o))
		return now - s->files_at < patience;
	if (!o->probed_at)
		o->probed_at = now;
	if (now - o->probed_at < PROBE_LEAST)
		return true;
	if (s->srv->cfg.ops->info(s->srv->ctl, o->ctl, &info) == 0 && !info.unacked_bytes) {
		o->proven_at = now;
		o->probed_at = 0;
		return false;
	}
	if (now - o->probed_at < patience)
		return true;
	log_warn("%s: session %u is ended: its host does not answer, and %s sends its files anew", o->peer, o->slot,
		 s->peer);
	session_end(o, true);
	return true;
}

static bool held_by(struct session *s, struct session *o)
{
	/* While a job of its runs, its files are the job's. */
	if (!lost_one(o))
		return s->files_busy && (o->job_running ? clock_now(&s->srv->cfg.clock) - s->files_at < JOB_PATIENCE
							: holds_any(o, s->files_in) && unproven(s, o));
	if (o->job_running)
		return true;
	if (!holds_any(o, s->files_in))
		return false;
	if (!o->dying)
		log_info("%s: session %u is ended: its files are sent anew by %s", o->peer, o->slot, s->peer);
	session_end(o, true);
	return true;
}

/*
 * A sender that was killed leaves its session behind, and that its files. Who sends one of them anew is believed: the
 * session that lost its sender ends. A list of which another transfer has a file is tried again when it is known
 * whether that one's sender is still there: news of its end may be on its way, and of a host that is gone there are
 * none. True while a session is not gone yet, or not known to be alive.
 */
static bool held_by_others(struct session *s)
{
	bool held = false;

	for (uint32_t i = 0; i < s->srv->slots; i++) {
		struct session *o = &s->srv->sessions[i];

		if (o != s && o->used)
			held |= held_by(s, o);
	}
	s->srv->soon |= held;
	return held;
}

static void files_opened(struct session *s)
{
	if (s->files_busy && held_by_others(s)) {
		s->op = OP_FILES;
		return;
	}
	s->files_refused = 0;
	s->files_busy = false;
	files_done(s);
}

void session_files_turn(struct session *s)
{
	if (s->op == OP_FILES && !held_by_others(s))
		session_start_job(s, run_files_open, files_opened);
}

void session_files_open(struct session *s)
{
	struct rcur peek = s->in;
	uint32_t n = get_u16(&peek);

	if (!s->srv->cfg.store)
		session_answer(s, -EACCES, "the server takes no files: start it with `dwcp serve --store DIR`");
	else if (peek.bad || !n || n > WIRE_BATCH_MAX || s->rx_active)
		session_answer(s, -EINVAL, "the list of files is empty or too long, or a transfer is running");
	else
		s->op = OP_FILES; /* session_req_turn begins it */
	s->files_in = s->in;
	s->files_at = clock_now(&s->srv->cfg.clock);
}

static void run_file_hash(struct session *s)
{
	struct msg_file_hash m;
	struct digest128 *d;
	struct err e = { 0 };
	int rc;

	wire_get(&s->in, &wire_file_hash, &m);
	if (s->in.bad || m.file >= s->n_files || !s->files[m.file] || !m.n || m.n > WIRE_HASHES_MAX) {
		session_reply(s, -EINVAL, "the file to be compared is not open");
		return;
	}
	d = calloc(m.n, sizeof *d);
	rc = d ? store_hash(s->files[m.file], m.first, m.n, d, &e) : err_set(&e, -ENOMEM, "no memory to compare files");
	session_reply(s, rc < 0 ? rc : 0, "%s", rc < 0 ? e.why : "");
	put_u32(&s->out, rc < 0 ? 0 : m.n);
	for (uint32_t i = 0; rc >= 0 && i < m.n; i++) {
		put_u64(&s->out, d[i].lo);
		put_u64(&s->out, d[i].hi);
	}
	free(d);
}

/* What was compared in place becomes a part file that can be written to. */
static void run_files_write(struct session *s)
{
	uint32_t n = get_u16(&s->in);

	session_reply(s, 0, "%s", "");
	put_u16(&s->out, (uint16_t)n);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t id = get_u32(&s->in);
		struct err e = { 0 };
		int rc;

		if (s->in.bad || id >= s->n_files || !s->files[id])
			rc = err_set(&e, -EINVAL, "the file to be written is not open");
		else
			rc = store_prepare(s->files[id], &e);
		put_file_status(s, rc < 0 ? rc : 0, 0, rc < 0 ? e.why : "");
	}
}

void session_files_write(struct session *s)
{
	struct rcur peek = s->in;
	uint32_t n = get_u16(&peek);

	if (peek.bad || !n || n > s->n_files || s->rx_active)
		session_answer(s, -EINVAL,
			       "the files to be written are not those that are open, or a transfer is running");
	else
		session_start_job(s, run_files_write, session_reply_send);
}

/* What the client calls complete is looked at: the old file would be lost. */
static bool is_whole(const struct store_file *f, const struct msg_file_close *m)
{
	return !m->bytes || store_written(f) >= m->bytes;
}

static void settle_whole(const struct session *s, struct rcur in, uint32_t n, bool sync)
{
	struct store_file *whole[WIRE_BATCH_MAX] = { 0 };
	struct msg_file_close m;

	for (uint32_t i = 0; i < n; i++) {
		wire_get(&in, &wire_file_close, &m);
		if (!in.bad && m.complete == CLOSE_COMPLETE && s->files[i] && is_whole(s->files[i], &m))
			whole[i] = s->files[i];
	}
	store_settle(whole, n, sync);
}

static int close_one(struct store_file *f, const struct msg_file_close *m, bool sync, struct err *e)
{
	char name[STORE_NAME_SHOWN];

	if (is_whole(f, m))
		return store_finish(f, sync, e);
	err_set(e, -EBADMSG, "\"%s\" is not whole: %llu of %llu bytes arrived; send it again with --resume",
		store_name_show(name, sizeof name, store_file_name(f)), (unsigned long long)store_written(f),
		(unsigned long long)m->bytes);
	store_abandon(f, true);
	return -EBADMSG;
}

/* A folder that is closed without being complete was only prepared; what was never open is counted already, but for what was
 * to be tried again. */
static void count_closed(struct session *s, uint32_t i, const struct store_file *f, const struct msg_file_close *m,
			 int rc)
{
	bool complete = m->complete == CLOSE_COMPLETE;

	if (m->complete == CLOSE_LATER)
		s->files_later++;
	else if (rc >= 0 && complete)
		s->files_good++;
	else if (f ? complete || !s->folder[i] : s->aside[i])
		s->files_bad++;
}

static void run_files_close(struct session *s)
{
	bool sync = get_u8(&s->in);
	uint32_t n = get_u16(&s->in);

	settle_whole(s, s->in, n, sync);
	session_reply(s, 0, "%s", "");
	put_u16(&s->out, (uint16_t)n);
	for (uint32_t i = 0; i < n; i++) {
		struct store_file *f = s->files[i];
		struct msg_file_close m;
		struct err e = { 0 };
		int rc = 0;

		wire_get(&s->in, &wire_file_close, &m);
		if (s->in.bad)
			m.complete = CLOSE_GIVEN_UP;
		s->files[i] = NULL;
		if (!f)
			err_set(&e, rc = -ENOENT, "was not open");
		else if (m.complete == CLOSE_COMPLETE)
			rc = close_one(f, &m, sync, &e);
		else
			store_abandon(f, true);
		count_closed(s, i, f, &m, rc);
		put_file_status(s, rc < 0 ? rc : 0, 0, rc < 0 ? e.why : "");
	}
	memset(s->aside, 0, sizeof s->aside);
	s->n_files = 0;
	s->file_bytes = 0;
}

void session_files_close(struct session *s)
{
	struct rcur peek = s->in;
	uint32_t n;

	get_u8(&peek);
	n = get_u16(&peek);
	if (peek.bad || n != s->n_files || s->rx_active)
		session_answer(s, -EINVAL,
			       "the files to be closed are not those that are open, or a transfer is running");
	else
		session_start_job(s, run_files_close, files_done);
}

void session_file_hash(struct session *s)
{
	session_start_job(s, run_file_hash, session_reply_send);
}

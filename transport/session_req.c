/* SPDX-License-Identifier: MIT */
/*
 * What a session's requests do. A handler either answers at once, or leaves
 * s->op saying what it waits for: a job, or an event of the data plane.
 * Everything in a request is a peer's word: checked before it is used.
 */
#include "transport/session.h"

#include "base/bitmap.h"
#include "base/log.h"
#include "base/opt.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

static void answer(struct session *s, int status, const char *text)
{
	session_reply(s, status, "%s", text);
	session_reply_send(s);
}

static bool start_job(struct session *s, void (*run)(struct session *), void (*done)(struct session *))
{
	s->job_err = (struct err){ 0 };
	s->op = OP_JOB;
	if (session_job(s, run, done))
		return true;
	answer(s, -EBUSY, "the server is busy: try again");
	return false;
}

/* ---- hello ------------------------------------------------------------------------------------- */

/* Makes the workers and what they need, in the job thread. */
static void run_hello(struct session *s)
{
	const struct msg_hello *h = &s->job_hello;
	struct server *srv = s->srv;
	struct amst_config a = {
		.ops = srv->cfg.ops,
		.be_opts = srv->cfg.be_opts,
		.streams = h->streams,
		.workers = (unsigned)min_u64(min_u64(h->workers, srv->cfg.workers), h->streams),
		.chunk = h->chunk,
		.domain = s->slot + 1,
		.cpus = srv->cfg.cpus ? s->cpus : NULL,
		.manual = srv->cfg.manual,
		.clock = srv->cfg.clock,
		.seed = srv->cfg.seed + s->generation,
		.fabric = srv->cfg.fabric,
		.notify = session_notify,
		.notify_ctx = srv,
	};

	/* Who asks for large chunks gets fewer workers: each needs a few frames. */
	a.workers = (unsigned)max_u64(min_u64(a.workers, amst_workers_most(h->chunk)), 1);
	/* On one host the two ends of a stream belong on one CPU; sessions from elsewhere take turns. */
	for (unsigned i = 0; srv->cfg.cpus && i < AMST_WORKERS_MAX; i++)
		s->cpus[i] = srv->cfg.cpus[((s->local ? 0 : s->slot * a.workers) + i) % srv->cfg.n_cpus];
	s->streams = calloc(h->streams, sizeof *s->streams);
	if (!s->streams)
		err_set(&s->job_err, -ENOMEM, "no memory for %u streams", h->streams);
	else
		amst_open(&s->amst, &a, &s->job_err);
}

static void hello_done(struct session *s)
{
	struct server *srv = s->srv;
	struct msg_hello_reply r = { .cpus = (uint32_t)get_nprocs(),
				     .memory_max = srv->cfg.memory_max,
				     .stores = srv->cfg.store != NULL };

	if (s->job_err.code) {
		free(s->streams);
		s->streams = NULL;
		answer(s, s->job_err.code, s->job_err.why);
		return;
	}
	s->n_streams = s->job_hello.streams;
	s->timeout_ns = min_u64(s->timeout_ns, s->job_hello.timeout_ms * NS_PER_MS);
	s->agreed = true;
	pthread_mutex_lock(&srv->mu);
	s->visible = true;
	pthread_mutex_unlock(&srv->mu);
	r.workers = amst_workers(s->amst);
	gethostname(r.host, sizeof r.host - 1);
	snprintf(r.release, sizeof r.release, "%s", srv->cfg.release ? srv->cfg.release : "unknown");
	session_reply(s, 0, "%s", "");
	wire_put(&s->out, &wire_hello_reply, &r);
	session_reply_send(s);
}

static void do_hello(struct session *s)
{
	struct msg_hello *h = &s->job_hello;

	wire_get(&s->in, &wire_hello, h);
	if (s->in.bad || rcur_left(&s->in) < h->ext_len || s->agreed || !h->streams || h->streams > WIRE_STREAMS_MAX ||
	    h->chunk > STAGE_CHUNK_MAX || h->sum >= SUM_KINDS)
		answer(s, -EPROTO,
		       "the hello asks for something impossible: install the same dwcp release on both hosts");
	else
		start_job(s, run_hello, hello_done);
}

/* ---- regions ----------------------------------------------------------------------------------- */

static void run_region(struct session *s)
{
	struct hugebuf *b = &s->regions[s->job_region.region];

	if (hugebuf_alloc(b, s->job_region.bytes, true, &s->job_err) == 0 && s->job_region.seed)
		rng_fill(b->addr, b->len, s->job_region.seed);
}

static void run_region_free(struct session *s)
{
	hugebuf_free(&s->regions[s->job_region.region]);
}

static void region_freed(struct session *s)
{
	s->srv->region_bytes -= s->job_region.bytes;
	metric_add(&s->region_bytes, -s->job_region.bytes);
	answer(s, s->region_err.code, s->region_err.why);
}

static void region_made(struct session *s)
{
	uint32_t id = s->job_region.region;
	int rc = s->job_err.code;

	if (rc == 0)
		rc = amst_region_add(s->amst, id, s->regions[id].addr, s->regions[id].len);
	if (rc == 0) {
		s->op = OP_REGION;
		return;
	}
	s->region_err = s->job_err;
	if (!s->region_err.code)
		err_set(&s->region_err, rc, "the workers are busy: try again");
	start_job(s, run_region_free, region_freed);
}

/* What a service holds is memory of the same machine. */
static uint64_t memory_used(const struct server *srv)
{
	const struct service *v = &srv->cfg.service;

	return srv->region_bytes + (v->ops && v->ops->held ? v->ops->held(v->ctx) : 0);
}

static void do_region(struct session *s)
{
	struct server *srv = s->srv;
	struct msg_region m;

	wire_get(&s->in, &wire_region, &m);
	if (s->in.bad || m.region >= AMST_REGIONS_MAX || !m.bytes || s->regions[m.region].addr) {
		answer(s, -EINVAL, "the region's number or size is impossible, or the region exists");
		return;
	}
	if (m.bytes > srv->cfg.memory_max || memory_used(srv) > srv->cfg.memory_max - m.bytes) {
		char most[32];

		session_reply(s, -ENOMEM,
			      "the server gives regions of at most %s in all: use a smaller --region or --data-size, "
			      "or start it with a larger --max-memory",
			      format_size(most, sizeof most, srv->cfg.memory_max));
		session_reply_send(s);
		return;
	}
	s->job_region = m;
	if (!start_job(s, run_region, region_made))
		return;
	srv->region_bytes += m.bytes;
	metric_add(&s->region_bytes, m.bytes);
}

static void region_added(struct session *s, const struct amst_event *ev)
{
	uint32_t id = s->job_region.region;

	if (ev->err) {
		err_set(&s->region_err, ev->err, "the region cannot be registered: %s", strerror(-ev->err));
		s->op = OP_REGION_FAILED; /* some workers may have it: session_req_turn takes it from them */
		return;
	}
	s->offered[id] = true;
	session_reply(s, 0, "%s", "");
	wire_put(&s->out, &wire_region_reply,
		 &(struct msg_region_reply){ .key = ev->token.key, .pages = (uint8_t)s->regions[id].kind });
	session_reply_send(s);
}

static void run_digest(struct session *s)
{
	const uint8_t *at = s->regions[s->job_digest.region].addr;

	s->digest = digest128_of(at + s->job_digest.offset, s->job_digest.bytes);
}

static void digest_made(struct session *s)
{
	session_reply(s, 0, "%s", "");
	wire_put(&s->out, &wire_digest_reply, &(struct msg_digest_reply){ s->digest.lo, s->digest.hi });
	session_reply_send(s);
}

static void do_digest(struct session *s)
{
	struct msg_digest *m = &s->job_digest;

	wire_get(&s->in, &wire_digest, m);
	if (s->in.bad || m->region >= AMST_REGIONS_MAX || !s->regions[m->region].addr ||
	    m->offset > s->regions[m->region].len || m->bytes > s->regions[m->region].len - m->offset) {
		answer(s, -EINVAL, "the digest asks for bytes outside the region");
		return;
	}
	start_job(s, run_digest, digest_made);
}

/* ---- transfers --------------------------------------------------------------------------------- */

static int decode_file(void *ctx, unsigned worker, const struct stage_chunk *c, const void *in, size_t len)
{
	struct session *s = ctx;

	(void)worker;
	if (c->object >= s->n_files || !s->files[c->object] || len != c->len)
		return -EPROTO;
	return store_write(s->files[c->object], in, c->len, c->offset);
}

static const struct stage_ops file_sink = { .name = "files", .decode = decode_file };

/* ---- filters: payloads of another form --------------------------------------------------------- */

static void *region_memory(void *ctx, uint32_t object, uint64_t *len)
{
	struct session *s = ctx;

	if (object >= AMST_REGIONS_MAX || !s->offered[object])
		return NULL;
	*len = s->regions[object].len;
	return s->regions[object].addr;
}

static int write_decoded(void *ctx, uint32_t object, const void *data, uint32_t len, uint64_t offset)
{
	struct session *s = ctx;

	if (object >= s->n_files || !s->files[object])
		return -EPROTO;
	return store_write(s->files[object], data, len, offset);
}

void session_close_filters(struct session *s)
{
	for (unsigned kind = 0; kind < ARRAY_LEN(s->filters); kind++)
		if (s->filters[kind])
			s->filters[kind]->close(&s->filtered[kind]);
	memset(s->filters, 0, sizeof s->filters);
}

/* Once in a session: what a filter knows of a region lasts. */
static int open_filter(struct session *s, const char *name, enum xfer_kind kind, struct err *e)
{
	const struct filter_target memory = { .ctx = s, .objects = AMST_REGIONS_MAX, .memory = region_memory };
	const struct filter_target files = { .ctx = s, .objects = WIRE_BATCH_MAX, .write = write_decoded };
	const struct filter *const *f = s->srv->cfg.filters;
	int rc;

	while (f && *f && strcmp((*f)->name, name))
		f++;
	if (!f || !*f)
		return err_set(e, -EPROTONOSUPPORT,
			       "the server does not know this kind of compression: use --compress=none");
	if (s->filters[kind])
		return s->filters[kind] == *f ? 0 : err_set(e, -EINVAL, "a session cannot change its compression");
	rc = (*f)->open(&s->filtered[kind], kind == XFER_FILES ? &files : &memory, amst_workers(s->amst), e);
	if (rc == 0)
		s->filters[kind] = *f;
	return rc;
}

/* More chunks in a pass there cannot be. */
static uint64_t chunks_most(const struct session *s, const struct msg_xfer_begin *m, uint64_t service_bytes)
{
	uint64_t bytes = m->kind == XFER_SERVICE ? service_bytes : 0, objects = m->kind == XFER_SERVICE;

	if (m->kind == XFER_FILES) {
		bytes = s->file_bytes;
		objects = s->n_files;
	}
	for (uint32_t i = 0; m->kind == XFER_PUT && i < AMST_REGIONS_MAX; i++)
		if (s->offered[i]) {
			bytes += s->regions[i].len;
			objects++;
		}
	return bytes / m->chunk + bytes / EXTENT_MIN + objects;
}

static const struct stage *service_sink(const struct session *s, uint64_t *bytes)
{
	const struct service *v = &s->srv->cfg.service;

	return s->service && v->ops->sink ? v->ops->sink(v->ctx, s->service, bytes) : NULL;
}

static void do_xfer_begin(struct session *s)
{
	const struct stage *sink = NULL;
	struct msg_xfer_begin m;
	uint32_t id = get_u32(&s->in);
	uint64_t service_bytes = 0;
	struct err e = { 0 };
	int rc = 0;

	wire_get(&s->in, &wire_xfer_begin, &m);
	if (!s->in.bad && m.kind == XFER_SERVICE)
		sink = service_sink(s, &service_bytes);
	if (s->in.bad || m.sum >= SUM_KINDS || m.kind > XFER_SERVICE || (m.kind == XFER_FILES && !s->n_files) ||
	    (m.kind == XFER_SERVICE && (!sink || m.filter[0]))) {
		answer(s, -EINVAL,
		       "the transfer's kind or checksum is unknown, or nothing is open that could receive it");
		return;
	}
	if (s->rx_active) {
		answer(s, -EBUSY, "a transfer is running in this session");
		return;
	}
	if (!m.chunk || m.chunks > chunks_most(s, &m, service_bytes)) {
		answer(s, -EINVAL, "the transfer has more chunks than its regions or files can hold");
		return;
	}
	s->rx = (struct amst_rx){ .id = id, .sum = (enum sum_kind)m.sum };
	s->stage = sink ? *sink : (struct stage){ .ops = &file_sink, .ctx = s };
	s->rx.stage = m.kind == XFER_PUT ? NULL : &s->stage;
	if (m.filter[0]) {
		rc = open_filter(s, m.filter, (enum xfer_kind)m.kind, &e);
		s->rx.stage = &s->filtered[m.kind];
	}
	if (rc == 0)
		rc = amst_rx_prepare(&s->rx, m.chunks, &e);
	if (rc == 0 && (rc = amst_rx_start(s->amst, &s->rx)) < 0) {
		amst_rx_free(&s->rx);
		err_set(&e, rc, "the workers are busy: try again");
	}
	if (rc < 0) {
		answer(s, rc, e.why);
		return;
	}
	s->rx_active = true;
	s->op = OP_RX_READY;
}

static void rx_ended(struct session *s)
{
	struct msg_xfer_end m;
	struct msg_xfer_result r = {
		.placed = s->rx.placed,
		.distinct = bitmap_count(s->rx.map, s->rx.pass_chunks),
		.bytes = s->rx.bytes,
		.bad = s->rx.bad,
	};

	wire_get(&s->in, &wire_xfer_end, &m);
	r.whole = r.placed >= m.chunks && r.distinct >= min_u64(m.chunks, s->rx.pass_chunks);
	amst_rx_free(&s->rx);
	s->rx_active = false;
	session_reply(s, 0, "%s", "");
	wire_put(&s->out, &wire_xfer_result, &r);
	session_reply_send(s);
}

static void do_xfer_end(struct session *s)
{
	if (!s->rx_active || amst_rx_end(s->amst, &s->rx) < 0) {
		answer(s, -EINVAL, "no transfer is running in this session");
		return;
	}
	s->op = OP_RX_END;
}

static bool pull_fits(const struct session *s, const struct msg_pull *m)
{
	return m->region < AMST_REGIONS_MAX && s->offered[m->region] && m->bytes &&
	       m->bytes <= s->regions[m->region].len && m->bytes <= m->to_bytes && m->passes && m->chunk &&
	       m->chunk <= s->srv->cfg.ops->caps.put_max && m->sum < SUM_KINDS;
}

static void do_pull(struct session *s)
{
	struct msg_pull m;
	uint32_t id = get_u32(&s->in);
	struct err e;
	int rc;

	wire_get(&s->in, &wire_pull, &m);
	if (s->in.bad || s->tx_active || !pull_fits(s, &m)) {
		answer(s, -EINVAL, "the transfer asked for is impossible, or one is running");
		return;
	}
	s->tx_extent = (struct amst_extent){ .len = m.bytes };
	s->tx = (struct amst_tx){
		.id = id,
		.chunk = m.chunk,
		.sum = (enum sum_kind)m.sum,
		.passes = m.passes,
		.extents = &s->tx_extent,
		.n_extents = 1,
		.base = s->regions[m.region].addr,
		.token = { .id = m.to, .key = m.to_key },
	};
	rc = amst_tx_prepare(&s->tx, s->n_streams, &e);
	if (rc == 0 && (rc = amst_tx_start(s->amst, &s->tx)) < 0) {
		amst_tx_free(&s->tx);
		err_set(&e, rc, "the workers are busy: try again");
	}
	s->tx_active = rc == 0;
	s->tx_ended = false;
	answer(s, rc, rc ? e.why : "");
}

static void pull_result(struct session *s)
{
	session_reply(s, 0, "%s", "");
	wire_put(&s->out, &wire_pull_result,
		 &(struct msg_pull_result){ .chunks = s->tx.acked,
					    .bytes = s->tx.acked_bytes,
					    .refused = s->tx.refused,
					    .status = s->tx.status });
	session_reply_send(s);
	amst_tx_free(&s->tx);
	s->tx_active = false;
}

static void do_pull_wait(struct session *s)
{
	if (!s->tx_active)
		answer(s, -EINVAL, "no transfer is running in this session");
	else if (s->tx_ended)
		pull_result(s);
	else
		s->op = OP_PULL_WAIT;
}

static void do_pull_stop(struct session *s)
{
	if (s->tx_active && !s->tx_ended)
		amst_tx_stop(s->amst, &s->tx);
	answer(s, 0, "");
}

/* ---- counters ---------------------------------------------------------------------------------- */

static uint64_t rss_now(void)
{
	unsigned long size = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f)
		return 0;
	if (fscanf(f, "%lu %lu", &size, &resident) != 2)
		resident = 0;
	fclose(f);
	return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void send_info(struct session *s)
{
	struct amst_counters ac;
	struct be_counters bc;
	struct rusage u;

	amst_counters(s->amst, &ac, &bc);
	getrusage(RUSAGE_SELF, &u);
	session_reply(s, 0, "%s", "");
	wire_put(&s->out, &wire_info,
		 &(struct msg_info){
			 .cpu_ns = (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * NS_PER_S +
				   (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * NS_PER_US,
			 .rss_bytes = rss_now(),
			 .region_bytes = s->region_bytes,
			 .tx_zero_copy = bc.tx_zero_copy_bytes,
			 .tx_copied = bc.tx_copied_bytes,
			 .rx_zero_copy = bc.rx_zero_copy_bytes,
			 .rx_copied = bc.rx_copied_bytes,
			 .retransmits = amst_retransmits(s->amst),
			 .sessions = (uint32_t)s->srv->counters.sessions_now,
		 });
	session_reply_send(s);
}

static void do_info(struct session *s)
{
	if (amst_sample(s->amst) < 0)
		send_info(s);
	else
		s->op = OP_SAMPLE;
}

/* ---- files ------------------------------------------------------------------------------------- */

void session_drop_files(struct session *s)
{
	for (uint32_t i = 0; i < s->n_files; i++)
		if (s->files[i]) {
			store_abandon(s->files[i], true);
			s->files_bad += !s->folder[i];
		}
	memset(s->files, 0, sizeof s->files);
	s->n_files = 0;
	s->file_bytes = 0;
}

static void put_file_status(struct session *s, int status, uint64_t have, const char *text)
{
	struct msg_file_status st = { .status = status, .have = have };

	snprintf(st.text, sizeof st.text, "%.*s", FILE_TEXT, text);
	wire_put(&s->out, &wire_file_status, &st);
}

static void run_files_open(struct session *s)
{
	uint32_t n = get_u16(&s->in);
	struct store_spec *spec = malloc(sizeof *spec);

	session_drop_files(s);
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
		s->files_bad += rc < 0;
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

static bool lost_one(const struct session *s, const struct session *o)
{
	return o != s && o->used && (o->lost_at || o->dying);
}

static bool holds(const struct session *o, const char *name)
{
	for (uint32_t k = 0; k < o->n_files; k++)
		if (o->files[k] && !strcmp(store_file_name(o->files[k]), name))
			return true;
	return false;
}

/* Ends every lost session that holds the file. */
static bool end_holders(struct session *s, const char *name)
{
	bool held = false;

	for (uint32_t i = 0; i < s->srv->slots; i++) {
		struct session *o = &s->srv->sessions[i];

		if (!lost_one(s, o) || !holds(o, name))
			continue;
		if (!o->dying)
			log_info("%s: session %u is ended: its files are sent anew by %s", o->peer, o->slot, s->peer);
		session_end(o, true);
		held = true;
	}
	return held;
}

/* A sender that was killed leaves its session behind, and that its files. Who sends one of them anew is believed: the
 * session that lost its sender ends. True while one is not gone yet. */
static bool held_by_lost(struct session *s)
{
	struct rcur in = s->in;
	uint32_t n = get_u16(&in);
	struct store_spec spec;
	bool lost = false, held = false;

	for (uint32_t i = 0; i < s->srv->slots; i++) {
		const struct session *o = &s->srv->sessions[i];

		lost |= lost_one(s, o);
		held |= lost_one(s, o) && o->job_running; /* its files are the job's now */
	}
	for (uint32_t i = 0; lost && !held && i < n && !in.bad; i++) {
		wire_get(&in, &wire_file_spec, &spec);
		held = !in.bad && end_holders(s, spec.name);
	}
	return held;
}

/* What waits for something else than an event of the data plane. */
void session_req_turn(struct session *s)
{
	if (s->op == OP_FILES && !held_by_lost(s))
		start_job(s, run_files_open, files_done);
	else if (s->op == OP_REGION_FAILED && amst_region_drop(s->amst, s->job_region.region) == 0)
		s->op = OP_REGION_DROP;
}

static void do_files_open(struct session *s)
{
	struct rcur peek = s->in;
	uint32_t n = get_u16(&peek);

	if (!s->srv->cfg.store)
		answer(s, -EACCES, "the server takes no files: start it with `dwcp serve --store DIR`");
	else if (peek.bad || !n || n > WIRE_BATCH_MAX || s->rx_active)
		answer(s, -EINVAL, "the list of files is empty or too long, or a transfer is running");
	else
		s->op = OP_FILES; /* session_req_turn begins it */
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

static void do_files_write(struct session *s)
{
	struct rcur peek = s->in;
	uint32_t n = get_u16(&peek);

	if (peek.bad || !n || n > s->n_files || s->rx_active)
		answer(s, -EINVAL, "the files to be written are not those that are open, or a transfer is running");
	else
		start_job(s, run_files_write, session_reply_send);
}

static void flush_begin(struct session *s, struct rcur in, uint32_t n)
{
	struct msg_file_close m;

	for (uint32_t i = 0; i < n; i++) {
		wire_get(&in, &wire_file_close, &m);
		if (!in.bad && m.complete && s->files[i] && !s->folder[i])
			store_flush_begin(s->files[i]);
	}
}

static void run_files_close(struct session *s)
{
	bool sync = get_u8(&s->in);
	uint32_t n = get_u16(&s->in);

	flush_begin(s, s->in, n);

	session_reply(s, 0, "%s", "");
	put_u16(&s->out, (uint16_t)n);
	for (uint32_t i = 0; i < n; i++) {
		struct store_file *f = s->files[i];
		struct msg_file_close m;
		struct err e = { 0 };
		int rc = 0;

		wire_get(&s->in, &wire_file_close, &m);
		s->files[i] = NULL;
		if (!f)
			err_set(&e, rc = -ENOENT, "was not open");
		else if (m.complete && !s->in.bad)
			rc = store_finish(f, sync, &e);
		else
			store_abandon(f, true);
		/* A folder that is closed without being complete was only prepared; what was never open is counted. */
		if (rc >= 0 && m.complete)
			s->files_good++;
		else if (f && (m.complete || !s->folder[i]))
			s->files_bad++;
		put_file_status(s, rc < 0 ? rc : 0, 0, rc < 0 ? e.why : "");
	}
	s->n_files = 0;
	s->file_bytes = 0;
}

static void do_files_close(struct session *s)
{
	struct rcur peek = s->in;
	uint32_t n;

	get_u8(&peek);
	n = get_u16(&peek);
	if (peek.bad || n != s->n_files || s->rx_active)
		answer(s, -EINVAL, "the files to be closed are not those that are open, or a transfer is running");
	else
		start_job(s, run_files_close, files_done);
}

/* ---- services ---------------------------------------------------------------------------------- */

static void run_service(struct session *s)
{
	const struct service *v = &s->srv->cfg.service;
	struct err e = { 0 };
	int rc;

	session_reply(s, 0, "%s", "");
	rc = v->ops->request(v->ctx, &s->service, s->req.type, &s->in, &s->out, &e);
	if (rc < 0)
		session_reply(s, rc, "%s", e.why);
}

static bool of_service(const struct session *s)
{
	const struct service_ops *ops = s->srv->cfg.service.ops;

	return ops && s->req.type >= ops->first && s->req.type <= ops->last;
}

/* ---- dispatch ---------------------------------------------------------------------------------- */

static void do_bye(struct session *s)
{
	s->bye = true;
	answer(s, 0, "");
}

void session_request(struct session *s)
{
	if (s->req.type != MSG_HELLO && s->req.type != MSG_BYE && !s->agreed) {
		answer(s, -EPROTO, "the session must begin with a hello");
		return;
	}
	switch (s->req.type) {
	case MSG_HELLO:
		do_hello(s);
		break;
	case MSG_REGION:
		do_region(s);
		break;
	case MSG_XFER_BEGIN:
		do_xfer_begin(s);
		break;
	case MSG_XFER_END:
		do_xfer_end(s);
		break;
	case MSG_PULL:
		do_pull(s);
		break;
	case MSG_PULL_WAIT:
		do_pull_wait(s);
		break;
	case MSG_PULL_STOP:
		do_pull_stop(s);
		break;
	case MSG_DIGEST:
		do_digest(s);
		break;
	case MSG_INFO:
		do_info(s);
		break;
	case MSG_FILES_OPEN:
		do_files_open(s);
		break;
	case MSG_FILE_HASH:
		start_job(s, run_file_hash, session_reply_send);
		break;
	case MSG_FILES_WRITE:
		do_files_write(s);
		break;
	case MSG_FILES_CLOSE:
		do_files_close(s);
		break;
	case MSG_BYE:
		do_bye(s);
		break;
	default:
		if (of_service(s))
			start_job(s, run_service, session_reply_send);
		else
			answer(s, -EPROTO,
			       "the server does not know this request: install the same dwcp release on both hosts");
	}
}

void session_req_event(struct session *s, const struct amst_event *ev)
{
	if (ev->type == AMST_TX_DONE)
		amst_tx_end(s->amst, &s->tx);
	else if (ev->type == AMST_TX_ENDED)
		s->tx_ended = true;
	if (s->op == OP_REGION && ev->type == AMST_REGION_ADDED)
		region_added(s, ev);
	else if (s->op == OP_REGION_DROP && ev->type == AMST_REGION_DROPPED)
		start_job(s, run_region_free, region_freed);
	else if (s->op == OP_RX_READY && ev->type == AMST_RX_READY)
		answer(s, 0, "");
	else if (s->op == OP_RX_END && ev->type == AMST_RX_ENDED)
		rx_ended(s);
	else if (s->op == OP_PULL_WAIT && ev->type == AMST_TX_ENDED)
		pull_result(s);
	else if (s->op == OP_SAMPLE && ev->type == AMST_SAMPLED)
		send_info(s);
}

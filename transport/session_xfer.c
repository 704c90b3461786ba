/* SPDX-License-Identifier: MIT */
/* A session's transfers: what it receives, into regions, files or a service, through a filter or not, and what it sends
 * when it is asked to. */
#include "transport/session.h"

#include "base/bitmap.h"
#include <errno.h>
#include <string.h>

#define COUNT_AT_ONCE (1u << 20) /* chunks whose map is counted in no time; a larger one in the job thread */

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

static void run_filter(struct session *s)
{
	const struct msg_xfer_begin *m = &s->job_xfer;

	if (m->filter[0] && open_filter(s, m->filter, (enum xfer_kind)m->kind, &s->job_err) == 0)
		s->rx.stage = &s->filtered[m->kind];
}

static void xfer_prepare(struct session *s)
{
	struct err *e = &s->job_err;
	int rc = e->code;

	if (rc == 0)
		rc = amst_rx_prepare(&s->rx, s->job_xfer.chunks, e);
	if (rc == 0 && (rc = amst_rx_start(s->amst, &s->rx)) < 0) {
		amst_rx_free(&s->rx);
		err_set(e, rc, "the workers are busy: try again");
	}
	if (rc < 0) {
		session_answer(s, rc, e->why);
		return;
	}
	s->rx_active = true;
	s->op = OP_RX_READY;
}

void session_xfer_begin(struct session *s)
{
	const struct stage *sink = NULL;
	struct msg_xfer_begin m;
	uint32_t id = get_u32(&s->in);
	uint64_t service_bytes = 0;

	wire_get(&s->in, &wire_xfer_begin, &m);
	if (!s->in.bad && m.kind == XFER_SERVICE)
		sink = service_sink(s, &service_bytes);
	if (s->in.bad || m.sum >= SUM_KINDS || m.kind > XFER_SERVICE || (m.kind == XFER_FILES && !s->n_files) ||
	    (m.kind == XFER_SERVICE && (!sink || m.filter[0]))) {
		session_answer(s, -EINVAL,
			       "the transfer's kind or checksum is unknown, or nothing is open that could receive it");
		return;
	}
	if (s->rx_active) {
		session_answer(s, -EBUSY, "a transfer is running in this session");
		return;
	}
	if (!m.chunk || m.chunks > chunks_most(s, &m, service_bytes)) {
		session_answer(s, -EINVAL, "the transfer has more chunks than its regions or files can hold");
		return;
	}
	s->rx = (struct amst_rx){ .id = id, .sum = (enum sum_kind)m.sum };
	s->stage = sink ? *sink : (struct stage){ .ops = &file_sink, .ctx = s };
	s->rx.stage = m.kind == XFER_PUT ? NULL : &s->stage;
	s->job_xfer = m;
	/* A filter's memory is made once in a session, and that takes its time. */
	if (m.filter[0] && !s->filters[m.kind]) {
		session_start_job(s, run_filter, xfer_prepare);
		return;
	}
	s->job_err = (struct err){ 0 };
	run_filter(s);
	xfer_prepare(s);
}

static void answer_rx(struct session *s)
{
	struct msg_xfer_end m;
	struct msg_xfer_result r = {
		.placed = s->rx.placed,
		.distinct = s->rx_distinct,
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

static void run_rx_count(struct session *s)
{
	s->rx_distinct = bitmap_count(s->rx.map, s->rx.pass_chunks);
}

static void rx_ended(struct session *s)
{
	if (s->rx.pass_chunks > COUNT_AT_ONCE) {
		session_start_job(s, run_rx_count, answer_rx);
		return;
	}
	run_rx_count(s);
	answer_rx(s);
}

void session_xfer_end(struct session *s)
{
	if (!s->rx_active || amst_rx_end(s->amst, &s->rx) < 0) {
		session_answer(s, -EINVAL, "no transfer is running in this session");
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

void session_pull(struct session *s)
{
	struct msg_pull m;
	uint32_t id = get_u32(&s->in);
	struct err e;
	int rc;

	wire_get(&s->in, &wire_pull, &m);
	if (s->in.bad || s->tx_active || !pull_fits(s, &m)) {
		session_answer(s, -EINVAL, "the transfer asked for is impossible, or one is running");
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
	session_answer(s, rc, rc ? e.why : "");
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
	s->tx_active = s->tx_failed_due = false;
}

void session_pull_wait(struct session *s)
{
	if (!s->tx_active)
		session_answer(s, -EINVAL, "no transfer is running in this session");
	else if (s->tx_ended)
		pull_result(s);
	else
		s->op = OP_PULL_WAIT;
}

void session_pull_stop(struct session *s)
{
	if (s->tx_active && !s->tx_ended)
		amst_tx_stop(s->amst, &s->tx);
	session_answer(s, 0, "");
}

void session_xfer_event(struct session *s, const struct amst_event *ev)
{
	if (ev->type == AMST_TX_DONE) {
		amst_tx_end(s->amst, &s->tx);
		s->tx_failed_due = s->tx.status && s->op != OP_PULL_WAIT;
	} else if (ev->type == AMST_TX_ENDED) {
		s->tx_ended = true;
	}
	if (s->op == OP_RX_READY && ev->type == AMST_RX_READY)
		session_answer(s, 0, "");
	else if (s->op == OP_RX_END && ev->type == AMST_RX_ENDED)
		rx_ended(s);
	else if (s->op == OP_PULL_WAIT && ev->type == AMST_TX_ENDED)
		pull_result(s);
}

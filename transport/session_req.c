/* SPDX-License-Identifier: MIT */
/*
 * What a session's requests do. A handler either answers at once, or leaves
 * s->op saying what it waits for: a job, or an event of the data plane.
 * Everything in a request is a peer's word: checked before it is used.
 */
#include "transport/session.h"

#include "base/log.h"
#include "base/opt.h"
#include "base/proc.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

void session_answer(struct session *s, int status, const char *text)
{
	session_reply(s, status, "%s", text);
	session_reply_send(s);
}

bool session_start_job(struct session *s, void (*run)(struct session *), void (*done)(struct session *))
{
	s->job_err = (struct err){ 0 };
	s->op = OP_JOB;
	if (session_job(s, run, done))
		return true;
	session_answer(s, -EBUSY, "the server is busy: try again");
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
		session_answer(s, s->job_err.code, s->job_err.why);
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
		session_answer(s, -EPROTO,
			       "the hello asks for something impossible: install the same dwcp release on both hosts");
	else
		session_start_job(s, run_hello, hello_done);
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
	server_regions_add(s->srv, -s->job_region.bytes);
	metric_add(&s->region_bytes, -s->job_region.bytes);
	session_answer(s, s->region_err.code, s->region_err.why);
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
	session_start_job(s, run_region_free, region_freed);
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
		session_answer(s, -EINVAL, "the region's number or size is impossible, or the region exists");
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
	if (!session_start_job(s, run_region, region_made))
		return;
	server_regions_add(srv, m.bytes);
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
		session_answer(s, -EINVAL, "the digest asks for bytes outside the region");
		return;
	}
	session_start_job(s, run_digest, digest_made);
}

/* ---- counters ---------------------------------------------------------------------------------- */

static void send_info(struct session *s)
{
	struct amst_counters ac;
	struct be_counters bc;

	amst_counters(s->amst, &ac, &bc);
	session_reply(s, 0, "%s", "");
	wire_put(&s->out, &wire_info,
		 &(struct msg_info){
			 .cpu_ns = proc_cpu_ns(),
			 .rss_bytes = proc_rss_bytes(),
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
	session_answer(s, 0, "");
}

void session_request(struct session *s)
{
	if (s->req.type != MSG_HELLO && s->req.type != MSG_BYE && !s->agreed) {
		session_answer(s, -EPROTO, "the session must begin with a hello");
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
		session_xfer_begin(s);
		break;
	case MSG_XFER_END:
		session_xfer_end(s);
		break;
	case MSG_PULL:
		session_pull(s);
		break;
	case MSG_PULL_WAIT:
		session_pull_wait(s);
		break;
	case MSG_PULL_STOP:
		session_pull_stop(s);
		break;
	case MSG_DIGEST:
		do_digest(s);
		break;
	case MSG_INFO:
		do_info(s);
		break;
	case MSG_FILES_OPEN:
		session_files_open(s);
		break;
	case MSG_FILE_HASH:
		session_file_hash(s);
		break;
	case MSG_FILES_WRITE:
		session_files_write(s);
		break;
	case MSG_FILES_CLOSE:
		session_files_close(s);
		break;
	case MSG_BYE:
		do_bye(s);
		break;
	default:
		if (of_service(s))
			session_start_job(s, run_service, session_reply_send);
		else
			session_answer(
				s, -EPROTO,
				"the server does not know this request: install the same dwcp release on both hosts");
	}
}

void session_req_event(struct session *s, const struct amst_event *ev)
{
	session_xfer_event(s, ev);
	if (s->op == OP_REGION && ev->type == AMST_REGION_ADDED)
		region_added(s, ev);
	else if (s->op == OP_REGION_DROP && ev->type == AMST_REGION_DROPPED)
		session_start_job(s, run_region_free, region_freed);
	else if (s->op == OP_SAMPLE && ev->type == AMST_SAMPLED)
		send_info(s);
}

/* What waits for something else than an event of the data plane. */
void session_req_turn(struct session *s)
{
	session_files_turn(s);
	if (s->op == OP_REGION_FAILED && amst_region_drop(s->amst, s->job_region.region) == 0)
		s->op = OP_REGION_DROP;
}

/* SPDX-License-Identifier: MIT */
/* The listener, the table of sessions, and what other threads may ask. */
#include "transport/server.h"

#include "base/log.h"
#include "transport/session.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW(f, k, u, h)                                                                                              \
	{                                                                                                            \
		.name = "server_" #f, .unit = u, .help = h, .kind = k, .offset = offsetof(struct server_counters, f) \
	}

const struct metric server_metrics[] = {
	ROW(sessions_started, METRIC_COUNTER, "sessions", "sessions accepted"),
	ROW(sessions_ended, METRIC_COUNTER, "sessions", "sessions ended, for whatever reason"),
	ROW(sessions_failed, METRIC_COUNTER, "sessions", "sessions ended by a mistake or a time-out"),
	ROW(sessions_resumed, METRIC_COUNTER, "sessions",
	    "times a session came back after its control connection was lost"),
	ROW(connections_refused, METRIC_COUNTER, "connections", "connections refused with a reason"),
	ROW(files_received, METRIC_COUNTER, "files", "files and folders that took their name"),
	ROW(files_failed, METRIC_COUNTER, "files", "files that were refused or given up"),
	ROW(sessions_now, METRIC_GAUGE, "sessions", "sessions open"),
	ROW(streams_now, METRIC_GAUGE, "streams", "data streams open"),
	ROW(region_bytes_now, METRIC_GAUGE, "bytes", "memory of regions"),
};
const size_t server_metrics_n = ARRAY_LEN(server_metrics);

#define CLOSE_TURNS 64
#define SOON (10 * NS_PER_MS)
#define SLOTS_PER_SESSION 2 /* one for a session on its way out */
#define STREAMS_PER_SLOT 2  /* the control stream, and one that takes over from it */
#define STREAMS_SPARE 8     /* connections to be refused */

/* ---- incoming connections ---------------------------------------------------------------------- */

void server_reject(struct server *srv, struct be_request *r, enum pre_status why)
{
	struct pre_reply p = { .version = WIRE_VERSION, .status = (uint8_t)why };
	uint8_t reply[BE_PREAMBLE];

	wire_put_reply(reply, &p);
	srv->cfg.ops->reject(srv->ctl, r, reply);
	metric_add(&srv->counters.connections_refused, 1);
}

static struct session *find_session(struct server *srv, const uint8_t id[16])
{
	for (uint32_t i = 0; i < srv->slots; i++)
		if (srv->sessions[i].used && !memcmp(srv->sessions[i].id, id, 16))
			return &srv->sessions[i];
	return NULL;
}

/* Sessions that somebody uses. One that said BYE leaves only its memory to be given back: who calls the next one
 * should not have to wait for that. */
static uint32_t live_sessions(const struct server *srv)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < srv->slots; i++)
		n += srv->sessions[i].used && !srv->sessions[i].dying && !srv->sessions[i].bye;
	return n;
}

/* Connections that say nothing hold no place against one that comes. */
static bool has_room(struct server *srv)
{
	if (live_sessions(srv) >= srv->cfg.sessions && !session_shed(srv))
		return false;
	return srv->counters.sessions_now < srv->slots;
}

static void on_incoming(struct server *srv, const struct be_event *ev)
{
	struct preamble p;
	struct session *s;

	if (ev->len != BE_PREAMBLE || wire_get_preamble(ev->data, &p) < 0) {
		/* Not a dwcp: it would not understand an answer. */
		srv->cfg.ops->reject(srv->ctl, ev->request, NULL);
		metric_add(&srv->counters.connections_refused, 1);
		return;
	}
	if (p.version != WIRE_VERSION) {
		server_reject(srv, ev->request, PRE_BAD_VERSION);
		return;
	}
	s = find_session(srv, p.session);
	switch (p.kind) {
	case PRE_CONTROL:
		if (s)
			server_reject(srv, ev->request, PRE_DUPLICATE);
		else if (srv->stopping)
			server_reject(srv, ev->request, PRE_STOPPING);
		else if (!has_room(srv))
			server_reject(srv, ev->request, PRE_BUSY);
		else
			session_start(srv, p.session, ev->request);
		break;
	case PRE_DATA:
		if (s)
			session_data_request(s, &p, ev->request);
		else
			server_reject(srv, ev->request, PRE_NO_SESSION);
		break;
	case PRE_RESUME:
		if (s)
			session_resume(s, ev->request);
		else
			server_reject(srv, ev->request, PRE_NO_SESSION);
		break;
	default:
		server_reject(srv, ev->request, PRE_MALFORMED);
	}
}

static struct session *session_of(struct server *srv, uint64_t cookie)
{
	uint32_t slot = (uint32_t)(cookie & 0xffff);
	struct session *s = slot && slot <= srv->slots ? &srv->sessions[slot - 1] : NULL;

	return s && s->used && s->generation == (cookie >> 16 & 0xffffff) ? s : NULL;
}

static void on_event(struct server *srv, const struct be_event *ev)
{
	struct session *s;

	if (ev->type == BE_INCOMING) {
		on_incoming(srv, ev);
		return;
	}
	s = ev->type == BE_WOKEN ? NULL : session_of(srv, ev->cookie);
	if (s)
		session_ctl_event(s, ev);
	else if (ev->type == BE_MESSAGE)
		srv->cfg.ops->release(srv->ctl, ev->frame);
}

void server_regions_add(struct server *srv, uint64_t bytes)
{
	srv->region_bytes += bytes;
	metric_add(&srv->counters.region_bytes_now, bytes);
}

/* ---- open, turn, close ------------------------------------------------------------------------- */

static int open_parts(struct server *srv, struct err *e)
{
	const struct server_config *cfg = &srv->cfg;
	uint32_t most = (cfg->ops->caps.streams_max - STREAMS_SPARE) / (SLOTS_PER_SESSION * STREAMS_PER_SLOT);

	if (!cfg->sessions || cfg->sessions > most)
		return err_set(e, -EINVAL,
			       "a server over %s has room for 1 to %u sessions at once, not %u: set --sessions",
			       cfg->ops->name, most, cfg->sessions);
	srv->slots = SLOTS_PER_SESSION * cfg->sessions;

	struct be_open o = {
		.opts = cfg->be_opts,
		.clock = cfg->clock,
		.streams = STREAMS_PER_SLOT * srv->slots + STREAMS_SPARE,
		.frames = srv->slots + 8,
		.frame_bytes = WIRE_CTL_MAX,
		.sends = 8,
		.regions = 1,
		.cpu = -1,
		.seed = cfg->seed,
		.fabric = cfg->fabric,
	};
	int rc;

	/* calloc knows nothing of members that want a cache line of their own. */
	srv->sessions = aligned_alloc(CACHE_LINE, srv->slots * sizeof *srv->sessions);
	if (!srv->sessions)
		return err_set(e, -ENOMEM, "no memory for %u sessions: allow fewer", cfg->sessions);
	memset(srv->sessions, 0, srv->slots * sizeof *srv->sessions);
	rc = cfg->ops->open(&o, &srv->ctl, e);
	if (rc == 0)
		rc = cfg->ops->listen(srv->ctl, &cfg->listen, &srv->bound, e);
	return rc;
}

int server_open(struct server **out, const struct server_config *cfg, struct err *e)
{
	struct server *srv = calloc(1, sizeof *srv);
	int rc;

	if (!srv)
		return err_set(e, -ENOMEM, "no memory for a server");
	srv->cfg = *cfg;
	pthread_mutex_init(&srv->mu, NULL);
	rc = open_parts(srv, e);
	if (rc < 0) {
		server_close(srv);
		return rc;
	}
	*out = srv;
	return 0;
}

const struct be_addr *server_bound(const struct server *s)
{
	return &s->bound;
}

void server_wake(struct server *s)
{
	s->cfg.ops->wake(s->ctl);
}

void server_turn(struct server *srv, uint64_t wait_ns)
{
	struct be_event ev[32];
	bool any;
	int n = srv->cfg.ops->poll(srv->ctl, ev, ARRAY_LEN(ev));

	for (int i = 0; i < n; i++)
		on_event(srv, &ev[i]);
	any = n > 0;
	srv->soon = false;
	for (uint32_t i = 0; i < srv->slots; i++)
		if (srv->sessions[i].used)
			any |= session_turn(&srv->sessions[i]);
	if (!any && !srv->cfg.manual)
		srv->cfg.ops->wait(srv->ctl, srv->soon ? min_u64(wait_ns, SOON) : wait_ns);
}

void server_close(struct server *srv)
{
	uint64_t until;
	unsigned turns = 0;

	if (!srv)
		return;
	srv->stopping = true;
	until = clock_now(&srv->cfg.clock) + 3 * NS_PER_S;
	for (uint32_t i = 0; srv->ctl && i < srv->slots; i++)
		if (srv->sessions[i].used && !srv->sessions[i].dying) {
			session_goodbye(&srv->sessions[i], "the server is shutting down");
			session_end(&srv->sessions[i], false);
		}
	/* A manual clock stands still meanwhile. */
	while (srv->ctl && srv->counters.sessions_now &&
	       (srv->cfg.manual ? turns++ < CLOSE_TURNS : clock_now(&srv->cfg.clock) < until))
		server_turn(srv, 20 * NS_PER_MS);
	/* Sessions whose last words or last job took too long end here. */
	for (uint32_t i = 0; srv->ctl && i < srv->slots; i++)
		if (srv->sessions[i].used) {
			jobs_close(srv->sessions[i].jobs);
			srv->sessions[i].jobs = NULL;
			session_destroy(&srv->sessions[i]);
		}
	if (srv->ctl)
		srv->cfg.ops->close(srv->ctl);
	for (uint32_t i = 0; srv->ctl && i < srv->slots; i++)
		if (srv->sessions[i].used)
			session_destroyed(&srv->sessions[i]);
	free(srv->sessions);
	pthread_mutex_destroy(&srv->mu);
	free(srv);
}

/* ---- what other threads ask -------------------------------------------------------------------- */

static void sum_locked(struct server *srv, struct server_counters *sc, struct amst_counters *ac, struct be_counters *bc)
{
	struct amst_counters a;
	struct be_counters b;

	memset(sc, 0, sizeof *sc);
	metrics_sum(server_metrics, server_metrics_n, sc, &srv->counters);
	*ac = srv->ended_ac;
	*bc = srv->ended_bc;
	for (uint32_t i = 0; i < srv->slots; i++) {
		struct session *s = &srv->sessions[i];

		if (!s->visible)
			continue;
		amst_counters(s->amst, &a, &b);
		metrics_sum(amst_metrics, amst_metrics_n, ac, &a);
		metrics_sum(be_metrics, be_metrics_n, bc, &b);
	}
}

void server_counters(struct server *srv, struct server_counters *sc, struct amst_counters *ac, struct be_counters *bc)
{
	pthread_mutex_lock(&srv->mu);
	sum_locked(srv, sc, ac, bc);
	pthread_mutex_unlock(&srv->mu);
}

static json_t *session_stats(const struct session *s, uint64_t now)
{
	struct amst_counters a;
	struct be_counters b;

	amst_counters(s->amst, &a, &b);
	return json_pack("{s:s, s:i, s:i, s:f, s:I, s:I, s:I, s:I, s:I, s:I}", "peer", s->peer, "streams",
			 (int)s->n_streams, "workers", (int)amst_workers(s->amst), "seconds",
			 (double)(now - s->opened_at) / 1e9, "bytes_received", (json_int_t)b.rx_bytes, "bytes_sent",
			 (json_int_t)b.tx_bytes, "chunks_placed", (json_int_t)a.chunks_placed, "chunks_refused",
			 (json_int_t)a.chunks_bad, "streams_lost", (json_int_t)a.streams_lost, "region_bytes",
			 (json_int_t)__atomic_load_n(&s->region_bytes, __ATOMIC_RELAXED));
}

json_t *server_stats(struct server *srv)
{
	json_t *counters = json_object(), *sessions = json_array(), *part;
	struct server_counters sc;
	struct amst_counters ac;
	struct be_counters bc;
	uint64_t now = clock_now(&srv->cfg.clock);

	pthread_mutex_lock(&srv->mu);
	sum_locked(srv, &sc, &ac, &bc);
	for (uint32_t i = 0; i < srv->slots; i++)
		if (srv->sessions[i].visible)
			json_array_append_new(sessions, session_stats(&srv->sessions[i], now));
	pthread_mutex_unlock(&srv->mu);
	part = metrics_json(server_metrics, server_metrics_n, &sc);
	json_object_update(counters, part);
	json_decref(part);
	part = metrics_json(amst_metrics, amst_metrics_n, &ac);
	json_object_update(counters, part);
	json_decref(part);
	part = metrics_json(be_metrics, be_metrics_n, &bc);
	json_object_update(counters, part);
	json_decref(part);
	return json_pack("{s:o, s:o}", "counters", counters, "sessions", sessions);
}

/* SPDX-License-Identifier: MIT */
/* dwcp serve: the receiving end, until a signal. */
#include "base/json.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/migrate.h"
#include "cli/prometheus.h"
#include "cli/serve_move.h"
#include "cli/stats_socket.h"
#include "cli/transfer.h"
#include "migrate/dest.h"
#include "transport/server.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define METRICS_PORT 9411

static const struct cmd_usage usage = {
	.name = "serve",
	.operands = "",
	.about =
		"Receives what other hosts send: memory regions of benchmarks, migrated guests, which run here from then on, "
		"and files where --store names a folder. "
		"Prints `listening on ADDR:PORT` when it is ready, and ends in order on SIGTERM or SIGINT.",
	.examples = "  dwcp serve --store=/srv/incoming\n"
		    "  dwcp serve --listen=0.0.0.0:7411 --store=/srv/incoming --metrics=127.0.0.1:9411\n"
		    "  dwcp serve --once\n",
};

struct serve_opts {
	char listen[280];
	char backend[64];
	bool once;
	char store[4096];
	uint32_t sessions, workers;
	char affinity[256];
	uint64_t max_memory, timeout_ns;
	char stats_socket[128];
	char metrics[280];
};

#define FIELD(f) offsetof(struct serve_opts, f)
#define ROOM(f) sizeof(((struct serve_opts *)0)->f)

static const struct opt rows[] = {
	{ .name = "listen",
	  .letter = 'l',
	  .type = OPT_STR,
	  .offset = FIELD(listen),
	  .def = "127.0.0.1:7411",
	  .max = ROOM(listen),
	  .unit = "ADDR:PORT",
	  .help = "where to listen; * is every address, port 0 picks one" },
	{ .name = "backend",
	  .type = OPT_STR,
	  .offset = FIELD(backend),
	  .def = "auto",
	  .max = ROOM(backend),
	  .auto_ok = true,
	  .unit = "LIST",
	  .help = "transports to listen on, see `dwcp backends`; auto: all that this machine can run" },
	{ .name = "store",
	  .type = OPT_STR,
	  .offset = FIELD(store),
	  .def = "",
	  .max = ROOM(store),
	  .unit = "DIR",
	  .help = "folder that takes files; without it files are refused" },
	{ .name = "once",
	  .type = OPT_BOOL,
	  .offset = FIELD(once),
	  .def = "no",
	  .help = "end after the first session, and after the guest that it brought is dropped; exit status 1 if that "
		  "failed, or a file did not come whole, 130 if a signal came before its end" },
	{ .name = "sessions",
	  .type = OPT_U32,
	  .offset = FIELD(sessions),
	  .def = "32",
	  .min = 1,
	  .max = 1000,
	  .help = "most sessions at once" },
	{ .name = "max-memory",
	  .type = OPT_SIZE,
	  .offset = FIELD(max_memory),
	  .def = "auto",
	  .auto_ok = true,
	  .help = "most memory for regions and guests, all sessions together; auto: three quarters of the machine's" },
	{ .name = "workers",
	  .type = OPT_U32,
	  .offset = FIELD(workers),
	  .def = "auto",
	  .min = 1,
	  .max = AMST_WORKERS_MAX,
	  .auto_ok = true,
	  .help = "most threads per session; auto: one per CPU" },
	{ .name = "affinity",
	  .type = OPT_STR,
	  .offset = FIELD(affinity),
	  .def = "auto",
	  .max = ROOM(affinity),
	  .auto_ok = true,
	  .unit = "none|LIST",
	  .help = "CPUs that workers are pinned to, e.g. 0,2-5; auto: worker i of a session to the i-th CPU" },
	{ .name = "timeout",
	  .type = OPT_TIME,
	  .offset = FIELD(timeout_ns),
	  .def = "60s",
	  .min = 100 * NS_PER_MS,
	  .max = 24 * 3600 * NS_PER_S,
	  .help = "most that a lost session is kept for its sender to come back" },
	{ .name = "stats-socket",
	  .type = OPT_STR,
	  .offset = FIELD(stats_socket),
	  .def = "auto",
	  .max = ROOM(stats_socket),
	  .auto_ok = true,
	  .unit = "none|PATH",
	  .help = "local socket that `dwcp stats` asks; auto: dwcp-PORT.sock in $XDG_RUNTIME_DIR or /run, or "
		  "dwcp-UID-PORT.sock in /tmp" },
	{ .name = "metrics",
	  .type = OPT_STR,
	  .offset = FIELD(metrics),
	  .def = "",
	  .max = ROOM(metrics),
	  .unit = "ADDR:PORT",
	  .help = "serve GET /metrics for Prometheus there, port 9411 if not given" },
};

struct serve {
	struct serve_opts opts;
	struct uring_opts tcp;
	const struct be_ops *ops;
	const void *be_opts;
	struct multi_opts ways;
	struct verbs_opts rdma;
	struct cpu_plan cpus;
	struct be_addr listen;
	struct store *store;
	struct dest *guests;
	struct server *server;
	struct stats_socket *stats;
	struct prometheus *prometheus;
	uint64_t started_ns;
	pthread_t signals;
	bool signals_on, stop, over;
	pthread_mutex_t wake_mu;
	bool closing; /* the server is not to be woken any more; under wake_mu */
};

/* ---- signals ----------------------------------------------------------------------------------- */

static sigset_t taken_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR1); /* from signals_end */
	return set;
}

/* Signals are blocked in every thread and taken here, where nothing is async. */
static void *take_signals(void *arg)
{
	struct serve *s = arg;
	sigset_t set = taken_signals();
	int sig;

	while (sigwait(&set, &sig) == 0) {
		if (__atomic_load_n(&s->over, __ATOMIC_ACQUIRE))
			return NULL;
		if (sig == SIGUSR1)
			continue;
		if (__atomic_exchange_n(&s->stop, true, __ATOMIC_ACQ_REL))
			_exit(CMD_INTERRUPTED);
		pthread_mutex_lock(&s->wake_mu);
		if (!s->closing)
			server_wake(s->server);
		pthread_mutex_unlock(&s->wake_mu);
	}
	return NULL;
}

static void block_signals(void)
{
	sigset_t set = taken_signals();

	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a full quota is an error of one file */
}

static int signals_start(struct serve *s, struct err *e)
{
	int rc = thread_start(&s->signals, "dwcp-signals", take_signals, s);

	if (rc < 0)
		return err_set(e, rc, "no thread for signals: %s; raise ulimit -u", strerror(-rc));
	s->signals_on = true;
	return 0;
}

static void signals_end(struct serve *s)
{
	if (!s->signals_on)
		return;
	__atomic_store_n(&s->over, true, __ATOMIC_RELEASE);
	pthread_kill(s->signals, SIGUSR1);
	pthread_join(s->signals, NULL);
}

/* ---- what others may read ---------------------------------------------------------------------- */

static json_t *guests_json(struct dest *d)
{
	struct msg_guest_status *st = calloc(DEST_GUESTS_MAX, sizeof(*st));
	unsigned n = st ? dest_list(d, st, DEST_GUESTS_MAX) : 0;
	json_t *list = json_array();

	for (unsigned i = 0; i < n && i < DEST_GUESTS_MAX; i++)
		json_array_append_new(list, guest_json(&st[i]));
	free(st);
	return list;
}

static json_t *describe(void *arg)
{
	struct serve *s = arg;
	json_t *obj = server_stats(s->server);
	char at[64];

	if (!obj)
		return NULL;
	json_object_set_new(obj, "listen", json_string(addr_format(at, sizeof(at), server_bound(s->server))));
	json_object_set_new(obj, "backend", json_string(s->ops->name));
	json_object_set_new(obj, "guests", guests_json(s->guests));
	json_object_set_new(obj, "release", json_string(cmd_version));
	json_object_set_new(obj, "pid", json_integer(getpid()));
	json_object_set_new(obj, "store", s->opts.store[0] ? json_string(s->opts.store) : json_null());
	json_object_set_new(obj, "uptime_seconds", json_real((double)(clock_now(&clock_mono) - s->started_ns) / 1e9));
	return obj;
}

static void metrics_page(void *arg, FILE *out)
{
	struct serve *s = arg;
	struct server_counters sc = { 0 };
	struct amst_counters ac = { 0 };
	struct be_counters bc = { 0 };

	server_counters(s->server, &sc, &ac, &bc);
	metrics_prometheus(server_metrics, server_metrics_n, &sc, out);
	metrics_prometheus(amst_metrics, amst_metrics_n, &ac, out);
	metrics_prometheus(be_metrics, be_metrics_n, &bc, out);
}

static uint16_t port_of(const struct be_addr *a)
{
	return ntohs(a->sa.sa_family == AF_INET6 ? a->in6.sin6_port : a->in.sin_port);
}

static int open_stats(struct serve *s, struct err *e)
{
	const char *path = s->opts.stats_socket;
	struct err why = { 0 };
	int rc;

	if (!strcmp(path, "none"))
		return 0;
	rc = stats_socket_open(&s->stats, path, port_of(server_bound(s->server)), describe, s, &why);
	if (rc == 0) {
		log_info("statistics at %s", stats_socket_path(s->stats));
	} else if (*path) {
		*e = why;
		return rc;
	} else {
		log_warn("%s", why.why);
	}
	return 0;
}

static int open_metrics(struct serve *s, struct err *e)
{
	struct be_addr at, bound;
	char text[64];
	int rc;

	if (!s->opts.metrics[0])
		return 0;
	rc = addr_resolve(s->opts.metrics, METRICS_PORT, true, &at, 1, e);
	if (rc >= 0)
		rc = prometheus_open(&s->prometheus, &at, metrics_page, s, &bound, e);
	if (rc >= 0)
		log_info("metrics at http://%s/metrics", addr_format(text, sizeof(text), &bound));
	return rc < 0 ? rc : 0;
}

/* ---- open, run, close -------------------------------------------------------------------------- */

static unsigned workers(const struct serve *s)
{
	return s->opts.workers ? s->opts.workers : (unsigned)min_u64(transfer_cpu_count(), AMST_WORKERS_MAX);
}

/* auto: three quarters of the machine's. */
static uint64_t memory_max(const struct serve *s)
{
	uint64_t most = (uint64_t)sysconf(_SC_PHYS_PAGES) / 4 * 3 * (uint64_t)sysconf(_SC_PAGESIZE);

	return s->opts.max_memory ? s->opts.max_memory : most;
}

static int open_server(struct serve *s, struct err *e)
{
	struct serve_opts *o = &s->opts;
	struct server_config cfg = {
		.ops = s->ops,
		.be_opts = s->be_opts,
		.listen = s->listen,
		.workers = workers(s),
		.sessions = o->sessions,
		.memory_max = memory_max(s),
		.store = s->store,
		.service = dest_service(s->guests),
		.cpus = s->cpus.n ? s->cpus.v : NULL,
		.n_cpus = s->cpus.n,
		.filters = transfer_filters,
		.timeout_ns = o->timeout_ns,
		.clock = clock_mono,
		.release = cmd_version,
	};

	if (getrandom(&cfg.seed, sizeof(cfg.seed), 0) != sizeof(cfg.seed))
		cfg.seed = clock_now(&clock_mono);
	return server_open(&s->server, &cfg, e);
}

static int open_all(struct serve *s, struct err *e)
{
	int rc = 0;

	transfer_raise_limits();
	block_signals();
	s->started_ns = clock_now(&clock_mono);
	if (s->opts.store[0])
		rc = store_open(&s->store, s->opts.store, e);
	if (rc >= 0)
		rc = dest_open(&s->guests,
			       &(struct dest_config){
				       .memory_max = memory_max(s), .workers = workers(s), .onward = serve_onward() },
			       e);
	if (rc >= 0)
		rc = open_server(s, e);
	if (rc >= 0)
		rc = signals_start(s, e);
	if (rc >= 0)
		rc = open_stats(s, e);
	if (rc >= 0)
		rc = open_metrics(s, e);
	return rc;
}

static void close_all(struct serve *s)
{
	prometheus_close(s->prometheus);
	stats_socket_close(s->stats);
	pthread_mutex_lock(&s->wake_mu);
	s->closing = true;
	pthread_mutex_unlock(&s->wake_mu);
	server_close(s->server); /* may take its time: a second signal must be able to cut it short */
	dest_close(s->guests);
	signals_end(s);
	store_close(s->store);
}

/* Who started it waits for this line. */
static int announce(const struct serve *s, struct err *e)
{
	const struct be_addr *bound = server_bound(s->server);
	char at[64];

	addr_format(at, sizeof(at), bound);
	if (!addr_is_loopback(bound))
		log_warn("listening on %s without keys: whoever reaches this port may send, and have its guests moved",
			 at);
	printf("listening on %s\n", at);
	if (cmd_flush() < 0)
		return err_set(e, cmd_flush(),
			       "cannot say \"listening on %s\" on standard output: %s; lead it elsewhere", at,
			       strerror(-cmd_flush()));
	return 0;
}

/* True when --once has had its session; *failed: it did not end in order. */
static bool had_one(struct serve *s, bool *failed)
{
	struct server_counters sc;
	struct amst_counters ac;
	struct be_counters bc;

	if (!s->opts.once)
		return false;
	server_counters(s->server, &sc, &ac, &bc);
	*failed = sc.sessions_failed > 0 || sc.files_failed > 0;
	return sc.sessions_started && !sc.sessions_now && !dest_list(s->guests, NULL, 0);
}

static int run(struct serve *s, struct err *e)
{
	bool failed = false, done;

	while (!(done = had_one(s, &failed)) && !__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE))
		server_turn(s->server, NS_PER_S);
	if (failed)
		return err_set(e, -EIO, "the session did not end in order, or not every file came whole; -v shows why");
	if (s->opts.once && !done)
		return err_set(e, -EINTR, "interrupted before its session came to an end");
	return 0;
}

static int check(struct serve *s, struct err *e)
{
	int rc = transfer_backend(s->opts.backend, &s->tcp, &s->rdma, &s->ways, &s->ops, &s->be_opts, e);

	if (rc >= 0)
		rc = transfer_cpus(s->opts.affinity, &s->cpus, e);
	if (rc >= 0)
		rc = addr_resolve(s->opts.listen, DWCP_PORT, true, &s->listen, 1, e);
	return rc;
}

int cmd_serve(int argc, char **argv)
{
	struct serve s = { .wake_mu = PTHREAD_MUTEX_INITIALIZER };
	const struct opt_group groups[] = {
		{ .name = "serve", .help = "Server", .rows = rows, .n = ARRAY_LEN(rows), .base = &s.opts },
		transfer_tcp_group(&s.tcp),
		transfer_rdma_group(&s.rdma),
	};
	struct err e = { 0 };
	int n, status, rc;

	status = cmd_options(&usage, groups, ARRAY_LEN(groups), 0, 0, argc, argv, &n);
	if (status != CMD_RUN)
		return status;
	rc = check(&s, &e);
	if (rc < 0) {
		cmd_fail(usage.name, &e);
		return rc == -EINVAL ? CMD_USAGE : CMD_FAILED;
	}
	rc = open_all(&s, &e);
	if (rc >= 0)
		rc = announce(&s, &e);
	if (rc >= 0)
		rc = run(&s, &e);
	close_all(&s);
	if (rc < 0)
		cmd_fail(usage.name, &e);
	return rc == -EINTR ? CMD_INTERRUPTED : rc < 0 ? CMD_FAILED : CMD_OK;
}

/* SPDX-License-Identifier: MIT */
#include "cli/transfer.h"
#include "base/log.h"
#include "base/util.h"
#include "cli/cmd.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

const struct filter *const transfer_filters[] = { &hde_filter, NULL };

#define CHUNK_DEFAULT (256u << 10)

#define FIELD(f) offsetof(struct transfer_opts, f)

static const struct opt rows[] = {
	{ .name = "streams",
	  .alias = "tcp_streams",
	  .type = OPT_U32,
	  .offset = FIELD(streams),
	  .def = "auto",
	  .min = 1,
	  .max = WIRE_STREAMS_MAX,
	  .auto_ok = true,
	  .help = "connections that carry data; auto: 8 at first, then as many as the link carries more with, up to 64, "
		  "found while data is sent" },
	{ .name = "backend",
	  .type = OPT_STR,
	  .offset = FIELD(backend),
	  .def = "auto",
	  .max = sizeof(((struct transfer_opts *)0)->backend),
	  .auto_ok = true,
	  .unit = "LIST",
	  .help = "transports in order of preference, see `dwcp backends`: the first over which the peer is reached, and "
		  "the next when it is lost; auto: of all that this machine can run" },
	{ .name = "mode",
	  .type = OPT_ENUM,
	  .offset = FIELD(mode),
	  .def = "auto",
	  .values = mode_names,
	  .help = "what options left at auto mean; internet and hybrid: BBR; datacenter: the kernel's own choice; auto: by "
		  "the round trip at first, then by what is measured, switched while data is sent" },
	{ .name = "chunk-size",
	  .type = OPT_SIZE,
	  .offset = FIELD(chunk),
	  .def = "auto",
	  .min = 4096,
	  .max = 64 << 20,
	  .auto_ok = true,
	  .help = "bytes that a stream takes at a time; files and what is compressed at most 1 MB; auto: 256 KB, and "
		  "512 KB with --compress" },
	{ .name = "checksum",
	  .type = OPT_ENUM,
	  .offset = FIELD(sum),
	  .def = "xxh3",
	  .values = sum_names,
	  .help = "of every chunk, checked by the receiver" },
	{ .name = "scheduling",
	  .alias = "stream_scheduling",
	  .type = OPT_ENUM,
	  .offset = FIELD(sched),
	  .def = "pull",
	  .values = amst_sched_names,
	  .help = "which stream takes the next chunk; pull: whichever has room" },
	{ .name = "workers",
	  .type = OPT_U32,
	  .offset = FIELD(workers),
	  .def = "auto",
	  .min = 1,
	  .max = AMST_WORKERS_MAX,
	  .auto_ok = true,
	  .help = "threads that move data; auto: one per CPU, at most one per stream" },
	{ .name = "affinity",
	  .alias = "stream_affinity",
	  .type = OPT_STR,
	  .offset = FIELD(affinity),
	  .def = "auto",
	  .max = sizeof(((struct transfer_opts *)0)->affinity),
	  .auto_ok = true,
	  .unit = "none|LIST",
	  .help = "CPUs that workers are pinned to, e.g. 0,2-5; auto: worker i to the i-th CPU when there are as many" },
	{ .name = "timeout",
	  .type = OPT_TIME,
	  .offset = FIELD(timeout_ns),
	  .def = "30s",
	  .min = 100 * NS_PER_MS,
	  .max = 24 * 3600 * NS_PER_S,
	  .help = "longest wait without progress; also how long a lost session is retried" },
};

struct opt_group transfer_group(struct transfer_opts *o)
{
	return (struct opt_group){
		.name = "transfer", .help = "Transfer", .rows = rows, .n = ARRAY_LEN(rows), .base = o
	};
}

struct opt_group transfer_compress_group(struct transfer_opts *o)
{
	return hde_group(&o->hde);
}

struct opt_group transfer_tcp_group(struct uring_opts *tcp)
{
	const struct be_ops *ops = backend_find("tcp");

	return (struct opt_group){ .name = "tcp",
				   .help = "TCP over io_uring",
				   .rows = ops ? ops->opts : NULL,
				   .n = ops ? ops->n_opts : 0,
				   .base = tcp };
}

struct opt_group transfer_rdma_group(struct verbs_opts *rdma)
{
	return (struct opt_group){
		.name = "rdma", .help = "RDMA over verbs", .rows = verbs_ops.opts, .n = verbs_ops.n_opts, .base = rdma
	};
}

/* ---- backend ----------------------------------------------------------------------------------- */

/* What --backend chooses from, and what came of it. */
struct choice {
	const struct uring_opts *tcp;
	const struct verbs_opts *rdma;
	struct multi_opts *ways;
	char reasons[256];
	size_t used;
	bool wrong; /* a name that no machine could choose */
	int code;
};

static void choice_not(struct choice *c, int rc, const char *fmt, const char *name, const char *why)
{
	int n;

	/* A name that is known is a machine's fault and not the user's. */
	if (rc == -EINVAL)
		c->wrong = true;
	else
		c->code = rc;
	log_info("backend %s is not available: %s", name, why);
	n = snprintf(c->reasons + c->used, sizeof(c->reasons) - c->used, fmt, name, why);
	c->used = n < 0 ? c->used : min_u64(c->used + (size_t)n, sizeof(c->reasons) - 1);
}

static void choice_try(struct choice *c, const struct be_ops *ops)
{
	struct multi_opts *w = c->ways;
	struct err why = { 0 };
	int rc = ops->probe(&why);

	if (rc < 0) {
		choice_not(c, rc == -EINVAL ? -ENODEV : rc, "%s: %s; ", ops->name, why.why);
		return;
	}
	for (unsigned i = 0; i < w->n; i++)
		if (w->way[i].ops == ops)
			return;
	if (w->n == MULTI_WAYS)
		return;
	w->way[w->n].opts = ops == &verbs_ops ? (const void *)c->rdma : !strcmp(ops->name, "tcp") ? c->tcp : NULL;
	w->way[w->n++].ops = ops;
}

/* The next name of a comma-separated list; false at its end. */
static bool next_name(const char **list, char *name, size_t cap)
{
	size_t len = strcspn(*list, ",");

	if (!**list)
		return false;
	snprintf(name, cap, "%.*s", (int)len, *list);
	*list += len + ((*list)[len] == ',');
	return true;
}

static void choice_listed(struct choice *c, const char *list)
{
	const struct be_ops *seen = NULL;
	char name[32];

	while (next_name(&list, name, sizeof(name))) {
		const struct be_ops *ops = backend_find(name);

		if (ops && ops == seen)
			continue;
		seen = ops;
		if (!ops)
			choice_not(c, -EINVAL, "there is no \"%s\"%s; ", name, "");
		else if (ops->caps.in_process)
			choice_not(c, -EINVAL, "%s %s; ", name, "stays inside one process");
		else
			choice_try(c, ops);
	}
}

int transfer_backend(const char *list, const struct uring_opts *tcp, const struct verbs_opts *rdma,
		     struct multi_opts *ways, const struct be_ops **ops, const void **opts, struct err *e)
{
	struct choice c = { .tcp = tcp, .rdma = rdma, .ways = ways, .code = -EINVAL };

	ways->n = 0;
	if (*list)
		choice_listed(&c, list);
	else
		for (size_t i = 0; backends[i]; i++)
			if (!backends[i]->caps.in_process)
				choice_try(&c, backends[i]);
	if (!ways->n && *list)
		return err_set(e, c.wrong ? -EINVAL : c.code, "--backend: %schoose from `dwcp backends`",
			       c.used ? c.reasons : "the list is empty; ");
	if (!ways->n)
		return err_set(e, -ENODEV, "no transport can run on this machine (%s`dwcp backends` says why)",
			       c.reasons);
	*ops = ways->n > 1 ? &multi_ops : ways->way[0].ops;
	*opts = ways->n > 1 ? ways : ways->way[0].opts;
	log_info("backend %s: %s", (*ops)->name, *list ? "as asked for" : "what this machine can run");
	return 0;
}

/* ---- CPUs -------------------------------------------------------------------------------------- */

unsigned transfer_cpu_count(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	return (unsigned)CPU_COUNT(&set);
}

static void cpus_all(struct cpu_plan *out)
{
	cpu_set_t set;

	out->n = 0;
	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return;
	for (int i = 0; i < CPU_SETSIZE && out->n < AMST_WORKERS_MAX; i++)
		if (CPU_ISSET(i, &set))
			out->v[out->n++] = i;
}

static int cpu_add(struct cpu_plan *out, long cpu, struct err *e)
{
	cpu_set_t set;

	if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof(set), &set) < 0 ||
	    !CPU_ISSET((size_t)cpu, &set))
		return err_set(e, -EINVAL, "--affinity: this process may not use CPU %ld; see `taskset -cp $$`", cpu);
	if (out->n == AMST_WORKERS_MAX)
		return err_set(e, -EINVAL, "--affinity: more than %d CPUs; name fewer", AMST_WORKERS_MAX);
	out->v[out->n++] = (int)cpu;
	return 0;
}

static bool number(const char **s, long *v)
{
	char *end;

	if (**s < '0' || **s > '9')
		return false;
	errno = 0;
	*v = strtol(*s, &end, 10);
	*s = end;
	return errno == 0;
}

static int cpus_listed(const char *list, struct cpu_plan *out, struct err *e)
{
	struct cpu_plan plan = { .n = 0 };
	const char *s = list;
	long first, last;
	int rc = 0;

	do {
		if (!number(&s, &first))
			goto bad;
		last = first;
		if (*s == '-') {
			s++;
			if (!number(&s, &last) || last < first)
				goto bad;
		}
		for (; rc == 0 && first <= last; first++)
			rc = cpu_add(&plan, first, e);
		if (rc < 0)
			return rc;
	} while (*s++ == ',');
	if (s[-1])
		goto bad;
	*out = plan;
	return 0;
bad:
	return err_set(e, -EINVAL, "--affinity: \"%.64s\" is not a list of CPUs; write auto, none or e.g. 0,2-5", list);
}

int transfer_cpus(const char *list, struct cpu_plan *out, struct err *e)
{
	out->n = 0;
	if (!*list)
		cpus_all(out);
	else if (strcmp(list, "none"))
		return cpus_listed(list, out, e);
	return 0;
}

/* ---- mode -------------------------------------------------------------------------------------- */

/* The kernel loads an algorithm when it is asked for, so asking is the only sure test. */
bool transfer_congestion(const char *name)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok = fd >= 0 && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) == 0;

	if (fd >= 0)
		close(fd);
	return ok;
}

static bool congestion_untold(const struct transfer_opts *o)
{
	return !*o->tcp.congestion || !strcmp(o->tcp.congestion, "auto");
}

void transfer_apply_mode(struct transfer_opts *o)
{
	const char *want = mode_ways[o->mode].congestion;

	if (!o->chunk)
		o->chunk = o->hde.mode ? HDE_CHUNK_DEFAULT : CHUNK_DEFAULT;
	if (!congestion_untold(o) || !strcmp(want, BE_CONGESTION_DEFAULT))
		return;
	if (transfer_congestion(want))
		snprintf(o->tcp.congestion, sizeof(o->tcp.congestion), "%s", want);
	else
		log_warn(
			"mode %s wants %s, which this kernel does not offer: using its default; `modprobe tcp_%s` loads "
			"it",
			mode_names[o->mode], want, want);
}

/* ---- plan and connection ----------------------------------------------------------------------- */

static int plan_workers(struct transfer *t, struct err *e)
{
	const struct transfer_opts *o = t->opts;
	int rc = transfer_cpus(o->affinity, &t->cpus, e);
	unsigned cpus = t->cpus.n ? t->cpus.n : transfer_cpu_count();

	if (rc < 0)
		return rc;
	t->streams = o->streams ? o->streams : TRANSFER_STREAMS;
	t->streams_most = o->streams || !t->flight ? t->streams : TRANSFER_STREAMS_AUTO;
	t->workers = o->workers ? o->workers : (unsigned)min_u64(cpus, AMST_WORKERS_MAX);
	if (t->workers > t->streams)
		t->workers = t->streams;
	/* Two workers on one CPU are better left to the scheduler. */
	if (!*o->affinity && t->workers > t->cpus.n)
		t->cpus.n = 0;
	for (unsigned i = 0; t->cpus.n && i < t->workers; i++)
		t->worker_cpus[i] = t->cpus.v[i % t->cpus.n];
	log_info("%s: %u streams, %u workers, %s", t->target, t->streams, t->workers,
		 t->cpus.n ? "pinned" : "not pinned");
	return 0;
}

static int plan_backend(struct transfer *t, const struct transfer_opts *o, const char *list, struct err *e)
{
	int rc = 0;

	if (o->hde.mode && o->chunk > HDE_CHUNK_MAX)
		rc = err_set(e, -EINVAL,
			     "--chunk-size: what is compressed goes in chunks of at most 1 MB; choose less");
	if (o->hde.mode && !(o->hde.cpu > 0))
		rc = err_set(e, -EINVAL, "--compress-cpu: %g leaves compression no time; choose more, at most 1",
			     o->hde.cpu);
	if (rc >= 0)
		rc = transfer_backend(list, &o->tcp, &o->rdma, &t->ways, &t->ops, &t->be_opts, e);
	t->opts = o;
	return rc;
}

int transfer_plan(struct transfer *t, const struct transfer_opts *o, const char *host, struct err *e)
{
	int rc = plan_backend(t, o, o->backend, e);

	if (rc < 0)
		return rc;
	snprintf(t->target, sizeof(t->target), "%s", host);
	t->n_peer = addr_resolve(host, DWCP_PORT, false, t->peer, (int)ARRAY_LEN(t->peer), e);
	return t->n_peer < 0 ? t->n_peer : plan_workers(t, e);
}

int transfer_plan_addr(struct transfer *t, const struct transfer_opts *o, const struct be_addr *peer, const char *name,
		       struct err *e)
{
	/* No RDMA device leads to ourselves. */
	const char *list = !*o->backend && addr_is_loopback(peer) ? "tcp" : o->backend;
	int rc = plan_backend(t, o, list, e);

	if (rc < 0)
		return rc;
	snprintf(t->target, sizeof(t->target), "%s", name);
	t->peer[0] = *peer;
	t->n_peer = 1;
	return plan_workers(t, e);
}

/* The decisions that the options leave to what is measured. */
static void fly(const struct transfer *t, struct client_config *cfg)
{
	const struct transfer_opts *o = t->opts;
	const struct tune_config search = {
		.streams_first = t->streams,
		.streams_most = t->streams_most,
		.chunk = { (uint32_t)o->chunk },
		.n_chunks = 1,
		.n_cc = 1,
		.probe_least_ns = 500 * NS_PER_MS,
		.probe_most_ns = 5 * NS_PER_S,
		.apart = 0.04,
		.live = true,
	};

	cfg->sizes_buffers = !o->tcp.send_buffer_size;
	if (!t->flight)
		return;
	if (t->streams_most > t->streams) {
		tune_begin(&t->flight->tune, &search);
		cfg->pilot = (struct pilot){ .ops = &tune_pilot, .ctx = &t->flight->tune };
	}
	if (o->mode == MODE_AUTO) {
		mode_init(&t->flight->mode, &mode_documented);
		cfg->mode = &t->flight->mode;
		cfg->mode_steers = congestion_untold(o) && !o->tcp.pacing_enabled;
	}
}

unsigned transfer_streams(const struct transfer *t)
{
	return t->streams_most > t->streams && t->flight->tune.at.streams ? t->flight->tune.at.streams : t->streams;
}

void transfer_client(const struct transfer *t, bool staged, struct client_config *cfg)
{
	*cfg = (struct client_config){
		.target = t->target,
		.addrs = t->peer,
		.n_addrs = t->n_peer,
		.ops = t->ops,
		.be_opts = t->be_opts,
		.streams = t->streams_most,
		.streams_first = t->streams,
		.workers = t->workers,
		.stage_chunk = staged ? (uint32_t)t->opts->chunk + (t->opts->hde.mode ? HDE_OVERHEAD : 0) : 0,
		.sched = (enum amst_sched)t->opts->sched,
		.sum = (enum sum_kind)t->opts->sum,
		.timeout_ns = t->opts->timeout_ns,
		.cpus = t->cpus.n ? t->worker_cpus : NULL,
		.clock = clock_mono,
		.interrupted = &cmd_signal,
	};
	/* Only spreads back-off: not a secret. */
	if (getrandom(&cfg->seed, sizeof(cfg->seed), 0) != sizeof(cfg->seed))
		cfg->seed = clock_now(&clock_mono);
	fly(t, cfg);
}

/* The streams' sockets, three descriptors for each worker, and a few: told here and not when the time-out has passed. */
static int files_suffice(const struct transfer *t, struct err *e)
{
	uint64_t need = t->streams + 3 * (uint64_t)t->workers + 8;
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur >= need)
		return 0;
	return err_set(e, -EMFILE,
		       "%u streams need %llu open files and this process may have %llu: raise the limit (ulimit -n) or "
		       "use fewer --streams",
		       t->streams, (unsigned long long)need, (unsigned long long)r.rlim_cur);
}

int transfer_connect(const struct transfer *t, bool staged, struct client **out, uint64_t *setup_ns, struct err *e)
{
	struct client_config cfg;
	int rc = files_suffice(t, e);

	if (rc < 0)
		return rc;
	transfer_client(t, staged, &cfg);
	return client_open(out, &cfg, setup_ns, e);
}

void transfer_raise_limits(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
		r.rlim_cur = r.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &r) < 0)
			log_info("cannot raise the limit of open files: %s", strerror(errno));
	}
}

int transfer_fail(const char *name, const struct err *e)
{
	if (e->code == -EINTR) {
		fprintf(stderr, "dwcp: %s: interrupted\n", name);
		return CMD_INTERRUPTED;
	}
	cmd_fail(name, e);
	return CMD_FAILED;
}

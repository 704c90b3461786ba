/* SPDX-License-Identifier: MIT */
/* The part of the verbs backend that every host has: its table, and the way to the shared object behind it. */
#include "transport/verbs.h"
#include "base/log.h"
#include "base/util.h"
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef DWCP_PLUGIN_DIR
#define DWCP_PLUGIN_DIR "/usr/local/lib/dwcp"
#endif

#define FIELD(f) offsetof(struct verbs_opts, f)

static const char *const mtu_names[] = { "auto", "256", "512", "1024", "2048", "4096", NULL };
static const char *const srq_names[] = { "auto", "on", "off", NULL };

static const struct opt options[] = {
	{ "rdma-device", "device", 0, OPT_STR, FIELD(device), "auto", 0, 64, true, NULL, NULL, "name",
	  "RDMA device to use, as `rdma link` shows it; auto: the one that the route takes" },
	{ "rdma-port", "port", 0, OPT_U32, FIELD(port), "auto", 1, 255, true, NULL, NULL, NULL,
	  "port of the RDMA device; auto: the one that the route takes" },
	{ "rdma-mtu", "mtu", 0, OPT_ENUM, FIELD(mtu), "auto", 0, 0, false, NULL, mtu_names, NULL,
	  "largest RDMA path MTU; the listening side's counts for both; auto: the port's" },
	{ "queue-depth", NULL, 0, OPT_U32, FIELD(queue_depth), "64", 4, 8192, false, NULL, NULL, NULL,
	  "work requests of a stream that the device may hold; less when the device cannot" },
	{ "completion-queue-size", NULL, 0, OPT_U32, FIELD(completion_queue_size), "auto", 64, 1 << 22, true, NULL,
	  NULL, NULL,
	  "entries of a worker's completion queue; auto: what its streams need. A smaller one lowers queue-depth; "
	  "it must hold every receive buffer (32 a stream) and some sends" },
	{ "send-inline-size", NULL, 0, OPT_SIZE, FIELD(send_inline_size), "256", 0, 4096, false, NULL, NULL, NULL,
	  "messages up to this size are copied into the work request; less when the device cannot" },
	{ "max-send-sge", NULL, 0, OPT_U32, FIELD(max_send_sge), "3", 1, 16, false, NULL, NULL, NULL,
	  "pieces of memory that a work request may name; with fewer than 3 messages are copied together first" },
	{ "max-recv-sge", NULL, 0, OPT_U32, FIELD(max_recv_sge), "1", 1, 16, false, NULL, NULL, NULL,
	  "pieces of memory of a receive; one is used" },
	{ "signal-interval", NULL, 0, OPT_U32, FIELD(signal_interval), "8", 1, 1024, false, NULL, NULL, NULL,
	  "at least every so many work requests, and the last of a chain, ask for a completion" },
	{ "chain-length", NULL, 0, OPT_U32, FIELD(chain), "16", 1, 64, false, NULL, NULL, NULL,
	  "work requests handed to the device at a time" },
	{ "shared-receive-queue", "srq", 0, OPT_ENUM, FIELD(srq), "auto", 0, 0, false, NULL, srq_names, NULL,
	  "one receive queue for all streams of a worker; auto: from 16 streams on" },
	{ "rdma-busy-poll", NULL, 0, OPT_TIME, FIELD(busy_poll), "0s", 0, NS_PER_S, false, NULL, NULL, NULL,
	  "time to spin before sleeping" },
	{ "rdma-connection-timeout", NULL, 0, OPT_TIME, FIELD(connection_timeout), "5s", NS_PER_MS, 3600 * NS_PER_S,
	  false, NULL, NULL, NULL, "longest wait for a connection and the peer's answer" },
	{ "rdma-idle-timeout", NULL, 0, OPT_TIME, FIELD(idle_timeout), "20s", NS_PER_MS, 24 * 3600 * NS_PER_S, false,
	  NULL, NULL, NULL, "longest wait for the peer to take what was sent; keep it below the transfer's timeout" },
	{ "rdma-keepalive-interval", NULL, 0, OPT_TIME, FIELD(keepalive_interval), "10s", 0, 9 * 3600 * NS_PER_S, false,
	  NULL, NULL, NULL, "silence after which the peer is probed; 0: never" },
	{ "ack-timeout", NULL, 0, OPT_TIME, FIELD(ack_timeout), "500ms", 4 * NS_PER_US, 8 * NS_PER_S, false, NULL, NULL,
	  NULL, "wait for the device's acknowledgement before it sends again; the device rounds it to 4.096 us x 2^n" },
	{ "retry-count", NULL, 0, OPT_U32, FIELD(retry_count), "7", 0, 7, false, NULL, NULL, NULL,
	  "times a device sends again without an acknowledgement before the stream is down" },
	{ "traffic-class", NULL, 0, OPT_U32, FIELD(traffic_class), "256", 0, 256, false, NULL, NULL, NULL,
	  "IP type of service or InfiniBand traffic class of new streams; 256: the system's" },
	{ "rdma-pending-max", NULL, 0, OPT_U32, FIELD(pending_max), "1024", 1, 65536, false, NULL, NULL, NULL,
	  "most incoming connections not yet accepted" },
};

/* --- the shared object --- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const struct verbs_plugin *plugin; /* written once, under the lock, before any instance exists */

/* The folder of this program, without the last '/'. */
static bool program_dir(char *buf, size_t cap)
{
	ssize_t n = readlink("/proc/self/exe", buf, cap - 1);
	char *slash;

	if (n <= 0)
		return false;
	buf[n] = 0;
	slash = strrchr(buf, '/');
	if (slash)
		*slash = 0;
	return slash != NULL;
}

static bool present(char *path, size_t cap, const char *dir, const char *below)
{
	int n = snprintf(path, cap, "%s%s/rdma.so", dir, below);

	return n > 0 && (size_t)n < cap && access(path, F_OK) == 0;
}

static bool find_plugin(char *path, size_t cap)
{
	static const char *const below[] = { "/plugins", "/../plugins", "/../lib/dwcp" };
	const char *asked = secure_getenv("DWCP_PLUGINS");
	char dir[3072];

	if (asked)
		return present(path, cap, asked, "");
	if (program_dir(dir, sizeof dir))
		for (size_t i = 0; i < ARRAY_LEN(below); i++)
			if (present(path, cap, dir, below[i]))
				return true;
	return present(path, cap, DWCP_PLUGIN_DIR, "");
}

static int refused(const char *path, struct err *e)
{
	const char *why = dlerror();

	if (why && (strstr(why, "libibverbs") || strstr(why, "librdmacm")))
		return err_set(e, -ENOPKG,
			       "rdma-core is not installed (%.120s): on Debian `apt-get install librdmacm1 "
			       "ibverbs-providers`",
			       why);
	return err_set(e, -ELIBBAD, "%.100s cannot be loaded: %.120s", path, why ? why : "it is not of this dwcp");
}

static void warn(const char *text)
{
	log_warn("%s", text);
}

static int load_locked(struct err *e)
{
	static const uint32_t sizes[] = VERBS_PLUGIN_SIZES;
	const struct verbs_plugin *p;
	char path[4096];
	void *so;

	if (plugin)
		return 0;
	if (!find_plugin(path, sizeof path))
		return err_set(e, -ENOENT,
			       "rdma.so is not there: build dwcp where librdmacm-dev and libibverbs-dev are installed, "
			       "or name its folder in DWCP_PLUGINS");
	so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!so)
		return refused(path, e);
	p = dlsym(so, VERBS_PLUGIN_SYMBOL);
	if (!p || p->abi != VERBS_PLUGIN_ABI || memcmp(p->sizes, sizes, sizeof sizes) != 0) {
		dlclose(so);
		return err_set(e, -ELIBBAD, "%.200s is of another dwcp: install both from one build", path);
	}
	p->attach(&verbs_ops, warn);
	plugin = p;
	return 0;
}

/* It stays loaded: librdmacm keeps its devices open for the life of a process. */
static int load(struct err *e)
{
	int rc;

	pthread_mutex_lock(&lock);
	rc = load_locked(e);
	pthread_mutex_unlock(&lock);
	return rc;
}

/* --- hooks: those that come first load it, the others have an instance of it --- */

static int verbs_probe(struct err *e)
{
	int rc = load(e);

	return rc < 0 ? rc : plugin->hooks->probe(e);
}

static int verbs_open(const struct be_open *o, struct be **out, struct err *e)
{
	struct verbs_opts defaults;
	struct be_open mine = *o;
	int rc = load(e);

	if (rc < 0)
		return rc;
	if (!o->opts) {
		opt_defaults(&(struct opt_group){ .rows = options, .n = ARRAY_LEN(options), .base = &defaults }, 1);
		mine.opts = &defaults;
	}
	return plugin->hooks->open(&mine, out, e);
}

static void verbs_close(struct be *be)
{
	plugin->hooks->close(be);
}

static int verbs_listen(struct be *be, const struct be_addr *at, struct be_addr *bound, struct err *e)
{
	return plugin->hooks->listen(be, at, bound, e);
}

static int verbs_connect(struct be *be, const struct be_addr *to, const void *pre, uint32_t domain, uint64_t cookie,
			 be_stream *out, struct err *e)
{
	return plugin->hooks->connect(be, to, pre, domain, cookie, out, e);
}

static int verbs_accept(struct be *be, struct be_request *r, const void *reply, uint32_t domain, uint64_t cookie,
			be_stream *out)
{
	return plugin->hooks->accept(be, r, reply, domain, cookie, out);
}

static void verbs_reject(struct be *be, struct be_request *r, const void *reply)
{
	plugin->hooks->reject(be, r, reply);
}

static void verbs_stream_close(struct be *be, be_stream s, bool graceful)
{
	plugin->hooks->stream_close(be, s, graceful);
}

static int verbs_region_add(struct be *be, uint32_t domain, uint32_t id, void *addr, uint64_t len, struct be_token *out,
			    struct err *e)
{
	return plugin->hooks->region_add(be, domain, id, addr, len, out, e);
}

static int verbs_region_drop(struct be *be, uint32_t domain, uint32_t id)
{
	return plugin->hooks->region_drop(be, domain, id);
}

static int verbs_source_add(struct be *be, const void *addr, uint64_t len, struct err *e)
{
	return plugin->hooks->source_add(be, addr, len, e);
}

static void verbs_source_drop(struct be *be, const void *addr)
{
	plugin->hooks->source_drop(be, addr);
}

static int verbs_send(struct be *be, be_stream s, const struct be_msg *v, int n)
{
	return plugin->hooks->send(be, s, v, n);
}

static int verbs_put(struct be *be, be_stream s, const struct be_put *v, int n)
{
	return plugin->hooks->put(be, s, v, n);
}

static int verbs_poll(struct be *be, struct be_event *ev, int max)
{
	return plugin->hooks->poll(be, ev, max);
}

static void verbs_release(struct be *be, uint32_t frame)
{
	plugin->hooks->release(be, frame);
}

static void verbs_wait(struct be *be, uint64_t timeout_ns)
{
	plugin->hooks->wait(be, timeout_ns);
}

static int verbs_wait_fd(struct be *be, uint64_t *timeout_ns)
{
	return plugin->hooks->wait_fd(be, timeout_ns);
}

static void verbs_wake(struct be *be)
{
	plugin->hooks->wake(be);
}

static int verbs_info(struct be *be, be_stream s, struct be_info *out)
{
	return plugin->hooks->info(be, s, out);
}

const struct be_ops verbs_ops = {
	.name = "rdma",
	.alias = "verbs",
	.help = "RDMA over verbs: InfiniBand, RoCE",
	.caps = {
		.one_sided = true,
		.zero_copy = true,
		.frame_max = 16u << 20,
		.put_max = 1u << 30,
		.align = CACHE_LINE,
		.streams_max = 4096,
	},
	.opts = options,
	.n_opts = ARRAY_LEN(options),
	.opts_size = sizeof(struct verbs_opts),
	.probe = verbs_probe,
	.open = verbs_open,
	.close = verbs_close,
	.listen = verbs_listen,
	.connect = verbs_connect,
	.accept = verbs_accept,
	.reject = verbs_reject,
	.stream_close = verbs_stream_close,
	.region_add = verbs_region_add,
	.region_drop = verbs_region_drop,
	.source_add = verbs_source_add,
	.source_drop = verbs_source_drop,
	.send = verbs_send,
	.put = verbs_put,
	.poll = verbs_poll,
	.release = verbs_release,
	.wait = verbs_wait,
	.wait_fd = verbs_wait_fd,
	.wake = verbs_wake,
	.info = verbs_info,
};

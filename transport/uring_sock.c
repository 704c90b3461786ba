/* SPDX-License-Identifier: MIT */
/* Sockets: options, congestion control, path facts. */
#include "base/log.h"
#include "base/util.h"
#include "transport/uring_impl.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define STATE_CLOSE 7 /* TCP_CLOSE of netinet/tcp.h, which does not go with linux/tcp.h */
#define AVAILABLE "/proc/sys/net/ipv4/tcp_available_congestion_control"

static int set_int(int fd, int level, int name, int v)
{
	return setsockopt(fd, level, name, &v, sizeof v);
}

static bool cc_auto(const struct uring_opts *o)
{
	return !o->congestion[0] || !strcmp(o->congestion, "auto");
}

static int cc_set(int fd, const char *name)
{
	return setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) < 0 ? -errno : 0;
}

static void cc_list(char *buf, size_t cap)
{
	int fd = open(AVAILABLE, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, cap - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = 0;
	buf[strcspn(buf, "\n")] = 0;
}

int sock_check(const struct uring_opts *o, struct err *e)
{
	char list[128];
	int fd, r;

	if (cc_auto(o))
		return 0;
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set(e, -errno, "socket: %s", strerror(errno));
	r = cc_set(fd, o->congestion);
	close(fd);
	if (r == 0)
		return 0;
	cc_list(list, sizeof list);
	if (r == -EPERM)
		return err_set(e, r,
			       "congestion control \"%s\" needs CAP_NET_ADMIN here; add it to sysctl "
			       "net.ipv4.tcp_allowed_congestion_control or choose another (available: %s)",
			       o->congestion, list);
	return err_set(e, r == -ENOENT ? -EINVAL : r,
		       "congestion control \"%s\" is not available; choose one of: %s (or modprobe tcp_%s)",
		       o->congestion, list, o->congestion);
}

static bool same_host_address(const struct be_addr *a, const struct be_addr *b)
{
	if (a->sa.sa_family != b->sa.sa_family)
		return false;
	if (a->sa.sa_family == AF_INET6)
		return !memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, sizeof a->in6.sin6_addr);
	return a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
}

/* The other end is on this host: the way leads over the loopback device, whatever the address is. */
bool sock_is_local(int fd, const struct be_addr *peer)
{
	struct be_addr local = { .len = sizeof local.ss };

	if (addr_is_loopback(peer))
		return true;
	return getsockname(fd, &local.sa, &local.len) == 0 && same_host_address(&local, peer);
}

#define BUFFER_MOST (INT32_MAX / 2) /* the kernel doubles it */

static int set_buffer(int fd, int forced, int plain, uint64_t bytes)
{
	int v = (int)min_u64(bytes, BUFFER_MOST);

	return set_int(fd, SOL_SOCKET, forced, v) < 0 ? set_int(fd, SOL_SOCKET, plain, v) : 0;
}

/* Would a socket get so large a buffer? The sysctl itself cannot be read in every container. */
static bool buffer_fits(int forced, int plain, uint64_t bytes)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), v = INT32_MAX;
	socklen_t len = sizeof v;

	if (fd < 0)
		return true;
	if (set_buffer(fd, forced, plain, bytes) < 0 || getsockopt(fd, SOL_SOCKET, plain, &v, &len) < 0)
		v = INT32_MAX;
	close(fd);
	return (uint64_t)v >= 2 * min_u64(bytes, BUFFER_MOST);
}

/* A size that the kernel would cut down also ends its own tuning, which often goes further than the cut size. */
static void limit_buffer(uint64_t *bytes, int forced, int plain, const char *option, const char *sysctl,
			 atomic_flag *warned)
{
	if (!*bytes || buffer_fits(forced, plain, *bytes))
		return;
	if (!atomic_flag_test_and_set(warned))
		log_warn(
			"tcp: %s of %llu bytes is over sysctl %s and needs CAP_NET_ADMIN: left to the kernel's tuning; "
			"raise the sysctl to get it",
			option, (unsigned long long)*bytes, sysctl);
	*bytes = 0;
}

void sock_limit_buffers(struct uring_opts *o)
{
	static atomic_flag sending = ATOMIC_FLAG_INIT, receiving = ATOMIC_FLAG_INIT;

	limit_buffer(&o->send_buffer_size, SO_SNDBUFFORCE, SO_SNDBUF, "send-buffer-size", "net.core.wmem_max",
		     &sending);
	limit_buffer(&o->recv_buffer_size, SO_RCVBUFFORCE, SO_RCVBUF, "recv-buffer-size", "net.core.rmem_max",
		     &receiving);
}

/* Before connect or listen, so that the window scale fits. Auto: the kernel's own tuning. */
static void set_buffers(const struct uring_opts *o, int fd)
{
	if (o->send_buffer_size)
		set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, o->send_buffer_size);
	if (o->recv_buffer_size)
		set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, o->recv_buffer_size);
}

static void tune_keepalive(const struct uring_opts *o, int fd)
{
	int idle = (int)min_u64(div_up_u64(o->keepalive_interval, NS_PER_S), 32767);

	if (!idle)
		return;
	set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle);
	set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, (int)max_u64(1, (uint64_t)idle / 4));
	set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
}

/* Options that improve and do not decide: a kernel that refuses one still carries the stream. */
void sock_tune(const struct uring_opts *o, int fd)
{
	if (o->nodelay)
		set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (!cc_auto(o))
		cc_set(fd, o->congestion);
	if (o->pacing_enabled) {
		uint64_t rate = o->pacing_rate / 8;

		setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate);
	}
	tune_keepalive(o, fd);
	if (o->idle_timeout)
		set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT,
			(int)min_u64(div_up_u64(o->idle_timeout, NS_PER_MS), INT32_MAX));
}

void sock_tune_path(const struct uring_opts *o, int fd, bool local)
{
	if (local && cc_auto(o))
		cc_set(fd, "cubic");
}

/* The route to an address of this host begins at that address: asked of a datagram socket, which sends nothing. */
static bool leads_home(const struct be_addr *to)
{
	struct be_addr none = { .sa.sa_family = to->sa.sa_family };
	bool home;
	int fd;

	if (addr_is_loopback(to))
		return true;
	if (same_host_address(to, &none))
		return false;
	fd = socket(to->sa.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	home = connect(fd, &to->sa, to->len) == 0 && sock_is_local(fd, to);
	close(fd);
	return home;
}

/*
 * Congestion control is chosen before the connection is, and a listener's connections begin with its choice: a socket
 * that was BBR's for one packet is paced by a timer for the rest of its life, whatever it is given later.
 */
int sock_new(const struct uring_opts *o, const struct be_addr *at, struct err *e)
{
	int fd = socket(at->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE)
			return err_set(e, -errno, "socket: %s; raise RLIMIT_NOFILE (ulimit -n)", strerror(errno));
		return err_set(e, -errno, "socket: %s", strerror(errno));
	}
	set_buffers(o, fd);
	if (!cc_auto(o))
		cc_set(fd, o->congestion);
	else if (leads_home(at))
		cc_set(fd, "cubic");
	return fd;
}

/* Throws away what is queued in both directions and tells the peer with RST. */
void sock_reset(int fd)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };

	if (connect(fd, &none, sizeof none) < 0)
		shutdown(fd, SHUT_RDWR);
}

int sock_ended(int fd)
{
	struct tcp_info t = { 0 };
	socklen_t len = sizeof t;

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &t, &len) < 0 || t.tcpi_state != STATE_CLOSE)
		return 0;
	return t.tcpi_probes || t.tcpi_retransmits ? -ETIMEDOUT : -ECONNRESET;
}

static void info_tcp(int fd, struct be_info *out)
{
	struct tcp_info t = { 0 };
	socklen_t len = sizeof t;

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &t, &len) < 0)
		return;
	out->rtt_ns = t.tcpi_rtt * NS_PER_US;
	out->rtt_least_ns = t.tcpi_min_rtt == UINT32_MAX ? 0 : t.tcpi_min_rtt * NS_PER_US;
	out->rttvar_ns = t.tcpi_rttvar * NS_PER_US;
	out->segments = t.tcpi_data_segs_out;
	out->retransmits = t.tcpi_total_retrans;
	out->spurious = t.tcpi_dsack_dups;
	out->delivery_rate = t.tcpi_delivery_rate;
	out->rate_is_ours = t.tcpi_delivery_rate_app_limited;
	out->cwnd_bytes = (uint32_t)min_u64((uint64_t)t.tcpi_snd_cwnd * t.tcpi_snd_mss, UINT32_MAX);
}

uint64_t sock_round_trip(int fd)
{
	struct be_info info = { .rtt_ns = 0 };

	info_tcp(fd, &info);
	return info.rtt_least_ns;
}

int uring_info(struct be *be, be_stream name, struct be_info *out)
{
	struct uring *u = uring_of(be);
	struct be_info info = { 0 };
	struct u_stream *s;
	socklen_t len = sizeof info.congestion;
	int r = stream_find(u, name, &s);

	if (r < 0)
		return r;
	info_tcp(s->fd, &info);
	info.bytes_sent = s->bytes_sent;
	info.bytes_received = s->bytes_received;
	info.peer = s->peer;
	info.local.len = sizeof info.local.ss;
	if (getsockname(s->fd, &info.local.sa, &info.local.len) < 0)
		info.local.len = 0;
	if (getsockopt(s->fd, IPPROTO_TCP, TCP_CONGESTION, info.congestion, &len) < 0)
		info.congestion[0] = 0;
	info.congestion[sizeof info.congestion - 1] = 0;
	*out = info;
	return 0;
}

/* As a new connection would have it. */
static int cc_reset(const struct uring_opts *o, const struct u_stream *s)
{
	char name[16] = "";
	socklen_t len = sizeof name - 1;
	int fd = -1;

	if (!cc_auto(o))
		return cc_set(s->fd, o->congestion);
	if (sock_is_local(s->fd, &s->peer))
		return cc_set(s->fd, "cubic");
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len) < 0)
		name[0] = 0;
	if (fd >= 0)
		close(fd);
	return name[0] ? cc_set(s->fd, name) : -ENOENT;
}

int uring_steer(struct be *be, be_stream name, const struct be_steer *how)
{
	struct uring *u = uring_of(be);
	struct u_stream *s;
	int r = stream_find(u, name, &s);

	if (r < 0)
		return r;
	if (how->pacing_rate &&
	    setsockopt(s->fd, SOL_SOCKET, SO_MAX_PACING_RATE, &how->pacing_rate, sizeof how->pacing_rate) < 0)
		r = -errno;
	/* A size that the kernel would cut down is worse than its own tuning. */
	if (how->send_buffer && buffer_fits(SO_SNDBUFFORCE, SO_SNDBUF, how->send_buffer) &&
	    set_buffer(s->fd, SO_SNDBUFFORCE, SO_SNDBUF, how->send_buffer) < 0)
		r = -errno;
	if (how->congestion[0]) {
		bool usual = !strcmp(how->congestion, BE_CONGESTION_DEFAULT);
		int rc = usual ? cc_reset(&u->opts, s) : cc_set(s->fd, how->congestion);

		r = rc < 0 ? rc : r;
	}
	return r;
}

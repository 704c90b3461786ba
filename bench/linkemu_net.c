/* SPDX-License-Identifier: MIT */
#include "bench/linkemu_net.h"
#include "base/util.h"
#include "bench/linkemu_frame.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/ipv6.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEVICE_QUEUE 10000 /* frames between a host's stack and us, who read them at once if we are let */
#define END_WAIT_MS 2000
#define END_ASK_MS 500
#define END_STEP_MS 20

/* ---- devices ----------------------------------------------------------------------------------- */

static int new_namespace(struct err *e)
{
	int code;

	if (unshare(CLONE_NEWNET) == 0)
		return 0;
	code = -errno;
	switch (code) {
	case -EPERM:
		return err_set(
			e, code,
			"making a network namespace is not allowed here (CAP_SYS_ADMIN is missing): run as root, or "
			"everything below `unshare --user --map-root-user`; without namespaces, measure over a real "
			"link with --peer");
	case -ENOSPC:
		return err_set(e, code, "there are too many network namespaces: raise user.max_net_namespaces");
	case -EINVAL:
	case -ENOSYS:
		return err_set(
			e, code,
			"this kernel has no network namespaces (CONFIG_NET_NS): measure over a real link with --peer");
	default:
		return err_set(e, code, "cannot make a network namespace: %s; measure over a real link with --peer",
			       strerror(-code));
	}
}

static int open_tun(struct link_end *end, const struct link_common_opts *o, struct err *e)
{
	struct ifreq r = { .ifr_name = LINK_DEVICE, .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR };
	unsigned offload = o->offload ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 : 0;
	int vnet = FRAME_VNET;

	end->tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (end->tun < 0)
		return err_set(
			e, -errno,
			"cannot open /dev/net/tun: %s; the link's devices need it: `modprobe tun', or give this container "
			"the device; without it, measure over a real link with --peer",
			strerror(errno));
	if (ioctl(end->tun, TUNSETIFF, &r) < 0 || ioctl(end->tun, TUNSETVNETHDRSZ, &vnet) < 0 ||
	    ioctl(end->tun, TUNSETOFFLOAD, offload) < 0)
		return err_set(e, -errno, "cannot make the device of a link: %s; CAP_NET_ADMIN is needed: run as root",
			       strerror(errno));
	return 0;
}

/* Nothing but what the hosts' programs send shall cross the link. */
static void quiet_ipv6(void)
{
	static const char *const zero[] = { "accept_ra", "router_solicitations", "accept_dad" };
	char path[128];

	for (size_t i = 0; i <= ARRAY_LEN(zero); i++) {
		snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/%s", LINK_DEVICE,
			 i < ARRAY_LEN(zero) ? zero[i] : "addr_gen_mode");
		int fd = open(path, O_WRONLY | O_CLOEXEC);

		if (fd < 0)
			return; /* a kernel without IPv6 */
		if (write(fd, i < ARRAY_LEN(zero) ? "0" : "1", 1) < 0) {
			close(fd);
			return;
		}
		close(fd);
	}
}

static int bring_up(int s, const char *name)
{
	struct ifreq r = { .ifr_flags = 0 };

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	if (ioctl(s, SIOCGIFFLAGS, &r) < 0)
		return -errno;
	r.ifr_flags |= IFF_UP | IFF_RUNNING;
	return ioctl(s, SIOCSIFFLAGS, &r) < 0 ? -errno : 0;
}

static int set_ipv4(int s, enum link_side side)
{
	struct ifreq r = { .ifr_name = LINK_DEVICE };
	struct sockaddr_in *in = (struct sockaddr_in *)(void *)&r.ifr_addr;
	char text[32];

	snprintf(text, sizeof(text), LINK_IPV4 "%d", side == LINK_A ? 1 : 2);
	in->sin_family = AF_INET;
	inet_pton(AF_INET, text, &in->sin_addr);
	if (ioctl(s, SIOCSIFADDR, &r) < 0)
		return -errno;
	inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
	return ioctl(s, SIOCSIFNETMASK, &r) < 0 ? -errno : 0;
}

/* A kernel without IPv6 does without. */
static int set_ipv6(enum link_side side)
{
	struct in6_ifreq r = { .ifr6_prefixlen = 64 };
	int s = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), rc;
	char text[64];

	if (s < 0)
		return 0;
	snprintf(text, sizeof(text), LINK_IPV6 "%d", side == LINK_A ? 1 : 2);
	inet_pton(AF_INET6, text, &r.ifr6_addr);
	r.ifr6_ifindex = (int)if_nametoindex(LINK_DEVICE);
	rc = ioctl(s, SIOCSIFADDR, &r) < 0 && errno != EACCES && errno != EOPNOTSUPP ? -errno : 0;
	close(s);
	return rc;
}

int link_end_mtu(const struct link_end *end, uint32_t mtu, struct err *e)
{
	struct ifreq r = { .ifr_name = LINK_DEVICE, .ifr_mtu = (int)mtu };

	if (ioctl(end->sock, SIOCSIFMTU, &r) < 0)
		return err_set(e, -errno, "cannot set an MTU of %u: %s", mtu, strerror(errno));
	return 0;
}

static int configure(struct link_end *end, enum link_side side, const struct link_common_opts *o, struct err *e)
{
	struct ifreq queue = { .ifr_name = LINK_DEVICE, .ifr_qlen = DEVICE_QUEUE };
	int s = end->sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), rc;

	if (s < 0)
		return err_set(e, -errno, "no socket in the namespace: %s", strerror(errno));
	rc = link_end_mtu(end, o->mtu, e);
	if (rc < 0)
		return rc;
	quiet_ipv6();
	rc = ioctl(s, SIOCSIFTXQLEN, &queue) < 0 ? -errno : bring_up(s, "lo");
	if (rc >= 0)
		rc = set_ipv4(s, side);
	if (rc >= 0)
		rc = bring_up(s, LINK_DEVICE);
	if (rc >= 0)
		rc = set_ipv6(side);
	return rc < 0 ? err_set(e, rc, "cannot set up the device of a link: %s", strerror(-rc)) : 0;
}

int link_end_open(struct link_end *end, enum link_side side, const struct link_common_opts *o, struct err *e)
{
	int rc;

	*end = (struct link_end){ .ns = -1, .tun = -1, .dev = -1, .sock = -1 };
	rc = new_namespace(e);
	if (rc >= 0) {
		end->ns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
		end->dev = open("/proc/thread-self/net/dev", O_RDONLY | O_CLOEXEC);
		if (end->ns < 0 || end->dev < 0)
			rc = err_set(e, -errno, "cannot open the namespace just made: %s; is /proc mounted?",
				     strerror(errno));
	}
	if (rc >= 0)
		rc = open_tun(end, o, e);
	if (rc >= 0)
		rc = configure(end, side, o, e);
	if (rc < 0)
		link_end_close(end);
	return rc;
}

void link_end_close(struct link_end *end)
{
	const int fds[] = { end->tun, end->dev, end->sock, end->ns };

	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		if (fds[i] > 0)
			close(fds[i]);
	*end = (struct link_end){ .ns = -1, .tun = -1, .dev = -1, .sock = -1 };
}

uint64_t link_end_dropped(const struct link_end *end)
{
	char text[4096];
	ssize_t n = pread(end->dev, text, sizeof(text) - 1, 0);
	unsigned long long dropped = 0;
	const char *line;

	text[n > 0 ? n : 0] = 0;
	line = strstr(text, LINK_DEVICE ":");
	/* received: bytes packets errs drop fifo frame compressed multicast; sent: bytes packets errs drop */
	if (line)
		sscanf(line + strlen(LINK_DEVICE ":"), "%*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %llu", &dropped);
	return dropped;
}

/* ---- processes --------------------------------------------------------------------------------- */

/* True when this process is in one of the namespaces. */
static bool is_inside(int proc, const char *pid, const struct stat ns[2])
{
	struct stat at;
	char path[64];

	snprintf(path, sizeof(path), "%.20s/ns/net", pid);
	if (fstatat(proc, path, &at, 0) < 0)
		return false;
	return (at.st_ino == ns[0].st_ino && at.st_dev == ns[0].st_dev) ||
	       (at.st_ino == ns[1].st_ino && at.st_dev == ns[1].st_dev);
}

static unsigned signal_all(const struct stat ns[2], int sig)
{
	DIR *d = opendir("/proc");
	struct dirent *entry;
	unsigned n = 0;

	while (d && (entry = readdir(d))) {
		pid_t pid = (pid_t)atoi(entry->d_name);
		int fd;

		if (pid <= 0 || pid == getpid())
			continue;
		/* held first, looked at then: the number cannot become another process's in between */
		fd = pidfd_open(pid, 0);
		if (fd < 0)
			continue;
		if (is_inside(dirfd(d), entry->d_name, ns)) {
			n++;
			pidfd_send_signal(fd, sig, NULL, 0);
		}
		close(fd);
	}
	if (d)
		closedir(d);
	return n;
}

unsigned link_end_processes(const int fds[2])
{
	struct stat ns[2];
	unsigned first;

	if (fstat(fds[0], &ns[0]) < 0 || fstat(fds[1], &ns[1]) < 0)
		return 0;
	first = signal_all(ns, SIGTERM);
	for (int waited = 0; waited < END_WAIT_MS; waited += END_STEP_MS) {
		if (!signal_all(ns, waited < END_ASK_MS ? 0 : SIGKILL))
			break;
		poll(NULL, 0, END_STEP_MS);
	}
	return first;
}

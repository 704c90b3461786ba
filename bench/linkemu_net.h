/* SPDX-License-Identifier: MIT */
/* One end of an emulated link: a network namespace with a TUN device in it. */
#ifndef DWCP_BENCH_LINKEMU_NET_H
#define DWCP_BENCH_LINKEMU_NET_H

#include "bench/linkemu_opt.h"
#include <stdbool.h>

#define LINK_DEVICE "dwcp0"
/* A is .1 and ::1, B is .2 and ::2: of RFC 2544's addresses for benchmarks, and a unique local prefix (RFC 4193). Every
 * link has the same: they are apart. */
#define LINK_IPV4 "198.18.0."
#define LINK_IPV6 "fd64:7763:70::"

struct link_end {
	int ns;   /* the namespace: it ends with its last descriptor and process */
	int tun;  /* non-blocking, every read begins with a struct virtio_net_hdr */
	int dev;  /* its /proc/net/dev */
	int sock; /* of that namespace, for requests */
};

/* Makes a namespace and moves the calling thread into it. -EPERM and so on say what is missing. */
int link_end_open(struct link_end *end, enum link_side side, const struct link_common_opts *o, struct err *e);
void link_end_close(struct link_end *end); /* a zeroed one is not open */
/* Changes the MTU while traffic runs. */
int link_end_mtu(const struct link_end *end, uint32_t mtu, struct err *e);
/* Packets that the device dropped because nobody read them in time. */
uint64_t link_end_dropped(const struct link_end *end);

/* Ends every process that is in one of the namespaces, asking first; returns how many there were. */
unsigned link_end_processes(const int fds[2]);

#endif

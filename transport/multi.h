/* SPDX-License-Identifier: MIT */
/*
 * Several backends as one, in order of preference: `--backend=auto`, or a list. Not a row of backends[].
 *
 * An instance has one of each of them (those that open). It listens on all, on one address and port; it connects over
 * the first, and over the next when that cannot reach the peer. A way over which a connection failed, or on which a
 * stream died of the device or the path, is left for MULTI_RETRY and then tried again: so a session whose RDMA device
 * is lost comes back over TCP, by the same reconnecting and resuming that any lost stream takes, and its later
 * connections return to RDMA.
 *
 * A region is registered with every way; its token's key is that of the first, under which the others are told to know
 * it (be_ops.region_key). Where some ways see puts arrive and others do not, BE_PLACED comes for those that do:
 * caps.sees_puts and caps.one_sided are both set, and a message without BE_PLACED before it came over a way of the
 * second kind.
 */
#ifndef DWCP_TRANSPORT_MULTI_H
#define DWCP_TRANSPORT_MULTI_H

#include "transport/backend.h"

#define MULTI_WAYS 2
#define MULTI_RETRY (10 * NS_PER_S)

struct multi_way {
	const struct be_ops *ops;
	const void *opts; /* its option struct, or NULL */
};

struct multi_opts {
	unsigned n;
	struct multi_way way[MULTI_WAYS];
};

/* be_open.opts must be a struct multi_opts that outlives the instance. */
extern const struct be_ops multi_ops;

#endif

/* SPDX-License-Identifier: MIT */
/*
 * RDMA over verbs (InfiniBand, RoCE, soft-RoCE): one RC queue pair per stream, set up by the RDMA connection manager.
 * Wire: transport/verbs_wire.h. What needs rdma-core (verbs_*.c) is a shared object, plugins/rdma.so, that is opened
 * when it is asked for: this file's user runs on hosts without it. It is looked for beside the program
 * (PROGRAM/plugins, PROGRAM/../plugins), in PROGRAM/../lib/dwcp and where it was installed to; DWCP_PLUGINS=DIR in
 * the environment goes first, except in a program with raised privileges.
 *
 * put is an RDMA WRITE, send one or more SENDs with credits: a peer is never sent more than it has posted. DONE is
 * the peer's hardware's acknowledgement. The order that the contract asks for is what the InfiniBand specification
 * promises of one RC queue pair: a SEND's receive completion comes after the WRITEs before it are placed.
 *
 * What a peer may reach: every domain (a session) has a protection domain of its own, in which its queue pairs, its
 * regions and nothing else of other sessions are. So a key that leaks, or is guessed, is worth nothing on another
 * session's connection, and dies when its region is dropped; the same is so for all streams of a session, which memory
 * windows (bound to one queue pair each) would not give without a key per stream. Memory is registered once, however
 * many instances of the process offer it; the key dies when the last of them drops it.
 *
 * An instance is on one device: the one named by `device`, or the first that a connection of it, or before that of
 * this process, went over. Connections over another device are refused. Memory that was not announced with
 * source_add is copied into registered buffers on its way; it is counted as copied. Bytes are counted as zero-copy
 * when the device acknowledged a WRITE or SEND from registered memory; what soft-RoCE copies inside the kernel, as a
 * device that is software, is not seen here.
 *
 * Bounds: a stream whose operations make no progress for idle_timeout goes DOWN with -ETIMEDOUT, and so does a
 * silent one whose peer does not acknowledge a keep-alive. A port that goes down takes its streams DOWN with
 * -ENETDOWN, a device that is removed with -ENODEV. Queue pairs and protection domains are made in poll and accept.
 */
#ifndef DWCP_TRANSPORT_VERBS_H
#define DWCP_TRANSPORT_VERBS_H

#include "transport/backend.h"

enum verbs_srq { VERBS_SRQ_AUTO, VERBS_SRQ_ON, VERBS_SRQ_OFF };

struct verbs_opts {
	char device[64];                /* "" any */
	uint32_t port;                  /* 0 any */
	int mtu;                        /* index into the option's names; 0: the port's */
	uint32_t queue_depth;           /* work requests of a stream's send queue */
	uint32_t completion_queue_size; /* 0: what all queues together need */
	uint64_t send_inline_size;
	uint32_t max_send_sge, max_recv_sge;
	uint32_t signal_interval; /* at least every so many work requests ask for a completion */
	uint32_t chain;           /* work requests per doorbell, at most */
	int srq;                  /* enum verbs_srq */
	uint64_t busy_poll;       /* ns */
	uint64_t connection_timeout, idle_timeout, keepalive_interval, ack_timeout; /* ns */
	uint32_t retry_count;
	uint32_t traffic_class; /* 256: the system's */
	uint32_t pending_max;
};

extern const struct be_ops verbs_ops;

/* What plugins/rdma.so exports under this name, and nothing else. */
#define VERBS_PLUGIN_SYMBOL "dwcp_verbs_plugin"
#define VERBS_PLUGIN_ABI 2

struct verbs_plugin {
	uint32_t abi;
	uint32_t sizes[4];          /* of be_ops, be_event, be_open, verbs_opts: the same headers on both sides */
	const struct be_ops *hooks; /* only the hooks are set */
	/* as: the table that instances name as theirs; warn: where a line for the log goes */
	void (*attach)(const struct be_ops *as, void (*warn)(const char *text));
};

#define VERBS_PLUGIN_SIZES                                                                                        \
	{                                                                                                         \
		sizeof(struct be_ops), sizeof(struct be_event), sizeof(struct be_open), sizeof(struct verbs_opts) \
	}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * TCP over io_uring. Wire format: transport/tcp_frame.h. Needs Linux 5.11; uses what
 * later kernels add where they have it (ring_mode).
 *
 * open may run in another thread than the rest: the first poll, wait or full queue binds
 * the instance to its thread. close belongs to that thread, or to any once that one has ended.
 *
 * A stream that is closed `graceful` sends what was accepted, then FIN, then waits for the peer's
 * FIN; idle_timeout (connection_timeout when that is off) bounds it. Otherwise the connection is reset.
 *
 * idle_timeout is TCP_USER_TIMEOUT: a stream whose bytes are not acknowledged for so long goes DOWN with -ETIMEDOUT,
 * and so does one whose peer acknowledges window probes and takes nothing, as a receiver does that is stuck in a disk
 * write (Linux counts both alike). The default is shorter than that of a transfer's time-out, so that a dead path
 * costs its streams, which are connected again, and not the transfer. For a slow receiver raise both.
 */
#ifndef DWCP_TRANSPORT_URING_H
#define DWCP_TRANSPORT_URING_H

#include "transport/backend.h"

enum uring_zerocopy { URING_ZC_AUTO, URING_ZC_ON, URING_ZC_OFF };
enum uring_mode { URING_MODE_AUTO, URING_MODE_BASIC };

struct uring_opts {
	char congestion[16]; /* "auto": cubic between addresses of this host, else the system's default */
	bool pacing_enabled;
	uint64_t pacing_rate;        /* bits per second and stream */
	uint64_t send_buffer_size;   /* bytes; 0 auto. Over net.core.wmem_max and without CAP_NET_ADMIN: auto */
	uint64_t recv_buffer_size;   /* the same, net.core.rmem_max */
	uint64_t keepalive_interval; /* ns; 0 off */
	uint64_t connection_timeout; /* ns; connect and the peer's answer together */
	uint64_t idle_timeout;       /* ns; 0: the kernel's, and a stuck peer is waited for without end */
	bool nodelay;
	int zerocopy;                /* enum uring_zerocopy */
	uint64_t zerocopy_threshold; /* bytes */
	uint64_t recv_max;           /* bytes of payload per receive */
	int ring_mode;               /* enum uring_mode */
	uint32_t ring_entries;
	uint64_t busy_poll;        /* ns that wait spins before it sleeps */
	uint32_t pending_max;      /* connections whose preamble or acceptance is outstanding */
	uint64_t preamble_timeout; /* ns */
};

extern const struct be_ops uring_ops;

#endif

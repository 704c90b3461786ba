/* SPDX-License-Identifier: MIT */
/*
 * The options that every transfer takes, and what becomes of them once the peer
 * is known: which backend, how many streams and workers, on which CPUs.
 */
#ifndef DWCP_CLI_TRANSFER_H
#define DWCP_CLI_TRANSFER_H

#include "base/opt.h"
#include "compress/filter.h"
#include "transport/client.h"
#include "transport/multi.h"
#include "transport/tune.h"
#include "transport/uring.h"
#include "transport/verbs.h"

#define TRANSFER_STREAMS 8             /* --streams=auto begins with these… */
#define TRANSFER_STREAMS_AUTO 64       /* …and takes up to so many */
#define TRANSFER_STAGED_MAX (1u << 20) /* largest chunk of a file */

/* Fields of options, as opt_parse leaves them. */
struct transfer_opts {
	uint32_t streams;   /* 0 auto */
	char backend[64];   /* "" auto */
	int mode;           /* enum mode_kind */
	uint64_t chunk;     /* 0 auto, until transfer_apply_mode */
	int sum;            /* enum sum_kind */
	int sched;          /* enum amst_sched */
	uint32_t workers;   /* 0 auto */
	char affinity[256]; /* "" auto, "none", or a list of CPUs */
	uint64_t timeout_ns;
	struct uring_opts tcp;
	struct verbs_opts rdma;
	struct hde_opts hde;
};

struct opt_group transfer_group(struct transfer_opts *o);
struct opt_group transfer_tcp_group(struct uring_opts *tcp);
struct opt_group transfer_rdma_group(struct verbs_opts *rdma);
struct opt_group transfer_compress_group(struct transfer_opts *o);

/* CPUs that workers are pinned to: worker i to v[i % n]; n 0: not pinned. */
struct cpu_plan {
	int v[AMST_WORKERS_MAX];
	unsigned n;
};

/* Who decides while a transfer runs, where the options leave it open. The command keeps it while the client lives. */
struct transfer_flight {
	struct tune tune; /* --streams=auto */
	struct mode mode; /* --mode=auto */
};

/* Decided before anything is opened; plain data. */
struct transfer {
	const struct transfer_opts *opts;
	const struct be_ops *ops;
	const void *be_opts;
	struct multi_opts ways;
	unsigned streams, streams_most, workers; /* streams: it begins with */
	struct transfer_flight *flight;          /* set by the command; NULL: what was planned holds to the end */
	struct cpu_plan cpus;
	int worker_cpus[AMST_WORKERS_MAX];
	struct be_addr peer[8];
	int n_peer;
	char target[300];
};

/*
 * `list` as --backend takes it: names in order of preference, of which those that this machine can run are taken; "" is
 * auto: of all. One becomes *ops and *opts itself; several become multi_ops over *ways, which must stay where it is.
 * -EINVAL: there is none of these names; other codes: this machine can run none of them. Errors say why of each.
 */
int transfer_backend(const char *list, const struct uring_opts *tcp, const struct verbs_opts *rdma,
		     struct multi_opts *ways, const struct be_ops **ops, const void **opts, struct err *e);

/* "" is auto: worker i on CPU i of those this process may use. -EINVAL: not a list, or a CPU that is not there. */
int transfer_cpus(const char *list, struct cpu_plan *out, struct err *e);
unsigned transfer_cpu_count(void); /* CPUs that this process may use */

/* What a server of ours can undo: NULL-terminated. */
extern const struct filter *const transfer_filters[];

/* Does this kernel have the congestion control? It may load a module. */
bool transfer_congestion(const char *name);

/* Makes `mode` decide what was left at auto. */
void transfer_apply_mode(struct transfer_opts *o);

/* Resolves host and backend and decides the rest. -EINVAL: wrong usage. */
int transfer_plan(struct transfer *t, const struct transfer_opts *o, const char *host, struct err *e);
/* The same for addresses that are known. */
int transfer_plan_addr(struct transfer *t, const struct transfer_opts *o, const struct be_addr *peer, const char *name,
		       struct err *e);

/* How a client for it is opened. */
void transfer_client(const struct transfer *t, bool staged, struct client_config *cfg);
/* Opens the session; staged: chunks of files will be sent. Ends with -EINTR when cmd_signal is set. */
int transfer_connect(const struct transfer *t, bool staged, struct client **out, uint64_t *setup_ns, struct err *e);

/* Streams in force: those that --streams=auto has come to, or those planned. */
unsigned transfer_streams(const struct transfer *t);

/* Raises the limit of open files as far as it may: 512 streams and 256 files want more than the usual 1024. */
void transfer_raise_limits(void);

/* The exit status for an error: usage, interrupted or failed; prints it. */
int transfer_fail(const char *name, const struct err *e);

#endif

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
#include "transport/uring.h"

#define TRANSFER_STREAMS 8             /* --streams=auto */
#define TRANSFER_STAGED_MAX (1u << 20) /* largest chunk of a file */

enum transfer_mode { MODE_AUTO, MODE_DATACENTER, MODE_INTERNET, MODE_HYBRID };
extern const char *const transfer_modes[]; /* NULL-terminated */

/* Fields of options, as opt_parse leaves them. */
struct transfer_opts {
	uint32_t streams;   /* 0 auto */
	char backend[64];   /* "" auto */
	int mode;           /* enum transfer_mode */
	uint64_t chunk;     /* 0 auto, until transfer_apply_mode */
	int sum;            /* enum sum_kind */
	int sched;          /* enum amst_sched */
	uint32_t workers;   /* 0 auto */
	char affinity[256]; /* "" auto, "none", or a list of CPUs */
	uint64_t timeout_ns;
	struct uring_opts tcp;
	struct hde_opts hde;
};

struct opt_group transfer_group(struct transfer_opts *o);
struct opt_group transfer_tcp_group(struct uring_opts *tcp);
struct opt_group transfer_compress_group(struct transfer_opts *o);

/* CPUs that workers are pinned to: worker i to v[i % n]; n 0: not pinned. */
struct cpu_plan {
	int v[AMST_WORKERS_MAX];
	unsigned n;
};

/* Decided before anything is opened; plain data. */
struct transfer {
	const struct transfer_opts *opts;
	const struct be_ops *ops;
	const void *be_opts;
	unsigned streams, workers;
	struct cpu_plan cpus;
	int worker_cpus[AMST_WORKERS_MAX];
	struct be_addr peer[8];
	int n_peer;
	char target[300];
};

/* `list` as --backend takes it: names, of which the first that this machine can run is taken; "" is auto: of all.
 * -EINVAL: there is none of these names; other codes: this machine can run none of them. Errors say why of each. */
int transfer_backend(const char *list, const struct be_ops **out, struct err *e);
/* The option struct that belongs to a backend. */
const void *transfer_be_opts(const struct be_ops *ops, const struct uring_opts *tcp);

/* "" is auto: worker i on CPU i of those this process may use. -EINVAL: not a list, or a CPU that is not there. */
int transfer_cpus(const char *list, struct cpu_plan *out, struct err *e);
unsigned transfer_cpu_count(void); /* CPUs that this process may use */

/* What a server of ours can undo: NULL-terminated. */
extern const struct filter *const transfer_filters[];

/* Makes `mode` decide what was left at auto. */
void transfer_apply_mode(struct transfer_opts *o);

/* Resolves host and backend and decides the rest. -EINVAL: wrong usage. */
int transfer_plan(struct transfer *t, const struct transfer_opts *o, const char *host, struct err *e);
/* The same for addresses that are known. */
int transfer_plan_addr(struct transfer *t, const struct transfer_opts *o, const struct be_addr *peer, const char *name,
		       struct err *e);

/* What a staged chunk of these options takes at most. */
uint32_t transfer_stage_chunk(const struct transfer *t);

/* Opens the session; stage_chunk: the largest staged chunk, 0 for puts only. Ends with -EINTR when cmd_signal is set. */
int transfer_connect(const struct transfer *t, uint32_t stage_chunk, struct client **out, uint64_t *setup_ns,
		     struct err *e);

/* Raises the limit of open files as far as it may: 512 streams and 256 files want more than the usual 1024. */
void transfer_raise_limits(void);

/* The exit status for an error: usage, interrupted or failed; prints it. */
int transfer_fail(const char *name, const struct err *e);

#endif

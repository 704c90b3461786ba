/* SPDX-License-Identifier: MIT */
/*
 * The conformance suite: what transport/backend.h promises, tried on one backend. A
 * backend joins by describing itself in a conf_target and calling conformance_run; see
 * test_conformance_mem.c and test_conformance_tcp.c, and docs/adding-a-backend.md.
 */
#ifndef DWCP_TESTS_CONFORMANCE_H
#define DWCP_TESTS_CONFORMANCE_H

#include "transport/backend.h"

struct conf_target {
	const char *name; /* heads the results; says what is special ("tcp, IPv6") */
	const struct be_ops *ops;
	const void *opts;             /* be_open.opts */
	struct be_addr listen_at;     /* port 0; the suite connects to what listen says is bound */
	uint32_t frame_bytes;         /* 0: caps.frame_max in the test of the largest message, less elsewhere */
	const char *const *leave_out; /* names of tests, ends with NULL; may be NULL */

	/* Before and after each test; may be NULL. begin's result goes into be_open.fabric. */
	void *(*begin)(struct conf_target *t);
	void (*end)(struct conf_target *t, void *fabric);

	/* Nothing happened in a whole round of polls; `round` of them in a row. Lets time pass: moves a manual
	 * clock, or waits a moment. */
	void (*idle)(struct conf_target *t, void *fabric, struct be *const *be, int n, unsigned round);

	/* Faults it can inject; NULL where it cannot. */
	void (*drop)(struct be *be, be_stream s); /* the stream breaks from outside, at both ends */
	int (*inject_put)(struct be *be, be_stream s, struct be_token token, uint64_t offset, const void *src,
			  uint64_t len, uint64_t cookie); /* a put of any length, as a hostile peer sends it */

	void *ctx; /* the target's own */
};

/* Runs all tests as one cmocka group; returns how many failed. When probe says no, every test is
 * skipped with the reason. */
int conformance_run(struct conf_target *t);

/* idle for backends on real time: yields, then waits a millisecond on each instance in turn. */
void conf_idle_real(struct conf_target *t, void *fabric, struct be *const *be, int n, unsigned round);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The injected clock. Protocol and policy code never asks the system for the
 * time: it is handed a clock, so that tests run hours in milliseconds.
 */
#ifndef DWCP_BASE_CLOCK_H
#define DWCP_BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull

struct clock {
	uint64_t (*now)(void *ctx); /* nanoseconds, never goes back */
	void *ctx;
};

/* CLOCK_MONOTONIC. */
extern const struct clock clock_mono;
/* CLOCK_THREAD_CPUTIME_ID: what the calling thread has computed; for measurements. */
extern const struct clock clock_thread;

static inline uint64_t clock_now(const struct clock *c)
{
	return c->now(c->ctx);
}

/* A clock that only moves when told to: *ctx is the time in ns. */
struct clock clock_manual(uint64_t *now_ns);

#endif

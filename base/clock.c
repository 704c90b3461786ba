/* SPDX-License-Identifier: MIT */
#include "base/clock.h"
#include <time.h>

/* Cannot fail for the clocks here. */
static uint64_t system_now(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static uint64_t mono_now(void *ctx)
{
	(void)ctx;
	return system_now(CLOCK_MONOTONIC);
}

static uint64_t thread_now(void *ctx)
{
	(void)ctx;
	return system_now(CLOCK_THREAD_CPUTIME_ID);
}

const struct clock clock_mono = { .now = mono_now };
const struct clock clock_thread = { .now = thread_now };

static uint64_t manual_now(void *ctx)
{
	return __atomic_load_n((const uint64_t *)ctx, __ATOMIC_RELAXED);
}

struct clock clock_manual(uint64_t *now_ns)
{
	return (struct clock){ .now = manual_now, .ctx = now_ns };
}

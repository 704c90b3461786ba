/* SPDX-License-Identifier: MIT */
#include "base/clock.h"
#include <time.h>

static uint64_t mono_now(void *ctx)
{
	struct timespec ts;

	(void)ctx;
	clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail for this clock */
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

const struct clock clock_mono = { .now = mono_now };

static uint64_t manual_now(void *ctx)
{
	return __atomic_load_n((const uint64_t *)ctx, __ATOMIC_RELAXED);
}

struct clock clock_manual(uint64_t *now_ns)
{
	return (struct clock){ .now = manual_now, .ctx = now_ns };
}

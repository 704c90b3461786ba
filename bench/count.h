/* SPDX-License-Identifier: MIT */
/* The file in which bench/preload_count.c leaves its counts: COUNT_SLOTS of these, all zero at first. */
#ifndef DWCP_BENCH_COUNT_H
#define DWCP_BENCH_COUNT_H

#include <stdint.h>

#define COUNT_SLOTS 16

struct count_slot {
	uint32_t pid; /* 0: free */
	uint64_t allocations, frees;
	uint64_t locks; /* mutexes, rwlocks, spinlocks, conditions; waiting for a condition starts with its mutex */
	uint64_t main_locks; /* those of the process' first thread, which moves no data, apart */
};

#endif

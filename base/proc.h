/* SPDX-License-Identifier: MIT */
/* What this process has cost so far, for measurements. Any thread may ask. */
#ifndef DWCP_BASE_PROC_H
#define DWCP_BASE_PROC_H

#include <stdint.h>

/* User and system time of all threads, in ns. */
uint64_t proc_cpu_ns(void);

/* Resident memory in bytes, from /proc/self/statm; 0: not known. */
uint64_t proc_rss_bytes(void);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Metric rows over plain counter structs. A module owns one counter struct per
 * worker (no sharing, no atomics in the data path beyond relaxed stores); a
 * table of rows tells what each field is; readers sum the structs.
 */
#ifndef DWCP_BASE_METRICS_H
#define DWCP_BASE_METRICS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE };

/* Every field is a uint64_t at `offset`. */
struct metric {
	const char *name; /* e.g. "transport_zero_copy_bytes"; Prometheus adds the prefix dwcp_ */
	const char *unit; /* "bytes", "chunks", "seconds"… */
	const char *help;
	enum metric_kind kind;
	size_t offset;
};

/* A counter that one thread writes and others read. */
static inline void metric_add(uint64_t *field, uint64_t v)
{
	__atomic_store_n(field, __atomic_load_n(field, __ATOMIC_RELAXED) + v, __ATOMIC_RELAXED);
}

/* Adds every row's field of `from` to `into` (COUNTER and GAUGE alike). */
void metrics_sum(const struct metric *rows, size_t n, void *into, const void *from);

/* JSON object {name: value}, Prometheus exposition (with # HELP, # TYPE). */
json_t *metrics_json(const struct metric *rows, size_t n, const void *values);
void metrics_prometheus(const struct metric *rows, size_t n, const void *values, FILE *out);

#endif

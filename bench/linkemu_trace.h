/* SPDX-License-Identifier: MIT */
/*
 * A link's rate over time, from a text file: one line per change, `SECONDS,MBITS` (a comma, a semicolon or white space
 * in between), times ascending. A rate holds until the next line's time, the last one as long as the one before it;
 * then the trace begins again. Lines that begin with '#' and a first line that is no number are skipped. The "cooked"
 * traces of Pensieve (Mao, Netravali, Alizadeh, SIGCOMM 2017) are of this format.
 */
#ifndef DWCP_BENCH_LINKEMU_TRACE_H
#define DWCP_BENCH_LINKEMU_TRACE_H

#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

struct link_trace;

/* A place in a trace, found by the last call; all zero: none. */
struct link_trace_at {
	uint64_t round; /* repetitions that are over */
	size_t i;
};

/* -EINVAL names file and line. */
int link_trace_load(struct link_trace **out, const char *path, struct err *e);
/* The same from memory; `name` is for messages. */
int link_trace_parse(struct link_trace **out, const char *text, size_t len, const char *name, struct err *e);
void link_trace_free(struct link_trace *t);

/* When `bits` that are begun at from_ns (since the trace's beginning) are sent, rounded up to a nanosecond. `at`
 * is the caller's, from_ns never goes back with it. */
uint64_t link_trace_send(const struct link_trace *t, struct link_trace_at *at, uint64_t from_ns, uint64_t bits);

uint64_t link_trace_most(const struct link_trace *t); /* bits per second */
uint64_t link_trace_mean(const struct link_trace *t);
uint64_t link_trace_length(const struct link_trace *t); /* ns */

#endif

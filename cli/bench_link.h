/* SPDX-License-Identifier: MIT */
/*
 * The emulated network of `--link PROFILE`: it is made for one benchmark, whose sender runs on side A and receiver on
 * side B, and ends with it, also when it is killed.
 */
#ifndef DWCP_CLI_BENCH_LINK_H
#define DWCP_CLI_BENCH_LINK_H

#include "bench/linkemu.h"
#include "transport/backend.h"

struct bench_link {
	char name[LINK_NAME_MAX + 1]; /* "": none */
	struct link_settings settings;
	int owner, home;
	json_t *status; /* what it did, or NULL; bench_link_down */
};

/* Makes it of the settings. Forks: before there are threads. */
int bench_link_up(struct bench_link *l, struct err *e);
/* Moves the calling thread and those it starts to a side; on B, for good. */
int bench_link_enter(struct bench_link *l, enum link_side side, struct err *e);
/* Back from side A. Any state; keeps its counters in `status`. */
void bench_link_leave(struct bench_link *l);
void bench_link_down(struct bench_link *l);
/* What it is like, each way, where it is up. profile: as the user named it. */
void bench_link_print(const struct bench_link *l, const char *profile);
/* The fields `link` and `link_status` of a result, where it is up. */
void bench_link_json(const struct bench_link *l, const char *profile, json_t *result);

/* Where the receiver listens. */
struct be_addr bench_link_addr(void);

#endif

/* SPDX-License-Identifier: MIT */
/* A tiny HTTP server with one page: GET /metrics, in Prometheus' text format. */
#ifndef DWCP_CLI_PROMETHEUS_H
#define DWCP_CLI_PROMETHEUS_H

#include "base/err.h"
#include "transport/backend.h"
#include <stdio.h>

struct prometheus;

/* write(ctx, out) puts the page out; called in the HTTP server's own thread. */
int prometheus_open(struct prometheus **out, const struct be_addr *at, void (*write)(void *ctx, FILE *out), void *ctx,
		    struct be_addr *bound, struct err *e);
void prometheus_close(struct prometheus *p); /* NULL is fine */

#endif

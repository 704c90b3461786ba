/* SPDX-License-Identifier: MIT */
/*
 * What a server does besides receiving regions and files. A service answers the requests of a range of types, and may
 * take staged chunks of transfers (XFER_SERVICE); the transport knows nothing else of it. Live migration is one.
 *
 * `state` is the service's own pointer, one for each session, NULL until the service sets it.
 */
#ifndef DWCP_TRANSPORT_SERVICE_H
#define DWCP_TRANSPORT_SERVICE_H

#include "base/err.h"
#include "base/stage.h"
#include "base/wire.h"

struct service_ops {
	const char *name;
	uint16_t first, last; /* request types, see wire.h */

	/* Answers one request: reads `in` (a peer's word: checked), appends fields to `out`. 0, or -errno with e filled,
	 * which the peer gets in place of fields. In the session's job thread: it may block for a while, other
	 * sessions go on. A request is never given twice: the server keeps the answer. */
	int (*request)(void *ctx, void **state, uint16_t type, struct rcur *in, struct wcur *out, struct err *e);

	/* Where staged chunks of a transfer that begins now go, or NULL: nothing is to be received. *bytes: what they
	 * may hold in all, decoded. Used until `ended` at most. In the control thread, between requests. */
	const struct stage *(*sink)(void *ctx, void *state, uint64_t *bytes);

	/* The session is over, no worker touches the sink any more. `state` (never NULL) is the service's to free.
	 * In the job thread. */
	void (*ended)(void *ctx, void *state);

	/* Bytes of memory that the service holds: they count against the server's limit. Any thread. */
	uint64_t (*held)(void *ctx);
};

struct service {
	const struct service_ops *ops; /* NULL: none */
	void *ctx;
};

#endif

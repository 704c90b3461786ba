/* SPDX-License-Identifier: MIT */
#include "transport/backend.h"
#include "base/util.h"
#include "transport/mem.h"
#include "transport/uring.h"
#include "transport/verbs.h"
#include <string.h>

const struct be_ops *const backends[] = {
	&verbs_ops,
	&uring_ops,
	&mem_ops,
	NULL,
};

const struct be_ops *backend_find(const char *name)
{
	for (const struct be_ops *const *b = backends; *b; b++)
		if (!strcmp((*b)->name, name) || ((*b)->alias && !strcmp((*b)->alias, name)))
			return *b;
	return NULL;
}

#define ROW(field, unit_, help_)                                                                   \
	{                                                                                          \
		.name = "transport_" #field, .unit = unit_, .help = help_, .kind = METRIC_COUNTER, \
		.offset = offsetof(struct be_counters, field)                                      \
	}

const struct metric be_metrics[] = {
	ROW(tx_bytes, "bytes", "payload of messages and puts sent"),
	ROW(rx_bytes, "bytes", "payload of messages and puts received"),
	ROW(tx_zero_copy_bytes, "bytes", "sent without a copy, as the kernel or the hardware confirmed"),
	ROW(tx_copied_bytes, "bytes", "sent through a copy by a CPU"),
	ROW(rx_zero_copy_bytes, "bytes", "placed by hardware straight into region or frame"),
	ROW(rx_copied_bytes, "bytes", "received through a copy by a CPU"),
	ROW(puts, "operations", "puts accepted for sending"),
	ROW(messages, "operations", "messages accepted for sending"),
	ROW(placed, "operations", "puts of peers that arrived whole"),
	ROW(frames_received, "operations", "messages that arrived"),
	ROW(backpressure, "calls", "sends and puts that a full stream put off"),
	ROW(frame_waits, "times", "messages that waited for a free receive frame"),
	ROW(syscalls, "calls", "system calls or doorbells of the data path"),
	ROW(protocol_errors, "errors", "streams ended because the peer broke the protocol"),
	ROW(streams_opened, "streams", "streams connected or accepted"),
	ROW(streams_down, "streams", "streams that ended"),
	ROW(zero_copy_fallbacks, "streams", "streams that gave up zero-copy because the path copies anyway"),
};

const size_t be_metrics_n = ARRAY_LEN(be_metrics);

_Static_assert(ARRAY_LEN(be_metrics) * sizeof(uint64_t) == sizeof(struct be_counters), "a counter has no row");

/* SPDX-License-Identifier: MIT */
/* An emulated link's parsers: bandwidth traces, and the headers of frames that hold many packets. */
#include "base/util.h"
#include "bench/linkemu_frame.h"
#include "bench/linkemu_trace.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
	if (!holds)
		abort();
}

static void fuzz_trace(const uint8_t *data, size_t size)
{
	struct link_trace_at at = { 0 };
	struct link_trace *t = NULL;
	uint64_t now = 0;
	struct err e;

	if (link_trace_parse(&t, (const char *)data, size, "input", &e) < 0)
		return;
	for (int i = 0; i < 50; i++) {
		uint64_t end = link_trace_send(t, &at, now, 65535 * 8);

		check(end >= now && end - now <= 2 * link_trace_length(t));
		now = end + (i % 7 ? 0 : link_trace_length(t) / 3);
	}
	link_trace_free(t);
}

/* Every packet's bytes lie within the frame; together they are the whole of it. */
static void fuzz_frame(const uint8_t *data, size_t size)
{
	static struct frame_pool *pool;
	struct frame_headers headers;
	struct iovec iov[2];
	uint64_t bytes = 0;
	struct frame *f;
	uint32_t packets;
	bool bad;

	if (!pool)
		check(frame_pool_open(&pool, 1 << 20, NULL) == 0);
	size = min_u64(size, FRAME_DATA_MAX);
	memcpy(frame_space(pool), data, size);
	f = frame_take(pool, (uint32_t)size, &bad);
	check(!f == bad);
	if (!f)
		return;
	packets = f->packets;
	for (uint32_t i = 0; i < packets; i++) {
		uint32_t n = 1 + i % (packets - i);
		int n_iov = frame_emit(f, i, n, &headers, iov);
		uint64_t len = 0;

		for (int k = 0; k < n_iov; k++)
			len += iov[k].iov_len;
		check(len <= f->len);
		if (n_iov == 2)
			check((uint8_t *)iov[1].iov_base + iov[1].iov_len <= f->data + f->len);
		bytes += frame_packet_len(f, i) - f->headers;
	}
	check(bytes == f->len - FRAME_VNET - f->headers);
	for (; packets; packets--)
		frame_drop(pool, f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] & 1)
		fuzz_trace(data + 1, size - 1);
	else
		fuzz_frame(data + 1, size - 1);
	return 0;
}

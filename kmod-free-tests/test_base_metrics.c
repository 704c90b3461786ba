/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/metrics.h"
#include "base/util.h"
#include <stdlib.h>

struct counters {
	uint64_t bytes, chunks, queue;
};

static const struct metric rows[] = {
	{ "t_bytes", "bytes", "payload\\ sent\nin all", METRIC_COUNTER, offsetof(struct counters, bytes) },
	{ "t_chunk_total", "chunks", "chunks", METRIC_COUNTER, offsetof(struct counters, chunks) },
	{ "t_queue", "entries", "in the queue", METRIC_GAUGE, offsetof(struct counters, queue) },
};

static void check_text(const void *values, const char *want)
{
	char *got = NULL;
	size_t len;
	FILE *f = open_memstream(&got, &len);

	assert_non_null(f);
	metrics_prometheus(rows, ARRAY_LEN(rows), values, f);
	fclose(f);
	assert_string_equal(got, want);
	free(got);
}

static void sums(void **state)
{
	struct counters total = { 0 }, a = { 1, 2, 3 }, b = { 0 };

	(void)state;
	metric_add(&b.bytes, 10);
	metric_add(&b.bytes, 5);
	metrics_sum(rows, ARRAY_LEN(rows), &total, &a);
	metrics_sum(rows, ARRAY_LEN(rows), &total, &b);
	assert_int_equal(total.bytes, 16);
	assert_int_equal(total.chunks, 2);
	assert_int_equal(total.queue, 3);
	assert_int_equal(a.bytes, 1);
}

static void prometheus(void **state)
{
	struct counters c = { 7, 8, 9 };

	(void)state;
	check_text(&c, "# HELP dwcp_t_bytes payload\\\\ sent\\nin all\n# TYPE dwcp_t_bytes counter\ndwcp_t_bytes 7\n"
		       "# HELP dwcp_t_chunk_total chunks\n# TYPE dwcp_t_chunk_total counter\ndwcp_t_chunk_total 8\n"
		       "# HELP dwcp_t_queue in the queue\n# TYPE dwcp_t_queue gauge\ndwcp_t_queue 9\n");
}

static void json(void **state)
{
	struct counters c = { 1ull << 60, 8, UINT64_MAX };
	json_t *obj = metrics_json(rows, ARRAY_LEN(rows), &c);

	(void)state;
	assert_non_null(obj);
	assert_int_equal(json_object_size(obj), 3);
	assert_int_equal(json_integer_value(json_object_get(obj, "t_bytes")), 1ll << 60);
	assert_int_equal(json_integer_value(json_object_get(obj, "t_chunk_total")), 8);
	assert_true(json_number_value(json_object_get(obj, "t_queue")) == 0x1p64); /* never negative */
	json_decref(obj);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums),
		cmocka_unit_test(prometheus),
		cmocka_unit_test(json),
	};

	return cmocka_run_group_tests_name("base/metrics", tests, NULL, NULL);
}

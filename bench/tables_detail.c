/* SPDX-License-Identifier: MIT */
/* Sizes of transfers, and the beginning of a session. */
#include "base/opt.h"
#include "base/util.h"
#include "bench/tables.h"
#include <math.h>

/* ---- sizes ------------------------------------------------------------------------------------- */

static const struct {
	uint64_t bytes;
	unsigned alone; /* transfers of one run with one chunk in flight */
} sizes[] = { { 4 << 10, 20000 }, { 64 << 10, 10000 }, { 1 << 20, 2000 }, { 16 << 20, 200 } };

static json_t *quantile(const struct contender *c, const char *q)
{
	char path[64];

	snprintf(path, sizeof(path), "latency_us.%s", q);
	return json_number(scenario_value(c, path).median);
}

static json_t *quantiles(const struct contender *c)
{
	json_t *p50 = quantile(c, "p50"), *p95 = quantile(c, "p95"), *p99 = quantile(c, "p99"),
	       *p999 = quantile(c, "p999");

	return json_pack("[o, o, o, o]", p50, p95, p99, p999);
}

/* Each run's time per transfer, from its totals. */
static json_t *per_transfer(const struct contender *c)
{
	double seconds[ROUNDS_MAX], n_transfers[ROUNDS_MAX];
	size_t n = scenario_series(c, "seconds", seconds);

	scenario_series(c, "iterations", n_transfers);
	for (size_t i = 0; i < n; i++)
		seconds[i] *= 1e6 / n_transfers[i];
	return json_interval(stats_bootstrap(seconds, n, 1));
}

static void busy_row(json_t *s, const struct contender *c, const char *size)
{
	json_t *row = json_pack("[s, o]", size, json_interval(scenario_value(c, "gbytes_per_s"))), *q = quantiles(c);

	json_array_extend(row, q);
	json_decref(q);
	json_array_append_new(row, json_number(scenario_value(c, "copies.zero_copy_bytes").median / 1e9));
	json_array_append_new(row, json_number(scenario_value(c, "copies.copied_bytes").median / 1e9));
	json_array_append_new(row, json_number(scenario_value(c, "copies.received_copied_bytes").median / 1e9));
	report_row(s, row);
}

static void alone_row(json_t *s, const struct contender *c, const char *size)
{
	json_t *row = json_pack("[s]", size), *q = quantiles(c);

	json_array_extend(row, q);
	json_decref(q);
	json_array_append_new(row, per_transfer(c));
	json_array_append_new(row, json_interval(scenario_value(c, "gbytes_per_s")));
	report_row(s, row);
}

static void report_sizes(struct lab *lab, const struct contender *busy, const struct contender *alone, size_t n)
{
	char text[TIMED_MAX], size[32];
	json_t *s = report_section(
		lab->report, "sizes_busy", "4 KB to 16 MB, every stream busy",
		"chunk|GB/s|p50 us|p95 us|p99 us|p99.9 us|sent zero-copy GB|sent copied GB|received copied GB");

	report_text(
		s,
		"`dwcp benchmark amst --chunk-size=SIZE --region=256MB %s`, 8 streams, checksum on. A chunk's time runs from "
		"its posting to the receiver's confirmation, so that most of it is waiting in the socket. Loopback always "
		"copies once on each side, between memory and socket.",
		timed(lab, text));
	for (size_t i = 0; i < n; i++)
		busy_row(s, &busy[i], format_size(size, sizeof(size), sizes[i].bytes));
	s = report_section(lab->report, "sizes_alone", "4 KB to 16 MB, one in flight",
			   "transfer|p50 us|p95 us|p99 us|p99.9 us|whole transfer us|GB/s");
	report_text(
		s,
		"`dwcp benchmark amst --data-size=SIZE --chunk-size=SIZE --region=256MB --streams=1 --iterations=N`: "
		"nothing else is under way. The quantiles are of the chunk, to the receiver's confirmation; a whole "
		"transfer has its beginning and its commit besides.");
	for (size_t i = 0; i < n; i++)
		alone_row(s, &alone[i], format_size(size, sizeof(size), sizes[i].bytes));
}

int table_sizes(struct lab *lab, struct err *e)
{
	struct contender c[2 * ARRAY_LEN(sizes)] = { 0 };
	const size_t n = ARRAY_LEN(sizes);
	char text[TIMED_MAX], size[32];
	int rc;

	for (size_t i = 0; i < n; i++) {
		struct contender *busy = &c[i], *alone = &c[n + i];
		unsigned long long bytes = sizes[i].bytes;

		format_size(size, sizeof(size), bytes);
		busy->run = alone->run = run_dwcp;
		alone->streams = 1;
		snprintf(busy->label, sizeof(busy->label), "%s, busy", size);
		snprintf(busy->args, sizeof(busy->args), "--chunk-size=%llu --region=256MB %s", bytes,
			 timed(lab, text));
		snprintf(alone->label, sizeof(alone->label), "%s, one in flight", size);
		snprintf(alone->args, sizeof(alone->args),
			 "--chunk-size=%llu --data-size=%llu --region=256MB --iterations=%.0f", bytes, bytes,
			 ceil(sizes[i].alone * fmin(lab->seconds / 2, 1)));
	}
	rc = scenario_run(lab, "sizes", c, ARRAY_LEN(c), lab->rounds, e);
	if (rc >= 0)
		report_sizes(lab, c, c + n, n);
	scenario_free(c, ARRAY_LEN(c));
	return rc;
}

/* ---- set-up ------------------------------------------------------------------------------------ */

#define SETUP "session_setup_ms"
#define SETUP_ROUNDS 20

int table_setup(struct lab *lab, struct err *e)
{
	static const struct {
		unsigned streams;
		double most_ms;
	} rows[] = { { 1, 2.2 }, { 8, 0 }, { 64, 0 }, { 512, 100 } };
	struct contender c[ARRAY_LEN(rows)] = { 0 };
	double v[ROUNDS_MAX];
	json_t *s;
	int rc;

	for (size_t i = 0; i < ARRAY_LEN(c); i++) {
		c[i].run = run_dwcp;
		c[i].streams = rows[i].streams;
		snprintf(c[i].label, sizeof(c[i].label), "%u stream%s", rows[i].streams,
			 rows[i].streams == 1 ? "" : "s");
		snprintf(c[i].args, sizeof(c[i].args), "--data-size=1MB --iterations=1");
	}
	rc = scenario_run(lab, "set-up", c, ARRAY_LEN(c), (unsigned)max_u64(lab->rounds, SETUP_ROUNDS), e);
	if (rc < 0)
		goto out;
	s = report_section(lab->report, "setup", "Setting up a session", "streams|median ms|p95 ms|most ms");
	report_text(
		s,
		"From the first `connect` to the receiver's answer for the last stream, a new pair of processes each "
		"time: `session_setup_ms` of `dwcp benchmark amst --data-size=1MB --iterations=1 --streams=N`.");
	for (size_t i = 0; i < ARRAY_LEN(c); i++) {
		struct stats_interval median = scenario_value(&c[i], SETUP);
		size_t n = scenario_series(&c[i], SETUP, v);
		char what[96];

		report_row(s, json_pack("[i, o, o, o]", (int)c[i].streams, json_interval(median),
					json_number(stats_quantile(v, n, .95)), json_number(stats_quantile(v, n, 1))));
		snprintf(what, sizeof(what), "session set-up, %.60s", c[i].label);
		if (rows[i].most_ms > 0)
			report_target(s, what, median, "ms", AT_MOST, rows[i].most_ms);
	}
out:
	scenario_free(c, ARRAY_LEN(c));
	return rc;
}

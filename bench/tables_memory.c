/* SPDX-License-Identifier: MIT */
/* Memory to memory: throughput against others, over checksums, over stream counts. */
#include "base/opt.h"
#include "base/util.h"
#include "bench/tables.h"
#include <math.h>
#include <string.h>

#define RATE "gbytes_per_s"

char *timed(const struct lab *lab, char out[TIMED_MAX])
{
	snprintf(out, TIMED_MAX, "--duration=%.0fms --omit=%.0fms", lab->seconds * 1e3, fmin(lab->seconds, 1) * 1e3);
	return out;
}

static void set(struct contender *c, __typeof__(c->run) run, const char *who, unsigned streams)
{
	*c = (struct contender){ .run = run, .streams = streams };
	snprintf(c->label, sizeof(c->label), "%s, %u stream%s", who, streams, streams == 1 ? "" : "s");
}

/* ---- hot memory -------------------------------------------------------------------------------- */

#define HOT "--region=4MB --checksum=none"

static void report_like(struct lab *lab, const struct contender *c, size_t each)
{
	const struct contender *ours = scenario_best(c, each, RATE), *theirs = scenario_best(c + each, each, RATE);
	json_t *s = report_section(lab->report, "like_for_like", "Hot memory, like for like with iperf3",
				   "streams|dwcp GB/s|iperf3 GB/s|ratio");
	const char *version = json_string_value(json_object_get(json_array_get(theirs->runs, 0), "version"));
	struct stats_interval ratio = scenario_ratio(ours, theirs, RATE);
	char text[TIMED_MAX];

	report_text(s,
		    "Both send one small buffer over and over. `dwcp benchmark amst " HOT " %s --streams=N` against "
		    "`iperf3 -C cubic -P N -O 1` (%s). The raw loop at 2 streams: %.2f GB/s.",
		    timed(lab, text), version ? version : "iperf3", scenario_value(&c[2 * each], RATE).median);
	for (size_t i = 0; i < each; i++)
		report_row(s, json_pack("[i, o, o, o]", (int)c[i].streams, json_interval(scenario_value(&c[i], RATE)),
					json_interval(scenario_value(&c[each + i], RATE)),
					json_interval(scenario_ratio(&c[i], &c[each + i], RATE))));
	report_row(s, json_pack("[o, o, o, o]", json_sprintf("best (%u, %u)", ours->streams, theirs->streams),
				json_interval(scenario_value(ours, RATE)), json_interval(scenario_value(theirs, RATE)),
				json_interval(ratio)));
	report_target(s, "hot memory, best stream count: of iperf3's best", ratio, "", AT_LEAST, 1.0);
}

int table_like_for_like(struct lab *lab, struct err *e)
{
	static const unsigned streams[] = { 1, 2, 4, 8 };
	struct contender c[2 * ARRAY_LEN(streams) + 1];
	const size_t each = ARRAY_LEN(streams);
	char text[TIMED_MAX];
	int rc;

	for (size_t i = 0; i < each; i++) {
		set(&c[i], run_dwcp, "dwcp", streams[i]);
		snprintf(c[i].args, sizeof(c[i].args), HOT " %s", timed(lab, text));
		set(&c[each + i], run_iperf3, "iperf3", streams[i]);
		snprintf(c[each + i].args, sizeof(c[i].args), "-C cubic");
	}
	set(&c[2 * each], run_rawloop, "raw loop", 2);
	snprintf(c[2 * each].args, sizeof(c[0].args), "--region=4MB %s", timed(lab, text));
	rc = scenario_run(lab, "hot memory", c, ARRAY_LEN(c), lab->rounds, e);
	if (rc >= 0)
		report_like(lab, c, each);
	scenario_free(c, ARRAY_LEN(c));
	return rc;
}

/* ---- cold memory ------------------------------------------------------------------------------- */

int table_cold(struct lab *lab, struct err *e)
{
	static const unsigned streams[] = { 1, 2, 8, 64, 512 };
	struct contender c[2 * ARRAY_LEN(streams)];
	char text[TIMED_MAX], size[32], what[96];
	json_t *s;
	int rc;

	for (size_t i = 0; i < ARRAY_LEN(streams); i++) {
		set(&c[2 * i], run_dwcp, "dwcp", streams[i]);
		snprintf(c[2 * i].args, sizeof(c[0].args), "--region=%llu --checksum=none %s",
			 (unsigned long long)lab->region, timed(lab, text));
		set(&c[2 * i + 1], run_rawloop, "raw loop", streams[i]);
		snprintf(c[2 * i + 1].args, sizeof(c[0].args), "--region=%llu %s", (unsigned long long)lab->region,
			 timed(lab, text));
	}
	rc = scenario_run(lab, "cold memory", c, ARRAY_LEN(c), lab->rounds, e);
	if (rc < 0)
		goto out;
	s = report_section(lab->report, "cold", "Cold memory, against a raw io_uring loop",
			   "streams|dwcp GB/s|raw loop GB/s|ratio");
	report_text(
		s,
		"From %s to %s, chunks of 256 KB, the same pinning: `dwcp benchmark amst --region=%llu --checksum=none %s "
		"--streams=N` against `rawloop` (bench/main_rawloop.c), which frames, places and checks nothing.",
		format_size(size, sizeof(size), lab->region), size, (unsigned long long)lab->region, text);
	for (size_t i = 0; i < ARRAY_LEN(c); i += 2) {
		struct stats_interval ratio = scenario_ratio(&c[i], &c[i + 1], RATE);

		report_row(s, json_pack("[i, o, o, o]", (int)c[i].streams, json_interval(scenario_value(&c[i], RATE)),
					json_interval(scenario_value(&c[i + 1], RATE)), json_interval(ratio)));
		snprintf(what, sizeof(what), "cold memory, %s: of the raw loop", strchr(c[i].label, ' ') + 1);
		report_target(s, what, ratio, "", AT_LEAST, .95);
	}
out:
	scenario_free(c, ARRAY_LEN(c));
	return rc;
}

/* ---- checksums --------------------------------------------------------------------------------- */

/* How much less, in per cent. */
static struct stats_interval cost_of(struct stats_interval ratio)
{
	return (struct stats_interval){ .median = 100 * (1 - ratio.median),
					.ci95_low = 100 * (1 - ratio.ci95_high),
					.ci95_high = 100 * (1 - ratio.ci95_low),
					.n = ratio.n };
}

int table_checksum(struct lab *lab, struct err *e)
{
	static const char *const sums[] = { "none", "crc32c", "xxh3" };
	const size_t n = ARRAY_LEN(sums);
	struct contender c[2 * ARRAY_LEN(sums)] = { 0 };
	char text[TIMED_MAX], size[32], what[96];
	json_t *s;
	int rc;

	format_size(size, sizeof(size), lab->region);
	for (size_t i = 0; i < 2 * n; i++) {
		bool cold = i < n;

		c[i].run = run_dwcp;
		c[i].streams = cold ? 8 : 2;
		snprintf(c[i].label, sizeof(c[i].label), "%s, %s, %u streams", sums[i % n], cold ? size : "4 MB",
			 c[i].streams);
		snprintf(c[i].args, sizeof(c[i].args), "--checksum=%s --region=%llu %s", sums[i % n],
			 cold ? (unsigned long long)lab->region : 4ull << 20, timed(lab, text));
	}
	rc = scenario_run(lab, "checksums", c, ARRAY_LEN(c), lab->rounds, e);
	if (rc < 0)
		goto out;
	s = report_section(lab->report, "checksum", "What a checksum costs",
			   "checksum, memory|GB/s|less than without, %");
	report_text(
		s,
		"Computed by the sender and by the receiver for every chunk of 256 KB: `dwcp benchmark amst --checksum=X %s "
		"--region=… --streams=…`. The targets are about cold memory and the default number of streams.",
		text);
	for (size_t i = 0; i < ARRAY_LEN(c); i++) {
		const struct contender *without = i < n ? &c[0] : &c[n];
		struct stats_interval cost = cost_of(scenario_ratio(&c[i], without, RATE));
		bool none = &c[i] == without;

		report_row(s, json_pack("[s, o, o]", c[i].label, json_interval(scenario_value(&c[i], RATE)),
					none ? json_null() : json_interval(cost)));
		if (none || i >= n)
			continue;
		snprintf(what, sizeof(what), "cost of --checksum=%s", sums[i]);
		report_target(s, what, cost, "%", AT_MOST, 20);
	}
out:
	scenario_free(c, ARRAY_LEN(c));
	return rc;
}

/* ---- streams ----------------------------------------------------------------------------------- */

#define RSS_SENDER "rss_over_regions_mbytes.sender"
#define RSS_RECEIVER "rss_over_regions_mbytes.receiver"

static void streams_targets(json_t *s, const struct contender *c, size_t n)
{
	const struct contender *slowest = &c[0], *most = &c[n - 1], *best = scenario_best(c, n, RATE);
	char what[96];

	for (size_t i = 1; i < n && c[i].streams <= 64; i++)
		if (scenario_value(&c[i], RATE).median < scenario_value(slowest, RATE).median)
			slowest = &c[i];
	snprintf(what, sizeof(what), "checksum on, slowest of 1 to 64 streams (%u)", slowest->streams);
	report_target(s, what, scenario_value(slowest, RATE), "GB/s", AT_LEAST, 2.5);
	snprintf(what, sizeof(what), "checksum on, 512 streams: of the best (%u)", best->streams);
	report_target(s, what, scenario_ratio(most, best, RATE), "", AT_LEAST, .9);
	report_target(s, "memory over regions, 512 streams, sender", scenario_value(most, RSS_SENDER), "MB", AT_MOST,
		      64);
	report_target(s, "memory over regions, 512 streams, receiver", scenario_value(most, RSS_RECEIVER), "MB",
		      AT_MOST, 64);
}

int table_streams(struct lab *lab, struct err *e)
{
	struct contender c[10];
	const size_t n = ARRAY_LEN(c);
	char text[TIMED_MAX], size[32];
	json_t *s;
	int rc;

	for (size_t i = 0; i < n; i++) {
		set(&c[i], run_dwcp, "dwcp", 1u << i);
		snprintf(c[i].args, sizeof(c[i].args), "--region=%llu %s", (unsigned long long)lab->region,
			 timed(lab, text));
	}
	rc = scenario_run(lab, "streams", c, n, lab->rounds, e);
	if (rc < 0)
		goto out;
	s = report_section(lab->report, "streams", "1 to 512 streams, every default, checksum on",
			   "streams|GB/s|set-up ms|sender MB|receiver MB|CPU s per GB");
	report_text(
		s,
		"`dwcp benchmark amst --region=%llu %s --streams=N`, cold memory of %s. Memory is what a process holds on "
		"top of its region; CPU time is of both processes.",
		(unsigned long long)lab->region, text, format_size(size, sizeof(size), lab->region));
	for (size_t i = 0; i < n; i++)
		report_row(s, json_pack("[i, o, o, o, o, o]", (int)c[i].streams,
					json_interval(scenario_value(&c[i], RATE)),
					json_interval(scenario_value(&c[i], "session_setup_ms")),
					json_number(scenario_value(&c[i], RSS_SENDER).median),
					json_number(scenario_value(&c[i], RSS_RECEIVER).median),
					json_number((scenario_value(&c[i], "cpu_seconds.sender").median +
						     scenario_value(&c[i], "cpu_seconds.receiver").median) *
						    1e9 / scenario_value(&c[i], "bytes").median)));
	streams_targets(s, c, n);
out:
	scenario_free(c, n);
	return rc;
}

/* SPDX-License-Identifier: MIT */
/* Migrations of running guests over loopback, and what tracking costs a guest. */
#include "base/util.h"
#include "bench/tables.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RUN_TIMEOUT_S 170
#define COMMON "--settle=100ms --warm-up=500ms"

static int run_program(const struct command_line *cmd, json_t **out, struct err *e)
{
	struct proc_end end = { 0 };
	json_error_t where;
	int rc = proc_run(cmd, NULL, NULL, RUN_TIMEOUT_S, &end, e);

	if (rc < 0)
		return rc;
	*out = json_loads(end.out, 0, &where);
	free(end.out);
	return *out ? 0 : err_set(e, -EPROTO, "%s printed no JSON: %s", cmd->argv[0], where.text);
}

static int run_migrate(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	struct command_line cmd = { .n = 0 };

	command_add(&cmd, "%s", lab->dwcp);
	command_words(&cmd, "migrate --json " COMMON);
	command_words(&cmd, c->args);
	return run_program(&cmd, result, e);
}

static int run_tracking(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	struct command_line cmd = { .n = 0 };

	command_add(&cmd, "%s/tracking", lab->bench);
	command_words(&cmd, c->args);
	return run_program(&cmd, result, e);
}

/* Every run completed, was verified, and the guest's own check is good. */
static bool all_good(const struct contender *c)
{
	for (size_t i = 0; i < json_array_size(c->runs); i++) {
		const json_t *r = json_array_get(c->runs, i);
		const char *outcome = json_string_value(json_object_get(r, "outcome"));

		if (!outcome || strcmp(outcome, "completed") || !json_is_true(json_object_get(r, "verified")) ||
		    !json_is_true(json_object_get(r, "self_check")))
			return false;
	}
	return json_array_size(c->runs) > 0;
}

static struct stats_interval saved(const struct contender *c)
{
	double v[ROUNDS_MAX];
	size_t n = scenario_series(c, "saved_percent", v);

	return stats_bootstrap(v, n, 1);
}

static void report_migrations(struct lab *lab, const struct contender *c, size_t n)
{
	json_t *s = report_section(lab->report, "migrate", "Migration of a running guest over loopback",
				   "guest|GB/s of memory|downtime ms|rounds|total s|% fewer bytes|verified");

	report_text(
		s,
		"`dwcp migrate " COMMON
		" ARGUMENTS`, source and destination processes of this host, guest `synth` with "
		"the documented mix (60 %% zeros, 30 %% text, 10 %% random), userfaultfd tracker. GB/s: memory over the "
		"time from the first round to the hand-over, without making the destination's memory; total: with it. "
		"Downtime: from the request to pause until the destination's word that the guest runs. Verified: every "
		"page's sum at both ends, and the guest's own check of every write.");
	for (size_t i = 0; i < n; i++)
		report_row(s, json_pack("[s, o, o, o, o, o, s]", c[i].label,
					json_interval(scenario_value(&c[i], "memory_gbytes_per_s")),
					json_interval(scenario_value(&c[i], "downtime_ms")),
					json_interval(scenario_value(&c[i], "n_rounds")),
					json_interval(scenario_value(&c[i], "total_seconds")),
					json_interval(saved(&c[i])), all_good(&c[i]) ? "yes" : "NO"));
	report_target(s, "8 GB at 1 %/s: memory", scenario_value(&c[0], "memory_gbytes_per_s"), "GB/s", AT_LEAST, 2.5);
	report_target(s, "8 GB at 1 %/s: downtime (documented)", scenario_value(&c[0], "downtime_ms"), "ms", AT_MOST,
		      500);
	report_target(s, "8 GB at 1 %/s: downtime (our aim)", scenario_value(&c[0], "downtime_ms"), "ms", AT_MOST, 30);
	report_target(s, "8 GB at 10 %/s: downtime", scenario_value(&c[1], "downtime_ms"), "ms", AT_MOST, 50);
	report_target(s, "internet mode: fewer bytes (documented 75–85 %, our aim)", saved(&c[3]), "%", AT_LEAST, 85);
}

static void report_tracking(struct lab *lab, const struct contender *c, size_t n)
{
	json_t *s = report_section(lab->report, "tracking", "What tracking costs a guest",
				   "tracker|steps/s|of none|one look ms");

	report_text(
		s,
		"`tracking TRACKER`: a guest of 1 GB that computes and dirties 1 %% of it per second, looked at ten times "
		"a second, nothing is sent.");
	for (size_t i = 0; i < n; i++)
		report_row(s, json_pack("[s, o, o, o]", c[i].label, json_interval(scenario_value(&c[i], "steps_per_s")),
					i ? json_interval(scenario_ratio(&c[i], &c[0], "steps_per_s")) : json_null(),
					json_interval(scenario_value(&c[i], "look_ms"))));
	for (size_t i = 1; i < n; i++)
		report_target(s, c[i].label, scenario_ratio(&c[i], &c[0], "steps_per_s"), "", AT_LEAST, .97);
}

int table_migrate(struct lab *lab, struct err *e)
{
	struct contender c[] = {
		{ .label = "8 GB, 1 %/s", .args = "--memory=8GB --dirty-rate=1", .run = run_migrate },
		{ .label = "8 GB, 10 %/s, --downtime-limit=50ms",
		  .args = "--memory=8GB --dirty-rate=10 --downtime-limit=50ms",
		  .run = run_migrate },
		{ .label = "1 GB, 10 %/s", .args = "--memory=1GB --dirty-rate=10", .run = run_migrate },
		{ .label = "1 GB, 1 %/s, --compress=internet",
		  .args = "--memory=1GB --dirty-rate=1 --compress=internet",
		  .run = run_migrate },
		{ .label = "1 GB, 10 %/s, --compress=datacenter",
		  .args = "--memory=1GB --dirty-rate=10 --compress=datacenter",
		  .run = run_migrate },
	};
	int rc = scenario_run(lab, "migrate", c, ARRAY_LEN(c), lab->rounds, e);

	if (rc >= 0)
		report_migrations(lab, c, ARRAY_LEN(c));
	scenario_free(c, ARRAY_LEN(c));
	return rc;
}

/* ---- over a link -------------------------------------------------------------------------------- */

#define IMAGE "mixed-1.0.img" /* of bench/image.sh */

/* What a link costs besides the time that its bytes take. */
struct over_link {
	const char *profile;
	double bits_per_s;
	double seconds_most; /* of the whole migration; 0: no target */
	bool late;
};

static int run_over_link(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	const struct over_link *link = c->ctx;
	struct command_line cmd = { .n = 0 };
	double wire;
	int rc;

	command_add(&cmd, "%s", lab->dwcp);
	command_words(&cmd, "migrate --json " COMMON " --memory=1GB --dirty-rate=1 --compress=auto");
	command_add(&cmd, "--link=%s", link->profile);
	command_add(&cmd, "--image=%s/" IMAGE, lab->images);
	command_words(&cmd, c->args);
	rc = run_program(&cmd, result, e);
	if (rc < 0)
		return rc;
	wire = json_number_value(json_object_get(*result, "bytes_wire")) * 8 / link->bits_per_s;
	json_object_set_new(*result, "of_wire_time",
			    json_real(json_number_value(json_object_get(*result, "total_seconds")) / wire));
	return 0;
}

static void link_target(json_t *s, const struct contender *c, const char *text, const char *path, const char *unit,
			double most)
{
	char what[160];

	snprintf(what, sizeof(what), "%.60s: %s", c->label, text);
	report_target(s, what, scenario_value(c, path), unit, AT_MOST, most);
}

static void link_targets(json_t *s, const struct contender *c)
{
	const struct over_link *link = c->ctx;

	if (link->seconds_most > 0) {
		link_target(s, c, "time", "total_seconds", "s", link->seconds_most);
		link_target(s, c, "time over that of its bytes", "of_wire_time", "", 1.25);
	}
	if (link->late) {
		link_target(s, c, "fault latency, 2 round trips and 200 us", "postcopy.fault_latency_us.p50", "us",
			    2200);
		link_target(s, c, "network faults of the working set (documented)",
			    "postcopy.network_faults_percent_of_working_set", "%", 21);
	}
}

static void report_over_links(struct lab *lab, const struct contender *c, size_t n)
{
	json_t *s = report_section(
		lab->report, "migrate-links", "A real guest's memory over a link",
		"how|total s|of its bytes' time|MB sent|downtime ms|rounds|fault p50 us|faults, % of the "
		"working set|verified");

	report_text(
		s,
		"`dwcp migrate " COMMON " --memory=1GB --dirty-rate=1 --compress=auto --link=PROFILE --image=" IMAGE
		" ARGUMENTS`: 1 GB of a real Debian guest (redis, sqlite, python, gcc), of which 10 MB are written each "
		"second, over an emulated link of 1 ms there and back (`local_network` 1 Gb/s, `fast_ethernet` 100 Mb/s). "
		"Of its bytes' time: the whole time over bytes sent by the link's rate.");
	for (size_t i = 0; i < n; i++) {
		const struct over_link *link = c[i].ctx;
		struct stats_interval mb = scenario_value(&c[i], "bytes_wire");

		mb.median /= 1e6;
		mb.ci95_low /= 1e6;
		mb.ci95_high /= 1e6;
		report_row(s,
			   json_pack("[s, o, o, o, o, o, o, o, s]", c[i].label,
				     json_interval(scenario_value(&c[i], "total_seconds")),
				     json_interval(scenario_value(&c[i], "of_wire_time")), json_interval(mb),
				     json_interval(scenario_value(&c[i], "downtime_ms")),
				     json_interval(scenario_value(&c[i], "n_rounds")),
				     link->late ? json_interval(scenario_value(&c[i], "postcopy.fault_latency_us.p50"))
						: json_null(),
				     link->late ? json_interval(scenario_value(
							  &c[i], "postcopy.network_faults_percent_of_working_set"))
						: json_null(),
				     all_good(&c[i]) ? "yes" : "NO"));
	}
	for (size_t i = 0; i < n; i++)
		link_targets(s, &c[i]);
}

int table_migrate_links(struct lab *lab, struct err *e)
{
	static struct over_link gigabit = { "local_network", 1e9, 3, false };
	static struct over_link slow = { "fast_ethernet", 1e8, 20, false };
	static struct over_link late = { "local_network", 1e9, 0, true };
	struct contender c[] = {
		{ .label = "1 Gb/s", .args = "", .ctx = &gigabit, .run = run_over_link },
		{ .label = "100 Mb/s", .args = "", .ctx = &slow, .run = run_over_link },
		{ .label = "1 Gb/s, post-copy", .args = "--policy=postcopy", .ctx = &late, .run = run_over_link },
	};
	char path[sizeof(lab->images) + sizeof(IMAGE) + 1];
	int rc;

	snprintf(path, sizeof(path), "%s/" IMAGE, lab->images);
	if (access(path, R_OK) < 0) {
		json_t *s = report_section(lab->report, "migrate-links", "A real guest's memory over a link", "how");

		report_text(s, "There is no %s: `make images` makes it (as root, some minutes).", path);
		return 0;
	}
	rc = scenario_run(lab, "migrate-links", c, ARRAY_LEN(c), lab->rounds, e);
	if (rc >= 0)
		report_over_links(lab, c, ARRAY_LEN(c));
	scenario_free(c, ARRAY_LEN(c));
	return rc;
}

/* ---- tracking ----------------------------------------------------------------------------------- */

int table_tracking(struct lab *lab, struct err *e)
{
	struct contender c[] = {
		{ .label = "none", .args = "none", .run = run_tracking },
		{ .label = "uffd", .args = "uffd", .run = run_tracking },
		{ .label = "sigsegv", .args = "sigsegv", .run = run_tracking },
	};
	int rc = scenario_run(lab, "tracking", c, ARRAY_LEN(c), lab->rounds, e);

	if (rc >= 0)
		report_tracking(lab, c, ARRAY_LEN(c));
	scenario_free(c, ARRAY_LEN(c));
	return rc;
}

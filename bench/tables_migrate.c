/* SPDX-License-Identifier: MIT */
/* Migrations of running guests over loopback, and what tracking costs a guest. */
#include "base/util.h"
#include "bench/tables.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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
	report_target(s, "internet mode: fewer bytes (documented 75–85 %, our aim)", saved(&c[2]), "%", AT_LEAST, 85);
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

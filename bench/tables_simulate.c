/* SPDX-License-Identifier: MIT */
/* The simulator against real migrations, calibrated in every round; and many real migrations at once. */
#include "base/util.h"
#include "bench/memory.h"
#include "bench/tables.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUN_TIMEOUT_S 300

#define MOST_MEMORY (5ull << 30) /* that a run takes at both ends */

static int run_words(const struct lab *lab, const char *words, const char *more, json_t **out, struct err *e)
{
	struct command_line cmd = { .n = 0 };
	struct proc_end end = { 0 };
	json_error_t where;
	int rc;

	command_add(&cmd, "%s", lab->dwcp);
	command_words(&cmd, words);
	command_words(&cmd, more);
	rc = proc_run(&cmd, NULL, NULL, RUN_TIMEOUT_S, &end, e);
	if (rc < 0)
		return rc;
	*out = json_loads(end.out, 0, &where);
	free(end.out);
	return *out ? 0 : err_set(e, -EPROTO, "dwcp %s printed no JSON: %s", words, where.text);
}

/* ---- the simulator ----------------------------------------------------------------------------- */

static int run_calibrate(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	char words[4200];
	int rc = memory_warm(MOST_MEMORY, e);

	if (rc < 0)
		return rc;
	snprintf(words, sizeof words, "calibrate --json --turns=3 --output=%s/calibration.yaml", lab->dir);
	return run_words(lab, words, c->args, result, e);
}

static int run_real(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	int rc = memory_warm(MOST_MEMORY, e);

	return rc < 0 ? rc : run_words(lab, "migrate --json --settle=0 --verify=none", c->args, result, e);
}

/* {total_seconds, downtime_ms} as `migrate` has them. */
static int run_simulated(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	char words[4200];
	json_t *all;
	int rc;

	snprintf(words, sizeof words, "simulate --json --same-host --calibration=%s/calibration.yaml", lab->dir);
	rc = run_words(lab, words, c->args, &all, e);
	if (rc < 0)
		return rc;
	*result = json_pack("{s:O, s:O}", "total_seconds",
			    json_object_get(json_object_get(all, "total_seconds"), "p50"), "downtime_ms",
			    json_object_get(json_object_get(all, "downtime_ms"), "p50"));
	json_decref(all);
	return *result ? 0 : err_set(e, -EPROTO, "dwcp simulate %s: no total, no downtime", c->args);
}

static const char *const configurations[] = {
	"--memory=256MB --dirty-rate=0.1",
	"--memory=256MB --dirty-rate=5",
	"--memory=256MB --dirty-rate=20",
	"--memory=512MB --dirty-rate=1",
	"--memory=512MB --dirty-rate=10 --pattern=zipf",
	"--memory=512MB --dirty-rate=1 --streams=1",
	"--memory=512MB --dirty-rate=1 --policy=stopcopy",
	"--memory=1GB --dirty-rate=1",
	"--memory=1GB --dirty-rate=10",
	"--memory=1GB --dirty-rate=5 --working-set=20",
	"--memory=2GB --dirty-rate=1",
	"--memory=256MB --dirty-rate=1 --compress=datacenter",
	"--memory=512MB --dirty-rate=5 --compress=auto",
	"--memory=512MB --dirty-rate=1 --compress=internet",
};
#define CONFIGURATIONS ARRAY_LEN(configurations)

/* How far the simulation is off, in percent; the median over rounds. */
static struct stats_interval off_by(const struct contender *simulated, const struct contender *real, const char *path)
{
	struct stats_interval r = scenario_ratio(simulated, real, path);

	return (struct stats_interval){ 100 * (r.median - 1), 100 * (r.ci95_low - 1), 100 * (r.ci95_high - 1), r.n };
}

static struct stats_interval worst(const struct stats_interval *v, size_t n)
{
	struct stats_interval w = { 0, 0, 0, 0 };

	for (size_t i = 0; i < n; i++)
		if (!(fabs(v[i].median) <= w.median))
			w = (struct stats_interval){ fabs(v[i].median), fabs(v[i].median), fabs(v[i].median), v[i].n };
	return w;
}

static void report_simulated(struct lab *lab, const struct contender *c)
{
	json_t *s = report_section(lab->report, "simulate", "The simulator against real migrations",
				   "configuration|total s, measured|total s, SIMULATED|off by, %|downtime ms, measured|"
				   "downtime ms, SIMULATED|off by, %");
	struct stats_interval total[CONFIGURATIONS], down[CONFIGURATIONS];

	report_text(
		s, "In each round `dwcp calibrate --turns=3`, then for each configuration `dwcp migrate --settle=0 "
		   "--verify=none …` (two processes of this host) and `dwcp simulate --same-host --calibration=… …`. "
		   "Off by: simulated over measured within a round, less one; the median over rounds. 5 GB are written "
		   "and given back before each run.");
	for (size_t i = 0; i < CONFIGURATIONS; i++) {
		const struct contender *real = &c[1 + 2 * i], *simulated = real + 1;

		total[i] = off_by(simulated, real, "total_seconds");
		down[i] = off_by(simulated, real, "downtime_ms");
		report_row(s,
			   json_pack("[s, o, o, o, o, o, o]", configurations[i],
				     json_interval(scenario_value(real, "total_seconds")),
				     json_interval(scenario_value(simulated, "total_seconds")), json_interval(total[i]),
				     json_interval(scenario_value(real, "downtime_ms")),
				     json_interval(scenario_value(simulated, "downtime_ms")), json_interval(down[i])));
	}
	report_target(s, "total time, the worst configuration", worst(total, CONFIGURATIONS), "%", AT_MOST, 10);
	report_target(s, "downtime, the worst configuration", worst(down, CONFIGURATIONS), "%", AT_MOST, 20);
}

int table_simulate(struct lab *lab, struct err *e)
{
	struct contender c[1 + 2 * CONFIGURATIONS] = { { .label = "calibrate", .run = run_calibrate } };
	int rc;

	for (size_t i = 0; i < CONFIGURATIONS; i++) {
		struct contender *real = &c[1 + 2 * i], *simulated = real + 1;

		snprintf(real->label, sizeof real->label, "real %s", configurations[i]);
		snprintf(real->args, sizeof real->args, "%s", configurations[i]);
		*simulated = *real;
		snprintf(simulated->label, sizeof simulated->label, "simulated %s", configurations[i]);
		real->run = run_real;
		simulated->run = run_simulated;
	}
	rc = scenario_run(lab, "simulate", c, ARRAY_LEN(c), lab->rounds, e);
	if (rc >= 0)
		report_simulated(lab, c);
	scenario_free(c, ARRAY_LEN(c));
	return rc;
}

/* ---- many at once ------------------------------------------------------------------------------ */

static int run_many(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	return run_words(lab, "migrate --json --settle=100ms --warm-up=500ms --time-limit=2m", c->args, result, e);
}

/* One guest has no sums of its own. */
static int run_one(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	int rc = run_many(lab, c, result, e);
	double s = rc < 0 ? NAN : json_number_value(json_object_get(*result, "total_seconds"));

	if (rc < 0)
		return rc;
	json_object_set_new(*result, "migrations_per_s", json_number(1 / s));
	json_object_set_new(*result, "makespan_seconds", json_number(s));
	return 0;
}

static void report_many(struct lab *lab, const struct contender *c, size_t n)
{
	json_t *s = report_section(lab->report, "concurrent", "Many migrations at once",
				   "guests|migrations/s|all of them, s|linearity|worst downtime ms|MB each, source|"
				   "MB each, destination");

	report_text(
		s,
		"`dwcp migrate --guests=N …` between two processes of this host. Linearity: migrations per second of "
		"guests at once, over those of one alone of the same size, which has all CPUs to itself. MB each: "
		"memory of a process besides the guests, for each of them.");
	for (size_t i = 0; i < n; i++) {
		const struct contender *alone = c[i].ctx;

		report_row(s, json_pack("[s, o, o, o, o, o, o]", c[i].label,
					json_interval(scenario_value(&c[i], "migrations_per_s")),
					json_interval(scenario_value(&c[i], "makespan_seconds")),
					alone ? json_interval(scenario_ratio(&c[i], alone, "migrations_per_s"))
					      : json_null(),
					json_interval(scenario_value(&c[i], alone ? "downtime_ms_max" : "downtime_ms")),
					json_interval(scenario_value(&c[i], "source_mbytes_per_migration")),
					json_interval(scenario_value(&c[i], "destination_mbytes_per_migration"))));
	}
	report_target(s, "10 of 256 MB: linearity", scenario_ratio(&c[1], &c[0], "migrations_per_s"), "", AT_LEAST, .8);
	report_target(s, "10 of 256 MB, --parallel=2: linearity", scenario_ratio(&c[2], &c[0], "migrations_per_s"), "",
		      AT_LEAST, .8);
	report_target(s, "10 of 256 MB", scenario_value(&c[1], "migrations_per_s"), "migrations/s", AT_LEAST, 1.09);
	report_target(s, "100 of 64 MB: memory for each at the source",
		      scenario_value(&c[5], "source_mbytes_per_migration"), "MB", AT_MOST, 1.2);
}

int table_concurrent(struct lab *lab, struct err *e)
{
	struct contender c[] = {
		{ .label = "1 of 256 MB", .args = "--memory=256MB --dirty-rate=1", .run = run_one },
		{ .label = "10 of 256 MB", .args = "--guests=10 --memory=256MB --dirty-rate=1", .run = run_many },
		{ .label = "10 of 256 MB, --parallel=2",
		  .args = "--guests=10 --parallel=2 --memory=256MB --dirty-rate=1",
		  .run = run_many },
		{ .label = "1 of 64 MB", .args = "--memory=64MB --dirty-rate=1", .run = run_one },
		{ .label = "100 of 64 MB, --parallel=10",
		  .args = "--guests=100 --parallel=10 --memory=64MB --dirty-rate=1",
		  .run = run_many },
		{ .label = "100 of 64 MB",
		  .args = "--guests=100 --memory=64MB --dirty-rate=1 --downtime-limit=1s",
		  .run = run_many },
	};
	enum { ONE_OF_10, TEN, TEN_BY_TWO, ONE_OF_100, HUNDRED_BY_TEN, HUNDRED };
	int rc;

	c[TEN].ctx = c[TEN_BY_TWO].ctx = &c[ONE_OF_10];
	c[HUNDRED].ctx = c[HUNDRED_BY_TEN].ctx = &c[ONE_OF_100];
	rc = scenario_run(lab, "concurrent", c, ARRAY_LEN(c), lab->rounds, e);

	if (rc >= 0)
		report_many(lab, c, ARRAY_LEN(c));
	scenario_free(c, ARRAY_LEN(c));
	return rc;
}

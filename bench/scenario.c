/* SPDX-License-Identifier: MIT */
#include "bench/scenario.h"
#include "base/clock.h"
#include "base/util.h"
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- series ------------------------------------------------------------------------------------ */

static double value_at(const json_t *obj, const char *path)
{
	while (obj && *path) {
		size_t n = strcspn(path, ".");
		char key[64];

		snprintf(key, sizeof(key), "%.*s", (int)n, path);
		obj = json_object_get(obj, key);
		path += n + (path[n] == '.');
	}
	return json_is_number(obj) ? json_number_value(obj) : NAN;
}

size_t scenario_series(const struct contender *c, const char *path, double out[ROUNDS_MAX])
{
	size_t n = min_u64(json_array_size(c->runs), ROUNDS_MAX);

	for (size_t i = 0; i < n; i++)
		out[i] = value_at(json_array_get(c->runs, i), path);
	return n;
}

static struct stats_interval interval_of(const double *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!isfinite(v[i]))
			return (struct stats_interval){ .median = NAN, .ci95_low = NAN, .ci95_high = NAN, .n = n };
	return stats_bootstrap(v, n, 1);
}

struct stats_interval scenario_value(const struct contender *c, const char *path)
{
	double v[ROUNDS_MAX];
	size_t n = scenario_series(c, path, v);

	return interval_of(v, n);
}

struct stats_interval scenario_ratio(const struct contender *a, const struct contender *b, const char *path)
{
	double va[ROUNDS_MAX], vb[ROUNDS_MAX];
	size_t n = min_u64(scenario_series(a, path, va), scenario_series(b, path, vb));

	for (size_t i = 0; i < n; i++)
		va[i] /= vb[i];
	return interval_of(va, n);
}

const struct contender *scenario_best(const struct contender *c, size_t n, const char *path)
{
	const struct contender *best = c;

	for (size_t i = 1; i < n; i++)
		if (scenario_value(&c[i], path).median > scenario_value(best, path).median)
			best = &c[i];
	return best;
}

/* ---- rounds ------------------------------------------------------------------------------------ */

static bool read_cpu(double *busy, double *all)
{
	unsigned long long v[8] = { 0 };
	FILE *f = fopen("/proc/stat", "re");
	int n;

	if (!f)
		return false;
	n = fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6],
		   &v[7]);
	fclose(f);
	*all = 0;
	for (int i = 0; i < 8; i++)
		*all += (double)v[i];
	*busy = *all - (double)v[3] - (double)v[4]; /* without idle and waiting for a disk */
	return n >= 5;
}

double cpu_busy(unsigned ms)
{
	double b0, a0, b1, a1;

	if (!read_cpu(&b0, &a0))
		return NAN;
	poll(NULL, 0, (int)ms);
	return read_cpu(&b1, &a1) && a1 > a0 ? (b1 - b0) / (a1 - a0) : NAN;
}

int scenario_run(struct lab *lab, const char *what, struct contender *c, size_t n, unsigned rounds, struct err *e)
{
	double busy = cpu_busy(500);

	if (busy > lab->busiest)
		lab->busiest = busy;
	if (busy > .1)
		fprintf(stderr, "bench: other programs keep the CPUs %.0f %% busy: these figures are not worth much\n",
			busy * 100);
	for (size_t i = 0; i < n; i++)
		c[i].runs = json_array();
	for (unsigned round = lab->cold_start; round <= rounds; round++) {
		for (size_t i = 0; i < n; i++) {
			/* Back and forth: what one leaves behind would else always meet the same one. */
			struct contender *now = &c[round % 2 || !round ? i : n - 1 - i];
			json_t *result = NULL;
			struct err why = { 0 };
			int rc;

			fprintf(stderr, "bench: %s, %s %u of %u: %s\n", what, round ? "round" : "warm-up",
				round ? round : 1, round ? rounds : 1, now->label);
			rc = now->run(lab, now, &result, &why);
			if (rc < 0)
				return err_set(e, rc, "%s: %s: %s", what, now->label, why.why);
			if (round)
				json_array_append_new(now->runs, result);
			else
				json_decref(result);
		}
	}
	return 0;
}

void scenario_free(struct contender *c, size_t n)
{
	for (size_t i = 0; i < n; i++)
		json_decref(c[i].runs);
}

/* SPDX-License-Identifier: MIT */
/* What `dwcp simulate` prints. Every figure says that it is simulated. */
#include "base/util.h"
#include "cli/simulate.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE "  simulated  %-16s "

/* One figure of every guest that completed. */
struct spread {
	double least, p50, p95, p99, most;
	size_t n;
};

static double total_s(const struct sim_vm *v)
{
	return (double)v->r.total_ns / 1e9;
}

static double downtime_ms(const struct sim_vm *v)
{
	return (double)v->r.downtime_ns / 1e6;
}

static double rounds_of(const struct sim_vm *v)
{
	return v->r.n_rounds + v->r.more_rounds;
}

static struct spread spread_of(const struct simulate *s, double (*of)(const struct sim_vm *v))
{
	double *v = calloc(s->cfg.vms, sizeof *v);
	struct spread x = { NAN, NAN, NAN, NAN, NAN, 0 };

	for (unsigned i = 0; v && i < s->cfg.vms; i++)
		if (s->vms[i].r.outcome == OUTCOME_COMPLETED)
			v[x.n++] = of(&s->vms[i]);
	if (x.n) {
		x.p50 = stats_quantile(v, x.n, .5);
		x.p95 = stats_quantile(v, x.n, .95);
		x.p99 = stats_quantile(v, x.n, .99);
		x.least = v[0];
		x.most = v[x.n - 1];
	}
	free(v);
	return x;
}

static double makespan_s(const struct simulate *s)
{
	return (double)s->totals.makespan_ns / 1e9;
}

static double per_s(const struct simulate *s, double what)
{
	return s->totals.makespan_ns ? what / makespan_s(s) : 0;
}

/* ---- text -------------------------------------------------------------------------------------- */

static void print_head(const struct simulate *s)
{
	const struct sim_config *c = &s->cfg;
	char low[32], high[32], rate[32];

	printf("SIMULATED, nothing here was measured: %u guest%s of %s", c->vms, c->vms == 1 ? "" : "s",
	       format_size(low, sizeof low, c->memory_min));
	if (c->memory_max > c->memory_min)
		printf(" to %s", format_size(high, sizeof high, c->memory_max));
	printf(", dirtying %g", c->dirty_min);
	if (c->dirty_max > c->dirty_min)
		printf(" to %g", c->dirty_max);
	printf(" %%/s (%s), policy %s", synth_pattern_names[c->pattern], migrate_policies[s->opts.policy].name);
	if (c->hde != HDE_NONE)
		printf(", --compress=%s", hde_mode_names[c->hde]);
	if (c->bits_per_s > 0)
		printf(", %u link%s of %s", c->links, c->links == 1 ? "" : "s",
		       format_rate(rate, sizeof rate, c->bits_per_s));
	else
		printf(", links that are no limit");
	printf(c->same_host ? ", both ends on one host" : "");
	printf("; costs from %s, seed %llu\n",
	       s->opts.calibration[0] ? s->opts.calibration : "the built-in calibration", (unsigned long long)c->seed);
}

static void print_rounds(const struct migrate_result *r)
{
	puts("  simulated  round      pages     MB wire   seconds   dirtied MB/s");
	for (unsigned i = 0; i < r->n_rounds; i++) {
		const struct migrate_round *x = &r->rounds[i];

		printf("  simulated  %5u %10llu %11.2f %9.4f %14.2f%s\n", i + 1, (unsigned long long)x->pages,
		       (double)x->bytes_wire / 1e6, (double)x->ns / 1e9, x->dirty_pages_per_s * GUEST_PAGE / 1e6,
		       x->paused ? "  paused" : "");
	}
}

static void print_details(const struct simulate *s)
{
	puts("  simulated  guest  link  memory MB  dirty %/s  waited s   total s  downtime ms  rounds  tries  outcome");
	for (unsigned i = 0; i < s->cfg.vms; i++) {
		const struct sim_vm *v = &s->vms[i];

		printf("  simulated  %5u %5u %10.0f %10.2f %9.2f %9.3f %12.2f %7.0f %6u  %s\n", i, v->link,
		       (double)v->memory / (1 << 20), v->dirty_rate, (double)(v->began_ns - v->asked_ns) / 1e9,
		       total_s(v), downtime_ms(v), rounds_of(v), v->tries, migrate_outcome_name(v->r.outcome));
	}
}

static void print_spread(const struct simulate *s, const char *name, const char *unit,
			 double (*of)(const struct sim_vm *v))
{
	struct spread x = spread_of(s, of);

	if (x.n == 1)
		printf(LINE "%.2f %s\n", name, x.p50, unit);
	else if (x.n)
		printf(LINE "median %.2f %s, p95 %.2f, p99 %.2f, %.2f to %.2f\n", name, x.p50, unit, x.p95, x.p99,
		       x.least, x.most);
}

void simulate_print(const struct simulate *s)
{
	const struct sim_totals *t = &s->totals;

	print_head(s);
	if (s->cfg.vms == 1)
		print_rounds(&s->vms[0].r);
	if (s->opts.details)
		print_details(s);
	printf(LINE "%u completed, %u rolled back, %u in doubt; %u failures, %u outages\n", "outcomes", t->completed,
	       t->rolled_back, t->in_doubt, t->failures, t->outages);
	print_spread(s, "total", "s", total_s);
	print_spread(s, "downtime", "ms", downtime_ms);
	print_spread(s, "rounds", "rounds", rounds_of);
	printf(LINE "%.3f s; %.3f migrations/s, %.3f GB/s of guest memory, %.2f GB on the wire\n", "all of them",
	       makespan_s(s), per_s(s, t->completed), per_s(s, (double)t->bytes_memory) / 1e9,
	       (double)t->bytes_wire / 1e9);
	if (s->cfg.vms > 1)
		printf(LINE "%.2f: one after the other they would take %.2f s on each link, at once %.2f\n",
		       "linearity", t->linearity, t->alone_s, makespan_s(s));
	printf(LINE "%.0f %%: the busiest of CPUs and links needs %.2f s for every page once\n", "efficiency",
	       100 * t->efficiency, t->least_s);
	printf("  (the simulation itself took %.2f s and %zu bytes of memory for each guest, %llu events)\n",
	       s->seconds, t->vm_bytes, (unsigned long long)t->events);
	fflush(stdout);
}

/* ---- JSON -------------------------------------------------------------------------------------- */

static json_t *spread_json(const struct simulate *s, double (*of)(const struct sim_vm *v))
{
	struct spread x = spread_of(s, of);

	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:I}", "min", json_number(x.least), "p50", json_number(x.p50),
			 "p95", json_number(x.p95), "p99", json_number(x.p99), "max", json_number(x.most), "n",
			 (json_int_t)x.n);
}

static json_t *rounds_json(const struct migrate_result *r)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < r->n_rounds; i++) {
		const struct migrate_round *x = &r->rounds[i];

		json_array_append_new(
			list, json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:b}", "pages", (json_int_t)x->pages,
					"bytes_raw", (json_int_t)x->pages * GUEST_PAGE, "bytes_wire",
					(json_int_t)x->bytes_wire, "seconds", (double)x->ns / 1e9, "dirty_pages_per_s",
					x->dirty_pages_per_s, "bandwidth_mbytes_per_s",
					x->ns ? (double)x->bytes_wire * 1e3 / (double)x->ns : 0, "paused", x->paused));
	}
	return list;
}

static json_t *parts_json(const struct migrate_blackout *b)
{
	return json_pack("{s:f, s:f, s:f, s:f, s:f}", "pause", (double)b->pause_ns / 1e6, "look",
			 (double)b->look_ns / 1e6, "transfer", (double)b->transfer_ns / 1e6, "state",
			 (double)b->ready_ns / 1e6, "start", (double)b->start_ns / 1e6);
}

/* The fields of `migrate`, for one guest. */
static json_t *guest_json(const struct sim_vm *v)
{
	const struct migrate_result *r = &v->r;
	bool completed = r->outcome == OUTCOME_COMPLETED;

	return json_pack("{s:I, s:f, s:i, s:f, s:f, s:f, s:o, s:o, s:o, s:i, s:I, s:I, s:I, s:i, s:i, s:i, s:s}",
			 "memory_bytes", (json_int_t)v->memory, "dirty_percent_per_s", v->dirty_rate, "link",
			 (int)v->link, "asked_seconds", (double)v->asked_ns / 1e9, "began_seconds",
			 (double)v->began_ns / 1e9, "total_seconds", total_s(v), "downtime_ms",
			 completed ? json_real(downtime_ms(v)) : json_null(), "downtime_parts_ms",
			 completed ? parts_json(&r->blackout) : json_null(), "rounds", rounds_json(r), "n_rounds",
			 (int)rounds_of(v), "bytes_wire", (json_int_t)r->bytes_wire, "zero_pages",
			 (json_int_t)r->zero_pages, "delta_pages", (json_int_t)r->delta_pages, "throttle_percent",
			 (int)r->throttle, "tries", (int)v->tries, "failures", (int)v->failures, "outcome",
			 migrate_outcome_name(r->outcome));
}

static json_t *totals_json(const struct simulate *s)
{
	const struct sim_totals *t = &s->totals;

	return json_pack(
		"{s:b, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:I, s:I, s:f, s:f, s:f, s:f, s:o, s:o, s:o, s:I, s:I, s:f}",
		"simulated", true, "vms", (int)s->cfg.vms, "completed", (int)t->completed, "rolled_back",
		(int)t->rolled_back, "in_doubt", (int)t->in_doubt, "failures", (int)t->failures, "outages",
		(int)t->outages, "makespan_seconds", makespan_s(s), "migrations_per_s", per_s(s, t->completed),
		"memory_gbytes_per_s", per_s(s, (double)t->bytes_memory) / 1e9, "bytes_memory",
		(json_int_t)t->bytes_memory, "bytes_wire", (json_int_t)t->bytes_wire, "alone_seconds", t->alone_s,
		"least_seconds", t->least_s, "linearity", t->linearity, "efficiency", t->efficiency, "total_seconds",
		spread_json(s, total_s), "downtime_ms", spread_json(s, downtime_ms), "rounds",
		spread_json(s, rounds_of), "events", (json_int_t)t->events, "bytes_per_vm", (json_int_t)t->vm_bytes,
		"simulation_seconds", s->seconds);
}

static json_t *config_json(const struct simulate *s)
{
	const struct sim_config *c = &s->cfg;

	return json_pack("{s:I, s:I, s:f, s:f, s:s, s:s, s:s, s:f, s:f, s:i, s:i, s:i, s:i, s:b, s:I, s:s?, s:o}",
			 "memory_bytes_min", (json_int_t)c->memory_min, "memory_bytes_max", (json_int_t)c->memory_max,
			 "dirty_percent_per_s_min", c->dirty_min, "dirty_percent_per_s_max", c->dirty_max, "pattern",
			 synth_pattern_names[c->pattern], "policy", migrate_policies[s->opts.policy].name, "compress",
			 hde_mode_names[c->hde], "link_mbps", c->bits_per_s / 1e6, "rtt_ms", (double)c->rtt_ns / 1e6,
			 "links", (int)c->links, "parallel", (int)c->parallel, "streams", (int)s->opts.streams,
			 "workers", (int)c->workers, "same_host", c->same_host, "seed", (json_int_t)c->seed,
			 "calibration", s->opts.calibration[0] ? s->opts.calibration : NULL, "rates",
			 sim_rates_json(&s->rates));
}

int simulate_print_json(const struct simulate *s, const char *path, struct err *e)
{
	json_t *result = json_result("simulate", false), *part = totals_json(s);
	int rc;

	json_object_update(result, part);
	json_decref(part);
	json_object_set_new(result, "config", config_json(s));
	if (s->cfg.vms == 1 || s->opts.details) {
		json_t *list = json_array();

		for (unsigned i = 0; i < s->cfg.vms; i++)
			json_array_append_new(list, guest_json(&s->vms[i]));
		json_object_set_new(result, "migrations", list);
	}
	rc = json_write(result, path, e);
	json_decref(result);
	return rc;
}

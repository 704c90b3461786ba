/* SPDX-License-Identifier: MIT */
/* When what happened in a migration: as text, and as a picture. */
#include "base/util.h"
#include "cli/migrate.h"
#include "cli/plot.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define BAR 60

static double mbytes_per_s(uint64_t bytes, uint64_t ns)
{
	return ns ? (double)bytes * 1e3 / (double)ns : 0;
}

/* ---- text -------------------------------------------------------------------------------------- */

static void print_span(const char *what, uint64_t from, uint64_t len, uint64_t total, char mark)
{
	unsigned at = (unsigned)min_u64(from * BAR / total, BAR - 1);
	unsigned n = (unsigned)min_u64(max_u64((len * BAR + total / 2) / total, 1), BAR - at);
	char bar[BAR + 1];

	memset(bar, ' ', BAR);
	memset(bar + at, mark, n);
	bar[BAR] = 0;
	printf("  %-12s |%s| %9.3f s + %.4f s\n", what, bar, (double)from / 1e9, (double)len / 1e9);
}

/* The guest stands still from the request to pause, which comes before the last round, for as long as was measured. */
static uint64_t blackout_began(const struct migrate_result *r)
{
	for (unsigned i = 0; i < r->n_rounds; i++)
		if (r->rounds[i].paused)
			return r->rounds[i].at_ns -
			       min_u64(r->rounds[i].at_ns, r->blackout.pause_ns + r->blackout.look_ns);
	return r->total_ns - min_u64(r->total_ns, r->downtime_ns);
}

void migrate_print_timeline(const struct migrate_cmd *m)
{
	const struct migrate_result *r = &m->result;
	char what[32];

	if (!r->total_ns || !r->n_rounds)
		return;
	printf("  timeline     0%*.3f s\n", BAR, (double)r->total_ns / 1e9);
	print_span("prepare", 0, r->prepare_ns, r->total_ns, '.');
	for (unsigned i = 0; i < r->n_rounds; i++) {
		snprintf(what, sizeof(what), "round %u", i + 1);
		print_span(what, r->rounds[i].at_ns, r->rounds[i].ns, r->total_ns, r->rounds[i].paused ? 'X' : '#');
	}
	if (r->more_rounds)
		printf("  … and %u more rounds\n", r->more_rounds);
	if (r->outcome == OUTCOME_COMPLETED)
		print_span("stands still", blackout_began(r), r->downtime_ns, r->total_ns, 'X');
}

/* ---- picture ----------------------------------------------------------------------------------- */

static double highest(const struct migrate_result *r)
{
	double most = 1;

	for (unsigned i = 0; i < r->n_rounds; i++) {
		most = fmax(most, mbytes_per_s(r->rounds[i].bytes_wire, r->rounds[i].ns));
		most = fmax(most, r->rounds[i].dirty_pages_per_s * GUEST_PAGE / 1e6);
	}
	return most;
}

static void box(FILE *f, uint64_t from, uint64_t len, double height)
{
	double a = (double)from / 1e9, b = a + (double)len / 1e9;

	fprintf(f, "%.6f %.6f %.6f %.6f 0 %.6f\n", (a + b) / 2, height / 2, a, b, height);
}

static void script(const void *ctx, FILE *f)
{
	const struct migrate_cmd *m = ctx;
	const struct migrate_result *r = &m->result;
	bool completed = r->outcome == OUTCOME_COMPLETED;

	fprintf(f,
		"set title \"%s of %.2f GB, %s: %s, downtime %.2f ms\"\n"
		"set xlabel 'seconds'\nset ylabel 'MB/s'\nset xrange [0:%.6f]\nset yrange [0:%.3f]\nset grid\n"
		"set key below\nset style fill solid 0.5 border -1\n"
		"plot '-' using 1:2:3:4:5:6 with boxxyerror lc rgb '#4477aa' title 'rounds: on the wire'",
		m->kind->name, (double)m->opts.memory / 1e9, migrate_policies[m->opts.policy].name,
		migrate_outcome_name(r->outcome), (double)r->downtime_ns / 1e6, (double)r->total_ns / 1e9,
		highest(r) * 1.25);
	if (completed)
		fputs(", '-' using 1:2:3:4:5:6 with boxxyerror lc rgb '#cc3311' title 'the guest stands still'", f);
	fputs(", '-' using 1:2 with linespoints lw 2 lc rgb '#000000' title 'dirtied before the round'\n", f);
	for (unsigned i = 0; i < r->n_rounds; i++)
		box(f, r->rounds[i].at_ns, r->rounds[i].ns, mbytes_per_s(r->rounds[i].bytes_wire, r->rounds[i].ns));
	fputs("e\n", f);
	if (completed) {
		box(f, blackout_began(r), r->downtime_ns, highest(r) * 1.1);
		fputs("e\n", f);
	}
	for (unsigned i = 0; i < r->n_rounds; i++)
		fprintf(f, "%.6f %.6f\n", (double)r->rounds[i].at_ns / 1e9,
			r->rounds[i].dirty_pages_per_s * GUEST_PAGE / 1e6);
	fputs("e\n", f);
}

int migrate_plot(const struct migrate_cmd *m, const char *path, struct err *e)
{
	return plot_draw(path, 900, 450, script, m, e);
}

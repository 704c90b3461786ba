/* SPDX-License-Identifier: MIT */
#include "bench/report.h"
#include "base/util.h"
#include <math.h>
#include <stdarg.h>
#include <string.h>

#define COLUMNS 16
#define CELL 112

static const char dashes[] =
	"--------------------------------------------------------------------------------------------"
	"--------------------";

json_t *report_new(const char *command, json_t *settings)
{
	json_t *report = json_result(command, true);

	json_object_set_new(report, "settings", settings);
	json_object_set_new(report, "sections", json_array());
	return report;
}

json_t *report_section(json_t *report, const char *name, const char *title, const char *columns)
{
	json_t *section = json_pack("{s:s, s:s, s:s, s:[], s:[], s:[]}", "name", name, "title", title, "text", "",
				    "columns", "rows", "targets");
	json_t *list = json_object_get(section, "columns");

	for (const char *c = columns; *c;) {
		size_t n = strcspn(c, "|");

		json_array_append_new(list, json_stringn(c, n));
		c += n + (c[n] == '|');
	}
	json_array_append_new(json_object_get(report, "sections"), section);
	return section;
}

void report_text(json_t *section, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	json_object_set_new(section, "text", json_vsprintf(fmt, ap));
	va_end(ap);
}

void report_row(json_t *section, json_t *cells)
{
	json_array_append_new(json_object_get(section, "rows"), cells);
}

void report_target(json_t *section, const char *what, struct stats_interval value, const char *unit,
		   enum report_rule rule, double target)
{
	bool met = rule == AT_LEAST ? value.median >= target : value.median <= target;

	json_array_append_new(json_object_get(section, "targets"),
			      json_pack("{s:s, s:s, s:f, s:s, s:o, s:b}", "what", what, "rule",
					rule == AT_LEAST ? "at_least" : "at_most", "target", target, "unit", unit,
					"value", json_interval(value), "met", met));
}

static json_t *targets_of(const json_t *report, size_t section)
{
	return json_object_get(json_array_get(json_object_get(report, "sections"), section), "targets");
}

static size_t sections_of(const json_t *report)
{
	return json_array_size(json_object_get(report, "sections"));
}

unsigned report_missed(const json_t *report)
{
	unsigned missed = 0;

	for (size_t i = 0; i < sections_of(report); i++)
		for (size_t j = 0; j < json_array_size(targets_of(report, i)); j++)
			missed += !json_is_true(json_object_get(json_array_get(targets_of(report, i), j), "met"));
	return missed;
}

/* ---- printing ---------------------------------------------------------------------------------- */

/* Three significant digits, which is more than any of it is sure of. */
static void number(char *out, size_t cap, double v)
{
	int decimals = v == 0 || fabs(v) >= 100 ? 0 : fabs(v) >= 10 ? 1 : fabs(v) >= .1 ? 2 : fabs(v) >= .001 ? 4 : 6;

	snprintf(out, cap, "%.*f", decimals, v);
}

static void cell(char *out, size_t cap, const json_t *v)
{
	char m[32], low[32], high[32];

	snprintf(out, cap, "–");
	if (json_is_string(v))
		snprintf(out, cap, "%s", json_string_value(v));
	if (json_is_integer(v))
		snprintf(out, cap, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
	if (json_is_real(v))
		number(out, cap, json_real_value(v));
	if (!json_is_real(json_object_get(v, "median")))
		return;
	number(m, sizeof(m), json_real_value(json_object_get(v, "median")));
	number(low, sizeof(low), json_real_value(json_object_get(v, "ci95_low")));
	number(high, sizeof(high), json_real_value(json_object_get(v, "ci95_high")));
	if (json_integer_value(json_object_get(v, "n")) > 1)
		snprintf(out, cap, "%s [%s, %s]", m, low, high);
	else
		snprintf(out, cap, "%s", m);
}

/* Columns of a terminal that UTF-8 text takes; nothing here is wide or combining. */
static int width(const char *s)
{
	int n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static void print_row(const char *const *cells, const int *widths, size_t n, FILE *out)
{
	for (size_t c = 0; c < n; c++) {
		int space = widths[c] - width(cells[c]);

		fprintf(out, "| %*s%s%*s ", c ? space : 0, "", cells[c], c ? 0 : space, "");
	}
	fprintf(out, "|\n");
}

/* First the widths, then the rows: the same table reads well as text. */
static void print_table(const json_t *columns, const json_t *rows, FILE *out)
{
	size_t n = min_u64(json_array_size(columns), COLUMNS), lines = json_array_size(rows);
	char text[COLUMNS][CELL];
	const char *cells[COLUMNS];
	int widths[COLUMNS] = { 0 };

	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = 0; i <= lines; i++) {
			const json_t *row = i ? json_array_get(rows, i - 1) : columns;

			for (size_t c = 0; c < n; c++) {
				cell(text[c], CELL, json_array_get(row, c));
				cells[c] = text[c];
				widths[c] = width(cells[c]) > widths[c] ? width(cells[c]) : widths[c];
			}
			if (!pass)
				continue;
			print_row(cells, widths, n, out);
			for (size_t c = 0; i == 0 && c < n; c++)
				fprintf(out, "|%.*s%s%s", widths[c], dashes, c ? "-:" : "--", c + 1 == n ? "|\n" : "");
		}
	}
}

void report_print_section(const json_t *section, FILE *out)
{
	fprintf(out, "### %s\n\n%s\n\n", json_string_value(json_object_get(section, "title")),
		json_string_value(json_object_get(section, "text")));
	print_table(json_object_get(section, "columns"), json_object_get(section, "rows"), out);
	fprintf(out, "\n");
}

static json_t *target_row(const json_t *t)
{
	const json_t *value = json_object_get(t, "value");
	const char *unit = json_string_value(json_object_get(t, "unit"));
	bool least = strcmp(json_string_value(json_object_get(t, "rule")), "at_least") == 0;
	char limit[32], text[CELL];

	number(limit, sizeof(limit), json_real_value(json_object_get(t, "target")));
	cell(text, sizeof(text), value);
	return json_pack("[o, o, o, I, s]", json_incref(json_object_get(t, "what")),
			 json_sprintf("%s %s%s%s", least ? "≥" : "≤", limit, *unit ? " " : "", unit),
			 json_sprintf("%s%s%s", text, *unit ? " " : "", unit),
			 json_integer_value(json_object_get(value, "n")),
			 json_is_true(json_object_get(t, "met")) ? "met" : "**missed**");
}

void report_print_targets(const json_t *report, FILE *out)
{
	json_t *columns = json_pack("[s, s, s, s, s]", "what", "target", "measured, median [95 %]", "n", "");
	json_t *rows = json_array();

	for (size_t i = 0; i < sections_of(report); i++)
		for (size_t j = 0; j < json_array_size(targets_of(report, i)); j++)
			json_array_append_new(rows, target_row(json_array_get(targets_of(report, i), j)));
	fprintf(out, "### Targets\n\n");
	print_table(columns, rows, out);
	fprintf(out, "\n");
	json_decref(columns);
	json_decref(rows);
}

static const char *of(const json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "?";
}

void report_print(const json_t *report, FILE *out)
{
	const json_t *env = json_object_get(report, "environment");

	fprintf(out,
		"Measured on %s, %" JSON_INTEGER_FORMAT
		" CPUs, %s, commit `%s`, %s, %s. GB/s are 10^9 bytes per second;\n",
		of(env, "cpu"), json_integer_value(json_object_get(env, "cpus")), of(env, "kernel"), of(env, "commit"),
		of(env, "compiler"), of(env, "date"));
	fprintf(out,
		"a value is the median of n runs, in brackets the 95 %% interval of the median (bootstrap). Runs that\n"
		"are compared took turns; a ratio is the median of the ratios of each turn.\n\n");
	if (json_number_value(json_object_get(report, "cpu_busy_before_most")) > .1)
		fprintf(out, "**The machine was not idle: other programs kept its CPUs up to %.0f %% busy.**\n\n",
			100 * json_number_value(json_object_get(report, "cpu_busy_before_most")));
	report_print_targets(report, out);
	for (size_t i = 0; i < sections_of(report); i++)
		report_print_section(json_array_get(json_object_get(report, "sections"), i), out);
}

/* SPDX-License-Identifier: MIT */
/*
 * What a run of the benchmarks found: sections with a table each, and targets met or missed. One jansson object is the
 * whole state; Markdown and the terminal's text are printed from it, so they cannot differ from the JSON.
 */
#ifndef DWCP_BENCH_REPORT_H
#define DWCP_BENCH_REPORT_H

#include "base/json.h"
#include <stdio.h>

enum report_rule { AT_LEAST, AT_MOST };

/* The environment is the machine's and this build's. `settings` is what was asked for (stolen). */
json_t *report_new(const char *command, json_t *settings);

/* A section: `text` says in a sentence or two what is compared and how it was run. `columns` are separated by '|'. */
json_t *report_section(json_t *report, const char *name, const char *title, const char *columns);
void report_text(json_t *section, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* `cells` is an array of strings, numbers, null and json_interval objects, one per column; stolen. */
void report_row(json_t *section, json_t *cells);
/* One line of the table of targets. A value that is not finite is missed. */
void report_target(json_t *section, const char *what, struct stats_interval value, const char *unit,
		   enum report_rule rule, double target);

unsigned report_missed(const json_t *report);
void report_print_section(const json_t *section, FILE *out); /* Markdown, which reads well enough on a terminal */
void report_print_targets(const json_t *report, FILE *out);
void report_print(const json_t *report, FILE *out); /* all of it */

#endif

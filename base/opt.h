/* SPDX-License-Identifier: MIT */
/*
 * Option tables. One table of a module gives its flags, its YAML keys, its
 * --help and its part of docs/OPTIONS.md.
 *
 * A row describes one field of the module's option struct. Values are stored by
 * type: OPT_BOOL bool, OPT_U32 uint32_t, OPT_SIZE uint64_t bytes, OPT_RATE
 * uint64_t bits per second, OPT_TIME uint64_t nanoseconds, OPT_F64 double,
 * OPT_ENUM int (index into `values`), OPT_STR char[max] in place (max is the
 * size of the field, the NUL included).
 *
 * Syntax: sizes `4096 64KB 4MB 1GB` (1024-based; KiB, k, K accepted), rates
 * `1Gbps 500Mbps 2.5Gbps` (1000-based), times `250us 10ms 5s 30m 24h`. A number
 * without a unit is bytes, bits per second, or seconds. An OPT_F64 whose unit is "%" may be written with it. `auto`, where a row
 * allows it, stores 0 (or ""), whatever the range. '-' and '_' in names are the same.
 */
#ifndef DWCP_BASE_OPT_H
#define DWCP_BASE_OPT_H

#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum opt_type { OPT_BOOL, OPT_U32, OPT_SIZE, OPT_RATE, OPT_TIME, OPT_F64, OPT_ENUM, OPT_STR };

struct opt {
	const char *name;  /* long flag without dashes, e.g. "chunk-size" */
	const char *alias; /* second accepted name (the documented YAML name), or NULL */
	char letter;       /* short flag, or 0 */
	enum opt_type type;
	size_t offset;              /* offsetof() in the option struct */
	const char *def;            /* default, in the same syntax as a user writes */
	uint64_t min, max;          /* inclusive, stored unit; max 0 = no limit; STR: max = field size */
	bool auto_ok;               /* `auto` is a value and stores 0 */
	const char *optional_value; /* the value of a bare `--name` (e.g. --json), or NULL */
	const char *const *values;  /* OPT_ENUM: NULL-terminated names */
	const char *unit; /* shown in help where the type does not tell; the placeholder of OPT_STR; or NULL */
	const char *help; /* one line, lower case, no full stop */
};

/* One module's table bound to one option struct. */
struct opt_group {
	const char *name; /* YAML section and heading, e.g. "tcp" */
	const char *help; /* heading text in --help and docs */
	const struct opt *rows;
	size_t n;
	void *base;  /* the option struct */
	bool *given; /* NULL, or n flags: a file or the command line gave a value; opt_defaults clears them */
};

/* Sets every field of every group to its default. A default that does not parse is a bug (assert). */
void opt_defaults(const struct opt_group *groups, size_t n);

/*
 * Parses argv[1..argc). Flags are `--name value`, `--name=value`, `--name` and
 * `--no-name` for OPT_BOOL, `-x value` or `-xvalue` for letters; `--` ends them; the rest
 * are operands, moved in order to argv[0..*n_operands); where n_operands is NULL they are
 * an error. `--config FILE` is
 * understood by itself: the file is loaded before any flag takes effect, so
 * the command line wins wherever it stands. `sections` names the YAML sections
 * that other commands use (NULL-terminated, may be NULL): they are skipped,
 * any other unknown section or key is an error that names file and line.
 * `--help`/`-h` anywhere returns 1 without further work.
 * Returns 0, 1 (help wanted) or -EINVAL with *e filled (names flag, value,
 * range or nearest known flag); other codes when the config file cannot be read.
 */
int opt_parse(const struct opt_group *groups, size_t n, const char *const *sections, int argc, char **argv,
	      int *n_operands, struct err *e);

/* Loads one YAML file: a map of section name → map of option → scalar. An option may also stand by
 * itself, outside any section. Only comments: nothing is set; an empty file is an error. */
int opt_load_yaml(const struct opt_group *groups, size_t n, const char *const *sections, const char *path,
		  struct err *e);

/* Sets one option from text, as the parser does. */
int opt_set(const struct opt_group *groups, size_t n, const char *name, const char *value, struct err *e);

/* Writes aligned help lines: flag, value syntax, default, range, help. */
void opt_help(const struct opt_group *groups, size_t n, FILE *out);

/* Writes a Markdown table per group (docs/OPTIONS.md). */
void opt_markdown(const struct opt_group *groups, size_t n, FILE *out);

/* Scalars in the syntax above; 0 or -EINVAL / -ERANGE. Whole string or nothing. */
int parse_size(const char *s, uint64_t *bytes);
int parse_rate(const char *s, uint64_t *bits_per_s);
int parse_time(const char *s, uint64_t *ns);

/* Human forms into buf ("256 KB", "1.5 Gbps", "12.3 ms"); return buf. */
char *format_size(char *buf, size_t cap, uint64_t bytes);
char *format_rate(char *buf, size_t cap, double bits_per_s);
char *format_time(char *buf, size_t cap, uint64_t ns);

#endif

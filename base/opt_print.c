/* SPDX-License-Identifier: MIT */
/* Option tables as --help and as Markdown. */
#include "base/opt_table.h"
#include "base/util.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define HELP_COLUMN 30 /* help text starts here; longer flags get a line of their own */
#define MIN_WIDTH 80
#define MAX_WIDTH 120
#define ENUM_INLINE 36 /* longer lists of values go into the text */

char *opt_values(const struct opt *row, const char *separator, const char *last, char *buf, size_t cap)
{
	size_t used = 0;

	buf[0] = 0;
	for (size_t i = 0; row->values[i] && used < cap; i++) {
		const char *before = i == 0 ? "" : row->values[i + 1] ? separator : last;
		int n = snprintf(buf + used, cap - used, "%s%s", before, row->values[i]);

		if (n < 0)
			break;
		used += (size_t)n;
	}
	return buf;
}

char *opt_syntax(const struct opt *row, char *buf, size_t cap)
{
	static const char *const words[] = {
		[OPT_BOOL] = "",     [OPT_U32] = "N", [OPT_SIZE] = "SIZE", [OPT_RATE] = "RATE",
		[OPT_TIME] = "TIME", [OPT_F64] = "X", [OPT_ENUM] = "NAME", [OPT_STR] = "TEXT",
	};
	const char *word = words[row->type];

	if (row->type == OPT_ENUM && strlen(opt_values(row, "|", "|", buf, cap)) <= ENUM_INLINE)
		return buf;
	if (row->type == OPT_STR && row->unit)
		word = row->unit;
	snprintf(buf, cap, "%s%s", word, row->auto_ok ? "|auto" : "");
	return buf;
}

/* A limit in round figures, if they say exactly the same. */
static void put_limit(enum opt_type type, uint64_t v, char *buf, size_t cap)
{
	uint64_t back = ~v;
	int rc = -1;

	if (type == OPT_SIZE)
		rc = parse_size(format_size(buf, cap, v), &back);
	else if (type == OPT_RATE)
		rc = parse_rate(format_rate(buf, cap, (double)v), &back);
	else if (type == OPT_TIME)
		rc = parse_time(format_time(buf, cap, v), &back);
	if (rc || back != v)
		snprintf(buf, cap, "%" PRIu64 "%s", v,
			 type == OPT_TIME   ? " ns"
			 : type == OPT_SIZE ? " B"
			 : type == OPT_RATE ? " bps"
					    : "");
}

char *opt_range(const struct opt *row, char *buf, size_t cap)
{
	char low[32], high[32];

	buf[0] = 0;
	if (row->type == OPT_BOOL || row->type == OPT_ENUM || row->type == OPT_STR)
		return buf;
	put_limit(row->type, row->min, low, sizeof low);
	put_limit(row->type, row->max, high, sizeof high);
	if (row->max)
		snprintf(buf, cap, "%s to %s", row->min ? low : "0", high);
	else if (row->min)
		snprintf(buf, cap, "at least %s", low);
	return buf;
}

/* "64", "30 streams", "" when there is nothing to tell */
static char *default_text(const struct opt *row, char *buf, size_t cap)
{
	bool unit = row->unit && row->type != OPT_STR && row->def && strcmp(row->def, "auto") != 0;

	snprintf(buf, cap, "%s%s%s", row->def ? row->def : "", unit ? " " : "", unit ? row->unit : "");
	return buf;
}

/* "(default 4, range 1 to 512)" */
static void remarks(const struct opt *row, char *buf, size_t cap)
{
	char range[96], def[96];

	opt_range(row, range, sizeof range);
	default_text(row, def, sizeof def);
	if (*def && *range)
		snprintf(buf, cap, "(default %s, range %s)", def, range);
	else if (*def)
		snprintf(buf, cap, "(default %s)", def);
	else if (*range)
		snprintf(buf, cap, "(range %s)", range);
	else
		buf[0] = 0;
}

static void flag_text(const struct opt *row, char *buf, size_t cap)
{
	char syntax[96];
	char letter[8] = "    ";
	bool on = row->type == OPT_BOOL && row->def &&
		  (strcmp(row->def, "yes") == 0 || strcmp(row->def, "true") == 0 || strcmp(row->def, "on") == 0);

	if (row->letter)
		snprintf(letter, sizeof letter, "-%c, ", row->letter);
	opt_syntax(row, syntax, sizeof syntax);
	if (row->type == OPT_BOOL)
		snprintf(buf, cap, "  %s--%s%s", letter, on ? "[no-]" : "", row->name);
	else if (row->optional_value)
		snprintf(buf, cap, "  %s--%s[=%s]", letter, row->name, syntax);
	else
		snprintf(buf, cap, "  %s--%s %s", letter, row->name, syntax);
}

static int terminal_width(FILE *out)
{
	struct winsize w;
	int fd = fileno(out);

	if (fd < 0 || ioctl(fd, TIOCGWINSZ, &w) < 0 || w.ws_col < MIN_WIDTH)
		return MIN_WIDTH;
	return w.ws_col < MAX_WIDTH ? w.ws_col : MAX_WIDTH;
}

/* Puts words from column *at on; a word that would pass the width starts a line at HELP_COLUMN. */
static void put_words(const char *text, int *at, int width, FILE *out)
{
	while (*text) {
		int len = (int)strcspn(text, " ");

		if (*at > HELP_COLUMN && *at + 1 + len > width) {
			fprintf(out, "\n%*s", HELP_COLUMN, "");
			*at = HELP_COLUMN;
		}
		if (*at > HELP_COLUMN) {
			fputc(' ', out);
			++*at;
		}
		fprintf(out, "%.*s", len, text);
		*at += len;
		text += len;
		text += strspn(text, " ");
	}
}

/* Starts a line rather than break a remark that fits on one. */
static void put_remark(const char *text, int *at, int width, FILE *out)
{
	int len = (int)strlen(text);

	if (len && *at > HELP_COLUMN && *at + 1 + len > width && HELP_COLUMN + len <= width) {
		fprintf(out, "\n%*s", HELP_COLUMN, "");
		*at = HELP_COLUMN;
	}
	put_words(text, at, width, out);
}

static void help_row(const struct opt *row, int width, FILE *out)
{
	char flag[200], text[320];
	int at = HELP_COLUMN;

	flag_text(row, flag, sizeof flag);
	if ((int)strlen(flag) + 2 <= HELP_COLUMN)
		fprintf(out, "%-*s", HELP_COLUMN, flag);
	else
		fprintf(out, "%s\n%*s", flag, HELP_COLUMN, "");
	put_words(row->help, &at, width, out);
	if (row->type == OPT_ENUM && strlen(opt_values(row, "|", "|", text, sizeof text)) > ENUM_INLINE) {
		put_words("(one of", &at, width, out);
		put_words(opt_values(row, ", ", " or ", text, sizeof text), &at, width, out);
		fputc(')', out); /* may hang over by one */
		at++;
	}
	remarks(row, text, sizeof text);
	put_remark(text, &at, width, out);
	fputc('\n', out);
}

void opt_help(const struct opt_group *groups, size_t n, FILE *out)
{
	int width = terminal_width(out);

	for (size_t g = 0; g < n; g++) {
		if (!groups[g].n)
			continue;
		fprintf(out, "%s%s:\n", g ? "\n" : "", groups[g].help ? groups[g].help : groups[g].name);
		for (size_t i = 0; i < groups[g].n; i++)
			help_row(&groups[g].rows[i], width, out);
	}
}

/* '|' would end the cell. */
static void put_cell(const char *s, FILE *out)
{
	for (; *s; s++) {
		if (*s == '|')
			fputc('\\', out);
		fputc(*s, out);
	}
}

static void put_code(const char *s, FILE *out)
{
	if (!*s)
		return;
	fputc('`', out);
	put_cell(s, out);
	fputc('`', out);
}

static void markdown_row(const struct opt *row, FILE *out)
{
	char text[320];

	fputs("| ", out);
	if (row->letter)
		fprintf(out, "`-%c`, ", row->letter);
	fprintf(out, "`--%s` | ", row->name);
	if (row->alias)
		put_code(row->alias, out);
	fputs(" | ", out);
	if (row->type == OPT_ENUM)
		put_code(opt_values(row, "|", "|", text, sizeof text), out);
	else
		put_code(row->type == OPT_BOOL ? "yes|no" : opt_syntax(row, text, sizeof text), out);
	fputs(" | ", out);
	put_code(default_text(row, text, sizeof text), out);
	fputs(" | ", out);
	put_cell(opt_range(row, text, sizeof text), out);
	fputs(" | ", out);
	put_cell(row->help, out);
	if (row->optional_value) {
		fputs(" (alone: ", out);
		put_code(row->optional_value, out);
		fputc(')', out);
	}
	fputs(" |\n", out);
}

void opt_markdown(const struct opt_group *groups, size_t n, FILE *out)
{
	for (size_t g = 0; g < n; g++) {
		if (!groups[g].n)
			continue;
		fprintf(out, "%s## `%s`: %s\n\n", g ? "\n" : "", groups[g].name, groups[g].help ? groups[g].help : "");
		fputs("| option | also | value | default | range | meaning |\n|---|---|---|---|---|---|\n", out);
		for (size_t i = 0; i < groups[g].n; i++)
			markdown_row(&groups[g].rows[i], out);
	}
}

/* SPDX-License-Identifier: MIT */
/* One call for the options of every subcommand, and every text that is made from them. */
#include "cli/cmd.h"
#include "base/json.h"
#include "base/log.h"
#include "base/opt_table.h"
#include "base/util.h"
#include "transport/client.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct common {
	int log_level;
	bool verbose;
};

static struct common common;
static enum cmd_format format;
volatile sig_atomic_t cmd_signal;

static const char *const log_levels[] = { "error", "warn", "info", "debug", NULL };

static const struct opt common_rows[] = {
	{ .name = "log-level",
	  .type = OPT_ENUM,
	  .offset = offsetof(struct common, log_level),
	  .def = "warn",
	  .values = log_levels,
	  .help = "what standard error is told" },
	{ .name = "verbose",
	  .letter = 'v',
	  .type = OPT_BOOL,
	  .offset = offsetof(struct common, verbose),
	  .def = "no",
	  .help = "same as --log-level=info" },
};

static const struct opt output_rows[] = {
	{ .name = "json",
	  .type = OPT_STR,
	  .offset = offsetof(struct cmd_output, json),
	  .def = "",
	  .max = sizeof(((struct cmd_output *)0)->json),
	  .optional_value = "-",
	  .unit = "FILE",
	  .help = "print one JSON object, to FILE with --json=FILE" },
};

static const struct opt_group common_group = {
	.name = "log", .help = "Common options", .rows = common_rows, .n = ARRAY_LEN(common_rows), .base = &common
};

/* The YAML sections of all commands, so that one file serves several of them; none that no command reads. */
static const char *const sections[] = { "log",      "output", "tcp",      "rdma",      "serve", "send",
					"transfer", "stats",  "tune",     "benchmark", "hde",   "migrate",
					"linkemu",  "link",   "hosts",    "ab",        "ba",    "guests",
					"synth",    "kvm",    "simulate", "calibrate", NULL };

struct opt_group cmd_output_group(struct cmd_output *o)
{
	return (struct opt_group){
		.name = "output", .help = "Output", .rows = output_rows, .n = ARRAY_LEN(output_rows), .base = o
	};
}

void cmd_set_format(enum cmd_format f)
{
	format = f;
}

int cmd_fail(const char *name, const struct err *e)
{
	struct err shown = *e;

	/* It may name files, or be a peer's text: a terminal must not take it for a command. */
	fprintf(stderr, "dwcp: %s: %s\n", name, client_clean(shown.why));
	return CMD_FAILED;
}

int cmd_flush(void)
{
	static int first;

	/* A stream that has failed forgets what it held, and why. */
	if (fflush(stdout) && !first)
		first = -errno;
	else if (ferror(stdout) && !first)
		first = -EIO;
	return first;
}

static void on_signal(int sig)
{
	if (cmd_signal)
		_exit(CMD_INTERRUPTED);
	cmd_signal = sig;
}

void cmd_catch_signals(void)
{
	struct sigaction sa = { .sa_handler = on_signal };

	sigemptyset(&sa.sa_mask);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
}

/* between the options and the operands of a usage line */
static const char *gap(const struct cmd_usage *u)
{
	return *u->operands ? " " : "";
}

/* A dash is a minus sign to troff, and a line that begins with a dot a request. */
static void man_text(const char *s)
{
	if (*s == '.' || *s == '\'')
		fputs("\\&", stdout);
	for (; *s; s++) {
		if (*s == '-')
			fputs("\\-", stdout);
		else if (*s == '\\')
			fputs("\\e", stdout);
		else
			putchar(*s);
	}
}

static void man_row(const struct opt *o)
{
	char text[320];

	puts(".TP");
	if (o->letter)
		printf("\\fB\\-%c\\fR, ", o->letter);
	fputs("\\fB\\-\\-", stdout);
	man_text(o->name);
	fputs("\\fR", stdout);
	opt_syntax(o, text, sizeof(text));
	if (*text) {
		fputs(o->optional_value ? "[=\\fI" : " \\fI", stdout);
		man_text(text);
		fputs(o->optional_value ? "\\fR]" : "\\fR", stdout);
	}
	putchar('\n');
	man_text(o->help);
	if (o->type == OPT_ENUM && !strchr(text, '|')) {
		fputs(": ", stdout);
		man_text(opt_values(o, ", ", " or ", text, sizeof(text)));
	}
	if (o->def && *o->def) {
		fputs(" (default ", stdout);
		man_text(o->def);
		putchar(')');
	}
	opt_range(o, text, sizeof(text));
	if (*text) {
		fputs("; ", stdout);
		man_text(text);
	}
	putchar('\n');
}

static void man_rows(const struct opt_group *g)
{
	for (size_t i = 0; i < g->n; i++)
		man_row(&g->rows[i]);
}

static void complete_rows(const struct opt_group *g)
{
	for (size_t i = 0; i < g->n; i++) {
		const struct opt *o = &g->rows[i];

		printf("--%s", o->name);
		for (int k = 0; o->type == OPT_ENUM && o->values[k]; k++)
			printf(" %s", o->values[k]);
		putchar('\n');
	}
}

static void print_markdown(const struct cmd_usage *u, const struct opt_group *groups, size_t n)
{
	printf("# dwcp %s\n\n    dwcp %s [OPTION…]%s%s\n\n%s\n\n", u->name, u->name, gap(u), u->operands, u->about);
	opt_markdown(groups, n, stdout);
	putchar('\n');
}

static void print_man(const struct cmd_usage *u, const struct opt_group *groups, size_t n)
{
	printf(".SS dwcp %s\n\\fBdwcp %s\\fR [\\fIoption\\fR]...%s", u->name, u->name, gap(u));
	man_text(u->operands);
	puts("\n.PP");
	man_text(u->about);
	putchar('\n');
	for (size_t i = 0; i < n; i++)
		man_rows(&groups[i]);
}

/* A paragraph in lines of 80 columns; bytes are counted, so non-ASCII words end a line a little early. */
static void print_wrapped(const char *text)
{
	size_t at = 0;

	while (*text) {
		size_t len = strcspn(text, " ");

		if (at && at + 1 + len > 80) {
			putchar('\n');
			at = 0;
		}
		printf("%s%.*s", at ? " " : "", (int)len, text);
		at += len + (at ? 1 : 0);
		text += len;
		text += strspn(text, " ");
	}
	putchar('\n');
}

static void print_help(const struct cmd_usage *u, const struct opt_group *groups, size_t n)
{
	printf("Usage: dwcp %s [OPTION…]%s%s\n\n", u->name, gap(u), u->operands);
	print_wrapped(u->about);
	putchar('\n');
	opt_help(groups, n, stdout);
	puts("\n  --config FILE      take options from a YAML file; the command line wins\n"
	     "  --help, -h         this text");
	if (u->examples)
		printf("\nExamples:\n%s", u->examples);
}

/* The common group is printed once, by cmd_print_common, except in --help. */
static void print(const struct cmd_usage *u, const struct opt_group *groups, size_t n)
{
	switch (format) {
	case CMD_HELP:
		print_help(u, groups, n);
		break;
	case CMD_MARKDOWN:
		print_markdown(u, groups, n - 1);
		break;
	case CMD_MAN:
		print_man(u, groups, n - 1);
		break;
	case CMD_COMPLETE:
		for (size_t i = 0; i < n; i++)
			complete_rows(&groups[i]);
		puts("--config\n--help");
		break;
	}
}

void cmd_print_common(void)
{
	if (format == CMD_MARKDOWN)
		opt_markdown(&common_group, 1, stdout);
	else if (format == CMD_MAN)
		man_rows(&common_group);
}

/* Before the work, not after it. */
static int check_output(const struct opt_group *groups, size_t n, struct err *e)
{
	for (size_t i = 0; i < n; i++)
		if (groups[i].rows == output_rows)
			return json_check(((const struct cmd_output *)groups[i].base)->json, e);
	return 0;
}

static bool section_known(const char *name)
{
	for (size_t i = 0; sections[i]; i++)
		if (!strcmp(sections[i], name))
			return true;
	return false;
}

static int usage_error(const struct cmd_usage *u, const char *why)
{
	fprintf(stderr, "dwcp: %s: %s\nUsage: dwcp %s [OPTION…]%s%s\nTry `dwcp %s --help`.\n", u->name, why, u->name,
		gap(u), u->operands, u->name);
	return CMD_USAGE;
}

int cmd_options(const struct cmd_usage *u, const struct opt_group *groups, size_t n, int min_operands, int max_operands,
		int argc, char **argv, int *n_operands)
{
	struct opt_group all[CMD_GROUPS_MAX + 1];
	struct err e = { 0 };
	int operands = 0;
	int r;

	assert(n <= CMD_GROUPS_MAX);
	for (size_t i = 0; i < n; i++) {
		assert(section_known(groups[i].name));
		all[i] = groups[i];
	}
	all[n++] = common_group;

	opt_defaults(all, n);
	r = opt_parse(all, n, sections, argc, argv, &operands, &e);
	if (r == 1) {
		print(u, all, n);
		return CMD_OK;
	}
	if (r < 0)
		return usage_error(u, e.why);
	if (operands < min_operands)
		return usage_error(u, operands ? "an operand is missing" : "operands are missing");
	if (max_operands >= 0 && operands > max_operands) {
		err_set(&e, -EINVAL, "'%s' is one operand too many", argv[max_operands]);
		return usage_error(u, e.why);
	}

	log_set_level(common.verbose && common.log_level < LOG_INFO ? LOG_INFO : (enum log_level)common.log_level);
	if (check_output(all, n, &e) < 0)
		return cmd_fail(u->name, &e);
	*n_operands = operands;
	return CMD_RUN;
}

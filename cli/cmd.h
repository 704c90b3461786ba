/* SPDX-License-Identifier: MIT */
/*
 * What the subcommands share. A subcommand is one row of a table and one
 * function `int cmd_x(int argc, char **argv)`, argv[0] being its own name,
 * which returns an exit status. It states its options as groups and calls
 * cmd_options() before it does anything else:
 *
 *	status = cmd_options(&usage, groups, ARRAY_LEN(groups), argc, argv, &n);
 *	if (status != CMD_RUN)
 *		return status;
 *
 * That one call gives --help, --config, --log-level, the generated documents
 * and shell completion. Standard output is for results only.
 */
#ifndef DWCP_CLI_CMD_H
#define DWCP_CLI_CMD_H

#include "base/err.h"
#include "base/opt.h"
#include <signal.h>

extern const char cmd_version[]; /* "0.1.0" */

enum cmd_exit {
	CMD_RUN = -1, /* cmd_options: options are set, go on */
	CMD_OK = 0,
	CMD_FAILED = 1,        /* the work failed; standard error says why */
	CMD_USAGE = 2,         /* wrong usage */
	CMD_SHORT = 3,         /* --check: a target fell short */
	CMD_INTERRUPTED = 130, /* SIGINT or SIGTERM; what was measured so far is printed */
};

struct command {
	const char *name;
	int (*run)(int argc, char **argv); /* NULL when `sub` is set */
	const char *help;                  /* one line */
	const struct command *sub;         /* table of what follows this word (`benchmark amst`), or NULL */
};

struct cmd_usage {
	const char *name;     /* all words: "benchmark amst" */
	const char *operands; /* "FILE… HOST[:PORT]", or "" */
	const char *about;    /* a paragraph in plain text */
	const char *examples; /* lines, or NULL */
};

/* Sets defaults, reads --config and flags, checks the number of operands (min_operands … max_operands,
 * -1: no limit), sets the log level. Operands are in argv[0..*n_operands) afterwards. Returns CMD_RUN, or
 * the status to return at once: help was printed, or the usage was wrong and standard error says how. */
int cmd_options(const struct cmd_usage *u, const struct opt_group *groups, size_t n, int min_operands, int max_operands,
		int argc, char **argv, int *n_operands);

#define CMD_GROUPS_MAX 15 /* what cmd_options takes besides the common group */

/* `dwcp: NAME: why` on standard error; returns CMD_FAILED. */
int cmd_fail(const char *name, const struct err *e);

/* Sends off what was printed. <0: why results could not be written, now or at an earlier call; main tells it, too. */
int cmd_flush(void);

/* The common option `--json[=FILE]`: a command puts this group among its own. */
struct cmd_output {
	char json[4096]; /* "" no JSON, "-" standard output, else a file */
};
struct opt_group cmd_output_group(struct cmd_output *o);

/* From here on SIGINT and SIGTERM set cmd_signal and end waits with EINTR; a second one ends the process. */
extern volatile sig_atomic_t cmd_signal;
void cmd_catch_signals(void);

/* Runs the row of `table` (ended by a NULL name) that argv[0] names; `words` are the words before it. */
int cmd_dispatch(const struct command *table, const char *words, int argc, char **argv);

/* Generated text: what cmd_options prints for --help. Only main and the dispatcher use it. */
enum cmd_format { CMD_HELP, CMD_MARKDOWN, CMD_MAN, CMD_COMPLETE };
void cmd_set_format(enum cmd_format format);
void cmd_print_common(void);

int cmd_serve(int argc, char **argv);
int cmd_send(int argc, char **argv);
int cmd_backends(int argc, char **argv);
int cmd_migrate(int argc, char **argv);
int cmd_simulate(int argc, char **argv);
int cmd_calibrate(int argc, char **argv);
int cmd_guests(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_tune(int argc, char **argv);
extern const struct command cmd_benchmark_table[];
extern const struct command cmd_linkemu_table[];

#endif

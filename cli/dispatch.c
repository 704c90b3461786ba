/* SPDX-License-Identifier: MIT */
/* Finds the row of a subcommand table that a word names; a word that none has gets the nearest one suggested. */
#include "cli/cmd.h"
#include "base/opt_table.h"
#include <stdio.h>
#include <string.h>

static void list(const struct command *table, const char *words, FILE *out)
{
	fprintf(out, "Usage: dwcp %s%sCOMMAND [OPTION…] [OPERAND…]\n\n", words, *words ? " " : "");
	for (const struct command *c = table; c->name; c++)
		fprintf(out, "  %-12s %s\n", c->name, c->help);
	fprintf(out, "\n`dwcp %s%sCOMMAND --help` shows its options.\n", words, *words ? " " : "");
}

int cmd_dispatch(const struct command *table, const char *words, int argc, char **argv)
{
	const char *word = argc > 0 ? argv[0] : NULL;
	struct opt_nearest near = { .wanted = word };
	char deeper[128];

	if (!word) {
		list(table, words, stderr);
		return CMD_USAGE;
	}
	if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
		list(table, words, stdout);
		return CMD_OK;
	}
	for (const struct command *c = table; c->name; c++) {
		opt_offer(&near, c->name);
		if (strcmp(c->name, word))
			continue;
		if (!c->sub)
			return c->run(argc, argv);
		snprintf(deeper, sizeof(deeper), "%s%s%s", words, *words ? " " : "", word);
		return cmd_dispatch(c->sub, deeper, argc - 1, argv + 1);
	}

	fprintf(stderr, "dwcp: %s%sthere is no command '%s'", words, *words ? ": " : "", word);
	if (near.best)
		fprintf(stderr, "; did you mean '%s'?\n", near.best);
	else
		fprintf(stderr, "; `dwcp %s%s--help` lists them\n", words, *words ? " " : "");
	return CMD_USAGE;
}

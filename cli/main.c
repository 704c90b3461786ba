/* SPDX-License-Identifier: MIT */
/* dwcp: the table of subcommands. */
#include "cli/cmd.h"
#include "base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char cmd_version[] = DWCP_VERSION;

static const struct command commands[] = {
	{ .name = "serve", .run = cmd_serve, .help = "receive what other hosts send" },
	{ .name = "send", .run = cmd_send, .help = "send files and folders to a server" },
	{ .name = "benchmark", .sub = cmd_benchmark_table, .help = "measure what this machine and a link can do" },
	{ .name = "tune", .run = cmd_tune, .help = "find the streams, chunk size and congestion control for a link" },
	{ .name = "migrate", .run = cmd_migrate, .help = "move a running guest to another process or host" },
	{ .name = "simulate",
	  .run = cmd_simulate,
	  .help = "how migrations would go: many guests, big links, virtual time" },
	{ .name = "calibrate",
	  .run = cmd_calibrate,
	  .help = "measure what a migration's parts cost here, for simulate" },
	{ .name = "guests", .run = cmd_guests, .help = "the guests that a server runs, and what is in doubt" },
	{ .name = "linkemu",
	  .sub = cmd_linkemu_table,
	  .help = "two hosts with a bad network in between, on this machine" },
	{ .name = "stats", .run = cmd_stats, .help = "what a running server has done" },
	{ .name = "backends", .run = cmd_backends, .help = "list the transports and whether this machine can run them" },
	{ 0 },
};

static const char about[] = "dwcp " DWCP_VERSION " moves memory and files between hosts over many streams.\n\n";

static const char options_head[] =
	"# Options\n\n"
	"Written by `make docs` from the option tables; `dwcp COMMAND --help` shows the same.\n\n"
	"Every command takes `--config FILE.yaml`, a map of section (the names in front of the headings below) to options;\n"
	"the command line wins. Sizes `64KB 4MB 1GB` are 1024-based, rates `1Gbps 500Mbps` 1000-based, times\n"
	"`250us 10ms 5s 30m 24h`. Exit status: 0 done, 1 the work failed, 2 wrong usage, 3 a target or check fell\n"
	"short, 130 interrupted.\n\n"
	"# Every command\n\n";

/* Every command says what it takes when asked for help, in the format set. */
static int dump(const struct command *table)
{
	int status = CMD_OK;

	for (const struct command *c = table; c->name && status == CMD_OK; c++) {
		char *args[] = { strdup(c->name), strdup("--help"), NULL };

		status = c->sub ? dump(c->sub) : c->run(2, args);
		free(args[0]);
		free(args[1]);
	}
	return status;
}

/* What may follow the words: the commands of a table, or the flags of a command. */
static int complete(int argc, char **argv)
{
	const struct command *table = commands;

	for (int i = 0; i < argc; i++) {
		const struct command *c = table;

		while (c->name && strcmp(c->name, argv[i]))
			c++;
		if (!c->name)
			break;
		if (!c->sub) {
			char *args[] = { argv[i], (char[]){ "--help" }, NULL };

			return c->run(2, args);
		}
		table = c->sub;
	}
	for (const struct command *c = table; c->name; c++)
		puts(c->name);
	return CMD_OK;
}

/* `dwcp help CMD…` is `dwcp CMD… --help`. */
static int help(int argc, char **argv)
{
	char help_flag[] = "--help";
	char *args[8];
	int n = 0;

	while (n < argc && n < (int)ARRAY_LEN(args) - 2) {
		args[n] = argv[n];
		n++;
	}
	args[n++] = help_flag;
	args[n] = NULL;
	if (n == 1)
		fputs(about, stdout);
	return cmd_dispatch(commands, "", n, args);
}

static int run(int argc, char **argv)
{
	const char *word = argc > 0 ? argv[0] : "";

	if (!strcmp(word, "help"))
		return help(argc - 1, argv + 1);
	if (!strcmp(word, "--help") || !strcmp(word, "-h"))
		return help(0, NULL);
	if (!strcmp(word, "--version")) {
		puts("dwcp " DWCP_VERSION);
		return CMD_OK;
	}
	if (!strcmp(word, "--complete")) {
		cmd_set_format(CMD_COMPLETE);
		return complete(argc - 1, argv + 1);
	}
	if (!strcmp(word, "--dump-options-md") || !strcmp(word, "--dump-options-man")) {
		bool man = !strcmp(word, "--dump-options-man");

		cmd_set_format(man ? CMD_MAN : CMD_MARKDOWN);
		fputs(man ? ".SS Every command\n" : options_head, stdout);
		cmd_print_common();
		putchar('\n');
		return dump(commands);
	}
	return cmd_dispatch(commands, "", argc, argv);
}

/* Results that did not arrive are a failure. A reader that went away (`| head`) knows that it did. */
static int flush_results(int status)
{
	int err = -cmd_flush();

	if (!err || status != CMD_OK)
		return status;
	if (err != EPIPE)
		fprintf(stderr, "dwcp: cannot write to standard output: %s\n", strerror(err));
	return CMD_FAILED;
}

/* A socket or a file that got the number of a standard stream would take its text: it stays closed to writing. */
static void keep_closed(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd ? O_RDONLY : O_WRONLY) < 0)
			exit(CMD_FAILED);
}

int main(int argc, char **argv)
{
	keep_closed();
	signal(SIGPIPE, SIG_IGN);
	return flush_results(run(argc - 1, argv + 1));
}

/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/opt.h"
#include "base/util.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct options {
	bool verify, recursive;
	uint32_t streams, tight;
	uint64_t chunk, rate, timeout;
	double alpha, plain;
	int sum, congestion;
	char json[16];
	char after;
};

static struct options o;

static const char *const sums[] = { "none", "crc32c", "xxh3", NULL };
static const char *const controls[] = { "cubic", "bbr", "reno", "dctcp", "westwood", "illinois", "vegas", NULL };

#define AT(f) offsetof(struct options, f)
static const struct opt amst_rows[] = {
	{ .name = "streams",
	  .alias = "num_streams",
	  .letter = 'P',
	  .type = OPT_U32,
	  .offset = AT(streams),
	  .def = "8",
	  .min = 1,
	  .max = 512,
	  .auto_ok = true,
	  .help = "parallel streams" },
	{ .name = "chunk-size",
	  .type = OPT_SIZE,
	  .offset = AT(chunk),
	  .def = "256KB",
	  .min = 4096,
	  .max = 64 << 20,
	  .help = "bytes per chunk" },
	{ .name = "checksum", .type = OPT_ENUM, .offset = AT(sum), .def = "xxh3", .values = sums, .help = "per chunk" },
	{ .name = "verify",
	  .letter = 'V',
	  .type = OPT_BOOL,
	  .offset = AT(verify),
	  .def = "yes",
	  .help = "compare digests" },
	{ .name = "recursive",
	  .letter = 'r',
	  .type = OPT_BOOL,
	  .offset = AT(recursive),
	  .def = "no",
	  .help = "directories too" },
	{ .name = "json",
	  .letter = 'j',
	  .type = OPT_STR,
	  .offset = AT(json),
	  .max = sizeof o.json,
	  .optional_value = "-",
	  .unit = "FILE",
	  .help = "print one JSON object" },
};
static const struct opt tcp_rows[] = {
	{ .name = "pacing",
	  .type = OPT_RATE,
	  .offset = AT(rate),
	  .def = "auto",
	  .auto_ok = true,
	  .help = "largest rate of each stream" },
	{ .name = "timeout",
	  .type = OPT_TIME,
	  .offset = AT(timeout),
	  .def = "30s",
	  .min = 1000000,
	  .max = 86400000000000ull,
	  .help = "give up after this time without progress" },
	{ .name = "alpha",
	  .type = OPT_F64,
	  .offset = AT(alpha),
	  .def = "0.25",
	  .max = 1,
	  .help = "weight of the newest sample" },
	{ .name = "plain", .type = OPT_F64, .offset = AT(plain), .def = "0", .help = "any number" },
	{ .name = "congestion",
	  .type = OPT_ENUM,
	  .offset = AT(congestion),
	  .def = "cubic",
	  .values = controls,
	  .help = "congestion control" },
	{ .name = "tight", .type = OPT_U32, .offset = AT(tight), .def = "7", .unit = "things", .help = "no limit" },
};
static const struct opt_group groups[] = {
	{ "amst", "Transfer", amst_rows, ARRAY_LEN(amst_rows), &o, NULL },
	{ "tcp", "TCP over io_uring", tcp_rows, ARRAY_LEN(tcp_rows), &o, NULL },
};
#define GROUPS groups, ARRAY_LEN(groups)

static int setup(void **state)
{
	(void)state;
	memset(&o, 0x5a, sizeof o);
	opt_defaults(GROUPS);
	return 0;
}

#define MAX_ARGS 16
static char *args[MAX_ARGS];
static int operands;
static struct err e;

/* Splits at blanks and parses; "" stays "" after '='. */
static int parse(const char *line)
{
	static char words[512];
	int n = 0;

	snprintf(words, sizeof words, "%s", line);
	args[n++] = (char *)(uintptr_t) "dwcp";
	for (char *w = strtok(words, " "); w; w = strtok(NULL, " "))
		args[n++] = w;
	memset(&e, 0, sizeof e);
	operands = -1;
	return opt_parse(GROUPS, NULL, n, args, &operands, &e);
}

static void defaults(void **state)
{
	(void)state;
	assert_true(o.verify);
	assert_false(o.recursive);
	assert_int_equal(o.streams, 8);
	assert_int_equal(o.chunk, 256 * 1024);
	assert_int_equal(o.rate, 0);
	assert_true(o.timeout == 30000000000ull);
	assert_true(o.alpha == 0.25);
	assert_int_equal(o.sum, 2);
	assert_string_equal(o.json, "");
	assert_int_equal(o.after, 0x5a);
}

static void forms_of_flags(void **state)
{
	(void)state;
	assert_int_equal(parse("--streams 16 --chunk-size=1MB --no-verify --recursive --checksum none --alpha=.5e0 "
			       "--timeout 250ms --pacing=2.5Gbps"),
			 0);
	assert_int_equal(operands, 0);
	assert_int_equal(o.streams, 16);
	assert_int_equal(o.chunk, 1 << 20);
	assert_false(o.verify);
	assert_true(o.recursive);
	assert_int_equal(o.sum, 0);
	assert_true(o.alpha == 0.5);
	assert_int_equal(o.timeout, 250000000);
	assert_true(o.rate == 2500000000ull);

	assert_int_equal(parse("--num-streams=3 --verify=on --recursive=off --pacing auto"), 0);
	assert_int_equal(o.streams, 3);
	assert_true(o.verify);
	assert_false(o.recursive);
	assert_int_equal(o.rate, 0);

	assert_int_equal(parse("--streams auto"), 0);
	assert_int_equal(o.streams, 0); /* below the minimum, which binds numbers only */
	assert_int_equal(parse("--streams 5 --streams 6"), 0);
	assert_int_equal(o.streams, 6);
	assert_int_equal(opt_parse(GROUPS, NULL, 1, args, NULL, NULL), 0);
}

static void letters(void **state)
{
	(void)state;
	assert_int_equal(parse("-P 4 -r"), 0);
	assert_int_equal(o.streams, 4);
	assert_true(o.recursive);
	assert_int_equal(parse("-P12 -rVj"), 0);
	assert_int_equal(o.streams, 12);
	assert_string_equal(o.json, "-");
	assert_int_equal(parse("-rP 9 x"), 0);
	assert_int_equal(o.streams, 9);
	assert_int_equal(operands, 1);
	assert_int_equal(parse("-rx"), -EINVAL);
	assert_string_equal(e.why, "there is no option -x: see --help");
	assert_int_equal(parse("-P"), -EINVAL);
	assert_string_equal(e.why, "--streams needs a value: --streams=N|auto");
}

static void operands_keep_their_order(void **state)
{
	(void)state;
	assert_int_equal(parse("a --streams 2 b - --json c -- --streams -x -- d"), 0);
	assert_int_equal(operands, 8);
	for (int i = 0; i < operands; i++) {
		static const char *const want[] = { "a", "b", "-", "c", "--streams", "-x", "--", "d" };

		assert_string_equal(args[i], want[i]);
	}
	assert_int_equal(o.streams, 2);
	assert_string_equal(o.json, "-"); /* an optional value never takes the next word */
	assert_int_equal(parse("--json=out.json"), 0);
	assert_string_equal(o.json, "out.json");

	args[1] = (char *)(uintptr_t) "stray";
	assert_int_equal(opt_parse(GROUPS, NULL, 2, args, NULL, &e), -EINVAL);
	assert_string_equal(e.why, "unexpected argument \"stray\": see --help");
}

static void help_wins(void **state)
{
	(void)state;
	assert_int_equal(parse("--nonsense --help"), 1);
	assert_int_equal(parse("-h"), 1);
	assert_int_equal(parse("--config /nonexistent -h"), 1);
	assert_int_equal(parse("-- --help"), 0); /* a file of that name */
	assert_int_equal(operands, 1);
}

static void wrong_usage_is_explained(void **state)
{
	static const struct {
		const char *line, *why;
	} cases[] = {
		{ "--stream 3", "there is no option --stream: did you mean --streams?" },
		{ "--chnuk-size=1", "there is no option --chnuk-size: did you mean --chunk-size?" },
		{ "--confg x", "there is no option --confg: did you mean --config?" },
		{ "--zzzzzz", "there is no option --zzzzzz: see --help" },
		{ "--=3", "there is no option --: see --help" },
		{ "--no-streams", "--no-streams: streams is not a switch; give it a value: --streams=VALUE" },
		{ "--no-verify=yes", "--no-verify takes no value: write --verify=yes" },
		{ "--streams", "--streams needs a value: --streams=N|auto" },
		{ "--json x --streams --verify",
		  "--streams needs a value, and --verify is a flag: write --streams=N|auto" },
		{ "--config", "--config needs a value: --config=FILE" },
		{ "--streams=0", "--streams: 0 is out of range: choose 1 to 512, or auto" },
		{ "--streams=513", "--streams: 513 is out of range: choose 1 to 512, or auto" },
		{ "--streams=99999999999999999999999",
		  "--streams: 99999999999999999999999 is out of range: choose 1 to 512, or auto" },
		{ "--streams=-1", "--streams: \"-1\" is not understood: write a whole number, or auto" },
		{ "--streams=4x", "--streams: \"4x\" is not understood: write a whole number, or auto" },
		{ "--streams=", "--streams: \"\" is not understood: write a whole number, or auto" },
		{ "-P 0", "--streams: 0 is out of range: choose 1 to 512, or auto" },
		{ "--tight=4294967296", "--tight: 4294967296 is too large: use a smaller value" },
		{ "--chunk-size=4095", "--chunk-size: 4095 is out of range: choose 4 KB to 64 MB" },
		{ "--chunk-size=1ZB",
		  "--chunk-size: \"1ZB\" is not understood: write a size like 4096, 64KB, 4MB or 1GB" },
		{ "--pacing=10MB/s",
		  "--pacing: \"10MB/s\" is not understood: write a rate in bits per second like 500Mbps or 2.5Gbps, or auto" },
		{ "--timeout=25h", "--timeout: 25h is out of range: choose 1 ms to 24 h" },
		{ "--timeout=5y",
		  "--timeout: \"5y\" is not understood: write a time like 250us, 10ms, 5s, 30m or 24h" },
		{ "--alpha=nan", "--alpha: \"nan\" is not understood: write a number like 0.25" },
		{ "--alpha=0x1", "--alpha: \"0x1\" is not understood: write a number like 0.25" },
		{ "--alpha=1.01", "--alpha: 1.01 is out of range: choose 0 to 1" },
		{ "--plain=1e999", "--plain: 1e999 is too large: use a smaller value" },
		{ "--plain=-1", "--plain: -1 is too small: use a larger value" },
		{ "--verify=perhaps", "--verify: \"perhaps\" is not understood: write yes or no" },
		{ "--checksum=md5", "--checksum: there is no \"md5\": choose none, crc32c or xxh3" },
		{ "--checksum=xx3", "--checksum: there is no \"xx3\"; did you mean xxh3? Choose none, crc32c or xxh3" },
		{ "--json=0123456789abcdef", "--json: \"0123456789abcdef\" has 16 bytes: use at most 15" },
		{ "--json=0123456789abcdef0123456789abcdef",
		  "--json: \"0123456789abcdef01234567...\" has 32 bytes: use at most 15" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct options before = o;

		assert_int_equal(parse(cases[i].line), -EINVAL);
		assert_int_equal(e.code, -EINVAL);
		assert_string_equal(e.why, cases[i].why);
		assert_int_equal(operands, -1);
		if (!strstr(cases[i].line, "json x"))
			assert_memory_equal(&o, &before, sizeof o); /* no half-changed field */
	}
}

static void nothing_is_set_when_the_form_is_wrong(void **state)
{
	struct options before = o;

	(void)state;
	assert_int_equal(parse("--streams 4 --checksum=none --nonsense"), -EINVAL);
	assert_memory_equal(&o, &before, sizeof o);
}

static void values_as_long_as_they_come(void **state)
{
	char value[5000];

	(void)state;
	memset(value, 'v', sizeof value - 1);
	value[sizeof value - 1] = 0;
	for (size_t g = 0; g < ARRAY_LEN(groups); g++)
		for (size_t i = 0; i < groups[g].n; i++) {
			assert_int_equal(opt_set(GROUPS, groups[g].rows[i].name, value, &e), -EINVAL);
			assert_true(strlen(e.why) < sizeof e.why - 1); /* not cut: the remedy is there */
		}
	assert_int_equal(opt_set(GROUPS, value, "1", &e), -EINVAL);
	assert_non_null(strstr(e.why, "--help"));
	assert_int_equal(o.after, 0x5a);
}

static void set_by_name(void **state)
{
	(void)state;
	assert_int_equal(opt_set(GROUPS, "num_streams", "17", &e), 0);
	assert_int_equal(o.streams, 17);
	assert_int_equal(opt_set(GROUPS, "chunk_size", "8 KB", &e), 0);
	assert_int_equal(o.chunk, 8192);
	assert_int_equal(opt_set(GROUPS, "json", "123456789012345", &e), 0);
	assert_string_equal(o.json, "123456789012345");
	assert_int_equal(o.after, 0x5a);
	assert_int_equal(opt_set(GROUPS, "timeuot", "1", &e), -EINVAL);
	assert_string_equal(e.why, "there is no option \"timeuot\": did you mean timeout?");
	assert_int_equal(opt_set(GROUPS, "timeuot", "1", NULL), -EINVAL);
}

static char *printed(void (*print)(const struct opt_group *, size_t, FILE *))
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	assert_non_null(f);
	print(GROUPS, f);
	fclose(f);
	return text;
}

static void help_text(void **state)
{
	char *text = printed(opt_help);

	(void)state;
	assert_string_equal(text, "Transfer:\n"
				  "  -P, --streams N|auto        parallel streams (default 8, range 1 to 512)\n"
				  "      --chunk-size SIZE       bytes per chunk\n"
				  "                              (default 256KB, range 4 KB to 64 MB)\n"
				  "      --checksum none|crc32c|xxh3\n"
				  "                              per chunk (default xxh3)\n"
				  "  -V, --[no-]verify           compare digests (default yes)\n"
				  "  -r, --recursive             directories too (default no)\n"
				  "  -j, --json[=FILE]           print one JSON object\n"
				  "\n"
				  "TCP over io_uring:\n"
				  "      --pacing RATE|auto      largest rate of each stream (default auto)\n"
				  "      --timeout TIME          give up after this time without progress\n"
				  "                              (default 30s, range 1 ms to 24 h)\n"
				  "      --alpha X               weight of the newest sample\n"
				  "                              (default 0.25, range 0 to 1)\n"
				  "      --plain X               any number (default 0)\n"
				  "      --congestion NAME       congestion control (one of cubic, bbr, reno,\n"
				  "                              dctcp, westwood, illinois or vegas)\n"
				  "                              (default cubic)\n"
				  "      --tight N               no limit (default 7 things)\n");
	free(text);
}

static void markdown(void **state)
{
	char *text = printed(opt_markdown);

	(void)state;
	assert_non_null(strstr(text, "## `amst`: Transfer\n\n| option |"));
	assert_non_null(strstr(
		text, "\n| `-P`, `--streams` | `num_streams` | `N\\|auto` | `8` | 1 to 512 | parallel streams |\n"));
	assert_non_null(strstr(text, "\n| `--checksum` |  | `none\\|crc32c\\|xxh3` | `xxh3` |  | per chunk |\n"));
	assert_non_null(strstr(text, "print one JSON object (alone: `-`) |\n"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(defaults, setup),
		cmocka_unit_test_setup(forms_of_flags, setup),
		cmocka_unit_test_setup(letters, setup),
		cmocka_unit_test_setup(operands_keep_their_order, setup),
		cmocka_unit_test_setup(help_wins, setup),
		cmocka_unit_test_setup(wrong_usage_is_explained, setup),
		cmocka_unit_test_setup(nothing_is_set_when_the_form_is_wrong, setup),
		cmocka_unit_test_setup(values_as_long_as_they_come, setup),
		cmocka_unit_test_setup(set_by_name, setup),
		cmocka_unit_test_setup(help_text, setup),
		cmocka_unit_test_setup(markdown, setup),
	};

	return cmocka_run_group_tests_name("base/opt", tests, NULL, NULL);
}

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
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct options {
	uint32_t streams;
	uint64_t chunk;
	bool verify;
	int sum;
	char bind[32];
};

static struct options o;
static const char *const sums[] = { "none", "crc32c", "xxh3", NULL };

#define AT(f) offsetof(struct options, f)
static const struct opt amst_rows[] = {
	{ .name = "streams",
	  .alias = "num-streams",
	  .type = OPT_U32,
	  .offset = AT(streams),
	  .def = "8",
	  .min = 1,
	  .max = 512,
	  .help = "streams" },
	{ .name = "chunk-size", .type = OPT_SIZE, .offset = AT(chunk), .def = "256KB", .max = 1 << 30, .help = "chunk" },
	{ .name = "checksum", .type = OPT_ENUM, .offset = AT(sum), .def = "none", .values = sums, .help = "checksum" },
};
static const struct opt tcp_rows[] = {
	{ .name = "verify", .type = OPT_BOOL, .offset = AT(verify), .def = "no", .help = "compare" },
	{ .name = "bind", .type = OPT_STR, .offset = AT(bind), .max = sizeof o.bind, .help = "address" },
};
static const struct opt_group groups[] = {
	{ "amst", "Transfer", amst_rows, ARRAY_LEN(amst_rows), &o, NULL },
	{ "tcp", "TCP", tcp_rows, ARRAY_LEN(tcp_rows), &o, NULL },
};
static const char *const others[] = { "hde", "pba", NULL };

static int fd; /* a file in memory: thousands are written */
static char path[32];
static struct err e;

static int setup(void **state)
{
	(void)state;
	fd = memfd_create("config.yaml", MFD_CLOEXEC);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	return close(fd);
}

static int load_bytes(const void *bytes, size_t len)
{
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(pwrite(fd, bytes, len, 0), len);
	memset(&o, 0, sizeof o);
	opt_defaults(groups, ARRAY_LEN(groups));
	memset(&e, 0, sizeof e);
	return opt_load_yaml(groups, ARRAY_LEN(groups), others, path, &e);
}

static int load(const char *text)
{
	return load_bytes(text, strlen(text));
}

static void loads(const char *text)
{
	if (load(text))
		fail_msg("%s: %s", text, e.why);
}

static void refuses(const char *text, unsigned line, const char *why)
{
	char want[sizeof e.why];

	snprintf(want, sizeof want, "%s:%u: %s", path, line, why);
	assert_int_equal(load(text), -EINVAL);
	assert_int_equal(e.code, -EINVAL);
	assert_string_equal(e.why, want);
}

static void sections_and_options(void **state)
{
	(void)state;
	loads("# first\namst:\n  num_streams: 64   # as documented\n  chunk-size: 1 MB\n  checksum: \"xxh3\"\n"
	      "tcp:\n  verify: Yes\n  bind: '::1'\n");
	assert_int_equal(o.streams, 64);
	assert_int_equal(o.chunk, 1 << 20);
	assert_int_equal(o.sum, 2);
	assert_true(o.verify);
	assert_string_equal(o.bind, "::1");

	loads("{amst: {chunk_size: 4096, checksum: crc32c}, tcp: {verify: off}}");
	assert_int_equal(o.chunk, 4096);
	assert_int_equal(o.sum, 1);
	loads("---\namst:\n  streams: 0003\n...\n");
	assert_int_equal(o.streams, 3);
	loads("\xef\xbb\xbf"
	      "amst:\r\n  streams: 4\r\n"); /* byte order mark, DOS lines */
	assert_int_equal(o.streams, 4);
}

static void options_outside_sections(void **state)
{
	(void)state;
	loads("num_streams: 9\nchunk_size: 64KB\nverify: true\n");
	assert_int_equal(o.streams, 9);
	assert_int_equal(o.chunk, 65536);
	assert_true(o.verify);
	refuses("streams: 9\namst:\n  num-streams: 3\n", 3, "amst: streams was already given on line 1: remove one");
}

static void nothing_to_set(void **state)
{
	(void)state;
	loads("# only\n# comments\n");
	loads("amst:\ntcp:\n  # verify: yes\n");
	loads("---\n");
	loads("{}");
	assert_int_equal(o.streams, 8);
}

static void other_sections_are_skipped(void **state)
{
	(void)state;
	loads("hde:\n  levels: [1, {a: *b}, &x y]\n  !t deep: {er: [[[]]]}\npba: text\namst:\n  streams: 2\n");
	assert_int_equal(o.streams, 2);
	refuses("hde: {a: 1}\nhde: {b: 2}\n", 2, "section hde was already given on line 1: join the two");
	refuses("hed:\n  a: 1\n", 1, "there is no section or option \"hed\": did you mean hde?");
}

static void mistakes_are_located(void **state)
{
	(void)state;
	refuses("amst:\n  stream: 3\n", 2, "section amst has no option \"stream\": did you mean streams?");
	refuses("\namst:\n  qqqqqq: 3\n", 3, "section amst has no option \"qqqqqq\": see --help");
	refuses("amst:\n  verify: yes\n", 2, "section amst has no option \"verify\": it belongs in section tcp");
	refuses("foo:\n  streams: 3\n", 1, "there is no section or option \"foo\": the sections here are amst, tcp");
	refuses("amts:\n  streams: 3\n", 1, "there is no section or option \"amts\": did you mean amst?");
	refuses("zzzzzzzz: 3\n", 1, "there is no section or option \"zzzzzzzz\": the sections here are amst, tcp");
	refuses("amst:\n  streams: 513\n", 2, "amst: streams: 513 is out of range: choose 1 to 512");
	refuses("tcp:\n  verify: perhaps\n", 2, "tcp: verify: \"perhaps\" is not understood: write yes or no");
	refuses("amst: {checksum: md5}", 1, "amst: checksum: there is no \"md5\": choose none, crc32c or xxh3");
	refuses("amst:\n  streams: 1\n  streams: 2\n", 3, "amst: streams was already given on line 2: remove one");
	refuses("amst: {}\namst: {}\n", 2, "section amst was already given on line 1: join the two");
}

static void what_yaml_has_and_we_have_not(void **state)
{
	(void)state;
	refuses("amst:\n  streams: &n 3\n", 2, "anchors and aliases (& and *) are not supported: write the value out");
	refuses("amst:\n  streams: *n\n", 2, "anchors and aliases (& and *) are not supported: write the value out");
	refuses("amst: &all\n  streams: 3\n", 1,
		"anchors and aliases (& and *) are not supported: write the value out");
	refuses("amst:\n  &k streams: 3\n", 2, "anchors and aliases (& and *) are not supported: write the value out");
	refuses("tcp:\n  <<: *defaults\n", 2, "section tcp has no option \"<<\": see --help");
	refuses("amst:\n  streams: !!int 3\n", 2, "tags (!) are not supported: write the value without");
	refuses("amst:\n  streams:\n    most: 3\n", 3, "amst: streams takes one value, not a map of its own");
	refuses("amst:\n  streams: [1, 2]\n", 2, "amst: streams takes one value, not a list: join them with commas");
	refuses("amst:\n  streams:\n", 2, "amst: streams has no value: give one or remove the line");
	refuses("amst:\n  streams: ~\n", 2, "amst: streams has no value: give one or remove the line");
	refuses("amst: 3\n", 1, "section amst holds options: write them below it as \"name: value\", indented");
	refuses("amst:\n  ? [a]\n  : 3\n", 2, "section amst: the name of an option was expected");
	refuses("? [a]\n: 3\n", 1, "the name of a section was expected: write e.g. \"amst:\"");
	refuses("- amst\n", 1, "sections are expected: write e.g. \"amst:\" and options below it");
	refuses("amst", 1, "sections are expected: write e.g. \"amst:\" and options below it");
	refuses("amst: {}\n---\ntcp: {}\n", 2, "a second document (---): use one file for each");
	refuses("tcp:\n  bind: |\n    a\n    b\n", 2,
		"\"a b ...\" has more than one line or a zero byte: write it on one line");
	loads("tcp:\n  bind: \"\"\n");
	assert_string_equal(o.bind, "");
}

static void broken_files(void **state)
{
	static const char binary[] = "\x7f"
				     "ELF\2\1\1\0\0\0";
	char *big = malloc(3 << 20);

	(void)state;
	assert_non_null(big);
	assert_int_equal(load(""), -EINVAL);
	assert_non_null(strstr(e.why, "is empty"));
	assert_int_equal(load_bytes(binary, sizeof binary), -EINVAL);
	assert_non_null(strstr(e.why, "not a text file"));
	assert_int_equal(load("amst:\n\tstreams: 3\n"), -EINVAL);
	assert_non_null(strstr(e.why, ":2: not valid YAML"));
	assert_int_equal(load("amst: {streams: 3\n"), -EINVAL);
	assert_non_null(strstr(e.why, "not valid YAML"));
	assert_int_equal(load("tcp:\n  bind: \"a\\0b\"\n"), -EINVAL);
	assert_non_null(strstr(e.why, "zero byte"));
	memset(big, '#', 3 << 20);
	assert_int_equal(load_bytes(big, 3 << 20), -EFBIG);
	assert_int_equal(load_bytes(big, 1 << 20), 0); /* one long comment */
	for (size_t i = 0; i < 1 << 20; i++)
		big[i] = i < 5 ? "hde: "[i] : '[';
	assert_int_equal(load_bytes(big, 1 << 20), -EINVAL);
	assert_non_null(strstr(e.why, "more than 32 levels"));
	for (size_t i = 0; i < 1 << 20; i++)
		big[i] = i < 5 ? "hde:\n"[i] : "- "[(i - 5) % 2];
	assert_int_equal(load_bytes(big, 1 << 20), -EINVAL);
	assert_non_null(strstr(e.why, "more than 32 levels"));
	free(big);
}

static void files_that_cannot_be_read(void **state)
{
	char name[300];

	(void)state;
	assert_int_equal(opt_load_yaml(groups, 2, NULL, "/nonexistent/x.yaml", &e), -ENOENT);
	assert_string_equal(
		e.why,
		"configuration file /nonexistent/x.yaml: No such file or directory: check its name and permissions");
	assert_int_equal(opt_load_yaml(groups, 2, NULL, "/tmp", &e), -EISDIR);
	assert_int_equal(opt_load_yaml(groups, 2, NULL, "/dev/zero", &e), -EFBIG);
	assert_int_equal(opt_load_yaml(groups, 2, NULL, "/dev/null", NULL), -EINVAL);
	memset(name, 'n', sizeof name - 1);
	name[sizeof name - 1] = 0;
	assert_int_equal(opt_load_yaml(groups, 2, NULL, name, &e), -ENAMETOOLONG);
	assert_non_null(strstr(e.why, "check its name"));
	if (geteuid() == 0) {
		print_message("skipped: an unreadable file (root reads everything)\n");
		return;
	}
	assert_int_equal(chmod(path, 0), 0);
	assert_int_equal(opt_load_yaml(groups, 2, NULL, path, &e), -EACCES);
	assert_int_equal(chmod(path, 0600), 0);
}

static void command_line_wins(void **state)
{
	char config[64];
	char *argv[] = { "dwcp", "--streams", "5", "file", config, NULL };
	int n;

	(void)state;
	loads("amst:\n  streams: 64\n  chunk-size: 4KB\n");
	opt_defaults(groups, 2);
	snprintf(config, sizeof config, "--config=%s", path);
	assert_int_equal(opt_parse(groups, 2, others, 5, argv, &n, &e), 0);
	assert_int_equal(o.streams, 5);
	assert_int_equal(o.chunk, 4096);
	assert_int_equal(n, 1);
	assert_string_equal(argv[0], "file");

	assert_int_equal(load("amst:\n  streams: 0\n"), -EINVAL);
	assert_int_equal(opt_parse(groups, 2, others, 5, (char *[]){ "dwcp", "--streams", "5", "x", config }, &n, &e),
			 -EINVAL);
	assert_non_null(strstr(e.why, ":2: amst: streams: 0 is out of range"));
	argv[4] = "--config=/nonexistent";
	argv[0] = "dwcp";
	assert_int_equal(opt_parse(groups, 2, others, 5, argv, &n, &e), -ENOENT);
}

/* Whatever stands in the file: an answer, and if it is no, one that says why. */
static void damaged_files(void **state)
{
	static const char good[] =
		"amst:\n  num_streams: 64\n  chunk-size: 1MB\n  checksum: \"xxh3\"\nhde: {a: [b, c]}\n"
		"tcp:\n  verify: yes\n  bind: '::1'\n";
	static const char alphabet[] = "\n :-{}[]&*!|>'\"%@`#?,~\t\x01\x80\xff"
				       "ab0";
	uint64_t rng = 99;
	int refused = 0;

	(void)state;
	for (int i = 0; i < 3000; i++) {
		char text[sizeof good];
		size_t len = sizeof good - 1;
		int rc;

		memcpy(text, good, sizeof good);
		for (uint64_t k = rng_next(&rng) % 4 + 1; k; k--)
			text[rng_next(&rng) % len] = alphabet[rng_next(&rng) % (sizeof alphabet - 1)];
		if (rng_next(&rng) % 4 == 0)
			len = rng_next(&rng) % len + 1;
		rc = load_bytes(text, len);
		if (rc)
			assert_true(e.code == rc && strlen(e.why) > 20);
		assert_true(o.streams <= 512 && o.sum >= 0 && o.sum <= 2);
		refused += rc != 0;
	}
	assert_in_range(refused, 1000, 2999);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sections_and_options), cmocka_unit_test(options_outside_sections),
		cmocka_unit_test(nothing_to_set),       cmocka_unit_test(other_sections_are_skipped),
		cmocka_unit_test(mistakes_are_located), cmocka_unit_test(what_yaml_has_and_we_have_not),
		cmocka_unit_test(broken_files),         cmocka_unit_test(files_that_cannot_be_read),
		cmocka_unit_test(command_line_wins),    cmocka_unit_test(damaged_files),
	};

	return cmocka_run_group_tests_name("base/opt_yaml", tests, setup, teardown);
}

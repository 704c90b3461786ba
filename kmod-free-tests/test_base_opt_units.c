/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/opt.h"
#include "base/util.h"
#include <errno.h>
#include <math.h>
#include <string.h>

typedef int (*parser)(const char *, uint64_t *);

struct good {
	const char *text;
	uint64_t value;
};

static void accepts(parser p, const struct good *cases, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t v = 1;

		if (p(cases[i].text, &v) || v != cases[i].value)
			fail_msg("%s became %llu", cases[i].text, (unsigned long long)v);
	}
}

static void refuses(parser p, int code, const char *const *cases)
{
	for (; *cases; cases++) {
		uint64_t v = 77;
		int rc = p(*cases, &v);

		if (rc != code || v != 77)
			fail_msg("\"%s\" gave %d, %llu", *cases, rc, (unsigned long long)v);
	}
}

static void sizes(void **state)
{
	static const struct good good[] = {
		{ "0", 0 },
		{ "4096", 4096 },
		{ "4096B", 4096 },
		{ "64KB", 65536 },
		{ "64K", 65536 },
		{ "64k", 65536 },
		{ "64kb", 65536 },
		{ "64KiB", 65536 },
		{ "64 KB", 65536 },
		{ "4MB", 4 << 20 },
		{ "1GB", 1 << 30 },
		{ "1.5GB", 3ull << 29 },
		{ "0.5K", 512 },
		{ "2TiB", 2ull << 40 },
		{ "15.9EB", 18331451923248866918ull },
		{ "18446744073709551615", UINT64_MAX },
	};

	(void)state;
	accepts(parse_size, good, ARRAY_LEN(good));
	refuses(parse_size, -EINVAL,
		(const char *const[]){ "",      " ",    "KB",   "-1",  "+1",   " 1",   "1 ",  "1KB ", "1KBx",
				       "1KiBs", "1XB",  "1.",   ".5",  "1.5",  "1.5B", "1e3", "0x10", "1,000",
				       "1_000", "auto", "1K B", "1iB", "10Mb", "1Gb",  NULL });
	refuses(parse_size, -ERANGE,
		(const char *const[]){ "18446744073709551616", "16EB", "99999999999999999999999999", "17179869184GB",
				       NULL });
}

static void rates(void **state)
{
	static const struct good good[] = {
		{ "1000", 1000 },          { "1bps", 1 },
		{ "500Mbps", 500000000 },  { "1Gbps", 1000000000 },
		{ "2.5Gbps", 2500000000 }, { "2.5 Gbps", 2500000000 },
		{ "10G", 10000000000 },    { "64kbps", 64000 },
		{ "0.000000001Gbps", 1 },  { "1Tbps", 1000000000000 },
	};

	(void)state;
	accepts(parse_rate, good, ARRAY_LEN(good));
	/* bytes per second are not bits per second */
	refuses(parse_rate, -EINVAL,
		(const char *const[]){ "", "10MB/s", "10MBps", "10GB", "1Gibps", "1.5bps", "-1Gbps", "fast", NULL });
	refuses(parse_rate, -ERANGE, (const char *const[]){ "18446745Tbps", NULL });
}

static void times(void **state)
{
	static const struct good good[] = {
		{ "5", 5000000000 },      { "1.5", 1500000000 },       { "7ns", 7 },
		{ "250us", 250000 },      { "10ms", 10000000 },        { "5s", 5000000000 },
		{ "30m", 1800000000000 }, { "30 min", 1800000000000 }, { "24h", 86400000000000 },
		{ "0.25ms", 250000 },
	};

	(void)state;
	accepts(parse_time, good, ARRAY_LEN(good));
	refuses(parse_time, -EINVAL, (const char *const[]){ "", "5y", "5S", "s", "0.5ns", "1h30m", "-1s", NULL });
	refuses(parse_time, -ERANGE, (const char *const[]){ "5124096h", NULL });
}

static void round_figures(void **state)
{
	static const struct good size[] = {
		{ "0 B", 0 },           { "1000 B", 1000 },      { "1023 B", 1023 },  { "1 KB", 1024 },
		{ "1.5 KB", 1536 },     { "256 KB", 256 << 10 }, { "1 MB", 1048575 }, { "11.8 MB", 12345678 },
		{ "1 TB", 1ull << 40 }, { "16 EB", UINT64_MAX },
	};
	static const struct good time[] = {
		{ "0 ns", 0 },
		{ "999 ns", 999 },
		{ "1 us", 1000 },
		{ "12.3 ms", 12345678 },
		{ "1 ms", 999999 },
		{ "250 us", 250000 },
		{ "1.5 s", 1500000000 },
		{ "119 s", 119000000000 },
		{ "2 min", 120000000000 },
		{ "24 h", 86400000000000 },
	};
	static const struct {
		double rate;
		const char *text;
	} rate[] = {
		{ 0, "0 bps" },        { 1e9, "1 Gbps" },
		{ 1.5e9, "1.5 Gbps" }, { 2.25e9, "2.25 Gbps" },
		{ 999.9e6, "1 Gbps" }, { 12345, "12.3 Kbps" },
		{ 1e15, "1000 Tbps" }, { NAN, "?" },
		{ INFINITY, "?" },     { -1, "?" },
	};
	char buf[32], tiny[4];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(size); i++)
		assert_string_equal(format_size(buf, sizeof buf, size[i].value), size[i].text);
	for (size_t i = 0; i < ARRAY_LEN(time); i++)
		assert_string_equal(format_time(buf, sizeof buf, time[i].value), time[i].text);
	for (size_t i = 0; i < ARRAY_LEN(rate); i++)
		assert_string_equal(format_rate(buf, sizeof buf, rate[i].rate), rate[i].text);
	assert_string_equal(format_size(tiny, sizeof tiny, 256 << 10), "256");
}

/* What is printed can be written back, and is right to three digits. */
static void printed_and_parsed_again(void **state)
{
	uint64_t rng = 4;

	(void)state;
	for (int i = 0; i < 100000; i++) {
		uint64_t v = rng_next(&rng) >> (4 + rng_next(&rng) % 60), back;
		char buf[32];

		assert_int_equal(parse_size(format_size(buf, sizeof buf, v), &back), 0);
		assert_true(fabs((double)back - (double)v) <= 0.0051 * (double)v + 1); /* no half bytes */
		assert_int_equal(parse_time(format_time(buf, sizeof buf, v), &back), 0);
		assert_true(fabs((double)back - (double)v) <= 0.0051 * (double)v);
		v = min_u64(v, 1000000000000000ull);
		assert_int_equal(parse_rate(format_rate(buf, sizeof buf, (double)v), &back), 0);
		assert_true(fabs((double)back - (double)v) <= 0.0051 * (double)v);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),
		cmocka_unit_test(rates),
		cmocka_unit_test(times),
		cmocka_unit_test(round_figures),
		cmocka_unit_test(printed_and_parsed_again),
	};

	return cmocka_run_group_tests_name("base/opt_units", tests, NULL, NULL);
}

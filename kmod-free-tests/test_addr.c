/* SPDX-License-Identifier: MIT */
#include "base/util.h"
#include "transport/backend.h"
#include <errno.h>
#include <net/if.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static void literals(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
		{ "127.0.0.1", "127.0.0.1:7411" },
		{ "127.0.0.1:80", "127.0.0.1:80" },
		{ "10.1.2.3:65535", "10.1.2.3:65535" },
		{ "::1", "[::1]:7411" },
		{ "[::1]", "[::1]:7411" },
		{ "[::1]:9", "[::1]:9" },
		{ "2001:db8::42", "[2001:db8::42]:7411" },
		{ "[2001:db8::42]:443", "[2001:db8::42]:443" },
		{ "::ffff:10.0.0.1", "[::ffff:10.0.0.1]:7411" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct be_addr a[4];
		struct err e = { 0 };
		char buf[96];

		if (addr_resolve(cases[i].text, 7411, false, a, 4, &e) != 1)
			fail_msg("%s: %s", cases[i].text, e.why);
		assert_string_equal(addr_format(buf, sizeof buf, &a[0]), cases[i].want);
		assert_int_equal(a[0].len, strchr(cases[i].want, '[') ? sizeof a[0].in6 : sizeof a[0].in);
		assert_int_equal(addr_resolve(buf, 1, false, &a[1], 3, &e), 1); /* what we print, we read */
		assert_int_equal(a[0].len, a[1].len);
		assert_memory_equal(&a[0].ss, &a[1].ss, a[0].len);
	}
}

/* The resolver would take it for the end of an IPv4 address. */
static void lone_port(void **state)
{
	struct be_addr a[4];
	struct err e = { 0 };

	(void)state;
	assert_int_equal(addr_resolve("21009", 7411, true, a, 4, &e), -EINVAL);
	assert_non_null(strstr(e.why, "looks like a port; write ADDRESS:21009"));
	assert_int_equal(addr_resolve("80", 7411, false, a, 4, &e), -EINVAL);
}

static void names(void **state)
{
	struct be_addr a[8];
	struct err e = { 0 };
	int n = addr_resolve("localhost:1234", 1, false, a, 8, &e);

	(void)state;
	if (n < 0) {
		print_message("skipped: this machine does not know localhost: %s\n", e.why);
		skip();
	}
	assert_in_range(n, 1, 8);
	for (int i = 0; i < n; i++) {
		char buf[96];

		assert_true(addr_is_loopback(&a[i]));
		assert_non_null(strstr(addr_format(buf, sizeof buf, &a[i]), ":1234"));
	}
	assert_int_equal(addr_resolve("localhost", 1, false, a, 1, &e), 1); /* never more than max */
}

static void bad_input(void **state)
{
	static const struct {
		const char *text, *names; /* what the reason must name */
		int code;
	} cases[] = {
		{ "", "host", -EINVAL },
		{ ":7411", "host", -EINVAL },
		{ "[]:1", "host", -EINVAL },
		{ "127.0.0.1:", "port", -EINVAL },
		{ "127.0.0.1:0", "1 to 65535", -EINVAL },
		{ "127.0.0.1:65536", "65536", -EINVAL },
		{ "127.0.0.1:99999999999999999999", "port", -EINVAL },
		{ "127.0.0.1:80x", "80x", -EINVAL },
		{ "127.0.0.1:-1", "-1", -EINVAL },
		{ "127.0.0.1: 80", "port", -EINVAL },
		{ "localhost:http", "http", -EINVAL },
		{ "[::1", "[ADDRESS]:PORT", -EINVAL },
		{ "[::1]7411", "[ADDRESS]:PORT", -EINVAL },
		{ "[::1]:x", "\"x\"", -EINVAL },
		{ "[127.0.0.1]:80", "IPv6", -EINVAL },
		{ "[localhost]:80", "IPv6", -EINVAL },
		{ "1:2:3", "IPv6", -EINVAL },
		{ "::g", "::g", -EINVAL },
		{ "fe80::1", "%eth0", -EINVAL },
		{ "fe80::1%nosuchif0", "nosuchif0", -ENODEV },
		{ "*", "name a host", -EINVAL },
	};
	char longest[400];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct be_addr a[4];
		struct err e = { 0 };
		int rc = addr_resolve(cases[i].text, 7411, false, a, 4, &e);

		if (rc != cases[i].code || e.code != rc || !strstr(e.why, cases[i].names))
			fail_msg("\"%s\": %d, \"%s\"", cases[i].text, rc, e.why);
	}
	memset(longest, 'a', sizeof longest - 1);
	longest[sizeof longest - 1] = 0;
	assert_int_equal(addr_resolve(longest, 1, false, &(struct be_addr){ 0 }, 1, NULL), -EINVAL);
}

static void unknown_name(void **state)
{
	struct be_addr a[2];
	struct err e = { 0 };
	int rc = addr_resolve("no-such-host.invalid:80", 1, false, a, 2, &e);

	(void)state;
	assert_true(rc < 0 && e.code == rc);
	assert_non_null(strstr(e.why, "no-such-host.invalid"));
	assert_non_null(strstr(e.why, "numeric address"));
}

static void scope_id(void **state)
{
	struct be_addr a[2];
	struct err e = { 0 };
	char name[IF_NAMESIZE], text[64], want[64], buf[96];

	(void)state;
	if (!if_indextoname(1, name)) {
		print_message("skipped: there is no network interface 1\n");
		skip();
	}
	snprintf(text, sizeof text, "[fe80::1%%%s]:5", name);
	snprintf(want, sizeof want, "[fe80::1%%%s]:5", name);
	if (addr_resolve(text, 1, false, a, 2, &e) != 1)
		fail_msg("%s", e.why);
	assert_int_equal(a[0].in6.sin6_scope_id, 1);
	assert_string_equal(addr_format(buf, sizeof buf, &a[0]), want);
}

static void listening(void **state)
{
	struct be_addr a[4];
	struct err e = { 0 };
	char buf[96];
	int six = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	if (six >= 0)
		close(six);
	for (int i = 0; i < 3; i++) {
		int n = addr_resolve(i == 0 ? NULL : i == 1 ? "*" : "*:7411", 7411, true, a, 4, &e);

		assert_int_equal(n, 1);
		assert_string_equal(addr_format(buf, sizeof buf, &a[0]), six >= 0 ? "[::]:7411" : "0.0.0.0:7411");
		assert_int_equal(a[0].len, six >= 0 ? sizeof a[0].in6 : sizeof a[0].in);
		assert_false(addr_is_loopback(&a[0]));
	}
	assert_int_equal(addr_resolve("127.0.0.1:0", 1, true, a, 4, &e), 1); /* port 0: any free one */
	assert_int_equal(a[0].in.sin_port, 0);
}

static void loopback(void **state)
{
	static const struct {
		const char *text;
		bool is;
	} cases[] = { { "127.0.0.1", true },
		      { "127.8.9.1", true },
		      { "128.0.0.1", false },
		      { "10.0.0.1", false },
		      { "::1", true },
		      { "::2", false },
		      { "::ffff:127.0.0.1", true },
		      { "::ffff:10.0.0.1", false },
		      { "0.0.0.0", false } };
	struct be_addr unknown = { .len = sizeof unknown.sa };
	char buf[8];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct be_addr a;

		assert_int_equal(addr_resolve(cases[i].text, 1, false, &a, 1, NULL), 1);
		assert_int_equal(addr_is_loopback(&a), cases[i].is);
	}
	assert_false(addr_is_loopback(&unknown));
	assert_string_equal(addr_format(buf, sizeof buf, &unknown), "?");
}

static void small_buffer(void **state)
{
	struct be_addr a;
	char buf[6];

	(void)state;
	assert_int_equal(addr_resolve("127.0.0.1", 1, false, &a, 1, NULL), 1);
	assert_string_equal(addr_format(buf, sizeof buf, &a), "127.0");
}

static void table(void **state)
{
	size_t n = 0;

	(void)state;
	while (backends[n])
		n++;
	if (n < 3) {
		fail_msg("there are %zu backends", n);
		return;
	}
	assert_string_equal(backends[0]->name, "rdma");
	assert_string_equal(backends[1]->name, "tcp");
	assert_string_equal(backends[n - 1]->name, "mem");
	assert_true(backends[n - 1]->caps.in_process);
	for (size_t i = 0; i < n; i++) {
		assert_ptr_equal(backend_find(backends[i]->name), backends[i]);
		if (backends[i]->alias)
			assert_ptr_equal(backend_find(backends[i]->alias), backends[i]);
		assert_true(backends[i]->caps.frame_max > BE_HEAD_MAX && backends[i]->caps.streams_max >= 512);
	}
	assert_null(backend_find("mem1"));
	assert_null(backend_find("carrier-pigeon"));
	for (size_t i = 0; i < be_metrics_n; i++)
		for (size_t k = 0; k < i; k++)
			assert_true(be_metrics[i].offset != be_metrics[k].offset);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(literals),  cmocka_unit_test(lone_port),    cmocka_unit_test(names),
		cmocka_unit_test(bad_input), cmocka_unit_test(unknown_name), cmocka_unit_test(scope_id),
		cmocka_unit_test(listening), cmocka_unit_test(loopback),     cmocka_unit_test(small_buffer),
		cmocka_unit_test(table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

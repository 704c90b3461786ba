/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/err.h"
#include <errno.h>
#include <string.h>

static void fills_and_returns(void **state)
{
	struct err e = { 0 };

	(void)state;
	assert_int_equal(err_set(&e, -EINVAL, "port %d: use %s", 7, "8"), -EINVAL);
	assert_int_equal(e.code, -EINVAL);
	assert_string_equal(e.why, "port 7: use 8");
	assert_int_equal(err_set(NULL, -EPROTO, "%s", "nobody reads it"), -EPROTO);
}

static void stays_one_line_within_bounds(void **state)
{
	char text[1000];
	struct {
		struct err e;
		char after[8];
	} s;

	(void)state;
	memset(&s, 'G', sizeof s);
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = 0;
	text[0] = '\n';
	text[1] = '\033';
	text[2] = '\t';
	text[3] = 0x7f;
	err_set(&s.e, -EIO, "%s", text);
	assert_int_equal(strlen(s.e.why), sizeof s.e.why - 1);
	assert_memory_equal(s.e.why, "    xxx", 7);
	assert_memory_equal(s.after, "GGGGGGGG", 8);
}

static void an_error_may_quote_itself(void **state)
{
	struct err e;

	(void)state;
	err_set(&e, -EIO, "disk full");
	err_set(&e, -EIO, "file a: %s", e.why);
	assert_string_equal(e.why, "file a: disk full");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fills_and_returns),
		cmocka_unit_test(stays_one_line_within_bounds),
		cmocka_unit_test(an_error_may_quote_itself),
	};

	return cmocka_run_group_tests_name("base/err", tests, NULL, NULL);
}

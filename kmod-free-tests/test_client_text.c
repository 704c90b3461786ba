/* SPDX-License-Identifier: MIT */
/* What a peer says must not command the terminal that shows it. */
#include "transport/client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void becomes(const char *in, const char *out)
{
	char text[64];

	snprintf(text, sizeof text, "%s", in);
	assert_ptr_equal(client_clean(text), text);
	assert_string_equal(text, out);
}

static void test_plain_text_stays(void **state)
{
	(void)state;
	becomes("", "");
	becomes("no space left on \"disk\"; free some", "no space left on \"disk\"; free some");
	becomes("Gr\xc3\xb6\xc3\x9f"
		"e \xe2\x80\xa6 \xf0\x9f\x98\x80",
		"Gr\xc3\xb6\xc3\x9f"
		"e \xe2\x80\xa6 \xf0\x9f\x98\x80");
	becomes("\xc2\xa0\xed\x9f\xbf\xf4\x8f\xbf\xbf", "\xc2\xa0\xed\x9f\xbf\xf4\x8f\xbf\xbf");
}

static void test_controls(void **state)
{
	(void)state;
	becomes("\033]0;title\007\033[2J", "?]0;title??[2J");
	becomes("a\r\nb\tc\x7f", "a??b?c?");
	becomes("\xc2\x9b"
		"31m",
		"??31m"); /* CSI in one character */
	becomes("\x9b"
		"31m",
		"?31m"); /* …and in one byte */
	becomes("a\xe2\x80\xae"
		"exe.txt",
		"a???exe.txt"); /* shown from right to left */
	becomes("\xe2\x81\xa6|\xe2\x81\xa9|\xe2\x80\xaa", "???|???|???");
	becomes("\xe2\x80\xa9\xe2\x80\xaf\xe2\x81\xa5\xe2\x81\xaa", "\xe2\x80\xa9\xe2\x80\xaf\xe2\x81\xa5\xe2\x81\xaa");
}

static void test_no_utf8(void **state)
{
	(void)state;
	becomes("\xff\xfe", "??");
	becomes("\xc3", "?");
	becomes("\xe2\x80", "??");
	becomes("\xe2\033[m", "??[m");
	becomes("\xc1\x9b\xe0\x80\x9b\xf0\x80\x80\x9b", "?????????"); /* ESC, written too long */
	becomes("\xed\xa0\x80\xf4\x90\x80\x80\xf5", "????????");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain_text_stays),
		cmocka_unit_test(test_controls),
		cmocka_unit_test(test_no_utf8),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

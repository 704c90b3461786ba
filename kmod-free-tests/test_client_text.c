/* SPDX-License-Identifier: MIT */
/* What a peer says must not command the terminal that shows it. */
#include "transport/client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
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
}

/* U+202A to U+202E and U+2066 to U+2069; their neighbours stay. */
static void test_what_turns_the_text(void **state)
{
	(void)state;
	for (unsigned c = 0x2000; c < 0x2100; c++) {
		const char in[] = { 'a', (char)0xe2, (char)(0x80 | (c >> 6 & 0x3f)), (char)(0x80 | (c & 0x3f)), 'z', 0 };
		bool turns = (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);

		becomes(in, turns ? "a???z" : in);
	}
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
		cmocka_unit_test(test_what_turns_the_text),
		cmocka_unit_test(test_no_utf8),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int saved_stderr, file;

/* Standard error goes to a file that has no name. */
static int redirect(void **state)
{
	char name[] = "/tmp/dwcp-test-log-XXXXXX";

	(void)state;
	file = mkostemp(name, O_APPEND | O_CLOEXEC);
	if (file < 0)
		return -1;
	unlink(name);
	saved_stderr = dup(STDERR_FILENO);
	dup2(file, STDERR_FILENO);
	return 0;
}

static int restore(void **state)
{
	(void)state;
	log_set_level(LOG_WARN);
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	close(file);
	return 0;
}

static size_t written(char *buf, size_t cap)
{
	ssize_t n = pread(file, buf, cap - 1, 0);

	buf[n < 0 ? 0 : n] = 0;
	return n < 0 ? 0 : (size_t)n;
}

static void levels(void **state)
{
	char got[4096];

	(void)state;
	assert_int_equal(log_level(), LOG_WARN);
	log_error("a %d", 1);
	log_warn("b");
	log_info("not shown");
	log_set_level(LOG_DEBUG);
	log_info("c");
	log_debug("d");
	written(got, sizeof got);
	assert_string_equal(got, "dwcp: error: a 1\ndwcp: warning: b\ndwcp: c\ndwcp: debug: d\n");
}

static void one_line_however_long(void **state)
{
	char text[9000], got[16384];
	size_t n;

	(void)state;
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = 0;
	text[10] = '\n';
	text[11] = '\033';
	log_warn("%s", text);
	n = written(got, sizeof got);
	assert_true(n > 2000 && n <= 4096);
	assert_string_equal(got + n - 5, "x...\n");
	assert_ptr_equal(strchr(got, '\n'), got + n - 1);
	assert_null(strchr(got, '\033'));
}

static void exactly_the_longest_line(void **state)
{
	char text[3000], got[4096];

	(void)state;
	/* around the buffer's end no byte is lost without dots, and none is written past it */
	for (size_t len = 2020; len < 2060; len++) {
		size_t n, cut;

		assert_int_equal(ftruncate(file, 0), 0);
		memset(text, 'y', len);
		text[len] = 0;
		log_warn("%s", text);
		n = written(got, sizeof got);
		cut = strlen("dwcp: warning: ") + len + 1;
		assert_int_equal(got[n - 1], '\n');
		if (n == cut)
			assert_int_equal(got[n - 2], 'y');
		else
			assert_true(n < cut && strcmp(got + n - 4, "...\n") == 0);
	}
}

static void caller_is_never_hurt(void **state)
{
	(void)state;
	errno = ENOENT;
	log_warn("%m");
	assert_int_equal(errno, ENOENT);
	close(STDERR_FILENO);
	log_warn("nobody listens");
	assert_int_equal(errno, ENOENT);
}

static void *chatter(void *arg)
{
	for (int i = 0; i < 500; i++)
		log_warn("%s%0200d", (const char *)arg, i);
	return NULL;
}

static void threads_do_not_mix_lines(void **state)
{
	static char got[512 * 1024];
	pthread_t a, b;
	int lines = 0;

	(void)state;
	assert_int_equal(pthread_create(&a, NULL, chatter, "a"), 0);
	assert_int_equal(pthread_create(&b, NULL, chatter, "b"), 0);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	written(got, sizeof got);
	for (char *line = strtok(got, "\n"); line; line = strtok(NULL, "\n"), lines++) {
		assert_int_equal(strlen(line), strlen("dwcp: warning: ") + 201);
		assert_memory_equal(line, "dwcp: warning: ", 15);
	}
	assert_int_equal(lines, 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(levels, redirect, restore),
		cmocka_unit_test_setup_teardown(one_line_however_long, redirect, restore),
		cmocka_unit_test_setup_teardown(exactly_the_longest_line, redirect, restore),
		cmocka_unit_test_setup_teardown(caller_is_never_hurt, redirect, restore),
		cmocka_unit_test_setup_teardown(threads_do_not_mix_lines, redirect, restore),
	};

	return cmocka_run_group_tests_name("base/log", tests, NULL, NULL);
}

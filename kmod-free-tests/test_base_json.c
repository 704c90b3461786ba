/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/json.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/dwcp-json-XXXXXX";
static char file[64];

static int setup(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(file, sizeof file, "%s/out.json", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(file);
	return rmdir(dir); /* fails when a temporary file was left */
}

static const char *text_of(const json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	if (!s || !*s)
		fail_msg("no %s", key);
	return s;
}

static void result_names_its_environment(void **state)
{
	json_t *r = json_result("benchmark amst", false), *env = json_object_get(r, "environment");
	int year, n = 0;
	char host[256];

	(void)state;
	assert_string_equal(text_of(r, "schema"), "dwcp/1");
	assert_string_equal(text_of(r, "command"), "benchmark amst");
	assert_true(json_is_false(json_object_get(r, "measured")));
	assert_int_equal(json_object_size(env), 7);
	gethostname(host, sizeof host);
	assert_string_equal(text_of(env, "host"), host);
	text_of(env, "cpu");
	text_of(env, "commit");
	assert_memory_equal(text_of(env, "kernel"), "Linux ", 6);
	assert_int_equal(json_integer_value(json_object_get(env, "cpus")), sysconf(_SC_NPROCESSORS_ONLN));
	assert_true(strstr(text_of(env, "compiler"), "gcc") || strstr(text_of(env, "compiler"), "lang"));
	assert_int_equal(sscanf(text_of(env, "date"), "%4d-%*2d-%*2dT%*2d:%*2d:%*2dZ%n", &year, &n), 1);
	assert_true(year >= 2024 && n == 20);
	json_decref(r);
	r = json_result("x", true);
	assert_true(json_is_true(json_object_get(r, "measured")));
	json_decref(r);
}

static void numbers(void **state)
{
	struct stats_interval s = { .median = 2.5, .ci95_low = NAN, .ci95_high = INFINITY, .n = 3 };
	json_t *j = json_interval(s), *x;

	(void)state;
	assert_int_equal(json_object_size(j), 4);
	assert_true(json_real_value(json_object_get(j, "median")) == 2.5);
	assert_true(json_is_null(json_object_get(j, "ci95_low")));
	assert_true(json_is_null(json_object_get(j, "ci95_high")));
	assert_int_equal(json_integer_value(json_object_get(j, "n")), 3);
	json_decref(j);
	x = json_number(-0.25);
	assert_true(json_real_value(x) == -0.25);
	json_decref(x);
}

static json_t *sample(size_t filler)
{
	char *s = calloc(1, filler + 1);
	json_t *j;

	assert_non_null(s);
	memset(s, 'f', filler);
	j = json_pack("{s:s, s:f}", "filler", s, "x", 0.1);
	free(s);
	assert_non_null(j);
	return j;
}

static void file_is_replaced_whole(void **state)
{
	json_t *first = sample(10), *second = sample(100000), *back;
	struct stat st;
	mode_t mask = umask(027);
	FILE *f;

	(void)state;
	assert_int_equal(json_write(first, file, NULL), 0);
	f = fopen(file, "r"); /* whoever reads the old one keeps it */
	assert_non_null(f);
	assert_int_equal(json_write(second, file, NULL), 0);
	umask(mask);
	assert_int_equal(fgetc(f), '{');
	assert_int_equal(fstat(fileno(f), &st), 0);
	assert_int_equal(st.st_nlink, 0);
	fclose(f);

	back = json_load_file(file, 0, NULL);
	assert_true(json_equal(back, second));
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	f = fopen(file, "r");
	assert_int_equal(fseek(f, -2, SEEK_END), 0);
	assert_int_equal(fgetc(f), '}');
	assert_int_equal(fgetc(f), '\n');
	fclose(f);
	json_decref(back);
	json_decref(first);
	json_decref(second);
}

static void standard_output(void **state)
{
	static const char *const names[] = { NULL, "", "-" };
	json_t *j = sample(5);
	int saved, fds[2];

	(void)state;
	fflush(stdout);
	for (size_t i = 0; i < 3; i++) {
		char got[200];
		ssize_t n;

		assert_int_equal(pipe(fds), 0);
		saved = dup(STDOUT_FILENO);
		dup2(fds[1], STDOUT_FILENO);
		close(fds[1]);
		assert_int_equal(json_write(j, names[i], NULL), 0);
		dup2(saved, STDOUT_FILENO);
		close(saved);
		n = read(fds[0], got, sizeof got - 1);
		close(fds[0]);
		assert_true(n > 0);
		got[n] = 0;
		assert_string_equal(got, "{\n  \"filler\": \"fffff\",\n  \"x\": 0.1\n}\n");
	}
	json_decref(j);
}

static void full_disk_is_an_error(void **state)
{
	json_t *j = sample(5);
	struct err e;
	int saved, full, rc;

	(void)state;
	assert_int_equal(json_write(j, "/dev/full", &e), -ENOSPC);
	assert_string_equal(e.why, "writing the result to /dev/full: No space left on device; check the directory and "
				   "its free space");
	fflush(stdout);
	saved = dup(STDOUT_FILENO);
	full = open("/dev/full", O_WRONLY);
	dup2(full, STDOUT_FILENO);
	rc = json_write(j, NULL, &e);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	close(full);
	assert_int_equal(rc, -ENOSPC);
	assert_int_equal(json_write(j, "/dev/null", &e), 0);
	json_decref(j);
}

/* In a child, where files may not grow past 4 KB: the write is cut short, then refused. */
static void short_write_keeps_the_old_file(void **state)
{
	json_t *old = sample(10), *large = sample(100000), *back;
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(json_write(old, file, NULL), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct rlimit limit = { .rlim_cur = 4096, .rlim_max = 4096 };

		signal(SIGXFSZ, SIG_IGN);
		setrlimit(RLIMIT_FSIZE, &limit);
		status = json_write(large, file, NULL) == -EFBIG ? 42 : 1;
		json_decref(old);
		json_decref(large);
		_exit(status);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 42);
	back = json_load_file(file, 0, NULL);
	assert_true(json_equal(back, old));
	json_decref(back);
	json_decref(old);
	json_decref(large);
}

static void bad_paths(void **state)
{
	json_t *j = sample(5), *text = json_string("not an object");
	struct err e;

	(void)state;
	assert_int_equal(json_write(j, "/nonexistent/x.json", &e), -ENOENT);
	assert_non_null(strstr(e.why, "/nonexistent/x.json: No such file"));
	assert_int_equal(json_write(j, dir, &e), -EISDIR);
	assert_true(json_write(text, file, &e) < 0);
	assert_true(json_write(NULL, file, &e) < 0);
	json_decref(text);
	json_decref(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(result_names_its_environment),
		cmocka_unit_test(numbers),
		cmocka_unit_test(file_is_replaced_whole),
		cmocka_unit_test(standard_output),
		cmocka_unit_test(full_disk_is_an_error),
		cmocka_unit_test(short_write_keeps_the_old_file),
		cmocka_unit_test(bad_paths),
	};

	return cmocka_run_group_tests_name("base/json", tests, setup, teardown);
}

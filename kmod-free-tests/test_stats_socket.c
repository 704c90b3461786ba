/* SPDX-License-Identifier: MIT */
/* The statistics socket and a reader that takes its time: others are answered, and the server ends. */
#include "cli/stats_socket.c" /* NOLINT(bugprone-suspicious-include): its functions are static */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define ANSWER_LEN ((size_t)12 << 20)

static char folder[] = "/tmp/dwcp-stats-XXXXXX";
static char path[64];
static bool large; /* the next answer; read by the socket's thread between connections only */

static json_t *make(void *ctx)
{
	char *text = ctx;

	return json_pack("{s:s}", "text", __atomic_load_n(&large, __ATOMIC_ACQUIRE) ? text : "short");
}

/* Takes 64 KB every 50 ms: all of it would take ten seconds. Returns how much it got. */
static void *dawdle(void *arg)
{
	static char piece[65536];
	uintptr_t got = 0;
	ssize_t n;

	while ((n = read(*(int *)arg, piece, sizeof(piece))) > 0) {
		got += (uintptr_t)n;
		poll(NULL, 0, 50);
	}
	return (void *)got;
}

static struct stats_socket *open_socket(char **text, int *slow, pthread_t *reader)
{
	struct stats_socket *s = NULL;
	struct sockaddr_un at;
	struct err e = { 0 };

	*text = malloc(ANSWER_LEN + 1);
	assert_non_null(*text);
	memset(*text, 'x', ANSWER_LEN);
	(*text)[ANSWER_LEN] = 0;
	__atomic_store_n(&large, true, __ATOMIC_RELEASE);
	if (stats_socket_open(&s, path, 0, make, *text, &e) < 0)
		fail_msg("%s", e.why);
	assert_int_equal(path_set(&at, path, &e), 0);
	*slow = dial(&at);
	assert_true(*slow >= 0);
	/* its answer is under way */
	assert_int_equal(poll(&(struct pollfd){ .fd = *slow, .events = POLLIN }, 1, 20000), 1);
	__atomic_store_n(&large, false, __ATOMIC_RELEASE);
	assert_int_equal(pthread_create(reader, NULL, dawdle, slow), 0);
	return s;
}

static void slow_reader_holds_nobody(void **state)
{
	json_t *answer = NULL;
	struct stats_socket *s;
	struct err e = { 0 };
	pthread_t reader;
	char *text;
	void *got;
	int slow;

	(void)state;
	s = open_socket(&text, &slow, &reader);
	/* Patient or not: who comes next is answered before the slow one has all. */
	for (int i = 0; i < 3 && stats_socket_ask(path, 0, &answer, &e) < 0; i++)
		;
	pthread_join(reader, &got);
	if (!answer)
		fail_msg("%s", e.why);
	assert_string_equal(json_string_value(json_object_get(answer, "text")), "short");
	assert_true((uintptr_t)got < ANSWER_LEN);
	json_decref(answer);
	stats_socket_close(s);
	close(slow);
	free(text);
}

static void slow_reader_does_not_hold_the_end(void **state)
{
	struct stats_socket *s;
	pthread_t reader;
	char *text;
	void *got;
	int slow;

	(void)state;
	s = open_socket(&text, &slow, &reader);
	stats_socket_close(s);
	pthread_join(reader, &got);
	assert_true((uintptr_t)got < ANSWER_LEN);
	close(slow);
	free(text);
}

static int setup(void **state)
{
	(void)state;
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/stats.sock", folder);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slow_reader_holds_nobody),
		cmocka_unit_test(slow_reader_does_not_hold_the_end),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

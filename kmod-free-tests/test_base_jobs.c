/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/jobs.h"
#include "base/util.h"
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>

static struct {
	sem_t wake, gate;
	unsigned ran[64], n; /* ids in the order they ran */
	pthread_t who;
	sigset_t blocked;
} t;

static void wake(void *ctx)
{
	sem_post(ctx);
}

static void run(void *arg)
{
	t.who = pthread_self();
	pthread_sigmask(SIG_SETMASK, NULL, &t.blocked);
	t.ran[t.n++] = *(unsigned *)arg;
}

static void run_gated(void *arg)
{
	sem_wait(&t.gate);
	run(arg);
}

static int setup(void **state)
{
	(void)state;
	memset(&t, 0, sizeof t);
	sem_init(&t.wake, 0, 0);
	sem_init(&t.gate, 0, 0);
	return 0;
}

static void in_order_in_another_thread(void **state)
{
	unsigned id[20];
	struct jobs *j;
	struct job done;

	(void)state;
	assert_int_equal(jobs_open(&j, 32, true, wake, &t.wake, NULL), 0);
	assert_false(jobs_done(j, &done));
	for (unsigned i = 0; i < ARRAY_LEN(id); i++) {
		id[i] = i;
		assert_true(jobs_add(j, (struct job){ .run = run, .arg = &id[i] }));
	}
	for (unsigned i = 0; i < ARRAY_LEN(id); i++) {
		sem_wait(&t.wake);
		/* a job is there by the time its wake is called */
		assert_true(jobs_done(j, &done));
		assert_ptr_equal(done.arg, &id[i]);
	}
	assert_false(jobs_done(j, &done));
	jobs_close(j);
	for (unsigned i = 0; i < ARRAY_LEN(id); i++)
		assert_int_equal(t.ran[i], i);
	assert_false(pthread_equal(t.who, pthread_self()));
	assert_true(sigismember(&t.blocked, SIGTERM) && sigismember(&t.blocked, SIGINT));
}

static void bounded_until_taken_back(void **state)
{
	unsigned id[4] = { 0, 1, 2, 3 };
	struct jobs *j;
	struct job done;

	(void)state;
	assert_int_equal(jobs_open(&j, 3, true, wake, &t.wake, NULL), 0);
	for (int i = 0; i < 3; i++)
		assert_true(jobs_add(j, (struct job){ .run = run_gated, .arg = &id[i] }));
	assert_false(jobs_add(j, (struct job){ .run = run_gated, .arg = &id[3] }));
	for (int i = 0; i < 3; i++)
		sem_post(&t.gate);
	for (int i = 0; i < 3; i++)
		sem_wait(&t.wake);
	/* finished, but not yet taken: still full, so that the way back has room */
	assert_false(jobs_add(j, (struct job){ .run = run, .arg = &id[3] }));
	assert_true(jobs_done(j, &done));
	assert_true(jobs_add(j, (struct job){ .run = run, .arg = &id[3] }));
	jobs_close(j);
	assert_int_equal(t.n, 4);
}

static void close_runs_what_was_accepted(void **state)
{
	unsigned id[30];
	struct jobs *j;

	(void)state;
	jobs_close(NULL);
	assert_int_equal(jobs_open(&j, 30, true, NULL, NULL, NULL), 0);
	for (unsigned i = 0; i < 30; i++) {
		id[i] = i;
		assert_true(jobs_add(j, (struct job){ .run = run, .arg = &id[i] }));
	}
	jobs_close(j);
	assert_int_equal(t.n, 30);
	for (unsigned i = 0; i < 30; i++)
		assert_int_equal(t.ran[i], i);

	assert_int_equal(jobs_open(&j, 1, true, wake, &t.wake, NULL), 0);
	jobs_close(j); /* idle */
}

static void inline_runs_at_once(void **state)
{
	unsigned id = 5;
	struct jobs *j;
	struct job done;

	(void)state;
	assert_int_equal(jobs_open(&j, 1, false, wake, &t.wake, NULL), 0);
	assert_true(jobs_add(j, (struct job){ .run = run, .arg = &id }));
	assert_int_equal(t.n, 1);
	assert_true(pthread_equal(t.who, pthread_self()));
	assert_int_equal(sem_trywait(&t.wake), 0);
	assert_false(jobs_add(j, (struct job){ .run = run, .arg = &id }));
	assert_int_equal(t.n, 1);
	assert_true(jobs_done(j, &done));
	assert_true(jobs_add(j, (struct job){ .run = run, .arg = &id }));
	jobs_close(j);
}

static void bad_capacity(void **state)
{
	struct jobs *j = (struct jobs *)&t;
	struct err e;

	(void)state;
	assert_int_equal(jobs_open(&j, 0, true, NULL, NULL, &e), -EINVAL);
	assert_int_equal(jobs_open(&j, UINT32_MAX, true, NULL, NULL, &e), -EINVAL);
	assert_non_null(strstr(e.why, "choose"));
	assert_ptr_equal(j, &t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(in_order_in_another_thread, setup),
		cmocka_unit_test_setup(bounded_until_taken_back, setup),
		cmocka_unit_test_setup(close_runs_what_was_accepted, setup),
		cmocka_unit_test_setup(inline_runs_at_once, setup),
		cmocka_unit_test_setup(bad_capacity, setup),
	};

	return cmocka_run_group_tests_name("base/jobs", tests, NULL, NULL);
}

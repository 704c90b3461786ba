/* SPDX-License-Identifier: MIT */
/*
 * Two rings, one each way, and a semaphore that counts what is to be run. The
 * owner bounds jobs in flight by the capacity, so the way back can never be full.
 */
#include "base/jobs.h"
#include "base/ring.h"
#include "base/thread.h"
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

struct jobs {
	struct spsc todo, done; /* of struct job; a job without `run` ends the thread */
	uint32_t capacity, in_flight;
	void (*wake)(void *);
	void *wake_ctx;
	bool thread;
	sem_t ready;
	pthread_t tid;
};

static void run_one(struct jobs *j, struct job job)
{
	bool pushed;

	job.run(job.arg);
	pushed = spsc_push(&j->done, &job);
	assert(pushed);
	(void)pushed;
	if (j->wake)
		j->wake(j->wake_ctx);
}

static void *background(void *arg)
{
	struct jobs *j = arg;
	struct job job;

	for (;;) {
		while (sem_wait(&j->ready) < 0 && errno == EINTR)
			;
		if (!spsc_pop(&j->todo, &job))
			continue;
		if (!job.run)
			return NULL;
		run_one(j, job);
	}
}

int jobs_open(struct jobs **out, uint32_t capacity, bool thread, void (*wake)(void *), void *wake_ctx, struct err *e)
{
	struct jobs *j;
	int rc;

	if (!capacity || capacity >= 1u << 30)
		return err_set(e, -EINVAL, "background job queue of %u entries: choose 1 to 2^30 - 1", capacity);
	j = aligned_alloc(CACHE_LINE, sizeof *j);
	if (!j)
		return err_set(e, -ENOMEM, "no memory for a background job queue: free some memory");
	memset(j, 0, sizeof *j);
	j->capacity = capacity;
	j->thread = thread;
	j->wake = wake;
	j->wake_ctx = wake_ctx;
	if (spsc_init(&j->todo, capacity + 1, sizeof(struct job)) || /* + 1: the end mark always fits */
	    spsc_init(&j->done, capacity, sizeof(struct job))) {
		rc = err_set(e, -ENOMEM, "no memory for %u background jobs: free some memory", capacity);
		goto out;
	}
	sem_init(&j->ready, 0, 0);
	if (thread) {
		rc = thread_start(&j->tid, "dwcp-jobs", background, j);
		if (rc) {
			err_set(e, rc, "starting the background thread: %s; raise the thread limit (ulimit -u)",
				strerror(-rc));
			sem_destroy(&j->ready);
			goto out;
		}
	}
	*out = j;
	return 0;
out:
	spsc_free(&j->done);
	spsc_free(&j->todo);
	free(j);
	return rc;
}

void jobs_close(struct jobs *j)
{
	if (!j)
		return;
	if (j->thread) {
		struct job end = { .run = NULL };

		spsc_push(&j->todo, &end);
		sem_post(&j->ready);
		pthread_join(j->tid, NULL);
	}
	sem_destroy(&j->ready);
	spsc_free(&j->done);
	spsc_free(&j->todo);
	free(j);
}

bool jobs_add(struct jobs *j, struct job job)
{
	assert(job.run);
	if (j->in_flight == j->capacity)
		return false;
	j->in_flight++;
	if (!j->thread) {
		run_one(j, job);
		return true;
	}
	spsc_push(&j->todo, &job);
	sem_post(&j->ready);
	return true;
}

bool jobs_done(struct jobs *j, struct job *job)
{
	if (!spsc_pop(&j->done, job))
		return false;
	j->in_flight--;
	return true;
}

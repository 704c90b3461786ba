/* SPDX-License-Identifier: MIT */
/*
 * One background thread for work that blocks (prefaulting, hashing, fsync), so
 * that a thread which serves connections never does. Bounded queue, completion in order.
 * In inline mode (thread = false) a job runs, and wake is called, inside jobs_add, for simulations.
 *
 * Thread rule: one owner thread opens, adds, takes back and closes.
 */
#ifndef DWCP_BASE_JOBS_H
#define DWCP_BASE_JOBS_H

#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct jobs;

struct job {
	void (*run)(void *arg); /* in the background thread */
	void *arg;              /* the caller's until the job comes back from jobs_done */
};

/* At most `capacity` jobs are accepted and not yet taken back. wake(wake_ctx), unless NULL, is called in
 * the background thread after each job. */
int jobs_open(struct jobs **out, uint32_t capacity, bool thread, void (*wake)(void *), void *wake_ctx, struct err *e);
void jobs_close(struct jobs *j);                 /* runs what was accepted, then ends the thread; NULL is fine */
bool jobs_add(struct jobs *j, struct job job);   /* false: full, try again later */
bool jobs_done(struct jobs *j, struct job *job); /* one finished job, in order; false: none */

#endif

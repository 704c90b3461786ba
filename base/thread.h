/* SPDX-License-Identifier: MIT */
/* Starting threads the one way the project does. */
#ifndef DWCP_BASE_THREAD_H
#define DWCP_BASE_THREAD_H

#include <pthread.h>

/* Starts a joinable thread with every signal blocked that others send (they belong to the program's main thread) and a
 * name of at most 15 characters that ps and perf show. 0 or -errno. */
int thread_start(pthread_t *t, const char *name, void *(*fn)(void *), void *arg);

#endif

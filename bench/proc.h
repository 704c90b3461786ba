/* SPDX-License-Identifier: MIT */
/*
 * Programs that are measured: each in a process group of its own, its output kept in memory, ended with this process
 * or when its time is over.
 */
#ifndef DWCP_BENCH_PROC_H
#define DWCP_BENCH_PROC_H

#include "base/err.h"
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PROC_ARGS 48

/* A command put together piece by piece. */
struct command_line {
	char text[4096];
	size_t used;
	const char *argv[PROC_ARGS + 1];
	unsigned n;
};

/* Adds one argument, formatted. What does not fit is left out, and proc_start then refuses the command. */
void command_add(struct command_line *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Adds the words of `words`, which are separated by single spaces. */
void command_words(struct command_line *c, const char *words);

struct proc {
	pid_t pid; /* 0: none */
	int out, err;
	uint64_t start_ns;
	char name[64];
};

struct proc_end {
	double seconds;
	char *out; /* what it printed, ended by a NUL; free() */
};

/* Starts c in folder `dir` (NULL: here) with `env`, NULL-terminated "NAME=value" strings, besides our own (NULL: none). */
int proc_start(struct proc *p, const struct command_line *c, const char *dir, const char *const *env, struct err *e);
/* Waits for a line that begins with `prefix`, and copies what follows it. */
int proc_ready(struct proc *p, const char *prefix, char *rest, size_t cap, struct err *e);
/* Waits for the end; an exit status other than 0, a signal or more than `timeout_s` is an error that quotes standard
 * error. `end` may be NULL. */
int proc_wait(struct proc *p, unsigned timeout_s, struct proc_end *end, struct err *e);
/* Asks it to end (SIGTERM), then makes it; any state. */
void proc_stop(struct proc *p);

/* Kills all that were started, their children too. May be called by a signal's handler that then ends this process. */
void proc_kill_all(void);

/* Start and wait. */
int proc_run(const struct command_line *c, const char *dir, const char *const *env, unsigned timeout_s,
	     struct proc_end *end, struct err *e);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * A progress bar on standard error: only on a terminal, only for what takes longer than two seconds.
 * Everything here does nothing when it is off.
 */
#ifndef DWCP_CLI_PROGRESS_H
#define DWCP_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	bool on, drawn, colour;
	const char *what;
	uint64_t total;            /* bytes; 0: unknown */
	uint64_t show_ns, next_ns; /* not before */
	uint64_t last_ns, last_bytes;
	double rate; /* bytes per second, smoothed over about three seconds */
};

/* wanted: false with --json. */
void progress_begin(struct progress *p, const char *what, uint64_t total, bool wanted, uint64_t now_ns);
void progress_update(struct progress *p, uint64_t done, uint64_t now_ns);
/* Removes the bar, so that a line can be printed; the next update draws it again. */
void progress_clear(struct progress *p);
/* The same for lines that are progress themselves: the bar is back when none came for two seconds. */
void progress_line(struct progress *p, uint64_t now_ns);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * How many streams, which chunk size, which congestion control? A search by few
 * short probes. Sans I/O: it says what is to be in force, is told what a running
 * transfer was like meanwhile (base/pilot.h), and says what comes next.
 *
 *   first: every congestion control with the same streams
 *     └─► up: streams doubled while that gains ─► down: halved while that loses nothing
 *           └─► others: what the other congestion controls do there ─► chunks ─► confirm: the best and its rival again
 *                                                                       └─► hold (in a transfer) or end
 *
 * What is left of the time goes into looking again at those that may still be better, the one with most hope first.
 *
 * A probe lasts until its rate is known well enough for what it is compared with, and not longer (tune_meter.h). Two rates
 * that cannot be told apart, or that differ by less than `apart`, are equal: then the one with fewer streams is better, but
 * where noise hides who is best at the end, rather one with twice as many: a stream too few costs more than one too many.
 *
 * Plain data of a fixed size; no allocation; any number of them at once.
 */
#ifndef DWCP_TRANSPORT_TUNE_H
#define DWCP_TRANSPORT_TUNE_H

#include "base/clock.h"
#include "transport/tune_meter.h"
#include <stddef.h>

#define TUNE_CHUNKS_MAX 6
#define TUNE_CC_MAX 4
#define TUNE_TRIED_MAX 256

struct tune_point {
	uint32_t streams, chunk; /* chunk: bytes */
	uint32_t cc;             /* 0 … n_cc-1: the caller knows what that is */
};

struct tune_config {
	uint32_t streams_first, streams_most;
	uint32_t chunk[TUNE_CHUNKS_MAX]; /* [0]: the one to begin with */
	unsigned n_chunks, n_cc;
	uint64_t probe_least_ns, probe_most_ns; /* of one probe; on long paths up to 25 round trips */
	uint64_t limit_ns;                      /* of all of them; 0: a fifth of what a sweep would take */
	double apart;                           /* share below which a difference is none: 0.03 */
	bool all;                               /* no search: every point, each for probe_most_ns */
	bool live; /* inside a transfer that is worth more than the answer: streams only, and it goes on watching */
};

struct tune_tried {
	struct tune_point p;
	unsigned times;
	double rate, error; /* bytes per second, and its standard error */
	double loss;        /* share of segments that did not arrive */
	uint64_t rtt_ns, rtt_least_ns, ns;
};

enum tune_say {
	TUNE_STAY,
	TUNE_MOVE, /* tune_at is another point */
	TUNE_END,  /* found (or out of time): tune_best */
};

enum tune_phase { TUNE_FIRST, TUNE_UP, TUNE_DOWN, TUNE_OTHERS, TUNE_CHUNKS, TUNE_CONFIRM, TUNE_HOLD, TUNE_OVER };

struct tune {
	struct tune_config cfg;
	struct tune_tried tried[TUNE_TRIED_MAX];
	unsigned n_tried;
	enum tune_phase phase;
	struct tune_point at; /* in force */
	unsigned best;        /* index in tried: the point to beat */
	unsigned step, misses;
	double far; /* rate of the other congestion control with fewer streams; 0: this is the first look at it */
	bool searched_cc[TUNE_CC_MAX];
	struct tune_meter meter;
	uint64_t spent_ns, rtt_ns; /* rtt: longest of the least */
	unsigned restarts;
	bool out_of_time;
	bool changed; /* the link is not what it was when the search began: it was done again, once */
	double held;  /* smoothed rate while holding */
	uint64_t hold_ns, off_ns;
};

void tune_begin(struct tune *t, const struct tune_config *cfg);
/* What shall be in force now. */
const struct tune_point *tune_at(const struct tune *t);
/* A stretch of a transfer at tune_at. What cannot be (no time, no rate, a clock that jumped) is left out. */
enum tune_say tune_look(struct tune *t, const struct pilot_seen *seen);
/* The best so far; NULL before anything was measured. */
const struct tune_tried *tune_best(const struct tune *t);
/* Can they be told apart, and is a more than `apart` better? */
bool tune_better(const struct tune *t, const struct tune_tried *a, const struct tune_tried *b);

/* The search as a pilot: ctx is a struct tune; streams and chunk are wants, congestion control is left to who owns it. */
extern const struct pilot_ops tune_pilot;

#endif

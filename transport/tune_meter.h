/* SPDX-License-Identifier: MIT */
/*
 * The rate of one probe, from stretches of a transfer (base/pilot.h), and how well it is known. The start, while
 * windows grow, is cut off by MSER (White, "An effective truncation heuristic for bias reduction in simulation output",
 * Simulation 69, 1997); the error of what is left is that of its batch means, no shorter than a round trip, with their
 * autocorrelation; what still rises by Mann and Kendall's test (Econometrica 13, 1945) is not over its start. Plain data of
 * a fixed size, sans I/O.
 */
#ifndef DWCP_TRANSPORT_TUNE_METER_H
#define DWCP_TRANSPORT_TUNE_METER_H

#include "base/pilot.h"

#define TUNE_SLICES 256

/* Rates of one probe, evenly spaced; two become one when there is no room. */
struct tune_meter {
	double v[TUNE_SLICES];
	unsigned n, per_slice, part_n;
	double part;
	uint64_t ns, bytes, segments, lost, rtt_ns, rtt_least_ns, slice_ns, wait_ns;
};

struct tune_estimate {
	double rate, error; /* bytes per second, and its standard error: infinite while there is next to nothing */
	bool settled;       /* the start is over */
};

void tune_meter_reset(struct tune_meter *m);
void tune_meter_add(struct tune_meter *m, const struct pilot_seen *s);
struct tune_estimate tune_estimate_of(const struct tune_meter *m);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Histories of links for the mode detector (transport/mode.h), with the truth beside them: synthetic ones, and recorded
 * bandwidths. What the detector says while the link has been the same for two histories is counted.
 */
#ifndef DWCP_BENCH_MODE_SIM_H
#define DWCP_BENCH_MODE_SIM_H

#include "base/err.h"
#include "transport/mode.h"

struct mode_count {
	uint64_t samples[MODE_KINDS]; /* by what was detected; [AUTO]: nothing yet */
	uint64_t changes, followed;   /* real ones; those that the detector followed within two histories */
	uint64_t switches, too_soon;  /* of the detector; those closer than the least duration */
};

/* Synthetic: `hours` of a link of this kind that changes to another one now and then and comes back. border: links near the documented borders
 * and not far inside them. noise: relative standard deviation of round trip and bandwidth; one sample in twenty is as from another link. Counts into
 * out[truth]. */
void mode_sim_synthetic(enum mode_kind kind, bool border, double noise, unsigned hours, uint64_t seed,
			struct mode_count out[MODE_KINDS]);

/* A recorded bandwidth, resampled to the detector's interval, over a path of this round trip and loss, of which there is
 * no record: the truth is what the documented borders say of the trace's median. Lines "seconds<TAB or comma>value" or
 * "value,unit" once a second; `scale` makes bits per second of a value without unit. -errno: not readable, no samples. */
int mode_sim_trace(const char *path, double scale, double rtt_ms, double loss, struct mode_count out[MODE_KINDS],
		   struct err *e);

#endif

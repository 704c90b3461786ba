/* SPDX-License-Identifier: MIT */
/*
 * A link in figures, for the search of transport/tune.h: what N streams of an
 * algorithm carry in the long run, and slices of how they get there. Seeded; the
 * same seed gives the same slices. Nothing here is measured: it is what thousands
 * of links are made of, where an emulator could show ten.
 *
 * In the long run, per stream and in segments per round trip:
 *   cubic  the larger of sqrt(3/2)/sqrt(p) (Mathis et al., CCR 27(3), 1997) and 1.054 (RTT/p)^0.75 (RFC 9438, 5.1);
 *          without loss of the link's own: all of it, less what a queue below the path's content costs few streams
 *   bbr    the link less what is lost and less its own probing, which few streams feel more; loss above 15 % ends that
 *          (after what iperf3 showed over netem with 1, 8 and 32 streams: 92 %, 97.5 % and 99 % of the payload that
 *          300 Mb/s carry)
 * Hosts: a most that falls with the number of streams, for bbr lower, and a share per chunk.
 */
#ifndef DWCP_BENCH_TUNE_SIM_H
#define DWCP_BENCH_TUNE_SIM_H

#include "transport/tune.h"

enum { TUNE_SIM_CUBIC, TUNE_SIM_BBR, TUNE_SIM_CCS };

struct tune_link_model {
	const char *name;
	double rate;  /* bytes per second that the link carries */
	double rtt;   /* seconds */
	double loss;  /* share of packets */
	double queue; /* bytes */
	double host;  /* bytes per second that the hosts can do with a few streams */
	double crowd; /* streams that halve it */
	double noise; /* relative standard deviation of slices of 100 ms */
	double cross; /* share of the link that others take at times */
};

extern const struct tune_link_model tune_links[]; /* the named profiles; ended by a NULL name */
/* A link as there may be one. */
struct tune_link_model tune_link_random(uint64_t seed);

/* Bytes per second in the long run. */
double tune_link_rate(const struct tune_link_model *m, const struct tune_point *p);

struct tune_sim {
	struct tune_link_model link;
	uint64_t rng, at_ns;
	struct tune_point now; /* in force */
	double rate, wobble, others, idle_s;
	unsigned others_left;
};

void tune_sim_begin(struct tune_sim *s, const struct tune_link_model *m, uint64_t seed);
/* The next 100 ms at p. */
struct pilot_seen tune_sim_next(struct tune_sim *s, const struct tune_point *p);

/* What the search makes of a link, beside what a sweep over all of its points would. */
struct tune_outcome {
	struct tune_point found, best;
	double found_rate, best_rate; /* in the long run */
	double seconds, sweep_seconds;
	unsigned probes, points;
};
/* Every chunk and stream count of cfg, and both algorithms; a sweep gives each cfg->probe_most_ns. */
struct tune_outcome tune_sim_run(const struct tune_link_model *m, const struct tune_config *cfg, uint64_t seed);
/* What `dwcp tune` searches, with its own times. */
struct tune_config tune_sim_config(void);

#endif

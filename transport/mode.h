/* SPDX-License-Identifier: MIT */
/*
 * What kind of path is this? Datacenter, internet, or between the two (hybrid),
 * from round trip, bandwidth and loss. Sans I/O: samples come in with their time.
 *
 * Each sample votes; a mode changes when
 *   - the share of the history that votes for another one is at least the confidence wanted,
 *   - the mode has lasted for its least duration, and for as many samples as that holds, and
 *   - the borders of the mode in force, which are wider by the hysteresis, are left.
 * So two switches are never closer than the least duration, and a clock that jumps cannot bring one about.
 *
 * The documented borders leave gaps; they are read like this, in order:
 *   datacenter  round trip <= 10 ms, bandwidth >= 1 Gb/s, loss <= 0.01 %
 *   internet    round trip >= 50 ms and bandwidth <= 1 Gb/s; or round trip > 10 ms and bandwidth < 0.5 Gb/s, the least
 *               of hybrid; or loss > 1 %, which no mode is documented to take: internet takes it best
 *   hybrid      everything else
 * A bandwidth that is not known, or only known to be at least so much, decides nothing that it cannot.
 */
#ifndef DWCP_TRANSPORT_MODE_H
#define DWCP_TRANSPORT_MODE_H

#include "base/clock.h"
#include <stdbool.h>
#include <stddef.h>

#define MODE_HISTORY_MAX 64

enum mode_kind { MODE_AUTO, MODE_DATACENTER, MODE_INTERNET, MODE_HYBRID, MODE_KINDS };
extern const char *const mode_names[]; /* NULL-terminated */

struct mode_rules {
	uint64_t interval_ns;     /* between samples */
	unsigned history;         /* samples, 1 … MODE_HISTORY_MAX */
	uint64_t least_ns;        /* that a mode lasts */
	double hysteresis;        /* 0.2: borders of the mode in force are 20 % wider */
	double confidence;        /* share of the history */
	uint64_t near_ns, far_ns; /* round trips: datacenter at most, internet at least */
	double low_bps, high_bps; /* hybrid at least; datacenter at least and internet at most */
	double clean, poor;       /* loss: datacenter at most; above this always internet */
};
extern const struct mode_rules mode_documented;

struct mode_seen {
	uint64_t at_ns;
	uint64_t rtt_ns;   /* 0: not known, the sample votes for nothing */
	double bps;        /* bits per second; 0: not known */
	bool bps_at_least; /* the path may carry more */
	double loss;       /* 0 … 1; negative: not known */
};

/* How streams send in a mode. */
struct mode_way {
	const char *congestion; /* "default": the backend's own choice */
	bool paced;             /* bytes leave evenly, also where the algorithm would send bursts */
};
extern const struct mode_way mode_ways[MODE_KINDS];

/* Plain data; read freely, written by mode.c. */
struct mode {
	struct mode_rules rules;
	enum mode_kind now; /* AUTO until the first sample that votes */
	uint64_t since_ns;  /* when it began */
	unsigned lasted;    /* samples since */
	uint64_t last_ns;   /* of the last sample */
	struct mode_seen seen[MODE_HISTORY_MAX];
	unsigned n, next;
	double confidence; /* of `leading`, after the last sample */
	enum mode_kind leading;
	uint64_t switches;
};

void mode_init(struct mode *m, const struct mode_rules *rules);
/* Takes a sample. True: m->now is another mode than before. The first one that votes sets the mode and is no switch. */
bool mode_look(struct mode *m, const struct mode_seen *seen);
/* For whom one sample votes while `now` is in force; AUTO: for nobody. */
enum mode_kind mode_vote(const struct mode_rules *r, enum mode_kind now, const struct mode_seen *seen);
/* Documented streams for a link: by mode, and in a datacenter by its rate. */
unsigned mode_documented_streams(enum mode_kind kind, double bps);

#endif

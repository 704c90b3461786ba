/* SPDX-License-Identifier: MIT */
/*
 * An emulated link as users describe it: options for both directions, which each direction may differ from
 * (`--loss=1 --ba-loss=0`), in a profile (YAML, sections link, ab and ba) and on the command line.
 */
#ifndef DWCP_BENCH_LINKEMU_OPT_H
#define DWCP_BENCH_LINKEMU_OPT_H

#include "base/json.h"
#include "base/opt.h"
#include "bench/linkemu_sched.h"
#include <limits.h>

enum link_side { LINK_A, LINK_B };
enum link_direction { LINK_AB, LINK_BA };

#define LINK_ROWS 11 /* options of one direction */
#define LINK_COMMON_ROWS 3
#define LINK_TRACE_MAX 1024

struct link_dir_opts {
	uint64_t rate; /* 0: no limit */
	char trace[LINK_TRACE_MAX];
	uint64_t delay_ns, jitter_ns;
	double loss, loss_burst, loss_in_burst, reorder; /* per cent, but for loss_burst */
	uint64_t reorder_delay_ns;
	double duplicate;
	uint64_t queue; /* 0: by rate and round trip */
};

struct link_common_opts {
	uint32_t mtu;
	bool offload;
	uint32_t seed;
};

/* What a link is made of. */
struct link_settings {
	struct link_common_opts common;
	struct link_dir_opts dir[2]; /* LINK_AB, LINK_BA */
};

/* Layers of options: a command puts the groups among its own. */
struct link_opts {
	struct link_common_opts common;
	struct link_dir_opts both, dir[2];
	bool given_common[LINK_COMMON_ROWS], given_both[LINK_ROWS], given_dir[2][LINK_ROWS];
};
#define LINK_GROUPS 4
void link_groups(struct link_opts *o, struct opt_group groups[LINK_GROUPS]);

/* Defaults, then the profile (a name of configs/links, a file, or NULL), then what `o` was given. */
int link_settings_make(struct link_settings *s, const char *profile, const struct link_opts *o, struct err *e);
/* [{"name", "about", "file"}] */
json_t *link_profiles(void);
/* What `o` was given, on top of what is there. */
int link_settings_apply(struct link_settings *s, const struct link_opts *o, struct err *e);

/* The scheduler's parameters of both directions; loads the traces, which are the caller's to free. */
int link_settings_params(const struct link_settings *s, struct link_params params[2], struct link_trace *traces[2],
			 struct err *e);

/* As one process tells another: every row by its name, raw. Reading refuses what is out of a row's range. */
json_t *link_settings_json(const struct link_settings *s);
int link_settings_read(struct link_settings *s, const json_t *obj, struct err *e);

/* As scripts read it: units in the names. */
json_t *link_direction_json(const struct link_dir_opts *d);
/* "1 Gbps, 25 ms, loss 1 %" */
char *link_direction_text(const struct link_dir_opts *d, char *buf, size_t cap);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * What a host costs: the figures that `dwcp calibrate` measures and the simulator (sim.h) calculates with, and the YAML
 * file in which they go from one to the other. Times of pages are CPU time, of 4 KB; what is said of a round or of a
 * call is time that passes.
 */
#ifndef DWCP_MIGRATE_SIM_RATES_H
#define DWCP_MIGRATE_SIM_RATES_H

#include "base/json.h"
#include "base/opt.h"
#include "compress/hde.h"

#define SIM_MODES 3 /* that compress: enum hde_mode's auto, datacenter, internet, less one */

/* A page that HDE sends. `bytes` and times are of what is not zeros. */
struct sim_hde_rates {
	double bytes, send_ns, recv_ns;
	double delta_bytes, delta_ns; /* of a page that was sent before and written to since; both sides */
	double link_mbytes;           /* MB/s that its codecs were chosen for, one worker's share */
};

struct sim_rates {
	double cpus, worker_cpus;
	double guest_cpus;
	double prepare_ms, prepare_ns;
	double zero_send_ns, zero_recv_ns, zero_bytes;
	double raw_send_ns, raw_recv_ns, raw_bytes;
	double dirty_factor;
	double round_ms;
	double look_ms, look_ns;
	double pause_ms, state_ms, start_ms;
	double write_ns, fault_ns;
	double wait_ms;
	struct sim_hde_rates hde[SIM_MODES];
};

/* The rows: name, unit, help, and as default a rough figure, measured nowhere: it only gives the scale. */
struct opt_group sim_rates_group(struct sim_rates *r, bool *given);
extern const size_t sim_rates_n;

void sim_rates_default(struct sim_rates *r);

/* Every figure within what is possible? -EINVAL with e naming the one that is not. where: the file, for the message. */
int sim_rates_check(const struct sim_rates *r, const char *where, struct err *e);

/* Reads what sim_rates_write wrote. A key that is missing, unknown or impossible is an error that names it. */
int sim_rates_load(struct sim_rates *r, const char *path, struct err *e);

/* With units and meanings as comments. `how` (one line): where and when. No half a file is left. */
int sim_rates_write(const struct sim_rates *r, const char *how, const char *path, struct err *e);

json_t *sim_rates_json(const struct sim_rates *r);

#endif

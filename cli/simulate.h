/* SPDX-License-Identifier: MIT */
/* What `dwcp simulate` (cmd_simulate.c) works out, and how it is shown (simulate_report.c). */
#ifndef DWCP_CLI_SIMULATE_H
#define DWCP_CLI_SIMULATE_H

#include "migrate/guest_synth.h"
#include "migrate/sim.h"

struct simulate_opts {
	uint32_t vms, links, parallel, streams, workers, rounds, retries;
	uint64_t ramp_ns, memory, memory_max, warm_up_ns, link, rtt_ns, chunk, downtime_ns, timeout_ns, dirty_limit;
	uint64_t outage_ns, lost_ns, retry_ns, seed;
	double dirty_rate, dirty_rate_max, working_set, zeros, cpus, failures, outages;
	int pattern, policy, compress;
	bool same_host, force, auto_converge, details;
	char calibration[4096];
};

struct simulate {
	struct simulate_opts opts;
	struct sim_rates rates;
	struct sim_config cfg;
	struct sim_vm *vms;
	struct sim_totals totals;
	double seconds; /* that it took: the only figure here that is measured */
};

void simulate_print(const struct simulate *s);
int simulate_print_json(const struct simulate *s, const char *path, struct err *e);

#endif

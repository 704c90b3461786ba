/* SPDX-License-Identifier: MIT */
/*
 * Many migrations in virtual time: from one to thousands of guests of any size over links of any speed, in seconds, on one
 * CPU. What decides is the migration's own code, linked and not copied: rounds and switch-over (round.h), throttling
 * (throttle.h), the choice of codecs (compress/select.h). What it costs is what `dwcp calibrate` measured (sim_rates.h).
 * What a guest dirties is worked out (sim_guest.h); CPUs and links are shared fairly (sim_share.h).
 *
 * A link joins two hosts; guests are spread evenly over `links` of them, and what is on one knows nothing of the others.
 * Nothing here is measured, and nothing asks for the time: the same configuration and seed give the same answer.
 */
#ifndef DWCP_MIGRATE_SIM_H
#define DWCP_MIGRATE_SIM_H

#include "migrate/session.h"
#include "migrate/sim_rates.h"

#define SIM_VMS_MAX 100000

struct sim_config {
	const struct sim_rates *rates;
	uint64_t seed;
	unsigned vms, links;
	unsigned parallel; /* migrations at once on a link; 0: all */
	uint64_t ramp_ns;  /* guests are asked to move one after the other within that */

	/* Guests: evenly between the two. */
	uint64_t memory_min, memory_max;
	double dirty_min, dirty_max; /* percent of pages per second */
	double working_set, zeros;   /* percent */
	int pattern;                 /* enum synth_pattern */
	uint64_t warm_up_ns;         /* they have run for so long */

	/* Hosts and the link between them. */
	bool same_host;    /* both ends, and the guests, on the same CPUs, as a local pair is */
	double cpus;       /* of each host; 0: as calibrated */
	double bits_per_s; /* 0: no link that limits */
	uint64_t rtt_ns;

	/* The migration, as migrate_config has it. */
	unsigned workers;
	uint32_t chunk;
	enum hde_mode hde; /* HDE_NONE … HDE_INTERNET */
	bool precopy;
	struct round_config limits;
	bool force, auto_converge;
	uint64_t dirty_limit; /* bytes/s */

	/* What goes wrong. A failure ends one migration: the guest goes on where it was, and it is tried again. An outage
	 * stops all of a link; if it is longer than the time-out, it fails them all. */
	double failures_per_hour, outages_per_hour;
	uint64_t outage_ns, timeout_ns, retry_ns;
	unsigned retries;

	const volatile sig_atomic_t *cancel; /* non-zero: -EINTR; may be NULL */
};

struct sim_vm {
	uint64_t memory;
	double dirty_rate; /* percent of pages per second */
	unsigned link;
	uint64_t asked_ns, began_ns, ended_ns; /* virtual time */
	unsigned tries, failures;
	struct migrate_result r; /* total_ns is of the last try, the wait for a turn not in it; verified never */
};

struct sim_totals {
	unsigned completed, rolled_back, in_doubt;
	unsigned failures, outages;
	uint64_t makespan_ns;
	uint64_t bytes_memory, bytes_wire; /* of those completed; of all tries */
	double alone_s;                    /* one after the other, nothing failing: of the mean link */
	double least_s;    /* that the busiest of CPUs and links needs for every page of those completed once */
	double linearity;  /* alone_s / makespan */
	double efficiency; /* least_s / makespan */
	uint64_t events;
	size_t vm_bytes; /* memory that the simulation takes for each guest */
};

/* vms: cfg->vms of them, all filled. -EINVAL: impossible configuration; -EINTR; -ENOMEM; -ELOOP: it does not end. */
int sim_migrate(const struct sim_config *cfg, struct sim_vm *vms, struct sim_totals *t, struct err *e);

/* Resident memory of the simulation for a guest, sim_vm included. */
size_t sim_vm_bytes(void);

#endif

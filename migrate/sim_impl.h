/* SPDX-License-Identifier: MIT */
/* sim.c: links and time. sim_vm.c: what one migration does. */
#ifndef DWCP_MIGRATE_SIM_IMPL_H
#define DWCP_MIGRATE_SIM_IMPL_H

#include "migrate/sim.h"
#include "migrate/sim_codec.h"
#include "migrate/sim_guest.h"
#include "migrate/sim_share.h"
#include "migrate/throttle.h"

/* As session.c goes through them. */
enum sim_stage {
	STAGE_WAITING, /* to be asked, or for a turn */
	STAGE_PREPARE,
	STAGE_ROUND,
	STAGE_LOOK,
	STAGE_PAUSE,
	STAGE_LAST_LOOK,
	STAGE_LAST_ROUND,
	STAGE_STATE,
	STAGE_START,
	STAGE_RETRY, /* it failed, and will be tried again */
	STAGE_OVER
};

struct vm {
	struct sim_vm *out;
	struct sim_guest guest;
	uint64_t rng;
	struct round_plan plan;
	struct throttle slow;

	enum sim_stage stage;
	uint64_t entered, due; /* the stage; its work begins when it is due */
	struct share_job job;  /* the stage's work is 1… */
	double left;           /* …of which so much is left */
	uint64_t fail_at;

	bool whole;     /* memory was not sent yet */
	double pending; /* pages that were found written and are not sent */
	uint64_t try_began, looked_at, sent_at, look_ns, paused_at;
	uint64_t behind; /* for so long the guest has waited for a CPU, and will make up for it… */
	uint64_t missed; /* …as it had at the last look */
	struct round_sample sample;
};

struct link {
	const struct sim_config *cfg;
	struct sim_codec *codec; /* NULL: nothing is compressed */
	uint64_t now, rng;
	struct vm *vms;
	unsigned n, started, over, active; /* active: between waiting and over */
	double capacity[SHARE_RESOURCES];
	double busy_cpus;                  /* by guests */
	uint64_t next_outage, outage_ends; /* UINT64_MAX: none */
	unsigned outages;
	uint64_t events;
	double least[SHARE_RESOURCES]; /* every page once, of each resource */
};

/* A guest at rest. Draws its size and rate from `rng`. */
void sim_vm_init(struct vm *v, const struct sim_config *cfg, uint64_t *rng, struct sim_vm *out);

/* Its turn has come. */
void sim_vm_begin(struct link *l, struct vm *v);
/* The stage is over: on to the next. */
void sim_vm_next(struct link *l, struct vm *v);
/* The link or the other host is gone. */
void sim_vm_fail(struct link *l, struct vm *v);

/* Every page once: adds what it needs of each resource. */
void sim_vm_least(struct link *l, struct vm *v);

/* Threads that a migration's stage can keep busy, in CPUs. */
double sim_width(const struct sim_config *cfg, double chunks);

double sim_uniform(uint64_t *rng, double low, double high);
/* Nanoseconds until the next event of so many per hour; UINT64_MAX: never. */
uint64_t sim_gap(uint64_t *rng, double per_hour);

#endif

/* SPDX-License-Identifier: MIT */
/* dwcp simulate: migrations in virtual time. */
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/simulate.h"
#include "cli/transfer.h"
#include "migrate/pages.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct cmd_usage usage = {
	.name = "simulate",
	.operands = "",
	.about =
		"Works out how migrations would go, in virtual time: from one guest to thousands, of any size, over links of any "
		"speed that they share fairly, with failures. Rounds, switch-over, throttling and the choice of codecs are the "
		"migration's own code; what pages and calls cost is read from a file that `dwcp calibrate` measured. Nothing "
		"that it prints was measured. The same options and seed print the same figures.",
	.examples =
		"  dwcp calibrate --output=host.yaml\n"
		"  dwcp simulate --calibration=host.yaml --vms=1000 --memory=1GB --memory-max=32GB --link=40Gbps --cpus=16\n"
		"  dwcp simulate --memory=8GB --dirty-rate=5 --link=10Gbps --compress=auto\n"
		"  dwcp simulate --same-host --memory=1GB      # what `dwcp migrate --memory=1GB` does here\n",
};

#define FIELD(f) offsetof(struct simulate_opts, f)
#define ROOM(f) sizeof(((struct simulate_opts *)0)->f)

static const struct opt rows[] = {
	{ .name = "calibration",
	  .type = OPT_STR,
	  .offset = FIELD(calibration),
	  .def = "",
	  .max = ROOM(calibration),
	  .unit = "FILE",
	  .help = "what a host costs, as `dwcp calibrate` wrote it; without it rough figures that were measured "
		  "nowhere" },
	{ .name = "vms",
	  .type = OPT_U32,
	  .offset = FIELD(vms),
	  .def = "1",
	  .min = 1,
	  .max = SIM_VMS_MAX,
	  .help = "guests" },
	{ .name = "memory",
	  .type = OPT_SIZE,
	  .offset = FIELD(memory),
	  .def = "1GB",
	  .min = GUEST_MEMORY_MIN,
	  .max = GUEST_MEMORY_MAX,
	  .help = "of a guest, at least" },
	{ .name = "memory-max",
	  .type = OPT_SIZE,
	  .offset = FIELD(memory_max),
	  .def = "auto",
	  .max = GUEST_MEMORY_MAX,
	  .auto_ok = true,
	  .help = "and at most, evenly between; auto: all alike" },
	{ .name = "dirty-rate",
	  .type = OPT_F64,
	  .offset = FIELD(dirty_rate),
	  .def = "1",
	  .unit = "%/s",
	  .help = "page writes per second, in percent of the guest's pages, at least" },
	{ .name = "dirty-rate-max",
	  .type = OPT_F64,
	  .offset = FIELD(dirty_rate_max),
	  .def = "auto",
	  .unit = "%/s",
	  .auto_ok = true,
	  .help = "and at most, evenly between; auto: all alike" },
	{ .name = "pattern",
	  .type = OPT_ENUM,
	  .offset = FIELD(pattern),
	  .def = "uniform",
	  .values = synth_pattern_names,
	  .help = "which pages are written, as `dwcp migrate --pattern`" },
	{ .name = "working-set",
	  .type = OPT_F64,
	  .offset = FIELD(working_set),
	  .def = "100",
	  .unit = "%",
	  .help = "part of memory that is written to" },
	{ .name = "zeros",
	  .type = OPT_F64,
	  .offset = FIELD(zeros),
	  .def = "60",
	  .unit = "%",
	  .help = "pages that were never written to when the guest began" },
	{ .name = "warm-up",
	  .type = OPT_TIME,
	  .offset = FIELD(warm_up_ns),
	  .def = "1s",
	  .max = 24 * 3600 * NS_PER_S,
	  .help = "guests have run for so long before" },
	{ .name = "link",
	  .type = OPT_RATE,
	  .offset = FIELD(link),
	  .def = "0",
	  .help = "what the link between the two hosts carries; 0: more than they do" },
	{ .name = "rtt",
	  .type = OPT_TIME,
	  .offset = FIELD(rtt_ns),
	  .def = "0",
	  .max = 10 * NS_PER_S,
	  .help = "its round trip, above that of the calibration" },
	{ .name = "links",
	  .type = OPT_U32,
	  .offset = FIELD(links),
	  .def = "1",
	  .min = 1,
	  .max = SIM_VMS_MAX,
	  .help = "pairs of hosts, each with its own link, over which the guests are spread" },
	{ .name = "same-host",
	  .type = OPT_BOOL,
	  .offset = FIELD(same_host),
	  .def = "no",
	  .help = "source, destination and guests share one host's CPUs, as without `dwcp migrate --peer`" },
	{ .name = "cpus",
	  .type = OPT_F64,
	  .offset = FIELD(cpus),
	  .def = "auto",
	  .auto_ok = true,
	  .help = "of each host, for migrations; auto: as calibrated" },
	{ .name = "parallel",
	  .type = OPT_U32,
	  .offset = FIELD(parallel),
	  .def = "auto",
	  .max = SIM_VMS_MAX,
	  .auto_ok = true,
	  .help = "migrations at once on a link; auto: all" },
	{ .name = "ramp-up",
	  .type = OPT_TIME,
	  .offset = FIELD(ramp_ns),
	  .def = "0",
	  .max = 24 * 3600 * NS_PER_S,
	  .help = "guests are told to move one after the other within that" },
	{ .name = "policy",
	  .type = OPT_ENUM,
	  .offset = FIELD(policy),
	  .def = "precopy",
	  .values = migrate_policy_names,
	  .help = "how memory moves, as `dwcp migrate --policy`; precopy and stopcopy are simulated" },
	{ .name = "downtime-limit",
	  .type = OPT_TIME,
	  .offset = FIELD(downtime_ns),
	  .def = "30ms",
	  .min = NS_PER_MS,
	  .max = 3600 * NS_PER_S,
	  .help = "switch over when what is left is predicted to fit" },
	{ .name = "time-limit",
	  .type = OPT_TIME,
	  .offset = FIELD(timeout_ns),
	  .def = "5m",
	  .max = 1000ull * 3600 * NS_PER_S,
	  .help = "give up (or switch over, with --force) when it did not fit by then; 0: never" },
	{ .name = "max-rounds",
	  .type = OPT_U32,
	  .offset = FIELD(rounds),
	  .def = "60",
	  .min = 1,
	  .max = 100000,
	  .help = "the same for rounds" },
	{ .name = "force",
	  .type = OPT_BOOL,
	  .offset = FIELD(force),
	  .def = "no",
	  .help = "when time or rounds are used up, switch over however long that takes" },
	{ .name = "auto-converge",
	  .type = OPT_BOOL,
	  .offset = FIELD(auto_converge),
	  .def = "no",
	  .help = "slow a guest down, step by step, when rounds do not get shorter" },
	{ .name = "dirty-limit",
	  .type = OPT_RATE,
	  .offset = FIELD(dirty_limit),
	  .def = "0",
	  .help = "slow a guest down when it dirties more than that; 0: never" },
	{ .name = "compress",
	  .type = OPT_ENUM,
	  .offset = FIELD(compress),
	  .def = "none",
	  .values = hde_mode_names,
	  .help = "as `dwcp migrate --compress`; what it saves is of the documented mix of contents" },
	{ .name = "streams",
	  .type = OPT_U32,
	  .offset = FIELD(streams),
	  .def = "8",
	  .min = 1,
	  .max = 512,
	  .help = "of a migration; no more threads than streams" },
	{ .name = "workers",
	  .type = OPT_U32,
	  .offset = FIELD(workers),
	  .def = "auto",
	  .min = 1,
	  .max = AMST_WORKERS_MAX,
	  .auto_ok = true,
	  .help = "threads of a migration at each end; auto: one per CPU" },
	{ .name = "chunk-size",
	  .type = OPT_SIZE,
	  .offset = FIELD(chunk),
	  .def = "auto",
	  .min = GUEST_PAGE,
	  .max = PAGES_CHUNK_MAX,
	  .auto_ok = true,
	  .help = "bytes of pages that go together; auto: 256 KB, 512 KB with --compress" },
	{ .name = "failures",
	  .type = OPT_F64,
	  .offset = FIELD(failures),
	  .def = "0",
	  .unit = "per hour",
	  .help = "a migration's chance of losing its session, while it is under way" },
	{ .name = "retries",
	  .type = OPT_U32,
	  .offset = FIELD(retries),
	  .def = "3",
	  .max = 1000,
	  .help = "after a failure a guest is moved anew so often" },
	{ .name = "retry-after",
	  .type = OPT_TIME,
	  .offset = FIELD(retry_ns),
	  .def = "1s",
	  .max = 24 * 3600 * NS_PER_S,
	  .help = "and after so long" },
	{ .name = "outages",
	  .type = OPT_F64,
	  .offset = FIELD(outages),
	  .def = "0",
	  .unit = "per hour",
	  .help = "of each link" },
	{ .name = "outage",
	  .type = OPT_TIME,
	  .offset = FIELD(outage_ns),
	  .def = "2s",
	  .min = NS_PER_MS,
	  .max = 24 * 3600 * NS_PER_S,
	  .help = "how long each takes" },
	{ .name = "timeout",
	  .type = OPT_TIME,
	  .offset = FIELD(lost_ns),
	  .def = "60s",
	  .min = 100 * NS_PER_MS,
	  .max = 24 * 3600 * NS_PER_S,
	  .help = "a session that hears nothing for so long is lost" },
	{ .name = "seed", .type = OPT_SIZE, .offset = FIELD(seed), .def = "1", .help = "of all that is left to chance" },
	{ .name = "details", .type = OPT_BOOL, .offset = FIELD(details), .def = "no", .help = "every guest by itself" },
};

static int plan(struct simulate *s, struct err *e)
{
	const struct simulate_opts *o = &s->opts;
	const struct migrate_policy *policy = &migrate_policies[o->policy];
	double cpus;

	if (strcmp(policy->name, "precopy") && strcmp(policy->name, "stopcopy"))
		return err_set(e, -EINVAL, "--policy: %s is not simulated: use precopy or stopcopy", policy->name);
	if (o->chunk % GUEST_PAGE)
		return err_set(e, -EINVAL, "--chunk-size must be a multiple of 4 KB");
	sim_rates_default(&s->rates);
	if (o->calibration[0]) {
		int rc = sim_rates_load(&s->rates, o->calibration, e);

		if (rc < 0)
			return rc;
	}
	cpus = ceil((o->cpus > 0 ? o->cpus : s->rates.cpus) - .05);
	s->cfg = (struct sim_config){
		.rates = &s->rates,
		.seed = o->seed,
		.vms = o->vms,
		.links = o->links,
		.parallel = o->parallel,
		.ramp_ns = o->ramp_ns,
		.memory_min = o->memory,
		.memory_max = o->memory_max ? o->memory_max : o->memory,
		.dirty_min = o->dirty_rate,
		.dirty_max = o->dirty_rate_max > 0 ? o->dirty_rate_max : o->dirty_rate,
		.working_set = o->working_set,
		.zeros = o->zeros,
		.pattern = o->pattern,
		.warm_up_ns = o->warm_up_ns,
		.same_host = o->same_host,
		.cpus = o->cpus,
		.bits_per_s = (double)o->link,
		.rtt_ns = o->rtt_ns,
		.workers = (unsigned)min_u64(o->workers ? o->workers : (uint64_t)fmax(cpus, 1), o->streams),
		.chunk = o->chunk      ? (uint32_t)o->chunk
			 : o->compress ? PAGES_CHUNK_MAX
				       : PAGES_CHUNK_MAX / 2,
		.hde = (enum hde_mode)o->compress,
		.precopy = policy->precopy,
		.limits = { .downtime_ns = o->downtime_ns, .timeout_ns = o->timeout_ns, .rounds_max = o->rounds },
		.force = o->force,
		.auto_converge = o->auto_converge,
		.dirty_limit = o->dirty_limit / 8,
		.failures_per_hour = o->failures,
		.outages_per_hour = o->outages,
		.outage_ns = o->outage_ns,
		.timeout_ns = o->lost_ns,
		.retry_ns = o->retry_ns,
		.retries = o->retries,
		.cancel = &cmd_signal,
	};
	return 0;
}

static int run(struct simulate *s, const char *json, struct err *e)
{
	uint64_t began = clock_now(&clock_mono);
	int rc = *json ? json_check(json, e) : 0;

	s->vms = calloc(s->cfg.vms, sizeof *s->vms);
	if (rc == 0 && !s->vms)
		rc = err_set(e, -ENOMEM, "no memory to simulate %u guests", s->cfg.vms);
	if (rc == 0)
		rc = sim_migrate(&s->cfg, s->vms, &s->totals, e);
	s->seconds = (double)(clock_now(&clock_mono) - began) / 1e9;
	if (rc < 0)
		return rc;
	if (strcmp(json, "-"))
		simulate_print(s);
	return *json ? simulate_print_json(s, json, e) : 0;
}

int cmd_simulate(int argc, char **argv)
{
	struct simulate s = { 0 };
	struct cmd_output output = { 0 };
	const struct opt_group groups[] = {
		{ .name = "simulate", .help = "Simulation", .rows = rows, .n = ARRAY_LEN(rows), .base = &s.opts },
		cmd_output_group(&output),
	};
	struct err e = { 0 };
	int n, rc, status = cmd_options(&usage, groups, ARRAY_LEN(groups), 0, 0, argc, argv, &n);

	if (status != CMD_RUN)
		return status;
	cmd_catch_signals();
	rc = plan(&s, &e);
	if (rc == 0)
		rc = run(&s, output.json, &e);
	free(s.vms);
	return rc < 0 ? transfer_fail(usage.name, &e) : CMD_OK;
}

/* SPDX-License-Identifier: MIT */
/* Time and links. On each link: what ends next, the shares until then, and what follows. */
#include "migrate/sim_impl.h"

#include "base/clock.h"
#include "base/util.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS_PER_VM 100000          /* that many and it does not end: 100,000 rounds are the most there may be */
#define WIRE_OVERHEAD (1500.0 / 1448) /* headers of IP and TCP on the link */
#define GUESTS_MOST .9                /* of a host's CPUs, that its guests can take */
#define DONE 1e-9

/* ---- one link ---------------------------------------------------------------------------------- */

static bool flowing(const struct link *l, const struct vm *v)
{
	return v->left > 0 && v->due <= l->now && v->stage != STAGE_WAITING && v->stage != STAGE_OVER;
}

/* Shares of those that work now. scratch: room for l->n. */
static void share(struct link *l, struct share_job **scratch)
{
	double capacity[SHARE_RESOURCES];
	size_t n = 0;

	memcpy(capacity, l->capacity, sizeof capacity);
	if (l->outage_ends != UINT64_MAX)
		capacity[SHARE_LINK] = 0;
	for (unsigned i = 0; i < l->started; i++)
		if (flowing(l, &l->vms[i]))
			scratch[n++] = &l->vms[i].job;
	share_fairly(scratch, n, capacity);
}

static uint64_t ends_at(const struct link *l, const struct vm *v)
{
	double ns;

	if (!flowing(l, v))
		return v->due > l->now || v->left == 0 ? max_u64(v->due, l->now) : UINT64_MAX;
	if (v->job.speed <= 0)
		return UINT64_MAX;
	ns = ceil(v->left / v->job.speed * 1e9);
	return ns < 9e18 ? l->now + (uint64_t)fmax(ns, 1) : UINT64_MAX;
}

static uint64_t next_event(const struct link *l)
{
	uint64_t at = min_u64(l->next_outage, l->outage_ends);
	bool room = !l->cfg->parallel || l->active < l->cfg->parallel;

	if (l->started < l->n && room)
		at = min_u64(at, max_u64(l->vms[l->started].out->asked_ns, l->now));
	for (unsigned i = 0; i < l->started; i++) {
		const struct vm *v = &l->vms[i];

		if (v->stage == STAGE_OVER)
			continue;
		at = min_u64(at, min_u64(ends_at(l, v), max_u64(v->fail_at, l->now)));
	}
	return at;
}

static void advance(struct link *l, uint64_t to)
{
	double s = (double)(to - l->now) / 1e9;

	for (unsigned i = 0; i < l->started; i++) {
		struct vm *v = &l->vms[i];

		if (!flowing(l, v))
			continue;
		v->left -= v->job.speed * s;
		if (v->left < DONE)
			v->left = 0;
	}
	l->now = to;
}

static uint64_t gap_after(uint64_t now, uint64_t gap)
{
	return gap > UINT64_MAX - now ? UINT64_MAX : now + gap;
}

static void toggle_outage(struct link *l)
{
	const struct sim_config *cfg = l->cfg;

	if (l->outage_ends <= l->now) {
		l->outage_ends = UINT64_MAX;
		l->next_outage = gap_after(l->now, sim_gap(&l->rng, cfg->outages_per_hour));
	} else if (l->next_outage <= l->now) {
		l->outages++;
		l->next_outage = UINT64_MAX;
		l->outage_ends = l->now + cfg->outage_ns;
		for (unsigned i = 0; i < l->started && cfg->outage_ns > cfg->timeout_ns; i++)
			if (l->vms[i].stage != STAGE_OVER && l->vms[i].stage != STAGE_RETRY)
				l->vms[i].fail_at = min_u64(l->vms[i].fail_at, l->now + cfg->timeout_ns);
	}
}

static void happen(struct link *l)
{
	bool room;

	toggle_outage(l);
	for (unsigned i = 0; i < l->started; i++) {
		struct vm *v = &l->vms[i];

		if (v->stage == STAGE_OVER)
			continue;
		if (v->fail_at <= l->now && v->stage != STAGE_RETRY)
			sim_vm_fail(l, v);
		else if (v->due <= l->now && v->left == 0)
			sim_vm_next(l, v);
	}
	for (room = true; room && l->started < l->n;) {
		room = (!l->cfg->parallel || l->active < l->cfg->parallel) &&
		       l->vms[l->started].out->asked_ns <= l->now;
		if (room)
			sim_vm_begin(l, &l->vms[l->started++]);
	}
}

/* To the end. */
static int run_link(struct link *l, struct err *e)
{
	struct share_job **scratch = calloc(l->n ? l->n : 1, sizeof *scratch);
	uint64_t most = (uint64_t)l->n * EVENTS_PER_VM;
	int rc = scratch ? 0 : err_set(e, -ENOMEM, "no memory to simulate %u guests", l->n);

	while (rc == 0 && l->over < l->n) {
		uint64_t at;

		share(l, scratch);
		at = next_event(l);
		if (l->cfg->cancel && *l->cfg->cancel)
			rc = err_set(e, -EINTR, "interrupted");
		else if (at == UINT64_MAX || ++l->events > most)
			rc = err_set(
				e, -ELOOP,
				"the simulation does not end: of %u guests %u are still moving after %.0f s; allow a "
				"--time-limit",
				l->n, l->n - l->over, (double)l->now / 1e9);
		if (rc < 0)
			break;
		advance(l, at);
		happen(l);
	}
	free(scratch);
	return rc;
}

static double guest_cpus(const struct sim_config *cfg, const struct vm *v)
{
	const struct sim_rates *r = cfg->rates;

	return r->guest_cpus + v->guest.writes * (r->write_ns + r->fault_ns) / 1e9;
}

static void set_capacity(struct link *l)
{
	const struct sim_config *cfg = l->cfg;
	double cpus = cfg->cpus > 0 ? cfg->cpus : cfg->rates->cpus, busy = 0;

	for (unsigned i = 0; i < l->n; i++)
		busy += guest_cpus(cfg, &l->vms[i]);
	if (cfg->same_host)
		cpus -= fmin(busy, GUESTS_MOST * cpus);
	l->capacity[SHARE_SOURCE] = l->capacity[SHARE_DEST] = cpus;
	l->capacity[SHARE_LINK] = cfg->bits_per_s > 0 ? cfg->bits_per_s / 8 / WIRE_OVERHEAD : INFINITY;
}

static void begin_link(struct link *l, const struct sim_config *cfg, struct sim_codec *codec, struct vm *vms,
		       unsigned n, uint64_t seed)
{
	*l = (struct link){
		.cfg = cfg,
		.codec = codec,
		.vms = vms,
		.n = n,
		.rng = seed,
		.outage_ends = UINT64_MAX,
	};
	l->next_outage = sim_gap(&l->rng, cfg->outages_per_hour);
	set_capacity(l);
}

/* ---- all of it --------------------------------------------------------------------------------- */

static int check(const struct sim_config *c, struct err *e)
{
	if (!c->vms || c->vms > SIM_VMS_MAX)
		return err_set(e, -EINVAL, "%u guests: simulate 1 to %u", c->vms, SIM_VMS_MAX);
	if (!c->links || c->links > c->vms)
		return err_set(e, -EINVAL, "%u links for %u guests: use 1 to %u", c->links, c->vms, c->vms);
	if (c->memory_min < GUEST_MEMORY_MIN || c->memory_max > GUEST_MEMORY_MAX || c->memory_min > c->memory_max)
		return err_set(
			e, -EINVAL,
			"guests of %llu to %llu bytes are impossible: --memory at least 1MB, --memory-max no less",
			(unsigned long long)c->memory_min, (unsigned long long)c->memory_max);
	if (!(c->dirty_min >= 0 && c->dirty_min <= c->dirty_max && c->dirty_max <= 1e6))
		return err_set(
			e, -EINVAL,
			"dirty rates of %g to %g %%/s are impossible: --dirty-rate 0 or more, --dirty-rate-max no "
			"less",
			c->dirty_min, c->dirty_max);
	if (!(c->working_set > 0 && c->working_set <= 100))
		return err_set(e, -EINVAL, "--working-set is above 0 and at most 100 percent, not %g", c->working_set);
	if (!(c->zeros >= 0 && c->zeros <= 100))
		return err_set(e, -EINVAL, "--zeros is 0 to 100 percent, not %g", c->zeros);
	if (!(c->cpus >= 0 && c->cpus <= 65536 && c->bits_per_s >= 0 && c->failures_per_hour >= 0 &&
	      c->outages_per_hour >= 0 && c->failures_per_hour <= 1e6 && c->outages_per_hour <= 1e6))
		return err_set(e, -EINVAL,
			       "--cpus, --link and rates of failures are 0 or more, and less than 10^6 per hour");
	if (!c->workers || !c->chunk || c->pattern < 0 || c->pattern >= SYNTH_PATTERNS)
		return err_set(e, -EINVAL, "no workers, no chunks, or no such pattern");
	return sim_rates_check(c->rates, "calibration", e);
}

/* The guest by itself, nothing failing: how long? */
static int alone(const struct sim_config *cfg, struct sim_codec *codec, const struct vm *model, double *s,
		 struct err *e)
{
	struct sim_config calm = *cfg;
	struct sim_vm out = *model->out;
	struct vm v = *model;
	struct link l;
	int rc;

	calm.failures_per_hour = calm.outages_per_hour = 0;
	out.asked_ns = 0;
	v.out = &out;
	begin_link(&l, &calm, codec, &v, 1, cfg->seed);
	rc = run_link(&l, e);
	*s += (double)out.r.total_ns / 1e9;
	return rc;
}

static double least(struct link *l)
{
	double most = 0;

	l->now = 0; /* memory as it was then */
	for (unsigned i = 0; i < l->n; i++)
		if (l->vms[i].out->r.outcome == OUTCOME_COMPLETED)
			sim_vm_least(l, &l->vms[i]);
	for (int r = 0; r < SHARE_RESOURCES; r++)
		most = fmax(most, l->least[r] / l->capacity[r]);
	return most;
}

static void add_up(struct sim_totals *t, const struct sim_vm *vms, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const struct sim_vm *v = &vms[i];

		t->makespan_ns = max_u64(t->makespan_ns, v->ended_ns);
		t->failures += v->failures;
		t->bytes_wire += v->r.bytes_wire;
		switch (v->r.outcome) {
		case OUTCOME_COMPLETED:
			t->completed++;
			t->bytes_memory += v->memory;
			break;
		case OUTCOME_IN_DOUBT:
			t->in_doubt++;
			break;
		default:
			t->rolled_back++;
		}
	}
}

/* Guests `first` … first + n of vms are this link's. */
static int simulate_link(const struct sim_config *cfg, struct sim_codec *codec, struct vm *vms, struct sim_vm *out,
			 unsigned n, uint64_t seed, struct sim_totals *t, struct err *e)
{
	uint64_t rng = seed;
	struct link l;
	int rc = 0;

	for (unsigned i = 0; i < n; i++) {
		sim_vm_init(&vms[i], cfg, &rng, &out[i]);
		out[i].asked_ns = (uint64_t)((double)cfg->ramp_ns * i / n);
	}
	begin_link(&l, cfg, codec, vms, n, rng);
	for (unsigned i = 0; i < n && rc == 0; i++)
		rc = alone(cfg, codec, &vms[i], &t->alone_s, e);
	if (rc == 0)
		rc = run_link(&l, e);
	if (rc == 0)
		t->least_s = fmax(t->least_s, least(&l));
	t->events += l.events;
	t->outages += l.outages;
	return rc;
}

size_t sim_vm_bytes(void)
{
	return sizeof(struct vm) + sizeof(struct sim_vm) + sizeof(struct share_job *);
}

int sim_migrate(const struct sim_config *cfg, struct sim_vm *vms, struct sim_totals *t, struct err *e)
{
	uint64_t rng = cfg->seed * 0x9e3779b97f4a7c15ull + 1;
	struct sim_codec *codec = NULL;
	struct vm *room = NULL;
	unsigned done = 0;
	int rc = check(cfg, e);

	memset(t, 0, sizeof *t);
	if (rc == 0 && cfg->hde != HDE_NONE)
		rc = sim_codec_open(&codec, e);
	if (rc == 0) {
		room = calloc(div_up_u64(cfg->vms, cfg->links), sizeof *room);
		rc = room ? 0 : err_set(e, -ENOMEM, "no memory to simulate %u guests", cfg->vms);
	}
	for (unsigned i = 0; i < cfg->links && rc == 0; i++) {
		unsigned n = (unsigned)((uint64_t)cfg->vms * (i + 1) / cfg->links) - done;

		rc = simulate_link(cfg, codec, room, vms + done, n, rng_next(&rng), t, e);
		for (unsigned k = 0; k < n; k++)
			vms[done + k].link = i;
		done += n;
	}
	free(room);
	sim_codec_close(codec);
	if (rc < 0)
		return rc;
	add_up(t, vms, cfg->vms);
	t->alone_s /= cfg->links;
	t->linearity = t->alone_s * 1e9 / (double)max_u64(t->makespan_ns, 1);
	t->efficiency = t->least_s * 1e9 / (double)max_u64(t->makespan_ns, 1);
	t->vm_bytes = sim_vm_bytes();
	return 0;
}

/* SPDX-License-Identifier: MIT */
/* One migration, stage by stage; session.c is what it follows. */
#include "migrate/sim_impl.h"

#include "base/clock.h"
#include "base/util.h"
#include <math.h>
#include <string.h>

#define ALL_CPUS 0.9     /* of them, and a guest has to wait */
#define CALLS_OF_ROUND 2 /* round trips of a round: its beginning, its end */

double sim_uniform(uint64_t *rng, double low, double high)
{
	return low + (high - low) * (double)(rng_next(rng) >> 11) * 0x1p-53;
}

uint64_t sim_gap(uint64_t *rng, double per_hour)
{
	double s;

	if (per_hour <= 0)
		return UINT64_MAX;
	s = -log1p(-sim_uniform(rng, 0, 1)) * 3600 / per_hour;
	return s < 1e9 ? (uint64_t)(s * 1e9) : UINT64_MAX;
}

static uint64_t ms(double v)
{
	return (uint64_t)(v * 1e6);
}

static uint64_t after(uint64_t now, uint64_t gap)
{
	return gap > UINT64_MAX - now ? UINT64_MAX : now + gap;
}

/* How long the guest has run, in seconds. */
static double ran(const struct link *l, uint64_t at)
{
	return (double)(at + l->cfg->warm_up_ns) / 1e9;
}

void sim_vm_init(struct vm *v, const struct sim_config *cfg, uint64_t *rng, struct sim_vm *out)
{
	double memory = sim_uniform(rng, (double)cfg->memory_min, (double)cfg->memory_max), pages;

	memset(v, 0, sizeof *v);
	memset(out, 0, sizeof *out);
	out->memory = max_u64((uint64_t)memory / GUEST_PAGE * GUEST_PAGE, GUEST_MEMORY_MIN);
	out->dirty_rate = sim_uniform(rng, cfg->dirty_min, cfg->dirty_max);
	pages = (double)out->memory / GUEST_PAGE; /* whole ones */
	v->out = out;
	v->rng = rng_next(rng);
	v->fail_at = UINT64_MAX;
	v->guest = (struct sim_guest){
		.pages = pages,
		.pattern = cfg->pattern,
		.writes = pages * out->dirty_rate / 100,
		.set = fmax(pages * cfg->working_set / 100, 1),
	};
}

/* ---- work -------------------------------------------------------------------------------------- */

double sim_width(const struct sim_config *cfg, double chunks)
{
	const struct sim_rates *r = cfg->rates;
	double workers = fmax(fmin(cfg->workers, chunks), 1);

	return fmin(workers * r->worker_cpus, cfg->cpus > 0 ? cfg->cpus : r->cpus);
}

struct work {
	double source_ns, dest_ns, bytes;
};

static void put_work(struct link *l, struct vm *v, const struct work *w, double width)
{
	double source = w->source_ns / 1e9, dest = w->dest_ns / 1e9, slowest;

	if (l->cfg->same_host) { /* the two ends of a stream share a CPU */
		source += dest;
		dest = 0;
	}
	v->job = (struct share_job){ .need = { source, w->bytes, dest } };
	slowest = fmax(source, dest) / width;
	v->left = slowest > 0 || w->bytes > 0 ? 1 : 0;
	v->job.most = slowest > 0 ? 1 / slowest : 1e12;
}

static void enter(struct link *l, struct vm *v, enum sim_stage stage, uint64_t delay, const struct work *w,
		  double width)
{
	static const struct work none = { 0 };

	v->stage = stage;
	v->entered = l->now;
	v->due = l->now + delay;
	put_work(l, v, w ? w : &none, width);
}

/* Of memory as it is, each page once. */
static struct work whole_work(const struct link *l, const struct vm *v, double *zeros, double link_rate)
{
	const struct sim_config *cfg = l->cfg;
	const struct sim_rates *r = cfg->rates;
	const struct sim_guest *g = &v->guest;
	struct sim_guest mean = *g;
	struct sim_hde_rates h = { .bytes = r->raw_bytes, .send_ns = r->raw_send_ns, .recv_ns = r->raw_recv_ns };
	double written, others;

	mean.noise = NULL;
	written = sim_guest_dirty(&mean, 0, ran(l, l->now)) / g->pages;
	*zeros = g->pages * cfg->zeros / 100 * (1 - fmin(written, 1));
	others = g->pages - *zeros;
	if (cfg->hde != HDE_NONE)
		sim_codec_cost(l->codec, r, cfg->hde, link_rate, &h);
	return (struct work){
		.source_ns = *zeros * r->zero_send_ns + others * h.send_ns,
		.dest_ns = *zeros * r->zero_recv_ns + others * h.recv_ns,
		.bytes = *zeros * r->zero_bytes + others * h.bytes,
	};
}

/* Of pages that were sent before, and written to: none is zeros. */
static struct work dirty_work(const struct sim_config *cfg, double pages)
{
	const struct sim_rates *r = cfg->rates;
	double raw = r->raw_send_ns + r->raw_recv_ns, share = r->raw_send_ns / raw, each, bytes;

	if (cfg->hde == HDE_NONE) {
		each = raw * r->dirty_factor;
		bytes = r->raw_bytes;
	} else {
		each = r->hde[cfg->hde - 1].delta_ns;
		bytes = r->hde[cfg->hde - 1].delta_bytes;
	}
	return (struct work){ pages * each * share, pages * each * (1 - share), pages * bytes };
}

/* What a worker gets of the link if it is shared by those that are under way now. */
static double worker_rate(const struct link *l)
{
	return l->capacity[SHARE_LINK] / fmax(l->active, 1) / l->cfg->workers;
}

void sim_vm_least(struct link *l, struct vm *v)
{
	double zeros;
	struct work w = whole_work(l, v, &zeros, l->capacity[SHARE_LINK] / l->cfg->workers);

	w.dest_ns += v->guest.pages * l->cfg->rates->prepare_ns;
	put_work(l, v, &w, 1);
	for (int r = 0; r < SHARE_RESOURCES; r++)
		l->least[r] += v->job.need[r];
	v->left = 0;
}

/* ---- stages ------------------------------------------------------------------------------------ */

static void begin_try(struct link *l, struct vm *v)
{
	const struct sim_config *cfg = l->cfg;
	const struct sim_rates *r = cfg->rates;
	struct migrate_result *res = &v->out->r;
	uint64_t wire = res->bytes_wire;
	struct work w = { .dest_ns = v->guest.pages * r->prepare_ns };

	memset(res, 0, sizeof *res);
	res->bytes_wire = wire;
	v->out->tries++;
	v->try_began = l->now;
	v->whole = true;
	v->pending = 0;
	v->behind = v->missed = 0;
	v->slow = (struct throttle){
		.cfg = { cfg->auto_converge, (double)cfg->dirty_limit / GUEST_PAGE },
	};
	v->guest.slowed = 0;
	v->fail_at = after(l->now, sim_gap(&v->rng, cfg->failures_per_hour));
	round_begin(&v->plan, &cfg->limits, l->now);
	enter(l, v, STAGE_PREPARE, ms(r->prepare_ms) + cfg->rtt_ns, &w, sim_width(cfg, 1e9));
}

void sim_vm_begin(struct link *l, struct vm *v)
{
	v->out->began_ns = l->now;
	v->guest.noise = &v->rng;
	l->active++;
	begin_try(l, v);
}

static void look(struct link *l, struct vm *v, enum sim_stage stage)
{
	const struct sim_rates *r = l->cfg->rates;
	/* A huge page of which nothing was written is seen at a glance; any other has become pages by themselves. */
	uint64_t tracked = v->try_began + v->out->r.prepare_ns;
	double pages = v->guest.pages * sim_guest_touched(&v->guest, ran(l, tracked), ran(l, l->now));
	struct work w = { .source_ns = pages * r->look_ns };

	enter(l, v, stage, ms(r->look_ms), &w, r->worker_cpus);
}

static void send_round(struct link *l, struct vm *v, enum sim_stage stage)
{
	const struct sim_config *cfg = l->cfg;
	struct migrate_result *res = &v->out->r;
	double pages = (double)v->sample.pages, zeros = 0;
	struct work w = v->whole ? whole_work(l, v, &zeros, worker_rate(l)) : dirty_work(cfg, pages);

	v->pending = 0;
	v->sample.bytes_wire = (uint64_t)w.bytes;
	v->sent_at = l->now;
	res->zero_pages += (uint64_t)zeros;
	if (cfg->hde != HDE_NONE && !v->whole)
		res->delta_pages += (uint64_t)pages;
	else
		res->raw_pages += (uint64_t)(pages - zeros);
	if (!v->sample.pages)
		enter(l, v, stage, 0, NULL, 1);
	else
		enter(l, v, stage, ms(cfg->rates->round_ms) + CALLS_OF_ROUND * cfg->rtt_ns, &w,
		      sim_width(cfg, ceil(pages * GUEST_PAGE / cfg->chunk)));
}

/* A guest is asleep most of the time, and gets a CPU back only when those that have them are done with theirs. */
static void starve(struct link *l, struct vm *v)
{
	const struct sim_config *cfg = l->cfg;
	double chunks = ceil((double)v->sample.pages * GUEST_PAGE / cfg->chunk);
	bool all = sim_width(cfg, chunks) >= ALL_CPUS * (cfg->cpus > 0 ? cfg->cpus : cfg->rates->cpus);

	v->behind = all ? min_u64(v->sample.ns, ms(cfg->rates->wait_ms)) : 0;
}

static void round_sent(struct link *l, struct vm *v)
{
	struct migrate_result *res = &v->out->r;
	struct round_sample *s = &v->sample;

	s->ns = l->now - v->entered;
	starve(l, v);
	round_note(&v->plan, s);
	res->bytes_wire += s->bytes_wire;
	if (res->n_rounds == MIGRATE_ROUNDS_MAX) {
		res->more_rounds++;
		return;
	}
	res->rounds[res->n_rounds++] = (struct migrate_round){
		.pages = s->pages,
		.bytes_wire = s->bytes_wire,
		.ns = s->ns,
		.dirty_pages_per_s = s->over_ns ? (double)s->dirtied * 1e9 / (double)s->over_ns : 0,
		.paused = v->stage == STAGE_LAST_ROUND,
	};
}

/* Adds what was written since the last look, or since memory was sent, to what is to be sent. */
static void found(struct link *l, struct vm *v, uint64_t until)
{
	double from = ran(l, v->whole ? v->sent_at : v->looked_at - v->missed), to = ran(l, until - v->behind), n;

	n = v->whole ? sim_guest_dirty_behind(&v->guest, from, to) : sim_guest_dirty(&v->guest, from, to);
	n = fmin(v->pending + n * (1 - fmin(v->pending / v->guest.set, 1)), v->guest.pages);
	v->pending = n;
	v->sample = (struct round_sample){ .pages = (uint64_t)n,
					   .dirtied = (uint64_t)n,
					   .over_ns = v->entered - v->looked_at };
	v->looked_at = v->entered;
	v->missed = v->behind;
	v->look_ns = l->now - v->entered;
	v->whole = false;
}

static void finish(struct link *l, struct vm *v, enum migrate_outcome outcome)
{
	struct migrate_result *res = &v->out->r;

	res->outcome = outcome;
	res->total_ns = l->now - v->try_began;
	v->out->ended_ns = l->now;
	v->stage = STAGE_OVER;
	v->fail_at = UINT64_MAX;
	v->left = 0;
	l->active--;
	l->over++;
}

static void decide(struct link *l, struct vm *v, uint64_t sent)
{
	uint64_t pending = v->sample.pages;
	enum round_next next;

	v->guest.slowed = throttle_next(&v->slow, sent, pending, v->plan.dirty_rate) / 100.0;
	if (v->slow.percent > v->out->r.throttle)
		v->out->r.throttle = v->slow.percent;
	round_fixed(&v->plan, v->look_ns, l->cfg->rtt_ns);
	next = round_decide(&v->plan, pending, l->now);
	if (next == ROUND_MORE)
		send_round(l, v, STAGE_ROUND);
	else if (next == ROUND_SWITCH || l->cfg->force)
		enter(l, v, STAGE_PAUSE, ms(l->cfg->rates->pause_ms), NULL, 1);
	else
		finish(l, v, OUTCOME_ROLLED_BACK);
}

static void first_stage(struct link *l, struct vm *v)
{
	v->out->r.prepare_ns = l->now - v->entered;
	v->sample = (struct round_sample){ .pages = (uint64_t)v->guest.pages };
	v->looked_at = l->now;
	if (l->cfg->precopy)
		send_round(l, v, STAGE_ROUND);
	else
		enter(l, v, STAGE_PAUSE, ms(l->cfg->rates->pause_ms), NULL, 1);
}

/* Within the blackout. */
static void next_paused(struct link *l, struct vm *v)
{
	const struct sim_rates *r = l->cfg->rates;
	struct migrate_blackout *b = &v->out->r.blackout;
	uint64_t took = l->now - v->entered;

	switch (v->stage) {
	case STAGE_PAUSE:
		v->paused_at = v->entered;
		b->pause_ns = took;
		if (l->cfg->precopy)
			look(l, v, STAGE_LAST_LOOK);
		else
			enter(l, v, STAGE_LAST_LOOK, 0, NULL, 1);
		break;
	case STAGE_LAST_LOOK:
		b->look_ns = took;
		v->behind = 0;
		if (l->cfg->precopy)
			found(l, v, v->paused_at + b->pause_ns);
		send_round(l, v, STAGE_LAST_ROUND);
		break;
	case STAGE_LAST_ROUND:
		b->transfer_ns = took;
		round_sent(l, v);
		enter(l, v, STAGE_STATE, ms(r->state_ms) + l->cfg->rtt_ns, NULL, 1);
		break;
	case STAGE_STATE:
		b->ready_ns = took;
		enter(l, v, STAGE_START, ms(r->start_ms) + l->cfg->rtt_ns, NULL, 1);
		break;
	default:
		b->start_ns = took;
		v->out->r.downtime_ns = l->now - v->paused_at;
		finish(l, v, OUTCOME_COMPLETED);
	}
}

void sim_vm_next(struct link *l, struct vm *v)
{
	uint64_t sent = v->sample.pages;

	switch (v->stage) {
	case STAGE_PREPARE:
		first_stage(l, v);
		break;
	case STAGE_ROUND:
		round_sent(l, v);
		look(l, v, STAGE_LOOK);
		break;
	case STAGE_LOOK:
		found(l, v, l->now);
		decide(l, v, sent);
		break;
	case STAGE_RETRY:
		begin_try(l, v);
		break;
	default:
		next_paused(l, v);
	}
}

/* Before START the guest goes on where it was; afterwards nobody knows, until the other side can be asked. */
void sim_vm_fail(struct link *l, struct vm *v)
{
	struct migrate_result *res = &v->out->r;

	v->out->failures++;
	v->fail_at = UINT64_MAX;
	if (v->stage == STAGE_START) {
		finish(l, v, OUTCOME_IN_DOUBT);
		return;
	}
	if (v->stage >= STAGE_PAUSE)
		res->rollback_ns = ms(l->cfg->rates->pause_ms);
	if (v->out->tries > l->cfg->retries)
		finish(l, v, OUTCOME_ROLLED_BACK);
	else
		enter(l, v, STAGE_RETRY, l->cfg->retry_ns, NULL, 1);
}

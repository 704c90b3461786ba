/* SPDX-License-Identifier: MIT */
/* From what was seen to what things cost. Each figure is worked out for each turn; the median counts. */
#include "migrate/sim_fit.h"

#include "base/stats.h"
#include "base/util.h"
#include "migrate/pages.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define POINTS_MAX ((size_t)SIM_TURNS_MAX * 2 * MIGRATE_ROUNDS_MAX)
#define PAIRS_MAX 4000
#define ROUND_FEW 8 /* pages: what is shorter says nothing about a page */

struct fit {
	const struct sim_turn *turns;
	unsigned n;
	struct sim_rates *r;
};

/* A figure of a turn. */
typedef double (*figure)(const struct fit *f, const struct sim_turn *t, int mode);

static double median(const struct fit *f, figure of, int mode)
{
	double v[SIM_TURNS_MAX];

	for (unsigned i = 0; i < f->n; i++)
		v[i] = of(f, &f->turns[i], mode);
	return stats_median(v, f->n);
}

static double pages_of(const struct sim_seen *s)
{
	return (double)s->r.rounds[0].pages;
}

/* Beyond those of the tiny guest. */
static double more_pages(const struct sim_turn *t, int move)
{
	return pages_of(&t->move[move]) - pages_of(&t->move[MOVE_TINY]);
}

/* ---- what does not depend on pages ------------------------------------------------------------- */

static double prepare_ms(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return (double)t->move[MOVE_TINY].r.prepare_ns / 1e6;
}

/* The middle one of the migrations that were not tiny: of an array of parts of the blackout. */
static double part_ms(const struct sim_turn *t, size_t offset)
{
	double v[MOVES];

	for (int i = 0; i < MOVES; i++) {
		uint64_t ns;

		memcpy(&ns, (const char *)&t->move[i].r.blackout + offset, sizeof ns);
		v[i] = (double)ns / 1e6;
	}
	return stats_median(v, MOVES);
}

static double pause_ms(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return part_ms(t, offsetof(struct migrate_blackout, pause_ns));
}

static double state_ms(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return part_ms(t, offsetof(struct migrate_blackout, ready_ns));
}

static double start_ms(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return part_ms(t, offsetof(struct migrate_blackout, start_ns));
}

static double look_ms(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return (double)t->move[MOVE_TINY].r.blackout.look_ns / 1e6;
}

static double look_ns(const struct fit *f, const struct sim_turn *t, int mode)
{
	double more = (double)t->move[MOVE_FAST].r.blackout.look_ns - (double)t->move[MOVE_TINY].r.blackout.look_ns;

	(void)mode; /* that guest writes to all of it */
	return fmax(more, 0) * f->r->worker_cpus / more_pages(t, MOVE_FAST);
}

static double guest_cpus(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return t->guest_cpus;
}

static double write_ns(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return t->write_ns;
}

static double fault_ns(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return t->fault_ns;
}

/* Whatever a look finds beyond what the guest writes between two looks it had not come to before the first of them, while a
 * round had the CPUs. */
static double wait_ms(const struct fit *f, const struct sim_turn *t, int mode)
{
	const struct migrate_result *r = &t->move[MOVE_FAST].r;
	double rate = pages_of(&t->move[MOVE_FAST]) * SIM_FAST_RATE / 100, most = 0;

	(void)f, (void)mode;
	for (unsigned i = 2; i < r->n_rounds; i++) {
		double pages = (double)r->rounds[i].pages, found = r->rounds[i].dirty_pages_per_s;

		if (found > rate)
			most = fmax(most, pages / rate - pages / found);
	}
	return most * 1e3;
}

/* ---- pages of the first round ------------------------------------------------------------------ */

static double prepare_ns(const struct fit *f, const struct sim_turn *t, int mode)
{
	const struct sim_seen *s = &t->move[MOVE_RAW];

	(void)f, (void)mode;
	return (s->make_ns + s->track_ns) / pages_of(s);
}

static double zero_send(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return t->move[MOVE_ZEROS].source_ns / pages_of(&t->move[MOVE_ZEROS]);
}

static double zero_recv(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return t->move[MOVE_ZEROS].dest_ns / pages_of(&t->move[MOVE_ZEROS]);
}

static double zero_bytes(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return (double)t->move[MOVE_ZEROS].r.rounds[0].bytes_wire / pages_of(&t->move[MOVE_ZEROS]);
}

static double raw_send(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return t->move[MOVE_RAW].source_ns / pages_of(&t->move[MOVE_RAW]);
}

static double raw_recv(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return t->move[MOVE_RAW].dest_ns / pages_of(&t->move[MOVE_RAW]);
}

static double raw_bytes(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)f, (void)mode;
	return (double)t->move[MOVE_RAW].r.rounds[0].bytes_wire / pages_of(&t->move[MOVE_RAW]);
}

/* CPUs that worked for the first round while it lasted. */
static double cpus_of(const struct sim_seen *s, const struct sim_rates *r)
{
	return pages_of(s) * (r->raw_send_ns + r->raw_recv_ns) / (double)max_u64(s->r.rounds[0].ns, 1);
}

static double cpus(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)mode;
	return cpus_of(&t->move[MOVE_RAW], f->r);
}

static double worker_cpus(const struct fit *f, const struct sim_turn *t, int mode)
{
	(void)mode;
	return cpus_of(&t->move[MOVE_SINGLE], f->r);
}

/* ---- later rounds ------------------------------------------------------------------------------ */

/* Rounds: what they took, and how many pages each CPU had that worked for them. */
struct points {
	double pages[POINTS_MAX], ns[POINTS_MAX];
	size_t n;
};

static void take_rounds(struct points *p, const struct sim_rates *r, const struct sim_seen *s, double chunk)
{
	for (unsigned i = 1; i < s->r.n_rounds && p->n < POINTS_MAX; i++) {
		double pages = (double)s->r.rounds[i].pages;

		if (!s->r.rounds[i].pages)
			continue;
		p->pages[p->n] = pages / fmin(ceil(pages * GUEST_PAGE / chunk) * r->worker_cpus, r->cpus);
		p->ns[p->n++] = (double)s->r.rounds[i].ns;
	}
}

/* A line through points of which some are far off: Theil's slope, then the median of what is above it. */
static void fit_line(const struct points *p, double *at_zero, double *slope)
{
	double v[PAIRS_MAX];
	size_t n = 0;

	for (size_t step = 1; step < p->n; step++)
		for (size_t i = 0; i + step < p->n && n < PAIRS_MAX; i++) {
			double apart = p->pages[i + step] - p->pages[i];

			if (fabs(apart) >= ROUND_FEW)
				v[n++] = (p->ns[i + step] - p->ns[i]) / apart;
		}
	*slope = n ? fmax(stats_median(v, n), 0) : 0;
	n = 0;
	for (size_t i = 0; i < p->n && n < PAIRS_MAX; i++)
		v[n++] = p->ns[i] - *slope * p->pages[i];
	*at_zero = n ? fmax(stats_median(v, n), 0) : 0;
}

static void fit_rounds(struct fit *f, struct points *p)
{
	double at_zero, slope;

	p->n = 0;
	for (unsigned i = 0; i < f->n; i++) {
		take_rounds(p, f->r, &f->turns[i].move[MOVE_SLOW], PAGES_CHUNK_MAX / 2.0);
		take_rounds(p, f->r, &f->turns[i].move[MOVE_FAST], PAGES_CHUNK_MAX / 2.0);
	}
	fit_line(p, &at_zero, &slope);
	f->r->round_ms = at_zero / 1e6;
	f->r->dirty_factor = slope / (f->r->raw_send_ns + f->r->raw_recv_ns);
}

/* ---- compression ------------------------------------------------------------------------------- */

static int move_of(int mode, int which)
{
	return MOVE_HDE + 3 * mode + which;
}

static double coded(const struct sim_seen *s)
{
	return fmax(pages_of(s) - (double)s->r.zero_pages, 1);
}

static double hde_send(const struct fit *f, const struct sim_turn *t, int mode)
{
	const struct sim_seen *s = &t->move[move_of(mode, 1)];

	return fmax(s->source_ns - (double)s->r.zero_pages * f->r->zero_send_ns, 1) / coded(s);
}

static double hde_recv(const struct fit *f, const struct sim_turn *t, int mode)
{
	const struct sim_seen *s = &t->move[move_of(mode, 1)];

	return fmax(s->dest_ns - (double)s->r.zero_pages * f->r->zero_recv_ns, 1) / coded(s);
}

static double hde_bytes(const struct fit *f, const struct sim_turn *t, int mode)
{
	const struct sim_seen *s = &t->move[move_of(mode, 1)];

	return fmax((double)s->r.rounds[0].bytes_wire - (double)s->r.zero_pages * f->r->zero_bytes, 1) / coded(s);
}

static double hde_link(const struct fit *f, const struct sim_turn *t, int mode)
{
	const struct migrate_round *x = &t->move[move_of(mode, 1)].r.rounds[0];
	double workers = fmax(round(f->r->cpus), 1);

	return (double)x->bytes_wire * 1e3 / (double)max_u64(x->ns, 1) / workers;
}

static double delta_bytes(const struct fit *f, const struct sim_turn *t, int mode)
{
	const struct migrate_result *r = &t->move[move_of(mode, 2)].r;
	double pages = 0, bytes = 0;

	(void)f;
	for (unsigned i = 1; i < r->n_rounds; i++) {
		pages += (double)r->rounds[i].pages;
		bytes += (double)r->rounds[i].bytes_wire;
	}
	return fmax(bytes, 1) / fmax(pages, 1);
}

static void fit_hde(struct fit *f, struct points *p)
{
	for (int mode = 0; mode < SIM_MODES; mode++) {
		struct sim_hde_rates *h = &f->r->hde[mode];
		double at_zero, slope;

		h->send_ns = median(f, hde_send, mode);
		h->recv_ns = median(f, hde_recv, mode);
		h->bytes = median(f, hde_bytes, mode);
		h->link_mbytes = median(f, hde_link, mode);
		h->delta_bytes = median(f, delta_bytes, mode);
		p->n = 0;
		for (unsigned i = 0; i < f->n; i++)
			take_rounds(p, f->r, &f->turns[i].move[move_of(mode, 2)], PAGES_CHUNK_MAX);
		fit_line(p, &at_zero, &slope);
		h->delta_ns = fmax(slope, 1);
	}
}

/* ---- all of it --------------------------------------------------------------------------------- */

static void fit_pages(struct fit *f)
{
	struct sim_rates *r = f->r;

	r->prepare_ns = median(f, prepare_ns, 0);
	r->zero_send_ns = median(f, zero_send, 0);
	r->zero_recv_ns = median(f, zero_recv, 0);
	r->zero_bytes = median(f, zero_bytes, 0);
	r->raw_send_ns = median(f, raw_send, 0);
	r->raw_recv_ns = median(f, raw_recv, 0);
	r->raw_bytes = median(f, raw_bytes, 0);
	r->cpus = median(f, cpus, 0);
	r->worker_cpus = fmin(median(f, worker_cpus, 0), r->cpus);
}

int sim_fit(const struct sim_turn *turns, unsigned n, struct sim_rates *r, struct err *e)
{
	struct fit f = { .turns = turns, .n = n, .r = r };
	struct points *points;

	if (!n || n > SIM_TURNS_MAX)
		return err_set(e, -EINVAL, "%u turns were measured: 1 to %d are needed", n, SIM_TURNS_MAX);
	points = malloc(sizeof *points);
	if (!points)
		return err_set(e, -ENOMEM, "no memory to work figures out");
	*r = (struct sim_rates){ 0 };
	fit_pages(&f);
	r->prepare_ms = median(&f, prepare_ms, 0);
	r->pause_ms = median(&f, pause_ms, 0);
	r->state_ms = median(&f, state_ms, 0);
	r->start_ms = median(&f, start_ms, 0);
	r->look_ms = median(&f, look_ms, 0);
	r->look_ns = median(&f, look_ns, 0);
	r->guest_cpus = median(&f, guest_cpus, 0);
	r->write_ns = median(&f, write_ns, 0);
	r->fault_ns = median(&f, fault_ns, 0);
	r->wait_ms = median(&f, wait_ms, 0);
	fit_rounds(&f, points);
	fit_hde(&f, points);
	free(points);
	return sim_rates_check(r, "calibration", e);
}

/* SPDX-License-Identifier: MIT */
/*
 * What does the link carry? A worker whose time goes into encoding learns nothing about it, but that the link takes what
 * it gets; a worker that waits for the link sees its rate. So the share of time spent encoding decides which of the two a
 * look means; taking both for the link's rate would choose ever slower codecs for a link that seems ever slower.
 */
#include "compress/hde_impl.h"

#include "base/clock.h"
#include "base/util.h"
#include <math.h>

#define LOOK_NS (50 * NS_PER_MS)
#define BUSY_SHARE 0.7            /* of the time spent encoding: more, and the CPU is the limit */
#define IDLE_NS (500 * NS_PER_MS) /* a pause of this length is nobody's rate */
#define LEARN 0.25
#define PROBE 1.1
#define PROBE_MOST 4.0 /* times what was seen */

void rate_acked(struct hde_enc *e, struct enc_worker *w, uint64_t wire)
{
	(void)e;
	metric_add(&w->wire, wire);
	__atomic_store_n(&w->acked_at, clock_now(&clock_mono), __ATOMIC_RELAXED);
}

/* Neither encoded nor acknowledged anything for so long. */
static bool was_idle(const struct enc_worker *w, uint64_t now)
{
	uint64_t last = max_u64(w->look_at, __atomic_load_n(&w->acked_at, __ATOMIC_RELAXED));

	return !w->look_at || (now > last && now - last > IDLE_NS);
}

/* rate: as it was seen. A busy worker's says only that the link takes as much, so that more is tried, within limits. */
static void learn_link(struct enc_worker *w, double rate, bool busy)
{
	if (rate <= 0)
		return;
	if (!busy)
		w->link = w->link > 0 ? w->link + LEARN * (rate - w->link) : rate;
	else if (w->link < PROBE_MOST * rate)
		w->link = fmax(w->link * PROBE, rate);
}

void rate_encoded(struct hde_enc *e, struct enc_worker *w, uint64_t began, uint64_t ended)
{
	uint64_t wire = __atomic_load_n(&w->wire, __ATOMIC_RELAXED), span;
	bool idle = was_idle(w, began);
	struct sel_cost cost;

	w->busy += ended - began;
	span = ended - w->look_at;
	if (!idle && span < LOOK_NS)
		return;
	if (!idle)
		learn_link(w, (double)(wire - w->look_wire) * 1e9 / (double)span,
			   (double)(w->busy - w->look_busy) >= BUSY_SHARE * (double)span);
	w->look_at = idle ? began : ended;
	w->look_busy = w->busy;
	w->look_wire = wire;
	cost = rate_cost(e, w);
	sel_cost_set(&w->sel, &cost);
}

uint32_t hde_choices(enum hde_mode mode)
{
	uint32_t allowed = 0;

	for (unsigned i = 0; i < SEL_CHOICES; i++) {
		const struct sel_choice *c = &sel_choices[i];

		if (mode != HDE_DATACENTER || c->codec != CODEC_ZSTD || c->level <= 3)
			allowed |= 1u << i;
	}
	return allowed;
}

/* Where nothing is known yet, in bytes/s of the whole link. */
static double first_guess(enum hde_mode mode)
{
	return mode == HDE_DATACENTER ? 1250e6 : mode == HDE_INTERNET ? 12.5e6 : 125e6;
}

struct sel_cost rate_cost(const struct hde_enc *e, const struct enc_worker *w)
{
	enum hde_mode mode = (enum hde_mode)e->cfg.opts.mode;
	double workers = e->cfg.workers, handed, receiver, link;

	__atomic_load(&e->link_bytes_per_s, &handed, __ATOMIC_RELAXED);
	__atomic_load(&e->receiver, &receiver, __ATOMIC_RELAXED);
	link = handed > 0 ? handed / workers : w->link > 0 ? w->link : first_guess(mode) / workers;
	return (struct sel_cost){
		.cpu = e->cfg.opts.cpu,
		.link_bytes_per_s = link,
		.receiver = receiver > 0 ? receiver / workers : 1,
		.allowed = hde_choices(mode),
	};
}

void hde_rates(struct hde_enc *e, double link_bits_per_s, double receiver_cpus)
{
	double link = link_bits_per_s / 8;

	/* Each worker takes it over at its next look. */
	__atomic_store(&e->link_bytes_per_s, &link, __ATOMIC_RELAXED);
	__atomic_store(&e->receiver, &receiver_cpus, __ATOMIC_RELAXED);
}

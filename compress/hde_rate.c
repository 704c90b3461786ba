/* SPDX-License-Identifier: MIT */
/*
 * What does the link carry? A worker whose time goes into encoding learns nothing about it, but that the link takes what
 * it gets; a worker that waits for the link sees its rate. So the share of time spent encoding decides which of the two a
 * look means; taking both for the link's rate would choose ever slower codecs for a link that seems ever slower.
 */
#include "compress/hde_impl.h"

#include "base/clock.h"
#include "base/util.h"

#define LOOK_NS (50 * NS_PER_MS)
#define BUSY_SHARE 0.7            /* of the time spent encoding: more, and the CPU is the limit */
#define IDLE_NS (500 * NS_PER_MS) /* a pause of this length is nobody's rate */
#define LEARN 0.25
#define PROBE 1.1

void rate_acked(struct hde_enc *e, struct enc_worker *w, uint64_t wire)
{
	(void)e;
	metric_add(&w->wire, wire);
}

void rate_encoded(struct hde_enc *e, struct enc_worker *w, uint64_t began, uint64_t ended)
{
	uint64_t wire = __atomic_load_n(&w->wire, __ATOMIC_RELAXED), span;
	struct sel_cost cost;
	double rate;

	w->busy += ended - began;
	if (!w->look_at || began - w->look_at > IDLE_NS) {
		w->look_at = began;
		w->look_busy = w->busy;
		w->look_wire = wire;
		return;
	}
	span = ended - w->look_at;
	if (span < LOOK_NS)
		return;
	rate = (double)(wire - w->look_wire) * 1e9 / (double)span;
	if (rate > 0 && (double)(w->busy - w->look_busy) < BUSY_SHARE * (double)span)
		w->link = w->link > 0 ? w->link + LEARN * (rate - w->link) : rate;
	else if (w->link > 0 || rate > 0)
		w->link = w->link * PROBE > rate ? w->link * PROBE : rate;
	w->look_at = ended;
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

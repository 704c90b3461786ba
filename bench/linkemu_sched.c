/* SPDX-License-Identifier: MIT */
/*
 * The queue is first in, first out, and what will come of the rate is known, so a packet's end of transmission is
 * computed when it arrives: queue, wire and delay line are one ring, and a cursor tells where the queue ends.
 */
#include "bench/linkemu_sched.h"
#include "base/clock.h"
#include "base/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RING_MIN 4096u
#define RING_MAX (1u << 20)
#define PACKET_TYPICAL 512 /* bytes; a ring has room for packets of this size at least */
#define RATE_UNLIMITED 10e9 /* what an unlimited link is taken for when room is planned */
#define WANDER_CORNERS 4    /* × jitter between two corners: packets never come closer than at 2 × the rate */
#define JITTER_SALT 0x6a69747465720000ull

struct packets {
	struct link_packet *v;
	uint64_t head, tail; /* indices grow for ever */
	uint64_t mask;
};

struct link_sched {
	struct link_params p;
	struct packets ring, held;
	uint64_t sending; /* in the ring: the first packet whose transmission is not over */
	uint64_t backlog;
	uint64_t free_ns;  /* the transmitter is free from then on… */
	uint64_t free_rem; /* …and this fraction of a nanosecond, in 1/rate */
	uint64_t due_ns;   /* of the last one in the ring */
	uint64_t held_due_ns;
	uint64_t trace_start_ns;
	struct link_trace_at at;
	uint64_t rng, jitter_seed;
	double enter, leave; /* chances that a burst begins and ends; leave 0: no bursts */
	bool in_burst, losing;
	struct link_counters count;
};

/* ---- parameters -------------------------------------------------------------------------------- */

static bool is_share(double v)
{
	return v >= 0 && v <= 1;
}

int link_params_check(const struct link_params *p, struct err *e)
{
	double bad = p->loss_in_burst > 0 ? p->loss / p->loss_in_burst : 2;

	if (!is_share(p->loss) || !is_share(p->reorder) || !is_share(p->duplicate) || !is_share(p->loss_in_burst))
		return err_set(e, -EINVAL, "loss, reorder and duplicate are shares of all packets: choose 0 to 100 %%");
	if (p->jitter_ns > p->delay_ns)
		return err_set(
			e, -EINVAL,
			"jitter %.6g ms is more than the delay of %.6g ms: no packet arrives before it was sent; choose less",
			(double)p->jitter_ns / 1e6, (double)p->delay_ns / 1e6);
	if (p->loss_burst > 1 && !(bad <= p->loss_burst / (1 + p->loss_burst)))
		return err_set(
			e, -EINVAL,
			"loss %g %%: bursts of %g packets that lose %g %% of them make at most %.3g %%; choose longer bursts",
			p->loss * 100, p->loss_burst, p->loss_in_burst * 100,
			p->loss_in_burst * p->loss_burst / (1 + p->loss_burst) * 100);
	if (p->reorder > 0 && !p->reorder_delay_ns)
		return err_set(e, -EINVAL, "reorder: nothing is held back for no time; give reorder-delay, too");
	return 0;
}

static double rate_most(const struct link_params *p)
{
	if (p->trace)
		return (double)link_trace_most(p->trace);
	return p->rate ? (double)p->rate : RATE_UNLIMITED;
}

uint64_t link_params_bytes(const struct link_params *p)
{
	double on_wire = rate_most(p) / 8e9 * (double)(p->delay_ns + p->jitter_ns + p->reorder_delay_ns);

	return (uint64_t)on_wire + p->queue;
}

static uint32_t ring_size(const struct link_params *p)
{
	uint64_t want = link_params_bytes(p) / PACKET_TYPICAL;
	uint32_t size = RING_MIN;

	while (size < want && size < RING_MAX)
		size *= 2;
	return size;
}

/* Moves what is inside into a ring of at least `size`. */
static int resize(struct packets *r, uint32_t size)
{
	struct link_packet *v;

	while (size < r->tail - r->head)
		size *= 2;
	if (r->v && r->mask + 1 == size)
		return 0;
	v = calloc(size, sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (uint64_t i = r->head; i < r->tail; i++)
		v[i & (size - 1)] = r->v[i & r->mask];
	free(r->v);
	r->v = v;
	r->mask = size - 1;
	return 0;
}

static void set_params(struct link_sched *s, const struct link_params *p)
{
	double bad = p->loss_in_burst > 0 ? p->loss / p->loss_in_burst : 0;

	s->p = *p;
	s->leave = p->loss_burst > 1 ? 1 / p->loss_burst : 0;
	s->enter = s->leave * bad / (1 - bad);
}

int link_sched_open(struct link_sched **out, const struct link_params *p, uint64_t seed, uint64_t start_ns,
		    struct err *e)
{
	struct link_sched *s;
	int rc = link_params_check(p, e);

	if (rc < 0)
		return rc;
	s = calloc(1, sizeof(*s));
	if (!s || resize(&s->ring, ring_size(p)) < 0 || resize(&s->held, ring_size(p)) < 0) {
		link_sched_close(s);
		return err_set(e, -ENOMEM, "no memory for a link of this rate and delay: choose less of either");
	}
	set_params(s, p);
	s->rng = seed;
	s->jitter_seed = seed ^ JITTER_SALT;
	s->trace_start_ns = start_ns;
	s->free_ns = start_ns;
	*out = s;
	return 0;
}

void link_sched_close(struct link_sched *s)
{
	if (!s)
		return;
	free(s->ring.v);
	free(s->held.v);
	free(s);
}

/* ---- time -------------------------------------------------------------------------------------- */

static double chance(struct link_sched *s)
{
	return (double)(rng_next(&s->rng) >> 11) * 0x1p-53;
}

/* A corner of the wandering delay, −1 … 1. */
static double corner(const struct link_sched *s, uint64_t k)
{
	uint64_t state = s->jitter_seed ^ (k * 0x9e3779b97f4a7c15ull);

	return (double)(int64_t)rng_next(&state) * 0x1p-63;
}

static uint64_t delay_at(const struct link_sched *s, uint64_t t)
{
	uint64_t period = s->p.jitter_ns * WANDER_CORNERS;
	double share, at;

	if (!period)
		return s->p.delay_ns;
	share = (double)(t % period) / (double)period;
	at = corner(s, t / period) * (1 - share) + corner(s, t / period + 1) * share;
	return s->p.delay_ns + (uint64_t)(int64_t)(at * (double)s->p.jitter_ns);
}

/* Sends `len` bytes from `from` on at the earliest; returns when that is over. */
static uint64_t transmit(struct link_sched *s, uint64_t from, uint32_t len)
{
	uint64_t bits = (uint64_t)len * 8;

	if (from > s->free_ns) {
		s->free_ns = from;
		s->free_rem = 0;
	}
	if (s->p.trace) {
		s->free_ns =
			s->trace_start_ns + link_trace_send(s->p.trace, &s->at, s->free_ns - s->trace_start_ns, bits);
	} else if (s->p.rate) {
		uint64_t units = bits * NS_PER_S + s->free_rem;

		s->free_ns += units / s->p.rate;
		s->free_rem = units % s->p.rate;
	}
	return s->free_ns;
}

/* Where its time under way leads. Order holds: only `held` packets are passed. */
static void set_due(struct link_sched *s, struct link_packet *k)
{
	k->due_ns = max_u64(k->sent_ns + delay_at(s, k->sent_ns), s->due_ns);
	s->due_ns = k->due_ns;
}

static void advance(struct link_sched *s, uint64_t now)
{
	for (; s->sending < s->ring.tail; s->sending++) {
		const struct link_packet *k = &s->ring.v[s->sending & s->ring.mask];

		if (k->sent_ns > now)
			return;
		s->backlog -= k->len;
	}
}

int link_sched_set(struct link_sched *s, const struct link_params *p, uint64_t now_ns, struct err *e)
{
	int rc = link_params_check(p, e);
	uint64_t i;

	if (rc < 0)
		return rc;
	if (resize(&s->ring, ring_size(p)) < 0 || resize(&s->held, ring_size(p)) < 0)
		return err_set(e, -ENOMEM, "no memory for a link of this rate and delay: choose less of either");
	advance(s, now_ns);
	if (p->trace != s->p.trace) {
		s->trace_start_ns = now_ns;
		s->at = (struct link_trace_at){ 0 };
	}
	set_params(s, p);
	i = s->sending;
	s->due_ns = i > s->ring.head ? s->ring.v[(i - 1) & s->ring.mask].due_ns : 0;
	s->free_ns = now_ns;
	s->free_rem = 0;
	/* The one under transmission is sent again from its beginning, unless its end is nearer. */
	for (bool first = true; i < s->ring.tail; i++, first = false) {
		struct link_packet *k = &s->ring.v[i & s->ring.mask];
		uint64_t old = k->sent_ns;

		k->sent_ns = transmit(s, now_ns, k->len);
		if (first && old < k->sent_ns) {
			k->sent_ns = s->free_ns = old;
			s->free_rem = 0;
		}
		set_due(s, k);
	}
	return 0;
}

/* ---- packets ----------------------------------------------------------------------------------- */

static bool draw_loss(struct link_sched *s)
{
	bool lost;

	if (s->leave > 0) {
		s->in_burst = s->in_burst ? chance(s) >= s->leave : chance(s) < s->enter;
		lost = s->in_burst && chance(s) < s->p.loss_in_burst;
	} else {
		lost = s->p.loss > 0 && chance(s) < s->p.loss;
	}
	s->count.lost += lost;
	s->count.lost_bursts += lost && !s->losing;
	s->losing = lost;
	return lost;
}

static void draw_fate(struct link_sched *s, struct link_packet *k)
{
	k->copies = draw_loss(s) ? 0 : 1;
	if (s->p.duplicate > 0 && chance(s) < s->p.duplicate && k->copies) {
		k->copies = 2;
		s->count.duplicated++;
	}
	k->held = s->p.reorder > 0 && chance(s) < s->p.reorder && k->copies;
	s->count.reordered += k->held;
}

bool link_sched_push(struct link_sched *s, uint64_t now_ns, void *frame, uint32_t seg, uint32_t len)
{
	struct link_packet *k;

	advance(s, now_ns);
	s->count.in_packets++;
	s->count.in_bytes += len;
	if (s->backlog && s->backlog + len > s->p.queue) {
		s->count.queue_drops++;
		return false;
	}
	if (s->ring.tail - s->ring.head > s->ring.mask) {
		s->count.overflow++;
		return false;
	}
	k = &s->ring.v[s->ring.tail++ & s->ring.mask];
	*k = (struct link_packet){ .frame = frame, .seg = seg, .len = len };
	s->backlog += len;
	k->sent_ns = transmit(s, now_ns, len);
	set_due(s, k);
	draw_fate(s, k);
	return true;
}

/* Moves the ring's first packet aside, to come out later; no room: it goes its way. */
static bool hold(struct link_sched *s, const struct link_packet *k)
{
	struct link_packet *h;

	if (s->held.tail - s->held.head > s->held.mask)
		return false;
	h = &s->held.v[s->held.tail++ & s->held.mask];
	*h = *k;
	h->due_ns = max_u64(k->due_ns + s->p.reorder_delay_ns, s->held_due_ns);
	s->held_due_ns = h->due_ns;
	return true;
}

static uint64_t first_due(const struct packets *r)
{
	return r->head < r->tail ? r->v[r->head & r->mask].due_ns : UINT64_MAX;
}

static bool take(struct link_sched *s, struct packets *r, struct link_packet *out)
{
	*out = r->v[r->head++ & r->mask];
	s->count.out_packets += out->copies;
	s->count.out_bytes += (uint64_t)out->copies * out->len;
	return true;
}

bool link_sched_pop(struct link_sched *s, uint64_t now_ns, struct link_packet *out)
{
	advance(s, now_ns);
	for (;;) {
		uint64_t line = first_due(&s->ring), held = first_due(&s->held);
		struct link_packet *k = &s->ring.v[s->ring.head & s->ring.mask];

		if (held <= line)
			return held <= now_ns && s->held.head < s->held.tail && take(s, &s->held, out);
		if (line > now_ns)
			return false;
		if (!k->held || !hold(s, k))
			return take(s, &s->ring, out);
		s->ring.head++;
	}
}

uint64_t link_sched_next(const struct link_sched *s)
{
	return min_u64(first_due(&s->ring), first_due(&s->held));
}

uint64_t link_sched_backlog(struct link_sched *s, uint64_t now_ns)
{
	advance(s, now_ns);
	return s->backlog;
}

const struct link_counters *link_sched_counters(const struct link_sched *s)
{
	return &s->count;
}

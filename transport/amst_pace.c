/* SPDX-License-Identifier: MIT */
/* How fast chunks leave: a time before which none may, that each one moves on by what it is worth. */
#include "transport/amst_impl.h"

void amst_pace(struct amst *a, uint64_t bytes_per_s)
{
	__atomic_store_n(&a->pace_at, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&a->pace, bytes_per_s, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < a->n; i++)
		a->cfg.ops->wake(a->w[i].be);
}

bool amst_paced(const struct amst *a)
{
	uint64_t pace = __atomic_load_n(&a->pace, __ATOMIC_RELAXED);

	return pace == AMST_HELD || (pace && __atomic_load_n(&a->pace_at, __ATOMIC_RELAXED) > clock_now(&a->cfg.clock));
}

bool amst_waits(const struct amst *a, const struct amst_tx *tx)
{
	uint64_t cursor = __atomic_load_n(&tx->cursor, __ATOMIC_RELAXED);

	if (__atomic_load_n(&a->pace, __ATOMIC_RELAXED) == AMST_HELD)
		return true;
	return amst_paced(a) && __atomic_load_n(&tx->acked, __ATOMIC_RELAXED) >= cursor;
}

static uint64_t pace_time(double bytes, uint64_t pace)
{
	return (uint64_t)(bytes * 1e9 / (double)pace);
}

bool pace_take(struct worker *w, const struct amst_tx *tx)
{
	uint64_t pace = __atomic_load_n(&w->a->pace, __ATOMIC_ACQUIRE), now, at;
	uint32_t ticket = w->last_wire ? w->last_wire : tx->chunk;

	w->ticket = 0;
	if (!pace)
		return true;
	if (pace == AMST_HELD) {
		/* What is given back of a transfer that is to stop is under way still. */
		if (__atomic_load_n(&tx->cursor, __ATOMIC_RELAXED) == TX_STOPPED)
			return true;
		w->paced = true;
		w->at = 0;
		return false;
	}
	now = clock_now(&w->a->cfg.clock);
	at = __atomic_load_n(&w->a->pace_at, __ATOMIC_RELAXED);
	do {
		if (at > now) {
			w->paced = true;
			w->at = at;
			return false;
		}
	} while (!__atomic_compare_exchange_n(&w->a->pace_at, &at,
					      max_u64(at, now - min_u64(now, PACE_SLACK)) + pace_time(ticket, pace),
					      true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	w->ticket = ticket;
	return true;
}

void pace_pay(struct worker *w, uint32_t bytes)
{
	uint64_t pace = __atomic_load_n(&w->a->pace, __ATOMIC_RELAXED), at, next;

	if (bytes)
		w->last_wire = bytes;
	if (!w->ticket || !pace || pace == AMST_HELD)
		return;
	at = __atomic_load_n(&w->a->pace_at, __ATOMIC_RELAXED);
	do {
		uint64_t less = bytes < w->ticket ? pace_time(w->ticket - bytes, pace) : 0;

		next = at - min_u64(at, less) + (bytes > w->ticket ? pace_time(bytes - w->ticket, pace) : 0);
	} while (!__atomic_compare_exchange_n(&w->a->pace_at, &at, next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	w->ticket = 0;
}

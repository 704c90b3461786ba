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

bool pace_may(struct worker *w)
{
	uint64_t pace = __atomic_load_n(&w->a->pace, __ATOMIC_ACQUIRE), at;

	if (!pace)
		return true;
	at = pace == AMST_HELD ? 0 : __atomic_load_n(&w->a->pace_at, __ATOMIC_RELAXED);
	if (pace != AMST_HELD && at <= clock_now(&w->a->cfg.clock))
		return true;
	w->paced = true;
	w->at = at;
	return false;
}

void pace_pay(struct worker *w, uint64_t bytes)
{
	uint64_t pace = __atomic_load_n(&w->a->pace, __ATOMIC_RELAXED), now, at, next;

	if (!pace || pace == AMST_HELD)
		return;
	now = clock_now(&w->a->cfg.clock);
	at = __atomic_load_n(&w->a->pace_at, __ATOMIC_RELAXED);
	do
		next = max_u64(at, now - min_u64(now, PACE_SLACK)) + (uint64_t)((double)bytes * 1e9 / (double)pace);
	while (!__atomic_compare_exchange_n(&w->a->pace_at, &at, next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

/* SPDX-License-Identifier: MIT */
/* A transfer as a whole: how many chunks it has, when it stops, and which stream takes the next one. */
#include "transport/amst_impl.h"

#include <errno.h>
#include <stdlib.h>

int amst_tx_prepare(struct amst_tx *tx, unsigned streams, struct err *e)
{
	const uint64_t most = 1ull << 40;
	uint64_t n = 0;
	int rc;

	if (!tx->chunk || !tx->passes)
		return err_set(e, -EINVAL, "a transfer needs a chunk size and at least one pass");
	tx->first = calloc(tx->n_extents + 1, sizeof *tx->first);
	if (!tx->first)
		return err_set(e, -ENOMEM, "no memory for a transfer of %llu extents: send fewer at a time",
			       (unsigned long long)tx->n_extents);
	for (uint64_t i = 0; i < tx->n_extents; i++) {
		tx->first[i] = n;
		n += div_up_u64(tx->extents[i].len, tx->chunk);
		if (n > most) {
			rc = err_set(e, -EINVAL, "the transfer has more than 2^40 chunks: use a larger --chunk-size");
			goto out;
		}
	}
	tx->first[tx->n_extents] = n;
	tx->pass_chunks = n;
	tx->total = n && tx->passes > (1ull << 61) / n ? 1ull << 61 : n * tx->passes;
	tx->cursor = tx->acked = tx->acked_bytes = tx->refused = 0;
	tx->refused_row = 0;
	tx->status = 0;
	tx->failing = tx->told = 0;
	/* A chunk is in `returned` or in one window, never in both. */
	rc = mpmc_init(&tx->returned, (uint64_t)streams * AMST_WINDOW);
	if (rc == 0)
		return 0;
	err_set(e, rc, "no memory for the ring of returned chunks of %u streams: use fewer streams", streams);
out:
	free(tx->first);
	tx->first = NULL;
	return rc;
}

void amst_tx_free(struct amst_tx *tx)
{
	free(tx->first);
	tx->first = NULL;
	mpmc_free(&tx->returned);
}

void amst_tx_stop(struct amst *a, struct amst_tx *tx)
{
	uint64_t taken = __atomic_exchange_n(&tx->cursor, TX_STOPPED, __ATOMIC_SEQ_CST);

	/* A worker that took a number before this did so below `taken`, and it counts. */
	if (taken < __atomic_load_n(&tx->total, __ATOMIC_SEQ_CST))
		__atomic_store_n(&tx->total, taken, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&tx->acked, __ATOMIC_SEQ_CST) == __atomic_load_n(&tx->total, __ATOMIC_SEQ_CST) &&
	    !__atomic_exchange_n(&tx->told, 1, __ATOMIC_SEQ_CST)) {
		a->tell_done = true;
		a->tell_id = tx->id;
	}
	for (unsigned i = 0; i < a->n; i++)
		a->cfg.ops->wake(a->w[i].be);
}

/* ---- scheduling -------------------------------------------------------------------------------- */

static bool may_pull(const struct worker *w, const struct wstream *s)
{
	(void)w;
	(void)s;
	return true;
}

static void took_nothing(struct worker *w, const struct wstream *s)
{
	(void)w;
	(void)s;
}

static bool may_rr(const struct worker *w, const struct wstream *s)
{
	/* The turn passes over streams that are not up. */
	for (uint32_t i = 0; i < w->n_streams; i++) {
		const struct wstream *t = &w->streams[(w->rr + i) % w->n_streams];

		if (t->up && !t->failing && !t->retiring)
			return t == s;
	}
	return false;
}

static void took_rr(struct worker *w, const struct wstream *s)
{
	w->rr = (uint32_t)(s - w->streams + 1) % w->n_streams;
}

static bool may_least(const struct worker *w, const struct wstream *s)
{
	for (uint32_t i = 0; i < w->n_streams; i++) {
		const struct wstream *t = &w->streams[i];

		if (t->up && !t->failing && !t->retiring && load_of(t) < load_of(s))
			return false;
	}
	return true;
}

const struct sched_ops amst_scheds[] = {
	[SCHED_PULL] = { "pull", may_pull, took_nothing },
	[SCHED_ROUND_ROBIN] = { "round_robin", may_rr, took_rr },
	[SCHED_LEAST_LOADED] = { "least_loaded", may_least, took_nothing },
};
const char *const amst_sched_names[] = { "pull", "round_robin", "least_loaded", NULL };

/* SPDX-License-Identifier: MIT */
/*
 * Many workers on one region, as in a transfer: each takes a batch, encodes, decodes at the other side and acknowledges,
 * while the others' pages are what it refers to. Some batches are lost on the way. For the thread sanitizer, and for the
 * bytes.
 */
#include "base/bitmap.h"
#include "base/util.h"
#include "kmod-free-tests/hde_fixture.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define THREADS 4u
#define PAGES 2048u
#define BYTES ((uint64_t)PAGES * HDE_PAGE)
#define BATCH 64u
#define ROUNDS 4u

struct shared {
	struct hde_enc *enc;
	struct hde_dec *dec;
	uint8_t *here, *there;
	uint64_t next, failed, refused;
};

struct worker {
	struct shared *s;
	unsigned index;
	uint8_t *payload;
	pthread_t thread;
};

static bool one(struct worker *w, const struct hde_batch *b, bool lose)
{
	ssize_t n = hde_encode(w->s->enc, w->index, b, w->payload, b->bytes + HDE_OVERHEAD);
	int rc;

	if (n <= 0)
		return false;
	if (lose)
		return true;
	rc = hde_decode(w->s->dec, w->index, 0, b->first * HDE_PAGE, b->bytes, w->payload, (size_t)n, NULL);
	if (rc < 0)
		__atomic_fetch_add(&w->s->refused, 1, __ATOMIC_RELAXED);
	else
		hde_acked(w->s->enc, w->index, b, (uint64_t)n);
	return rc == 0;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	uint64_t i;

	while ((i = __atomic_fetch_add(&w->s->next, 1, __ATOMIC_SEQ_CST)) < PAGES / BATCH) {
		struct hde_batch b = { .first = i * BATCH,
				       .n = BATCH,
				       .bytes = BATCH * HDE_PAGE,
				       .data = w->s->here + i * BATCH * HDE_PAGE };

		if (i % 7 == 3)
			one(w, &b, true);
		if (!one(w, &b, false))
			__atomic_fetch_add(&w->s->failed, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void run_round(struct shared *s, uint8_t *const *payload)
{
	struct worker w[THREADS];

	s->next = 0;
	for (unsigned i = 0; i < THREADS; i++) {
		w[i] = (struct worker){ .s = s, .index = i, .payload = payload[i] };
		assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(w[i].thread, NULL);
	assert_int_equal(s->failed, 0);
	assert_int_equal(s->refused, 0);
	assert_memory_equal(s->here, s->there, BYTES);
}

static void run(uint64_t cache, bool frozen)
{
	struct hde_dec_config d = { .workers = THREADS, .bytes = BYTES };
	struct hde_config cfg = { .workers = THREADS, .bytes = BYTES };
	struct shared s = { .here = malloc(BYTES), .there = calloc(1, BYTES) };
	uint8_t *payload[THREADS];
	struct hde_stats st;
	struct err e;

	assert_true(s.here && s.there);
	for (unsigned i = 0; i < THREADS; i++)
		assert_non_null(payload[i] = malloc(BATCH * HDE_PAGE + HDE_OVERHEAD));
	hde_content(s.here, BYTES, 21);
	hde_opts_default(&cfg.opts, HDE_DATACENTER);
	cfg.opts.cache = cache;
	cfg.frozen = frozen ? s.here : NULL;
	d.memory = s.there;
	assert_int_equal(hde_enc_open(&s.enc, &cfg, &e), 0);
	assert_int_equal(hde_dec_open(&s.dec, &d, &e), 0);
	for (uint64_t round = 0, seed = 5; round < ROUNDS; round++) {
		if (round) {
			for (unsigned i = 0; i < PAGES / 2; i++)
				s.here[rng_next(&seed) % BYTES] ^= 0x10;
			hde_round(s.enc, NULL);
		}
		run_round(&s, payload);
	}
	hde_enc_stats(s.enc, &st);
	assert_true(st.duplicate_pages > 20 && st.matched_bytes > 100000);
	assert_true(!cache || st.delta_pages > 100);
	hde_enc_close(s.enc);
	hde_dec_close(s.dec);
	for (unsigned i = 0; i < THREADS; i++)
		free(payload[i]);
	free(s.here);
	free(s.there);
}

static void test_all_cached(void **state)
{
	(void)state;
	run(BYTES, false);
}

static void test_small_cache_frozen(void **state)
{
	(void)state;
	run(300 * HDE_PAGE, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_cached),
		cmocka_unit_test(test_small_cache_frozen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

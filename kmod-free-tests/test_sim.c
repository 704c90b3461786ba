/* SPDX-License-Identifier: MIT */
/*
 * Seeded simulations of whole sessions over the mem backend: random shapes, random faults, destination memory
 * compared byte for byte after every round. DWCP_SIM_SEEDS sets how many seeds; DWCP_SIM_SEED runs one, loudly.
 *
 * check: timeout=600 no-tsan (one thread drives it all)
 */
#include "kmod-free-tests/sim.h"
#include "kmod-free-tests/sim_files.h"
#include "kmod-free-tests/store_fixture.h"
#include "transport/client_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shape {
	unsigned streams, workers_here, workers_there;
	uint64_t bytes;
	uint32_t chunk;
	enum sum_kind sum;
	enum amst_sched sched;
	bool one_sided, reverse;
	uint64_t passes;
	unsigned rounds;
	bool dance; /* streams come and go on purpose, and change how they send */
};

static struct shape pick_shape(struct sim *r)
{
	struct shape s = {
		.streams = 1 + (unsigned)sim_rand(r, sim_rand(r, 4) ? 6 : 40),
		.workers_there = 1 + (unsigned)sim_rand(r, 4),
		.bytes = 1 + sim_rand(r, sim_rand(r, 3) ? 300000 : 3000000),
		.chunk = 1u << (10 + sim_rand(r, 8)),
		.sum = (enum sum_kind)sim_rand(r, SUM_KINDS),
		.sched = (enum amst_sched)sim_rand(r, 3),
		.one_sided = sim_rand(r, 3) == 0,
		.reverse = sim_rand(r, 4) == 0,
		.passes = sim_rand(r, 3) ? 1 : 1 + sim_rand(r, 3),
		.rounds = 1 + (unsigned)sim_rand(r, 3),
		.dance = sim_rand(r, 2),
	};

	s.workers_here = 1 + (unsigned)sim_rand(r, s.streams < 4 ? s.streams : 4);
	s.chunk -= (uint32_t)(sim_rand(r, 3) ? 0 : sim_rand(r, s.chunk / 2));
	return s;
}

/* Many short rounds in which dead streams deliver late: what fencing is for. */
static void make_late(struct sim *r, struct shape *sh, struct mem_faults *f)
{
	sh->streams = 2 + (unsigned)sim_rand(r, 4);
	sh->workers_here = 1 + (unsigned)sim_rand(r, 2);
	sh->bytes = 1 + sim_rand(r, 20000);
	sh->chunk = 256u << sim_rand(r, 4);
	sh->passes = 1;
	sh->rounds = 12;
	f->path[0] = f->path[1] = (struct mem_path){ .delay_ns = sim_rand(r, NS_PER_MS) };
	f->notice_jitter_ns = 100 * NS_PER_MS;
	f->late_ppm = 1000000;
	f->drop_ppm = 20000;
}

static bool loud;

/* What a pilot and a mode may ask for, at any moment. */
static void dance(struct sim *s)
{
	static const struct be_steer ways[] = { { .congestion = "bbr" }, { .congestion = BE_CONGESTION_DEFAULT } };

	if (!s->client || !s->client->agreed || sim_rand(s, 20))
		return;
	switch (sim_rand(s, 8)) {
	case 0:
		client_renew_streams(s->client);
		break;
	case 1:
		client_steer(s->client, &ways[sim_rand(s, 2)]);
		break;
	case 2:
		amst_window(s->client->amst, sim_rand(s, 2) ? sim_rand(s, 1u << 20) : 0);
		break;
	default:
		client_set_streams(s->client, 1 + (unsigned)sim_rand(s, s->client->cfg.streams));
	}
}

static int forward(struct sim *s, const struct shape *sh, uint8_t *src, struct err *e)
{
	struct amst_extent x = { .len = sh->bytes };
	struct be_token token;
	struct msg_xfer_result r;
	uint64_t len;
	int rc = client_region_make(s->client, 1, sh->bytes, 0, &token, NULL, e);

	for (unsigned round = 0; rc == 0 && round < sh->rounds; round++) {
		struct amst_tx tx = { .chunk = sh->chunk,
				      .sum = sh->sum,
				      .passes = sh->passes,
				      .extents = &x,
				      .n_extents = 1,
				      .base = src,
				      .token = token };
		uint8_t *there;

		rng_fill(src, sh->bytes, sim_rand(s, UINT32_MAX));
		rc = client_transfer(s->client, &tx, XFER_PUT, NULL, &r, e);
		if (rc < 0)
			break;
		there = sim_region(s, 1, &len);
		assert_non_null(there);
		assert_int_equal(len, sh->bytes);
		assert_true(r.whole);
		if (memcmp(there, src, sh->bytes))
			rc = err_set(e, -EBADMSG, "round %u: the bytes differ", round);
	}
	return rc;
}

static int reverse(struct sim *s, const struct shape *sh, uint8_t *dst, struct err *e)
{
	struct be_token there, here;
	struct msg_pull_result r;
	uint64_t len;
	uint8_t *src;
	int rc = client_region_make(s->client, 1, sh->bytes, 7, &there, NULL, e);

	if (rc == 0)
		rc = client_region_offer(s->client, 2, dst, sh->bytes, &here, e);
	for (unsigned round = 0; rc == 0 && round < sh->rounds; round++) {
		src = sim_region(s, 1, &len);
		assert_non_null(src);
		rng_fill(src, sh->bytes, sim_rand(s, UINT32_MAX));
		rc = client_pull(s->client, 1, 2, here, sh->bytes, sh->bytes, sh->passes, sh->chunk, NULL, &r, e);
		if (rc == 0 && memcmp(src, dst, sh->bytes))
			rc = err_set(e, -EBADMSG, "round %u: the bytes differ", round);
	}
	return rc;
}

static int run_seed(uint64_t seed)
{
	struct sim pick = { .rng = seed * 2654435761u + 1 }, s;
	struct shape sh = pick_shape(&pick);
	struct mem_faults f = sim_faults(&pick, sh.sum != SUM_NONE && sim_rand(&pick, 2));
	struct sim_trouble trouble = sim_troubles(&pick);
	struct client_config cfg;
	struct err e = { 0 };
	uint8_t *mem;
	int rc;

	if (seed % 5 == 0)
		make_late(&pick, &sh, &f);
	mem = malloc(sh.bytes + 16);
	assert_non_null(mem);
	memset(mem + sh.bytes, 0xa5, 16);
	if (loud)
		printf("seed %llu: streams %u workers %u/%u bytes %llu chunk %u sum %d sched %d %s%s%spasses %llu rounds %u drop %u "
		       "corrupt %u short %u torn %u\n",
		       (unsigned long long)seed, sh.streams, sh.workers_here, sh.workers_there,
		       (unsigned long long)sh.bytes, sh.chunk, sh.sum, sh.sched, sh.one_sided ? "one-sided " : "",
		       sh.reverse ? "reverse " : "", sh.dance ? "dance " : "", (unsigned long long)sh.passes, sh.rounds,
		       f.drop_ppm, f.corrupt_ppm, f.short_ppm, f.torn_ppm);
	rc = sim_open(&s, sh.one_sided ? &mem_one_sided_ops : &mem_ops, NULL, seed, sh.workers_there, NULL);
	assert_int_equal(rc, 0);
	cfg = sim_client(&s);
	cfg.streams = sh.streams;
	cfg.streams_first = sh.dance ? 1 + (unsigned)sim_rand(&pick, sh.streams) : 0;
	cfg.workers = sh.workers_here;
	cfg.sched = sh.sched;
	cfg.sum = sh.sum;
	/* Until a session is agreed a lost connection is an error, as a user would expect: faults come later. */
	rc = client_open(&s.client, &cfg, NULL, &e);
	if (rc == 0) {
		*mem_fabric_faults(s.fabric) = f;
		s.trouble = trouble;
		s.step = sh.dance ? dance : NULL;
		rc = sh.reverse ? reverse(&s, &sh, mem, &e) : forward(&s, &sh, mem, &e);
	}
	if (rc == 0 && memchr(mem + sh.bytes, 0, 16))
		rc = err_set(&e, -EFAULT, "something was written behind the region");
	if (rc < 0 || loud)
		printf("seed %llu: %d %s (reconnects %llu, resumes %llu, virtual time %.3f s)\n",
		       (unsigned long long)seed, rc, e.why,
		       s.client ? (unsigned long long)client_reconnects(s.client) : 0,
		       s.client ? (unsigned long long)client_resumes(s.client) : 0, (double)s.now / 1e9);
	sim_close(&s);
	free(mem);
	return rc;
}

/* ---- files ------------------------------------------------------------------------------------- */

static void make_files(struct sim *r, struct sim_files *v, uint64_t seed)
{
	*v = (struct sim_files){ .n = 1 + (uint32_t)sim_rand(r, SIM_FILES_MAX) };
	for (uint32_t i = 0; i < v->n; i++) {
		struct sim_file *f = &v->f[i];

		snprintf(f->name, sizeof f->name, "%llu/%u", (unsigned long long)seed, i);
		f->size = sim_rand(r, 4) ? sim_rand(r, 300000) : sim_rand(r, 3);
		f->data = data_new(f->size, sim_rand(r, UINT32_MAX));
	}
}

static int send_files(struct sim *s, struct sim_files *v, uint32_t chunk, struct err *e)
{
	int rc = sim_files_open(s->client, v, false, e);

	if (rc == 0)
		rc = sim_files_send(s->client, v, chunk, SUM_XXH3, NULL, NULL, e);
	return rc < 0 ? rc : sim_files_close(s->client, v, true, e);
}

static int run_files(uint64_t seed)
{
	struct sim pick = { .rng = seed * 2654435761u + 99 }, s;
	struct mem_faults f = sim_faults(&pick, sim_rand(&pick, 2));
	struct sim_trouble trouble = sim_troubles(&pick);
	uint32_t chunk = 1u << (9 + sim_rand(&pick, 8));
	struct client_config cfg;
	struct sim_files v;
	struct err e = { 0 };
	int rc;

	make_files(&pick, &v, seed);
	assert_int_equal(sim_open(&s, &mem_ops, NULL, seed, 1 + (unsigned)sim_rand(&pick, 3), store), 0);
	cfg = sim_client(&s);
	cfg.streams = 1 + (unsigned)sim_rand(&pick, 12);
	cfg.workers = 1 + (unsigned)sim_rand(&pick, cfg.streams < 3 ? cfg.streams : 3);
	cfg.stage_chunk = chunk;
	cfg.sched = (enum amst_sched)sim_rand(&pick, 3);
	rc = client_open(&s.client, &cfg, NULL, &e);
	if (rc == 0) {
		*mem_fabric_faults(s.fabric) = f;
		s.trouble = trouble;
		rc = send_files(&s, &v, chunk, &e);
	}
	if (rc < 0 || loud)
		printf("files, seed %llu: %d %s (virtual time %.3f s)\n", (unsigned long long)seed, rc, e.why,
		       (double)s.now / 1e9);
	sim_close(&s);
	for (uint32_t i = 0; i < v.n; i++) {
		if (rc == 0)
			tree_expect(dir, v.f[i].name, v.f[i].data, v.f[i].size);
		free(v.f[i].data);
	}
	return rc;
}

static void run_all(int (*run)(uint64_t seed), uint64_t n)
{
	const char *one = getenv("DWCP_SIM_SEED"), *many = getenv("DWCP_SIM_SEEDS"), *set = getenv("TEST_SET");
	uint64_t bad = 0;

	if (set && strcmp(set, "all"))
		n /= 5; /* a sanitizer is so much slower; without one all are run */
	if (many)
		n = strtoull(many, NULL, 10);
	assert_true(n > 0);
	loud = one;
	for (uint64_t seed = one ? strtoull(one, NULL, 10) : 1; seed <= n || one; seed++) {
		bad += run(seed) < 0;
		if (one)
			break;
	}
	assert_int_equal(bad, 0);
}

static void test_regions(void **state)
{
	(void)state;
	run_all(run_seed, 3000);
}

static void test_files(void **state)
{
	(void)state;
	run_all(run_files, 500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_regions),
		cmocka_unit_test_setup_teardown(test_files, store_setup, store_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

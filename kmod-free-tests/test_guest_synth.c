/* SPDX-License-Identifier: MIT */
/* The guest's self-check notices what a migration could get wrong; its state is a peer's word. */
#include "migrate/guest_synth.h"
#include "base/hugebuf.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LEN (2u << 20)

static struct hugebuf mem;
static struct guest *g;
static struct err e;

static int make(void **state)
{
	struct synth_opts o = { .dirty_rate = 100, .working_set = 100, .threads = 3, .seed = 7, .stepped = true };

	(void)state;
	assert_int_equal(hugebuf_alloc(&mem, LEN, true, &e), 0);
	assert_int_equal(guest_synth_ops.open(&g, mem.addr, LEN, &o, &e), 0);
	guest_synth_ops.run(g, &e);
	synth_step(g, 1000);
	guest_synth_ops.pause(g, &e);
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	guest_synth_ops.close(g);
	hugebuf_free(&mem);
	return 0;
}

static void good_when_nothing_happened(void **state)
{
	struct guest_work w;

	(void)state;
	assert_int_equal(guest_synth_ops.check(g, &e), 0);
	guest_synth_ops.work(g, &w);
	assert_int_equal(w.writes, 1000);
	synth_step(g, 10); /* paused */
	guest_synth_ops.work(g, &w);
	assert_int_equal(w.writes, 1000);
}

/* Each page that one more write touches is put back as it was: exactly that write is lost. */
static void one_lost_write(void **state)
{
	uint8_t *old = malloc(LEN);
	unsigned lost = 0;

	(void)state;
	assert_non_null(old);
	for (int i = 0; i < 20; i++) {
		memcpy(old, mem.addr, LEN);
		guest_synth_ops.run(g, &e);
		synth_step(g, 1);
		guest_synth_ops.pause(g, &e);
		for (size_t p = 0; p < LEN; p += GUEST_PAGE) {
			uint8_t now[GUEST_PAGE], *at = (uint8_t *)mem.addr + p;

			if (!memcmp(at, old + p, GUEST_PAGE))
				continue;
			memcpy(now, at, GUEST_PAGE);
			memcpy(at, old + p, GUEST_PAGE);
			assert_int_equal(guest_synth_ops.check(g, &e), -EBADMSG);
			memcpy(at, now, GUEST_PAGE);
			assert_int_equal(guest_synth_ops.check(g, &e), 0);
			lost++;
		}
	}
	assert_int_equal(lost, 20);
	free(old);
}

/* A write that memory has and the registers do not know: as if it were made again from an older state. */
static void one_repeated_write(void **state)
{
	uint8_t regs[GUEST_STATE_MAX];
	struct wcur out = wcur_init(regs, sizeof regs);
	struct rcur in;
	struct guest *again;

	(void)state;
	assert_int_equal(guest_synth_ops.save(g, &out, &e), 0);
	guest_synth_ops.run(g, &e);
	synth_step(g, 1);
	guest_synth_ops.pause(g, &e);
	assert_int_equal(guest_synth_ops.open(&again, mem.addr, LEN, NULL, &e), 0);
	in = rcur_init(regs, (size_t)(out.p - regs));
	assert_int_equal(guest_synth_ops.load(again, &in, &e), 0);
	assert_int_equal(guest_synth_ops.check(again, &e), -EBADMSG);
	assert_non_null(strstr(e.why, "lost or repeated"));
	guest_synth_ops.close(again);
}

static void half_a_write(void **state)
{
	unsigned found = 0;

	(void)state;
	for (size_t p = 0; p < LEN && found < 10; p += GUEST_PAGE) {
		uint64_t *page = (uint64_t *)(void *)((uint8_t *)mem.addr + p);
		uint64_t *at = page + 8 + page[1] % ((GUEST_PAGE - 64) / 64) * 8 + 5;

		if (!page[0])
			continue;
		*at ^= 1;
		assert_int_equal(guest_synth_ops.check(g, &e), -EBADMSG);
		assert_non_null(strstr(e.why, "half a write"));
		*at ^= 1;
		found++;
	}
	assert_int_equal(found, 10);
	*((uint64_t *)mem.addr + 1) ^= 1; /* chain of page 0, written or not */
	assert_int_equal(guest_synth_ops.check(g, &e), -EBADMSG);
}

static void goes_on_elsewhere(void **state)
{
	uint8_t regs[GUEST_STATE_MAX];
	struct wcur out = wcur_init(regs, sizeof regs);
	struct hugebuf there;
	struct guest *moved;
	struct guest_work w;
	struct rcur in;

	(void)state;
	assert_int_equal(guest_synth_ops.save(g, &out, &e), 0);
	in = rcur_init(regs, (size_t)(out.p - regs));
	assert_int_equal(hugebuf_alloc(&there, LEN, true, &e), 0);
	memcpy(there.addr, mem.addr, LEN);
	assert_int_equal(guest_synth_ops.open(&moved, there.addr, LEN, NULL, &e), 0);
	assert_int_equal(guest_synth_ops.load(moved, &in, &e), 0);
	assert_false(synth_running(moved));
	/* The same writes in the same places, from exactly where it stopped. */
	guest_synth_ops.run(moved, &e);
	guest_synth_ops.run(g, &e);
	synth_step(moved, 500);
	synth_step(g, 500);
	guest_synth_ops.pause(moved, &e);
	assert_memory_equal(there.addr, mem.addr, LEN);
	assert_int_equal(guest_synth_ops.check(moved, &e), 0);
	guest_synth_ops.work(moved, &w);
	assert_int_equal(w.writes, 1500);
	guest_synth_ops.close(moved);
	hugebuf_free(&there);
}

static void hostile_state(void **state)
{
	uint8_t regs[GUEST_STATE_MAX], bad[GUEST_STATE_MAX];
	struct wcur out = wcur_init(regs, sizeof regs);
	size_t len;

	(void)state;
	assert_int_equal(guest_synth_ops.save(g, &out, &e), 0);
	len = (size_t)(out.p - regs);
	for (size_t n = 0; n <= len; n++) {
		struct rcur in = rcur_init(regs, n);
		struct guest *other;

		assert_int_equal(guest_synth_ops.open(&other, mem.addr, LEN, NULL, &e), 0);
		assert_int_equal(guest_synth_ops.load(other, &in, &e), n == len ? 0 : -EPROTO);
		guest_synth_ops.close(other);
	}
	for (size_t i = 0; i < len; i++) {
		struct rcur in = rcur_init(bad, len);
		struct guest *other;

		memcpy(bad, regs, len);
		bad[i] ^= 0xff;
		if (i == 4)
			continue; /* threads instead of steps */
		assert_int_equal(guest_synth_ops.open(&other, mem.addr, LEN, NULL, &e), 0);
		if (guest_synth_ops.load(other, &in, &e) == 0) {
			guest_synth_ops.run(other, &e);
			synth_step(other, 50); /* stays inside its memory, whatever it was told */
		}
		guest_synth_ops.close(other);
	}
}

static void real_threads(void **state)
{
	struct synth_opts o = { .dirty_rate = 5000, .working_set = 50, .threads = 2, .seed = 3 };
	struct guest *real;
	struct guest_work w = { 0 };

	(void)state;
	for (o.pattern = 0; o.pattern < SYNTH_PATTERNS; o.pattern++) {
		uint64_t was = 0;

		memset(mem.addr, 0, LEN);
		assert_int_equal(guest_synth_ops.open(&real, mem.addr, LEN, &o, &e), 0);
		for (int round = 0; round < 4; round++) {
			assert_int_equal(guest_synth_ops.run(real, &e), 0);
			guest_synth_ops.throttle(real, round == 2 ? 50 : 0);
			for (int k = 0; k < 1000 && w.writes == was; k++) {
				usleep(1000);
				guest_synth_ops.work(real, &w);
			}
			assert_int_equal(guest_synth_ops.pause(real, &e), 0);
			guest_synth_ops.work(real, &w);
			assert_true(w.writes > was);
			was = w.writes;
			assert_int_equal(guest_synth_ops.check(real, &e), 0);
		}
		w.writes = 0;
		guest_synth_ops.close(real);
	}
}

static void image_file(void **state)
{
	struct synth_opts o = { .dirty_rate = 1, .working_set = 100, .threads = 1, .stepped = true };
	const char *dir = getenv("TEST_TMP");
	uint8_t page[GUEST_PAGE + 100];
	struct guest *other;
	FILE *f;

	(void)state;
	snprintf(o.image, sizeof o.image, "%s/image.%d", dir ? dir : "/tmp", getpid());
	assert_int_equal(guest_synth_ops.open(&other, mem.addr, LEN, &o, &e), -ENOENT);
	rng_fill(page, sizeof page, 1);
	f = fopen(o.image, "we");
	assert_non_null(f);
	assert_int_equal(fwrite(page, 1, sizeof page, f), sizeof page);
	fclose(f);
	assert_int_equal(guest_synth_ops.open(&other, mem.addr, LEN, &o, &e), 0);
	assert_memory_equal((uint8_t *)mem.addr + 16, page + 16, GUEST_PAGE - 16);
	assert_memory_equal((uint8_t *)mem.addr + sizeof page, page, 1000); /* over and over */
	assert_int_equal(guest_synth_ops.check(other, &e), 0);
	guest_synth_ops.close(other);
	unlink(o.image);
	o.image[0] = 0;
	o.working_set = 0;
	assert_int_equal(guest_synth_ops.open(&other, mem.addr, LEN, &o, &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(good_when_nothing_happened, make, unmake),
		cmocka_unit_test_setup_teardown(one_lost_write, make, unmake),
		cmocka_unit_test_setup_teardown(one_repeated_write, make, unmake),
		cmocka_unit_test_setup_teardown(half_a_write, make, unmake),
		cmocka_unit_test_setup_teardown(goes_on_elsewhere, make, unmake),
		cmocka_unit_test_setup_teardown(hostile_state, make, unmake),
		cmocka_unit_test_setup_teardown(real_threads, make, unmake),
		cmocka_unit_test_setup_teardown(image_file, make, unmake),
	};

	return cmocka_run_group_tests_name("migrate/guest_synth", tests, NULL, NULL);
}

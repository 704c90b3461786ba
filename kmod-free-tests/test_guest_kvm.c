/* SPDX-License-Identifier: MIT */
/*
 * A real virtual machine: stopped anywhere it is consistent, it goes on elsewhere, and no tracker loses a write of it.
 *
 * check: no-valgrind
 */
#include "migrate/guest_kvm.h"
#include "base/bitmap.h"
#include "base/hugebuf.h"
#include "migrate/dirty.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LEN (8u << 20)
#define PAGES (LEN / GUEST_PAGE)

static struct hugebuf mem, there;
static struct guest *g;
static struct err e;

static int make_with(struct kvm_opts o)
{
	g = NULL;
	if (guest_kvm_ops.probe(&e) < 0)
		return 0;
	assert_int_equal(hugebuf_alloc(&mem, LEN, true, &e), 0);
	assert_int_equal(hugebuf_alloc(&there, LEN, true, &e), 0);
	if (guest_kvm_ops.open(&g, mem.addr, LEN, &o, &e) < 0)
		fail_msg("%s", e.why);
	return 0;
}

static int make(void **state)
{
	(void)state;
	return make_with((struct kvm_opts){ .dirty_rate = 2000, .seed = 5 });
}

static int unmake(void **state)
{
	(void)state;
	guest_kvm_ops.close(g);
	hugebuf_free(&mem);
	hugebuf_free(&there);
	return 0;
}

static void need_kvm(void)
{
	if (!g) {
		print_message("SKIP: %s\n", e.why);
		skip();
	}
}

static uint64_t writes_of(const struct guest *x)
{
	struct guest_work w;

	x->ops->work(x, &w);
	return w.writes;
}

static void run_a_while(struct guest *x)
{
	uint64_t was = writes_of(x);

	assert_int_equal(x->ops->run(x, &e), 0);
	for (int i = 0; i < 2000 && writes_of(x) < was + 100; i++)
		usleep(500);
	assert_true(writes_of(x) > was);
	assert_int_equal(x->ops->pause(x, &e), 0);
}

static void good_wherever_it_stops(void **state)
{
	(void)state;
	need_kvm();
	for (int i = 0; i < 30; i++) {
		run_a_while(g);
		if (g->ops->check(g, &e) < 0)
			fail_msg("%s", e.why);
	}
}

static void notices_a_lost_write(void **state)
{
	uint32_t *page = NULL;

	(void)state;
	need_kvm();
	run_a_while(g);
	assert_int_equal(g->ops->check(g, &e), 0);
	for (uint64_t at = 1u << 20; at < LEN && !page; at += GUEST_PAGE)
		if (*(uint32_t *)(void *)(g->mem + at))
			page = (uint32_t *)(void *)(g->mem + at);
	assert_non_null(page);
	page[0]--;
	assert_int_equal(g->ops->check(g, &e), -EBADMSG);
	page[0]++;
	page[1] ^= 4;
	assert_int_equal(g->ops->check(g, &e), -EBADMSG);
	page[1] ^= 4;
	assert_int_equal(g->ops->check(g, &e), 0);
}

static void copy_dirty(struct tracker *t)
{
	static uint64_t map[PAGES / 64];
	int64_t n;

	memset(map, 0, sizeof map);
	n = t->ops->fetch(t, 0, PAGES, map);
	assert_true(n >= 0);
	assert_int_equal(n, bitmap_count(map, PAGES));
	for (uint64_t p = 0; p < PAGES; p++)
		if (bitmap_test(map, p))
			memcpy((uint8_t *)there.addr + p * GUEST_PAGE, g->mem + p * GUEST_PAGE, GUEST_PAGE);
}

/* Anew, as the tracker wants it; false: this machine does not have it. */
static bool again_for(const struct tracker_ops *ops, uint32_t ring)
{
	struct kvm_opts o = { .dirty_rate = 2000, .seed = 5 };

	if (ops->probe(&guest_kvm_ops, &e) < 0) {
		print_message("%s: %s\n", ops->name, e.why);
		return false;
	}
	if (ops->prepare)
		ops->prepare(&o);
	if (ring)
		o.ring = ring;
	unmake(NULL);
	make_with(o);
	return true;
}

static void goes_on_elsewhere(const struct tracker_ops *ops)
{
	uint8_t regs[GUEST_STATE_MAX];
	struct wcur out = wcur_init(regs, sizeof regs);
	struct guest *moved;
	struct rcur in;
	uint64_t at;

	assert_memory_equal(there.addr, mem.addr, LEN);
	assert_int_equal(g->ops->save(g, &out, &e), 0);
	assert_int_equal(guest_kvm_ops.open(&moved, there.addr, LEN, NULL, &e), 0);
	in = rcur_init(regs, (size_t)(out.p - regs));
	if (moved->ops->load(moved, &in, &e) < 0)
		fail_msg("%s", e.why);
	at = writes_of(moved);
	run_a_while(moved);
	assert_true(writes_of(moved) > at);
	if (moved->ops->check(moved, &e) < 0)
		fail_msg("%s: %s", ops->name, e.why);
	guest_kvm_ops.close(moved);
}

/* Also with pages made clean just before they are read, as in a first round. */
static void copy_all(struct tracker *t)
{
	for (uint64_t p = 0; p < PAGES; p += 512) {
		if (t->ops->clean)
			t->ops->clean(t, p, 512);
		memcpy((uint8_t *)there.addr + p * GUEST_PAGE, g->mem + p * GUEST_PAGE, 512ull * GUEST_PAGE);
	}
}

static struct tracker_cost move_with(const struct tracker_ops *ops, unsigned pause_us)
{
	struct tracker_cost cost;
	struct tracker *t;

	assert_int_equal(g->ops->run(g, &e), 0);
	if (ops->open(&t, g, &e) < 0)
		fail_msg("%s: %s", ops->name, e.why);
	if (ops->clean)
		copy_all(t);
	for (int round = 0; round < 40; round++) {
		copy_dirty(t);
		usleep(pause_us);
	}
	assert_int_equal(g->ops->pause(g, &e), 0);
	copy_dirty(t);
	cost = t->cost;
	ops->close(t);
	goes_on_elsewhere(ops);
	return cost;
}

static void moves_with_every_tracker(void **state)
{
	(void)state;
	need_kvm();
	for (size_t i = 0; trackers[i]; i++)
		if (again_for(trackers[i], 0)) {
			move_with(trackers[i], 1000);
			move_with(trackers[i], 1000); /* opened again */
		}
}

/* The smallest ring fills up between looks: the CPU stops for that, and nothing is lost. */
static void a_full_ring(void **state)
{
	struct tracker_cost cost;

	(void)state;
	need_kvm();
	if (!again_for(&dirty_kvm_ring_ops, 1024))
		skip();
	cost = move_with(&dirty_kvm_ring_ops, 20000);
	print_message("stopped %llu times by a full ring\n", (unsigned long long)cost.faults);
	assert_true(cost.faults > 0 && cost.fault_ns > 0);
}

static void one_guest_once(void **state)
{
	(void)state;
	need_kvm();
	for (size_t i = 0; trackers[i]; i++) {
		struct tracker *t, *other;

		if (!again_for(trackers[i], 0))
			continue;
		assert_int_equal(trackers[i]->open(&t, g, &e), 0);
		assert_int_equal(trackers[i]->open(&other, g, &e), -EBUSY);
		assert_non_null(strstr(e.why, "another migration"));
		trackers[i]->close(t);
	}
}

/* The log and the ring exclude one another, and that is chosen when a guest is made. */
static void made_for_another_tracker(void **state)
{
	struct tracker *t;

	(void)state;
	need_kvm();
	assert_int_equal(dirty_kvm_ring_ops.open(&t, g, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.why, "--tracker=kvm or uffd"));
	if (!again_for(&dirty_kvm_ring_ops, 0))
		skip();
	assert_int_equal(dirty_kvm_ops.open(&t, g, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.why, "--tracker=kvm-ring"));
}

static void refuses(void **state)
{
	uint8_t regs[GUEST_STATE_MAX];
	struct wcur out = wcur_init(regs, sizeof regs);
	struct guest *other;

	(void)state;
	need_kvm();
	assert_int_equal(guest_kvm_ops.open(&other, mem.addr, 1u << 20, &(struct kvm_opts){ .dirty_rate = 1 }, &e),
			 -EINVAL);
	assert_int_equal(g->ops->save(g, &out, &e), 0);
	for (size_t n = 0; n < (size_t)(out.p - regs); n += 13) {
		struct rcur in = rcur_init(regs, n);

		assert_int_equal(guest_kvm_ops.open(&other, there.addr, LEN, NULL, &e), 0);
		assert_int_equal(other->ops->load(other, &in, &e), -EPROTO);
		guest_kvm_ops.close(other);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(good_wherever_it_stops, make, unmake),
		cmocka_unit_test_setup_teardown(notices_a_lost_write, make, unmake),
		cmocka_unit_test_setup_teardown(moves_with_every_tracker, make, unmake),
		cmocka_unit_test_setup_teardown(a_full_ring, make, unmake),
		cmocka_unit_test_setup_teardown(one_guest_once, make, unmake),
		cmocka_unit_test_setup_teardown(made_for_another_tracker, make, unmake),
		cmocka_unit_test_setup_teardown(refuses, make, unmake),
	};

	return cmocka_run_group_tests_name("migrate/guest_kvm", tests, NULL, NULL);
}

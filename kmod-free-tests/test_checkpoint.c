/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints: what comes back is what the guest was, and it goes on from there; whatever happens while one is written, what
 * was whole stays whole; whatever happens to a file, it is refused and the one before it is named.
 *
 * check: timeout=600
 */
#include "migrate/checkpoint_file.h"

#include "base/bitmap.h"
#include "base/util.h"
#include "kmod-free-tests/tree.h"
#include "migrate/guest_kvm.h"
#include "migrate/guest_synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define SMALL (1u << 20)
#define MOST 16

static char *dir;
static struct hugebuf mem;
static struct guest *g;
static struct checkpoint *c;
static struct err e;
static volatile sig_atomic_t cancel;

/* What memory was at each checkpoint. */
static uint8_t *was[MOST];
static uint64_t writes_were[MOST];
static uint32_t taken;

static int setup(void **state)
{
	(void)state;
	dir = tree_make();
	taken = 0;
	cancel = 0;
	return 0;
}

static void end_guest(void)
{
	checkpoint_close(c);
	c = NULL;
	if (g)
		g->ops->close(g);
	g = NULL;
	hugebuf_free(&mem);
}

static int teardown(void **state)
{
	(void)state;
	end_guest();
	for (size_t i = 0; i < MOST; i++) {
		free(was[i]);
		was[i] = NULL;
	}
	tree_remove(dir);
	return 0;
}

#define OK(x)                                                  \
	do {                                                   \
		int rc_ = (x);                                 \
		if (rc_ < 0)                                   \
			fail_msg("%s: %d %s", #x, rc_, e.why); \
	} while (0)

static struct checkpoint_config config(int mode, uint64_t aside)
{
	const struct tracker_ops *tracker = NULL;
	struct checkpoint_config cfg = { .guest = g, .name = "box", .dir = dir, .aside = aside, .cancel = &cancel };

	OK(tracker_choose("", g->ops, &tracker, &e));
	cfg.tracker = tracker;
	hde_opts_default(&cfg.hde, mode);
	return cfg;
}

static void begin(uint64_t bytes, bool stepped, double rate, int mode, uint64_t aside)
{
	struct synth_opts o = {
		.dirty_rate = rate, .working_set = 100, .threads = 2, .seed = 3, .stepped = stepped, .compute = false
	};
	struct checkpoint_config cfg;

	OK(hugebuf_alloc(&mem, bytes, true, &e));
	OK(guest_synth_ops.open(&g, mem.addr, bytes, &o, &e));
	OK(g->ops->run(g, &e));
	cfg = config(mode, aside);
	OK(checkpoint_open(&c, &cfg, &e));
}

static uint64_t writes_of(const struct guest *x)
{
	struct guest_work w;

	x->ops->work(x, &w);
	return w.writes;
}

/* Of a stepped guest. */
static void take(bool full, unsigned writes)
{
	struct checkpoint_result r;

	synth_step(g, writes);
	OK(checkpoint_take(c, full, &r, &e));
	assert_int_equal(r.number, ++taken);
	assert_int_equal(r.base_number, full || taken == 1 ? 0 : taken - 1);
	assert_true(synth_running(g));
	assert_int_equal(r.writes, writes_of(g));
	was[taken] = malloc(mem.len);
	assert_non_null(was[taken]);
	memcpy(was[taken], mem.addr, mem.len);
	writes_were[taken] = writes_of(g);
}

/* The checkpoint is what the guest was, and it goes on. */
static void good(uint32_t number)
{
	struct checkpoint_image im;
	struct guest *back;

	OK(checkpoint_load(dir, number, &im, &e));
	assert_int_equal(im.head.number, number);
	assert_string_equal(im.head.name, "box");
	assert_int_equal(im.mem.len, mem.len);
	assert_memory_equal(im.mem.addr, was[number], mem.len);
	OK(checkpoint_restore(&im, &back, &e));
	assert_int_equal(writes_of(back), writes_were[number]);
	OK(back->ops->check(back, &e));
	OK(back->ops->run(back, &e));
	synth_step(back, 200);
	assert_int_equal(writes_of(back), writes_were[number] + 200);
	OK(back->ops->pause(back, &e));
	OK(back->ops->check(back, &e));
	back->ops->close(back);
	checkpoint_image_free(&im);
}

static void refused(uint32_t number, int rc, const char *text)
{
	struct checkpoint_image im;

	assert_int_equal(checkpoint_load(dir, number, &im, &e), rc);
	if (!strstr(e.why, text))
		fail_msg("no \"%s\" in: %s", text, e.why);
	assert_null(im.mem.addr);
}

static const char *path_of(uint32_t number)
{
	char name[CKPT_NAME];

	ckpt_name(name, number);
	return tree_path(dir, name);
}

static uint8_t *slurp(uint32_t number, size_t *n)
{
	int fd = open(path_of(number), O_RDONLY);
	struct stat st = { 0 };
	uint8_t *p;

	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	*n = (size_t)st.st_size;
	p = malloc(*n + 1);
	assert_non_null(p);
	assert_int_equal(read(fd, p, *n), *n);
	close(fd);
	return p;
}

static void spit(uint32_t number, const uint8_t *p, size_t n)
{
	char name[CKPT_NAME];

	ckpt_name(name, number);
	tree_write(dir, name, p, n);
}

/* ---- as it should be --------------------------------------------------------------------------- */

static void comes_back(void **state)
{
	static const int modes[] = { HDE_NONE, HDE_AUTO, HDE_INTERNET };
	const unsigned steps[] = { 100, 1, 0, 3000, 50, 7 };

	(void)state;
	for (size_t m = 0; m < ARRAY_LEN(modes); m++) {
		begin(4 * SMALL, true, 1, modes[m], 8 * SMALL);
		for (size_t i = 0; i < ARRAY_LEN(steps); i++)
			take(i == 4, steps[i]);
		for (uint32_t n = 1; n <= taken; n++)
			good(n);
		assert_int_equal(tree_count(dir), ARRAY_LEN(steps));
		teardown(state);
		setup(state);
	}
}

/* More is dirty than fits aside: rounds while it runs, the rest within the pause. */
static void a_guest_that_runs(void **state)
{
	static const uint64_t aside[] = { SMALL, 32 * SMALL };
	uint64_t last = 0;

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(aside); k++) {
		begin(32 * SMALL, false, 3000, k ? HDE_NONE : HDE_DATACENTER, aside[k]);
		for (uint32_t i = 1; i <= 5; i++) {
			struct checkpoint_image im;
			struct checkpoint_result r;
			struct guest *back;

			usleep(20000);
			OK(checkpoint_take(c, i == 4, &r, &e));
			assert_true(r.writes >= last && r.pages && r.pause_ns);
			last = r.writes;
			OK(checkpoint_load(dir, 0, &im, &e));
			assert_int_equal(im.head.number, r.number);
			OK(checkpoint_restore(&im, &back, &e));
			assert_int_equal(writes_of(back), r.writes);
			OK(back->ops->check(back, &e));
			OK(back->ops->run(back, &e));
			usleep(20000);
			OK(back->ops->pause(back, &e));
			OK(back->ops->check(back, &e));
			back->ops->close(back);
			checkpoint_image_free(&im);
		}
		OK(g->ops->pause(g, &e));
		OK(g->ops->check(g, &e));
		last = 0;
		teardown(state);
		setup(state);
	}
}

static void a_virtual_machine(void **state)
{
	struct kvm_opts o = { .dirty_rate = 2000, .seed = 5 };

	(void)state;
	if (guest_kvm_ops.probe(&e) < 0) {
		print_message("SKIP: %s\n", e.why);
		skip();
	}
	for (size_t i = 0; trackers[i]; i++) {
		struct checkpoint_config cfg;

		if (trackers[i]->probe(&guest_kvm_ops, &e) < 0) {
			print_message("%s: %s\n", trackers[i]->name, e.why);
			continue;
		}
		OK(hugebuf_alloc(&mem, 8 * SMALL, true, &e));
		o.ring = 0;
		if (trackers[i]->prepare)
			trackers[i]->prepare(&o);
		OK(guest_kvm_ops.open(&g, mem.addr, mem.len, &o, &e));
		OK(g->ops->run(g, &e));
		cfg = config(HDE_NONE, 16 * SMALL);
		cfg.tracker = trackers[i];
		OK(checkpoint_open(&c, &cfg, &e));
		for (int k = 0; k < 8; k++) {
			struct checkpoint_image im;
			struct checkpoint_result r;
			struct guest *back;

			usleep(5000);
			OK(checkpoint_take(c, false, &r, &e));
			OK(checkpoint_load(dir, 0, &im, &e));
			OK(checkpoint_restore(&im, &back, &e));
			assert_true(writes_of(back) >= r.writes);
			OK(back->ops->check(back, &e));
			OK(back->ops->run(back, &e));
			usleep(5000);
			OK(back->ops->pause(back, &e));
			OK(back->ops->check(back, &e));
			back->ops->close(back);
			checkpoint_image_free(&im);
		}
		teardown(state);
		setup(state);
	}
}

static void merged(void **state)
{
	struct checkpoint_merged m;
	struct checkpoint_info *list;
	struct hde_opts hde;
	size_t n;

	(void)state;
	hde_opts_default(&hde, HDE_INTERNET);
	begin(2 * SMALL, true, 1, HDE_NONE, 4 * SMALL);
	for (unsigned i = 0; i < 6; i++)
		take(false, 150);
	OK(checkpoint_merge(dir, 3, &hde, &m, &e));
	assert_true(m.number == 3 && m.files == 3 && m.bytes && m.bytes < m.bytes_before);
	assert_int_equal(tree_count(dir), 4);
	for (uint32_t i = 3; i <= 6; i++)
		good(i);
	refused(2, -ENOENT, "cannot open");
	/* Who took them goes on upon what is there now. */
	OK(checkpoint_merge(dir, 0, &hde, &m, &e));
	assert_int_equal(tree_count(dir), 1);
	take(false, 10);
	good(6);
	good(7);
	OK(checkpoint_list(dir, &list, &n, &e));
	assert_int_equal(n, 2);
	assert_true(list[0].head.number == 6 && !list[0].head.base_number && list[0].status == 0);
	assert_true(list[1].head.number == 7 && list[1].head.base_number == 6 && list[1].status == 0);
	free(list);
	/* A full one is what it is. */
	OK(checkpoint_merge(dir, 6, &hde, &m, &e));
	assert_int_equal(m.files, 1);
	good(7);
}

/* ---- files that are not what they were --------------------------------------------------------- */

/* A sanitizer's pace is another: some of the places do there. */
static size_t step(void)
{
	const char *set = getenv("TEST_SET");

	return set && strcmp(set, "all") ? 211 : 1;
}

static void torn_at_every_byte(void **state)
{
	size_t n;
	uint8_t *file;

	(void)state;
	begin(SMALL, true, 1, HDE_INTERNET, 2 * SMALL);
	take(false, 20);
	take(false, 5);
	take(false, 1);
	file = slurp(3, &n);
	assert_true(n < 2 * GUEST_PAGE); /* each place is a chain to load */
	for (size_t at = 0; at < n; at += step()) {
		spit(3, file, at);
		refused(3, -EBADMSG, "newest before it that is whole is number 2");
		assert_non_null(strstr(e.why, "damaged at byte"));
	}
	refused(0, -EBADMSG, "--number=2");
	good(2);
	/* Too much is as bad. */
	file = realloc(file, n + 1);
	assert_non_null(file);
	file[n] = 0;
	spit(3, file, n + 1);
	refused(3, -EBADMSG, "something follows");
	spit(3, file, n);
	good(3);
	free(file);
}

static void damaged_at_every_byte(void **state)
{
	size_t n;
	uint8_t *file;

	(void)state;
	begin(SMALL, true, 1, HDE_INTERNET, 2 * SMALL);
	take(false, 20);
	take(false, 1);
	file = slurp(2, &n);
	for (size_t at = 0; at < n; at += step()) {
		struct checkpoint_image im;
		int rc;

		file[at] ^= (uint8_t)(1u << at % 8);
		spit(2, file, n);
		rc = checkpoint_load(dir, 2, &im, &e);
		assert_true(rc == -EBADMSG || rc == -EPROTO);
		file[at] ^= (uint8_t)(1u << at % 8);
	}
	spit(2, file, n);
	good(2);
	free(file);
	/* The base is checked, too. */
	file = slurp(1, &n);
	file[n / 2] ^= 1;
	spit(1, file, n);
	refused(0, -EBADMSG, "none before it is whole");
	free(file);
}

static void set_crc(uint8_t *head)
{
	uint32_t crc = htole32(crc32c(head, CKPT_HEAD - 4));

	memcpy(head + CKPT_HEAD - 4, &crc, 4);
}

static void other_heads(void **state)
{
	struct checkpoint_info *list;
	uint8_t *file, *head;
	size_t n;

	(void)state;
	begin(SMALL, true, 1, HDE_NONE, 2 * SMALL);
	take(false, 20);
	take(false, 2);
	file = slurp(2, &n);
	head = malloc(n + 1);
	assert_non_null(head);
#define CHANGED(at, v)                    \
	memcpy(head, file, n);            \
	head[at] = (uint8_t)(head[at] v); \
	set_crc(head);                    \
	spit(2, head, n)
	CHANGED(8, +1);
	refused(2, -EPROTO, "another version");
	CHANGED(13, +16);
	refused(2, -EINVAL, "pages of another size");
	CHANGED(56, +1); /* memory, not whole pages */
	refused(2, -EINVAL, "impossible size");
	CHANGED(62, +1); /* 2^48 more */
	refused(2, -EINVAL, "impossible size");
	CHANGED(58, +16); /* twice the memory: not the base's guest */
	refused(2, -EBADMSG, "builds on another");
	CHANGED(40, +1);
	refused(2, -EBADMSG, "builds on another");
	CHANGED(20, +1); /* builds on itself */
	refused(2, -EBADMSG, "numbers cannot be");
	CHANGED(16, +1);
	refused(2, -EBADMSG, "it was renamed");
	CHANGED(24, +1); /* another id: the sums of the blocks do not fit it */
	refused(2, -EBADMSG, "do not belong together");
	spit(2, file, n);
	good(2);
	assert_int_equal(rename(path_of(1), tree_path(dir, "away")), 0);
	refused(2, -ENOENT, "which is not there: bring it back");
	OK(checkpoint_list(dir, &list, &n, &e));
	assert_true(n == 1 && list[0].readable && list[0].status == -ENOENT);
	free(list);
	free(file);
	free(head);
}

static void nothing_there(void **state)
{
	struct checkpoint_config cfg;
	struct checkpoint *other = NULL;

	(void)state;
	refused(0, -ENOENT, "there are no checkpoints in");
	begin(SMALL, true, 1, HDE_NONE, 2 * SMALL);
	cfg = config(HDE_NONE, SMALL);
	cfg.dir = "/nonexistent";
	checkpoint_close(c);
	c = NULL;
	assert_int_equal(checkpoint_open(&other, &cfg, &e), -ENOENT);
	cfg.dir = "/proc/self/status";
	assert_int_equal(checkpoint_open(&other, &cfg, &e), -ENOTDIR);
	assert_null(other);
}

static int not_allowed(void *ctx)
{
	struct checkpoint_result r;

	(void)ctx;
	return checkpoint_take(c, false, &r, &e) == -EACCES && strstr(e.why, "choose another directory") ? 0 : 1;
}

static void not_writable(void **state)
{
	(void)state;
	begin(SMALL, true, 1, HDE_NONE, 2 * SMALL);
	assert_int_equal(chmod(dir, 0555), 0);
	assert_int_equal(tree_fork(not_allowed, NULL, dir, 65534), 0);
	assert_int_equal(chmod(dir, 0755), 0);
	take(false, 3);
	good(1);
}

/* ---- while one is written ---------------------------------------------------------------------- */

static void limit(rlim_t bytes)
{
	struct rlimit l;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &l), 0);
	l.rlim_cur = bytes;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &l), 0);
}

/* The disk is full after any number of bytes. */
static void no_room(void **state)
{
	struct checkpoint_result r;
	struct checkpoint_merged m;
	struct hde_opts hde;
	struct stat st;

	(void)state;
	hde_opts_default(&hde, HDE_NONE);
	begin(SMALL, true, 1, HDE_NONE, 2 * SMALL);
	take(false, 20);
	take(false, 2);
	assert_int_equal(stat(path_of(2), &st), 0);
	signal(SIGXFSZ, SIG_IGN);
	for (off_t room = 0; room < st.st_size; room += 61) {
		synth_step(g, 3);
		limit((rlim_t)room);
		assert_int_equal(checkpoint_take(c, false, &r, &e), -EFBIG);
		limit(RLIM_INFINITY);
		assert_non_null(strstr(e.why, "make room"));
		assert_true(synth_running(g));
		assert_int_equal(tree_count(dir), 2);
	}
	for (off_t room = 0; room < st.st_size; room += 997) {
		limit((rlim_t)room);
		assert_int_equal(checkpoint_merge(dir, 0, &hde, &m, &e), -EFBIG);
		limit(RLIM_INFINITY);
		assert_int_equal(tree_count(dir), 2);
	}
	good(1);
	good(2);
	/* What those would have held is in the next one. */
	take(false, 1);
	good(3);
}

static void given_up(void **state)
{
	struct checkpoint_result r;

	(void)state;
	begin(SMALL, true, 1, HDE_NONE, 2 * SMALL);
	take(false, 20);
	synth_step(g, 9);
	cancel = 1;
	assert_int_equal(checkpoint_take(c, false, &r, &e), -EINTR);
	cancel = 0;
	assert_true(synth_running(g));
	assert_int_equal(tree_count(dir), 1);
	take(false, 1);
	good(2);
}

/* A writer died; files of others stay. */
static void after_a_death(void **state)
{
	(void)state;
	tree_write(dir, ".00000001.ckpt.part", "x", 1);
	tree_write(dir, ".00000099.ckpt.part", "x", 1);
	tree_write(dir, "notes.txt", "x", 1);
	tree_write(dir, "0000001.ckpt", "x", 1);
	begin(SMALL, true, 1, HDE_NONE, 2 * SMALL);
	take(false, 20);
	assert_int_equal(tree_count(dir), 3);
	good(1);
}

static void two_guests(void **state)
{
	struct checkpoint_config cfg;
	struct checkpoint_result r;
	struct checkpoint *other;
	struct hugebuf mem2;
	struct guest *g2;

	(void)state;
	begin(SMALL, true, 1, HDE_NONE, 2 * SMALL);
	take(false, 5);
	cfg = config(HDE_NONE, SMALL);
	assert_int_equal(checkpoint_open(&other, &cfg, &e), -EBUSY);
	OK(hugebuf_alloc(&mem2, SMALL, true, &e));
	OK(guest_synth_ops.open(&g2, mem2.addr, SMALL,
				&(struct synth_opts){ .working_set = 100, .threads = 1, .stepped = true }, &e));
	OK(g2->ops->run(g2, &e));
	cfg.guest = g2;
	OK(checkpoint_open(&other, &cfg, &e));
	OK(checkpoint_take(other, false, &r, &e));
	assert_true(r.number == 2 && !r.base_number);
	assert_int_equal(checkpoint_take(c, false, &r, &e), -EBUSY);
	assert_non_null(strstr(e.why, "a directory of its own"));
	OK(checkpoint_take(other, false, &r, &e));
	assert_true(r.number == 3 && r.base_number == 2);
	good(1);
	checkpoint_close(other);
	g2->ops->close(g2);
	hugebuf_free(&mem2);
}

/* A guest that stops by itself, a tracker that fails: the checkpoint is not taken, nothing is lost. */
static int64_t (*real_fetch)(struct tracker *t, uint64_t first, uint64_t n, uint64_t *map);
static int fail_fetch;

static int no_save(struct guest *x, struct wcur *out, struct err *err)
{
	(void)x;
	(void)out;
	return err_set(err, -EIO, "injected");
}

static int64_t some_fetch(struct tracker *t, uint64_t first, uint64_t n, uint64_t *map)
{
	return --fail_fetch == 0 ? -EIO : real_fetch(t, first, n, map);
}

static void guest_or_tracker_fails(void **state)
{
	static struct guest_ops bad_guest;
	static struct tracker_ops bad_tracker;
	struct checkpoint_config cfg;
	struct checkpoint_result r;

	(void)state;
	begin(SMALL, true, 1, HDE_NONE, 2 * SMALL);
	checkpoint_close(c);
	cfg = config(HDE_NONE, 2 * SMALL);
	bad_tracker = *cfg.tracker;
	real_fetch = bad_tracker.fetch;
	bad_tracker.fetch = some_fetch;
	cfg.tracker = &bad_tracker;
	fail_fetch = 0;
	OK(checkpoint_open(&c, &cfg, &e));
	take(false, 20);
	for (int i = 1; i <= 2; i++) {
		synth_step(g, 5);
		fail_fetch = i;
		assert_int_equal(checkpoint_take(c, false, &r, &e), -EIO);
		assert_true(synth_running(g));
		assert_int_equal(tree_count(dir), taken);
		fail_fetch = 0;
		take(false, 3);
		good(taken);
	}
	bad_guest = guest_synth_ops;
	bad_guest.save = no_save;
	g->ops = &bad_guest;
	synth_step(g, 5);
	assert_int_equal(checkpoint_take(c, false, &r, &e), -EIO);
	assert_true(synth_running(g));
	g->ops = &guest_synth_ops;
	assert_int_equal(tree_count(dir), taken);
	take(false, 1);
	good(taken);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(comes_back),         T(a_guest_that_runs),
		T(a_virtual_machine),  T(merged),
		T(torn_at_every_byte), T(damaged_at_every_byte),
		T(other_heads),        T(nothing_there),
		T(not_writable),       T(no_room),
		T(given_up),           T(after_a_death),
		T(two_guests),         T(guest_or_tracker_fails),
	};

	return cmocka_run_group_tests_name("migrate/checkpoint", tests, NULL, NULL);
}

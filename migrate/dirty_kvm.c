/* SPDX-License-Identifier: MIT */
/*
 * KVM's dirty log with manual protection: GET reads the bits of the whole slot and leaves them, CLEAR clears and protects
 * the pages of a range, in units of 64 (Documentation/virt/kvm/api.rst, 4.117). The log begins with every bit set, so that
 * starting it protects nothing.
 */
#include "migrate/dirty.h"

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/util.h"
#include "migrate/guest_kvm.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct kvm_tracker {
	struct tracker t;
	uint64_t *log;  /* what GET said last */
	uint64_t *ones; /* a bitmap in which every page is set */
};

static int kvm_track_probe(const struct guest_ops *kind, struct err *e)
{
	const uint64_t need = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
	int fd, have;

	if (kind && kind != &guest_kvm_ops)
		return err_set(e, -EOPNOTSUPP, "KVM's dirty log is for kvm guests: use --tracker=uffd");
	fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_set(e, -errno, "/dev/kvm: %s", strerror(errno));
	have = ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	close(fd);
	if (have < 0 || ((uint64_t)have & need) != need)
		return err_set(e, -EOPNOTSUPP,
			       "this kernel's KVM has no manual dirty log protection (Linux 5.7): use "
			       "--tracker=uffd");
	return 0;
}

static void kvm_track_close(struct tracker *tracker)
{
	struct kvm_tracker *t = (struct kvm_tracker *)tracker;

	if (!t)
		return;
	kvm_guest_log(t->t.guest, false, NULL);
	free(t->log);
	free(t->ones);
	free(t);
}

static int kvm_track_open(struct tracker **out, struct guest *g, struct err *e)
{
	size_t words = bitmap_words(guest_pages(g));
	struct kvm_tracker *t;
	int rc;

	if (g->ops != &guest_kvm_ops)
		return err_set(e, -EOPNOTSUPP, "KVM's dirty log is for kvm guests: use --tracker=uffd");
	if (kvm_guest_ring(g))
		return err_set(e, -EOPNOTSUPP,
			       "this guest was made with KVM's dirty ring, which excludes the dirty log: use "
			       "--tracker=kvm-ring or uffd");
	t = calloc(1, sizeof *t);
	if (t) {
		t->log = calloc(words, sizeof *t->log);
		t->ones = calloc(words, sizeof *t->ones);
	}
	if (!t || !t->log || !t->ones) {
		rc = err_set(e, -ENOMEM, "no memory for a tracker");
		goto out;
	}
	bitmap_set_run(t->ones, 0, guest_pages(g));
	t->t.ops = &dirty_kvm_ops;
	t->t.guest = g;
	rc = kvm_guest_log(g, true, e);
	if (rc == 0) {
		*out = &t->t;
		return 0;
	}
out:
	if (t) {
		free(t->log);
		free(t->ones);
	}
	free(t);
	return rc;
}

/* bits: of the pages from `first` on, which is a multiple of 64. */
static int clear(struct kvm_tracker *t, uint64_t first, uint64_t n, uint64_t *bits)
{
	struct kvm_clear_dirty_log c = { .num_pages = (uint32_t)n, .first_page = first, .dirty_bitmap = bits };

	return ioctl(kvm_guest_fd(t->t.guest), KVM_CLEAR_DIRTY_LOG, &c) < 0 ? -errno : 0;
}

/* Whole words: KVM clears nothing smaller. What lies outside what was asked for stays set. */
static int64_t kvm_fetch(struct tracker *tracker, uint64_t first, uint64_t n, uint64_t *map)
{
	struct kvm_tracker *t = (struct kvm_tracker *)tracker;
	struct kvm_dirty_log log = { .dirty_bitmap = t->log };
	uint64_t began = clock_now(&clock_mono), end = first + n, pages = 0, at = first, run;
	uint64_t from = first / 64 * 64, to = min_u64((end + 63) / 64 * 64, guest_pages(tracker->guest));
	int rc;

	if (ioctl(kvm_guest_fd(tracker->guest), KVM_GET_DIRTY_LOG, &log) < 0)
		return -errno;
	for (uint64_t p = from; p < first; p++)
		t->log[p / 64] &= ~(1ull << p % 64);
	for (uint64_t p = end; p < to; p++)
		t->log[p / 64] &= ~(1ull << p % 64);
	while ((at = bitmap_next_run(t->log, end, at, &run)) < end) {
		bitmap_set_run(map, at, run);
		pages += run;
		at += run;
	}
	rc = clear(t, from, to - from, t->log + from / 64);
	tracker_spent(tracker, began, pages);
	return rc < 0 ? rc : (int64_t)pages;
}

static void kvm_clean(struct tracker *tracker, uint64_t first, uint64_t n)
{
	struct kvm_tracker *t = (struct kvm_tracker *)tracker;
	uint64_t began = clock_now(&clock_mono), end = first + n, pages = guest_pages(tracker->guest);
	uint64_t from = (first + 63) / 64 * 64, to = end == pages ? end : end / 64 * 64;

	if (from >= to)
		return;
	clear(t, from, to - from, t->ones + from / 64);
	tracker_spent(tracker, began, to - from);
}

const struct tracker_ops dirty_kvm_ops = {
	.name = "kvm",
	.help = "KVM's dirty log with manual protection",
	.probe = kvm_track_probe,
	.open = kvm_track_open,
	.close = kvm_track_close,
	.fetch = kvm_fetch,
	.clean = kvm_clean,
};

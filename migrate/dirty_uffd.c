/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd write protection, asynchronous: the kernel lets the first write to a protected page through and remembers
 * it in the page table; PAGEMAP_SCAN reports such pages as runs and protects them again in one step.
 * Linux 6.7 (UFFD_FEATURE_WP_ASYNC, PAGEMAP_SCAN; Documentation/admin-guide/mm/pagemap.rst). Older kernel headers lack
 * the definitions, which are ABI.
 */
#include "migrate/dirty.h"

#include "base/bitmap.h"
#include "base/clock.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

struct scan_region {
	uint64_t start, end, categories;
};

struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN _IOWR('f', 16, struct scan_arg)
#define SCAN_IS_WRITTEN (1ull << 1)
#define SCAN_WP_MATCHING (1ull << 0)
#define SCAN_CHECK_WPASYNC (1ull << 1)

#define RUNS 512 /* of one system call */

struct uffd_tracker {
	struct tracker t;
	int fd, pagemap;
};

static int open_uffd(struct err *e)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY), rc;

	if (fd < 0) {
		rc = -errno;
		return err_set(e, rc, "userfaultfd is not available (%s): %s", strerror(-rc),
			       rc == -EPERM ? "set sysctl vm.unprivileged_userfaultfd=1, or be root"
					    : "use --tracker=sigsegv");
	}
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		close(fd);
		return err_set(
			e, -EOPNOTSUPP,
			"this kernel's userfaultfd cannot track writes by itself (that came with Linux 6.7): use "
			"--tracker=sigsegv");
	}
	return fd;
}

static int uffd_probe(const struct guest_ops *kind, struct err *e)
{
	int fd = open_uffd(e);

	(void)kind;
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static void uffd_close(struct tracker *tracker)
{
	struct uffd_tracker *t = (struct uffd_tracker *)tracker;

	if (!t)
		return;
	/* Closing it lifts every protection. */
	if (t->fd >= 0)
		close(t->fd);
	if (t->pagemap >= 0)
		close(t->pagemap);
	free(t);
}

static int uffd_open(struct tracker **out, struct guest *g, struct err *e)
{
	struct uffd_tracker *t = calloc(1, sizeof *t);
	struct uffdio_register reg = { .range = { .start = (uintptr_t)g->mem, .len = g->len },
				       .mode = UFFDIO_REGISTER_MODE_WP };
	int rc;

	if (!t)
		return err_set(e, -ENOMEM, "no memory for a tracker");
	t->t.ops = &dirty_uffd_ops;
	t->t.guest = g;
	t->pagemap = -1;
	t->fd = rc = open_uffd(e);
	if (rc < 0)
		goto out;
	t->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (t->pagemap < 0) {
		rc = err_set(e, -errno, "cannot open /proc/self/pagemap: %s; use --tracker=sigsegv", strerror(errno));
		goto out;
	}
	if (ioctl(t->fd, UFFDIO_REGISTER, &reg) < 0) {
		rc = -errno;
		err_set(e, rc, "the guest's memory cannot be tracked by userfaultfd: %s; %s", strerror(-rc),
			rc == -EBUSY ? "it is tracked already, by another migration of the same guest"
				     : "use --tracker=sigsegv");
		goto out;
	}
	*out = &t->t;
	return 0;
out:
	uffd_close(&t->t);
	return rc;
}

/* map NULL: only makes clean. */
static int64_t scan(struct uffd_tracker *t, uint64_t first, uint64_t n, uint64_t *map)
{
	uint64_t base = (uintptr_t)t->t.guest->mem, began = clock_now(&clock_mono), pages = 0;
	struct scan_region runs[RUNS] = { 0 };
	struct scan_arg a = {
		.size = sizeof a,
		.flags = SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC,
		.start = base + first * GUEST_PAGE,
		.end = base + (first + n) * GUEST_PAGE,
		.vec = (uintptr_t)runs,
		.vec_len = RUNS,
		.category_mask = SCAN_IS_WRITTEN,
		.return_mask = SCAN_IS_WRITTEN,
	};

	while (a.start < a.end) {
		int got = ioctl(t->pagemap, SCAN, &a);

		if (got < 0 && errno != EINTR)
			return -errno;
		/* What was made clean before an interruption must be reported all the same: the kernel writes runs out
		 * before it looks for signals, and says in walk_end how far it came. */
		for (int i = 0; i < got; i++) {
			uint64_t at = (runs[i].start - base) / GUEST_PAGE;
			uint64_t k = (runs[i].end - runs[i].start) / GUEST_PAGE;

			pages += k;
			if (map)
				bitmap_set_run(map, at, k);
		}
		if (got >= 0)
			a.start = a.walk_end;
	}
	tracker_spent(&t->t, began, pages);
	return (int64_t)pages;
}

static int64_t uffd_fetch(struct tracker *t, uint64_t first, uint64_t n, uint64_t *map)
{
	return scan((struct uffd_tracker *)t, first, n, map);
}

static void uffd_clean(struct tracker *t, uint64_t first, uint64_t n)
{
	scan((struct uffd_tracker *)t, first, n, NULL);
}

const struct tracker_ops dirty_uffd_ops = {
	.name = "uffd",
	.help = "userfaultfd write protection with PAGEMAP_SCAN (Linux 6.7)",
	.probe = uffd_probe,
	.open = uffd_open,
	.close = uffd_close,
	.fetch = uffd_fetch,
	.clean = uffd_clean,
};

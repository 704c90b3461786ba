/* SPDX-License-Identifier: MIT */
#include "migrate/late.h"

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/thread.h"
#include "base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) /* Linux 6.1 */
#endif

#define EVENTS 16 /* of one read */

struct fault {
	uint32_t page;
	bool told;
	uint64_t since;
};

struct late {
	uint8_t *mem;
	uint64_t pages, missing_first;
	uint64_t *have;  /* the caller's */
	uint64_t *asked; /* bit: somebody waited for it, or waits */
	bool manual;
	int fd, stop;
	pthread_t thread;
	bool started, released;

	cacheline_aligned uint64_t missing; /* atomic */
	pthread_mutex_t mu;
	pthread_cond_t news, room;
	struct fault fault[LATE_FAULTS_MAX];
	unsigned n;
	uint64_t faults, asked_pages;
	struct hist waits;
};

/* ---- userfaultfd ------------------------------------------------------------------------------- */

static int new_uffd(bool kernel)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), dev;

	if (fd >= 0)
		return fd;
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
		if (fd >= 0)
			return fd;
	}
	if (kernel)
		return -EPERM;
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	return fd < 0 ? -errno : fd;
}

static int open_uffd(const struct guest_ops *kind, struct err *e)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = new_uffd(kind->kernel);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0)
		return fd;
	if (fd >= 0) {
		close(fd);
		fd = -EOPNOTSUPP;
	}
	return err_set(e, fd,
		       "pages of a running guest cannot be waited for here (userfaultfd: %s): %s, or use "
		       "--policy=precopy",
		       strerror(-fd),
		       fd == -EPERM ? "set sysctl vm.unprivileged_userfaultfd=1, or run as root at the destination"
				    : "a kernel with CONFIG_USERFAULTFD is needed at the destination");
}

int late_probe(const struct guest_ops *kind, struct err *e)
{
	int fd = open_uffd(kind, e);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static uint64_t address(const struct late *l, uint64_t page)
{
	return (uintptr_t)l->mem + page * GUEST_PAGE;
}

/* One system call's worth of up to n pages from the first. How many came, 0: the first is there already; -errno. */
static int64_t put_some(struct late *l, uint64_t first, uint64_t n, const uint8_t *contents)
{
	struct uffdio_copy copy = { .dst = address(l, first), .src = (uintptr_t)contents, .len = n * GUEST_PAGE };
	struct uffdio_zeropage zero = { .range = { .start = address(l, first), .len = n * GUEST_PAGE } };
	int rc = contents ? ioctl(l->fd, UFFDIO_COPY, &copy) : ioctl(l->fd, UFFDIO_ZEROPAGE, &zero);
	int64_t done = contents ? copy.copy : zero.zeropage;

	if (done > 0) /* all of it, or as far as it came */
		return done / GUEST_PAGE;
	if (rc < 0 && done == 0) /* refused before it began */
		done = -errno;
	return done == -EEXIST ? 0 : done;
}

static void wake(struct late *l, uint64_t page)
{
	struct uffdio_range r = { .start = address(l, page), .len = GUEST_PAGE };

	ioctl(l->fd, UFFDIO_WAKE, &r);
}

/* ---- faults ------------------------------------------------------------------------------------ */

/* Under mu. */
static void settle(struct late *l, uint64_t page)
{
	for (unsigned i = 0; i < l->n; i++)
		if (l->fault[i].page == page) {
			hist_add(&l->waits, clock_now(&clock_mono) - l->fault[i].since);
			l->fault[i] = l->fault[--l->n];
			pthread_cond_signal(&l->room);
			return;
		}
}

/* Under mu; there is room. */
static void note_fault(struct late *l, uint64_t page, uint64_t now)
{
	l->faults++;
	for (unsigned i = 0; i < l->n; i++)
		if (l->fault[i].page == page)
			return;
	l->fault[l->n++] = (struct fault){ .page = (uint32_t)page, .since = now };
	l->asked_pages += bitmap_set(l->asked, page);
	/* Placed meanwhile by somebody who did not see that it is asked for? */
	if (bitmap_test(l->have, page))
		settle(l, page);
	else
		pthread_cond_signal(&l->news);
}

static void on_fault(struct late *l, uint64_t page, uint64_t now)
{
	/* `have` comes after the page itself: one that is marked and missing is a page of zeros that was never touched. */
	if (bitmap_test(l->have, page)) {
		if (put_some(l, page, 1, NULL) <= 0)
			wake(l, page);
		return;
	}
	pthread_mutex_lock(&l->mu);
	while (l->n == LATE_FAULTS_MAX && !l->released)
		pthread_cond_wait(&l->room, &l->mu);
	if (!l->released)
		note_fault(l, page, now);
	pthread_mutex_unlock(&l->mu);
}

static void *fault_main(void *arg)
{
	struct late *l = arg;
	struct pollfd fds[2] = { { .fd = l->fd, .events = POLLIN }, { .fd = l->stop, .events = POLLIN } };
	struct uffd_msg m[EVENTS];

	for (;;) {
		ssize_t n;

		poll(fds, 2, -1);
		if (fds[1].revents)
			return NULL;
		n = read(l->fd, m, sizeof m);
		for (ssize_t i = 0; i < n / (ssize_t)sizeof m[0]; i++) {
			uint64_t at = m[i].arg.pagefault.address - (uintptr_t)l->mem;

			if (m[i].event == UFFD_EVENT_PAGEFAULT && at / GUEST_PAGE < l->pages)
				on_fault(l, at / GUEST_PAGE, clock_now(&clock_mono));
		}
	}
}

static void unregister(struct late *l)
{
	struct uffdio_range r = { .start = address(l, 0), .len = l->pages * GUEST_PAGE };

	if (l->fd >= 0)
		ioctl(l->fd, UFFDIO_UNREGISTER, &r);
}

/* ---- pages ------------------------------------------------------------------------------------- */

static void mark(struct late *l, uint64_t page)
{
	bool first = bitmap_set(l->have, page);

	if (bitmap_test(l->asked, page)) {
		pthread_mutex_lock(&l->mu);
		settle(l, page);
		pthread_mutex_unlock(&l->mu);
	}
	if (!first || __atomic_sub_fetch(&l->missing, 1, __ATOMIC_ACQ_REL))
		return;
	unregister(l);
	pthread_mutex_lock(&l->mu);
	pthread_cond_broadcast(&l->news);
	pthread_mutex_unlock(&l->mu);
}

static int place_manual(struct late *l, uint64_t page, const uint8_t *contents)
{
	if (bitmap_test(l->have, page))
		return 0;
	if (contents)
		memcpy(l->mem + page * GUEST_PAGE, contents, GUEST_PAGE);
	else
		memset(l->mem + page * GUEST_PAGE, 0, GUEST_PAGE);
	mark(l, page);
	return 0;
}

int late_place(struct late *l, uint64_t first, uint64_t n, const uint8_t *contents)
{
	while (n) {
		int64_t got = 1;

		if (l->manual)
			place_manual(l, first, contents);
		else if (!bitmap_test(l->have, first))
			got = put_some(l, first, n, contents);
		if (got == -EAGAIN)
			continue;
		/* Whole meanwhile, and so no longer registered? */
		if (got < 0 && !bitmap_test(l->have, first))
			return (int)got;
		got = got > 0 ? got : 1;
		n -= (uint64_t)got;
		contents = contents ? contents + got * GUEST_PAGE : NULL;
		for (; got; got--)
			mark(l, first++);
	}
	return 0;
}

void late_discard(void *mem, uint64_t first, uint64_t n, bool manual)
{
	uint8_t *at = (uint8_t *)mem + first * GUEST_PAGE;

	/* What cannot be given back is at least not the old contents; it can, in all memory that late_open takes. */
	if (manual || madvise(at, n * GUEST_PAGE, MADV_DONTNEED) < 0)
		memset(at, 0, n * GUEST_PAGE);
}

/* ---- who waits --------------------------------------------------------------------------------- */

static unsigned untold(struct late *l, uint32_t *out, unsigned max)
{
	unsigned got = 0;

	for (unsigned i = 0; i < l->n && got < max; i++)
		if (!l->fault[i].told) {
			l->fault[i].told = true;
			out[got++] = l->fault[i].page;
		}
	return got;
}

unsigned late_wait(struct late *l, uint32_t *out, unsigned max, uint64_t wait_ns)
{
	uint64_t until = clock_now(&clock_mono) + wait_ns;
	struct timespec at = { .tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S) };
	unsigned n;

	pthread_mutex_lock(&l->mu);
	while (!(n = untold(l, out, max)) && wait_ns && late_missing(l) && !l->released)
		if (pthread_cond_timedwait(&l->news, &l->mu, &at) == ETIMEDOUT)
			wait_ns = 0;
	pthread_mutex_unlock(&l->mu);
	return n;
}

void late_again(struct late *l)
{
	pthread_mutex_lock(&l->mu);
	for (unsigned i = 0; i < l->n; i++)
		l->fault[i].told = false;
	pthread_mutex_unlock(&l->mu);
}

bool late_touch(struct late *l, uint64_t page)
{
	if (bitmap_test(l->have, page))
		return true;
	pthread_mutex_lock(&l->mu);
	if (l->n < LATE_FAULTS_MAX)
		note_fault(l, page, clock_now(&clock_mono));
	pthread_mutex_unlock(&l->mu);
	return false;
}

uint64_t late_missing(const struct late *l)
{
	return __atomic_load_n(&l->missing, __ATOMIC_ACQUIRE);
}

void late_stats(struct late *l, struct late_stats *out)
{
	pthread_mutex_lock(&l->mu);
	*out = (struct late_stats){
		.missing_first = l->missing_first,
		.missing = late_missing(l),
		.faults = l->faults,
		.pages = l->asked_pages,
		.p50_ns = hist_quantile(&l->waits, 0.5),
		.p95_ns = hist_quantile(&l->waits, 0.95),
		.p99_ns = hist_quantile(&l->waits, 0.99),
		.max_ns = l->waits.max,
	};
	pthread_mutex_unlock(&l->mu);
}

/* ---- open and close ---------------------------------------------------------------------------- */

static int watch(struct late *l, const struct guest_ops *kind, struct err *e)
{
	struct uffdio_register reg = { .range = { .start = address(l, 0), .len = l->pages * GUEST_PAGE },
				       .mode = UFFDIO_REGISTER_MODE_MISSING };
	int rc;

	l->fd = rc = open_uffd(kind, e);
	if (rc < 0)
		return rc;
	l->stop = eventfd(0, EFD_CLOEXEC);
	if (l->stop < 0 || ioctl(l->fd, UFFDIO_REGISTER, &reg) < 0)
		return err_set(e, -errno, "the guest's memory cannot be watched (%s): use --policy=precopy",
			       strerror(errno));
	rc = thread_start(&l->thread, "dwcp-faults", fault_main, l);
	l->started = rc == 0;
	return rc < 0 ? err_set(e, rc, "cannot start a thread: %s; raise ulimit -u", strerror(-rc)) : 0;
}

int late_open(struct late **out, const struct guest_ops *kind, void *mem, uint64_t pages, uint64_t *have, bool manual,
	      struct err *e)
{
	struct late *l = aligned_alloc(CACHE_LINE, (sizeof *l + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	pthread_condattr_t mono;
	int rc = 0;

	if (!l)
		return err_set(e, -ENOMEM, "no memory to wait for pages");
	memset(l, 0, sizeof *l);
	l->mem = mem;
	l->pages = pages;
	l->have = have;
	l->manual = manual;
	l->fd = l->stop = -1;
	l->missing = l->missing_first = pages - bitmap_count(have, pages);
	pthread_mutex_init(&l->mu, NULL);
	pthread_condattr_init(&mono);
	pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
	pthread_cond_init(&l->news, &mono);
	pthread_cond_init(&l->room, &mono);
	pthread_condattr_destroy(&mono);
	l->asked = calloc(bitmap_words(pages), sizeof *l->asked);
	if (!l->asked)
		rc = err_set(e, -ENOMEM, "no memory to wait for %llu pages", (unsigned long long)pages);
	if (rc == 0 && !manual)
		rc = watch(l, kind, e);
	if (rc < 0)
		late_close(l);
	else
		*out = l;
	return rc;
}

void late_release(struct late *l)
{
	const uint64_t one = 1;

	pthread_mutex_lock(&l->mu);
	l->released = true;
	pthread_cond_broadcast(&l->room);
	pthread_cond_broadcast(&l->news);
	pthread_mutex_unlock(&l->mu);
	if (l->started && write(l->stop, &one, sizeof one) == sizeof one)
		pthread_join(l->thread, NULL);
	l->started = false;
	unregister(l);
}

void late_close(struct late *l)
{
	if (!l)
		return;
	late_release(l);
	if (l->stop >= 0)
		close(l->stop);
	if (l->fd >= 0)
		close(l->fd);
	pthread_cond_destroy(&l->news);
	pthread_cond_destroy(&l->room);
	pthread_mutex_destroy(&l->mu);
	free(l->asked);
	free(l);
}

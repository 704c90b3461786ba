/* SPDX-License-Identifier: MIT */
/*
 * mprotect and SIGSEGV: every kernel has it, and every first write to a page costs a signal. Here for comparison and for
 * kernels without the better way. Unprotecting single pages splits the mapping; where the kernel's limit of mappings is
 * reached, blocks of 2 MB are let go at a time, and in the end all of it, and count as written.
 *
 * What must hold: a page that can be written without a fault is marked, or will be before its writer goes on. So the
 * handler unprotects first and marks afterwards, and fetch takes the mark first and protects afterwards.
 */
#include "migrate/dirty.h"

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/util.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BLOCK_PAGES 512
#define TRACKERS_MAX 128
#define LATE_NS NS_PER_S /* a fault taken before a tracker was closed is handled by then */

struct segv_tracker {
	struct tracker t;
	uint64_t *dirty;
};

/* Read by the handler without a lock. The range stays for a while after the tracker is gone. */
struct slot {
	struct segv_tracker *t;
	uintptr_t from, to;
	uint64_t closed_ns;
};

static struct slot table[TRACKERS_MAX];
static pthread_mutex_t table_mu = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction before;
static unsigned n_open;
static unsigned looking; /* handlers that may hold a tracker: it is freed when there are none */

/* ---- the handler ------------------------------------------------------------------------------- */

static bool let_go(struct segv_tracker *t, uint64_t first, uint64_t n)
{
	if (mprotect(t->t.guest->mem + first * GUEST_PAGE, n * GUEST_PAGE, PROT_READ | PROT_WRITE) < 0)
		return false;
	bitmap_set_run(t->dirty, first, n);
	return true;
}

static bool take_fault(struct segv_tracker *t, uint64_t page)
{
	uint64_t pages = guest_pages(t->t.guest), block = page / BLOCK_PAGES * BLOCK_PAGES;

	return let_go(t, page, 1) || let_go(t, block, min_u64(BLOCK_PAGES, pages - block)) || let_go(t, 0, pages);
}

static bool handle(uintptr_t at, uint64_t now)
{
	bool late = false;

	for (size_t i = 0; i < TRACKERS_MAX; i++) {
		struct slot *s = &table[i];
		struct segv_tracker *t = __atomic_load_n(&s->t, __ATOMIC_SEQ_CST);
		bool inside = at >= __atomic_load_n(&s->from, __ATOMIC_RELAXED) &&
			      at < __atomic_load_n(&s->to, __ATOMIC_RELAXED);

		if (!inside)
			continue;
		if (t) {
			bool done = take_fault(t, (at - (uintptr_t)t->t.guest->mem) / GUEST_PAGE);

			__atomic_fetch_add(&t->t.cost.faults, 1, __ATOMIC_RELAXED);
			__atomic_fetch_add(&t->t.cost.fault_ns, clock_now(&clock_mono) - now, __ATOMIC_RELAXED);
			return done;
		}
		late |= now - __atomic_load_n(&s->closed_ns, __ATOMIC_RELAXED) < LATE_NS;
	}
	return late; /* it can be written by now: the write comes again */
}

static void on_segv(int sig, siginfo_t *info, void *context)
{
	uint64_t now = clock_now(&clock_mono);
	int saved = errno;
	bool done;

	__atomic_fetch_add(&looking, 1, __ATOMIC_SEQ_CST);
	done = info->si_code == SEGV_ACCERR && handle((uintptr_t)info->si_addr, now);
	__atomic_fetch_sub(&looking, 1, __ATOMIC_SEQ_CST);
	errno = saved;
	if (done)
		return;
	if (before.sa_flags & SA_SIGINFO && before.sa_sigaction)
		before.sa_sigaction(sig, info, context);
	else
		sigaction(SIGSEGV, &before, NULL); /* the access comes again, and ends the process as it should */
}

/* ---- ops --------------------------------------------------------------------------------------- */

static int segv_probe(const struct guest_ops *kind, struct err *e)
{
	if (kind && !strcmp(kind->name, "kvm"))
		return err_set(e, -EOPNOTSUPP,
			       "a virtual machine's writes raise no signal: use --tracker=kvm, kvm-ring or uffd");
	return 0;
}

/* The table's lock is held. */
static struct slot *slot_take(struct segv_tracker *t)
{
	struct slot *s = NULL;

	for (size_t i = 0; i < TRACKERS_MAX && !s; i++)
		if (!table[i].t)
			s = &table[i];
	if (!s)
		return NULL;
	__atomic_store_n(&s->from, (uintptr_t)t->t.guest->mem, __ATOMIC_RELAXED);
	__atomic_store_n(&s->to, (uintptr_t)t->t.guest->mem + t->t.guest->len, __ATOMIC_RELAXED);
	__atomic_store_n(&s->t, t, __ATOMIC_SEQ_CST);
	if (!n_open++) {
		struct sigaction sa = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };

		sigaction(SIGSEGV, &sa, &before);
	}
	return s;
}

static int segv_open(struct tracker **out, struct guest *g, struct err *e)
{
	struct segv_tracker *t = calloc(1, sizeof *t);
	struct slot *s;
	int rc = 0;

	if (t)
		t->dirty = calloc(bitmap_words(guest_pages(g)), sizeof *t->dirty);
	if (!t || !t->dirty) {
		free(t);
		return err_set(e, -ENOMEM, "no memory for a tracker");
	}
	t->t.ops = &dirty_sigsegv_ops;
	t->t.guest = g;
	bitmap_set_run(t->dirty, 0, guest_pages(g));
	if (mprotect(g->mem, g->len, PROT_READ | PROT_WRITE) < 0)
		rc = err_set(e, -errno, "the guest's memory cannot be protected: %s; use --tracker=uffd",
			     strerror(errno));
	pthread_mutex_lock(&table_mu);
	for (size_t i = 0; rc == 0 && i < TRACKERS_MAX; i++)
		if (table[i].t && table[i].t->t.guest->mem == g->mem)
			rc = err_set(e, -EBUSY, "the guest is tracked already, by another migration of it");
	s = rc == 0 ? slot_take(t) : NULL;
	pthread_mutex_unlock(&table_mu);
	if (rc == 0 && !s)
		rc = err_set(e, -EBUSY,
			     "%d guests are tracked at once by signals, that is the most: use --tracker=uffd",
			     TRACKERS_MAX);
	if (rc < 0) {
		free(t->dirty);
		free(t);
		return rc;
	}
	*out = &t->t;
	return 0;
}

static void segv_close(struct tracker *tracker)
{
	struct segv_tracker *t = (struct segv_tracker *)tracker;

	if (!t)
		return;
	mprotect(t->t.guest->mem, t->t.guest->len, PROT_READ | PROT_WRITE);
	pthread_mutex_lock(&table_mu);
	for (size_t i = 0; i < TRACKERS_MAX; i++) {
		if (table[i].t != t)
			continue;
		__atomic_store_n(&table[i].closed_ns, clock_now(&clock_mono), __ATOMIC_RELAXED);
		__atomic_store_n(&table[i].t, NULL, __ATOMIC_SEQ_CST);
	}
	n_open--;
	pthread_mutex_unlock(&table_mu);
	while (__atomic_load_n(&looking, __ATOMIC_SEQ_CST))
		sched_yield();
	free(t->dirty);
	free(t);
}

/* Where the kernel has no mappings left a page stays marked, and can be written: it is sent again next time. */
static void protect(struct segv_tracker *t, uint64_t first, uint64_t n)
{
	if (mprotect(t->t.guest->mem + first * GUEST_PAGE, n * GUEST_PAGE, PROT_READ) < 0)
		bitmap_set_run(t->dirty, first, n);
}

static int64_t segv_fetch(struct tracker *tracker, uint64_t first, uint64_t n, uint64_t *map)
{
	struct segv_tracker *t = (struct segv_tracker *)tracker;
	uint64_t began = clock_now(&clock_mono), end = first + n, pages = 0, run = 0;

	for (uint64_t p = first; p < end; p++) {
		uint64_t bit = 1ull << (p & 63);

		if (__atomic_fetch_and(&t->dirty[p >> 6], ~bit, __ATOMIC_SEQ_CST) & bit) {
			run++;
			if (p + 1 < end)
				continue;
			p++;
		}
		if (!run)
			continue;
		pages += run;
		if (map)
			bitmap_set_run(map, p - run, run);
		protect(t, p - run, run);
		run = 0;
	}
	tracker_spent(tracker, began, pages);
	return (int64_t)pages;
}

static void segv_clean(struct tracker *t, uint64_t first, uint64_t n)
{
	segv_fetch(t, first, n, NULL);
}

const struct tracker_ops dirty_sigsegv_ops = {
	.name = "sigsegv",
	.help = "mprotect and a signal for each first write: any kernel, for comparison",
	.probe = segv_probe,
	.open = segv_open,
	.close = segv_close,
	.fetch = segv_fetch,
	.clean = segv_clean,
};

/* SPDX-License-Identifier: MIT */
/*
 * Memory of a guest that runs while part of it has not arrived (post-copy, at the destination). Who touches a page that is
 * missing waits, is noted as a fault, and goes on when the page is placed: whole, in one step (userfaultfd, missing mode).
 * A page is placed once; a second copy is ignored, because the guest may have written to the first.
 *
 *   late_open ─► faults are noted ─► late_place … ─► nothing is missing: memory is ordinary again
 *
 * Threads: late_place by any, several at once. late_wait and late_again by one at a time, while others place.
 */
#ifndef DWCP_MIGRATE_LATE_H
#define DWCP_MIGRATE_LATE_H

#include "base/stats.h"
#include "migrate/guest.h"

#define LATE_FAULTS_MAX 256 /* waited for at once; those above wait in the kernel until there is room */

struct late;

struct late_stats {
	uint64_t missing_first;                  /* pages, when it was opened */
	uint64_t missing;                        /* now */
	uint64_t faults;                         /* threads that had to wait */
	uint64_t pages;                          /* that somebody had to wait for: each was asked for once */
	uint64_t p50_ns, p95_ns, p99_ns, max_ns; /* from when the fault was heard of to its page being there */
};

/* Can this machine do it, for this kind of guest? 0, or -errno with reason and remedy. No side effects. */
int late_probe(const struct guest_ops *kind, struct err *e);

/*
 * have: a bit for each page that is there already; late_place sets them. The caller keeps it, and mem (page-aligned,
 * never MAP_HUGETLB), until late_close. manual: no userfaultfd and no thread; late_touch tells of faults (simulations).
 */
int late_open(struct late **out, const struct guest_ops *kind, void *mem, uint64_t pages, uint64_t *have, bool manual,
	      struct err *e);
/* NULL is fine. Whoever waits for a page goes on with zeros in it: only for a guest that is whole, or that nobody needs. */
void late_close(struct late *l);
/* Nobody waits in memory any more; as late_close, but late_place, late_wait and the rest may still be called. */
void late_release(struct late *l);

/* Places n pages in a row: contents, or NULL for zeros. 0 or -errno. */
int late_place(struct late *l, uint64_t first, uint64_t n, const uint8_t *contents);

/* Forgets what pages hold: they are missing when late_open comes. mem as there; not once it is open. */
void late_discard(void *mem, uint64_t first, uint64_t n, bool manual);

/* Pages that somebody waits for and that were not told yet, at most `max`; waits so long for the first one. 0: none, or
 * nothing is missing any more. */
unsigned late_wait(struct late *l, uint32_t *out, unsigned max, uint64_t wait_ns);
/* What was told may have been lost: it is told again. */
void late_again(struct late *l);

uint64_t late_missing(const struct late *l);
void late_stats(struct late *l, struct late_stats *out);

/* manual: is the page there? If not, that is a fault. */
bool late_touch(struct late *l, uint64_t page);

#endif

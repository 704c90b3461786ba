/* SPDX-License-Identifier: MIT */
/*
 * Which pages a guest wrote to. A tracker is one file, one const table, one row of `trackers`.
 *
 * When a tracker is opened every page counts as written. `fetch` takes what was written and makes it clean, so that
 * the next write is noticed: bits are cleared before a page is read, never after, or a write between the two were lost.
 * Several threads may fetch and clean at once, as long as their pages differ.
 */
#ifndef DWCP_MIGRATE_DIRTY_H
#define DWCP_MIGRATE_DIRTY_H

#include "migrate/guest.h"

/* What tracking has cost so far. The guest's own share (faults) is known to trackers that take them themselves. */
struct tracker_cost {
	uint64_t fetches, fetch_ns; /* calls of fetch and clean */
	uint64_t pages;             /* found written, all fetches together */
	uint64_t faults, fault_ns;  /* that stopped the guest's writers; 0: the kernel takes them and does not tell */
};

struct tracker;

struct tracker_ops {
	const char *name; /* "uffd" */
	const char *help;
	/* Can this machine do it, for a guest of this kind (NULL: any)? 0, or -errno with reason and remedy. */
	int (*probe)(const struct guest_ops *kind, struct err *e);

	/* Changes the options that a guest of a kind which was probed will be opened with, so that it can be tracked so. NULL:
	 * any guest can. */
	void (*prepare)(void *opts);

	int (*open)(struct tracker **out, struct guest *g, struct err *e);
	void (*close)(struct tracker *t); /* the guest may be running */

	/* Sets in `map` (a bit for each page of the guest) the pages of [first, first + n) that were written since they
	 * were fetched, and makes them clean. Returns how many, or -errno: then nothing may be taken as clean. */
	int64_t (*fetch)(struct tracker *t, uint64_t first, uint64_t n, uint64_t *map);

	/* Makes pages clean of which the newest contents are about to be read anyhow. May do less than it is asked for:
	 * they are then sent once more. NULL: does nothing. */
	void (*clean)(struct tracker *t, uint64_t first, uint64_t n);
};

struct tracker {
	const struct tracker_ops *ops;
	struct guest *guest;
	struct tracker_cost cost; /* added to atomically */
};

extern const struct tracker_ops *const trackers[]; /* in order of preference; NULL-terminated */
#define TRACKER_NAMES "kvm|kvm-ring|uffd|sigsegv"  /* for options */
const struct tracker_ops *tracker_find(const char *name);

/* The named one, or with "" the first that this machine and this kind of guest can have. */
int tracker_choose(const char *name, const struct guest_ops *kind, const struct tracker_ops **out, struct err *e);

/* For trackers: adds one call to the cost. */
void tracker_spent(struct tracker *t, uint64_t began_ns, uint64_t pages);

extern const struct tracker_ops dirty_kvm_ops, dirty_kvm_ring_ops, dirty_uffd_ops, dirty_sigsegv_ops;

#endif

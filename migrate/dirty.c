/* SPDX-License-Identifier: MIT */
#include "migrate/dirty.h"

#include "base/clock.h"
#include "base/log.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

const struct tracker_ops *const trackers[] = { &dirty_kvm_ops, &dirty_kvm_ring_ops, &dirty_uffd_ops, &dirty_sigsegv_ops,
					       NULL };

const struct tracker_ops *tracker_find(const char *name)
{
	for (size_t i = 0; trackers[i]; i++)
		if (!strcmp(trackers[i]->name, name))
			return trackers[i];
	return NULL;
}

int tracker_choose(const char *name, const struct guest_ops *kind, const struct tracker_ops **out, struct err *e)
{
	const struct tracker_ops *t = tracker_find(name);
	struct err why = { 0 };
	int rc;

	if (*name && !t)
		return err_set(e, -EINVAL, "--tracker: there is no \"%s\"; see --help", name);
	if (t) {
		rc = t->probe(kind, e);
		if (rc == 0)
			*out = t;
		return rc;
	}
	for (size_t i = 0; trackers[i]; i++) {
		rc = trackers[i]->probe(kind, &why);
		if (rc == 0) {
			*out = trackers[i];
			return 0;
		}
		log_info("tracker %s is not available: %s", trackers[i]->name, why.why);
	}
	return err_set(e, -ENODEV, "this machine cannot track what a guest writes (%s)", why.why);
}

void tracker_spent(struct tracker *t, uint64_t began_ns, uint64_t pages)
{
	__atomic_fetch_add(&t->cost.fetches, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&t->cost.fetch_ns, clock_now(&clock_mono) - began_ns, __ATOMIC_RELAXED);
	__atomic_fetch_add(&t->cost.pages, pages, __ATOMIC_RELAXED);
}

/* SPDX-License-Identifier: MIT */
/*
 * KVM's dirty ring: a look costs as much as was written, and not as much as there is memory, and the guest's CPU stops
 * when it writes faster than anybody looks. What it stopped for is reported as faults.
 */
#include "migrate/dirty.h"

#include "base/clock.h"
#include "migrate/guest_kvm.h"
#include "migrate/kvm_ring.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct ring_tracker {
	struct tracker t;
	struct kvm_ring *ring;
	uint64_t full, full_ns; /* before it was opened */
};

static int ring_probe(const struct guest_ops *kind, struct err *e)
{
	uint32_t most;
	int fd;

	if (kind && kind != &guest_kvm_ops)
		return err_set(e, -EOPNOTSUPP, "KVM's dirty ring is for kvm guests: use --tracker=uffd");
	fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_set(e, -errno, "/dev/kvm: %s", strerror(errno));
	most = kvm_ring_most(fd);
	close(fd);
	return most ? 0
		    : err_set(e, -EOPNOTSUPP,
			      "this kernel's KVM has no dirty ring (Linux 5.11): use --tracker=kvm or uffd");
}

static void ring_prepare(void *opts)
{
	((struct kvm_opts *)opts)->ring = KVM_RING_MOST;
}

static void ring_close(struct tracker *t)
{
	struct ring_tracker *r = (struct ring_tracker *)t;

	if (!r)
		return;
	kvm_guest_log(t->guest, false, NULL);
	kvm_ring_fill(r->ring, false);
	free(r);
}

static int ring_open(struct tracker **out, struct guest *g, struct err *e)
{
	struct kvm_ring *ring = g->ops == &guest_kvm_ops ? kvm_guest_ring(g) : NULL;
	struct ring_tracker *r;
	int rc;

	if (!ring)
		return err_set(e, -EOPNOTSUPP,
			       "this guest was made without KVM's dirty ring, which cannot be had later: use "
			       "--tracker=kvm or uffd");
	r = calloc(1, sizeof *r);
	if (!r)
		return err_set(e, -ENOMEM, "no memory for a tracker");
	r->t.ops = &dirty_kvm_ring_ops;
	r->t.guest = g;
	r->ring = ring;
	r->full = __atomic_load_n(&ring->full, __ATOMIC_RELAXED);
	r->full_ns = __atomic_load_n(&ring->full_ns, __ATOMIC_RELAXED);
	rc = kvm_guest_log(g, true, e);
	if (rc < 0) {
		free(r);
		return rc;
	}
	kvm_ring_fill(ring, true);
	*out = &r->t;
	return 0;
}

static int64_t ring_fetch(struct tracker *t, uint64_t first, uint64_t n, uint64_t *map)
{
	struct ring_tracker *r = (struct ring_tracker *)t;
	uint64_t began = clock_now(&clock_mono);
	int64_t pages = kvm_ring_fetch(r->ring, first, n, map);

	tracker_spent(t, began, pages > 0 ? (uint64_t)pages : 0);
	__atomic_store_n(&t->cost.faults, __atomic_load_n(&r->ring->full, __ATOMIC_RELAXED) - r->full,
			 __ATOMIC_RELAXED);
	__atomic_store_n(&t->cost.fault_ns, __atomic_load_n(&r->ring->full_ns, __ATOMIC_RELAXED) - r->full_ns,
			 __ATOMIC_RELAXED);
	return pages;
}

static void ring_clean(struct tracker *t, uint64_t first, uint64_t n)
{
	struct ring_tracker *r = (struct ring_tracker *)t;
	uint64_t began = clock_now(&clock_mono);
	int64_t pages = kvm_ring_forget(r->ring, first, n);

	tracker_spent(t, began, pages > 0 ? (uint64_t)pages : 0);
}

const struct tracker_ops dirty_kvm_ring_ops = {
	.name = "kvm-ring",
	.help = "KVM's dirty ring (Linux 5.11)",
	.probe = ring_probe,
	.prepare = ring_prepare,
	.open = ring_open,
	.close = ring_close,
	.fetch = ring_fetch,
	.clean = ring_clean,
};

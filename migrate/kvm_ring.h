/* SPDX-License-Identifier: MIT */
/*
 * KVM's dirty ring (Documentation/virt/kvm/api.rst, 8.29): the virtual CPU notes each page that it writes to first in a ring
 * which is shared with it, and stops when that is full. What is taken out must be given back before the page is read: that
 * protects it again, so that the next write is noted. Taken pages wait in a bitmap, because a full ring is emptied by the
 * CPU's own thread, at any time.
 *
 * KVM looks whether the ring is full when it enters the guest, and keeps room for what may come until it does so again. Where
 * it interprets the guest (PVM; without paging), more comes than that. So the CPU's thread looks, too, whenever the guest asks
 * it for something, and nobody waits for the last entry; a ring that overran all the same is an error, as writes are lost.
 */
#ifndef DWCP_MIGRATE_KVM_RING_H
#define DWCP_MIGRATE_KVM_RING_H

#include "base/err.h"
#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct kvm_ring {
	struct kvm_dirty_gfn *entry; /* NULL: the virtual machine has none */
	uint32_t entries, next;
	uint32_t owed; /* taken out, and not given back yet */
	bool overrun;
	int vm;
	uint64_t pages;
	pthread_mutex_t mu; /* of next, owed, overrun and dirty; held while pages are protected again */
	uint64_t *dirty;    /* bit: written, and not fetched yet */
	/* What it cost the virtual CPU; atomic. */
	uint64_t full, full_ns;
};

/* The most entries that this kernel's KVM gives a ring; 0: it has no rings. kvm: /dev/kvm's descriptor. */
uint32_t kvm_ring_most(int kvm);

/* Two steps, because the virtual machine is told before it has a CPU, and the ring is the CPU's. entries: a power of two.
 * A ring excludes the dirty log for this virtual machine. */
int kvm_ring_enable(int vm, uint32_t entries);
int kvm_ring_open(struct kvm_ring *r, int vm, int cpu, uint32_t entries, uint64_t pages);
void kvm_ring_close(struct kvm_ring *r); /* any state, also zeroed */

/* The CPU's thread, stopped by a full ring: empties it. 0, or -errno: writes are lost, or will be. */
int kvm_ring_full(struct kvm_ring *r);
/* The CPU's thread, between two things that the guest does: the same if it is half full. */
int kvm_ring_relieve(struct kvm_ring *r);

/* Every page counts as written (true), or none. */
void kvm_ring_fill(struct kvm_ring *r, bool all);

/* Takes what of [first, first + n) was written out of the ring, and adds it to map. Returns how many, or -errno. */
int64_t kvm_ring_fetch(struct kvm_ring *r, uint64_t first, uint64_t n, uint64_t *map);
/* The same for nobody; does nothing (-EBUSY) rather than wait for another thread. */
int64_t kvm_ring_forget(struct kvm_ring *r, uint64_t first, uint64_t n);

#endif

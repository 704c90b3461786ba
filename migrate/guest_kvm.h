/* SPDX-License-Identifier: MIT */
/*
 * A virtual machine of KVM with one CPU and a program of our own: 32-bit protected mode without paging. It writes to
 * pseudo-random pages at a set rate, counts, and asks on a port how much to do next; `check` compares memory with its
 * registers. It goes on at the destination at the instruction where it stopped.
 */
#ifndef DWCP_MIGRATE_GUEST_KVM_H
#define DWCP_MIGRATE_GUEST_KVM_H

#include "migrate/guest.h"

struct kvm_opts {
	double dirty_rate; /* page writes per second, in percent of memory's pages */
	uint32_t seed;
	uint32_t ring; /* entries of a dirty ring, a power of two; 0: none. No option: the tracker asks for it */
};
#define KVM_RING_MOST UINT32_MAX /* as many as the kernel gives */

extern const struct guest_ops guest_kvm_ops;

/* For trackers: turns dirty logging of all its memory on or off. With it on, every page counts as written in the log, and
 * none in the ring. -EBUSY: it is on. */
int kvm_guest_log(struct guest *g, bool on, struct err *e);
/* The virtual machine's descriptor; its memory is slot 0. */
int kvm_guest_fd(const struct guest *g);
/* NULL: it was made without. */
struct kvm_ring;
struct kvm_ring *kvm_guest_ring(struct guest *g);

#endif

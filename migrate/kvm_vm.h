/* SPDX-License-Identifier: MIT */
/* A virtual machine of KVM with one CPU and one slot of memory: what of it is the kernel's. */
#ifndef DWCP_MIGRATE_KVM_VM_H
#define DWCP_MIGRATE_KVM_VM_H

#include "base/err.h"
#include "migrate/kvm_ring.h"
#include <stdbool.h>
#include <stdint.h>

struct kvm_vm {
	int kvm, fd, cpu;
	struct kvm_run *run;
	size_t run_len;
	void *mem;
	uint64_t len;
	struct kvm_ring ring; /* entry NULL: none, its writes are noticed by the dirty log */
	bool logged;
};

/* Can this machine have one? 0, or -errno with reason and remedy. */
int kvm_vm_probe(struct err *e);
/* ring: entries of a dirty ring, 0: none. On error nothing is left. kick: the only signal that ends a run of the CPU. */
int kvm_vm_open(struct kvm_vm *v, void *mem, uint64_t len, uint32_t ring, int kick, struct err *e);
void kvm_vm_close(struct kvm_vm *v);
/* Turns noticing of writes on or off. */
int kvm_vm_log(struct kvm_vm *v, bool on, struct err *e);

#endif

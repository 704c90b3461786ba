/* SPDX-License-Identifier: MIT */
#include "migrate/kvm_vm.h"

#include "migrate/guest.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int open_kvm(struct err *e)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return err_set(e, -errno,
			       "no virtual machines here: /dev/kvm: %s; load kvm_intel or kvm_amd, join the group "
			       "kvm, or choose --guest=synth",
			       strerror(errno));
	if (ioctl(fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		close(fd);
		return err_set(e, -EOPNOTSUPP, "/dev/kvm speaks another version than this dwcp: choose --guest=synth");
	}
	return fd;
}

int kvm_vm_probe(struct err *e)
{
	int fd = open_kvm(e);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static int set_memory(struct kvm_vm *v, uint32_t flags)
{
	struct kvm_userspace_memory_region r = { .flags = flags,
						 .memory_size = v->len,
						 .userspace_addr = (uintptr_t)v->mem };

	return ioctl(v->fd, KVM_SET_USER_MEMORY_REGION, &r) < 0 ? -errno : 0;
}

/* How writes will be noticed. The two exclude one another: with the log's bits set at first, nothing were protected for the
 * ring. */
static int choose_log(struct kvm_vm *v, uint32_t ring)
{
	struct kvm_enable_cap manual = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
					 .args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
						   KVM_DIRTY_LOG_INITIALLY_SET } };

	if (ring)
		return kvm_ring_enable(v->fd, ring);
	/* Without it the tracker says that it cannot be had. */
	ioctl(v->fd, KVM_ENABLE_CAP, &manual);
	return 0;
}

static int make_cpu(struct kvm_vm *v, int kick)
{
	/* struct kvm_signal_mask, whose set follows its length without a gap. */
	const uint64_t blocked = ~(1ull << (kick - 1));
	struct {
		uint32_t len;
		uint8_t set[8];
	} mask = { .len = sizeof blocked };
	int size = ioctl(v->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	memcpy(mask.set, &blocked, sizeof blocked);
	if (size < (int)sizeof *v->run)
		return size < 0 ? -errno : -EPROTO;
	v->cpu = ioctl(v->fd, KVM_CREATE_VCPU, 0);
	if (v->cpu < 0 || ioctl(v->cpu, KVM_SET_SIGNAL_MASK, &mask) < 0)
		return -errno;
	v->run_len = (size_t)size;
	v->run = mmap(NULL, v->run_len, PROT_READ | PROT_WRITE, MAP_SHARED, v->cpu, 0);
	if (v->run != MAP_FAILED)
		return 0;
	v->run = NULL;
	return -errno;
}

int kvm_vm_open(struct kvm_vm *v, void *mem, uint64_t len, uint32_t ring, int kick, struct err *e)
{
	uint32_t most;
	int rc;

	*v = (struct kvm_vm){ .mem = mem, .len = len, .fd = -1, .cpu = -1 };
	v->kvm = rc = open_kvm(e);
	if (rc < 0)
		return rc;
	most = kvm_ring_most(v->kvm);
	if (ring && !most) {
		kvm_vm_close(v);
		return err_set(e, -EOPNOTSUPP,
			       "this kernel's KVM has no dirty ring (Linux 5.11): use --tracker=kvm or uffd");
	}
	ring = ring > most ? most : ring;
	v->fd = ioctl(v->kvm, KVM_CREATE_VM, 0);
	rc = v->fd < 0 || ioctl(v->fd, KVM_SET_TSS_ADDR, 0xfffbd000ul) < 0 ? -errno : choose_log(v, ring);
	if (rc == 0)
		rc = set_memory(v, 0);
	if (rc == 0)
		rc = make_cpu(v, kick);
	if (rc == 0 && ring)
		rc = kvm_ring_open(&v->ring, v->fd, v->cpu, ring, len / GUEST_PAGE);
	if (rc == 0)
		return 0;
	kvm_vm_close(v);
	return err_set(e, rc, "cannot make a virtual machine: %s; choose --guest=synth", strerror(-rc));
}

void kvm_vm_close(struct kvm_vm *v)
{
	kvm_ring_close(&v->ring);
	if (v->run)
		munmap(v->run, v->run_len);
	if (v->cpu >= 0)
		close(v->cpu);
	if (v->fd >= 0)
		close(v->fd);
	if (v->kvm >= 0)
		close(v->kvm);
	*v = (struct kvm_vm){ .kvm = -1, .fd = -1, .cpu = -1 };
}

int kvm_vm_log(struct kvm_vm *v, bool on, struct err *e)
{
	int rc;

	if (on && v->logged)
		return err_set(
			e, -EBUSY,
			"the virtual machine's writes are tracked already, by another migration of the same guest");
	rc = set_memory(v, on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
	if (rc < 0)
		return err_set(e, rc, "KVM cannot log the guest's writes: %s; use --tracker=uffd", strerror(-rc));
	v->logged = on;
	return 0;
}

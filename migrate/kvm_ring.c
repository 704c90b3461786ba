/* SPDX-License-Identifier: MIT */
#include "migrate/kvm_ring.h"

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define RING_OFFSET (KVM_DIRTY_LOG_PAGE_OFFSET * 4096)
#define RESET_TRIES 1000

uint32_t kvm_ring_most(int kvm)
{
	int bytes = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING);

	return bytes > 0 ? (uint32_t)bytes / sizeof(struct kvm_dirty_gfn) : 0;
}

int kvm_ring_enable(int vm, uint32_t entries)
{
	struct kvm_enable_cap ring = { .cap = KVM_CAP_DIRTY_LOG_RING,
				       .args = { (uint64_t)entries * sizeof(struct kvm_dirty_gfn) } };

	return ioctl(vm, KVM_ENABLE_CAP, &ring) < 0 ? -errno : 0;
}

int kvm_ring_open(struct kvm_ring *r, int vm, int cpu, uint32_t entries, uint64_t pages)
{
	void *at = mmap(NULL, entries * sizeof *r->entry, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, RING_OFFSET);

	if (at == MAP_FAILED)
		return -errno;
	*r = (struct kvm_ring){ .entry = at, .entries = entries, .vm = vm, .pages = pages };
	pthread_mutex_init(&r->mu, NULL);
	r->dirty = calloc(bitmap_words(pages), sizeof *r->dirty);
	if (!r->dirty) {
		kvm_ring_close(r);
		return -ENOMEM;
	}
	return 0;
}

void kvm_ring_close(struct kvm_ring *r)
{
	if (!r->entry)
		return;
	munmap(r->entry, r->entries * sizeof *r->entry);
	pthread_mutex_destroy(&r->mu);
	free(r->dirty);
	*r = (struct kvm_ring){ 0 };
}

/* Protects again what was taken out. A signal makes the kernel end early, and say how far it came. */
static int give_back(struct kvm_ring *r)
{
	for (unsigned tries = 0; r->owed && tries < RESET_TRIES; tries++) {
		int n = ioctl(r->vm, KVM_RESET_DIRTY_RINGS, 0);

		if (n < 0 && errno != EINTR)
			return -errno;
		r->owed -= n > 0 ? (uint32_t)min_u64((uint64_t)n, r->owed) : 0;
	}
	return r->owed ? -EIO : 0;
}

/* The lock is held. */
static int collect(struct kvm_ring *r)
{
	if (r->overrun)
		return -EOVERFLOW;
	while (r->owed < r->entries) {
		struct kvm_dirty_gfn *g = &r->entry[r->next & (r->entries - 1)];

		if (!(__atomic_load_n(&g->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
			break;
		if (g->slot == 0 && g->offset < r->pages)
			bitmap_set(r->dirty, g->offset);
		__atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		__atomic_store_n(&r->next, r->next + 1, __ATOMIC_RELAXED);
		r->owed++;
	}
	r->overrun = r->owed == r->entries;
	return r->overrun ? -EOVERFLOW : give_back(r);
}

int kvm_ring_full(struct kvm_ring *r)
{
	uint64_t began = clock_now(&clock_mono);
	int rc;

	pthread_mutex_lock(&r->mu);
	rc = collect(r);
	pthread_mutex_unlock(&r->mu);
	__atomic_fetch_add(&r->full, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&r->full_ns, clock_now(&clock_mono) - began, __ATOMIC_RELAXED);
	return rc;
}

int kvm_ring_relieve(struct kvm_ring *r)
{
	const struct kvm_dirty_gfn *half =
		&r->entry[(__atomic_load_n(&r->next, __ATOMIC_RELAXED) + r->entries / 2) & (r->entries - 1)];
	bool is = __atomic_load_n(&half->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY;

	return is ? kvm_ring_full(r) : 0;
}

void kvm_ring_fill(struct kvm_ring *r, bool all)
{
	pthread_mutex_lock(&r->mu);
	collect(r);
	memset(r->dirty, 0, bitmap_words(r->pages) * sizeof *r->dirty);
	if (all)
		bitmap_set_run(r->dirty, 0, r->pages);
	pthread_mutex_unlock(&r->mu);
}

/* The lock is held; so that no page is handed out which is not protected again yet. */
static int64_t take(struct kvm_ring *r, uint64_t first, uint64_t n, uint64_t *map)
{
	uint64_t end = first + n, pages = 0;
	int rc = collect(r);

	for (uint64_t at = first; rc == 0 && at < end;) {
		uint64_t stop = min_u64((at / 64 + 1) * 64, end), w = at / 64;
		uint64_t mask = (~0ull << at % 64) & (~0ull >> (63 - (stop - 1) % 64));
		uint64_t bits = r->dirty[w] & mask;

		at = stop;
		if (!bits)
			continue;
		r->dirty[w] &= ~mask;
		pages += (uint64_t)__builtin_popcountll(bits);
		if (map)
			__atomic_fetch_or(&map[w], bits, __ATOMIC_ACQ_REL);
	}
	return rc < 0 ? rc : (int64_t)pages;
}

int64_t kvm_ring_fetch(struct kvm_ring *r, uint64_t first, uint64_t n, uint64_t *map)
{
	int64_t pages;

	pthread_mutex_lock(&r->mu);
	pages = take(r, first, n, map);
	pthread_mutex_unlock(&r->mu);
	return pages;
}

int64_t kvm_ring_forget(struct kvm_ring *r, uint64_t first, uint64_t n)
{
	int64_t pages;

	if (pthread_mutex_trylock(&r->mu))
		return -EBUSY;
	pages = take(r, first, n, NULL);
	pthread_mutex_unlock(&r->mu);
	return pages;
}

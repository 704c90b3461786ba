/* SPDX-License-Identifier: MIT */
/*
 * LD_PRELOAD: counts a program's calls of the heap's functions and of the thread library's locks, each process in a
 * slot of the file that DWCP_COUNT_FILE names (see bench/count.h), which outlives the process however it ends.
 */
#include "bench/count.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* The heap itself, below the names that are counted here: looking these up by dlsym would allocate. */
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static struct count_slot before; /* what is counted until there is a slot, and without a file */
static struct count_slot *slot = &before;
static struct count_slot *slots;

static void add(uint64_t *field)
{
	__atomic_fetch_add(field, 1, __ATOMIC_RELAXED);
}

static void claim(void)
{
	uint32_t me = (uint32_t)getpid();

	for (unsigned i = 0; slots && i < COUNT_SLOTS; i++) {
		uint32_t none = 0;

		if (__atomic_compare_exchange_n(&slots[i].pid, &none, me, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
			slot = &slots[i];
			return;
		}
	}
	slot = &before;
}

static __attribute__((constructor)) void begin(void)
{
	const char *path = getenv("DWCP_COUNT_FILE");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *at;

	if (fd < 0)
		return;
	at = mmap(NULL, COUNT_SLOTS * sizeof(*slots), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (at == MAP_FAILED)
		return;
	slots = at;
	claim();
	slot->allocations += before.allocations; /* of libraries that began before this one */
	slot->frees += before.frees;
	slot->main_locks += before.main_locks;
	pthread_atfork(NULL, NULL, claim);
}

/* ---- heap -------------------------------------------------------------------------------------- */

EXPORT void *malloc(size_t size)
{
	add(&slot->allocations);
	return __libc_malloc(size);
}

EXPORT void *calloc(size_t nmemb, size_t size)
{
	add(&slot->allocations);
	return __libc_calloc(nmemb, size);
}

EXPORT void *realloc(void *ptr, size_t size)
{
	add(&slot->allocations);
	return __libc_realloc(ptr, size);
}

EXPORT void *memalign(size_t alignment, size_t size)
{
	add(&slot->allocations);
	return __libc_memalign(alignment, size);
}

EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
	return memalign(alignment, size);
}

EXPORT int posix_memalign(void **memptr, size_t alignment, size_t size)
{
	void *p = memalign(alignment, size);

	if (!p)
		return ENOMEM;
	*memptr = p;
	return 0;
}

EXPORT void free(void *ptr)
{
	if (ptr)
		add(&slot->frees);
	__libc_free(ptr);
}

/* ---- locks ------------------------------------------------------------------------------------- */

#define COUNTED(type, name, arg)                                              \
	EXPORT int name(type *arg)                                            \
	{                                                                     \
		static int (*real)(type *);                                   \
                                                                              \
		add(gettid() == getpid() ? &slot->main_locks : &slot->locks); \
		if (!real)                                                    \
			*(void **)&real = dlsym(RTLD_NEXT, #name);            \
		return real(arg);                                             \
	}

COUNTED(pthread_mutex_t, pthread_mutex_lock, mutex)
COUNTED(pthread_mutex_t, pthread_mutex_trylock, mutex)
COUNTED(pthread_rwlock_t, pthread_rwlock_rdlock, rwlock)
COUNTED(pthread_rwlock_t, pthread_rwlock_wrlock, rwlock)
COUNTED(pthread_spinlock_t, pthread_spin_lock, lock)
COUNTED(pthread_cond_t, pthread_cond_signal, cond)
COUNTED(pthread_cond_t, pthread_cond_broadcast, cond)

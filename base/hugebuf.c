/* SPDX-License-Identifier: MIT */
#include "base/hugebuf.h"
#include "base/opt.h"
#include "base/thread.h"
#include "base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)2 << 20)
#define PREFAULT_THREADS_MAX 16

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#ifndef MAP_HUGE_2MB
#define MAP_HUGE_2MB (21 << 26)
#endif

const char *huge_kind_name(enum huge_kind k)
{
	static const char *const names[] = { [HUGE_TLB] = "hugetlb", [HUGE_THP] = "thp", [HUGE_NONE] = "none" };

	return (size_t)k < sizeof names / sizeof names[0] ? names[k] : "?";
}

/* MemAvailable in bytes; UINT64_MAX where the kernel does not tell. */
static uint64_t mem_available(void)
{
	char text[4096], *at;
	ssize_t n;
	int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return UINT64_MAX;
	n = read(fd, text, sizeof text - 1);
	close(fd);
	if (n <= 0)
		return UINT64_MAX;
	text[n] = 0;
	at = strstr(text, "MemAvailable:");
	return at ? strtoull(at + strlen("MemAvailable:"), NULL, 10) * 1024 : UINT64_MAX;
}

/* Touches every page without changing it: 0 or -errno. */
static int populate(void *addr, size_t len, size_t page)
{
	while (madvise(addr, len, MADV_POPULATE_WRITE) < 0) {
		if (errno == EINTR || errno == EAGAIN)
			continue;
		if (errno != EINVAL)
			return -errno;
		if (page == HUGE_PAGE)
			return -EOPNOTSUPP; /* by hand, a huge page that is missing after all would be a SIGBUS */
		for (size_t i = 0; i < len; i += page)
			((volatile uint8_t *)addr)[i] = 0;
		return 0;
	}
	return 0;
}

/* mmap reserves the pages (no MAP_NORESERVE), so it fails here when there are too few. */
static int map_hugetlb(struct hugebuf *b, size_t len, bool prefault)
{
	size_t mapped = (len + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	void *p = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB,
		       -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	if (prefault) {
		int rc = populate(p, mapped, HUGE_PAGE);

		if (rc) {
			munmap(p, mapped);
			return rc;
		}
	}
	*b = (struct hugebuf){ .addr = p, .len = len, .mapped = mapped, .kind = HUGE_TLB };
	return 0;
}

/* Maps 2 MB too much and gives back both ends, so that the start is aligned. */
static int map_aligned(struct hugebuf *b, size_t len, size_t page)
{
	size_t mapped = (len + page - 1) & ~(page - 1);
	size_t slack = len >= HUGE_PAGE ? HUGE_PAGE : 0;
	uint8_t *p = mmap(NULL, mapped + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t front;

	if (p == MAP_FAILED)
		return -errno;
	front = slack ? -(uintptr_t)p & (HUGE_PAGE - 1) : 0;
	if (front)
		munmap(p, front);
	if (slack - front)
		munmap(p + front + mapped, slack - front);
	p += front;
	*b = (struct hugebuf){ .addr = p, .len = len, .mapped = mapped, .kind = HUGE_NONE };
	if (slack && madvise(p, mapped, MADV_HUGEPAGE) == 0)
		b->kind = HUGE_THP;
	return 0;
}

static int too_large(struct err *e, size_t len, uint64_t available)
{
	char want[32], have[32];

	return err_set(e, -ENOMEM, "a buffer of %s does not fit into memory (%s available): use a smaller size",
		       format_size(want, sizeof want, len), format_size(have, sizeof have, available));
}

static int alloc_paged(struct hugebuf *b, size_t len, bool prefault, struct err *e)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct hugebuf new = { 0 };
	uint64_t available = mem_available();
	char size[32];
	int rc;

	if (len > available)
		return too_large(e, len, available);
	rc = map_aligned(&new, len, page);
	if (!rc && prefault) {
		rc = populate(new.addr, new.mapped, page);
		if (rc)
			munmap(new.addr, new.mapped);
	}
	if (rc)
		return err_set(e, rc,
			       "allocating a buffer of %s: %s; free memory, raise ulimit -v or use a smaller size",
			       format_size(size, sizeof size, len), strerror(-rc));
	*b = new;
	return 0;
}

static int check_size(size_t len, struct err *e)
{
	if (!len)
		return err_set(e, -EINVAL, "a buffer of 0 bytes was asked for: use a larger size");
	if (len > (size_t)PTRDIFF_MAX - 2 * HUGE_PAGE)
		return too_large(e, len, mem_available());
	return 0;
}

int hugebuf_alloc(struct hugebuf *b, size_t len, bool prefault, struct err *e)
{
	struct hugebuf new = { 0 };
	int rc = check_size(len, e);

	if (rc < 0)
		return rc;
	/* Reserved huge pages are not counted in MemAvailable, so they come before that check. */
	if (len >= HUGE_PAGE && map_hugetlb(&new, len, prefault) == 0) {
		*b = new;
		return 0;
	}
	return alloc_paged(b, len, prefault, e);
}

int hugebuf_alloc_paged(struct hugebuf *b, size_t len, struct err *e)
{
	int rc = check_size(len, e);

	return rc < 0 ? rc : alloc_paged(b, len, false, e);
}

struct slice {
	uint8_t *addr;
	size_t len, page;
	int rc;
	pthread_t thread;
	bool started;
};

static void *populate_slice(void *arg)
{
	struct slice *s = arg;

	s->rc = populate(s->addr, s->len, s->page);
	return NULL;
}

int hugebuf_prefault(struct hugebuf *b, unsigned threads, struct err *e)
{
	struct slice s[PREFAULT_THREADS_MAX];
	size_t n = threads > PREFAULT_THREADS_MAX ? PREFAULT_THREADS_MAX : threads ? threads : 1;
	size_t each = (b->mapped / n + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1), at = 0;
	size_t page = b->kind == HUGE_TLB ? HUGE_PAGE : (size_t)sysconf(_SC_PAGESIZE);
	int rc = 0;

	for (size_t i = 0; i < n; i++, at += s[i - 1].len) {
		s[i] = (struct slice){ .addr = (uint8_t *)b->addr + at, .page = page };
		s[i].len = i + 1 < n ? (size_t)min_u64(each, b->mapped - at) : b->mapped - at;
		s[i].started = i && s[i].len && thread_start(&s[i].thread, "dwcp-prefault", populate_slice, &s[i]) == 0;
	}
	for (size_t i = 0; i < n; i++) {
		if (s[i].started)
			pthread_join(s[i].thread, NULL);
		else if (s[i].len)
			populate_slice(&s[i]);
		rc = rc ? rc : s[i].rc;
	}
	return rc ? err_set(e, rc, "touching a buffer's memory: %s; free memory or use a smaller size", strerror(-rc))
		  : 0;
}

void hugebuf_free(struct hugebuf *b)
{
	if (b->addr)
		munmap(b->addr, b->mapped);
	memset(b, 0, sizeof *b);
}

/* SPDX-License-Identifier: MIT */
/* A file that is whole takes its name: mode, time, flush, rename; the flushes of several at the same time. */
#include "transport/store_impl.h"

#include "transport/store_path.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define SETTLERS 16 /* flushes that wait at once; a file system commits what waits together */

static bool replaces(const struct store_file *f)
{
	struct stat st;

	return !fstatat(f->part.parent, f->part.base, &st, AT_SYMLINK_NOFOLLOW) || errno != ENOENT;
}

/* What the kernel could not write it now takes for written: a resume would find it equal and the flush would succeed. */
static int flush_failed(const struct store_file *f, int rc, const char *what, struct err *e)
{
	part_remove(&f->part);
	return store_fail(e, rc, what, f->name);
}

/* NAME, found equal, stays as it is. */
static int finish_old(struct store_file *f, bool sync, struct err *e)
{
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, f->mtime };
	const struct stat *was = &f->part.was;
	int rc = 0;

	if ((was->st_mode & 07777) != f->mode && fchmod(f->part.old, f->mode))
		return store_fail(e, -errno, "set the mode of", f->name);
	if ((was->st_mtim.tv_sec != f->mtime.tv_sec || was->st_mtim.tv_nsec != f->mtime.tv_nsec) &&
	    futimens(f->part.old, times))
		return store_fail(e, -errno, "set the time of", f->name);
	/* It may have come without a flush. */
	if (sync && fsync(f->part.old))
		return store_fail(e, -errno, "flush to disk", f->name);
	rc = sync ? store_sync_parents(f->store->root, f->name) : 0;
	return rc < 0 ? store_fail(e, rc, "flush the folder of", f->name) : 0;
}

/* Mode, time and content are as they will be under NAME. */
static int settle(struct store_file *f, bool sync, struct err *e)
{
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, f->mtime };
	int rc = part_is_ours(&f->part);
	struct stat st;

	if (rc <= 0)
		return store_fail(e, rc < 0 ? rc : -ESTALE, "find the part file of", f->name);
	if (fstat(f->part.fd, &st) || (uint64_t)st.st_size != f->size)
		return store_fail(e, -ESTALE, "find all of the part file of", f->name);
	if (fchmod(f->part.fd, f->mode) || futimens(f->part.fd, times))
		return store_fail(e, -errno, "set mode and time of", f->name);
	/* An older NAME may not give way to one whose data a power loss would take. */
	if (sync ? fsync(f->part.fd) : replaces(f) && fdatasync(f->part.fd))
		return flush_failed(f, -errno, "flush to disk", e);
	return 0;
}

static int finish_part(struct store_file *f, bool sync, struct err *e)
{
	int twin, rc = f->settled ? f->settle_rc : settle(f, sync, e);

	if (rc < 0) {
		if (f->settled)
			*e = f->settle_err;
		return rc;
	}
	/* Some network file systems tell of a failed write only at close; the lock outlives a twin's. */
	twin = dup(f->part.fd);
	if (twin < 0 ? fdatasync(f->part.fd) : close(twin)) /* a flush needs no descriptor */
		return flush_failed(f, -errno, "complete the writing of", e);
	if (renameat(f->part.parent, f->part.file, f->part.parent, f->part.base))
		return store_fail(e, -errno, "put in place", f->name);
	rc = sync ? store_sync_parents(f->store->root, f->name) : 0;
	return rc < 0 ? store_fail(e, rc, "flush the folder of", f->name) : 0;
}

int store_finish_file(struct store_file *f, bool sync, struct err *e)
{
	int rc = part_old_stays(&f->part);

	if (rc < 0)
		return store_fail(e, rc, "compare", f->name);
	if (rc > 0)
		return finish_old(f, sync, e);
	rc = part_make(&f->part, e);
	return rc < 0 ? rc : finish_part(f, sync, e);
}

struct settling {
	struct store_file *const *files;
	uint32_t n, next;
	bool sync;
};

static bool waits_for_disk(const struct store_file *f, bool sync)
{
	return f && f->kind == STORE_FILE && f->part.fd >= 0 && (sync || replaces(f));
}

static void *settle_some(void *arg)
{
	struct settling *s = arg;
	uint32_t i;

	while ((i = __atomic_fetch_add(&s->next, 1, __ATOMIC_RELAXED)) < s->n) {
		struct store_file *f = s->files[i];

		if (!waits_for_disk(f, s->sync))
			continue;
		f->settle_rc = settle(f, s->sync, &f->settle_err);
		f->settled = true;
	}
	return NULL;
}

void store_settle(struct store_file *const *files, uint32_t n, bool sync)
{
	struct settling s = { .files = files, .n = n, .sync = sync };
	pthread_t thread[SETTLERS - 1];
	uint32_t waiting = 0, threads = 0;

	for (uint32_t i = 0; i < n; i++)
		waiting += waits_for_disk(files[i], sync);
	while (threads < SETTLERS - 1 && threads + 1 < waiting &&
	       !pthread_create(&thread[threads], NULL, settle_some, &s))
		threads++;
	settle_some(&s);
	while (threads)
		pthread_join(thread[--threads], NULL);
}

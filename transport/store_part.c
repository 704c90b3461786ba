/* SPDX-License-Identifier: MIT */
#include "transport/store_part.h"

#include "base/util.h"
#include "transport/store.h"
#include "transport/store_path.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define LOCK_TRIES 16

struct part part_of(const char *name)
{
	const char *slash = strrchr(name, '/');
	struct part p = { .parent = -1, .fd = -1, .old = -1, .name = name, .base = slash ? slash + 1 : name };

	store_part_name(p.file, p.base);
	return p;
}

void part_close(struct part *p)
{
	if (p->old >= 0)
		close(p->old);
	if (p->fd >= 0)
		close(p->fd);
	if (p->parent >= 0)
		close(p->parent);
	p->parent = p->fd = p->old = -1;
}

int part_is_ours(const struct part *p)
{
	struct stat held, there;

	if (fstat(p->fd, &held))
		return -errno;
	if (fstatat(p->parent, p->file, &there, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : -errno;
	return held.st_dev == there.st_dev && held.st_ino == there.st_ino;
}

/* Opens a part that its owner may not even read, for its lock only; *unread is its path and *mode its mode. */
static int open_unreadable(const struct part *p, int *unread, uint32_t *mode)
{
	int path = store_open_at(p->parent, p->file, O_PATH, 0), fd;
	struct stat st;

	if (path < 0)
		return path;
	if (fstat(path, &st) || !S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_mode & S_IRUSR) {
		close(path);
		return -EACCES;
	}
	*unread = path;
	*mode = st.st_mode & 07777;
	fd = store_chmod_path(path, *mode | S_IRUSR);
	return fd < 0 ? fd : store_open_at(p->parent, p->file, O_RDONLY | O_NONBLOCK, 0);
}

/* Opens the part or makes it; sets p->fd. -EAGAIN: somebody was faster, try again. */
static int part_open(struct part *p, bool *existed, int *unread, uint32_t *mode)
{
	int fd = store_open_at(p->parent, p->file, O_RDWR | O_NONBLOCK, 0);

	/* Killed between its last chmod and its rename, it has the mode of the file that it was to be. */
	if (fd == -EACCES)
		fd = store_open_at(p->parent, p->file, O_RDONLY | O_NONBLOCK, 0);
	if (fd == -EACCES)
		fd = open_unreadable(p, unread, mode);
	*existed = fd != -ENOENT;
	if (fd == -ENOENT)
		fd = store_open_at(p->parent, p->file, O_RDWR | O_CREAT | O_EXCL, PART_MODE);
	if (fd == -EEXIST)
		return -EAGAIN;
	if (fd >= 0)
		p->fd = fd;
	return fd < 0 ? fd : 0;
}

/* Locks what part_open opened. -EAGAIN: it lost its name meanwhile, or could not be used as it was and is mended. */
static int part_lock(struct part *p, bool existed)
{
	struct stat st;
	int rc;

	if (fstat(p->fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EEXIST;
	if (flock(p->fd, LOCK_EX | LOCK_NB))
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	rc = part_is_ours(p);
	if (rc <= 0)
		return rc < 0 ? rc : -EAGAIN;
	/* Somebody else's file would show them what we write; one with a second name would change under it. */
	if (existed && (st.st_uid != geteuid() || st.st_nlink != 1))
		return unlinkat(p->parent, p->file, 0) ? -errno : -EAGAIN;
	/* Not before it is locked: another transfer may be about to rename it. */
	if ((fcntl(p->fd, F_GETFL) & O_ACCMODE) == O_RDONLY)
		return fchmod(p->fd, PART_MODE) ? -errno : -EAGAIN;
	return 0;
}

static int part_take(struct part *p, struct err *e)
{
	bool existed = false;
	int rc = -EAGAIN;

	for (int i = 0; i < LOCK_TRIES && rc == -EAGAIN; i++) {
		int unread = -1;
		uint32_t mode = 0;

		rc = part_open(p, &existed, &unread, &mode);
		if (!rc)
			rc = part_lock(p, existed);
		/* Somebody is about to rename it. */
		if (rc == -EBUSY && unread >= 0)
			store_chmod_path(unread, mode);
		if (unread >= 0)
			close(unread);
		if (rc < 0 && p->fd >= 0) {
			close(p->fd);
			p->fd = -1;
		}
	}
	if (rc == -EBUSY || rc == -EAGAIN) {
		char shown[STORE_NAME_SHOWN];

		return err_set(e, -EBUSY, "\"%s\" is being received by another transfer; wait for that one to end",
			       store_name_show(shown, sizeof shown, p->name));
	}
	return rc < 0 ? store_fail(e, rc, "open the part file of", p->name) : 0;
}

/* What stands under NAME now must be a regular file or nothing. */
static int target_check(const struct part *p, struct err *e)
{
	struct stat st;

	if (fstatat(p->parent, p->base, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : store_fail(e, -errno, "examine", p->name);
	if (S_ISREG(st.st_mode))
		return 0;
	if (S_ISDIR(st.st_mode))
		return store_fail(e, -EISDIR, "replace", p->name);
	return store_fail(e, S_ISLNK(st.st_mode) ? -ELOOP : -EEXIST, "replace", p->name);
}

/* -ENOSPC when data_bytes less the blocks that the part holds already do not fit. */
static int room_check(const struct part *p, uint64_t data_bytes, struct err *e)
{
	char shown[STORE_NAME_SHOWN];
	struct statvfs vfs;
	struct stat st;
	uint64_t held, need, room;

	if (fstat(p->fd, &st) || fstatvfs(p->fd, &vfs))
		return store_fail(e, -errno, "examine the file system of", p->name);
	held = (uint64_t)st.st_blocks * 512;
	need = data_bytes > held ? data_bytes - held : 0;
	room = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	/* A file system without a limit of its own says that it has no blocks at all. */
	if (!vfs.f_blocks || need <= room)
		return 0;
	return err_set(e, -ENOSPC,
		       "\"%s\" needs %llu bytes more, the store's file system has %llu free; "
		       "free some space there or use another folder",
		       store_name_show(shown, sizeof shown, p->name), (unsigned long long)need,
		       (unsigned long long)room);
}

static int copy_range(int from, int to, off_t at, off_t end)
{
	while (at < end) {
		off_t in = at, out = at;
		ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(end - at), 0);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n)
			return -EIO;
		if (n > 0)
			at += n;
	}
	return 0;
}

static int copy_data(int from, int to, off_t len)
{
	off_t data = 0, hole;
	int rc = 0;

	while (!rc && data < len) {
		data = lseek(from, data, SEEK_DATA);
		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		hole = lseek(from, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		if (data >= len)
			return 0;
		rc = copy_range(from, to, data, hole < len ? hole : len);
		data = hole;
	}
	return rc;
}

/* Opens NAME to be compared in place. False: it is not there, or cannot be read. */
static bool old_open(struct part *p)
{
	int fd = store_open_at(p->parent, p->base, O_RDONLY | O_NONBLOCK, 0);

	if (fd < 0)
		return false;
	if (fstat(fd, &p->was) || !S_ISREG(p->was.st_mode) || !p->was.st_size) {
		close(fd);
		return false;
	}
	p->old = fd;
	return true;
}

static bool same_times(const struct stat *a, const struct stat *b)
{
	return a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* What was compared may have been written to, or have lost its name to another. */
static int old_unchanged(const struct part *p)
{
	struct stat held, there;

	if (fstat(p->old, &held))
		return -errno;
	if (fstatat(p->parent, p->base, &there, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? -ESTALE : -errno;
	return there.st_dev == held.st_dev && there.st_ino == held.st_ino && held.st_size == p->was.st_size &&
			       same_times(&held, &p->was)
		       ? 0
		       : -ESTALE;
}

int part_old_stays(const struct part *p)
{
	int rc;

	if (p->old < 0 || p->fd >= 0 || (uint64_t)p->was.st_size != p->size || p->was.st_uid != geteuid())
		return 0;
	rc = old_unchanged(p);
	return rc < 0 ? rc : 1;
}

/* Fills the empty part from NAME. Room is checked before a copy, and after a clone, which takes none itself. */
static int part_from_old(struct part *p, struct err *e)
{
	uint64_t len = min_u64((uint64_t)p->was.st_size, p->size);
	int rc;

	if (!ioctl(p->fd, FICLONE, p->old)) {
		rc = room_check(p, p->data_bytes, e);
	} else {
		rc = room_check(p, p->data_bytes, e);
		if (rc < 0)
			return rc;
		rc = copy_data(p->old, p->fd, (off_t)len);
		if (rc < 0)
			return store_fail(e, rc, "copy what is there of", p->name);
		/* When the sender did not wait so long, its next try finds the copy made. */
		p->worth = true;
	}
	if (rc >= 0 && ftruncate(p->fd, (off_t)p->size))
		rc = store_fail(e, -errno, "set the size of the part file of", p->name);
	if (rc >= 0 && (rc = old_unchanged(p)) < 0)
		rc = store_fail(e, rc, "compare", p->name);
	return rc;
}

int part_make(struct part *p, struct err *e)
{
	int rc;

	if (p->fd >= 0)
		return 0;
	rc = part_take(p, e);
	if (rc < 0)
		return rc;
	if (fchmod(p->fd, PART_MODE) || ftruncate(p->fd, 0))
		rc = store_fail(e, -errno, "truncate the part file of", p->name);
	if (!rc)
		rc = part_from_old(p, e);
	if (rc < 0) {
		part_remove(p);
		close(p->fd);
		p->fd = -1;
		p->worth = false;
		return rc;
	}
	close(p->old);
	p->old = -1;
	return 0;
}

static int part_prepare(struct part *p, bool resume, uint64_t *have, struct err *e)
{
	uint64_t keep = 0;
	struct stat st;
	int rc;

	if (fstat(p->fd, &st))
		return store_fail(e, -errno, "examine the part file of", p->name);
	if ((st.st_mode & 07777) != PART_MODE && fchmod(p->fd, PART_MODE))
		return store_fail(e, -errno, "set the mode of the part file of", p->name);
	if (resume)
		keep = min_u64((uint64_t)st.st_size, p->size);
	p->worth = keep > 0;
	/* Cut first: what lies behind the end is room that this file gets back. */
	if (st.st_size && ftruncate(p->fd, (off_t)keep))
		return store_fail(e, -errno, "truncate the part file of", p->name);
	rc = room_check(p, p->data_bytes, e);
	if (rc < 0)
		return rc;
	if (ftruncate(p->fd, (off_t)p->size))
		return store_fail(e, -errno, "set the size of the part file of", p->name);
	*have = keep;
	return 0;
}

static bool no_part(const struct part *p)
{
	struct stat st;

	return fstatat(p->parent, p->file, &st, AT_SYMLINK_NOFOLLOW) && errno == ENOENT;
}

void part_remove(const struct part *p)
{
	if (part_is_ours(p) > 0)
		unlinkat(p->parent, p->file, 0);
}

int part_begin(struct part *p, int root, uint64_t size, uint64_t data_bytes, bool resume, uint64_t *have, struct err *e)
{
	struct stat st;
	int rc;

	p->parent = store_open_parent(root, p->name);
	if (p->parent < 0)
		return store_fail(e, p->parent, "make the folder of", p->name);
	p->size = size;
	p->data_bytes = data_bytes;
	rc = target_check(p, e);
	if (!rc && resume && size && no_part(p) && old_open(p)) {
		*have = min_u64((uint64_t)p->was.st_size, size);
		return 0;
	}
	if (!rc)
		rc = part_take(p, e);
	if (rc < 0)
		return rc;
	if (resume && size && !fstat(p->fd, &st) && !st.st_size && old_open(p)) {
		/* an empty part is none */
		part_remove(p);
		close(p->fd);
		p->fd = -1;
		*have = min_u64((uint64_t)p->was.st_size, size);
		return 0;
	}
	rc = part_prepare(p, resume, have, e);
	if (rc < 0 && !p->worth)
		part_remove(p);
	return rc;
}

/* SPDX-License-Identifier: MIT */
#include "transport/source.h"

#include "base/clock.h"
#include "base/util.h"
#include "transport/source_fd.h"
#include "transport/store_path.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The slowest usual tick (100 Hz): what happens within one may get the same time stamp. */
#define TICK_NS (10 * NS_PER_MS)
#define SETTLE_TRIES 4

int source_open_at(const char *path, size_t operand_len, int flags)
{
	const char *rest = path + operand_len;
	char operand[PATH_MAX];
	int root, fd;

	if (!*rest) {
		fd = open(path, flags | O_CLOEXEC);
		return fd < 0 ? -errno : fd;
	}
	if (operand_len >= sizeof operand)
		return -ENAMETOOLONG;
	memcpy(operand, path, operand_len);
	operand[operand_len] = 0;
	root = open(operand, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -errno;
	fd = store_open_at(root, rest + (*rest == '/'), flags, 0);
	close(root);
	return fd;
}

/* The next stretch of data at or after `from`: 1, or 0 when there is none, or -errno. */
static int next_extent(int fd, uint64_t from, uint64_t size, struct source_extent *x)
{
	off_t data, hole;

	if (from >= size)
		return 0;
	data = lseek(fd, (off_t)from, SEEK_DATA);
	if (data < 0 && errno == ENXIO)
		return 0;
	if (data < 0 && errno != EINVAL && errno != EOPNOTSUPP)
		return -errno;
	if (data < 0) {
		*x = (struct source_extent){ from, size - from };
		return 1;
	}
	if ((uint64_t)data >= size)
		return 0;
	hole = lseek(fd, data, SEEK_HOLE);
	if (hole < 0 || (uint64_t)hole > size)
		hole = (off_t)size;
	*x = (struct source_extent){ (uint64_t)data, (uint64_t)(hole - data) };
	return 1;
}

int source_data_bytes(int fd, const struct stat *st, uint64_t *bytes)
{
	uint64_t size = (uint64_t)st->st_size, sum = 0;
	struct source_extent x = { 0, 0 };
	int rc = 1;

	if ((uint64_t)st->st_blocks * 512 >= size) {
		*bytes = size;
		return 0;
	}
	while (rc > 0) {
		rc = next_extent(fd, x.offset + x.len, size, &x);
		if (rc > 0)
			sum += x.len;
	}
	*bytes = sum;
	return rc;
}

/* Joins extents over holes shorter than `gap`; returns how many are left. */
static uint64_t extents_join(struct source_extent *v, uint64_t n, uint64_t gap)
{
	uint64_t last = 0;

	for (uint64_t i = 1; i < n; i++) {
		if (v[i].offset - (v[last].offset + v[last].len) < gap)
			v[last].len = v[i].offset + v[i].len - v[last].offset;
		else
			v[++last] = v[i];
	}
	return n ? last + 1 : 0;
}

int source_extents(const struct source_file *f, struct source_extent **v, uint64_t *n, struct err *e)
{
	struct source_extent *list = NULL, *bigger, x = { 0, 0 };
	uint64_t used = 0, cap = 0, gap = 1;
	int rc;

	while ((rc = next_extent(f->fd, x.offset + x.len, f->size, &x)) > 0) {
		while (used == SOURCE_EXTENTS_MAX) {
			gap *= 2;
			used = extents_join(list, used, gap);
		}
		if (used == cap) {
			cap = cap ? cap * 2 : 16;
			bigger = realloc(list, cap * sizeof *list);
			if (!bigger) {
				rc = -ENOMEM;
				break;
			}
			list = bigger;
		}
		list[used++] = x;
	}
	if (rc < 0) {
		free(list);
		return store_fail(e, rc, "find the holes of", f->entry->path);
	}
	*v = list;
	*n = extents_join(list, used, gap);
	return 0;
}

/* fstat(2) after which every change gets another time stamp than it tells. */
static int stat_settled(int fd, struct stat *st)
{
	const struct timespec tick = { .tv_nsec = TICK_NS };
	struct timespec now;

	for (int i = 0;; i++) {
		int64_t age;

		if (fstat(fd, st))
			return -errno;
		clock_gettime(CLOCK_REALTIME, &now);
		if (now.tv_sec - st->st_ctim.tv_sec > 1 || now.tv_sec < st->st_ctim.tv_sec || i == SETTLE_TRIES)
			return 0;
		age = (now.tv_sec - st->st_ctim.tv_sec) * (int64_t)NS_PER_S + now.tv_nsec - st->st_ctim.tv_nsec;
		if (age < 0 || age > (int64_t)TICK_NS)
			return 0;
		nanosleep(&tick, NULL);
	}
}

int source_open(struct source_file *f, const struct source_entry *entry, struct err *e)
{
	uint64_t data_bytes = 0;
	struct stat st;
	int fd, rc;

	fd = source_open_at(entry->path, entry->operand_len, O_RDONLY | O_NONBLOCK);
	if (fd < 0)
		return store_fail(e, fd, "read", entry->path);
	rc = stat_settled(fd, &st);
	if (!rc)
		rc = S_ISREG(st.st_mode) ? source_data_bytes(fd, &st, &data_bytes) : -ESTALE;
	if (rc < 0) {
		close(fd);
		return store_fail(e, rc, "read", entry->path);
	}
	*f = (struct source_file){
		.fd = fd,
		.entry = entry,
		.dev = st.st_dev,
		.ino = st.st_ino,
		.size = (uint64_t)st.st_size,
		.data_bytes = data_bytes,
		.mode = st.st_mode & 0777,
		.mtime_s = st.st_mtim.tv_sec,
		.mtime_ns = (uint32_t)st.st_mtim.tv_nsec,
		.ctime_s = st.st_ctim.tv_sec,
		.ctime_ns = (uint32_t)st.st_ctim.tv_nsec,
	};
	return 0;
}

void source_close(struct source_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}

void source_spec(const struct source_entry *entry, const struct source_file *f, bool resume, struct store_spec *out)
{
	*out = (struct store_spec){
		.kind = (uint8_t)entry->kind,
		.resume = resume,
		.mode = f ? f->mode : entry->mode,
		.size = f ? f->size : entry->size,
		.mtime_s = f ? f->mtime_s : entry->mtime_s,
		.mtime_ns = f ? f->mtime_ns : entry->mtime_ns,
		.data_bytes = f ? f->data_bytes : entry->data_bytes,
	};
	snprintf(out->name, sizeof out->name, "%s", entry->name);
}

int source_unchanged(const struct source_file *f, struct err *e)
{
	char shown[STORE_NAME_SHOWN];
	const char *what = NULL;
	struct stat st;

	if (fstat(f->fd, &st))
		return store_fail(e, -errno, "examine", f->entry->path);
	if ((uint64_t)st.st_size != f->size)
		what = (uint64_t)st.st_size < f->size ? "has become shorter" : "has become longer";
	else if (st.st_mtim.tv_sec != f->mtime_s || (uint32_t)st.st_mtim.tv_nsec != f->mtime_ns)
		what = "was written to";
	else if (!st.st_nlink)
		what = "was removed or replaced";
	else if (st.st_ctim.tv_sec != f->ctime_s || (uint32_t)st.st_ctim.tv_nsec != f->ctime_ns)
		what = "was changed";
	if (!what)
		return 0;
	return err_set(e, -ESTALE, "\"%s\" %s while it was sent; send it again when nothing writes to it",
		       store_name_show(shown, sizeof shown, f->entry->path), what);
}

int source_read(const struct source_file *f, void *out, uint32_t len, uint64_t offset)
{
	uint8_t *p = out;

	if (offset > INT64_MAX - (uint64_t)len)
		return -EINVAL;
	while (len) {
		ssize_t n = pread(f->fd, p, len, (off_t)offset);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n)
			return -ESTALE;
		if (n > 0) {
			p += n;
			offset += (uint64_t)n;
			len -= (uint32_t)n;
		}
	}
	return 0;
}

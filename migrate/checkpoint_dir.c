/* SPDX-License-Identifier: MIT */
/* A directory of checkpoints: which there are, what each builds on, who may write. */
#include "migrate/checkpoint_file.h"

#include "base/clock.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define LOCK_WAIT_NS (60 * NS_PER_S)
#define LOCK_LOOK_MS 10
#define DIGITS 8

int ckpt_dir_open(struct ckpt_dir *d, const char *path, struct err *e)
{
	snprintf(d->path, sizeof d->path, "%s", path);
	d->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return d->fd < 0 ? err_set(e, -errno, "cannot open the directory %s: %s; name one that is there", path,
				   strerror(errno))
			 : 0;
}

void ckpt_dir_close(struct ckpt_dir *d)
{
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
}

/* The number in "00000012.ckpt" and what follows it, or 0. */
static uint32_t number_in(const char *name, const char *end)
{
	uint32_t n = 0;

	for (int i = 0; i < DIGITS; i++) {
		if (name[i] < '0' || name[i] > '9')
			return 0;
		n = n * 10 + (uint32_t)(name[i] - '0');
	}
	return strcmp(name + DIGITS, end) ? 0 : n;
}

static DIR *open_entries(const struct ckpt_dir *d)
{
	int fd = openat(d->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir && fd >= 0)
		close(fd);
	return dir;
}

/* What writers left that died. */
static void sweep(const struct ckpt_dir *d)
{
	const struct dirent *entry;
	DIR *dir = open_entries(d);

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] == '.' && number_in(entry->d_name + 1, ".ckpt.part"))
			unlinkat(d->fd, entry->d_name, 0);
	if (dir)
		closedir(dir);
}

int ckpt_dir_lock(struct ckpt_dir *d, bool writer, struct err *e)
{
	uint64_t until = clock_now(&clock_mono) + LOCK_WAIT_NS;

	while (flock(d->fd, (writer ? LOCK_EX : LOCK_SH) | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return err_set(e, -errno, "cannot lock the directory %s: %s; choose a local one", d->path,
				       strerror(errno));
		if (clock_now(&clock_mono) > until)
			return err_set(e, -EBUSY, "another process works on the checkpoints in %s: wait for its end",
				       d->path);
		poll(NULL, 0, LOCK_LOOK_MS);
	}
	if (writer)
		sweep(d);
	return 0;
}

void ckpt_dir_unlock(struct ckpt_dir *d)
{
	flock(d->fd, LOCK_UN);
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static int add(uint32_t **list, size_t *n, size_t *cap, uint32_t number)
{
	if (*n == *cap) {
		size_t more = *cap ? *cap * 2 : 64;
		uint32_t *grown = realloc(*list, more * sizeof **list);

		if (!grown)
			return -ENOMEM;
		*list = grown;
		*cap = more;
	}
	(*list)[(*n)++] = number;
	return 0;
}

int ckpt_dir_scan(const struct ckpt_dir *d, uint32_t **numbers, size_t *n, struct err *e)
{
	const struct dirent *entry;
	DIR *dir = open_entries(d);
	uint32_t *list = NULL, number;
	size_t count = 0, cap = 0;
	int rc = 0;

	if (!dir)
		return err_set(e, -errno, "cannot read the directory %s: %s; check its permissions", d->path,
			       strerror(errno));
	while (rc == 0 && (entry = readdir(dir))) {
		number = number_in(entry->d_name, ".ckpt");
		if (number)
			rc = add(&list, &count, &cap, number);
	}
	closedir(dir);
	if (rc < 0) {
		free(list);
		return err_set(e, rc, "no memory to list the checkpoints in %s", d->path);
	}
	if (count)
		qsort(list, count, sizeof *list, by_number);
	*numbers = list;
	*n = count;
	return 0;
}

/* ---- one of them ------------------------------------------------------------------------------- */

static ssize_t read_fd(void *ctx, void *buf, size_t n)
{
	size_t got = 0;

	while (got < n) {
		ssize_t k = read(*(int *)ctx, (uint8_t *)buf + got, n - got);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		if (k == 0)
			break;
		got += (size_t)k;
	}
	return (ssize_t)got;
}

int ckpt_refused(const struct ckpt_dir *d, uint32_t number, int rc, const struct ckpt_reader *r, const char *why,
		 struct err *e)
{
	char name[CKPT_NAME];

	ckpt_name(name, number);
	switch (rc) {
	case -EBADMSG:
		return err_set(e, rc, "%s/%s is damaged at byte %llu: %s", d->path, name,
			       (unsigned long long)(why ? r->at : r->why_at), why ? why : r->why);
	case -EPROTO:
		return err_set(e, rc, "%s/%s cannot be read: %s; use the dwcp release that wrote it", d->path, name,
			       r->why);
	case -EINVAL:
		return err_set(e, rc,
			       "%s/%s cannot be read: %s; this dwcp has pages of %u bytes and guests of 1 MB to 4 TB",
			       d->path, name, r->why, GUEST_PAGE);
	case -ENOMEM:
		return err_set(e, rc, "no memory to read %s/%s", d->path, name);
	default:
		return err_set(e, rc, "reading %s/%s: %s; check the disk", d->path, name, strerror(-rc));
	}
}

int ckpt_dir_read(const struct ckpt_dir *d, uint32_t number, int *fd, struct ckpt_reader *r, struct err *e)
{
	char name[CKPT_NAME];
	int rc;

	ckpt_name(name, number);
	memset(r, 0, sizeof *r);
	*fd = openat(d->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (*fd < 0)
		return err_set(e, -errno, "cannot open %s/%s: %s", d->path, name, strerror(errno));
	rc = ckpt_reader_open(r, read_fd, fd);
	if (rc < 0)
		return ckpt_refused(d, number, rc, r, NULL, e);
	if (r->head.number != number)
		return err_set(e, -EBADMSG,
			       "%s/%s says that it is checkpoint %u: it was renamed, give it its name back", d->path,
			       name, r->head.number);
	return 0;
}

static void end_reading(int fd, struct ckpt_reader *r)
{
	ckpt_reader_close(r);
	if (fd >= 0)
		close(fd);
}

int ckpt_dir_head(const struct ckpt_dir *d, uint32_t number, struct checkpoint_head *h, struct err *e)
{
	struct ckpt_reader r;
	int fd, rc = ckpt_dir_read(d, number, &fd, &r, e);

	if (rc == 0)
		*h = r.head;
	end_reading(fd, &r);
	return rc;
}

int ckpt_dir_verify(const struct ckpt_dir *d, uint32_t number, struct err *e)
{
	struct ckpt_reader r;
	size_t len;
	int fd, rc = ckpt_dir_read(d, number, &fd, &r, e);

	if (rc == 0) {
		while ((rc = ckpt_reader_next(&r, &len)) > 0)
			;
		if (rc < 0)
			ckpt_refused(d, number, rc, &r, NULL, e);
	}
	end_reading(fd, &r);
	return rc;
}

/* ---- chains ------------------------------------------------------------------------------------ */

static int newest(const struct ckpt_dir *d, uint32_t *number, struct err *e)
{
	uint32_t *numbers;
	size_t n;
	int rc = ckpt_dir_scan(d, &numbers, &n, e);

	if (rc < 0)
		return rc;
	*number = n ? numbers[n - 1] : 0;
	free(numbers);
	return n ? 0 : err_set(e, -ENOENT, "there are no checkpoints in %s: name the directory that has them", d->path);
}

/* Is `base` what `h` was made upon? */
static int belongs(const struct ckpt_dir *d, const struct checkpoint_head *h, const struct checkpoint_head *base,
		   struct err *e)
{
	if (h->base.hi != base->id.hi || h->base.lo != base->id.lo || h->memory != base->memory ||
	    strcmp(h->kind, base->kind))
		return err_set(e, -EBADMSG,
			       "checkpoint %u in %s builds on another checkpoint %u than the one that is there: bring "
			       "back the one it was taken with",
			       h->number, d->path, base->number);
	return 0;
}

static int grow(struct checkpoint_head **list, size_t n, size_t *cap)
{
	struct checkpoint_head *grown;

	if (n < *cap)
		return 0;
	*cap = *cap ? *cap * 2 : 16;
	grown = realloc(*list, *cap * sizeof **list);
	if (!grown)
		return -ENOMEM;
	*list = grown;
	return 0;
}

/* Numbers only get smaller on the way to the full one, so it ends. */
int ckpt_dir_chain(const struct ckpt_dir *d, uint32_t number, struct checkpoint_head **chain, size_t *n, struct err *e)
{
	struct checkpoint_head *list = NULL, swap;
	size_t count = 0, cap = 0;
	int rc = number ? 0 : newest(d, &number, e);

	while (rc == 0 && number) {
		rc = grow(&list, count, &cap);
		if (rc < 0) {
			err_set(e, rc, "no memory for a chain of checkpoints");
			break;
		}
		rc = ckpt_dir_head(d, number, &list[count], e);
		if (rc == -ENOENT && count)
			err_set(e, rc, "checkpoint %u in %s builds on number %u, which is not there: bring it back",
				list[count - 1].number, d->path, number);
		if (rc == 0 && count)
			rc = belongs(d, &list[count - 1], &list[count], e);
		if (rc == 0)
			number = list[count++].base_number;
	}
	if (rc < 0) {
		free(list);
		return rc;
	}
	for (size_t i = 0; i < count / 2; i++) {
		swap = list[i];
		list[i] = list[count - 1 - i];
		list[count - 1 - i] = swap;
	}
	*chain = list;
	*n = count;
	return 0;
}

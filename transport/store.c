/* SPDX-License-Identifier: MIT */
#include "transport/store_impl.h"

#include "base/util.h"
#include "transport/store_path.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODE_BITS 0777u

/* A folder that was there and got more permissions for the time of the transfer. */
struct widened {
	struct widened *next;
	uint32_t mode; /* before */
	char name[];
};

int store_open(struct store **out, const char *dir, struct err *e)
{
	struct store *s = NULL;
	int root, rc;

	root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return store_fail(e, -errno, "open the store folder", dir);
	if (faccessat(root, ".", W_OK | X_OK, AT_EACCESS)) {
		rc = store_fail(e, -errno, "write to the store folder", dir);
		goto out;
	}
	rc = store_open_at(root, ".", O_PATH | O_DIRECTORY, 0);
	if (rc < 0) {
		rc = err_set(e, rc,
			     "openat2(2) does not work here, which keeps received files inside the store; "
			     "use Linux 5.6 or newer and a container profile that allows it");
		goto out;
	}
	close(rc);
	s = malloc(sizeof *s);
	if (!s) {
		rc = store_fail(e, -ENOMEM, "open the store folder", dir);
		goto out;
	}
	*s = (struct store){ .root = root };
	pthread_mutex_init(&s->lock, NULL);
	*out = s;
	return 0;
out:
	close(root);
	return rc;
}

static int widened_add(struct store *s, const char *name, uint32_t mode)
{
	size_t len = strlen(name) + 1;
	struct widened *w = malloc(sizeof *w + len);

	if (!w)
		return -ENOMEM;
	w->mode = mode;
	memcpy(w->name, name, len);
	pthread_mutex_lock(&s->lock);
	w->next = s->widened;
	s->widened = w;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/* The caller's from now on; NULL: there is none of that name. */
static struct widened *widened_take(struct store *s, const char *name)
{
	struct widened **at = &s->widened, *w;

	pthread_mutex_lock(&s->lock);
	while (*at && strcmp((*at)->name, name))
		at = &(*at)->next;
	w = *at;
	if (w)
		*at = w->next;
	pthread_mutex_unlock(&s->lock);
	return w;
}

static uint32_t widened_mode(uint32_t mode)
{
	return (mode & MODE_BITS) | S_IRWXU;
}

/* Unless somebody else has changed it meanwhile. */
static void widened_restore(struct store *s, struct widened *w)
{
	int fd = store_open_at(s->root, w->name, O_PATH | O_DIRECTORY, 0);
	struct stat st;

	if (fd >= 0 && !fstat(fd, &st) && (st.st_mode & 07777) == widened_mode(w->mode))
		store_chmod_path(fd, w->mode);
	if (fd >= 0)
		close(fd);
	free(w);
}

void store_close(struct store *s)
{
	if (!s)
		return;
	while (s->widened) {
		struct widened *w = s->widened;

		s->widened = w->next;
		widened_restore(s, w);
	}
	pthread_mutex_destroy(&s->lock);
	close(s->root);
	free(s);
}

const char *store_file_name(const struct store_file *f)
{
	return f->name;
}

static void file_free(struct store_file *f)
{
	part_close(&f->part);
	free(f->block);
	free(f);
}

static struct store_file *file_new(struct store *s, const struct store_spec *spec)
{
	size_t len = strlen(spec->name);
	struct store_file *f;

	f = calloc(1, sizeof *f + len + 1);
	if (!f)
		return NULL;
	f->store = s;
	f->kind = spec->kind;
	f->mode = spec->mode & MODE_BITS;
	f->size = spec->size;
	f->mtime = (struct timespec){ .tv_sec = spec->mtime_s, .tv_nsec = spec->mtime_ns };
	memcpy(f->name, spec->name, len + 1);
	f->part = part_of(f->name);
	return f;
}

static int spec_check(const struct store_spec *spec, struct err *e)
{
	int rc = store_name_check(spec->name, e);

	if (rc < 0)
		return rc;
	if (spec->kind != STORE_FILE && spec->kind != STORE_DIR)
		return err_set(e, -EINVAL, "entry of unknown kind %u; use the same version on both sides", spec->kind);
	if (spec->mtime_ns >= 1000000000)
		return err_set(e, -EINVAL,
			       "modification time with %u ns is not valid; use the same version on "
			       "both sides",
			       spec->mtime_ns);
	if (spec->size > INT64_MAX)
		return store_fail(e, -EFBIG, "begin", spec->name);
	return 0;
}

/* An existing folder is made usable for us until its mode is set at the end. */
static int folder_reuse(struct store *s, int parent, const char *base, const char *name, struct err *e)
{
	int fd = store_open_at(parent, base, O_PATH | O_DIRECTORY, 0), rc = 0;
	struct stat st;

	if (fd < 0)
		return store_fail(e, fd, "make the folder", name);
	if (fstat(fd, &st)) {
		rc = -errno;
	} else if ((st.st_mode & S_IRWXU) != S_IRWXU && st.st_uid == geteuid()) {
		rc = store_chmod_path(fd, widened_mode(st.st_mode));
		if (!rc)
			rc = widened_add(s, name, st.st_mode & 07777);
	}
	close(fd);
	return rc < 0 ? store_fail(e, rc, "make writable the folder", name) : 0;
}

static int begin_folder(struct store_file *f, struct err *e)
{
	int parent = store_open_parent(f->store->root, f->name), rc = 0;

	if (parent < 0)
		return store_fail(e, parent, "make the folder of", f->name);
	/* Never open to more people than it will be at the end. */
	if (mkdirat(parent, f->part.base, f->mode | S_IRWXU)) {
		if (errno == EEXIST)
			rc = folder_reuse(f->store, parent, f->part.base, f->name, e);
		else
			rc = store_fail(e, -errno, "make the folder", f->name);
	}
	close(parent);
	return rc;
}

static int finish_folder(struct store_file *f, bool sync, struct err *e)
{
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, f->mtime };
	int fd, rc = 0;

	fd = store_open_at(f->store->root, f->name, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return store_fail(e, fd, "open the folder", f->name);
	if (fchmod(fd, f->mode) || futimens(fd, times))
		rc = store_fail(e, -errno, "set mode and time of the folder", f->name);
	for (struct widened *w; !rc && (w = widened_take(f->store, f->name));)
		free(w);
	if (!rc && sync && fsync(fd))
		rc = store_fail(e, -errno, "flush the folder", f->name);
	close(fd);
	if (!rc && sync) {
		rc = store_sync_parents(f->store->root, f->name);
		if (rc < 0)
			rc = store_fail(e, rc, "flush the folders above", f->name);
	}
	return rc;
}

int store_begin(struct store *s, const struct store_spec *spec, struct store_file **out, uint64_t *have, struct err *e)
{
	struct store_file *f;
	uint64_t found = 0;
	int rc = spec_check(spec, e);

	if (rc < 0)
		return rc;
	f = file_new(s, spec);
	if (!f)
		return store_fail(e, -ENOMEM, "begin", spec->name);
	if (f->kind == STORE_DIR)
		rc = begin_folder(f, e);
	else
		rc = part_begin(&f->part, s->root, f->size, spec->data_bytes, spec->resume, &found, e);
	if (rc < 0) {
		file_free(f);
		return rc;
	}
	*out = f;
	*have = found;
	return 0;
}

int store_write(struct store_file *f, const void *data, uint32_t len, uint64_t offset)
{
	const uint8_t *p = data;
	const uint32_t whole = len;

	if (f->part.fd < 0 || len > f->size || offset > f->size - len)
		return -EINVAL;
	/* Looked at first, so that many writers do not fight for the line. */
	if (len && !__atomic_load_n(&f->part.worth, __ATOMIC_RELAXED))
		__atomic_store_n(&f->part.worth, true, __ATOMIC_RELAXED);
	while (len) {
		ssize_t n = pwrite(f->part.fd, p, len, (off_t)offset);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n)
			return -EIO;
		if (n > 0) {
			p += n;
			offset += (uint64_t)n;
			len -= (uint32_t)n;
		}
	}
	__atomic_fetch_add(&f->part.written, whole, __ATOMIC_RELAXED);
	return 0;
}

uint64_t store_written(const struct store_file *f)
{
	return __atomic_load_n(&f->part.written, __ATOMIC_RELAXED);
}

/* NAME itself while it is compared in place. */
static int read_fd(const struct store_file *f)
{
	return f->part.fd >= 0 ? f->part.fd : f->part.old;
}

/* True when the whole block is a hole, as far as the file system tells. */
static bool block_is_hole(const struct store_file *f, uint64_t offset)
{
	off_t data = lseek(read_fd(f), (off_t)offset, SEEK_DATA);

	return data < 0 ? errno == ENXIO : (uint64_t)data >= offset + STORE_BLOCK;
}

static int block_digest(struct store_file *f, uint64_t offset, struct digest128 *out)
{
	size_t len = (size_t)min_u64(STORE_BLOCK, f->size - offset), got = 0;

	if (len == STORE_BLOCK && block_is_hole(f, offset)) {
		if (!f->zero_known) {
			memset(f->block, 0, len);
			f->zero = digest128_of(f->block, len);
			f->zero_known = true;
		}
		*out = f->zero;
		return 0;
	}
	while (got < len) {
		ssize_t n = pread(read_fd(f), f->block + got, len - got, (off_t)(offset + got));

		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n && f->part.fd >= 0)
			return -ESTALE;
		if (!n) { /* NAME is shorter than the file will be */
			memset(f->block + got, 0, len - got);
			break;
		}
		if (n > 0)
			got += (size_t)n;
	}
	*out = digest128_of(f->block, len);
	return 0;
}

int store_hash(struct store_file *f, uint64_t first, uint32_t n, struct digest128 *out, struct err *e)
{
	uint64_t blocks = f->kind == STORE_FILE ? div_up_u64(f->size, STORE_BLOCK) : 0;
	char shown[STORE_NAME_SHOWN];
	int rc = 0;

	if (n > blocks || first > blocks - n)
		return err_set(e, -EINVAL,
			       "blocks %llu to +%u lie outside \"%s\", which has %llu; use the same "
			       "version on both sides",
			       (unsigned long long)first, n, store_name_show(shown, sizeof shown, f->name),
			       (unsigned long long)blocks);
	if (!f->block)
		f->block = malloc(STORE_BLOCK);
	if (!f->block)
		return store_fail(e, -ENOMEM, "read the part file of", f->name);
	for (uint32_t i = 0; i < n && !rc; i++)
		rc = block_digest(f, (first + i) * STORE_BLOCK, &out[i]);
	return rc < 0 ? store_fail(e, rc, "read the part file of", f->name) : 0;
}

int store_prepare(struct store_file *f, struct err *e)
{
	return f->kind == STORE_FILE ? part_make(&f->part, e) : 0;
}

int store_finish(struct store_file *f, bool sync, struct err *e)
{
	int rc = f->kind == STORE_DIR ? finish_folder(f, sync, e) : store_finish_file(f, sync, e);

	file_free(f);
	return rc;
}

void store_abandon(struct store_file *f, bool keep)
{
	struct widened *w = f->kind == STORE_DIR && !keep ? widened_take(f->store, f->name) : NULL;

	if (w)
		widened_restore(f->store, w);
	if (f->kind == STORE_FILE && !(keep && __atomic_load_n(&f->part.worth, __ATOMIC_RELAXED)))
		part_remove(&f->part);
	file_free(f);
}

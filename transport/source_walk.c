/* SPDX-License-Identifier: MIT */
#include "base/log.h"
#include "transport/source.h"
#include "transport/source_fd.h"
#include "transport/store_path.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WARNINGS_MAX 10

_Static_assert(offsetof(struct source_entry, path) == sizeof(struct source_entry), "place_join puts the path there");

/* Where a thing lies: `dir`, or `child` in it. */
struct place {
	const char *dir;
	size_t dir_len;
	size_t operand_len; /* so many bytes of dir are the operand */
	size_t name_at;     /* where the name that is sent starts */
	const char *child;  /* or NULL */
};

/* dir/child, with `head` bytes before it; malloc'ed. */
static char *place_join(const struct place *p, size_t head)
{
	size_t child = p->child ? strlen(p->child) : 0;
	bool slash = child && p->dir[p->dir_len - 1] != '/';
	char *m = malloc(head + p->dir_len + slash + child + 1), *path;

	if (!m)
		return NULL;
	path = m + head;
	memcpy(path, p->dir, p->dir_len);
	if (slash)
		path[p->dir_len] = '/';
	memcpy(path + p->dir_len + slash, child ? p->child : "", child + 1);
	return m;
}

static int place_fail(struct err *e, int code, const char *what, const struct place *p)
{
	char *path = place_join(p, 0);

	code = store_fail(e, code, what, path ? path : p->dir);
	free(path);
	return code;
}

void source_list_free(struct source_list *l)
{
	for (uint64_t i = 0; i < l->n; i++)
		free(l->v[i]);
	for (uint64_t i = 0; i < l->skipped + l->failed; i++)
		free(l->left[i]);
	free(l->v);
	free(l->left);
	*l = (struct source_list){ 0 };
}

static int list_add(struct source_list *l, const struct place *p, const struct stat *st, uint64_t data_bytes,
		    struct err *e)
{
	struct source_entry *entry, **bigger;
	uint64_t cap;
	int rc;

	if (l->n == l->cap) {
		cap = l->cap ? l->cap * 2 : 64;
		bigger = realloc(l->v, cap * sizeof(l->v[0]));
		if (!bigger)
			return place_fail(e, -ENOMEM, "list", p);
		l->v = bigger;
		l->cap = cap;
	}
	entry = (struct source_entry *)place_join(p, sizeof *entry);
	if (!entry)
		return place_fail(e, -ENOMEM, "list", p);
	entry->name = entry->path + p->name_at;
	entry->kind = S_ISDIR(st->st_mode) ? STORE_DIR : STORE_FILE;
	entry->size = S_ISDIR(st->st_mode) ? 0 : (uint64_t)st->st_size;
	entry->data_bytes = data_bytes;
	entry->mtime_s = st->st_mtim.tv_sec;
	entry->mtime_ns = (uint32_t)st->st_mtim.tv_nsec;
	entry->mode = st->st_mode & 0777;
	entry->operand_len = (uint32_t)p->operand_len;
	rc = store_name_check(entry->name, e);
	if (rc < 0) {
		free(entry);
		return rc;
	}
	l->v[l->n++] = entry;
	l->total_bytes += data_bytes;
	return 0;
}

/* Notes what is not sent. why: a string that stays, or with `failed` any, which is copied behind the path. */
static int list_left(struct source_list *l, const struct place *p, const char *why, bool failed, struct err *e)
{
	uint64_t n = l->skipped + l->failed, cap = l->left_cap ? l->left_cap * 2 : 16;
	size_t head = sizeof(struct source_left);
	struct source_left *left, **bigger = l->left;
	char *path;

	if (n == l->left_cap) {
		bigger = realloc(l->left, cap * sizeof(l->left[0]));
		if (!bigger)
			return place_fail(e, -ENOMEM, "list", p);
		l->left = bigger;
		l->left_cap = cap;
	}
	left = (struct source_left *)place_join(p, head);
	if (!left)
		return place_fail(e, -ENOMEM, "list", p);
	if (failed) {
		size_t len = strlen(left->path) + 1;
		struct source_left *longer = realloc(left, head + len + strlen(why) + 1);

		if (!longer) {
			free(left);
			return place_fail(e, -ENOMEM, "list", p);
		}
		left = longer;
		path = left->path + len;
		memcpy(path, why, strlen(why) + 1);
		why = path;
	}
	left->failed = failed;
	left->name = left->path + p->name_at;
	left->why = why;
	l->left[n] = left;
	l->failed += failed;
	l->skipped += !failed;
	return 0;
}

static int list_skip(struct source_list *l, const struct place *p, const char *why, struct err *e)
{
	char shown[STORE_NAME_SHOWN];
	int rc = list_left(l, p, why, false, e);

	if (rc == 0 && l->skipped <= WARNINGS_MAX)
		log_warn("not sent: \"%s\" %s",
			 store_name_show(shown, sizeof shown, l->left[l->skipped + l->failed - 1]->path), why);
	return rc;
}

/* One entry below an operand: the others are sent all the same. 0, or -ENOMEM, which ends the walk. */
static int list_fail(struct source_list *l, const struct place *p, int rc, struct err *e)
{
	struct err why = *e;

	if (rc == -ENOMEM)
		return rc;
	rc = list_left(l, p, why.why, true, e);
	if (rc == 0)
		log_error("not sent: %s", why.why);
	return rc;
}

/* Takes over fd. What is no regular file (any more) is -ENOTSUP. */
static int add_open_file(struct source_list *l, const struct place *p, int fd, struct err *e)
{
	uint64_t data_bytes = 0;
	struct stat st;
	int rc = 0;

	if (fstat(fd, &st))
		rc = -errno;
	else if (!S_ISREG(st.st_mode))
		rc = -ENOTSUP;
	else
		rc = source_data_bytes(fd, &st, &data_bytes);
	close(fd);
	if (rc == -ENOTSUP)
		return rc;
	return rc < 0 ? place_fail(e, rc, "examine", p) : list_add(l, p, &st, data_bytes, e);
}

static int add_child(struct source_list *l, int dir, const struct place *p, struct err *e)
{
	struct stat st;
	int fd, rc;

	if (fstatat(dir, p->child, &st, AT_SYMLINK_NOFOLLOW)) {
		if (errno != ENOENT)
			return place_fail(e, -errno, "examine", p);
		return list_skip(l, p, "has vanished", e);
	}
	if (S_ISDIR(st.st_mode))
		return list_add(l, p, &st, 0, e);
	if (!S_ISREG(st.st_mode))
		return list_skip(l, p, S_ISLNK(st.st_mode) ? "is a symbolic link" : "is a device, socket or fifo", e);
	if (store_is_part_name(p->child))
		return list_skip(l, p, "is the unfinished part of a received file", e);
	fd = store_open_at(dir, p->child, O_RDONLY | O_NONBLOCK, 0);
	rc = fd < 0 ? fd : add_open_file(l, p, fd, e);
	if (rc == -ENOENT || rc == -ELOOP || rc == -ENOTSUP)
		return list_skip(l, p, "has vanished or is no file any more", e);
	return fd < 0 ? place_fail(e, fd, "read", p) : rc;
}

struct names {
	char **v;
	size_t n, cap;
};

static void names_free(struct names *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->v[i]);
	free(a->v);
}

static int names_add(struct names *a, const char *name)
{
	if (a->n == a->cap) {
		size_t cap = a->cap ? a->cap * 2 : 64;
		char **bigger = realloc(a->v, cap * sizeof(a->v[0]));

		if (!bigger)
			return -ENOMEM;
		a->v = bigger;
		a->cap = cap;
	}
	a->v[a->n] = strdup(name);
	return a->v[a->n++] ? 0 : -ENOMEM;
}

static int names_order(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int names_read(struct names *a, DIR *d)
{
	struct dirent *de;
	int rc = 0;

	while (!rc) {
		errno = 0;
		de = readdir(d);
		if (!de) {
			rc = -errno;
			break;
		}
		if (strcmp(de->d_name, ".") && strcmp(de->d_name, ".."))
			rc = names_add(a, de->d_name);
	}
	if (!rc && a->n)
		qsort(a->v, a->n, sizeof(a->v[0]), names_order);
	return rc;
}

/* Adds what is in the folder `where` (child NULL). */
static int list_folder(struct source_list *l, const struct place *where, struct err *e)
{
	char *path = place_join(where, 0);
	struct names names = { 0 };
	struct place p = *where;
	DIR *d = NULL;
	int fd, rc;

	fd = path ? source_open_at(path, where->operand_len, O_RDONLY | O_DIRECTORY) : -ENOMEM;
	if (fd < 0) {
		rc = place_fail(e, fd, "list the folder", where);
		goto out;
	}
	d = fdopendir(fd);
	if (!d) {
		rc = place_fail(e, -errno, "list the folder", where);
		close(fd);
		goto out;
	}
	rc = names_read(&names, d);
	if (rc < 0) {
		rc = place_fail(e, rc, "list the folder", where);
		goto out;
	}
	for (size_t i = 0; i < names.n && !rc; i++) {
		p.child = names.v[i];
		rc = add_child(l, dirfd(d), &p, e);
		if (rc < 0)
			rc = list_fail(l, &p, rc, e);
	}
out:
	names_free(&names);
	if (d)
		closedir(d);
	free(path);
	return rc;
}

/*
 * Operands
 */

/* Cuts trailing "/" and "/."; *contents: the operand has no name of its own. */
static struct place operand_place(const char *operand, bool *contents)
{
	size_t len = strlen(operand), base;

	*contents = false;
	for (;;) {
		while (len > 1 && operand[len - 1] == '/')
			len--;
		if (len < 2 || operand[len - 1] != '.' || operand[len - 2] != '/')
			break;
		*contents = true;
		len--;
	}
	base = len;
	while (base && operand[base - 1] != '/')
		base--;
	if (base == len || (len - base == 1 && operand[base] == '.') ||
	    (len - base == 2 && operand[base] == '.' && operand[base + 1] == '.'))
		*contents = true;
	return (struct place){ .dir = operand,
			       .dir_len = len,
			       .operand_len = len,
			       .name_at = *contents ? len + (operand[len - 1] != '/') : base };
}

static int walk_file(struct source_list *l, const struct place *p, const char *operand, struct err *e)
{
	int fd = open(operand, O_RDONLY | O_NONBLOCK | O_CLOEXEC), rc;

	if (fd < 0)
		return store_fail(e, -errno, "read", operand);
	rc = add_open_file(l, p, fd, e);
	return rc == -ENOTSUP ? store_fail(e, -ESTALE, "read", operand) : rc;
}

static int walk_operand(struct source_list *l, const char *operand, bool recursive, struct err *e)
{
	char shown[STORE_NAME_SHOWN];
	uint64_t first = l->n;
	struct place p;
	struct stat st;
	bool contents;
	int rc;

	if (stat(operand, &st))
		return store_fail(e, -errno, "send", operand);
	store_name_show(shown, sizeof shown, operand);
	if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "cannot send \"%s\": it is neither a file nor a folder; leave it out",
			       shown);
	if (S_ISDIR(st.st_mode) && !recursive)
		return err_set(e, -EISDIR, "\"%s\" is a folder; send it with -r", shown);
	p = operand_place(operand, &contents);
	if (S_ISREG(st.st_mode))
		rc = walk_file(l, &p, operand, e);
	else
		rc = contents ? list_folder(l, &p, e) : list_add(l, &p, &st, 0, e);
	/* The list is its own queue: a folder's children follow at its end, and no folder stays open. */
	for (uint64_t i = first; i < l->n && !rc; i++) {
		const struct source_entry *v = l->v[i];

		if (v->kind != STORE_DIR)
			continue;
		p = (struct place){ .dir = v->path,
				    .dir_len = strlen(v->path),
				    .operand_len = v->operand_len,
				    .name_at = (size_t)(v->name - v->path) };
		rc = list_folder(l, &p, e);
		if (rc < 0 && i > first)
			rc = list_fail(l, &p, rc, e);
	}
	return rc;
}

static int entry_order(const void *a, const void *b)
{
	return strcmp((*(struct source_entry *const *)a)->name, (*(struct source_entry *const *)b)->name);
}

static int find_twins(const struct source_list *l, struct err *e)
{
	struct source_entry **v = malloc(l->n * sizeof(l->v[0]) + 1);
	char one[STORE_NAME_SHOWN], other[STORE_NAME_SHOWN];
	int rc = 0;

	if (!v)
		return err_set(e, -ENOMEM, "cannot list the files to send: out of memory; free some memory");
	if (l->n) {
		memcpy(v, l->v, l->n * sizeof(v[0]));
		qsort(v, l->n, sizeof(v[0]), entry_order);
	}
	for (uint64_t i = 1; i < l->n && !rc; i++)
		if (!strcmp(v[i - 1]->name, v[i]->name))
			rc = err_set(e, -EEXIST, "\"%s\" and \"%s\" would get the same name there; send one later",
				     store_name_show(one, sizeof one, v[i - 1]->path),
				     store_name_show(other, sizeof other, v[i]->path));
	free(v);
	return rc;
}

int source_walk(struct source_list *l, char *const *operands, int n, bool recursive, struct err *e)
{
	struct err own; /* what failed is logged, also where nobody asks for it */
	int rc = 0;

	if (!e)
		e = &own;
	*l = (struct source_list){ 0 };
	for (int i = 0; i < n && !rc; i++)
		rc = walk_operand(l, operands[i], recursive, e);
	if (l->skipped > WARNINGS_MAX)
		log_warn("not sent: %llu more", (unsigned long long)(l->skipped - WARNINGS_MAX));
	if (!rc && n > 1)
		rc = find_twins(l, e);
	if (rc < 0)
		source_list_free(l);
	return rc;
}

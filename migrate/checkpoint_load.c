/* SPDX-License-Identifier: MIT */
/* Checkpoints read again: a guest restored, a chain made one file, a directory looked through. */
#include "migrate/checkpoint_file.h"

#include "base/bitmap.h"
#include "base/clock.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- a chain into memory ----------------------------------------------------------------------- */

static int take_block(struct checkpoint_image *im, struct ckpt_memory *m, const struct ckpt_reader *r, int type,
		      size_t len, const char **why)
{
	if (type == CKPT_PAGES)
		return ckpt_place(m, r->payload, len, why);
	memcpy(im->state, r->payload, len);
	im->state_len = (uint32_t)len;
	return 0;
}

/* The head was read when the chain was looked up: it must not have become another one since. */
static int load_file(struct checkpoint_image *im, struct ckpt_memory *m, const struct ckpt_dir *d,
		     const struct checkpoint_head *h, struct err *e)
{
	const char *why = NULL;
	struct ckpt_reader r;
	size_t len;
	int fd, rc = ckpt_dir_read(d, h->number, &fd, &r, e), type = 0;

	if (rc == 0 && (r.head.id.hi != h->id.hi || r.head.id.lo != h->id.lo || r.head.memory != h->memory))
		rc = err_set(e, -EBADMSG, "checkpoint %u in %s became another one while it was read: try again",
			     h->number, d->path);
	if (rc == 0) {
		while (rc == 0 && (type = ckpt_reader_next(&r, &len)) > 0)
			rc = take_block(im, m, &r, type, len, &why);
		if (rc == 0 && type < 0) {
			rc = type;
			why = NULL;
		}
		if (rc < 0)
			ckpt_refused(d, h->number, rc, &r, why, e);
		im->memory = r.end.memory;
		im->bytes += r.at;
		im->files++;
	}
	ckpt_memory_next(m);
	ckpt_reader_close(&r);
	if (fd >= 0)
		close(fd);
	return rc;
}

/* Memory must be what it was, to the last byte. */
static int prove(const struct checkpoint_image *im, const struct ckpt_memory *m, const struct ckpt_dir *d,
		 struct err *e)
{
	uint64_t pages = im->head.memory / GUEST_PAGE, *sums;
	struct digest128 is;

	if (bitmap_count(m->have, pages) != pages)
		return err_set(e, -EBADMSG, "the full checkpoint under number %u in %s does not hold all of memory",
			       im->head.number, d->path);
	sums = malloc(pages * sizeof *sums);
	if (!sums)
		return err_set(e, -ENOMEM, "no memory to sum up %llu pages", (unsigned long long)pages);
	is = ckpt_sum_memory(m->mem, pages, sums);
	free(sums);
	return is.lo == im->memory.lo && is.hi == im->memory.hi
		       ? 0
		       : err_set(e, -EBADMSG, "memory out of checkpoint %u in %s is not what it was", im->head.number,
				 d->path);
}

static int load_chain(const struct ckpt_dir *d, const struct checkpoint_head *chain, size_t n,
		      struct checkpoint_image *im, struct err *e)
{
	struct ckpt_memory m = { 0 };
	int rc;

	im->head = chain[n - 1];
	rc = hugebuf_alloc(&im->mem, im->head.memory, true, e);
	if (rc < 0)
		return rc;
	m.mem = im->mem.addr;
	m.len = im->mem.len;
	m.have = calloc(bitmap_words(m.len / GUEST_PAGE), sizeof *m.have);
	if (!m.have)
		rc = err_set(e, -ENOMEM, "no memory to keep track of a guest's pages");
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = load_file(im, &m, d, &chain[i], e);
	if (rc == 0)
		rc = prove(im, &m, d, e);
	free(m.have);
	return rc;
}

/* ---- what is whole ----------------------------------------------------------------------------- */

/* It and all it builds on. */
static int verify_chain(const struct ckpt_dir *d, uint32_t number, struct err *e)
{
	struct checkpoint_head *chain;
	size_t n;
	int rc = ckpt_dir_chain(d, number, &chain, &n, e);

	if (rc < 0)
		return rc;
	for (size_t i = n; rc == 0 && i; i--)
		rc = ckpt_dir_verify(d, chain[i - 1].number, e);
	free(chain);
	return rc;
}

/* Adds to an error what can be restored in its place. */
static void name_whole(const struct ckpt_dir *d, uint32_t below, struct err *e)
{
	uint32_t *numbers, whole = 0;
	char text[sizeof(e->why)];
	size_t n;

	if (!e || ckpt_dir_scan(d, &numbers, &n, NULL) < 0)
		return;
	for (size_t i = n; i && !whole; i--)
		if ((!below || numbers[i - 1] < below) && verify_chain(d, numbers[i - 1], NULL) == 0)
			whole = numbers[i - 1];
	free(numbers);
	snprintf(text, sizeof text, "%s", e->why);
	if (whole)
		snprintf(e->why, sizeof e->why, "%.*s; the newest before it that is whole is number %u (--number=%u)",
			 (int)sizeof e->why - 80, text, whole, whole);
	else
		snprintf(e->why, sizeof e->why, "%.*s; none before it is whole", (int)sizeof e->why - 80, text);
}

static int load(const struct ckpt_dir *d, uint32_t number, struct checkpoint_image *im, struct err *e)
{
	struct checkpoint_head *chain = NULL;
	size_t n = 0;
	uint64_t began = clock_now(&clock_mono);
	uint32_t *numbers;
	int rc = ckpt_dir_chain(d, number, &chain, &n, e);

	if (rc == 0)
		rc = load_chain(d, chain, n, im, e);
	free(chain);
	im->ns = clock_now(&clock_mono) - began;
	if (rc == -EBADMSG || rc == -ENOENT) {
		if (!number && ckpt_dir_scan(d, &numbers, &n, NULL) == 0) {
			number = n ? numbers[n - 1] : 0;
			free(numbers);
		}
		if (number)
			name_whole(d, number, e);
	}
	return rc;
}

int checkpoint_load(const char *dir, uint32_t number, struct checkpoint_image *out, struct err *e)
{
	struct ckpt_dir d = { .fd = -1 };
	int rc;

	memset(out, 0, sizeof *out);
	rc = ckpt_dir_open(&d, dir, e);
	if (rc == 0)
		rc = ckpt_dir_lock(&d, false, e);
	if (rc == 0)
		rc = load(&d, number, out, e);
	ckpt_dir_close(&d);
	if (rc < 0)
		checkpoint_image_free(out);
	return rc;
}

void checkpoint_image_free(struct checkpoint_image *im)
{
	hugebuf_free(&im->mem);
}

int checkpoint_restore(struct checkpoint_image *im, struct guest **out, struct err *e)
{
	const struct guest_ops *kind = guest_find(im->head.kind);
	struct rcur in = rcur_init(im->state, im->state_len);
	struct guest *g = NULL;
	int rc;

	if (!kind)
		return err_set(
			e, -EINVAL,
			"the checkpoint is of a kind of guest that this dwcp does not know: use the release that "
			"took it");
	rc = kind->probe(e);
	if (rc < 0)
		return rc;
	rc = kind->open(&g, im->mem.addr, im->mem.len, NULL, e);
	if (rc < 0)
		return rc;
	rc = kind->load(g, &in, e);
	if (rc < 0)
		kind->close(g);
	else
		*out = g;
	return rc;
}

/* ---- list -------------------------------------------------------------------------------------- */

static void look_at(const struct ckpt_dir *d, struct checkpoint_info *i, uint32_t number,
		    const struct checkpoint_info *all, size_t n)
{
	char name[CKPT_NAME];
	struct stat st;

	ckpt_name(name, number);
	if (fstatat(d->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		i->bytes = (uint64_t)st.st_size;
	i->status = ckpt_dir_head(d, number, &i->head, &i->why);
	i->readable = i->status == 0;
	i->head.number = number;
	if (i->status < 0)
		return;
	i->status = ckpt_dir_verify(d, number, &i->why);
	if (i->status < 0 || !i->head.base_number)
		return;
	/* Those it builds on came before it. */
	i->status = err_set(&i->why, -ENOENT, "it builds on number %u, which is not there", i->head.base_number);
	for (size_t k = 0; k < n; k++) {
		const struct checkpoint_info *b = &all[k];

		if (b->head.number != i->head.base_number)
			continue;
		if (b->status < 0)
			err_set(&i->why, i->status = b->status, "it builds on number %u, which is not whole",
				b->head.number);
		else if (b->head.id.hi != i->head.base.hi || b->head.id.lo != i->head.base.lo)
			err_set(&i->why, i->status = -EBADMSG, "it builds on another number %u than the one there",
				b->head.number);
		else
			i->status = 0;
	}
}

int checkpoint_list(const char *dir, struct checkpoint_info **out, size_t *n, struct err *e)
{
	struct checkpoint_info *all = NULL;
	uint32_t *numbers = NULL;
	struct ckpt_dir d = { .fd = -1 };
	int rc = ckpt_dir_open(&d, dir, e);

	if (rc == 0)
		rc = ckpt_dir_lock(&d, false, e);
	if (rc == 0)
		rc = ckpt_dir_scan(&d, &numbers, n, e);
	if (rc == 0) {
		all = calloc(*n + 1, sizeof *all);
		rc = all ? 0 : err_set(e, -ENOMEM, "no memory to list the checkpoints in %s", dir);
	}
	for (size_t i = 0; rc == 0 && i < *n; i++)
		look_at(&d, &all[i], numbers[i], all, i);
	free(numbers);
	ckpt_dir_close(&d);
	if (rc == 0)
		*out = all;
	return rc;
}

/* ---- merge ------------------------------------------------------------------------------------- */

static int write_full(struct ckpt_pages *p, struct ckpt_writer *w, const struct checkpoint_image *im, struct err *e)
{
	uint64_t pages = im->head.memory / GUEST_PAGE;
	struct ckpt_end end = { .pages = pages, .memory = im->memory };
	uint32_t *list = malloc(pages * sizeof *list);
	int rc;

	if (!list)
		return err_set(e, -ENOMEM, "no memory to merge checkpoints");
	for (uint64_t i = 0; i < pages; i++)
		list[i] = (uint32_t)i;
	rc = ckpt_pages_write(p, w, list, pages, NULL, im->mem.addr, NULL, e);
	free(list);
	if (rc == 0)
		rc = ckpt_writer_block(w, CKPT_STATE, im->state, im->state_len, e);
	return rc < 0 ? rc : ckpt_writer_commit(w, &end, e);
}

/* The full one has its name by now: what it was made of is of no use any more. */
static int remove_merged(const struct ckpt_dir *d, const struct checkpoint_head *chain, size_t n, struct err *e)
{
	char name[CKPT_NAME];

	for (size_t i = 0; i + 1 < n; i++) {
		ckpt_name(name, chain[i].number);
		if (unlinkat(d->fd, name, 0) < 0 && errno != ENOENT)
			return err_set(e, -errno, "checkpoint %u is merged, %s/%s cannot be removed: %s; remove it",
				       chain[n - 1].number, d->path, name, strerror(errno));
	}
	return fsync(d->fd) < 0 ? err_set(e, -errno, "cannot put %s on the disk: %s", d->path, strerror(errno)) : 0;
}

static int merge(const struct ckpt_dir *d, const struct checkpoint_head *chain, size_t n, const struct hde_opts *hde,
		 struct checkpoint_merged *r, struct err *e)
{
	struct checkpoint_image *im = calloc(1, sizeof *im);
	struct ckpt_writer w = { .fd = -1 };
	struct checkpoint_head head;
	struct ckpt_pages p = { 0 };
	int rc = im ? load_chain(d, chain, n, im, e) : err_set(e, -ENOMEM, "no memory to merge checkpoints");

	if (rc == 0)
		rc = ckpt_pages_open(&p, im->head.memory, im->mem.addr, hde, e);
	if (rc == 0) {
		head = im->head;
		head.base_number = 0;
		head.base = (struct msg_guest_id){ 0 };
		rc = ckpt_writer_open(&w, d, &head, e);
	}
	if (rc == 0)
		rc = write_full(&p, &w, im, e);
	ckpt_writer_abort(&w);
	if (rc == 0) {
		r->bytes_before = im->bytes;
		r->bytes = w.at;
		rc = remove_merged(d, chain, n, e);
	}
	ckpt_pages_close(&p);
	if (im)
		checkpoint_image_free(im);
	free(im);
	return rc;
}

int checkpoint_merge(const char *dir, uint32_t number, const struct hde_opts *hde, struct checkpoint_merged *r,
		     struct err *e)
{
	struct checkpoint_head *chain = NULL;
	struct ckpt_dir d = { .fd = -1 };
	size_t n = 0;
	int rc = ckpt_dir_open(&d, dir, e);

	memset(r, 0, sizeof *r);
	if (rc == 0)
		rc = ckpt_dir_lock(&d, true, e);
	if (rc == 0)
		rc = ckpt_dir_chain(&d, number, &chain, &n, e);
	if (rc == 0) {
		r->number = chain[n - 1].number;
		r->files = (uint32_t)n;
		if (n > 1)
			rc = merge(&d, chain, n, hde, r, e);
	}
	free(chain);
	ckpt_dir_close(&d);
	return rc;
}

/* SPDX-License-Identifier: MIT */
/* The file of one checkpoint: its head, its blocks read, its blocks written. */
#include "migrate/checkpoint_file.h"

#include "base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FLAG_INCREMENTAL 1u

static const char magic[8] = { 'D', 'W', 'C', 'P', 'C', 'K', 'P', 'T' };

/* ---- head -------------------------------------------------------------------------------------- */

static void put_text(struct wcur *c, const char *text, size_t cap)
{
	size_t n = strnlen(text, cap - 1);

	put_bytes(c, text, n);
	for (; n < cap; n++)
		put_u8(c, 0);
}

static bool get_text(struct rcur *c, char *out, size_t cap)
{
	get_bytes(c, out, cap);
	return memchr(out, 0, cap) != NULL;
}

void ckpt_put_head(uint8_t out[CKPT_HEAD], const struct checkpoint_head *h)
{
	struct wcur c = wcur_init(out, CKPT_HEAD), crc = wcur_init(out + CKPT_HEAD - 4, 4);

	memset(out, 0, CKPT_HEAD);
	put_bytes(&c, magic, sizeof magic);
	put_u16(&c, CKPT_VERSION);
	put_u16(&c, h->base_number ? FLAG_INCREMENTAL : 0);
	put_u32(&c, GUEST_PAGE);
	put_u32(&c, h->number);
	put_u32(&c, h->base_number);
	put_u64(&c, h->id.hi);
	put_u64(&c, h->id.lo);
	put_u64(&c, h->base.hi);
	put_u64(&c, h->base.lo);
	put_u64(&c, h->memory);
	put_u64(&c, h->created_ns);
	put_text(&c, h->kind, sizeof h->kind);
	put_text(&c, h->name, sizeof h->name);
	put_u32(&crc, crc32c(out, CKPT_HEAD - 4));
}

static const char *bad_numbers(const struct checkpoint_head *h, uint16_t flags)
{
	if (flags > FLAG_INCREMENTAL || !h->number || h->number > CKPT_NUMBER_MAX || h->base_number >= h->number ||
	    !h->base_number != !flags)
		return "its numbers cannot be";
	return NULL;
}

int ckpt_get_head(const uint8_t in[CKPT_HEAD], struct checkpoint_head *h, const char **why)
{
	struct rcur c = rcur_init(in + sizeof magic, CKPT_HEAD - sizeof magic), crc = rcur_init(in + CKPT_HEAD - 4, 4);
	uint16_t version = get_u16(&c), flags = get_u16(&c);
	uint32_t page = get_u32(&c);
	bool text;

	*why = "it does not begin as a checkpoint does";
	if (memcmp(in, magic, sizeof magic))
		return -EBADMSG;
	*why = "it was written by another version of dwcp";
	if (version != CKPT_VERSION)
		return -EPROTO;
	*why = "its head is damaged";
	if (get_u32(&crc) != crc32c(in, CKPT_HEAD - 4))
		return -EBADMSG;
	h->number = get_u32(&c);
	h->base_number = get_u32(&c);
	h->id.hi = get_u64(&c);
	h->id.lo = get_u64(&c);
	h->base.hi = get_u64(&c);
	h->base.lo = get_u64(&c);
	h->memory = get_u64(&c);
	h->created_ns = get_u64(&c);
	text = get_text(&c, h->kind, sizeof h->kind);
	text &= get_text(&c, h->name, sizeof h->name);
	*why = "its guest has pages of another size";
	if (page != GUEST_PAGE)
		return -EINVAL;
	*why = "its guest's memory is of an impossible size";
	if (h->memory < GUEST_MEMORY_MIN || h->memory > GUEST_MEMORY_MAX || h->memory % GUEST_PAGE)
		return -EINVAL;
	*why = text ? bad_numbers(h, flags) : "its names have no end";
	return *why ? -EBADMSG : 0;
}

/* ---- reading ----------------------------------------------------------------------------------- */

static int refuse(struct ckpt_reader *r, const char *why)
{
	r->why = why;
	r->why_at = r->at;
	return -EBADMSG;
}

static int get(struct ckpt_reader *r, void *buf, size_t n)
{
	ssize_t got = r->read(r->ctx, buf, n);

	if (got < 0)
		return (int)got;
	return (size_t)got < n ? refuse(r, "it ends too early") : 0;
}

int ckpt_reader_open(struct ckpt_reader *r, ckpt_read_fn read, void *ctx)
{
	uint8_t head[CKPT_HEAD];
	int rc;

	memset(r, 0, sizeof *r);
	r->read = read;
	r->ctx = ctx;
	r->payload = malloc(CKPT_PAYLOAD_MAX);
	if (!r->payload)
		return -ENOMEM;
	rc = get(r, head, sizeof head);
	if (rc == 0)
		rc = ckpt_get_head(head, &r->head, &r->why);
	if (rc < 0)
		return rc;
	r->at = CKPT_HEAD;
	sum_begin(&r->sum, SUM_XXH3);
	sum_add(&r->sum, head, sizeof head);
	return 0;
}

void ckpt_reader_close(struct ckpt_reader *r)
{
	free(r->payload);
	r->payload = NULL;
}

static bool length_ok(uint8_t type, uint32_t len)
{
	switch (type) {
	case CKPT_PAGES:
		return len > 0 && len <= CKPT_PAYLOAD_MAX;
	case CKPT_STATE:
		return len <= GUEST_STATE_MAX;
	case CKPT_END:
		return len == CKPT_END_BYTES;
	default:
		return false;
	}
}

static int read_end(struct ckpt_reader *r)
{
	struct rcur c = rcur_init(r->payload, CKPT_END_BYTES);
	struct ckpt_end *end = &r->end;
	uint8_t more;
	ssize_t n;

	end->blocks = get_u64(&c);
	end->bytes = get_u64(&c);
	end->pages = get_u64(&c);
	end->sum = get_u64(&c);
	end->memory.lo = get_u64(&c);
	end->memory.hi = get_u64(&c);
	if (end->blocks != r->blocks || end->bytes != r->at || end->sum != sum_end(&r->sum))
		return refuse(r, "its parts do not belong together");
	if (!r->state)
		return refuse(r, "it has no guest's state");
	r->at += CKPT_BLOCK_HEAD + CKPT_END_BYTES;
	n = r->read(r->ctx, &more, 1);
	if (n < 0)
		return (int)n;
	if (n)
		return refuse(r, "something follows its end");
	r->ended = true;
	return 0;
}

int ckpt_reader_next(struct ckpt_reader *r, size_t *len)
{
	uint8_t head[CKPT_BLOCK_HEAD], type;
	uint64_t index, sum;
	uint32_t n, crc;
	struct rcur c;
	int rc = get(r, head, sizeof head);

	if (rc < 0)
		return rc;
	c = rcur_init(head, sizeof head);
	type = get_u8(&c);
	c.p += 3;
	n = get_u32(&c);
	index = get_u64(&c);
	sum = get_u64(&c);
	c.p += 4;
	crc = get_u32(&c);
	if (crc != crc32c(head, sizeof head - 4) || index != r->blocks)
		return refuse(r, "a block's head is damaged");
	if (!length_ok(type, n) || (type == CKPT_STATE && r->state))
		return refuse(r, "a block is none that can be");
	rc = get(r, r->payload, n);
	if (rc < 0)
		return rc;
	if (sum_of(SUM_XXH3, r->payload, n) != sum)
		return refuse(r, "a block's contents are damaged");
	if (type == CKPT_END)
		return read_end(r);
	r->state |= type == CKPT_STATE;
	sum_add(&r->sum, head, sizeof head);
	r->blocks++;
	r->at += sizeof head + n;
	*len = n;
	return type;
}

/* ---- writing ----------------------------------------------------------------------------------- */

static void temp_name(char out[CKPT_NAME], uint32_t number)
{
	snprintf(out, CKPT_NAME, ".%08u.ckpt.part", number);
}

void ckpt_name(char out[CKPT_NAME], uint32_t number)
{
	snprintf(out, CKPT_NAME, "%08u.ckpt", number);
}

static int cannot(const struct ckpt_writer *w, int rc, const char *what, struct err *e)
{
	return err_set(e, rc, "cannot %s checkpoint %u in %s: %s; %s", what, w->number, w->dir->path, strerror(-rc),
		       rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG
			       ? "make room there, or merge what is there (`dwcp checkpoints --merge`)"
			       : "choose another directory");
}

static int put(struct ckpt_writer *w, const void *buf, size_t len, struct err *e)
{
	const uint8_t *p = buf;

	while (len) {
		ssize_t n = write(w->fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return cannot(w, -errno, "write", e);
		p += n;
		len -= (size_t)n;
		w->at += (uint64_t)n;
	}
	return 0;
}

int ckpt_writer_open(struct ckpt_writer *w, const struct ckpt_dir *d, const struct checkpoint_head *h, struct err *e)
{
	uint8_t head[CKPT_HEAD];
	char name[CKPT_NAME];

	memset(w, 0, sizeof *w);
	w->dir = d;
	w->number = h->number;
	temp_name(name, h->number);
	w->fd = openat(d->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (w->fd < 0)
		return cannot(w, -errno, "begin", e);
	ckpt_put_head(head, h);
	sum_begin(&w->sum, SUM_XXH3);
	sum_add(&w->sum, head, sizeof head);
	return put(w, head, sizeof head, e);
}

/* Not part of the sum yet. */
static int put_block(struct ckpt_writer *w, uint8_t head[CKPT_BLOCK_HEAD], enum ckpt_type type, const void *payload,
		     size_t len, struct err *e)
{
	struct wcur c = wcur_init(head, CKPT_BLOCK_HEAD);
	int rc;

	put_u8(&c, (uint8_t)type);
	put_u8(&c, 0);
	put_u16(&c, 0);
	put_u32(&c, (uint32_t)len);
	put_u64(&c, w->blocks);
	put_u64(&c, sum_of(SUM_XXH3, payload, len));
	put_u32(&c, 0);
	put_u32(&c, crc32c(head, CKPT_BLOCK_HEAD - 4));
	rc = put(w, head, CKPT_BLOCK_HEAD, e);
	return rc < 0 ? rc : put(w, payload, len, e);
}

int ckpt_writer_block(struct ckpt_writer *w, enum ckpt_type type, const void *payload, size_t len, struct err *e)
{
	uint8_t head[CKPT_BLOCK_HEAD];
	int rc = put_block(w, head, type, payload, len, e);

	sum_add(&w->sum, head, sizeof head);
	w->blocks++;
	return rc;
}

static int put_end(struct ckpt_writer *w, struct ckpt_end *end, struct err *e)
{
	uint8_t head[CKPT_BLOCK_HEAD], payload[CKPT_END_BYTES];
	struct wcur c = wcur_init(payload, sizeof payload);

	end->blocks = w->blocks;
	end->bytes = w->at;
	end->sum = sum_end(&w->sum);
	put_u64(&c, end->blocks);
	put_u64(&c, end->bytes);
	put_u64(&c, end->pages);
	put_u64(&c, end->sum);
	put_u64(&c, end->memory.lo);
	put_u64(&c, end->memory.hi);
	return put_block(w, head, CKPT_END, payload, sizeof payload, e);
}

int ckpt_writer_commit(struct ckpt_writer *w, struct ckpt_end *end, struct err *e)
{
	char temp[CKPT_NAME], name[CKPT_NAME];
	int rc = put_end(w, end, e);

	temp_name(temp, w->number);
	ckpt_name(name, w->number);
	if (rc == 0 && fsync(w->fd) < 0)
		rc = cannot(w, -errno, "put on the disk", e);
	if (rc == 0 && close(w->fd) < 0)
		rc = cannot(w, -errno, "close", e);
	if (rc < 0)
		return rc;
	w->fd = -1;
	if (renameat(w->dir->fd, temp, w->dir->fd, name) < 0) {
		rc = cannot(w, -errno, "name", e);
		unlinkat(w->dir->fd, temp, 0);
	} else if (fsync(w->dir->fd) < 0) {
		rc = cannot(w, -errno, "put the name on the disk of", e);
	}
	return rc;
}

void ckpt_writer_abort(struct ckpt_writer *w)
{
	char temp[CKPT_NAME];

	if (!w->dir || w->fd < 0)
		return;
	temp_name(temp, w->number);
	close(w->fd);
	unlinkat(w->dir->fd, temp, 0);
	w->fd = -1;
}

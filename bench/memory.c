/* SPDX-License-Identifier: MIT */
#include "bench/memory.h"
#include "base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const memory_kind_names[MEMORY_KINDS + 1] = { "zeros", "text", "random", "vm", "mixed", NULL };

/* ---- files ------------------------------------------------------------------------------------- */

#define PIECE (1u << 20)

static int read_all(int fd, uint8_t *to, uint64_t len, uint64_t offset, const char *path, struct err *e)
{
	while (len) {
		ssize_t n = pread(fd, to, min_u64(len, 1u << 30), (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(e, -errno, "cannot read %s: %s", path, strerror(errno));
		if (n == 0)
			return err_set(e, -EIO, "%s became shorter while it was read; give an image that nobody writes",
				       path);
		to += n;
		offset += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

/* Pieces are spread over the file, and those at both ends are among them. */
static int read_pieces(int fd, struct memory *m, uint64_t size, const char *path, struct err *e)
{
	uint64_t pieces = div_up_u64(m->bytes, PIECE), all = size / PIECE;
	int rc = 0;

	if (m->bytes == size)
		return read_all(fd, m->data, size, 0, path, e);
	for (uint64_t i = 0; i < pieces && rc >= 0; i++) {
		uint64_t piece = pieces > 1 ? i * (all - 1) / (pieces - 1) : 0;
		uint64_t len = min_u64(PIECE, m->bytes - i * PIECE);

		rc = read_all(fd, m->data + i * PIECE, len, piece * PIECE, path, e);
	}
	return rc;
}

static int check_image(const struct stat *st, const char *path, struct err *e)
{
	if (!S_ISREG(st->st_mode))
		return err_set(e, -EINVAL, "%s is not a regular file; give a file with a guest's memory", path);
	if (st->st_size == 0)
		return err_set(e, -EINVAL, "%s is empty; give a file with a guest's memory (bench/image.sh makes one)",
			       path);
	if (st->st_size % MEMORY_PAGE)
		return err_set(e, -EINVAL,
			       "%s has %lld bytes, which are no whole pages of %u; give a raw image of memory, without "
			       "headers",
			       path, (long long)st->st_size, MEMORY_PAGE);
	return 0;
}

int memory_load(struct memory *m, const char *path, uint64_t most, struct err *e)
{
	struct memory new = { 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc;
	struct stat st;

	if (fd < 0)
		return err_set(e, -errno, "cannot open %s: %s", path, strerror(errno));
	rc = fstat(fd, &st) < 0 ? err_set(e, -errno, "cannot read %s: %s", path, strerror(errno))
				: check_image(&st, path, e);
	if (rc < 0)
		goto out;
	new.bytes = (uint64_t)st.st_size;
	if (most && most < new.bytes)
		new.bytes = (most + MEMORY_PAGE - 1) / MEMORY_PAGE *MEMORY_PAGE;
	snprintf(new.name, sizeof(new.name), "%s", path);
	rc = hugebuf_alloc(&new.buf, new.bytes, true, e);
	if (rc < 0)
		goto out;
	new.data = new.buf.addr;
	rc = read_pieces(fd, &new, (uint64_t)st.st_size, path, e);
	if (rc < 0)
		memory_free(&new);
	else
		*m = new;
out:
	close(fd);
	return rc;
}

void memory_free(struct memory *m)
{
	hugebuf_free(&m->buf);
	*m = (struct memory){ 0 };
}

int memory_copy(struct memory *m, const struct memory *from, struct err *e)
{
	struct memory new = { .bytes = from->bytes };
	int rc = hugebuf_alloc(&new.buf, new.bytes, true, e);

	if (rc < 0)
		return rc;
	new.data = new.buf.addr;
	memcpy(new.data, from->data, new.bytes);
	memcpy(new.name, from->name, sizeof(new.name));
	*m = new;
	return 0;
}

/* ---- text -------------------------------------------------------------------------------------- */

#define WORDS 8192u
#define HABITS 4u
#define HABIT_PER_MILLE 500u

struct text {
	uint64_t rng;
	char word[WORDS][14];
	uint16_t habit[WORDS][HABITS];
	float below[WORDS]; /* cumulative frequency */
	unsigned last;
	char pending[128];
	size_t have, used;
	unsigned in_sentence, in_paragraph;
	bool records;
	uint64_t now_ms;
};

static unsigned draw(struct text *t)
{
	float x = (float)(rng_next(&t->rng) >> 40) * (1.0f / (1 << 24));
	unsigned lo = 0, hi = WORDS - 1;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (t->below[mid] < x)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Frequent words are short, as in any language. */
static void make_word(struct text *t, unsigned rank)
{
	static const char *const onset[] = { "t", "s", "th", "w",  "c",  "b", "p",  "h",  "m",  "f", "d", "r",
					     "l", "n", "st", "tr", "pr", "g", "sh", "gr", "pl", "v", "k", "" };
	static const char *const rhyme[] = { "e",  "a",  "o",  "i",   "er",  "an", "in",   "on", "at", "en",  "or",
					     "is", "es", "ed", "ing", "ent", "al", "tion", "ou", "ea", "ast", "u" };
	unsigned parts = 1 + (rank > 30) + (rank > 600) + (rng_next(&t->rng) % 4 == 0);
	size_t n = 0;

	for (unsigned i = 0; i < parts && n < 9; i++) {
		uint64_t r = rng_next(&t->rng);

		n += (size_t)snprintf(t->word[rank] + n, sizeof(t->word[0]) - n, "%s%s",
				      onset[r % 997 % ARRAY_LEN(onset)], rhyme[(r >> 32) % 499 % ARRAY_LEN(rhyme)]);
	}
}

static struct text *text_open(uint64_t seed)
{
	struct text *t = calloc(1, sizeof(*t));
	float sum = 0;

	if (!t)
		return NULL;
	t->rng = 0x7e87; /* the language is always the same, what is said is not */
	for (unsigned i = 0; i < WORDS; i++)
		t->below[i] = sum += 1.0f / (float)(i + 3);
	for (unsigned i = 0; i < WORDS; i++)
		t->below[i] /= sum;
	for (unsigned i = 0; i < WORDS; i++)
		make_word(t, i);
	for (unsigned i = 0; i < WORDS; i++)
		for (unsigned j = 0; j < HABITS; j++)
			t->habit[i][j] = (uint16_t)draw(t);
	t->rng = seed;
	return t;
}

/* A line of a log. */
static void next_record(struct text *t)
{
	static const char *const level[] = { "INFO", "INFO", "INFO", "WARN", "DEBUG" };
	uint64_t r = rng_next(&t->rng), s = rng_next(&t->rng);
	unsigned second;

	t->now_ms += r % 700;
	second = (unsigned)(t->now_ms / 1000 % 86400);
	t->have = (size_t)snprintf(t->pending, sizeof(t->pending), "%02u:%02u:%02u.%03u %s %s.%s: %s %s=%u\n",
				   second / 3600, second / 60 % 60, second % 60, (unsigned)(t->now_ms % 1000),
				   level[(r >> 20) % ARRAY_LEN(level)], t->word[(r >> 30) % 8], t->word[(r >> 40) % 32],
				   t->word[draw(t)], t->word[(s >> 10) % 64], (unsigned)(s >> 40) >> (s % 20));
}

static void next_word(struct text *t)
{
	uint64_t r = rng_next(&t->rng);
	const char *end = " ";
	bool first = t->in_sentence == 0;

	t->last = r % 1000 < HABIT_PER_MILLE ? t->habit[t->last][(r >> 32) % HABITS] : draw(t);
	t->in_sentence++;
	if (t->in_sentence > 5 && (r >> 20) % 12 == 0) {
		t->in_sentence = 0;
		end = (r >> 50) % 5 == 0 ? ".\n\n" : ". ";
	} else if ((r >> 20) % 13 == 1) {
		end = ", ";
	}
	t->have = (size_t)snprintf(t->pending, sizeof(t->pending), "%s%s", t->word[t->last], end);
	if (first)
		t->pending[0] = (char)(t->pending[0] & ~0x20);
}

static void text_fill(struct text *t, uint8_t *out, size_t len)
{
	while (len) {
		size_t n;

		if (t->used == t->have) {
			if (t->in_paragraph++ == 60) {
				t->in_paragraph = 0;
				t->records = rng_next(&t->rng) % 6 == 0;
			}
			if (t->records)
				next_record(t);
			else
				next_word(t);
			t->used = 0;
		}
		n = min_u64(len, t->have - t->used);
		memcpy(out, t->pending + t->used, n);
		t->used += n;
		out += n;
		len -= n;
	}
}

/* ---- synthetic memory -------------------------------------------------------------------------- */

static void fill_page(struct text *t, uint8_t *page, enum memory_kind kind, uint64_t *rng)
{
	switch (kind) {
	case MEMORY_TEXT:
		text_fill(t, page, MEMORY_PAGE);
		break;
	case MEMORY_RANDOM:
		rng_fill(page, MEMORY_PAGE, rng_next(rng));
		break;
	case MEMORY_MIXED:
		text_fill(t, page, MEMORY_PAGE / 2);
		rng_fill(page + MEMORY_PAGE / 2, MEMORY_PAGE / 4, rng_next(rng));
		break;
	default: /* it is zero */
		break;
	}
}

/* What the next run of pages is, so that the shares come out right whatever the runs' lengths: the kind that is
 * furthest behind its share. */
static enum memory_kind next_kind(const uint64_t pages[MEMORY_KINDS], uint64_t all)
{
	static const struct {
		enum memory_kind kind;
		double share;
	} parts[] = { { MEMORY_ZEROS, .6 }, { MEMORY_TEXT, .3 }, { MEMORY_RANDOM, .1 } };
	enum memory_kind best = MEMORY_ZEROS;
	double most = -INFINITY;

	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		double behind = parts[i].share * (double)all - (double)pages[parts[i].kind];

		if (behind > most) {
			most = behind;
			best = parts[i].kind;
		}
	}
	return best;
}

static void fill_vm(struct text *t, struct memory *m, uint64_t *rng)
{
	uint64_t pages[MEMORY_KINDS] = { 0 }, all = m->bytes / MEMORY_PAGE;

	for (uint64_t done = 0; done < all;) {
		uint64_t run = min_u64(all - done, 1 + rng_next(rng) % 64);
		enum memory_kind kind = next_kind(pages, done + run);

		for (uint64_t i = 0; i < run; i++)
			fill_page(t, m->data + (done + i) * MEMORY_PAGE, kind, rng);
		pages[kind] += run;
		done += run;
	}
}

int memory_make(struct memory *m, enum memory_kind kind, uint64_t bytes, uint64_t seed, struct err *e)
{
	struct memory new = { .bytes = bytes };
	struct text *t;
	int rc;

	if (!bytes || bytes % MEMORY_PAGE)
		return err_set(e, -EINVAL, "memory comes in pages of %u bytes; choose a multiple of that", MEMORY_PAGE);
	rc = hugebuf_alloc(&new.buf, bytes, true, e);
	if (rc < 0)
		return rc;
	t = text_open(seed);
	if (!t) {
		hugebuf_free(&new.buf);
		return err_set(e, -ENOMEM, "no memory for words");
	}
	new.data = new.buf.addr;
	snprintf(new.name, sizeof(new.name), "synthetic %s", memory_kind_names[kind]);
	if (kind == MEMORY_VM)
		fill_vm(t, &new, &seed);
	else
		for (uint64_t at = 0; at < bytes; at += MEMORY_PAGE)
			fill_page(t, new.data + at, kind, &seed);
	free(t);
	*m = new;
	return 0;
}

static void dirty_page(uint64_t *page, uint64_t *rng)
{
	uint64_t words = 1 + rng_next(rng) % 32;

	for (uint64_t w = 0; w < words; w++) {
		uint64_t r = rng_next(rng), *word = &page[r % (MEMORY_PAGE / 8)];

		*word = r >> 63 ? rng_next(rng) : *word + 1;
	}
}

uint64_t memory_dirty(struct memory *m, double share, uint64_t seed)
{
	uint64_t pages = m->bytes / MEMORY_PAGE, want = max_u64(1, (uint64_t)(share * (double)pages)), left = want;

	/* Of the pages that are left so many are still wanted (Knuth, algorithm S). */
	for (uint64_t i = 0; i < pages && left; i++) {
		if (rng_next(&seed) % (pages - i) >= left)
			continue;
		dirty_page((uint64_t *)(void *)(m->data + i * MEMORY_PAGE), &seed);
		left--;
	}
	return want;
}

int memory_warm(uint64_t bytes, struct err *e)
{
	struct hugebuf b;
	int rc = hugebuf_alloc(&b, bytes, true, e);

	if (rc >= 0)
		hugebuf_free(&b);
	return rc;
}

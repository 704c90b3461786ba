/* SPDX-License-Identifier: MIT */
/*
 * Taking a checkpoint:
 *
 *   look ─► does it fit aside? ──no──► write it while the guest runs ─► look …      (at most LIVE_ROUNDS times)
 *                 │ yes
 *                 ▼
 *   pause ─► look ─► copy aside ─► state ─► run ─► write what is aside, state, end ─► fsync, rename, fsync
 *
 * A page that is written while the guest runs may be torn: then it is dirty, and comes once more.
 */
#include "migrate/checkpoint_file.h"

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define LIVE_ROUNDS 8
#define ASIDE_MIN (1u << 20)

struct checkpoint {
	struct checkpoint_config cfg;
	struct tracker *tracker;
	struct ckpt_dir dir;
	struct ckpt_pages pages;
	struct hugebuf aside;
	uint64_t *pending; /* written since the last checkpoint that is whole */
	uint64_t *now;     /* of these, what is not in the file yet */
	uint32_t *list;
	struct checkpoint_head last; /* number 0: none */
	uint8_t state[GUEST_STATE_MAX];
};

/* One checkpoint under way. */
struct taking {
	struct checkpoint *c;
	struct checkpoint_result *r;
	struct ckpt_writer w;
	struct checkpoint_head head;
	uint64_t n_list;
	size_t state_len;
	bool paused;
	uint64_t paused_at, paused_cpu;
};

static uint64_t now_ns(void)
{
	return clock_now(&clock_mono);
}

static uint64_t spent(uint64_t *since)
{
	uint64_t was = *since;

	*since = now_ns();
	return *since - was;
}

/* ---- what is dirty ----------------------------------------------------------------------------- */

/* Adds what was written since the last look to `now` and to `pending`; returns how much `now` holds. */
static int64_t look(struct checkpoint *c, struct err *e)
{
	uint64_t pages = guest_pages(c->cfg.guest);
	int64_t n = c->cfg.tracker->fetch(c->tracker, 0, pages, c->now);

	if (n < 0) {
		/* Nothing is known any more. */
		bitmap_set_run(c->pending, 0, pages);
		return err_set(e, (int)n, "the tracker %s cannot tell what was written: %s", c->cfg.tracker->name,
			       strerror((int)-n));
	}
	for (size_t i = 0; i < bitmap_words(pages); i++)
		c->pending[i] |= c->now[i];
	return (int64_t)bitmap_count(c->now, pages);
}

/* Moves what is to be written to the list. */
static void make_list(struct taking *t)
{
	struct checkpoint *c = t->c;
	uint64_t pages = guest_pages(c->cfg.guest), at = 0, n;

	t->n_list = 0;
	while ((at = bitmap_next_run(c->now, pages, at, &n)) < pages)
		for (; n; n--)
			c->list[t->n_list++] = (uint32_t)at++;
	if (c->pages.hde)
		hde_round(c->pages.hde, c->now);
	memset(c->now, 0, bitmap_words(pages) * sizeof *c->now);
}

static int write_list(struct taking *t, uint64_t from, uint64_t n, const uint8_t *copies, struct err *e)
{
	struct checkpoint *c = t->c;

	return ckpt_pages_write(&c->pages, &t->w, c->list + from, n, c->cfg.guest->mem, copies, c->cfg.cancel, e);
}

/* Until what is left fits aside, or does not get less. */
static int write_live(struct taking *t, int64_t dirty, struct err *e)
{
	struct checkpoint *c = t->c;
	uint64_t most = c->aside.len / GUEST_PAGE;
	int64_t was = INT64_MAX;
	int rc = 0;

	for (int i = 0; rc == 0 && i < LIVE_ROUNDS && (uint64_t)dirty > most && dirty < was; i++) {
		was = dirty;
		make_list(t);
		t->r->live_pages += t->n_list;
		rc = write_list(t, 0, t->n_list, NULL, e);
		if (rc < 0)
			return rc;
		dirty = look(c, e);
		rc = dirty < 0 ? (int)dirty : 0;
	}
	return rc;
}

/* ---- the pause --------------------------------------------------------------------------------- */

static int run_again(struct taking *t, struct err *e)
{
	struct guest *g = t->c->cfg.guest;
	int rc;

	if (!t->paused)
		return 0;
	t->paused = false;
	rc = g->ops->run(g, e);
	t->r->pause_ns = now_ns() - t->paused_at;
	t->r->pause_cpu_ns = clock_now(&clock_thread) - t->paused_cpu;
	return rc;
}

static void copy_aside(struct checkpoint *c, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		memcpy((uint8_t *)c->aside.addr + i * GUEST_PAGE, c->cfg.guest->mem + (uint64_t)c->list[i] * GUEST_PAGE,
		       GUEST_PAGE);
}

static int save_state(struct taking *t, struct err *e)
{
	struct guest *g = t->c->cfg.guest;
	struct wcur out = wcur_init(t->c->state, sizeof t->c->state);
	struct guest_work work;
	int rc = g->ops->save(g, &out, e);

	t->state_len = (size_t)(out.p - t->c->state);
	g->ops->work(g, &work);
	t->r->writes = work.writes;
	return rc;
}

/* Leaves the first *aside pages of the list in c->aside; what does not fit there is in the file. */
static int stand_still(struct taking *t, uint64_t *aside, struct err *e)
{
	struct checkpoint *c = t->c;
	struct guest *g = c->cfg.guest;
	struct checkpoint_pause *parts = &t->r->parts;
	uint64_t at = t->paused_at = now_ns();
	int64_t dirty;
	int rc;

	t->paused = true;
	t->paused_cpu = clock_now(&clock_thread);
	rc = g->ops->pause(g, e);
	parts->stop_ns = spent(&at);
	if (rc < 0)
		return rc;
	dirty = look(c, e);
	parts->look_ns = spent(&at);
	if (dirty < 0)
		return (int)dirty;
	make_list(t);
	t->r->paused_pages = t->n_list;
	*aside = min_u64(t->n_list, c->aside.len / GUEST_PAGE);
	copy_aside(c, *aside);
	t->r->overflow = *aside < t->n_list;
	rc = write_list(t, *aside, t->n_list - *aside, NULL, e);
	parts->copy_ns = spent(&at);
	if (rc == 0)
		rc = save_state(t, e);
	parts->state_ns = spent(&at);
	if (rc == 0)
		rc = run_again(t, e);
	parts->run_ns = spent(&at);
	return rc;
}

/* ---- all of it --------------------------------------------------------------------------------- */

/* Another one's checkpoints in between would make a chain of two guests. */
static int still_ours(struct checkpoint *c, uint32_t *newest, struct err *e)
{
	struct checkpoint_head head;
	uint32_t *numbers;
	size_t n;
	int rc = ckpt_dir_scan(&c->dir, &numbers, &n, e);

	if (rc < 0)
		return rc;
	*newest = n ? numbers[n - 1] : 0;
	free(numbers);
	if (*newest >= CKPT_NUMBER_MAX)
		return err_set(e, -EOVERFLOW, "the numbers of checkpoints in %s are used up: choose another directory",
			       c->dir.path);
	if (!c->last.number)
		return 0;
	rc = *newest == c->last.number ? ckpt_dir_head(&c->dir, *newest, &head, e) : -EBUSY;
	if (rc == -EBUSY || (rc == 0 && (head.id.hi != c->last.id.hi || head.id.lo != c->last.id.lo)))
		return err_set(
			e, -EBUSY,
			"the newest checkpoint in %s is number %u and not this guest's number %u: each guest needs "
			"a directory of its own",
			c->dir.path, *newest, c->last.number);
	return rc;
}

static int make_head(struct taking *t, uint32_t number, bool full, struct err *e)
{
	struct checkpoint *c = t->c;
	struct checkpoint_head *h = &t->head;
	struct timespec at;

	clock_gettime(CLOCK_REALTIME, &at);
	*h = (struct checkpoint_head){ .number = number,
				       .memory = c->cfg.guest->len,
				       .created_ns = (uint64_t)at.tv_sec * NS_PER_S + (uint64_t)at.tv_nsec };
	if (getrandom(&h->id, sizeof h->id, 0) != sizeof h->id)
		return err_set(e, -EIO, "no random numbers from the kernel");
	if (!full) {
		h->base_number = c->last.number;
		h->base = c->last.id;
	}
	snprintf(h->kind, sizeof h->kind, "%s", c->cfg.guest->ops->name);
	snprintf(h->name, sizeof h->name, "%s", c->cfg.name);
	return 0;
}

static int finish(struct taking *t, uint64_t aside, struct err *e)
{
	struct checkpoint *c = t->c;
	uint64_t pages = guest_pages(c->cfg.guest), at = now_ns();
	struct ckpt_end end = { .pages = bitmap_count(c->pending, pages) };
	int rc = write_list(t, 0, aside, c->aside.addr, e);

	if (rc == 0)
		rc = ckpt_writer_block(&t->w, CKPT_STATE, c->state, t->state_len, e);
	end.memory = digest128_of(c->pages.sums, pages * sizeof *c->pages.sums);
	t->r->write_ns += spent(&at);
	if (rc == 0)
		rc = ckpt_writer_commit(&t->w, &end, e);
	t->r->sync_ns = spent(&at);
	t->r->pages = end.pages;
	t->r->bytes = t->w.at;
	return rc;
}

/* The directory is locked. */
static int take(struct taking *t, bool full, struct err *e)
{
	struct checkpoint *c = t->c;
	uint64_t began = now_ns(), zeros = c->pages.zero_pages, aside = 0;
	struct hde_stats was = { 0 }, is = { 0 };
	int64_t dirty = 0;
	uint32_t newest = 0;
	int rc = still_ours(c, &newest, e);

	if (rc == 0)
		rc = make_head(t, newest + 1, full, e);
	if (rc == 0)
		rc = ckpt_writer_open(&t->w, &c->dir, &t->head, e);
	if (rc < 0)
		return rc;
	if (c->pages.hde) {
		hde_forget(c->pages.hde);
		hde_enc_stats(c->pages.hde, &was);
	}
	if (full)
		bitmap_set_run(c->pending, 0, guest_pages(c->cfg.guest));
	memcpy(c->now, c->pending, bitmap_words(guest_pages(c->cfg.guest)) * sizeof *c->now);
	dirty = look(c, e);
	rc = dirty < 0 ? (int)dirty : write_live(t, dirty, e);
	t->r->write_ns = now_ns() - began;
	if (rc == 0)
		rc = stand_still(t, &aside, e);
	if (rc == 0)
		rc = finish(t, aside, e);
	if (c->pages.hde)
		hde_enc_stats(c->pages.hde, &is);
	t->r->zero_pages = c->pages.zero_pages - zeros + is.zero_pages - was.zero_pages;
	t->r->total_ns = now_ns() - began;
	return rc;
}

int checkpoint_take(struct checkpoint *c, bool full, struct checkpoint_result *r, struct err *e)
{
	struct taking t = { .c = c, .r = r, .w.fd = -1 };
	struct err why = { 0 };
	int rc;

	memset(r, 0, sizeof *r);
	rc = ckpt_dir_lock(&c->dir, true, e);
	if (rc < 0)
		return rc;
	rc = take(&t, full || !c->last.number, e);
	if (run_again(&t, &why) < 0)
		log_error("the guest does not run on: %s", why.why);
	ckpt_writer_abort(&t.w);
	ckpt_dir_unlock(&c->dir);
	if (rc < 0)
		return rc;
	c->last = t.head;
	r->number = t.head.number;
	r->base_number = t.head.base_number;
	memset(c->pending, 0, bitmap_words(guest_pages(c->cfg.guest)) * sizeof *c->pending);
	return 0;
}

int checkpoint_open(struct checkpoint **out, const struct checkpoint_config *cfg, struct err *e)
{
	uint64_t pages = guest_pages(cfg->guest);
	struct checkpoint *c = calloc(1, sizeof *c);
	int rc;

	if (!c)
		return err_set(e, -ENOMEM, "no memory to take checkpoints");
	c->cfg = *cfg;
	c->dir.fd = -1;
	c->pending = calloc(bitmap_words(pages), sizeof *c->pending);
	c->now = calloc(bitmap_words(pages), sizeof *c->now);
	c->list = malloc(pages * sizeof *c->list);
	rc = c->pending && c->now && c->list ? 0 : err_set(e, -ENOMEM, "no memory to keep track of a guest's pages");
	if (rc == 0)
		rc = ckpt_dir_open(&c->dir, cfg->dir, e);
	if (rc == 0)
		rc = hugebuf_alloc(&c->aside,
				   min_u64(max_u64(cfg->aside, ASIDE_MIN), cfg->guest->len) / GUEST_PAGE * GUEST_PAGE,
				   true, e);
	if (rc == 0)
		rc = ckpt_pages_open(&c->pages, cfg->guest->len, NULL, &cfg->hde, e);
	if (rc == 0)
		rc = cfg->tracker->open(&c->tracker, cfg->guest, e);
	if (rc < 0)
		checkpoint_close(c);
	else
		*out = c;
	return rc;
}

void checkpoint_close(struct checkpoint *c)
{
	if (!c)
		return;
	if (c->tracker)
		c->cfg.tracker->close(c->tracker);
	ckpt_pages_close(&c->pages);
	hugebuf_free(&c->aside);
	ckpt_dir_close(&c->dir);
	free(c->pending);
	free(c->now);
	free(c->list);
	free(c);
}

const struct tracker_cost *checkpoint_tracking(const struct checkpoint *c)
{
	return &c->tracker->cost;
}

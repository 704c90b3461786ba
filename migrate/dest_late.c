/* SPDX-License-Identifier: MIT */
/* Post-copy at the destination: a guest that runs before all of its pages have come. */
#include "migrate/dest_impl.h"

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/util.h"
#include <errno.h>

/* ---- pages: in the workers --------------------------------------------------------------------- */

/* Pages in a row, of one kind, whose contents follow one another, go in one system call. */
struct row {
	struct incoming *in;
	uint64_t first, n;
	const uint8_t *contents; /* NULL: zeros */
};

static int flush_row(void *ctx)
{
	struct row *r = ctx;
	int rc = r->n ? late_place(r->in->late, r->first, r->n, r->contents) : 0;

	r->n = 0;
	return rc;
}

static int add_to_row(void *ctx, uint64_t page, enum page_kind kind, const uint8_t *contents)
{
	struct row *r = ctx;
	uint64_t sum = contents ? sum_of(SUM_XXH3, contents, GUEST_PAGE) : r->in->zero_sum;
	int rc = 0;

	if (kind == PAGE_LATE)
		return -EPROTO;
	/* Before the page is marked as there: the last one makes the table of sums whole. Twice the same, if it comes twice. */
	__atomic_store_n(&r->in->sum[page], sum, __ATOMIC_RELAXED);
	if (r->n && (page != r->first + r->n || !contents != !r->contents ||
		     (contents && contents != r->contents + r->n * GUEST_PAGE)))
		rc = flush_row(r);
	if (!r->n) {
		r->first = page;
		r->contents = contents;
	}
	r->n++;
	return rc;
}

int dest_late_decode(struct incoming *in, int worker, const struct page_list *l, enum pages_form form,
		     struct rcur *body)
{
	enum guest_phase filling = PHASE_FILLING;
	struct row r = { .in = in };
	int rc = -EPROTO;

	if (form == PAGES_PLAIN)
		rc = pages_get_plain(l, body, add_to_row, &r);
	else if (form == PAGES_PACKED && in->unpack && worker >= 0 && l->n)
		rc = unpack_get(in->unpack, (unsigned)worker, l, body, add_to_row, flush_row, &r);
	if (rc == 0)
		rc = flush_row(&r);
	if (rc == 0 && !late_missing(in->late))
		__atomic_compare_exchange_n(&in->phase, &filling, PHASE_RUNNING, false, __ATOMIC_ACQ_REL,
					    __ATOMIC_ACQUIRE);
	return rc;
}

static int forget_page(void *ctx, uint64_t page, enum page_kind kind, const uint8_t *contents)
{
	struct incoming *in = ctx;

	(void)contents;
	if (kind != PAGE_LATE)
		return -EPROTO;
	bitmap_clear(in->have, page);
	return 0;
}

int dest_late_announced(struct incoming *in, const struct page_list *l, struct rcur *body)
{
	int rc = in->wants_late ? pages_get_plain(l, body, forget_page, in) : -EPROTO;

	for (uint32_t i = 1, from = 0; rc == 0 && i <= l->n; i++)
		if (i == l->n || l->page[i] != l->page[i - 1] + 1) {
			late_discard(in->mem.addr, l->page[from], i - from, in->d->cfg.manual);
			from = i;
		}
	return rc;
}

/* ---- phases ------------------------------------------------------------------------------------ */

int dest_late_open(struct incoming *in, struct err *e)
{
	uint64_t pages = pages_of(in);

	if (bitmap_count(in->have, pages) == pages)
		return 0;
	return late_open(&in->late, in->kind, in->mem.addr, pages, in->have, in->d->cfg.manual, e);
}

enum guest_phase dest_late_phase(const struct incoming *in)
{
	return in->late && late_missing(in->late) ? PHASE_FILLING : PHASE_RUNNING;
}

void dest_late_alone(struct incoming *in)
{
	in->guest->ops->halt(in->guest);
	set_phase(in, PHASE_HALTED);
	log_warn(
		"guest %s is halted: %llu of its pages have not come, and its source is gone. It goes on when the source comes "
		"back, and runs nowhere else; if it never will, `dwcp guests --drop` gives it up",
		in->name, (unsigned long long)late_missing(in->late));
}

void dest_late_drop(struct incoming *in)
{
	if (!in->late || !late_missing(in->late))
		return;
	/* Who waits for a page must be let go to be ended, and must not do anything with what it finds. */
	if (in->guest)
		in->guest->ops->halt(in->guest);
	late_release(in->late);
}

/* ---- requests ---------------------------------------------------------------------------------- */

/* Its lock held. A session that brings the guest already may ask again. */
static int attach(struct incoming *in, void **state, struct err *e)
{
	enum guest_phase phase = phase_of(in);
	int rc = 0;

	if (*state && *state != in)
		return err_set(e, -EBUSY, "this session brings another guest: a session is for one");
	if (!in->wants_late || phase == PHASE_LOST)
		return err_set(e, -EINVAL, "the guest is %s here, and takes no pages any more",
			       guest_phase_name(phase));
	if (phase == PHASE_HALTED) {
		rc = in->guest->ops->run(in->guest, e);
		if (rc < 0)
			return rc;
		set_phase(in, PHASE_FILLING);
		log_info("guest %s: its source is back, it goes on", in->name);
	}
	if (in->late)
		late_again(in->late);
	if (!*state)
		in->sessions++;
	*state = in;
	return 0;
}

static int do_attach(struct incoming *in, void **state, struct wcur *out, struct err *e)
{
	struct msg_guest_status st;
	bool new = !*state;
	int rc;

	pthread_mutex_lock(&in->mu);
	rc = attach(in, state, e);
	pthread_mutex_unlock(&in->mu);
	if (rc < 0)
		return rc;
	dest_status(in, &st);
	wire_put(out, &guest_status_def, &st);
	return new; /* 1: the session has the reference now */
}

static int have(struct incoming *in, struct rcur *req, struct wcur *out, struct err *e)
{
	uint64_t words = bitmap_words(pages_of(in)), first = get_u64(req), n;

	if (req->bad || first % 64 || first / 64 >= words)
		return err_set(e, -EINVAL, "pages that the guest does not have were asked for");
	n = min_u64(words - first / 64, GUEST_HAVE_WORDS);
	put_u16(out, (uint16_t)n);
	for (uint64_t i = 0; i < n; i++)
		put_u64(out, __atomic_load_n(&in->have[first / 64 + i], __ATOMIC_ACQUIRE));
	return 0;
}

/* Places what came, then waits until something is asked for. Without the lock: workers place at the same time. */
static int fetch(struct incoming *in, uint16_t wait_ms, struct rcur *req, struct wcur *out, struct err *e)
{
	uint32_t asked[GUEST_FETCH_PAGES];
	struct page_list l;
	enum pages_form form;
	struct rcur body;
	unsigned n;
	int rc = 0;

	if (!in->late || (phase_of(in) != PHASE_FILLING && phase_of(in) != PHASE_RUNNING))
		return err_set(e, -EINVAL, "the guest is %s here, and waits for no page",
			       guest_phase_name(phase_of(in)));
	if (rcur_left(req)) {
		rc = pages_get_head(req->p, rcur_left(req), pages_of(in), &l, &form, &body);
		if (rc == 0)
			rc = dest_late_decode(in, -1, &l, form, &body);
		if (rc < 0)
			return err_set(e, rc, "pages that were asked for cannot be placed: %s", strerror(-rc));
	}
	n = late_wait(in->late, asked, GUEST_FETCH_PAGES,
		      in->d->cfg.manual ? 0 : min_u64(wait_ms, GUEST_FETCH_WAIT_MS) * NS_PER_MS);
	put_u64(out, late_missing(in->late));
	put_u16(out, (uint16_t)n);
	for (unsigned i = 0; i < n; i++)
		put_u32(out, asked[i]);
	return 0;
}

static int stats(struct incoming *in, struct wcur *out)
{
	struct late_stats s = { 0 };

	if (in->late)
		late_stats(in->late, &s);
	wire_put(out, &guest_late_def,
		 &(struct msg_guest_late){ .missing_first = s.missing_first,
					   .missing = s.missing,
					   .faults = s.faults,
					   .pages = s.pages,
					   .p50_ns = s.p50_ns,
					   .p95_ns = s.p95_ns,
					   .p99_ns = s.p99_ns,
					   .max_ns = s.max_ns });
	return 0;
}

static int of_guest(struct incoming *in, void **state, uint16_t type, const struct msg_guest_fetch *m, struct rcur *req,
		    struct wcur *out, struct err *e)
{
	if (type == GUEST_ATTACH)
		return do_attach(in, state, out, e);
	if (type == GUEST_LATE)
		return stats(in, out);
	if (*state != in)
		return err_set(e, -EINVAL, "the guest is another session's");
	return type == GUEST_HAVE ? have(in, req, out, e) : fetch(in, m->wait_ms, req, out, e);
}

int dest_late_request(struct dest *d, void **state, uint16_t type, struct rcur *req, struct wcur *out, struct err *e)
{
	struct msg_guest_fetch m = { 0 };
	struct incoming *in;
	int rc;

	if (type == GUEST_FETCH)
		wire_get(req, &guest_fetch_def, &m);
	else
		wire_get(req, &guest_id_def, &m.id);
	if (req->bad)
		return err_set(e, -EPROTO, "the request cannot be read: install the same dwcp release on both hosts");
	in = dest_find(d, &m.id);
	if (!in)
		return err_set(e, -ENOENT, "there is no such guest here: `dwcp guests` lists those there are");
	rc = of_guest(in, state, type, &m, req, out, e);
	if (rc != 1)
		dest_put(in);
	return rc < 0 ? rc : 0;
}

bool dest_touch(struct dest *d, const struct msg_guest_id *id, uint64_t page)
{
	struct incoming *in = dest_find(d, id);
	bool there;

	if (!in)
		return true;
	there = !in->late || late_touch(in->late, page);
	dest_put(in);
	return there;
}

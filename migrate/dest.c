/* SPDX-License-Identifier: MIT */
#include "migrate/dest_impl.h"

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STILL_MS 5000 /* most that a chunk under way takes */

/* ---- the table --------------------------------------------------------------------------------- */

static void free_incoming(struct incoming *in)
{
	dest_late_drop(in);
	late_close(in->late);
	if (in->guest)
		in->guest->ops->close(in->guest);
	hde_dec_close(in->hde);
	unpack_close(in->unpack);
	if (in->mem.addr)
		__atomic_fetch_sub(&in->d->held, in->mem.len, __ATOMIC_RELAXED);
	hugebuf_free(&in->mem);
	free(in->have);
	free(in->sum);
	pthread_mutex_destroy(&in->mu);
	free(in);
}

void dest_put(struct incoming *in)
{
	struct dest *d = in->d;
	bool last;

	pthread_mutex_lock(&d->mu);
	last = --in->refs == 0;
	pthread_mutex_unlock(&d->mu);
	if (last)
		free_incoming(in);
}

/* Takes it out of the table; its memory goes with the last reference. */
void dest_forget(struct incoming *in)
{
	struct dest *d = in->d;
	bool was = false;

	pthread_mutex_lock(&d->mu);
	for (size_t i = 0; i < DEST_GUESTS_MAX; i++)
		if (d->table[i] == in) {
			d->table[i] = NULL;
			was = true;
		}
	pthread_mutex_unlock(&d->mu);
	if (was)
		dest_put(in);
}

struct incoming *dest_find(struct dest *d, const struct msg_guest_id *id)
{
	struct incoming *in = NULL;

	pthread_mutex_lock(&d->mu);
	for (size_t i = 0; i < DEST_GUESTS_MAX && !in; i++)
		if (d->table[i] && d->table[i]->id.hi == id->hi && d->table[i]->id.lo == id->lo)
			in = d->table[i];
	if (in)
		in->refs++;
	pthread_mutex_unlock(&d->mu);
	return in;
}

static bool enter(struct dest *d, struct incoming *in)
{
	bool room = false, twice = false;

	pthread_mutex_lock(&d->mu);
	for (size_t i = 0; i < DEST_GUESTS_MAX; i++)
		twice |= d->table[i] && d->table[i]->id.hi == in->id.hi && d->table[i]->id.lo == in->id.lo;
	for (size_t i = 0; i < DEST_GUESTS_MAX && !room && !twice; i++)
		if (!d->table[i]) {
			d->table[i] = in;
			room = true;
		}
	pthread_mutex_unlock(&d->mu);
	return room;
}

/* ---- pages ------------------------------------------------------------------------------------- */

static int place(void *ctx, uint64_t page, enum page_kind kind, const uint8_t *contents)
{
	struct incoming *in = ctx;
	uint8_t *at = page_at(in, page);
	bool first = bitmap_set(in->have, page);

	if (kind == PAGE_LATE)
		return -EPROTO;
	if (contents) {
		memcpy(at, contents, GUEST_PAGE);
		in->sum[page] = sum_of(SUM_XXH3, at, GUEST_PAGE);
	} else {
		/* New memory holds zeros already. */
		if (!first)
			memset(at, 0, GUEST_PAGE);
		in->sum[page] = in->zero_sum;
	}
	return 0;
}

/* Before READY; with post-copy from START on, too: what comes twice then is harmless. */
static bool takes_pages(const struct incoming *in, enum guest_phase phase)
{
	return phase == PHASE_RECEIVING || (in->late && (phase == PHASE_FILLING || phase == PHASE_RUNNING));
}

static int take(struct incoming *in, enum guest_phase phase, unsigned worker, const void *payload, size_t len)
{
	struct page_list l;
	enum pages_form form;
	struct rcur body;
	int rc;

	if (!takes_pages(in, phase) || pages_get_head(payload, len, pages_of(in), &l, &form, &body) < 0)
		return -EPROTO;
	if (phase != PHASE_RECEIVING)
		return dest_late_decode(in, (int)worker, &l, form, &body);
	if (form == PAGES_PLAIN && l.n && rcur_left(&body) && body.p[0] == PAGE_LATE)
		return dest_late_announced(in, &l, &body);
	/* A decoder that is open has seen every page that was placed. */
	if (form == PAGES_PLAIN && !in->hde)
		return pages_get_plain(&l, &body, place, in);
	if (form != PAGES_HDE || !in->hde)
		return -EPROTO;
	rc = hde_decode_list(in->hde, worker, l.page, l.n, body.p, rcur_left(&body), NULL);
	for (uint32_t i = 0; rc == 0 && i < l.n; i++) {
		in->sum[l.page[i]] = sum_of(SUM_XXH3, page_at(in, l.page[i]), GUEST_PAGE);
		bitmap_set(in->have, l.page[i]);
	}
	return rc;
}

static int decode(void *ctx, unsigned worker, const struct stage_chunk *c, const void *payload, size_t len)
{
	struct incoming *in = ctx;
	int rc;

	(void)c;
	/* Counted before the phase is looked at, as `still` sets the phase before it looks at the count. */
	__atomic_add_fetch(&in->placing, 1, __ATOMIC_SEQ_CST);
	rc = take(in, (enum guest_phase)__atomic_load_n(&in->phase, __ATOMIC_SEQ_CST), worker, payload, len);
	__atomic_sub_fetch(&in->placing, 1, __ATOMIC_RELEASE);
	return rc;
}

static const struct stage_ops page_sink_ops = { .name = "guest pages", .overhead = PAGES_OVERHEAD, .decode = decode };

static const struct stage *dest_sink(void *ctx, void *state, uint64_t *bytes)
{
	struct incoming *in = state;

	(void)ctx;
	if (!takes_pages(in, phase_of(in)))
		return NULL;
	*bytes = in->mem.len;
	return &in->stage;
}

/* ---- prepare ----------------------------------------------------------------------------------- */

static int check_prepare(const struct msg_guest_prepare *m, const struct guest_ops **kind, struct err *e)
{
	*kind = guest_find(m->kind);
	if (m->version != MIGRATE_VERSION)
		return err_set(e, -EPROTO,
			       "this host speaks version %u of migration, yours %u: install the same dwcp "
			       "release on both hosts",
			       MIGRATE_VERSION, m->version);
	if (m->page != GUEST_PAGE)
		return err_set(e, -EINVAL, "the guest has pages of %u bytes, this host takes %u: choose another host",
			       m->page, GUEST_PAGE);
	if (m->memory < GUEST_MEMORY_MIN || m->memory > GUEST_MEMORY_MAX || m->memory % GUEST_PAGE)
		return err_set(e, -EINVAL, "a guest of %llu bytes of memory is impossible",
			       (unsigned long long)m->memory);
	if (!*kind)
		return err_set(e, -EINVAL, "this host cannot run a guest of kind \"%s\": install the same dwcp release",
			       m->kind);
	if (m->late > LATE_ALL)
		return err_set(e, -EPROTO, "the request makes no sense: install the same dwcp release on both hosts");
	return (*kind)->probe(e);
}

/* Takes the memory off what is left. */
static int reserve(struct dest *d, uint64_t bytes, struct err *e)
{
	uint64_t held = __atomic_add_fetch(&d->held, bytes, __ATOMIC_RELAXED);
	char want[32], most[32];

	if (held <= d->cfg.memory_max)
		return 0;
	__atomic_fetch_sub(&d->held, bytes, __ATOMIC_RELAXED);
	return err_set(e, -ENOMEM,
		       "a guest of %s does not fit, this host takes %s of guests in all: drop some, or start `dwcp "
		       "serve` with a larger --max-memory",
		       format_size(want, sizeof want, bytes), format_size(most, sizeof most, d->cfg.memory_max));
}

static int fill_incoming(struct incoming *in, const struct msg_guest_prepare *m, struct err *e)
{
	static const uint8_t zero[GUEST_PAGE];
	uint64_t pages = m->memory / GUEST_PAGE;
	int rc = reserve(in->d, m->memory, e);

	if (rc < 0)
		return rc;
	rc = m->late ? hugebuf_alloc_paged(&in->mem, m->memory, e) : hugebuf_alloc(&in->mem, m->memory, false, e);
	if (rc < 0) {
		__atomic_fetch_sub(&in->d->held, m->memory, __ATOMIC_RELAXED);
		return rc;
	}
	if (m->late != LATE_ALL)
		rc = hugebuf_prefault(&in->mem, in->d->cfg.workers, e);
	if (rc < 0)
		return rc;
	in->have = calloc(bitmap_words(pages), sizeof *in->have);
	in->sum = calloc(pages, sizeof *in->sum);
	if (!in->have || !in->sum)
		return err_set(e, -ENOMEM, "no memory to keep track of a guest's pages");
	in->zero_sum = sum_of(SUM_XXH3, zero, GUEST_PAGE);
	if (m->hde && m->late)
		rc = unpack_open(&in->unpack, in->d->cfg.workers, e);
	if (rc == 0 && m->hde && m->late != LATE_ALL)
		rc = hde_dec_open(&in->hde,
				  &(struct hde_dec_config){ .workers = in->d->cfg.workers,
							    .memory = in->mem.addr,
							    .bytes = in->mem.len,
							    .fresh = true },
				  e);
	return rc;
}

static int do_prepare(struct dest *d, void **state, struct rcur *req, struct err *e)
{
	const struct guest_ops *kind;
	struct msg_guest_prepare m;
	struct incoming *in;
	int rc;

	wire_get(req, &guest_prepare_def, &m);
	if (req->bad)
		return err_set(e, -EPROTO, "the request cannot be read: install the same dwcp release on both hosts");
	if (*state)
		return err_set(e, -EBUSY, "this session brings a guest already: a session is for one");
	rc = check_prepare(&m, &kind, e);
	if (rc == 0 && m.late && !d->cfg.manual)
		rc = late_probe(kind, e);
	if (rc < 0)
		return rc;
	in = calloc(1, sizeof *in);
	if (!in)
		return err_set(e, -ENOMEM, "no memory for a guest");
	in->d = d;
	in->id = m.id;
	in->kind = kind;
	in->wants_late = m.late;
	in->sessions = 1;
	in->phase = PHASE_RECEIVING;
	in->refs = 2;
	in->stage = (struct stage){ .ops = &page_sink_ops, .ctx = in };
	snprintf(in->name, sizeof in->name, "%s", m.name);
	pthread_mutex_init(&in->mu, NULL);
	rc = fill_incoming(in, &m, e);
	if (rc == 0 && !enter(d, in))
		rc = err_set(e, -EBUSY, "the guest is here already, or this host has %d guests: drop some",
			     DEST_GUESTS_MAX);
	if (rc < 0) {
		free_incoming(in);
		return rc;
	}
	*state = in;
	log_info("guest %s: room for %llu bytes", in->name, (unsigned long long)m.memory);
	return 0;
}

/* Without a session nobody brings pages, and a guest that is whole never lacks any again: what they were decoded with would
 * be its for life. Its lock held. */
static void close_decoders(struct incoming *in)
{
	if (in->sessions)
		return;
	hde_dec_close(in->hde);
	in->hde = NULL;
	if (phase_of(in) != PHASE_RUNNING)
		return;
	unpack_close(in->unpack);
	in->unpack = NULL;
}

/* ---- hand-over --------------------------------------------------------------------------------- */

/* Sums of what memory holds now, in place of what was taken when it came. */
static void sum_again(struct incoming *in)
{
	for (uint64_t p = 0; p < pages_of(in); p++)
		in->sum[p] = sum_of(SUM_XXH3, page_at(in, p), GUEST_PAGE);
}

/* No page is taken from here on, and none is being placed any more: what is summed and run is what was sent. */
static int still(struct incoming *in, struct err *e)
{
	__atomic_store_n(&in->phase, PHASE_LOST, __ATOMIC_SEQ_CST);
	for (unsigned ms = 0; __atomic_load_n(&in->placing, __ATOMIC_SEQ_CST); ms++) {
		if (ms == STILL_MS)
			return err_set(e, -EBUSY,
				       "pages of the guest are still being placed: its source may not send any now");
		poll(NULL, 0, 1);
	}
	return 0;
}

static int make_ready(struct incoming *in, struct rcur *req, struct err *e)
{
	uint8_t flags = get_u8(req);
	bool late = flags & READY_LATE && in->wants_late;
	uint16_t len = get_u16(req);
	uint64_t got = bitmap_count(in->have, pages_of(in));
	struct rcur state = rcur_init(req->p, len);
	int rc;

	if (req->bad || rcur_left(req) != len)
		return err_set(e, -EPROTO, "the guest's state cannot be read: install the same release on both hosts");
	if (phase_of(in) == PHASE_READY)
		return 0;
	if (phase_of(in) != PHASE_RECEIVING)
		return err_set(e, -EINVAL, "the guest is %s here", guest_phase_name(phase_of(in)));
	if (got != pages_of(in) && !late)
		return err_set(e, -EBADMSG, "%llu of %llu pages have not arrived: please report this as a bug",
			       (unsigned long long)(pages_of(in) - got), (unsigned long long)pages_of(in));
	rc = still(in, e);
	if (rc == 0 && flags & READY_FULL && !late)
		sum_again(in);
	if (rc == 0 && late)
		rc = dest_late_open(in, e);
	if (rc == 0)
		rc = in->kind->open(&in->guest, in->mem.addr, in->mem.len, NULL, e);
	if (rc == 0)
		rc = in->guest->ops->load(in->guest, &state, e);
	if (rc == 0)
		set_phase(in, PHASE_READY);
	return rc;
}

static int start(struct incoming *in, struct wcur *out, struct err *e)
{
	uint64_t began = clock_now(&clock_mono);
	int rc = 0;

	if (phase_of(in) == PHASE_READY) {
		set_phase(in, dest_late_phase(in));
		rc = in->guest->ops->run(in->guest, e);
		/* What cannot run here never will: the source may take it back. */
		if (rc < 0)
			set_phase(in, PHASE_LOST);
	} else if (phase_of(in) != PHASE_RUNNING && phase_of(in) != PHASE_FILLING) {
		rc = err_set(e, -EINVAL, "the guest is %s here, it cannot be started", guest_phase_name(phase_of(in)));
	}
	if (rc == 0)
		wire_put(out, &guest_started_def, &(struct msg_guest_started){ clock_now(&clock_mono) - began });
	return rc;
}

static int drop(struct incoming *in, bool by_operator, struct err *e)
{
	enum guest_phase p = phase_of(in);

	if ((p == PHASE_RUNNING || p == PHASE_FILLING || p == PHASE_HALTED) && !by_operator)
		return err_set(e, -EBUSY, "the guest runs here");
	if (p == PHASE_LEAVING)
		return err_set(e, -EBUSY, "the guest is being moved to another host: wait, or give that up by --stay");
	if (p == PHASE_DOUBT && !by_operator)
		return err_set(e, -EBUSY, "the guest ran here, and may run at another host");
	if (by_operator && in->sessions)
		return err_set(e, -EBUSY, "the guest's migration is not over: end it at its source");
	dest_late_drop(in);
	if (p == PHASE_RUNNING)
		in->guest->ops->pause(in->guest, NULL);
	set_phase(in, PHASE_LOST);
	dest_forget(in);
	return 0;
}

static int resume(struct incoming *in, struct err *e)
{
	bool doubt = !in->sessions && phase_of(in) == PHASE_DOUBT;
	int rc;

	if (phase_of(in) == PHASE_HALTED)
		return err_set(
			e, -EINVAL,
			"%llu of the guest's pages are still at its source: it runs again when that comes back; if "
			"it never will, --drop it",
			(unsigned long long)late_missing(in->late));
	/* The operator knows that it does not run there. */
	if (doubt)
		set_phase(in, PHASE_READY);
	if (in->sessions || phase_of(in) != PHASE_READY)
		return err_set(e, -EINVAL,
			       "the guest is %s%s: only one that is ready, and whose source is gone, can be "
			       "resumed by hand",
			       guest_phase_name(phase_of(in)), in->sessions ? ", its migration is not over" : "");
	rc = start(in, &(struct wcur){ .bad = true }, e);
	if (rc < 0 && doubt)
		set_phase(in, PHASE_DOUBT); /* nobody else has it: it may be tried again */
	close_decoders(in);
	return rc;
}

/* ---- questions --------------------------------------------------------------------------------- */

void dest_status(struct incoming *in, struct msg_guest_status *st)
{
	struct guest_work work = { 0 };

	pthread_mutex_lock(&in->mu);
	*st = (struct msg_guest_status){ .id = in->id, .phase = (uint8_t)phase_of(in), .memory = in->mem.len };
	if (in->guest)
		in->guest->ops->work(in->guest, &work);
	pthread_mutex_unlock(&in->mu);
	st->writes = work.writes;
	snprintf(st->kind, sizeof st->kind, "%s", in->kind->name);
	snprintf(st->name, sizeof st->name, "%s", in->name);
}

unsigned dest_list(struct dest *d, struct msg_guest_status *out, unsigned max)
{
	unsigned n = 0;

	for (size_t i = 0; i < DEST_GUESTS_MAX; i++) {
		struct incoming *in;

		pthread_mutex_lock(&d->mu);
		in = d->table[i];
		if (in)
			in->refs++;
		pthread_mutex_unlock(&d->mu);
		if (!in)
			continue;
		if (n < max)
			dest_status(in, &out[n]);
		n++;
		dest_put(in);
	}
	return n;
}

struct guest *dest_guest(struct dest *d, const struct msg_guest_id *id)
{
	struct incoming *in = dest_find(d, id);
	struct guest *g = NULL;

	if (!in)
		return NULL;
	pthread_mutex_lock(&in->mu);
	if (phase_of(in) != PHASE_RECEIVING && phase_of(in) != PHASE_LOST)
		g = in->guest;
	pthread_mutex_unlock(&in->mu);
	dest_put(in);
	return g;
}

static int do_list(struct dest *d, struct wcur *out, struct err *e)
{
	const unsigned most = WIRE_CTL_MAX / 2 / sizeof(struct msg_guest_status);
	struct msg_guest_status *st = calloc(most, sizeof *st);
	unsigned n;

	if (!st)
		return err_set(e, -ENOMEM, "no memory to list guests");
	n = dest_list(d, st, most);
	n = n < most ? n : most;
	put_u16(out, (uint16_t)n);
	for (unsigned i = 0; i < n; i++)
		wire_put(out, &guest_status_def, &st[i]);
	free(st);
	return 0;
}

static int do_query(struct dest *d, struct rcur *req, struct wcur *out, struct err *e)
{
	struct msg_guest_status st = { .phase = PHASE_UNKNOWN };
	struct incoming *in;

	wire_get(req, &guest_id_def, &st.id);
	if (req->bad)
		return err_set(e, -EPROTO, "the request cannot be read");
	in = dest_find(d, &st.id);
	if (in) {
		dest_status(in, &st);
		dest_put(in);
	}
	wire_put(out, &guest_status_def, &st);
	return 0;
}

static int page_sums(struct incoming *in, struct rcur *req, struct wcur *out, struct err *e)
{
	uint64_t first = get_u64(req);
	uint16_t n = get_u16(req);

	if (req->bad || n > GUEST_PAGE_SUMS_MAX || first > pages_of(in) || n > pages_of(in) - first)
		return err_set(e, -EINVAL, "sums of pages that the guest does not have were asked for");
	put_u16(out, n);
	for (uint16_t i = 0; i < n; i++)
		put_u64(out, in->sum[first + i]);
	return 0;
}

static int sums(struct incoming *in, struct wcur *out, struct err *e)
{
	struct digest128 d;

	if (phase_of(in) != PHASE_READY && phase_of(in) != PHASE_RUNNING)
		return err_set(e, -EINVAL, "the guest is %s here", guest_phase_name(phase_of(in)));
	d = digest128_of(in->sum, pages_of(in) * sizeof *in->sum);
	wire_put(out, &guest_sums_def, &(struct msg_guest_sums){ .lo = d.lo, .hi = d.hi });
	return 0;
}

static int check(struct incoming *in, struct wcur *out, struct err *e)
{
	struct msg_guest_check m = { 0 };
	struct err why = { 0 };
	struct guest_work work;
	struct guest *g = in->guest;
	int rc;

	if (phase_of(in) != PHASE_RUNNING)
		return err_set(e, -EINVAL, "the guest is %s here%s", guest_phase_name(phase_of(in)),
			       phase_of(in) == PHASE_FILLING || phase_of(in) == PHASE_HALTED
				       ? ": it can be checked when all of its pages have come"
				       : "");
	rc = g->ops->pause(g, e);
	if (rc < 0)
		return rc;
	m.status = g->ops->check(g, &why);
	g->ops->work(g, &work);
	m.writes = work.writes;
	m.steps = work.steps;
	snprintf(m.text, sizeof m.text, "%.*s", (int)sizeof m.text - 1, why.why);
	wire_put(out, &guest_check_def, &m);
	return g->ops->run(g, e);
}

/* ---- the service ------------------------------------------------------------------------------- */

/* Requests of one guest, its lock held. */
static int guest_request(struct incoming *in, uint16_t type, struct rcur *req, struct wcur *out, struct err *e)
{
	switch (type) {
	case GUEST_READY:
		return make_ready(in, req, e);
	case GUEST_START:
		return start(in, out, e);
	case GUEST_ABANDON:
		return drop(in, false, e);
	case GUEST_SUMS:
		return sums(in, out, e);
	case GUEST_PAGE_SUMS:
		return page_sums(in, req, out, e);
	case GUEST_CHECK:
		return check(in, out, e);
	case GUEST_RESUME:
		return resume(in, e);
	default:
		return drop(in, true, e);
	}
}

static int dest_request(void *ctx, void **state, uint16_t type, struct rcur *req, struct wcur *out, struct err *e)
{
	struct dest *d = ctx;
	struct msg_guest_id id;
	struct incoming *in;
	int rc;

	if (type == GUEST_PREPARE)
		return do_prepare(d, state, req, e);
	if (type == GUEST_LIST)
		return do_list(d, out, e);
	if (type == GUEST_QUERY)
		return do_query(d, req, out, e);
	if (type >= GUEST_MOVE)
		return dest_move_request(d, type, req, out, e);
	if (type >= GUEST_ATTACH)
		return dest_late_request(d, state, type, req, out, e);
	wire_get(req, &guest_id_def, &id);
	if (req->bad)
		return err_set(e, -EPROTO, "the request cannot be read: install the same dwcp release on both hosts");
	in = dest_find(d, &id);
	if (!in)
		return err_set(e, -ENOENT, "there is no such guest here: `dwcp guests` lists those there are");
	/* Pages and states come from the session that made room for them. */
	if (type == GUEST_READY && *state != in)
		rc = err_set(e, -EINVAL, "the guest is another session's");
	else {
		pthread_mutex_lock(&in->mu);
		rc = guest_request(in, type, req, out, e);
		pthread_mutex_unlock(&in->mu);
	}
	if (rc == 0 && type == GUEST_START)
		log_info("guest %s runs here", in->name);
	dest_put(in);
	return rc;
}

static void dest_ended(void *ctx, void *state)
{
	struct incoming *in = state;

	(void)ctx;
	pthread_mutex_lock(&in->mu);
	if (--in->sessions) {
		pthread_mutex_unlock(&in->mu);
		dest_put(in);
		return;
	}
	close_decoders(in);
	switch (phase_of(in)) {
	case PHASE_FILLING:
		dest_late_alone(in);
		break;
	case PHASE_HALTED:
		break;
	case PHASE_READY:
		log_warn(
			"guest %s is here whole and paused, and its source left without a word: in doubt it stays so. If "
			"it does not run there, `dwcp guests --resume` runs it here; else --drop",
			in->name);
		break;
	case PHASE_RUNNING:
	case PHASE_LEAVING:
	case PHASE_DOUBT:
		break;
	default:
		set_phase(in, PHASE_LOST);
		dest_forget(in);
	}
	pthread_mutex_unlock(&in->mu);
	dest_put(in);
}

static uint64_t dest_held(void *ctx)
{
	struct dest *d = ctx;

	return __atomic_load_n(&d->held, __ATOMIC_RELAXED);
}

static const struct service_ops service_ops = {
	.name = "guests",
	.first = GUEST_PREPARE,
	.last = GUEST_LAST,
	.request = dest_request,
	.sink = dest_sink,
	.ended = dest_ended,
	.held = dest_held,
};

struct service dest_service(struct dest *d)
{
	return (struct service){ .ops = &service_ops, .ctx = d };
}

int dest_open(struct dest **out, const struct dest_config *cfg, struct err *e)
{
	struct dest *d = calloc(1, sizeof *d);

	if (!d)
		return err_set(e, -ENOMEM, "no memory for guests");
	d->cfg = *cfg;
	pthread_mutex_init(&d->mu, NULL);
	*out = d;
	return 0;
}

void dest_close(struct dest *d)
{
	if (!d)
		return;
	dest_move_close(d);
	for (size_t i = 0; i < DEST_GUESTS_MAX; i++)
		if (d->table[i])
			dest_put(d->table[i]);
	pthread_mutex_destroy(&d->mu);
	free(d);
}

/* SPDX-License-Identifier: MIT */
#include "migrate/fill.h"

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "migrate/pack.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define FETCH_ROOM (WIRE_CTL_MAX - WIRE_HEAD)
#define FETCH_PAGES 15 /* of one request */
#define FETCH_WAIT_MS 50
#define NEAR_NS (50 * NS_PER_US) /* neighbours may delay the next page by so much, and a quarter of a round trip */
#define ASKED_MAX (2 * GUEST_FETCH_PAGES)
#define SHARED_CHUNKS 4 /* between two requests, where both share a thread */
#define TURN_NS (5 * NS_PER_MS)
#define NOT_TAKEN UINT16_MAX
#define FILL_OVERHEAD (PAGES_HEAD_MAX + HDE_OVERHEAD) /* of either form */

struct fill {
	struct page_source *s;
	struct msg_guest_id id;
	uint32_t per; /* pages of a chunk */
	struct stage stage;
	struct pack *pack; /* NULL: pages go as they are… */
	bool plain;        /* …and so they do since packed ones were refused */
	uint32_t *slots;   /* the pages of each chunk, per of them… */
	uint16_t *taken;   /* …so many; NOT_TAKEN: nobody decided yet */
	uint64_t n_chunks;

	cacheline_aligned uint64_t unsent; /* atomic: bits set in s->pending */
	uint64_t cursor;                   /* atomic: word of s->pending */
	uint64_t hot;                      /* atomic: page touched last, + 1; 0: none since */

	/* the urgent side's own */
	cacheline_aligned uint8_t *request;
	uint32_t asked[ASKED_MAX];
	unsigned n_asked;
	int (*connect)(void *ctx, struct client **out, struct err *e);
	void *connect_ctx;
	unsigned idle; /* answers in a row that asked for nothing after everything was sent */
	struct err err;
	struct fill_stats stats;

	/* atomic */
	uint64_t missing, rate; /* rate: bytes/s of the bulk */
	int done;               /* the urgent thread's end: 1, or -errno */
	bool stop, all_sent;

	pthread_mutex_t mu;
	pthread_cond_t changed;
	bool ready, go; /* under mu: it is attached; it may begin */

	/* the bulk's own */
	pthread_t thread;
	bool started; /* the urgent one */
	struct clock clock;
	uint64_t began, bulk_bytes;
	const struct client_tick *tick;
};

/* ---- bulk -------------------------------------------------------------------------------------- */

/* Takes pages from the word on, until there are enough; returns the word where it stopped. */
static uint64_t take_from(struct fill *f, uint64_t word, uint64_t end, struct page_list *l, uint32_t most)
{
	uint64_t *map = f->s->pending;

	for (; word < end; word++)
		for (uint64_t left = __atomic_load_n(&map[word], __ATOMIC_RELAXED); left; left &= left - 1) {
			uint64_t page = word * 64 + (uint64_t)__builtin_ctzll(left);

			if (l->n == most)
				return word;
			if (bitmap_clear(map, page))
				l->page[l->n++] = (uint32_t)page;
		}
	return word;
}

/* The next pages to go: from where the guest touched memory last, else where the last chunk ended. */
static void take(struct fill *f, struct page_list *l)
{
	uint64_t words = bitmap_words(guest_pages(f->s->guest)), at;
	uint64_t hot = __atomic_exchange_n(&f->hot, 0, __ATOMIC_RELAXED);

	l->n = 0;
	if (!__atomic_load_n(&f->unsent, __ATOMIC_RELAXED))
		return;
	at = hot ? (hot - 1) / 64 : __atomic_load_n(&f->cursor, __ATOMIC_RELAXED);
	at = take_from(f, at, words, l, f->per);
	if (l->n < f->per)
		at = take_from(f, 0, words, l, f->per);
	__atomic_store_n(&f->cursor, at, __ATOMIC_RELAXED);
	__atomic_fetch_sub(&f->unsent, l->n, __ATOMIC_RELAXED);
}

/* A chunk that is sent again is the same again. */
static void pages_of_chunk(struct fill *f, uint64_t chunk, struct page_list *l)
{
	uint32_t *slots = f->slots + chunk * f->per;

	if (f->taken[chunk] != NOT_TAKEN) {
		pages_name(l, slots, 0, f->taken[chunk]);
		return;
	}
	take(f, l);
	memcpy(slots, l->page, l->n * sizeof *slots);
	f->taken[chunk] = (uint16_t)l->n;
}

static ssize_t encode(void *ctx, unsigned worker, const struct stage_chunk *c, void *out, size_t cap)
{
	struct fill *f = ctx;
	struct source_counts *counts = &f->s->worker[worker].c;
	uint64_t chunk = c->offset / f->s->chunk;
	struct page_list l;
	uint32_t zeros;
	size_t head, n;

	if (cap < c->len + FILL_OVERHEAD || chunk >= f->n_chunks)
		return -EMSGSIZE;
	pages_of_chunk(f, chunk, &l);
	if (f->pack && !f->plain && l.n) {
		ssize_t len;

		head = pages_put_head(&l, PAGES_PACKED, out);
		len = pack_put(f->pack, worker, &l, f->s->guest->mem, (uint8_t *)out + head, cap - head);
		return len < 0 ? len : (ssize_t)head + len;
	}
	head = pages_put_head(&l, PAGES_PLAIN, out);
	n = pages_put_plain(&l, f->s->guest->mem, (uint8_t *)out + head, &zeros);
	metric_add(&counts->zero_pages, zeros);
	metric_add(&counts->raw_pages, l.n - zeros);
	return (ssize_t)(head + n);
}

static void acked(void *ctx, unsigned worker, const struct stage_chunk *c, uint64_t wire)
{
	struct fill *f = ctx;

	if (f->pack && !f->plain)
		pack_acked(f->pack, worker, c->len, wire);
}

static const struct stage_ops fill_ops = {
	.name = "guest pages", .overhead = FILL_OVERHEAD, .encode = encode, .acked = acked
};

static bool on_tick(void *ctx, uint64_t now, uint64_t bytes)
{
	struct fill *f = ctx;

	if (now > f->began)
		__atomic_store_n(&f->rate, (uint64_t)((double)bytes * 1e9 / (double)(now - f->began)),
				 __ATOMIC_RELAXED);
	if (f->tick && f->tick->fn)
		f->tick->fn(f->tick->ctx, now, __atomic_load_n(&f->missing, __ATOMIC_RELAXED));
	return __atomic_load_n(&f->done, __ATOMIC_ACQUIRE) < 0;
}

/* Sends what nobody has sent yet, at most so many chunks of it (0: all). */
static int send_bulk(struct fill *f, struct client *c, uint64_t most, struct err *e)
{
	const struct client_tick tick = { .fn = on_tick, .ctx = f };
	uint64_t unsent = __atomic_load_n(&f->unsent, __ATOMIC_RELAXED), before = page_source_wire(c);
	struct amst_extent x = { 0 };
	struct amst_tx tx = { .chunk = f->s->chunk, .sum = f->s->sum, .passes = 1, .extents = &x, .n_extents = 1 };
	struct msg_xfer_result r;
	int rc;

	f->n_chunks = div_up_u64(unsent, f->per);
	if (most && f->n_chunks > most)
		f->n_chunks = most;
	if (!f->n_chunks)
		return 0;
	memset(f->taken, 0xff, f->n_chunks * sizeof *f->taken);
	x.len = f->n_chunks * f->s->chunk;
	tx.stage = &f->stage;
	rc = client_transfer(c, &tx, XFER_SERVICE, &tick, &r, e);
	if (rc == 0 && tx.acked_bytes < x.len)
		rc = err_set(e, -ENOTCONN, "the pages that remain were stopped");
	f->bulk_bytes += page_source_wire(c) - before;
	/* The guest waits for them there: what can be done without is. */
	if (rc < 0 && tx.status && f->pack && !f->plain) {
		f->plain = true;
		log_warn("packed pages were not taken (%s): the rest goes as it is", strerror(-tx.status));
	}
	return rc;
}

/* ---- urgent ------------------------------------------------------------------------------------ */

static bool take_page(struct fill *f, uint64_t page)
{
	if (!bitmap_clear(f->s->pending, page))
		return false;
	__atomic_fetch_sub(&f->unsent, 1, __ATOMIC_RELAXED);
	return true;
}

/* How many pages may go before the next one that is waited for. */
static unsigned neighbours(const struct fill *f, struct client *c)
{
	struct be_info path;
	uint64_t rtt = client_path(c, &path) == 0 ? path.rtt_ns : 0;
	double ns = (double)NEAR_NS + (double)rtt / 4;

	return (unsigned)min_u64(
		(uint64_t)(ns * (double)__atomic_load_n(&f->rate, __ATOMIC_RELAXED) / 1e9 / GUEST_PAGE),
		FETCH_PAGES - 1);
}

/* What is waited for, whoever sent it before: it may be queued there. Then what follows the last of it. */
static void choose_urgent(struct fill *f, struct client *c, struct page_list *l)
{
	uint64_t pages = guest_pages(f->s->guest), page;
	unsigned near;

	l->n = 0;
	while (f->n_asked && l->n < FETCH_PAGES) {
		page = f->asked[0];
		memmove(f->asked, f->asked + 1, --f->n_asked * sizeof *f->asked);
		take_page(f, page);
		l->page[l->n++] = (uint32_t)page;
		f->stats.asked++;
	}
	if (!l->n)
		return;
	near = neighbours(f, c);
	page = l->page[l->n - 1];
	__atomic_store_n(&f->hot, page + 1, __ATOMIC_RELAXED);
	for (uint64_t p = page + 1; p < pages && p <= page + near && l->n < FETCH_PAGES; p++)
		if (take_page(f, p)) {
			l->page[l->n++] = (uint32_t)p;
			f->stats.neighbours++;
		}
}

static int hear(struct fill *f, struct rcur *in, unsigned *n, struct err *e)
{
	uint64_t missing = get_u64(in);

	*n = get_u16(in);
	for (unsigned i = 0; i < *n; i++) {
		uint32_t page = get_u32(in);

		if (in->bad || page >= guest_pages(f->s->guest) || f->n_asked == ASKED_MAX)
			return err_set(e, -EPROTO,
				       "the destination asks for pages that the guest does not have: install the same "
				       "dwcp release on both hosts");
		f->asked[f->n_asked++] = page;
	}
	__atomic_store_n(&f->missing, missing, __ATOMIC_RELAXED);
	return 0;
}

/* One request. 1: nothing is missing any more; 0: something is; -errno. */
static int fetch(struct fill *f, struct client *c, unsigned wait_ms, struct err *e)
{
	bool all_sent = __atomic_load_n(&f->all_sent, __ATOMIC_ACQUIRE);
	struct msg_guest_fetch m = { .id = f->id };
	struct wcur w = wcur_init(f->request, FETCH_ROOM);
	struct page_list l;
	struct rcur in;
	uint32_t zeros;
	unsigned n = 0;
	int rc;

	choose_urgent(f, c, &l);
	m.wait_ms = f->n_asked ? 0 : (uint16_t)wait_ms;
	wire_put(&w, &guest_fetch_def, &m);
	if (l.n) {
		w.p += pages_put_head(&l, PAGES_PLAIN, w.p);
		w.p += pages_put_plain(&l, f->s->guest->mem, w.p, &zeros);
	}
	f->stats.requests++;
	f->stats.bytes_wire += (uint64_t)(w.p - f->request);
	rc = client_call(c, GUEST_FETCH, f->request, (uint32_t)(w.p - f->request), &in, e);
	if (rc == 0)
		rc = hear(f, &in, &n, e);
	if (rc < 0)
		return rc;
	if (!__atomic_load_n(&f->missing, __ATOMIC_RELAXED))
		return 1;
	/* Everything was acknowledged and something is missing all the same: asked for anew, it comes. */
	f->idle = all_sent && !l.n && !n ? f->idle + 1 : 0;
	return f->idle > 1 ? err_set(e, -EAGAIN, "pages were lost on the way") : 0;
}

/* A session of its own, attached to the guest. */
static int attach(struct fill *f, struct client **c, struct err *e)
{
	struct msg_guest_status st;
	int rc = f->connect(f->connect_ctx, c, e);

	if (rc < 0)
		return rc;
	client_interrupted_by(*c, NULL);
	return client_call_msg(*c, GUEST_ATTACH, &guest_id_def, &f->id, &guest_status_def, &st, e);
}

/* Says that it is attached, and waits for the guest to be there. */
static bool wait_go(struct fill *f)
{
	pthread_mutex_lock(&f->mu);
	f->ready = true;
	pthread_cond_broadcast(&f->changed);
	while (!f->go && !__atomic_load_n(&f->stop, __ATOMIC_ACQUIRE))
		pthread_cond_wait(&f->changed, &f->mu);
	pthread_mutex_unlock(&f->mu);
	return !__atomic_load_n(&f->stop, __ATOMIC_ACQUIRE);
}

/* A client belongs to the thread that opened it. */
static void *urgent_main(void *arg)
{
	struct fill *f = arg;
	struct client *c = NULL;
	int rc = attach(f, &c, &f->err);

	if (rc == 0 && wait_go(f))
		while (rc == 0 && !__atomic_load_n(&f->stop, __ATOMIC_ACQUIRE))
			rc = fetch(f, c, FETCH_WAIT_MS, &f->err);
	pthread_mutex_lock(&f->mu);
	__atomic_store_n(&f->done, rc ? rc : -ECANCELED, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mu);
	client_close(c);
	return NULL;
}

static void tell(struct fill *f, bool go)
{
	pthread_mutex_lock(&f->mu);
	f->go = go;
	__atomic_store_n(&f->stop, !go, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mu);
}

static void end_urgent(struct fill *f)
{
	if (!f->started)
		return;
	tell(f, false);
	pthread_join(f->thread, NULL);
	f->started = false;
}

int fill_connect(struct fill *f, int (*connect)(void *ctx, struct client **out, struct err *e), void *ctx,
		 struct err *e)
{
	int rc;

	end_urgent(f);
	if (!connect)
		return 0;
	f->connect = connect;
	f->connect_ctx = ctx;
	f->ready = f->go = f->stop = f->all_sent = false;
	f->n_asked = f->idle = 0;
	f->done = 0;
	rc = thread_start(&f->thread, "dwcp-urgent", urgent_main, f);
	if (rc < 0)
		return err_set(e, rc, "cannot start a thread: %s; raise ulimit -u", strerror(-rc));
	f->started = true;
	pthread_mutex_lock(&f->mu);
	while (!f->ready && !f->done)
		pthread_cond_wait(&f->changed, &f->mu);
	pthread_mutex_unlock(&f->mu);
	if (f->ready)
		return 0;
	end_urgent(f);
	*e = f->err;
	return f->done;
}

/* ---- both -------------------------------------------------------------------------------------- */

static int run_shared(struct fill *f, struct client *c, struct err *e)
{
	int rc;

	do {
		rc = fetch(f, c, 0, e);
		if (rc == 0)
			rc = send_bulk(f, c, SHARED_CHUNKS, e);
		f->all_sent = !f->unsent;
	} while (rc == 0);
	return rc < 0 ? rc : 0;
}

static int run_apart(struct fill *f, struct client *bulk, struct err *e)
{
	int rc, done;

	tell(f, true);
	rc = send_bulk(f, bulk, 0, e);
	__atomic_store_n(&f->all_sent, rc == 0, __ATOMIC_RELEASE);
	/* The other session is kept alive until the destination says that nothing is missing. */
	while (rc >= 0 && !__atomic_load_n(&f->done, __ATOMIC_ACQUIRE))
		rc = client_turn(bulk, TURN_NS, e);
	end_urgent(f);
	done = f->done;
	if (done == 1)
		return 0;
	if (done != -ECANCELED)
		*e = f->err;
	return done != -ECANCELED ? done : rc;
}

int fill_run(struct fill *f, struct client *bulk, const struct client_tick *tick, struct err *e)
{
	f->tick = tick;
	f->cursor = f->hot = 0;
	f->unsent = bitmap_count(f->s->pending, guest_pages(f->s->guest));
	__atomic_store_n(&f->missing, f->unsent, __ATOMIC_RELAXED);
	f->began = clock_now(&f->clock);
	if (f->started)
		return run_apart(f, bulk, e);
	f->n_asked = f->idle = 0;
	f->all_sent = false;
	return run_shared(f, bulk, e);
}

int fill_sync(struct fill *f, struct client *c, struct err *e)
{
	uint64_t pages = guest_pages(f->s->guest), words = bitmap_words(pages);

	for (uint64_t at = 0; at < words;) {
		uint8_t fields[32];
		struct wcur w = wcur_init(fields, sizeof fields);
		struct rcur in;
		uint16_t n;
		int rc;

		wire_put(&w, &guest_id_def, &f->id);
		put_u64(&w, at * 64);
		rc = client_call(c, GUEST_HAVE, fields, (uint32_t)(w.p - fields), &in, e);
		if (rc < 0)
			return rc;
		n = get_u16(&in);
		for (uint16_t i = 0; i < n && at < words; i++)
			f->s->pending[at++] = ~get_u64(&in);
		if (in.bad || !n)
			return err_set(
				e, -EPROTO,
				"the destination's answer cannot be read: install the same release on both hosts");
	}
	if (pages % 64)
		f->s->pending[words - 1] &= (1ull << pages % 64) - 1;
	return 0;
}

int fill_open(struct fill **out, struct page_source *s, const struct msg_guest_id *id, const struct hde_opts *hde,
	      struct clock clock, struct err *e)
{
	uint64_t pages = guest_pages(s->guest), chunks;
	struct fill *f = aligned_alloc(CACHE_LINE, (sizeof *f + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	int rc = 0;

	if (!f)
		return err_set(e, -ENOMEM, "no memory for the pages that remain");
	memset(f, 0, sizeof *f);
	pthread_mutex_init(&f->mu, NULL);
	pthread_cond_init(&f->changed, NULL);
	f->s = s;
	f->id = *id;
	f->clock = clock;
	f->per = s->chunk / GUEST_PAGE;
	f->stage = (struct stage){ .ops = &fill_ops, .ctx = f };
	chunks = div_up_u64(pages, f->per);
	f->slots = malloc(chunks * f->per * sizeof *f->slots);
	f->taken = malloc(chunks * sizeof *f->taken);
	f->request = malloc(FETCH_ROOM);
	if (!f->slots || !f->taken || !f->request)
		rc = err_set(e, -ENOMEM, "no memory for the pages that remain");
	if (rc == 0 && hde->mode != HDE_NONE)
		rc = pack_open(&f->pack, amst_workers(client_amst(s->client)), hde, e);
	if (rc < 0) {
		fill_close(f);
		return rc;
	}
	*out = f;
	return 0;
}

void fill_close(struct fill *f)
{
	if (!f)
		return;
	end_urgent(f);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->mu);
	free(f->slots);
	free(f->taken);
	free(f->request);
	pack_close(f->pack);
	free(f);
}

uint64_t fill_missing(const struct fill *f)
{
	return __atomic_load_n(&f->missing, __ATOMIC_RELAXED);
}

struct fill_stats fill_stats(const struct fill *f)
{
	struct fill_stats st = f->stats;

	st.bytes_wire += f->bulk_bytes;
	return st;
}

struct source_counts fill_counts(const struct fill *f)
{
	return f->pack ? pack_counts(f->pack) : (struct source_counts){ 0 };
}

/* SPDX-License-Identifier: MIT */
/*
 * The self-check. A page begins with {count, chain}. A write makes count one larger, stirs the chain with the writer's
 * number and its own count of writes, and puts PAYLOAD words that follow from the chain to a place that follows from the
 * chain. The writer keeps sum = Σ over its pages of seal(page, count, chain), which it updates by what the page held
 * before and holds after. A page that is older or newer than the registers, or torn, makes the sum or a payload wrong.
 * A writer's pages are those with number ≡ writer (mod writers), so no two share one.
 */
#include "migrate/guest_synth.h"

#include "base/clock.h"
#include "base/thread.h"
#include "base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATE_VERSION 1
#define THREADS_MAX 16
#define SLICE_NS (1 * NS_PER_MS)   /* a writer looks so often at what is due */
#define BEHIND_NS (20 * NS_PER_MS) /* a writer that was kept from running does not make up for more */
#define BURST_PERIOD NS_PER_S
#define BURST_SHARE 5
#define PHASE_NS (2 * NS_PER_S)
#define ZIPF_POWER 5.0 /* rank = n·u^5: an exponent of 0.8 */
#define PAYLOAD 6      /* words */
#define SLOTS ((GUEST_PAGE - 64) / 64)
#define TEXT_BYTES (4u << 20)
#define COMPUTE_BYTES 512

/* What of a writer is state; the rest is made anew at the destination. */
struct regs {
	uint64_t rng, writes, sum, cursor, steps;
};

struct writer {
	struct synth *g;
	uint32_t index;
	pthread_t thread;
	bool started;
	struct regs r;
	cacheline_aligned uint64_t seen_writes, seen_steps; /* copies for other threads */
};

struct synth {
	struct guest g;
	struct synth_opts o;
	uint64_t run_ns; /* time it has run, which moves phases and bursts; state */
	uint64_t ran_since;
	unsigned throttle;
	pthread_mutex_t mu;
	pthread_cond_t go, parked;
	bool running, ending;
	unsigned n_parked;
	bool (*gate)(void *ctx, uint64_t page); /* stepped; may be NULL */
	void *gate_ctx;
	struct writer w[THREADS_MAX];
};

const char *const synth_pattern_names[] = { "uniform", "zipf", "sequential", "bursty", "phases", NULL };

#define FIELD(f) offsetof(struct synth_opts, f)

static const struct opt rows[] = {
	{ .name = "pattern",
	  .type = OPT_ENUM,
	  .offset = FIELD(pattern),
	  .def = "uniform",
	  .values = synth_pattern_names,
	  .help = "which pages are written; bursty: a fifth of each second at five times the rate; phases: the working set "
		  "moves every 2 s" },
	{ .name = "dirty-rate",
	  .type = OPT_F64,
	  .offset = FIELD(dirty_rate),
	  .def = "1",
	  .unit = "%/s",
	  .help = "page writes per second, in percent of the guest's pages" },
	{ .name = "working-set",
	  .type = OPT_F64,
	  .offset = FIELD(working_set),
	  .def = "100",
	  .unit = "%",
	  .help = "part of memory that is written to" },
	{ .name = "writers",
	  .type = OPT_U32,
	  .offset = FIELD(threads),
	  .def = "1",
	  .min = 1,
	  .max = THREADS_MAX,
	  .help = "threads of the guest" },
	{ .name = "compute",
	  .type = OPT_BOOL,
	  .offset = FIELD(compute),
	  .def = "no",
	  .help = "the guest reads and hashes its memory between writes, as fast as it can, and counts it" },
	{ .name = "image",
	  .type = OPT_STR,
	  .offset = FIELD(image),
	  .def = "",
	  .max = sizeof(((struct synth_opts *)0)->image),
	  .unit = "FILE",
	  .help = "memory image, repeated or cut to size; without it 60 % zero pages, 30 % text, 10 % random" },
	{ .name = "guest-seed",
	  .type = OPT_SIZE,
	  .offset = FIELD(seed),
	  .def = "1",
	  .help = "of contents and of what is written where" },
};

static struct synth *synth_of(struct guest *g)
{
	return (struct synth *)g;
}

/* ---- contents ---------------------------------------------------------------------------------- */

static const char *const words[] = { "the ",    "of ",      "kernel ",     "page ",     "error ",   "2024-03-17T",
				     "INFO ",   "request ", "id=",         "user ",     "session ", "0x7f",
				     "return ", "struct ",  "status=200 ", "/usr/lib/", "memory ",  "and ",
				     "cache ",  "\n",       "node " };

static void fill_text(char *text, uint64_t *rng)
{
	size_t at = 0;

	while (at < TEXT_BYTES) {
		uint64_t r = rng_next(rng);
		const char *w = words[r % ARRAY_LEN(words)];
		size_t n = min_u64(strlen(w), TEXT_BYTES - at);

		for (size_t i = 0; i < n; i++)
			text[at + i] = w[i];
		at += n;
		for (r >>= 32; r % 8 == 0 && at < TEXT_BYTES; r = r / 8 * 9 + 1)
			text[at++] = (char)('0' + r / 8 % 10);
	}
}

static int fill_mix(struct guest *g, uint64_t seed, struct err *e)
{
	char *text = malloc(TEXT_BYTES);
	uint64_t rng = seed;

	if (!text)
		return err_set(e, -ENOMEM, "no memory to make a guest's contents");
	fill_text(text, &rng);
	for (uint64_t p = 0; p < guest_pages(g); p++) {
		uint64_t r = rng_next(&rng), kind = r % 10;
		uint8_t *page = g->mem + p * GUEST_PAGE;

		if (kind < 6)
			continue;
		if (kind < 9)
			memcpy(page, text + (r >> 16) % (TEXT_BYTES - GUEST_PAGE), GUEST_PAGE);
		else
			rng_fill(page, GUEST_PAGE, r);
		memset(page, 0, 16);
	}
	free(text);
	return 0;
}

static int fill_image(struct guest *g, const char *path, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = 0;
	uint64_t at = 0;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < (off_t)GUEST_PAGE)
		rc = err_set(e, fd < 0 ? -errno : -EINVAL,
			     "--image: %s cannot be read, or holds less than a page: name a memory image", path);
	while (rc == 0 && at < g->len) {
		ssize_t n = pread(fd, g->mem + at, g->len - at, (off_t)(at % (uint64_t)st.st_size));

		if (n < 0 && errno != EINTR)
			rc = err_set(e, -errno, "--image: reading %s: %s; check the file", path, strerror(errno));
		else if (n == 0)
			rc = err_set(e, -EIO, "--image: %s became shorter while it was read", path);
		at += n > 0 ? (uint64_t)n : 0;
	}
	for (uint64_t p = 0; rc == 0 && p < guest_pages(g); p++)
		memset(g->mem + p * GUEST_PAGE, 0, 16);
	if (fd >= 0)
		close(fd);
	return rc;
}

/* ---- one write --------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t v)
{
	return rng_next(&v);
}

static uint64_t seal(uint64_t page, uint64_t count, uint64_t chain)
{
	return count ? mix(mix(page * 0x9e3779b97f4a7c15ull ^ count) ^ chain) : 0;
}

static uint64_t *payload_of(uint64_t *page, uint64_t chain)
{
	return page + 8 + chain % SLOTS * 8;
}

static uint64_t *page_at(const struct synth *s, uint64_t p)
{
	return (uint64_t *)(void *)(s->g.mem + p * GUEST_PAGE);
}

/* Whoever migrates the guest reads memory meanwhile, as with a real one: a torn page is dirty, and sent again. */
static __attribute__((no_sanitize_thread)) void write_page(struct writer *w, uint64_t p)
{
	uint64_t *page = page_at(w->g, p), *at, count = page[0], chain = page[1], v;

	w->r.sum -= seal(p, count, chain);
	w->r.writes++;
	count++;
	chain = mix(chain ^ w->r.writes ^ (uint64_t)w->index << 56);
	page[0] = count;
	page[1] = chain;
	at = payload_of(page, chain);
	v = chain;
	for (int i = 0; i < PAYLOAD; i++)
		at[i] = rng_next(&v);
	w->r.sum += seal(p, count, chain);
}

/* ---- which page -------------------------------------------------------------------------------- */

/* Of a writer's own pages, of which there are `mine`. */
static uint64_t pick(struct writer *w, uint64_t mine, uint64_t run_ns)
{
	const struct synth_opts *o = &w->g->o;
	uint64_t set = max_u64((uint64_t)((double)mine * o->working_set / 100), 1), at;
	double u;

	switch (o->pattern) {
	case SYNTH_ZIPF:
		u = (double)(rng_next(&w->r.rng) >> 11) * 0x1p-53;
		at = (uint64_t)((double)set * pow(u, ZIPF_POWER));
		return (at * 0x9e3779b1ull) % set;
	case SYNTH_SEQUENTIAL:
		return w->r.cursor++ % set;
	case SYNTH_PHASES:
		at = run_ns / PHASE_NS * set;
		return (at + rng_next(&w->r.rng) % set) % mine;
	default:
		return rng_next(&w->r.rng) % set;
	}
}

/* Writes per second of one writer at a moment. */
static double rate_at(const struct synth *s, uint64_t run_ns)
{
	double rate = (double)guest_pages(&s->g) * s->o.dirty_rate / 100 / s->o.threads;

	if (s->o.pattern == SYNTH_BURSTY)
		rate = run_ns % BURST_PERIOD < BURST_PERIOD / BURST_SHARE ? rate * BURST_SHARE : 0;
	return rate * (100 - __atomic_load_n(&s->throttle, __ATOMIC_RELAXED)) / 100;
}

/* ---- writers ----------------------------------------------------------------------------------- */

static bool told_to_stop(const struct synth *s)
{
	return !__atomic_load_n(&s->running, __ATOMIC_ACQUIRE);
}

static void compute(struct writer *w, uint64_t until)
{
	uint64_t pages = guest_pages(&w->g->g), rng = w->r.rng ^ w->r.steps;
	volatile uint64_t sink = 0;

	while (clock_now(&clock_mono) < until && !told_to_stop(w->g)) {
		for (int k = 0; k < 64; k++) {
			const uint64_t *page = page_at(w->g, rng_next(&rng) % pages);
			uint64_t h = 0;

			for (size_t i = 0; i < COMPUTE_BYTES / 8; i++)
				h = (h ^ page[i]) * 0x9e3779b97f4a7c15ull;
			sink += h;
			w->r.steps++;
		}
	}
	(void)sink;
}

/* Until the next slice, or until told to stop. */
static void rest(struct writer *w, uint64_t until)
{
	struct synth *s = w->g;
	struct timespec at = { .tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S) };

	if (s->o.compute) {
		compute(w, until);
		return;
	}
	pthread_mutex_lock(&s->mu);
	while (s->running && pthread_cond_timedwait(&s->go, &s->mu, &at) == 0)
		;
	pthread_mutex_unlock(&s->mu);
}

static void tell(struct writer *w)
{
	__atomic_store_n(&w->seen_writes, w->r.writes, __ATOMIC_RELAXED);
	__atomic_store_n(&w->seen_steps, w->r.steps, __ATOMIC_RELAXED);
}

/* Pages of a writer. */
static uint64_t pages_of(const struct synth *s, uint32_t index)
{
	return (guest_pages(&s->g) - index + s->o.threads - 1) / s->o.threads;
}

static uint64_t next_page(struct writer *w, uint64_t run_ns)
{
	return pick(w, pages_of(w->g, w->index), run_ns) * w->g->o.threads + w->index;
}

static void write_one(struct writer *w, uint64_t run_ns)
{
	write_page(w, next_page(w, run_ns));
}

/* Until told to pause. */
static void work(struct writer *w)
{
	struct synth *s = w->g;
	uint64_t last = clock_now(&clock_mono), now, run_ns;
	double due = 0;

	while (!told_to_stop(s)) {
		now = clock_now(&clock_mono);
		run_ns = s->run_ns + now - s->ran_since;
		due += rate_at(s, run_ns) * (double)min_u64(now - last, BEHIND_NS) / 1e9;
		last = now;
		while (due >= 1 && !told_to_stop(s)) {
			write_one(w, run_ns);
			due--;
		}
		tell(w);
		rest(w, now + SLICE_NS);
	}
	tell(w);
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	struct synth *s = w->g;

	pthread_mutex_lock(&s->mu);
	while (!s->ending) {
		s->n_parked++;
		pthread_cond_broadcast(&s->parked);
		while (!s->running && !s->ending)
			pthread_cond_wait(&s->go, &s->mu);
		s->n_parked--;
		if (s->ending)
			break;
		pthread_mutex_unlock(&s->mu);
		work(w);
		pthread_mutex_lock(&s->mu);
	}
	pthread_mutex_unlock(&s->mu);
	return NULL;
}

static void wait_parked(struct synth *s)
{
	while (!s->o.stepped && s->n_parked < s->o.threads)
		pthread_cond_wait(&s->parked, &s->mu);
}

/* Threads exist before a guest runs, so that running it takes no longer than waking them. */
static int start_writers(struct synth *s, struct err *e)
{
	int rc = 0;

	for (uint32_t i = 0; i < s->o.threads; i++) {
		s->w[i].g = s;
		s->w[i].index = i;
	}
	if (s->o.stepped)
		return 0;
	for (uint32_t i = 0; i < s->o.threads && rc == 0; i++) {
		struct writer *w = &s->w[i];

		rc = thread_start(&w->thread, "dwcp-guest", writer_main, w);
		w->started = rc == 0;
	}
	if (rc < 0)
		return err_set(e, rc, "cannot start a guest's thread: %s; raise ulimit -u", strerror(-rc));
	pthread_mutex_lock(&s->mu);
	wait_parked(s);
	pthread_mutex_unlock(&s->mu);
	return 0;
}

/* ---- ops --------------------------------------------------------------------------------------- */

static int synth_probe(struct err *e)
{
	(void)e;
	return 0;
}

static bool sane(const struct synth_opts *o)
{
	return o->pattern >= 0 && o->pattern < SYNTH_PATTERNS && o->dirty_rate >= 0 && o->dirty_rate <= 1e6 &&
	       o->working_set > 0 && o->working_set <= 100 && o->threads >= 1 && o->threads <= THREADS_MAX;
}

static void synth_close(struct guest *g)
{
	struct synth *s = synth_of(g);

	if (!s)
		return;
	pthread_mutex_lock(&s->mu);
	s->ending = true;
	__atomic_store_n(&s->running, false, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&s->go);
	pthread_mutex_unlock(&s->mu);
	for (uint32_t i = 0; i < THREADS_MAX; i++)
		if (s->w[i].started)
			pthread_join(s->w[i].thread, NULL);
	pthread_cond_destroy(&s->go);
	pthread_cond_destroy(&s->parked);
	pthread_mutex_destroy(&s->mu);
	free(s);
}

static int synth_new(struct synth **out, void *mem, uint64_t len, struct err *e)
{
	pthread_condattr_t mono;
	struct synth *s;

	s = aligned_alloc(CACHE_LINE, (sizeof *s + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	if (!s)
		return err_set(e, -ENOMEM, "no memory for a guest");
	memset(s, 0, sizeof *s);
	s->g = (struct guest){ .ops = &guest_synth_ops, .mem = mem, .len = len };
	pthread_mutex_init(&s->mu, NULL);
	pthread_condattr_init(&mono);
	pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
	pthread_cond_init(&s->go, &mono);
	pthread_cond_init(&s->parked, &mono);
	pthread_condattr_destroy(&mono);
	*out = s;
	return 0;
}

static int synth_open(struct guest **out, void *mem, uint64_t len, const void *opts, struct err *e)
{
	const struct synth_opts *o = opts;
	struct synth *s = NULL;
	int rc;

	if (o && !sane(o))
		return err_set(e, -EINVAL,
			       "--dirty-rate must be 0 or more, --working-set above 0 and at most 100 percent");
	rc = synth_new(&s, mem, len, e);
	if (rc < 0)
		return rc;
	if (o) {
		s->o = *o;
		for (uint32_t i = 0; i < o->threads; i++)
			s->w[i].r.rng = mix(o->seed + i);
		rc = o->image[0] ? fill_image(&s->g, o->image, e) : fill_mix(&s->g, o->seed, e);
		if (rc == 0)
			rc = start_writers(s, e);
	}
	if (rc < 0)
		synth_close(&s->g);
	else
		*out = &s->g;
	return rc;
}

static int synth_run(struct guest *g, struct err *e)
{
	struct synth *s = synth_of(g);

	(void)e;
	pthread_mutex_lock(&s->mu);
	if (!s->running) {
		s->ran_since = clock_now(&clock_mono);
		__atomic_store_n(&s->running, true, __ATOMIC_RELEASE);
		pthread_cond_broadcast(&s->go);
	}
	pthread_mutex_unlock(&s->mu);
	return 0;
}

static int synth_pause(struct guest *g, struct err *e)
{
	struct synth *s = synth_of(g);

	(void)e;
	pthread_mutex_lock(&s->mu);
	if (s->running) {
		__atomic_store_n(&s->running, false, __ATOMIC_RELEASE);
		pthread_cond_broadcast(&s->go);
		wait_parked(s);
		if (!s->o.stepped)
			s->run_ns += clock_now(&clock_mono) - s->ran_since;
	}
	wait_parked(s); /* also where it was only halted */
	pthread_mutex_unlock(&s->mu);
	return 0;
}

static void synth_halt(struct guest *g)
{
	struct synth *s = synth_of(g);

	pthread_mutex_lock(&s->mu);
	if (s->running) {
		__atomic_store_n(&s->running, false, __ATOMIC_RELEASE);
		pthread_cond_broadcast(&s->go);
	}
	pthread_mutex_unlock(&s->mu);
}

static int synth_save(struct guest *g, struct wcur *out, struct err *e)
{
	struct synth *s = synth_of(g);

	put_u16(out, STATE_VERSION);
	put_u8(out, (uint8_t)s->o.pattern);
	put_u8(out, (uint8_t)s->o.threads);
	put_u8(out, (uint8_t)(s->o.compute | s->o.stepped << 1));
	put_u64(out, (uint64_t)(s->o.dirty_rate * 1e6));
	put_u64(out, (uint64_t)(s->o.working_set * 1e6));
	put_u64(out, s->run_ns);
	for (uint32_t i = 0; i < s->o.threads; i++) {
		const struct regs *r = &s->w[i].r;

		put_u64(out, r->rng);
		put_u64(out, r->writes);
		put_u64(out, r->sum);
		put_u64(out, r->cursor);
		put_u64(out, r->steps);
	}
	return out->bad ? err_set(e, -EMSGSIZE, "the guest's state is too large: this is a bug") : 0;
}

static int synth_load(struct guest *g, struct rcur *in, struct err *e)
{
	struct synth *s = synth_of(g);
	uint16_t version = get_u16(in);
	uint8_t flags;

	s->o.pattern = get_u8(in);
	s->o.threads = get_u8(in);
	flags = get_u8(in);
	s->o.compute = flags & 1;
	s->o.stepped = flags >> 1 & 1;
	s->o.dirty_rate = (double)get_u64(in) / 1e6;
	s->o.working_set = (double)get_u64(in) / 1e6;
	s->run_ns = get_u64(in);
	if (in->bad || version != STATE_VERSION || !sane(&s->o)) {
		s->o.threads = 0;
		return err_set(e, -EPROTO,
			       "the guest's state is of another version or damaged: install the same dwcp release on "
			       "both hosts");
	}
	for (uint32_t i = 0; i < s->o.threads; i++) {
		struct regs *r = &s->w[i].r;

		r->rng = get_u64(in);
		r->writes = get_u64(in);
		r->sum = get_u64(in);
		r->cursor = get_u64(in);
		r->steps = get_u64(in);
		tell(&s->w[i]);
	}
	if (in->bad)
		return err_set(e, -EPROTO, "the guest's state is cut short: it is damaged");
	return start_writers(s, e);
}

bool synth_running(const struct guest *g)
{
	return !told_to_stop((const struct synth *)g);
}

void synth_step(struct guest *g, unsigned writes)
{
	struct synth *s = synth_of(g);

	for (unsigned i = 0; i < writes && s->running; i++) {
		struct writer *w = &s->w[s->run_ns / SLICE_NS % s->o.threads];
		struct regs before = w->r;
		uint64_t page = next_page(w, s->run_ns + SLICE_NS);

		if (s->gate && !s->gate(s->gate_ctx, page)) {
			w->r = before;
			return;
		}
		s->run_ns += SLICE_NS;
		write_page(w, page);
		tell(w);
	}
}

void synth_gate(struct guest *g, bool (*there)(void *ctx, uint64_t page), void *ctx)
{
	synth_of(g)->gate = there;
	synth_of(g)->gate_ctx = ctx;
}

static int check_page(const struct synth *s, uint64_t p, uint64_t *sum, uint64_t *writes, struct err *e)
{
	uint64_t *page = page_at(s, p), *at, v = page[1];

	if (!page[0])
		return page[1] ? err_set(e, -EBADMSG, "page %llu holds a write that nobody made", (unsigned long long)p)
			       : 0;
	at = payload_of(page, page[1]);
	for (int i = 0; i < PAYLOAD; i++)
		if (at[i] != rng_next(&v))
			return err_set(e, -EBADMSG, "page %llu holds half a write", (unsigned long long)p);
	*sum += seal(p, page[0], page[1]);
	*writes += page[0];
	return 0;
}

static int synth_check(struct guest *g, struct err *e)
{
	struct synth *s = synth_of(g);

	for (uint32_t i = 0; i < s->o.threads; i++) {
		const struct regs *r = &s->w[i].r;
		uint64_t sum = 0, writes = 0;

		for (uint64_t p = i; p < guest_pages(g); p += s->o.threads) {
			int rc = check_page(s, p, &sum, &writes, e);

			if (rc < 0)
				return rc;
		}
		if (writes != r->writes || sum != r->sum)
			return err_set(
				e, -EBADMSG,
				"writer %u made %llu writes, its pages hold %llu, and their sum is %s: a write was "
				"lost or repeated",
				i, (unsigned long long)r->writes, (unsigned long long)writes,
				sum == r->sum ? "right" : "wrong");
	}
	return 0;
}

static void synth_throttle(struct guest *g, unsigned percent)
{
	__atomic_store_n(&synth_of(g)->throttle, percent > 99 ? 99 : percent, __ATOMIC_RELAXED);
}

static void synth_work(const struct guest *g, struct guest_work *out)
{
	const struct synth *s = (const struct synth *)g;

	*out = (struct guest_work){ 0 };
	for (uint32_t i = 0; i < s->o.threads; i++) {
		out->writes += __atomic_load_n(&s->w[i].seen_writes, __ATOMIC_RELAXED);
		out->steps += __atomic_load_n(&s->w[i].seen_steps, __ATOMIC_RELAXED);
		out->pages += max_u64((uint64_t)((double)pages_of(s, i) * s->o.working_set / 100), 1);
	}
}

const struct guest_ops guest_synth_ops = {
	.name = "synth",
	.help = "threads that write to memory at a set rate, and check every write",
	.opts = rows,
	.n_opts = ARRAY_LEN(rows),
	.opts_size = sizeof(struct synth_opts),
	.probe = synth_probe,
	.open = synth_open,
	.close = synth_close,
	.run = synth_run,
	.pause = synth_pause,
	.halt = synth_halt,
	.save = synth_save,
	.load = synth_load,
	.check = synth_check,
	.throttle = synth_throttle,
	.work = synth_work,
};

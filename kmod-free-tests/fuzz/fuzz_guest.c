/* SPDX-License-Identifier: MIT */
/*
 * The destination of migrations, and two sessions that say what the input says: every request with any fields, chunks of
 * pages with any contents, ends in any order. Bytes around a guest's memory are ASan's to watch; in the end every session
 * is over and nothing may be left.
 */
#include "base/log.h"
#include "kmod-free-tests/sim.h"
#include "migrate/dest.h"
#include "migrate/guest_synth.h"
#include "migrate/pages.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OPS_MAX 40
#define SESSIONS 2
#define MEMORY (1u << 20)

struct world {
	struct dest *d;
	struct service v;
	void *state[SESSIONS];
	struct rcur *in;
};

static uint8_t saved[4096]; /* the state of a guest that was never run */
static size_t n_saved;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const struct synth_opts o = { .working_set = 100, .dirty_rate = 1, .threads = 2, .stepped = true };
	struct wcur w = wcur_init(saved, sizeof saved);
	void *mem = calloc(1, MEMORY);
	struct guest *g;
	struct err e;

	(void)argc;
	(void)argv;
	log_set_level(LOG_ERROR);
	sim_must(mem && guest_synth_ops.open(&g, mem, MEMORY, &o, &e) == 0);
	sim_must(g->ops->save(g, &w, &e) == 0);
	n_saved = (size_t)(w.p - saved);
	g->ops->close(g);
	free(mem);
	return 0;
}

/* So many bytes of the input, or those there are. */
static const uint8_t *some(struct rcur *in, size_t *n)
{
	const uint8_t *at = in->p;

	*n = rcur_left(in) < *n ? rcur_left(in) : *n;
	in->p += *n;
	return at;
}

static void put_some(struct rcur *in, struct wcur *w, size_t n)
{
	const uint8_t *at = some(in, &n);

	put_bytes(w, at, n);
}

static void put_prepare(struct rcur *in, struct wcur *w, const struct msg_guest_id *id)
{
	uint8_t odd = get_u8(in), flags = get_u8(in);
	struct msg_guest_prepare m = {
		.id = *id, .version = MIGRATE_VERSION, .page = GUEST_PAGE, .memory = MEMORY, .name = "fuzz"
	};

	snprintf(m.kind, sizeof m.kind, "%s", odd & 1 ? "cow" : "synth");
	m.version += odd >> 1 & 1;
	m.page <<= odd >> 2 & 1;
	m.memory = odd & 8 ? get_u64(in) : MEMORY << (odd >> 4 & 3);
	m.late = flags & 3;
	m.hde = flags >> 2 & 1;
	wire_put(w, &guest_prepare_def, &m);
}

/* A good state, or one with a byte that is not. It never starts threads. */
static void put_ready(struct rcur *in, struct wcur *w)
{
	uint8_t state[sizeof saved], flags = get_u8(in), at = get_u8(in);

	memcpy(state, saved, n_saved);
	if (at < n_saved)
		state[at] ^= get_u8(in);
	state[4] |= 2;
	put_u8(w, flags);
	put_u16(w, (uint16_t)n_saved);
	put_bytes(w, state, n_saved);
}

static void ask(struct world *f, void **state, uint16_t type, const struct msg_guest_id *id)
{
	static uint8_t fields[WIRE_CTL_MAX], reply[WIRE_CTL_MAX];
	struct wcur w = wcur_init(fields, sizeof fields), out = wcur_init(reply, sizeof reply);
	struct err e = { 0 };
	struct rcur req;
	int rc;

	if (type == GUEST_PREPARE)
		put_prepare(f->in, &w, id);
	else if (type != GUEST_LIST)
		wire_put(&w, &guest_id_def, id);
	if (type == GUEST_READY)
		put_ready(f->in, &w);
	if (type == GUEST_PAGE_SUMS || type == GUEST_HAVE)
		put_some(f->in, &w, 10);
	if (type == GUEST_FETCH) {
		put_u16(&w, 0);
		put_some(f->in, &w, get_u16(f->in));
	}
	req = rcur_init(fields, (size_t)(w.p - fields));
	rc = f->v.ops->request(f->v.ctx, state, type, &req, &out, &e);
	sim_must(rc <= 0 && (rc == 0 || e.why[0]));
}

static void chunk(struct world *f, void *state)
{
	size_t n = get_u16(f->in);
	const uint8_t *at = some(f->in, &n);
	const struct stage *s;
	uint64_t bytes;
	uint8_t *copy;

	if (!state)
		return;
	s = f->v.ops->sink(f->v.ctx, state, &bytes);
	copy = malloc(n ? n : 1); /* of its own, so that its end is watched */
	sim_must(copy);
	memcpy(copy, at, n);
	if (s)
		s->ops->decode(s->ctx, 0, &(struct stage_chunk){ .len = GUEST_PAGE }, copy, n);
	free(copy);
}

/* Every page at once, so that READY is reached. */
static void all_zeros(struct world *f, void *state)
{
	uint64_t bytes;
	const struct stage *s = state ? f->v.ops->sink(f->v.ctx, state, &bytes) : NULL;
	uint8_t payload[PAGES_OVERHEAD];
	struct page_list l;
	uint8_t kind = get_u8(f->in) & 1 ? PAGE_LATE : PAGE_ZERO;

	for (uint64_t p = 0; s && p < bytes / GUEST_PAGE; p += PAGES_MOST) {
		size_t head;

		pages_name(&l, NULL, p, PAGES_MOST);
		head = pages_put_head(&l, PAGES_PLAIN, payload);
		memset(payload + head, kind, PAGES_MOST);
		s->ops->decode(s->ctx, 0, &(struct stage_chunk){ .len = PAGES_MOST * GUEST_PAGE }, payload,
			       head + PAGES_MOST);
	}
}

static void end(struct world *f, void **state)
{
	if (*state)
		f->v.ops->ended(f->v.ctx, *state);
	*state = NULL;
}

static void one(struct world *f)
{
	uint8_t op = get_u8(f->in), who = get_u8(f->in);
	void **state = &f->state[who & 1];
	struct msg_guest_id id = { 1, who >> 1 & 1 };
	struct guest *g;

	switch (op % 20) {
	case 19:
		end(f, state);
		break;
	case 18:
		all_zeros(f, *state);
		break;
	case 17:
		chunk(f, *state);
		break;
	case 16:
		dest_touch(f->d, &id, get_u8(f->in));
		break;
	case 15:
		g = dest_guest(f->d, &id);
		if (g)
			synth_step(g, 4);
		break;
	default:
		ask(f, state, GUEST_PREPARE + op % 20 % (GUEST_LAST - GUEST_PREPARE + 1), &id);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct dest_config cfg = { .memory_max = 4 * MEMORY, .workers = 1, .manual = true };
	struct rcur in = rcur_init(data, size);
	struct world f = { .in = &in };
	struct err e;

	sim_must(dest_open(&f.d, &cfg, &e) == 0);
	f.v = dest_service(f.d);
	for (int i = 0; i < OPS_MAX && rcur_left(&in); i++)
		one(&f);
	for (int i = 0; i < SESSIONS; i++)
		end(&f, &f.state[i]);
	dest_close(f.d);
	return 0;
}

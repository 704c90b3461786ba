/* SPDX-License-Identifier: MIT */
#include "migrate/sim_codec.h"

#include "base/hugebuf.h"
#include "base/util.h"
#include "migrate/guest_synth.h"
#include "migrate/pages.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE_MEMORY (16u << 20)
#define BLOCK (256u << 10)
#define BLOCKS 12
#define SETTLE 48 /* blocks until the selector's weights are at rest… */
#define TAKE 48   /* …and those that count */
#define PAGES_TAKEN ((double)TAKE * BLOCK / GUEST_PAGE)
#define STEPS 4  /* links are told apart by a quarter of a doubling */
#define ASKED 64 /* answers that are remembered */

struct answer {
	int mode;
	int link; /* log2 of bytes/s, in steps; 0: none */
	struct sel_guess page;
};

struct sim_codec {
	struct sel_features block[BLOCKS];
	struct answer asked[ASKED];
	unsigned next;
};

/* Pages that are not zeros, put together to blocks as they come. */
static int sample(struct sim_codec *c, const uint8_t *mem, struct err *e)
{
	uint8_t *block = malloc(BLOCK);
	size_t n = 0, filled = 0;

	if (!block)
		return err_set(e, -ENOMEM, "no memory for samples");
	for (size_t at = 0; at < SAMPLE_MEMORY && n < BLOCKS; at += GUEST_PAGE) {
		if (page_is_zero(mem + at))
			continue;
		memcpy(block + filled, mem + at, GUEST_PAGE);
		filled += GUEST_PAGE;
		if (filled == BLOCK) {
			sel_features(&c->block[n++], block, BLOCK);
			filled = 0;
		}
	}
	free(block);
	return n == BLOCKS ? 0 : err_set(e, -EINVAL, "the samples hold only %zu blocks: this is a bug", n);
}

int sim_codec_open(struct sim_codec **out, struct err *e)
{
	struct synth_opts o = { .working_set = 100, .threads = 1, .seed = 1, .stepped = true };
	struct sim_codec *c = calloc(1, sizeof *c);
	struct hugebuf mem = { 0 };
	struct guest *g = NULL;
	int rc;

	if (!c)
		return err_set(e, -ENOMEM, "no memory for samples");
	rc = hugebuf_alloc(&mem, SAMPLE_MEMORY, false, e);
	if (rc == 0)
		rc = guest_synth_ops.open(&g, mem.addr, mem.len, &o, e);
	if (rc == 0)
		rc = sample(c, mem.addr, e);
	guest_synth_ops.close(g);
	hugebuf_free(&mem);
	if (rc < 0)
		sim_codec_close(c);
	else
		*out = c;
	return rc;
}

void sim_codec_close(struct sim_codec *c)
{
	free(c);
}

/* What the selector comes to on a link: the mean of a page. */
static struct sel_guess settle(const struct sim_codec *c, enum hde_mode mode, double link)
{
	const struct sel_cost cost = { .cpu = 1, .link_bytes_per_s = link, .receiver = 1, .allowed = hde_choices(mode) };
	struct sel_guess sum = { 0 }, g;
	struct selector s;

	sel_init(&s, NULL, &cost);
	for (unsigned i = 0; i < SETTLE + TAKE; i++) {
		const struct sel_features *f = &c->block[i % BLOCKS];
		unsigned choice = sel_choose(&s, f, BLOCK, &g);

		sel_learn(&s, f, BLOCK, choice, (size_t)g.size, (uint64_t)g.encode_ns, (uint64_t)g.decode_ns);
		if (i < SETTLE)
			continue;
		sum.size += g.size;
		sum.encode_ns += g.encode_ns;
		sum.decode_ns += g.decode_ns;
	}
	sum.size /= PAGES_TAKEN;
	sum.encode_ns /= PAGES_TAKEN;
	sum.decode_ns /= PAGES_TAKEN;
	return sum;
}

static struct sel_guess ask(struct sim_codec *c, enum hde_mode mode, double link)
{
	int step = (int)lround(log2(fmax(link, 2)) * STEPS);
	struct answer *a;

	for (unsigned i = 0; i < ASKED; i++)
		if (c->asked[i].link == step && c->asked[i].mode == (int)mode)
			return c->asked[i].page;
	a = &c->asked[c->next++ % ASKED];
	*a = (struct answer){ (int)mode, step, settle(c, mode, exp2((double)step / STEPS)) };
	return a->page;
}

/* Measured work besides the codec's stays; the codec's changes as it was predicted to. */
static double in_proportion(double measured, double fixed, double then, double now)
{
	return measured * (fixed + now) / (fixed + then);
}

void sim_codec_cost(struct sim_codec *c, const struct sim_rates *r, enum hde_mode mode, double link,
		    struct sim_hde_rates *out)
{
	const struct sim_hde_rates *m = &r->hde[mode - 1];
	double measured = m->link_mbytes * 1e6;
	struct sel_guess then, now;

	*out = *m;
	if (link >= measured)
		return;
	then = ask(c, mode, measured);
	now = ask(c, mode, link);
	out->link_mbytes = link / 1e6;
	out->bytes = m->bytes * now.size / then.size;
	out->send_ns = in_proportion(m->send_ns, r->raw_send_ns, then.encode_ns, now.encode_ns);
	out->recv_ns = in_proportion(m->recv_ns, r->raw_recv_ns, then.decode_ns, now.decode_ns);
}

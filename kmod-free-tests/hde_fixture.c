/* SPDX-License-Identifier: MIT */
#include "kmod-free-tests/hde_fixture.h"

#include "base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void text(uint8_t *p, uint64_t *seed)
{
	static const char *const words[] = { "the ", "guest ", "memory ", "of ", "a ", "machine\n", "moves ", "page " };

	for (uint32_t at = 0; at < HDE_PAGE;) {
		const char *w = words[rng_next(seed) % ARRAY_LEN(words)];

		for (; *w && at < HDE_PAGE; w++)
			p[at++] = (uint8_t)*w;
	}
}

static void numbers(uint8_t *p, uint64_t *seed)
{
	for (uint32_t at = 0; at < HDE_PAGE; at += 8) {
		uint64_t v = 0x7f0000000000ull + rng_next(seed) % 100000 * 16;

		memcpy(p + at, &v, 8);
	}
}

void hde_content(uint8_t *p, uint64_t bytes, uint64_t seed)
{
	uint64_t pages = bytes / HDE_PAGE;

	memset(p, 0, bytes);
	for (uint64_t i = 0; i < pages; i++) {
		uint8_t *page = p + i * HDE_PAGE;
		uint64_t other = i ? rng_next(&seed) % i : 0;

		switch (i ? rng_next(&seed) % 8 : 0) {
		case 0:
		case 1:
			text(page, &seed);
			break;
		case 2:
			numbers(page, &seed);
			break;
		case 3:
			rng_fill(page, HDE_PAGE, rng_next(&seed));
			break;
		case 4:
			memcpy(page, p + other * HDE_PAGE, HDE_PAGE);
			break;
		case 5: /* at another offset, with something before it */
			rng_fill(page, 1000, rng_next(&seed));
			memcpy(page + 1000, p + other * HDE_PAGE, HDE_PAGE - 1000);
			break;
		default:
			break;
		}
	}
	if (bytes % HDE_PAGE)
		memset(p + pages * HDE_PAGE, 'x', bytes % HDE_PAGE);
}

void hde_fixture_open(struct hde_fixture *f, uint64_t bytes, const struct hde_config *cfg)
{
	struct hde_dec_config d = { .workers = 1, .bytes = bytes };
	struct err e = { 0 };

	*f = (struct hde_fixture){ .bytes = bytes };
	f->here = calloc(1, bytes);
	f->there = calloc(1, bytes);
	f->payload = malloc(HDE_BATCH_MAX + HDE_OVERHEAD);
	assert_true(f->here && f->there && f->payload);
	if (cfg) {
		f->cfg = *cfg;
	} else {
		f->cfg.workers = 1;
		hde_opts_default(&f->cfg.opts, HDE_AUTO);
	}
	f->cfg.bytes = bytes;
	if (f->cfg.frozen)
		f->cfg.frozen = f->here;
	d.memory = f->there;
	if (hde_enc_open(&f->enc, &f->cfg, &e) < 0 || hde_dec_open(&f->dec, &d, &e) < 0)
		fail_msg("%s", e.why);
}

void hde_fixture_close(struct hde_fixture *f)
{
	hde_enc_close(f->enc);
	hde_dec_close(f->dec);
	free(f->here);
	free(f->there);
	free(f->payload);
}

static struct hde_batch batch_of(const struct hde_fixture *f, uint64_t first, uint32_t n)
{
	return (struct hde_batch){
		.first = first,
		.n = n,
		.bytes = (uint32_t)min_u64((uint64_t)n * HDE_PAGE, f->bytes - first * HDE_PAGE),
		.data = f->here + first * HDE_PAGE,
	};
}

void hde_fixture_encode(struct hde_fixture *f, uint64_t first, uint32_t n)
{
	struct hde_batch b = batch_of(f, first, n);

	f->len = hde_encode(f->enc, 0, &b, f->payload, b.bytes + HDE_OVERHEAD);
	assert_true(f->len > 0 && (uint64_t)f->len <= b.bytes + HDE_OVERHEAD);
}

int hde_fixture_decode(struct hde_fixture *f, struct hde_refusal *why)
{
	return hde_decode(f->dec, 0, 0, 0, 0, f->payload, (size_t)f->len, why);
}

void hde_fixture_acked(struct hde_fixture *f, uint64_t first, uint32_t n)
{
	struct hde_batch b = batch_of(f, first, n);

	hde_acked(f->enc, 0, &b, (uint64_t)f->len);
}

void hde_fixture_send_all(struct hde_fixture *f)
{
	uint64_t pages = div_up_u64(f->bytes, HDE_PAGE);

	for (uint64_t first = 0; first < pages; first += HDE_BATCH_PAGES) {
		uint32_t n = (uint32_t)min_u64(HDE_BATCH_PAGES, pages - first);
		struct hde_refusal why = { .why = "" };

		hde_fixture_encode(f, first, n);
		if (hde_fixture_decode(f, &why) < 0)
			fail_msg("batch at page %llu, block %d, byte %u: %s", (unsigned long long)first, why.block,
				 why.at, why.why);
		hde_fixture_acked(f, first, n);
	}
}

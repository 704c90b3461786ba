/* SPDX-License-Identifier: MIT */
/* HDE end to end: what goes in comes out, in every mode; what is lost, late or forged never becomes wrong memory. */
#include "base/bitmap.h"
#include "base/util.h"
#include "kmod-free-tests/hde_fixture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PAGES HDE_FIXTURE_PAGES
#define BYTES ((uint64_t)PAGES * HDE_PAGE)

static void change_pages(struct hde_fixture *f, uint64_t *dirty, uint64_t seed)
{
	memset(dirty, 0, bitmap_words(PAGES) * 8);
	for (unsigned i = 0; i < PAGES / 4; i++) {
		uint64_t page = rng_next(&seed) % PAGES, at = rng_next(&seed) % HDE_PAGE;
		uint8_t *p = f->here + page * HDE_PAGE;

		bitmap_set(dirty, page);
		switch (rng_next(&seed) % 5) {
		case 0: /* written to, and the same as before */
			break;
		case 1:
			memmove(p + 64, p, HDE_PAGE - 64);
			break;
		case 2:
			rng_fill(p, HDE_PAGE, rng_next(&seed));
			break;
		case 3:
			memset(p, 0, HDE_PAGE);
			break;
		default:
			p[at] ^= 0xff;
			break;
		}
	}
}

/* The dirty pages as lists, acknowledged in order. */
static void send_dirty(struct hde_fixture *f, const uint64_t *dirty)
{
	uint8_t *snapshot = malloc(HDE_BATCH_MAX);
	uint32_t list[HDE_BATCH_PAGES], n = 0;

	assert_non_null(snapshot);
	for (uint32_t page = 0; page <= PAGES; page++) {
		if (page < PAGES && bitmap_test(dirty, page)) {
			memcpy(snapshot + (size_t)n * HDE_PAGE, f->here + (size_t)page * HDE_PAGE, HDE_PAGE);
			list[n++] = page;
		}
		if (n && (n == HDE_BATCH_PAGES || page == PAGES)) {
			struct hde_batch b = { .pages = list, .n = n, .bytes = n * HDE_PAGE, .data = snapshot };
			struct hde_refusal why = { .why = "" };

			f->len = hde_encode(f->enc, 0, &b, f->payload, b.bytes + HDE_OVERHEAD);
			assert_true(f->len > 0);
			if (hde_fixture_decode(f, &why) < 0)
				fail_msg("%s", why.why);
			hde_acked(f->enc, 0, &b, 0);
			n = 0;
		}
	}
	free(snapshot);
}

static void round_trip(const struct hde_config *cfg, uint64_t bytes)
{
	uint64_t dirty[PAGES / 64 + 1];
	struct hde_fixture f;

	hde_fixture_open(&f, bytes, cfg);
	hde_content(f.here, bytes, 11);
	hde_fixture_send_all(&f);
	assert_memory_equal(f.here, f.there, bytes);
	for (uint64_t round = 0; bytes == BYTES && round < 6; round++) {
		change_pages(&f, dirty, round + 1);
		hde_round(f.enc, dirty);
		send_dirty(&f, dirty);
		assert_memory_equal(f.here, f.there, bytes);
	}
	hde_fixture_close(&f);
}

static void test_modes(void **state)
{
	struct hde_config cfg = { .workers = 1 };

	(void)state;
	for (int mode = HDE_AUTO; mode <= HDE_INTERNET; mode++) {
		hde_opts_default(&cfg.opts, mode);
		for (int frozen = 0; frozen < 2; frozen++) {
			cfg.frozen = frozen ? &cfg : NULL;
			round_trip(&cfg, BYTES);
		}
	}
}

static void test_codecs(void **state)
{
	struct hde_config cfg = { .workers = 1 };

	(void)state;
	hde_opts_default(&cfg.opts, HDE_FIXED);
	for (unsigned c = 0; c < CODECS; c++) {
		cfg.fixed = (struct sel_choice){ (uint8_t)c, (int8_t)codecs[c]->level_max };
		round_trip(&cfg, BYTES);
		cfg.fixed.level = (int8_t)codecs[c]->level_min;
		round_trip(&cfg, BYTES);
	}
}

static void test_stages_left_out(void **state)
{
	struct hde_config cfg = { .workers = 1 };

	(void)state;
	hde_opts_default(&cfg.opts, HDE_DATACENTER);
	for (unsigned i = 0; i < 16; i++) {
		cfg.no_zero = i & 1;
		cfg.no_dedup = i & 2;
		cfg.no_delta = i & 4;
		cfg.no_match = i & 8;
		round_trip(&cfg, BYTES);
	}
}

static void test_short_end(void **state)
{
	(void)state;
	round_trip(NULL, 1);
	round_trip(NULL, HDE_PAGE - 1);
	round_trip(NULL, BYTES / 2 + 123);
}

static void test_small_cache(void **state)
{
	struct hde_config cfg = { .workers = 1 };

	(void)state;
	hde_opts_default(&cfg.opts, HDE_AUTO);
	cfg.opts.cache = 64 * HDE_PAGE;
	round_trip(&cfg, BYTES);
	cfg.opts.cache = 1;
	round_trip(&cfg, BYTES);
}

/* Each stage must have something to do here, or the tests above prove nothing. */
static void test_stages_work(void **state)
{
	uint64_t dirty[PAGES / 64 + 1];
	struct hde_fixture f;
	struct hde_stats s;

	(void)state;
	hde_fixture_open(&f, BYTES, NULL);
	hde_content(f.here, BYTES, 11);
	hde_fixture_send_all(&f);
	change_pages(&f, dirty, 5);
	hde_round(f.enc, dirty);
	send_dirty(&f, dirty);
	hde_enc_stats(f.enc, &s);
	assert_true(s.zero_pages > PAGES / 8 && s.duplicate_pages > PAGES / 64 && s.delta_pages > 10);
	assert_true(s.matched_bytes > 10 * HDE_PAGE && s.coded_pages > PAGES / 8 && s.raw_pages > PAGES / 32);
	assert_true(s.cache_hits > 100 && s.bytes_out < s.bytes_in * 2 / 3);
	hde_fixture_close(&f);
}

/* A batch that the receiver never got: nothing that comes later builds on it. */
static void test_lost_batch(void **state)
{
	uint64_t dirty[PAGES / 64 + 1];
	struct hde_fixture f;

	(void)state;
	hde_fixture_open(&f, BYTES, NULL);
	hde_content(f.here, BYTES, 11);
	for (uint64_t first = 0; first < PAGES; first += 128) {
		hde_fixture_encode(&f, first, 128);
		if (first % 256) /* every second one is lost, and not acknowledged */
			continue;
		assert_int_equal(hde_fixture_decode(&f, NULL), 0);
		hde_fixture_acked(&f, first, 128);
	}
	for (uint64_t first = 128; first < PAGES; first += 256) {
		hde_fixture_encode(&f, first, 128); /* again, in the same round */
		assert_int_equal(hde_fixture_decode(&f, NULL), 0);
		hde_fixture_acked(&f, first, 128);
	}
	assert_memory_equal(f.here, f.there, BYTES);
	/* Placed, but the acknowledgement was lost: the sender thinks of the older version. */
	change_pages(&f, dirty, 3);
	hde_round(f.enc, NULL);
	for (uint64_t first = 0; first < PAGES; first += 128) {
		hde_fixture_encode(&f, first, 128);
		assert_int_equal(hde_fixture_decode(&f, NULL), 0);
		hde_fixture_encode(&f, first, 128);
		assert_int_equal(hde_fixture_decode(&f, NULL), 0);
		hde_fixture_acked(&f, first, 128);
	}
	assert_memory_equal(f.here, f.there, BYTES);
	hde_fixture_close(&f);
}

/* Payloads kept back and delivered in another order, or to a receiver that has something else. */
static void test_wrong_base(void **state)
{
	struct hde_refusal why = { 0 };
	struct hde_fixture f, other;
	uint64_t dirty[PAGES / 64 + 1] = { 0 };
	uint8_t *before = malloc(BYTES), *late = malloc(HDE_BATCH_MAX + HDE_OVERHEAD);
	ssize_t late_len;

	(void)state;
	assert_true(before && late);
	hde_fixture_open(&f, BYTES, NULL);
	hde_fixture_open(&other, BYTES, NULL);
	for (unsigned i = 0; i < PAGES; i++)
		rng_fill(f.here + (size_t)i * HDE_PAGE, HDE_PAGE, i + 1);
	hde_fixture_send_all(&f);
	for (unsigned i = 0; i < 64; i++) {
		f.here[(size_t)i * HDE_PAGE] ^= 1;
		bitmap_set(dirty, i);
	}
	hde_round(f.enc, dirty);
	hde_fixture_encode(&f, 0, 64);
	assert_true(f.len < 4096); /* deltas */
	/* To a receiver that never got the first round. */
	memcpy(before, other.there, BYTES);
	assert_int_equal(hde_decode(other.dec, 0, 0, 0, 0, f.payload, (size_t)f.len, &why), -EBADMSG);
	assert_non_null(why.why);
	assert_memory_equal(before, other.there, BYTES);
	memcpy(late, f.payload, (size_t)f.len);
	late_len = f.len;
	/* Never delivered; the next round comes first and stands. */
	f.here[0] ^= 2;
	hde_round(f.enc, dirty);
	hde_fixture_encode(&f, 0, 64);
	assert_int_equal(hde_fixture_decode(&f, NULL), 0);
	memcpy(before, f.there, BYTES);
	assert_int_equal(hde_decode(f.dec, 0, 0, 0, 0, late, (size_t)late_len, &why), -EBADMSG);
	assert_memory_equal(before, f.there, BYTES);
	assert_memory_equal(f.here, f.there, BYTES);
	free(before);
	free(late);
	hde_fixture_close(&f);
	hde_fixture_close(&other);
}

static void test_forget(void **state)
{
	struct hde_fixture f, other;

	(void)state;
	hde_fixture_open(&f, BYTES, NULL);
	hde_fixture_open(&other, BYTES, NULL);
	hde_content(f.here, BYTES, 2);
	hde_fixture_send_all(&f);
	hde_forget(f.enc);
	for (uint64_t first = 0; first < PAGES; first += 256) {
		hde_fixture_encode(&f, first, 256);
		assert_int_equal(hde_decode(other.dec, 0, 0, 0, 0, f.payload, (size_t)f.len, NULL), 0);
		hde_fixture_acked(&f, first, 256);
	}
	assert_memory_equal(f.here, other.there, BYTES);
	hde_fixture_close(&f);
	hde_fixture_close(&other);
}

/* Every byte of a payload flipped, and every length short of its own: refused, and nothing is written. */
static void test_damage(void **state)
{
	uint64_t dirty[PAGES / 64 + 1];
	struct hde_fixture f;
	uint64_t seed = 4;
	uint8_t *before = malloc(BYTES);

	(void)state;
	assert_non_null(before);
	hde_fixture_open(&f, BYTES, NULL);
	hde_content(f.here, BYTES, 11);
	hde_fixture_send_all(&f);
	change_pages(&f, dirty, 2);
	hde_round(f.enc, NULL);
	hde_fixture_encode(&f, 0, 32);
	memcpy(before, f.there, BYTES);
	for (size_t i = 0; i < (size_t)f.len; i += i < 600 ? 1 : 1 + rng_next(&seed) % 64) {
		uint8_t was = f.payload[i];

		f.payload[i] ^= (uint8_t)(1u << rng_next(&seed) % 8);
		/* A codec may take another byte for the same content; then it is the same content. */
		if (hde_fixture_decode(&f, NULL) == 0) {
			assert_memory_equal(f.there, f.here, 32 * HDE_PAGE);
			memcpy(f.there, before, BYTES);
		} else {
			assert_memory_equal(before, f.there, 64 * HDE_PAGE);
		}
		f.payload[i] = was;
	}
	for (ssize_t len = f.len - 1, whole = f.len; len >= 0; len -= len < 600 ? 1 : 97) {
		f.len = len;
		assert_int_equal(hde_fixture_decode(&f, NULL), -EBADMSG);
		f.len = whole;
	}
	assert_memory_equal(before, f.there, BYTES);
	free(before);
	hde_fixture_close(&f);
}

static void test_outside(void **state)
{
	struct hde_fixture f, small;
	const uint32_t listed[] = { PAGES / 2 - 1, PAGES / 2 }, other[] = { PAGES / 2 - 1, PAGES / 2 + 1 };
	struct hde_batch b = { 0 };
	struct hde_refusal why = { 0 };

	(void)state;
	hde_fixture_open(&f, BYTES, NULL);
	hde_fixture_open(&small, BYTES / 2, NULL);
	hde_content(f.here, BYTES, 1);
	hde_fixture_encode(&f, PAGES / 2 - 1, 2);
	assert_int_equal(hde_decode(small.dec, 0, 0, 0, 0, f.payload, (size_t)f.len, &why), -EBADMSG);
	assert_string_equal(why.why, "it names pages outside the region");
	/* About other pages than the chunk says. */
	assert_int_equal(hde_decode(f.dec, 0, 0, 0, 2 * HDE_PAGE, f.payload, (size_t)f.len, &why), -EBADMSG);
	assert_int_equal(hde_decode(f.dec, 0, 0, (PAGES / 2 - 1) * HDE_PAGE, HDE_PAGE, f.payload, (size_t)f.len, &why),
			 -EBADMSG);
	assert_int_equal(
		hde_decode(f.dec, 0, 0, (PAGES / 2 - 1) * HDE_PAGE, 2 * HDE_PAGE, f.payload, (size_t)f.len, &why), 0);
	assert_int_equal(hde_decode_list(f.dec, 0, other, 2, f.payload, (size_t)f.len, &why), -EBADMSG);
	assert_string_equal(why.why, "it is about other pages than its chunk");
	assert_int_equal(hde_decode_list(f.dec, 0, other, 1, f.payload, (size_t)f.len, &why), -EBADMSG);
	assert_int_equal(hde_decode_list(f.dec, 0, listed, 2, f.payload, (size_t)f.len, &why), 0);
	/* And the sender refuses what is no batch. */
	b = (struct hde_batch){ .first = PAGES - 1, .n = 2, .bytes = 2 * HDE_PAGE, .data = f.here };
	assert_int_equal(hde_encode(f.enc, 0, &b, f.payload, HDE_BATCH_MAX), -EINVAL);
	b = (struct hde_batch){ .n = 2, .bytes = HDE_PAGE, .data = f.here };
	assert_int_equal(hde_encode(f.enc, 0, &b, f.payload, HDE_BATCH_MAX), -EINVAL);
	b = (struct hde_batch){ .n = 1, .bytes = HDE_PAGE, .data = f.here };
	assert_int_equal(hde_encode(f.enc, 0, &b, f.payload, HDE_PAGE), -EINVAL);
	hde_fixture_close(&f);
	hde_fixture_close(&small);
}

static void test_incompressible(void **state)
{
	struct hde_config cfg = { .workers = 1, .puts = true };
	struct hde_fixture f;
	struct hde_batch b;

	(void)state;
	hde_opts_default(&cfg.opts, HDE_AUTO);
	cfg.frozen = &cfg;
	hde_fixture_open(&f, BYTES, &cfg);
	rng_fill(f.here, BYTES, 77);
	for (uint64_t first = 0; first < PAGES; first += 64) {
		b = (struct hde_batch){
			.first = first, .n = 64, .bytes = 64 * HDE_PAGE, .data = f.here + first * HDE_PAGE
		};
		assert_int_equal(hde_encode(f.enc, 0, &b, f.payload, b.bytes + HDE_OVERHEAD), HDE_PUT);
		hde_acked(f.enc, 0, &b, b.bytes);
		hde_dec_put(f.dec, 0, first * HDE_PAGE, b.bytes);
		memcpy(f.there + first * HDE_PAGE, b.data, b.bytes);
	}
	/* What went by a put is no base; and zeros are noticed among random pages. */
	hde_round(f.enc, NULL);
	memset(f.here + HDE_PAGE, 0, HDE_PAGE);
	hde_fixture_encode(&f, 0, 64);
	assert_int_equal(hde_fixture_decode(&f, NULL), 0);
	assert_memory_equal(f.here, f.there, BYTES);
	hde_fixture_close(&f);
}

/* ---- anonymous data ---------------------------------------------------------------------------- */

static uint8_t *file;

/* What the worker is at, to be sent to it again while it is. */
static struct {
	struct hde_dec *dec;
	const void *payload;
	size_t len;
	uint32_t bytes;
} under_way;

static int write_file(void *ctx, uint32_t object, const void *data, uint32_t len, uint64_t offset)
{
	struct hde_refusal why = { 0 };

	(void)ctx;
	assert_int_equal(hde_decode(under_way.dec, 0, 1, offset, under_way.bytes, under_way.payload, under_way.len,
				    &why),
			 -EBADMSG);
	assert_non_null(strstr(why.why, "same worker"));
	if (object == 9)
		return -ENOSPC;
	assert_true(offset + len <= BYTES);
	memcpy(file + offset, data, len);
	return 0;
}

static void test_anonymous(void **state)
{
	struct hde_dec_config d = { .workers = 1, .write = write_file };
	struct hde_config cfg = { .workers = 1 };
	uint8_t *from = malloc(BYTES), *out = malloc(HDE_BATCH_MAX + HDE_OVERHEAD);
	struct hde_enc *enc;
	struct hde_dec *dec;
	struct err e;

	(void)state;
	file = calloc(1, BYTES);
	assert_true(from && out && file);
	hde_content(from, BYTES, 3);
	hde_opts_default(&cfg.opts, HDE_DATACENTER);
	assert_int_equal(hde_enc_open(&enc, &cfg, &e), 0);
	assert_int_equal(hde_dec_open(&dec, &d, &e), 0);
	for (uint64_t at = 0, seed = 1; at < BYTES;) {
		uint32_t bytes = (uint32_t)min_u64(1 + rng_next(&seed) % HDE_BATCH_MAX, BYTES - at);
		struct hde_batch b = { .n = (uint32_t)div_up_u64(bytes, HDE_PAGE), .bytes = bytes, .data = from + at };
		ssize_t n = hde_encode(enc, 0, &b, out, bytes + HDE_OVERHEAD);

		assert_true(n > 0);
		under_way.dec = dec;
		under_way.payload = out;
		under_way.len = (size_t)n;
		under_way.bytes = bytes;
		assert_int_equal(hde_decode(dec, 0, 9, at, bytes, out, (size_t)n, NULL), -ENOSPC);
		assert_int_equal(hde_decode(dec, 0, 1, at, bytes - 1, out, (size_t)n, NULL), -EBADMSG);
		assert_int_equal(hde_decode(dec, 0, 1, at, bytes, out, (size_t)n, NULL), 0);
		at += bytes;
	}
	assert_memory_equal(from, file, BYTES);
	hde_enc_close(enc);
	hde_dec_close(dec);
	free(from);
	free(out);
	free(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_modes),           cmocka_unit_test(test_codecs),
		cmocka_unit_test(test_stages_left_out), cmocka_unit_test(test_short_end),
		cmocka_unit_test(test_small_cache),     cmocka_unit_test(test_stages_work),
		cmocka_unit_test(test_lost_batch),      cmocka_unit_test(test_wrong_base),
		cmocka_unit_test(test_forget),          cmocka_unit_test(test_damage),
		cmocka_unit_test(test_outside),         cmocka_unit_test(test_incompressible),
		cmocka_unit_test(test_anonymous),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
#include "bench/hde_suite.h"
#include "base/util.h"
#include "bench/xbzrle.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SEED 1

static struct hb_result *results_new(size_t n, struct err *e)
{
	struct hb_result *r = calloc(n, sizeof(*r));

	if (!r)
		err_set(e, -ENOMEM, "no memory for results");
	return r;
}

/* ---- ratio: codecs by kinds of data ------------------------------------------------------------ */

#define RATIO_CODECS "snappy,lz4,gzip,zstd-3,zstd-19"

static void ratio_rows(json_t *section, const struct hb_algorithm *a, size_t n, struct hb_result *const *by_kind)
{
	for (size_t i = 0; i < n; i++) {
		json_t *row = json_pack("[s]", a[i].name);

		for (unsigned k = 0; k < MEMORY_KINDS; k++)
			json_array_append_new(row, json_number(hb_ratio(&by_kind[k][i])));
		report_row(section, row);
	}
}

int hb_suite_ratio(json_t *report, const struct hb_settings *s, uint64_t bytes, struct err *e)
{
	struct hb_settings once = *s;
	struct hb_algorithm a[HB_ALGORITHMS_MAX];
	struct hb_result *by_kind[MEMORY_KINDS] = { 0 };
	json_t *section;
	size_t n;
	int rc = hb_algorithms(a, &n, RATIO_CODECS ",hde-datacenter,hde-internet", e);

	once.iterations = 0; /* sizes do not vary */
	for (unsigned k = 0; k < MEMORY_KINDS && rc >= 0; k++) {
		struct memory m = { 0 };

		by_kind[k] = results_new(n, e);
		rc = by_kind[k] ? memory_make(&m, (enum memory_kind)k, bytes, SEED, e) : -ENOMEM;
		if (rc >= 0)
			rc = hb_image(&m, a, n, &once, by_kind[k], e);
		memory_free(&m);
	}
	if (rc >= 0) {
		section = report_section(report, "hde_ratio", "Ratio: 5 codecs × 5 kinds of data, and HDE",
					 "algorithm|zeros|text|random|VM memory|mixed");
		report_text(
			section,
			"%.0f MB of each kind (bench/memory.h says what they are), bytes in over bytes out, verified. Codecs in "
			"blocks of %u KB.",
			(double)bytes / 1e6, s->block >> 10);
		ratio_rows(section, a, n, by_kind);
	}
	for (unsigned k = 0; k < MEMORY_KINDS; k++)
		free(by_kind[k]);
	return rc;
}

/* ---- speed: codecs by sizes, both ways --------------------------------------------------------- */

int hb_suite_speed(json_t *report, const struct hb_settings *s, uint64_t bytes, struct err *e)
{
	static const uint32_t sizes[] = { 4u << 10, 16u << 10, 64u << 10, 256u << 10 };
	struct hb_result *by_size[ARRAY_LEN(sizes)] = { 0 };
	struct hb_algorithm a[HB_ALGORITHMS_MAX];
	struct memory m = { 0 };
	json_t *section;
	size_t n;
	int rc = hb_algorithms(a, &n, "snappy,lz4,zstd-1,zstd-3", e);

	if (rc >= 0)
		rc = memory_make(&m, MEMORY_VM, bytes, SEED, e);
	for (size_t i = 0; i < ARRAY_LEN(sizes) && rc >= 0; i++) {
		struct hb_settings at = *s;

		at.block = sizes[i];
		by_size[i] = results_new(n, e);
		rc = by_size[i] ? hb_image(&m, a, n, &at, by_size[i], e) : -ENOMEM;
	}
	if (rc >= 0) {
		section = report_section(report, "hde_speed", "Speed: 4 codecs × 4 sizes × 2 directions, MB/s",
					 "codec|direction|4 KB|16 KB|64 KB|256 KB");
		report_text(section, "%.0f MB of synthetic VM memory in blocks of each size, one thread, CPU time.",
			    (double)bytes / 1e6);
		for (size_t i = 0; i < 2 * n; i++) {
			json_t *row = json_pack("[s, s]", a[i / 2].name, i % 2 ? "decompress" : "compress");

			for (size_t k = 0; k < ARRAY_LEN(sizes); k++)
				json_array_append_new(row, json_interval(i % 2 ? hb_decode_mbytes(&by_size[k][i / 2])
									       : hb_encode_mbytes(&by_size[k][i / 2])));
			report_row(section, row);
		}
	}
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		free(by_size[i]);
	memory_free(&m);
	return rc;
}

/* ---- delta: dirty rates ------------------------------------------------------------------------ */

static void delta_row(json_t *section, double share, const struct hb_delta *d, const struct hb_result *r)
{
	double raw = (double)d->changed * MEMORY_PAGE;

	report_row(section,
		   json_pack("[o, I, o, o, o, o, o, o]", json_sprintf("%.1f %%", share * 100), (json_int_t)d->changed,
			     json_number(raw / 1e6), json_number((double)r[0].bytes_out / raw * 100),
			     json_number((double)d->xbzrle_bytes / raw * 100),
			     json_number((double)r[1].bytes_out / raw * 100), json_interval(hb_encode_mbytes(&r[1])),
			     json_interval(hb_decode_mbytes(&r[1]))));
}

int hb_suite_delta(json_t *report, const struct hb_settings *s, uint64_t bytes, struct err *e)
{
	static const double shares[] = { .001, .01, .05, .1, .25, .5 };
	struct hb_algorithm a[HB_ALGORITHMS_MAX];
	struct hb_result *r = NULL;
	struct memory base = { 0 };
	json_t *section = NULL;
	size_t n;
	int rc = hb_algorithms(a, &n, "zstd-1,hde-auto", e);

	if (rc >= 0)
		rc = memory_make(&base, MEMORY_VM, bytes, SEED, e);
	if (rc >= 0) {
		r = results_new(n, e);
		rc = r ? 0 : -ENOMEM;
	}
	for (size_t i = 0; i < ARRAY_LEN(shares) && rc >= 0; i++) {
		struct memory m = { 0 };
		struct hb_delta d;

		rc = memory_copy(&m, &base, e);
		if (rc < 0)
			break;
		memory_dirty(&m, shares[i], SEED + i);
		rc = hb_delta(&m, &base, a, n, s, &d, r, e);
		memory_free(&m);
		if (rc < 0)
			break;
		if (!section) {
			section = report_section(
				report, "hde_delta", "Delta: 6 dirty rates",
				"dirty|pages|changed MB|zstd-1 %|XBZRLE %|HDE %|HDE encode MB/s|HDE decode MB/s");
			report_text(
				section,
				"%.0f MB of synthetic VM memory, 1 to 32 words of 8 bytes changed in each dirty page; bytes in "
				"per cent of the changed pages. zstd-1 without a base, XBZRLE by its size rule "
				"(bench/xbzrle.h), HDE's speed in MB/s of changed pages.",
				(double)bytes / 1e6);
		}
		delta_row(section, shares[i], &d, r);
	}
	free(r);
	memory_free(&base);
	return rc;
}

/* ---- parallel ---------------------------------------------------------------------------------- */

int hb_suite_parallel(json_t *report, const struct hb_settings *s, uint64_t bytes, struct err *e)
{
	static const unsigned workers[] = { 1, 2, 4, 8, 16, 32 };
	struct hb_result *r = results_new(ARRAY_LEN(workers), e);
	struct hb_algorithm a[HB_ALGORITHMS_MAX];
	struct memory m = { 0 };
	json_t *section;
	size_t n;
	int rc = r ? hb_algorithms(a, &n, "hde-auto", e) : -ENOMEM;

	if (rc >= 0)
		rc = memory_make(&m, MEMORY_VM, bytes, SEED, e);
	if (rc >= 0)
		rc = hb_parallel(&m, a, workers, ARRAY_LEN(workers), s, r, e);
	if (rc >= 0) {
		section = report_section(report, "hde_parallel", "Parallel: 6 worker counts, hde-auto",
					 "workers|encode MB/s|of one|decode MB/s|ratio");
		report_text(section,
			    "%.0f MB of synthetic VM memory, by the clock on the wall: more workers than CPUs "
			    "only show what sharing costs.",
			    (double)bytes / 1e6);
		for (size_t i = 0; i < ARRAY_LEN(workers); i++)
			report_row(section,
				   json_pack("[i, o, o, o, o]", (int)workers[i], json_interval(hb_encode_mbytes(&r[i])),
					     json_interval(hb_encode_ratio(&r[i], &r[0])),
					     json_interval(hb_decode_mbytes(&r[i])), json_number(hb_ratio(&r[i]))));
	}
	memory_free(&m);
	free(r);
	return rc;
}

/* SPDX-License-Identifier: MIT */
/* Compression: guests' memory (bench/image.sh), the documented tables, the selector. In this process, one thread. */
#include "base/clock.h"
#include "base/util.h"
#include "bench/hde_suite.h"
#include "bench/tables.h"
#include "compress/zero.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK (256u << 10)
#define BATCH (1u << 20)

/* The shipped model was made from the others (compress/select_model.c says so). */
static const char *const held_out[] = { "sqlite-4", "python-5" };
static const char *const seen[] = { "mixed-1", "redis-2", "gcc-3" };

static struct hb_settings settings(const struct lab *lab)
{
	return (struct hb_settings){ .iterations = lab->rounds, .block = BLOCK, .batch = BATCH };
}

static bool image_path(const struct lab *lab, const char *name, unsigned shot, char *out, size_t cap)
{
	int n = snprintf(out, cap, "%s/%s.%u.img", lab->images, name, shot);

	return n > 0 && (size_t)n < cap && access(out, R_OK) == 0;
}

static int no_images(struct lab *lab, const char *name, const char *title)
{
	report_text(report_section(lab->report, name, title, "not measured"),
		    "There are no images in %s: `make images` makes them (as root, some minutes each).", lab->images);
	return 0;
}

/* ---- whole images ------------------------------------------------------------------------------ */

#define IMAGE_ALGORITHMS "none,lz4,zstd-1,hde-lz4-1,hde-zstd-1,hde-zstd-3,hde-datacenter,hde-auto,hde-internet"
enum { ROW_ZSTD_1 = 2, ROW_HDE_FAST, ROW_HDE_1, ROW_HDE_3, ROW_INTERNET = 8 };

static struct stats_interval exact(double v)
{
	return (struct stats_interval){ .median = v, .ci95_low = v, .ci95_high = v, .n = 1 };
}

static void image_targets(json_t *s, const char *image, const struct hb_result *r, size_t n)
{
	char what[128], worst[48] = "";
	double slowest = INFINITY;

	snprintf(what, sizeof(what), "%s: ratio of zstd-1 and more, its speed × 1.3: hde-lz4-1's ratio", image);
	report_target(s, what, exact(hb_ratio(&r[ROW_HDE_FAST]) / hb_ratio(&r[ROW_ZSTD_1])), "", AT_LEAST, 1);
	snprintf(what, sizeof(what), "%s: hde-lz4-1's speed, of zstd-1's", image);
	report_target(s, what, hb_encode_ratio(&r[ROW_HDE_FAST], &r[ROW_ZSTD_1]), "", AT_LEAST, 1.3);
	snprintf(what, sizeof(what), "%s: hde-zstd-1's ratio, of zstd-1's", image);
	report_target(s, what, exact(hb_ratio(&r[ROW_HDE_1]) / hb_ratio(&r[ROW_ZSTD_1])), "", AT_LEAST, 1.12);
	snprintf(what, sizeof(what), "%s: hde-zstd-1's speed, of zstd-1's", image);
	report_target(s, what, hb_encode_ratio(&r[ROW_HDE_1], &r[ROW_ZSTD_1]), "", AT_LEAST, 1);
	snprintf(what, sizeof(what), "%s: internet mode, smaller by", image);
	report_target(s, what, exact(100 - 100 / hb_ratio(&r[ROW_INTERNET])), "%", AT_LEAST, 85);
	for (size_t i = 1; i < n; i++) {
		double d = hb_decode_mbytes(&r[i]).median / hb_encode_mbytes(&r[i]).median;

		if (d >= slowest)
			continue;
		slowest = d;
		snprintf(worst, sizeof(worst), "%s", r[i].algorithm.name);
	}
	snprintf(what, sizeof(what), "%s: slowest decoder (%s), of its encoder", image, worst);
	report_target(s, what, exact(slowest), "", AT_LEAST, 1);
}

static json_t *last_section(const struct lab *lab)
{
	json_t *list = json_object_get(lab->report, "sections");

	return json_array_get(list, json_array_size(list) - 1);
}

static int one_image(struct lab *lab, const char *name, struct hb_result *r, struct err *e)
{
	struct hb_settings s = settings(lab);
	struct hb_algorithm a[HB_ALGORITHMS_MAX];
	struct memory m = { 0 };
	char path[4200];
	size_t n;
	int rc = hb_algorithms(a, &n, IMAGE_ALGORITHMS, e);

	if (rc < 0 || !image_path(lab, name, 0, path, sizeof(path)))
		return rc;
	fprintf(stderr, "bench: compressing %s\n", path);
	rc = memory_load(&m, path, 0, e);
	if (rc >= 0)
		rc = hb_image(&m, a, n, &s, r, e);
	if (rc >= 0) {
		hb_report_image(lab->report, &m, r, n);
		image_targets(last_section(lab), name, r, n);
	}
	memory_free(&m);
	return rc < 0 ? rc : 1;
}

static int one_pair(struct lab *lab, const char *name, struct hb_result *r, struct err *e)
{
	struct hb_settings s = settings(lab);
	struct hb_algorithm a[HB_ALGORITHMS_MAX];
	struct memory m = { 0 }, base = { 0 };
	char older[4200], newer[4200], what[128];
	struct hb_delta d;
	size_t n;
	int rc = hb_algorithms(a, &n, "zstd-1,hde-datacenter,hde-auto,hde-internet", e);

	if (rc < 0 || !image_path(lab, name, 0, older, sizeof(older)) ||
	    !image_path(lab, name, 1, newer, sizeof(newer)))
		return rc;
	fprintf(stderr, "bench: changed pages of %s\n", newer);
	rc = memory_load(&base, older, 0, e);
	if (rc >= 0)
		rc = memory_load(&m, newer, 0, e);
	if (rc >= 0)
		rc = hb_delta(&m, &base, a, n, &s, &d, r, e);
	if (rc >= 0) {
		hb_report_delta(lab->report, &m, &base, &d, r, n);
		snprintf(what, sizeof(what), "%s, changed pages, hde-datacenter: bytes, of XBZRLE's", name);
		report_target(last_section(lab), what, exact((double)r[1].bytes_out / (double)d.xbzrle_bytes), "",
			      AT_MOST, .8);
		snprintf(what, sizeof(what), "%s, changed pages, hde-datacenter: speed", name);
		report_target(last_section(lab), what, hb_encode_mbytes(&r[1]), "MB/s", AT_LEAST, 2000);
	}
	memory_free(&m);
	memory_free(&base);
	return rc < 0 ? rc : 1;
}

/* The documented table and the dictionary's, on 100 MB from all over one image. */
static int pieces(struct lab *lab, const char *name, struct err *e)
{
	struct hb_settings s = settings(lab);
	struct memory m = { 0 };
	char path[4200];
	int rc;

	if (!image_path(lab, name, 0, path, sizeof(path)))
		return 0;
	fprintf(stderr, "bench: 100 MB of %s\n", path);
	s.iterations = 1; /* zstd-19 takes a minute */
	rc = memory_load(&m, path, 100u << 20, e);
	if (rc >= 0)
		rc = hb_vm_state(lab->report, &m, &s, e);
	if (rc >= 0)
		rc = hb_dictionary(lab->report, &m, e);
	memory_free(&m);
	return rc;
}

int table_hde_images(struct lab *lab, struct err *e)
{
	struct hb_result *r = calloc(HB_ALGORITHMS_MAX, sizeof(*r));
	int rc = r ? 0 : err_set(e, -ENOMEM, "no memory for results"), found = 0;

	for (size_t i = 0; i < ARRAY_LEN(seen) + ARRAY_LEN(held_out) && rc >= 0; i++) {
		const char *name = i < ARRAY_LEN(held_out) ? held_out[i] : seen[i - ARRAY_LEN(held_out)];

		rc = one_image(lab, name, r, e);
		found += rc > 0;
		if (rc > 0)
			rc = one_pair(lab, name, r, e);
	}
	free(r);
	if (rc >= 0 && !found)
		return no_images(lab, "hde_image", "Compression of guests' memory");
	return rc < 0 ? rc : pieces(lab, held_out[0], e);
}

/* ---- the documented tables --------------------------------------------------------------------- */

int table_hde_suite(struct lab *lab, struct err *e)
{
	struct hb_settings s = settings(lab);
	const uint64_t bytes = 32u << 20;
	int rc = hb_suite_ratio(lab->report, &s, bytes, e);
	const json_t *internet;

	if (rc < 0)
		return rc;
	internet = json_array_get(json_object_get(last_section(lab), "rows"), 6);
	report_target(last_section(lab), "synthetic VM memory, internet mode: ratio",
		      exact(json_number_value(json_array_get(internet, 1 + MEMORY_VM))), "", AT_LEAST, 5);
	rc = hb_suite_speed(lab->report, &s, bytes, e);
	if (rc >= 0)
		rc = hb_suite_delta(lab->report, &s, bytes, e);
	if (rc >= 0)
		rc = hb_suite_parallel(lab->report, &s, bytes, e);
	return rc;
}

/* ---- scans ------------------------------------------------------------------------------------- */

static volatile uint64_t sink;

static double scan_zeros(const struct memory *m)
{
	uint64_t begin = clock_now(&clock_thread), zeros = 0;

	for (uint64_t at = 0; at < m->bytes; at += MEMORY_PAGE)
		zeros += zero_test(m->data + at, MEMORY_PAGE);
	sink = zeros;
	return (double)m->bytes / (double)max_u64(clock_now(&clock_thread) - begin, 1);
}

static double scan_memcmp(const struct memory *m)
{
	uint64_t begin = clock_now(&clock_thread), zeros = 0;

	for (uint64_t at = 0; at < m->bytes; at += MEMORY_PAGE)
		zeros += !m->data[at] && !memcmp(m->data + at, m->data + at + 1, MEMORY_PAGE - 1);
	sink = zeros;
	return (double)m->bytes / (double)max_u64(clock_now(&clock_thread) - begin, 1);
}

static int random_row(struct lab *lab, json_t *section, struct err *e)
{
	struct hb_settings s = settings(lab);
	struct hb_result *r = calloc(2, sizeof(*r));
	struct hb_algorithm a[HB_ALGORITHMS_MAX];
	struct memory m = { 0 };
	struct stats_interval v;
	size_t n;
	int rc = r ? hb_algorithms(a, &n, "none,hde-auto", e) : err_set(e, -ENOMEM, "no memory for results");

	if (rc >= 0)
		rc = memory_make(&m, MEMORY_RANDOM, 64u << 20, 1, e);
	if (rc >= 0)
		rc = hb_image(&m, a, n, &s, r, e);
	if (rc >= 0) {
		v = hb_encode_mbytes(&r[1]);
		v.median /= 1e3;
		v.ci95_low /= 1e3;
		v.ci95_high /= 1e3;
		report_row(section, json_pack("[s, o]", "hde-auto, 64 MB of random pages", json_interval(v)));
		report_target(section, "random pages looked at: 10 × the documented transfer rate", v, "GB/s", AT_LEAST,
			      25);
	}
	memory_free(&m);
	free(r);
	return rc;
}

int table_hde_scan(struct lab *lab, struct err *e)
{
	double hot[ROUNDS_MAX], cold[ROUNDS_MAX], cmp[ROUNDS_MAX];
	struct memory small = { 0 }, large = { 0 };
	json_t *section;
	int rc = memory_make(&small, MEMORY_ZEROS, 256u << 10, 1, e);

	if (rc >= 0)
		rc = memory_make(&large, MEMORY_ZEROS, 256u << 20, 1, e);
	for (unsigned i = 0; i <= lab->rounds && rc >= 0; i++) {
		unsigned at = i ? i - 1 : 0; /* the first only warms up */

		hot[at] = scan_zeros(&small);
		for (unsigned k = 0; k < 100; k++)
			hot[at] = fmax(hot[at], scan_zeros(&small));
		cold[at] = scan_zeros(&large);
		cmp[at] = scan_memcmp(&large);
	}
	if (rc >= 0) {
		struct stats_interval v = stats_bootstrap(hot, lab->rounds, 1);

		section = report_section(lab->report, "hde_scan", "Scanning", "what|GB/s");
		report_text(section, "One core, CPU time, %s. A look at random pages is a few samples of each.",
			    zero_variant());
		report_row(section, json_pack("[s, o]", "zero test, 256 KB in the cache", json_interval(v)));
		report_row(section, json_pack("[s, o]", "zero test, 256 MB",
					      json_interval(stats_bootstrap(cold, lab->rounds, 1))));
		report_row(section, json_pack("[s, o]", "memcmp with itself, 256 MB",
					      json_interval(stats_bootstrap(cmp, lab->rounds, 1))));
		report_target(section, "zero test, pages in the cache", v, "GB/s", AT_LEAST, 20);
		rc = random_row(lab, section, e);
	}
	memory_free(&small);
	memory_free(&large);
	return rc;
}

/* ---- the selector ------------------------------------------------------------------------------ */

int table_hde_selector(struct lab *lab, struct err *e)
{
	struct hb_blocks images[ARRAY_LEN(held_out)] = { 0 };
	struct hb_settings s = settings(lab);
	const size_t points = hb_grid_links * hb_grid_cpu_n;
	struct hb_regret *all = calloc(ARRAY_LEN(held_out) * points, sizeof(*all));
	size_t n = 0;
	int rc = all ? 0 : err_set(e, -ENOMEM, "no memory for results");

	for (size_t i = 0; i < ARRAY_LEN(held_out) && rc >= 0; i++) {
		struct memory m = { 0 };
		char path[4200];

		if (!image_path(lab, held_out[i], 0, path, sizeof(path)))
			continue;
		fprintf(stderr, "bench: every choice on blocks of %s\n", path);
		rc = memory_load(&m, path, 0, e);
		if (rc >= 0)
			rc = hb_blocks_measure(&images[n], &m, 300, &s, e);
		memory_free(&m);
		if (rc < 0)
			break;
		for (size_t p = 0; p < points; p++)
			hb_regret(&images[n], NULL, hb_grid_link[p / hb_grid_cpu_n], hb_grid_cpus[p % hb_grid_cpu_n],
				  &all[n * points + p]);
		n++;
	}
	if (rc >= 0 && n)
		hb_report_regret(lab->report, images, n, all);
	else if (rc >= 0)
		rc = no_images(lab, "hde_regret", "Selector: regret against the best possible plan");
	for (size_t i = 0; i < n; i++)
		hb_blocks_free(&images[i]);
	free(all);
	return rc;
}

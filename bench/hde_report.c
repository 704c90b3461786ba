/* SPDX-License-Identifier: MIT */
/* Sections about one memory: its table, its changed pages, the documented table, dictionaries, regret. */
#include "base/opt.h"
#include "base/util.h"
#include "bench/hde_suite.h"
#include "bench/xbzrle.h"
#include "compress/dict.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

void hb_report_image(json_t *report, const struct memory *m, const struct hb_result *r, size_t n)
{
	json_t *section = report_section(report, "hde_image", "Compression",
					 "algorithm|ratio|smaller by %|compress MB/s|decompress MB/s|verified");

	report_text(section, "%s, %.1f MB.", base_name(m->name), (double)m->bytes / 1e6);
	for (size_t i = 0; i < n; i++)
		report_row(section,
			   json_pack("[s, o, o, o, o, s]", r[i].algorithm.name, json_number(hb_ratio(&r[i])),
				     json_number(100 - 100 / hb_ratio(&r[i])), json_interval(hb_encode_mbytes(&r[i])),
				     json_interval(hb_decode_mbytes(&r[i])), r[i].verified ? "yes" : "no"));
}

void hb_report_delta(json_t *report, const struct memory *m, const struct memory *base, const struct hb_delta *d,
		     const struct hb_result *r, size_t n)
{
	json_t *section =
		report_section(report, "hde_delta", "Changed pages",
			       "algorithm|bytes|% of the pages|of XBZRLE|compress MB/s|decompress MB/s|verified");
	double raw = (double)d->changed * MEMORY_PAGE;

	report_text(
		section,
		"%s after %s: %llu of %llu pages changed, %.1f MB. XBZRLE by its size rule, every base cached; %llu pages "
		"do not fit it.",
		base_name(m->name), base_name(base->name), (unsigned long long)d->changed, (unsigned long long)d->pages,
		raw / 1e6, (unsigned long long)(d->changed - d->encoded_pages));
	report_row(section, json_pack("[s, I, o, o, n, n, n]", "XBZRLE", (json_int_t)d->xbzrle_bytes,
				      json_number((double)d->xbzrle_bytes / raw * 100), json_number(1)));
	for (size_t i = 0; i < n; i++)
		report_row(section, json_pack("[s, I, o, o, o, o, s]", r[i].algorithm.name, (json_int_t)r[i].bytes_out,
					      json_number((double)r[i].bytes_out / raw * 100),
					      json_number((double)r[i].bytes_out / (double)d->xbzrle_bytes),
					      json_interval(hb_encode_mbytes(&r[i])),
					      json_interval(hb_decode_mbytes(&r[i])), r[i].verified ? "yes" : "no"));
}

/* ---- 100 MB of VM state ------------------------------------------------------------------------ */

int hb_vm_state(json_t *report, const struct memory *m, const struct hb_settings *s, struct err *e)
{
	static const char *const documented[] = { "1.0", "2.1", "2.9", "4.3", "4.8" };
	static const char *const label[] = { "none", "LZ4", "zstd-3", "zstd-19",
					     "HDE internet: zstd ≤ 19, dictionary, selector" };
	struct hb_algorithm a[HB_ALGORITHMS_MAX];
	struct hb_result *r = NULL;
	json_t *section;
	size_t n;
	int rc = hb_algorithms(a, &n, "none,lz4,zstd-3,zstd-19,hde-internet", e);

	if (rc < 0)
		return rc;
	r = calloc(n, sizeof(*r));
	if (!r)
		return err_set(e, -ENOMEM, "no memory for results");
	rc = hb_image(m, a, n, s, r, e);
	if (rc >= 0) {
		section = report_section(report, "hde_vm_state", "100 MB of VM state",
					 "algorithm|documented ratio|ratio|compress MB/s|decompress MB/s");
		report_text(section, "%s, %.1f MB of it, in blocks of %u KB.", base_name(m->name),
			    (double)m->bytes / 1e6, s->block >> 10);
		for (size_t i = 0; i < n; i++)
			report_row(section,
				   json_pack("[s, s, o, o, o]", label[i], documented[i], json_number(hb_ratio(&r[i])),
					     json_interval(hb_encode_mbytes(&r[i])),
					     json_interval(hb_decode_mbytes(&r[i]))));
	}
	free(r);
	return rc;
}

/* ---- dictionaries ------------------------------------------------------------------------------ */

#define DICT_SAMPLES (12u << 20)

/* Every 16th page that is not zero: trained with; its neighbours: measured on. */
static uint8_t *pick(const struct memory *m, uint64_t offset, uint64_t most, uint64_t *bytes)
{
	uint64_t pages = m->bytes / MEMORY_PAGE, seen = 0, n = 0;
	uint8_t *out = malloc(most);

	for (uint64_t i = 0; out && i < pages && n + MEMORY_PAGE <= most; i++) {
		const uint8_t *p = m->data + i * MEMORY_PAGE;

		if ((*(const uint64_t *)(const void *)p == 0 && !memcmp(p, p + 8, MEMORY_PAGE - 8)) ||
		    seen++ / 16 % 2 != offset)
			continue;
		memcpy(out + n, p, MEMORY_PAGE);
		n += MEMORY_PAGE;
	}
	*bytes = n;
	return out;
}

static uint64_t dict_bytes(struct codec_ctx *ctx, int level, const struct codec_base *base, const uint8_t *data,
			   uint64_t bytes, uint32_t unit, uint8_t *out)
{
	uint64_t all = 0;

	for (uint64_t at = 0; at < bytes; at += unit) {
		uint32_t n = (uint32_t)min_u64(unit, bytes - at);
		size_t len = codecs[CODEC_ZSTD]->encode(ctx, level, base, data + at, n, out, n - 1);

		all += len ? len : n;
	}
	return all;
}

static int dict_rows(json_t *section, const uint8_t *dict, size_t len, const uint8_t *data, uint64_t bytes,
		     struct err *e)
{
	static const uint32_t units[] = { 4u << 10, 16u << 10, 32u << 10, 64u << 10, 256u << 10 };
	static const int levels[] = { 1, 3, 19 };
	uint8_t *out = malloc(CODEC_BLOCK_MAX);
	struct codec_ctx *ctx = NULL;
	int rc = out ? codec_open(&ctx, true, false, 19, e) : err_set(e, -ENOMEM, "no memory for a block");

	for (size_t l = 0; l < ARRAY_LEN(levels) && rc >= 0; l++) {
		struct dict d = { 0 };
		const struct codec_base base = { .dict = &d };

		rc = dict_open(&d, dict, len, levels[l], e);
		for (size_t u = 0; u < ARRAY_LEN(units) && rc >= 0; u++) {
			uint64_t without = dict_bytes(ctx, levels[l], NULL, data, bytes, units[u], out);
			uint64_t with = dict_bytes(ctx, levels[l], &base, data, bytes, units[u], out);

			report_row(section, json_pack("[o, o, o, o, o]", json_sprintf("zstd-%d", levels[l]),
						      json_sprintf("%u KB", units[u] >> 10),
						      json_number((double)bytes / (double)without),
						      json_number((double)bytes / (double)with),
						      json_number(100 - 100 * (double)with / (double)without)));
		}
		dict_close(&d);
	}
	codec_close(ctx);
	free(out);
	return rc;
}

int hb_dictionary(json_t *report, const struct memory *m, struct err *e)
{
	uint64_t sample_bytes = 0, bytes = 0;
	uint8_t *samples = pick(m, 0, DICT_SAMPLES, &sample_bytes), *data = pick(m, 1, DICT_SAMPLES, &bytes);
	uint8_t *dict = malloc(DICT_BYTES_MAX);
	unsigned n = (unsigned)(sample_bytes / MEMORY_PAGE);
	size_t *sizes = malloc((n + 1) * sizeof(*sizes)), len = 0;
	json_t *section;
	int rc = 0;

	if (!samples || !data || !dict || !sizes)
		rc = err_set(e, -ENOMEM, "no memory for samples");
	for (unsigned i = 0; rc >= 0 && i < n; i++)
		sizes[i] = MEMORY_PAGE;
	if (rc >= 0) {
		len = dict_train(dict, DICT_BYTES_MAX, samples, sizes, n);
		if (!len || !bytes)
			rc = err_set(e, -EINVAL, "%s: too few pages that are not zero to train a dictionary", m->name);
	}
	if (rc >= 0) {
		section = report_section(report, "hde_dictionary", "What a dictionary is worth",
					 "codec|unit|ratio without|ratio with|fewer bytes, %");
		report_text(section,
			    "%s: a dictionary of %zu KB from %.1f MB of pages that are not zero, on %.1f MB of "
			    "others of the same image; the dictionary's own bytes are not counted.",
			    base_name(m->name), len >> 10, (double)sample_bytes / 1e6, (double)bytes / 1e6);
		rc = dict_rows(section, dict, len, data, bytes, e);
	}
	free(sizes);
	free(dict);
	free(data);
	free(samples);
	return rc;
}

/* ---- regret ------------------------------------------------------------------------------------ */

static struct stats_interval plain(double v, size_t n)
{
	return (struct stats_interval){ .median = v, .ci95_low = v, .ci95_high = v, .n = n };
}

static json_t *regret_row(const struct hb_regret *all, size_t images, size_t link)
{
	size_t points = hb_grid_links * hb_grid_cpu_n, n = 0;
	double v[1024], worst = -INFINITY, raw = -INFINITY, fixed = -INFINITY;
	char rate[32];

	for (size_t i = 0; i < images; i++)
		for (size_t c = 0; c < hb_grid_cpu_n && n < ARRAY_LEN(v); c++) {
			const struct hb_regret *r = &all[i * points + link * hb_grid_cpu_n + c];

			v[n++] = 100 * r->regret;
			worst = fmax(worst, 100 * r->regret);
			raw = fmax(raw, 100 * (r->selector_s / r->raw_s - 1));
			fixed = fmax(fixed, 100 * (r->selector_s / r->fixed_s - 1));
		}
	return json_pack("[s, o, o, o, o, o]", format_rate(rate, sizeof(rate), hb_grid_link[link]),
			 json_number(stats_median(v, n)), json_number(stats_quantile(v, n, .95)), json_number(worst),
			 json_number(fixed), json_number(raw));
}

static void regret_targets(json_t *section, const struct hb_blocks *images, size_t n, const struct hb_regret *all)
{
	size_t points = n * hb_grid_links * hb_grid_cpu_n, blocks = 0;
	double *v = calloc(points + 1, sizeof(*v)), raw = -INFINITY, select = 0, lz4 = 0;

	for (size_t i = 0; v && i < points; i++) {
		v[i] = 100 * all[i].regret;
		raw = fmax(raw, 100 * (all[i].selector_s / all[i].raw_s - 1));
	}
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < images[i].n; j++) {
			const struct hb_block *b = &images[i].v[j];

			select += b->select_ns;
			for (unsigned c = 0; c < SEL_CHOICES; c++)
				if (sel_choices[c].codec == CODEC_LZ4 && sel_choices[c].level == 1)
					lz4 += b->choice[c].encode_ns;
			blocks++;
		}
	if (v) {
		report_target(section, "selector: regret, median", plain(stats_median(v, points), points), "%", AT_MOST,
			      3);
		report_target(section, "selector: regret, p95", plain(stats_quantile(v, points, .95), points), "%",
			      AT_MOST, 10);
	}
	report_target(section, "selector: slower than raw, worst case", plain(raw, points), "%", AT_MOST, 2);
	report_target(section, "selector: its own time, of LZ4's", plain(100 * select / lz4, blocks), "%", AT_MOST, 2);
	free(v);
}

void hb_report_regret(json_t *report, const struct hb_blocks *images, size_t n, const struct hb_regret *all)
{
	json_t *section =
		report_section(report, "hde_regret", "Selector: regret against the best possible plan",
			       "link|median %|p95 %|worst %|slower than best fixed, worst %|slower than raw, worst %");
	size_t blocks = 0;
	char names[256] = "";

	for (size_t i = 0; i < n; i++) {
		size_t used = strlen(names);

		blocks += images[i].n;
		snprintf(names + used, sizeof(names) - used, "%s%s", i ? ", " : "", base_name(images[i].name));
	}
	report_text(
		section,
		"%s: %zu blocks, all %d choices tried on each; CPU budgets of %.1f to %.0f cores on both sides. The bound is "
		"a linear program's value that knows every size and time beforehand; the selector's own time is "
		"counted. Negative: faster.",
		names, blocks, SEL_CHOICES, hb_grid_cpus[0], hb_grid_cpus[hb_grid_cpu_n - 1]);
	for (size_t link = 0; link < hb_grid_links; link++)
		report_row(section, regret_row(all, n, link));
	regret_targets(section, images, n, all);
}

/* SPDX-License-Identifier: MIT */
/* Names of algorithms, and what is said of each. */
#include "base/util.h"
#include "bench/hde_bench.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MB 1e6

static const char all_names[] = "none,snappy,lz4,gzip,zstd-1,zstd-3,zstd-19,hde-datacenter,hde-auto,hde-internet";

static int parse_codec(struct hb_algorithm *a, const char *name, struct err *e)
{
	const char *dash = strchr(name, '-');
	char codec[32], *end;
	long level;

	snprintf(codec, sizeof(codec), "%.*s", dash ? (int)(dash - name) : (int)sizeof(codec) - 1, name);
	a->codec = !strcmp(codec, "none") ? CODEC_RAW : codec_by_name(codec);
	if (a->codec == CODECS)
		return err_set(
			e, -EINVAL,
			"--algorithms: there is no '%s'; there are none, lz4, zstd, snappy, gzip, each with a -LEVEL, "
			"hde-datacenter, hde-auto, hde-internet, and all",
			name);
	a->level = codecs[a->codec]->level_default;
	if (!dash)
		return 0;
	level = strtol(dash + 1, &end, 10);
	if (!dash[1] || *end || level < codecs[a->codec]->level_min || level > codecs[a->codec]->level_max)
		return err_set(e, -EINVAL, "--algorithms: %s: the level is %d to %d", name, codecs[a->codec]->level_min,
			       codecs[a->codec]->level_max);
	a->level = (int)level;
	return 0;
}

static int parse_hde(struct hb_algorithm *a, const char *what, struct err *e)
{
	a->hde = true;
	for (a->mode = HDE_NONE + 1; hde_mode_names[a->mode]; a->mode++)
		if (!strcmp(hde_mode_names[a->mode], what))
			return 0;
	a->mode = HDE_FIXED;
	return parse_codec(a, what, e);
}

int hb_algorithms(struct hb_algorithm out[HB_ALGORITHMS_MAX], size_t *n, const char *list, struct err *e)
{
	char words[1024], *save = NULL;
	size_t count = 0;
	int rc;

	if ((size_t)snprintf(words, sizeof(words), "%s", strcmp(list, "all") ? list : all_names) >= sizeof(words))
		return err_set(e, -EINVAL, "--algorithms: the list is too long");
	for (char *word = strtok_r(words, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		struct hb_algorithm *a = &out[count];

		if (count == HB_ALGORITHMS_MAX)
			return err_set(e, -EINVAL, "--algorithms: at most %u", HB_ALGORITHMS_MAX);
		*a = (struct hb_algorithm){ 0 };
		if (strlen(word) >= sizeof(a->name))
			return err_set(e, -EINVAL, "--algorithms: there is no '%s'", word);
		snprintf(a->name, sizeof(a->name), "%s", word);
		rc = strncmp(word, "hde", 3) ? parse_codec(a, word, e)
					     : parse_hde(a,
							 word[3] == '-' ? word + 4
							 : word[3]      ? word
									: "auto",
							 e);
		if (rc < 0)
			return rc;
		count++;
	}
	if (!count)
		return err_set(e, -EINVAL, "--algorithms: the list is empty");
	*n = count;
	return 0;
}

/* ---- what was measured ------------------------------------------------------------------------- */

static struct stats_interval speed(const struct hb_result *r, const double *seconds)
{
	double v[HB_ITERATIONS_MAX];

	for (size_t i = 0; i < r->n; i++)
		v[i] = (double)r->bytes_in / seconds[i] / MB;
	return stats_bootstrap(v, r->n, 1);
}

static struct stats_interval faster(const double *a, const double *b, size_t n)
{
	double v[HB_ITERATIONS_MAX];

	for (size_t i = 0; i < n; i++)
		v[i] = b[i] / a[i];
	return stats_bootstrap(v, n, 1);
}

struct stats_interval hb_encode_mbytes(const struct hb_result *r)
{
	return speed(r, r->encode_s);
}

struct stats_interval hb_decode_mbytes(const struct hb_result *r)
{
	return speed(r, r->decode_s);
}

struct stats_interval hb_encode_ratio(const struct hb_result *a, const struct hb_result *b)
{
	return faster(a->encode_s, b->encode_s, min_u64(a->n, b->n));
}

struct stats_interval hb_decode_ratio(const struct hb_result *a, const struct hb_result *b)
{
	return faster(a->decode_s, b->decode_s, min_u64(a->n, b->n));
}

double hb_ratio(const struct hb_result *r)
{
	return r->bytes_out ? (double)r->bytes_in / (double)r->bytes_out : NAN;
}

static json_t *stats_json(const struct hde_stats *s)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "zero", (json_int_t)s->zero_pages,
			 "duplicate", (json_int_t)s->duplicate_pages, "delta", (json_int_t)s->delta_pages, "coded",
			 (json_int_t)s->coded_pages, "raw", (json_int_t)s->raw_pages, "put", (json_int_t)s->put_pages,
			 "cache_hits", (json_int_t)s->cache_hits, "cache_misses", (json_int_t)s->cache_misses,
			 "cache_evictions", (json_int_t)s->cache_evictions);
}

json_t *hb_json(const struct hb_result *r)
{
	json_t *o = json_pack("{s:s, s:o, s:o, s:o, s:o, s:b, s:I, s:I}", "algorithm", r->algorithm.name, "level",
			      r->algorithm.hde ? json_null() : json_integer(r->algorithm.level), "ratio",
			      json_number(hb_ratio(r)), "compress_mbytes_per_s", json_interval(hb_encode_mbytes(r)),
			      "decompress_mbytes_per_s", json_interval(hb_decode_mbytes(r)), "verified", r->verified,
			      "bytes", (json_int_t)r->bytes_in, "compressed_bytes", (json_int_t)r->bytes_out);

	if (r->algorithm.hde)
		json_object_set_new(o, "pages", stats_json(&r->stats));
	return o;
}

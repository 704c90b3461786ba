/* SPDX-License-Identifier: MIT */
/* dwcp benchmark hde: options and flow. */
#include "cli/bench_hde.h"
#include "base/clock.h"
#include "base/util.h"
#include "bench/hde_suite.h"
#include "cli/cmd.h"
#include "cli/progress.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define IMAGES_MAX 16

struct bench_hde_opts {
	char input[4096], base[4096], train[4096], algorithms[512];
	uint64_t data_size, block, batch, cache, link;
	uint32_t iterations, blocks;
	bool oracle, suite, check;
};

static const struct cmd_usage usage = {
	.name = "benchmark hde",
	.operands = "[IMAGE…]",
	.about =
		"Compresses memory and says how small and how fast, beside plain codecs; everything is decoded again and "
		"compared. The memory is an image of a guest (--input; bench/image.sh makes some), or synthetic: 60 % zeros, "
		"30 % text, 10 % random. With --base the pages that changed since an older image are measured as well. --oracle "
		"tries every choice of the selector on the blocks of the images and tells how far it was from the best "
		"plan; --train makes the selector's model from them; the image `synthetic` is 64 MB of synthetic memory. "
		"Speeds are CPU time of one thread; MB are 10^6 bytes.",
	.examples =
		"  dwcp benchmark hde --data-size=100MB --algorithms=all --iterations=50\n"
		"  dwcp benchmark hde --input=redis-2.1.img --base=redis-2.0.img --json=result.json\n"
		"  dwcp benchmark hde --suite\n"
		"  dwcp benchmark hde --oracle sqlite-4.0.img python-5.0.img\n"
		"  dwcp benchmark hde --train=compress/select_model.c mixed-1.0.img redis-2.0.img gcc-3.0.img synthetic\n",
};

#define FIELD(f) offsetof(struct bench_hde_opts, f)
#define ROOM(f) sizeof(((struct bench_hde_opts *)0)->f)

static const struct opt rows[] = {
	{ .name = "input",
	  .type = OPT_STR,
	  .offset = FIELD(input),
	  .def = "",
	  .max = ROOM(input),
	  .unit = "FILE",
	  .help = "a guest's memory; without it synthetic memory" },
	{ .name = "base",
	  .type = OPT_STR,
	  .offset = FIELD(base),
	  .def = "",
	  .max = ROOM(base),
	  .unit = "FILE",
	  .help = "an older image of the same guest: the changed pages are measured, too" },
	{ .name = "data-size",
	  .type = OPT_SIZE,
	  .offset = FIELD(data_size),
	  .def = "auto",
	  .min = MEMORY_PAGE,
	  .max = 1ull << 40,
	  .auto_ok = true,
	  .help = "so much memory; of an image, pieces of 1 MB from all over it; auto: 100 MB, or the whole image" },
	{ .name = "algorithms",
	  .type = OPT_STR,
	  .offset = FIELD(algorithms),
	  .def = "none,snappy,lz4,zstd-1,zstd-3,hde-datacenter,hde-auto,hde-internet",
	  .max = ROOM(algorithms),
	  .unit = "LIST",
	  .help = "names with commas between: none, lz4, zstd, snappy, gzip, each with a -LEVEL, hde-MODE; or all" },
	{ .name = "iterations",
	  .letter = 'n',
	  .type = OPT_U32,
	  .offset = FIELD(iterations),
	  .def = "5",
	  .min = 1,
	  .max = HB_ITERATIONS_MAX,
	  .help = "turns of each algorithm, after one that warms up" },
	{ .name = "block",
	  .type = OPT_SIZE,
	  .offset = FIELD(block),
	  .def = "256KB",
	  .min = 1024,
	  .max = CODEC_BLOCK_MAX,
	  .help = "block of a plain codec" },
	{ .name = "batch",
	  .type = OPT_SIZE,
	  .offset = FIELD(batch),
	  .def = "1MB",
	  .min = HDE_PAGE,
	  .max = HDE_BATCH_MAX,
	  .help = "what HDE gets at a time, as a transfer's chunk" },
	{ .name = "cache",
	  .type = OPT_SIZE,
	  .offset = FIELD(cache),
	  .def = "auto",
	  .min = HDE_PAGE,
	  .max = 1ull << 40,
	  .auto_ok = true,
	  .help = "HDE's cache of what the receiver has, for --base; auto: as a transfer has it" },
	{ .name = "bandwidth",
	  .type = OPT_RATE,
	  .offset = FIELD(link),
	  .def = "auto",
	  .min = 1000,
	  .max = 1000000000000,
	  .auto_ok = true,
	  .help = "what HDE is told of the link; auto: what the mode assumes" },
	{ .name = "suite",
	  .type = OPT_BOOL,
	  .offset = FIELD(suite),
	  .def = "no",
	  .help = "the documented tables on synthetic memory: ratio, speed, delta, parallel" },
	{ .name = "oracle",
	  .type = OPT_BOOL,
	  .offset = FIELD(oracle),
	  .def = "no",
	  .help = "how far the selector is from the best plan, over bandwidths and CPU budgets" },
	{ .name = "train",
	  .type = OPT_STR,
	  .offset = FIELD(train),
	  .def = "",
	  .max = ROOM(train),
	  .unit = "FILE.c",
	  .help = "make the selector's model from the images and write it there; with --oracle each image is also judged "
		  "by a model made from the others" },
	{ .name = "blocks",
	  .type = OPT_U32,
	  .offset = FIELD(blocks),
	  .def = "300",
	  .min = 10,
	  .max = 100000,
	  .help = "of each image, for --oracle and --train" },
	{ .name = "check",
	  .type = OPT_BOOL,
	  .offset = FIELD(check),
	  .def = "no",
	  .help = "exit status 3 when a target of --oracle is missed" },
};

struct run {
	const struct bench_hde_opts *o;
	struct hb_settings settings;
	struct hb_algorithm algorithms[HB_ALGORITHMS_MAX];
	size_t n;
	const char *images[IMAGES_MAX];
	size_t n_images;
	struct memory input, base;
	struct progress progress;
	uint64_t done;
	json_t *report;
};

static void on_progress(void *ctx, uint64_t bytes)
{
	struct run *r = ctx;

	r->done += bytes;
	progress_update(&r->progress, r->done, clock_now(&clock_mono));
}

/* ---- what is measured -------------------------------------------------------------------------- */

static int load(struct run *r, struct err *e)
{
	const struct bench_hde_opts *o = r->o;
	int rc;

	if (!o->input[0])
		return memory_make(&r->input, MEMORY_VM,
				   o->data_size ? div_up_u64(o->data_size, MEMORY_PAGE) * MEMORY_PAGE : 100u << 20, 1,
				   e);
	rc = memory_load(&r->input, o->input, o->data_size, e);
	if (rc >= 0 && o->base[0])
		rc = memory_load(&r->base, o->base, o->data_size, e);
	return rc;
}

static json_t *results_json(const struct hb_result *results, size_t n)
{
	json_t *list = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, hb_json(&results[i]));
	return list;
}

static int measure_image(struct run *r, struct hb_result *results, struct err *e)
{
	int rc;

	progress_begin(&r->progress, "compressing", r->input.bytes * 2 * r->n * (r->settings.iterations + 1), true,
		       clock_now(&clock_mono));
	rc = hb_image(&r->input, r->algorithms, r->n, &r->settings, results, e);
	progress_clear(&r->progress);
	json_object_set_new(r->report, "input", json_string(r->input.name));
	json_object_set_new(r->report, "bytes", json_integer((json_int_t)r->input.bytes));
	json_object_set_new(r->report, "results", results_json(results, r->n));
	hb_report_image(r->report, &r->input, results, r->n);
	return rc;
}

static int measure_delta(struct run *r, struct hb_result *results, struct err *e)
{
	struct hb_delta d = { 0 };
	int rc = hb_delta(&r->input, &r->base, r->algorithms, r->n, &r->settings, &d, results, e);

	if (!d.changed)
		return rc;
	json_object_set_new(r->report, "base", json_string(r->base.name));
	json_object_set_new(r->report, "changed_pages", json_integer((json_int_t)d.changed));
	json_object_set_new(r->report, "changed_bytes", json_integer((json_int_t)d.changed * MEMORY_PAGE));
	json_object_set_new(r->report, "xbzrle_bytes", json_integer((json_int_t)d.xbzrle_bytes));
	json_object_set_new(r->report, "delta", results_json(results, r->n));
	hb_report_delta(r->report, &r->input, &r->base, &d, results, r->n);
	return rc;
}

static int run_plain(struct run *r, struct err *e)
{
	struct hb_result *results;
	int rc = hb_algorithms(r->algorithms, &r->n, r->o->algorithms, e);

	if (rc >= 0)
		rc = load(r, e);
	if (rc < 0)
		return rc;
	results = calloc(r->n, sizeof(*results));
	if (!results)
		return err_set(e, -ENOMEM, "no memory for results");
	rc = measure_image(r, results, e);
	if (rc >= 0 && r->o->base[0])
		rc = measure_delta(r, results, e);
	free(results);
	return rc;
}

static int run_suite(struct run *r, struct err *e)
{
	uint64_t bytes = r->o->data_size ? div_up_u64(r->o->data_size, MEMORY_PAGE) * MEMORY_PAGE : 32u << 20;
	int rc = hb_suite_ratio(r->report, &r->settings, bytes, e);

	if (rc >= 0)
		rc = hb_suite_speed(r->report, &r->settings, bytes, e);
	if (rc >= 0)
		rc = hb_suite_delta(r->report, &r->settings, bytes, e);
	if (rc >= 0)
		rc = hb_suite_parallel(r->report, &r->settings, bytes, e);
	return rc;
}

/* ---- the selector ------------------------------------------------------------------------------ */

static int measure_blocks(struct run *r, struct hb_blocks *images, struct err *e)
{
	int rc = 0;

	for (size_t i = 0; i < r->n_images && rc >= 0; i++) {
		struct memory m = { 0 };

		rc = strcmp(r->images[i], "synthetic") ? memory_load(&m, r->images[i], r->o->data_size, e)
						       : memory_make(&m, MEMORY_VM, 64u << 20, 2, e);
		if (rc < 0)
			break;
		r->done = 0;
		progress_begin(&r->progress, "trying every choice", (uint64_t)r->o->blocks * CODEC_BLOCK_MAX, true,
			       clock_now(&clock_mono));
		rc = hb_blocks_measure(&images[i], &m, r->o->blocks, &r->settings, e);
		progress_clear(&r->progress);
		memory_free(&m);
	}
	return rc;
}

/* Judged by the shipped model, or, while training, by one that has not seen the image. */
static int judge(struct run *r, const struct hb_blocks *images, struct err *e)
{
	size_t points = hb_grid_links * hb_grid_cpu_n, n = r->n_images;
	struct hb_regret *all = calloc(n * points, sizeof(*all));
	struct hb_blocks others[IMAGES_MAX];
	int rc = all ? 0 : err_set(e, -ENOMEM, "no memory for results");

	for (size_t i = 0; i < n && rc >= 0; i++) {
		struct sel_model model = { 0 };
		bool held_out = r->o->train[0] && n > 1;
		size_t k = 0;

		for (size_t j = 0; j < n; j++)
			if (j != i)
				others[k++] = images[j];
		if (held_out)
			rc = hb_train(&model, others, k, e);
		for (size_t p = 0; p < points && rc >= 0; p++)
			hb_regret(&images[i], held_out ? &model : NULL, hb_grid_link[p / hb_grid_cpu_n],
				  hb_grid_cpus[p % hb_grid_cpu_n], &all[i * points + p]);
	}
	if (rc >= 0)
		hb_report_regret(r->report, images, n, all);
	free(all);
	return rc;
}

static int write_model(struct run *r, const struct hb_blocks *images, struct err *e)
{
	struct sel_model model = { 0 };
	time_t now = time(NULL);
	size_t used;
	struct tm tm;
	int rc = hb_train(&model, images, r->n_images, e);

	if (rc < 0)
		return rc;
	snprintf(model.made_by, sizeof(model.made_by), "dwcp benchmark hde --train");
	for (size_t i = 0; i < r->n_images; i++) {
		const char *slash = strrchr(r->images[i], '/');

		used = strlen(model.made_by);
		snprintf(model.made_by + used, sizeof(model.made_by) - used, " %s", slash ? slash + 1 : r->images[i]);
	}
	if (gmtime_r(&now, &tm))
		strftime(model.date, sizeof(model.date), "%Y-%m-%d", &tm);
	return sel_model_write(&model, r->o->train, e);
}

static int run_selector(struct run *r, struct err *e)
{
	struct hb_blocks images[IMAGES_MAX] = { 0 };
	int rc = measure_blocks(r, images, e);

	if (rc >= 0 && (r->o->oracle || !r->o->train[0]))
		rc = judge(r, images, e);
	if (rc >= 0 && r->o->train[0])
		rc = write_model(r, images, e);
	for (size_t i = 0; i < r->n_images; i++)
		hb_blocks_free(&images[i]);
	return rc;
}

/* ---- flow -------------------------------------------------------------------------------------- */

static int check_options(struct run *r, char **operands, int n, struct err *e)
{
	const struct bench_hde_opts *o = r->o;
	bool selector = o->oracle || o->train[0];

	if (selector + o->suite + (o->base[0] != 0) > 1)
		return err_set(e, -EINVAL,
			       "--suite, --base and --oracle or --train are different measurements; choose one");
	if (o->base[0] && !o->input[0])
		return err_set(e, -EINVAL, "--base is an older image of the guest in --input, which is missing");
	if (o->suite && o->input[0])
		return err_set(e, -EINVAL, "--suite measures synthetic memory; leave --input out");
	if (n && !selector)
		return err_set(e, -EINVAL, "images without --input are for --oracle and --train");
	if (o->check && !o->oracle)
		return err_set(e, -EINVAL, "--check is about the targets of --oracle, which is missing");
	if (o->batch % HDE_PAGE)
		return err_set(e, -EINVAL, "--batch: pages of %u bytes are wanted", HDE_PAGE);
	if (o->base[0] && o->data_size)
		return err_set(e, -EINVAL, "--data-size: with --base the whole images are compared; leave it out");
	if (o->input[0])
		r->images[r->n_images++] = o->input;
	for (int i = 0; i < n; i++)
		r->images[r->n_images++] = operands[i];
	if (selector && !r->n_images)
		return err_set(e, -EINVAL, "--oracle and --train need images; bench/image.sh makes some");
	return 0;
}

static int finish(struct run *r, int rc, const char *json, const struct err *why)
{
	const json_t *sections = json_object_get(r->report, "sections");
	int status = CMD_OK;
	struct err e = { 0 };

	if (rc < 0)
		status = cmd_signal ? CMD_INTERRUPTED : cmd_fail(usage.name, why);
	if (strcmp(json, "-") != 0)
		for (size_t i = 0; i < json_array_size(sections); i++)
			report_print_section(json_array_get(sections, i), stdout);
	if (strcmp(json, "-") != 0 && (r->o->oracle || r->o->train[0]) && rc >= 0)
		report_print_targets(r->report, stdout);
	if (*json && json_array_size(sections) && json_write(r->report, json, &e) < 0)
		status = cmd_fail(usage.name, &e);
	if (status == CMD_OK && r->o->check && report_missed(r->report)) {
		fprintf(stderr, "dwcp: %s: %u targets are missed\n", usage.name, report_missed(r->report));
		status = CMD_SHORT;
	}
	return status;
}

static json_t *settings_json(const struct bench_hde_opts *o)
{
	return json_pack("{s:I, s:I, s:I, s:s}", "iterations", (json_int_t)o->iterations, "block_bytes",
			 (json_int_t)o->block, "batch_bytes", (json_int_t)o->batch, "variant", hde_variant());
}

int cmd_benchmark_hde(int argc, char **argv)
{
	struct bench_hde_opts o = { 0 };
	struct cmd_output output = { 0 };
	const struct opt_group groups[] = {
		{ .name = "benchmark", .help = "Benchmark", .rows = rows, .n = ARRAY_LEN(rows), .base = &o },
		cmd_output_group(&output),
	};
	struct run r = { .o = &o };
	struct err e = { 0 };
	int n, status, rc;

	status = cmd_options(&usage, groups, ARRAY_LEN(groups), 0, IMAGES_MAX - 1, argc, argv, &n);
	if (status != CMD_RUN)
		return status;
	rc = check_options(&r, argv, n, &e);
	if (rc < 0) {
		cmd_fail(usage.name, &e);
		return CMD_USAGE;
	}
	cmd_catch_signals();
	r.settings = (struct hb_settings){ .iterations = o.iterations,
					   .block = (uint32_t)o.block,
					   .batch = (uint32_t)o.batch,
					   .cache = o.cache,
					   .link_bits = o.link,
					   .stop = &cmd_signal,
					   .progress = output.json[0] ? NULL : on_progress,
					   .progress_ctx = &r };
	r.report = report_new("benchmark hde", settings_json(&o));
	rc = o.suite ? run_suite(&r, &e) : o.oracle || o.train[0] ? run_selector(&r, &e) : run_plain(&r, &e);
	status = finish(&r, rc, output.json, &e);
	if (rc == -EINVAL && !cmd_signal && !r.input.bytes && !r.n_images)
		status = CMD_USAGE;
	json_decref(r.report);
	memory_free(&r.base);
	memory_free(&r.input);
	return status;
}

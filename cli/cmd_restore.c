/* SPDX-License-Identifier: MIT */
/* dwcp restore: a guest goes on from a checkpoint. */
#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/cmd.h"
#include "migrate/checkpoint.h"
#include "transport/client.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct cmd_usage usage = {
	.name = "restore",
	.operands = "DIR",
	.about =
		"Reads a checkpoint with all that it builds on, proves that memory is what it was, and lets the guest go on "
		"from exactly where it stood. The guest checks every write it ever made, before it runs and after.",
	.examples = "  dwcp restore /var/lib/guest\n"
		    "  dwcp restore /var/lib/guest --number=3 --run=1m\n",
};

struct restore_opts {
	uint32_t number;
	uint64_t run_ns;
};

static const struct opt rows[] = {
	{ .name = "number",
	  .type = OPT_U32,
	  .offset = offsetof(struct restore_opts, number),
	  .def = "auto",
	  .max = 99999999,
	  .auto_ok = true,
	  .help = "of the checkpoint; auto: the newest" },
	{ .name = "run",
	  .type = OPT_TIME,
	  .offset = offsetof(struct restore_opts, run_ns),
	  .def = "1s",
	  .max = 365 * 24 * 3600 * NS_PER_S,
	  .help = "let the guest run for so long, or until interrupted; 0: only check it" },
};

struct restored {
	struct checkpoint_image im;
	struct guest_work at_checkpoint, at_check;
	double ran_seconds;
};

static void wait_for(uint64_t ns)
{
	uint64_t until = clock_now(&clock_mono) + ns, at;

	while (!cmd_signal && (at = clock_now(&clock_mono)) < until)
		poll(NULL, 0, (int)min_u64((until - at + NS_PER_MS - 1) / NS_PER_MS, 1000));
}

static int go_on(struct restored *r, struct guest *g, uint64_t run_ns, struct err *e)
{
	uint64_t began;
	int rc;

	g->ops->work(g, &r->at_checkpoint);
	rc = g->ops->check(g, e);
	if (rc == 0 && run_ns) {
		rc = g->ops->run(g, e);
		began = clock_now(&clock_mono);
		if (rc == 0)
			wait_for(run_ns);
		r->ran_seconds = (double)(clock_now(&clock_mono) - began) / 1e9;
		if (rc == 0)
			rc = g->ops->pause(g, e);
		if (rc == 0)
			rc = g->ops->check(g, e);
	}
	g->ops->work(g, &r->at_check);
	return rc;
}

static void print(struct restored *r)
{
	struct checkpoint_head *h = &r->im.head;
	double s = (double)r->im.ns / 1e9;
	char memory[32];

	printf("checkpoint %u: guest %s \"%s\" of %s, out of %u file%s, %.2f MB, in %.3f s (%.3f GB/s of memory)\n"
	       "  memory           what it was: every page's sum\n"
	       "  guest's check    good at %llu writes; ran %.2f s; good at %llu writes\n",
	       h->number, client_clean(h->kind), client_clean(h->name), format_size(memory, sizeof(memory), h->memory),
	       r->im.files, r->im.files == 1 ? "" : "s", (double)r->im.bytes / 1e6, s,
	       s > 0 ? (double)h->memory / s / 1e9 : 0, (unsigned long long)r->at_checkpoint.writes, r->ran_seconds,
	       (unsigned long long)r->at_check.writes);
	fflush(stdout);
}

static int print_json(struct restored *r, const char *dir, const char *path, struct err *e)
{
	struct checkpoint_head *h = &r->im.head;
	json_t *result = json_result("restore", true), *part;
	int rc;

	part = json_pack("{s:s, s:I, s:I, s:I, s:s, s:s, s:I, s:f, s:f, s:b, s:b, s:I, s:I, s:f}", "directory", dir,
			 "number", (json_int_t)h->number, "files", (json_int_t)r->im.files, "bytes",
			 (json_int_t)r->im.bytes, "guest", client_clean(h->kind), "name", client_clean(h->name),
			 "memory_bytes", (json_int_t)h->memory, "created_unix_seconds", (double)h->created_ns / 1e9,
			 "load_seconds", (double)r->im.ns / 1e9, "verified", true, "self_check", true,
			 "writes_at_checkpoint", (json_int_t)r->at_checkpoint.writes, "writes_at_check",
			 (json_int_t)r->at_check.writes, "ran_seconds", r->ran_seconds);
	json_object_update(result, part);
	json_decref(part);
	rc = json_write(result, path, e);
	json_decref(result);
	return rc;
}

static int restore(const char *dir, const struct restore_opts *o, const char *json, struct err *e)
{
	struct restored *r = calloc(1, sizeof(*r));
	struct guest *g = NULL;
	int rc;

	if (!r)
		return err_set(e, -ENOMEM, "no memory to restore a guest");
	rc = checkpoint_load(dir, o->number, &r->im, e);
	if (rc == 0)
		rc = checkpoint_restore(&r->im, &g, e);
	if (rc == 0)
		rc = go_on(r, g, o->run_ns, e);
	if (rc == 0 && strcmp(json, "-") != 0)
		print(r);
	if (rc == 0 && *json)
		rc = print_json(r, dir, json, e);
	if (g)
		g->ops->close(g);
	checkpoint_image_free(&r->im);
	free(r);
	return rc;
}

int cmd_restore(int argc, char **argv)
{
	struct restore_opts opts = { 0 };
	struct cmd_output output = { 0 };
	const struct opt_group groups[] = {
		{ .name = "restore", .help = "Restoring", .rows = rows, .n = ARRAY_LEN(rows), .base = &opts },
		cmd_output_group(&output),
	};
	struct err e = { 0 };
	int n, status = cmd_options(&usage, groups, ARRAY_LEN(groups), 1, 1, argc, argv, &n);

	if (status != CMD_RUN)
		return status;
	cmd_catch_signals();
	if (restore(argv[0], &opts, output.json, &e) < 0)
		return cmd_fail(usage.name, &e);
	return CMD_OK;
}

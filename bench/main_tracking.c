/* SPDX-License-Identifier: MIT */
/*
 * What tracking costs a guest: `tracking TRACKER|none [SECONDS [PERCENT [MEGABYTES]]]` runs a guest that computes and
 * dirties PERCENT of its memory per second, looks for dirty pages ten times a second as a migration would, sends nothing,
 * and prints one JSON object: what the guest got done per second.
 */
#include "base/clock.h"
#include "base/hugebuf.h"
#include "base/json.h"
#include "base/bitmap.h"
#include "migrate/dirty.h"
#include "migrate/guest_synth.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS 100

static int fail(const struct err *e)
{
	fprintf(stderr, "tracking: %s\n", e->why);
	return 1;
}

/* Steps and writes per second while it is looked at. */
static int measure(struct guest *g, struct tracker *t, double seconds, json_t **out, struct err *e)
{
	uint64_t pages = guest_pages(g), *map = calloc(bitmap_words(pages), sizeof(*map));
	struct guest_work before, after;
	uint64_t began = clock_now(&clock_mono), now = began;
	int rc = map ? 0 : err_set(e, -12, "no memory for a bitmap");

	g->ops->work(g, &before);
	while (rc == 0 && (double)(now - began) / 1e9 < seconds) {
		poll(NULL, 0, LOOK_MS);
		if (t && t->ops->fetch(t, 0, pages, map) < 0)
			rc = err_set(e, -5, "the tracker failed");
		now = clock_now(&clock_mono);
	}
	g->ops->work(g, &after);
	if (rc == 0) {
		double s = (double)(now - began) / 1e9;

		*out = json_pack("{s:f, s:f, s:f}", "steps_per_s", (double)(after.steps - before.steps) / s,
				 "writes_per_s", (double)(after.writes - before.writes) / s, "look_ms",
				 t && t->cost.fetches ? (double)t->cost.fetch_ns / 1e6 / (double)t->cost.fetches : 0);
	}
	free(map);
	return rc;
}

static int run(const char *name, double seconds, const struct synth_opts *o, uint64_t bytes, struct err *e)
{
	const struct tracker_ops *ops = NULL;
	struct hugebuf mem = { 0 };
	struct guest *g = NULL;
	struct tracker *t = NULL;
	json_t *result = NULL;
	int rc = strcmp(name, "none") ? tracker_choose(name, &guest_synth_ops, &ops, e) : 0;

	if (rc == 0)
		rc = hugebuf_alloc(&mem, bytes, true, e);
	if (rc == 0)
		rc = guest_synth_ops.open(&g, mem.addr, mem.len, o, e);
	if (rc == 0 && ops)
		rc = ops->open(&t, g, e);
	if (rc == 0 && t && t->ops->clean)
		t->ops->clean(t, 0, guest_pages(g));
	if (rc == 0)
		rc = guest_synth_ops.run(g, e);
	if (rc == 0)
		rc = measure(g, t, seconds, &result, e);
	if (rc == 0)
		rc = json_write(result, "-", e);
	json_decref(result);
	if (t)
		ops->close(t);
	guest_synth_ops.close(g);
	hugebuf_free(&mem);
	return rc;
}

int main(int argc, char **argv)
{
	struct synth_opts o = {
		.dirty_rate = argc > 3 ? atof(argv[3]) : 1, .working_set = 100, .threads = 1, .seed = 1, .compute = true
	};
	uint64_t bytes = (uint64_t)(argc > 4 ? atoi(argv[4]) : 1024) << 20;
	struct err e = { 0 };

	if (argc < 2) {
		fprintf(stderr, "usage: tracking TRACKER|none [SECONDS [PERCENT [MEGABYTES]]]\n");
		return 2;
	}
	return run(argv[1], argc > 2 ? atof(argv[2]) : 2, &o, bytes, &e) < 0 ? fail(&e) : 0;
}

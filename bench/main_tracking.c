/* SPDX-License-Identifier: MIT */
/*
 * What tracking costs a guest: `tracking TRACKER|none [SECONDS [PERCENT [MEGABYTES [synth|kvm]]]]` runs a guest that
 * computes and dirties PERCENT of its memory per second, looks for dirty pages ten times a second as a migration would, sends
 * nothing, and prints one JSON object: what the guest got done per second, and the CPU time of all of it. A virtual machine
 * does not compute: with more PERCENT than it can do, its writes per second are what counts.
 */
#include "base/clock.h"
#include "base/hugebuf.h"
#include "base/json.h"
#include "base/bitmap.h"
#include "migrate/dirty.h"
#include "migrate/guest_kvm.h"
#include "migrate/guest_synth.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOOK_MS 100

static int fail(const struct err *e)
{
	fprintf(stderr, "tracking: %s\n", e->why);
	return 1;
}

static double cpu_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Steps and writes per second while it is looked at. */
static int measure(struct guest *g, struct tracker *t, double seconds, json_t **out, struct err *e)
{
	uint64_t pages = guest_pages(g), *map = calloc(bitmap_words(pages), sizeof(*map));
	struct guest_work before, after;
	uint64_t began = clock_now(&clock_mono), now = began;
	int rc = map ? 0 : err_set(e, -12, "no memory for a bitmap");
	double cpu = cpu_s();

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

		*out = json_pack("{s:f, s:f, s:f, s:f, s:I, s:f}", "steps_per_s",
				 (double)(after.steps - before.steps) / s, "writes_per_s",
				 (double)(after.writes - before.writes) / s, "look_ms",
				 t && t->cost.fetches ? (double)t->cost.fetch_ns / 1e6 / (double)t->cost.fetches : 0,
				 "cpu_seconds_per_s", (cpu_s() - cpu) / s, "faults",
				 (json_int_t)(t ? t->cost.faults : 0), "fault_ms",
				 t ? (double)t->cost.fault_ns / 1e6 : 0);
	}
	free(map);
	return rc;
}

static int run(const char *name, double seconds, const struct guest_ops *kind, void *o, uint64_t bytes, struct err *e)
{
	const struct tracker_ops *ops = NULL;
	struct hugebuf mem = { 0 };
	struct guest *g = NULL;
	struct tracker *t = NULL;
	json_t *result = NULL;
	int rc = strcmp(name, "none") ? tracker_choose(name, kind, &ops, e) : 0;

	if (rc == 0)
		rc = hugebuf_alloc(&mem, bytes, true, e);
	if (rc == 0 && ops && ops->prepare)
		ops->prepare(o);
	if (rc == 0)
		rc = kind->open(&g, mem.addr, mem.len, o, e);
	if (rc == 0 && ops)
		rc = ops->open(&t, g, e);
	if (rc == 0 && t && t->ops->clean)
		t->ops->clean(t, 0, guest_pages(g));
	if (rc == 0)
		rc = kind->run(g, e);
	if (rc == 0)
		rc = measure(g, t, seconds, &result, e);
	if (rc == 0)
		rc = json_write(result, "-", e);
	json_decref(result);
	if (t)
		ops->close(t);
	kind->close(g);
	hugebuf_free(&mem);
	return rc;
}

int main(int argc, char **argv)
{
	double seconds = argc > 2 ? atof(argv[2]) : 2, percent = argc > 3 ? atof(argv[3]) : 1;
	struct synth_opts synth = {
		.dirty_rate = percent, .working_set = 100, .threads = 1, .seed = 1, .compute = true
	};
	struct kvm_opts vm = { .dirty_rate = percent, .seed = 1 };
	uint64_t bytes = (uint64_t)(argc > 4 ? atoi(argv[4]) : 1024) << 20;
	const struct guest_ops *kind = guest_find(argc > 5 ? argv[5] : "synth");
	struct err e = { 0 };

	if (argc < 2 || !kind) {
		fprintf(stderr, "usage: tracking TRACKER|none [SECONDS [PERCENT [MEGABYTES [synth|kvm]]]]\n");
		return 2;
	}
	return run(argv[1], seconds, kind, kind == &guest_kvm_ops ? (void *)&vm : &synth, bytes, &e) < 0 ? fail(&e) : 0;
}

/* SPDX-License-Identifier: MIT */
/* dwcp checkpoint: a guest is made, runs, and is saved to a directory while it runs. */
#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/guest_options.h"
#include "migrate/checkpoint.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REMEMBERED 4096 /* results that the report lists one by one */

static const struct cmd_usage usage = {
	.name = "checkpoint",
	.operands = "DIR",
	.about =
		"Makes a guest, lets it run, and saves it to the directory at a set interval: first all of it, then what was "
		"written since. The guest stands still only while what is still dirty is copied aside; how long is measured. "
		"A checkpoint has its name when it is whole and on the disk, never before. `dwcp restore` lets the guest go on "
		"from any of them, here or where the directory was copied to.",
	.examples = "  dwcp checkpoint /var/lib/guest --memory=1GB --interval=5s --count=10\n"
		    "  dwcp checkpoint /var/lib/guest --guest=kvm --full-every=20 --compress=auto\n"
		    "  dwcp checkpoints /var/lib/guest && dwcp restore /var/lib/guest\n",
};

struct checkpoint_opts {
	char guest[GUEST_KIND_LEN];
	char name[GUEST_NAME_LEN];
	char tracker[16];
	uint64_t memory, aside, interval_ns, warm_up_ns;
	uint32_t count, full_every;
};

struct checkpoint_cmd {
	struct checkpoint_opts opts;
	struct hde_opts hde;
	const char *dir, *json;
	const struct guest_ops *kind;
	void *kind_opts;
	const struct tracker_ops *tracker;
	struct hugebuf memory;
	struct guest *guest;
	struct checkpoint *checkpoint;

	struct checkpoint_result *r; /* REMEMBERED */
	uint32_t taken;
	struct tracker_cost tracking;
	bool checked, check_ok;
};

#define FIELD(f) offsetof(struct checkpoint_opts, f)
#define ROOM(f) sizeof(((struct checkpoint_opts *)0)->f)

static const struct opt rows[] = {
	{ .name = "guest",
	  .type = OPT_STR,
	  .offset = FIELD(guest),
	  .def = "synth",
	  .max = ROOM(guest),
	  .unit = "KIND",
	  .help = "what is saved; synth: threads that write to memory at a set rate, and check every write; kvm: a virtual "
		  "machine with a program of our own" },
	{ .name = "memory",
	  .type = OPT_SIZE,
	  .offset = FIELD(memory),
	  .def = "1GB",
	  .min = GUEST_MEMORY_MIN,
	  .max = GUEST_MEMORY_MAX,
	  .help = "the guest's memory, a multiple of 4 KB" },
	{ .name = "name",
	  .type = OPT_STR,
	  .offset = FIELD(name),
	  .def = "auto",
	  .max = ROOM(name),
	  .auto_ok = true,
	  .unit = "NAME",
	  .help = "of the guest, for people; auto: its kind and this process' number" },
	{ .name = "tracker",
	  .type = OPT_STR,
	  .offset = FIELD(tracker),
	  .def = "auto",
	  .max = ROOM(tracker),
	  .auto_ok = true,
	  .unit = TRACKER_NAMES,
	  .help = "how writes are noticed; auto: the first that this machine has" },
	{ .name = "interval",
	  .type = OPT_TIME,
	  .offset = FIELD(interval_ns),
	  .def = "1s",
	  .max = 24 * 3600 * NS_PER_S,
	  .help = "from the beginning of one checkpoint to that of the next, or as long as one takes" },
	{ .name = "count",
	  .type = OPT_U32,
	  .offset = FIELD(count),
	  .def = "5",
	  .max = 99999999,
	  .help = "so many checkpoints; 0: until interrupted" },
	{ .name = "full-every",
	  .type = OPT_U32,
	  .offset = FIELD(full_every),
	  .def = "0",
	  .max = 99999999,
	  .help = "every so many is a full one; 0: only the first" },
	{ .name = "copy-aside",
	  .type = OPT_SIZE,
	  .offset = FIELD(aside),
	  .def = "64MB",
	  .min = 1 << 20,
	  .max = 1ull << 40,
	  .help = "memory for what is copied within a pause; when more is dirty, it is first written while the guest runs, "
		  "and what then does not fit is written within the pause" },
	{ .name = "warm-up",
	  .type = OPT_TIME,
	  .offset = FIELD(warm_up_ns),
	  .def = "1s",
	  .max = 3600 * NS_PER_S,
	  .help = "let the guest run for so long before" },
};

static uint64_t now(void)
{
	return clock_now(&clock_mono);
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

static void wait_until(uint64_t until)
{
	uint64_t at;

	while (!cmd_signal && (at = now()) < until)
		poll(NULL, 0, (int)min_u64((until - at + NS_PER_MS - 1) / NS_PER_MS, 1000));
}

/* ---- what is shown ----------------------------------------------------------------------------- */

static void print_head(const struct checkpoint_cmd *m)
{
	char memory[32];

	printf("guest %s of %s to %s, tracker %s, compression %s\n"
	       "  number    base      pages    MB file  pages live    pause ms    stop    look    copy   state     run"
	       "   write s    disk s\n",
	       m->kind->name, format_size(memory, sizeof(memory), m->opts.memory), m->dir, m->tracker->name,
	       hde_mode_names[m->hde.mode]);
	fflush(stdout);
}

static void print_one(const struct checkpoint_result *r)
{
	char base[16] = "full";

	if (r->base_number)
		snprintf(base, sizeof(base), "%u", r->base_number);
	printf("%8u %7s %10llu %10.2f %11llu %11.2f %7.2f %7.2f %7.2f %7.2f %7.2f %9.3f %9.3f%s\n", r->number, base,
	       (unsigned long long)r->pages, (double)r->bytes / 1e6, (unsigned long long)r->live_pages, ms(r->pause_ns),
	       ms(r->parts.stop_ns), ms(r->parts.look_ns), ms(r->parts.copy_ns), ms(r->parts.state_ns),
	       ms(r->parts.run_ns), (double)r->write_ns / 1e9, (double)r->sync_ns / 1e9,
	       r->overflow ? "  more than fits aside" : "");
	fflush(stdout);
}

/* Pauses of the incremental ones, ms. */
static struct stats_interval pauses(const struct checkpoint_cmd *m, bool full, double *most)
{
	double *v = calloc(REMEMBERED, sizeof(*v));
	struct stats_interval s = { 0 };
	size_t n = 0;

	*most = 0;
	for (uint32_t i = 0; v && i < m->taken && i < REMEMBERED; i++)
		if (!m->r[i].base_number == full) {
			v[n] = ms(m->r[i].pause_ns);
			*most = v[n] > *most ? v[n] : *most;
			n++;
		}
	if (n)
		s = stats_bootstrap(v, n, 1);
	free(v);
	return s;
}

static void print_end(const struct checkpoint_cmd *m)
{
	double most;
	struct stats_interval s = pauses(m, false, &most);

	if (s.n)
		printf("  pause of an incremental one: median %.2f ms, most %.2f ms, n %zu\n", s.median, most, s.n);
	if (m->checked)
		printf("  guest's check: %s (it goes on here until this ends)\n", m->check_ok ? "good" : "BAD");
	fflush(stdout);
}

static json_t *one_json(const struct checkpoint_result *r)
{
	const struct checkpoint_pause *p = &r->parts;
	json_t *parts = json_pack("{s:f, s:f, s:f, s:f, s:f}", "stop", ms(p->stop_ns), "look", ms(p->look_ns), "copy",
				  ms(p->copy_ns), "state", ms(p->state_ns), "run", ms(p->run_ns));

	return json_pack("{s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:b, s:f, s:f, s:f, s:I}", "number",
			 (json_int_t)r->number, "base", (json_int_t)r->base_number, "kind",
			 r->base_number ? "incremental" : "full", "pages", (json_int_t)r->pages, "live_pages",
			 (json_int_t)r->live_pages, "paused_pages", (json_int_t)r->paused_pages, "zero_pages",
			 (json_int_t)r->zero_pages, "bytes", (json_int_t)r->bytes, "pause_ms", ms(r->pause_ns),
			 "pause_cpu_ms", ms(r->pause_cpu_ns), "pause_parts_ms", parts, "overflow", r->overflow,
			 "write_seconds", (double)r->write_ns / 1e9, "sync_seconds", (double)r->sync_ns / 1e9,
			 "total_seconds", (double)r->total_ns / 1e9, "writes", (json_int_t)r->writes);
}

static int print_json(const struct checkpoint_cmd *m, struct err *e)
{
	json_t *result = json_result("checkpoint", true), *list = json_array(), *part;
	double most, full_most;
	struct stats_interval s = pauses(m, false, &most), full = pauses(m, true, &full_most);
	int rc;

	for (uint32_t i = 0; i < m->taken && i < REMEMBERED; i++)
		json_array_append_new(list, one_json(&m->r[i]));
	part = json_pack("{s:s, s:I, s:s, s:s, s:s, s:I, s:o, s:o, s:f, s:o, s:o, s:{s:I, s:f, s:I, s:I, s:f}}",
			 "guest", m->kind->name, "memory_bytes", (json_int_t)m->opts.memory, "tracker",
			 m->tracker->name, "directory", m->dir, "compress", hde_mode_names[m->hde.mode], "taken",
			 (json_int_t)m->taken, "checkpoints", list, "pause_ms", s.n ? json_interval(s) : json_null(),
			 "pause_max_ms", most, "full_pause_ms", full.n ? json_interval(full) : json_null(),
			 "self_check", m->checked ? json_boolean(m->check_ok) : json_null(), "tracking", "looks",
			 (json_int_t)m->tracking.fetches, "look_ms", ms(m->tracking.fetch_ns), "pages",
			 (json_int_t)m->tracking.pages, "faults", (json_int_t)m->tracking.faults, "fault_ms",
			 ms(m->tracking.fault_ns));
	json_object_update(result, part);
	json_decref(part);
	rc = json_write(result, m->json, e);
	json_decref(result);
	return rc;
}

/* ---- run --------------------------------------------------------------------------------------- */

static int make_guest(struct checkpoint_cmd *m, struct err *e)
{
	int rc = hugebuf_alloc(&m->memory, m->opts.memory, true, e);

	if (rc == 0)
		rc = m->kind->open(&m->guest, m->memory.addr, m->memory.len, m->kind_opts, e);
	if (rc == 0)
		rc = m->kind->run(m->guest, e);
	if (rc == 0)
		wait_until(now() + m->opts.warm_up_ns);
	return rc;
}

static int take_all(struct checkpoint_cmd *m, struct err *e)
{
	const struct checkpoint_opts *o = &m->opts;
	uint64_t next = now();
	int rc = 0;

	while (rc == 0 && !cmd_signal && (!o->count || m->taken < o->count)) {
		struct checkpoint_result r;

		next = max_u64(next + (m->taken ? o->interval_ns : 0), now());
		wait_until(next);
		if (cmd_signal)
			break;
		rc = checkpoint_take(m->checkpoint, o->full_every && m->taken % o->full_every == 0, &r, e);
		if (rc < 0)
			break;
		if (m->taken < REMEMBERED)
			m->r[m->taken] = r;
		m->taken++;
		if (strcmp(m->json, "-") != 0)
			print_one(&r);
	}
	m->tracking = *checkpoint_tracking(m->checkpoint);
	return cmd_signal ? err_set(e, -EINTR, "interrupted") : rc;
}

/* Taking checkpoints must have done nothing to it. */
static int check_guest(struct checkpoint_cmd *m, struct err *e)
{
	int rc = m->kind->pause(m->guest, e);

	if (rc == 0)
		rc = m->kind->check(m->guest, e);
	m->checked = true;
	m->check_ok = rc == 0;
	return rc;
}

static int run(struct checkpoint_cmd *m, struct err *e)
{
	struct checkpoint_config cfg = { .name = m->opts.name,
					 .tracker = m->tracker,
					 .dir = m->dir,
					 .hde = m->hde,
					 .aside = m->opts.aside,
					 .cancel = &cmd_signal };
	struct err why = { 0 };
	int rc, checked;

	m->r = calloc(REMEMBERED, sizeof(*m->r));
	rc = m->r ? make_guest(m, e) : err_set(e, -ENOMEM, "no memory for results");
	cfg.guest = m->guest;
	if (rc == 0)
		rc = checkpoint_open(&m->checkpoint, &cfg, e);
	if (rc < 0)
		return rc;
	if (strcmp(m->json, "-") != 0)
		print_head(m);
	rc = take_all(m, e);
	checkpoint_close(m->checkpoint);
	checked = check_guest(m, &why);
	if (rc == 0 && checked < 0) {
		*e = why;
		rc = checked;
	}
	if (strcmp(m->json, "-") != 0)
		print_end(m);
	if (*m->json && print_json(m, &why) < 0 && rc == 0) {
		*e = why;
		rc = why.code;
	}
	return rc;
}

static int plan(struct checkpoint_cmd *m, struct err *e)
{
	struct checkpoint_opts *o = &m->opts;
	int rc;

	m->kind = guest_find(o->guest);
	if (!m->kind)
		return err_set(e, -EINVAL, "--guest: there is no kind \"%s\"; see --help", o->guest);
	if (o->memory % GUEST_PAGE)
		return err_set(e, -EINVAL, "--memory must be a multiple of 4 KB");
	if (!o->name[0])
		snprintf(o->name, sizeof(o->name), "%s-%d", m->kind->name, getpid());
	rc = m->kind->probe(e);
	return rc < 0 ? rc : tracker_choose(o->tracker, m->kind, &m->tracker, e);
}

static int status_of(int rc, const struct err *e)
{
	if (rc == 0)
		return CMD_OK;
	cmd_fail(usage.name, e);
	return rc == -EINTR ? CMD_INTERRUPTED : CMD_FAILED;
}

static int run_options(struct checkpoint_cmd *m, void **bases)
{
	struct err e = { 0 };
	int rc = plan(m, &e);

	if (rc < 0) {
		cmd_fail(usage.name, &e);
		return rc == -EINVAL ? CMD_USAGE : CMD_FAILED;
	}
	m->kind_opts = guest_options_of(m->kind, bases);
	if (m->tracker->prepare)
		m->tracker->prepare(m->kind_opts);
	cmd_catch_signals();
	rc = run(m, &e);
	/* Until interrupted: that is then how it ends. */
	if (rc == -EINTR && !m->opts.count)
		rc = 0;
	if (m->guest)
		m->kind->close(m->guest);
	hugebuf_free(&m->memory);
	free(m->r);
	return status_of(rc, &e);
}

int cmd_checkpoint(int argc, char **argv)
{
	struct checkpoint_cmd m = { 0 };
	struct cmd_output output = { 0 };
	struct opt_group groups[CMD_GROUPS_MAX] = {
		{ .name = "checkpoint", .help = "Checkpoints", .rows = rows, .n = ARRAY_LEN(rows), .base = &m.opts },
		hde_group(&m.hde),
		cmd_output_group(&output),
	};
	void *bases[CMD_GROUPS_MAX] = { 0 };
	int n, status = CMD_FAILED, kinds = guest_option_groups(groups + 3, bases);

	if (kinds >= 0)
		status = cmd_options(&usage, groups, 3 + (size_t)kinds, 1, 1, argc, argv, &n);
	if (status == CMD_RUN) {
		m.dir = argv[0];
		m.json = output.json;
		status = run_options(&m, bases);
	}
	for (size_t i = 0; i < ARRAY_LEN(bases); i++)
		free(bases[i]);
	return status;
}

/* SPDX-License-Identifier: MIT */
/* suite: runs the benchmark's tables one after the other. bench/run.sh is the way to start it. */
#include "base/opt.h"
#include "base/util.h"
#include "bench/tables.h"
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const struct {
	const char *name, *help;
	int (*run)(struct lab *lab, struct err *e);
} tables[] = {
	{ "like", "hot memory against iperf3", table_like_for_like },
	{ "cold", "cold memory against a raw io_uring loop", table_cold },
	{ "checksum", "what checksums cost", table_checksum },
	{ "streams", "1 to 512 streams: rate, set-up, memory", table_streams },
	{ "sizes", "4 KB to 16 MB: rate, latency, copies", table_sizes },
	{ "setup", "how long a session takes to begin", table_setup },
	{ "files", "file to file against cp and tar | socat", table_files },
	{ "links", "1 to 512 streams over emulated links against iperf3", table_links },
	{ "migrate", "running guests between two processes", table_migrate },
	{ "migrate-links", "a real guest's memory over emulated links", table_migrate_links },
	{ "tracking", "what dirty tracking costs a guest", table_tracking },
	{ "simulate", "the simulator against real migrations", table_simulate },
	{ "concurrent", "many real migrations at once", table_concurrent },
	{ "cost", "allocations, locks and system calls per chunk", table_cost },
	{ "tune_sim", "the search for streams against a sweep, simulated", table_tune_sim },
	{ "modes", "mode detection against the truth", table_modes },
	{ "tune_links", "dwcp tune against a sweep, the profiles of --links", table_tune_links },
	{ "switch", "what a mode switch costs a running transfer", table_switch },
	{ "hde", "compression: guests' memory against zstd and XBZRLE", table_hde_images },
	{ "hde-scan", "compression: zero and random pages", table_hde_scan },
	{ "hde-suite", "compression: the documented tables", table_hde_suite },
	{ "hde-selector", "compression: the selector against the best plan", table_hde_selector },
};

struct suite_opts {
	char dwcp[4096], dir[4096], only[256], links[256];
	uint32_t rounds;
	bool quick, check;
	uint64_t run_ns, region, file_size, quiet_ns;
	char json[4096], markdown[4096], images[4096];
};

#define FIELD(f) offsetof(struct suite_opts, f)
#define ROOM(f) sizeof(((struct suite_opts *)0)->f)

static const struct opt rows[] = {
	{ .name = "only",
	  .type = OPT_STR,
	  .offset = FIELD(only),
	  .def = "",
	  .max = ROOM(only),
	  .unit = "LIST",
	  .help = "tables to run, separated by commas" },
	{ .name = "links",
	  .type = OPT_STR,
	  .offset = FIELD(links),
	  .def = "local_network,simulated_internet,poor_network,metro,transatlantic",
	  .max = ROOM(links),
	  .unit = "LIST",
	  .help = "profiles of the tables `links` and `tune_links`" },
	{ .name = "rounds",
	  .letter = 'n',
	  .type = OPT_U32,
	  .offset = FIELD(rounds),
	  .def = "auto",
	  .min = 1,
	  .max = ROUNDS_MAX,
	  .auto_ok = true,
	  .help = "turns of each contender after the one that warms up; auto: 5, or 3 with --quick" },
	{ .name = "quick", .type = OPT_BOOL, .offset = FIELD(quick), .def = "no", .help = "3 rounds, runs of 1 s" },
	{ .name = "check",
	  .type = OPT_BOOL,
	  .offset = FIELD(check),
	  .def = "no",
	  .help = "exit status 3 when a target is missed" },
	{ .name = "run-time",
	  .type = OPT_TIME,
	  .offset = FIELD(run_ns),
	  .def = "auto",
	  .min = 50000000,
	  .max = 600000000000,
	  .auto_ok = true,
	  .help = "length of one timed run; auto: 2 s, or 1 s with --quick" },
	{ .name = "region",
	  .type = OPT_SIZE,
	  .offset = FIELD(region),
	  .def = "1GB",
	  .min = 4u << 20,
	  .max = 1ull << 40,
	  .help = "cold memory on each side" },
	{ .name = "file-size",
	  .type = OPT_SIZE,
	  .offset = FIELD(file_size),
	  .def = "1GB",
	  .min = 1u << 20,
	  .max = 1ull << 40,
	  .help = "size of the file that is copied" },
	{ .name = "wait-quiet",
	  .type = OPT_TIME,
	  .offset = FIELD(quiet_ns),
	  .def = "0s",
	  .max = 24ull * 3600 * 1000000000,
	  .help = "longest wait for the CPUs to be idle before each table" },
	{ .name = "dwcp",
	  .type = OPT_STR,
	  .offset = FIELD(dwcp),
	  .def = "",
	  .max = ROOM(dwcp),
	  .unit = "FILE",
	  .help = "the program; otherwise the one of this build" },
	{ .name = "dir",
	  .type = OPT_STR,
	  .offset = FIELD(dir),
	  .def = "",
	  .max = ROOM(dir),
	  .unit = "DIR",
	  .help = "scratch folder on the disk to measure (needed)" },
	{ .name = "images",
	  .type = OPT_STR,
	  .offset = FIELD(images),
	  .def = "build/images",
	  .max = ROOM(images),
	  .unit = "DIR",
	  .help = "guests' memory, made by bench/image.sh --list" },
	{ .name = "json",
	  .type = OPT_STR,
	  .offset = FIELD(json),
	  .def = "",
	  .max = ROOM(json),
	  .unit = "FILE",
	  .help = "write the results there" },
	{ .name = "markdown",
	  .type = OPT_STR,
	  .offset = FIELD(markdown),
	  .def = "",
	  .max = ROOM(markdown),
	  .unit = "FILE",
	  .help = "write the tables there" },
};

static int fail(const struct err *e)
{
	fprintf(stderr, "bench: %s\n", e->why);
	return 1;
}

/* True when `only` is empty or has `name` among its words. */
static bool wanted(const char *only, const char *name)
{
	size_t len = strlen(name);

	for (const char *at = only; *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ','))
		if (strncmp(at, name, len) == 0 && (at[len] == ',' || !at[len]))
			return true;
	return !*only;
}

static int check_only(const char *only, struct err *e)
{
	char list[256], names[256] = "", *save = NULL;

	for (size_t i = 0; i < ARRAY_LEN(tables); i++)
		snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", i ? ", " : "", tables[i].name);
	snprintf(list, sizeof(list), "%s", only);
	for (char *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		size_t i = 0;

		while (i < ARRAY_LEN(tables) && strcmp(tables[i].name, word))
			i++;
		if (i == ARRAY_LEN(tables))
			return err_set(e, -EINVAL, "--only: there is no table '%s'; there are %s", word, names);
	}
	return 0;
}

/* The other programs lie beside this one, dwcp one folder up. */
static int find_programs(struct lab *lab, const struct suite_opts *o, struct err *e)
{
	ssize_t n = readlink("/proc/self/exe", lab->bench, sizeof(lab->bench) - 1);
	char *slash;

	if (n <= 0)
		return err_set(e, -errno, "cannot tell where this program is: %s", strerror(errno));
	lab->bench[n] = 0;
	slash = strrchr(lab->bench, '/');
	*slash = 0;
	if (o->dwcp[0])
		snprintf(lab->dwcp, sizeof(lab->dwcp), "%s", o->dwcp);
	else if ((size_t)snprintf(lab->dwcp, sizeof(lab->dwcp), "%s/../dwcp", lab->bench) >= sizeof(lab->dwcp))
		return err_set(e, -ENAMETOOLONG, "the path of this program is too long");
	if (access(lab->dwcp, X_OK) < 0)
		return err_set(e, -errno, "cannot run %s: %s; run `make' first, or name it with --dwcp", lab->dwcp,
			       strerror(errno));
	if (!o->dir[0])
		return err_set(e, -EINVAL, "--dir is needed: an empty folder with room for twice --file-size");
	snprintf(lab->dir, sizeof(lab->dir), "%s", o->dir);
	return 0;
}

static void wait_quiet(uint64_t ns)
{
	const unsigned step_ms = 1000;

	for (uint64_t waited = 0; waited < ns; waited += step_ms * 1000000ull) {
		double busy = cpu_busy(step_ms);

		if (busy < .05)
			return;
		fprintf(stderr, "bench: waiting, the CPUs are %.0f %% busy\n", busy * 100);
	}
}

static int write_markdown(const json_t *report, const char *path, struct err *e)
{
	FILE *f = fopen(path, "we");

	if (!f)
		return err_set(e, -errno, "cannot write %s: %s", path, strerror(errno));
	report_print(report, f);
	if (fclose(f) != 0)
		return err_set(e, -errno, "cannot write %s: %s", path, strerror(errno));
	return 0;
}

static int run_tables(struct lab *lab, const struct suite_opts *o, struct err *e)
{
	const json_t *sections = json_object_get(lab->report, "sections");
	size_t printed = 0;
	int rc = 0;

	for (size_t i = 0; rc >= 0 && i < ARRAY_LEN(tables); i++) {
		if (!wanted(o->only, tables[i].name))
			continue;
		wait_quiet(o->quiet_ns);
		rc = tables[i].run(lab, e);
		for (; printed < json_array_size(sections); printed++)
			report_print_section(json_array_get(sections, printed), stdout);
		fflush(stdout);
	}
	return rc;
}

static int finish(struct lab *lab, const struct suite_opts *o, struct err *e)
{
	int rc = 0;

	json_object_set_new(lab->report, "cpu_busy_before_most", json_number(lab->busiest));
	json_object_set_new(lab->report, "targets_missed", json_integer(report_missed(lab->report)));
	report_print_targets(lab->report, stdout);
	if (o->json[0])
		rc = json_write(lab->report, o->json, e);
	if (rc >= 0 && o->markdown[0])
		rc = write_markdown(lab->report, o->markdown, e);
	return rc;
}

static void interrupted(int sig)
{
	proc_kill_all();
	_exit(128 + sig);
}

static json_t *settings(const struct lab *lab, const struct suite_opts *o)
{
	return json_pack("{s:I, s:f, s:I, s:I, s:s}", "rounds", (json_int_t)lab->rounds, "run_seconds", lab->seconds,
			 "region_bytes", (json_int_t)lab->region, "file_bytes", (json_int_t)lab->file_size, "only",
			 o->only);
}

static void help(const struct opt_group *group)
{
	puts("Usage: suite --dir=DIR [OPTION…]\n\nTables:");
	for (size_t i = 0; i < ARRAY_LEN(tables); i++)
		printf("  %-10s %s\n", tables[i].name, tables[i].help);
	putchar('\n');
	opt_help(group, 1, stdout);
}

int main(int argc, char **argv)
{
	static struct suite_opts o;
	static struct lab lab;
	const struct opt_group group = {
		.name = "suite", .help = "Options", .rows = rows, .n = ARRAY_LEN(rows), .base = &o
	};
	struct rlimit files;
	struct err e = { 0 };
	int rc;

	opt_defaults(&group, 1);
	rc = opt_parse(&group, 1, NULL, argc, argv, NULL, &e);
	if (rc == 1) {
		help(&group);
		return 0;
	}
	if (rc >= 0)
		rc = check_only(o.only, &e);
	if (rc >= 0)
		rc = find_programs(&lab, &o, &e);
	if (rc < 0) {
		fail(&e);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, interrupted);
	signal(SIGTERM, interrupted);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	lab.rounds = o.rounds ? o.rounds : o.quick ? 3 : 5;
	lab.seconds = o.run_ns ? (double)o.run_ns / 1e9 : o.quick ? 1 : 2;
	snprintf(lab.links, sizeof(lab.links), "%s", o.links);
	lab.region = o.region;
	lab.file_size = o.file_size;
	snprintf(lab.images, sizeof(lab.images), "%s", o.images);
	lab.report = report_new("benchmark suite", settings(&lab, &o));
	rc = run_tables(&lab, &o, &e) < 0 ? fail(&e) : 0;
	/* What was measured before a table failed is kept. */
	if (finish(&lab, &o, &e) < 0)
		rc = fail(&e);
	else if (!rc && o.check && report_missed(lab.report))
		rc = 3;
	json_decref(lab.report);
	return rc;
}

/* SPDX-License-Identifier: MIT */
/*
 * What one more chunk costs: a short and a long run of the same command, both processes counted, and the difference
 * divided by the chunks that the long one has more. Set-up and end are in both.
 */
#include "base/util.h"
#include "bench/count.h"
#include "bench/tables.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SHORT_MB 256
#define TIMES 10
#define RUN_TIMEOUT_S 300

static void amst_command(const struct lab *lab, const struct contender *c, struct command_line *cmd)
{
	command_add(cmd, "%s", lab->dwcp);
	command_words(cmd, "benchmark amst --json --interval=0 --iterations=1 --region=64MB");
	command_words(cmd, c->args);
}

static int chunks_of(const struct proc_end *end, json_int_t *chunks, struct err *e)
{
	json_t *obj = json_loads(end->out, 0, NULL);

	*chunks = json_integer_value(json_object_get(obj, "chunks"));
	json_decref(obj);
	return *chunks > 0 ? 0 : err_set(e, -EPROTO, "dwcp benchmark amst reported no chunks");
}

/* ---- heap and locks ---------------------------------------------------------------------------- */

static int sum_slots(const struct count_slot *slots, json_int_t chunks, json_t **result, struct err *e)
{
	struct count_slot sum = { 0 };
	unsigned n = 0;

	for (; n < COUNT_SLOTS && slots[n].pid; n++) {
		sum.allocations += slots[n].allocations;
		sum.frees += slots[n].frees;
		sum.locks += slots[n].locks;
		sum.main_locks += slots[n].main_locks;
	}
	/* A count that saw nothing at all would look like the best of results. */
	if (n != 2 || !sum.allocations || !sum.main_locks)
		return err_set(e, -ENODATA,
			       "the calls of %u processes were counted instead of 2: is LD_PRELOAD ignored?", n);
	*result = json_pack("{s:I, s:I, s:I, s:I, s:I}", "chunks", chunks, "allocations", (json_int_t)sum.allocations,
			    "frees", (json_int_t)sum.frees, "locks", (json_int_t)sum.locks, "main_locks",
			    (json_int_t)sum.main_locks);
	return 0;
}

static int run_counted(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	const size_t len = COUNT_SLOTS * sizeof(struct count_slot);
	struct command_line cmd = { .n = 0 };
	struct proc_end end = { 0 };
	char preload[4200], file[4200];
	const char *const env[] = { preload, file, NULL };
	struct count_slot *slots = MAP_FAILED;
	const char *path;
	json_int_t chunks;
	int fd, rc;

	snprintf(preload, sizeof(preload), "LD_PRELOAD=%s/count.so", lab->bench);
	snprintf(file, sizeof(file), "DWCP_COUNT_FILE=%s/counts", lab->dir);
	path = strchr(file, '=') + 1;
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_set(e, -errno, "cannot make %s: %s; --dir names another folder", path, strerror(errno));
	rc = ftruncate(fd, (off_t)len) < 0 ? err_set(e, -errno, "cannot write %s: %s", path, strerror(errno)) : 0;
	if (rc >= 0)
		slots = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
	if (rc >= 0 && slots == MAP_FAILED)
		rc = err_set(e, -errno, "cannot map %s: %s", path, strerror(errno));
	amst_command(lab, c, &cmd);
	if (rc >= 0)
		rc = proc_run(&cmd, NULL, env, RUN_TIMEOUT_S, &end, e);
	if (rc >= 0)
		rc = chunks_of(&end, &chunks, e);
	if (rc >= 0)
		rc = sum_slots(slots, chunks, result, e);
	if (slots != MAP_FAILED)
		munmap(slots, len);
	close(fd);
	unlink(path);
	free(end.out);
	return rc;
}

/* ---- system calls ------------------------------------------------------------------------------ */

/* Lines of `strace -c`: % time, seconds, usecs/call, calls, errors or nothing, name. */
static json_t *read_strace(const char *path, json_int_t chunks)
{
	FILE *f = fopen(path, "re");
	json_int_t all = 0, futex = 0, ring = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		unsigned long long calls;
		char a[64], b[64] = "", *name = b;
		int n = sscanf(line, "%*f %*f %*u %llu %63s %63s", &calls, a, b);

		if (n < 2)
			continue;
		if (n == 2)
			name = a;
		if (strcmp(name, "total") == 0)
			continue;
		all += (json_int_t)calls;
		futex += strcmp(name, "futex") == 0 ? (json_int_t)calls : 0;
		ring += strcmp(name, "io_uring_enter") == 0 ? (json_int_t)calls : 0;
	}
	if (f)
		fclose(f);
	return all && ring ? json_pack("{s:I, s:I, s:I, s:I}", "chunks", chunks, "syscalls", all, "futex", futex,
				       "io_uring_enter", ring)
			   : NULL;
}

static int run_traced(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	struct command_line cmd = { .n = 0 };
	struct proc_end end = { 0 };
	json_int_t chunks = 0;
	char path[4200];
	int rc;

	snprintf(path, sizeof(path), "%s/strace", lab->dir);
	command_words(&cmd, "strace -f -c -o");
	command_add(&cmd, "%s", path);
	amst_command(lab, c, &cmd);
	rc = proc_run(&cmd, NULL, NULL, RUN_TIMEOUT_S, &end, e);
	if (rc >= 0)
		rc = chunks_of(&end, &chunks, e);
	if (rc >= 0) {
		*result = read_strace(path, chunks);
		rc = *result ? 0 : err_set(e, -EPROTO, "strace printed no table of calls; may it trace here?");
	}
	unlink(path);
	free(end.out);
	return rc;
}

/* ---- table ------------------------------------------------------------------------------------- */

struct slope {
	struct stats_interval per_chunk;
	double more, chunks; /* medians of the differences themselves */
};

static struct slope slope_of(const struct contender *few, const struct contender *many, const char *path)
{
	double a[ROUNDS_MAX], b[ROUNDS_MAX], ca[ROUNDS_MAX], cb[ROUNDS_MAX], more[ROUNDS_MAX], chunks[ROUNDS_MAX];
	size_t n = scenario_series(few, path, a);
	struct slope s;

	scenario_series(many, path, b);
	scenario_series(few, "chunks", ca);
	scenario_series(many, "chunks", cb);
	for (size_t i = 0; i < n; i++) {
		more[i] = b[i] - a[i];
		chunks[i] = cb[i] - ca[i];
		a[i] = more[i] / chunks[i];
	}
	s.per_chunk = stats_bootstrap(a, n, 1);
	s.more = stats_median(more, n);
	s.chunks = stats_median(chunks, n);
	return s;
}

static void cost_row(json_t *s, const struct contender *c, const char *path, const char *what)
{
	struct slope slope = slope_of(&c[0], &c[1], path);

	report_row(s, json_pack("[s, o, o, o, o, o]", what, json_number(scenario_value(&c[0], path).median),
				json_number(scenario_value(&c[1], path).median), json_number(slope.more),
				json_number(slope.chunks), json_interval(slope.per_chunk)));
}

int table_cost(struct lab *lab, struct err *e)
{
	struct contender c[] = {
		{ .label = "counted, short", .run = run_counted },
		{ .label = "counted, long", .run = run_counted },
		{ .label = "traced, short", .run = run_traced },
		{ .label = "traced, long", .run = run_traced },
	};
	json_t *s;
	int rc;

	for (size_t i = 0; i < ARRAY_LEN(c); i++)
		snprintf(c[i].args, sizeof(c[i].args), "--data-size=%dMB", i % 2 ? SHORT_MB * TIMES : SHORT_MB);
	rc = scenario_run(lab, "cost of a chunk", c, ARRAY_LEN(c), lab->rounds, e);
	if (rc < 0)
		goto out;
	s = report_section(lab->report, "cost", "What one more chunk costs, both processes together",
			   "calls|short run|long run|more|chunks more|per chunk");
	report_text(
		s,
		"`dwcp benchmark amst --interval=0 --iterations=1 --region=64MB --data-size=%dMB` and ten times as much; "
		"calls counted by a preloaded library (bench/preload_count.c), system calls by `strace -f -c`, which slows "
		"the run down and so changes how many chunks share a call. Locks of the two main threads, which move no "
		"data and wake a few times a second, stand apart.",
		SHORT_MB);
	cost_row(s, c, "allocations", "malloc, calloc, realloc, …");
	cost_row(s, c, "frees", "free");
	cost_row(s, c, "locks", "locks, worker threads");
	cost_row(s, c, "main_locks", "locks, main threads");
	cost_row(s, c + 2, "syscalls", "system calls, traced");
	cost_row(s, c + 2, "io_uring_enter", "of these io_uring_enter");
	cost_row(s, c + 2, "futex", "of these futex");
	report_target(s, "heap allocations per chunk", slope_of(&c[0], &c[1], "allocations").per_chunk, "", AT_MOST, 0);
	report_target(s, "heap frees per chunk", slope_of(&c[0], &c[1], "frees").per_chunk, "", AT_MOST, 0);
	report_target(s, "locks per chunk, worker threads", slope_of(&c[0], &c[1], "locks").per_chunk, "", AT_MOST, 0);
out:
	scenario_free(c, ARRAY_LEN(c));
	return rc;
}

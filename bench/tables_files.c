/* SPDX-License-Identifier: MIT */
/* File to file, the source warm in the page cache, source and target on the same disk. */
#include "base/hugebuf.h"
#include "base/opt.h"
#include "base/util.h"
#include "bench/tables.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "file.bin"
#define BLOCK (4u << 20)
#define RUN_TIMEOUT_S 300

struct files {
	struct proc server;
	char at[64]; /* where it listens */
};

static int in_dir(const struct lab *lab, const char *path, char out[4200])
{
	return snprintf(out, 4200, "%s/%s", lab->dir, path);
}

/* ---- files ------------------------------------------------------------------------------------- */

static int fill(int fd, uint64_t size, struct err *e)
{
	struct hugebuf b;
	int rc = hugebuf_alloc(&b, BLOCK, true, e);

	for (uint64_t at = 0; rc >= 0 && at < size; at += BLOCK) {
		size_t len = (size_t)min_u64(BLOCK, size - at);

		rng_fill(b.addr, len, at);
		if (pwrite(fd, b.addr, len, (off_t)at) != (ssize_t)len)
			rc = err_set(e, -ENOSPC, "cannot write %llu bytes; is there room? --dir names another disk",
				     (unsigned long long)size);
	}
	hugebuf_free(&b);
	return rc;
}

/* src/NAME, and the empty folders dst and store. */
static int prepare(const struct lab *lab, struct err *e)
{
	char path[4200];
	int fd, rc;

	for (int i = 0; i < 3; i++) {
		in_dir(lab, ((const char *[]){ "src", "dst", "store" })[i], path);
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return err_set(e, -errno, "cannot make %s: %s; --dir names another folder", path,
				       strerror(errno));
	}
	in_dir(lab, "src/" NAME, path);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return err_set(e, -errno, "cannot make %s: %s; --dir names another folder", path, strerror(errno));
	rc = fill(fd, lab->file_size, e);
	if (rc >= 0)
		fsync(fd);
	close(fd);
	return rc;
}

/* Writes as many pages as a run will, and gives them back: a page that a virtual machine's host has to find first, and one
 * that the run before left in small pieces, would be charged to whoever comes next. */
static void warm_pages(const struct lab *lab)
{
	struct command_line cmd = { .n = 0 };
	char path[4200];

	command_words(&cmd, "cp --reflink=never src/" NAME " dst/warm");
	proc_run(&cmd, lab->dir, NULL, RUN_TIMEOUT_S, NULL, NULL);
	in_dir(lab, "dst/warm", path);
	unlink(path);
}

/* Removes the target, and lets the disk finish what earlier runs left to write. */
static void clear(const struct lab *lab)
{
	char path[4200];
	int fd;

	in_dir(lab, "dst/" NAME, path);
	unlink(path);
	in_dir(lab, "store/" NAME, path);
	unlink(path);
	warm_pages(lab);
	in_dir(lab, "src/" NAME, path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		syncfs(fd);
		close(fd);
	}
}

static void clean_up(const struct lab *lab)
{
	static const char *const names[] = { "dst/" NAME, "store/" NAME, "src/" NAME, "dst", "store", "src" };
	char path[4200];

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		in_dir(lab, names[i], path);
		if (unlink(path) < 0 && errno == EISDIR)
			rmdir(path);
	}
}

static int same(const struct lab *lab, const char *copy, struct err *e)
{
	struct command_line cmd = { .n = 0 };

	command_words(&cmd, "cmp src/" NAME);
	command_add(&cmd, "%s/" NAME, copy);
	return proc_run(&cmd, lab->dir, NULL, RUN_TIMEOUT_S, NULL, e);
}

/* ---- the three ways ---------------------------------------------------------------------------- */

/* The time of the whole program, its start included. */
static int time_it(const struct lab *lab, const struct command_line *cmd, const char *copy, json_t **result,
		   struct err *e)
{
	struct proc_end end = { 0 };
	int rc = proc_run(cmd, lab->dir, NULL, RUN_TIMEOUT_S, &end, e);

	if (rc >= 0)
		rc = same(lab, copy, e);
	if (rc >= 0)
		*result = json_pack("{s:f, s:f}", "seconds", end.seconds, "gbytes_per_s",
				    (double)lab->file_size / end.seconds / 1e9);
	free(end.out);
	return rc;
}

static int run_cp(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	struct command_line cmd = { .n = 0 };

	(void)c;
	clear(lab);
	command_words(&cmd, "cp --reflink=never src/" NAME " dst/" NAME);
	return time_it(lab, &cmd, "dst", result, e);
}

static int run_send(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	const struct files *f = c->ctx;
	struct command_line cmd = { .n = 0 };

	clear(lab);
	command_add(&cmd, "%s", lab->dwcp);
	command_words(&cmd, "send src/" NAME);
	command_add(&cmd, "%s", f->at);
	command_words(&cmd, c->args);
	return time_it(lab, &cmd, "store", result, e);
}

/* With 256 KB blocks, as dwcp has; socat's own 8 KB would make it slower. */
static int run_tar(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	struct command_line from = { .n = 0 }, to = { .n = 0 };
	int port = free_port(), rc;
	struct proc receiver;
	struct proc_end end = { 0 };

	(void)c;
	clear(lab);
	command_words(&to, "sh -c");
	command_add(&to, "socat -u -b 262144 TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr - | tar -x -f - -C dst", port);
	command_words(&from, "sh -c");
	command_add(&from, "tar -c -f - -b 512 -C src " NAME " | socat -u -b 262144 - TCP:127.0.0.1:%d", port);
	rc = proc_start(&receiver, &to, lab->dir, NULL, e);
	if (rc < 0)
		return rc;
	rc = wait_port(port, e);
	if (rc >= 0) {
		struct proc sender;

		rc = proc_start(&sender, &from, lab->dir, NULL, e);
		if (rc >= 0) {
			receiver.start_ns = sender.start_ns; /* from its start to the receiver's end */
			rc = proc_wait(&sender, RUN_TIMEOUT_S, NULL, e);
		}
	}
	if (rc >= 0)
		rc = proc_wait(&receiver, RUN_TIMEOUT_S, &end, e);
	proc_stop(&receiver);
	if (rc >= 0)
		rc = same(lab, "dst", e);
	if (rc >= 0)
		*result = json_pack("{s:f, s:f}", "seconds", end.seconds, "gbytes_per_s",
				    (double)lab->file_size / end.seconds / 1e9);
	free(end.out);
	return rc;
}

/* ---- table ------------------------------------------------------------------------------------- */

static int start_server(const struct lab *lab, struct files *f, struct err *e)
{
	struct command_line cmd = { .n = 0 };
	int rc;

	command_add(&cmd, "%s", lab->dwcp);
	command_words(&cmd, "serve --listen=127.0.0.1:0 --store=store --stats-socket=none");
	rc = proc_start(&f->server, &cmd, lab->dir, NULL, e);
	return rc < 0 ? rc : proc_ready(&f->server, "listening on ", f->at, sizeof(f->at), e);
}

static void report_files(struct lab *lab, const struct contender *c, size_t n)
{
	json_t *s = report_section(lab->report, "files", "File to file, source warm in the page cache",
				   "how|GB/s|of cp|of tar and socat");
	char size[32];

	report_text(
		s,
		"One file of %s, source and target on the same disk, whole programs timed; the target is removed and the "
		"disk synchronised before each run, after a copy that is thrown away, so that each finds the same free pages; the copy compared after it. `cp --reflink=never`; `dwcp send FILE "
		"127.0.0.1:PORT` to a running `dwcp serve --store` (checksum on); `tar -c | socat` to `socat | tar -x` "
		"over loopback, 256 KB blocks. None of them waits for the disk.",
		format_size(size, sizeof(size), lab->file_size));
	for (size_t i = 0; i < n; i++)
		report_row(s,
			   json_pack("[s, o, o, o]", c[i].label, json_interval(scenario_value(&c[i], "gbytes_per_s")),
				     i == 0 ? json_null() : json_interval(scenario_ratio(&c[i], &c[0], "gbytes_per_s")),
				     i == 3 ? json_null()
					    : json_interval(scenario_ratio(&c[i], &c[3], "gbytes_per_s"))));
	report_target(s, "file to file: of cp", scenario_ratio(&c[1], &c[0], "gbytes_per_s"), "", AT_LEAST, .6);
	report_target(s, "file to file: of tar and socat", scenario_ratio(&c[1], &c[3], "gbytes_per_s"), "", AT_LEAST,
		      1);
}

int table_files(struct lab *lab, struct err *e)
{
	struct files f = { .server.pid = 0 };
	struct contender c[] = {
		{ .label = "cp", .run = run_cp },
		{ .label = "dwcp send", .run = run_send, .ctx = &f },
		{ .label = "dwcp send, 2 streams", .args = "--streams=2", .run = run_send, .ctx = &f },
		{ .label = "tar and socat",
		  .run = run_tar }, /* last: who comes after it finds memory in small pieces */
	};
	int rc = prepare(lab, e);

	if (rc >= 0)
		rc = start_server(lab, &f, e);
	if (rc >= 0)
		rc = scenario_run(lab, "files", c, ARRAY_LEN(c), lab->rounds, e);
	if (rc >= 0)
		report_files(lab, c, ARRAY_LEN(c));
	scenario_free(c, ARRAY_LEN(c));
	proc_stop(&f.server);
	clean_up(lab);
	return rc;
}

/* SPDX-License-Identifier: MIT */
/* What `dwcp tune` prints and writes. */
#include "base/json.h"
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/tune.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BAR 40

static double mbps(double bytes_per_s)
{
	return bytes_per_s * 8 / 1e6;
}

struct tune_link tune_link_of(const struct tune_run *r)
{
	const struct tune_tried *best = tune_best(&r->tune);
	struct tune_link l = { .rtt_ms = (double)r->rtt_least_ns / 1e6 };
	struct mode_seen seen = { .rtt_ns = r->rtt_least_ns };

	if (!best)
		return l;
	/* What a probe lost may be its own doing; what all of them lost is the link's. */
	l.loss = best->loss;
	for (unsigned i = 0; i < r->tune.n_tried; i++) {
		l.mbps = fmax(l.mbps, mbps(r->tune.tried[i].rate));
		l.loss = fmin(l.loss, r->tune.tried[i].loss);
	}
	seen.bps = l.mbps * 1e6;
	seen.loss = l.loss;
	l.mode = mode_vote(&mode_documented, MODE_AUTO, &seen);
	l.documented_streams = mode_documented_streams(l.mode, seen.bps);
	for (unsigned i = 0; i < r->tune.n_tried; i++) {
		const struct tune_tried *t = &r->tune.tried[i];

		if (t->p.streams == l.documented_streams && (!l.documented || t->rate > l.documented->rate))
			l.documented = t;
	}
	return l;
}

/* ---- text -------------------------------------------------------------------------------------- */

/* By congestion control, chunk, streams. */
static int by_point(const void *a, const void *b)
{
	const struct tune_point *x = &(*(const struct tune_tried *const *)a)->p;
	const struct tune_point *y = &(*(const struct tune_tried *const *)b)->p;

	if (x->cc != y->cc)
		return x->cc < y->cc ? -1 : 1;
	if (x->chunk != y->chunk)
		return x->chunk < y->chunk ? -1 : 1;
	return x->streams < y->streams ? -1 : x->streams > y->streams;
}

static unsigned sorted(const struct tune_run *r, const struct tune_tried *out[TUNE_TRIED_MAX])
{
	for (unsigned i = 0; i < r->tune.n_tried; i++)
		out[i] = &r->tune.tried[i];
	qsort(out, r->tune.n_tried, sizeof(out[0]), by_point);
	return r->tune.n_tried;
}

static void print_row(const struct tune_run *r, const struct tune_tried *t, double peak, const struct tune_tried *best)
{
	char chunk[32], bar[BAR + 1];
	int len = peak > 0 ? (int)lround(mbps(t->rate) / peak * BAR) : 0;

	memset(bar, '#', (size_t)len);
	bar[len] = 0;
	printf("%-9s %7s %7u %10.1f %7.1f %8.3f %9.1f  %s%s\n", r->cc[t->p.cc],
	       format_size(chunk, sizeof(chunk), t->p.chunk), t->p.streams, mbps(t->rate), mbps(t->error),
	       100 * t->loss, (double)t->rtt_ns / 1e6, bar, t == best ? " <" : "");
}

static void print_documented(const struct tune_run *r, const struct tune_link *l, const struct tune_tried *best)
{
	printf("documented for such a link (%s): %u stream%s", mode_names[l->mode], l->documented_streams,
	       l->documented_streams == 1 ? "" : "s");
	if (l->documented && l->documented != best)
		printf(", measured %.1f Mb/s with %s: %+.1f %% against the best", mbps(l->documented->rate),
		       r->cc[l->documented->p.cc], 100 * (l->documented->rate / best->rate - 1));
	else
		printf(l->documented ? ", which is the best" : ", which the search had no reason to try");
	putchar('\n');
}

void tune_print(const struct tune_run *r)
{
	const struct tune_tried *list[TUNE_TRIED_MAX] = { NULL }, *best = tune_best(&r->tune);
	struct tune_link l = tune_link_of(r);
	unsigned n = sorted(r, list);
	char chunk[32];

	if (!best)
		return;
	puts("congestion  chunk streams       Mb/s      +-   loss %    rtt ms");
	for (unsigned i = 0; i < n; i++)
		print_row(r, list[i], l.mbps, best);
	printf("link: round trip %.2f ms, loss %.3f %%, %.1f Mb/s; %u probes of %s%s in %.1f s\n", l.rtt_ms,
	       100 * l.loss, l.mbps, n, r->opts->exhaustive ? "all combinations" : "a search",
	       r->interrupted ? ", interrupted" : "", r->seconds);
	print_documented(r, &l, best);
	printf("best: %u stream%s, chunks of %s, %s: %.1f Mb/s +- %.1f\n", best->p.streams,
	       best->p.streams == 1 ? "" : "s", format_size(chunk, sizeof(chunk), best->p.chunk), r->cc[best->p.cc],
	       mbps(best->rate), mbps(best->error));
	cmd_flush();
}

/* ---- JSON -------------------------------------------------------------------------------------- */

static json_t *tried_json(const struct tune_run *r, const struct tune_tried *t)
{
	return json_pack("{s:I, s:I, s:s, s:f, s:f, s:f, s:f, s:f, s:I}", "streams", (json_int_t)t->p.streams,
			 "chunk_bytes", (json_int_t)t->p.chunk, "congestion", r->cc[t->p.cc], "throughput_mbps",
			 mbps(t->rate), "error_mbps", mbps(t->error), "loss", t->loss, "rtt_ms",
			 (double)t->rtt_ns / 1e6, "seconds", (double)t->ns / 1e9, "probes", (json_int_t)t->times);
}

int tune_print_json(const struct tune_run *r, const char *path, struct err *e)
{
	const struct tune_tried *best = tune_best(&r->tune);
	struct tune_link l = tune_link_of(r);
	json_t *result = json_result("tune", true), *tried = json_array(), *more;
	int rc;

	for (unsigned i = 0; i < r->tune.n_tried; i++)
		json_array_append_new(tried, tried_json(r, &r->tune.tried[i]));
	more = json_pack("{s:{s:f, s:f, s:f}, s:o, s:o, s:I, s:s, s:s, s:s, s:f, s:I, s:b, s:b, s:b, s:b, s:I}", "link",
			 "rtt_ms", l.rtt_ms, "loss", l.loss, "bandwidth_mbps", l.mbps, "tried", tried, "best",
			 best ? tried_json(r, best) : json_null(), "documented_streams",
			 (json_int_t)l.documented_streams, "mode", mode_names[l.mode], "peer", r->transfer->target,
			 "backend", r->transfer->ops->name, "seconds", r->seconds, "bytes", (json_int_t)r->bytes,
			 "exhaustive", r->opts->exhaustive, "link_changed", r->tune.changed, "out_of_time",
			 r->tune.out_of_time, "interrupted", r->interrupted, "other_sessions", (json_int_t)r->others);
	json_object_update(result, more);
	json_decref(more);
	rc = json_write(result, path, e);
	json_decref(result);
	return rc;
}

/* ---- files ------------------------------------------------------------------------------------- */

static int close_file(FILE *f, const char *path, struct err *e)
{
	bool bad = ferror(f);
	int err = fclose(f) ? errno : bad ? EIO : 0;

	return err ? err_set(e, -err, "cannot write %s: %s", path, strerror(err)) : 0;
}

int tune_write_yaml(const struct tune_run *r, const char *path, struct err *e)
{
	const struct tune_tried *best = tune_best(&r->tune);
	struct tune_link l = tune_link_of(r);
	time_t t = time(NULL);
	char when[32];
	struct tm tm;
	FILE *f;

	if (!best)
		return err_set(e, -ENODATA, "nothing was measured: there is nothing to write to %s", path);
	f = fopen(path, "we");
	if (!f)
		return err_set(e, -errno, "cannot write %s: %s; choose another --output, or none", path,
			       strerror(errno));
	strftime(when, sizeof(when), "%Y-%m-%d %H:%M UTC", gmtime_r(&t, &tm));
	fprintf(f,
		"# Written by `dwcp tune --peer=%s`, dwcp %s, %s.\n"
		"# The link: round trip %.2f ms, loss %.3f %%, %.1f Mb/s; documented for such a one: %u streams.\n"
		"# `dwcp COMMAND --config=%s`; the command line wins.\n\n"
		"transfer:\n"
		"  streams: %u\n"
		"  chunk_size: %u         # bytes\n",
		r->opts->peer, cmd_version, when, l.rtt_ms, 100 * l.loss, l.mbps, l.documented_streams, path,
		best->p.streams, best->p.chunk);
	if (l.mode != MODE_AUTO)
		fprintf(f, "  mode: %s\n", mode_names[l.mode]);
	if (r->n_cc > 1)
		fprintf(f, "\ntcp:\n  congestion: %s\n", r->cc[best->p.cc]);
	return close_file(f, path, e);
}

static void plot_script(const struct tune_run *r, FILE *f, const char *path, bool svg)
{
	const struct tune_tried *list[TUNE_TRIED_MAX] = { NULL };
	unsigned n = sorted(r, list);

	fprintf(f,
		"set terminal %s size 800,500\nset output '%s'\nset logscale x 2\nset xlabel 'streams'\n"
		"set ylabel 'Mb/s'\nset yrange [0:*]\nset key bottom right\nset grid\nplot ",
		svg ? "svg" : "pngcairo", path);
	for (unsigned i = 0; i < r->n_cc; i++)
		fprintf(f, "%s'-' using 1:2:3 with yerrorlines title '%s'", i ? ", " : "", r->cc[i]);
	fputc('\n', f);
	for (unsigned i = 0; i < r->n_cc; i++) {
		for (unsigned k = 0; k < n; k++)
			if (list[k]->p.cc == i && list[k]->p.chunk == r->tune.cfg.chunk[0])
				fprintf(f, "%u %.3f %.3f\n", list[k]->p.streams, mbps(list[k]->rate),
					mbps(list[k]->error));
		fputs("e\n", f);
	}
}

int tune_plot(const struct tune_run *r, const char *path, struct err *e)
{
	size_t len = strlen(path);
	bool svg = len > 4 && !strcmp(path + len - 4, ".svg");
	char script[] = "/tmp/dwcp-tune.XXXXXX";
	char *argv[] = { "gnuplot", script, NULL };
	int fd, rc, status = 0;
	pid_t pid;
	FILE *f;

	if (strpbrk(path, "'\n\\"))
		return err_set(e, -EINVAL,
			       "--plot: a quote, backslash or line break in a file's name is not for gnuplot");
	fd = mkostemp(script, O_CLOEXEC);
	f = fd < 0 ? NULL : fdopen(fd, "w");
	if (!f) {
		rc = -errno;
		if (fd >= 0)
			close(fd);
		return err_set(e, rc, "cannot write %s: %s", script, strerror(-rc));
	}
	plot_script(r, f, path, svg);
	rc = close_file(f, script, e);
	if (rc == 0 && (rc = -posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ)) < 0)
		err_set(e, rc, "--plot: cannot run gnuplot: %s; install it (Debian: gnuplot-nox)", strerror(-rc));
	if (rc == 0 && (waitpid(pid, &status, 0) < 0 || status))
		rc = err_set(e, -EIO, "--plot: gnuplot could not draw %s", path);
	unlink(script);
	return rc;
}

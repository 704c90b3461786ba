/* SPDX-License-Identifier: MIT */
/* dwcp send: files and folders to a server. */
#include "base/json.h"
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/send_files.h"
#include "cli/transfer.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct cmd_usage usage = {
	.name = "send",
	.operands = "FILE… HOST[:PORT]",
	.about =
		"Sends files, and folders with -r, to a `dwcp serve --store DIR`. Modes and times are kept, sparse files stay "
		"sparse; a file takes its name there only when it is whole and verified.",
	.examples = "  dwcp send image.raw 10.0.0.2\n"
		    "  dwcp send -r photos notes.txt backup.example.org:7411\n"
		    "  dwcp send --resume --streams=16 image.raw [2001:db8::2]\n",
};

struct send_opts {
	bool recursive, resume, fsync;
};

static const struct opt rows[] = {
	{ .name = "recursive",
	  .letter = 'r',
	  .type = OPT_BOOL,
	  .offset = offsetof(struct send_opts, recursive),
	  .def = "no",
	  .help = "send folders with what is in them" },
	{ .name = "resume",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct send_opts, resume),
	  .def = "no",
	  .help = "compare with what is there, also of an interrupted transfer, and send only what differs" },
	{ .name = "fsync",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct send_opts, fsync),
	  .def = "no",
	  .help = "the receiver flushes each file to its disk before it confirms" },
};

struct send {
	struct send_opts opts;
	struct transfer_opts transfer_opts;
	struct cmd_output output;
	struct transfer transfer;
	struct source_list list;
	struct send_job job;
	json_t *not_sent; /* [{name, reason}]: on purpose */
	uint64_t setup_ns, run_ns;
	uint64_t reconnects, resumes;
	bool interrupted;
};

static bool text_wanted(const struct send *s)
{
	return strcmp(s->output.json, "-") != 0;
}

/* ---- result ------------------------------------------------------------------------------------ */

static double seconds_of(uint64_t ns)
{
	return (double)ns / 1e9;
}

/* 0 when nothing took any time. */
static double rate_of(const struct send *s)
{
	return s->run_ns ? (double)s->job.totals.bytes / (double)s->run_ns : 0;
}

static void print_size(const char *what, uint64_t bytes)
{
	char text[32];

	printf("  %-18s %12s  (%llu)\n", what, format_size(text, sizeof(text), bytes), (unsigned long long)bytes);
}

/* Only what arrived whole is said to be verified: chunks of a file that failed were confirmed, too. */
static void print_text(const struct send *s, bool complete)
{
	const struct send_totals *t = &s->job.totals;
	const char *sum = sum_names[s->transfer_opts.sum];

	printf("to %s by %s, %u streams, %u workers\n", s->transfer.target, s->transfer.ops->name,
	       transfer_streams(&s->transfer), s->transfer.workers);
	printf("  %-18s %12llu\n", "files", (unsigned long long)t->files);
	if (t->folders)
		printf("  %-18s %12llu\n", "folders", (unsigned long long)t->folders);
	if (t->failed)
		printf("  %-18s %12llu\n", "failed", (unsigned long long)t->failed);
	if (s->list.skipped)
		printf("  %-18s %12llu\n", "skipped", (unsigned long long)s->list.skipped);
	print_size("bytes", t->bytes);
	print_size("sent", t->bytes_sent);
	if (s->transfer_opts.hde.mode)
		print_size("on the wire", t->bytes_wire);
	if (s->opts.resume)
		print_size("equal, not sent", t->bytes_equal);
	if (t->bytes_holes)
		print_size("holes, not sent", t->bytes_holes);
	printf("  %-18s %12.3f\n  %-18s %12.3f\n", "seconds", seconds_of(s->run_ns), "GB/s", rate_of(s));
	if (s->reconnects || s->resumes)
		printf("  %-18s %12llu streams, %llu sessions\n", "reconnected", (unsigned long long)s->reconnects,
		       (unsigned long long)s->resumes);
	if (s->interrupted)
		puts("interrupted: --resume goes on from here");
	else if (!complete)
		puts("incomplete: what failed is named above; --resume goes on from here");
	else if (!t->chunks)
		puts("nothing had to be sent");
	else if (s->transfer_opts.sum == SUM_NONE)
		printf("%llu chunks sent without a checksum; the receiver confirmed their arrival\n",
		       (unsigned long long)t->chunks);
	else
		printf("verified %llu chunks by %s, receiver confirmed%s\n", (unsigned long long)t->chunks, sum,
		       t->chunks_refused ? "; damaged ones were sent again" : "");
}

static json_t *totals_json(const struct send *s)
{
	const struct send_totals *t = &s->job.totals;

	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:I}", "files", (json_int_t)t->files,
			 "folders", (json_int_t)t->folders, "failed", (json_int_t)t->failed, "skipped",
			 (json_int_t)s->list.skipped, "bytes", (json_int_t)t->bytes, "bytes_sent",
			 (json_int_t)t->bytes_sent, "bytes_equal", (json_int_t)t->bytes_equal, "bytes_holes",
			 (json_int_t)t->bytes_holes, "chunks", (json_int_t)t->chunks, "chunks_refused",
			 (json_int_t)t->chunks_refused, "compress", hde_mode_names[s->transfer_opts.hde.mode],
			 "bytes_wire", (json_int_t)t->bytes_wire);
}

static int print_json(const struct send *s, struct err *e)
{
	const struct transfer_opts *o = &s->transfer_opts;
	bool whole = !s->interrupted && !s->job.totals.failed;
	json_t *result = json_result(usage.name, true);
	json_t *more = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:f, s:f, s:f, s:I, s:I, s:b, s:b, s:b}",
				 "peer", s->transfer.target, "backend", s->transfer.ops->name, "mode",
				 mode_names[o->mode], "streams", (json_int_t)transfer_streams(&s->transfer), "workers",
				 (json_int_t)s->transfer.workers, "chunk_bytes", (json_int_t)o->chunk, "checksum",
				 sum_names[o->sum], "scheduling", amst_sched_names[o->sched], "seconds",
				 seconds_of(s->run_ns), "gbytes_per_s", rate_of(s), "session_setup_ms",
				 (double)s->setup_ns / 1e6, "reconnects", (json_int_t)s->reconnects, "resumes",
				 (json_int_t)s->resumes, "verified", whole && o->sum != SUM_NONE, "complete", whole,
				 "interrupted", s->interrupted);
	json_t *totals = totals_json(s);
	int rc;

	json_object_update(result, totals);
	json_object_update(result, more);
	json_object_set(result, "failures", s->job.failures);
	json_object_set(result, "not_sent", s->not_sent);
	json_decref(totals);
	json_decref(more);
	rc = json_write(result, s->output.json, e);
	json_decref(result);
	return rc;
}

/* ---- run --------------------------------------------------------------------------------------- */

static int check_operands(const struct send *s, int n, char **argv)
{
	struct stat st;

	if (n == 1 && stat(argv[0], &st) == 0) {
		fprintf(stderr,
			"dwcp: send: \"%s\" is a file, and where to send it is missing: dwcp send %s HOST[:PORT]\n",
			argv[0], argv[0]);
		return CMD_USAGE;
	}
	if (n < 2) {
		fprintf(stderr, "dwcp: send: name files and then the host: dwcp send FILE… HOST[:PORT]\n");
		return CMD_USAGE;
	}
	if (s->transfer_opts.chunk > TRANSFER_STAGED_MAX) {
		fprintf(stderr,
			"dwcp: send: --chunk-size: files are sent in chunks of at most 1 MB; choose 4 KB to 1 MB\n");
		return CMD_USAGE;
	}
	return CMD_RUN;
}

/* Decides how to reach the host. A file in the host's place is the likeliest mistake. */
static int plan(struct send *s, const char *host, struct err *e)
{
	struct stat st;
	struct err why = { 0 };
	int rc;

	transfer_apply_mode(&s->transfer_opts);
	rc = transfer_plan(&s->transfer, &s->transfer_opts, host, &why);
	if (rc < 0 && stat(host, &st) == 0)
		return err_set(e, -EINVAL, "the last operand is the host, and \"%.100s\" is a file: add HOST[:PORT]",
			       host);
	if (rc < 0)
		*e = why;
	return rc;
}

static int send_all(struct send *s, struct err *e)
{
	struct client *c = NULL;
	uint64_t start;
	int rc = transfer_connect(&s->transfer, true, &c, &s->setup_ns, e);

	if (rc < 0)
		return rc;
	start = clock_now(&clock_mono);
	s->job.client = c;
	s->job.transfer = &s->transfer;
	s->job.list = &s->list;
	s->job.resume = s->opts.resume;
	s->job.sync = s->opts.fsync;
	progress_begin(&s->job.progress, "sending", s->list.total_bytes, !s->output.json[0], start);
	if (!client_peer(c)->stores)
		rc = err_set(e, -EACCES, "%s takes no files: start it with `dwcp serve --store DIR`",
			     s->transfer.target);
	else
		rc = send_files(&s->job, e);
	s->run_ns = clock_now(&clock_mono) - start;
	s->reconnects = client_reconnects(c);
	s->resumes = client_resumes(c);
	client_close(c);
	return rc;
}

static int finish(struct send *s, int rc, const struct err *why)
{
	struct err e = { 0 };
	int status = CMD_OK;

	s->interrupted = rc == -EINTR;
	if (rc < 0)
		status = transfer_fail(usage.name, why);
	else if (s->job.totals.failed)
		status = CMD_FAILED;
	if (text_wanted(s))
		print_text(s, status == CMD_OK);
	if (s->output.json[0] && print_json(s, &e) < 0)
		status = cmd_fail(usage.name, &e);
	return status;
}

/* What the list leaves out: failures, and what is not sent on purpose. */
static void note_left(struct send *s)
{
	const struct source_list *l = &s->list;

	for (uint64_t i = 0; i < l->skipped + l->failed; i++) {
		char why[sizeof(((struct err *)0)->why)];

		snprintf(why, sizeof(why), "%s", l->left[i]->why);
		client_clean(why);
		json_array_append_new(l->left[i]->failed ? s->job.failures : s->not_sent,
				      json_pack("{s:o?, s:o?}", "name", json_string(l->left[i]->name), "reason",
						json_string(why)));
	}
}

static int run(struct send *s, int n, char **argv)
{
	struct err e = { 0 };
	int rc = plan(s, argv[n - 1], &e), status;

	if (rc < 0) {
		cmd_fail(usage.name, &e);
		return rc == -EINVAL ? CMD_USAGE : CMD_FAILED;
	}
	rc = source_walk(&s->list, argv, n - 1, s->opts.recursive, &e);
	if (rc < 0)
		return cmd_fail(usage.name, &e);
	transfer_raise_limits();
	cmd_catch_signals();
	s->job.failures = json_array();
	s->not_sent = json_array();
	note_left(s);
	s->job.totals.failed = s->list.failed;
	rc = send_all(s, &e);
	if (rc < 0 && !s->job.totals.batches)
		status = transfer_fail(usage.name, &e);
	else
		status = finish(s, rc, &e);
	json_decref(s->job.failures);
	json_decref(s->not_sent);
	source_list_free(&s->list);
	return status;
}

int cmd_send(int argc, char **argv)
{
	static struct transfer_flight flight;
	struct send s = { .transfer = { .flight = &flight } };
	const struct opt_group groups[] = {
		{ .name = "send", .help = "Files", .rows = rows, .n = ARRAY_LEN(rows), .base = &s.opts },
		transfer_group(&s.transfer_opts),
		transfer_tcp_group(&s.transfer_opts.tcp),
		transfer_rdma_group(&s.transfer_opts.rdma),
		transfer_compress_group(&s.transfer_opts),
		cmd_output_group(&s.output),
	};
	int n, status;

	status = cmd_options(&usage, groups, ARRAY_LEN(groups), 1, -1, argc, argv, &n);
	if (status == CMD_RUN)
		status = check_operands(&s, n, argv);
	return status == CMD_RUN ? run(&s, n, argv) : status;
}

/* SPDX-License-Identifier: MIT */
/* dwcp checkpoints: what a directory holds, whether it is whole, and a chain made one file. */
#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/cmd.h"
#include "migrate/checkpoint.h"
#include "transport/client.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct cmd_usage usage = {
	.name = "checkpoints",
	.operands = "DIR",
	.about =
		"Lists the checkpoints of a directory and reads each to its last byte: one is whole when all that it builds on "
		"is. With --merge one of them becomes full, in its place, and those that it was made of are removed; later ones "
		"build on it as before, also while its guest is still being saved there.",
	.examples = "  dwcp checkpoints /var/lib/guest\n"
		    "  dwcp checkpoints /var/lib/guest --check --json\n"
		    "  dwcp checkpoints /var/lib/guest --merge --number=12 --compress=auto\n",
};

struct checkpoints_opts {
	uint32_t number;
	bool merge, check;
};

static const struct opt rows[] = {
	{ .name = "merge",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct checkpoints_opts, merge),
	  .def = "no",
	  .help = "make a checkpoint full and remove what it was made of; takes as much memory as the guest" },
	{ .name = "number",
	  .type = OPT_U32,
	  .offset = offsetof(struct checkpoints_opts, number),
	  .def = "auto",
	  .max = 99999999,
	  .auto_ok = true,
	  .help = "of the checkpoint to merge; auto: the newest" },
	{ .name = "check",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct checkpoints_opts, check),
	  .def = "no",
	  .help = "exit status 3 when one of them is not whole" },
};

static void print(struct checkpoint_info *i)
{
	char when[32] = "?", memory[32], base[16] = "full";
	time_t t = (time_t)(i->head.created_ns / NS_PER_S);
	struct tm tm;

	if (!i->readable) {
		printf("%8u  NOT WHOLE: %s\n", i->head.number, i->why.why);
		return;
	}
	if (i->head.base_number)
		snprintf(base, sizeof(base), "on %u", i->head.base_number);
	if (gmtime_r(&t, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &tm);
	printf("%8u  %-12s %s  %10.2f MB  %-8s %10s  %s  %s%s\n", i->head.number, base, when, (double)i->bytes / 1e6,
	       client_clean(i->head.kind), format_size(memory, sizeof(memory), i->head.memory),
	       client_clean(i->head.name), i->status < 0 ? "NOT WHOLE: " : "whole", i->status < 0 ? i->why.why : "");
}

static json_t *info_json(struct checkpoint_info *i)
{
	return json_pack("{s:I, s:I, s:s?, s:s, s:s, s:I, s:I, s:f, s:b, s:s?}", "number", (json_int_t)i->head.number,
			 "base", (json_int_t)i->head.base_number, "kind",
			 !i->readable          ? NULL
			 : i->head.base_number ? "incremental"
					       : "full",
			 "guest", client_clean(i->head.kind), "name", client_clean(i->head.name), "memory_bytes",
			 (json_int_t)i->head.memory, "bytes", (json_int_t)i->bytes, "created_unix_seconds",
			 (double)i->head.created_ns / 1e9, "whole", i->status == 0, "why",
			 i->status < 0 ? client_clean(i->why.why) : NULL);
}

static int list(const char *dir, const char *json, json_t *result, bool *whole, struct err *e)
{
	struct checkpoint_info *all;
	json_t *array = json_array();
	size_t n;
	int rc = checkpoint_list(dir, &all, &n, e);

	for (size_t i = 0; rc == 0 && i < n; i++) {
		*whole &= all[i].status == 0;
		if (strcmp(json, "-") != 0)
			print(&all[i]);
		json_array_append_new(array, info_json(&all[i]));
	}
	json_object_set_new(result, "checkpoints", array);
	if (rc == 0)
		free(all);
	return rc;
}

static int merge(const char *dir, uint32_t number, const struct hde_opts *hde, const char *json, json_t *result,
		 struct err *e)
{
	struct checkpoint_merged m;
	int rc = checkpoint_merge(dir, number, hde, &m, e);

	if (rc < 0)
		return rc;
	if (strcmp(json, "-") != 0 && m.files > 1)
		printf("checkpoint %u: %u files of %.2f MB became one of %.2f MB\n", m.number, m.files,
		       (double)m.bytes_before / 1e6, (double)m.bytes / 1e6);
	else if (strcmp(json, "-") != 0)
		printf("checkpoint %u is a full one already\n", m.number);
	json_object_set_new(result, "merged",
			    json_pack("{s:I, s:I, s:I, s:I}", "number", (json_int_t)m.number, "files",
				      (json_int_t)m.files, "bytes_before", (json_int_t)m.bytes_before, "bytes",
				      (json_int_t)m.bytes));
	return 0;
}

int cmd_checkpoints(int argc, char **argv)
{
	struct checkpoints_opts opts = { 0 };
	struct cmd_output output = { 0 };
	struct hde_opts hde = { 0 };
	const struct opt_group groups[] = {
		{ .name = "checkpoints", .help = "Checkpoints", .rows = rows, .n = ARRAY_LEN(rows), .base = &opts },
		hde_group(&hde),
		cmd_output_group(&output),
	};
	bool whole = true;
	struct err e = { 0 };
	json_t *result;
	int n, status = cmd_options(&usage, groups, ARRAY_LEN(groups), 1, 1, argc, argv, &n), rc = 0;

	if (status != CMD_RUN)
		return status;
	result = json_result("checkpoints", true);
	json_object_set_new(result, "directory", json_string(argv[0]));
	if (opts.merge)
		rc = merge(argv[0], opts.number, &hde, output.json, result, &e);
	if (rc == 0)
		rc = list(argv[0], output.json, result, &whole, &e);
	if (rc == 0 && *output.json)
		rc = json_write(result, output.json, &e);
	json_decref(result);
	if (rc < 0)
		return cmd_fail(usage.name, &e);
	return opts.check && !whole ? CMD_SHORT : CMD_OK;
}

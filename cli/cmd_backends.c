/* SPDX-License-Identifier: MIT */
/* dwcp backends: what this build has, and what this machine can run. */
#include "cli/cmd.h"
#include "base/json.h"
#include "base/util.h"
#include "transport/backend.h"
#include <stdio.h>
#include <string.h>

static const struct cmd_usage usage = {
	.name = "backends",
	.operands = "",
	.about = "Lists every transport of this build, whether this machine can run it, and if not why.",
	.examples = "  dwcp backends\n  dwcp backends --json\n",
};

static void caps_text(const struct be_caps *c, char *buf, size_t cap)
{
	char frame[32], put[32];

	snprintf(buf, cap, "%s%s%sframe %s, put %s, %u streams", c->one_sided ? "one-sided, " : "",
		 c->zero_copy ? "zero-copy, " : "", c->in_process ? "in process, " : "",
		 format_size(frame, sizeof(frame), c->frame_max), format_size(put, sizeof(put), c->put_max),
		 c->streams_max);
}

static void print_table(void)
{
	char caps[160];
	int width = (int)sizeof("CAPABILITIES") - 1;

	for (size_t i = 0; backends[i]; i++) {
		caps_text(&backends[i]->caps, caps, sizeof(caps));
		width = (int)max_u64((uint64_t)width, strlen(caps));
	}
	printf("%-8s %-9s  %-*s  %s\n", "NAME", "AVAILABLE", width, "CAPABILITIES", "REASON");
	for (size_t i = 0; backends[i]; i++) {
		struct err e = { 0 };
		int r = backends[i]->probe(&e);

		caps_text(&backends[i]->caps, caps, sizeof(caps));
		printf("%-8s %-9s  %-*s  %s\n", backends[i]->name, r < 0 ? "no" : "yes", width, caps,
		       r < 0 ? e.why : backends[i]->help);
	}
}

static json_t *backend_json(const struct be_ops *b)
{
	const struct be_caps *c = &b->caps;
	struct err e = { 0 };
	int r = b->probe(&e);

	return json_pack("{s:s, s:b, s:s, s:s, s:b, s:b, s:b, s:b, s:I, s:I, s:I, s:I}", "name", b->name, "available",
			 r >= 0, "reason", r < 0 ? e.why : "", "help", b->help, "one_sided", c->one_sided, "zero_copy",
			 c->zero_copy, "sees_puts", c->sees_puts, "in_process", c->in_process, "frame_max_bytes",
			 (json_int_t)c->frame_max, "put_max_bytes", (json_int_t)c->put_max, "align_bytes",
			 (json_int_t)c->align, "streams_max", (json_int_t)c->streams_max);
}

static int print_json(const char *path)
{
	json_t *result = json_result("backends", true);
	json_t *list = json_array();
	struct err e = { 0 };
	int r;

	for (size_t i = 0; backends[i]; i++)
		json_array_append_new(list, backend_json(backends[i]));
	json_object_set_new(result, "backends", list);
	r = json_write(result, path, &e);
	json_decref(result);
	return r < 0 ? cmd_fail(usage.name, &e) : CMD_OK;
}

int cmd_backends(int argc, char **argv)
{
	struct cmd_output output;
	const struct opt_group groups[] = { cmd_output_group(&output) };
	int n, status;

	status = cmd_options(&usage, groups, ARRAY_LEN(groups), 0, 0, argc, argv, &n);
	if (status != CMD_RUN)
		return status;
	if (output.json[0])
		return print_json(output.json);
	print_table();
	return CMD_OK;
}

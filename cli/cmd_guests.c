/* SPDX-License-Identifier: MIT */
/* dwcp guests: what a server runs; and by hand, what only a person can decide. */
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/migrate.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct cmd_usage usage = {
	.name = "guests",
	.operands = "[HOST[:PORT]]",
	.about =
		"Lists the guests of a `dwcp serve` (127.0.0.1:7411). A guest that is \"ready, paused\" came whole, and its "
		"source left before it said that it may run: if you know that the source does not run it, --resume runs it "
		"here, else --drop it. One that is \"halted\" ran here in post-copy and lacks pages that only its source has: it goes "
		"on by itself when the source comes back.",
	.examples = "  dwcp guests\n  dwcp guests 10.0.0.2 --json\n"
		    "  dwcp guests 10.0.0.2 --check=5f0c2a…\n  dwcp guests --resume=5f0c2a…\n",
};

struct guests_opts {
	char check[GUEST_ID_TEXT], resume[GUEST_ID_TEXT], drop[GUEST_ID_TEXT];
};

#define ID_ROW(f, h)                                                                               \
	{                                                                                          \
		.name = #f, .type = OPT_STR, .offset = offsetof(struct guests_opts, f), .def = "", \
		.max = GUEST_ID_TEXT, .unit = "ID", .help = h                                      \
	}

static const struct opt rows[] = {
	ID_ROW(check, "pause that guest, let it check its memory, go on"),
	ID_ROW(resume, "run a guest that is ready and paused"),
	ID_ROW(drop, "end that guest and give its memory back"),
};

static int parse_id(const char *text, struct msg_guest_id *id, struct err *e)
{
	unsigned long long hi, lo;
	int n = 0;

	if (sscanf(text, "%16llx%16llx%n", &hi, &lo, &n) != 2 || n != 32)
		return err_set(e, -EINVAL, "\"%s\" is not a guest's number: 32 hexadecimal digits, as the list shows",
			       text);
	*id = (struct msg_guest_id){ hi, lo };
	return 0;
}

static int list(struct client *c, const char *json, struct err *e)
{
	json_t *result = json_result("guests", true), *all = json_array();
	struct rcur in;
	int rc = client_call(c, GUEST_LIST, NULL, 0, &in, e);
	uint16_t n = rc < 0 ? 0 : get_u16(&in);

	for (uint16_t i = 0; i < n && !in.bad; i++) {
		struct msg_guest_status st;
		char id[GUEST_ID_TEXT], memory[32];

		wire_get(&in, &guest_status_def, &st);
		client_clean(st.name);
		client_clean(st.kind);
		json_array_append_new(all, guest_json(&st));
		if (strcmp(json, "-") != 0)
			printf("%s  %-14s %-8s %10s  %llu writes  %s\n", guest_id_text(id, &st.id),
			       guest_phase_name((enum guest_phase)st.phase), st.kind,
			       format_size(memory, sizeof(memory), st.memory), (unsigned long long)st.writes, st.name);
	}
	json_object_set_new(result, "guests", all);
	if (rc == 0 && *json)
		rc = json_write(result, json, e);
	json_decref(result);
	return rc;
}

static int act(struct client *c, const struct guests_opts *o, struct err *e)
{
	const char *text = o->check[0] ? o->check : o->resume[0] ? o->resume : o->drop;
	struct msg_guest_id id;
	struct guest_work work;
	int rc = parse_id(text, &id, e);

	if (rc < 0)
		return rc;
	if (!o->check[0])
		return client_call_msg(c, o->resume[0] ? GUEST_RESUME : GUEST_DROP, &guest_id_def, &id, NULL, NULL, e);
	rc = migrate_check(c, &id, &work, e);
	if (rc == 0)
		printf("good, %llu writes\n", (unsigned long long)work.writes);
	return rc;
}

int cmd_guests(int argc, char **argv)
{
	struct guests_opts opts = { 0 };
	struct transfer_opts transfer_opts = { 0 };
	struct cmd_output output = { 0 };
	const struct opt_group groups[] = {
		{ .name = "guests", .help = "Guests", .rows = rows, .n = ARRAY_LEN(rows), .base = &opts },
		transfer_group(&transfer_opts),
		transfer_tcp_group(&transfer_opts.tcp),
		cmd_output_group(&output),
	};
	struct transfer t = { 0 };
	struct client *c = NULL;
	struct err e = { 0 };
	int n, status = cmd_options(&usage, groups, ARRAY_LEN(groups), 0, 1, argc, argv, &n), rc;

	if (status != CMD_RUN)
		return status;
	transfer_opts.streams = transfer_opts.workers = 1; /* nothing but requests */
	rc = transfer_plan(&t, &transfer_opts, n ? argv[0] : "127.0.0.1", &e);
	if (rc < 0) {
		cmd_fail(usage.name, &e);
		return rc == -EINVAL ? CMD_USAGE : CMD_FAILED;
	}
	cmd_catch_signals();
	rc = transfer_connect(&t, false, &c, NULL, &e);
	if (rc == 0)
		rc = opts.check[0] || opts.resume[0] || opts.drop[0] ? act(c, &opts, &e) : list(c, output.json, &e);
	client_close(c);
	return rc < 0 ? transfer_fail(usage.name, &e) : CMD_OK;
}

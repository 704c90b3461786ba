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
		"source left before it said that it may run; one that is \"paused, in doubt\" was moved on, and nobody knows "
		"whether it arrived: if you know that it does not run there, --resume runs it here, else --drop it. One that is \"halted\" ran here in post-copy and lacks pages that only its source has: it goes "
		"on by itself when the source comes back. --move sends a running one on to another host.",
	.examples = "  dwcp guests\n  dwcp guests 10.0.0.2 --json\n"
		    "  dwcp guests 10.0.0.2 --check=5f0c2a…\n  dwcp guests --resume=5f0c2a…\n"
		    "  dwcp guests 10.0.0.2 --move=5f0c2a… --to=10.0.0.3\n",
};

struct guests_opts {
	char check[GUEST_ID_TEXT], resume[GUEST_ID_TEXT], drop[GUEST_ID_TEXT], move[GUEST_ID_TEXT], stay[GUEST_ID_TEXT];
	char to[GUEST_PEER_LEN], tracker[16];
	uint64_t downtime_ns, timeout_ns;
	bool force;
};

#define FIELD(f) offsetof(struct guests_opts, f)
#define ROOM(f) sizeof(((struct guests_opts *)0)->f)

#define ID_ROW(f, h)                                                                               \
	{                                                                                          \
		.name = #f, .type = OPT_STR, .offset = offsetof(struct guests_opts, f), .def = "", \
		.max = GUEST_ID_TEXT, .unit = "ID", .help = h                                      \
	}

static const struct opt rows[] = {
	ID_ROW(check, "pause that guest, let it check its memory, go on"),
	ID_ROW(resume, "run a guest that is ready and paused"),
	ID_ROW(drop, "end that guest and give its memory back"),
	ID_ROW(move,
	       "migrate that guest on to the host that --to names, by pre-copy; ends when it is there, and gives it "
	       "up when interrupted"),
	ID_ROW(stay, "give a move up that another `dwcp guests` began"),
	{ .name = "to",
	  .type = OPT_STR,
	  .offset = FIELD(to),
	  .def = "",
	  .max = ROOM(to),
	  .unit = "HOST[:PORT]",
	  .help = "for --move: another `dwcp serve`, as the host of the guest reaches it" },
	{ .name = "downtime-limit",
	  .type = OPT_TIME,
	  .offset = FIELD(downtime_ns),
	  .def = "30ms",
	  .min = NS_PER_MS,
	  .max = 3600 * NS_PER_S,
	  .help = "for --move: switch over when what is left is predicted to fit" },
	{ .name = "time-limit",
	  .type = OPT_TIME,
	  .offset = FIELD(timeout_ns),
	  .def = "5m",
	  .max = 24 * 3600 * NS_PER_S,
	  .help = "for --move: give up (or switch over, with --force) when it did not fit by then; 0: never" },
	{ .name = "force",
	  .type = OPT_BOOL,
	  .offset = FIELD(force),
	  .def = "no",
	  .help = "for --move: switch over when the time limit or 60 rounds are used up, whatever the downtime" },
	{ .name = "tracker",
	  .type = OPT_STR,
	  .offset = FIELD(tracker),
	  .def = "auto",
	  .max = ROOM(tracker),
	  .auto_ok = true,
	  .unit = TRACKER_NAMES,
	  .help = "for --move: how writes are noticed; auto: the first that the guest's host has" },
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
	const char *text = o->check[0] ? o->check : o->resume[0] ? o->resume : o->drop[0] ? o->drop : o->stay;
	struct msg_guest_id id;
	struct guest_work work;
	int rc = parse_id(text, &id, e);

	if (rc < 0)
		return rc;
	if (!o->check[0])
		return client_call_msg(c,
				       o->resume[0] ? GUEST_RESUME
				       : o->drop[0] ? GUEST_DROP
						    : GUEST_STAY,
				       &guest_id_def, &id, NULL, NULL, e);
	rc = migrate_check(c, &id, &work, e);
	if (rc == 0)
		printf("good, %llu writes\n", (unsigned long long)work.writes);
	return rc;
}

static int moved(struct client *c, const struct msg_guest_id *id, struct msg_guest_moved *m, struct err *e)
{
	int rc = client_call_msg(c, GUEST_MOVED, &guest_id_def, id, &guest_moved_def, m, e);

	client_clean(m->text);
	return rc;
}

static int report_move(const struct guests_opts *o, const struct msg_guest_moved *m, const char *json, struct err *e)
{
	json_t *result = json_result("guests", true);
	char there[GUEST_ID_TEXT], bytes[32];
	int rc = 0;

	guest_id_text(there, &m->there);
	json_object_update_new(result,
			       json_pack("{s:{s:s, s:s, s:s, s:s, s:i, s:f, s:f, s:I, s:s}}", "move", "id", o->move,
					 "to", o->to, "outcome", migrate_outcome_name((enum migrate_outcome)m->outcome),
					 "id_there", there, "rounds", (int)m->rounds, "total_seconds",
					 (double)m->total_ns / 1e9, "downtime_ms", (double)m->downtime_ns / 1e6,
					 "bytes_wire", (json_int_t)m->bytes_wire, "error", m->text));
	if (*json)
		rc = json_write(result, json, e);
	json_decref(result);
	if (rc == 0 && strcmp(json, "-") != 0 && m->outcome == OUTCOME_COMPLETED)
		printf("runs at %s as %s: %.2f s, stood still for %.1f ms, %s sent in %u rounds\n", o->to, there,
		       (double)m->total_ns / 1e9, (double)m->downtime_ns / 1e6,
		       format_size(bytes, sizeof(bytes), m->bytes_wire), m->rounds);
	if (rc == 0 && m->status < 0)
		rc = err_set(e, m->status == -EINTR ? -ECANCELED : m->status, "the guest is %s: %.200s",
			     m->outcome == OUTCOME_IN_DOUBT
				     ? "paused where it was, and nobody knows whether it runs there"
			     : m->outcome == OUTCOME_COMPLETED ? "there"
							       : "where it was, and runs",
			     m->status == -EINTR ? "the move was given up" : m->text);
	return rc;
}

static int move_on(struct client *c, const struct guests_opts *o, const char *json, struct err *e)
{
	struct msg_guest_moved m = { .state = MOVE_RUNS };
	struct msg_guest_move what = { .downtime_ns = o->downtime_ns, .timeout_ns = o->timeout_ns, .force = o->force };
	int rc = o->to[0] ? parse_id(o->move, &what.id, e)
			  : err_set(e, -EINVAL, "--move: say where to, by --to=HOST[:PORT]");
	bool told = false;

	client_interrupted_by(c,
			      NULL); /* a request that is under way is waited for: its answer says where the guest is */
	snprintf(what.to, sizeof(what.to), "%s", o->to);
	snprintf(what.tracker, sizeof(what.tracker), "%s", o->tracker);
	if (rc == 0)
		rc = client_call_msg(c, GUEST_MOVE, &guest_move_def, &what, NULL, NULL, e);
	while (rc == 0 && m.state == MOVE_RUNS) {
		if (cmd_signal && !told)
			rc = client_call_msg(c, GUEST_STAY, &guest_id_def, &what.id, NULL, NULL, e);
		told |= cmd_signal;
		if (rc == 0)
			rc = client_turn(c, 50 * NS_PER_MS, e);
		if (rc == 0)
			rc = moved(c, &what.id, &m, e);
	}
	return rc < 0 ? rc : report_move(o, &m, json, e);
}

static int run(struct client *c, const struct guests_opts *o, const char *json, struct err *e)
{
	if (o->move[0])
		return move_on(c, o, json, e);
	return o->check[0] || o->resume[0] || o->drop[0] || o->stay[0] ? act(c, o, e) : list(c, json, e);
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
		transfer_rdma_group(&transfer_opts.rdma),
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
		rc = run(c, &opts, output.json, &e);
	client_close(c);
	status = rc < 0 ? transfer_fail(usage.name, &e) : CMD_OK;
	return rc < 0 && cmd_signal ? CMD_INTERRUPTED : status;
}

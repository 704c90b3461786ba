/* SPDX-License-Identifier: MIT */
/* What `dwcp migrate` prints. */
#include "base/util.h"
#include "cli/cmd.h"
#include "cli/migrate.h"
#include <stdio.h>
#include <string.h>

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

static double mbytes_per_s(uint64_t bytes, uint64_t ns)
{
	return ns ? (double)bytes * 1e3 / (double)ns : 0;
}

/* GB/s of guest memory, once there is memory for it over there. */
static double memory_rate(const struct migrate_cmd *m)
{
	return mbytes_per_s(m->opts.memory, m->result.total_ns - m->result.prepare_ns) / 1e3;
}

static double saved_percent(const struct migrate_cmd *m)
{
	return 100 - 100.0 * (double)m->result.bytes_wire / (double)m->opts.memory;
}

/* Stop-and-copy tracks nothing. */
static const char *tracker_name(const struct migrate_cmd *m)
{
	return migrate_policies[m->opts.policy].precopy ? m->tracker->name : NULL;
}

char *guest_id_text(char out[GUEST_ID_TEXT], const struct msg_guest_id *id)
{
	snprintf(out, GUEST_ID_TEXT, "%016llx%016llx", (unsigned long long)id->hi, (unsigned long long)id->lo);
	return out;
}

/* ---- text -------------------------------------------------------------------------------------- */

void migrate_progress_line(const struct migrate_progress *p)
{
	fprintf(stderr,
		"\r\033[K%s%s: round %u, %.0f %% of %.1f MB, dirtied %.1f MB/s, %.1f MB/s get through, downtime now %.1f ms",
		p->held ? "held while " : "", migrate_state_name(p->state), p->round + 1,
		p->total_pages ? 100.0 * (double)p->pages / (double)p->total_pages : 0,
		(double)p->total_pages * GUEST_PAGE / 1e6, p->dirty_pages_per_s * GUEST_PAGE / 1e6,
		p->bytes_per_s / 1e6, ms(p->predicted_downtime_ns));
}

void migrate_print_head(const struct migrate_cmd *m)
{
	const char *tracker = tracker_name(m);
	char memory[32];

	printf("guest %s (%s, %s, pages: %s), %.0f writes/s, to %s by %s, %u streams, policy %s%s%s\n", m->opts.name,
	       m->kind->name, format_size(memory, sizeof(memory), m->opts.memory), huge_kind_name(m->memory.kind),
	       m->guest_writes_per_s, m->opts.peer[0] ? m->transfer.target : "own process", m->transfer.ops->name,
	       m->transfer.streams, migrate_policies[m->opts.policy].name, tracker ? ", tracker " : "",
	       tracker ? tracker : "");
	bench_link_print(m->net, m->opts.link);
	cmd_flush();
}

static void print_rounds(const struct migrate_result *r)
{
	puts("  round      pages      MB raw     MB wire   seconds    GB/s raw   dirtied MB/s");
	for (unsigned i = 0; i < r->n_rounds; i++) {
		const struct migrate_round *x = &r->rounds[i];
		uint64_t raw = x->pages * GUEST_PAGE;

		printf("  %5u %10llu %11.2f %11.2f %9.4f %11.3f %14.2f%s\n", i + 1, (unsigned long long)x->pages,
		       (double)raw / 1e6, (double)x->bytes_wire / 1e6, (double)x->ns / 1e9,
		       mbytes_per_s(raw, x->ns) / 1e3, x->dirty_pages_per_s * GUEST_PAGE / 1e6,
		       x->paused ? "  paused" : "");
	}
	if (r->more_rounds)
		printf("  … and %u more\n", r->more_rounds);
}

static void print_tracking(const struct migrate_cmd *m)
{
	const struct tracker_cost *c = &m->result.tracking;

	if (!c->fetches)
		return;
	printf("  %-16s %llu looks, %.2f ms in all, %llu pages found", "tracking", (unsigned long long)c->fetches,
	       ms(c->fetch_ns), (unsigned long long)c->pages);
	if (c->faults)
		printf("; %llu faults of the guest, %.2f ms", (unsigned long long)c->faults, ms(c->fault_ns));
	putchar('\n');
}

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0;
}

static void print_late(const struct migrate_late *l)
{
	if (!l->pages)
		return;
	printf("  %-16s %llu pages (%.2f MB on the wire) followed in %.3f s; %llu faults, %llu pages waited for: %.2f %% of the "
	       "working set\n",
	       "post-copy", (unsigned long long)l->pages, (double)l->bytes_wire / 1e6, (double)l->ns / 1e9,
	       (unsigned long long)l->faults, (unsigned long long)l->network_faults,
	       percent(l->network_faults, l->working_set_pages));
	if (l->network_faults)
		printf("  %-16s p50 %.3f ms, p95 %.3f, p99 %.3f, longest %.3f; %llu neighbours came along\n",
		       "fault latency", ms(l->p50_ns), ms(l->p95_ns), ms(l->p99_ns), ms(l->max_ns),
		       (unsigned long long)l->neighbours);
	if (l->recoveries)
		printf("  %-16s the link broke and came back %u times\n", "recovered", l->recoveries);
}

void migrate_print(const struct migrate_cmd *m)
{
	const struct migrate_result *r = &m->result;
	const struct migrate_blackout *b = &r->blackout;

	print_rounds(r);
	printf("  %-16s %s\n  %-16s %.3f s, of which %.3f s for memory there; then %.3f GB/s of guest memory\n",
	       "outcome", migrate_outcome_name(r->outcome), "total", (double)r->total_ns / 1e9,
	       (double)r->prepare_ns / 1e9, memory_rate(m));
	if (r->outcome == OUTCOME_COMPLETED)
		printf("  %-16s %.2f ms (pause %.2f, look %.2f, transfer %.2f, state %.2f, start %.2f)\n", "downtime",
		       ms(r->downtime_ns), ms(b->pause_ns), ms(b->look_ns), ms(b->transfer_ns), ms(b->ready_ns),
		       ms(b->start_ns));
	if (r->held_ns)
		printf("  %-16s %.3f s\n", "held", (double)r->held_ns / 1e9);
	if (r->rollback_ns)
		printf("  %-16s %.2f ms until the guest ran here again\n", "rollback", ms(r->rollback_ns));
	printf("  %-16s %.2f MB, %.1f %% less than memory; pages: %llu zeros, %llu duplicates, %llu deltas, %llu others\n",
	       "on the wire", (double)r->bytes_wire / 1e6, saved_percent(m), (unsigned long long)r->zero_pages,
	       (unsigned long long)r->duplicate_pages, (unsigned long long)r->delta_pages,
	       (unsigned long long)r->raw_pages);
	print_tracking(m);
	print_late(&r->late);
	if (r->outcome == OUTCOME_COMPLETED && m->opts.verify)
		printf("  %-16s %s\n", "verified",
		       r->verified ? "yes: every page at the destination is what it was here" : "no");
	if (m->checked)
		printf("  %-16s %s, %llu writes%s\n", "guest's check", m->check_ok ? "good" : m->check_err.why,
		       (unsigned long long)m->writes_there,
		       r->outcome == OUTCOME_COMPLETED ? " (it goes on at the destination)" : " (it goes on here)");
	cmd_flush();
}

/* ---- JSON -------------------------------------------------------------------------------------- */

json_t *guest_json(const struct msg_guest_status *st)
{
	char id[GUEST_ID_TEXT];

	return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I}", "id", guest_id_text(id, &st->id), "name", st->name, "kind",
			 st->kind, "phase", guest_phase_name((enum guest_phase)st->phase), "memory_bytes",
			 (json_int_t)st->memory, "writes", (json_int_t)st->writes);
}

static json_t *rounds_json(const struct migrate_result *r)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < r->n_rounds; i++) {
		const struct migrate_round *x = &r->rounds[i];

		json_array_append_new(list,
				      json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:b}", "pages",
						(json_int_t)x->pages, "bytes_raw", (json_int_t)x->pages * GUEST_PAGE,
						"bytes_wire", (json_int_t)x->bytes_wire, "seconds", (double)x->ns / 1e9,
						"at_seconds", (double)x->at_ns / 1e9, "dirty_pages_per_s",
						x->dirty_pages_per_s, "bandwidth_mbytes_per_s",
						mbytes_per_s(x->bytes_wire, x->ns), "paused", x->paused));
	}
	return list;
}

static json_t *downtime_json(const struct migrate_result *r)
{
	const struct migrate_blackout *b = &r->blackout;

	return json_pack("{s:f, s:f, s:f, s:f, s:f}", "pause", ms(b->pause_ns), "look", ms(b->look_ns), "transfer",
			 ms(b->transfer_ns), "state", ms(b->ready_ns), "start", ms(b->start_ns));
}

static json_t *tracking_json(const struct tracker_cost *c)
{
	return json_pack("{s:I, s:f, s:I, s:I, s:f}", "looks", (json_int_t)c->fetches, "look_ms", ms(c->fetch_ns),
			 "pages", (json_int_t)c->pages, "faults", (json_int_t)c->faults, "fault_ms", ms(c->fault_ns));
}

/* Null where nothing followed. */
static json_t *late_json(const struct migrate_late *l)
{
	if (!l->pages)
		return json_null();
	return json_pack("{s:I, s:I, s:f, s:I, s:I, s:I, s:f, s:{s:f, s:f, s:f, s:f}, s:I, s:I, s:i}", "pages",
			 (json_int_t)l->pages, "bytes_wire", (json_int_t)l->bytes_wire, "seconds", (double)l->ns / 1e9,
			 "faults", (json_int_t)l->faults, "network_faults", (json_int_t)l->network_faults,
			 "working_set_pages", (json_int_t)l->working_set_pages, "network_faults_percent_of_working_set",
			 percent(l->network_faults, l->working_set_pages), "fault_latency_us", "p50",
			 (double)l->p50_ns / 1e3, "p95", (double)l->p95_ns / 1e3, "p99", (double)l->p99_ns / 1e3, "max",
			 (double)l->max_ns / 1e3, "neighbours", (json_int_t)l->neighbours, "requests",
			 (json_int_t)l->requests, "recoveries", (int)l->recoveries);
}

static json_t *outcome_json(const struct migrate_cmd *m)
{
	const struct migrate_result *r = &m->result;
	bool completed = r->outcome == OUTCOME_COMPLETED;

	return json_pack("{s:f, s:f, s:o, s:o, s:I, s:I, s:I, s:I, s:b, s:s, s:o, s:f, s:i, s:o, s:I, s:I}",
			 "held_seconds", (double)r->held_ns / 1e9, "total_seconds", (double)r->total_ns / 1e9,
			 "downtime_ms", completed ? json_real(ms(r->downtime_ns)) : json_null(), "downtime_parts_ms",
			 completed ? downtime_json(r) : json_null(), "bytes_wire", (json_int_t)r->bytes_wire,
			 "zero_pages", (json_int_t)r->zero_pages, "duplicate_pages", (json_int_t)r->duplicate_pages,
			 "delta_pages", (json_int_t)r->delta_pages, "verified", r->verified, "outcome",
			 migrate_outcome_name(r->outcome), "rollback_ms",
			 r->rollback_ns ? json_real(ms(r->rollback_ns)) : json_null(), "prepare_ms", ms(r->prepare_ns),
			 "throttle_percent", (int)r->throttle, "self_check",
			 m->checked ? json_boolean(m->check_ok) : json_null(), "writes_at_switch_over",
			 (json_int_t)m->writes_here, "writes_at_check", (json_int_t)m->writes_there);
}

int migrate_print_json(const struct migrate_cmd *m, const char *path, struct err *e)
{
	const struct migrate_result *r = &m->result;
	const char *tracker = tracker_name(m);
	json_t *result = json_result("migrate", true), *part;
	char id[GUEST_ID_TEXT];
	int rc;

	part = outcome_json(m);
	json_object_update(result, part);
	json_decref(part);
	part = json_pack("{s:s, s:s, s:I, s:s?, s:s, s:s, s:s?, s:s, s:i, s:I, s:s, s:s, s:f, s:f, s:o, s:o}", "guest",
			 m->kind->name, "guest_id", guest_id_text(id, &r->id), "memory_bytes",
			 (json_int_t)m->opts.memory, "tracker", tracker, "policy",
			 migrate_policies[m->opts.policy].name, "backend", m->transfer.ops->name, "link",
			 (const char *)NULL, "peer", m->transfer.target, "streams", (int)m->transfer.streams,
			 "chunk_bytes", (json_int_t)m->transfer_opts.chunk, "compress",
			 hde_mode_names[m->transfer_opts.hde.mode], "verify", migrate_verify_names[m->opts.verify],
			 "guest_writes_per_s", m->guest_writes_per_s, "guest_steps_per_s", m->guest_steps_per_s,
			 "rounds", rounds_json(r), "tracking", tracking_json(&r->tracking));
	json_object_update(result, part);
	json_decref(part);
	bench_link_json(m->net, m->opts.link, result);
	json_object_set_new(result, "postcopy", late_json(&r->late));
	json_object_set_new(result, "n_rounds", json_integer((json_int_t)r->n_rounds + r->more_rounds));
	json_object_set_new(result, "memory_gbytes_per_s", json_real(memory_rate(m)));
	json_object_set_new(result, "saved_percent", json_real(saved_percent(m)));
	rc = json_write(result, path, e);
	json_decref(result);
	return rc;
}

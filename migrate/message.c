/* SPDX-License-Identifier: MIT */
#include "migrate/message.h"

#include <stddef.h>

#define F(k, t, f)                                                               \
	{                                                                        \
		.kind = k, .offset = offsetof(t, f), .size = sizeof(((t *)0)->f) \
	}
#define DEF(name, ...)                                                    \
	static const struct wire_field name##_fields[] = { __VA_ARGS__ }; \
	const struct wire_def name = { name##_fields, sizeof name##_fields / sizeof name##_fields[0] }

#define T struct msg_guest_id
DEF(guest_id_def, F(W_U64, T, hi), F(W_U64, T, lo));
#undef T
#define T struct msg_guest_prepare
DEF(guest_prepare_def, F(W_U64, T, id.hi), F(W_U64, T, id.lo), F(W_U16, T, version), F(W_U32, T, page),
    F(W_U64, T, memory), F(W_U8, T, hde), F(W_U8, T, late), F(W_STR, T, kind), F(W_STR, T, name));
#undef T
#define T struct msg_guest_status
DEF(guest_status_def, F(W_U64, T, id.hi), F(W_U64, T, id.lo), F(W_U8, T, phase), F(W_U64, T, memory),
    F(W_U64, T, writes), F(W_STR, T, kind), F(W_STR, T, name));
#undef T
#define T struct msg_guest_fetch
DEF(guest_fetch_def, F(W_U64, T, id.hi), F(W_U64, T, id.lo), F(W_U16, T, wait_ms));
#undef T
#define T struct msg_guest_late
DEF(guest_late_def, F(W_U64, T, missing_first), F(W_U64, T, missing), F(W_U64, T, faults), F(W_U64, T, pages),
    F(W_U64, T, p50_ns), F(W_U64, T, p95_ns), F(W_U64, T, p99_ns), F(W_U64, T, max_ns));
#undef T
#define T struct msg_guest_started
DEF(guest_started_def, F(W_U64, T, run_ns));
#undef T
#define T struct msg_guest_sums
DEF(guest_sums_def, F(W_U64, T, lo), F(W_U64, T, hi));
#undef T
#define T struct msg_guest_move
DEF(guest_move_def, F(W_U64, T, id.hi), F(W_U64, T, id.lo), F(W_U64, T, downtime_ns), F(W_U64, T, timeout_ns),
    F(W_BOOL, T, force), F(W_STR, T, tracker), F(W_STR, T, to));
#undef T
#define T struct msg_guest_moved
DEF(guest_moved_def, F(W_U8, T, state), F(W_U8, T, outcome), F(W_U32, T, status), F(W_U32, T, rounds),
    F(W_U64, T, total_ns), F(W_U64, T, downtime_ns), F(W_U64, T, bytes_wire), F(W_U64, T, there.hi),
    F(W_U64, T, there.lo), F(W_STR, T, text));
#undef T
#define T struct msg_guest_check
DEF(guest_check_def, F(W_U32, T, status), F(W_U64, T, writes), F(W_U64, T, steps), F(W_STR, T, text));
#undef T

const char *guest_phase_name(enum guest_phase p)
{
	static const char *const names[] = { "unknown", "receiving", "ready, paused", "running",         "lost",
					     "filling", "halted",    "leaving",       "paused, in doubt" };

	return (unsigned)p < sizeof names / sizeof names[0] ? names[p] : "?";
}

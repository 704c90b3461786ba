#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: no-valgrind no-asan timeout=240
# dwcp migrate --guests: many at once, to an own process and to a server, with what goes wrong for all and for one.
set -uo pipefail
# shellcheck source=kmod-free-tests/cli.bash
. kmod-free-tests/cli.bash

many=(migrate --guests=6 --memory=16MB --dirty-rate=5 --warm-up=100ms --settle=100ms --downtime-limit=1s)

good='.completed == 6 and .verified and .self_check and (.migrations | length) == 6 and .migrations_per_s > 0
	and ([.migrations[] | .outcome == "completed" and .verified and .self_check] | all)
	and ([.migrations[].name] | unique | length) == 6 and .source_mbytes_per_migration < 20
	and ([.migrations[].total_seconds] | max) <= .makespan_seconds and .workers >= 1 and .streams >= .workers'

t_own_process() {
	expect 0 '' dwcp "${many[@]}" --json="$dir/m.json"
	jq -e "$good and .destination_mbytes_per_migration < 20" "$dir/m.json" >/dev/null || fail "$(cat "$dir/m.json")"
}

t_text() {
	dwcp "${many[@]}" --compress=auto >"$dir/out" || fail "status $?"
	grep -q 'outcome *6 completed, 6 verified, of 6 the guest' "$dir/out" || fail "$(cat "$dir/out")"
}

# Never more than two on their way: their times together are at most twice that of all.
t_two_at_a_time() {
	expect 0 '' dwcp "${many[@]}" --parallel=2 --json="$dir/m.json"
	jq -e "$good and .parallel == 2 and ([.migrations[].total_seconds] | add) <= 2 * .makespan_seconds" "$dir/m.json" \
		>/dev/null || fail "$(cat "$dir/m.json")"
}

# Each has two sessions.
t_post_copy() {
	local policy
	for policy in postcopy hybrid; do
		expect 0 '' dwcp "${many[@]}" --policy=$policy --downtime-limit=1ms --hybrid-rounds=1 --json="$dir/m.json"
		jq -e '.completed == 6 and .verified and .self_check' "$dir/m.json" >/dev/null || fail "$(cat "$dir/m.json")"
	done
}

t_to_a_server() {
	serve
	expect 0 '' dwcp "${many[@]}" --peer="$at" --json="$dir/m.json"
	jq -e "$good and .destination_mbytes_per_migration == null" "$dir/m.json" >/dev/null || fail "$(cat "$dir/m.json")"
	[[ $(dwcp guests "$at" | grep -c ' running ') == 6 ]] || fail "$(dwcp guests "$at")"
	stop
}

# Longer than a server lets a session be in which nothing is asked.
t_sessions_stay() {
	[[ -n ${DWCP_TEST_LONG:-} ]] || skip "takes 65 s: set DWCP_TEST_LONG"
	expect 0 '' dwcp migrate --guests=2 --memory=16MB --dirty-rate=5 --warm-up=0 --timeout=1s --settle=63s --downtime-limit=1s
}

# There is room for some of them: these move, and the others go on here.
t_no_room_for_all() {
	local n
	serve --max-memory=40MB
	dwcp "${many[@]}" --peer="$at" --json="$dir/m.json" >"$dir/out" 2>"$dir/err"
	[[ $? == 1 ]] || fail "$(cat "$dir/err")"
	grep -q 'does not fit' "$dir/err" || fail "$(cat "$dir/err")"
	n=$(jq '.completed' "$dir/m.json")
	((n >= 1 && n < 6)) || fail "$n completed"
	[[ $(dwcp guests "$at" | grep -c ' running ') == "$n" ]] || fail "$(dwcp guests "$at")"
	jq -e '[.migrations[] | select(.outcome != "completed") | .outcome == "rolled_back"] | all' "$dir/m.json" >/dev/null ||
		fail "$(cat "$dir/m.json")"
	stop
}

t_refused() {
	expect 2 'guests' dwcp migrate --guests=0
	expect 2 'guests' dwcp migrate --guests=100000
	expect 1 'dwcp serve' dwcp "${many[@]}" --peer=127.0.0.1:9
}

run_tests

#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# dwcp guests: a guest that arrived goes on to a third host and back; and what may go wrong on the way, after which it
# runs on exactly one of them, and is right.
#
# check: no-valgrind timeout=120
set -uo pipefail
# shellcheck source=kmod-free-tests/cli.bash
. kmod-free-tests/cli.bash

# Two servers: $from with a guest that came, $id, and $onto; $from_pid and $onto_pid.
two_hosts() { # options of the migration…
	serve --stats-socket=none
	onto=$at onto_pid=$server
	serve --stats-socket=none
	from=$at from_pid=$server
	dwcp migrate --peer="$from" --memory=64MB --dirty-rate=20 --warm-up=20ms --settle=10ms --downtime-limit=1s "$@" \
		>"$dir/migrate" 2>&1 || fail "$(cat "$dir/migrate")"
	id=$(id_at "$from")
}

id_at() { # server
	dwcp guests "$1" --json | jq -r '.guests[0].id'
}

phase_at() { # server
	dwcp guests "$1" --json | jq -r '[.guests[].phase] | join(" ")'
}

is() { # phase server
	[[ $(phase_at "$2") == "$1" ]]
}

there_and_right() { # server
	is running "$1" || fail "at $1: $(phase_at "$1")"
	expect 0 'good' dwcp guests "$1" --check="$(id_at "$1")"
}

# A guest that never fits a short blackout.
busy=(--memory=256MB --dirty-rate=3000 --force --time-limit=1s)

# A move that stands still, because the other host does, before it was connected: $mover.
stuck_move() {
	kill -STOP "$onto_pid"
	"$DWCP" guests "$from" --move="$id" --to="$onto" >"$dir/move" 2>&1 &
	mover=$!
	until_ok 10 is leaving "$from"
}

# …and in the middle of its rounds: the guest writes too much for its time limit to be kept.
stuck_in_rounds() {
	"$DWCP" guests "$from" --move="$id" --to="$onto" --downtime-limit=1ms >"$dir/move" 2>&1 &
	mover=$!
	until_ok 10 is receiving "$onto"
	kill -STOP "$onto_pid"
}

t_there_and_back() {
	two_hosts
	expect 0 "runs at $onto as [0-9a-f]{32}: .* rounds" dwcp guests "$from" --move="$id" --to="$onto"
	is '' "$from" || fail "still here: $(phase_at "$from")"
	there_and_right "$onto"
	id=$(id_at "$onto")
	dwcp guests "$onto" --move="$id" --to="$from" --json >"$dir/json" || fail "$(cat "$dir/json")"
	jq -e '.move | .outcome == "completed" and .downtime_ms > 0 and .rounds > 1 and .bytes_wire > 0' "$dir/json" >/dev/null ||
		fail "$(cat "$dir/json")"
	there_and_right "$from"
	is '' "$onto" || fail "still there"
}

t_after_postcopy() {
	two_hosts --policy=postcopy
	until_ok 10 is running "$from"
	expect 0 'runs at' dwcp guests "$from" --move="$id" --to="$onto"
	there_and_right "$onto"
}

t_usage() {
	two_hosts
	expect 1 'say where to' dwcp guests "$from" --move="$id"
	expect 1 'not a guest.s number' dwcp guests "$from" --move=12 --to="$onto"
	expect 1 'no such guest' dwcp guests "$from" --move=00000000000000000000000000000001 --to="$onto"
	expect 1 'was not moved' dwcp guests "$from" --stay="$id"
	expect 1 'where it was, and runs: .*tracker' dwcp guests "$from" --move="$id" --to="$onto" --tracker=none
	expect 1 'where it was, and runs: .*no.such' dwcp guests "$from" --move="$id" --to=no.such.host.invalid
	there_and_right "$from"
}

t_nobody_listens() {
	two_hosts
	kill -TERM "$onto_pid"
	reap "$onto_pid" 20
	expect 1 'where it was, and runs: nothing listens' dwcp guests "$from" --move="$id" --to="$onto"
	there_and_right "$from"
}

t_a_virtual_machine() {
	[[ -w /dev/kvm ]] || skip "no /dev/kvm"
	two_hosts --guest=kvm
	expect 0 'runs at' dwcp guests "$from" --move="$id" --to="$onto"
	there_and_right "$onto"
}

# Onto itself: a guest is moved, and not lost.
t_onto_itself() {
	two_hosts
	expect 0 'runs at' dwcp guests "$from" --move="$id" --to="$from"
	there_and_right "$from"
}

t_given_up() {
	two_hosts
	stuck_move
	expect 1 'being moved' dwcp guests "$from" --drop="$id"
	expect 1 'leaving here' dwcp guests "$from" --move="$id" --to="$from"
	expect 1 'leaving here' dwcp guests "$from" --check="$id"
	expect 0 '' dwcp guests "$from" --stay="$id"
	reap "$mover" 20
	[[ $rc == 1 ]] || fail "status $rc: $(cat "$dir/move")"
	grep -q 'where it was, and runs: the move was given up' "$dir/move" || fail "$(cat "$dir/move")"
	kill -CONT "$onto_pid"
	there_and_right "$from"
	expect 0 'runs at' dwcp guests "$from" --move="$id" --to="$onto"
	there_and_right "$onto"
}

t_interrupted() {
	two_hosts "${busy[@]}"
	stuck_in_rounds
	kill -INT "$mover"
	kill -CONT "$onto_pid"
	reap "$mover" 20
	[[ $rc == 130 ]] || fail "status $rc: $(cat "$dir/move")"
	grep -q 'where it was, and runs: the move was given up' "$dir/move" || fail "$(cat "$dir/move")"
	there_and_right "$from"
}

t_other_host_killed() {
	two_hosts "${busy[@]}"
	stuck_in_rounds
	kill -9 "$onto_pid"
	reap "$mover" 60
	[[ $rc == 1 ]] || fail "status $rc: $(cat "$dir/move")"
	grep -q 'where it was, and runs' "$dir/move" || fail "$(cat "$dir/move")"
	there_and_right "$from"
}

# It ends in order, and the other one has nothing of the guest.
t_ended_while_it_moves() {
	two_hosts "${busy[@]}"
	stuck_in_rounds
	kill -TERM "$from_pid"
	kill -CONT "$onto_pid"
	reap "$from_pid" 40
	reap "$mover" 60
	[[ $rc != 0 ]] || fail "the move is called good"
	until_ok 20 is '' "$onto"
}

run_tests

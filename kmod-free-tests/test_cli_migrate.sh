#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# dwcp migrate, serve and guests as a user has them; and both sides killed at random moments, after which exactly one
# runs the guest, or none where nobody can know, and what runs is right.
#
# check: timeout=240
set -u
: "${DWCP:=build/gcc/dwcp}" "${TEST_TMP:=$(mktemp -d)}"
failed=0
RANDOM=${DWCP_TEST_SEED:-7}
kills=${DWCP_TEST_KILLS:-$([[ ${TEST_SET:-all} == all ]] && echo 5 || echo 2)}

ok() { echo "PASS $1"; }
bad() {
	echo "FAIL $1: $2"
	failed=1
}
field() { jq -r "$2" "$1"; }

start_server() { # name → $server, $at
	"$DWCP" serve --listen=127.0.0.1:0 --stats-socket=none >"$TEST_TMP/$1.out" 2>"$TEST_TMP/$1.err" &
	server=$!
	for _ in $(seq 200); do
		at=$(sed -n 's/^listening on //p' "$TEST_TMP/$1.out")
		[[ -n $at ]] && return 0
		sleep 0.05
	done
	return 1
}
stop_server() {
	kill "$server" 2>/dev/null
	wait "$server" 2>/dev/null
}
# Words and not a function: what runs in the background must be the process that is killed.
move=("$DWCP" migrate --memory=16MB --dirty-rate=200 --warm-up=50ms --settle=100ms --streams=2 --timeout=5s --downtime-limit=2s)

# ---- as it should be ----------------------------------------------------------------------------

t="local pair, JSON"
if "${move[@]}" --json="$TEST_TMP/a.json" >"$TEST_TMP/a.out" 2>"$TEST_TMP/a.err" &&
	[[ $(field "$TEST_TMP/a.json" '[.schema, .command, .outcome, .verified, .self_check, .measured] | join(" ")') == \
		"dwcp/1 migrate completed true true true" ]] &&
	field "$TEST_TMP/a.json" '.rounds | length > 1 and (.[-1].paused) and (.[0].pages == 4096)' | grep -q true &&
	field "$TEST_TMP/a.json" '.downtime_ms > 0 and .writes_at_check > .writes_at_switch_over' | grep -q true; then
	ok "$t"
else
	bad "$t" "$(cat "$TEST_TMP/a.err")"
fi

for args in "--policy=stopcopy --verify=full" "--tracker=sigsegv" "--pattern=zipf --writers=3 --compute" \
	"--auto-converge --dirty-limit=100Mbps" "--checksum=none --verify=none --chunk-size=4KB" \
	"--policy=postcopy --writers=4" "--policy=hybrid --downtime-limit=1ms --hybrid-rounds=1" \
	"--policy=hybrid --downtime-limit=1ms --compress=datacenter"; do
	# shellcheck disable=SC2086
	if "${move[@]}" $args >"$TEST_TMP/b.out" 2>"$TEST_TMP/b.err" && grep -q "outcome *completed" "$TEST_TMP/b.out" &&
		grep -q "guest's check *good" "$TEST_TMP/b.out"; then
		ok "$args"
	else
		bad "$args" "$(cat "$TEST_TMP/b.err")"
	fi
done

t="a timeline, as text and as a picture"
if "${move[@]}" --timeline --plot="$TEST_TMP/tl.gif" >"$TEST_TMP/tl.out" 2>"$TEST_TMP/tl.err" || ! grep -q 'png or .svg' "$TEST_TMP/tl.err"; then
	bad "$t" "takes a name that is no picture's"
elif command -v gnuplot >/dev/null; then
	"${move[@]}" --timeline --plot="$TEST_TMP/tl.svg" --json="$TEST_TMP/tl.json" >"$TEST_TMP/tl.out" 2>"$TEST_TMP/tl.err" &&
		grep -q '^<svg\|<svg ' "$TEST_TMP/tl.svg" && grep -q 'the guest stands still' "$TEST_TMP/tl.svg" &&
		grep -q '^  round 1 *|' "$TEST_TMP/tl.out" && grep -q '^  stands still *| *X' "$TEST_TMP/tl.out" &&
		field "$TEST_TMP/tl.json" '[.rounds[].at_seconds] | . == sort and .[0] > 0' | grep -q true && ok "$t" || bad "$t" "$(cat "$TEST_TMP/tl.err")"
else
	"${move[@]}" --timeline --plot="$TEST_TMP/tl.svg" >"$TEST_TMP/tl.out" 2>"$TEST_TMP/tl.err"
	grep -q 'gnuplot-nox' "$TEST_TMP/tl.err" && grep -q '^  round 1 *|' "$TEST_TMP/tl.out" && ok "$t" || bad "$t" "$(cat "$TEST_TMP/tl.err")"
fi

t="post-copy, JSON"
if "${move[@]}" --policy=postcopy --json="$TEST_TMP/p.json" >"$TEST_TMP/p.out" 2>"$TEST_TMP/p.err" &&
	[[ $(field "$TEST_TMP/p.json" '[.outcome, .verified, .self_check, .policy, .tracker] | join(" ")') == \
		"completed true true postcopy " ]] &&
	field "$TEST_TMP/p.json" '.postcopy | .pages == 4096 and .working_set_pages == 4096 and .faults >= .network_faults
		and (.fault_latency_us | .p50 <= .p99 and .p99 <= .max)' | grep -q true; then
	ok "$t"
else
	bad "$t" "$(cat "$TEST_TMP/p.err")"
fi

t="post-copy, compressed"
if "${move[@]}" --policy=postcopy --dirty-rate=1 --compress=internet --json="$TEST_TMP/p.json" >"$TEST_TMP/p.out" 2>"$TEST_TMP/p.err" &&
	field "$TEST_TMP/p.json" '.outcome == "completed" and .verified and .self_check and .saved_percent > 70 and
		.zero_pages + .delta_pages > 0' | grep -q true; then
	ok "$t"
else
	bad "$t" "$(cat "$TEST_TMP/p.err" "$TEST_TMP/p.json")"
fi

t="a virtual machine"
if [[ ! -r /dev/kvm || ! -w /dev/kvm ]]; then
	echo "SKIP $t: no /dev/kvm"
elif "${move[@]}" --guest=kvm --vm-dirty-rate=100 >"$TEST_TMP/v.out" 2>"$TEST_TMP/v.err" &&
	grep -q "guest's check *good" "$TEST_TMP/v.out"; then
	ok "$t"
else
	bad "$t" "$(cat "$TEST_TMP/v.err")"
fi

t="a virtual machine, by its dirty ring"
if [[ ! -r /dev/kvm || ! -w /dev/kvm ]]; then
	echo "SKIP $t: no /dev/kvm"
elif "${move[@]}" --guest=kvm --vm-dirty-rate=100 --tracker=kvm-ring --json="$TEST_TMP/v.json" >"$TEST_TMP/v.out" 2>"$TEST_TMP/v.err" &&
	[[ $(field "$TEST_TMP/v.json" '[.outcome, .verified, .self_check, .tracker] | join(" ")') == "completed true true kvm-ring" ]]; then
	ok "$t"
elif grep -q 'has no dirty ring (Linux 5.11): use --tracker=kvm' "$TEST_TMP/v.err"; then
	echo "SKIP $t: $(cat "$TEST_TMP/v.err")"
else
	bad "$t" "$(cat "$TEST_TMP/v.err")"
fi

t="a virtual machine, post-copy"
if [[ ! -r /dev/kvm || ! -w /dev/kvm ]]; then
	echo "SKIP $t: no /dev/kvm"
elif "${move[@]}" --guest=kvm --vm-dirty-rate=100 --policy=postcopy >"$TEST_TMP/v.out" 2>"$TEST_TMP/v.err" &&
	grep -q "guest's check *good" "$TEST_TMP/v.out"; then
	ok "$t"
else
	bad "$t" "$(cat "$TEST_TMP/v.err")"
fi

says() { # file, text: within 20 s
	for _ in $(seq 400); do
		grep -q "$2" "$1" && return 0
		sleep 0.05
	done
	return 1
}

# Its first words are there when signals are caught. What a limit does to the rate is for the simulations to judge.
t="limited, held, and let go on"
for policy in precopy postcopy hybrid; do
	"${move[@]}" --policy=$policy --max-bandwidth=100Mbps --dirty-rate=1 --warm-up=0 --verbose --json="$TEST_TMP/h.json" \
		>"$TEST_TMP/h.out" 2>"$TEST_TMP/h.err" &
	mover=$!
	says "$TEST_TMP/h.out" "policy $policy" && kill -USR1 $mover && says "$TEST_TMP/h.err" "the migration is held" &&
		kill -0 $mover && kill -USR2 $mover && says "$TEST_TMP/h.err" "the migration goes on"
	went_on=$?
	kill -USR2 $mover 2>/dev/null
	wait $mover
	rc=$?
	if ((rc == 0 && went_on == 0)) &&
		field "$TEST_TMP/h.json" '.outcome == "completed" and .verified and .self_check and .held_seconds > 0' | grep -q true; then
		ok "$t: $policy"
	else
		bad "$t: $policy" "$rc: $(cat "$TEST_TMP/h.err")"
	fi
done

t="over an emulated link"
if "${move[@]}" --dirty-rate=1 --link=local_network --json="$TEST_TMP/l.json" >"$TEST_TMP/l.out" 2>"$TEST_TMP/l.err" &&
	field "$TEST_TMP/l.json" '.outcome == "completed" and .verified and .self_check and .link == "local_network" and
		.link_status.ab.bytes_out > .bytes_wire' | grep -q true &&
	! "$DWCP" linkemu status --name="$(field "$TEST_TMP/l.json" .link_status.name)" 2>/dev/null; then
	ok "$t"
elif grep -qE 'not allowed|/dev/net/tun|no network namespaces' "$TEST_TMP/l.err"; then
	echo "SKIP $t: $(cat "$TEST_TMP/l.err")"
else
	bad "$t" "$(cat "$TEST_TMP/l.err")"
fi

t="a guest stays at the server, is checked and dropped"
start_server one
if "${move[@]}" --peer="$at" --name=box --json="$TEST_TMP/c.json" >"$TEST_TMP/c.out" 2>"$TEST_TMP/c.err" &&
	id=$(field "$TEST_TMP/c.json" .guest_id) && "$DWCP" guests "$at" >"$TEST_TMP/c.list" &&
	grep -q "^$id  running .* box\$" "$TEST_TMP/c.list" && "$DWCP" guests "$at" --check="$id" | grep -q "^good" &&
	! "$DWCP" guests "$at" --resume="$id" 2>/dev/null && "$DWCP" guests "$at" --drop="$id" &&
	[[ -z $("$DWCP" guests "$at") ]]; then
	ok "$t"
else
	bad "$t" "$(cat "$TEST_TMP/c.err")"
fi
stop_server

# ---- what cannot be -----------------------------------------------------------------------------

refused() { # name, status, text in the error, arguments…
	local name=$1 status=$2 text=$3
	shift 3
	"$@" >"$TEST_TMP/r.out" 2>"$TEST_TMP/r.err"
	local rc=$?
	if ((rc == status)) && grep -q "$text" "$TEST_TMP/r.err"; then ok "$name"; else bad "$name" "$rc: $(cat "$TEST_TMP/r.err")"; fi
}
refused "no such guest" 2 "no kind" "${move[@]}" --guest=cow
refused "no such tracker" 2 "there is no" "${move[@]}" --tracker=nose
refused "a dirty ring without a virtual machine" 1 "for kvm guests: use --tracker=uffd" "${move[@]}" --tracker=kvm-ring
refused "a limit for what is all blackout" 2 "choose precopy" "${move[@]}" --policy=stopcopy --max-bandwidth=1Gbps
refused "a limit of nothing" 2 "half of --timeout and more for each of 3 guests" "${move[@]}" --max-bandwidth=20bps --guests=3
refused "a limit that a blackout has more than, and none" 2 "what a blackout has more" "${move[@]}" --switchover-bandwidth=1Gbps
refused "a link to somebody else" 2 "choose it or --peer" "${move[@]}" --link=local_network --peer=127.0.0.1
refused "memory in halves of pages" 2 "multiple of 4 KB" "${move[@]}" --memory=16000001
refused "a chunk too large" 2 "at most 512 KB" "${move[@]}" --chunk-size=1MB
refused "nobody there" 1 "dwcp serve" "${move[@]}" --peer=127.0.0.1:9
refused "no such image" 1 "cannot be read" "${move[@]}" --image=/nonexistent
refused "a guest that dirties too much" 1 "allow --downtime-limit=" "${move[@]}" --dirty-rate=100000 --writers=2 \
	--downtime-limit=1ms --max-rounds=4 --memory=64MB
grep -q "guest's check *good.*goes on here" "$TEST_TMP/r.out" && ok "… goes on here" || bad "… goes on here" "$(cat "$TEST_TMP/r.out")"
"$DWCP" serve --listen=127.0.0.1:0 --stats-socket=none --max-memory=8MB >"$TEST_TMP/small.out" 2>/dev/null &
server=$!
for _ in $(seq 100); do
	at=$(sed -n 's/^listening on //p' "$TEST_TMP/small.out")
	[[ -n $at ]] && break
	sleep 0.05
done
refused "a destination too small" 1 "does not fit" "${move[@]}" --peer="$at"
stop_server

t="interrupted: the guest goes on here"
start_server int
"${move[@]}" --peer="$at" --dirty-rate=100000 --writers=2 --downtime-limit=1ms --max-rounds=100000 --memory=64MB \
	>"$TEST_TMP/i.out" 2>"$TEST_TMP/i.err" &
mover=$!
sleep 1.5
kill -TERM $mover
wait $mover
rc=$?
sleep 0.3
if ((rc == 130)) && grep -q "outcome *cancelled" "$TEST_TMP/i.out" && [[ -z $("$DWCP" guests "$at") ]]; then
	ok "$t"
else
	bad "$t" "$rc: $(cat "$TEST_TMP/i.err")"
fi
stop_server

# ---- kill -9 ------------------------------------------------------------------------------------

# About half a second of rounds, then a blackout of tens of milliseconds.
long=("${move[@]}" --memory=64MB --dirty-rate=20000 --writers=2 --downtime-limit=1ms --max-rounds=12 --force --timeout=2s)

# What the server holds: "running", "ready", or nothing.
phase_there() { "$DWCP" guests "$at" --timeout=2s 2>/dev/null | awk '{ print $2 }' | tr -d ,; }

# How long one takes here and now, in milliseconds; deaths come at moments within it.
start_server time
began=${EPOCHREALTIME/./}
"${long[@]}" --peer="$at" --settle=0 >/dev/null 2>&1
whole=$(((${EPOCHREALTIME/./} - began) / 1000))
stop_server
sometime() {
	local ms=$((whole * (25 + RANDOM % 85) / 100))
	sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"
}

source_dies() {
	local rc phase id
	start_server "src$1" || return 1
	"${long[@]}" --peer="$at" --doubt-time=2s >"$TEST_TMP/k.out" 2>"$TEST_TMP/k.err" &
	mover=$!
	sometime
	kill -9 $mover 2>/dev/null
	wait $mover 2>/dev/null
	# a session that lost its source ends after its time-out
	for _ in $(seq 100); do
		phase=$(phase_there)
		[[ $phase != receiving ]] && break
		sleep 0.1
	done
	id=$("$DWCP" guests "$at" | awk '{ print $1; exit }')
	rc=0
	case $phase in
	running) "$DWCP" guests "$at" --check="$id" | grep -q '^good' || rc=1 ;;
	ready) for _ in $(seq 80); do # nobody else has it: a person may say so, once the session is over
			"$DWCP" guests "$at" --resume="$id" 2>/dev/null && break
			sleep 0.1
		done
		"$DWCP" guests "$at" --check="$id" | grep -q '^good' || rc=1 ;;
	"") ;;
	*) rc=1 ;;
	esac
	seen_source+=("${phase:-gone}")
	stop_server
	return $rc
}

dest_dies() {
	local rc outcome
	start_server "dst$1" || return 1
	"${long[@]}" --peer="$at" --doubt-time=1s --timeout=1s >"$TEST_TMP/k.out" 2>"$TEST_TMP/k.err" &
	mover=$!
	sometime
	kill -9 "$server"
	wait "$server" 2>/dev/null
	wait $mover
	rc=$?
	outcome=$(awk '$1 == "outcome" { print $2 }' "$TEST_TMP/k.out")
	seen_dest+=("${outcome:-none}")
	case $outcome in
	rolled_back) grep -q "guest's check *good.*goes on here" "$TEST_TMP/k.out" ;;
	in_doubt) ((rc == 1)) && grep -q "stays paused here" "$TEST_TMP/k.err" ;;
	completed) true ;; # it was over before
	"") ((rc == 1)) ;; # not even connected
	*) false ;;
	esac
}

seen_source=() seen_dest=()
for ((i = 0; i < kills; i++)); do
	source_dies $i || bad "source killed, $i" "$(cat "$TEST_TMP/k.err")"
	dest_dies $i || bad "destination killed, $i" "$(cat "$TEST_TMP/k.out" "$TEST_TMP/k.err")"
done
echo "source killed: ${seen_source[*]}"
echo "destination killed: ${seen_dest[*]}"
((failed)) || ok "killed $kills times each"
exit $failed

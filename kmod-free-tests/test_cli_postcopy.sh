#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: no-valgrind no-asan timeout=240
# Post-copy between two processes over an emulated link: the link breaks and comes back, and either side is killed while
# the guest runs there and its pages are here.
set -uo pipefail
# shellcheck source=kmod-free-tests/cli.bash
. kmod-free-tests/cli.bash

# A link, a server on its side B, and a migration from its side A that takes seconds after the hand-over.
begin() { # options of migrate…
	L=t$$-$RANDOM
	trap 'timeout 20 "$DWCP" linkemu down --name=$L >/dev/null 2>&1; cleanup' EXIT
	dwcp linkemu up --name="$L" --rate=50Mbps --delay=1ms >"$dir/up" 2>"$dir/up.err" || {
		grep -qE 'not allowed|/dev/net/tun|no network namespaces' "$dir/up.err" && skip "$(sed 's/^dwcp: linkemu up: //' "$dir/up.err")"
		fail "$(cat "$dir/up.err")"
	}
	"$DWCP" linkemu exec --name="$L" B "$DWCP" serve --listen=198.18.0.2:7411 --stats-socket=none --log-level=info \
		>"$dir/serve.out" 2>"$dir/serve.err" &
	server=$!
	servers+=("$server")
	until_ok 20 grep -q '^listening' "$dir/serve.out"
	"$DWCP" linkemu exec --name="$L" A "$DWCP" migrate --peer=198.18.0.2 --policy=postcopy --memory=32MB --dirty-rate=50 \
		--name=box --warm-up=100ms --settle=100ms --streams=2 --timeout=2s --json="$dir/m.json" "$@" \
		>"$dir/m.out" 2>"$dir/m.err" &
	mover=$!
	servers+=("$mover")
	until_ok 30 grep -q 'guest box runs here' "$dir/serve.err"
}

there() { timeout 20 "$DWCP" linkemu exec --name="$L" B "$DWCP" "$@"; }
phase() { [[ $(there guests 198.18.0.2 | awk '{ print $2 }') == "$1" ]]; }

t_the_link_breaks_and_comes_back() {
	begin
	dwcp linkemu set --name="$L" --loss=100 >/dev/null
	until_ok 60 grep -q 'guest box is halted: [0-9]* of its pages' "$dir/serve.err"
	dwcp linkemu set --name="$L" --loss=0 >/dev/null
	reap $mover 90
	[[ $rc == 0 ]] || fail "$rc: $(cat "$dir/m.err" "$dir/serve.err")"
	jq -e '.outcome == "completed" and .verified and .self_check and .postcopy.recoveries >= 1' "$dir/m.json" >/dev/null ||
		fail "$(cat "$dir/m.json")"
	grep -q 'its source is back' "$dir/serve.err" || fail "$(cat "$dir/serve.err")"
}

t_the_source_is_killed() {
	begin
	kill -9 $mover
	until_ok 60 phase halted
	grep -q 'dwcp guests --drop' "$dir/serve.err" || fail "$(cat "$dir/serve.err")"
	id=$(there guests 198.18.0.2 | awk '{ print $1 }')
	expect 1 'still at its source' there guests 198.18.0.2 --resume="$id"
	expect 1 'halted' there guests 198.18.0.2 --check="$id"
	expect 0 '' there guests 198.18.0.2 --drop="$id"
	[[ -z $(there guests 198.18.0.2) ]] || fail "$(there guests 198.18.0.2)"
}

t_the_destination_is_killed() {
	begin --recover-time=3s
	kill -9 $server
	reap $mover 90
	[[ $rc == 1 ]] && grep -q 'pages that are only here' "$dir/m.err" || fail "$rc: $(cat "$dir/m.err")"
	jq -e '.outcome == "incomplete"' "$dir/m.json" >/dev/null || fail "$(cat "$dir/m.json")"
}

t_interrupted_it_finishes_first() {
	begin
	kill -TERM $mover
	reap $mover 90
	jq -e '.outcome == "completed"' "$dir/m.json" >/dev/null || fail "$rc $(cat "$dir/m.err")"
	grep -q 'they are sent first' "$dir/m.err" || fail "$(cat "$dir/m.err")"
}

run_tests

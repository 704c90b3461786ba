#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: no-valgrind no-asan timeout=240
# dwcp tune: its result in every form, a peer that vanishes, two at once, what is refused; and over a bad network.
set -uo pipefail
# shellcheck source=kmod-free-tests/cli.bash
. kmod-free-tests/cli.bash

# Short, and with few points: what is found is the machine's business.
quick=(--most-streams=4 --streams=2 --probe=200ms --limit=4s --chunk-size=64KB)

t_finds_and_writes() {
	serve
	expect 0 '' dwcp tune --peer="$at" "${quick[@]}" --output="$dir/t.yaml" --json="$dir/t.json"
	jq -e '.schema == "dwcp/1" and .command == "tune" and .measured and (.tried | length) >= 2 and .best.throughput_mbps > 0
		and ([.tried[] | .streams >= 1 and .streams <= 4 and .chunk_bytes > 0 and .throughput_mbps >= 0 and (.congestion | length) > 0]
		| all) and .link.rtt_ms >= 0 and .link.bandwidth_mbps >= .best.throughput_mbps and .documented_streams >= 8
		and (.best as $b | [.tried[] | select(.streams == $b.streams and .chunk_bytes == $b.chunk_bytes and .congestion == $b.congestion)]
		| length) == 1' "$dir/t.json" >/dev/null || fail "$(cat "$dir/t.json")"
	# What it wrote is what --config reads.
	expect 0 '' dwcp benchmark amst --config="$dir/t.yaml" --peer="$at" --data-size=1MB --iterations=1 --json="$dir/b.json"
	jq -e --argjson s "$(jq .best.streams "$dir/t.json")" --argjson c "$(jq .best.chunk_bytes "$dir/t.json")" \
		'.streams == $s and .chunk_bytes == $c' "$dir/b.json" >/dev/null || fail "$(cat "$dir/t.yaml" "$dir/b.json")"
	stop
}

t_text() {
	serve
	dwcp tune --peer="$at" "${quick[@]}" --congestion=cubic --output=none >"$dir/out" 2>"$dir/err" || fail "$(cat "$dir/err")"
	grep -qE '^congestion +chunk +streams' "$dir/out" || fail "$(cat "$dir/out")"
	grep -qE '^cubic +64 KB +2 .* #+' "$dir/out" || fail "$(cat "$dir/out")"
	grep -qE '^documented for such a link \((datacenter|hybrid|internet)\): [0-9]+ streams' "$dir/out" || fail "$(cat "$dir/out")"
	grep -qE '^best: [124] streams?, chunks of ' "$dir/out" || fail "$(cat "$dir/out")"
	! grep -q '^bbr' "$dir/out" || fail "tried what was not asked for: $(cat "$dir/out")"
	stop
}

t_exhaustive() {
	serve
	expect 0 '' dwcp tune --peer="$at" --most-streams=2 --probe=100ms --congestion=cubic --exhaustive --output=none --json="$dir/t.json"
	# 1 and 2 streams, three chunk sizes
	[[ $(jq '[.tried[] | [.streams, .chunk_bytes]] | unique | length' "$dir/t.json") == 6 ]] || fail "$(cat "$dir/t.json")"
	jq -e '.exhaustive and (.best.throughput_mbps == ([.tried[].throughput_mbps] | max))' "$dir/t.json" >/dev/null || fail "$(cat "$dir/t.json")"
	stop
}

# Big-endian 32 bits of a file, from byte $2 on.
be32() {
	od -An -tu4 --endian=big -j "$2" -N 4 "$1" | tr -d ' '
}

t_plot() {
	command -v gnuplot >/dev/null || skip "no gnuplot"
	serve
	expect 0 '' dwcp tune --peer="$at" "${quick[@]}" --congestion=cubic --output=none --plot="$dir/t.svg" --json="$dir/t.json"
	grep -q '</svg>' "$dir/t.svg" || fail "no whole picture"
	for word in streams Mb/s cubic; do
		grep -q ">.*$word" "$dir/t.svg" || fail "the picture does not say \"$word\""
	done
	# each rate is a point with bars of its error: gnuplot draws them as paths of the curve's group
	grep -q '<title>cubic</title>' "$dir/t.svg" || fail "no curve in the picture"
	expect 0 '' dwcp tune --peer="$at" "${quick[@]}" --output=none --plot="$dir/t.png"
	[[ $(be32 "$dir/t.png" 0) == 2303741511 && $(be32 "$dir/t.png" 4) == 218765834 ]] || fail "no PNG"
	[[ $(be32 "$dir/t.png" 16) == 800 && $(be32 "$dir/t.png" 20) == 500 ]] || fail "a picture of another size"
	[[ $(tail -c 8 "$dir/t.png" | head -c 4) == IEND ]] || fail "half a picture"
	stop
}

# What was measured is shown all the same.
t_plot_fails() {
	mkdir "$dir/empty"
	serve
	expect 1 'install it' env PATH="$dir/empty" "$DWCP" tune --peer="$at" "${quick[@]}" --limit=1s --output=none --plot="$dir/t.svg"
	[[ ! -e $dir/t.svg ]] || fail "a picture without gnuplot"
	expect 2 'not for gnuplot' dwcp tune --peer="$at" "${quick[@]}" --limit=1s --output=none --plot="$dir/it's.svg"
	if command -v gnuplot >/dev/null; then
		expect 1 'could not draw' dwcp tune --peer="$at" "${quick[@]}" --limit=1s --output=none --plot=/nowhere/t.svg
	fi
	stop
}

t_peer_vanishes() {
	serve
	dwcp tune --peer="$at" --probe=20s --limit=60s --timeout=1s --output="$dir/t.yaml" >"$dir/out" 2>"$dir/err" &
	local tuner=$!
	until_ok 10 sh -c "'$DWCP' stats --json $port | grep -q '\"streams\": [1-9]'"
	sleep 0.5
	kill -9 "$server"
	reap "$tuner" 30
	[[ $rc == 1 ]] || fail "status $rc: $(cat "$dir/err")"
	[[ $(grep -c '^dwcp: tune: ' "$dir/err") == 1 ]] || fail "not one line: $(cat "$dir/err")"
	[[ ! -e $dir/t.yaml ]] || fail "half a search became a configuration"
}

t_two_at_once() {
	serve
	dwcp tune --peer="$at" "${quick[@]}" --limit=8s --probe=2s --output=none --json="$dir/1.json" 2>"$dir/1.err" &
	local first=$!
	until_ok 10 sh -c "'$DWCP' stats --json $port | grep -q '\"streams\": [1-9]'"
	expect 0 'other session' dwcp tune --peer="$at" "${quick[@]}" --limit=1s --output=none --json="$dir/2.json"
	reap "$first" 60
	[[ $rc == 0 ]] || fail "status $rc: $(cat "$dir/1.err")"
	jq -e '.other_sessions >= 1 and .best.throughput_mbps > 0' "$dir/2.json" >/dev/null || fail "$(cat "$dir/2.json")"
	stop
}

t_interrupted() {
	serve
	"$DWCP" tune --peer="$at" --probe=1s --limit=60s --output="$dir/t.yaml" >"$dir/out" 2>"$dir/err" &
	local tuner=$!
	sleep 3
	kill -INT "$tuner"
	reap "$tuner" 20
	[[ $rc == 130 ]] || fail "status $rc: $(cat "$dir/err")"
	[[ ! -e $dir/t.yaml ]] || fail "half a search became a configuration"
	stop
}

t_refused() {
	expect 2 '--peer is missing' dwcp tune
	expect 2 'png or .svg' dwcp tune --peer=127.0.0.1:1 --plot=x.gif
	expect 2 'most-streams' dwcp tune --peer=127.0.0.1:1 --most-streams=513
	expect 2 'probe' dwcp tune --peer=127.0.0.1:1 --probe=1ms
	expect 2 'limit' dwcp tune --peer=127.0.0.1:1 --limit=-1
	expect 1 'nothing listens on' dwcp tune --peer=127.0.0.1:1 --output=none
	serve
	expect 1 'cannot write /nowhere/t.yaml' dwcp tune --peer="$at" "${quick[@]}" --output=/nowhere/t.yaml
	stop
}

# The streams of a running transfer follow the link, and the file is whole.
t_streams_auto() {
	serve --store="$dir/store"
	head -c 300000000 /dev/urandom >"$dir/file"
	expect 0 'verified' dwcp send --streams=auto --mode=auto "$dir/file" "$at"
	cmp "$dir/file" "$dir/store/file" || fail "the file differs"
	stop
}

# 100 Mb/s, 40 ms, 1 % of loss: one CUBIC stream cannot fill it, many or BBR can.
t_over_a_bad_link() {
	L=t$$-$RANDOM
	trap 'timeout 20 "$DWCP" linkemu down --name=$L >/dev/null 2>&1; cleanup' EXIT
	dwcp linkemu up --name="$L" --rate=100Mbps --delay=20ms --loss=1% >"$dir/up" 2>&1 || skip "$(tail -1 "$dir/up")"
	"$DWCP" linkemu exec --name="$L" B -- "$DWCP" serve --listen=198.18.0.2:7411 >"$dir/serve.out" 2>"$dir/serve.err" &
	until_ok 20 grep -q '^listening' "$dir/serve.out"
	expect 0 '' dwcp linkemu exec --name="$L" A -- "$DWCP" tune --peer=198.18.0.2 --most-streams=32 --streams=4 --probe=2s \
		--limit=25s --output="$dir/t.yaml" --json="$dir/t.json"
	jq -e '.link.rtt_ms > 30 and .link.loss > 0.002 and .mode != "datacenter" and .best.throughput_mbps > 10' "$dir/t.json" >/dev/null ||
		fail "$(cat "$dir/t.json")"
	jq -e '.best as $b | [.tried[] | select(.congestion == "cubic" and .streams <= 4)] | .[0].throughput_mbps < $b.throughput_mbps' \
		"$dir/t.json" >/dev/null || fail "$(cat "$dir/t.json")"
}

run_tests

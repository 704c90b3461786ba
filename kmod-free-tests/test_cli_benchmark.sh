#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: no-valgrind no-asan timeout=240
# dwcp benchmark amst: every field that scripts read, options, interruption, and no process left behind.
set -uo pipefail
# shellcheck source=kmod-free-tests/cli.bash
. kmod-free-tests/cli.bash

bench() {
	dwcp benchmark amst "$@"
}

field() { # jq-expression that must be true
	jq -es "length == 1 and (.[0] | ($1))" "$dir/out.json" >/dev/null || fail "not true: $1 in $(jq -c 'del(.intervals)' "$dir/out.json")"
}

children_of() {
	cat /proc/"$1"/task/*/children 2>/dev/null
}

t_too_few_files() {
	expect 1 'open files .*ulimit -n' timeout 20 bash -c "ulimit -n 20; exec '$DWCP' benchmark amst --data-size=1MB --iterations=1 --streams=8"
}

t_fields() {
	command -v jq >/dev/null || skip "no jq"
	expect 0 '' bench --data-size=8MB --iterations=4 --streams=4 --json="$dir/out.json"
	field '.schema == "dwcp/1" and .command == "benchmark amst" and .measured == true'
	field '.environment | has("host") and has("kernel") and has("cpu") and has("commit") and has("compiler") and has("date")'
	field '.backend == "tcp" and .mode == "auto" and .streams == 4 and .chunk_bytes == 262144'
	field '.bytes == 4 * 8 * 1048576 and .seconds > 0 and .chunks == 128 and .iterations == 4'
	field '.throughput_gbytes_per_s | .n == 4 and .ci95_low <= .median and .median <= .ci95_high and .median > 0'
	field '.session_setup_ms > 0'
	field '.latency_us | .p50 > 0 and .p50 <= .p95 and .p95 <= .p99 and .p99 <= .p999'
	field '.verified == true and .verified_bytes == 8 * 1048576'
	field '.copies | .zero_copy_bytes + .copied_bytes >= 32 * 1048576'
	field '.cpu_seconds | .sender > 0 and .receiver > 0'
	field '.rss_mbytes | .sender > 8 and .receiver > 8'
	field '.rss_over_regions_mbytes | .sender > 0 and .receiver > 0'
	field '.retransmits >= 0 and (.intervals | type == "array") and .interrupted == false'
}

t_duration_and_intervals() {
	command -v jq >/dev/null || skip "no jq"
	expect 0 '' bench --duration=1500ms --omit=200ms --interval=400ms --region=4MB --json="$dir/out.json"
	field '.verified == true and .region_bytes == 4194304 and .verified_bytes == 4194304'
	field '.intervals | length >= 2'
	field '.intervals | map(.t) == (map(.t) | sort)'
	field '(.intervals | map(.bytes) | add) == .bytes'
	field '.seconds >= 1.5 and .throughput_gbytes_per_s.n == (.intervals | map(select(.full)) | length)'
}

t_text() {
	bench --data-size=4MB --iterations=3 --interval=100ms >"$dir/out" 2>"$dir/err" || fail "$(cat "$dir/err")"
	grep -q 'verified *yes' "$dir/out" || fail "$(cat "$dir/out")"
	[[ ! -s $dir/err ]] || fail "standard error: $(cat "$dir/err")"
	grep -q $'\033' "$dir/out" && fail "colours without a terminal"
	return 0
}

t_over_an_emulated_link() {
	command -v jq >/dev/null || skip "no jq"
	local status=0
	bench --link=local_network --data-size=2MB --iterations=3 --json="$dir/out.json" >"$dir/out" 2>"$dir/err" || status=$?
	grep -qE 'not allowed|/dev/net/tun|no network namespaces' "$dir/err" && skip "$(cat "$dir/err")"
	[[ $status == 0 ]] || fail "$(cat "$dir/err")"
	grep -q '^A→B over local_network: 1 Gbps, delay 500 us' "$dir/out" || fail "$(cat "$dir/out")"
	field '.verified == true and .link == "local_network" and .session_setup_ms >= 2'
	field '.link_status.ab | .bytes_out >= 6 * 1048576 and .packets_out >= .bytes_out / 1500'
	field '.throughput_gbytes_per_s.median <= 0.125'
	expect 1 'there is no link' "$DWCP" linkemu status --name="$(jq -r .link_status.name "$dir/out.json")"
}

t_json_alone_on_standard_output() {
	command -v jq >/dev/null || skip "no jq"
	bench --data-size=1MB --iterations=2 --json >"$dir/out.json" || fail "$(cat "$dir/out.json")"
	field '.verified == true'
}

# On a terminal, what takes longer than two seconds shows that it goes on; never with JSON.
t_progress() {
	command -v script >/dev/null || skip "no script(1)"
	local long='benchmark amst --region=1MB --interval=0 --omit=2500ms --duration=100ms'
	TERM=xterm timeout 60 script -qec "$DWCP $long" /dev/null >"$dir/out" 2>&1 || fail "$(cat "$dir/out")"
	grep -q 'warming up' "$dir/out" || fail "no progress of --omit: $(cat "$dir/out")"
	TERM=xterm timeout 60 script -qec "$DWCP $long --json=$dir/out.json" /dev/null >"$dir/out" 2>&1 || fail "$(cat "$dir/out")"
	grep -q 'warming up' "$dir/out" && fail "progress beside JSON: $(cat "$dir/out")"
	return 0
}

t_as_documented() {
	command -v jq >/dev/null || skip "no jq"
	expect 0 '' bench --mode=datacenter --data-size=16MB --streams=512 --iterations=2 --json="$dir/out.json"
	field '.mode == "datacenter" and .streams == 512 and .verified == true'
}

t_sizes() {
	command -v jq >/dev/null || skip "no jq"
	local size
	for size in 1 4KB 64KB 1000001 1MB; do
		expect 0 '' bench --data-size="$size" --region=2MB --iterations=20 --json="$dir/out.json"
		field '.verified == true and .bytes == 20 * .data_bytes'
	done
	expect 0 '' bench --data-size=10MB --region=3MB --iterations=2 --json="$dir/out.json" # whole passes
	field '.verified == true and .data_bytes == 12 * 1048576 and .bytes == 24 * 1048576'
}

# Contents change after --omit and before each iteration: the digest is of the measured bytes.
t_verified_after_omit() {
	command -v jq >/dev/null || skip "no jq"
	local o
	for o in "" --reverse; do
		expect 0 '' bench --omit=200ms --data-size=300001 --region=1MB --iterations=9 --json="$dir/out.json" $o
		field '.verified == true and .bytes == 9 * 300001'
		expect 0 '' bench --omit=200ms --duration=300ms --region=3MB --json="$dir/out.json" $o
		field '.verified == true and .verified_bytes == 3 * 1048576'
	done
}

t_congestion() {
	command -v jq >/dev/null || skip "no jq"
	expect 0 '' bench --congestion=reno --data-size=1MB --iterations=1 --json="$dir/out.json"
	field '.congestion == "reno" and .congestion_option == "reno"'
	expect 0 '' bench --data-size=1MB --iterations=1 --json="$dir/out.json"
	field '.congestion != "auto" and (.congestion | length) > 2 and .congestion_option == "auto"'
	expect 0 '' bench --reverse --data-size=1MB --iterations=1 --json="$dir/out.json"
	field '.congestion == null'
}

t_reverse() {
	command -v jq >/dev/null || skip "no jq"
	expect 0 '' bench --reverse --data-size=8MB --iterations=3 --json="$dir/out.json"
	field '.verified == true and .reverse == true and .bytes == 24 * 1048576 and .latency_us == null'
	expect 0 '' bench -R --duration=500ms --interval=200ms --region=4MB --json="$dir/out.json"
	field '.verified == true and .seconds >= 0.5'
}

t_options() {
	local o
	for o in --checksum=none --checksum=crc32c --scheduling=round_robin --scheduling=least_loaded --workers=1 \
		--workers=3 --affinity=none --affinity=0 --chunk-size=4KB --chunk-size=4MB --mode=internet --ring-mode=basic \
		--zerocopy=on; do
		expect 0 'verified *yes' bench --data-size=8MB --iterations=2 "$o"
	done
}

t_peer() {
	serve
	expect 0 'verified *yes' bench --peer="$at" --data-size=4MB --iterations=2
	stop
	expect 1 "dwcp serve" bench --peer="$at"
	serve --max-memory=1MB
	expect 1 'max-memory' bench --peer="$at" --data-size=4MB
	stop
}

t_check() {
	expect 0 '' bench --data-size=4MB --iterations=2 --check --target-gbytes-per-s=0.0001
	expect 3 'below the target' bench --data-size=4MB --iterations=2 --check --target-gbytes-per-s=100000
	expect 2 'target-gbytes-per-s' bench --check
}

t_wrong_usage() {
	expect 2 'a peer sends what it has as it is' bench --compress=datacenter --reverse
	expect 2 'there is no profile "wan".*linkemu' bench --link=wan
	expect 2 'choose it or --peer' bench --link=local_network --peer=127.0.0.1
	expect 2 'out of range' bench --streams=0
	expect 2 'not understood' bench --data-size=lots
	expect 2 'did you mean --iterations' bench --iteration=1
	expect 2 'there is no command' dwcp benchmark amts
	expect 2 '' dwcp benchmark
	expect 1 'memory' bench --region=60TB --data-size=60TB
}

# What was measured is printed, what only the peer could tell is null and not 0, and no process is left.
interrupted() { # options…
	command -v jq >/dev/null || skip "no jq"
	"$DWCP" benchmark amst --region=4MB --interval=200ms --json="$dir/out.json" "$@" >"$dir/out" 2>&1 &
	local p=$! kids
	servers+=("$p")
	until_ok 30 grep -q 'sec\]' "$dir/out"
	kids=$(children_of "$p")
	[[ -n $kids ]] || fail "no receiver process"
	kill -INT "$p"
	reap "$p" 20
	[[ $rc == 130 ]] || fail "status $rc: $(cat "$dir/out")"
	grep -q throughput "$dir/out" || fail "nothing was printed: $(cat "$dir/out")"
	field '.interrupted == true and .bytes > 0 and .seconds > 0 and .chunks > 0 and .verified == false'
	field '.measured == true and .throughput_gbytes_per_s.median > 0'
	for p in $kids; do
		[[ ! -e /proc/$p ]] || fail "the receiver $p is left"
	done
}

t_interrupted() {
	interrupted --duration=60s
	field '.copies | .zero_copy_bytes + .copied_bytes > 0 and .received_copied_bytes == null'
	field '.cpu_seconds | .sender > 0 and .receiver == null'
	field '.rss_mbytes | .sender > 4 and .receiver == null'
	field '.latency_us.p50 > 0 and (.retransmits | type) == "number"'
}

t_interrupted_in_an_iteration() {
	interrupted --data-size=64GB
	field '.iterations == 0 and .cpu_seconds.sender > 0'
}

t_interrupted_in_reverse() {
	interrupted --reverse --duration=60s
	field '.copies | .received_zero_copy_bytes + .received_copied_bytes > 0 and .copied_bytes == null'
	field '.cpu_seconds | .receiver > 0 and .sender == null'
	field '.rss_mbytes | .receiver > 4 and .sender == null'
	field '.latency_us == null and .retransmits == null'
}

t_interrupted_in_reverse_in_an_iteration() {
	interrupted --reverse --data-size=64GB
	field '.iterations == 0 and .cpu_seconds.receiver > 0'
}

# The session never opens: the receiver is not waited for.
t_fails_before_its_session() {
	local begin=$EPOCHREALTIME
	expect 1 'memory' bench --region=60TB --data-size=60TB
	expect 1 'writing the result to /nowhere/result.json' bench --duration=60s --json=/nowhere/result.json
	awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { exit !(b - a < 2.5) }' || fail "it took more than 2.5 s"
}

t_receiver_dies_with_its_parent() {
	"$DWCP" benchmark amst --duration=60s --region=4MB --interval=200ms >"$dir/out" 2>&1 &
	local p=$! kid
	servers+=("$p")
	until_ok 30 grep -q 'sec\]' "$dir/out"
	kid=$(children_of "$p")
	kid=${kid// /}
	kill -9 "$p"
	reap "$p" 5
	until_ok 10 test ! -e "/proc/$kid"
}

t_receiver_killed() {
	"$DWCP" benchmark amst --timeout=1s --duration=60s --region=4MB --interval=200ms >"$dir/out" 2>&1 &
	local p=$! kid
	servers+=("$p")
	until_ok 30 grep -q 'sec\]' "$dir/out"
	kid=$(children_of "$p")
	kill -9 "${kid// /}"
	reap "$p" 40
	[[ $rc == 1 ]] || fail "status $rc: $(cat "$dir/out")"
}

t_configurations() {
	local f
	for f in configs/*.yaml; do
		expect 0 'verified *yes' bench --config="$f" --data-size=4MB --iterations=1 --duration=0s --omit=0s
	done
}

run_tests

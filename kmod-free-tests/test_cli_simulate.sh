#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: no-valgrind no-asan timeout=240
# dwcp simulate: its result in every form, repeatable, marked as what it is, and what is refused. dwcp calibrate, and that
# its file is what simulate reads.
set -uo pipefail
# shellcheck source=kmod-free-tests/cli.bash
. kmod-free-tests/cli.bash

many=(--vms=50 --memory=256MB --memory-max=4GB --dirty-rate=0.1 --dirty-rate-max=2 --link=25Gbps --cpus=8 --links=2)

t_json() {
	expect 0 '' dwcp simulate "${many[@]}" --details --json="$dir/s.json"
	jq -e '.schema == "dwcp/1" and .command == "simulate" and .measured == false and .simulated and .vms == 50
		and .completed + .rolled_back + .in_doubt == 50 and .completed > 40 and .makespan_seconds > 0
		and .migrations_per_s > 0 and .linearity > 0 and .efficiency > 0 and .efficiency <= 1
		and .downtime_ms.p50 > 0 and .downtime_ms.p50 <= .downtime_ms.p99 and .total_seconds.n == .completed
		and .bytes_per_vm <= 1200000 and (.migrations | length) == 50 and .config.rates.raw_send_ns > 0
		and ([.migrations[] | select(.outcome == "completed") | .downtime_ms <= 1000 * .total_seconds] | all)' \
		"$dir/s.json" >/dev/null || fail "$(head -c 3000 "$dir/s.json")"
}

t_one_guest_has_rounds() {
	dwcp simulate --memory=2GB --dirty-rate=5 --link=10Gbps --json >"$dir/s.json" || fail "status $?"
	jq -e '.migrations[0] | (.rounds | length) == .n_rounds and .rounds[0].pages == 524288 and (.rounds[-1].paused)
		and ([.rounds[].bytes_wire] | add) == .bytes_wire and .outcome == "completed"' "$dir/s.json" >/dev/null ||
		fail "$(cat "$dir/s.json")"
}

# Every line with a figure says that it is simulated.
t_text_says_what_it_is() {
	dwcp simulate "${many[@]}" --details --compress=auto >"$dir/out" || fail "status $?"
	head -1 "$dir/out" | grep -q '^SIMULATED, nothing here was measured' || fail "$(cat "$dir/out")"
	! tail -n +2 "$dir/out" | grep -v '^  simulated  ' | grep -v '^  (the simulation itself took ' | grep -q . ||
		fail "$(tail -n +2 "$dir/out" | grep -v '^  simulated  ')"
}

t_repeatable() {
	local i
	for i in 1 2 3; do
		dwcp simulate "${many[@]}" --failures=100 --outages=30 --seed=$((i / 3)) --json |
			jq 'del(.simulation_seconds, .environment, .config.seed)' >"$dir/$i.json" || fail "status $?"
	done
	cmp "$dir/1.json" "$dir/2.json" || fail "the same seed gave another answer"
	! cmp -s "$dir/1.json" "$dir/3.json" || fail "another seed gave the same answer"
}

t_a_thousand() {
	expect 0 '' dwcp simulate --vms=1000 --memory=1GB --memory-max=32GB --dirty-rate=0.5 --link=100Gbps --cpus=32 --parallel=8 --downtime-limit=300ms \
		--json="$dir/s.json"
	jq -e '.completed == 1000 and .efficiency > 0.3' "$dir/s.json" >/dev/null || fail "$(cat "$dir/s.json")"
}

t_calibrate() {
	expect 0 '' dwcp calibrate --turns=1 --memory=16MB --output="$dir/c.yaml" --json="$dir/c.json"
	jq -e '.command == "calibrate" and .measured and .turns == 1 and .rates.raw_bytes > 4096 and .rates.raw_bytes < 4200
		and .rates.zero_bytes < 50 and .rates.raw_send_ns > 0 and .rates.raw_recv_ns > 0 and .rates.cpus > 0
		and .rates.internet_bytes < 3000 and .rates.auto_delta_bytes < 1000' "$dir/c.json" >/dev/null || fail "$(cat "$dir/c.json")"
	expect 0 '' dwcp simulate --calibration="$dir/c.yaml" --same-host --json="$dir/s.json"
	jq -e --slurpfile c "$dir/c.json" '.config.rates.raw_bytes as $r | $c[0].rates.raw_bytes | . - $r | fabs < 0.01' \
		"$dir/s.json" >/dev/null || fail "$(cat "$dir/c.yaml")"
	expect 2 'turns' dwcp calibrate --turns=0
	expect 2 'memory' dwcp calibrate --memory=1MB
	expect 1 'nowhere' dwcp calibrate --output="$dir/nowhere/c.yaml"
}

t_refused() {
	local file=$dir/c.yaml
	expect 2 'vms' dwcp simulate --vms=0
	expect 2 'vms' dwcp simulate --vms=many
	expect 2 'pattern' dwcp simulate --pattern=chess
	expect 2 'memory' dwcp simulate --memory=1KB
	expect 1 '--memory' dwcp simulate --memory=2GB --memory-max=1GB
	expect 2 'dirty-rate' dwcp simulate --dirty-rate=-1
	expect 1 '--dirty-rate' dwcp simulate --dirty-rate=9 --dirty-rate-max=1
	expect 1 '--working-set' dwcp simulate --working-set=0
	expect 1 'links for' dwcp simulate --vms=2 --links=3
	expect 1 'multiple of 4 KB' dwcp simulate --chunk-size=5000
	expect 1 "No such file" dwcp simulate --calibration="$dir/none.yaml"
	echo 'rates: {cpus: 2}' >"$file"
	expect 1 'is missing' dwcp simulate --calibration="$file"
	echo 'rates: {cpu: 2}' >"$file"
	expect 1 'cpu' dwcp simulate --calibration="$file"
	echo 'rates: [' >"$file"
	expect 1 'c.yaml' dwcp simulate --calibration="$file"
	head -c 1000 /dev/urandom >"$file"
	expect 1 'c.yaml' dwcp simulate --calibration="$file"
	expect 1 'nowhere' dwcp simulate --json="$dir/nowhere/x.json"
}

run_tests

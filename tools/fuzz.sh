#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Runs libFuzzer programs, two at a time, FUZZ_TIME seconds each. Seeds come from kmod-free-tests/fuzz/corpus/<name>,
# what is found is kept below $B/corpus. $COUNTS, if set, gets a line "passed failed skipped".
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
: "${B:=build/clang-fuzz}" "${FUZZ_TIME:=60}"
logs=$B/logs/fuzz
rm -rf "$logs"
mkdir -p "$logs"

fuzz_one() {
	local name=${1##*/fuzz_} seeds
	seeds=kmod-free-tests/fuzz/corpus/$name
	mkdir -p "$B/corpus/$name"
	[[ -d $seeds ]] || seeds=
	timeout -k 10 $((FUZZ_TIME + 60)) "$1" -max_total_time="$FUZZ_TIME" -timeout=10 -rss_limit_mb=2048 \
		-print_final_stats=1 -artifact_prefix="$logs/$name-" "$B/corpus/$name" ${seeds:+"$seeds"} \
		>"$logs/$name.log" 2>&1 </dev/null
	echo $? >"$logs/$name.rc"
}

passed=0 failed=0
for bin in "$@"; do
	fuzz_one "$bin" &
	while (($(jobs -rp | wc -l) >= 2)); do wait -n; done
done
wait
for bin in "$@"; do
	name=${bin##*/fuzz_}
	runs=$(awk '/stat::number_of_executed_units/ { print $2 }' "$logs/$name.log")
	if [[ $(cat "$logs/$name.rc") == 0 && ${runs:-0} -gt 0 ]]; then
		passed=$((passed + 1))
		printf '  fuzz %-24s %s inputs in %s s\n' "$name" "$runs" "$FUZZ_TIME"
	else
		failed=$((failed + 1))
		printf '\n---- fuzz %s: FAILED (exit status %s) ----\n' "$name" "$(cat "$logs/$name.rc")"
		tail -n 200 "$logs/$name.log"
		find "$logs" -name "$name-*" -printf '  input: %p\n'
	fi
done
[[ -z ${COUNTS:-} ]] || echo "$passed $failed 0" >>"$COUNTS"
echo "fuzz: $passed ok, $failed not ok"
((failed == 0))

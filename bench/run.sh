#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Measures on this machine what docs/RESULTS.md reports, about 20 minutes; prints tables, and leaves them in
# build/bench/results.md and results.json. Options (--quick, --only=cold,files, --check …): see `bench/run.sh --help`;
# from make: `make bench BENCH_ARGS=--quick`. Exit status: 0 measured, 1 a run failed, 3 --check and a target is missed.
set -euo pipefail
cd "$(dirname "$0")/.."

B=${B:-build/gcc}
suite=$B/bench/suite
out=$(dirname "$B")/bench
if [[ ! -x $suite ]]; then
	echo "bench: $suite is missing: run \`make' first" >&2
	exit 1
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
dir=$(mktemp -d "$out/scratch.XXXXXX")
pid=
finish() {
	if [[ -n $pid ]]; then
		kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
	fi
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$suite" --dir="$dir" --json="$out/results.json" --markdown="$out/results.md" "$@" &
pid=$!
status=0
wait "$pid" || status=$?
pid=
exit "$status"

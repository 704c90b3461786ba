#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Measures on this machine what docs/RESULTS.md reports, about 20 minutes; prints tables, and leaves them in
# build/bench/results.md and results.json. Options (--quick, --only=cold,files, --check …): see `bench/run.sh --help`;
# from make: `make bench BENCH_ARGS=--quick`. `--record` puts the tables into docs/RESULTS.md, between their markers; with
# --only=hde,hde-scan,hde-suite,hde-selector those of compression.
# Exit status: 0 measured, 1 a run failed, 2 wrong usage, 3 --check and a target is missed.
set -euo pipefail
cd "$(dirname "$0")/.."

B=${B:-build/gcc}
suite=$B/bench/suite
out=$(dirname "$B")/bench
if [[ ! -x $suite ]]; then
	echo "bench: $suite is missing: run \`make' first" >&2
	exit 1
fi

record=false
part=transport
args=()
for arg in "$@"; do
	if [[ $arg == --record ]]; then record=true; else args+=("$arg"); fi
	if [[ $arg == --only=hde* ]]; then part=compression; fi
done

mkdir -p "$out"
out=$(cd "$out" && pwd)
dir=$(mktemp -d "$out/scratch.XXXXXX")
pid=
finish() {
	if [[ -n $pid ]]; then
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	fi
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$suite" --dir="$dir" --json="$out/results.json" --markdown="$out/results.md" ${args[@]+"${args[@]}"} &
pid=$!
status=0
wait "$pid" || status=$?
pid=

# Replaces what is between the markers; the rest of the file is written by hand.
record_in() {
	awk -v from="$2" -v part="$part" '
		$0 == "<!-- end of " part " -->" { skip = 0 }
		!skip { print }
		$0 == "<!-- " part ": written by bench/run.sh --record -->" {
			print ""
			while ((getline line <from) > 0) print line
			skip = 1
		}' "$1" >"$1.new"
	mv -f "$1.new" "$1"
}

if $record && ((status == 0 || status == 3)); then
	record_in docs/RESULTS.md "$out/results.md"
	echo "wrote docs/RESULTS.md"
fi
exit "$status"

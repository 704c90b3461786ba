#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# RDMA over soft-RoCE in a throw-away guest, in turns with perftest: the tables of docs/RESULTS.md. Options are settings
# of bench/guest_rdma.sh: `make bench-guest BENCH_ARGS="rounds=3 only=bandwidth"`. Leaves build/bench/guest.md.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${B:=build/gcc}"
export B
out=$(dirname "$B")/bench
mkdir -p "$out"
rc=0
kmod-free-tests/guest/guest.sh --time "${GUEST_BENCH_LIMIT:-900}" --memory 2048 bench/guest_rdma.sh "$@" >"$out/guest.md.new" ||
	rc=$?
cat "$out/guest.md.new"
if ((rc == 77)); then
	echo "bench: no guest can be had here" >&2
	rm -f "$out/guest.md.new"
	exit 0
fi
((rc != 0)) || mv -f "$out/guest.md.new" "$out/guest.md"
exit $rc

#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Compression end to end over TCP: files and memory arrive as they were, in fewer bytes.
set -uo pipefail

status=0
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null' EXIT
say() {
	printf '%s %s\n' "$1" "$2"
	[[ $1 == PASS ]] || status=1
}

mkdir -p "$TEST_TMP/store"
content=$TEST_TMP/content
for _ in $(seq 30); do cat docs/WIRE.md docs/OPTIONS.md; done >"$content"
head -c 2000000 /dev/zero >>"$content"
head -c 1000001 /dev/urandom >>"$content"

"$DWCP" serve --listen 127.0.0.1:0 --store "$TEST_TMP/store" >"$TEST_TMP/serve.log" 2>&1 &
server=$!
for _ in $(seq 100); do
	at=$(sed -n 's/^listening on //p' "$TEST_TMP/serve.log" 2>/dev/null)
	[[ -z $at ]] || break
	sleep 0.1
done

# verdict NAME STATUS
verdict() {
	if (($2 == 0)); then
		say PASS "$1"
	else
		cat "$TEST_TMP/err"
		say FAIL "$1"
	fi
}

sent() {
	cp "$content" "$TEST_TMP/$1"
	"$DWCP" send "$TEST_TMP/$1" "$at" "--compress=$1" "--json=$TEST_TMP/$1.json" >/dev/null 2>"$TEST_TMP/err" &&
		cmp -s "$content" "$TEST_TMP/store/$1" &&
		jq -e ".bytes_wire > 1000000 and .bytes_wire < $2" "$TEST_TMP/$1.json" >/dev/null
}
# Whether text is worth a codec on a fast link is for this machine to say; zeros never are sent.
for mode in auto datacenter; do
	sent $mode '.bytes_sent - 1900000'
	verdict send_$mode $?
done
sent internet '.bytes_sent / 2'
verdict send_internet $?

bench() {
	"$DWCP" benchmark amst --data-size=4MB --iterations=2 --json "$@" 2>"$TEST_TMP/err"
}
bench "--content=$content" --compress=datacenter |
	jq -e '.verified and .bytes_wire < .bytes and .hde.hde_zero_pages > 100' >/dev/null
verdict bench_file $?
bench --compress=auto | jq -e '.verified and .hde.hde_put_pages == 2048 and .bytes_wire == .bytes' >/dev/null
verdict bench_random $?
bench --content=/nonexistent --compress=auto >/dev/null
(($? == 1)) && grep -q 'cannot read "/nonexistent"' "$TEST_TMP/err"
verdict no_content $?
exit $status

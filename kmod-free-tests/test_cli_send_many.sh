#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# dwcp send of many files of which some fail: the others arrive, are not sent again and again for that, and each that
# fails is named.
#
# check: no-valgrind timeout=120
set -uo pipefail
# shellcheck source=kmod-free-tests/cli.bash
. kmod-free-tests/cli.bash

# A server below this limit or in this namespace: words before `dwcp serve`.
serve_by() {
	"$@" "$DWCP" serve --listen=127.0.0.1:0 --stats-socket=none --store="$dir/store" >"$dir/serve.out" 2>"$dir/serve.err" &
	server=$!
	servers+=("$server")
	until_ok 20 grep -q '^listening' "$dir/serve.out"
	at=$(sed -n 's/^listening on //p' "$dir/serve.out")
}

files() { # number bytes: in $dir/many
	local i
	mkdir -p "$dir/many" "$dir/store"
	for ((i = 0; i < $1; i++)); do
		head -c "$2" /dev/urandom >"$dir/many/f$i"
	done
}

says() { # jq expression about $dir/json
	jq -e "$1" "$dir/json" >/dev/null || fail "not true: $1 in $(cat "$dir/json" "$dir/err" | head -c 2000)"
}

t_some_become_shorter() {
	local i
	files 60 1M
	serve_by env
	"$DWCP" send --json -r --pacing-enabled --pacing-rate=50Mbps --streams=4 "$dir/many" "$at" >"$dir/json" 2>"$dir/err" &
	until_ok 20 test -e "$dir/store/many/.f59.dwcp-part"
	for ((i = 0; i < 60; i += 10)); do
		truncate -s 1000 "$dir/many/f$i"
	done
	wait $! && fail "nothing failed"
	says '.files == 54 and .failed == 6 and (.failures | length == 6) and .bytes_sent < 2 * 60 * 1048576'
	[[ ! -e $dir/store/many/f10 ]] || fail "a file that was cut is there"
	cmp "$dir/many/f59" "$dir/store/many/f59" || fail "another one is not right"
}

t_disk_fills_up() {
	unshare -Urm true 2>/dev/null || skip "this machine gives no user namespace"
	files 20 1M
	unshare -Urm bash -c "mount -t tmpfs -o size=8m none '$dir/store'" 2>/dev/null || skip "tmpfs cannot be mounted"
	# shellcheck disable=SC2016
	serve_by unshare -Urm bash -c 'mount -t tmpfs -o size=8m none "$0/store" && exec "$@"' "$dir"
	dwcp send --json -r "$dir/many" "$at" >"$dir/json" 2>"$dir/err" && fail "nothing failed"
	says '.failed > 0 and .files + .failed == 20 and (.failures | length) == .failed and .bytes_sent < 8 * 8 * 1048576'
	grep -q 'No space left.*--resume' "$dir/err" || fail "$(cat "$dir/err")"
}

t_each_failure_is_named() {
	local i
	files 1 10
	for ((i = 0; i < 25; i++)); do
		: >"$dir/many/a"$'\n'"$i"
	done
	ln -s f0 "$dir/many/link"
	serve_by env
	dwcp send --json -r "$dir/many" "$at" >"$dir/json" 2>"$dir/err" && fail "nothing failed"
	says '.files == 1 and .failed == 25 and (.failures | length == 25) and ([.failures[].name] | unique | length == 25)'
	says '.skipped == 1 and .not_sent[0].reason == "is a symbolic link"'
	[[ $(grep -c 'not sent: .*a.*control' "$dir/err") == 25 ]] || fail "$(cat "$dir/err")"
}

all_there() {
	says '.files == 400 and .failed == 0'
	diff -r "$dir/many" "$dir/store/many" || fail "they differ"
}

t_few_descriptors_there() {
	files 400 20
	# shellcheck disable=SC2016
	serve_by bash -c 'ulimit -n 70 && exec "$@"' _
	dwcp send --json -r "$dir/many" "$at" >"$dir/json" 2>"$dir/err" || fail "$(tail -n 3 "$dir/err")"
	all_there
	for f in "$dir"/many/*; do
		echo changed >>"$f"
	done
	dwcp send --json -r --resume --streams=2 "$dir/many" "$at" >"$dir/json" 2>"$dir/err" || fail "$(tail -n 3 "$dir/err")"
	all_there
	says '.bytes == .bytes_sent + .bytes_equal + .bytes_holes'
}

# Folders that find none at first get their modes and times all the same.
t_folders_and_few_descriptors() {
	local i
	for ((i = 0; i < 60; i++)); do
		mkdir -p "$dir/many/d$i" "$dir/store"
		echo $i >"$dir/many/d$i/a"
		echo $i >"$dir/many/d$i/b"
		chmod 0510 "$dir/many/d$i"
		touch -d '2001-02-03 04:05:06' "$dir/many/d$i"
	done
	# shellcheck disable=SC2016
	serve_by bash -c 'ulimit -n 50 && exec "$@"' _
	dwcp send --json -r --streams=2 "$dir/many" "$at" >"$dir/json" 2>"$dir/err" || fail "$(tail -n 3 "$dir/err")"
	says '.files == 120 and .folders == 61 and .failed == 0'
	for ((i = 0; i < 60; i++)); do
		[[ $(stat -c '%a %Y' "$dir/store/many/d$i") == "$(stat -c '%a %Y' "$dir/many/d$i")" ]] || fail "d$i: $(stat "$dir/store/many/d$i")"
	done
}

# The receiver has no descriptor left, and gets none: nothing is lost in silence.
t_no_descriptor_at_all() {
	files 300 20
	head -c 8M /dev/urandom >"$dir/many/a"
	serve_by env
	"$DWCP" send --json -r --pacing-enabled --pacing-rate=20Mbps --streams=2 "$dir/many" "$at" >"$dir/json" 2>"$dir/err" &
	until_ok 20 test -e "$dir/store/many/.a.dwcp-part"
	prlimit --pid "$server" --nofile=3:
	wait $! && fail "nothing failed"
	prlimit --pid "$server" --nofile=1024:
	says '.failed > 0 and .files + .folders + .failed == 302 and (.failures | length) == .failed and .complete == false'
	grep -q "Too many open files.*at $at" "$dir/err" || fail "$(cat "$dir/err")"
}

t_few_descriptors_here() {
	files 400 20
	serve_by env
	(ulimit -n 64 && "$DWCP" send --json -r --streams=2 "$dir/many" "$at") >"$dir/json" 2>"$dir/err" ||
		fail "$(tail -n 3 "$dir/err")"
	all_there
}

# Holes are not read, and are not what is equal.
t_resume_over_holes() {
	files 1 10
	truncate -s 1G "$dir/many/sparse"
	printf x | dd of="$dir/many/sparse" bs=1 seek=900000000 conv=notrunc status=none
	serve_by env
	dwcp send -r "$dir/many" "$at" >"$dir/out" 2>&1 || fail "$(cat "$dir/out")"
	printf y | dd of="$dir/store/many/sparse" bs=1 seek=400000000 conv=notrunc status=none # not a hole there
	touch -d yesterday "$dir/many/sparse"
	dwcp send --json -r --resume "$dir/many" "$at" >"$dir/json" 2>"$dir/err" || fail "$(cat "$dir/err")"
	says '.bytes_equal < 2 * 1048576 and .bytes_holes > 1000000000 and .bytes == .bytes_sent + .bytes_equal + .bytes_holes'
	cmp "$dir/many/sparse" "$dir/store/many/sparse" || fail "they differ"
}

run_tests

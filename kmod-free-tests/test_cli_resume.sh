#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: no-valgrind timeout=240
# Interrupted transfers: nothing incomplete takes a name, and --resume sends only the rest.
set -uo pipefail
# shellcheck source=kmod-free-tests/cli.bash
. kmod-free-tests/cli.bash

slow=(--streams=2 --pacing-enabled --pacing-rate=100Mbps) # 25 MB/s

part_kb() { # how much of the part file is on disk
	local n
	n=$(du -k "$dir/store/.file.dwcp-part" 2>/dev/null | cut -f1)
	echo "${n:-0}"
}

part_has() { # KB
	(($(part_kb) >= $1))
}

number() { # field file
	sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$2"
}

# Goes on from the part file, and must not send what is there.
finish() {
	local sent equal size
	size=$(stat -c %s "$dir/file")
	expect 0 '' dwcp send --resume --json="$dir/out.json" "$dir/file" "$at"
	cmp "$dir/file" "$dir/store/file" || fail "not equal after --resume"
	[[ ! -e $dir/store/.file.dwcp-part ]] || fail "the part file stays"
	sent=$(number bytes_sent "$dir/out.json")
	equal=$(number bytes_equal "$dir/out.json")
	((equal >= 1048576)) || fail "nothing was found equal ($equal)"
	((sent + equal == size)) || fail "sent $sent, equal $equal, size $size"
}

begin() { # a slow transfer that has put 4 MB at least
	head -c 32M /dev/urandom >"$dir/file"
	"$DWCP" send "${slow[@]}" "$dir/file" "$at" >"$dir/out" 2>&1 &
	sender=$!
	servers+=("$sender")
	until_ok 20 part_has 4096
	[[ ! -e $dir/store/file ]] || fail "an incomplete file has its name"
}

t_sender_killed() {
	serve --store="$dir/store"
	begin
	kill -9 "$sender"
	reap "$sender" 5
	sleep 0.3
	[[ ! -e $dir/store/file ]] || fail "an incomplete file has its name"
	finish
	stop
}

t_receiver_killed() {
	serve --store="$dir/store"
	begin
	kill -9 "$server"
	reap "$server" 5
	[[ ! -e $dir/store/file ]] || fail "an incomplete file has its name"
	kill -TERM "$sender"
	reap "$sender" 20
	[[ $rc == 130 ]] || fail "the sender ended with status $rc: $(cat "$dir/out")"
	serve --store="$dir/store"
	finish
	stop
}

t_sender_without_a_receiver_gives_up() {
	serve --store="$dir/store"
	head -c 32M /dev/urandom >"$dir/file"
	"$DWCP" send "${slow[@]}" --timeout=1s "$dir/file" "$at" >"$dir/out" 2>&1 &
	sender=$!
	servers+=("$sender")
	until_ok 20 part_has 2048
	kill -9 "$server"
	reap "$server" 5
	reap "$sender" 40
	[[ $rc == 1 ]] || fail "status $rc"
	grep -q -- '--resume' "$dir/out" || fail "no remedy: $(cat "$dir/out")"
}

t_interrupted() {
	serve --store="$dir/store"
	begin
	kill -INT "$sender"
	reap "$sender" 20
	[[ $rc == 130 ]] || fail "status $rc: $(cat "$dir/out")"
	grep -q 'sent' "$dir/out" || fail "nothing was printed: $(cat "$dir/out")"
	[[ -e $dir/store/.file.dwcp-part ]] || fail "no part file"
	finish
	stop
}

t_server_ended() {
	serve --store="$dir/store"
	begin
	stop
	reap "$sender" 60
	[[ $rc == 1 ]] || fail "status $rc: $(cat "$dir/out")"
	[[ -e $dir/store/.file.dwcp-part && ! -e $dir/store/file ]] || fail "$(ls -A "$dir/store")"
	serve --store="$dir/store"
	finish
	stop
}

# A complete older file: only what changed is sent.
t_update_of_a_complete_file() {
	serve --store="$dir/store"
	head -c 16M /dev/urandom >"$dir/file"
	expect 0 '' dwcp send "$dir/file" "$at"
	printf changed | dd of="$dir/file" bs=1 seek=5000000 conv=notrunc 2>/dev/null
	head -c 100 /dev/urandom >>"$dir/file"
	expect 0 '' dwcp send --resume --json="$dir/out.json" "$dir/file" "$at"
	cmp "$dir/file" "$dir/store/file" || fail "not equal"
	(($(number bytes_sent "$dir/out.json") == 1048576 + 100)) || fail "$(cat "$dir/out.json")"
	truncate -s 3000000 "$dir/file"
	expect 0 '' dwcp send --resume --json="$dir/out.json" "$dir/file" "$at"
	cmp "$dir/file" "$dir/store/file" || fail "not equal after it became shorter"
	(($(number bytes_sent "$dir/out.json") <= 1048576)) || fail "$(cat "$dir/out.json")"
	stop
}

# A hole where the part has old bytes must become zeros.
t_hole_over_old_bytes() {
	serve --store="$dir/store"
	head -c 4M /dev/urandom >"$dir/store/file"
	truncate -s 6M "$dir/file"
	printf x | dd of="$dir/file" bs=1 seek=100 conv=notrunc 2>/dev/null
	expect 0 '' dwcp send --resume "$dir/file" "$at"
	cmp "$dir/file" "$dir/store/file" || fail "not equal"
	stop
}

t_changed_while_sent() {
	serve --store="$dir/store"
	begin
	printf changed | dd of="$dir/file" bs=1 seek=1000 conv=notrunc 2>/dev/null
	reap "$sender" 60
	[[ $rc == 1 ]] || fail "status $rc: $(cat "$dir/out")"
	grep -q file "$dir/out" || fail "$(cat "$dir/out")"
	[[ ! -e $dir/store/file ]] || fail "a mixture of old and new has the name"
	finish
	stop
}

t_shorter_while_sent() {
	serve --store="$dir/store"
	echo small >"$dir/other"
	head -c 32M /dev/urandom >"$dir/file"
	"$DWCP" send "${slow[@]}" "$dir/file" "$dir/other" "$at" >"$dir/out" 2>&1 &
	sender=$!
	servers+=("$sender")
	until_ok 20 part_has 2048
	truncate -s 1M "$dir/file"
	reap "$sender" 60
	[[ $rc == 1 ]] || fail "status $rc: $(cat "$dir/out")"
	grep -q 'shorter' "$dir/out" || fail "$(cat "$dir/out")"
	[[ ! -e $dir/store/file ]] || fail "an incomplete file has its name"
	cmp "$dir/other" "$dir/store/other" || fail "the other file did not arrive"
	stop
}

# Either process is killed at random moments, again and again; then one transfer ends in order.
t_fifty_kills() {
	local i dead kills=50
	[[ ${TEST_SET:-all} == all ]] || kills=15 # a sanitizer's programs take several times as long
	RANDOM=4711
	serve --store="$dir/store"
	head -c 24M /dev/urandom >"$dir/file"
	for ((i = 0; i < kills; i++)); do
		"$DWCP" send --resume --timeout=2s --pacing-enabled --pacing-rate=100Mbps --streams=3 "$dir/file" "$at" \
			>"$dir/out" 2>&1 &
		sender=$!
		servers+=("$sender")
		sleep "0.$(printf '%03d' $((RANDOM % 250)))"
		dead=$((RANDOM % 2))
		((dead)) && kill -9 "$server"
		kill -9 "$sender" 2>/dev/null
		reap "$sender" 10
		if ((dead)); then
			reap "$server" 10
			serve --store="$dir/store"
		fi
		[[ ! -e $dir/store/file ]] || cmp "$dir/file" "$dir/store/file" || fail "round $i: a file that is not whole"
	done
	expect 0 '' dwcp send --resume "$dir/file" "$at"
	cmp "$dir/file" "$dir/store/file" || fail "not equal"
	stop
}

# What is equal over there stays what it is: its other names, and no flush for nothing.
t_equal_files_stay() {
	serve --store="$dir/store"
	mkdir "$dir/tree"
	head -c 3M /dev/urandom >"$dir/tree/a"
	echo b >"$dir/tree/b"
	expect 0 '' dwcp send -r "$dir/tree" "$at"
	ln "$dir/store/tree/a" "$dir/store/other"
	echo c >"$dir/tree/b"
	touch -d '2003-04-05 06:07:08.9' "$dir/tree/a"
	expect 0 'files +2' dwcp send -r --resume "$dir/tree" "$at"
	[[ $dir/store/other -ef $dir/store/tree/a ]] || fail "an equal file was replaced"
	[[ $(stat -c '%a %y' "$dir/tree/a") == "$(stat -c '%a %y' "$dir/store/tree/a")" ]] || fail "mode or time"
	diff -r "$dir/tree" "$dir/store/tree" || fail "not equal"
	stop
}

run_tests

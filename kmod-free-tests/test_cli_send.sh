#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: tsan no-valgrind timeout=240
# dwcp send: files and trees arrive as they were, and every mistake says what to do.
set -uo pipefail
# shellcheck source=kmod-free-tests/cli.bash
. kmod-free-tests/cli.bash

listing() { # folder: names, modes, times and sizes, without symbolic links
	(cd "$1" && find . ! -type l -printf '%P %y %m %T@ %s\n' | sort)
}

t_one_file() {
	serve --store="$dir/store"
	head -c 5000001 /dev/urandom >"$dir/file"
	chmod 640 "$dir/file"
	touch -d '2003-04-05 06:07:08.9' "$dir/file"
	expect 0 'verified [0-9]+ chunks by xxh3, receiver confirmed' dwcp send "$dir/file" "$at"
	cmp "$dir/file" "$dir/store/file" || fail "not equal"
	[[ $(stat -c '%a %y' "$dir/file") == "$(stat -c '%a %y' "$dir/store/file")" ]] || fail "mode or time"
	stop
}

t_several_files() {
	serve --store="$dir/store"
	local i
	for i in 1 2 3 4 5; do
		head -c $((i * 70001)) /dev/urandom >"$dir/f$i"
	done
	: >"$dir/empty"
	printf x >"$dir/one-byte"
	expect 0 'files +7' dwcp send --fsync "$dir"/f? "$dir/empty" "$dir/one-byte" "$at"
	for i in f1 f2 f3 f4 f5 empty one-byte; do
		cmp "$dir/$i" "$dir/store/$i" || fail "$i is not equal"
	done
	stop
}

t_more_files_than_a_batch() {
	serve --store="$dir/store"
	mkdir "$dir/many"
	local i
	for ((i = 0; i < 700; i++)); do
		echo "$i" >"$dir/many/a-rather-long-name-so-that-requests-fill-up-before-the-batch-does-$i"
	done
	expect 0 'files +700' dwcp send -r "$dir/many" "$at"
	diff -r "$dir/many" "$dir/store/many" || fail "not equal"
	stop
}

make_tree() { # folder
	mkdir -p "$1"/{a/b/c,empty,closed,"odd name"}
	head -c 300000 /dev/urandom >"$1/a/b/random"
	: >"$1/a/b/c/zero"
	truncate -s 40M "$1/a/sparse"
	printf data | dd of="$1/a/sparse" bs=1 seek=30000000 conv=notrunc 2>/dev/null
	truncate -s 3M "$1/a/only-a-hole"
	echo odd >"$1/odd name/-r *?\"'\$ü"
	printf 'x' >"$1/odd name/"$'\xff\xfe'
	echo closed >"$1/closed/read-only"
	chmod 444 "$1/closed/read-only"
	chmod 750 "$1/a/b"
	chmod 600 "$1/a/b/random"
	touch -d '1999-12-31 23:59:59.123456789' "$1/a/b/random" "$1/closed/read-only"
	touch -d '2010-01-01' "$1/empty" "$1/closed" "$1/a"
	chmod 555 "$1/closed"
	touch -d '2012-02-03 04:05:06.7' "$1"
}

t_tree() {
	serve --store="$dir/store"
	make_tree "$dir/tree"
	expect 0 'folders +7' dwcp send -r "$dir/tree" "$at"
	diff -r "$dir/tree" "$dir/store/tree" || fail "not equal"
	diff <(listing "$dir/tree") <(listing "$dir/store/tree") || fail "modes or times"
	(($(du -k "$dir/store/tree/a/sparse" | cut -f1) < 2000)) || fail "the sparse file is not sparse"
	# again, over what is there: also into the folder that is closed now
	expect 0 'files +7' dwcp send -r "$dir/tree" "$at"
	diff <(listing "$dir/tree") <(listing "$dir/store/tree") || fail "modes or times of the second time"
	# and once more, with nothing to send
	expect 0 'nothing had to be sent' dwcp send -r --resume "$dir/tree" "$at"
	diff <(listing "$dir/tree") <(listing "$dir/store/tree") || fail "modes or times of the third time"
	stop
}

t_contents_of_a_folder() {
	serve --store="$dir/store"
	make_tree "$dir/tree"
	expect 0 '' dwcp send -r "$dir/tree/." "$at"
	diff -r "$dir/tree" "$dir/store" || fail "not equal"
	stop
}

t_links_are_not_followed() {
	serve --store="$dir/store"
	mkdir "$dir/tree" "$dir/outside"
	echo secret >"$dir/outside/secret"
	ln -s ../outside "$dir/tree/link"
	ln -s ../outside/secret "$dir/tree/file"
	echo plain >"$dir/tree/plain"
	expect 0 'symbolic link' dwcp send -r "$dir/tree" "$at"
	[[ $(ls "$dir/store/tree") == plain ]] || fail "$(ls "$dir/store/tree")"
	stop
}

# A link inside the store leads out of it: nothing is written there, and the other files arrive.
t_traversal_by_a_link_in_the_store() {
	serve --store="$dir/store"
	mkdir "$dir/outside" "$dir/evil"
	echo new >"$dir/outside/victim"
	ln -s "$dir/outside" "$dir/store/evil"
	echo bad >"$dir/evil/victim"
	echo good >"$dir/good"
	expect 1 'evil' dwcp send -r "$dir/evil" "$dir/good" "$at"
	[[ $(cat "$dir/outside/victim") == new && $(ls "$dir/outside") == victim ]] || fail "written outside the store"
	cmp "$dir/good" "$dir/store/good" || fail "the good file is missing"
	ln -s "$dir/outside/victim" "$dir/store/victim"
	expect 1 'victim' dwcp send "$dir/evil/victim" "$at"
	[[ $(cat "$dir/outside/victim") == new ]] || fail "written through a link"
	stop
}

t_one_failure_does_not_stop_the_others() {
	serve --store="$dir/store"
	mkdir -p "$dir/store/taken" "$dir/tree"
	echo 1 >"$dir/taken"
	echo 2 >"$dir/tree/fine"
	echo 3 >"$dir/fine"
	expect 1 'taken' dwcp send -r "$dir/taken" "$dir/tree" "$dir/fine" "$at"
	[[ -d $dir/store/taken ]] || fail "the folder is gone"
	cmp "$dir/fine" "$dir/store/fine" || fail "fine"
	cmp "$dir/tree/fine" "$dir/store/tree/fine" || fail "tree/fine"
	expect 1 '"failed": 1' dwcp send --json "$dir/taken" "$at"
	stop
}

# Names and answers must not command the terminal: the first name is refused here, the second one over there.
t_escapes_in_names() {
	serve --store="$dir/store"
	local name
	mkdir "$dir/sent"
	for name in $'\033[31m\xc2\x9b7m\xffred' $'\xc2\x9b31m\xffred'; do
		echo 1 >"$dir/sent/$name"
		mkdir "$dir/store/$name"
		dwcp send "$dir/sent/$name" "$at" >"$dir/out" 2>&1 && fail "sent over a folder"
		grep -q 'red' "$dir/out" || fail "the name is missing: $(cat -v "$dir/out")"
		LC_ALL=C grep -q $'[\001-\010\013-\037\177\200-\237\377]' "$dir/out" && fail "$(cat -v "$dir/out")"
	done
	stop
}

t_one_that_cannot_be_sent() {
	serve --store="$dir/store"
	mkdir -p "$dir/tree/sub"
	echo good >"$dir/tree/sub/good"
	echo bad >"$dir/tree/bad"$'\n'"name"
	expect 1 'control character' dwcp send -r --json="$dir/out.json" "$dir/tree" "$at"
	cmp "$dir/tree/sub/good" "$dir/store/tree/sub/good" || fail "the good one was not sent"
	field '.failed == 1 and .files == 1'
	stop
}

t_disk_full() {
	command -v unshare >/dev/null || skip "no unshare"
	unshare -Urm true 2>/dev/null || skip "this machine gives no user namespace"
	unshare -Urm bash -c "mount -t tmpfs -o size=8m none '$dir/store'" 2>/dev/null || skip "tmpfs cannot be mounted"
	cat >"$dir/serve.sh" <<END
mount -t tmpfs -o size=8m none '$dir/store' && exec '$DWCP' serve --listen=127.0.0.1:0 --store='$dir/store'
END
	unshare -Urm bash "$dir/serve.sh" >"$dir/serve.out" 2>&1 &
	server=$!
	servers+=("$server")
	until_ok 20 grep -q '^listening' "$dir/serve.out"
	at=$(sed -n 's/^listening on //p' "$dir/serve.out")
	head -c 20M /dev/urandom >"$dir/too-big"
	head -c 1M /dev/urandom >"$dir/fits"
	expect 1 'too-big' dwcp send "$dir/too-big" "$dir/fits" "$at"
	expect 1 'incomplete: what failed' dwcp send "$dir/too-big" "$at"
	expect 0 'nothing had to be sent' dwcp send --resume "$dir/fits" "$at"
	stop
}

# --- wrong usage and bad peers ---

t_wrong_usage() {
	echo x >"$dir/file"
	expect 2 'where to send it is missing' dwcp send "$dir/file"
	expect 2 'operand' dwcp send
	expect 2 'the last operand is the host' dwcp send "$dir/file" "$dir/file"
	expect 2 'did you mean --streams' dwcp send --stream=3 "$dir/file" 127.0.0.1
	expect 2 '1 to 512' dwcp send --streams=513 "$dir/file" 127.0.0.1
	expect 2 'at most 1 MB' dwcp send --chunk-size=2MB "$dir/file" 127.0.0.1
	expect 2 'dwcp backends' dwcp send --backend=rdma9 "$dir/file" 127.0.0.1
	expect 2 'not a port' dwcp send "$dir/file" 127.0.0.1:0
	expect 2 'bracket' dwcp send "$dir/file" '[::1'
	expect 2 'crc32c' dwcp send --checksum=md5 "$dir/file" 127.0.0.1
}

t_bad_source() {
	serve --store="$dir/store"
	mkdir "$dir/folder"
	mkfifo "$dir/fifo"
	expect 1 'no-such-file' dwcp send "$dir/no-such-file" "$at"
	expect 1 '-r' dwcp send "$dir/folder" "$at"
	expect 1 'fifo' dwcp send "$dir/fifo" "$at"
	mkdir "$dir/other"
	echo 1 >"$dir/same"
	echo 2 >"$dir/other/same"
	expect 1 'same' dwcp send "$dir/same" "$dir/other/same" "$at"
	stop
}

t_refused() {
	serve
	stop
	echo x >"$dir/file"
	expect 1 "$at.*dwcp serve" dwcp send "$dir/file" "$at"
}

t_name_that_does_not_resolve() {
	echo x >"$dir/file"
	expect 1 'no-such-host.invalid' dwcp send "$dir/file" no-such-host.invalid
}

t_server_without_store() {
	serve
	echo x >"$dir/file"
	expect 1 'serve --store' dwcp send "$dir/file" "$at"
	stop
}

t_peer_is_not_dwcp() {
	command -v socat >/dev/null || skip "no socat"
	local i p
	socat TCP-LISTEN:0,bind=127.0.0.1,fork,reuseaddr SYSTEM:'echo SSH-2.0-OpenSSH_9.2; sleep 5' 2>"$dir/socat.err" &
	servers+=($!)
	for ((i = 0; i < 100; i++)); do
		p=$(ss -Hltnp 2>/dev/null | sed -n "s/.*127.0.0.1:\([0-9]*\) .*pid=$!,.*/\1/p")
		[[ -n $p ]] && break
		sleep 0.05
	done
	[[ -n $p ]] || skip "the port of socat is not known"
	echo x >"$dir/file"
	expect 1 'dwcp' dwcp send --timeout=3s "$dir/file" "127.0.0.1:$p"
}

# Somebody who takes the connection and never says a word.
t_silent_peer() {
	command -v socat >/dev/null || skip "no socat"
	local i p
	socat TCP-LISTEN:0,bind=127.0.0.1,fork,reuseaddr SYSTEM:'sleep 30' 2>/dev/null &
	servers+=($!)
	for ((i = 0; i < 100; i++)); do
		p=$(ss -Hltnp 2>/dev/null | sed -n "s/.*127.0.0.1:\([0-9]*\) .*pid=$!,.*/\1/p")
		[[ -n $p ]] && break
		sleep 0.05
	done
	[[ -n $p ]] || skip "the port of socat is not known"
	echo x >"$dir/file"
	local begin=$SECONDS
	expect 1 '' dwcp send --timeout=2s "$dir/file" "127.0.0.1:$p"
	((SECONDS - begin < 30)) || fail "took $((SECONDS - begin)) s"
}

# --- options ---

t_every_option() {
	serve --store="$dir/store"
	head -c 3000000 /dev/urandom >"$dir/file"
	local o
	for o in --checksum=none --checksum=crc32c --checksum=xxh3 --streams=1 --streams=64 --chunk-size=4KB \
		--chunk-size=1MB --scheduling=round_robin --scheduling=least_loaded --workers=2 --affinity=none \
		--mode=internet --mode=hybrid --mode=datacenter --ring-mode=basic --zerocopy=on --congestion=reno; do
		rm -f "$dir/store/file"
		expect 0 '' dwcp send "$o" "$dir/file" "$at"
		cmp "$dir/file" "$dir/store/file" || fail "not equal with $o"
	done
	stop
}

t_configuration_file() {
	serve --store="$dir/store"
	echo x >"$dir/file"
	printf 'transfer:\n  tcp_streams: 3\n  checksum: crc32c\nserve:\n  listen: "*:1"\nsend:\n  fsync: true\n' >"$dir/c.yaml"
	expect 0 '3 streams' dwcp send --config="$dir/c.yaml" "$dir/file" "$at"
	expect 0 'chunks by crc32c' dwcp send --config="$dir/c.yaml" "$dir/file" "$at"
	expect 0 '5 streams' dwcp send --streams=5 --config="$dir/c.yaml" "$dir/file" "$at"
	printf 'transfer:\n  stremas: 3\n' >"$dir/c.yaml"
	expect 2 'c.yaml:2' dwcp send --config="$dir/c.yaml" "$dir/file" "$at"
	stop
}

t_json() {
	serve --store="$dir/store"
	head -c 1000000 /dev/urandom >"$dir/file"
	expect 0 '' dwcp send --json="$dir/out.json" "$dir/file" "$at"
	local field
	for field in '"schema": "dwcp/1"' '"command": "send"' '"bytes": 1000000' '"bytes_sent": 1000000' '"files": 1' \
		'"verified": true' '"complete": true' '"interrupted": false' '"chunks": 4' '"checksum": "xxh3"'; do
		grep -qF "$field" "$dir/out.json" || fail "no $field in $(cat "$dir/out.json")"
	done
	stop
}

run_tests

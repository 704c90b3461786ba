#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: no-valgrind timeout=180
# dwcp serve and stats: start, end, what others may read, and wrong usage.
set -uo pipefail
# shellcheck source=kmod-free-tests/cli.bash
. kmod-free-tests/cli.bash

http() { # port request-line: the answer goes to $dir/page
	local line
	exec 9<>"/dev/tcp/127.0.0.1/$1" || return 1
	printf '%s\r\nHost: test\r\nConnection: close\r\n\r\n' "$2" >&9
	while IFS= read -r -t 10 line <&9; do
		printf '%s\n' "${line%$'\r'}"
	done >"$dir/page"
	exec 9>&-
}

answers() { # status port request-line
	http "$2" "$3" || fail "no answer"
	grep -q "^HTTP/1.1 $1 " "$dir/page" || fail "$3: $(head -1 "$dir/page") instead of $1"
}

t_sigterm_ends_in_order() {
	serve
	stop
}

t_sigint_ends_in_order() {
	serve
	kill -INT "$server"
	reap "$server" 20
	[[ $rc == 0 ]] || fail "status $rc"
}

t_ends_while_sessions_run() {
	serve
	dwcp benchmark amst --peer="$at" --duration=20s --region=1MB >"$dir/out" 2>&1 &
	local client=$!
	until_ok 20 grep -q sec "$dir/out"
	stop
	reap "$client" 30
	[[ $rc == 1 ]] || fail "the client ended with status $rc: $(cat "$dir/out")"
}

t_once() {
	serve --once --store="$dir/store"
	echo hello >"$dir/file"
	expect 0 '' dwcp send "$dir/file" "$at"
	reap "$server" 20
	[[ $rc == 0 ]] || fail "status $rc"
	cmp "$dir/file" "$dir/store/file" || fail "not equal"
}

# A signal before the one session came to its end is no success.
t_once_interrupted() {
	serve --once
	kill -TERM "$server"
	reap "$server" 20
	[[ $rc == 130 ]] || fail "status $rc without a session"
	grep -q interrupted "$dir/serve.err" || fail "no reason: $(cat "$dir/serve.err")"
	serve --once
	dwcp benchmark amst --peer="$at" --duration=20s --region=1MB >"$dir/out" 2>&1 &
	local client=$!
	until_ok 20 grep -q sec "$dir/out"
	kill -INT "$server"
	reap "$server" 20
	[[ $rc == 130 ]] || fail "status $rc while a session was open"
	reap "$client" 30
}

t_once_failed() {
	serve --once --timeout=1s --store="$dir/store"
	"$DWCP" benchmark amst --peer="$at" --duration=20s --region=1MB >"$dir/out" 2>&1 &
	local client=$!
	servers+=("$client")
	until_ok 20 grep -q sec "$dir/out"
	kill -9 "$client"
	reap "$client" 5
	reap "$server" 30
	[[ $rc == 1 ]] || fail "status $rc: $(cat "$dir/serve.err")"
}

# A file that did not come whole is no success either.
t_once_incomplete() {
	serve --once --store="$dir/store"
	head -c 50M /dev/urandom >"$dir/file"
	"$DWCP" send --pacing-enabled --pacing-rate=50Mbps --streams=2 "$dir/file" "$at" >"$dir/out" 2>&1 &
	local client=$!
	until_ok 20 test -e "$dir/store/.file.dwcp-part"
	kill -INT "$client"
	reap "$client" 20
	reap "$server" 20
	[[ $rc == 1 ]] || fail "status $rc"
	grep -q 'not every file came whole' "$dir/serve.err" || fail "$(cat "$dir/serve.err")"
}

t_backend_list() {
	serve --backend=rdma,tcp
	stop
	serve --backend=tcp,rdma
	stop
	expect 2 'mem stays inside one process.*no "x"' dwcp serve --backend=mem,x
	expect 2 'list is empty|no ""' dwcp serve --backend=,
}

t_warns_when_not_on_loopback() {
	serve --listen=0.0.0.0:0
	grep -q 'without keys' "$dir/serve.err" || fail "no warning"
	[[ $(wc -l <"$dir/serve.err") == 1 ]] || fail "more than one line: $(cat "$dir/serve.err")"
	stop
	serve
	[[ ! -s $dir/serve.err ]] || fail "warned on loopback: $(cat "$dir/serve.err")"
	stop
}

t_ipv6() {
	grep -qs ' lo$' /proc/net/if_inet6 || skip "no IPv6 on loopback"
	serve --listen='[::1]:0' --store="$dir/store"
	echo six >"$dir/file"
	expect 0 'verified' dwcp send "$dir/file" "[::1]:$port"
	cmp "$dir/file" "$dir/store/file" || fail "not equal"
	stop
}

t_address_in_use() {
	serve
	expect 1 'in use' dwcp serve --listen="$at"
	expect 0 '' dwcp stats "$port"
	stop
}

t_wrong_usage() {
	expect 2 'did you mean --listen' dwcp serve --lisen=1
	expect 2 'dwcp backends' dwcp serve --backend=carrierpigeon
	expect 2 'one process' dwcp serve --backend=mem
	expect 2 'not a port' dwcp serve --listen=127.0.0.1:70000
	expect 2 'affinity' dwcp serve --affinity=0-
	expect 2 'CPU' dwcp serve --affinity=1023
	expect 1 'resolve' dwcp serve --listen=no-such-host.invalid:1
	expect 1 'no-such-dir' dwcp serve --store="$dir/no-such-dir"
	expect 2 'one operand too many' dwcp serve extra
}

t_stats() {
	serve --store="$dir/store"
	head -c 100000 /dev/urandom >"$dir/file"
	expect 0 '' dwcp send "$dir/file" "$at"
	expect 0 "dwcp .* on $at" dwcp stats "$port"
	expect 0 '"server_sessions_started": 1' dwcp stats "$port" --json
	expect 0 '"server_files_received": 1' dwcp stats --socket="$XDG_RUNTIME_DIR/dwcp-$port.sock" --json
	[[ $(stat -c %a "$XDG_RUNTIME_DIR/dwcp-$port.sock") == 600 ]] || fail "the socket is not private"
	stop
	[[ ! -e $XDG_RUNTIME_DIR/dwcp-$port.sock ]] || fail "the socket stays"
	expect 1 'dwcp serve' dwcp stats "$port"
	expect 1 'stats-socket' dwcp stats --socket="$dir/none.sock"
	expect 2 'not a port' dwcp stats 99999
}

t_stats_socket_after_a_crash() {
	serve --stats-socket="$dir/stats.sock"
	kill -9 "$server"
	reap "$server" 20
	[[ -S $dir/stats.sock ]] || fail "the socket should be there still"
	serve --stats-socket="$dir/stats.sock"
	expect 0 'sessions' dwcp stats --socket="$dir/stats.sock"
	expect 1 'in use' dwcp serve --listen=127.0.0.1:0 --stats-socket="$dir/stats.sock"
	expect 0 'sessions' dwcp stats --socket="$dir/stats.sock"
	stop
	echo precious >"$dir/stats.sock"
	expect 1 'stats.sock' dwcp serve --listen=127.0.0.1:0 --stats-socket="$dir/stats.sock"
	[[ $(cat "$dir/stats.sock") == precious ]] || fail "a file was replaced by a socket"
}

# As many sessions as the option allows are as many as the transport has room for.
t_most_sessions() {
	serve --sessions=1000
	stop
	expect 2 'sessions' dwcp serve --listen=127.0.0.1:0 --sessions=1001
}

# ps and perf tell the threads apart, and none of them but the one that waits for signals gets any.
t_threads_have_names() {
	serve --stats-socket="$dir/stats.sock"
	local names t
	names=$(cat /proc/"$server"/task/*/comm)
	grep -qx 'dwcp-stats' <<<"$names" || fail "$names"
	grep -qx 'dwcp-signals' <<<"$names" || fail "$names"
	for t in /proc/"$server"/task/*; do
		[[ $(cat "$t/comm") == dwcp-stats ]] || continue
		# SIGINT and SIGTERM, SIGALRM and SIGUSR2 as any other
		(((0x$(sed -n 's/^SigBlk:[[:space:]]*//p' "$t/status") & 0x6802) == 0x6802)) || fail "$(cat "$t/status")"
	done
	stop
}

t_metrics() {
	serve --metrics=127.0.0.1:0 -v
	local m
	m=$(sed -n 's|.*metrics at http://127.0.0.1:\([0-9]*\)/metrics|\1|p' "$dir/serve.err")
	[[ -n $m ]] || fail "no metrics address: $(cat "$dir/serve.err")"
	answers 200 "$m" 'GET /metrics HTTP/1.1'
	grep -q '^# TYPE dwcp_server_sessions_started.* counter' "$dir/page" || fail "$(cat "$dir/page")"
	grep -qE '^dwcp_transport_rx_bytes[a-z_]* [0-9]+$' "$dir/page" || fail "$(cat "$dir/page")"
	answers 404 "$m" 'GET / HTTP/1.1'
	answers 404 "$m" 'GET /../etc/passwd HTTP/1.1'
	answers 405 "$m" 'POST /metrics HTTP/1.1'
	stop
}

# Garbage on the port, and connections that say nothing, do not stop it from serving.
t_garbage() {
	serve --store="$dir/store"
	local i
	for i in 1 2 3 4 5 6 7 8; do
		(head -c 3000 /dev/urandom >"/dev/tcp/127.0.0.1/$port") 2>/dev/null
		(printf 'GET / HTTP/1.1\r\n\r\n' >"/dev/tcp/127.0.0.1/$port") 2>/dev/null
	done
	exec 8<>"/dev/tcp/127.0.0.1/$port" # half open all the time
	echo after >"$dir/file"
	expect 0 'verified' dwcp send "$dir/file" "$at"
	exec 8>&-
	stop
}

run_tests

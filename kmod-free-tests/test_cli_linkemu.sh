#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: no-valgrind no-asan timeout=120
# dwcp linkemu: links by name, what is refused and how, and that nothing stays behind.
set -uo pipefail
# shellcheck source=kmod-free-tests/cli.bash
. kmod-free-tests/cli.bash

le() {
	dwcp linkemu "$@"
}

# A name of this test's own; its link ends with the test.
link() { # options…
	L=t$$-$RANDOM
	trap 'timeout 20 "$DWCP" linkemu down --name=$L >/dev/null 2>&1; cleanup' EXIT
	le up --name="$L" "$@" >"$dir/up" 2>"$dir/up.err" && return 0
	grep -qE 'not allowed|/dev/net/tun|no network namespaces' "$dir/up.err" && skip "$(sed 's/^dwcp: linkemu up: //' "$dir/up.err")"
	fail "$(cat "$dir/up.err")"
}

status() { # jq expression that must be true
	le status --name="$L" --json | jq -e ".links[0] | ($1)" >/dev/null || fail "not true: $1 in $(le status --name="$L" --json)"
}

pid_of() {
	le status --name="$L" --json | jq .links[0].pid
}

gone() { # namespace: no process is in it any more
	! readlink /proc/[0-9]*/ns/net 2>/dev/null | grep -qFx "$1"
}

t_up_status_down() {
	link --rate=10Mbps --delay=3ms --ab-loss=1% --ba-rate=auto
	grep -q 'A→B  10 Mbps, delay 3 ms, loss 1 %' "$dir/up" || fail "$(cat "$dir/up")"
	grep -q 'B→A  no rate limit, delay 3 ms, loss 0 %' "$dir/up" || fail "$(cat "$dir/up")"
	le status >"$dir/all"
	grep -q "^$L: A 198.18.0.1 fd64:7763:70::1, B 198.18.0.2" "$dir/all" || fail "$(cat "$dir/all")"
	status '.ab.rate_mbps == 10 and .ba.rate_mbps == null and .ab.delay_ms == 3 and .ab.loss_percent == 1'
	status '.ba.loss_percent == 0 and .mtu == 1500 and .a.ipv4 == "198.18.0.1" and .b.ipv6 == "fd64:7763:70::2"'
	expect 0 '' le down --name="$L"
	expect 1 "there is no link \"$L\"" le status --name="$L"
	expect 1 "there is no link \"$L\".*linkemu up" le down --name="$L"
}

t_exec() {
	link
	expect 0 '^198.18.0.1 198.18.0.2$' le exec --name="$L" A -- sh -c 'echo $DWCP_HERE $DWCP_THERE'
	expect 0 '^198.18.0.2 198.18.0.1 -x$' le exec --name="$L" B sh -c 'echo $DWCP_HERE $DWCP_THERE $0' -x
	expect 7 '' le exec --name="$L" B sh -c 'exit 7'
	expect 127 'cannot run /no/such/thing' le exec --name="$L" A /no/such/thing
	expect 2 'name a side' le exec --name="$L"
	expect 2 'a command is missing' le exec --name="$L" A
	expect 1 'there is no link "other"' le exec --name=other A true
	[[ $(le exec --name="$L" A cat /proc/net/dev | grep -c :) == 2 ]] || fail "more than lo and one device"
	grep -q dwcp0 /proc/net/dev && fail "a device of the link is in this namespace"
	return 0
}

t_packets_cross() {
	link --delay=2ms
	le exec --name="$L" B "$DWCP" serve --listen=198.18.0.2:7411 --store="$dir/store" >"$dir/serve.out" 2>&1 &
	servers+=($!)
	until_ok 10 grep -q '^listening' "$dir/serve.out"
	head -c 300000 /dev/urandom >"$dir/file"
	expect 0 '' le exec --name="$L" A "$DWCP" send "$dir/file" 198.18.0.2
	cmp "$dir/file" "$dir/store/file" || fail "what arrived differs"
	status '.ab.packets_out >= 200 and .ab.packets_out == .ab.packets_in and .ba.packets_out > 10'
	status '.ab.emulator_dropped == 0 and .ab.packets_lost == 0'
}

t_set() {
	link --rate=10Mbps --delay=3ms
	expect 0 'A→B  20 Mbps, delay 3 ms' le set --name="$L" --ab-rate=20Mbps
	status '.ab.rate_mbps == 20 and .ba.rate_mbps == 10'
	expect 0 '' le set --name="$L" --loss=2 --loss-burst=5 --mtu=9000
	status '.ab.loss_percent == 2 and .ba.loss_burst_packets == 5 and .ab.rate_mbps == 20 and .mtu == 9000'
	[[ $(le exec --name="$L" A cat /sys/class/net/dwcp0/mtu 2>/dev/null || echo 9000) == 9000 ]] || fail "the device's MTU"
	expect 2 'nothing is given' le set --name="$L"
	expect 2 'set when a link is made' le set --name="$L" --seed=3
	expect 2 'more than the delay' le set --name="$L" --jitter=1s
	status '.ab.jitter_ms == 0'
}

t_names() {
	link
	expect 1 "there is a link \"$L\" already" le up --name="$L"
	local other=$L-2
	le up --name="$other" --rate=5Mbps >/dev/null || fail "a second link"
	le status >"$dir/all"
	grep -q "^$L: " "$dir/all" && grep -q "^$other: " "$dir/all" || fail "$(cat "$dir/all")"
	expect 0 '' le down --name="$other"
	status '.name != null'
	local bad
	expect 2 'empty value' le up --name=
	for bad in A B ../x 'a b' .x "$(printf 'x%.0s' {1..33})"; do
		expect 2 'no name for a link|use at most' le up --name="$bad"
	done
}

t_impossible_values() {
	expect 2 'out of range' le up --loss=101
	expect 2 'out of range' le up --loss=-1
	expect 2 'out of range' le up --rate=1
	expect 2 'out of range' le up --mtu=500
	expect 2 'not understood' le up --delay=fast
	expect 2 'more than the delay' le up --delay=1ms --jitter=2ms
	expect 2 'at most 66.7 %' le up --loss=90 --loss-burst=2
	expect 2 'would be under way' le up --rate=400Gbps --delay=10s
	expect 2 'there is no profile "nowhere"' le up nowhere
	expect 1 'nowhere.yaml: No such file' le up ./nowhere.yaml
	expect 1 'trace nowhere.csv: No such file' le up --trace=nowhere.csv
	printf 'link:\n  speed: 1Gbps\n' >"$dir/bad.yaml"
	expect 2 'bad.yaml.*speed' le up "$dir/bad.yaml"
	printf '0,1\n0,2\n' >"$dir/bad.csv"
	expect 2 'bad.csv:2: times ascend' le up --trace="$dir/bad.csv"
}

t_profiles_are_listed() {
	expect 0 '^simulated_internet +.*50 ms' le profiles
	[[ $(le profiles --json | jq '.profiles | length') == $(ls configs/links/*.yaml | wc -l) ]] || fail "$(le profiles)"
}

# Every profile is read; a trace is found beside it.
t_profiles() {
	local p
	for p in configs/links/*.yaml; do
		p=$(basename "$p" .yaml)
		link "$p"
		status '.ab | has("rate_mbps")'
		expect 0 '' le down --name="$L"
	done
	link simulated_internet --ab-delay=5ms
	status '.ab.delay_ms == 5 and .ba.delay_ms == 25 and .ab.loss_percent == 1 and .ab.rate_mbps == 1000'
}

t_down_ends_what_runs_in_it() {
	link
	"$DWCP" linkemu exec --name="$L" A sleep 1000 &
	local child=$!
	until_ok 5 grep -qx sleep /proc/$child/comm
	le exec --name="$L" B sh -c 'trap "" TERM; (sleep 1000 & sleep 1000) & echo $! >'"$dir/background"
	until_ok 5 test -s "$dir/background"
	local ns
	ns=$(readlink /proc/"$(cat "$dir/background")"/ns/net)
	expect 0 'ended [0-9]+ processes' le down --name="$L"
	until_ok 5 gone "$ns"
	reap "$child" 5
}

t_nothing_stays_when_killed() {
	link --delay=10ms
	local pid ns_a ns_b child
	pid=$(pid_of)
	"$DWCP" linkemu exec --name="$L" A sleep 1000 &
	child=$!
	ns_a=$(le exec --name="$L" A readlink /proc/self/ns/net)
	ns_b=$(le exec --name="$L" B sh -c 'sleep 1000 >/dev/null 2>&1 & readlink /proc/self/ns/net')
	kill -9 "$pid"
	reap "$child" 10
	until_ok 10 gone "$ns_a"
	until_ok 10 gone "$ns_b"
	expect 1 'there is no link' le status --name="$L"
	[[ ! -e /run/netns/$L ]] || fail "a name in /run/netns"
	le up --name="$L" >/dev/null || fail "the name is not free"
	pid=$(pid_of)
	kill -TERM "$pid"
	until_ok 10 test ! -d "/proc/$pid"
}

asked() { # a connection waits to be accepted
	ss -xlH | awk -v name="$L" '$5 == "@dwcp-linkemu/" name && $3 > 0 { found = 1 } END { exit !found }'
}

# Who asks a link that is killed before it answers is told that there is none.
t_killed_while_asked() {
	link
	local pid
	pid=$(pid_of)
	kill -STOP "$pid"
	(expect 1 'there is no link' le status --name="$L") &
	until_ok 10 asked
	kill -9 "$pid"
	wait $! || fail "see above"
}

# A shell's pipe is not kept open by the link.
t_output_ends() {
	link
	expect 0 '' timeout 20 bash -c '"$DWCP" linkemu up --name="$1" | cat; "$DWCP" linkemu down --name="$1"' _ "$L-3"
}

t_without_rights() {
	command -v setpriv >/dev/null || skip "no setpriv"
	[[ $EUID == 0 ]] || skip "not root"
	expect 1 'CAP_SYS_ADMIN is missing.*unshare --user' setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin \
		"$DWCP" linkemu up --name="none-$$"
	expect 1 'there is no link' le status --name="none-$$"
}

# The address of a control socket is everybody's: another user's link is not talked to.
t_another_users_socket() {
	command -v setpriv >/dev/null && command -v perl >/dev/null || skip "no setpriv or perl"
	[[ $EUID == 0 ]] || skip "not root"
	setpriv --reuid=65534 --clear-groups perl -MSocket -e '
		socket(S, AF_UNIX, SOCK_SEQPACKET, 0); bind(S, pack("S a*", AF_UNIX, "\0dwcp-linkemu/theirs"));
		listen(S, 4); print "ready\n"; close STDOUT; sleep 60' >"$dir/ready" &
	servers+=($!)
	until_ok 5 grep -q ready "$dir/ready"
	expect 1 'belongs to another user' le status --name=theirs
	expect 1 'belongs to another user' le exec --name=theirs A true
}

# Requests that make no sense are answered or ignored; the link goes on.
t_hostile_requests() {
	command -v perl >/dev/null || skip "no perl"
	link
	perl -MSocket -e '
		for my $m ("", "{", "[]", "{\"op\":7}", "{\"op\":\"set\"}", "{\"op\":\"set\",\"settings\":{\"hosts\":{\"mtu\":-1}}}",
			"x" x 60000, "\0" x 100, "[" x 16000) {
			socket(S, AF_UNIX, SOCK_SEQPACKET, 0);
			connect(S, pack("S a*", AF_UNIX, "\0dwcp-linkemu/$ARGV[0]")) or die "connect: $!";
			send(S, $m, 0); recv(S, my $r, 20000, 0) if length $m; close S;
		}' "$L" || fail "perl"
	status '.ab.packets_lost == 0'
}

run_tests

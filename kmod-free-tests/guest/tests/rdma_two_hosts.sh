# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# guest: hosts=2 needs=rdma
# dwcp from host to host over RDMA: what arrives is what was sent, and what breaks on the way is told or mended.

test_send_a_folder() {
	local i here there
	mkdir -p tree/deep
	for i in 1 2 3 4 5 6; do
		random_file tree/deep/$i $((i * 100))
	done
	: >tree/empty
	random_file tree/big 6000
	serve b --backend rdma
	dwcp send -v -r tree 10.0.0.2 --backend rdma --streams 4 || fail "send failed"
	here=$(cd tree && find . -type f -exec sha256sum {} + | sort)
	there=$(on b bash -c 'cd /tmp/store/tree && find . -type f -exec sha256sum {} + | sort')
	[[ $here == "$there" ]] || fail "the trees differ: $there"
	served b
}

test_benchmark_places_without_copies() {
	local out
	serve b --backend rdma
	out=$(dwcp benchmark amst --peer 10.0.0.2 --backend rdma --streams 4 --data-size 8MB --iterations 2 --json) ||
		fail "benchmark failed: $out"
	echo "$out"
	[[ $out == *'"backend": "rdma"'* ]] || fail "another backend"
	[[ $out == *'"verified": true'* ]] || fail "not verified"
	# Messages are copied, COMMITs among them: one for many chunks.
	awk '{ gsub(/[",:]/, "") } $1 ~ /^(received_)?zero_copy_bytes$/ { z[++n] = $2 } $1 ~ /^(received_)?copied_bytes$/ { c[++m] = $2 }
		END { exit !(n == 2 && m == 2 && z[1] >= 16777216 && c[1] * 100 < z[1] && c[2] * 100 < 16777216) }' <<<"$out" ||
		fail "bytes of raw puts were copied"
	served b
}

test_reverse() {
	local out
	serve b --backend rdma
	out=$(dwcp benchmark amst --peer 10.0.0.2 --backend rdma --streams 2 --data-size 4MB --iterations 1 --reverse --json) ||
		fail "benchmark failed: $out"
	[[ $out == *'"verified": true'* ]] || fail "not verified: $out"
	served b
}

test_64_streams() {
	local out
	serve b --backend rdma
	out=$(dwcp benchmark amst --peer 10.0.0.2 --backend rdma --streams 64 --data-size 4MB --iterations 1 --json) ||
		fail "benchmark failed: $out"
	[[ $out == *'"verified": true'* ]] || fail "not verified: $out"
	served b
}

test_mtu_differs() {
	random_file f 2000
	on b ip link set eth0 mtu 1200
	serve b --backend rdma --rdma-mtu 512
	dwcp send f 10.0.0.2 --backend rdma --rdma-mtu 1024 || fail "send failed"
	same_file f b
	served b
}

test_five_percent_loss() {
	random_file f 2000
	serve b --backend rdma
	netem a "loss 5%"
	netem b "loss 5%"
	dwcp send -v f 10.0.0.2 --backend rdma --streams 2 --ack-timeout 20ms || fail "send failed"
	same_file f b
	served b
}

test_link_goes_and_comes_back() {
	local rc
	random_file f 12000
	netem a "rate 40mbit"
	serve b --backend rdma
	bg a sender dwcp send -v "$PWD/f" 10.0.0.2 --backend rdma --streams 4 --timeout 30s
	sleep 1
	ip link set eth0 down
	sleep 2
	ip link set eth0 up
	bg_wait a sender 45
	rc=$?
	cat /tmp/sender.log
	((rc == 0)) || fail "the session did not survive: status $rc"
	same_file f b
	served b
}

test_peer_killed_while_it_is_written_to() {
	local rc
	random_file f 12000
	netem a "rate 40mbit"
	serve b --backend rdma
	bg a sender dwcp send -v "$PWD/f" 10.0.0.2 --backend rdma --streams 4 --timeout 5s
	sleep 1.5
	bg_kill b server KILL
	bg_wait a sender 40
	rc=$?
	cat /tmp/sender.log
	((rc == 1)) || fail "status $rc"
	grep -q '^dwcp: send: ' /tmp/sender.log || fail "nothing is told"
	on b bash -c '[[ ! -e /tmp/store/f ]]' || fail "a part took the whole file's name"
	# What is there already is not sent again.
	netem a
	serve b --backend rdma
	dwcp send --resume f 10.0.0.2 --backend rdma --streams 4 || fail "resume failed"
	same_file f b
	served b
}

test_sender_killed() {
	random_file f 12000
	netem a "rate 40mbit"
	serve b --backend rdma
	bg a sender dwcp send "$PWD/f" 10.0.0.2 --backend rdma --streams 4
	sleep 1.5
	bg_kill a sender KILL
	bg_wait a sender 5
	netem a
	random_file g 500
	dwcp send g 10.0.0.2 --backend rdma || fail "the server is of no use any more"
	same_file g b
	served b
}

test_falls_back_to_tcp() {
	random_file f 1000
	serve b --backend tcp
	dwcp send -v f 10.0.0.2 --backend auto >log 2>&1 || { cat log; fail "send failed"; }
	cat log
	same_file f b
	grep -q rdma log || fail "nothing is said about rdma"
	served b
}

test_falls_back_without_a_device() {
	local rc
	random_file f 1000
	serve b --backend tcp
	rdma link delete rxe0
	dwcp send -v f 10.0.0.2 --backend auto >log 2>&1
	rc=$?
	rdma link add rxe0 type rxe netdev eth0
	cat log
	((rc == 0)) || fail "send failed"
	same_file f b
	grep -q rdma log || fail "nothing is said about rdma"
	served b
}

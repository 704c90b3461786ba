# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# guest: hosts=2 needs=rdma
# What breaks on the way between two hosts is told or mended.

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
	random_file f 24000
	netem a "rate 40mbit"
	serve b --backend rdma
	bg a sender dwcp send -v "$PWD/f" 10.0.0.2 --backend rdma --streams 4 --timeout 30s
	flowed a 1000 || fail "nothing is on its way: $(cat /tmp/sender.log)"
	ip link set eth0 down
	sleep 2
	ip link set eth0 up
	netem a
	bg_wait a sender 90
	rc=$?
	cat /tmp/sender.log
	((rc == 0)) || fail "the session did not survive: status $rc"
	grep -q 'reconnected .*[1-9] sessions' /tmp/sender.log || fail "the link went when all was over"
	same_file f b
	served b
}

test_peer_killed_while_it_is_written_to() {
	local rc
	random_file f 40000 # 8 s: the other end is killed within them on a busy machine, too
	netem a "rate 40mbit"
	serve b --backend rdma
	bg a sender dwcp send -v "$PWD/f" 10.0.0.2 --backend rdma --streams 4 --timeout 5s
	flowed a 1000 || fail "nothing is on its way: $(cat /tmp/sender.log)"
	bg_kill b server KILL
	bg_wait a sender 90
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
	random_file f 24000
	netem a "rate 40mbit"
	serve b --backend rdma
	bg a sender dwcp send "$PWD/f" 10.0.0.2 --backend rdma --streams 4
	flowed a 1000 || fail "nothing is on its way: $(cat /tmp/sender.log)"
	bg_kill a sender KILL
	bg_wait a sender 20
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

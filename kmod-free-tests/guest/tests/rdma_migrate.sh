# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# guest: hosts=2 needs=rdma
# A running guest moves from host to host over RDMA, by every policy, and where it fails it runs on one side.

moves() { # options…
	dwcp migrate --peer 10.0.0.2 --backend rdma --memory 32MB --dirty-rate 20 --warm-up 50ms --settle 50ms --streams 2 \
		--downtime-limit 5s --timeout 20s "$@" >moved.log 2>&1
	local rc=$?
	cat moved.log
	((rc == 0)) || fail "status $rc"
	grep -q 'outcome *completed' moved.log || fail "not completed"
	grep -q 'verified *yes' moved.log || fail "not verified"
	grep -q "guest's check *good" moved.log || fail "the guest says no"
}

test_precopy() {
	serve b --backend rdma
	moves
	served b
}

test_stopcopy_with_compression() {
	serve b --backend rdma
	moves --policy stopcopy --compress datacenter
	served b
}

test_postcopy() {
	serve b --backend rdma
	moves --policy postcopy
	served b
}

test_hybrid() {
	serve b --backend rdma
	moves --policy hybrid --downtime-limit 1ms --hybrid-rounds 1
	served b
}

test_destination_killed() {
	local rc
	serve b --backend rdma
	netem a "rate 40mbit"
	bg a mover dwcp migrate --peer 10.0.0.2 --backend rdma --memory 64MB --dirty-rate 5 --warm-up 50ms --settle 50ms \
		--streams 2 --timeout 5s
	flowed a 2000 || fail "nothing is on its way: $(cat /tmp/mover.log)"
	bg_kill b server KILL
	bg_wait a mover 90
	rc=$?
	cat /tmp/mover.log
	((rc == 1)) || fail "status $rc"
	grep -q 'outcome *rolled back\|rolled_back' /tmp/mover.log || fail "it is not said where the guest is"
	grep -q "guest's check *good" /tmp/mover.log || fail "the guest here is not right"
}

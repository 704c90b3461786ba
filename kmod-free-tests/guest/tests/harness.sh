# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# guest: hosts=1,2
# The guest itself: two hosts that reach one another over TCP and real verbs, and netem between them.

test_commands_and_their_status() {
	local out
	out=$(on b bash -c 'echo "$1  two"; exit 3' x 'a "b"')
	(($? == 3)) || fail "status lost"
	[[ $out == 'a "b"  two' ]] || fail "output: $out"
	bg b sleeper sleep 30
	bg_kill b sleeper
	bg_wait b sleeper 5
	(($? == 143)) || fail "the end of a background command was not seen"
}

test_devices_are_active() {
	for h in a b; do
		on "$h" rdma link show "$(rdma_of $h)/1" | grep 'state ACTIVE' || fail "$h has no active port"
	done
}

test_verbs_cross_the_wire() {
	local before after
	read -r before <"/sys/class/net/$(netdev_of a)/statistics/tx_bytes"
	bg b bw ib_write_bw -d "$(rdma_of b)" -R -s 65536 -n 20
	sleep 0.5
	ib_write_bw -d rxe0 -R -s 65536 -n 20 10.0.0.2 || fail "ib_write_bw failed"
	read -r after <"/sys/class/net/$(netdev_of a)/statistics/tx_bytes"
	((after - before > 20 * 65536)) || fail "the wire saw $((after - before)) bytes of $((20 * 65536))"
}

test_netem_delays() {
	netem a "delay 50ms"
	ping -c 3 -i 0.2 10.0.0.2 | awk -F/ '/^(rtt|round-trip)/ { print; ok = $4 >= 50 } END { exit !ok }' ||
		fail "50 ms of delay are not there"
}

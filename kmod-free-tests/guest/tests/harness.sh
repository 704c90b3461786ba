# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# guest: hosts=2
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

# Time-outs mean what they say: the kernel's clock and the battery's went on together since the guest is up.
test_the_clock_keeps_time() {
	local rtc0 up0 rtc up _
	read -r rtc0 up0 <<<"$GUEST_SINCE"
	read -r rtc </sys/class/rtc/rtc0/since_epoch
	read -r up _ </proc/uptime
	up=${up%.*}
	echo "$((rtc - rtc0)) s by the battery's clock, $((up - up0)) s by the kernel's"
	((10 * (up - up0) <= 11 * (rtc - rtc0) + 20 && 10 * (rtc - rtc0) <= 11 * (up - up0) + 20)) || fail "they differ"
}

# What the suite asks after every test: whoever still holds RDMA objects is seen, and nobody when it has gone.
test_leftovers_are_seen() {
	bg b holder ib_write_bw -d "$(rdma_of b)" -R -s 65536 -n 20
	for _ in $(seq 50); do
		[[ -z $(rdma_left_on b) ]] || break
		sleep 0.1
	done
	rdma_left_on b | tee left
	grep -q 'left behind on b: .*ib_write_bw' left || fail "a program that holds a device is not seen"
	bg_kill b holder KILL
	bg_wait b holder 10
	nothing_left left || fail "what is gone is still seen: $(cat left)"
}

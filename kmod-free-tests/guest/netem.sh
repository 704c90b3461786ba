# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# iperf3 between two namespaces over netem, to hold an emulated link against: one line per run,
#
#   kmod-free-tests/guest/guest.sh --net none --time 300 kmod-free-tests/guest/netem.sh [NAME=VALUE…]
#
#   rate=300mbit rtt=50 (ms, half each way) loss=1% (from A to B) jitter=0 (ms) queue=1000 (packets of the rate's queue)
#   streams="1 8 32"  congestion="cubic bbr"  seconds=8  omit=2
#   offload=off       on: TCP hands 64 KB packets to netem, which then loses 64 KB at a time
#   ping=1            also 200 echo requests: loss and round trip

rate=300mbit rtt=50 loss=1% jitter=0 queue=1000 streams="1 8 32" congestion="cubic bbr" seconds=8 omit=2 offload=off ping=1
for setting in "$@"; do
	[[ $setting =~ ^(rate|rtt|loss|jitter|queue|streams|congestion|seconds|omit|offload|ping)=(.*)$ ]] ||
		fail "unknown setting: $setting"
	printf -v "${BASH_REMATCH[1]}" '%s' "${BASH_REMATCH[2]}"
done
modprobe -a tcp_bbr sch_netem sch_fq || exit
ip netns add A && ip netns add B || exit
mkdir -p /run/netns
ip link add x netns A type veth peer name x netns B || exit
for ns in A B; do
	n=1
	[[ $ns == A ]] || n=2
	ip -n $ns addr add 198.18.0.$n/15 dev x
	ip -n $ns link set x up
	ip -n $ns link set lo up
	ip netns exec $ns ethtool -K x gso $offload tso $offload gro $offload >/dev/null 2>&1
	ip netns exec $ns sysctl -q -w net.ipv4.tcp_rmem='4096 131072 33554432' net.ipv4.tcp_wmem='4096 131072 33554432'
done
half=$(awk -v r="$rtt" 'BEGIN { print r / 2 }')
# shellcheck disable=SC2046,SC2086
tc -n A qdisc add dev x root netem rate $rate delay ${half}ms $( ((jitter > 0)) && echo ${jitter}ms) loss $loss limit "$queue" || exit
tc -n B qdisc add dev x root netem delay "${half}ms" limit 100000 || exit
if ((ping)); then
	ip netns exec A ping -q -i 0.02 -c 200 198.18.0.2 | tail -n 2
fi
ip netns exec B iperf3 -s >/dev/null 2>&1 &
sleep 0.5
for cc in $congestion; do
	for n in $streams; do
		printf 'netem %s rtt %s ms loss %s offload %s: %s %s streams: ' "$rate" "$rtt" "$loss" $offload "$cc" "$n"
		ip netns exec A iperf3 -c 198.18.0.2 -C "$cc" -P "$n" -t "$seconds" -O "$omit" -f m -i 0 2>&1 |
			awk '/receiver/ { v = 0; for (i = 1; i < NF; i++) if ($(i + 1) == "Mbits/sec") v = $i
				sum = /SUM/ ? v : sum + v; if (/SUM/) last = v }
				/error/ { print; bad = 1 } END { if (!bad) printf "%.1f Mb/s\n", last ? last : sum }'
	done
done

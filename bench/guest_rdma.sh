# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# Inside a guest (bench/guest.sh): dwcp and perftest in turns over rxe0 → veth → rxe1, one stream and one queue pair, the
# same message size, the same number of messages under way. Prints markdown.
#
#   rounds=5 bytes=16MB (of one run)  sizes="65536 262144 1048576 4194304"  depth=16
#   only="bandwidth latency setup settings"
#
# CPU is what the whole guest was busy for, both sides and the kernel: soft-RoCE works in softirqs that belong to nobody.

rounds=5 bytes=16 sizes="65536 262144 1048576 4194304" depth=16 only="bandwidth latency setup settings"
for setting in "$@"; do
	[[ $setting =~ ^(rounds|bytes|sizes|depth|only)=(.*)$ ]] || fail "unknown setting: $setting"
	printf -v "${BASH_REMATCH[1]}" '%s' "${BASH_REMATCH[2]%MB}"
done
all=$((bytes * 1048576))

busy() { # jiffies that the CPUs were not idle, of 10 ms
	local _ user nice system irq soft
	read -r _ user nice system _ _ irq soft _ </proc/stat
	echo $((user + nice + system + irq + soft))
}
# "median [least, most]" of a file of numbers
spread() {
	sort -g "$1" | awk -v f="${2:-%.2f}" '{ v[NR] = $1 } END { if (!NR) { print "–"; exit }
		m = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
		printf f " [" f ", " f "]", m, v[1], v[NR] }'
}
field() { sed -n "s/.*\"$1\": \([0-9.e+-]*\).*/\1/p" | head -n 1; }

perftest() { # tool size iterations [options]: the client's result line
	local tool=$1 size=$2 n=$3
	shift 3
	bg b perf "$tool" -d rxe1 -R -F -s "$size" -n "$n" "$@"
	for _ in 1 2 3 4 5 6 7 8; do
		sleep 0.3
		"$tool" -d rxe0 -R -F -s "$size" -n "$n" "$@" 10.0.0.2 >perf.log 2>&1 && break
	done
	bg_wait b perf 10 >/dev/null
	awk -v s="$size" '$1 == s && NF >= 4 { print }' perf.log
}
dwcp_run() { # options: JSON of one transfer
	dwcp benchmark amst --peer 10.0.0.2 --backend rdma --streams 1 --workers 1 --checksum none --interval 0 \
		--iterations 1 --json "$@" 2>dwcp.err || { cat dwcp.err >&2; return 1; }
}

bandwidth() {
	local size n round before after line gbytes avg pcpu dcpu total mb
	echo "### Bandwidth, one stream against one queue pair"
	echo
	echo "\`ib_write_bw -R -t $depth\` and \`dwcp benchmark amst --backend rdma --streams 1 --chunk-size SIZE --checksum none\`," \
		"$bytes MB each, in turns; medians of $rounds rounds after one that warms up, with the least and the most."
	echo
	echo "| size | dwcp MB/s | ib_write_bw MB/s | ratio | dwcp CPU ms/MB | ib_write_bw CPU ms/MB | CPU ratio |"
	echo "|---|---|---|---|---|---|---|"
	for size in $sizes; do
		# perftest does five at least.
		n=$((all / size < 5 ? 5 : all / size))
		total=$((n * size)) mb=$(awk -v b="$((n * size))" 'BEGIN { print b / 1048576 }')
		rm -f ./*.v
		for ((round = 0; round <= rounds; round++)); do
			before=$(busy)
			line=$(perftest ib_write_bw "$size" "$n" -t "$((n < depth ? n : depth))")
			after=$(busy)
			read -r _ _ _ avg _ <<<"$line"
			[[ -n ${avg:-} ]] || { cat perf.log >&2; continue; }
			pcpu=$(awk -v j=$((after - before)) -v mb="$mb" 'BEGIN { print j * 10 / mb }')
			before=$(busy)
			dwcp_run --chunk-size "$size" --region "$total" --data-size "$total" >json || continue
			after=$(busy)
			gbytes=$(grep -A1 throughput_gbytes json | field median)
			dcpu=$(awk -v j=$((after - before)) -v mb="$mb" 'BEGIN { print j * 10 / mb }')
			((round > 0)) || continue
			awk -v g="$gbytes" 'BEGIN { printf "%f\n", g * 1e9 / 1048576 }' >>d.v
			echo "$avg" >>p.v
			awk -v g="$gbytes" -v p="$avg" 'BEGIN { print g * 1e9 / 1048576 / p }' >>r.v
			echo "$dcpu" >>dc.v
			echo "$pcpu" >>pc.v
			awk -v d="$dcpu" -v p="$pcpu" 'BEGIN { print (p > 0 ? d / p : 0) }' >>cr.v
		done
		[[ -s r.v ]] || { echo "| $((size / 1024)) KB | no run ended well | | | | | |"; failed=1; continue; }
		echo "| $((size / 1024)) KB | $(spread d.v) | $(spread p.v) | $(spread r.v) | $(spread dc.v) | $(spread pc.v) | $(spread cr.v) |"
	done
	echo
}

# Half a round trip; both ends of both poll without a pause.
latency() {
	local round ours theirs
	echo "### Latency of 64 bytes"
	echo
	echo "\`pingpong\` and \`ib_send_lat -R\`, 1000 round trips each, in turns; medians of $rounds rounds of the medians, in us."
	echo
	echo "| dwcp | ib_send_lat | ratio |"
	echo "|---|---|---|"
	rm -f ./*.v
	for ((round = 0; round < rounds; round++)); do
		bg b pong /dwcp/bench/pingpong --listen 10.0.0.2:7412
		sleep 1
		ours=$(/dwcp/bench/pingpong --peer 10.0.0.2:7412 | field median_us)
		bg_kill b pong
		bg_wait b pong 10
		theirs=$(perftest ib_send_lat 64 1000 | awk '{ print $5 }')
		[[ -n $ours && -n $theirs ]] || continue
		echo "$ours" >>d.v
		echo "$theirs" >>p.v
		awk -v d="$ours" -v p="$theirs" 'BEGIN { print d / p }' >>r.v
	done
	[[ -s r.v ]] || failed=1
	echo "| $(spread d.v) | $(spread p.v) | $(spread r.v) |"
	echo
}

setup() {
	local n
	echo "### Session set-up"
	echo
	echo "| streams | ms | n |"
	echo "|---|---|---|"
	for n in 1 64 512; do
		rm -f s.v
		for _ in 1 2 3; do
			dwcp benchmark amst --peer 10.0.0.2 --backend rdma --streams $n --checksum none --iterations 1 --interval 0 \
				--data-size 1MB --json 2>dwcp.err >json || { tail -n 1 dwcp.err >&2; continue; }
			field session_setup_ms <json >>s.v
		done
		if [[ -s s.v ]]; then echo "| $n | $(spread s.v %.0f) | $(wc -l <s.v) |"; else echo "| $n | failed: $(tail -n 1 dwcp.err) | 0 |"; fi
	done
	echo
}

# One setting at a time against the defaults, in turns with them.
settings() {
	local s round base
	echo "### Setting by setting"
	echo
	echo "64 KB chunks, one stream, $bytes MB; each in turns with the defaults, medians of $rounds rounds."
	echo
	echo "| setting | MB/s over the defaults' |"
	echo "|---|---|"
	for s in "--send-inline-size 0" "--send-inline-size 64" "--signal-interval 1" "--signal-interval 64" "--chain-length 1" \
		"--chain-length 64" "--queue-depth 8" "--queue-depth 512" "--rdma-busy-poll 1ms" "--shared-receive-queue on"; do
		rm -f q.v
		for ((round = 0; round < rounds; round++)); do
			dwcp_run --chunk-size 64KB --region "$all" --data-size "$all" >json || continue
			base=$(grep -A1 throughput_gbytes json | field median)
			# shellcheck disable=SC2086
			dwcp_run --chunk-size 64KB --region "$all" --data-size "$all" $s >json || continue
			awk -v a="$(grep -A1 throughput_gbytes json | field median)" -v b="$base" 'BEGIN { print a / b }' >>q.v
		done
		echo "| \`$s\` | $([[ -s q.v ]] && spread q.v || echo "failed: $(tail -n 1 dwcp.err)") |"
	done
	echo
}

failed=0
mkdir -p /tmp/bench && cd /tmp/bench || exit
serve b --backend rdma >&2 || exit
read -r _ _ release _ </proc/version
echo "Guest: Linux $release, $(nproc) CPUs ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)), soft-RoCE over a veth pair of MTU 1500."
echo
for part in $only; do
	$part
done
served b >&2
exit $failed

# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# Inside a guest (bench/guest.sh): dwcp and perftest in turns over rxe0 → veth → rxe1, one stream and one queue pair, the
# same message size, the same number of messages under way. Prints markdown.
#
#   rounds=5 bytes=64MB (of one run)  sizes="65536 262144 1048576 4194304"  depth=16
#   only="bandwidth latency setup settings"
#
# CPU is what the whole guest was busy for, both sides and the kernel: soft-RoCE works in softirqs that belong to nobody.

rounds=5 bytes=64 sizes="65536 262144 1048576 4194304" depth=16 only="bandwidth latency setup settings"
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

# What the CPUs were busy for in one run, in jiffies; the rate goes to perf.rate or dwcp.rate, in MB/s.
perftest_cpu() { # size iterations
	local before avg _
	before=$(busy)
	read -r _ _ _ avg _ <<<"$(perftest ib_write_bw "$1" "$2" -t "$(($2 < depth ? $2 : depth))")"
	[[ -n ${avg:-} ]] || { cat perf.log >&2; return 1; }
	echo "$avg" >perf.rate
	echo $(($(busy) - before))
}
dwcp_cpu() { # size iterations
	local before
	before=$(busy)
	dwcp_run --chunk-size "$1" --region "$(($1 * $2))" --data-size "$(($1 * $2))" >json || return
	grep -A1 throughput_gbytes json | field median | awk '{ print $1 * 1e9 / 1048576 }' >dwcp.rate
	echo $(($(busy) - before))
}

# A run of as few messages as perftest does shows what starting costs, which is taken off.
bandwidth_round() { # size iterations
	local few=5 pl pf dl df mb
	pl=$(perftest_cpu "$1" "$2") && dl=$(dwcp_cpu "$1" "$2") || return
	cp perf.rate p.rate && cp dwcp.rate d.rate || return
	pf=$(perftest_cpu "$1" $few) && df=$(dwcp_cpu "$1" $few) || return
	mb=$(awk -v b="$(($1 * ($2 - few)))" 'BEGIN { print b / 1048576 }')
	echo "$(<d.rate) $(<p.rate) $((10 * (dl - df))) $((10 * (pl - pf))) $mb"
}

bandwidth() {
	local size n round d p dms pms mb
	echo "### Bandwidth, one stream against one queue pair"
	echo
	echo "\`ib_write_bw -R -t $depth\` and \`dwcp benchmark amst --backend rdma --streams 1 --chunk-size SIZE --checksum none\`," \
		"$bytes MB each, in turns; medians of $rounds rounds after one that warms up, with the least and the most." \
		"CPU is what both CPUs were busy for, less that of a run of 5 messages."
	echo
	echo "| size | dwcp MB/s | ib_write_bw MB/s | ratio | dwcp CPU ms/MB | ib_write_bw CPU ms/MB | CPU ratio |"
	echo "|---|---|---|---|---|---|---|"
	for size in $sizes; do
		n=$((5 + all / size))
		rm -f ./*.v
		for ((round = 0; round <= rounds; round++)); do
			read -r d p dms pms mb <<<"$(bandwidth_round "$size" "$n")"
			[[ -n ${mb:-} ]] && ((round > 0)) || continue
			echo "$d" >>d.v
			echo "$p" >>p.v
			awk -v d="$d" -v p="$p" 'BEGIN { print d / p }' >>r.v
			awk -v t="$dms" -v mb="$mb" 'BEGIN { print t / mb }' >>dc.v
			awk -v t="$pms" -v mb="$mb" 'BEGIN { print t / mb }' >>pc.v
			awk -v d="$dms" -v p="$pms" 'BEGIN { if (p > 0) print d / p }' >>cr.v
		done
		[[ -s r.v && -s cr.v ]] || { echo "| $((size / 1024)) KB | no run ended well | | | | | |"; failed=1; continue; }
		echo "| $((size / 1024)) KB | $(spread d.v) | $(spread p.v) | $(spread r.v) | $(spread dc.v) | $(spread pc.v) | $(spread cr.v) |"
	done
	echo
}

# Half a round trip; both ends of both poll without a pause.
latency() {
	local round ours theirs
	echo "### Latency of 64 bytes"
	echo
	echo "\`pingpong\` and \`ib_send_lat -R\`, 2000 round trips each, in turns; medians of $((3 * rounds)) rounds of the medians, in us."
	echo
	echo "| dwcp | ib_send_lat | ratio |"
	echo "|---|---|---|"
	rm -f ./*.v
	for ((round = 0; round < 3 * rounds; round++)); do
		bg b pong /dwcp/bench/pingpong --listen 10.0.0.2:7412
		sleep 0.5
		ours=$(/dwcp/bench/pingpong --peer 10.0.0.2:7412 --iterations 2000 | field median_us)
		bg_kill b pong
		bg_wait b pong 10
		theirs=$(perftest ib_send_lat 64 2000 | awk '{ print $5 }')
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
	local s round base part=$((all / 4))
	echo "### Setting by setting"
	echo
	echo "64 KB chunks, one stream, $((bytes / 4)) MB; each in turns with the defaults, medians of $rounds rounds."
	echo
	echo "| setting | MB/s over the defaults' |"
	echo "|---|---|"
	for s in "--send-inline-size 0" "--send-inline-size 64" "--signal-interval 1" "--signal-interval 64" "--chain-length 1" \
		"--chain-length 64" "--queue-depth 8" "--queue-depth 512" "--rdma-busy-poll 1ms" "--shared-receive-queue on"; do
		rm -f q.v
		for ((round = 0; round < rounds; round++)); do
			dwcp_run --chunk-size 64KB --region "$part" --data-size "$part" >json || continue
			base=$(grep -A1 throughput_gbytes json | field median)
			# shellcheck disable=SC2086
			dwcp_run --chunk-size 64KB --region "$part" --data-size "$part" $s >json || continue
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

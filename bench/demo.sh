#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# A receiver and a sender on loopback: this program, a sparse file and a memory region are moved and compared.
# Some seconds; cleans up after itself. Exit status: 0 when everything arrived and is equal, 1 when anything is wrong.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

B=${B:-build/gcc}
dwcp=$B/dwcp
if [[ ! -x $dwcp ]]; then
	echo "demo: $dwcp is missing: run \`make' first" >&2
	exit 1
fi

dir=$(mktemp -d "$(dirname "$B")/demo.XXXXXX")
server=
finish() {
	if [[ -n $server ]]; then
		kill "$server" 2>/dev/null || true
		wait "$server" 2>/dev/null || true
	fi
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
	echo "demo: $*" >&2
	for log in "$dir"/*.err; do
		[[ ! -s $log ]] || sed 's/^/  /' "$log" >&2
	done
	exit 1
}

# field NAME FILE: the first value of that name in a JSON object with one field per line
field() {
	local value
	value=$(sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" "$2" | head -n 1)
	[[ -n $value ]] || fail "no \"$1\" in a result"
	printf '%s' "$value"
}

megabytes() { awk -v b="$1" 'BEGIN { printf "%.1f MB", b / 1048576 }'; }

row() { printf '  %-30s %10s %10s %9s %10s  %s\n' "$@"; }

# ---- what is moved -------------------------------------------------------------------------------

mkdir "$dir/out" "$dir/in"
cp "$dwcp" "$dir/out/dwcp"
truncate -s 256M "$dir/out/disk.img"
for at in 0 96 192; do # MB; between them are holes of 32 MB
	dd if=/dev/urandom of="$dir/out/disk.img" bs=1M count=64 seek=$at conv=notrunc status=none
done
chmod 640 "$dir/out/disk.img"
touch -d '2001-02-03 04:05:06.789' "$dir/out/disk.img"

# ---- receiver ------------------------------------------------------------------------------------

"$dwcp" serve --listen=127.0.0.1:0 --store="$dir/in" --stats-socket=none >"$dir/serve.out" 2>"$dir/serve.err" &
server=$!
at=
for ((i = 0; i < 200; i++)); do
	# the shell in the background may not have made it yet
	[[ ! -e $dir/serve.out ]] || at=$(sed -n 's/^listening on //p' "$dir/serve.out")
	[[ -z $at ]] || break
	kill -0 "$server" 2>/dev/null || fail "the receiver did not start"
	sleep 0.05
done
[[ -n $at ]] || fail "the receiver was not ready after 10 s"

# ---- sender --------------------------------------------------------------------------------------

send() {
	timeout 60 "$dwcp" send "$dir/out/$1" "$at" --json="$dir/$1.json" >/dev/null 2>"$dir/$1.err" ||
		fail "sending $1 failed"
	[[ $(field verified "$dir/$1.json") == true ]] || fail "$1 was not verified"
	cmp "$dir/out/$1" "$dir/in/$1" || fail "$1 differs from what was sent"
	[[ $(stat -c '%a %.9Y' "$dir/out/$1") == "$(stat -c '%a %.9Y' "$dir/in/$1")" ]] ||
		fail "mode or time of $1 differ from what was sent"
}

send_row() {
	local json=$dir/$1.json
	row "$2" "$(megabytes "$(field bytes "$json")")" "$(megabytes "$(field bytes_sent "$json")")" \
		"$(printf '%.3f s' "$(field seconds "$json")")" "$(printf '%.2f GB/s' "$(field gbytes_per_s "$json")")" "$3"
}

send dwcp
send disk.img
holes='equal, mode and time kept'
blocks_out=$(stat -c %b "$dir/out/disk.img") blocks_in=$(stat -c %b "$dir/in/disk.img")
if ((blocks_out * 512 < 256 << 20)); then
	((blocks_in <= blocks_out + 2048)) || fail "the holes of disk.img were filled: $blocks_in blocks for $blocks_out"
	holes='equal, holes kept'
fi

memory=$dir/memory.json
timeout 120 "$dwcp" benchmark amst --peer="$at" --data-size=512MB --iterations=4 --interval=0 --json="$memory" \
	>/dev/null 2>"$dir/memory.err" || fail "moving memory failed"
[[ $(field verified "$memory") == true ]] || fail "the receiver's memory differs from the sender's"

guest=$dir/guest.json
timeout 120 "$dwcp" migrate --peer="$at" --memory=512MB --dirty-rate=5 --json="$guest" >"$dir/guest.out" \
	2>"$dir/guest.err" || fail "migrating a guest failed"
[[ $(field verified "$guest") == true && $(field self_check "$guest") == true ]] ||
	fail "the guest is not at the receiver what it was"

kill "$server"
wait "$server" || fail "the receiver did not end in order"
server=
[[ ! -s $dir/serve.err ]] || fail "the receiver complained"

# ---- result --------------------------------------------------------------------------------------

echo
echo "dwcp moved over loopback, $(field streams "$memory") TCP streams by io_uring, $(field workers "$memory") workers" \
	"on each side:"
echo
row moved size sent time rate verified
row ------------------------------ ---------- ---------- --------- ---------- -------------------------
send_row dwcp 'file dwcp, this program' 'equal, mode and time kept'
send_row disk.img 'file disk.img, with holes' "$holes"
row 'memory, 512 MB region, 4 times' "$(megabytes "$(field bytes "$memory")")" "$(megabytes "$(field bytes "$memory")")" \
	"$(printf '%.3f s' "$(field seconds "$memory")")" "$(printf '%.2f GB/s' "$(field mean_gbytes_per_s "$memory")")" \
	'equal'
row 'a guest of 512 MB, running' "$(megabytes "$(field memory_bytes "$guest")")" \
	"$(megabytes "$(field bytes_wire "$guest")")" "$(printf '%.3f s' "$(field total_seconds "$guest")")" \
	"$(printf '%.2f GB/s' "$(field memory_gbytes_per_s "$guest")")" 'every page, every write'
echo
echo "Every chunk was checked by $(field checksum "$memory") when it arrived. Then the files were compared byte by byte"
echo "(cmp), and the regions by XXH3-128 over both. A session of $(field streams "$memory") streams was set up in" \
	"$(printf '%.1f' "$(field session_setup_ms "$memory")") ms."
echo
echo "The guest kept dirtying 5 % of its memory per second, and stood still for" \
	"$(printf '%.2f' "$(field downtime_ms "$guest")") ms:"
sed -n '/^  round/,/paused/p' "$dir/guest.out"

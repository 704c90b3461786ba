# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# guest: hosts=2 needs=rdma
# dwcp from host to host over RDMA: what arrives is what was sent.

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

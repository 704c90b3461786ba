#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: no-valgrind no-asan timeout=240
# dwcp benchmark hde: every field that scripts read, images that are none, and what does not go together.
set -uo pipefail
# shellcheck source=kmod-free-tests/cli.bash
. kmod-free-tests/cli.bash

bench() {
	dwcp benchmark hde "$@"
}

field() { # jq-expression that must be true
	jq -es "length == 1 and (.[0] | ($1))" "$dir/out.json" >/dev/null || fail "not true: $1 in $(cat "$dir/out.json")"
}

# Zeros, text, random bytes and text again: a page of each is somewhere else in the second.
images() {
	{
		head -c 1M /dev/zero
		seq 1 300000 | head -c 1M
		head -c 512K /dev/urandom
		seq 1 300000 | head -c 1M
	} >"$dir/old.img"
	cp "$dir/old.img" "$dir/new.img"
	local at
	for at in 100000 1200000 1300000 2200000 2700000; do
		printf changed | dd of="$dir/new.img" bs=1 seek=$at conv=notrunc status=none
	done
}

t_fields() {
	command -v jq >/dev/null || skip "no jq"
	expect 0 '' bench --data-size=2MB --iterations=3 --algorithms=none,lz4,zstd-3,hde-auto --json="$dir/out.json"
	field '.schema == "dwcp/1" and .command == "benchmark hde" and .measured == true and (.environment | has("commit"))'
	field '.input == "synthetic vm" and .bytes == 2097152 and (.results | length == 4)'
	field '.results | map(.algorithm) == ["none", "lz4", "zstd-3", "hde-auto"]'
	field '.results | map(.level) == [0, 1, 3, null]'
	field '.results | all(.verified and .ratio > 0 and .compress_mbytes_per_s.n == 3)'
	field '.results | all(.compress_mbytes_per_s.median > 0 and .decompress_mbytes_per_s.median > 0)'
	field '.results[0].ratio == 1 and .results[1].ratio > 2 and .results[2].ratio > .results[1].ratio'
	field '.results[3].pages.zero > 200'
}

t_images() {
	command -v jq >/dev/null || skip "no jq"
	images
	expect 0 '' bench --input="$dir/new.img" --base="$dir/old.img" --iterations=2 --algorithms=zstd-1,hde-auto,hde-zstd-3 \
		--json="$dir/out.json"
	field '.bytes == 3670016 and .changed_pages == 5 and .changed_bytes == 20480 and .xbzrle_bytes < 400'
	field '.results | all(.verified)'
	field '.delta | length == 3 and all(.verified)'
	field '.delta[1].compressed_bytes < .delta[0].compressed_bytes'
	field '.delta[1].pages.delta >= 4'
}

t_text() {
	images
	bench --input="$dir/new.img" --iterations=1 --algorithms=lz4,hde-datacenter >"$dir/out" 2>"$dir/err" || fail "$(cat "$dir/err")"
	grep -qE '^\| lz4 .*yes' "$dir/out" || fail "$(cat "$dir/out")"
	[[ ! -s $dir/err ]] || fail "standard error: $(cat "$dir/err")"
}

t_bad_images() {
	head -c 8192 /dev/urandom >"$dir/good"
	head -c 4096 /dev/urandom >"$dir/short"
	head -c 5000 /dev/urandom >"$dir/odd"
	: >"$dir/empty"
	mkfifo "$dir/pipe"
	expect 1 "cannot open $dir/none: No such file" bench --input="$dir/none"
	expect 1 "$dir/empty is empty; give a file with a guest's memory" bench --input="$dir/empty"
	expect 1 "$dir/odd has 5000 bytes, which are no whole pages" bench --input="$dir/odd"
	expect 1 "$dir is not a regular file" bench --input="$dir"
	expect 1 "$dir/pipe is not a regular file" bench --input="$dir/pipe"
	expect 1 "cannot open $dir/none: No such file" bench --input="$dir/good" --base="$dir/none" -n1
	expect 1 'give two images of one guest' bench --input="$dir/good" --base="$dir/short" -n1 --algorithms=lz4
	expect 1 'are the same; give an older image' bench --input="$dir/good" --base="$dir/good" -n1 --algorithms=lz4
	if ((EUID != 0)); then
		chmod 0 "$dir/good"
		expect 1 "cannot open $dir/good: Permission denied" bench --input="$dir/good"
	fi
}

t_usage() {
	expect 2 "there is no 'lz5'" bench --algorithms=lz4,lz5
	expect 2 'the level is -5 to 19' bench --algorithms=zstd-99
	expect 2 'the list is empty' bench --algorithms=,
	expect 2 'which is missing' bench --base=x
	expect 2 'choose one' bench --suite --oracle --input=x
	expect 2 'leave --input out' bench --suite --input=x
	expect 2 'need images' bench --train="$dir/model.c"
	expect 2 'are for --oracle and --train' bench some.img
	expect 2 'pages of 4096 bytes' bench --batch=5000
	[[ ! -e $dir/model.c ]] || fail "a model was written"
}

t_suite() {
	command -v jq >/dev/null || skip "no jq"
	expect 0 '' bench --suite --data-size=256KB --iterations=1 --json="$dir/out.json"
	field '.sections | map(.name) == ["hde_ratio", "hde_speed", "hde_delta", "hde_parallel"]'
	field '[.sections[0].rows[0:5][][1:][]] | length == 25 and all(. > 0)'
	field '[.sections[1].rows[][2:][]] | length == 32 and all(.median > 0)'
	field '.sections[2].rows | length <= 6 and length > 0'
	field '.sections[3].rows | length == 6'
}

t_train_and_oracle() {
	images
	cat "$dir/new.img" "$dir/old.img" "$dir/new.img" >"$dir/more.img"
	expect 1 'too few to train with' bench --train="$dir/model.c" --blocks=10 "$dir/new.img"
	[[ ! -e $dir/model.c ]] || fail "a model was written"
	expect 0 'regret' bench --oracle --blocks=10 "$dir/new.img" "$dir/more.img"
}

t_interrupted() {
	"$DWCP" benchmark hde --data-size=256MB --algorithms=zstd-19 >"$dir/out" 2>&1 &
	local p=$!
	servers+=("$p")
	sleep 1.5
	kill -INT "$p"
	reap "$p" 60
	[[ $rc == 130 ]] || fail "status $rc: $(cat "$dir/out")"
}

run_tests

#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: no-valgrind no-asan timeout=240
# dwcp checkpoint, checkpoints and restore as a user has them; a writer that is killed at random moments; a full disk.
set -uo pipefail
# shellcheck source=kmod-free-tests/cli.bash
. kmod-free-tests/cli.bash
RANDOM=${DWCP_TEST_SEED:-11}
kills=${DWCP_TEST_KILLS:-$([[ ${TEST_SET:-all} == all ]] && echo 12 || echo 3)}
small=(--memory=8MB --dirty-rate=100 --warm-up=50ms --interval=50ms)

part_files() { find "$1" -name '.*.part' | wc -l; }

t_takes_and_restores() {
	expect 0 'pause of an incremental one' dwcp checkpoint "$dir/store" "${small[@]}" --count=4 --name=box --json="$dir/c.json"
	jq -e '.schema == "dwcp/1" and .command == "checkpoint" and .measured and .taken == 4 and .self_check
		and (.checkpoints | length) == 4 and .checkpoints[0].kind == "full" and .checkpoints[0].pages == 2048
		and ([.checkpoints[1:][] | .kind == "incremental" and .base == .number - 1 and .pages > 0 and .pages < 2048
		and .pause_ms > 0 and .bytes > 0] | all) and .pause_ms.n == 3 and .pause_max_ms >= .pause_ms.median' \
		"$dir/c.json" >/dev/null || fail "$(cat "$dir/c.json")"
	# On another host: all that there is is the directory.
	cp -r "$dir/store" "$dir/there"
	for n in 1 3 4; do
		expect 0 'good at' dwcp restore "$dir/there" --number=$n --run=100ms --json="$dir/r.json"
		jq -e --argjson w "$(jq ".checkpoints[$n - 1].writes" "$dir/c.json")" --argjson n $n '.command == "restore" and .verified
			and .self_check and .number == $n and .files == $n and .name == "box" and .memory_bytes == 8388608
			and .writes_at_checkpoint == $w and .writes_at_check > $w' "$dir/r.json" >/dev/null || fail "$n: $(cat "$dir/r.json")"
	done
	expect 0 '4 +on 3 .* whole$' dwcp checkpoints "$dir/store" --check
}

t_goes_on_in_the_directory() {
	expect 0 '' dwcp checkpoint "$dir/store" "${small[@]}" --count=2
	expect 0 ' 3 +full' dwcp checkpoint "$dir/store" "${small[@]}" --count=2 --full-every=1 --compress=auto
	expect 0 'checkpoint 4' dwcp restore "$dir/store" --run=0
	expect 0 'checkpoint 2: .* out of 2 files' dwcp restore "$dir/store" --number=2 --run=0
}

t_merges() {
	local before
	expect 0 '' dwcp checkpoint "$dir/store" "${small[@]}" --count=5
	expect 0 'checkpoint 3: 3 files' dwcp checkpoints "$dir/store" --merge --number=3 --compress=internet
	[[ $(ls "$dir/store") == $'00000003.ckpt\n00000004.ckpt\n00000005.ckpt' ]] || fail "$(ls "$dir/store")"
	expect 0 '' dwcp checkpoints "$dir/store" --merge --json="$dir/m.json"
	jq -e '.merged.number == 5 and .merged.files == 3 and (.checkpoints | length) == 1 and .checkpoints[0].whole' \
		"$dir/m.json" >/dev/null || fail "$(cat "$dir/m.json")"
	before=$(sha256sum <"$dir/store/00000005.ckpt")
	expect 0 'is a full one already' dwcp checkpoints "$dir/store" --merge
	[[ $before == "$(sha256sum <"$dir/store/00000005.ckpt")" ]] || fail "written again"
	expect 0 'good at' dwcp restore "$dir/store" --run=50ms
}

t_merges_under_a_writer() {
	"$DWCP" checkpoint "$dir/store" "${small[@]}" --count=0 --json="$dir/c.json" >"$dir/out" 2>"$dir/err" &
	local writer=$!
	until_ok 20 test -e "$dir/store/00000003.ckpt"
	for _ in 1 2 3 4; do
		expect 0 '' dwcp checkpoints "$dir/store" --merge
		sleep 0.15
	done
	kill -TERM $writer
	reap $writer 20
	[[ $rc == 0 ]] || fail "status $rc: $(cat "$dir/err")"
	expect 0 'good at' dwcp restore "$dir/store" --run=50ms
	expect 0 '' dwcp checkpoints "$dir/store" --check
}

t_damaged() {
	expect 0 '' dwcp checkpoint "$dir/store" "${small[@]}" --count=3
	truncate -s -100 "$dir/store/00000003.ckpt"
	expect 1 '00000003.ckpt is damaged at byte [0-9]+: .*newest before it that is whole is number 2 \(--number=2\)' \
		dwcp restore "$dir/store"
	expect 3 '3 +on 2 .*NOT WHOLE: .*damaged' dwcp checkpoints "$dir/store" --check
	expect 1 'is damaged' dwcp checkpoints "$dir/store" --merge
	expect 0 'checkpoint 2' dwcp restore "$dir/store" --number=2 --run=0
	rm "$dir/store/00000001.ckpt"
	expect 1 'builds on number 1, which is not there.*none before it is whole' dwcp restore "$dir/store" --number=2
	expect 1 'cannot open .*00000009.ckpt' dwcp restore "$dir/store" --number=9
}

t_wrong_usage() {
	expect 2 '' dwcp checkpoint
	expect 2 'no kind' dwcp checkpoint "$dir/store" --guest=cow
	expect 2 'there is no' dwcp checkpoint "$dir/store" --tracker=nose
	expect 2 'multiple of 4 KB' dwcp checkpoint "$dir/store" --memory=16000001
	expect 1 'name one that is there' dwcp checkpoint "$dir/none" "${small[@]}"
	expect 1 'name one that is there' dwcp restore "$dir/none"
	expect 1 'there are no checkpoints' dwcp restore "$dir/store"
	expect 0 '' dwcp checkpoints "$dir/store" --check
}

# Whatever moment it dies at, the newest that has a name is whole.
t_killed() {
	local i ms
	for ((i = 0; i < kills; i++)); do
		rm -rf "$dir/store" && mkdir "$dir/store"
		"$DWCP" checkpoint "$dir/store" --memory=32MB --dirty-rate=2000 --warm-up=10ms --interval=1ms --count=0 >/dev/null 2>&1 &
		local writer=$!
		until_ok 20 test -e "$dir/store/00000002.ckpt"
		ms=$((RANDOM % 200))
		sleep "0.$(printf %03d $ms)"
		kill -9 $writer
		wait $writer 2>/dev/null
		expect 0 'good at' dwcp restore "$dir/store" --run=20ms
		expect 0 '' dwcp checkpoints "$dir/store" --check
	done
	expect 0 '' dwcp checkpoint "$dir/store" "${small[@]}" --count=1
	[[ $(part_files "$dir/store") == 0 ]] || fail "left: $(ls -A "$dir/store")"
}

in_namespace() { # commands: with mounts of their own
	unshare -m true 2>/dev/null || skip "no mount namespaces for this user"
	DIR=$dir unshare -m bash -c "mount -t tmpfs -o size=12m dwcp \"\$DIR/store\" || exit 99; $1"
	local status=$?
	[[ $status != 99 ]] || skip "no tmpfs for this user"
	[[ $status == 0 ]] || fail "status $status: $(cat "$dir/log" 2>/dev/null)"
}

t_full_disk() {
	in_namespace '
		exec >"$DIR/log" 2>&1
		"$DWCP" checkpoint "$DIR/store" --memory=8MB --dirty-rate=1000 --warm-up=50ms --interval=300ms --count=100
		[[ $? == 1 ]] && grep -q "No space left on device; make room there" "$DIR/log" && grep -q "check: good" "$DIR/log" || exit 1
		[[ -z $(find "$DIR/store" -name ".*.part") ]] || exit 2
		"$DWCP" restore "$DIR/store" --run=0 && "$DWCP" checkpoints "$DIR/store" --check || exit 3'
}

t_read_only() {
	in_namespace '
		exec >"$DIR/log" 2>&1
		mount -o remount,ro "$DIR/store" || exit 99
		"$DWCP" checkpoint "$DIR/store" --memory=8MB --warm-up=50ms --count=2
		[[ $? == 1 ]] && grep -q "Read-only file system; choose another directory" "$DIR/log"'
}

run_tests

#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs one set of tests of one build variant and counts what happened.
#
#   B=build/gcc TEST_JOBS=2 kmod-free-tests/run.sh all|asan|tsan|valgrind|guest [NAME…]
#
# Test programs are cmocka binaries ($B/tests/test_x) and scripts (test_x.sh: exit 0 or 77, lines `PASS name`,
# `FAIL name`, `SKIP name: reason`, the program under test in $DWCP, scratch space in $TEST_TMP). A test says in a
# comment of its own what it needs:
#
#   check: timeout=300 no-asan no-tsan no-valgrind valgrind tsan only-guest alone
#
# `alone`: it measures time, and runs when the others have ended.
# By default every test is in `all` and `asan`; programs that use threads or a transport are in `tsan`; programs that
# include nothing above base/ and nothing shared between tests are in `valgrind` (whose 3.19 knows no openat2). A crash, a time-out, a sanitizer report, also of a child process, and
# a program that ran no test are failures. $COUNTS, if set, gets a line "passed failed skipped".
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
ulimit -c 0

set_name=${1:-all}
shift || true
dir=kmod-free-tests
jobs=${TEST_JOBS:-2}
base_timeout=${TEST_TIMEOUT:-120}
: "${B:=build/gcc}"
logs=$B/logs/$set_name
rm -rf "$logs"
mkdir -p "$logs"
logs=$(cd "$logs" && pwd)
B=$(cd "$B" && pwd)
export B DWCP=$B/dwcp TEST_SET=$set_name CMOCKA_MESSAGE_OUTPUT=STDOUT

tags() {
	sed -n 's/^[#/ *]*check: *\([-a-z0-9= ]*\).*/\1/p' "$1" | tr '\n' ' '
}

selected() { # source tags
	case " $2 " in *" only-guest "*) [[ $set_name == guest ]] && return 0 || return 1 ;; esac
	case " $2 " in *" no-$set_name "*) return 1 ;; *" $set_name "*) return 0 ;; esac
	case $set_name in
	all | asan) return 0 ;;
	tsan) [[ $1 == *.c ]] && grep -qE 'pthread_create|#include "(base/(jobs|ring|log|metrics)|transport/|migrate/)' "$1" ;;
	valgrind) [[ $1 == *.c ]] && ! grep -qE '#include "(transport|compress|predict|migrate|bench|cli|kmod-free-tests)/' "$1" ;;
	guest) return 1 ;;
	*)
		echo "run.sh: unknown set '$set_name': use all, asan, tsan, valgrind or guest" >&2
		exit 2
		;;
	esac
}

prefix=()
scale=1
case $set_name in
asan) scale=3 ;;
tsan)
	scale=4
	# The runtime's fixed shadow cannot live with 32 bits of address randomisation.
	if (($(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 0) > 28)) && setarch -R true 2>/dev/null; then
		prefix=(setarch -R)
	fi
	;;
valgrind) scale=6 ;;
esac

run_one() { # name source timeout
	local log=$logs/$1.log report=$logs/$1.report cmd=() rc start=$EPOCHREALTIME
	if [[ $2 == *.sh ]]; then
		cmd=(bash "$2")
	else
		cmd=("$B/tests/$1")
	fi
	if [[ $set_name == valgrind ]]; then
		cmd=(valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite --track-fds=no
			--log-file="$report.%p" "${cmd[@]}")
	fi
	local tmp
	tmp=$(mktemp -d "${TMPDIR:-/tmp}/dwcp-test.XXXXXX")
	TEST_TMP=$tmp \
		ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}log_path=$report:detect_stack_use_after_return=1:allocator_may_return_null=1" \
		UBSAN_OPTIONS="${UBSAN_OPTIONS:+$UBSAN_OPTIONS:}log_path=$report:print_stacktrace=1" \
		TSAN_OPTIONS="${TSAN_OPTIONS:+$TSAN_OPTIONS:}log_path=$report:halt_on_error=0:second_deadlock_stack=1:allocator_may_return_null=1" \
		timeout -k 10 "$3" "${prefix[@]}" "${cmd[@]}" >"$log" 2>&1 </dev/null
	rc=$?
	rm -rf "$tmp"
	find "$logs" -name "$1.report.*" -size 0 -delete
	echo "$rc $start $EPOCHREALTIME" >"$logs/$1.rc"
}

count_cmocka() {
	awk -f "$dir/cmocka.awk" "$1"
}

count_script() {
	awk '/^PASS / { print "P " substr($0, 6) } /^FAIL / { print "F " substr($0, 6) }
	     /^SKIP / { print "S " substr($0, 6) }' "$1"
}

tally() { # name source timeout → sets p f s note; appends to failed_names, skip_notes
	local rc start end what rest
	read -r rc start end <"$logs/$1.rc"
	p=0 f=0 s=0 note=
	while read -r what rest; do
		case $what in
		P) p=$((p + 1)) ;;
		F) f=$((f + 1)) ;;
		S) s=$((s + 1)) skip_notes+=("$1: $rest") ;;
		esac
	done < <(if [[ $2 == *.sh ]]; then count_script "$logs/$1.log"; else count_cmocka "$logs/$1.log"; fi)
	if [[ $2 == *.sh && $rc == 77 && $((p + f)) == 0 ]]; then
		rc=0
		((s > 0)) || { s=1 && skip_notes+=("$1: no reason given"); }
	fi
	if compgen -G "$logs/$1.report.*" >/dev/null; then
		note="sanitizer or valgrind report" f=$((f > 0 ? f : 1))
	elif ((rc == 124 || rc == 137)); then
		note="no end within $3 s" f=$((f > 0 ? f : 1))
	elif ((rc > 128)); then
		note="killed by signal $((rc - 128))" f=$((f > 0 ? f : 1))
	elif ((rc != 0 && f == 0)); then
		note="exit status $rc" f=1
	elif ((p + f + s == 0)); then
		note="ran no test" f=1
	fi
	seconds=$(awk -v a="$start" -v b="$end" 'BEGIN { printf "%.1f", b - a }')
	((f == 0)) || failed_names+=("$1")
}

# Scripts take longest: first, so that none runs alone at the end.
names=() sources=() limits=() alone=()
for src in "$dir"/test_*.sh "$dir"/test_*.c; do
	[[ -e $src ]] || continue
	name=$(basename "$src" .c)
	if (($# > 0)); then
		[[ " $* " == *" $name "* ]] || continue
	fi
	t=$(tags "$src")
	selected "$src" "$t" || continue
	limit=$base_timeout
	[[ $t =~ timeout=([0-9]+) ]] && limit=${BASH_REMATCH[1]}
	if [[ " $t " == *" alone "* ]]; then
		alone+=("$name $src $((limit * scale))")
	else
		names+=("$name") sources+=("$src") limits+=($((limit * scale)))
	fi
done

together=${#names[@]}
for one in "${alone[@]}"; do
	read -r name src limit <<<"$one"
	names+=("$name") sources+=("$src") limits+=("$limit")
done
total=${#names[@]}
passed=0 failed=0 skipped=0 done_n=0 next=0
failed_names=() skip_notes=()
declare -A running=()

while ((done_n < total)); do
	while ((next < total && ${#running[@]} < (next < together ? jobs : 1))); do
		run_one "${names[next]}" "${sources[next]}" "${limits[next]}" 2>/dev/null &
		running[$!]=$next
		next=$((next + 1))
	done
	wait -n -p pid "${!running[@]}"
	i=${running[$pid]}
	unset "running[$pid]"
	done_n=$((done_n + 1))
	tally "${names[i]}" "${sources[i]}" "${limits[i]}"
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	printf '  [%2d/%d] %-28s %4d passed%s%s  %s s%s\n' "$done_n" "$total" "${names[i]}" "$p" \
		"$( ((f == 0)) || echo ", $f FAILED")" "$( ((s == 0)) || echo ", $s skipped")" "$seconds" "${note:+  ($note)}"
done

for n in "${failed_names[@]}"; do
	printf '\n---- %s (%s) ----\n' "$n" "$set_name"
	cat "$logs/$n.log"
	for r in "$logs/$n".report.*; do
		[[ ! -e $r ]] || cat "$r"
	done
done
for n in "${skip_notes[@]}"; do
	printf '  skipped: %s\n' "$n"
done
if ((total == 0)); then
	echo "run.sh: no test belongs to the set '$set_name'" >&2
	failed=$((failed + 1))
fi
[[ -z ${COUNTS:-} ]] || echo "$passed $failed $skipped" >>"$COUNTS"
echo "$set_name (${B##*/}): $passed ok, $failed not ok, $skipped skipped"
((failed == 0))

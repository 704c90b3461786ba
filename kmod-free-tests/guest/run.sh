# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# Inside the guest: runs cmocka programs, then every function test_* of the scripts, one process each and bounded in
# time. What a test printed is shown when it failed. After each one nothing of it may be left: processes are ended,
# links put right, and what `rdma resource` still shows of user space fails the test.
#
#   run.sh [valgrind:]PROGRAM… -- SCRIPT…

. /guest/lib.sh
failed=0

verdict() { # name status log
	case $2 in
	0) echo "PASS $1 ($((SECONDS - began)) s)" ;;
	77) echo "SKIP $1: $(tail -n 1 "$3")" ;;
	*)
		failed=1
		echo "---- $1: status $2 after $((SECONDS - began)) s"
		tail -n 60 "$3"
		echo "FAIL $1"
		;;
	esac
}

# What a failed test left in soft-RoCE would fail those that follow, too.
renew() {
	renew_rdma a
	renew_rdma b
}

cmocka_program() { # name
	local name=${1#valgrind:} log=/tmp/$1.log cmd rc what rest reported=0
	began=$SECONDS
	cmd=("./tests/$name")
	[[ $1 == "$name" ]] || cmd=(env TEST_SET=valgrind valgrind -q --error-exitcode=99 --leak-check=full
		--show-leak-kinds=definite --errors-for-leak-kinds=definite "${cmd[@]}")
	CMOCKA_MESSAGE_OUTPUT=STDOUT TEST_PATIENCE=60 timeout -k 5 "${GUEST_PROGRAM_LIMIT:-240}" "${cmd[@]}" >"$log" 2>&1
	rc=$?
	while read -r what rest; do
		case $what in
		P) echo "PASS $1:$rest" ;;
		F) echo "FAIL $1:$rest" && reported=1 ;;
		S) echo "SKIP $1:$rest" ;;
		esac
	done < <(awk -f /job/cmocka.awk "$log")
	echo "     $1: $((SECONDS - began)) s"
	if ((rc != 0 || reported)); then
		failed=1
		tail -n 80 "$log"
		((reported)) || echo "FAIL $1 (status $rc)"
		renew
	fi
	if ! nothing_left "$log.left"; then
		cat "$log.left"
		echo "FAIL $1: leaves RDMA resources"
		failed=1
	fi
}

script_test() { # script function
	local log=/tmp/$2.test.log rc
	began=$SECONDS
	mkdir -p "/tmp/$2"
	# shellcheck disable=SC2016
	TEST_TMP=/tmp/$2 timeout -k 5 "${GUEST_TEST_LIMIT:-150}" bash -c '. /guest/lib.sh; . "/job/$0.sh"; cd "$TEST_TMP"; "$1"' \
		"$1" "$2" >"$log" 2>&1 </dev/null
	rc=$?
	((rc == 0 || rc == 77)) || each_host show_logs >>"$log" 2>&1
	tidy_up
	if ! nothing_left "$log.left" && ((rc == 0)); then
		cat "$log.left" >>"$log"
		rc=98
	fi
	verdict "$1:${2#test_}" $rc "$log"
	((rc == 0 || rc == 77)) || renew
	rm -rf "/tmp/${2:?}"
}

programs=()
while (($# > 0)) && [[ $1 != -- ]]; do
	programs+=("$1")
	shift
done
shift
for p in "${programs[@]}"; do
	cmocka_program "$p"
done
has_rdma=0
! dwcp backends 2>/dev/null | grep -q '^rdma ' || has_rdma=1
for s in "$@"; do
	if ((!has_rdma)) && grep -q 'guest: .*needs=rdma' "/job/$s.sh"; then
		echo "SKIP $s: this dwcp was built without rdma (librdmacm-dev, libibverbs-dev)"
		continue
	fi
	for f in $(sed -n 's/^\(test_[a-z0-9_]*\)() *{.*/\1/p' "/job/$s.sh"); do
		script_test "$s" "$f"
	done
done
exit $failed

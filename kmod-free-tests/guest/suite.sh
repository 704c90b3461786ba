#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The guest suite of one guest, or of two: boots, runs what belongs there and prints `PASS name`, `FAIL name`,
# `SKIP name: reason`, as kmod-free-tests/run.sh wants it.
#
#   kmod-free-tests/guest/suite.sh 1|2|valgrind [SECONDS [NAME…]]
#
# What belongs: scripts guest/tests/*.sh whose comment says `guest: hosts=N`, and, in one guest, cmocka programs whose
# comment says `check: … in-guest`. `valgrind`: one guest, programs of `in-guest-valgrind` under valgrind.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
: "${B:=build/gcc}"
what=$1 hosts=${1/valgrind/1} tag=in-guest run=
[[ $what != valgrind ]] || tag=in-guest-valgrind run=valgrind:
limit=${2:-150}
shift $(($# < 2 ? $# : 2))

chosen() { (($# == 1)) || [[ " ${*:2} " == *" $1 "* ]]; }
args=() programs=() scripts=()
for f in kmod-free-tests/guest/tests/*.sh; do
	name=$(basename "$f" .sh)
	chosen "$name" "$@" || continue
	grep -qE "guest: .*hosts=([12],)*$what( |,|\$)" "$f" || continue
	args+=(--with "$f:$name.sh")
	scripts+=("$name")
done
if ((hosts == 1)); then
	for f in $(grep -lE "^[/ *#]*check:.* $tag( |\$)" kmod-free-tests/test_*.c); do
		name=$(basename "$f" .c)
		chosen "$name" "$@" || continue
		args+=(--test "$name")
		programs+=("$run$name")
	done
fi
kmod-free-tests/guest/guest.sh --hosts "$hosts" --time "$limit" --with kmod-free-tests/guest/run.sh \
	--with kmod-free-tests/cmocka.awk "${args[@]}" -- bash /job/run.sh "${programs[@]}" -- "${scripts[@]}" 2>&1
rc=$?
case $rc in
77) echo "SKIP guest: no guest can be had here (the line above says why)" ;;
0 | 1) ;;
*)
	echo "FAIL the guest ended with status $rc"
	rc=1
	;;
esac
exit $rc

#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# What `make check` and its parts do, step by step. A step that fails is reported and the others still run. The last
# line is `N passed, N failed, N skipped`: the tests of all sub-runs; a failed step that counts no test of its own
# (build, lint) counts as one failure. Exit status 0 only if nothing failed and something ran.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

# Variables given to make (WERROR=1) go on to the makes below; its job slots do not.
MAKEFLAGS=$(sed -E 's/(^| )(-j[0-9]*|--jobserver-auth=[^ ]*)//g' <<<"${MAKEFLAGS:-}")
export MAKEFLAGS
unset MFLAGS MAKELEVEL
make=(make --no-print-directory -j 2)
clang=${CLANG:-clang}

COUNTS=$(mktemp "${TMPDIR:-/tmp}/dwcp-check.XXXXXX")
export COUNTS
trap 'rm -f "$COUNTS"' EXIT
failed_steps=()

failures() {
	awk '{ n += $2 } END { print n + 0 }' "$COUNTS"
}

step() { # title command…
	local title=$1 before start=$SECONDS
	shift
	before=$(failures)
	printf '\n== %s\n' "$title"
	if "$@" </dev/null; then
		printf '   (%d s)\n' $((SECONDS - start))
		return 0
	fi
	printf '   %s: FAILED (%d s)\n' "$title" $((SECONDS - start))
	failed_steps+=("$title")
	(($(failures) > before)) || echo "0 1 0" >>"$COUNTS"
	return 1
}

finish() {
	local p f s
	read -r p f s < <(awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }' "$COUNTS")
	echo
	((${#failed_steps[@]} == 0)) || printf 'failed: %s\n' "${failed_steps[@]}"
	if ((p + f == 0)); then
		echo "no test ran"
		f=1
	fi
	echo "$p passed, $f failed, $s skipped"
	((f == 0))
	exit
}

want=${1:-all}
step "dependencies" tools/deps.sh build check || finish
case $want in
all | fast)
	step "build and tests, gcc" "${make[@]}" run-tests
	step "include directions" tools/check-deps.sh
	;;
esac
case $want in all | asan) step "tests under ASan and UBSan" "${make[@]}" SANITIZE=asan run-tests ;; esac
case $want in all | tsan) step "threaded tests under TSan" "${make[@]}" SANITIZE=tsan run-tests ;; esac
case $want in all | valgrind) step "small suite under valgrind" "${make[@]}" SET=valgrind run-tests ;; esac
# A machine without qemu's packages is told so; there the guests' tests are skipped.
case $want in
all | guest)
	tools/deps.sh guest || echo "guests cannot be had: their tests are skipped" >&2
	step "RDMA in guests" "${make[@]}" SET=guest run-tests
	;;
esac
if [[ $want == all ]]; then
	step "build with clang" "${make[@]}" CC="$clang" OPT=-O0 WERROR=1 all tests
	if compgen -G 'kmod-free-tests/fuzz/fuzz_*.c' >/dev/null; then
		step "fuzzers, 10 s each" "${make[@]}" FUZZ_TIME=10 fuzz
	fi
	step "formatting" "${make[@]}" lint-format
	step "scripts" "${make[@]}" lint-scripts
	step "cppcheck" "${make[@]}" lint-cppcheck
	step "clang-tidy" "${make[@]}" -k lint-tidy TIDY_LESS=1
fi
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: no-asan no-tsan no-valgrind
# run.sh counts truly: real cmocka programs and scripts that pass, fail, skip, crash, hang, leak out of their children,
# and run nothing.
set -uo pipefail
tmp=${TEST_TMP:?}
failed=0
tag=check # not spelled out below: run.sh reads this file too
unset COUNTS MAKEFLAGS
tree=$tmp/tree
tests=$tree/kmod-free-tests
bin=$tree/build/gcc/tests

fresh() {
	rm -rf "$tree"
	mkdir -p "$tests" "$bin"
	cp kmod-free-tests/run.sh kmod-free-tests/cmocka.awk "$tests"
}

program() { # name body-of-the-second-test [compiler flags]
	local name=$1 body=$2
	shift 2
	cat >"$tests/test_$name.c" <<C
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
/* $tag: timeout=2 */
static void bye(void) { _exit(7); }
static void first(void **s) { (void)s; printf("no newline"); fflush(stdout); }
static void second(void **s) { (void)s; $body; }
static void third(void **s) { (void)s; }
int main(void)
{
	const struct CMUnitTest a[] = { cmocka_unit_test(first), cmocka_unit_test(second) };
	const struct CMUnitTest b[] = { cmocka_unit_test(third) };

	return cmocka_run_group_tests(a, NULL, NULL) + cmocka_run_group_tests(b, NULL, NULL);
}
C
	gcc -O0 -g -w "$@" "$tests/test_$name.c" -o "$bin/test_$name" -lcmocka || echo "FAIL compile_$name"
}

script() { # name body
	printf '%s\n' "$2" >"$tests/test_$1.sh"
}

expect() { # name "passed failed skipped" exit-status text-in-output [set]
	local rc=0 out counts
	out=$(B=build/gcc COUNTS=$tmp/counts bash "$tests/run.sh" "${5:-all}" 2>&1) || rc=$?
	counts=$(cat "$tmp/counts" 2>/dev/null)
	rm -f "$tmp/counts"
	if [[ $counts == "$2" && $rc == "$3" && $out == *"$4"* ]]; then
		echo "PASS $1"
	else
		echo "FAIL $1: counted '$counts', not '$2'; exit status $rc; output:"
		printf '%s\n' "$out" | sed 's/^/  /'
		failed=1
	fi
}

fresh && program pass 'assert_true(1)'
expect pass "3 0 0" 0 "3 passed"
fresh && program fail 'printf("the cause\n"); assert_int_equal(1, 2)'
expect fail "2 1 0" 1 "the cause"
fresh && program skip 'print_message("SKIP second: no such device\n"); skip()'
expect skip "2 0 1" 0 "skipped: test_skip: second: no such device"
fresh && program crash 'abort()'
expect crash "1 1 0" 1 "killed by signal 6"
fresh && program hang 'sleep(60)'
expect hang "1 1 0" 1 "no end within 2 s"
fresh && program quit 'exit(0)'
expect early_exit_is_failure "1 1 0" 1 "test_quit"
fresh && program child 'if (!fork()) { char *volatile p = malloc(3); p[3] = 1; _exit(0); } wait(NULL)' -fsanitize=address
expect report_of_a_child "3 1 0" 1 "heap-buffer-overflow"
fresh && program status 'atexit(bye)'
expect exit_status_counts "3 1 0" 1 "exit status"
fresh && : >"$tests/test_none.c" && printf '#!/bin/sh\n' >"$bin/test_none" && chmod +x "$bin/test_none"
expect ran_no_test "0 1 0" 1 "ran no test"
fresh && : >"$tests/test_missing.c"
expect program_is_missing "0 1 0" 1 "exit status 127"
fresh
expect no_test_at_all "0 1 0" 1 "no test belongs"

fresh && script ok $'echo PASS a\necho PASS b\necho "SKIP c: no namespace"'
expect script_pass "2 0 1" 0 "skipped: test_ok.sh: c: no namespace"
fresh && script bad $'echo PASS a\necho FAIL b\nexit 1'
expect script_fail "1 1 0" 1 "FAIL b"
fresh && script lies $'echo FAIL b\nexit 0'
expect script_fail_line_counts "0 1 0" 1 "FAIL b"
fresh && script dies $'echo PASS a\nexit 3'
expect script_exit_status_counts "1 1 0" 1 "exit status 3"
fresh && script skips $'echo "SKIP all: no qemu"\nexit 77'
expect script_skip "0 0 1" 0 "all: no qemu"
fresh && script mute $'exit 77'
expect script_skip_without_reason "0 0 1" 0 "no reason given"
fresh && script nothing $'exit 0'
expect script_ran_nothing "0 1 0" 1 "ran no test"
fresh && script tagged $'# check: no-asan\necho PASS a' && script plain 'echo PASS b'
expect tag_leaves_a_set "1 0 0" 0 "test_plain.sh" asan
exit $failed

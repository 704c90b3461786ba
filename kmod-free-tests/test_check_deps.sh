#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: no-asan no-tsan no-valgrind
# tools/check-deps.sh finds every kind of violation that is planted, and passes what is allowed.
set -uo pipefail
tmp=${TEST_TMP:?}
failed=0

tree() {
	rm -rf "$tmp/tree"
	mkdir -p "$tmp"/tree/{base,transport,compress,predict,migrate,bench,cli,kmod-free-tests}
	echo '#include <stdint.h>' >"$tmp/tree/base/err.h"
}

expect() { # pass|fail name file include-line
	tree
	echo "$4" >"$tmp/tree/$3"
	local rc=0 out
	out=$(tools/check-deps.sh "$tmp/tree" 2>&1) || rc=$?
	if [[ $1 == pass && $rc == 0 && -z $out ]] || [[ $1 == fail && $rc == 1 && $out == *"$3:1: "* ]]; then
		echo "PASS $2"
	else
		echo "FAIL $2 (exit status $rc: $out)"
		failed=1
	fi
}

expect pass base_from_everywhere cli/main.c '#include "base/err.h"'
expect pass migrate_uses_transport migrate/source.c '#include "transport/amst.h"'
expect pass bench_uses_migrate bench/run.c '#include "migrate/session.h"'
expect pass test_includes_anything kmod-free-tests/test_x.c '#include "cli/cmd.h"'
expect pass uring_own_header transport/uring_conn.c '#include <liburing.h>'
expect pass codec_own_header compress/codec_zstd.c '#include <zstd.h>'
expect pass json_own_header base/json.h '#include <jansson.h>'
expect pass system_header base/log.c '#include <linux/if.h>'
expect fail base_upwards base/opt.c '#include "transport/backend.h"'
expect fail transport_to_compress transport/amst.c '#include "compress/hde.h"'
expect fail compress_to_predict compress/hde.c '#include "predict/pba.h"'
expect fail predict_to_transport predict/pba.c '#include "transport/backend.h"'
expect fail transport_to_migrate transport/amst.c '#include "migrate/guest.h"'
expect fail migrate_to_bench migrate/source.c '#include "bench/report.h"'
expect fail bench_to_cli bench/run.c '#include "cli/cmd.h"'
expect fail product_includes_tests base/opt.c '#include "kmod-free-tests/helper.h"'
expect fail spaced_include base/opt.c '  #  include "cli/cmd.h"'
expect fail angle_project_header base/opt.c '#include <cli/cmd.h>'
expect fail macro_include base/opt.c '#include HEADER'
expect fail bare_name base/opt.c '#include "err.h"'
expect fail parent_path migrate/round.c '#include "../base/err.h"'
expect fail hidden_parent_path base/opt.c '#include "base/../cli/cmd.h"'
expect fail liburing_elsewhere transport/amst.c '#include <liburing.h>'
expect fail liburing_in_test kmod-free-tests/test_x.c '#include <liburing.h>'
expect fail verbs_elsewhere transport/uring.c '#include <infiniband/verbs.h>'
expect fail dpdk_elsewhere transport/rel.c '#include <rte_mbuf.h>'
expect fail zstd_elsewhere compress/hde.c '#include <zstd.h>'
expect fail jansson_elsewhere cli/main.c '#include <jansson.h>'
expect fail yaml_elsewhere base/json.c '#include <yaml.h>'

rm -rf "$tmp/empty"
mkdir -p "$tmp/empty/base"
if tools/check-deps.sh "$tmp/empty" >/dev/null 2>&1; then
	echo "FAIL nothing_found_is_an_error"
	failed=1
else
	echo "PASS nothing_found_is_an_error"
fi
exit $failed

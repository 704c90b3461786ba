#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Proves the direction of #include:
#
#   cli → bench → migrate → { transport, compress, predict } → base
#
# transport, compress and predict never include one another; a header of the project is named by its path from the
# root; a vendor's header is included in the files named below only. Tests may include anything of the project.
# Usage: check-deps.sh [ROOT]. Prints each offence as file:line; exit status 1 if there is one.
set -euo pipefail
cd "${1:-$(dirname "$0")/..}"

dirs=()
for d in base transport compress predict migrate bench cli kmod-free-tests; do
	[[ ! -d $d ]] || dirs+=("$d")
done
if ((${#dirs[@]} == 0)); then
	echo "check-deps: no source folder below $PWD" >&2
	exit 1
fi

# What a preprocessor takes for an include: `#include`, `# include`, `#include_next`, `#import`. One that names its
# header by a macro cannot be judged here and is refused.
grep -rnE --include='*.[ch]' '^[[:space:]]*#[[:space:]]*(include|include_next|import)\>' "${dirs[@]}" |
	awk '
	BEGIN {
		rank["base"] = 0
		rank["transport"] = rank["compress"] = rank["predict"] = 1
		rank["migrate"] = 2
		rank["bench"] = 3
		rank["cli"] = 4
		rank["kmod-free-tests"] = 5

		# vendor header → files that may include it
		vendor["^liburing"] = "^(transport/uring[^/]*|bench/[^/]*uring[^/]*)\\.[ch]$"
		vendor["^(infiniband|rdma)/"] = "^(transport/verbs|kmod-free-tests/test_verbs_)[^/]*\\.[ch]$"
		vendor["^rte_"] = "^transport/dpdk[^/]*\\.[ch]$"
		vendor["^(zstd|zdict|zstd_errors|lz4|lz4hc|lz4frame|zlib|brotli/|snappy|lzma|libdeflate)"] = \
			"^compress/(codec|dict)[^/]*\\.[ch]$"
		vendor["^onnxruntime"] = "^predict/onnx[^/]*\\.[ch]$"
		vendor["^jansson"] = "^base/(json|metrics)[^/]*\\.[ch]$"
		vendor["^yaml"] = "^base/(opt|yaml)[^/]*\\.c$"
		vendor["^(xxhash|xxh3)"] = "^(base/|kmod-free-tests/test_base_)digest[^/]*\\.[ch]$"
		vendor["^(isa-l|crc|isal)"] = "^base/digest[^/]*\\.[ch]$"
		vendor["^microhttpd"] = "^cli/prometheus\\.c$"
		vendor["^cmocka"] = "^kmod-free-tests/"
	}
	function offence(why) { printf "%s:%s: %s\n", file, line, why; bad++ }
	{
		file = $0; sub(/:.*/, "", file)
		line = substr($0, length(file) + 2); sub(/:.*/, "", line)
		text = substr($0, length(file) + length(line) + 3)
		sub(/^[ \t]*#[ \t]*(include_next|include|import)[ \t]*/, "", text)
		from = file; sub(/\/.*/, "", from)
		n++
		if (match(text, /^"[^"]+"/)) {
			quoted = 1
		} else if (match(text, /^<[^>]+>/)) {
			quoted = 0
		} else {
			offence("include of a macro: name the header itself")
			next
		}
		name = substr(text, 2, RLENGTH - 2)
		to = name; sub(/\/.*/, "", to)
		for (v in vendor)
			if (name ~ v && file !~ vendor[v])
				offence("vendor header " name " outside its own files")
		if (!(to in rank) || to == name) {
			if (quoted)
				offence("\"" name "\" is not a path from the root")
			next
		}
		if (name ~ /(^|\/)\.\.?(\/|$)/)
			offence("\"" name "\" is not a plain path")
		if (to != from && rank[to] >= rank[from])
			offence(from " must not include " to " (" name ")")
	}
	END {
		if (n == 0) { print "check-deps: no include found: the search is broken"; exit 1 }
		if (bad) exit 1
	}' >&2

# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# What the tests of the command line share. Every wait is bounded. A test is a function; `run_tests` runs those whose
# names begin with "t_" and prints PASS, FAIL or SKIP for each.

: "${DWCP:?}" "${TEST_TMP:?}"
export XDG_RUNTIME_DIR=$TEST_TMP/run
mkdir -p "$XDG_RUNTIME_DIR"
servers=()

fail() { # why: ends the test
	echo "  $*"
	exit 1
}

skip() {
	echo "SKIPPED: $*"
	exit 77
}

# What the server does right now, for the log of a test that hangs.
server_now() {
	local t
	[[ -n ${server:-} && -d /proc/$server ]] || return 0
	echo "  server $server:"
	timeout 10 "$DWCP" stats "${port:-}" 2>&1
	for t in /proc/"$server"/task/*; do
		echo "  thread $(cat "$t/comm" 2>/dev/null): $(cat "$t/wchan" 2>/dev/null) $(cut -d' ' -f1 "$t/syscall" 2>/dev/null)"
	done
	cat "$dir/serve.err"
}

# dwcp with an end: a hang is a failure with status 124, and says where the server is.
dwcp() {
	local status=0
	timeout -k 5 100 "$DWCP" "$@" || status=$?
	[[ $status != 124 ]] || server_now
	return $status
}

# The process of this id must end: its status in $rc.
reap() { # pid seconds
	local i
	for ((i = 0; i < $2 * 20; i++)); do
		kill -0 "$1" 2>/dev/null || break
		sleep 0.05
	done
	if kill -0 "$1" 2>/dev/null; then
		server_now
		kill -9 "$1"
		wait "$1" 2>/dev/null
		fail "process $1 did not end within $2 s"
	fi
	rc=0
	wait "$1" 2>/dev/null || rc=$?
}

# Starts `dwcp serve` on a port of its own: $server is its process, $at its address, $port the port.
serve() { # options…
	local i out=$dir/serve.out
	: >"$out"
	"$DWCP" serve --listen=127.0.0.1:0 "$@" >"$out" 2>"$dir/serve.err" &
	server=$!
	servers+=("$server")
	for ((i = 0; i < 400; i++)); do
		grep -q '^listening on ' "$out" && break
		kill -0 "$server" 2>/dev/null || fail "serve $*: $(cat "$dir/serve.err")"
		sleep 0.05
	done
	at=$(sed -n 's/^listening on //p' "$out")
	[[ -n $at ]] || fail "serve does not get ready"
	# shellcheck disable=SC2034
	port=${at##*:}
}

stop() { # ends it in order; it must say 0
	kill -TERM "$server"
	reap "$server" 20
	[[ $rc == 0 ]] || fail "serve ended with status $rc: $(cat "$dir/serve.err")"
}

# Runs a command that must end with a status and say something.
expect() { # status pattern command…
	local want=$1 pattern=$2 out status=0
	shift 2
	out=$("$@" 2>&1) || status=$?
	[[ $status == "$want" ]] || fail "status $status instead of $want from: $* — $out"
	[[ -z $pattern ]] || grep -qE -- "$pattern" <<<"$out" || fail "nothing like '$pattern' from: $* — $out"
}

# Waits until a command succeeds.
until_ok() { # seconds command…
	local i n=$1
	shift
	for ((i = 0; i < n * 20; i++)); do
		"$@" >/dev/null 2>&1 && return 0
		sleep 0.05
	done
	fail "not within $n s: $*"
}

cleanup() {
	local p
	for p in "${servers[@]}"; do
		kill -9 "$p" 2>/dev/null
	done
	chmod -R u+w "$dir" 2>/dev/null
	rm -rf "$dir"
}

run_tests() {
	local t status failed=0 out
	for t in $(compgen -A function t_); do
		dir=$TEST_TMP/${t#t_}
		out=$(
			mkdir -p "$dir/store"
			trap cleanup EXIT
			"$t" 2>&1
		)
		status=$?
		case $status in
		0) echo "PASS ${t#t_}" ;;
		77) echo "SKIP ${t#t_}: $(sed -n 's/^SKIPPED: //p' <<<"$out")" ;;
		*)
			echo "FAIL ${t#t_}"
			echo "$out"
			failed=1
			;;
		esac
	done
	return $failed
}

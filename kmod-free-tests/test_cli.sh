#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The command line itself: help, version, suggestions, exit statuses, generated documents.
set -uo pipefail
tmp=${TEST_TMP:?}
dwcp=${DWCP:?}
failed=0

# name, exit status, regular expression on standard output, the same on standard error, arguments
# ('' for a stream means that it must be empty)
expect() {
	local name=$1 status=$2 out=$3 err=$4 rc=0
	shift 4
	"$dwcp" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null || rc=$?
	if [[ $rc == "$status" ]] && matches "$tmp/out" "$out" && matches "$tmp/err" "$err"; then
		echo "PASS $name"
	else
		echo "FAIL $name: exit status $rc"
		sed 's/^/  out: /' "$tmp/out"
		sed 's/^/  err: /' "$tmp/err"
		failed=1
	fi
}

matches() { # file regex
	if [[ -z $2 ]]; then
		[[ ! -s $1 ]]
	else
		grep -qE -- "$2" "$1"
	fi
}

result() { # name, then a command that must succeed
	local name=$1
	shift
	if "$@"; then
		echo "PASS $name"
	else
		echo "FAIL $name"
		failed=1
	fi
}

expect version 0 "^dwcp $(cat VERSION)\$" '' --version
expect help 0 '^  backends ' '' --help
expect help_word 0 '^  backends ' '' help
expect help_command 0 '^Usage: dwcp backends' '' help backends
expect help_flag 0 '--json\[=FILE\]' '' backends --help
expect nothing 2 '' '^Usage: dwcp COMMAND'
expect unknown_command 2 '' "did you mean 'backends'" bakends
expect unknown_far 2 '' 'dwcp --help' zzzzzzzz
expect unknown_flag 2 '' 'did you mean --json' backends --jsn
expect bad_value 2 '' 'log-level' backends --log-level=loud
expect extra_operand 2 '' "'extra' is one operand too many" backends extra
expect help_takes_no_value 2 '' '--help takes no value' backends --help=3
expect empty_text 2 '' '--json has an empty value' backends --json=
expect empty_text_option 2 '' '--peer has an empty value: write --peer=HOST' benchmark amst --peer=
expect empty_text_word 2 '' '--congestion has an empty value' benchmark amst --congestion ''
expect json_folder 1 '' 'directory; name a file in it' backends --json="$tmp"
expect megabit_is_no_size 2 '' 'write a size' benchmark amst --data-size=10Mb
expect interval_says_its_least 0 '100 ms at least' '' benchmark amst --help
expect compress_cpu_range 2 '' 'compress-cpu: 2 is out of range' benchmark amst --compress-cpu=2
expect compress_cpu_none 2 '' 'compress-cpu: 0 leaves' benchmark amst --compress=auto --compress-cpu=0
expect port_alone 2 '' 'looks like a port; write ADDRESS:21009' serve --listen 21009
expect no_content 1 '' 'content: cannot read "/nonexistent": No such file' \
	benchmark amst --data-size=64KB --content=/nonexistent
expect no_config 2 '' '/nowhere.yaml' backends --config /nowhere.yaml
expect table 0 '^mem +yes ' '' backends

printf 'log:\n  log-level: debug\nnonsense:\n  a: 1\n' >"$tmp/bad.yaml"
expect config_unknown_section 2 '' 'bad.yaml.*nonsense' backends --config "$tmp/bad.yaml"
printf 'log:\n  log-level: debug\n' >"$tmp/good.yaml"
expect config 0 '^mem ' '' backends --config "$tmp/good.yaml"

# A section that no command reads is a mistake, and what is skipped belongs to another command.
for section in amst mem bench store predict simulate nonsense; do
	grep -q "^## \`$section\`" docs/OPTIONS.md && continue
	printf '%s:\n  streamz: 4\n' "$section" >"$tmp/bad.yaml"
	expect "config_section_$section" 2 '' "bad.yaml:1: there is no section or option \"$section\"" \
		benchmark amst --config "$tmp/bad.yaml"
done
while read -r section; do
	printf '%s:\n' "$section" >"$tmp/good.yaml"
	expect "config_section_$section" 0 '^mem ' '' backends --config "$tmp/good.yaml"
done < <(sed -n 's/^## `\([a-z]*\)`.*/\1/p' docs/OPTIONS.md | sort -u)
printf '%s\n' '- streams' >"$tmp/bad.yaml"
expect config_hint_is_a_section 2 '' 'write e.g. "send:"' send --config "$tmp/bad.yaml" a b
printf 'foo:\n  a: 1\n' >"$tmp/bad.yaml"
expect config_foo_is_not_log 2 '' 'the sections here are .*transfer' send --config "$tmp/bad.yaml" a b

for src in cli/cmd_*.c; do
	name=$(basename "$src" .c)
	name=${name#cmd_}
	case $name in *_*) continue ;; esac # a part of a command
	expect "listed_$name" 0 "^  $name " '' --help
done

json_fields() {
	"$dwcp" backends --json >"$tmp/b.json" && "$dwcp" backends --json="$tmp/c.json" >"$tmp/empty" &&
		[[ -s $tmp/c.json && ! -s $tmp/empty ]] &&
		for field in schema command environment host kernel cpu cpus commit compiler date measured backends name \
			available reason; do
			grep -q "\"$field\":" "$tmp/b.json" || return 1
		done
}
result json json_fields

full_disk() {
	local rc=0
	"$dwcp" backends >/dev/full 2>"$tmp/err" || rc=$?
	[[ $rc == 1 ]] && grep -q 'standard output' "$tmp/err"
}
if [[ -w /dev/full ]]; then
	result output_lost_is_failure full_disk
else
	echo "SKIP output_lost_is_failure: there is no /dev/full"
fi

# The cause is told, not that of the last attempt; what stands on a closed number is never written to.
cause_of_lost_output() {
	local rc=0
	"$dwcp" benchmark amst --data-size=64KB --iterations=2 --streams=1 >/dev/full 2>"$tmp/err" || rc=$?
	[[ $rc == 1 ]] && grep -q 'standard output: No space left' "$tmp/err" || return 1
	rc=0
	"$dwcp" backends --json >/dev/full 2>"$tmp/err" || rc=$?
	[[ $rc == 1 ]] && grep -q 'No space left' "$tmp/err" && ! grep -q directory "$tmp/err" || return 1
	rc=0
	"$dwcp" benchmark amst --data-size=64KB --iterations=2 --streams=1 2>"$tmp/err" >&- || rc=$?
	[[ $rc == 1 ]] && grep -q 'standard output: Bad file descriptor' "$tmp/err"
}
# Who waits for the line would wait for ever.
serve_cannot_say() {
	local rc=0
	timeout 20 "$dwcp" serve --listen=127.0.0.1:0 --stats-socket=none >/dev/full 2>"$tmp/err" || rc=$?
	[[ $rc == 1 ]] && grep -q 'listening on 127.*No space left' "$tmp/err" || return 1
	rc=0
	timeout 20 "$dwcp" serve --listen=127.0.0.1:0 --stats-socket=none 2>"$tmp/err" >&- || rc=$?
	[[ $rc == 1 ]] && grep -q 'listening on 127.*Bad file descriptor' "$tmp/err"
}
if [[ -w /dev/full ]]; then
	result cause_of_lost_output cause_of_lost_output
	result serve_that_cannot_say_where serve_cannot_say
fi

broken_pipe() {
	local rc
	set +o pipefail
	{
		"$dwcp" backends 2>"$tmp/err"
		echo $? >"$tmp/rc"
	} | true
	set -o pipefail
	rc=$(cat "$tmp/rc")
	[[ $rc == 0 || $rc == 1 ]] && [[ ! -s $tmp/err ]]
}
result reader_that_went_away broken_pipe

# A machine under load: the receiver's output is not there yet when the demo looks for it first.
demo_waits() {
	local rc=0
	mkdir -p "$tmp/demo/gcc"
	cat >"$tmp/demo/gcc/dwcp" <<'END'
#!/usr/bin/env bash
[[ $1 == serve ]] || exit 9
echo listening on 127.0.0.1:9
exec sleep 20
END
	chmod +x "$tmp/demo/gcc/dwcp"
	cat >"$tmp/demo/late" <<'END'
set -T
late() {
	[[ $BASH_COMMAND == *serve.out* && $BASH_COMMAND != *--listen* && $BASH_SUBSHELL == 0 ]] || return 0
	until [[ -e $dir/serve.out || -e $dir/late ]]; do command sleep 0.1; done
	if [[ ! -e $dir/seen ]]; then
		mv "$dir/serve.out" "$dir/late" && : >"$dir/seen"
	elif [[ -e $dir/late ]]; then
		mv "$dir/late" "$dir/serve.out"
	fi
}
trap late DEBUG
END
	BASH_ENV=$tmp/demo/late B=$tmp/demo/gcc timeout 60 bench/demo.sh >"$tmp/out" 2>"$tmp/err" || rc=$?
	[[ $rc == 1 ]] && grep -q 'sending dwcp failed' "$tmp/err" || {
		cat "$tmp/err"
		return 1
	}
}
result demo_waits_for_its_receiver demo_waits

options_up_to_date() {
	"$dwcp" --dump-options-md >"$tmp/OPTIONS.md" && diff -u docs/OPTIONS.md "$tmp/OPTIONS.md" ||
		{
			echo "docs/OPTIONS.md is out of date: run \`make docs' and commit it"
			return 1
		}
}
result options_document options_up_to_date
exit $failed

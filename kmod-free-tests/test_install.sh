#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: no-asan no-tsan no-valgrind timeout=180
# `make install` below DESTDIR gives a program, a manual, completion, and a library that pkg-config can name.
set -uo pipefail
tmp=${TEST_TMP:?}
root=$tmp/root
failed=0

check() { # name command…
	local name=$1 out
	shift
	if out=$("$@" 2>&1); then
		echo "PASS $name"
	else
		echo "FAIL $name: $out"
		failed=1
	fi
}

unset MAKEFLAGS MFLAGS MAKELEVEL
# In a folder of its own, for another prefix; what is compiled already is not compiled again.
if [[ ${B:-} == */gcc && -d $B/obj ]]; then
	mkdir -p "$tmp/build/gcc"
	cp -a "$B/obj" "$B"/.[a-z]* "$tmp/build/gcc/"
	rm -f "$tmp/build/gcc/obj/transport/verbs.o"
fi
install_it() {
	make --no-print-directory BUILD="$tmp/build" PREFIX=/opt/dwcp DESTDIR="$root" -j 2 "$@"
}

check install install_it install
pc=$root/opt/dwcp/lib/pkgconfig
version=$(cat VERSION)
check program test "$("$root/opt/dwcp/bin/dwcp" --version)" = "dwcp $version"

cat >"$tmp/user.c" <<'C'
#include "base/opt.h"
#include "transport/backend.h"
#include <stdio.h>

int main(void)
{
	uint64_t bytes;

	for (size_t i = 0; backends[i]; i++)
		printf("%s\n", backends[i]->name);
	return parse_size("64KB", &bytes) || bytes != 65536;
}
C
compile() {
	local flags
	flags=$(PKG_CONFIG_PATH=$pc PKG_CONFIG_SYSROOT_DIR=$root pkg-config --cflags --libs dwcp) || return
	# shellcheck disable=SC2086
	(cd "$tmp" && gcc -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror user.c -o user $flags)
}
check pkg_config_version test "$(PKG_CONFIG_PATH=$pc pkg-config --modversion dwcp)" = "$version"
check compile_against_it compile
check run_what_was_compiled "$tmp/user"
# Each header says what it needs, and nothing of the library's own is among them.
headers() {
	local flags h
	flags=$(PKG_CONFIG_PATH=$pc PKG_CONFIG_SYSROOT_DIR=$root pkg-config --cflags dwcp) || return
	cd "$root/opt/dwcp/include/dwcp" || return
	for h in */*.h; do
		# shellcheck disable=SC2086
		echo "#include \"$h\"" | gcc -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -fsyntax-only -x c - $flags || return
	done
	! ls transport/*_impl.h transport/session.h 2>/dev/null
}
check installed_headers headers

man_clean() {
	local warnings
	warnings=$(LC_ALL=C.UTF-8 MANWIDTH=100 man --warnings -l "$root/opt/dwcp/share/man/man1/dwcp.1" 2>&1 >"$tmp/man.txt")
	[[ -z $warnings ]] && grep -q -- '--log-level' "$tmp/man.txt" && grep -q 'dwcp backends' "$tmp/man.txt"
}
if command -v man >/dev/null; then
	check manual man_clean
else
	echo "SKIP manual: man is not installed"
fi

# shellcheck disable=SC2016
complete_line() { # line → candidates
	bash -c '
		source "$1"
		PATH=$2:$PATH
		read -ra COMP_WORDS <<<"$3"
		[[ $3 != *" " ]] || COMP_WORDS+=("")
		COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
		_dwcp && printf "%s\n" "${COMPREPLY[@]}"' _ "$root/opt/dwcp/share/bash-completion/completions/dwcp" \
		"$root/opt/dwcp/bin" "$1"
}
check complete_command grep -qx backends <(complete_line 'dwcp back')
check complete_flag grep -qx -- --json <(complete_line 'dwcp backends --js')
check complete_value grep -qx debug <(complete_line 'dwcp backends --log-level de')
check complete_value_after_equals grep -qx warn <(complete_line 'dwcp backends --log-level = w')

check uninstall install_it uninstall
check nothing_left test -z "$(find "$root" -type f)"
exit $failed

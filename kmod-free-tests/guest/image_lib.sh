# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Files and the libraries they need into a tree, and trees into cpio archives. Sourced.

put() { # tree file: the same path below the tree, as the file that a link leads to
	local real=$2
	# /bin, /sbin and /lib are links to /usr here and in the guest.
	[[ $real == /usr/* || ! $real =~ ^/(bin|sbin|lib|lib64)/ ]] || real=/usr$real
	[[ ! -e $1$real ]] || return 0
	mkdir -p "$1$(dirname "$real")"
	cp -L "$2" "$1$real"
}

put_libraries() { # tree: what the programs and objects below it are linked with
	local f lib
	while read -r lib; do
		put "$1" "$lib"
	done < <(find "$1" -type f \( -perm -100 -o -name '*.so*' \) | while read -r f; do
		ldd "$f" 2>/dev/null || true
	done | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^\t\(\/[^ ]*\) (0x.*/\1/p' | sort -u)
}

pack() { # tree archive
	(cd "$1" && find . -mindepth 1 -print0 | cpio --null --quiet -o -H newc -R 0:0) >"$2.new.$$"
	mv -f "$2.new.$$" "$2"
}

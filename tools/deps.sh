#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Installs the Debian packages that are missing for the groups named: build, check, bench, guest, images.
set -euo pipefail

build=(gcc libc6-dev make pkg-config liburing-dev libyaml-dev libjansson-dev libxxhash-dev libisal-dev
	libmicrohttpd-dev libzstd-dev liblz4-dev libsnappy-dev zlib1g-dev librdmacm-dev libibverbs-dev)
check=(libcmocka-dev clang libclang-rt-14-dev clang-tidy clang-format cppcheck shellcheck valgrind libc6-dbg iproute2
	man-db jq)
bench=(iperf3 socat strace iproute2)
images=(qemu-system-x86 mmdebstrap e2fsprogs)
# What guests are made of; their kernel is fetched by kmod-free-tests/guest/image.sh and never installed.
guest=(qemu-system-x86 busybox-static cpio kmod iproute2 ethtool rdma-core perftest ibverbs-providers ibverbs-utils
	rdmacm-utils iperf3 socat strace valgrind libc6-dbg)

want=()
for group in "${@:-build}"; do
	case $group in
	build) want+=("${build[@]}") ;;
	check) want+=("${check[@]}") ;;
	bench) want+=("${bench[@]}") ;;
	images) want+=("${images[@]}") ;;
	guest) want+=("${guest[@]}") ;;
	*)
		echo "deps: unknown group '$group': use build, check, bench, guest or images" >&2
		exit 2
		;;
	esac
done

if ! command -v dpkg-query >/dev/null; then
	echo "deps: this is not a Debian system; install what corresponds to: ${want[*]}" >&2
	exit 0
fi

missing=()
for p in "${want[@]}"; do
	[[ $(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null) == installed ]] || missing+=("$p")
done
if ((${#missing[@]} == 0)); then
	exit 0
fi

as_root=()
if ((EUID != 0)); then
	if ! command -v sudo >/dev/null; then
		echo "deps: packages are missing; run as root: apt-get install ${missing[*]}" >&2
		exit 1
	fi
	as_root=(sudo)
fi

echo "deps: installing ${missing[*]}"
"${as_root[@]}" apt-get update -q || echo "deps: apt-get update failed; trying with the lists that are there" >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" ||
	{
		echo "deps: could not install ${missing[*]}; install them by hand and run make again" >&2
		exit 1
	}

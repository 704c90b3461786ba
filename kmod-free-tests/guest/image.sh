#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Builds what a guest boots from installed Debian packages, once per set of package versions:
#
#   build/guest/kernel     Debian's kernel: the installed one, else linux-image-amd64 downloaded and taken apart
#   build/guest/base.cpio  an initramfs: bash, busybox, the programs below with their libraries, kernel modules
#
# Nothing is installed and nothing needs root. Exit status 77, with the reason on standard error, where it cannot be.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-build/guest}

programs=(bash busybox ip tc ss rdma ethtool socat iperf3 strace
	rping ucmatose ibv_devinfo ibv_devices ibv_rc_pingpong
	ib_write_bw ib_write_lat ib_send_bw ib_send_lat setpriv)
optional=(ethtool strace)
packages=(bash busybox-static iproute2 rdma-core perftest ibverbs-providers ibverbs-utils rdmacm-utils iperf3 valgrind
	libc6-dbg libc6 socat libibverbs1 librdmacm1)
# crc32_generic: without it the first `rdma link add` fails with ENOENT.
modules=(crc32_generic crc32_pclmul crc32c_generic crc32c_intel rdma_rxe rdma_ucm ib_uverbs veth dummy ifb virtio_console virtio_net
	virtio_pci virtio_mmio virtio_rng sch_netem sch_fq sch_fq_codel sch_tbf sch_htb sch_prio tcp_bbr cls_u32 cls_matchall)
# Where the modules above and all that they need live in the kernel's package.
module_dirs=(crypto arch/x86/crypto lib net drivers/infiniband/core drivers/infiniband/sw drivers/virtio
	drivers/net/veth.ko drivers/net/dummy.ko drivers/net/ifb.ko drivers/net/virtio_net.ko drivers/net/net_failover.ko
	drivers/char/virtio_console.ko drivers/char/hw_random fs/configfs)

skip() {
	echo "guest image: $1" >&2
	exit 77
}

command -v dpkg-query >/dev/null || skip "this is not a Debian system: the guest is made of Debian's packages"
for p in "${programs[@]}" valgrind cpio depmod xz; do
	command -v "$p" >/dev/null || [[ " ${optional[*]} " == *" $p "* ]] ||
		skip "the program $p is missing: run tools/deps.sh guest"
done

# ---- the kernel --------------------------------------------------------------------------------

# Prints "package version" of the newest kernel that is installed with its modules.
installed_kernel() {
	local p
	while read -r p; do
		if [[ -r /boot/vmlinuz-${p#linux-image-} && -d /lib/modules/${p#linux-image-}/kernel ]]; then
			echo "$p"
			return
		fi
	done < <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' 'linux-image-[0-9]*-amd64' 2>/dev/null |
		sed -n 's/^installed //p' | sort -rV)
}

packaged_kernel() {
	apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1
}

unpack_kernel() { # package: fetches and takes apart what is needed of it below $work/root
	local deb
	(cd "$work" && apt-get download -q "$1" >&2) || return 1
	deb=$(compgen -G "$work/$1_*.deb") || return 1
	local members=("./boot/vmlinuz-*" "./lib/modules/*/modules.*")
	members+=("${module_dirs[@]/#/./lib/modules/*/kernel/}")
	mkdir -p "$work/root"
	# tar is not content when a pattern matches nothing: directories come and go between kernels.
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/root" --wildcards "${members[@]}" 2>"$work/tar.err" || true
	rm -f "$deb"
	compgen -G "$work/root/boot/vmlinuz-*" >/dev/null
}

# The emulated machine takes ten times as long to decompress the kernel as this one does.
unpack_image() { # vmlinuz kernel
	local setup offset size tool=
	setup=$(od -An -tu1 -j 497 -N 1 "$1")
	offset=$(od -An -tu4 -j 584 -N 4 "$1")
	size=$(od -An -tu4 -j 588 -N 4 "$1")
	offset=$(((setup + 1) * 512 + offset))
	case $(od -An -tx1 -j $offset -N 4 "$1") in
	" fd 37 7a 58") tool=xz ;;
	" 28 b5 2f fd") tool=zstd ;;
	" 1f 8b 08 "*) tool=gzip ;;
	esac
	# The last four bytes are the length, not part of the stream. tail is ended by head, which is no failure here.
	if [[ -z $tool ]] || ! (set +o pipefail && tail -c +$((offset + 1)) "$1" | head -c $((size - 4)) |
		$tool -dc >"$2" 2>/dev/null); then
		cp "$1" "$2"
	fi
}

kernel=$(installed_kernel)
have_kernel=${kernel:+installed}
if [[ -z $kernel ]]; then
	kernel=$(packaged_kernel)
	if [[ -z $kernel && $EUID == 0 ]]; then
		apt-get update -q >&2 || true
		kernel=$(packaged_kernel)
	fi
	[[ -n $kernel ]] || skip "no linux-image-amd64 is installed or known to apt: run apt-get update"
fi

versions=$(dpkg-query -W -f='${Package} ${Version}\n' "${packages[@]}" 2>/dev/null || true)
key=$({ cat "${BASH_SOURCE[0]}" kmod-free-tests/guest/image_lib.sh; echo "$kernel $have_kernel $versions"; } | sha256sum | cut -c 1-16)
if [[ -e $out/base.cpio && -e $out/kernel && $(cat "$out/key" 2>/dev/null) == "$key" ]]; then
	exit 0
fi

mkdir -p "$out"
exec 8>"$out/lock"
flock 8
[[ $(cat "$out/key" 2>/dev/null) != "$key" ]] || exit 0
rm -f "$out/key"
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
work=$(cd "$work" && pwd)

if [[ -n $have_kernel ]]; then
	from=
	release=${kernel#linux-image-}
else
	echo "guest image: fetching $kernel" >&2
	unpack_kernel "$kernel" || { ((EUID == 0)) && apt-get update -q >&2 && unpack_kernel "$kernel"; } ||
		skip "cannot download $kernel: $(tail -n 1 "$work/tar.err" 2>/dev/null)"
	from=$work/root
	release=$(basename "$(compgen -G "$from/lib/modules/*" | head -n 1)")
	depmod -b "$from" "$release" 2>/dev/null
fi

# ---- the initramfs -----------------------------------------------------------------------------

img=$work/img
mkdir -p "$img"/{usr/bin,usr/sbin,usr/lib,usr/lib64,bb,dev,proc,sys,run,tmp,root,etc/libibverbs.d,var/run,var/tmp}
ln -s usr/bin "$img/bin"
ln -s usr/sbin "$img/sbin"
ln -s usr/lib "$img/lib"
ln -s usr/lib64 "$img/lib64"

. kmod-free-tests/guest/image_lib.sh

for p in "${programs[@]}"; do
	path=$(command -v "$p") && put "$img" "$path"
done
put_libraries "$img"
for applet in $(busybox --list); do
	ln -sf /usr/bin/busybox "$img/bb/$applet"
done

libs=/usr/lib/x86_64-linux-gnu
cp /etc/libibverbs.d/rxe.driver "$img/etc/libibverbs.d/"
put "$img" "$(compgen -G "$libs/libibverbs/librxe-*.so")"
put "$img" "$libs/libgcc_s.so.1"
put "$img" "$libs/librdmacm.so.1"
# valgrind is a script of sh's, and reads the loader's symbols.
ln -s bash "$img/usr/bin/sh"
put "$img" "$(command -v valgrind)"
for f in /usr/bin/valgrind.bin /usr/libexec/valgrind/{memcheck-amd64-linux,vgpreload_core-amd64-linux.so,vgpreload_memcheck-amd64-linux.so,default.supp}; do
	[[ ! -e $f ]] || put "$img" "$f"
done
for f in /lib64/ld-linux-x86-64.so.2 "$libs/libc.so.6"; do
	id=$(readelf -n "$f" 2>/dev/null | sed -n 's/.*Build ID: //p')
	debug=/usr/lib/debug/.build-id/${id:0:2}/${id:2}.debug
	[[ ! -e $debug ]] || put "$img" "$debug"
done
put_libraries "$img"

printf 'root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/tmp:/bin/bash\n' >"$img/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$img/etc/group"
printf '127.0.0.1 localhost\n10.0.0.1 a\n10.0.0.2 b\n' >"$img/etc/hosts"
printf 'hosts: files\n' >"$img/etc/nsswitch.conf"

dst=$img/usr/lib/modules/$release
mkdir -p "$dst"
cp "$from/lib/modules/$release"/modules.{builtin,order} "$dst/"
for m in "${modules[@]}"; do
	modprobe -d "${from:-/}" -S "$release" --show-depends "$m" 2>/dev/null
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u | while read -r ko; do
	rel=${ko#*/lib/modules/"$release"/}
	mkdir -p "$dst/$(dirname "$rel")"
	cp "$ko" "$dst/$rel"
done
depmod -b "$img/usr" "$release" 2>/dev/null || depmod -b "$img" "$release"

pack "$img" "$out/base.cpio"
unpack_image "$from/boot/vmlinuz-$release" "$out/kernel"
echo "$key" >"$out/key"

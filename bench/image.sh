#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Makes memory images of a real guest: boots Debian with a workload (bench/guest/) under QEMU and saves its memory
# several times, some seconds apart, each time with the guest stopped. The images are plain: byte n of the file is byte n
# of the guest's memory. As root: the guest's disk is made of Debian packages, once.
#
#   bench/image.sh                              a guest of 1 GB with everything at once, 3 images 5 s apart
#   bench/image.sh --load=redis --seed=7        another workload: redis, sqlite, gcc, python, mixed
#   bench/image.sh --list                       the set of images that docs/RESULTS.md speaks of, some minutes each
#
# Options: --load=NAME --seed=N --memory=MB (1024) --fill=MB (what the workload keeps; 0.4 of the memory) --count=N (3)
# --interval=SECONDS (5) --settle=SECONDS (5, after the workload is ready) --accel=tcg|kvm (tcg) --timeout=SECONDS (900,
# the disk and each guest) --out=DIR (build/images) --mirror=URL. Leaves DIR/NAME-SEED.N.img and DIR/NAME-SEED.txt, which says what they
# are. Exit status: 0 made, 1 a step failed, 2 wrong usage.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

load=mixed seed=1 memory=1024 fill='' count=3 interval=5 settle=5 accel=tcg timeout=900 out=build/images
mirror=http://deb.debian.org/debian list=false

usage() {
	echo "image: $*; see the head of bench/image.sh" >&2
	exit 2
}

fail() {
	echo "image: $*" >&2
	exit 1
}

options=()
for arg in "$@"; do
	[[ $arg == --list ]] || options+=("$arg")
	value=${arg#*=}
	case $arg in
	--load=*) load=$value ;;
	--seed=*) seed=$value ;;
	--memory=*) memory=$value ;;
	--fill=*) fill=$value ;;
	--count=*) count=$value ;;
	--interval=*) interval=$value ;;
	--settle=*) settle=$value ;;
	--accel=*) accel=$value ;;
	--timeout=*) timeout=$value ;;
	--out=*) out=$value ;;
	--mirror=*) mirror=$value ;;
	--list) list=true ;;
	*) usage "there is no option '$arg'" ;;
	esac
done
for n in seed memory count interval settle timeout ${fill:+fill}; do
	[[ ${!n} =~ ^[0-9]{1,6}$ ]] || usage "--$n=${!n}: a whole number is wanted"
done
[[ $load =~ ^(redis|sqlite|gcc|python|mixed)$ ]] || usage "--load=$load: there are redis, sqlite, gcc, python, mixed"
[[ $accel =~ ^(tcg|kvm)$ ]] || usage "--accel=$accel: there are tcg and kvm"
((memory >= 256 && count >= 1 && count <= 100)) || usage "--memory is at least 256, --count 1 to 100"
fill=${fill:-$((memory * 2 / 5))}

if $list; then
	for one in mixed:1 redis:2 gcc:3 sqlite:4 python:5; do
		bench/image.sh ${options[@]+"${options[@]}"} --load="${one%:*}" --seed="${one#*:}" || exit
	done
	exit 0
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
name=$load-$seed
work=$(mktemp -d "$out/.work.XXXXXX")
ram=
qemu=
finish() {
	if [[ -n $qemu ]]; then
		kill -9 "$qemu" 2>/dev/null || true
		wait "$qemu" 2>/dev/null || true
	fi
	rm -rf "$work" ${ram:+"$ram"}
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- the guest's disk ----------------------------------------------------------------------------

packages=linux-image-cloud-amd64,initramfs-tools,kmod,procps,redis-server,sqlite3,python3,gcc,libc6-dev

make_disk() {
	((EUID == 0)) || fail "the guest's disk is made by mmdebstrap as root; run this as root once"
	for tool in mmdebstrap mke2fs; do
		command -v $tool >/dev/null || fail "$tool is missing: run \`tools/deps.sh images'"
	done
	echo "image: making the guest's disk of Debian packages" >&2
	timeout "$timeout" mmdebstrap --mode=root --variant=minbase --dpkgopt=force-unsafe-io --include="$packages" \
		bookworm "$work/root" "$mirror" >"$work/log" 2>&1 || {
		tail -5 "$work/log" >&2
		fail "mmdebstrap failed; is $mirror reachable? (--mirror=URL)"
	}
	cp "$work"/root/boot/vmlinuz-* "$out/vmlinuz"
	cp "$work"/root/boot/initrd.img-* "$out/initrd"
	rm -rf "$work"/root/boot/* "$work"/root/var/cache/apt/*
	mke2fs -q -t ext4 -d "$work/root" "$work/disk" 3G || fail "mke2fs failed; is the disk full?"
	rm -rf "$work/root"
	mv "$work/disk" "$out/disk"
}

[[ -e $out/disk ]] || make_disk
command -v qemu-system-x86_64 >/dev/null || fail "qemu-system-x86_64 is missing: run \`tools/deps.sh images'"
# What runs in it is put onto a copy, so that a changed workload needs no new disk.
cp --sparse=always "$out/disk" "$work/disk"
debugfs -w -f - "$work/disk" >/dev/null 2>&1 <<-END
	mkdir /usr/lib/dwcp
	write bench/guest/load.sh /usr/lib/dwcp/load.sh
	write bench/guest/load.py /usr/lib/dwcp/load.py
	set_inode_field /usr/lib/dwcp/load.sh mode 0100755
END

# ---- the guest -----------------------------------------------------------------------------------

# In memory if there is room: a file on a disk would be written back all the time.
room=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1 || echo 0)
if ((room > memory * 1024 + 65536)); then
	ram=$(mktemp /dev/shm/dwcp-image.XXXXXX)
else
	ram=$work/ram
fi

exec {to}<> <(:) {from}<> <(:) # two pipes to the monitor
qemu-system-x86_64 -accel "$accel" -m "$memory" -smp 1 -machine q35,memory-backend=ram -nodefaults -display none \
	-object memory-backend-file,"id=ram,size=${memory}M,mem-path=$ram,share=on" \
	-kernel "$out/vmlinuz" -initrd "$out/initrd" -drive file="$work/disk",format=raw,if=virtio,cache=unsafe \
	-append "console=ttyS0 root=/dev/vda rw quiet init=/usr/lib/dwcp/load.sh panic=1 random.trust_cpu=on \
dwcp.load=$load dwcp.seed=$seed dwcp.fill=$fill" \
	-serial "file:$work/console" -qmp stdio -no-reboot <&"$to" >&"$from" 2>"$work/qemu.err" {to}>&- {from}>&- &
qemu=$!
begin=$SECONDS

# One command; waits for its answer, events in between are skipped.
qmp() { # command
	local line
	echo "{\"execute\":\"$1\"}" >&"$to"
	while IFS= read -r -t 60 -u "$from" line; do
		case $line in
		*'"error"'*) fail "QEMU refuses $1: $line" ;;
		*'"return"'*) return 0 ;;
		esac
	done
	fail "QEMU does not answer: $(tail -n 3 "$work/qemu.err")"
}

until grep -q '^dwcp-load: ready' "$work/console" 2>/dev/null; do
	if ! kill -0 "$qemu" 2>/dev/null || grep -q '^dwcp-load: failed' "$work/console" 2>/dev/null; then
		tail -n 5 "$work/console" "$work/qemu.err" >&2 || true
		fail "the guest ended before its workload was ready"
	fi
	((SECONDS - begin < timeout)) || fail "the workload was not ready within $timeout s (--timeout)"
	sleep 1
done
echo "image: $name is ready after $((SECONDS - begin)) s" >&2
qmp qmp_capabilities
sleep "$settle"

{
	echo "load $load, seed $seed, memory $memory MB, filled with $fill MB, QEMU $(qemu-system-x86_64 --version | sed -n '1s/.*version //p') ($accel)"
	echo "Debian packages: $packages"
} >"$work/about"
for ((i = 0; i < count; i++)); do
	((i == 0)) || sleep "$interval"
	qmp stop
	at=$((SECONDS - begin))
	cp --sparse=always "$ram" "$work/$i.img"
	qmp cont
	mv "$work/$i.img" "$out/$name.$i.img"
	echo "$name.$i.img: $at s after the start" | tee -a "$work/about" >&2
done
mv "$work/about" "$out/$name.txt"

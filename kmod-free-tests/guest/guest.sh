#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Boots a throw-away guest, or two on one wire, runs a command inside, prints its output and returns its exit status.
#
#   kmod-free-tests/guest/guest.sh [OPTION…] -- CMD [ARG…]
#   kmod-free-tests/guest/guest.sh [OPTION…] script.sh      a script of the host's, run by bash with lib.sh sourced
#
#   --hosts 1|2      one guest with a veth pair (default), or two guests
#   --net rdma|tcp|none   rxe devices (default), only the interfaces, only loopback
#   --time SECONDS   the limit over all (120); then the guests are ended and the status is 124
#   --memory MB      of each guest (1024)      --cpus N   (2, or 1 each for two guests)
#   --test NAME      a cmocka program of $B/tests; may be repeated
#   --with FILE[:NAME]   another file, to /job/NAME; programs bring the shared objects they are linked with
#   --env NAME=VALUE
#   --log FILE       the kernels' messages; otherwise shown only where a guest fails to start
#   --append WORDS   more for the kernel's command line
#
# Inside: `dwcp` and all that was built beside it in PATH (/dwcp), lib.sh's words (on b …, bg, netem, …) in every script,
# perftest, iperf3, ip, tc, rdma, valgrind, strace, busybox. $GUEST_HOST, $GUEST_HOSTS say where one is. Exit status 77,
# with the reason, where no guest can be had; 125 when it did not start.
set -uo pipefail
invoked=$PWD
cd "$(dirname "$0")/../.." || exit 1
here=kmod-free-tests/guest
: "${B:=build/gcc}"

append='' hosts=1 net=rdma limit=120 memory=1024 cpus='' log='' tests=() with=() vars=()
usage() {
	sed -n '5,17s/^# \{0,1\}//p' "$here/guest.sh" >&2
	exit 2
}
while (($#)); do
	case $1 in
	--)
		shift
		break
		;;
	--hosts | --net | --time | --memory | --cpus | --test | --with | --env | --log | --append)
		(($# > 1)) || usage
		case $1 in
		--hosts) hosts=$2 ;;
		--net) net=$2 ;;
		--time) limit=$2 ;;
		--memory) memory=$2 ;;
		--cpus) cpus=$2 ;;
		--test) tests+=("$2") ;;
		--with) with+=("$2") ;;
		--env) vars+=("$2") ;;
		--log) log=$2 ;;
		--append) append=$2 ;;
		esac
		shift
		;;
	-*) usage ;;
	*)
		with+=("$1:script.sh")
		shift
		set -- bash -c '. /guest/lib.sh; . /job/script.sh' script "$@"
		break
		;;
	esac
	shift
done
(($#)) || usage
[[ $hosts =~ ^[12]$ && $net =~ ^(rdma|tcp|none)$ && $limit =~ ^[0-9]+$ && $memory =~ ^[0-9]+$ ]] || usage
: "${cpus:=$((3 - hosts))}"

command -v qemu-system-x86_64 >/dev/null || {
	echo "guest: qemu-system-x86_64 is missing: run tools/deps.sh guest" >&2
	exit 77
}
"$here/image.sh" build/guest || exit
. "$here/image_lib.sh"

# What is emulated copies ten times as fast without `rep movsb`, and translates a program once where its addresses stay.
accel=(-accel 'tcg,thread=multi' -cpu 'max,-erms')
# /dev/kvm without either flag is there in some virtual machines and starts no guest.
if grep -qE '^flags.* (vmx|svm)( |$)' /proc/cpuinfo && [[ -w /dev/kvm ]]; then
	accel=(-accel kvm -accel 'tcg,thread=multi' -cpu max)
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/dwcp-guest.XXXXXX")
pids=()
cleanup() {
	trap - EXIT
	((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null
	wait 2>/dev/null
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- what the guest gets besides the base ------------------------------------------------------

job=$work/job
mkdir -p "$job/guest" "$job/job" "$job/dwcp"
cp "$here"/{init,rexec,lib.sh} "$job/guest/"
chmod +x "$job/guest/init" "$job/guest/rexec"
give() { # file directory name
	cp "$1" "$job/$2/$3"
	! file_is_elf "$1" || strip -g "$job/$2/$3" 2>/dev/null
}
file_is_elf() { [[ $(head -c 4 "$1" | tr -d '\0') == $'\x7fELF' ]]; }
if [[ -d $B ]]; then
	while read -r f; do
		mkdir -p "$job/dwcp/$(dirname "$f")"
		give "$B/$f" dwcp "$f"
	done < <(cd "$B" && find . -maxdepth 2 \( -name dwcp -o -name '*.so' -o -path './bench/*' \) -type f)
fi
for t in "${tests[@]}"; do
	[[ -x $B/tests/$t ]] || {
		echo "guest: $B/tests/$t is not built: make tests" >&2
		exit 2
	}
	mkdir -p "$job/dwcp/tests"
	give "$B/tests/$t" dwcp "tests/$t"
done
for w in "${with[@]}"; do
	f=${w%%:*}
	[[ $f == /* ]] || f=$invoked/$f
	[[ -r $f ]] || {
		echo "guest: cannot read $f" >&2
		exit 2
	}
	name=$(basename "$f")
	[[ $w != *:* ]] || name=${w#*:}
	if [[ -d $f ]]; then
		cp -r "$f" "$job/job/$name"
	else
		give "$f" job "$name"
	fi
done
put_libraries "$job"
{
	for v in "${vars[@]}"; do
		printf 'export %s=%q\n' "${v%%=*}" "${v#*=}"
	done
	printf '. /guest/lib.sh\n'
	printf '%q ' "$@"
	echo
} >"$job/job/cmd"
pack "$job" "$work/job.cpio"
cat build/guest/base.cpio "$work/job.cpio" >"$work/initrd" || exit 1
rm -rf "$job" "$work/job.cpio"

# ---- boot --------------------------------------------------------------------------------------

boot() { # host
	local h=$1 args=() n=1
	[[ $h == a ]] || n=2
	if ((hosts == 2)); then
		local server=on
		[[ $h == a ]] || server=off
		args+=(-netdev "stream,id=data,server=$server,addr.type=unix,addr.path=$work/data"
			-device "virtio-net-pci,netdev=data,romfile=,mac=52:54:00:00:00:0$n"
			-netdev "stream,id=mgmt,server=$server,addr.type=unix,addr.path=$work/mgmt"
			-device "virtio-net-pci,netdev=mgmt,romfile=,mac=52:54:00:00:01:0$n")
	fi
	mkfifo "$work/$h.out" "$work/$h.err"
	cat "$work/$h.out" &
	pids+=($!)
	cat "$work/$h.err" >&2 &
	pids+=($!)
	timeout -k 2 "$limit" qemu-system-x86_64 "${accel[@]}" -M pc -smp "$cpus" -m "$memory" -nodefaults -display none \
		-no-reboot -no-user-config -kernel build/guest/kernel -initrd "$work/initrd" \
		-append "console=ttyS0 quiet panic=-1 reboot=t mitigations=off cryptomgr.notests no_timer_check tsc=reliable norandmaps \
rdinit=/guest/init dwcp.host=$h dwcp.hosts=$hosts dwcp.net=$net $append" \
		-device virtio-serial-pci -device virtio-rng-pci \
		-chardev "file,id=out,path=$work/$h.out" -device virtserialport,chardev=out,name=out \
		-chardev "file,id=err,path=$work/$h.err" -device virtserialport,chardev=err,name=err \
		-chardev "file,id=status,path=$work/$h.status" -device virtserialport,chardev=status,name=status \
		-serial "file:$work/$h.console" "${args[@]}" </dev/null 2>"$work/$h.qemu" &
	qemu[$n]=$!
	pids+=($!)
}

declare -a qemu=()
boot a
if ((hosts == 2)); then
	for _ in $(seq 100); do
		[[ ! -S $work/mgmt ]] || break
		sleep 0.05
	done
	boot b
fi
wait "${qemu[1]}"
ended=$?
# What the guest said last is still on its way through the pipe.
for _ in $(seq 20); do
	kill -0 "${pids[0]}" 2>/dev/null || kill -0 "${pids[1]}" 2>/dev/null || break
	sleep 0.05
done
[[ -z $log ]] || for h in a b; do
	[[ ! -e $work/$h.console ]] || sed "s/^/$h: /" "$work/$h.console"
done >"$log"

if read -r status <"$work/a.status" 2>/dev/null; then
	exit "$status"
fi
if ((ended == 124 || ended == 137)); then
	echo "guest: no end within $limit s" >&2
	tail -n 15 "$work"/?.console >&2
	exit 124
fi
echo "guest: ended without a status (qemu: $ended)" >&2
tail -n 25 "$work"/?.qemu "$work"/?.console >&2
exit 125

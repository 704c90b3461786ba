#!/bin/sh
# SPDX-License-Identifier: MIT
# The first process of the guest whose memory bench/image.sh saves: mounts what programs need, then runs a workload
# (load.py) for ever. Its words on the kernel's command line: dwcp.load=NAME dwcp.seed=N dwcp.fill=MB.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc 2>/dev/null
mount -t sysfs sys /sys 2>/dev/null
mount -t tmpfs tmp /tmp 2>/dev/null
mount -t tmpfs run /run 2>/dev/null
ip link set lo up 2>/dev/null || python3 -c '
import fcntl, socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", 1))' # SIOCSIFFLAGS, IFF_UP

load=mixed seed=1 fill=300
for word in $(cat /proc/cmdline); do
	case $word in
	dwcp.load=*) load=${word#*=} ;;
	dwcp.seed=*) seed=${word#*=} ;;
	dwcp.fill=*) fill=${word#*=} ;;
	esac
done
python3 /usr/lib/dwcp/load.py "$load" "$seed" "$fill" || echo "dwcp-load: failed"
# The first process must not end.
while :; do sleep 60; done

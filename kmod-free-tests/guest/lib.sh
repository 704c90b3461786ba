# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# Inside the guest: its network, and the words that guest tests are written in. Two hosts, `a` and `b`, that are two
# guests (eth0 of each on one wire) or one guest with two interfaces (v0 and v1, a veth pair that all traffic between
# the two addresses crosses). Either way
#
#   host      a           b
#   address   10.0.0.1    10.0.0.2
#   device    rxe0        rxe0, or rxe1 in one guest
#
#   on b CMD…             runs CMD on that host: its output, its exit status
#   bg b NAME CMD…        starts CMD there, its output to /tmp/NAME.log
#   bg_wait b NAME        waits for its end: its exit status      bg_kill b NAME [SIGNAL]
#   bg_log b NAME REGEX [SECONDS]   waits until its output has a line like it
#   netdev_of a           the interface; rdma_of a  the RDMA device
#   flowed a 1000         waits until a has sent 1000 KB more
#   netem a "loss 5%"     what a sends goes through netem; `netem a` takes it off again

addr_of() { if [[ $1 == a ]]; then echo 10.0.0.1; else echo 10.0.0.2; fi; }
netdev_of() { if ((GUEST_HOSTS == 2)); then echo eth0; elif [[ $1 == a ]]; then echo v0; else echo v1; fi; }
rdma_of() { if ((GUEST_HOSTS == 2)) || [[ $1 == a ]]; then echo rxe0; else echo rxe1; fi; }

# Builtins as far as they go: on an emulated machine a program that starts costs more than most commands.
on() {
	local host=$1 out link
	shift
	if ((GUEST_HOSTS == 1)) || [[ $host == "$GUEST_HOST" ]]; then
		"$@"
		return
	fi
	exec {link}<>/dev/tcp/10.99.0.2/514 || return 255
	{
		printf '%q ' "$@"
		echo
	} >&"$link"
	out=$(cat <&"$link")
	exec {link}>&-
	[[ $out =~ $'\n@@status '([0-9]+)$ ]] || return 255
	out=${out%$'\n@@status '*}
	[[ -z $out || $out == *$'\n' ]] || out+=$'\n'
	printf '%s' "$out"
	return "${BASH_REMATCH[1]}"
}

bg() {
	local host=$1 name=$2
	shift 2
	# shellcheck disable=SC2016
	on "$host" bash -c 'name=$1; shift; rm -f "/tmp/$name".*
		setsid bash -c '\''"$@" & echo $! >"$0.pid"; wait $!; echo $? >"$0.status"'\'' "/tmp/$name" "$@" \
			>"/tmp/$name.log" 2>&1 </dev/null &
		while [[ ! -s /tmp/$name.pid ]]; do sleep 0.02; done' bg "$name" "$@"
}
bg_wait() { # host name [seconds]: 124 when it did not end
	# shellcheck disable=SC2016
	on "$1" bash -c 'for _ in $(seq $(($2 * 10))); do
		[[ -s /tmp/$1.status ]] && exit "$(cat "/tmp/$1.status")"; sleep 0.1; done; exit 124' bg "$2" "${3:-60}"
}
bg_kill() { # host name [signal]
	# shellcheck disable=SC2016
	on "$1" bash -c 'kill "-$2" "$(cat "/tmp/$1.pid")" 2>/dev/null; true' bg "$2" "${3:-TERM}"
}
bg_log() { # host name regex [seconds]
	# shellcheck disable=SC2016
	on "$1" bash -c 'for _ in $(seq $(($3 * 10))); do grep -qE "$2" "/tmp/$1.log" && exit 0
		[[ ! -s /tmp/$1.status ]] || break; sleep 0.1; done; grep -qE "$2" "/tmp/$1.log"' bg "$2" "$3" "${4:-30}"
}

flowed() { # host kilobytes [seconds]: waits until so much more has left by its interface
	# shellcheck disable=SC2016
	on "$1" bash -c 'f=/sys/class/net/$0/statistics/tx_bytes; read -r was <"$f"
		for ((i = 0; i < $2 * 20; i++)); do read -r now <"$f"; ((now - was < $1 << 10)) || exit 0; sleep 0.05; done
		exit 1' "$(netdev_of "$1")" "$2" "${3:-30}"
}

netem() { # host [settings]
	local dev
	dev=$(netdev_of "$1")
	on "$1" tc qdisc del dev "$dev" root 2>/dev/null
	# shellcheck disable=SC2086
	[[ -z ${2:-} ]] || on "$1" tc qdisc add dev "$dev" root netem limit 100000 $2
}

# ---- set-up, called by init --------------------------------------------------------------------

# Both addresses are this host's own: without this, packets between them would never see the veth pair.
veth_net() {
	sysctl -q -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.all.accept_local=1 \
		net.ipv4.conf.all.arp_ignore=1 || return
	modprobe veth || return
	ip -batch - <<-'END'
		link add v0 type veth peer name v1
		addr add 10.0.0.1/24 dev v0
		addr add 10.0.0.2/24 dev v1
		link set v0 up
		link set v1 up
		rule add pref 1 iif v0 lookup local
		rule add pref 1 iif v1 lookup local
		route add 10.0.0.2 dev v0 src 10.0.0.1 table 10
		route add 10.0.0.1 dev v1 src 10.0.0.2 table 11
		rule add pref 2 from 10.0.0.1 to 10.0.0.2 lookup 10
		rule add pref 2 from 10.0.0.2 to 10.0.0.1 lookup 11
		rule add pref 3 to 10.0.0.2 lookup 10
		rule add pref 100 lookup local
		rule del pref 0
	END
}

# Two interfaces by their hardware addresses: the wire, and one for `on`, which works when the wire is down.
wire_net() {
	local i=1 f mac
	[[ $GUEST_HOST == a ]] || i=2
	for f in /sys/class/net/*/address; do
		read -r mac <"$f"
		f=${f%/address}
		case $mac in
		52:54:00:00:00:*) ip link set "${f##*/}" name data ;;
		52:54:00:00:01:*) ip link set "${f##*/}" name mgmt0 ;;
		esac
	done
	ip -batch - <<-END
		link set data name eth0
		addr add 10.0.0.$i/24 dev eth0
		addr add 10.99.0.$i/24 dev mgmt0
		link set eth0 up
		link set mgmt0 up
	END
}

guest_net() {
	local i
	ip link set lo up || return
	[[ $GUEST_NET != none ]] || return 0
	if ((GUEST_HOSTS == 1)); then
		veth_net || return
	else
		wire_net || return
	fi
	[[ $GUEST_NET == rdma ]] || return 0
	modprobe -a crc32_generic rdma_rxe rdma_ucm || return
	rdma link add rxe0 type rxe netdev "$(netdev_of a)" || return
	((GUEST_HOSTS == 2)) || rdma link add rxe1 type rxe netdev v1 || return
	for ((i = 0; i < 100; i++)); do
		[[ ! -e /dev/infiniband/rdma_cm ]] || return 0
		sleep 0.05
	done
	echo "/dev/infiniband/rdma_cm is not there"
	return 1
}

# ---- between tests -----------------------------------------------------------------------------

each_host() {
	"$@" a
	((GUEST_HOSTS == 1)) || "$@" b
}

# What user space still has of RDMA objects; the kernel's own have no process.
rdma_left_on() {
	# shellcheck disable=SC2016
	on "$1" bash -c 'printf "resource show %s\n" ctx qp cq mr | rdma -b - 2>/dev/null | grep " pid [0-9]" |
		sed "s/^/left behind on $0: /"' "$1"
}
nothing_left() { # log
	local _
	[[ $GUEST_NET == rdma ]] || return 0
	# A queue pair goes when its last packet has gone.
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		each_host rdma_left_on >"$1" 2>&1
		[[ -s $1 ]] || return 0
		sleep 0.3
	done
	return 1
}

renew_rdma() { # host: its device, made anew
	[[ $GUEST_NET == rdma ]] || return 0
	# shellcheck disable=SC2016
	on "$1" bash -c 'rdma link delete "$0"; rdma link add "$0" type rxe netdev "$1"' "$(rdma_of "$1")" "$(netdev_of "$1")"
}

show_logs() {
	# shellcheck disable=SC2016
	on "$1" bash -c 'read -r up _ </proc/uptime; echo "-- $0 is up for $up s"
		for f in /tmp/*.pid; do [[ ! -e $f ]] || { f=${f%.pid}; echo "-- ${f##*/} on $0:"; tail -n 20 "$f.log"; }; done' "$1"
}
tidy_up() {
	each_host tidy_host
}
tidy_host() {
	local devs=eth0
	((GUEST_HOSTS == 2)) || devs="v0 v1"
	# shellcheck disable=SC2016
	on "$1" bash -c 'shopt -s nullglob
		for f in /tmp/*.pid; do read -r p <$f && kill -9 $p; done
		killall -9 dwcp
		rm -rf /tmp/*.pid /tmp/*.status /tmp/store
		for d in "$@"; do
			tc qdisc del dev $d root
			ip link set $d up mtu 1500
		done' tidy $devs >/dev/null 2>&1
}

# ---- words for the tests about dwcp ------------------------------------------------------------

skip() {
	echo "$*"
	exit 77
}
fail() {
	echo "$*"
	exit 1
}

serve() { # host [options]: a server with an empty /tmp/store, named `server`; its address is the host's
	local host=$1
	shift
	on "$host" mkdir -p /tmp/store
	bg "$host" server dwcp serve -v --listen "$(addr_of "$host"):7411" --store /tmp/store "$@"
	bg_log "$host" server 'listening on' 60 || {
		on "$host" cat /tmp/server.log
		fail "the server did not start"
	}
}
served() { # host: ends the server and sees that it ends well
	bg_kill "$1" server
	bg_wait "$1" server 60 || {
		local rc=$?
		on "$1" cat /tmp/server.log
		fail "the server ended with status $rc"
	}
}
# The file is on both hosts the same.
same_file() { # file host
	local here there
	here=$(sha256sum <"$1")
	there=$(on "$2" bash -c 'sha256sum <"$1"' x "/tmp/store/${1##*/}")
	[[ -n $there && $here == "$there" ]] || fail "${1##*/} is not the same on $2: $here, $there"
}
random_file() { # file kilobytes
	dd if=/dev/urandom of="$1" bs=1024 count="$2" 2>/dev/null
}
# Runs a command that must fail: with this status, with one line like the regex, within the seconds.
refused() { # seconds regex CMD…
	local limit=$1 regex=$2 rc began=$SECONDS
	shift 2
	timeout -k 2 "$limit" "$@" >refused.log 2>&1
	rc=$?
	cat refused.log
	((rc == 1 || rc == 2)) || fail "status $rc after $((SECONDS - began)) s"
	grep -qE "$regex" refused.log || fail "no line like: $regex"
}

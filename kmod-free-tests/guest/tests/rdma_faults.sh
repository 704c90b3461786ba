# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# guest: hosts=1 needs=rdma
# What one host can have wrong: each is told in one line that names the thing, in bounded time, and leaves nothing.

test_no_device() {
	rdma link delete rxe0
	rdma link delete rxe1
	dwcp backends | tee backends
	refused 60 'rdma' dwcp benchmark amst --backend rdma --data-size 1MB
	rdma link add rxe0 type rxe netdev v0
	rdma link add rxe1 type rxe netdev v1
	grep -qE '^rdma +no ' backends || fail "backends takes rdma for available"
}

test_address_without_a_device() {
	ip link add plain type dummy
	ip addr add 10.7.0.1/24 dev plain
	ip link set plain up
	(refused 60 '10\.7\.0\.1' dwcp serve --backend rdma --listen 10.7.0.1:7411)
	local rc=$?
	ip link del plain
	return $rc
}

test_nobody_listens() {
	random_file f 100
	refused 60 '10\.0\.0\.2' dwcp send f 10.0.0.2 --backend rdma --timeout 5s
}

# A cgroup gives so many RDMA objects: wherever they run out, it is told and all that was made goes again.
test_out_of_objects() {
	local n told=0
	serve b --backend rdma
	mkdir -p /sys/fs/cgroup/few
	for n in 0 1 2 3 5 8 11 14; do
		echo "rxe0 hca_handle=8 hca_object=$n" >/sys/fs/cgroup/few/rdma.max || skip "no rdma controller"
		# shellcheck disable=SC2016
		timeout 60 bash -c 'echo $$ >/sys/fs/cgroup/few/cgroup.procs
			exec dwcp benchmark amst --peer 10.0.0.2 --backend rdma --data-size 1MB --iterations 1 --streams 4 --timeout 4s' >log 2>&1
		rc=$?
		echo "$n objects: status $rc: $(grep '^dwcp: ' log | tail -n 1)"
		((rc <= 1)) || { cat log; fail "with $n objects: status $rc"; }
		((rc == 0)) || { told=$((told + 1)); grep -q '^dwcp: ' log || fail "with $n objects: nothing is told"; }
	done
	((told >= 3)) || fail "objects were not short"
	rmdir /sys/fs/cgroup/few
	served b
}

test_unknown_device_and_port() {
	refused 60 'nosuch' dwcp serve --backend rdma --rdma-device nosuch --listen 10.0.0.2:7411
	refused 60 'rxe1 has no port 7' dwcp serve --backend rdma --rdma-device rxe1 --rdma-port 7 --listen 10.0.0.2:7411
	random_file f 10
	refused 60 'nosuch' dwcp send f 10.0.0.2 --backend rdma --rdma-device nosuch --timeout 5s
	refused 60 'has no port 7' dwcp send f 10.0.0.2 --backend rdma --rdma-port 7 --timeout 5s
}

test_device_of_another_address() {
	refused 60 '10\.0\.0\.2.* rxe1, not of rxe0' dwcp serve --backend rdma --rdma-device rxe0 --listen 10.0.0.2:7411
}

test_port_down() {
	random_file f 100
	serve b --backend rdma
	ip link set v0 down
	(refused 40 'dwcp: send: ' dwcp send f 10.0.0.2 --backend rdma --timeout 5s)
	local rc=$?
	ip link set v0 up
	ip route replace 10.0.0.2 dev v0 src 10.0.0.1 table 10
	((rc == 0)) || return $rc
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		ping -c 1 -W 2 10.0.0.2 >/dev/null && break
	done
	dwcp send f 10.0.0.2 --backend rdma --timeout 30s || fail "not usable when it is up again"
	same_file f b
	served b
}

# As a user without privileges whose limit is less than the region.
test_memlock_too_small() {
	serve b --backend rdma
	chmod 777 .
	# shellcheck disable=SC2016
	refused 60 'ulimit -l' bash -c 'ulimit -l 2048; exec setpriv --reuid 65534 --clear-groups \
		--bounding-set=-all --inh-caps=-all dwcp benchmark amst --peer 10.0.0.2 --backend rdma --data-size 32MB'
	served b
}

test_server_out_of_objects() {
	random_file f 300
	serve b --backend rdma
	mkdir -p /sys/fs/cgroup/few
	on b cat /tmp/server.pid >/sys/fs/cgroup/few/cgroup.procs
	echo "rxe1 hca_object=0" >/sys/fs/cgroup/few/rdma.max || skip "no rdma controller"
	refused 40 '10\.0\.0\.2' dwcp send f 10.0.0.2 --backend rdma --timeout 5s
	grep 'warning: .*10\.0\.0\.1.* is refused' /tmp/server.log || fail "the server does not say why"
	(($(grep -c 'is refused' /tmp/server.log) <= 2)) || fail "the server says it over and over"
	echo "rxe1 hca_object=max" >/sys/fs/cgroup/few/rdma.max
	dwcp send f 10.0.0.2 --backend rdma || fail "the server did not recover"
	same_file f b
	served b
	rmdir /sys/fs/cgroup/few
}

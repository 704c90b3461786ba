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

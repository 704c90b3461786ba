# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# guest: by-name hosts=1 needs=rdma
# More of what one host can have wrong. Run by name only (kmod-free-tests/guest/suite.sh 1 580 rdma_faults_open) until each has been seen to pass.

test_unknown_device_and_port() {
	refused 60 'nosuch' dwcp serve --backend rdma --rdma-device nosuch --listen 10.0.0.2:7411
	refused 60 'port' dwcp serve --backend rdma --rdma-device rxe1 --rdma-port 7 --listen 10.0.0.2:7411
}

test_device_of_another_address() {
	refused 60 'rxe0|10\.0\.0\.2' dwcp serve --backend rdma --rdma-device rxe0 --listen 10.0.0.2:7411
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
	dwcp send f 10.0.0.2 --backend rdma || fail "not usable when it is up again"
	same_file f b
	served b
}

# As a user without privileges whose limit is less than the region.
test_memlock_too_small() {
	serve b --backend rdma
	chmod 777 .
	# shellcheck disable=SC2016
	refused 60 'memlock|lock|ulimit' bash -c 'ulimit -l 2048; exec setpriv --reuid 65534 --clear-groups \
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
	echo "rxe1 hca_object=max" >/sys/fs/cgroup/few/rdma.max
	dwcp send f 10.0.0.2 --backend rdma || fail "the server did not recover"
	same_file f b
	served b
	rmdir /sys/fs/cgroup/few
}

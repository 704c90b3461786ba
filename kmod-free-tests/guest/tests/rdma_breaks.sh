# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# guest: hosts=2 needs=rdma
# What breaks on the way between two hosts is told or mended.

test_mtu_differs() {
	random_file f 2000
	on b ip link set eth0 mtu 1200
	serve b --backend rdma --rdma-mtu 512
	dwcp send f 10.0.0.2 --backend rdma --rdma-mtu 1024 || fail "send failed"
	same_file f b
	served b
}

test_five_percent_loss() {
	random_file f 2000
	serve b --backend rdma
	netem a "loss 5%"
	netem b "loss 5%"
	dwcp send -v f 10.0.0.2 --backend rdma --streams 2 --ack-timeout 20ms || fail "send failed"
	same_file f b
	served b
}

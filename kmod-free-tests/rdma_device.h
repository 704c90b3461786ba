/* SPDX-License-Identifier: MIT */
#ifndef DWCP_TESTS_RDMA_DEVICE_H
#define DWCP_TESTS_RDMA_DEVICE_H

#include "transport/backend.h"

/* The first IPv4 address of an RDMA device, any port. False: there is none. */
bool rdma_device_address(struct be_addr *out);

#endif

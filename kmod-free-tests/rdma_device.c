/* SPDX-License-Identifier: MIT */
#include "kmod-free-tests/rdma_device.h"

#include <glob.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static bool address_of(const char *netdev, struct be_addr *out)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq r = { 0 };
	bool ok;

	snprintf(r.ifr_name, sizeof r.ifr_name, "%s", netdev);
	ok = fd >= 0 && ioctl(fd, SIOCGIFADDR, &r) == 0;
	if (fd >= 0)
		close(fd);
	if (!ok)
		return false;
	*out = (struct be_addr){ .len = sizeof out->in };
	memcpy(&out->in, &r.ifr_addr, sizeof out->in);
	out->in.sin_port = 0;
	return true;
}

bool rdma_device_address(struct be_addr *out)
{
	char netdev[IFNAMSIZ];
	glob_t g;
	bool found = false;

	if (glob("/sys/class/infiniband/*/ports/1/gid_attrs/ndevs/0", 0, NULL, &g) != 0)
		return false;
	for (size_t i = 0; i < g.gl_pathc && !found; i++) {
		FILE *f = fopen(g.gl_pathv[i], "r");

		if (f && fscanf(f, "%15s", netdev) == 1)
			found = address_of(netdev, out);
		if (f)
			fclose(f);
	}
	globfree(&g);
	return found;
}

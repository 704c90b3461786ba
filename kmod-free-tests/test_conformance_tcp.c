/* SPDX-License-Identifier: MIT */
#include "kmod-free-tests/conformance.h"
#include "transport/uring.h"

static struct be_addr loopback(int family)
{
	struct be_addr a = { .len = sizeof a.in };

	if (family == AF_INET) {
		a.in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
		return a;
	}
	a.len = sizeof a.in6;
	a.in6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	return a;
}

int main(void)
{
	struct conf_target v4 = { .name = "tcp, 127.0.0.1", .ops = &uring_ops, .listen_at = loopback(AF_INET),
				  .idle = conf_idle_real };
	struct conf_target v6 = { .name = "tcp, [::1]", .ops = &uring_ops, .listen_at = loopback(AF_INET6),
				  .idle = conf_idle_real };

	return conformance_run(&v4) + conformance_run(&v6);
}

/* SPDX-License-Identifier: MIT */
/* The conformance suite over TCP, on 127.0.0.1 and [::1]. */
#include "kmod-free-tests/conformance_impl.h"
#include "transport/uring.h"
#include <stdio.h>
#include <unistd.h>

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

static bool same(const struct be_addr *a, const struct be_addr *b)
{
	if (a->sa.sa_family != b->sa.sa_family)
		return false;
	if (a->sa.sa_family == AF_INET)
		return a->in.sin_port == b->in.sin_port && a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
	return a->in6.sin6_port == b->in6.sin6_port &&
	       !memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, sizeof a->in6.sin6_addr);
}

/* Finds the socket of the stream among this process's descriptors and makes the kernel reset it. */
static void reset_socket(struct be *be, be_stream s)
{
	const struct sockaddr nowhere = { .sa_family = AF_UNSPEC };
	struct be_info info;

	assert_int_equal(be->ops->info(be, s, &info), 0);
	for (int fd = 3; fd < 1024; fd++) {
		struct be_addr local = { .len = sizeof local.ss }, peer = { .len = sizeof peer.ss };

		if (!getsockname(fd, &local.sa, &local.len) && !getpeername(fd, &peer.sa, &peer.len) &&
		    same(&local, &info.local) && same(&peer, &info.peer)) {
			assert_int_equal(connect(fd, &nowhere, sizeof nowhere), 0);
			return;
		}
	}
	fail_msg("the socket of the stream was not found");
}

static bool have_address(const struct be_addr *a)
{
	int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok = fd >= 0 && !bind(fd, &a->sa, a->len);

	if (fd >= 0)
		close(fd);
	return ok;
}

int main(void)
{
	static const struct {
		int family;
		const char *name;
	} runs[] = { { AF_INET, "tcp, 127.0.0.1" }, { AF_INET6, "tcp, [::1]" } };
	int failed = 0;

	for (size_t i = 0; i < ARRAY_LEN(runs); i++) {
		struct conf_target t = { .name = runs[i].name,
					 .ops = &uring_ops,
					 .idle = conf_idle_real,
					 .listen_at = loopback(runs[i].family),
					 .drop = reset_socket };

		if (have_address(&t.listen_at))
			failed += conformance_run(&t);
		else
			printf("skipped: %s: this machine has no such address\n", t.name);
	}
	return failed;
}

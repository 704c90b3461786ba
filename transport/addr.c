/* SPDX-License-Identifier: MIT */
#include "transport/backend.h"
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The pieces of "HOST", "HOST:PORT", "[V6]:PORT", "V6"; port NULL: none was given. */
struct parts {
	char host[256];
	const char *port;
	bool bracketed;
};

static int split(const char *text, struct parts *p, struct err *e)
{
	const char *end = strchr(text, ']'), *colon = strrchr(text, ':');
	const char *from = text;
	size_t n;

	*p = (struct parts){ .bracketed = text[0] == '[' };
	if (p->bracketed) {
		if (!end || (end[1] && end[1] != ':'))
			return err_set(e, -EINVAL, "address \"%s\": brackets do not match; write [ADDRESS]:PORT", text);
		from = text + 1;
		n = (size_t)(end - from);
		p->port = end[1] ? end + 2 : NULL;
	} else if (colon && strchr(text, ':') == colon) {
		n = (size_t)(colon - text);
		p->port = colon + 1;
	} else { /* none, or several: an IPv6 address without a port */
		n = strlen(text);
	}
	if (!n)
		return err_set(e, -EINVAL, "address \"%s\" has no host; write HOST or HOST:PORT", text);
	/* To the resolver it would be the last bytes of an IPv4 address. */
	if (!p->bracketed && !p->port && n <= 5 && strspn(text, "0123456789") == n)
		return err_set(e, -EINVAL, "address \"%s\" looks like a port; write ADDRESS:%s", text, text);
	if (n >= sizeof p->host)
		return err_set(e, -EINVAL,
			       "address \"%.40s…\": the host is %zu characters long; at most %zu make a name", text, n,
			       sizeof p->host - 1);
	memcpy(p->host, from, n);
	return 0;
}

static int parse_port(const char *text, const char *s, bool listening, uint16_t *port, struct err *e)
{
	unsigned long v = 0;
	size_t n = strspn(s, "0123456789");

	if (n && n <= 5 && !s[n])
		v = strtoul(s, NULL, 10);
	if (!n || n > 5 || s[n] || v > 65535 || (!v && !listening))
		return err_set(e, -EINVAL, "address \"%s\": \"%s\" is not a port; use %d to 65535", text, s,
			       !listening);
	*port = (uint16_t)v;
	return 0;
}

/* getaddrinfo's reason, as an errno and a remedy. */
static int resolve_error(const char *text, const char *host, int rc, struct err *e)
{
	int sys = errno;

	switch (rc) {
	case EAI_AGAIN:
		return err_set(e, -EAGAIN,
			       "cannot resolve \"%s\" now: no name server answers; check the network or give "
			       "the numeric address",
			       host);
	case EAI_MEMORY:
		return err_set(e, -ENOMEM, "cannot resolve \"%s\": out of memory; free some", host);
	case EAI_SYSTEM:
		return err_set(e, sys ? -sys : -EIO,
			       "cannot resolve \"%s\": %s; check /etc/resolv.conf or give the numeric "
			       "address",
			       host, strerror(sys));
	default:
		return err_set(e, -EHOSTUNREACH,
			       "cannot resolve \"%s\" (from \"%s\"): %s; check the spelling or give the "
			       "numeric address",
			       host, text, gai_strerror(rc));
	}
}

/* What the resolver would report as an unknown name, when it is plainly an address gone wrong. */
static int check_literal(const char *text, const struct parts *p, struct err *e)
{
	const char *scope = strchr(p->host, '%');
	char bare[sizeof p->host];
	struct in6_addr a;

	if (!p->bracketed && !strchr(p->host, ':'))
		return 0;
	snprintf(bare, sizeof bare, "%.*s", scope ? (int)(scope - p->host) : (int)sizeof bare - 1, p->host);
	if (inet_pton(AF_INET6, bare, &a) != 1)
		return err_set(e, -EINVAL,
			       "address \"%s\": \"%s\" is not an IPv6 address; write ADDRESS or [ADDRESS]:PORT", text,
			       bare);
	if (scope && !if_nametoindex(scope + 1) && strspn(scope + 1, "0123456789") != strlen(scope + 1))
		return err_set(e, -ENODEV, "address \"%s\": there is no network interface \"%s\"; see `ip link`", text,
			       scope + 1);
	if (!scope && IN6_IS_ADDR_LINKLOCAL(&a))
		return err_set(e, -EINVAL, "address \"%s\" is link-local; name the interface, as in %s%%eth0", text,
			       bare);
	return 0;
}

static int copy_results(const struct addrinfo *list, uint16_t port, struct be_addr *out, int max)
{
	int n = 0;

	for (const struct addrinfo *a = list; a && n < max; a = a->ai_next) {
		struct be_addr b = { .len = a->ai_addrlen };

		if ((a->ai_family != AF_INET && a->ai_family != AF_INET6) || a->ai_addrlen > sizeof b.ss)
			continue;
		memcpy(&b.ss, a->ai_addr, a->ai_addrlen);
		if (a->ai_family == AF_INET6)
			b.in6.sin6_port = htons(port);
		else
			b.in.sin_port = htons(port);
		out[n++] = b;
	}
	return n;
}

/* Every address, with one socket: IPv6's any takes IPv4 too, as a listener that clears IPV6_V6ONLY. */
static int any_address(uint16_t port, struct be_addr *out)
{
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0) {
		close(fd);
		*out = (struct be_addr){ .len = sizeof out->in6 };
		out->in6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(port) };
	} else {
		*out = (struct be_addr){ .len = sizeof out->in };
		out->in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port) };
	}
	return 1;
}

int addr_resolve(const char *text, uint16_t default_port, bool listening, struct be_addr *out, int max, struct err *e)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC,
				  .ai_socktype = SOCK_STREAM,
				  .ai_flags = listening ? AI_PASSIVE : 0 };
	struct addrinfo *list;
	uint16_t port = default_port;
	struct parts p;
	bool any;
	int rc = split(text ? text : "*", &p, e);

	if (rc < 0)
		return rc;
	if (p.port)
		rc = parse_port(text, p.port, listening, &port, e);
	if (rc >= 0)
		rc = check_literal(text, &p, e);
	if (rc < 0)
		return rc;
	any = !strcmp(p.host, "*");
	if (any && !listening)
		return err_set(e, -EINVAL, "\"%s\" is no address to connect to; name a host", text ? text : "*");
	if (any)
		return max > 0 ? any_address(port, out) : 0;
	rc = getaddrinfo(p.host, NULL, &hints, &list);
	if (rc)
		return resolve_error(text, p.host, rc, e);
	rc = copy_results(list, port, out, max);
	freeaddrinfo(list);
	if (!rc)
		return err_set(e, -EHOSTUNREACH, "\"%s\" has no IPv4 or IPv6 address; give the numeric address",
			       p.host);
	return rc;
}

char *addr_format(char *buf, size_t cap, const struct be_addr *a)
{
	char host[INET6_ADDRSTRLEN] = "?", scope[IF_NAMESIZE + 1] = "";

	switch (a->sa.sa_family) {
	case AF_INET:
		inet_ntop(AF_INET, &a->in.sin_addr, host, sizeof host);
		snprintf(buf, cap, "%s:%u", host, ntohs(a->in.sin_port));
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof host);
		if (a->in6.sin6_scope_id) {
			scope[0] = '%';
			if (!if_indextoname(a->in6.sin6_scope_id, scope + 1))
				snprintf(scope + 1, sizeof scope - 1, "%u", a->in6.sin6_scope_id);
		}
		snprintf(buf, cap, "[%s%s]:%u", host, scope, ntohs(a->in6.sin6_port));
		break;
	default:
		snprintf(buf, cap, "?");
	}
	return buf;
}

bool addr_is_loopback(const struct be_addr *a)
{
	const uint8_t *b = a->in6.sin6_addr.s6_addr;

	if (a->sa.sa_family == AF_INET)
		return ntohl(a->in.sin_addr.s_addr) >> 24 == 127;
	if (a->sa.sa_family != AF_INET6)
		return false;
	return IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr) || (IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr) && b[12] == 127);
}

/* SPDX-License-Identifier: MIT */
/* What went wrong with a connection, for people: who, what, and the remedy. */
#include "transport/client_impl.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The first bytes of a stranger, made printable. */
static void printable(char *out, size_t cap, const uint8_t *in, size_t n)
{
	size_t k = 0;

	for (size_t i = 0; i < n && k + 1 < cap && in[i] != '\r' && in[i] != '\n'; i++)
		out[k++] = isprint(in[i]) ? (char)in[i] : '.';
	out[k] = 0;
}

/* Bytes of the character at p that a terminal only shows; 0: it is a control character, or no UTF-8. */
static size_t shown(const unsigned char *p)
{
	size_t n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

	if (p[0] < 0x80)
		return p[0] >= ' ' && p[0] != 0x7f;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	/* U+0080 to U+009F are controls, too; then longer forms of what is shorter, surrogates, and beyond Unicode */
	if ((p[0] == 0xc2 && p[1] < 0xa0) || (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90))
		return 0;
	/* U+202A to U+202E and U+2066 to U+2069 turn the order of what follows: a name shows as another */
	if (p[0] == 0xe2 &&
	    ((p[1] == 0x80 && p[2] >= 0xaa && p[2] <= 0xae) || (p[1] == 0x81 && p[2] >= 0xa6 && p[2] <= 0xa9)))
		return 0;
	return n;
}

char *client_clean(char *text)
{
	for (char *p = text; *p;) {
		size_t n = shown((const unsigned char *)p);

		if (!n)
			*p = '?';
		p += n ? n : 1;
	}
	return text;
}

int refused_text(const struct client *c, const uint8_t *reply, uint32_t len, struct err *e)
{
	struct pre_reply r;
	char first[40];

	if (len == BE_PREAMBLE && wire_get_reply(reply, &r) == 0) {
		if (r.version != WIRE_VERSION)
			return err_set(e, -EPROTO, "%s speaks protocol version %u, this dwcp speaks %u: %s",
				       c->cfg.target, r.version, WIRE_VERSION,
				       "install the same dwcp release on both hosts");
		if (r.status != PRE_OK)
			return err_set(e, r.status == PRE_NO_SESSION ? -ESTALE : -ECONNREFUSED,
				       "%s refused the connection: %s", c->cfg.target, pre_status_text(r.status));
	}
	printable(first, sizeof first, reply, len);
	return err_set(e, -EPROTO,
		       "%s answers, but not as a dwcp server (it said \"%s\"): check host and port, and that "
		       "`dwcp serve` runs there",
		       c->cfg.target, first);
}

/* What a device may pin is bounded by a limit that does not say its name. */
const char *memory_remedy(int err)
{
	return err == -ENOMEM
		       ? "; RDMA locks memory: raise the limit (`ulimit -l unlimited`, LimitMEMLOCK= of a service), use "
			 "fewer --streams, or --backend=tcp"
		       : "";
}

int connect_text(const struct client *c, int err, struct err *e)
{
	switch (-err) {
	case ECONNREFUSED:
		return err_set(e, err,
			       "nothing listens on %s: start `dwcp serve --listen ADDR:PORT` there, or check the port",
			       c->cfg.target);
	case EHOSTUNREACH:
	case ENETUNREACH:
		return err_set(e, err, "%s cannot be reached (%s): check the address, the route and the firewall",
			       c->cfg.target, strerror(-err));
	case ETIMEDOUT:
		return err_set(e, err,
			       "%s does not answer in time: check that `dwcp serve` runs there and that no firewall "
			       "drops the port, or raise --timeout",
			       c->cfg.target);
	case ENODEV:
		return err_set(
			e, err,
			"%s is not reached over an RDMA device of this host: give the address of the peer's RDMA "
			"interface (`rdma link` shows them; loopback has none), or use --backend=tcp",
			c->cfg.target);
	case ENOSPC:
		return err_set(
			e, err,
			"the connection to %s failed: the RDMA device's queues do not suffice; use fewer --streams, a "
			"lower --queue-depth, or a larger --completion-queue-size",
			c->cfg.target);
	case EPROTO:
	case EBADMSG:
	case ECONNRESET:
	case EPIPE:
	case 0:
		return err_set(e, err ? err : -ECONNRESET,
			       "%s closed the connection before it answered as a dwcp server: "
			       "check host and port, and its log",
			       c->cfg.target);
	default:
		return err_set(e, err, "the connection to %s failed: %s%s", c->cfg.target, strerror(-err),
			       memory_remedy(err));
	}
}

int stream_text(const struct client *c, struct err *e)
{
	if (c->stream_refused)
		return refused_text(c, c->stream_reply, BE_PREAMBLE, e);
	return err_set(
		e, c->stream_err ? c->stream_err : -ENOTCONN,
		"no data stream to %s is left (%u wanted): %s; check the link, file limits (ulimit -n) on both hosts, "
		"or use fewer --streams%s",
		c->cfg.target, c->wanted, strerror(c->stream_err ? -c->stream_err : ENOTCONN),
		memory_remedy(c->stream_err));
}

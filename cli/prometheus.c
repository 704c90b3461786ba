/* SPDX-License-Identifier: MIT */
#include "cli/prometheus.h"
#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONNECTIONS 16u
#define IDLE_S 10u

struct prometheus {
	struct MHD_Daemon *daemon;
	void (*write)(void *ctx, FILE *out);
	void *ctx;
};

static enum MHD_Result reply_text(struct MHD_Connection *c, unsigned status, const char *type, const char *text)
{
	struct MHD_Response *r =
		MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
	enum MHD_Result ok;

	if (!r)
		return MHD_NO;
	MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	ok = MHD_queue_response(c, status, r);
	MHD_destroy_response(r);
	return ok;
}

static enum MHD_Result page(struct prometheus *p, struct MHD_Connection *c)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	enum MHD_Result ok;

	if (!f)
		return MHD_NO;
	p->write(p->ctx, f);
	if (fclose(f)) {
		free(text);
		return MHD_NO;
	}
	ok = reply_text(c, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", text);
	free(text);
	return ok;
}

static enum MHD_Result handle(void *ctx, struct MHD_Connection *c, const char *url, const char *method,
			      const char *version, const char *upload, size_t *upload_len, void **state)
{
	(void)version;
	(void)upload;
	*state = ctx;
	if (*upload_len) { /* a body is read and thrown away */
		*upload_len = 0;
		return MHD_YES;
	}
	if (strcmp(url, "/metrics") != 0)
		return reply_text(c, MHD_HTTP_NOT_FOUND, "text/plain", "only /metrics is here\n");
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return reply_text(c, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", "use GET\n");
	return page(ctx, c);
}

static int bound_address(struct MHD_Daemon *d, struct be_addr *bound)
{
	const union MHD_DaemonInfo *info = MHD_get_daemon_info(d, MHD_DAEMON_INFO_LISTEN_FD);

	bound->len = sizeof(bound->ss);
	return info && getsockname(info->listen_fd, &bound->sa, &bound->len) == 0 ? 0 : -EIO;
}

int prometheus_open(struct prometheus **out, const struct be_addr *at, void (*write)(void *ctx, FILE *out), void *ctx,
		    struct be_addr *bound, struct err *e)
{
	struct prometheus *p = calloc(1, sizeof(*p));
	unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO;
	char text[64];
	int rc;

	if (!p)
		return err_set(e, -ENOMEM, "no memory for the metrics server");
	p->write = write;
	p->ctx = ctx;
	if (at->sa.sa_family == AF_INET6)
		flags |= MHD_USE_DUAL_STACK;
	errno = 0;
	p->daemon = MHD_start_daemon(flags, 0, NULL, NULL, handle, p, MHD_OPTION_SOCK_ADDR, &at->sa,
				     MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S,
				     MHD_OPTION_END);
	if (!p->daemon) {
		rc = errno ? -errno : -EADDRNOTAVAIL;
		free(p);
		return err_set(e, rc, "cannot serve metrics on %s: %s; choose another --metrics address",
			       addr_format(text, sizeof(text), at), strerror(-rc));
	}
	rc = bound_address(p->daemon, bound);
	if (rc < 0)
		*bound = *at;
	*out = p;
	return 0;
}

void prometheus_close(struct prometheus *p)
{
	if (!p)
		return;
	MHD_stop_daemon(p->daemon);
	free(p);
}

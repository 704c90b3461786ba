/* SPDX-License-Identifier: MIT */
#include "cli/serve_move.h"

#include "base/util.h"
#include "cli/transfer.h"
#include "migrate/pages.h"
#include "migrate/session.h"
#include <errno.h>
#include <stdlib.h>

/* What a client's configuration points to while the client lives. */
struct path {
	struct transfer_opts opts;
	struct transfer transfer;
};

static int plan(struct path *p, const char *to, struct err *e)
{
	const struct opt_group groups[] = { transfer_group(&p->opts), transfer_compress_group(&p->opts),
					    transfer_tcp_group(&p->opts.tcp), transfer_rdma_group(&p->opts.rdma) };

	opt_defaults(groups, ARRAY_LEN(groups));
	p->opts.chunk = PAGES_CHUNK_MAX / 2;
	transfer_apply_mode(&p->opts);
	return transfer_plan(&p->transfer, &p->opts, to, e);
}

static int connect_onward(void *ctx, const char *to, const volatile sig_atomic_t *stop, void **path,
			  struct client **out, struct err *e)
{
	struct client_config cfg;
	struct path *p = *path;
	int rc;

	(void)ctx;
	if (!p) {
		p = calloc(1, sizeof(*p));
		if (!p)
			return err_set(e, -ENOMEM, "no memory to move a guest");
		rc = plan(p, to, e);
		if (rc < 0) {
			free(p);
			return rc;
		}
		*path = p;
	}
	transfer_client(&p->transfer, true, &cfg);
	cfg.interrupted = stop;
	cfg.stage_chunk = migrate_chunk_room(PAGES_CHUNK_MAX / 2);
	return client_open(out, &cfg, NULL, e);
}

struct dest_onward serve_onward(void)
{
	return (struct dest_onward){ .connect = connect_onward, .forget = free };
}

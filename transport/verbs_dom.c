/* SPDX-License-Identifier: MIT */
/* A domain's part of an instance: receive buffers, and its registration of the memory that is sent from. */
#include "base/util.h"
#include "transport/verbs_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int open_srq(struct verbs *u, struct v_dom *d, struct err *e)
{
	struct ibv_srq_init_attr attr = {
		.attr = { .max_wr = u->n_rbufs,
			  .max_sge =
				  (uint32_t)min_u64(u->opts.max_recv_sge, max_u64((uint64_t)u->attr.max_srq_sge, 1)) },
	};

	d->srq = ibv_create_srq(d->pd->pd, &attr);
	if (!d->srq)
		return err_set(e, errno ? -errno : -ENOMEM,
			       "%s: no shared receive queue of %u entries (%s): use fewer --streams, or "
			       "--shared-receive-queue=off",
			       ibv_get_device_name(u->ctx->device), u->n_rbufs, strerror(errno));
	/* All of them are posted for as long as the queue lives; who may use how many is what credits say. */
	for (uint32_t i = 0; i < d->n_rbufs; i++)
		list_add(d, &d->repost, i);
	u->repost_due = true;
	return 0;
}

static int open_buffers(struct verbs *u, struct v_dom *d, struct err *e)
{
	size_t bytes = (size_t)u->n_rbufs * u->stride;

	d->n_rbufs = u->n_rbufs;
	d->rbufs = calloc(d->n_rbufs, sizeof *d->rbufs);
	d->rx_store = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);
	if (!d->rbufs || !d->rx_store)
		return err_set(e, -ENOMEM, "rdma: no memory for %u receive buffers of %u bytes", u->n_rbufs, u->stride);
	memset(d->rx_store, 0, bytes); /* what devices write is unknown to tools that look for uninitialised memory */
	d->tx_mr = ibv_reg_mr(d->pd->pd, u->tx_store, u->tx_bytes, IBV_ACCESS_LOCAL_WRITE);
	d->rx_mr = d->tx_mr ? ibv_reg_mr(d->pd->pd, d->rx_store, bytes, IBV_ACCESS_LOCAL_WRITE) : NULL;
	if (!d->rx_mr)
		return err_set(
			e, errno ? -errno : -ENOMEM,
			"cannot register %zu bytes of message buffers with the RDMA device: %s; raise the limit of "
			"locked memory (`ulimit -l`) or use fewer --streams",
			bytes + u->tx_bytes, strerror(errno));
	if (u->srq)
		return open_srq(u, d, e);
	for (uint32_t i = 0; i < d->n_rbufs; i++)
		list_add(d, &d->free, i);
	return 0;
}

static struct v_dom *dom_new(struct verbs *u, uint32_t index, uint32_t domain, struct err *e)
{
	struct v_dom *d = calloc(1, sizeof *d);

	if (!d) {
		err_set(e, -ENOMEM, "rdma: no memory for a domain");
		return NULL;
	}
	d->domain = domain;
	d->index = index;
	d->pd = pd_take(u->ctx, domain, e);
	if (!d->pd || open_buffers(u, d, e) < 0) {
		dom_close(u, d);
		return NULL;
	}
	u->doms[index] = d;
	sources_register(u, d);
	rx_flush(u);
	d->spare = u->srq ? d->n_rbufs : 0;
	return d;
}

struct v_dom *dom_get(struct verbs *u, struct ibv_context *ctx, uint32_t domain, struct err *e)
{
	uint32_t empty = V_DOMAINS;

	if (!ctx && !u->ctx && dev_find(&u->opts, &ctx, e) < 0)
		return NULL;
	if (ctx && dev_bind(u, ctx, e) < 0)
		return NULL;
	for (uint32_t i = 0; i < V_DOMAINS; i++) {
		if (u->doms[i] && u->doms[i]->domain == domain)
			return u->doms[i];
		if (!u->doms[i] && empty == V_DOMAINS)
			empty = i;
	}
	if (empty == V_DOMAINS) {
		err_set(e, -ENOSPC, "rdma: all %d domains of this instance are in use", V_DOMAINS);
		return NULL;
	}
	return dom_new(u, empty, domain, e);
}

/* No queue pair uses it any more. */
void dom_close(struct verbs *u, struct v_dom *d)
{
	for (uint32_t i = 0; i < V_SOURCES; i++)
		if (d->source[i])
			mr_drop(d->source[i]);
	if (d->srq)
		ibv_destroy_srq(d->srq);
	if (d->rx_mr)
		ibv_dereg_mr(d->rx_mr);
	if (d->tx_mr)
		ibv_dereg_mr(d->tx_mr);
	if (d->pd)
		pd_drop(d->pd);
	if (u->doms[d->index] == d)
		u->doms[d->index] = NULL;
	free(d->rbufs);
	free(d->rx_store);
	free(d);
}

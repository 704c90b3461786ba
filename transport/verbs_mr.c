/* SPDX-License-Identifier: MIT */
/* Registered memory: regions that peers put into, and memory that is sent from. Once per process and domain. */
#include "base/util.h"
#include "transport/verbs_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t settled = PTHREAD_COND_INITIALIZER; /* some registration ended */
static struct v_mr *mrs;

static int no_registration(uint64_t len, int err, struct err *e)
{
	return err_set(e, -err, "cannot register %llu bytes with the RDMA device: %s; %s", (unsigned long long)len,
		       strerror(err),
		       err == ENOMEM || err == EPERM
			       ? "raise the limit of locked memory (`ulimit -l unlimited`, LimitMEMLOCK= "
				 "of a service)"
			       : "see `rdma resource` for what else uses the device");
}

static struct v_mr *mr_find(const struct v_pd *pd, const void *addr, uint64_t len, uint32_t id)
{
	struct v_mr *m = mrs;

	while (m && !(m->pd == pd && m->addr == addr && m->len == len && m->id == id))
		m = m->next;
	return m;
}

/* Under the lock, but the registration: pinning gigabytes takes its time, and regions are pinned side by side. */
static struct v_mr *mr_new(struct v_pd *pd, const void *addr, uint64_t len, uint32_t id)
{
	struct v_mr *m = calloc(1, sizeof *m);
	struct ibv_mr *mr;
	int err;

	if (!m)
		return NULL;
	*m = (struct v_mr){ .next = mrs, .pd = pd, .addr = addr, .len = len, .id = id, .users = 1 };
	mrs = m;
	pthread_mutex_unlock(&lock);
	if (id == V_NONE)
		mr = ibv_reg_mr(pd->pd, (void *)addr, len, 0);
	else
		mr = ibv_reg_mr_iova(pd->pd, (void *)addr, len, vtoken_iova(id, addr),
				     IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	err = mr ? 0 : errno ? errno : ENOMEM;
	pthread_mutex_lock(&lock);
	m->mr = mr;
	m->err = err;
	pthread_cond_broadcast(&settled);
	return m;
}

/* Under the lock. What hardware knew of it is gone when it returns. */
static void mr_put(struct v_mr *m)
{
	struct v_mr **at = &mrs;

	if (--m->users)
		return;
	while (*at != m)
		at = &(*at)->next;
	*at = m->next;
	if (m->mr)
		ibv_dereg_mr(m->mr);
	free(m);
}

struct v_mr *mr_take(struct v_pd *pd, const void *addr, uint64_t len, uint32_t id, struct err *e)
{
	struct v_mr *m;
	int err;

	pthread_mutex_lock(&lock);
	m = mr_find(pd, addr, len, id);
	if (m)
		m->users++;
	else
		m = mr_new(pd, addr, len, id);
	while (m && !m->mr && !m->err)
		pthread_cond_wait(&settled, &lock);
	err = m ? m->err : ENOMEM;
	if (m && err)
		mr_put(m);
	pthread_mutex_unlock(&lock);
	if (err)
		no_registration(len, err, e);
	return err ? NULL : m;
}

void mr_drop(struct v_mr *m)
{
	pthread_mutex_lock(&lock);
	mr_put(m);
	pthread_mutex_unlock(&lock);
}

/* --- regions --- */

static struct v_region *region_named(const struct verbs *u, uint32_t domain, uint32_t id)
{
	for (uint32_t i = 0; i < u->n_regions; i++) {
		struct v_region *r = &u->regions[i];

		if (r->used && r->domain == domain && r->id == id)
			return r;
	}
	return NULL;
}

int v_region_add(struct be *be, uint32_t domain, uint32_t id, void *addr, uint64_t len, struct be_token *out,
		 struct err *e)
{
	struct verbs *u = verbs_of(be);
	struct v_region *r = u->regions;
	struct v_dom *d;
	struct v_mr *m;

	if (!addr || !len || (uintptr_t)addr + len < (uintptr_t)addr || len > 1ull << 43)
		return err_set(e, -EINVAL, "region %u: no memory given, or more than 8 TB", id);
	if (id > VTOKEN_ID_MAX)
		return err_set(e, -EINVAL, "region %u: the largest number over RDMA is %u", id, VTOKEN_ID_MAX);
	if (region_named(u, domain, id))
		return err_set(e, -EEXIST, "region %u of domain %u exists already", id, domain);
	while (r < u->regions + u->n_regions && r->used)
		r++;
	if (r == u->regions + u->n_regions)
		return err_set(e, -ENOSPC, "region %u: all %u regions of this instance are in use", id, u->n_regions);
	d = dom_get(u, NULL, domain, e);
	m = d ? mr_take(d->pd, addr, len, id, e) : NULL;
	if (!m)
		return e ? e->code : -EIO;
	*r = (struct v_region){ .used = true, .domain = domain, .id = id, .mr = m };
	*out = (struct be_token){ .id = id, .key = vtoken_key(m->mr->rkey, addr) };
	return 0;
}

/* When the device has forgotten the key no put finds the memory, and none that was on its way is under way any more. */
int v_region_drop(struct be *be, uint32_t domain, uint32_t id)
{
	struct v_region *r = region_named(verbs_of(be), domain, id);

	if (r) {
		mr_drop(r->mr);
		r->used = false;
	}
	return 0;
}

void regions_close(struct verbs *u)
{
	for (uint32_t i = 0; u->regions && i < u->n_regions; i++)
		if (u->regions[i].used)
			mr_drop(u->regions[i].mr);
	free(u->regions);
}

/* --- sources --- */

static void source_register(struct verbs *u, struct v_dom *d, uint32_t i)
{
	const struct v_source *src = &u->sources[i];

	/* Only a hint: what cannot be registered is copied. */
	if (src->used && !d->source[i])
		d->source[i] = mr_take(d->pd, src->addr, src->len, V_NONE, NULL);
}

void sources_register(struct verbs *u, struct v_dom *d)
{
	for (uint32_t i = 0; i < V_SOURCES; i++)
		source_register(u, d, i);
}

int v_source_add(struct be *be, const void *addr, uint64_t len, struct err *e)
{
	struct verbs *u = verbs_of(be);
	uint32_t i = 0;

	if (!addr || !len)
		return err_set(e, -EINVAL, "source: no memory given");
	while (i < V_SOURCES && u->sources[i].used)
		i++;
	if (i == V_SOURCES)
		return 0;
	u->sources[i] = (struct v_source){ .used = true, .addr = addr, .len = len };
	for (uint32_t k = 0; k < V_DOMAINS; k++)
		if (u->doms[k])
			source_register(u, u->doms[k], i);
	return 0;
}

void v_source_drop(struct be *be, const void *addr)
{
	struct verbs *u = verbs_of(be);

	for (uint32_t i = 0; i < V_SOURCES; i++) {
		if (!u->sources[i].used || u->sources[i].addr != addr)
			continue;
		u->sources[i].used = false;
		for (uint32_t k = 0; k < V_DOMAINS; k++) {
			if (!u->doms[k] || !u->doms[k]->source[i])
				continue;
			mr_drop(u->doms[k]->source[i]);
			u->doms[k]->source[i] = NULL;
		}
	}
}

uint32_t source_lkey(const struct verbs *u, const struct v_dom *d, const void *p, uint64_t len)
{
	const uint8_t *at = p;

	for (uint32_t i = 0; i < V_SOURCES; i++) {
		const struct v_source *s = &u->sources[i];
		uint64_t off = (uint64_t)(at - s->addr);

		if (s->used && d->source[i] && at >= s->addr && off < s->len && len <= s->len - off)
			return d->source[i]->mr->lkey;
	}
	return 0;
}

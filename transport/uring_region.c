/* SPDX-License-Identifier: MIT */
/* Memory that peers may put into, and memory that is sent from. */
#include "base/util.h"
#include "transport/uring_impl.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* --- keys: one per (domain, id, memory), shared by the instances of this process --- */

struct key {
	struct key *next;
	const void *addr;
	uint64_t len, key;
	uint32_t domain, id, users;
};

static pthread_mutex_t keys_lock = PTHREAD_MUTEX_INITIALIZER;
static struct key *keys;

static struct key **key_at(uint32_t domain, uint32_t id, const void *addr, uint64_t len)
{
	struct key **k = &keys;

	while (*k && !((*k)->domain == domain && (*k)->id == id && (*k)->addr == addr && (*k)->len == len))
		k = &(*k)->next;
	return k;
}

static int key_take(uint32_t domain, uint32_t id, const void *addr, uint64_t len, uint64_t *out)
{
	struct key **at, *k;
	int r = 0;

	pthread_mutex_lock(&keys_lock);
	at = key_at(domain, id, addr, len);
	k = *at;
	if (!k) {
		k = calloc(1, sizeof *k);
		if (!k || getrandom(&k->key, sizeof k->key, 0) != sizeof k->key) {
			r = k ? -errno : -ENOMEM;
			free(k);
			goto out;
		}
		k->addr = addr;
		k->len = len;
		k->domain = domain;
		k->id = id;
		*at = k;
	}
	k->users++;
	*out = k->key;
out:
	pthread_mutex_unlock(&keys_lock);
	return r;
}

static void key_drop(uint32_t domain, uint32_t id, const void *addr, uint64_t len)
{
	struct key **at, *k;

	pthread_mutex_lock(&keys_lock);
	at = key_at(domain, id, addr, len);
	k = *at;
	if (k && !--k->users) {
		*at = k->next;
		free(k);
	}
	pthread_mutex_unlock(&keys_lock);
}

/* --- regions --- */

int regions_open(struct uring *u, uint32_t n, struct err *e)
{
	uint32_t buckets = 1;

	while (buckets < n)
		buckets *= 2;
	u->regions = calloc(n ? n : 1, sizeof *u->regions);
	u->region_buckets = malloc(buckets * sizeof *u->region_buckets);
	if (!u->regions || !u->region_buckets)
		return err_set(e, -ENOMEM, "no memory for %u regions", n);
	u->region_mask = buckets - 1;
	memset(u->region_buckets, 0xff, buckets * sizeof *u->region_buckets);
	u->free_region = U_NONE;
	for (uint32_t i = n; i--;) {
		u->regions[i].next = u->free_region;
		u->free_region = i;
	}
	u->n_regions = n;
	return 0;
}

uint32_t region_find(const struct uring *u, uint32_t domain, uint32_t id, uint64_t key)
{
	for (uint32_t i = u->region_buckets[key & u->region_mask]; i != U_NONE; i = u->regions[i].next) {
		const struct u_region *r = &u->regions[i];

		if (r->key == key && r->id == id && r->domain == domain)
			return i;
	}
	return U_NONE;
}

static uint32_t region_named(const struct uring *u, uint32_t domain, uint32_t id)
{
	for (uint32_t i = 0; i < u->n_regions; i++)
		if (u->regions[i].used && u->regions[i].domain == domain && u->regions[i].id == id)
			return i;
	return U_NONE;
}

static void region_hash(struct uring *u, uint32_t i)
{
	uint32_t *at = &u->region_buckets[u->regions[i].key & u->region_mask];

	u->regions[i].next = *at;
	*at = i;
}

int uring_region_add(struct be *be, uint32_t domain, uint32_t id, void *addr, uint64_t len, struct be_token *out,
		     struct err *e)
{
	struct uring *u = uring_of(be);
	uint32_t i = u->free_region;
	struct u_region *r;
	uint64_t key = 0;
	int rc;

	if (!addr || !len || (uintptr_t)addr + len < (uintptr_t)addr)
		return err_set(e, -EINVAL, "region %u: no memory given", id);
	if (region_named(u, domain, id) != U_NONE)
		return err_set(e, -EEXIST, "region %u of domain %u exists already", id, domain);
	if (i == U_NONE)
		return err_set(e, -ENOSPC, "region %u: all %u regions of this instance are in use", id, u->n_regions);
	rc = key_take(domain, id, addr, len, &key);
	if (rc < 0)
		return err_set(e, rc, "region %u: no key: %s", id, strerror(-rc));
	r = &u->regions[i];
	u->free_region = r->next;
	*r = (struct u_region){ .addr = addr, .len = len, .key = key, .domain = domain, .id = id, .used = true };
	region_hash(u, i);
	*out = (struct be_token){ .id = id, .key = key };
	return 0;
}

static void region_free(struct uring *u, uint32_t i)
{
	struct u_region *r = &u->regions[i];

	key_drop(r->domain, r->id, r->addr, r->len);
	r->used = false;
	r->next = u->free_region;
	u->free_region = i;
}

static void region_unhash(struct uring *u, uint32_t i)
{
	uint32_t *at = &u->region_buckets[u->regions[i].key & u->region_mask];

	while (*at != i)
		at = &u->regions[*at].next;
	*at = u->regions[i].next;
}

/* No new put finds it any more. */
static void region_hide(struct uring *u, uint32_t i)
{
	region_unhash(u, i);
	u->regions[i].dropped = true;
}

int uring_region_key(struct be *be, uint32_t domain, uint32_t id, uint64_t key)
{
	struct uring *u = uring_of(be);
	uint32_t i = region_named(u, domain, id);

	if (i == U_NONE || u->regions[i].dropped)
		return -ENOENT;
	region_unhash(u, i);
	u->regions[i].key = key;
	region_hash(u, i);
	return 0;
}

void region_unbusy(struct uring *u, uint32_t region)
{
	struct u_region *r = &u->regions[region];

	if (--r->busy == 0 && r->dropped)
		region_free(u, region);
}

int uring_region_drop(struct be *be, uint32_t domain, uint32_t id)
{
	struct uring *u = uring_of(be);
	uint32_t i = region_named(u, domain, id);

	if (i == U_NONE)
		return 0;
	if (!u->regions[i].dropped)
		region_hide(u, i);
	if (!u->regions[i].busy) {
		region_free(u, i);
		return 0;
	}
	for (uint32_t s = 0; s < u->n_streams; s++)
		if (u->streams[s].state != U_FREE && u->streams[s].rx_region == i)
			stream_die(u, &u->streams[s], -ECONNABORTED);
	return -EBUSY;
}

void regions_close(struct uring *u)
{
	for (uint32_t i = 0; i < u->n_regions; i++)
		if (u->regions[i].used)
			region_free(u, i);
	free(u->regions);
	free(u->region_buckets);
}

/* --- sources: registered buffers, worth their pinned pages only where zero-copy is --- */

static void source_register(struct uring *u, struct u_source *src)
{
	struct iovec iov[U_SOURCES];
	uint64_t done = 0;

	for (uint32_t i = 0; i < src->slices; i++, done += U_SOURCE_SLICE)
		iov[i] = (struct iovec){ (void *)(src->addr + done), min_u64(src->len - done, U_SOURCE_SLICE) };
	src->registered = ring_buffers_set(u, src->first, iov, src->slices) == 0;
	if (src->registered)
		return;
	/* Some slices may be in. Without registration the bytes are sent all the same. */
	memset(iov, 0, sizeof iov);
	for (uint32_t i = 0; i < src->slices; i++)
		ring_buffers_set(u, src->first + i, iov, 1);
}

void sources_register(struct uring *u)
{
	for (uint32_t i = 0; u->buffers_ok && i < U_SOURCES; i++)
		if (u->sources[i].used && !u->sources[i].registered)
			source_register(u, &u->sources[i]);
}

static void source_unregister(struct uring *u, struct u_source *src)
{
	const struct iovec none = { 0 };

	for (uint32_t i = 0; src->registered && i < src->slices; i++)
		ring_buffers_set(u, src->first + i, &none, 1);
	src->registered = false;
}

void sources_unregister(struct uring *u)
{
	u->buffers_ok = false;
	for (uint32_t i = 0; i < U_SOURCES; i++)
		source_unregister(u, &u->sources[i]);
}

static bool slots_taken(const struct uring *u, uint32_t first, uint32_t n)
{
	for (uint32_t i = 0; i < U_SOURCES; i++) {
		const struct u_source *s = &u->sources[i];

		if (s->used && first < s->first + s->slices && s->first < first + n)
			return true;
	}
	return false;
}

int uring_source_add(struct be *be, const void *addr, uint64_t len, struct err *e)
{
	struct uring *u = uring_of(be);
	uint64_t slices = div_up_u64(len, U_SOURCE_SLICE);
	struct u_source *src = u->sources;
	uint32_t first = 0;

	if (!addr || !len)
		return err_set(e, -EINVAL, "source: no memory given");
	if (!u->buffers_ok || slices > U_SOURCES)
		return 0;
	while (src < u->sources + U_SOURCES && src->used)
		src++;
	while (first + slices <= U_SOURCES && slots_taken(u, first, (uint32_t)slices))
		first++;
	if (src == u->sources + U_SOURCES || first + slices > U_SOURCES)
		return 0;
	*src = (struct u_source){ .addr = addr, .len = len, .first = first, .slices = (uint32_t)slices, .used = true };
	if (u->zc_streams || u->opts.zerocopy == URING_ZC_ON)
		source_register(u, src);
	return 0;
}

void uring_source_drop(struct be *be, const void *addr)
{
	struct uring *u = uring_of(be);

	for (uint32_t i = 0; i < U_SOURCES; i++) {
		struct u_source *s = &u->sources[i];

		if (!s->used || s->addr != addr)
			continue;
		source_unregister(u, s);
		s->used = false;
	}
}

int source_buffer(const struct uring *u, const void *p, uint64_t len)
{
	const uint8_t *at = p;

	for (uint32_t i = 0; u->buffers_ok && i < U_SOURCES; i++) {
		const struct u_source *s = &u->sources[i];
		uint64_t off = (uint64_t)(at - s->addr);

		if (!s->registered || at < s->addr || off >= s->len || len > s->len - off)
			continue;
		if (off / U_SOURCE_SLICE == (off + len - 1) / U_SOURCE_SLICE)
			return (int)(s->first + off / U_SOURCE_SLICE);
	}
	return -1;
}

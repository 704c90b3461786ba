/* SPDX-License-Identifier: MIT */
#include "bench/linkemu_frame.h"
#include "base/util.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define POOL_SPACE (4ull << 30) /* of addresses; memory is taken as it is touched */

/* Sizes of frames in the pool, data included; what is larger than the last but one stays where it was read to. */
static const uint32_t classes[] = { 256, 2048, 8192, 32768, 66048 };
#define LARGEST (ARRAY_LEN(classes) - 1)
_Static_assert(sizeof(struct virtio_net_hdr) == FRAME_VNET, "the header of the devices");
_Static_assert(sizeof(struct frame) + FRAME_DATA_MAX <= 66048, "a frame of 64 KB fits");

struct frame_pool {
	uint8_t *map;
	uint64_t carved, limit;
	struct frame *free[ARRAY_LEN(classes)];
	struct frame *space; /* what is read into */
};

/* ---- the pool ---------------------------------------------------------------------------------- */

int frame_pool_open(struct frame_pool **out, uint64_t limit, struct err *e)
{
	struct frame_pool *p = calloc(1, sizeof(*p));

	if (p)
		p->map = mmap(NULL, POOL_SPACE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			      0);
	if (!p || p->map == MAP_FAILED) {
		free(p);
		return err_set(e, -ENOMEM, "no address space for packets: raise ulimit -v");
	}
	frame_pool_limit(p, limit);
	*out = p;
	return 0;
}

void frame_pool_close(struct frame_pool *p)
{
	if (!p)
		return;
	munmap(p->map, POOL_SPACE);
	free(p);
}

void frame_pool_limit(struct frame_pool *p, uint64_t limit)
{
	p->limit = min_u64(limit + classes[LARGEST], POOL_SPACE);
}

/* A frame of this class or, when there is no room for one, a free one of a larger class. */
static struct frame *get(struct frame_pool *p, size_t c)
{
	struct frame *f;

	if (!p->free[c] && p->carved + classes[c] <= p->limit) {
		f = (struct frame *)(p->map + p->carved);
		p->carved += classes[c];
		f->class_ = (uint8_t)c;
		return f;
	}
	while (c < LARGEST && !p->free[c])
		c++;
	f = p->free[c];
	if (f)
		p->free[c] = f->next;
	return f;
}

static void put(struct frame_pool *p, struct frame *f)
{
	f->next = p->free[f->class_];
	p->free[f->class_] = f;
}

uint8_t *frame_space(struct frame_pool *p)
{
	if (!p->space) {
		p->space = get(p, LARGEST);
		if (!p->space) { /* its own room, in any case: limit counts one frame more */
			p->space = (struct frame *)(p->map + p->carved);
			p->space->class_ = LARGEST;
			p->carved += classes[LARGEST];
		}
	}
	return p->space->data;
}

void frame_drop(struct frame_pool *p, struct frame *f)
{
	if (--f->refs == 0)
		put(p, f);
}

/* ---- packets in a frame ------------------------------------------------------------------------ */

/* Headers of a TCP frame that is more than one packet. */
static bool parse_tcp(struct frame *f, const struct virtio_net_hdr *v)
{
	const uint8_t *ip = f->data + FRAME_VNET;
	uint32_t len = f->len - FRAME_VNET, tcp = v->csum_start, headers;
	bool v6 = (v->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_TCPV6;
	uint32_t least = v6 ? sizeof(struct ip6_hdr) : sizeof(struct iphdr);

	if (!(v->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || !v->gso_size || tcp < least ||
	    tcp + sizeof(struct tcphdr) > len || ip[0] >> 4 != (v6 ? 6 : 4) ||
	    v->csum_offset != offsetof(struct tcphdr, check))
		return false;
	headers = tcp + (uint32_t)(ip[tcp + 12] >> 4) * 4;
	if (headers < tcp + sizeof(struct tcphdr) || headers >= len || headers > FRAME_HEADERS_MAX)
		return false;
	f->headers = headers;
	f->mss = v->gso_size;
	f->packets = (len - headers + f->mss - 1) / f->mss;
	return true;
}

static bool parse(struct frame *f)
{
	struct virtio_net_hdr v;

	if (f->len < FRAME_VNET + sizeof(struct iphdr))
		return false;
	memcpy(&v, f->data, sizeof(v));
	f->headers = f->mss = 0;
	f->packets = 1;
	switch (v.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_NONE:
		return true;
	case VIRTIO_NET_HDR_GSO_TCPV4:
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return parse_tcp(f, &v);
	default:
		return false;
	}
}

struct frame *frame_take(struct frame_pool *p, uint32_t len, bool *bad)
{
	struct frame *f = p->space, *fit;
	size_t c = 0;

	f->len = len;
	*bad = !parse(f);
	if (*bad)
		return NULL;
	f->refs = f->packets;
	while (sizeof(*f) + len > classes[c])
		c++;
	if (c == LARGEST) { /* stays where it was read to, if there is another place to read to */
		fit = get(p, LARGEST);
		if (!fit)
			return NULL;
		p->space = fit;
		return f;
	}
	fit = get(p, c);
	if (fit) {
		uint8_t own = fit->class_;

		memcpy(fit, f, sizeof(*f) + len);
		fit->class_ = own;
	}
	return fit;
}

uint32_t frame_packet_len(const struct frame *f, uint32_t i)
{
	uint32_t len = f->len - FRAME_VNET;

	if (!f->headers)
		return len;
	return f->headers + (uint32_t)min_u64(f->mss, len - f->headers - i * f->mss);
}

/* ---- rewriting --------------------------------------------------------------------------------- */

static uint16_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static void put_be16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint32_t be16(const uint8_t *p)
{
	return (uint32_t)p[0] << 8 | p[1];
}

static void rewrite_ip(uint8_t *ip, uint32_t header_len, uint32_t first, uint32_t len)
{
	uint32_t sum = 0;

	if (ip[0] >> 4 == 6) {
		put_be16(ip + 4, len - (uint32_t)sizeof(struct ip6_hdr));
		return;
	}
	put_be16(ip + 2, len);
	put_be16(ip + 4, be16(ip + 4) + first); /* identification: one per packet */
	put_be16(ip + 10, 0);
	for (uint32_t i = 0; i < header_len; i += 2)
		sum += be16(ip + i);
	put_be16(ip + 10, (uint16_t)~fold(sum));
}

/* The checksum field holds the sum over the pseudo header, whose length changes; the rest is summed by the reader. */
static void rewrite_tcp(uint8_t *tcp, const struct frame *f, uint32_t first, bool last, uint32_t old_len,
			uint32_t new_len)
{
	uint32_t seq;

	memcpy(&seq, tcp + 4, 4);
	seq = htonl(ntohl(seq) + first * f->mss);
	memcpy(tcp + 4, &seq, 4);
	if (!last)
		tcp[13] &= (uint8_t) ~(TH_FIN | TH_PUSH);
	if (first)
		tcp[13] &= (uint8_t)~0x80; /* CWR: once */
	put_be16(tcp + 16, fold(be16(tcp + 16) + (uint16_t)~old_len + new_len));
}

int frame_emit(const struct frame *f, uint32_t first, uint32_t n, struct frame_headers *h, struct iovec iov[2])
{
	uint32_t at = first * f->mss, len, tcp;
	struct virtio_net_hdr v;
	uint8_t *ip = h->bytes + FRAME_VNET;

	if (n == f->packets) {
		iov[0] = (struct iovec){ .iov_base = (uint8_t *)(uintptr_t)f->data, .iov_len = f->len };
		return 1;
	}
	len = (uint32_t)min_u64((uint64_t)n * f->mss, f->len - FRAME_VNET - f->headers - at);
	memcpy(h->bytes, f->data, FRAME_VNET + f->headers);
	memcpy(&v, h->bytes, sizeof(v));
	tcp = v.csum_start;
	v.hdr_len = (uint16_t)f->headers;
	if (n == 1) {
		v.gso_type = VIRTIO_NET_HDR_GSO_NONE;
		v.gso_size = 0;
	}
	memcpy(h->bytes, &v, sizeof(v));
	rewrite_ip(ip, (uint32_t)(ip[0] & 15) * 4, first, f->headers + len);
	rewrite_tcp(ip + tcp, f, first, first + n == f->packets, f->len - FRAME_VNET - tcp, f->headers - tcp + len);
	iov[0] = (struct iovec){ .iov_base = h->bytes, .iov_len = FRAME_VNET + f->headers };
	iov[1] = (struct iovec){ .iov_base = (uint8_t *)(uintptr_t)f->data + FRAME_VNET + f->headers + at,
				 .iov_len = len };
	return 2;
}

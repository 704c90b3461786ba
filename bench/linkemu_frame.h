/* SPDX-License-Identifier: MIT */
/*
 * What a TUN device gives in one read, and the packets in it. With segmentation offload a host hands down up to 64 KB
 * of TCP at once; here such a frame is a row of packets of one MSS each, which are queued, lost and delayed one by
 * one, and only neighbours that leave together are handed up together, as a network card's receive offload does.
 *
 * A frame's memory comes from a pool that is mapped at open and never grows past its limit. Thread rule: one thread.
 */
#ifndef DWCP_BENCH_LINKEMU_FRAME_H
#define DWCP_BENCH_LINKEMU_FRAME_H

#include "base/err.h"
#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define FRAME_VNET 10u /* bytes of a struct virtio_net_hdr */
#define FRAME_DATA_MAX (FRAME_VNET + 65535)
#define FRAME_HEADERS_MAX 256 /* IP and TCP, options and extensions included */

struct frame {
	struct frame *next; /* of the pool's free list */
	uint32_t refs;      /* packets that are still inside a scheduler; the pool's to count */
	uint32_t len;       /* bytes in data */
	uint32_t headers;   /* of a TCP frame: bytes of IP and TCP header; 0: one packet, as it is */
	uint32_t mss;
	uint32_t packets;
	uint8_t class_;
	uint8_t data[]; /* struct virtio_net_hdr, then the IP packet */
};

struct frame_pool;

int frame_pool_open(struct frame_pool **out, uint64_t limit, struct err *e);
void frame_pool_close(struct frame_pool *p);
void frame_pool_limit(struct frame_pool *p, uint64_t limit); /* from now on; what is out stays out */

/* Where to read FRAME_DATA_MAX bytes to: the same until frame_take keeps it. */
uint8_t *frame_space(struct frame_pool *p);
/* A frame of the `len` bytes that were read; one reference per packet. NULL: no room, or nothing we know (*bad). */
struct frame *frame_take(struct frame_pool *p, uint32_t len, bool *bad);
void frame_drop(struct frame_pool *p, struct frame *f); /* one reference less */

/* Bytes of packet i, as IP counts them. */
uint32_t frame_packet_len(const struct frame *f, uint32_t i);

/* Packets [first, first + n) as one write to a TUN device. `headers` holds what had to be rewritten; the number of
 * entries of iov used is returned. */
struct frame_headers {
	uint8_t bytes[FRAME_VNET + FRAME_HEADERS_MAX];
};
int frame_emit(const struct frame *f, uint32_t first, uint32_t n, struct frame_headers *headers, struct iovec iov[2]);

#endif

/* SPDX-License-Identifier: MIT */
/* Frames of many packets: cut anywhere they are the same TCP bytes under right headers; hostile ones are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/util.h"
#include "bench/linkemu_frame.h"
#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <string.h>

#define MSS 1448u
#define OPTIONS 12u
#define SEQ 0xfffff000u /* wraps within a frame */

static struct frame_pool *pool;

static int open_pool(void **state)
{
	(void)state;
	return frame_pool_open(&pool, 8u << 20, NULL);
}

static int close_pool(void **state)
{
	(void)state;
	frame_pool_close(pool);
	return 0;
}

static uint32_t be16(const uint8_t *p)
{
	return (uint32_t)p[0] << 8 | p[1];
}

static uint16_t sum(const uint8_t *p, uint32_t len, uint32_t start)
{
	uint32_t s = start;

	for (uint32_t i = 0; i < len; i += 2)
		s += be16(p + i);
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

/* The sum over the pseudo header, which a device finds in the checksum's place. */
static uint16_t pseudo(const uint8_t *ip, uint32_t tcp_len)
{
	return ip[0] >> 4 == 4 ? sum(ip + 12, 8, IPPROTO_TCP + tcp_len) : sum(ip + 8, 32, IPPROTO_TCP + tcp_len);
}

static uint32_t build(uint8_t *out, bool v6, uint32_t payload)
{
	uint32_t ip_len = v6 ? 40 : 20, tcp_len = 20 + OPTIONS;
	struct virtio_net_hdr v = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				    .gso_type = v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4,
				    .gso_size = MSS,
				    .hdr_len = (uint16_t)(ip_len + tcp_len),
				    .csum_start = (uint16_t)ip_len,
				    .csum_offset = 16 };
	uint8_t *ip = out + FRAME_VNET, *tcp = ip + ip_len;
	uint32_t seq = htonl(SEQ);
	uint16_t n;

	memset(out, 0, FRAME_VNET + ip_len + tcp_len);
	memcpy(out, &v, sizeof(v));
	rng_fill(ip + (v6 ? 8 : 12), v6 ? 32 : 8, 1);
	ip[0] = v6 ? 0x60 : 0x45;
	if (v6) {
		n = htons((uint16_t)(tcp_len + payload));
		memcpy(ip + 4, &n, 2);
		ip[6] = IPPROTO_TCP;
	} else {
		n = htons((uint16_t)(ip_len + tcp_len + payload));
		memcpy(ip + 2, &n, 2);
		ip[4] = 0xff;
		ip[5] = 0xfe; /* the identification wraps, too */
		ip[9] = IPPROTO_TCP;
		n = htons((uint16_t)~sum(ip, 20, 0));
		memcpy(ip + 10, &n, 2);
	}
	memcpy(tcp + 4, &seq, 4);
	tcp[12] = (uint8_t)(tcp_len / 4 << 4);
	tcp[13] = TH_ACK | TH_PUSH | TH_FIN | 0x80; /* CWR */
	n = htons(pseudo(ip, tcp_len + payload));
	memcpy(tcp + 16, &n, 2);
	rng_fill(tcp + tcp_len, payload, 2);
	return FRAME_VNET + ip_len + tcp_len + payload;
}

static struct frame *take(uint32_t len)
{
	bool bad;
	struct frame *f = frame_take(pool, len, &bad);

	assert_non_null(f);
	assert_false(bad);
	return f;
}

/* One write to a device: packets [first, first + n) of a frame whose payload is `payload`. */
static void check_piece(const struct frame *f, bool v6, uint32_t first, uint32_t n, uint32_t payload)
{
	uint32_t ip_len = v6 ? 40 : 20, headers = ip_len + 20 + OPTIONS, at = first * MSS, seq;
	uint32_t len = (uint32_t)min_u64(n * MSS, payload - at);
	bool last = first + n == f->packets;
	struct frame_headers h;
	struct iovec iov[2];
	uint8_t whole[FRAME_DATA_MAX] = { 0 }, expected[FRAME_DATA_MAX];
	uint8_t *ip = whole + FRAME_VNET, *tcp = ip + ip_len;
	struct virtio_net_hdr v;
	size_t used = 0;
	int n_iov = frame_emit(f, first, n, &h, iov);

	for (int i = 0; i < n_iov; i++) {
		memcpy(whole + used, iov[i].iov_base, iov[i].iov_len);
		used += iov[i].iov_len;
	}
	memcpy(&v, whole, sizeof(v));
	assert_int_equal(used, FRAME_VNET + headers + len);
	assert_int_equal(v.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	assert_int_equal(v.gso_size, n > 1 ? MSS : 0);
	assert_int_equal(v.gso_type, n == 1 ? VIRTIO_NET_HDR_GSO_NONE
				     : v6   ? VIRTIO_NET_HDR_GSO_TCPV6
					    : VIRTIO_NET_HDR_GSO_TCPV4);
	if (v6) {
		assert_int_equal(be16(ip + 4), headers - 40 + len);
	} else {
		assert_int_equal(be16(ip + 2), headers + len);
		assert_int_equal(be16(ip + 4), (uint16_t)(0xfffe + first));
		assert_int_equal(sum(ip, 20, 0), 0xffff);
	}
	memcpy(&seq, tcp + 4, 4);
	assert_int_equal(ntohl(seq), (uint32_t)(SEQ + at));
	assert_int_equal(tcp[13], TH_ACK | (last ? TH_PUSH | TH_FIN : 0) | (first ? 0 : 0x80));
	/* 0 and 0xffff are the same sum */
	assert_int_equal(be16(tcp + 16) % 0xffff, pseudo(ip, 20 + OPTIONS + len) % 0xffff);
	rng_fill(expected, payload, 2);
	assert_memory_equal(tcp + 20 + OPTIONS, expected + at, len);
}

static void test_pieces(void **state)
{
	static const uint32_t payloads[] = { MSS + 1, 2 * MSS, 10 * MSS + 7, 45 * MSS, 64000 };

	(void)state;
	for (unsigned i = 0; i < 2 * ARRAY_LEN(payloads); i++) {
		uint32_t payload = payloads[i / 2], left = payload;
		bool v6 = i & 1;
		struct frame *f = take(build(frame_space(pool), v6, payload));

		assert_int_equal(f->packets, div_up_u64(payload, MSS));
		for (uint32_t k = 0; k < f->packets; k++) {
			uint32_t most = left < MSS ? left : MSS;

			assert_int_equal(frame_packet_len(f, k), (v6 ? 40u : 20u) + 20 + OPTIONS + most);
			left -= most;
		}
		for (uint32_t first = 0; first < f->packets; first++)
			for (uint32_t n = 1; first + n <= f->packets && n < f->packets; n += 1 + n / 3)
				check_piece(f, v6, first, n, payload);
		for (uint32_t k = f->packets; k; k--)
			frame_drop(pool, f);
	}
}

static void test_whole_frames_are_left_alone(void **state)
{
	uint8_t copy[FRAME_DATA_MAX];
	struct frame_headers h;
	struct iovec iov[2];
	uint32_t len = build(copy, false, 5 * MSS);
	struct frame *f;

	(void)state;
	memcpy(frame_space(pool), copy, len);
	f = take(len);
	assert_int_equal(frame_emit(f, 0, 5, &h, iov), 1);
	assert_int_equal(iov[0].iov_len, len);
	assert_memory_equal(iov[0].iov_base, copy, len);
	/* one packet without offload: its checksum is complete */
	memset(copy, 0, FRAME_VNET);
	memcpy(frame_space(pool), copy, FRAME_VNET + 60);
	f = take(FRAME_VNET + 60);
	assert_int_equal(f->packets, 1);
	assert_int_equal(frame_packet_len(f, 0), 60);
	assert_int_equal(frame_emit(f, 0, 1, &h, iov), 1);
	assert_memory_equal(iov[0].iov_base, copy, FRAME_VNET + 60);
}

/* What no kernel says, of a frame that would be read out of bounds. */
static void test_hostile_headers(void **state)
{
	static const struct {
		unsigned at;
		uint8_t value;
	} rows[] = {
		{ 0, 0 },                  /* no checksum to be completed */
		{ 1, 3 },                  /* UDP fragments */
		{ 1, 5 },                  /* UDP segments */
		{ 1, 77 },                 /* nothing known */
		{ 7, 0xff },               /* csum_start past the end */
		{ 6, 8 },                  /* … in the IP header */
		{ 8, 6 },                  /* not TCP's checksum */
		{ FRAME_VNET, 0x65 },      /* IPv6 in a frame of IPv4 */
		{ FRAME_VNET + 32, 0x40 }, /* a TCP header of 16 bytes */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint8_t *p = frame_space(pool);
		uint32_t len = build(p, false, 3 * MSS);
		bool bad = false;

		p[rows[i].at] = rows[i].value;
		assert_null(frame_take(pool, len, &bad));
		assert_true(bad);
	}
	for (uint32_t len = 0; len <= FRAME_VNET + 20 + 20 + OPTIONS; len++) {
		bool bad = false;

		build(frame_space(pool), false, 3 * MSS);
		assert_null(frame_take(pool, len, &bad));
		assert_true(bad);
	}
}

/* The pool's limit holds, what comes back is used again, and there is always a place to read to. */
static void test_pool_is_bounded(void **state)
{
	static struct frame *out[1 << 16];
	unsigned n[3] = { 0 };

	(void)state;
	for (unsigned turn = 0; turn < 3; turn++) {
		for (;;) {
			uint32_t len = build(frame_space(pool), false, 40 * MSS);
			bool bad;
			struct frame *f = frame_take(pool, len, &bad);

			assert_false(bad);
			if (!f)
				break;
			out[n[turn]++] = f;
			assert_true(n[turn] < ARRAY_LEN(out));
		}
		for (unsigned i = 0; i < n[turn]; i++)
			for (unsigned k = out[i]->packets; k; k--)
				frame_drop(pool, out[i]);
	}
	assert_in_range(n[0], 100, (8u << 20) / 65536 + 2);
	assert_int_equal(n[0], n[1]);
	assert_int_equal(n[0], n[2]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_pieces, open_pool, close_pool),
		cmocka_unit_test_setup_teardown(test_whole_frames_are_left_alone, open_pool, close_pool),
		cmocka_unit_test_setup_teardown(test_hostile_headers, open_pool, close_pool),
		cmocka_unit_test_setup_teardown(test_pool_is_bounded, open_pool, close_pool),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

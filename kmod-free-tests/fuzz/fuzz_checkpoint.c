/* SPDX-License-Identifier: MIT */
/*
 * The reader of checkpoints. The input is a file whose sums are made right first, which a fuzzer cannot guess; its pages are
 * placed in memory of the size that it says, as far as that is small. Nothing outside that memory may be touched, and what is
 * refused has a reason and a place.
 */
#include "base/util.h"
#include "migrate/checkpoint_file.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY_MOST (4u << 20)

#define CHECK(x)                                                                \
	do {                                                                    \
		if (!(x)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x); \
			abort();                                                \
		}                                                               \
	} while (0)

static void put32(uint8_t *at, uint32_t v)
{
	v = htole32(v);
	memcpy(at, &v, 4);
}

static void put64(uint8_t *at, uint64_t v)
{
	v = htole64(v);
	memcpy(at, &v, 8);
}

/* Sums, CRCs, the numbers of blocks, and what the end says of those before it. */
static void make_right(uint8_t *p, size_t n)
{
	struct sum_state sum;
	uint64_t blocks = 0;
	size_t at = CKPT_HEAD;

	if (n < CKPT_HEAD)
		return;
	put32(p + CKPT_HEAD - 4, crc32c(p, CKPT_HEAD - 4));
	sum_begin(&sum, SUM_XXH3);
	sum_add(&sum, p, CKPT_HEAD);
	while (n - at >= CKPT_BLOCK_HEAD) {
		uint8_t *head = p + at, *payload = head + CKPT_BLOCK_HEAD;
		uint32_t len = head[4] | (uint32_t)head[5] << 8 | (uint32_t)head[6] << 16 | (uint32_t)head[7] << 24;

		if (len > n - at - CKPT_BLOCK_HEAD)
			return;
		if (head[0] == CKPT_END && len == CKPT_END_BYTES) {
			put64(payload, blocks);
			put64(payload + 8, at);
			put64(payload + 24, sum_end(&sum));
		}
		put64(head + 8, blocks);
		put64(head + 16, sum_of(SUM_XXH3, payload, len));
		put32(head + CKPT_BLOCK_HEAD - 4, crc32c(head, CKPT_BLOCK_HEAD - 4));
		if (head[0] == CKPT_END)
			return;
		sum_add(&sum, head, CKPT_BLOCK_HEAD);
		blocks++;
		at += CKPT_BLOCK_HEAD + len;
	}
}

struct bytes {
	const uint8_t *p;
	size_t left;
};

static ssize_t read_bytes(void *ctx, void *buf, size_t n)
{
	struct bytes *b = ctx;

	n = min_u64(n, b->left);
	if (n)
		memcpy(buf, b->p, n);
	b->p += n;
	b->left -= n;
	return (ssize_t)n;
}

static void place_all(struct ckpt_reader *r)
{
	struct ckpt_memory m = { .len = r->head.memory };
	const char *why = NULL;
	size_t len = 0;
	int type, rc = 0;

	m.mem = calloc(1, m.len);
	m.have = calloc(m.len / GUEST_PAGE / 64 + 1, sizeof(*m.have));
	CHECK(m.mem && m.have);
	while (rc == 0 && (type = ckpt_reader_next(r, &len)) > 0) {
		CHECK(type == CKPT_PAGES || type == CKPT_STATE);
		CHECK(len <= (type == CKPT_STATE ? GUEST_STATE_MAX : CKPT_PAYLOAD_MAX));
		if (type == CKPT_PAGES)
			rc = ckpt_place(&m, r->payload, len, &why);
		CHECK(rc == 0 || (rc == -EBADMSG && why));
	}
	CHECK(rc < 0 || type == 0 || (type == -EBADMSG && r->why && !r->ended));
	CHECK(rc < 0 || type < 0 || (r->ended && r->state));
	ckpt_memory_next(&m);
	free(m.mem);
	free(m.have);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);
	struct bytes b = { .p = copy, .left = size };
	struct ckpt_reader r;
	int rc;

	CHECK(copy);
	if (size)
		memcpy(copy, data, size);
	make_right(copy, size);
	rc = ckpt_reader_open(&r, read_bytes, &b);
	CHECK(rc == 0 || ((rc == -EBADMSG || rc == -EPROTO || rc == -EINVAL) && r.why));
	if (rc == 0 && r.head.memory <= MEMORY_MOST)
		place_all(&r);
	ckpt_reader_close(&r);
	free(copy);
	return 0;
}

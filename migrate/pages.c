/* SPDX-License-Identifier: MIT */
#include "migrate/pages.h"

#include <errno.h>
#include <string.h>

typedef uint64_t lane __attribute__((vector_size(32), aligned(8), may_alias));

bool page_is_zero(const uint8_t *page)
{
	const uint64_t *w = (const uint64_t *)(const void *)page;

	/* Most pages that are not zero show it at one of three places. */
	if (w[0] | w[GUEST_PAGE / 16] | w[GUEST_PAGE / 8 - 1])
		return false;
	for (size_t i = 0; i < GUEST_PAGE; i += 128) {
		const lane *l = (const lane *)(const void *)(page + i);
		lane any = l[0] | l[1] | l[2] | l[3];

		if (any[0] | any[1] | any[2] | any[3])
			return false;
	}
	return true;
}

size_t pages_encode(const uint8_t *mem, const uint32_t *list, uint64_t first, uint32_t n, void *out, uint32_t *zeros)
{
	struct wcur head = wcur_init(out, 2u + 5u * (size_t)n);
	uint8_t *at = (uint8_t *)out + 2 + 5 * (size_t)n;

	*zeros = 0;
	put_u16(&head, (uint16_t)n);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t page = list ? list[i] : (uint32_t)(first + i);
		const uint8_t *from = mem + (uint64_t)page * GUEST_PAGE;
		bool zero = page_is_zero(from);

		put_u32(&head, page);
		put_u8(&head, zero ? PAGE_ZERO : PAGE_RAW);
		*zeros += zero;
		if (zero)
			continue;
		memcpy(at, from, GUEST_PAGE);
		at += GUEST_PAGE;
	}
	return (size_t)(at - (uint8_t *)out);
}

int pages_decode(const void *in, size_t len, uint64_t guest_pages, page_sink sink, void *ctx)
{
	struct rcur head = rcur_init(in, len), body;
	uint16_t n = get_u16(&head);

	if (head.bad || n > PAGES_MOST || rcur_left(&head) < 5u * (size_t)n)
		return -EPROTO;
	body = rcur_init(head.p + 5u * (size_t)n, rcur_left(&head) - 5u * (size_t)n);
	for (uint16_t i = 0; i < n; i++) {
		uint32_t page = get_u32(&head);
		uint8_t kind = get_u8(&head);
		const uint8_t *from = NULL;
		int rc;

		if (page >= guest_pages || kind > PAGE_RAW || (kind == PAGE_RAW && rcur_left(&body) < GUEST_PAGE))
			return -EPROTO;
		if (kind == PAGE_RAW) {
			from = body.p;
			body.p += GUEST_PAGE;
		}
		rc = sink(ctx, page, from);
		if (rc < 0)
			return rc;
	}
	return rcur_left(&body) ? -EPROTO : 0;
}

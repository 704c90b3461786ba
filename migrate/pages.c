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

void pages_name(struct page_list *out, const uint32_t *list, uint64_t first, uint32_t n)
{
	out->n = n;
	for (uint32_t i = 0; i < n; i++)
		out->page[i] = list ? list[i] : (uint32_t)(first + i);
}

size_t pages_put_head(const struct page_list *l, enum pages_form form, void *out)
{
	struct wcur head = wcur_init(out, 3), runs = wcur_init((uint8_t *)out + 3, PAGES_HEAD_MAX - 3);
	uint16_t n_runs = 0;

	for (uint32_t i = 0, from = 0; i < l->n; i++) {
		if (i + 1 < l->n && l->page[i + 1] == l->page[i] + 1)
			continue;
		put_u32(&runs, l->page[from]);
		put_u16(&runs, (uint16_t)(i + 1 - from));
		from = i + 1;
		n_runs++;
	}
	put_u8(&head, (uint8_t)form);
	put_u16(&head, n_runs);
	return (size_t)(runs.p - (uint8_t *)out);
}

size_t pages_put_plain(const struct page_list *l, const uint8_t *mem, void *out, uint32_t *zeros)
{
	uint8_t *kind = out, *at = kind + l->n;

	*zeros = 0;
	for (uint32_t i = 0; i < l->n; i++) {
		const uint8_t *from = mem + (uint64_t)l->page[i] * GUEST_PAGE;
		bool zero = page_is_zero(from);

		kind[i] = zero ? PAGE_ZERO : PAGE_RAW;
		*zeros += zero;
		if (zero)
			continue;
		memcpy(at, from, GUEST_PAGE);
		at += GUEST_PAGE;
	}
	return (size_t)(at - kind);
}

size_t pages_put_late(const struct page_list *l, void *out)
{
	memset(out, PAGE_LATE, l->n);
	return l->n;
}

int pages_get_head(const void *in, size_t len, uint64_t guest_pages, struct page_list *l, enum pages_form *form,
		   struct rcur *body)
{
	struct rcur c = rcur_init(in, len);
	uint8_t f = get_u8(&c);
	uint16_t runs = get_u16(&c);

	l->n = 0;
	if (c.bad || f > PAGES_PACKED)
		return -EPROTO;
	for (; runs; runs--) {
		uint32_t first = get_u32(&c);
		uint16_t n = get_u16(&c);

		if (c.bad || !n || n > PAGES_MOST - l->n || first >= guest_pages || n > guest_pages - first)
			return -EPROTO;
		for (; n; n--)
			l->page[l->n++] = first++;
	}
	*form = (enum pages_form)f;
	*body = c;
	return 0;
}

int pages_get_plain(const struct page_list *l, struct rcur *body, page_sink sink, void *ctx)
{
	const uint8_t *kind = body->p;

	if (rcur_left(body) < l->n)
		return -EPROTO;
	body->p += l->n;
	for (uint32_t i = 0; i < l->n; i++) {
		const uint8_t *from = NULL;
		int rc;

		if (kind[i] > PAGE_LATE || (kind[i] == PAGE_RAW && rcur_left(body) < GUEST_PAGE))
			return -EPROTO;
		if (kind[i] == PAGE_RAW) {
			from = body->p;
			body->p += GUEST_PAGE;
		}
		rc = sink(ctx, l->page[i], (enum page_kind)kind[i], from);
		if (rc < 0)
			return rc;
	}
	return rcur_left(body) ? -EPROTO : 0;
}

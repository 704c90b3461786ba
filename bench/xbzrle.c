/* SPDX-License-Identifier: MIT */
#include "bench/xbzrle.h"
#include "compress/zero.h"

#define HEADER 8u

static uint32_t leb(uint32_t n)
{
	return n < 0x80 ? 1 : 2;
}

uint32_t xbzrle_encoded(const uint8_t *old, const uint8_t *new)
{
	uint32_t i = 0, size = 0;

	while (i < XBZRLE_PAGE) {
		uint32_t equal = i, changed;

		while (i < XBZRLE_PAGE && old[i] == new[i])
			i++;
		if (i == XBZRLE_PAGE)
			break;
		changed = i;
		while (i < XBZRLE_PAGE && old[i] != new[i])
			i++;
		size += leb(changed - equal) + leb(i - changed) + i - changed;
		if (size > XBZRLE_PAGE)
			return XBZRLE_OVERFLOW;
	}
	return size;
}

uint32_t xbzrle_wire(const uint8_t *old, const uint8_t *new)
{
	uint32_t size;

	if (zero_test(new, XBZRLE_PAGE))
		return HEADER + 1;
	size = xbzrle_encoded(old, new);
	if (size == 0)
		return 0;
	return HEADER + (size == XBZRLE_OVERFLOW ? XBZRLE_PAGE : 1 + 2 + size);
}

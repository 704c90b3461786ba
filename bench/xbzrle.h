/* SPDX-License-Identifier: MIT */
/*
 * How many bytes QEMU's XBZRLE would send for a changed page: a measure for comparison only, from the format's
 * description (QEMU, docs/xbzrle.txt and migration/xbzrle.c, 7.2): runs of equal bytes and of changed bytes alternate, a
 * run of changed bytes ends at the first equal byte; lengths are LEB128 of one or two bytes; the last run is left out
 * when it is of equal bytes. A page whose encoding is not shorter than a page goes as it is. Nothing is encoded here.
 */
#ifndef DWCP_BENCH_XBZRLE_H
#define DWCP_BENCH_XBZRLE_H

#include <stdint.h>

#define XBZRLE_PAGE 4096u
#define XBZRLE_OVERFLOW UINT32_MAX

/* Bytes of the encoding: 0 when nothing differs, XBZRLE_OVERFLOW when it does not fit a page. */
uint32_t xbzrle_encoded(const uint8_t *old, const uint8_t *new);

/* Bytes on the wire in a stream of one RAM block: an offset with flags (8) before each page, then a zero page's
 * byte, or a kind (1), a length (2) and the encoding, or the page. Zero pages are looked for first, as QEMU does. */
uint32_t xbzrle_wire(const uint8_t *old, const uint8_t *new);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Is it all zeros? Three words are looked at first (first, middle, last), which settles most pages that are not; then
 * all of it, 32 bytes at a time where the CPU can. Variants give equal answers; the best one is chosen before main.
 */
#ifndef DWCP_COMPRESS_ZERO_H
#define DWCP_COMPRESS_ZERO_H

#include <stdbool.h>
#include <stddef.h>

/* Any length, any alignment. Any thread. */
bool zero_test(const void *p, size_t n);

bool zero_test_scalar(const void *p, size_t n);
#ifdef __x86_64__
bool zero_test_avx2(const void *p, size_t n); /* only where the CPU has it */
#endif
const char *zero_variant(void); /* "scalar" or "avx2" */

#endif

/* SPDX-License-Identifier: MIT */
/* XXH3 with AVX2: compiled with -mavx2, reached only through the table, after the CPU was asked. */
#ifdef __AVX2__
#define XXH3_OPS xxh3_avx2
#define XXH3_OPS_NAME "avx2"
#include "base/digest_xxh3.h"
#endif

/* SPDX-License-Identifier: MIT */
#define XXH3_OPS xxh3_base
#define XXH3_OPS_NAME "baseline"
#include "base/digest_xxh3.h"
#include "base/digest.h"
#include <isa-l/crc.h>

const char *const sum_names[] = { [SUM_NONE] = "none", [SUM_CRC32C] = "crc32c", [SUM_XXH3] = "xxh3", NULL };

static const struct xxh3_ops *xxh3 = &xxh3_base;

/* Before main, hence before any thread: readers need no atomics. */
__attribute__((constructor)) static void choose_xxh3(void)
{
#ifdef __x86_64__
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx2"))
		xxh3 = &xxh3_avx2;
#endif
}

const char *digest_variant(void)
{
	return xxh3->name;
}

/* crc32_iscsi inverts neither its start value nor its result (RFC 3720 wants both), and counts in int. */
static uint32_t crc_raw(uint32_t crc, const void *data, size_t len)
{
	unsigned char *p = (unsigned char *)(uintptr_t)data;

	while (len) {
		size_t n = len < (1u << 30) ? len : 1u << 30;

		crc = crc32_iscsi(p, (int)n, crc);
		p += n;
		len -= n;
	}
	return crc;
}

uint32_t crc32c(const void *data, size_t len)
{
	return ~crc_raw(~0u, data, len);
}

uint64_t sum_of(enum sum_kind kind, const void *data, size_t len)
{
	if (kind == SUM_CRC32C)
		return crc32c(data, len);
	if (kind == SUM_XXH3)
		return xxh3->h64(data, len);
	return 0;
}

void sum_begin(struct sum_state *s, enum sum_kind kind)
{
	s->kind = kind;
	s->crc = ~0u;
	if (kind == SUM_XXH3)
		xxh3->begin(s->xxh);
}

void sum_add(struct sum_state *s, const void *data, size_t len)
{
	if (s->kind == SUM_CRC32C)
		s->crc = crc_raw(s->crc, data, len);
	else if (s->kind == SUM_XXH3 && len)
		xxh3->add(s->xxh, data, len);
}

uint64_t sum_end(struct sum_state *s)
{
	if (s->kind == SUM_CRC32C)
		return ~s->crc & 0xffffffffu;
	if (s->kind == SUM_XXH3)
		return xxh3->end(s->xxh);
	return 0;
}

struct digest128 digest128_of(const void *data, size_t len)
{
	return xxh3->h128(data, len);
}

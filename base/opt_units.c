/* SPDX-License-Identifier: MIT */
/* Numbers with units, both ways. */
#include "base/clock.h"
#include "base/opt.h"
#include "base/util.h"
#include <errno.h>
#include <math.h>
#include <string.h>
#include <strings.h>

struct unit {
	const char *suffix;
	uint64_t factor;
};

/*
 * number [blanks] [unit]. Integers only inside: a double would lose bytes above
 * 2^53. *unit is left at the unit's first character. A fraction of more than 18 digits is cut.
 */
static int parse_number(const char *s, uint64_t *whole, uint64_t *fraction, uint64_t *scale, const char **unit)
{
	if (*s < '0' || *s > '9')
		return -EINVAL;
	*whole = *fraction = 0;
	*scale = 1;
	for (; *s >= '0' && *s <= '9'; s++)
		if (__builtin_mul_overflow(*whole, 10, whole) || __builtin_add_overflow(*whole, *s - '0', whole))
			return -ERANGE;
	if (*s == '.') {
		if (*++s < '0' || *s > '9')
			return -EINVAL;
		for (; *s >= '0' && *s <= '9'; s++) {
			if (*scale == 1000000000000000000ull)
				continue;
			*fraction = *fraction * 10 + (uint64_t)(*s - '0');
			*scale *= 10;
		}
	}
	while (*s == ' ')
		s++;
	*unit = s;
	return 0;
}

static int parse_scaled(const char *s, const struct unit *units, size_t n, uint64_t bare, uint64_t *out)
{
	uint64_t whole, fraction, scale, factor = 0, v;
	const char *unit;
	int rc = parse_number(s, &whole, &fraction, &scale, &unit);

	if (rc)
		return rc;
	if (!*unit)
		factor = unit[-1] == ' ' ? 0 : bare;
	for (size_t i = 0; *unit && i < n && !factor; i++)
		if (strcmp(unit, units[i].suffix) == 0)
			factor = units[i].factor;
	/* there is no half of a byte, bit per second or nanosecond */
	if (!factor || (scale > 1 && factor == 1))
		return -EINVAL;
	if (__builtin_mul_overflow(whole, factor, &v) ||
	    __builtin_add_overflow(v, (uint64_t)((unsigned __int128)fraction * factor / scale), &v))
		return -ERANGE;
	*out = v;
	return 0;
}

/* K M G T P E, 1024-based, with or without B or iB, in either case; but "Mb" is a million bits to many. */
int parse_size(const char *s, uint64_t *bytes)
{
	static const char letters[] = "KMGTPE";
	struct unit found = { .suffix = NULL };
	uint64_t w, f, sc;
	const char *unit, *letter;
	int rc = parse_number(s, &w, &f, &sc, &unit);

	if (rc)
		return rc;
	found.suffix = unit;
	if (strcasecmp(unit, "B") == 0) {
		found.factor = 1;
	} else if (*unit) {
		letter = strchr(letters, *unit & ~0x20);
		if (!letter || (unit[1] && strcasecmp(unit + 1, "B") != 0 && strcasecmp(unit + 1, "iB") != 0))
			return -EINVAL;
		if (*unit == *letter && unit[1] == 'b')
			return -EINVAL;
		found.factor = 1024ull << 10 * (letter - letters);
	}
	return parse_scaled(s, &found, 1, 1, bytes);
}

/* 1000-based. "MB/s" and "MBps" are refused rather than read as bits: they are eight times as much. */
int parse_rate(const char *s, uint64_t *bits_per_s)
{
	static const struct unit units[] = {
		{ "bps", 1 },
		{ "K", 1000ull },
		{ "k", 1000ull },
		{ "Kbps", 1000ull },
		{ "kbps", 1000ull },
		{ "M", 1000000ull },
		{ "m", 1000000ull },
		{ "Mbps", 1000000ull },
		{ "mbps", 1000000ull },
		{ "G", 1000000000ull },
		{ "g", 1000000000ull },
		{ "Gbps", 1000000000ull },
		{ "gbps", 1000000000ull },
		{ "T", 1000000000000ull },
		{ "t", 1000000000000ull },
		{ "Tbps", 1000000000000ull },
		{ "tbps", 1000000000000ull },
	};

	return parse_scaled(s, units, ARRAY_LEN(units), 1, bits_per_s);
}

int parse_time(const char *s, uint64_t *ns)
{
	static const struct unit units[] = {
		{ "ns", 1 },
		{ "us", NS_PER_US },
		{ "ms", NS_PER_MS },
		{ "s", NS_PER_S },
		{ "m", 60 * NS_PER_S },
		{ "min", 60 * NS_PER_S },
		{ "h", 3600 * NS_PER_S },
	};

	return parse_scaled(s, units, ARRAY_LEN(units), NS_PER_S, ns);
}

/* Three digits that matter, no zeros that do not: 256, 1.5, 12.3, 1.05. */
static int decimals(double v)
{
	return v < 9.995 ? 2 : v < 99.95 ? 1 : 0;
}

static char *put_rounded(char *buf, size_t cap, double v, const char *unit)
{
	char num[32];
	int n = snprintf(num, sizeof num, "%.*f", decimals(v), v);

	if (strchr(num, '.')) {
		while (num[n - 1] == '0')
			num[--n] = 0;
		if (num[n - 1] == '.')
			num[--n] = 0;
	}
	snprintf(buf, cap, "%s %s", num, unit);
	return buf;
}

/* The largest unit in which v, once rounded, is at least 1. */
static char *put_scaled(char *buf, size_t cap, double v, double step, const char *const *units, size_t n)
{
	size_t i = 0;

	/* what would be printed as 1024 KB or 1000 Mbps is 1 MB or 1 Gbps */
	while (i + 1 < n && (v >= step || (i && round(v) >= step))) {
		v /= step;
		i++;
	}
	return put_rounded(buf, cap, v, units[i]);
}

char *format_size(char *buf, size_t cap, uint64_t bytes)
{
	static const char *const units[] = { "B", "KB", "MB", "GB", "TB", "PB", "EB" };

	return put_scaled(buf, cap, (double)bytes, 1024, units, ARRAY_LEN(units));
}

char *format_rate(char *buf, size_t cap, double bits_per_s)
{
	static const char *const units[] = { "bps", "Kbps", "Mbps", "Gbps", "Tbps" };

	if (!isfinite(bits_per_s) || bits_per_s < 0) {
		snprintf(buf, cap, "?");
		return buf;
	}
	return put_scaled(buf, cap, bits_per_s, 1000, units, ARRAY_LEN(units));
}

char *format_time(char *buf, size_t cap, uint64_t ns)
{
	static const char *const units[] = { "ns", "us", "ms", "s" };

	if (ns >= 3600 * NS_PER_S)
		return put_rounded(buf, cap, (double)ns / (3600e9), "h");
	if (ns >= 120 * NS_PER_S)
		return put_rounded(buf, cap, (double)ns / 60e9, "min");
	return put_scaled(buf, cap, (double)ns, 1000, units, ARRAY_LEN(units));
}

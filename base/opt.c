/* SPDX-License-Identifier: MIT */
/* Option tables: looking up a row, storing a value, suggesting a name. */
#include "base/opt.h"
#include "base/log.h"
#include "base/opt_table.h"
#include "base/util.h"
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SHOWN 64      /* bytes of a wrong value that an error shows */
#define NAME_BYTES 64 /* longer names are never near to anything */

bool opt_same_name(const char *a, const char *b)
{
	for (; *a && *b; a++, b++)
		if (*a != *b && !((*a == '-' || *a == '_') && (*b == '-' || *b == '_')))
			return false;
	return *a == *b;
}

const struct opt *opt_find(const struct opt_group *groups, size_t n, const char *section, const char *name,
			   const struct opt_group **group)
{
	for (size_t g = 0; g < n; g++) {
		if (section && !opt_same_name(section, groups[g].name))
			continue;
		for (size_t i = 0; i < groups[g].n; i++) {
			const struct opt *row = &groups[g].rows[i];

			if (opt_same_name(name, row->name) || (row->alias && opt_same_name(name, row->alias))) {
				*group = &groups[g];
				return row;
			}
		}
	}
	return NULL;
}

/* Optimal string alignment: insert, delete, replace, swap of neighbours cost one each. */
static unsigned edit_distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b);
	unsigned row[3][NAME_BYTES + 1];

	if (la > NAME_BYTES || lb > NAME_BYTES)
		return UINT_MAX;
	for (size_t j = 0; j <= lb; j++)
		row[0][j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];

		now[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned d = last[j - 1] + (a[i - 1] != b[j - 1]);

			d = last[j] + 1 < d ? last[j] + 1 : d;
			d = now[j - 1] + 1 < d ? now[j - 1] + 1 : d;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < d)
				d = before[j - 2] + 1;
			now[j] = d;
		}
	}
	return row[la % 3][lb];
}

void opt_offer(struct opt_nearest *near, const char *candidate)
{
	size_t len = strlen(near->wanted);
	unsigned d = edit_distance(near->wanted, candidate);
	unsigned far = len < 4 ? 1 : len < 6 ? 2 : len < 12 ? 3 : 4;

	/* a beginning of the name is near however long the rest is, but less so than a misspelling */
	if (d > far && len >= 3 && strncmp(near->wanted, candidate, len) == 0)
		d = far;
	if (d > far || d >= len || (near->best && d >= near->distance))
		return;
	near->best = candidate;
	near->distance = d;
}

void opt_offer_rows(struct opt_nearest *near, const struct opt_group *groups, size_t n, const char *section)
{
	for (size_t g = 0; g < n; g++) {
		if (section && !opt_same_name(section, groups[g].name))
			continue;
		for (size_t i = 0; i < groups[g].n; i++) {
			opt_offer(near, groups[g].rows[i].name);
			if (groups[g].rows[i].alias)
				opt_offer(near, groups[g].rows[i].alias);
		}
	}
}

static int parse_bool(const char *s, bool *out)
{
	static const char *const words[2][4] = { { "no", "false", "off", "0" }, { "yes", "true", "on", "1" } };

	for (size_t v = 0; v < 2; v++)
		for (size_t i = 0; i < ARRAY_LEN(words[v]); i++)
			if (strcasecmp(s, words[v][i]) == 0) {
				*out = v;
				return 0;
			}
	return -EINVAL;
}

static int parse_u32(const char *s, uint64_t *out)
{
	uint64_t v = 0;

	if (!*s)
		return -EINVAL;
	for (const char *p = s; *p; p++)
		if (*p < '0' || *p > '9')
			return -EINVAL;
	for (; *s; s++) {
		v = v * 10 + (uint64_t)(*s - '0');
		if (v > UINT32_MAX)
			return -ERANGE;
	}
	*out = v;
	return 0;
}

/* Decimal only: strtod would also take "inf", "nan" and hexadecimal. */
static int parse_f64(const char *s, double *out)
{
	char *end;
	double v;

	if (!*s || s[strspn(s, "0123456789.eE+-")])
		return -EINVAL;
	v = strtod(s, &end);
	if (*end || end == s)
		return -EINVAL;
	if (!isfinite(v))
		return -ERANGE;
	*out = v;
	return 0;
}

static int parse_enum(const struct opt *row, const char *s, int *out)
{
	for (int i = 0; row->values[i]; i++)
		if (opt_same_name(s, row->values[i])) {
			*out = i;
			return 0;
		}
	return -EINVAL;
}

static const char *syntax_hint(enum opt_type type)
{
	switch (type) {
	case OPT_BOOL:
		return "write yes or no";
	case OPT_U32:
		return "write a whole number";
	case OPT_SIZE:
		return "write a size like 4096, 64KB, 4MB or 1GB";
	case OPT_RATE:
		return "write a rate in bits per second like 500Mbps or 2.5Gbps";
	case OPT_TIME:
		return "write a time like 250us, 10ms, 5s, 30m or 24h";
	case OPT_F64:
		return "write a number like 0.25";
	case OPT_ENUM:
	case OPT_STR:
		break;
	}
	return "";
}

static int bad_value(const struct opt *row, const char *value, const char *where, struct err *e)
{
	struct opt_nearest near = { .wanted = value };
	char list[200];

	if (row->type != OPT_ENUM)
		return err_set(e, -EINVAL, "%s: \"%.*s\" is not understood: %s%s", where, SHOWN, value,
			       syntax_hint(row->type), row->auto_ok ? ", or auto" : "");
	for (size_t i = 0; row->values[i]; i++)
		opt_offer(&near, row->values[i]);
	opt_values(row, ", ", " or ", list, sizeof list);
	if (near.best)
		return err_set(e, -EINVAL, "%s: there is no \"%.*s\"; did you mean %s? Choose %s", where, SHOWN, value,
			       near.best, list);
	return err_set(e, -EINVAL, "%s: there is no \"%.*s\": choose %s", where, SHOWN, value, list);
}

static int out_of_range(const struct opt *row, const char *value, const char *where, struct err *e)
{
	char range[96];

	if (*opt_range(row, range, sizeof range))
		return err_set(e, -EINVAL, "%s: %.*s is out of range: choose %s%s", where, SHOWN, value, range,
			       row->auto_ok ? ", or auto" : "");
	return err_set(e, -EINVAL, "%s: %.*s is too %s value", where, SHOWN, value,
		       *value == '-' ? "small: use a larger" : "large: use a smaller");
}

static int store_str(char *field, const struct opt *row, const char *value, const char *where, struct err *e)
{
	size_t len = strlen(value);

	if (len >= row->max)
		return err_set(e, -EINVAL, "%s: \"%.24s%s\" has %zu bytes: use at most %llu", where, value,
			       len > 24 ? "..." : "", len, (unsigned long long)row->max - 1);
	memcpy(field, value, len + 1);
	return 0;
}

/* The parsers of whole numbers, by type. */
static int parse_whole(enum opt_type type, const char *value, uint64_t *v)
{
	switch (type) {
	case OPT_SIZE:
		return parse_size(value, v);
	case OPT_RATE:
		return parse_rate(value, v);
	case OPT_TIME:
		return parse_time(value, v);
	default:
		return parse_u32(value, v);
	}
}

static int store_whole(void *field, const struct opt *row, const char *value, bool is_auto, const char *where,
		       struct err *e)
{
	uint64_t v = 0;

	if (!is_auto) {
		int rc = parse_whole(row->type, value, &v);

		if (rc == -ERANGE || (!rc && (v < row->min || (row->max && v > row->max))))
			return out_of_range(row, value, where, e);
		if (rc)
			return bad_value(row, value, where, e);
	}
	if (row->type == OPT_U32)
		*(uint32_t *)field = (uint32_t)v;
	else
		*(uint64_t *)field = v;
	return 0;
}

/* "1%" is "1" where the unit is percent. */
static int parse_f64_unit(const struct opt *row, const char *value, double *v)
{
	size_t len = strlen(value);
	char number[64];

	if (!row->unit || strcmp(row->unit, "%") != 0 || !len || value[len - 1] != '%' || len > sizeof number)
		return parse_f64(value, v);
	memcpy(number, value, len - 1);
	number[len - 1] = '\0';
	return parse_f64(number, v);
}

static int store_f64(double *field, const struct opt *row, const char *value, bool is_auto, const char *where,
		     struct err *e)
{
	double v = 0;

	if (!is_auto) {
		int rc = parse_f64_unit(row, value, &v);

		if (rc == -ERANGE || (!rc && (v < (double)row->min || (row->max && v > (double)row->max))))
			return out_of_range(row, value, where, e);
		if (rc)
			return bad_value(row, value, where, e);
	}
	*field = v;
	return 0;
}

static int store(const struct opt_group *group, const struct opt *row, const char *value, const char *where,
		 struct err *e)
{
	void *field = (char *)group->base + row->offset;
	bool is_auto = row->auto_ok && strcmp(value, "auto") == 0;

	switch (row->type) {
	case OPT_BOOL:
		return parse_bool(value, field) ? bad_value(row, value, where, e) : 0;
	case OPT_ENUM:
		if (is_auto) {
			*(int *)field = 0;
			return 0;
		}
		return parse_enum(row, value, field) ? bad_value(row, value, where, e) : 0;
	case OPT_STR:
		return store_str(field, row, is_auto ? "" : value, where, e);
	case OPT_F64:
		return store_f64(field, row, value, is_auto, where, e);
	default:
		return store_whole(field, row, value, is_auto, where, e);
	}
}

int opt_store(const struct opt_group *group, const struct opt *row, const char *value, const char *where, struct err *e)
{
	int rc = store(group, row, value, where, e);

	if (rc == 0 && group->given)
		group->given[row - group->rows] = true;
	return rc;
}

void opt_defaults(const struct opt_group *groups, size_t n)
{
	for (size_t g = 0; g < n; g++)
		for (size_t i = 0; i < groups[g].n; i++) {
			const struct opt *row = &groups[g].rows[i];
			/* only text has a natural default */
			const char *def = row->def ? row->def : row->type == OPT_STR ? "" : "(none)";
			struct err e;
			int rc = store(&groups[g], row, def, row->name, &e);

			if (rc)
				log_error("default in option table %s: %s", groups[g].name, e.why);
			assert(rc == 0);
			if (groups[g].given)
				groups[g].given[i] = false;
		}
}

int opt_set(const struct opt_group *groups, size_t n, const char *name, const char *value, struct err *e)
{
	struct opt_nearest near = { .wanted = name };
	const struct opt_group *group;
	const struct opt *row = opt_find(groups, n, NULL, name, &group);

	if (row)
		return opt_store(group, row, value, row->name, e);
	opt_offer_rows(&near, groups, n, NULL);
	if (near.best)
		return err_set(e, -EINVAL, "there is no option \"%.*s\": did you mean %s?", SHOWN, name, near.best);
	return err_set(e, -EINVAL, "there is no option \"%.*s\": see --help", SHOWN, name);
}

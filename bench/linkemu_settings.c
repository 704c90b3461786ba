/* SPDX-License-Identifier: MIT */
/* A link's settings as JSON and as text. */
#include "base/util.h"
#include "bench/linkemu_opt.h"
#include <errno.h>
#include <string.h>

/* ---- between processes ------------------------------------------------------------------------- */

static json_t *field_json(const struct opt *row, const void *base)
{
	const void *field = (const char *)base + row->offset;

	switch (row->type) {
	case OPT_BOOL:
		return json_boolean(*(const bool *)field);
	case OPT_U32:
		return json_integer(*(const uint32_t *)field);
	case OPT_F64:
		return json_real(*(const double *)field);
	case OPT_STR:
		return json_string(field);
	default:
		return json_integer((json_int_t) * (const uint64_t *)field);
	}
}

static json_t *rows_json(const struct opt_group *g, const void *base)
{
	json_t *obj = json_object();

	for (size_t i = 0; i < g->n; i++)
		json_object_set_new(obj, g->rows[i].name, field_json(&g->rows[i], base));
	return obj;
}

/* The rows of one direction, and of what both have in common. */
struct rows {
	struct opt_group direction, common;
};

static struct rows rows(void)
{
	struct opt_group groups[LINK_GROUPS];
	struct link_opts nothing = { 0 };

	link_groups(&nothing, groups);
	return (struct rows){ .direction = groups[0], .common = groups[1] };
}

json_t *link_settings_json(const struct link_settings *s)
{
	const struct rows r = rows();

	return json_pack("{s:o, s:o, s:o}", "hosts", rows_json(&r.common, &s->common), "ab",
			 rows_json(&r.direction, &s->dir[LINK_AB]), "ba", rows_json(&r.direction, &s->dir[LINK_BA]));
}

static int read_whole(const struct opt *row, void *field, const json_t *v, struct err *e)
{
	uint64_t n = (uint64_t)json_integer_value(v);
	bool is_auto = row->auto_ok && n == 0;

	if (!json_is_integer(v) || json_integer_value(v) < 0 ||
	    (!is_auto && (n < row->min || (row->max && n > row->max))) || (row->type == OPT_U32 && n > UINT32_MAX))
		return err_set(e, -EPROTO, "%s is missing or out of range", row->name);
	if (row->type == OPT_U32)
		*(uint32_t *)field = (uint32_t)n;
	else
		*(uint64_t *)field = n;
	return 0;
}

static int read_field(const struct opt *row, void *base, const json_t *v, struct err *e)
{
	void *field = (char *)base + row->offset;

	switch (row->type) {
	case OPT_BOOL:
		*(bool *)field = json_is_true(v);
		return json_is_boolean(v) ? 0 : err_set(e, -EPROTO, "%s is missing", row->name);
	case OPT_F64:
		*(double *)field = json_number_value(v);
		if (!json_is_number(v) ||
		    !(*(double *)field >= (double)row->min && *(double *)field <= (double)row->max))
			return err_set(e, -EPROTO, "%s is missing or out of range", row->name);
		return 0;
	case OPT_STR:
		if (!json_is_string(v) || json_string_length(v) >= row->max)
			return err_set(e, -EPROTO, "%s is missing or too long", row->name);
		memcpy(field, json_string_value(v), json_string_length(v) + 1);
		return 0;
	default:
		return read_whole(row, field, v, e);
	}
}

static int read_rows(const struct opt_group *g, void *base, const json_t *obj, struct err *e)
{
	int rc = 0;

	for (size_t i = 0; rc >= 0 && i < g->n; i++)
		rc = read_field(&g->rows[i], base, json_object_get(obj, g->rows[i].name), e);
	return rc;
}

int link_settings_read(struct link_settings *out, const json_t *obj, struct err *e)
{
	const struct rows r = rows();
	struct link_settings s = { 0 };
	int rc = read_rows(&r.common, &s.common, json_object_get(obj, "hosts"), e);

	if (rc >= 0)
		rc = read_rows(&r.direction, &s.dir[LINK_AB], json_object_get(obj, "ab"), e);
	if (rc >= 0)
		rc = read_rows(&r.direction, &s.dir[LINK_BA], json_object_get(obj, "ba"), e);
	if (rc >= 0)
		*out = s;
	return rc;
}

/* ---- for people and scripts -------------------------------------------------------------------- */

json_t *link_direction_json(const struct link_dir_opts *d)
{
	json_t *obj = json_pack("{s:o, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "rate_mbps",
				d->rate ? json_real((double)d->rate / 1e6) : json_null(), "delay_ms",
				(double)d->delay_ns / 1e6, "jitter_ms", (double)d->jitter_ns / 1e6, "loss_percent",
				d->loss, "loss_burst_packets", d->loss_burst, "loss_in_burst_percent", d->loss_in_burst,
				"reorder_percent", d->reorder, "reorder_delay_ms", (double)d->reorder_delay_ns / 1e6,
				"duplicate_percent", d->duplicate);

	if (d->trace[0])
		json_object_set_new(obj, "trace", json_string(d->trace));
	return obj;
}

char *link_direction_text(const struct link_dir_opts *d, char *buf, size_t cap)
{
	char rate[32], delay[32];
	int n;

	if (d->trace[0])
		n = snprintf(buf, cap, "rate of %.200s", d->trace);
	else
		n = snprintf(buf, cap, "%s",
			     d->rate ? format_rate(rate, sizeof(rate), (double)d->rate) : "no rate limit");
	n += snprintf(buf + n, cap - (size_t)n, ", delay %s", format_time(delay, sizeof(delay), d->delay_ns));
	if (d->jitter_ns)
		n += snprintf(buf + n, cap - (size_t)n, " ± %s", format_time(delay, sizeof(delay), d->jitter_ns));
	n += snprintf(buf + n, cap - (size_t)n, ", loss %g %%", d->loss);
	if (d->loss_burst > 1)
		n += snprintf(buf + n, cap - (size_t)n, " in bursts of %g", d->loss_burst);
	if (d->reorder > 0)
		n += snprintf(buf + n, cap - (size_t)n, ", %g %% reordered", d->reorder);
	if (d->duplicate > 0)
		snprintf(buf + n, cap - (size_t)n, ", %g %% twice", d->duplicate);
	return buf;
}

/* SPDX-License-Identifier: MIT */
#include "base/metrics.h"
#include <inttypes.h>

static uint64_t field(const struct metric *m, const void *values)
{
	return __atomic_load_n((const uint64_t *)(const void *)((const char *)values + m->offset), __ATOMIC_RELAXED);
}

void metrics_sum(const struct metric *rows, size_t n, void *into, const void *from)
{
	for (size_t i = 0; i < n; i++)
		metric_add((uint64_t *)(void *)((char *)into + rows[i].offset), field(&rows[i], from));
}

json_t *metrics_json(const struct metric *rows, size_t n, const void *values)
{
	json_t *obj = json_object();

	for (size_t i = 0; obj && i < n; i++) {
		uint64_t v = field(&rows[i], values);
		/* jansson has signed integers only; what does not fit goes as the nearest real */
		json_t *num = v <= INT64_MAX ? json_integer((json_int_t)v) : json_real((double)v);

		if (json_object_set_new(obj, rows[i].name, num) < 0) {
			json_decref(obj);
			return NULL;
		}
	}
	return obj;
}

/* HELP text escapes backslash and line feed only (Prometheus text format 0.0.4). */
static void put_help(const char *s, FILE *out)
{
	for (; s && *s; s++) {
		if (*s == '\\')
			fputs("\\\\", out);
		else if (*s == '\n')
			fputs("\\n", out);
		else
			fputc(*s, out);
	}
}

void metrics_prometheus(const struct metric *rows, size_t n, const void *values, FILE *out)
{
	for (size_t i = 0; i < n; i++) {
		const struct metric *m = &rows[i];

		fprintf(out, "# HELP dwcp_%s ", m->name);
		put_help(m->help, out);
		fprintf(out, "\n# TYPE dwcp_%s %s\n", m->name, m->kind == METRIC_COUNTER ? "counter" : "gauge");
		fprintf(out, "dwcp_%s %" PRIu64 "\n", m->name, field(m, values));
	}
}

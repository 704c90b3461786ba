/* SPDX-License-Identifier: MIT */
/* Private to opt*.c: what the parsers and the printers need of a table. */
#ifndef DWCP_BASE_OPT_TABLE_H
#define DWCP_BASE_OPT_TABLE_H

#include "base/opt.h"

/* Equal names, '-' and '_' being the same. */
bool opt_same_name(const char *a, const char *b);

/* The row of this name or alias in groups called `section` (NULL: any); NULL when there is none. */
const struct opt *opt_find(const struct opt_group *groups, size_t n, const char *section, const char *name,
			   const struct opt_group **group);

/* Parses `value` and stores it; nothing is stored on error. The error starts with `where`, e.g. "--streams". */
int opt_store(const struct opt_group *group, const struct opt *row, const char *value, const char *where,
	      struct err *e);

/* Keeps the best of the offered names. Offer any number, then read `best`: NULL when nothing is near. */
struct opt_nearest {
	const char *wanted;
	const char *best;
	unsigned distance;
};

void opt_offer(struct opt_nearest *near, const char *candidate);
void opt_offer_rows(struct opt_nearest *near, const struct opt_group *groups, size_t n, const char *section);

/* "N", "SIZE", "a|b|c"; "" for a switch. Returns buf. */
char *opt_syntax(const struct opt *row, char *buf, size_t cap);
/* "1 to 512", "at least 4 KB"; "" when there is no limit. Returns buf. */
char *opt_range(const struct opt *row, char *buf, size_t cap);
/* Joins the values of an OPT_ENUM row. Returns buf. */
char *opt_values(const struct opt *row, const char *separator, const char *last, char *buf, size_t cap);

#endif

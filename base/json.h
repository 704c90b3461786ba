/* SPDX-License-Identifier: MIT */
/* Result objects as scripts read them (jansson). Allocates; not for the data path. */
#ifndef DWCP_BASE_JSON_H
#define DWCP_BASE_JSON_H

#include "base/err.h"
#include "base/stats.h"
#include <jansson.h>
#include <stdbool.h>

/* {"schema":"dwcp/1","command":…,"environment":{host,kernel,cpu,cpus,commit,compiler,date},"measured":…} */
json_t *json_result(const char *command, bool measured);

/* {median, ci95_low, ci95_high, n}; numbers that are not finite become null. */
json_t *json_interval(struct stats_interval s);
json_t *json_number(double v); /* null when not finite */

/* Whether json_write could write there, as far as that can be told before the work is done: a result that took an hour
 * should not be lost to a directory that is not there. */
int json_check(const char *path, struct err *e);

/* Writes obj with a newline to `path`; NULL, "" and "-" mean standard output. A file is written
 * beside its name and renamed, so a reader never sees half of it. */
int json_write(const json_t *obj, const char *path, struct err *e);

#endif

/* SPDX-License-Identifier: MIT */
#include "base/err.h"
#include <stdarg.h>
#include <stdio.h>

int err_set(struct err *e, int code, const char *fmt, ...)
{
	char line[sizeof((struct err){ 0 }.why)];
	va_list ap;

	if (!e)
		return code;
	/* An argument may be e->why itself (context put before a cause). */
	va_start(ap, fmt);
	if (vsnprintf(line, sizeof line, fmt, ap) < 0)
		line[0] = 0;
	va_end(ap);

	/* Names come from users, files and peers: keep it one line, and no terminal escapes. */
	for (char *p = line; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = ' ';
	e->code = code;
	snprintf(e->why, sizeof e->why, "%s", line);
	return code;
}

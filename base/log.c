/* SPDX-License-Identifier: MIT */
#include "base/log.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A line up to PIPE_BUF (4096) is written whole even into a pipe. */
#define LINE_MAX_BYTES 2048

static enum log_level current = LOG_WARN;

static const char *const prefix[] = {
	[LOG_ERROR] = "dwcp: error: ",
	[LOG_WARN] = "dwcp: warning: ",
	[LOG_INFO] = "dwcp: ",
	[LOG_DEBUG] = "dwcp: debug: ",
};

void log_set_level(enum log_level level)
{
	__atomic_store_n(&current, level, __ATOMIC_RELAXED);
}

enum log_level log_level(void)
{
	return __atomic_load_n(&current, __ATOMIC_RELAXED);
}

void log_at(enum log_level level, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	int saved = errno;
	size_t used, room;
	va_list ap;
	int n;

	if (level > log_level())
		return;
	used = strlen(prefix[level]);
	memcpy(line, prefix[level], used);
	room = sizeof line - used - 1; /* the newline's byte is kept free */

	errno = saved; /* for %m */
	va_start(ap, fmt);
	n = vsnprintf(line + used, room, fmt, ap);
	va_end(ap);
	if (n < 0)
		n = 0;

	for (char *p = line + used; *p && n; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = ' ';
	if ((size_t)n >= room) {
		used = sizeof line - 2;
		memcpy(line + used - 3, "...", 3);
	} else {
		used += (size_t)n;
	}
	line[used++] = '\n';

	while (write(STDERR_FILENO, line, used) < 0 && errno == EINTR)
		;
	errno = saved;
}

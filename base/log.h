/* SPDX-License-Identifier: MIT */
/*
 * Logging to standard error, four levels. One line per call, written whole
 * with one write(2), so lines of several threads do not mix. Never called in
 * the data path. Thread rule: any thread.
 */
#ifndef DWCP_BASE_LOG_H
#define DWCP_BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Default LOG_WARN. Set once at start, before threads. */
void log_set_level(enum log_level level);
enum log_level log_level(void);

void log_at(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)

#endif

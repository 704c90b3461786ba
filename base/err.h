/* SPDX-License-Identifier: MIT */
/*
 * Errors with context.
 *
 * Functions return 0 or more, or -errno. What a peer got wrong is -EPROTO or
 * -EBADMSG. Set-up paths also fill a struct err, which says what was tried, on
 * what, and what to do. The first function that decides the error fills it;
 * callers pass it on unchanged. `e` may be NULL wherever it is a parameter.
 */
#ifndef DWCP_BASE_ERR_H
#define DWCP_BASE_ERR_H

struct err {
	int code;      /* -errno, 0 when nothing is wrong */
	char why[320]; /* one line, no newline, ends in the remedy */
};

/* Fills *e (unless NULL) and returns `code`, so that callers can write
 * `return err_set(e, -EINVAL, "…")`. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif

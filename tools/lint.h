/* SPDX-License-Identifier: MIT */
/*
 * Included before every file that clang-tidy looks at, and nowhere else: tells the static analyzer what it
 * cannot see across files, that err_set() returns the negative code it was given. Without it, every
 * "output is set only on success" reads as a use of something unset.
 */
#ifndef DWCP_TOOLS_LINT_H
#define DWCP_TOOLS_LINT_H

#include "base/err.h"

static inline int lint_negative(int code)
{
	if (code >= 0)
		__builtin_unreachable();
	return code;
}

#define err_set(e, code, ...) ((void)err_set((e), (code), __VA_ARGS__), lint_negative(code))

#endif

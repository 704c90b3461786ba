/* SPDX-License-Identifier: MIT */
/* Pictures, drawn by gnuplot where it is installed. */
#ifndef DWCP_CLI_PLOT_H
#define DWCP_CLI_PLOT_H

#include "base/err.h"
#include <stdio.h>

/* Is it a name for a picture, before hours are spent on what it shows? -EINVAL with the reason. "" is fine. */
int plot_check(const char *path, struct err *e);

/* Draws to path, whose ending says the format. The script, after terminal and output are set, is `script`'s. -ENOENT: there is
 * no gnuplot, and e says how to get it. */
int plot_draw(const char *path, unsigned width, unsigned height, void (*script)(const void *ctx, FILE *f),
	      const void *ctx, struct err *e);

#endif

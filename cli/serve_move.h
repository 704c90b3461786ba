/* SPDX-License-Identifier: MIT */
/* How `dwcp serve` reaches another one, for guests that go on from here. */
#ifndef DWCP_CLI_SERVE_MOVE_H
#define DWCP_CLI_SERVE_MOVE_H

#include "migrate/dest.h"

/* With every option of a transfer at its default. */
struct dest_onward serve_onward(void);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef DWCP_CLI_GUEST_OPTIONS_H
#define DWCP_CLI_GUEST_OPTIONS_H

#include "migrate/guest.h"

/* A group for the options of each kind of guest; bases (as many as guest_kinds has rows) are the caller's to free, also
 * after an error. Returns how many groups, or -ENOMEM. */
int guest_option_groups(struct opt_group *groups, void **bases);
/* Where the options of a kind are. */
void *guest_options_of(const struct guest_ops *kind, void *const *bases);

#endif

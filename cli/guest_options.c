/* SPDX-License-Identifier: MIT */
/* Options of the kinds of guests, for every command that makes one. */
#include "cli/guest_options.h"
#include <errno.h>
#include <stdlib.h>

int guest_option_groups(struct opt_group *groups, void **bases)
{
	int n = 0;

	for (size_t i = 0; guest_kinds[i]; i++) {
		const struct guest_ops *k = guest_kinds[i];

		if (!k->n_opts)
			continue;
		bases[i] = calloc(1, k->opts_size);
		if (!bases[i])
			return -ENOMEM;
		groups[n] = (struct opt_group){
			.name = k->name, .help = k->help, .rows = k->opts, .n = k->n_opts, .base = bases[i]
		};
		n++;
	}
	return n;
}

void *guest_options_of(const struct guest_ops *kind, void *const *bases)
{
	for (size_t i = 0; guest_kinds[i]; i++)
		if (guest_kinds[i] == kind)
			return bases[i];
	return NULL;
}

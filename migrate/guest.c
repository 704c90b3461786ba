/* SPDX-License-Identifier: MIT */
#include "migrate/guest.h"

#include "migrate/guest_kvm.h"
#include "migrate/guest_synth.h"
#include <string.h>

const struct guest_ops *const guest_kinds[] = { &guest_synth_ops, &guest_kvm_ops, NULL };

const struct guest_ops *guest_find(const char *name)
{
	for (size_t i = 0; guest_kinds[i]; i++)
		if (!strcmp(guest_kinds[i]->name, name))
			return guest_kinds[i];
	return NULL;
}

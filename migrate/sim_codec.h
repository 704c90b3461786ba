/* SPDX-License-Identifier: MIT */
/*
 * What compression makes of a guest's pages on a link that was not measured. The selector that the encoder runs
 * (compress/select.h) chooses codecs for sample blocks at the link's rate; what was measured at another rate changes in
 * the proportion of its predictions.
 */
#ifndef DWCP_MIGRATE_SIM_CODEC_H
#define DWCP_MIGRATE_SIM_CODEC_H

#include "migrate/sim_rates.h"

struct sim_codec;

/* Makes the samples: blocks of the documented mix. */
int sim_codec_open(struct sim_codec **out, struct err *e);
void sim_codec_close(struct sim_codec *c); /* NULL is fine */

/* mode: not HDE_NONE. link: bytes/s that one worker gets; faster than what was measured is taken as that, for then the
 * hosts are the limit as they were there. */
void sim_codec_cost(struct sim_codec *c, const struct sim_rates *r, enum hde_mode mode, double link,
		    struct sim_hde_rates *out);

#endif

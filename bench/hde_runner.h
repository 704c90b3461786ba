/* SPDX-License-Identifier: MIT */
/* Private to bench/hde_*.c: what whole images and changed pages have in common. */
#ifndef DWCP_BENCH_HDE_RUNNER_H
#define DWCP_BENCH_HDE_RUNNER_H

#include "bench/hde_bench.h"

/* Room for what is encoded, a slot for each unit (block or batch). */
struct hb_units {
	struct hugebuf out;
	uint32_t *len, unit, slot;
	uint64_t n;
};

int hb_units_open(struct hb_units *u, uint64_t bytes, uint32_t unit, struct err *e);
void hb_units_free(struct hb_units *u); /* any state */
uint8_t *hb_unit_out(const struct hb_units *u, uint64_t i);

bool hb_stopped(const struct hb_settings *s, size_t unit);
void hb_told(const struct hb_settings *s, uint64_t bytes);
void hb_note(struct hb_result *r, bool counts, uint64_t encode_ns, uint64_t decode_ns);
/* All -EBADMSG: the result is not verified. hb_compare: 0 when it is. */
int hb_wrong(struct hb_result *r, const char *why, struct err *e);
int hb_refused(struct hb_result *r, uint64_t unit, const struct hde_refusal *why, struct err *e);
int hb_compare(struct hb_result *r, const uint8_t *is, const uint8_t *should_be, uint64_t bytes, struct err *e);

/* One codec once over `data`, decoded to `to`, compared. */
int hb_codec_turn(const uint8_t *data, uint64_t bytes, uint8_t *to, struct hb_units *u, const struct hb_settings *s,
		  struct hb_result *r, bool counts, struct err *e);

void hb_hde_config(struct hde_config *c, const struct hb_algorithm *a, const struct hb_settings *s, uint64_t bytes);

#endif

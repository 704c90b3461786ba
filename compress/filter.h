/* SPDX-License-Identifier: MIT */
/*
 * HDE as a stage of a transfer (base/stage.h): the filter that a receiver is given, and the stage that a sender puts in
 * front of its memory or of another stage (files).
 */
#ifndef DWCP_COMPRESS_FILTER_H
#define DWCP_COMPRESS_FILTER_H

#include "base/stage.h"
#include "compress/hde.h"

#define HDE_CHUNK_MAX HDE_BATCH_MAX    /* chunks of a transfer that is compressed, at most */
#define HDE_CHUNK_DEFAULT (512u << 10) /* seven workers' buffers fit into a session's budget */

/* The receiving half, by the name "hde". Regions must be there when the first such transfer of the session begins. */
extern const struct filter hde_filter;

struct hde_stage;

/*
 * The sending half. memory: a region of `bytes` bytes; chunks that do not shrink go as raw puts. cfg->bytes is the same, or
 * 0: then no page refers to another, as must be where a transfer sends its pages more than once. NULL: `inner` fills
 * chunks (files), which refer to nothing outside themselves. *stage is what the transfer takes. cfg->workers: as many as
 * the session has. Begin each transfer of memory with hde_round (hde_stage_enc): its bytes may have changed since.
 */
int hde_stage_open(struct hde_stage **out, struct stage *stage, const struct hde_config *cfg, const void *memory,
		   uint64_t bytes, const struct stage *inner, struct err *e);
void hde_stage_close(struct hde_stage *s); /* NULL is fine */
struct hde_enc *hde_stage_enc(struct hde_stage *s);

#endif

/* SPDX-License-Identifier: MIT */
/* For tests of HDE: memory with known kinds of content, an encoder and a decoder that share nothing but payloads. */
#ifndef DWCP_TESTS_HDE_FIXTURE_H
#define DWCP_TESTS_HDE_FIXTURE_H

#include "compress/hde.h"

#define HDE_FIXTURE_PAGES 1024u

struct hde_fixture {
	uint8_t *here, *there; /* `bytes` each */
	uint64_t bytes;
	struct hde_config cfg;
	struct hde_enc *enc;
	struct hde_dec *dec;
	uint8_t *payload; /* HDE_BATCH_MAX + HDE_OVERHEAD */
	ssize_t len;
};

/* Zeros, text, numbers, random bytes, repeated pages and content that is there twice at other offsets. */
void hde_content(uint8_t *p, uint64_t bytes, uint64_t seed);

/* cfg NULL: mode auto. cfg->bytes is set. */
void hde_fixture_open(struct hde_fixture *f, uint64_t bytes, const struct hde_config *cfg);
void hde_fixture_close(struct hde_fixture *f);

/* Encodes n pages from `first` on into f->payload. */
void hde_fixture_encode(struct hde_fixture *f, uint64_t first, uint32_t n);
int hde_fixture_decode(struct hde_fixture *f, struct hde_refusal *why);
void hde_fixture_acked(struct hde_fixture *f, uint64_t first, uint32_t n);
/* All of it, batch after batch, each acknowledged: must succeed. */
void hde_fixture_send_all(struct hde_fixture *f);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * AMST's parsers: preambles, replies, and every message of both kinds of stream. The first byte chooses; the harness
 * makes checksums right where the second says so, since a fuzzer cannot guess them. What was read must survive being
 * written and read again, and nothing past the input is touched.
 */
#include "transport/wire.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
	if (!holds)
		abort();
}

static void fuzz_preamble(uint8_t *in, bool seal)
{
	struct preamble p, again;
	uint8_t out[BE_PREAMBLE];

	if (seal) {
		struct wcur c = wcur_init(in + BE_PREAMBLE - 4, 4);

		memcpy(in, "DWCP", 4);
		put_u32(&c, crc32c(in, BE_PREAMBLE - 4));
	}
	if (wire_get_preamble(in, &p) < 0)
		return;
	wire_put_preamble(out, &p);
	check(wire_get_preamble(out, &again) == 0);
	check(p.version == again.version && p.kind == again.kind && p.stream == again.stream &&
	      p.incarnation == again.incarnation && !memcmp(p.session, again.session, sizeof p.session));
}

static void fuzz_reply(uint8_t *in, bool seal)
{
	struct pre_reply p, again;
	uint8_t out[BE_PREAMBLE];

	if (seal) {
		struct wcur c = wcur_init(in + BE_PREAMBLE - 4, 4);

		memcpy(in, "DWCP", 4);
		put_u32(&c, crc32c(in, BE_PREAMBLE - 4));
	}
	if (wire_get_reply(in, &p) < 0)
		return;
	wire_put_reply(out, &p);
	check(wire_get_reply(out, &again) == 0 && p.status == again.status);
	check(pre_status_text((enum pre_status)p.status) != NULL);
}

static void fuzz_data_message(struct rcur c, const struct msg_head *h)
{
	uint8_t out[4096];
	struct msg_commit commit, commit2;
	struct msg_ack ack, ack2;
	struct chunk_rec chunk;
	struct msg_head h2;
	struct rcur c2;

	if (h->type == MSG_COMMIT && wire_get_commit(&c, &commit) == 0) {
		uint32_t len = wire_put_commit(out, sizeof out, h->id, &commit);

		check(len && commit.n >= 1 && commit.n <= WIRE_COMMIT_MAX);
		check(wire_open(out, len, &c2, &h2) == 0 && wire_get_commit(&c2, &commit2) == 0);
		check(commit2.n == commit.n && commit2.rec[0].sum == commit.rec[0].sum);
	} else if (h->type == MSG_ACK && wire_get_ack(&c, &ack) == 0) {
		uint32_t len = wire_put_ack(out, sizeof out, h->id, &ack);

		check(ack.status <= 0 && wire_open(out, len, &c2, &h2) == 0 && wire_get_ack(&c2, &ack2) == 0);
		check(ack2.ok == ack.ok && ack2.seq == ack.seq);
	} else if (h->type == MSG_CHUNK && wire_get_chunk(&c, &chunk) == 0) {
		uint64_t sum = 0;

		while (rcur_left(&c))
			sum += get_u8(&c);
		(void)sum;
	}
}

/* Every table over the same bytes: whatever a handler reads, its struct is wholly defined and its texts end. */
static void fuzz_tables(struct rcur in)
{
	static const struct wire_def *const defs[] = {
		&wire_commit_head, &wire_chunk_rec,    &wire_ack,        &wire_hello,        &wire_hello_reply,
		&wire_region,      &wire_region_reply, &wire_xfer_begin, &wire_xfer_end,     &wire_xfer_result,
		&wire_pull,        &wire_pull_result,  &wire_digest,     &wire_digest_reply, &wire_info,
		&wire_file_spec,   &wire_file_status,  &wire_file_hash,  &wire_file_close,   &wire_stream_down,
		&wire_pull_failed,
	};
	uint8_t msg[sizeof(struct store_spec) + 256] __attribute__((aligned(16)));

	for (size_t i = 0; i < sizeof defs / sizeof defs[0]; i++) {
		struct rcur c = in;

		memset(msg, 0xee, sizeof msg);
		wire_get(&c, defs[i], msg);
		for (uint32_t k = 0; k < defs[i]->n; k++) {
			const struct wire_field *f = &defs[i]->fields[k];

			if (f->kind == W_STR)
				check(memchr(msg + f->offset, 0, f->size) != NULL);
			if (f->kind == W_BOOL)
				check(msg[f->offset] <= 1);
		}
	}
}

static void fuzz_message(uint8_t *in, uint32_t len, bool seal)
{
	struct msg_head h;
	struct rcur c;

	if (seal && len >= WIRE_HEAD) {
		uint32_t covered = in[0] == MSG_CHUNK && in[1] == 0 && len > WIRE_HEAD + 32 ? WIRE_HEAD + 32 : len;

		memset(in + 2, 0, 2);
		memset(in + 8, 0, 4);
		wire_seal(in, covered);
	}
	if (wire_open(in, len, &c, &h) < 0)
		return;
	fuzz_data_message(c, &h);
	fuzz_tables(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy;

	if (size < 2)
		return 0;
	/* Exactly as long as the input, so that a read past it is seen. */
	size_t len = data[0] % 3 ? size - 2 : BE_PREAMBLE;

	copy = calloc(1, len ? len : 1);
	if (!copy)
		return 0;
	memcpy(copy, data + 2, len < size - 2 ? len : size - 2);
	if (data[0] % 3 == 0 && data[0] & 0x80)
		fuzz_preamble(copy, data[1] & 1);
	else if (data[0] % 3 == 0)
		fuzz_reply(copy, data[1] & 1);
	else
		fuzz_message(copy, (uint32_t)len, data[1] & 1);
	free(copy);
	return 0;
}

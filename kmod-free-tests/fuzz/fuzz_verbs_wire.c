/* SPDX-License-Identifier: MIT */
/*
 * The verbs backend's receiver: the input is a list of receive buffers (length, then bytes), which are taken as
 * transport/verbs_rx.c takes them, into a frame of exactly its size.
 */
#include "transport/verbs_wire.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FRAME 900
#define SEGMENT 300

struct receiver {
	struct vasm assembly;
	struct vgreet greet;
	uint32_t credits;
	uint8_t *frame;
};

static int take(struct receiver *r, const uint8_t *in, uint32_t n)
{
	uint32_t at = r->assembly.open ? r->assembly.got : 0;
	struct vseg s;
	int rc;

	if (vseg_parse(in, n, &s) < 0 || vcredits_add(&r->credits, s.credits) < 0)
		return -1;
	if (r->credits > VGREET_CREDITS_MAX)
		abort();
	if (s.type == VSEG_HELLO)
		return vgreet_parse(s.payload, s.payload_len, &r->greet);
	if (s.type != VSEG_FIRST && s.type != VSEG_MORE)
		return 0;
	rc = vasm_take(&r->assembly, &s, FRAME);
	if (rc < 0)
		return -1;
	memcpy(r->frame + at, s.payload, s.payload_len);
	if ((rc == 1) != (r->assembly.got == r->assembly.len))
		abort();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct receiver r = { .frame = malloc(FRAME) };

	while (size > 2 && r.frame) {
		uint32_t n = (data[0] | (uint32_t)data[1] << 8) % SEGMENT;
		uint8_t *buf;
		int rc;

		data += 2;
		size -= 2;
		n = n < size ? n : (uint32_t)size;
		buf = malloc(n ? n : 1); /* its own, so that a byte too far is seen */
		if (!buf)
			break;
		memcpy(buf, data, n);
		rc = take(&r, buf, n);
		free(buf);
		data += n;
		size -= n;
		if (rc < 0)
			break;
	}
	free(r.frame);
	return 0;
}

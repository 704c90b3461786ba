/* SPDX-License-Identifier: MIT */
#include "transport/verbs_wire.h"
#include "base/wire.h"
#include <errno.h>

#define VERSION 1

void vseg_put(uint8_t out[VSEG_HEADER], enum vseg_type type, uint16_t credits, uint32_t len)
{
	struct wcur w = wcur_init(out, VSEG_HEADER);

	put_u8(&w, (uint8_t)type);
	put_u8(&w, 0);
	put_u16(&w, credits);
	put_u32(&w, len);
}

int vseg_parse(const uint8_t *in, uint32_t n, struct vseg *out)
{
	struct rcur c = rcur_init(in, n);
	uint8_t type = get_u8(&c), flags = get_u8(&c);

	*out = (struct vseg){ 0 };
	out->credits = get_u16(&c);
	out->len = get_u32(&c);
	if (c.bad || type < VSEG_HELLO || type > VSEG_BYE || flags)
		return -EPROTO;
	out->type = (enum vseg_type)type;
	out->payload = c.p;
	out->payload_len = (uint32_t)rcur_left(&c);
	switch (out->type) {
	case VSEG_HELLO:
		return out->payload_len == VGREET && !out->len ? 0 : -EPROTO;
	case VSEG_FIRST:
		return out->payload_len <= out->len && (out->payload_len || !out->len) ? 0 : -EPROTO;
	case VSEG_MORE:
		return out->payload_len && !out->len ? 0 : -EPROTO;
	default:
		return !out->payload_len && !out->len ? 0 : -EPROTO;
	}
}

void vgreet_put(uint8_t out[VGREET], const struct vgreet *g)
{
	struct wcur w = wcur_init(out, VGREET);

	put_bytes(&w, "DV", 2);
	put_u8(&w, VERSION);
	put_u8(&w, g->mtu);
	put_u32(&w, g->seg);
	put_u16(&w, g->credits);
	put_u16(&w, 0);
}

int vgreet_parse(const uint8_t *in, size_t n, struct vgreet *g)
{
	struct rcur c = rcur_init(in, n);
	uint16_t magic = get_u16(&c);
	uint8_t version = get_u8(&c);
	uint16_t zero;

	g->mtu = get_u8(&c);
	g->seg = get_u32(&c);
	g->credits = get_u16(&c);
	zero = get_u16(&c);
	if (c.bad || magic != ('D' | 'V' << 8) || version != VERSION || zero || g->mtu < 1 || g->mtu > 5)
		return -EPROTO;
	if (g->seg < VGREET_SEG_MIN || g->seg > VGREET_SEG_MAX || g->credits < VGREET_CREDITS_MIN ||
	    g->credits > VGREET_CREDITS_MAX)
		return -EPROTO;
	return 0;
}

int vasm_take(struct vasm *a, const struct vseg *s, uint32_t frame_max)
{
	if ((s->type == VSEG_FIRST) == a->open)
		return -EPROTO;
	if (s->type == VSEG_FIRST) {
		if (s->len > frame_max)
			return -EPROTO;
		*a = (struct vasm){ .len = s->len, .open = true };
	}
	if (s->payload_len > a->len - a->got)
		return -EPROTO;
	a->got += s->payload_len;
	if (a->got < a->len)
		return 0;
	a->open = false;
	return 1;
}

int vcredits_add(uint32_t *have, uint16_t more)
{
	if (*have + more > VGREET_CREDITS_MAX)
		return -EPROTO;
	*have += more;
	return 0;
}

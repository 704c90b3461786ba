/* SPDX-License-Identifier: MIT */
/* What the verbs backend parses of a peer's, what a put's address becomes, and how its shared object is found. */
#include "transport/verbs_wire.h"
#include "base/util.h"
#include "transport/verbs.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static void segments_round(void **state)
{
	uint8_t buf[VSEG_HEADER + VGREET];
	struct vseg s;

	(void)state;
	memset(buf, 7, sizeof buf);
	vseg_put(buf, VSEG_FIRST, 0x1234, 0x89abcdef);
	assert_int_equal(vseg_parse(buf, sizeof buf, &s), 0);
	assert_int_equal(s.type, VSEG_FIRST);
	assert_int_equal(s.credits, 0x1234);
	assert_int_equal(s.len, 0x89abcdef);
	assert_ptr_equal(s.payload, buf + VSEG_HEADER);
	assert_int_equal(s.payload_len, VGREET);
	vseg_put(buf, VSEG_HELLO, 0, 0);
	assert_int_equal(vseg_parse(buf, sizeof buf, &s), 0);
	vseg_put(buf, VSEG_BYE, 1, 0);
	assert_int_equal(vseg_parse(buf, VSEG_HEADER, &s), 0);
}

static void segments_that_break_the_rules(void **state)
{
	static const struct {
		const char *what;
		uint8_t type, flags;
		uint32_t len, bytes;
	} bad[] = {
		{ "type 0", 0, 0, 0, 8 },
		{ "type 6", 6, 0, 0, 8 },
		{ "flags", VSEG_CREDIT, 1, 0, 8 },
		{ "no header", VSEG_CREDIT, 0, 0, 7 },
		{ "nothing", VSEG_CREDIT, 0, 0, 0 },
		{ "credit with payload", VSEG_CREDIT, 0, 0, 9 },
		{ "credit with length", VSEG_CREDIT, 0, 1, 8 },
		{ "bye with payload", VSEG_BYE, 0, 0, 12 },
		{ "hello too short", VSEG_HELLO, 0, 0, 19 },
		{ "hello too long", VSEG_HELLO, 0, 0, 21 },
		{ "more of nothing", VSEG_MORE, 0, 0, 8 },
		{ "more with length", VSEG_MORE, 0, 5, 12 },
		{ "first of nothing", VSEG_FIRST, 0, 5, 8 },
		{ "more than the message", VSEG_FIRST, 0, 5, 14 },
	};
	uint8_t buf[64] = { 0 };
	struct vseg s;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		vseg_put(buf, (enum vseg_type)bad[i].type, 0, bad[i].len);
		buf[1] = bad[i].flags;
		if (vseg_parse(buf, bad[i].bytes, &s) != -EPROTO)
			fail_msg("%s is taken", bad[i].what);
	}
}

static void greetings(void **state)
{
	const struct vgreet good = { .seg = 4096, .credits = 8, .mtu = 3 };
	uint8_t buf[VGREET + 4] = { 0 };
	struct vgreet g;

	(void)state;
	vgreet_put(buf, &good);
	assert_int_equal(vgreet_parse(buf, sizeof buf, &g), 0);
	assert_int_equal(g.seg, 4096);
	assert_int_equal(g.credits, 8);
	assert_int_equal(g.mtu, 3);
	for (size_t n = 0; n < VGREET; n++)
		assert_int_equal(vgreet_parse(buf, n, &g), -EPROTO);
	for (size_t i = 0; i < VGREET; i++) {
		static const bool free_to_change[VGREET] = {
			[3] = true, [5] = true, [6] = true, [8] = true, [9] = true
		};

		buf[i] ^= 0x80;
		if (!free_to_change[i] && i != 4)
			assert_int_equal(vgreet_parse(buf, VGREET, &g), -EPROTO);
		buf[i] ^= 0x80;
	}
	for (int mtu = 0; mtu < 256; mtu += mtu == 5 ? 250 : 1) {
		buf[3] = (uint8_t)mtu;
		assert_int_equal(vgreet_parse(buf, VGREET, &g), mtu >= 1 && mtu <= 5 ? 0 : -EPROTO);
	}
	for (uint32_t credits = 0; credits < 2 * VGREET_CREDITS_MAX; credits++) {
		vgreet_put(buf, &(struct vgreet){ .seg = 4096, .credits = (uint16_t)credits, .mtu = 1 });
		assert_int_equal(vgreet_parse(buf, VGREET, &g),
				 credits >= VGREET_CREDITS_MIN && credits <= VGREET_CREDITS_MAX ? 0 : -EPROTO);
	}
	vgreet_put(buf, &(struct vgreet){ .seg = VGREET_SEG_MAX + 1, .credits = 8, .mtu = 1 });
	assert_int_equal(vgreet_parse(buf, VGREET, &g), -EPROTO);
	vgreet_put(buf, &(struct vgreet){ .seg = VGREET_SEG_MIN - 1, .credits = 8, .mtu = 1 });
	assert_int_equal(vgreet_parse(buf, VGREET, &g), -EPROTO);
}

static void assembly(void **state)
{
	struct vasm a = { 0 };
	struct vseg first = { .type = VSEG_FIRST, .len = 10, .payload_len = 4 };
	struct vseg more = { .type = VSEG_MORE, .payload_len = 3 };
	struct vseg empty = { .type = VSEG_FIRST };

	(void)state;
	assert_int_equal(vasm_take(&a, &more, 100), -EPROTO); /* of what? */
	assert_int_equal(vasm_take(&a, &empty, 0), 1);
	assert_int_equal(vasm_take(&a, &first, 10), 0);
	assert_int_equal(a.got, 4);
	assert_int_equal(vasm_take(&a, &first, 10), -EPROTO); /* the last one is not whole */
	assert_int_equal(vasm_take(&a, &more, 10), 0);
	more.payload_len = 4;
	assert_int_equal(vasm_take(&a, &more, 10), -EPROTO); /* one byte too many */
	more.payload_len = 3;
	assert_int_equal(vasm_take(&a, &more, 10), 1);
	assert_int_equal(a.got, 10);
	assert_int_equal(vasm_take(&a, &first, 9), -EPROTO); /* larger than a frame */
	first.len = UINT32_MAX;
	assert_int_equal(vasm_take(&a, &first, 9), -EPROTO);
}

static void credits(void **state)
{
	uint32_t have = 0;

	(void)state;
	assert_int_equal(vcredits_add(&have, VGREET_CREDITS_MAX), 0);
	assert_int_equal(vcredits_add(&have, 1), -EPROTO);
	assert_int_equal(vcredits_add(&have, UINT16_MAX), -EPROTO);
	assert_int_equal(have, VGREET_CREDITS_MAX);
}

/* What the device checks a put against is [iova, iova + len); no token and offset may name it but the right ones. */
static bool inside(uint64_t iova, uint64_t len, uint64_t address, uint64_t n)
{
	return address >= iova && address - iova <= len && n <= len - (address - iova);
}

static void addresses(void **state)
{
	const uintptr_t at[] = { 0x7f0000001000, 0x7f00001fffff, 0x200000, 0x1 };
	const uint64_t len = 1ull << 43;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(at); i++) {
		const void *p = (const void *)at[i];
		struct be_token t = { .id = 5, .key = vtoken_key(0xdeadbeef, p) };
		uint64_t iova = vtoken_iova(5, p);

		assert_int_equal(vtoken_rkey(t), 0xdeadbeef);
		assert_true(vtoken_address(t, 0) == iova);
		assert_true(iova % (2u << 20) == at[i] % (2u << 20)); /* huge pages stay whole */
		assert_true(inside(iova, len, vtoken_address(t, len - 1), 1));
		assert_false(inside(iova, len, vtoken_address(t, len), 1));
		assert_false(inside(iova, len, vtoken_address(t, UINT64_MAX - 3), 8));
		assert_false(inside(iova, len, vtoken_address(t, UINT64_MAX), 1));
		t.id = 6;
		assert_false(inside(iova, len, vtoken_address(t, 0), 1));
		t.id = 4;
		assert_false(inside(iova, len, vtoken_address(t, 0), 1));
		t.id = UINT32_MAX;
		assert_false(inside(iova, len, vtoken_address(t, 0), 1));
	}
	assert_true(vtoken_iova(VTOKEN_ID_MAX, NULL) >> 44 == VTOKEN_ID_MAX);
}

static void no_shared_object(void **state)
{
	char dir[] = "/tmp/dwcp-plugins.XXXXXX", path[64];
	struct err e = { 0 };
	FILE *f;

	(void)state;
	assert_int_equal(setenv("DWCP_PLUGINS", "/nowhere", 1), 0);
	assert_int_equal(verbs_ops.probe(&e), -ENOENT);
	assert_non_null(strstr(e.why, "librdmacm-dev"));
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/rdma.so", dir);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs("no shared object", f);
	fclose(f);
	setenv("DWCP_PLUGINS", dir, 1);
	assert_int_equal(verbs_ops.probe(&e), -ELIBBAD);
	assert_non_null(strstr(e.why, path));
	assert_int_equal(verbs_ops.open(&(struct be_open){ 0 }, NULL, &e), -ELIBBAD);
	unlink(path);
	rmdir(dir);
	unsetenv("DWCP_PLUGINS");
}

/* Beside the tests it is found, and says yes or why not. */
static void shared_object(void **state)
{
	struct err e = { 0 };
	struct be *be = NULL;
	struct be_open o = { .streams = 0, .sends = 1 };
	int rc = verbs_ops.probe(&e);

	(void)state;
	if (rc == -ENOENT || rc == -ENOPKG) {
		print_message("skipped: %s\n", e.why);
		skip();
	}
	if (rc < 0) {
		assert_int_not_equal(rc, -ELIBBAD);
		assert_true(strlen(e.why) > 20);
	}
	assert_int_equal(verbs_ops.open(&o, &be, &e), -EINVAL);
	assert_null(be);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(segments_round),   cmocka_unit_test(segments_that_break_the_rules),
		cmocka_unit_test(greetings),        cmocka_unit_test(assembly),
		cmocka_unit_test(credits),          cmocka_unit_test(addresses),
		cmocka_unit_test(no_shared_object), cmocka_unit_test(shared_object),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

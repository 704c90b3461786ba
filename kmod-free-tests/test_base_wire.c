/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/util.h"
#include "base/wire.h"

static void round_trip_is_little_endian(void **state)
{
	static const uint8_t want[] = { 1, 3, 2, 7, 6, 5, 4, 15, 14, 13, 12, 11, 10, 9, 8, 2, 0, 'h', 'i', 0, 0 };
	uint8_t buf[sizeof want];
	struct wcur w = wcur_init(buf, sizeof buf);
	struct rcur r;
	char text[3];

	(void)state;
	put_u8(&w, 1);
	put_u16(&w, 0x0203);
	put_u32(&w, 0x04050607);
	put_u64(&w, 0x08090a0b0c0d0e0full);
	put_str(&w, "hi");
	put_str(&w, "");
	assert_false(w.bad);
	assert_ptr_equal(w.p, w.end);
	assert_memory_equal(buf, want, sizeof want);

	r = rcur_init(buf, sizeof buf);
	assert_int_equal(get_u8(&r), 1);
	assert_int_equal(get_u16(&r), 0x0203);
	assert_int_equal(get_u32(&r), 0x04050607);
	assert_int_equal(get_u64(&r), 0x08090a0b0c0d0e0full);
	get_str(&r, text, sizeof text);
	assert_string_equal(text, "hi");
	get_str(&r, text, sizeof text);
	assert_string_equal(text, "");
	assert_false(r.bad);
	assert_int_equal(rcur_left(&r), 0);
}

static void overruns_stick(void **state)
{
	uint8_t buf[16];
	struct wcur w;
	struct rcur r;

	(void)state;
	memset(buf, 0xee, sizeof buf);
	w = wcur_init(buf, 6);
	put_u32(&w, 0);
	put_u32(&w, 0); /* does not fit: nothing of it is written */
	put_u8(&w, 0);  /* would fit, but comes after the overrun */
	assert_true(w.bad);
	assert_ptr_equal(w.p, buf + 4);
	assert_int_equal(buf[4], 0xee);

	r = rcur_init(buf, 5);
	assert_int_equal(get_u32(&r), 0);
	assert_int_equal(get_u16(&r), 0);
	assert_true(r.bad);
	assert_int_equal(rcur_left(&r), 0);
	assert_int_equal(get_u8(&r), 0);
}

static void strings_from_a_hostile_peer(void **state)
{
	static const struct {
		uint8_t bytes[8];
		size_t len;
	} bad[] = {
		{ { 0xff, 0xff, 'a' }, 3 },          /* longer than what is there */
		{ { 4, 0, 'a', 'b', 'c', 'd' }, 6 }, /* no room for the NUL */
		{ { 3, 0, 'a', 0, 'c' }, 5 },        /* a NUL inside */
		{ { 1 }, 1 },                        /* half a length */
		{ { 1, 0 }, 2 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct rcur r = rcur_init(bad[i].bytes, bad[i].len);
		char text[6] = "xxxxG";

		get_str(&r, text, 4);
		assert_true(r.bad);
		assert_string_equal(text, "");
		assert_int_equal(text[4], 'G');
	}
}

static void strings_longer_than_the_length_field(void **state)
{
	static char text[70000];
	static uint8_t buf[80000];
	struct wcur w = wcur_init(buf, sizeof buf);

	(void)state;
	memset(text, 'a', sizeof text - 1);
	put_str(&w, text);
	assert_true(w.bad);
	assert_ptr_equal(w.p, buf);
}

static void no_bytes_at_all(void **state)
{
	struct rcur r = rcur_init(NULL, 0);
	struct wcur w = wcur_init(NULL, 0);

	(void)state;
	get_bytes(&r, NULL, 0);
	put_bytes(&w, NULL, 0);
	assert_false(r.bad || w.bad);
	assert_int_equal(get_u8(&r), 0);
	put_u8(&w, 1);
	assert_true(r.bad && w.bad);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip_is_little_endian),
		cmocka_unit_test(overruns_stick),
		cmocka_unit_test(strings_from_a_hostile_peer),
		cmocka_unit_test(strings_longer_than_the_length_field),
		cmocka_unit_test(no_bytes_at_all),
	};

	return cmocka_run_group_tests_name("base/wire", tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/clock.h"
#include <time.h>

static void monotonic_moves_and_never_goes_back(void **state)
{
	uint64_t first = clock_now(&clock_mono), last = first;
	struct timespec ts;

	(void)state;
	while (last == first)
		last = clock_now(&clock_mono);
	for (int i = 0; i < 10000; i++) {
		uint64_t now = clock_now(&clock_mono);

		assert_true(now >= last);
		last = now;
	}
	clock_gettime(CLOCK_MONOTONIC, &ts);
	assert_true((uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec >= last);
}

static void manual_moves_when_told(void **state)
{
	uint64_t t = 5;
	struct clock c = clock_manual(&t);

	(void)state;
	assert_int_equal(clock_now(&c), 5);
	assert_int_equal(clock_now(&c), 5);
	t += 3600 * NS_PER_S;
	assert_int_equal(clock_now(&c), 3600 * NS_PER_S + 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(monotonic_moves_and_never_goes_back),
		cmocka_unit_test(manual_moves_when_told),
	};

	return cmocka_run_group_tests_name("base/clock", tests, NULL, NULL);
}

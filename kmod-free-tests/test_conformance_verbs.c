/* SPDX-License-Identifier: MIT */
/*
 * The conformance suite over RDMA verbs, on the first address of an RDMA device. Where there is none it is skipped; the
 * guest (kmod-free-tests/guest) has soft-RoCE.
 */
/* check: timeout=300 no-valgrind in-guest in-guest-valgrind */
#include "kmod-free-tests/conformance_impl.h"
#include "kmod-free-tests/rdma_device.h"
#include "transport/verbs.h"

/* What only moves many bytes is left out then, and the backend is tried in one way. */
static bool under_valgrind(void)
{
	const char *set = getenv("TEST_SET");

	return set && !strcmp(set, "valgrind");
}

static struct err missing;

static void needs_a_device(void **state)
{
	(void)state;
	print_message("skipped: %s\n", missing.why);
	skip();
}

static int run(const char *name, const struct verbs_opts *opts)
{
	struct conf_target t = { .name = name, .ops = &verbs_ops, .opts = opts, .idle = conf_idle_real };
	static const char *const bulk[] = { "put_sizes",
					    "message_sizes",
					    "many_streams",
					    "placed_before_message",
					    "busy_region_ends_with_its_streams",
					    NULL };
	const struct CMUnitTest none[] = { cmocka_unit_test(needs_a_device) };

	if (verbs_ops.probe(&missing) < 0 || (!rdma_device_address(&t.listen_at) &&
					      err_set(&missing, -ENODEV, "no RDMA device has an IPv4 address") < 0))
		return cmocka_run_group_tests_name(name, none, NULL, NULL);
	if (under_valgrind())
		t.leave_out = bulk;
	return conformance_run(&t);
}

/* Arguments: a pattern, for only tests of such names; the number of the only way to run them. */
int main(int argc, char **argv)
{
	int way = argc > 2 ? atoi(argv[2]) : under_valgrind() ? 0 : -1, failed = 0;
	struct verbs_opts o;

	opt_defaults(&(struct opt_group){ .rows = verbs_ops.opts, .n = verbs_ops.n_opts, .base = &o }, 1);
	if (getenv("TEST_PATIENCE")) /* an emulated machine, which a busy one may leave standing for seconds */
		o.connection_timeout *= 4;
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	if (way <= 0)
		failed = run("rdma", &o);

	o.srq = VERBS_SRQ_ON;
	if (way < 0 || way == 1)
		failed += run("rdma, shared receive queue", &o);
	o.srq = VERBS_SRQ_OFF;
	o.send_inline_size = 0;
	o.queue_depth = 4;
	o.max_send_sge = 1;
	o.signal_interval = 3;
	if (way < 0 || way == 2)
		failed += run("rdma, nothing inline, short queues, one piece", &o);
	return failed;
}

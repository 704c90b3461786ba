/* SPDX-License-Identifier: MIT */
/* dwcp benchmark: the table of what can be measured. */
#include "cli/cmd.h"
#include "cli/bench_amst.h"
#include "cli/bench_hde.h"

const struct command cmd_benchmark_table[] = {
	{ .name = "amst", .run = cmd_benchmark_amst, .help = "memory to memory over many streams" },
	{ .name = "hde", .run = cmd_benchmark_hde, .help = "compression of memory: ratio, speed, delta, selector" },
	{ 0 },
};

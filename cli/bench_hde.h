/* SPDX-License-Identifier: MIT */
/* `dwcp benchmark hde`: how it is asked for; what is measured is in bench/hde_*.h. */
#ifndef DWCP_CLI_BENCH_HDE_H
#define DWCP_CLI_BENCH_HDE_H

int cmd_benchmark_hde(int argc, char **argv);

#endif

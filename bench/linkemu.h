/* SPDX-License-Identifier: MIT */
/*
 * An emulated link: a process of its own that holds two network namespaces, A and B, with a TUN device in each, and
 * carries packets from one to the other (linkemu_pump.h) as a link would (linkemu_sched.h).
 *
 *	A: dwcp0 ──► tun ──► pump A→B: queue, rate, loss, delay ──► tun ──► dwcp0 :B
 *	           ◄── tun ◄── pump B→A ◄── tun ◄──
 *
 * Nothing of it is in the file system. The namespaces are held by descriptors of that process and the processes that
 * run in them, the devices by its descriptors, and it is found by an abstract socket; so all of it ends with the
 * process, however that ends. A second process waits for that, then ends those that are still in the namespaces.
 *
 * Links have names, and are found from the network namespace that they were made in only, by their own user and root.
 */
#ifndef DWCP_BENCH_LINKEMU_H
#define DWCP_BENCH_LINKEMU_H

#include "bench/linkemu_net.h"
#include "bench/linkemu_opt.h"
#include <sys/types.h>

#define LINK_NAME_MAX 32

/* -EINVAL unless 1 to 32 letters, digits, '.', '-' and '_', the first one a letter or digit; A and B are not names. */
int linkemu_name_check(const char *name, struct err *e);

/* Makes a link; returns when it carries packets. With `owner` it ends when *owner, a descriptor that the caller gets,
 * is closed (also by the caller's death); otherwise it stays until linkemu_down. Forks: to be called before there are
 * threads. -EEXIST when there is one of this name. */
int linkemu_up(const char *name, const struct link_settings *s, int *owner, struct err *e);

/* Moves the calling thread, and what it starts, to one side. */
int linkemu_join(const char *name, enum link_side side, struct err *e);
/* {"name", "pid", "settings", "ab": {counters}, "ba": {counters}}: see linkemu_ctl.c; decref is the caller's. */
int linkemu_status(const char *name, json_t **out, struct err *e);
/* The same as scripts read it, units in the names. */
int linkemu_describe(const json_t *status, json_t **out, struct err *e);
/* Replaces the settings while traffic runs; but for `offload` and `seed`, which stay. */
int linkemu_set(const char *name, const struct link_settings *s, struct err *e);
/* Ends it and what runs in it; returns how many processes that were. */
int linkemu_down(const char *name, struct err *e);

/* Names of this namespace's links: an array of strings. */
json_t *linkemu_list(void);

#endif

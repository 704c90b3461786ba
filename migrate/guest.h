/* SPDX-License-Identifier: MIT */
/*
 * What can be migrated: a guest, that is memory which something writes to while it runs, and a state that is small.
 * Each kind is one file, one const table, one row of `guest_kinds`.
 *
 * A guest is made paused. Its life:
 *
 *   open ─► paused ─run─► running ─pause─► paused ─save─► (elsewhere: open, load) ─run─► …
 *
 * Memory belongs to whoever opens the guest and outlives it. While a guest is paused nothing but its owner writes there.
 * Threads: one thread owns a guest; `work` may be called by any.
 */
#ifndef DWCP_MIGRATE_GUEST_H
#define DWCP_MIGRATE_GUEST_H

#include "base/err.h"
#include "base/opt.h"
#include "base/wire.h"

#define GUEST_PAGE 4096u
#define GUEST_STATE_MAX 49152u      /* so that it fits one control message */
#define GUEST_MEMORY_MIN (1u << 20) /* and a multiple of GUEST_PAGE */
#define GUEST_MEMORY_MAX (1ull << 42)
#define GUEST_KIND_LEN 16

struct guest;

struct guest_work {
	uint64_t writes; /* pages written since it was made, wherever that was */
	uint64_t steps;  /* what else it has done: reading and computing */
	uint64_t pages;  /* that it may write to: its working set */
};

struct guest_ops {
	const char *name;       /* "synth" */
	const char *help;       /* one line */
	const struct opt *opts; /* option table; offsets are in a struct of opts_size bytes */
	size_t n_opts, opts_size;
	bool kernel; /* memory is touched by the kernel on its behalf, not by threads of this process only */

	/* Can this machine run it? 0, or -errno with reason and remedy. No side effects. */
	int (*probe)(struct err *e);

	/* Makes a paused guest in zeroed memory. opts: fill memory and start anew as they say; NULL: `load` follows,
	 * memory comes from elsewhere. On error nothing is left. */
	int (*open)(struct guest **out, void *mem, uint64_t len, const void *opts, struct err *e);
	void (*close)(struct guest *g); /* any state; NULL is fine */

	int (*run)(struct guest *g, struct err *e);
	/* Returns when nothing writes to memory any more; bounded by milliseconds. */
	int (*pause)(struct guest *g, struct err *e);
	/* Begins a pause and does not wait for it: a guest of which pages are missing may be waiting for one. `run` goes on. */
	void (*halt)(struct guest *g);

	/* The state of a paused guest, at most GUEST_STATE_MAX bytes. load: a peer's or file's word, checked. */
	int (*save)(struct guest *g, struct wcur *out, struct err *e);
	int (*load)(struct guest *g, struct rcur *in, struct err *e);

	/* Paused: does memory agree with the state, write by write? -EBADMSG says what is wrong. */
	int (*check)(struct guest *g, struct err *e);

	/* Running or paused: takes so much of its time away, 0 … 99 percent. NULL: cannot be throttled. */
	void (*throttle)(struct guest *g, unsigned percent);

	void (*work)(const struct guest *g, struct guest_work *out);
};

struct guest {
	const struct guest_ops *ops;
	uint8_t *mem;
	uint64_t len;
};

static inline uint64_t guest_pages(const struct guest *g)
{
	return g->len / GUEST_PAGE;
}

extern const struct guest_ops *const guest_kinds[]; /* every kind, NULL-terminated */
const struct guest_ops *guest_find(const char *name);

#endif

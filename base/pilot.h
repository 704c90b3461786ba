/* SPDX-License-Identifier: MIT */
/*
 * How a transfer is flown: what was seen goes in, what is wanted comes out.
 *
 * The transport tells a pilot what one stretch of a running transfer was like,
 * about ten times a second; the pilot answers how much may be under way, in
 * pieces of which size, over how many streams. It knows nothing of sockets or
 * of the transport, which knows nothing of models: a search
 * (transport/tune.h) and a forecast are two rows behind the same contract.
 *
 * A pilot does no I/O and asks no clock: at_ns is the time. It is called by one
 * thread, must not block, and allocates nothing once it flies.
 */
#ifndef DWCP_BASE_PILOT_H
#define DWCP_BASE_PILOT_H

#include <stdbool.h>
#include <stdint.h>

/* One stretch. What the transport cannot know is 0. */
struct pilot_seen {
	uint64_t at_ns;        /* its end, on the injected clock */
	uint64_t ns;           /* its length, never 0 */
	uint64_t bytes;        /* payload that the peer confirmed in it */
	uint64_t rtt_ns;       /* smoothed round trip, median over the streams that are up */
	uint64_t rtt_least_ns; /* without queues: median of the streams' least */
	uint64_t segments;     /* sent in it… */
	uint64_t lost;         /* …and how many of them did not arrive */
	uint64_t queue;        /* bytes handed to the network and not confirmed, at its end */
	uint64_t path_rate;    /* bytes per second that the streams' paths say they carry, together */
	uint32_t streams;      /* up, at its end */
	uint32_t chunk;        /* bytes: size of the pieces of the transfer that runs */
	bool starved;          /* the sender was the limit: how little moved says nothing of the link */
};

/* 0: no opinion, the transport's own rule holds. Values outside what the transport can do are brought inside. */
struct pilot_wants {
	uint64_t window;  /* bytes under way, all streams together */
	uint32_t chunk;   /* bytes; of the next transfer, the one that runs keeps its own */
	uint32_t streams; /* taken up and given up while the transfer runs */
};

struct pilot_ops {
	const char *name;
	/* *w holds what is in force; true when it was changed. */
	bool (*look)(void *ctx, const struct pilot_seen *seen, struct pilot_wants *w);
};

struct pilot {
	const struct pilot_ops *ops; /* NULL: none */
	void *ctx;
};

#endif

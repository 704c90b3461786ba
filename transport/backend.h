/* SPDX-License-Identifier: MIT */
/*
 * The contract every transport backend meets.
 *
 * A *stream* is an ordered, reliable connection between two instances; streams
 * are independent of one another. It has two verbs:
 *
 *   send  a message of at most caps.frame_max bytes, which the peer gets as one
 *         BE_MESSAGE event, in a frame of the peer's instance;
 *   put   bulk bytes placed straight into memory that the peer registered and
 *         offered. The peer's program need not take part (RDMA WRITE); a
 *         backend that does see arrivals reports them (BE_PLACED, caps.sees_puts).
 *
 * A message sent after a put on the same stream is delivered after that put is
 * placed. Nothing else about the order of placement is promised.
 *
 * Ownership: memory handed to send or put (the body, not the header, which is
 * copied) belongs to the backend from acceptance until the BE_DONE with its
 * cookie. DONE means *reusable*, not delivered. Every accepted operation gets
 * exactly one DONE, in order on its stream, with err set if it was not sent;
 * BE_DOWN comes after the stream's last DONE and is its last event. After DOWN
 * no byte of that stream is placed any more, on this side: that is what fencing
 * relies on. A frame of a BE_MESSAGE is the caller's until `release`, also
 * after DOWN; close() takes all frames back.
 *
 * Back-pressure: send and put return how many operations were accepted; 0 means
 * "full, try again after a DONE of this stream" and is a normal answer. A negative
 * return is -ENOTCONN (stream not connected, or going down) or -EINVAL (a bug of
 * the caller: over frame_max, unknown stream); no DONE follows for what was not accepted.
 * Of an array with a wrong operation, those before it are taken.
 *
 * Threads: an instance belongs to one thread; only `wake` may be called from
 * others. No hook but open, listen, connect, accept and region_add allocates, none
 * blocks but wait, and none calls back: `poll` is the only way events come out.
 * Instances of one backend in one process may be used by several threads, one each.
 *
 * Trust: a backend checks every length, offset, region and token that comes from
 * a peer before it acts on it. A peer's mistake takes the stream DOWN with
 * -EPROTO (or -EBADMSG for a damaged header) and touches no memory outside the
 * regions of the stream's domain.
 */
#ifndef DWCP_TRANSPORT_BACKEND_H
#define DWCP_TRANSPORT_BACKEND_H

#include "base/clock.h"
#include "base/err.h"
#include "base/metrics.h"
#include "base/opt.h"
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct be;         /* one instance; each backend embeds it as its first member */
struct be_request; /* an incoming connection that nobody has accepted yet */

/* Names a stream of one instance: slot and generation, so that a stale handle is an error and never
 * another stream. 0 is no stream. */
typedef uint32_t be_stream;

/* Opaque bytes that the connecting side presents and the accepting side answers with. 56 bytes is
 * what an RDMA connection request carries. Their meaning is AMST's (transport/wire.h). */
#define BE_PREAMBLE 56

/* Capabilities: data, not code. */
struct be_caps {
	bool one_sided;       /* put needs no work of the peer's CPU */
	bool zero_copy;       /* can send without copying, where path and hardware allow it */
	bool sees_puts;       /* delivers BE_PLACED; one_sided too: not on every stream (transport/multi.h) */
	bool in_process;      /* reaches only instances of this process (tests, simulation) */
	uint32_t frame_max;   /* largest message, bytes */
	uint32_t put_max;     /* largest put, bytes */
	uint32_t align;       /* best alignment of put addresses */
	uint32_t streams_max; /* per instance */
};

/* What a peer's put names: the region number, and a key that only the owner could know. Travels on
 * the control connection. The same for every instance that registered (domain, id) from one memory. */
struct be_token {
	uint32_t id;
	uint64_t key;
};

struct be_addr {
	socklen_t len;
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_storage ss;
	};
};

struct be_open {
	const void *opts;     /* the struct of the backend's option table, or NULL for the defaults */
	struct clock clock;   /* for time-outs and TIME fields */
	uint32_t streams;     /* most streams at once; also bounds pending incoming connections */
	uint32_t frames;      /* receive frames */
	uint32_t frame_bytes; /* size of each, <= caps.frame_max */
	uint32_t sends;       /* most operations accepted and not DONE, per stream */
	uint32_t regions;     /* most regions at once */
	int cpu;              /* the CPU its thread is pinned to, or -1 */
	uint64_t seed;        /* mem: faults; others: unused */
	void *fabric;         /* mem: the struct mem_fabric both sides share; others NULL */
};

enum be_event_type {
	BE_NONE,
	BE_INCOMING,  /* listen: request + data/len = preamble. accept or reject it (on any instance) */
	BE_CONNECTED, /* connect: the peer accepted, data/len = its reply; accept: ready at once */
	BE_DONE,      /* an accepted send or put: memory reusable; cookie, err */
	BE_PLACED,    /* a put arrived whole: region, offset, len; its bytes are warm in the cache */
	BE_MESSAGE,   /* a message: data/len valid until release(frame) */
	BE_DOWN,      /* last event of a stream. err 0: the peer closed in order; -ECANCELED: stream_close here;
	                 -ECONNREFUSED with data/len: the peer rejected, with its reply; else the cause */
	BE_WOKEN,     /* somebody called wake */
};

struct be_event {
	enum be_event_type type;
	int err; /* 0 or -errno */
	be_stream stream;
	uint32_t len;               /* of data, or of the put */
	const void *data;           /* INCOMING, CONNECTED, DOWN: valid until the next poll */
	uint64_t cookie;            /* DONE: the operation's. others: the stream's, as given to connect or accept */
	uint64_t offset;            /* PLACED */
	uint32_t region;            /* PLACED: id */
	uint32_t frame;             /* MESSAGE: for release */
	struct be_request *request; /* INCOMING */
};

struct be_msg {
	const void *head; /* copied by send; head_len <= BE_HEAD_MAX */
	uint32_t head_len;
	uint32_t body_len;
	const void *body; /* stays until DONE; the peer sees head and body as one message */
	uint64_t cookie;
};

#define BE_HEAD_MAX 2048

struct be_put {
	const void *src; /* stays until DONE */
	uint32_t len;    /* 1 … caps.put_max */
	struct be_token token;
	uint64_t offset; /* in the peer's region */
	uint64_t cookie;
};

/* Path facts of a stream; a field that the backend cannot know is 0. */
struct be_info {
	uint64_t rtt_ns, rttvar_ns;
	uint64_t rtt_least_ns;               /* without the queues on the way: least of the last minutes */
	uint64_t segments, retransmits;      /* sent, and sent again, since connect */
	uint64_t spurious;                   /* of those sent again, had arrived */
	uint64_t delivery_rate;              /* bytes per second, the path's own estimate */
	bool rate_is_ours;                   /* delivery_rate says how much was given to it, not what the path can do */
	uint64_t bytes_sent, bytes_received; /* payload and headers, this stream */
	uint64_t unacked_bytes; /* sent or to be sent, which the peer's host has not taken; 0 where that is not known */
	uint32_t cwnd_bytes;
	char congestion[16];
	struct be_addr local, peer;
};

/* How a stream sends. What is zero stays as it is. */
#define BE_CONGESTION_DEFAULT "default"
struct be_steer {
	char congestion[16];  /* an algorithm of the backend's, or "default": as a new stream has it */
	uint64_t pacing_rate; /* bytes per second; UINT64_MAX: no limit */
	uint64_t send_buffer; /* bytes that may be under way */
};

/* Counters of one instance; be_metrics describes the fields. A byte is counted zero_copy on the
 * sending side only when the kernel or the hardware confirmed that it did not copy, and on the
 * receiving side when it was placed straight into its region or frame by hardware; everything that a
 * CPU moved counts as copied, once per copy (TCP receive: one). */
struct be_counters {
	uint64_t tx_bytes, rx_bytes; /* payload of sends and puts */
	uint64_t tx_zero_copy_bytes, tx_copied_bytes;
	uint64_t rx_zero_copy_bytes, rx_copied_bytes;
	uint64_t puts, messages, placed, frames_received;
	uint64_t backpressure; /* send/put that returned 0 */
	uint64_t frame_waits;  /* times a message waited for a free frame */
	uint64_t syscalls;     /* of the data path (io_uring_enter, doorbells…) */
	uint64_t protocol_errors;
	uint64_t streams_opened, streams_down;
	uint64_t zero_copy_fallbacks; /* connections that stopped zero-copy because it was copied anyway */
};

extern const struct metric be_metrics[];
extern const size_t be_metrics_n;

struct be_ops {
	const char *name;  /* "tcp" */
	const char *alias; /* second name that --backend takes ("uring"), or NULL */
	const char *help;  /* one line */
	struct be_caps caps;
	const struct opt *opts; /* option table; rows' offsets are in a struct of opts_size bytes */
	size_t n_opts, opts_size;

	/* Can this machine run me? 0, or -errno with the reason and remedy in e. No side effects. */
	int (*probe)(struct err *e);

	/* Takes every allocation the instance will ever need, but for what listen, connect, accept and
	 * region_add must take from the kernel. On error nothing is left behind. */
	int (*open)(const struct be_open *o, struct be **out, struct err *e);

	/* Any state, bounded time (under 1 s). Streams are aborted, frames and requests not yet accepted
	 * return, regions are dropped; after it no byte is placed and no memory of the caller is used. No events. */
	void (*close)(struct be *be);

	/* Starts listening; port 0 picks one; *bound tells. One listener per instance. */
	int (*listen)(struct be *be, const struct be_addr *at, struct be_addr *bound, struct err *e);

	/* Starts to connect; the outcome is CONNECTED or DOWN with `cookie`. pre: BE_PREAMBLE bytes.
	 * domain: which regions the peer's puts may name on this stream. */
	int (*connect)(struct be *be, const struct be_addr *to, const void *pre, uint32_t domain, uint64_t cookie,
		       be_stream *out, struct err *e);

	/* Takes over an incoming connection on this instance, which may be another than the one that
	 * delivered it, also in another thread. reply: BE_PREAMBLE bytes. The request is used up, on
	 * error too. CONNECTED follows. */
	int (*accept)(struct be *be, struct be_request *r, const void *reply, uint32_t domain, uint64_t cookie,
		      be_stream *out);

	/* Refuses it: the peer gets DOWN with -ECONNREFUSED and the reply (NULL: just closes). Any instance,
	 * any thread. */
	void (*reject)(struct be *be, struct be_request *r, const void *reply);

	/* Ends a stream now. What was accepted and not sent is DONE with -ECANCELED, then DOWN. With
	 * `graceful`, accepted operations are sent first, bounded by the idle time-out. Idempotent. */
	void (*stream_close)(struct be *be, be_stream s, bool graceful);

	/* Registers memory that peers of `domain` may put into. id: chosen by the caller, unique in the
	 * domain. The caller keeps the memory until region_drop has returned and every stream of the
	 * domain on this instance is DOWN, or until region_drop returned 0. region_drop: 0 when nothing is
	 * being placed into it any more, also for an unknown region; -EBUSY while puts are arriving: their
	 * streams then go DOWN, and with the last of them the region is gone and its id free. */
	int (*region_add)(struct be *be, uint32_t domain, uint32_t id, void *addr, uint64_t len, struct be_token *out,
			  struct err *e);
	int (*region_drop)(struct be *be, uint32_t domain, uint32_t id);

	/* Optional (may be NULL): from now on puts name this region by `key`, which another backend chose, and by that only. */
	int (*region_key)(struct be *be, uint32_t domain, uint32_t id, uint64_t key);

	/* Optional hint (may be NULL): this memory will be sent from often (registered buffers, local keys). */
	int (*source_add)(struct be *be, const void *addr, uint64_t len, struct err *e);
	void (*source_drop)(struct be *be, const void *addr);

	int (*send)(struct be *be, be_stream s, const struct be_msg *v, int n);
	int (*put)(struct be *be, be_stream s, const struct be_put *v, int n);

	/* Moves things forward; writes up to max events; returns how many. Never blocks. */
	int (*poll)(struct be *be, struct be_event *ev, int max);

	/* Gives the frame of a BE_MESSAGE back. */
	void (*release)(struct be *be, uint32_t frame);

	/* Sleeps until something may have happened, wake was called, or timeout_ns passed. May return early. */
	void (*wait)(struct be *be, uint64_t timeout_ns);

	/* Optional (may be NULL): for a sleep of the caller's own, over several instances. A descriptor that becomes
	 * readable when wait would return; *timeout_ns is lowered to when it would at the latest. -EAGAIN: poll first.
	 * Holds for one sleep. */
	int (*wait_fd)(struct be *be, uint64_t *timeout_ns);

	/* Ends a wait (or the next one) and makes poll deliver BE_WOKEN. Any thread. */
	void (*wake)(struct be *be);

	int (*info)(struct be *be, be_stream s, struct be_info *out);

	/* Optional (may be NULL): from now on a stream that is up sends like this. What is under way is not touched.
	 * 0, or -errno of the first wish that cannot be met; the others are met all the same. */
	int (*steer)(struct be *be, be_stream s, const struct be_steer *how);
};

struct be {
	const struct be_ops *ops;
	struct be_counters counters; /* written by the instance's thread with metric_add */
};

/* Every backend of this build, in order of preference; NULL-terminated. */
extern const struct be_ops *const backends[];
const struct be_ops *backend_find(const char *name); /* by name or alias; NULL if unknown */

/* "HOST", "HOST:PORT", "[V6]:PORT", "V6" (bare, no port) → addresses, in the resolver's order.
 * Blocks in the resolver; set-up only. Returns how many (<= max) or -errno with e filled
 * (name does not resolve, bad port…). host NULL or "*": the one address that stands for all, for listening:
 * "::", where a listener must clear IPV6_V6ONLY to take IPv4 too, or "0.0.0.0" where there is no IPv6. */
int addr_resolve(const char *text, uint16_t default_port, bool listening, struct be_addr *out, int max, struct err *e);

/* "1.2.3.4:7411", "[::1]:7411". */
char *addr_format(char *buf, size_t cap, const struct be_addr *a);
bool addr_is_loopback(const struct be_addr *a);

#endif

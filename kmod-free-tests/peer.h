/* SPDX-License-Identifier: MIT */
/* A hostile client over the mem backend of a simulation: it says what the test says, with checksums made right. */
#ifndef DWCP_TESTS_PEER_H
#define DWCP_TESTS_PEER_H

#include "kmod-free-tests/sim.h"

#define PEER_CONNS 8
#define PEER_CTL 0 /* the connection that requests go over */

enum peer_state { PEER_NONE, PEER_CONNECTING, PEER_UP, PEER_DOWN };

struct peer_conn {
	be_stream h;
	enum peer_state state;
	int err;
	uint8_t reply[BE_PREAMBLE];
	uint32_t reply_len;
	uint32_t messages, placed, lost; /* lost: STREAM_LOSTs, which `last` leaves out */
	uint8_t last[WIRE_CTL_MAX];      /* the last message */
	uint32_t last_len;
};

struct peer {
	struct sim *sim;
	struct be *be;
	struct peer_conn conn[PEER_CONNS];
	uint8_t session[16];
	uint32_t next_id;
	bool deaf; /* takes no events */
};

struct peer *peer_open(struct sim *s, uint64_t seed); /* one at a time polls by itself while time goes on */
void peer_close(struct peer *p);
void peer_run(struct peer *p, uint64_t ns);

/* Connects and waits for the outcome: PRE_OK, what the server says, or -errno. */
int peer_connect_as(struct peer *p, unsigned i, const uint8_t pre[BE_PREAMBLE]);
int peer_connect(struct peer *p, unsigned i, enum pre_kind kind, uint32_t stream, uint32_t incarnation);

/* Sends bytes as they are; waits for room. */
void peer_raw(struct peer *p, unsigned i, const void *msg, uint32_t len);
/* A sealed message. */
void peer_send(struct peer *p, unsigned i, uint16_t type, uint32_t id, const void *fields, uint32_t len);
void peer_put(struct peer *p, unsigned i, struct be_token token, uint64_t offset, const void *src, uint64_t len);

/* A request: the answer's status; -ENOTCONN when the server ended the connection instead, -ETIMEDOUT when it is silent.
 * *in is at what follows status and text. */
int peer_call(struct peer *p, uint16_t type, const void *fields, uint32_t len, struct rcur *in);
int peer_call_msg(struct peer *p, uint16_t type, const struct wire_def *def, const void *msg, struct rcur *in);
const char *peer_text(struct peer *p); /* of the last answer, or of a GOODBYE */

/* Control connection and hello; then data streams 0 … streams-1 on connections 1 … */
void peer_hello(struct peer *p, uint32_t streams, uint32_t chunk);
void peer_join(struct peer *p, uint32_t streams, uint32_t chunk);
/* Is the connection's end known here within two seconds? */
bool peer_ended(struct peer *p, unsigned i);

#endif

/* SPDX-License-Identifier: MIT */
/* A TCP instance under test and a peer of plain sockets that says whatever a test wants. */
#ifndef DWCP_TESTS_URING_PEER_H
#define DWCP_TESTS_URING_PEER_H

#include "base/util.h"
#include "transport/tcp_frame.h"
#include "transport/uring.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PEER_DOMAIN 3
#define PEER_REGION 5
#define PEER_REGION_LEN 65536
#define PEER_GUARD 4096

/* One instance and what it has reported. */
struct side {
	struct be *be;
	struct be_addr at; /* listens there */
	struct be_token token;
	uint8_t *memory; /* guard, region, guard */
	bool auto_accept;
	be_stream stream; /* the last one connected or accepted */
	uint32_t incoming, connected, messages, placed, done, failed, woken, down;
	int down_err;
	uint32_t down_len;
	uint8_t down_data[64];
	struct be_request *request;
	uint8_t message[65536];
	uint32_t message_len;
};

/* Defaults, then name and value pairs, ended by NULL. */
struct uring_opts peer_opts(const char *name, ...);

void side_open(struct side *s, const struct uring_opts *o, uint32_t streams);
void side_open_deep(struct side *s, const struct uring_opts *o, uint32_t streams, uint32_t sends);
void side_listen(struct side *s);
void side_region(struct side *s);
uint8_t *side_memory(const struct side *s);
void side_guards(const struct side *s); /* nothing outside the region was written */
void side_close(struct side *s);
int side_poll(struct side *s);

/* Polls a, and b unless NULL, until the condition holds; fails after 20 s. */
#define SIDES_UNTIL(a, b, cond)                                                \
	for (uint64_t end_ = clock_now(&clock_mono) + 20 * NS_PER_S; !(cond);) \
	sides_turn(a, b, end_, #cond)
void sides_turn(struct side *a, struct side *b, uint64_t end, const char *what);

/* Connects a to b; both streams end up in ->stream. */
void sides_pair(struct side *a, struct side *b);

/* Two instances with the same options (NULL: defaults), a's stream connected to b's, b has a region. */
void sides_open(struct side *a, struct side *b, const struct uring_opts *o);

/* Puts and messages from a to b, each round different; b's region and messages must be equal. */
void sides_transfer(struct side *a, struct side *b, int rounds);

void peer_fill(uint8_t *p, size_t n, uint64_t seed);

/* The peer: blocking sockets with a time-out of 20 s. */
int tcp_peer_connect(const struct be_addr *to);
int peer_listen(struct be_addr *at);
void peer_write(int fd, const void *data, size_t len);
size_t peer_read(int fd, void *data, size_t len); /* until len, FIN or reset */
int peer_greet(struct side *s);                   /* connects and is accepted */
void peer_frame(int fd, const struct tcp_frame *f);
void peer_reset(int fd);

#endif

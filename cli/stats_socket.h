/* SPDX-License-Identifier: MIT */
/*
 * What a running server tells about itself: whoever connects to its local
 * socket gets one JSON object and the end of the stream.
 *
 * Where: the path asked for, else dwcp-PORT.sock in $XDG_RUNTIME_DIR, else in
 * /run, else /tmp/dwcp-UID-PORT.sock. The socket is its owner's (0600), and a
 * reader believes only its own user or root.
 */
#ifndef DWCP_CLI_STATS_SOCKET_H
#define DWCP_CLI_STATS_SOCKET_H

#include "base/json.h"
#include <stdint.h>

struct stats_socket;

/* make(ctx) is called in a thread of its own for each reader. path "": as said above; a socket that somebody answers
 * on is left alone (-EADDRINUSE), a stale one is replaced. */
int stats_socket_open(struct stats_socket **out, const char *path, uint16_t port, json_t *(*make)(void *), void *ctx,
		      struct err *e);
void stats_socket_close(struct stats_socket *s); /* NULL is fine */
const char *stats_socket_path(const struct stats_socket *s);

/* Asks a running server. path "": the places for this port. *out is the caller's. */
int stats_socket_ask(const char *path, uint16_t port, json_t **out, struct err *e);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * How programs talk to a link's process: one request and one answer per connection, JSON objects of at most 16 KB, over
 * a SOCK_SEQPACKET socket of the abstract name dwcp-linkemu/NAME.
 *
 *	{"op":"status"}  {"op":"join","side":0}  {"op":"set","settings":{…}}  {"op":"down"}
 *	{"error":"why","code":-22}, or the answer; with "join" comes the namespace's descriptor.
 */
#ifndef DWCP_BENCH_LINKEMU_CTL_H
#define DWCP_BENCH_LINKEMU_CTL_H

#include "base/json.h"

#define LINK_MESSAGE_MAX 16384

/* A listening socket; -EEXIST when the name is taken. */
int link_ctl_listen(const char *name, struct err *e);
/* Accepts one connection of this user or root and reads its request (bounded in time); returns the connection, or
 * -errno when there is none to answer. */
int link_ctl_accept(int listening, json_t **request);
/* Answers and takes the reference; fd >= 0 goes with it. The connection stays open. */
void link_ctl_answer(int conn, json_t *answer, int fd);

/* Asks the link of this name and waits for the answer; *passed (may be NULL) is what came with it, or -1. Takes the
 * request's reference. An error that the link answers is this function's. */
int link_ctl_ask(const char *name, json_t *request, json_t **answer, int *passed, struct err *e);

#endif

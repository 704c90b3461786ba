/* SPDX-License-Identifier: MIT */
/*
 * Sends a list of files and folders over a session, in batches: open there,
 * compare what is there already (resume), transfer, check that the source did
 * not change, close there.
 *
 * Folders are opened there before what is in them (which makes a read-only one writable) and closed, with
 * their modes and times, after everything, deepest first.
 */
#ifndef DWCP_CLI_SEND_FILES_H
#define DWCP_CLI_SEND_FILES_H

#include "base/json.h"
#include "cli/progress.h"
#include "cli/transfer.h"
#include "transport/source.h"

/* What was done. */
struct send_totals {
	uint64_t files, folders; /* complete over there */
	uint64_t failed;         /* files and folders that are not */
	uint64_t bytes;          /* size of the complete files */
	uint64_t bytes_sent;     /* acknowledged, with what was sent twice */
	uint64_t bytes_wire;     /* that they took on the wire: payloads, after compression */
	uint64_t bytes_equal;    /* not sent: proven equal by digest */
	uint64_t bytes_holes;    /* not sent: holes */
	uint64_t chunks;         /* found good by the receiver */
	uint64_t chunks_refused; /* found bad by the receiver, and sent again */
	uint64_t batches;
};

struct send_job {
	struct client *client;
	const struct transfer *transfer;
	const struct source_list *list;
	bool resume, sync;
	struct progress progress;
	struct send_totals totals;
	json_t *failures; /* [{name, reason}], or NULL */
	char later[256];  /* why the receiver could not open all of a batch, the last time */
};

/* Sends everything it can; a file that cannot be sent is reported and counted, and the others go on. <0: the session
 * is lost, or -EINTR. */
int send_files(struct send_job *job, struct err *e);

#endif

/* SPDX-License-Identifier: MIT */
/* Files from memory through a session into a store, as `dwcp send` does it. */
#ifndef DWCP_TESTS_SIM_FILES_H
#define DWCP_TESTS_SIM_FILES_H

#include "transport/client.h"

#define SIM_FILES_MAX 8

struct sim_file {
	char name[64];
	uint8_t *data;
	uint64_t size;
	int32_t status; /* of the last open or close */
	char text[WIRE_TEXT];
};

struct sim_files {
	struct sim_file f[SIM_FILES_MAX];
	uint32_t n;
	struct stage stage;
};

int sim_files_open(struct client *c, struct sim_files *v, bool resume, struct err *e);
/* Sends every file that opened. *blame: the object of a failure. */
int sim_files_send(struct client *c, struct sim_files *v, uint32_t chunk, enum sum_kind sum,
		   const struct client_tick *tick, uint32_t *blame, struct err *e);
int sim_files_close(struct client *c, struct sim_files *v, bool complete, struct err *e);

#endif

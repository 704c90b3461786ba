/* SPDX-License-Identifier: MIT */
#include "kmod-free-tests/sim_files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ssize_t encode_memory(void *ctx, unsigned worker, const struct stage_chunk *c, void *out, size_t cap)
{
	const struct sim_files *v = ctx;

	(void)worker;
	if (c->len > cap)
		return -EMSGSIZE;
	memcpy(out, v->f[c->object].data + c->offset, c->len);
	return c->len;
}

static const struct stage_ops from_memory = { .name = "memory", .encode = encode_memory };

static int take_status(struct rcur *in, struct sim_files *v, struct err *e)
{
	uint32_t n = get_u16(in);

	for (uint32_t i = 0; i < n && i < v->n; i++) {
		struct msg_file_status st;

		wire_get(in, &wire_file_status, &st);
		v->f[i].status = st.status;
		memcpy(v->f[i].text, st.text, sizeof v->f[i].text);
	}
	return in->bad || n != v->n ? err_set(e, -EPROTO, "the answer about files cannot be read") : 0;
}

int sim_files_open(struct client *c, struct sim_files *v, bool resume, struct err *e)
{
	uint8_t *fields = malloc(WIRE_CTL_MAX - 64);
	struct wcur w = wcur_init(fields, WIRE_CTL_MAX - 64);
	struct rcur in;
	int rc;

	if (!fields)
		return -ENOMEM;
	put_u16(&w, (uint16_t)v->n);
	for (uint32_t i = 0; i < v->n; i++) {
		struct msg_file_spec m = {
			.spec = { .mode = 0644, .size = v->f[i].size, .resume = resume, .data_bytes = v->f[i].size }
		};

		snprintf(m.spec.name, sizeof m.spec.name, "%s", v->f[i].name);
		wire_put(&w, &wire_file_spec, &m);
	}
	rc = client_call(c, MSG_FILES_OPEN, fields, (uint32_t)(w.p - fields), &in, e);
	free(fields);
	return rc < 0 ? rc : take_status(&in, v, e);
}

int sim_files_send(struct client *c, struct sim_files *v, uint32_t chunk, enum sum_kind sum,
		   const struct client_tick *tick, uint32_t *blame, struct err *e)
{
	struct amst_extent x[SIM_FILES_MAX];
	struct amst_tx tx = { .chunk = chunk, .sum = sum, .passes = 1, .extents = x, .stage = &v->stage };
	int rc;

	v->stage = (struct stage){ .ops = &from_memory, .ctx = v };
	for (uint32_t i = 0; i < v->n; i++)
		if (!v->f[i].status)
			x[tx.n_extents++] = (struct amst_extent){ .len = v->f[i].size, .object = i };
	rc = client_transfer(c, &tx, XFER_FILES, tick, NULL, e);
	if (blame)
		*blame = tx.status_object;
	return rc;
}

int sim_files_close(struct client *c, struct sim_files *v, bool complete, struct err *e)
{
	uint8_t fields[8 + 9 * SIM_FILES_MAX];
	struct wcur w = wcur_init(fields, sizeof fields);
	struct rcur in;
	int rc;

	put_u8(&w, 0);
	put_u16(&w, (uint16_t)v->n);
	for (uint32_t i = 0; i < v->n; i++)
		wire_put(&w, &wire_file_close,
			 &(struct msg_file_close){ .complete = complete && !v->f[i].status, .bytes = v->f[i].size });
	rc = client_call(c, MSG_FILES_CLOSE, fields, (uint32_t)(w.p - fields), &in, e);
	return rc < 0 ? rc : take_status(&in, v, e);
}

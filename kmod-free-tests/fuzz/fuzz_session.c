/* SPDX-License-Identifier: MIT */
/*
 * A server over the mem backend, and a peer that does what the input says: connections, requests, data messages and
 * puts, in any order and with any content, their checksums made right. In the end the peer leaves, and nothing of it
 * may be left. Bytes around every region tell whether something was written beside it.
 */
#include "base/log.h"
#include "kmod-free-tests/peer.h"
#include "transport/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OPS_MAX 60

static struct store *store;
static char dir[] = "/tmp/dwcp-fuzz.XXXXXX";

static void clean(void)
{
	char path[64];

	for (int part = 0; part < 2; part++)
		for (int i = 0; i < 4; i++) {
			snprintf(path, sizeof path, part ? "%s/.f%d.dwcp-part" : "%s/f%d", dir, i);
			unlink(path);
		}
	rmdir(dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct err e;

	(void)argc;
	(void)argv;
	log_set_level(LOG_ERROR);
	sim_must(mkdtemp(dir) && store_open(&store, dir, &e) == 0);
	atexit(clean);
	return 0;
}

/* Tokens of the regions that were made, so that puts arrive. */
static struct be_token tokens[4];

static void request(struct peer *p, uint16_t type, const struct wire_def *def, const void *m, uint32_t first, bool wait)
{
	uint8_t fields[4096];
	struct wcur w = wcur_init(fields, sizeof fields);
	struct msg_region_reply r;
	struct rcur in;

	if (type == MSG_XFER_BEGIN || type == MSG_PULL)
		put_u32(&w, first);
	if (def)
		wire_put(&w, def, m);
	if (!wait) {
		peer_send(p, PEER_CTL, type, ++p->next_id, fields, (uint32_t)(w.p - fields));
	} else if (peer_call(p, type, fields, (uint32_t)(w.p - fields), &in) == 0 && type == MSG_REGION) {
		wire_get(&in, &wire_region_reply, &r);
		tokens[first & 3] = (struct be_token){ .id = first & 3, .key = r.key };
	}
}

static void hello(struct peer *p, struct rcur *in)
{
	struct msg_hello h = { .streams = get_u8(in) % 5,
			       .workers = 2,
			       .chunk = get_u16(in),
			       .sum = get_u8(in) % 4,
			       .timeout_ms = 1 + get_u8(in) };

	request(p, MSG_HELLO, &wire_hello, &h, 0, true);
}

static void files(struct peer *p, struct rcur *in)
{
	uint8_t fields[16384];
	struct wcur w = wcur_init(fields, sizeof fields);
	uint32_t n = get_u8(in) % 5;

	put_u16(&w, (uint16_t)n);
	for (uint32_t i = 0; i < n; i++) {
		uint8_t c = get_u8(in);
		struct msg_file_spec m = {
			.spec = { .size = get_u16(in), .mode = 0600, .resume = c & 4, .kind = c >> 7 }
		};

		m.spec.data_bytes = m.spec.size;
		snprintf(m.spec.name, sizeof m.spec.name, c & 8 ? "../f%d" : "f%d", c & 3);
		if (c & 16)
			m.spec.kind = 9;
		else
			m.spec.kind = STORE_FILE;
		wire_put(&w, &wire_file_spec, &m);
	}
	peer_call(p, MSG_FILES_OPEN, fields, (uint32_t)(w.p - fields), NULL);
}

static void structured(struct peer *p, struct rcur *in)
{
	uint8_t what = get_u8(in), x = get_u8(in);
	bool wait = !(what & 0x80);

	switch (what % 14) {
	case 0:
		hello(p, in);
		break;
	case 1:
		request(p, MSG_REGION, &wire_region,
			&(struct msg_region){ .region = x & 3, .bytes = get_u16(in), .seed = x >> 2 }, x, wait);
		break;
	case 2:
		request(p, MSG_XFER_BEGIN, &wire_xfer_begin,
			&(struct msg_xfer_begin){
				.kind = x & 1, .sum = x >> 1 & 3, .chunks = get_u16(in), .chunk = get_u16(in) },
			get_u8(in) % 3, wait);
		break;
	case 3:
		request(p, MSG_XFER_END, &wire_xfer_end, &(struct msg_xfer_end){ x }, 0, wait);
		break;
	case 4:
		request(p, MSG_PULL, &wire_pull,
			&(struct msg_pull){ .region = x & 3,
					    .to = x >> 2,
					    .to_key = x,
					    .to_bytes = get_u16(in),
					    .bytes = get_u16(in),
					    .passes = get_u8(in) < 250 ? 2 : UINT64_MAX,
					    .chunk = get_u16(in),
					    .sum = x & 3 },
			x & 3, wait);
		break;
	case 5:
		request(p, MSG_PULL_WAIT, NULL, NULL, 0, false);
		break;
	case 6:
		request(p, MSG_PULL_STOP, NULL, NULL, 0, wait);
		break;
	case 7:
		request(p, MSG_DIGEST, &wire_digest,
			&(struct msg_digest){ .region = x & 3, .offset = get_u16(in), .bytes = get_u16(in) }, 0, wait);
		break;
	case 8:
		request(p, MSG_INFO, NULL, NULL, 0, wait);
		break;
	case 9:
		files(p, in);
		break;
	case 10:
		request(p, MSG_FILE_HASH, &wire_file_hash,
			&(struct msg_file_hash){ .file = x & 7, .first = x >> 6, .n = get_u8(in) }, 0, wait);
		break;
	case 11: {
		uint8_t fields[128];
		struct wcur w = wcur_init(fields, sizeof fields);

		put_u8(&w, x & 1);
		put_u16(&w, x >> 1 & 7);
		for (unsigned i = 0; i < (x >> 1 & 7); i++) {
			uint8_t how = get_u8(in);

			wire_put(&w, &wire_file_close,
				 &(struct msg_file_close){ .complete = how & 3, .bytes = how >> 2 });
		}
		peer_call(p, MSG_FILES_CLOSE, fields, (uint32_t)(w.p - fields), NULL);
		break;
	}
	case 12:
		request(p, MSG_STREAM_DOWN, &wire_stream_down, &(struct msg_stream_down){ x & 3, get_u8(in) }, 0, wait);
		break;
	case 13:
		request(p, MSG_BYE, NULL, NULL, 0, wait);
		break;
	}
}

static void data_message(struct peer *p, struct rcur *in)
{
	static const uint8_t payload[5000];
	uint8_t what = get_u8(in), out[8192], i = 1 + (what & 3);
	struct msg_commit m = { .seq = get_u8(in), .n = 1 + (what >> 4 & 3) };
	uint32_t transfer = get_u8(in) % 3, len;

	for (uint32_t k = 0; k < m.n; k++) {
		m.rec[k] = (struct chunk_rec){
			.chunk = get_u8(in), .offset = get_u16(in), .object = get_u8(in) & 3, .len = get_u16(in) & 4095
		};
		m.rec[k].sum = get_u8(in) & 1 ? sum_of(SUM_CRC32C, payload, m.rec[k].len)
					      : sum_of(SUM_XXH3, payload, m.rec[k].len);
	}
	if (what & 0x40) {
		len = wire_put_commit(out, sizeof out, transfer, &m);
	} else if (what & 0x80) {
		len = wire_put_ack(
			out, sizeof out, transfer,
			&(struct msg_ack){ .seq = m.seq, .status = what & 8 ? -ENOSPC : 0, .ok = m.rec[0].offset });
	} else {
		len = wire_put_chunk(out, sizeof out, transfer, &m.rec[0]);
		memcpy(out + len, payload, m.rec[0].len);
		len += m.rec[0].len;
	}
	if (p->conn[i].state == PEER_UP)
		peer_raw(p, i, out, len);
}

static void put_something(struct peer *p, struct rcur *in)
{
	static const uint8_t payload[65536];
	uint8_t what = get_u8(in), i = 1 + (what & 3);
	struct be_token t = tokens[what >> 2 & 3];
	uint64_t offset = get_u16(in), len = get_u16(in);

	if (what & 0x80)
		t.key += get_u8(in);
	if (what & 0x40)
		offset = UINT64_MAX - offset;
	if (p->conn[i].state == PEER_UP)
		peer_put(p, i, t, offset, payload, len);
}

static void op(struct peer *p, struct rcur *in)
{
	uint8_t what = get_u8(in), x = get_u8(in), bytes[256];
	uint32_t n;

	switch (what % 10) {
	case 0: /* any request, any fields */
	case 1: /* any message on a data stream */
		n = get_u8(in) % (rcur_left(in) + 1);
		get_bytes(in, bytes, n);
		if (p->conn[what % 10 ? 1 + x % 4 : PEER_CTL].state == PEER_UP)
			peer_send(p, what % 10 ? 1 + x % 4 : PEER_CTL, what % 10 ? x % 5 : 15 + x % 20,
				  what & 0x80 ? p->next_id : ++p->next_id, bytes, n);
		break;
	case 2: /* bytes as they are */
		n = get_u8(in) % (rcur_left(in) + 1);
		get_bytes(in, bytes, n);
		if (p->conn[x % 5].state == PEER_UP)
			peer_raw(p, x % 5, bytes, n);
		break;
	case 3:
	case 4:
		if (p->conn[PEER_CTL].state == PEER_UP)
			structured(p, in);
		break;
	case 5:
		data_message(p, in);
		break;
	case 6:
		put_something(p, in);
		break;
	case 7:
		if (p->conn[1 + x % 4].state != PEER_CONNECTING)
			peer_connect(p, 1 + x % 4, PRE_DATA, x >> 4, get_u8(in));
		break;
	case 8:
		peer_run(p, x & 0x80 ? (x & 0x7f) * NS_PER_MS : x * NS_PER_US);
		break;
	case 9:
		if (x & 1 && p->conn[x >> 1 & 3].state == PEER_UP)
			mem_drop(p->be, p->conn[x >> 1 & 3].h);
		else
			peer_connect(p, PEER_CTL, x & 2 ? PRE_CONTROL : PRE_RESUME, 0, 0);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rcur in = rcur_init(data, size);
	struct server_counters sc;
	struct peer *p;
	struct sim s;
	uint8_t shape = get_u8(&in);

	sim_must(sim_open(&s, shape & 1 ? &mem_one_sided_ops : &mem_ops, NULL, 1, 2, shape & 2 ? store : NULL) == 0);
	memset(tokens, 0, sizeof tokens);
	p = peer_open(&s, 3);
	if (shape & 4) {
		peer_connect(p, PEER_CTL, PRE_CONTROL, 0, 0);
		hello(p, &in);
		peer_connect(p, 1, PRE_DATA, 0, 1);
		peer_connect(p, 2, PRE_DATA, 1, 1);
	}
	for (int n = 0; n < OPS_MAX && rcur_left(&in); n++)
		op(p, &in);
	peer_close(p);
	for (int i = 0; i < 100 && sim_counters(&s).sessions_now; i++)
		sim_run(&s, 200 * NS_PER_MS);
	sc = sim_counters(&s);
	sim_must(!sc.sessions_now && !sc.streams_now && !sc.region_bytes_now);
	sim_must(sc.sessions_started == sc.sessions_ended);
	sim_close(&s);
	return 0;
}

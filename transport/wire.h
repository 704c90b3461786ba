/* SPDX-License-Identifier: MIT */
/*
 * What AMST's two sides say to each other (docs/WIRE.md has the same in prose).
 *
 * Every struct below travels as its fields in the order of its table in wire.c,
 * little-endian, without padding. One table drives encoder and decoder.
 * A message is a header {type u16, flags u16 = 0, id u32, crc u32} and its fields;
 * crc is the CRC32C of the message with crc = 0, for a CHUNK of all but its payload. On a
 * control stream `id` numbers the request; a reply has type | WIRE_REPLY, the request's id,
 * and starts with {status i32, text}. On a data stream `id` is the transfer.
 */
#ifndef DWCP_TRANSPORT_WIRE_H
#define DWCP_TRANSPORT_WIRE_H

#include "base/digest.h"
#include "base/stage.h"
#include "base/wire.h"
#include "transport/backend.h"
#include "transport/store.h"

#define WIRE_VERSION 1
#define WIRE_CTL_MAX 65536  /* largest control message */
#define WIRE_HEAD 12        /* message header */
#define WIRE_COMMIT_MAX 32  /* chunks in one COMMIT */
#define WIRE_CREDITS 16     /* COMMITs a stream may have unanswered */
#define WIRE_UNCOMMITTED 64 /* chunks a stream may have sent that no COMMIT named yet */
#define WIRE_ERRNO_MAX 4095 /* a status is 0 or -errno, at least -this */
#define WIRE_STREAMS_MAX 512
#define WIRE_BATCH_MAX 256 /* files open at once */
#define WIRE_TEXT 256      /* longest text in a reply, NUL included */
#define WIRE_REPLY 0x8000

/* ---- connection set-up: BE_PREAMBLE bytes each way --------------------------------------------- */

enum pre_kind { PRE_CONTROL, PRE_DATA, PRE_RESUME };

struct preamble {
	uint8_t version;
	uint8_t kind;
	uint8_t session[16];  /* random, chosen by the client; who knows it may join the session */
	uint32_t stream;      /* DATA: 0 … streams-1 */
	uint32_t incarnation; /* DATA: rises by one with each reconnect of the stream */
	uint8_t auth[16];     /* zero; room for a key proof */
};

enum pre_status {
	PRE_OK,
	PRE_BAD_VERSION, /* the server speaks another version: see `version` */
	PRE_BUSY,        /* as many sessions as the server was told to allow */
	PRE_NO_SESSION,  /* unknown, ended or expired */
	PRE_DUPLICATE,   /* that stream, or that session, is already connected */
	PRE_BAD_STREAM,  /* stream number outside what was agreed */
	PRE_MALFORMED,
	PRE_STOPPING, /* the server is shutting down */
	PRE_NOT_NOW,  /* a data stream: the session is being set up or resumed */
	PRE_STATUSES
};

struct pre_reply {
	uint8_t version;
	uint8_t status;
	uint8_t session[16];
};

void wire_put_preamble(uint8_t out[BE_PREAMBLE], const struct preamble *p);
/* 0; -EPROTO: not dwcp; -EBADMSG: damaged. Any version is accepted here: the caller compares. */
int wire_get_preamble(const uint8_t in[BE_PREAMBLE], struct preamble *p);
void wire_put_reply(uint8_t out[BE_PREAMBLE], const struct pre_reply *p);
int wire_get_reply(const uint8_t in[BE_PREAMBLE], struct pre_reply *p);
/* One line for a person: what it means and what to do. */
const char *pre_status_text(enum pre_status s);

/* ---- messages ---------------------------------------------------------------------------------- */

enum wire_type {
	/* data streams */
	MSG_COMMIT = 1, /* sender: these chunks went before; answer when they are placed */
	MSG_ACK,        /* receiver: which of them are placed and correct */
	MSG_CHUNK,      /* a staged chunk: fields, then the payload */
	/* control stream, client to server; each is answered */
	MSG_HELLO = 16,
	MSG_REGION,     /* make a region */
	MSG_XFER_BEGIN, /* transfer u32 and fields: prepare to receive it */
	MSG_XFER_END,   /* every chunk is acknowledged: what did you get? */
	MSG_PULL,       /* transfer u32 and fields: send me a region of yours (reverse) */
	MSG_PULL_WAIT,  /* answered when that transfer has ended */
	MSG_PULL_STOP,  /* end it early, in order */
	MSG_DIGEST,     /* XXH3-128 of part of a region */
	MSG_INFO,       /* counters of your side */
	MSG_FILES_OPEN,
	MSG_FILE_HASH,
	MSG_FILES_CLOSE,
	MSG_STREAM_DOWN,   /* my end of that stream is down: close yours, answer when nothing of it moves any more */
	MSG_BYE,           /* the session ends here */
	MSG_FILES_WRITE,   /* these of the open files, compared, will be written to: n u16, then their numbers u32 */
	MSG_SERVICE = 128, /* to MSG_SERVICE_LAST: a service's own (transport/service.h) */
	MSG_SERVICE_LAST = 255,
	/* control stream, server to client, not answered */
	MSG_STREAM_LOST = 64,
	MSG_GOODBYE,     /* the server ends the session: text */
	MSG_PULL_FAILED, /* what you pull has failed: PULL_WAIT says why */
};

struct msg_head {
	uint16_t type;
	uint32_t id;
};

struct chunk_rec {
	uint64_t chunk;  /* number in the transfer */
	uint64_t offset; /* in the region or file */
	uint64_t sum;
	uint32_t object; /* region or file */
	uint32_t len;
};

struct msg_commit {
	uint32_t seq; /* rises by one per COMMIT of the stream's incarnation */
	uint16_t n;
	struct chunk_rec rec[WIRE_COMMIT_MAX];
};

struct msg_ack {
	uint32_t seq;
	int32_t status;  /* 0, or why the transfer cannot go on (-ENOSPC…) */
	uint32_t object; /* on which object status happened */
	uint64_t ok;     /* bit i: rec[i] is placed and correct */
};

struct msg_hello {
	uint32_t streams;
	uint32_t workers; /* a wish */
	uint32_t chunk;   /* largest chunk, bytes */
	uint8_t sum;      /* enum sum_kind of its transfers: one that is unknown there is refused before any stream */
	uint32_t timeout_ms; /* how long a session without control stream is kept */
	uint16_t ext_len; /* bytes of extensions that follow: {type u16, len u16, bytes}…; unknown ones are skipped */
};

struct msg_hello_reply {
	uint32_t workers;
	uint32_t cpus;
	uint64_t memory_max; /* bytes a client may ask regions for */
	uint8_t stores;      /* 1: takes files */
	char host[65];
	char release[33]; /* dwcp's version */
	uint16_t ext_len;
};

struct msg_region {
	uint32_t region;
	uint64_t bytes;
	uint64_t seed; /* filled with rng_fill(seed) unless 0 (reverse needs content) */
};

struct msg_region_reply {
	uint64_t key;
	uint8_t pages; /* enum huge_kind */
};

enum xfer_kind { XFER_PUT, XFER_FILES, XFER_SERVICE };

struct msg_xfer_begin {
	uint8_t kind;
	uint8_t sum;
	uint64_t chunks;          /* in one pass, at most what regions or files can hold */
	uint32_t chunk;           /* largest, bytes */
	char filter[FILTER_NAME]; /* what undoes the payloads' encoding; "": none */
};

struct msg_xfer_end {
	uint64_t chunks; /* acknowledged, all passes */
};

struct msg_xfer_result {
	uint64_t placed;   /* chunks found good */
	uint64_t distinct; /* of one pass */
	uint64_t bytes;
	uint64_t bad;  /* refused by checksum, sent again */
	uint8_t whole; /* distinct == chunks of a pass, placed >= acknowledged */
};

struct msg_pull {
	uint32_t region; /* from */
	uint32_t to;     /* region announced by the client */
	uint64_t to_key;
	uint64_t to_bytes;
	uint64_t bytes; /* per pass */
	uint64_t passes;
	uint32_t chunk;
	uint8_t sum;
};

struct msg_pull_result {
	uint64_t chunks, bytes, refused;
	int32_t status;
};

struct msg_digest {
	uint32_t region;
	uint64_t offset, bytes;
};

struct msg_digest_reply {
	uint64_t lo, hi;
};

struct msg_info {
	uint64_t cpu_ns;       /* of the process, all sessions together: user + system */
	uint64_t rss_bytes;    /* resident set of the process, now */
	uint64_t region_bytes; /* of this session, as what follows */
	uint64_t tx_zero_copy, tx_copied, rx_zero_copy, rx_copied;
	uint64_t retransmits;
	uint32_t sessions; /* at the server now, this one included */
};

struct msg_file_spec { /* FILES_OPEN: n u16, then n of these */
	struct store_spec spec;
};

struct msg_file_status { /* FILES_OPEN and FILES_CLOSE replies: n u16, then n of these */
	int32_t status;
	uint64_t have; /* OPEN with resume: bytes that may be compared */
	char text[WIRE_TEXT];
};

struct msg_file_hash {
	uint32_t file; /* index in the batch */
	uint64_t first;
	uint32_t n; /* blocks; the reply is n u32, then n digests of 16 bytes */
};

#define WIRE_HASHES_MAX 2048

/* Given up: the part is kept for a resume. Later: that, too, and it will be opened again in this session. */
enum close_how { CLOSE_GIVEN_UP, CLOSE_COMPLETE, CLOSE_LATER };

struct msg_file_close {   /* FILES_CLOSE: sync u8, n u16, then n of these */
	uint8_t complete; /* enum close_how */
	uint64_t bytes;   /* that were sent of it since it was opened */
};

struct msg_stream_down {
	uint32_t stream, incarnation;
};

struct msg_status { /* every reply begins with it */
	int32_t status;
	char text[WIRE_TEXT];
};

struct msg_goodbye {
	char text[WIRE_TEXT];
};

struct msg_pull_failed {
	uint32_t transfer;
};

/* One field of a message, and a message's table. */
enum wire_kind { W_U8, W_BOOL, W_U16, W_U32, W_U64, W_STR };

struct wire_field {
	uint8_t kind;
	uint16_t offset, size; /* in the struct */
};

struct wire_def {
	const struct wire_field *fields;
	uint32_t n;
};

extern const struct wire_def wire_commit_head, wire_chunk_rec, wire_ack, wire_hello, wire_hello_reply, wire_region,
	wire_region_reply, wire_xfer_begin, wire_xfer_end, wire_xfer_result, wire_pull, wire_pull_result, wire_digest,
	wire_digest_reply, wire_info, wire_file_spec, wire_file_status, wire_file_hash, wire_file_close,
	wire_stream_down, wire_status, wire_goodbye, wire_pull_failed;

void wire_put(struct wcur *c, const struct wire_def *def, const void *msg);
/* Fills *msg wholly, zero where the input was short (then c->bad). */
void wire_get(struct rcur *c, const struct wire_def *def, void *msg);

/* Begins a message; wire_seal ends it once all fields are in (payload of a CHUNK excepted). */
void wire_put_head(struct wcur *c, uint16_t type, uint32_t id);
void wire_seal(void *msg, uint32_t len);
/* Checks and reads the header; *c is left at the fields. 0, -EPROTO, or -EBADMSG for a damaged message. */
int wire_open(const void *msg, uint32_t len, struct rcur *c, struct msg_head *h);

/* Whole messages of the data streams. Encoders return the length; decoders 0 or -EPROTO. */
uint32_t wire_put_commit(void *out, size_t cap, uint32_t transfer, const struct msg_commit *m);
int wire_get_commit(struct rcur *c, struct msg_commit *m);
uint32_t wire_put_ack(void *out, size_t cap, uint32_t transfer, const struct msg_ack *m);
int wire_get_ack(struct rcur *c, struct msg_ack *m);
uint32_t wire_put_chunk(void *out, size_t cap, uint32_t transfer, const struct chunk_rec *r);
int wire_get_chunk(struct rcur *c, struct chunk_rec *r); /* the payload is what is left in c */

#endif

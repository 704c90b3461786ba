/* SPDX-License-Identifier: MIT */
/*
 * The harness under the conformance tests. It polls up to four instances in one thread and holds every
 * event against the contract: nothing after DOWN, every accepted operation DONE once and in order before
 * DOWN, cookies and handles that belong together. Tests then only say what they expect on top.
 */
#ifndef DWCP_TESTS_CONFORMANCE_IMPL_H
#define DWCP_TESTS_CONFORMANCE_IMPL_H

#include "base/util.h"
#include "kmod-free-tests/conformance.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define CONF_INSTANCES 4
#define CONF_STREAMS 256
#define CONF_PENDING 16
#define CONF_HELD 64
#define CONF_SRC_BYTES (1u << 20)
#define CONF_GUARD 4096 /* bytes on both sides of a region that nobody may touch */
#define CONF_DOMAIN 7

struct conf_stream {
	int at; /* instance */
	be_stream s;
	bool connected, down;
	int down_err;
	uint32_t data_len; /* of CONNECTED or DOWN */
	uint8_t data[BE_PREAMBLE];
	uint64_t accepted, done, failed; /* operations; DONEs; of them with err */
	int done_err;                    /* the last DONE's */
	uint64_t messages, placed;
	struct mix *mix; /* incoming traffic that checks itself */
};

struct conf_request {
	struct be_request *request;
	uint8_t pre[BE_PREAMBLE];
};

struct conf_region {
	uint8_t *memory, *base; /* base: behind the guard */
	uint64_t len;
	struct be_token token;
};

struct conf {
	struct conf_target *t;
	const struct be_ops *ops;
	void *fabric;
	struct be *be[CONF_INSTANCES];
	struct be_addr addr; /* where instance 0 listens */
	struct be_open o;    /* for the next conf_open */
	struct conf_stream st[CONF_STREAMS];
	int n;
	struct conf_request pending[CONF_PENDING];
	int n_pending;
	uint64_t woken[CONF_INSTANCES];
	int max; /* events per poll */
	unsigned quiet;
	bool hold; /* keep frames in `held` */
	struct {
		int at;
		uint32_t frame;
		const uint8_t *data;
		uint32_t len;
	} held[CONF_HELD];
	int n_held;
	void (*on_message)(struct conf *c, struct conf_stream *s, const struct be_event *ev);
	uint8_t *src; /* CONF_SRC_BYTES of noise */
	struct conf_region region[2];
	uint8_t *scratch; /* a test's own memory, freed after it */
};

/* Traffic over one stream that checks itself: puts to places of their own, messages that say how many
 * puts went before them. */
#define MIX_PUTS 512

struct mix {
	int tx, rx;
	uint64_t rng;
	const struct conf_region *region;
	uint64_t from, to, used; /* its part of the region */
	uint32_t put_max, left;  /* operations still to post */
	uint32_t n_puts, verified, sent, received;
	struct {
		uint64_t offset;
		uint32_t len, src;
	} puts[MIX_PUTS];
};

void *conf_alloc(size_t n); /* zeroed, or the test fails */
int conf_setup(void **state);
int conf_teardown(void **state);

/* Opens instances 0 … n-1 with c->o, instance 0 listens. */
void conf_open(struct conf *c, int n);
struct be *conf_open_one(struct conf *c, int i);
void conf_close(struct conf *c, int i);

/* One round: polls every instance; lets time pass when nothing happened. Returns how many events. */
int conf_poll(struct conf *c); /* every instance once, without a pause */
int conf_step(struct conf *c);
void conf_steps(struct conf *c, int quiet_rounds); /* until so many rounds in a row brought nothing */

uint64_t conf_deadline(void);
void conf_check_deadline(const struct conf *c, uint64_t deadline, const char *file, int line, const char *what);

/* Steps until the expression holds; after 10 s the test fails and says what it waited for. */
#define WAIT(c, expr)                                                     \
	for (uint64_t deadline_ = conf_deadline(); !(expr); conf_step(c)) \
	conf_check_deadline((c), deadline_, __FILE__, __LINE__, #expr)

/* Streams, by index into c->st. */
int conf_connect(struct conf *c, int from, const struct be_addr *to, uint32_t domain);
int conf_accept(struct conf *c, int at, uint32_t domain); /* the oldest pending request */
void conf_pair(struct conf *c, int from, int at, int *connector, int *acceptor);
void conf_stream_close(struct conf *c, int i, bool graceful);

/* One operation, one try: 1, 0 or -errno. */
int conf_try_send(struct conf *c, int i, const void *head, uint32_t head_len, const void *body, uint32_t body_len);
int conf_try_put(struct conf *c, int i, struct be_token token, uint64_t offset, const void *src, uint32_t len);
void conf_send(struct conf *c, int i, const void *head, uint32_t head_len, const void *body, uint32_t body_len);
void conf_put(struct conf *c, int i, struct be_token token, uint64_t offset, const void *src, uint32_t len);
void conf_all_done(struct conf *c, int i);
void conf_release(struct conf *c, int held);

/* A guarded region r (0 or 1), zeroed, registered on instance `at`. */
void conf_region(struct conf *c, int r, int at, uint32_t domain, uint32_t id, uint64_t len);
void conf_guards(const struct conf *c, int r);
bool conf_all(const uint8_t *p, uint64_t len, uint8_t value);

void mix_begin(struct conf *c, struct mix *m, int tx, int rx, uint64_t seed, uint64_t from, uint64_t to, uint32_t ops);
void mix_step(struct conf *c, struct mix *m); /* tries to post one operation */
void mix_finish(struct conf *c, struct mix *m);

extern const struct CMUnitTest conf_connect_tests[], conf_data_tests[], conf_end_tests[], conf_region_tests[];
extern const size_t n_conf_connect_tests, n_conf_data_tests, n_conf_end_tests, n_conf_region_tests;

#define CONF_TEST(f)                                                                                 \
	{                                                                                            \
		.name = #f, .test_func = f, .setup_func = conf_setup, .teardown_func = conf_teardown \
	}

#endif

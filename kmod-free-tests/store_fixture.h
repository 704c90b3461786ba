/* SPDX-License-Identifier: MIT */
/* A store in a scratch folder, and the usual calls on it, which must succeed. Not for use in forked children. */
#ifndef DWCP_TESTS_STORE_FIXTURE_H
#define DWCP_TESTS_STORE_FIXTURE_H

#include "kmod-free-tests/tree.h"
#include "transport/store.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern char *top;           /* holds the store's folder, and what must stay untouched beside it */
extern const char *dir;     /* the store's folder, "in" */
extern struct store *store; /* open */

int store_setup(void **state);
int store_teardown(void **state);

/* A file with mode 0644, modified at 1000000000.123456789, of which all is data. */
struct store_spec spec_of(const char *name, uint64_t size, bool resume);

struct store_file *begin(const char *name, uint64_t size, bool resume, uint64_t expect_have);
void put(struct store_file *f, const void *data, size_t len, uint64_t offset);
void finish(struct store_file *f, bool sync);
struct digest128 hash_one(struct store_file *f, uint64_t block);

bool same(struct digest128 a, struct digest128 b);
uint8_t *data_new(size_t len, uint64_t seed); /* tree_fill; the caller frees it */

/* store_begin as it is, for those that may fail (also in children). */
int try_begin(struct store *s, const char *name, uint64_t size, bool resume, struct store_file **f, struct err *e);

#endif

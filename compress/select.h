/* SPDX-License-Identifier: MIT */
/*
 * Which codec for this block? Features that cost little, a model per choice that
 * predicts size and times from them, and a rule that weighs CPU, link and receiver.
 *
 * Rule, per block of n bytes, over choices c with predicted size s and times t:
 *
 *   a = t_enc(c) / cpu        b = (s(c) + header) / link        d = t_dec(c) / receiver
 *   c* = argmin  λ_cpu·a + λ_link·b + λ_recv·d + price·s(c),     λ ≥ 0, Σλ = 1
 *
 * and after each block λ_k ∝ λ_k · exp(η · U_k / U), U_k being the stages' times for it and U the mean of the busiest
 * stage's. No choice is taken whose busiest stage would take twice as long as a block does on the average, and as raw
 * would. The busiest stage gets the weight, so the longest of the three sums shrinks: with three resources an optimal
 * plan splits at most two blocks between choices, so the integer answer is within two blocks' cost of it. (With
 * sums of past times in place of U_k the weights swing: they would integrate what is an integral already.)
 *
 * Models: log2 of bytes out per byte in, and log2 of ns per byte each way, are linear in the features
 * (which hold products where a straight line does not fit). Trained offline from real images by
 * `dwcp benchmark hde --train`; corrected online by an exponentially weighted mean of each choice's error.
 *
 * Threads: a selector belongs to one worker. sel_model is read only.
 */
#ifndef DWCP_COMPRESS_SELECT_H
#define DWCP_COMPRESS_SELECT_H

#include "base/err.h"
#include "compress/codec.h"

/* One thing that can be done with a block. */
struct sel_choice {
	uint8_t codec; /* enum codec_id */
	int8_t level;
};

/* raw, lz4 (level is its acceleration: higher is faster), zstd -5…19. The order is that of sel_model.choice. */
#define SEL_CHOICES 14
extern const struct sel_choice sel_choices[SEL_CHOICES];

/* v[0] is 1. Names are in sel_feature_names; all are about 0…1. */
#define SEL_FEATURES 12
struct sel_features {
	float v[SEL_FEATURES];
};
extern const char *const sel_feature_names[SEL_FEATURES];

/* Looks at samples of a block of n bytes (1 … CODEC_BLOCK_MAX): at most 2 % of LZ4's time. Any thread, no allocation.
 * The same bytes give the same features on every machine. */
void sel_features(struct sel_features *f, const void *data, size_t n);

struct sel_choice_model {
	float size[SEL_FEATURES];   /* log2(bytes out / bytes in) */
	float encode[SEL_FEATURES]; /* log2(ns per byte in) */
	float decode[SEL_FEATURES]; /* log2(ns per byte out) */
};

struct sel_model {
	char made_by[96]; /* the command that made it */
	char date[16];
	struct sel_choice_model choice[SEL_CHOICES];
};

/* The model of the repository: compress/select_model.c, written by sel_model_write and not by hand. */
extern const struct sel_model sel_model_shipped;

/* Writes m as that C source file. -errno with e filled. */
int sel_model_write(const struct sel_model *m, const char *path, struct err *e);

/* What the rule weighs. Rates are those of one worker: its share of the whole. */
struct sel_cost {
	double cpu;              /* CPU seconds per second it may use: 1 is a core */
	double link_bytes_per_s; /* predicted; 0: not known, the rule then weighs CPU and bytes alike */
	double receiver;         /* CPU seconds per second over there, for the same stream */
	double price_s_per_byte; /* what a byte on the wire costs besides; 0 on a LAN */
	uint32_t allowed;        /* bit i: sel_choices[i] may be taken; 0: all */
};

struct sel_guess {
	double size, encode_ns, decode_ns; /* of the whole block */
};

/* The model's answer for choice c and a block of n bytes, without any correction. */
void sel_predict(const struct sel_model *m, const struct sel_features *f, size_t n, unsigned c, struct sel_guess *g);

struct selector {
	const struct sel_model *model;
	struct sel_cost cost;
	double lambda[3]; /* cpu, link, receiver */
	double mean;      /* seconds of a block's busiest stage, an exponentially weighted mean */
	uint32_t blocks;
	/* EWMA of log2(seen / predicted) of size, encode, decode: of each choice, and of all for those not seen yet */
	float off[SEL_CHOICES][3], all[3];
	uint32_t seen[SEL_CHOICES];
	uint32_t raw_row; /* blocks sent raw one after the other */
	double gain;      /* over raw, as the rule weighs; a mean */
	double look_s;    /* of CPU for a look */
	uint32_t unseen;  /* blocks in a row that were not looked at */
};

/* model NULL: the shipped one. */
void sel_init(struct selector *s, const struct sel_model *model, const struct sel_cost *cost);
/* New rates; λ and corrections stay. */
void sel_cost_set(struct selector *s, const struct sel_cost *cost);

/* Is the next block worth a look? On a link so fast that raw wins, looking costs as much as sending: while the gain over raw
 * was less than a look costs, one block in SEL_RAW_LOOK is looked at. false: take choice 0, give sel_learn no features. */
#define SEL_RAW_LOOK 8
bool sel_look(const struct selector *s);

/* The choice for a block with these features; guess (may be NULL) gets the corrected prediction. After SEL_RAW_ROW raw
 * blocks in a row the cheapest codec is tried unless it would hold up the rest, so that a
 * wrong "does not shrink" is noticed. */
#define SEL_RAW_ROW 64
unsigned sel_choose(struct selector *s, const struct sel_features *f, size_t n, struct sel_guess *guess);

/* What came of it. f NULL: it was sent raw without a look. decode_ns 0: not known here, the model's answer counts. Updates λ
 * and corrections. */
void sel_learn(struct selector *s, const struct sel_features *f, size_t n, unsigned c, size_t size, uint64_t encode_ns,
	       uint64_t decode_ns);

#endif

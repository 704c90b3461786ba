/* SPDX-License-Identifier: MIT */
#include "compress/select.h"

#include "base/util.h"
#include <math.h>
#include <string.h>

const struct sel_choice sel_choices[SEL_CHOICES] = {
	{ CODEC_RAW, 0 },   { CODEC_LZ4, 8 },  { CODEC_LZ4, 1 },   { CODEC_ZSTD, -5 }, { CODEC_ZSTD, -3 },
	{ CODEC_ZSTD, -1 }, { CODEC_ZSTD, 1 }, { CODEC_ZSTD, 2 },  { CODEC_ZSTD, 3 },  { CODEC_ZSTD, 5 },
	{ CODEC_ZSTD, 7 },  { CODEC_ZSTD, 9 }, { CODEC_ZSTD, 13 }, { CODEC_ZSTD, 19 },
};

const char *const sel_feature_names[SEL_FEATURES] = {
	"one",   "byte_set",        "collision",       "entropy",         "zeros",    "matched",
	"words", "entropy_matched", "matched_squared", "entropy_squared", "log_size", "text",
};

/* ---- features ---------------------------------------------------------------------------------- */

#define WINDOWS 8u
#define SAMPLE_PART 96u /* one byte of so many is looked at… */
#define SAMPLE_MOST 4096u
#define SAMPLE_LEAST 512u /* …but so many at least */
#define PROBE_BITS 10

static float clog2[SAMPLE_MOST + 1]; /* c · log2 c */

/* Before main, hence before any thread: readers need no atomics. */
__attribute__((constructor)) static void fill_clog2(void)
{
	for (unsigned c = 2; c <= SAMPLE_MOST; c++)
		clog2[c] = (float)c * log2f((float)c);
}

struct sample {
	uint16_t count[4][256]; /* four, so that equal neighbours do not wait for one another */
	uint16_t last[1u << PROBE_BITS];
	uint8_t bytes[SAMPLE_MOST];
	uint32_t n;
};

static void take_sample(struct sample *s, const uint8_t *p, size_t n)
{
	uint32_t want = (uint32_t)min_u64(max_u64(min_u64(n / SAMPLE_PART, SAMPLE_MOST), SAMPLE_LEAST), n);
	uint32_t window = want / WINDOWS;

	s->n = 0;
	if (window < 8) {
		s->n = want;
		memcpy(s->bytes, p, want);
		return;
	}
	/* In the middle of eight equal parts: the beginning of a page is not typical of it. */
	for (unsigned i = 0; i < WINDOWS; i++, s->n += window)
		memcpy(s->bytes + s->n, p + (2 * i + 1) * n / (2 * WINDOWS) - window / 2, window);
}

static uint32_t load32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof v);
	return v;
}

#define PROBE_STEP 2 /* what repeats is seldom at odd distances, and each look costs as much as a byte of LZ4's */

/* How much of the sample repeats something before it: bytes, out of s->n. */
static uint32_t probe_matches(struct sample *s)
{
	uint32_t matched = 0, i = PROBE_STEP;

	memset(s->last, 0, sizeof s->last);
	while (i + 8 <= s->n) {
		uint32_t v = load32(s->bytes + i), h = v * 2654435761u >> (32 - PROBE_BITS), at = s->last[h];

		s->last[h] = (uint16_t)i;
		if (load32(s->bytes + at) != v || at >= i) {
			i += PROBE_STEP;
			continue;
		}
		uint32_t len = 4;

		while (i + len < s->n && s->bytes[at + len] == s->bytes[i + len])
			len++;
		matched += len;
		i += len;
	}
	return matched;
}

static void count_bytes(struct sample *s)
{
	uint32_t i = 0;

	memset(s->count, 0, sizeof s->count);
	for (; i + 4 <= s->n; i += 4)
		for (unsigned k = 0; k < 4; k++)
			s->count[k][s->bytes[i + k]]++;
	for (; i < s->n; i++)
		s->count[0][s->bytes[i]]++;
	for (unsigned c = 0; c < 256; c++)
		s->count[0][c] = (uint16_t)(s->count[0][c] + s->count[1][c] + s->count[2][c] + s->count[3][c]);
}

static uint32_t text_bytes(const uint16_t *count)
{
	uint32_t n = (uint32_t)count['\n'] + count['\t'] + count['\r'];

	for (unsigned c = 0x20; c < 0x7f; c++)
		n += count[c];
	return n;
}

/* Words of 8 bytes whose upper half is plain: small numbers and pointers. */
static float plain_words(const struct sample *s)
{
	uint32_t n = 0, plain = 0;

	for (uint32_t i = 0; i + 8 <= s->n; i += 8, n++)
		plain += !s->bytes[i + 7] && !s->bytes[i + 6];
	return n ? (float)plain / (float)n : 0;
}

void sel_features(struct sel_features *f, const void *data, size_t n)
{
	struct sample s;
	uint32_t distinct = 0;
	float sums[4] = { 0 }, squares4[4] = { 0 }, sum, squares, entropy, matched, total;

	take_sample(&s, data, n);
	count_bytes(&s);
	for (unsigned c = 0; c < 256; c += 4) /* four sums, as in dot */
		for (unsigned k = 0; k < 4; k++) {
			uint16_t times = s.count[0][c + k];

			distinct += times > 0;
			sums[k] += clog2[times];
			squares4[k] += (float)times * (float)times;
		}
	sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
	squares = (squares4[0] + squares4[1]) + (squares4[2] + squares4[3]);
	total = (float)s.n;
	entropy = (log2f(total) - sum / total) / 8;
	matched = (float)probe_matches(&s) / total;
	*f = (struct sel_features){ .v = {
					    1,
					    (float)distinct / 256,
					    log2f(total * total / squares) / 8,
					    entropy,
					    (float)s.count[0][0] / total,
					    matched,
					    plain_words(&s),
					    entropy * matched,
					    matched * matched,
					    entropy * entropy,
					    log2f((float)n / 4096) / 6,
					    (float)text_bytes(s.count[0]) / total,
				    } };
}

/* ---- the models -------------------------------------------------------------------------------- */

/* Four sums side by side: one would wait for each addition. */
static float dot(const float *w, const struct sel_features *f)
{
	float sum[4] = { 0 };

	_Static_assert(SEL_FEATURES % 4 == 0, "four at a time");
	for (unsigned i = 0; i < SEL_FEATURES; i += 4)
		for (unsigned k = 0; k < 4; k++)
			sum[k] += w[i + k] * f->v[i + k];
	return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* A straight line knows no limits: none of these can be beyond 2^±12. */
static double power(float log2_of)
{
	return exp2f(fminf(fmaxf(log2_of, -12), 12));
}

/* Of size no more than raw, plus what a block's head costs elsewhere. */
static void predict(const struct sel_choice_model *m, const struct sel_features *f, size_t n, const float off[3],
		    struct sel_guess *g)
{
	g->size = (double)n * fmin(power(dot(m->size, f) + off[0]), 1);
	g->encode_ns = (double)n * power(dot(m->encode, f) + off[1]);
	g->decode_ns = (double)n * power(dot(m->decode, f) + off[2]);
}

void sel_predict(const struct sel_model *m, const struct sel_features *f, size_t n, unsigned c, struct sel_guess *g)
{
	static const float none[3];

	predict(&m->choice[c], f, n, none, g);
}

/* ---- the rule ---------------------------------------------------------------------------------- */

#define RATE_UNKNOWN 125e6 /* bytes/s: a gigabit */
#define LEARN 0.1f         /* weight of a new observation */
#define TRUST 4.0f         /* so many observations of a choice count as much as those of all others */
#define LEARN_MEAN 0.03
#define ETA_FIRST 0.3 /* in the first blocks, until there are so many that it is less than… */
#define ETA 0.1
#define LOAD_MOST 4.0 /* of the mean: one block does not turn everything round… */
#define LONG_MOST 2.0 /* …nor does it last longer than so many, or than so many times what raw takes */
#define LAMBDA_LEAST 0.02
#define BLOCK_HEAD 24.0 /* bytes on the wire beside the block */

enum stage_of_rule { AT_CPU, AT_LINK, AT_RECEIVER };

static struct sel_cost with_defaults(const struct sel_cost *cost)
{
	struct sel_cost c = *cost;

	c.cpu = c.cpu > 0 ? c.cpu : 1;
	c.link_bytes_per_s = c.link_bytes_per_s > 0 ? c.link_bytes_per_s : RATE_UNKNOWN;
	c.receiver = c.receiver > 0 ? c.receiver : 1;
	c.allowed = c.allowed ? c.allowed : (1u << SEL_CHOICES) - 1;
	return c;
}

void sel_init(struct selector *s, const struct sel_model *model, const struct sel_cost *cost)
{
	*s = (struct selector){
		.model = model ? model : &sel_model_shipped,
		.cost = with_defaults(cost),
		.lambda = { 1.0 / 3, 1.0 / 3, 1.0 / 3 },
	};
}

void sel_cost_set(struct selector *s, const struct sel_cost *cost)
{
	s->cost = with_defaults(cost);
}

static void correction(const struct selector *s, unsigned c, float off[3])
{
	float own = (float)s->seen[c] / ((float)s->seen[c] + TRUST);

	for (unsigned k = 0; k < 3; k++)
		off[k] = own * s->off[c][k] + (1 - own) * s->all[k];
}

static void loads(const struct selector *s, const struct sel_guess *g, double load[3])
{
	load[AT_CPU] = g->encode_ns * 1e-9 / s->cost.cpu;
	load[AT_LINK] = (g->size + BLOCK_HEAD) / s->cost.link_bytes_per_s;
	load[AT_RECEIVER] = g->decode_ns * 1e-9 / s->cost.receiver;
}

static double busiest(const struct selector *s, const struct sel_guess *g)
{
	double load[3];

	loads(s, g, load);
	return fmax(fmax(load[AT_CPU], load[AT_LINK]), load[AT_RECEIVER]);
}

static double cost_of(const struct selector *s, const struct sel_guess *g)
{
	double load[3];

	loads(s, g, load);
	return s->lambda[AT_CPU] * load[AT_CPU] + s->lambda[AT_LINK] * load[AT_LINK] +
	       s->lambda[AT_RECEIVER] * load[AT_RECEIVER] + s->cost.price_s_per_byte * g->size;
}

bool sel_look(const struct selector *s)
{
	return !s->blocks || s->gain > s->lambda[AT_CPU] * s->look_s || s->unseen + 1 >= SEL_RAW_LOOK ||
	       !(s->cost.allowed & 1);
}

#define LZ4_ROW 2        /* of sel_choices: acceleration 1 */
#define LOOK_OF_LZ4 0.02 /* what a look costs, of LZ4's time */

static void learn_gain(struct selector *s, double raw, double best, double lz4_ns)
{
	s->gain += (s->blocks ? LEARN : 1) * (raw - best - s->gain);
	s->look_s = LOOK_OF_LZ4 * lz4_ns * 1e-9 / s->cost.cpu;
}

unsigned sel_choose(struct selector *s, const struct sel_features *f, size_t n, struct sel_guess *guess)
{
	unsigned best = SEL_CHOICES;
	double least = 0, raw = 0, lz4_ns = 0, longest = 0;
	struct sel_guess first = { 0 };

	for (unsigned c = 0; c < SEL_CHOICES; c++) {
		struct sel_guess g;
		float off[3];
		double cost;

		correction(s, c, off);
		predict(&s->model->choice[c], f, n, off, &g);
		cost = cost_of(s, &g);
		raw = c == 0 ? cost : raw;
		first = c == 0 ? g : first;
		longest = c == 0 ? LONG_MOST * fmax(s->mean, busiest(s, &g)) : longest;
		lz4_ns = c == LZ4_ROW ? g.encode_ns : lz4_ns;
		if (!(s->cost.allowed >> c & 1) || (c == 0 && s->raw_row >= SEL_RAW_ROW) ||
		    (c && s->cost.allowed & 1 && busiest(s, &g) > longest) || (best < SEL_CHOICES && cost >= least))
			continue;
		best = c;
		least = cost;
		if (guess)
			*guess = g;
	}
	if (best == SEL_CHOICES) { /* raw had its row, and every codec would hold up the rest */
		best = 0;
		least = raw;
		if (guess)
			*guess = first;
	}
	learn_gain(s, raw, least, lz4_ns);
	return best;
}

static void learn_load(struct selector *s, const struct sel_guess *seen, bool looked)
{
	double load[3], most = 0, sum = 0, step = ETA_FIRST / (1 + s->blocks / 8.0);

	loads(s, seen, load);
	load[AT_CPU] += looked ? s->look_s : 0;
	for (unsigned k = 0; k < 3; k++)
		most = fmax(most, load[k]);
	s->mean += (s->blocks ? LEARN_MEAN : 1) * (most - s->mean);
	s->blocks++;
	for (unsigned k = 0; k < 3 && s->mean > 0; k++) {
		s->lambda[k] *= exp(fmax(step, ETA) * fmin(load[k] / s->mean, LOAD_MOST));
		sum += s->lambda[k];
	}
	for (unsigned k = 0; k < 3 && sum > 0; k++)
		s->lambda[k] = fmax(s->lambda[k] / sum, LAMBDA_LEAST);
}

static void learn_one(struct selector *s, unsigned c, unsigned k, double seen, double said)
{
	float d;

	if (seen <= 0 || said <= 0)
		return;
	d = fminf(fmaxf(log2f((float)(seen / said)), -3), 3);
	s->off[c][k] += (s->seen[c] ? LEARN : 1) * (d - s->off[c][k]);
	s->all[k] += LEARN * (d - s->all[k]);
}

void sel_learn(struct selector *s, const struct sel_features *f, size_t n, unsigned c, size_t size, uint64_t encode_ns,
	       uint64_t decode_ns)
{
	struct sel_guess said, seen = { (double)size, (double)encode_ns, (double)encode_ns };
	float off[3];

	if (!f) { /* a copy there costs what it does here */
		learn_load(s, &seen, false);
		s->raw_row++;
		s->unseen++;
		return;
	}
	s->unseen = 0;
	sel_predict(s->model, f, n, c, &said);
	correction(s, c, off);
	seen = (struct sel_guess){
		.size = (double)size,
		.encode_ns = (double)encode_ns,
		.decode_ns = decode_ns ? (double)decode_ns : said.decode_ns * power(off[2]),
	};
	learn_load(s, &seen, true);
	if (c)
		learn_one(s, c, 0, seen.size, said.size);
	learn_one(s, c, 1, seen.encode_ns, said.encode_ns);
	if (decode_ns)
		learn_one(s, c, 2, seen.decode_ns, said.decode_ns);
	s->seen[c]++;
	s->raw_row = c ? 0 : s->raw_row + 1;
}

/* SPDX-License-Identifier: MIT */
#include "bench/linkemu_trace.h"
#include "base/clock.h"
#include "base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_MAX (64u << 20)
#define ROWS_MAX 1000000u
#define MBITS_MAX 400000.0
#define SECONDS_MAX 1e7
#define LINE_MAX_BYTES 256
#define PERIOD_LEAST_BITS (65536ull * 8) /* a repetition carries the largest packet: bounds the search */

struct link_trace {
	size_t n;
	uint64_t *begin; /* n + 1 of them: the last is the length */
	uint64_t *rate;
	uint64_t most, mean;
};

/* ---- reading ----------------------------------------------------------------------------------- */

/* "SECONDS,MBITS"; anything after a further separator is not ours. */
static bool read_line(const char *line, double *seconds, double *mbits)
{
	char *end;

	*seconds = strtod(line, &end);
	if (end == line)
		return false;
	end += strspn(end, " \t,;");
	line = end;
	*mbits = strtod(line, &end);
	return end != line && strspn(end, " \t\r,;") == strlen(end) && isfinite(*seconds) && isfinite(*mbits);
}

static int add_row(struct link_trace *t, double first, double seconds, double mbits, const char *name, unsigned line,
		   struct err *e)
{
	uint64_t at;

	if (t->n == ROWS_MAX)
		return err_set(e, -E2BIG, "%s: more than %u lines: use a shorter trace", name, ROWS_MAX);
	if (mbits < 0 || mbits > MBITS_MAX)
		return err_set(e, -EINVAL, "%s:%u: %g Mb/s is out of range: choose 0 to %.0f", name, line, mbits,
			       MBITS_MAX);
	if (!(seconds - first >= 0 && seconds - first <= SECONDS_MAX))
		return err_set(e, -EINVAL, "%s:%u: times ascend, over at most %.0f s", name, line, SECONDS_MAX);
	at = (uint64_t)llround((seconds - first) * 1e9);
	if (t->n && at <= t->begin[t->n - 1])
		return err_set(e, -EINVAL, "%s:%u: times ascend: this one is not after the line before", name, line);
	t->begin[t->n] = at;
	t->rate[t->n++] = (uint64_t)llround(mbits * 1e6);
	return 0;
}

static int read_rows(struct link_trace *t, const char *text, size_t len, const char *name, struct err *e)
{
	const char *end = text + len;
	double seconds, mbits, first = 0;
	char line[LINE_MAX_BYTES];
	unsigned number = 0;

	while (text < end) {
		const char *stop = memchr(text, '\n', (size_t)(end - text));
		size_t n = stop ? (size_t)(stop - text) : (size_t)(end - text);
		int rc;

		number++;
		snprintf(line, sizeof(line), "%.*s", (int)(n < sizeof(line) ? n : sizeof(line) - 1), text);
		text += n + 1;
		if (*line == '#' || line[strspn(line, " \t\r")] == 0)
			continue;
		if (!read_line(line, &seconds, &mbits)) {
			if (!t->n && number == 1 && (*line < '0' || *line > '9'))
				continue; /* a heading */
			return err_set(e, -EINVAL, "%s:%u: \"%.40s\" is not SECONDS,MBITS: write e.g. 0.5,12.8", name,
				       number, line);
		}
		if (!t->n)
			first = seconds;
		rc = add_row(t, first, seconds, mbits, name, number, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int finish(struct link_trace *t, const char *name, struct err *e)
{
	uint64_t bits = 0;

	if (t->n < 2)
		return err_set(e, -EINVAL, "%s: a trace has two lines at least: write SECONDS,MBITS", name);
	t->begin[t->n] = 2 * t->begin[t->n - 1] - t->begin[t->n - 2];
	for (size_t i = 0; i < t->n; i++) {
		bits += (uint64_t)((unsigned __int128)t->rate[i] * (t->begin[i + 1] - t->begin[i]) / NS_PER_S);
		t->most = max_u64(t->most, t->rate[i]);
	}
	if (bits < PERIOD_LEAST_BITS)
		return err_set(e, -EINVAL, "%s: the whole trace carries less than one packet: is the unit Mb/s?", name);
	t->mean = (uint64_t)((double)bits * 1e9 / (double)t->begin[t->n]);
	return 0;
}

int link_trace_parse(struct link_trace **out, const char *text, size_t len, const char *name, struct err *e)
{
	struct link_trace *t = calloc(1, sizeof(*t));
	size_t lines = 1;
	int rc = -ENOMEM;

	for (size_t i = 0; i < len; i++)
		lines += text[i] == '\n';
	lines = min_u64(lines, ROWS_MAX);
	if (t) {
		t->begin = calloc(lines + 1, sizeof(*t->begin));
		t->rate = calloc(lines, sizeof(*t->rate));
	}
	if (!t || !t->begin || !t->rate)
		err_set(e, rc, "%s: no memory to read it: use a shorter trace", name);
	else
		rc = read_rows(t, text, len, name, e);
	if (rc >= 0)
		rc = finish(t, name, e);
	if (rc < 0)
		link_trace_free(t);
	else
		*out = t;
	return rc;
}

int link_trace_load(struct link_trace **out, const char *path, struct err *e)
{
	FILE *f = fopen(path, "re");
	char *text = NULL;
	size_t len = 0;
	int rc = 0;

	if (!f)
		return err_set(e, -errno, "trace %s: %s: check its name and permissions", path, strerror(errno));
	text = malloc(FILE_MAX);
	if (text)
		len = fread(text, 1, FILE_MAX, f);
	if (!text)
		rc = err_set(e, -ENOMEM, "trace %s: no memory to read it", path);
	else if (ferror(f))
		rc = err_set(e, -EIO, "trace %s: cannot be read: is it a file?", path);
	else if (len == FILE_MAX)
		rc = err_set(e, -EFBIG, "trace %s is longer than 64 MB: use a shorter one", path);
	else
		rc = link_trace_parse(out, text, len, path, e);
	free(text);
	fclose(f);
	return rc;
}

void link_trace_free(struct link_trace *t)
{
	if (!t)
		return;
	free(t->begin);
	free(t->rate);
	free(t);
}

/* ---- time -------------------------------------------------------------------------------------- */

static void step(const struct link_trace *t, struct link_trace_at *at)
{
	if (++at->i == t->n) {
		at->i = 0;
		at->round++;
	}
}

uint64_t link_trace_send(const struct link_trace *t, struct link_trace_at *at, uint64_t from_ns, uint64_t bits)
{
	uint64_t length = t->begin[t->n], round = from_ns / length;

	if (round > at->round) {
		at->round = round;
		at->i = 0;
	}
	while (at->round * length + t->begin[at->i + 1] <= from_ns)
		step(t, at);
	for (;;) {
		uint64_t end = at->round * length + t->begin[at->i + 1], rate = t->rate[at->i];
		uint64_t fits = (uint64_t)((unsigned __int128)rate * (end - from_ns) / NS_PER_S);

		if (fits >= bits && rate)
			return min_u64(from_ns + div_up_u64(bits * NS_PER_S, rate), end);
		bits -= fits;
		from_ns = end;
		step(t, at);
	}
}

uint64_t link_trace_most(const struct link_trace *t)
{
	return t->most;
}

uint64_t link_trace_mean(const struct link_trace *t)
{
	return t->mean;
}

uint64_t link_trace_length(const struct link_trace *t)
{
	return t->begin[t->n];
}

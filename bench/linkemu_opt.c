/* SPDX-License-Identifier: MIT */
#include "bench/linkemu_opt.h"
#include "base/clock.h"
#include "base/util.h"
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUEUE_LEAST (150u << 10)        /* a hundred packets of an Ethernet */
#define QUEUE_LEAST_NS (10 * NS_PER_MS) /* and what a host's own queue holds of a fast one */
#define QUEUE_UNLIMITED (64u << 20)
#define MEMORY_MAX (2ull << 30)

/* One direction's rows; `p` begins their names, `alias` is what they are called in a section of their own. */
#define DIRECTION(p, alias_of)                                                                         \
	{ .name = p "rate",                                                                            \
	  .alias = alias_of("rate"),                                                                   \
	  .type = OPT_RATE,                                                                            \
	  .offset = offsetof(struct link_dir_opts, rate),                                              \
	  .def = "auto",                                                                               \
	  .min = 1000,                                                                                 \
	  .max = 400000000000,                                                                         \
	  .auto_ok = true,                                                                             \
	  .help = "bits per second of IP packets; auto: as fast as this machine can" },                \
		{ .name = p "trace",                                                                   \
		  .alias = alias_of("trace"),                                                          \
		  .type = OPT_STR,                                                                     \
		  .offset = offsetof(struct link_dir_opts, trace),                                     \
		  .def = "",                                                                           \
		  .max = LINK_TRACE_MAX,                                                               \
		  .unit = "FILE",                                                                      \
		  .help = "a rate that changes, in place of it: lines SECONDS,MBITS, over and over" }, \
		{ .name = p "delay",                                                                   \
		  .alias = alias_of("delay"),                                                          \
		  .type = OPT_TIME,                                                                    \
		  .offset = offsetof(struct link_dir_opts, delay_ns),                                  \
		  .def = "0ms",                                                                        \
		  .max = 10 * NS_PER_S,                                                                \
		  .help = "time on the way, one direction: half of a round trip" },                    \
		{ .name = p "jitter",                                                                  \
		  .alias = alias_of("jitter"),                                                         \
		  .type = OPT_TIME,                                                                    \
		  .offset = offsetof(struct link_dir_opts, jitter_ns),                                 \
		  .def = "0ms",                                                                        \
		  .max = 10 * NS_PER_S,                                                                \
		  .help = "the delay wanders by so much up and down, without reordering" },            \
		{ .name = p "loss",                                                                    \
		  .alias = alias_of("loss"),                                                           \
		  .type = OPT_F64,                                                                     \
		  .offset = offsetof(struct link_dir_opts, loss),                                      \
		  .def = "0",                                                                          \
		  .max = 100,                                                                          \
		  .unit = "%",                                                                         \
		  .help = "packets that get lost" },                                                   \
		{ .name = p "loss-burst",                                                              \
		  .alias = alias_of("loss-burst"),                                                     \
		  .type = OPT_F64,                                                                     \
		  .offset = offsetof(struct link_dir_opts, loss_burst),                                \
		  .def = "1",                                                                          \
		  .min = 1,                                                                            \
		  .max = 1000000,                                                                      \
		  .unit = "PACKETS",                                                                   \
		  .help = "mean length of a bad time (Gilbert-Elliott); 1: each packet by itself" },   \
		{ .name = p "loss-in-burst",                                                           \
		  .alias = alias_of("loss-in-burst"),                                                  \
		  .type = OPT_F64,                                                                     \
		  .offset = offsetof(struct link_dir_opts, loss_in_burst),                             \
		  .def = "100",                                                                        \
		  .max = 100,                                                                          \
		  .unit = "%",                                                                         \
		  .help = "packets that a bad time loses" },                                           \
		{ .name = p "reorder",                                                                 \
		  .alias = alias_of("reorder"),                                                        \
		  .type = OPT_F64,                                                                     \
		  .offset = offsetof(struct link_dir_opts, reorder),                                   \
		  .def = "0",                                                                          \
		  .max = 100,                                                                          \
		  .unit = "%",                                                                         \
		  .help = "packets that are held back while others pass" },                            \
		{ .name = p "reorder-delay",                                                           \
		  .alias = alias_of("reorder-delay"),                                                  \
		  .type = OPT_TIME,                                                                    \
		  .offset = offsetof(struct link_dir_opts, reorder_delay_ns),                          \
		  .def = "1ms",                                                                        \
		  .max = 10 * NS_PER_S,                                                                \
		  .help = "for how long" },                                                            \
		{ .name = p "duplicate",                                                               \
		  .alias = alias_of("duplicate"),                                                      \
		  .type = OPT_F64,                                                                     \
		  .offset = offsetof(struct link_dir_opts, duplicate),                                 \
		  .def = "0",                                                                          \
		  .max = 100,                                                                          \
		  .unit = "%",                                                                         \
		  .help = "packets that arrive twice" },                                               \
		{ .name = p "queue",                                                                   \
		  .alias = alias_of("queue"),                                                          \
		  .type = OPT_SIZE,                                                                    \
		  .offset = offsetof(struct link_dir_opts, queue),                                     \
		  .def = "auto",                                                                       \
		  .min = 1500,                                                                         \
		  .max = 1ull << 30,                                                                   \
		  .auto_ok = true,                                                                     \
		  .help = "bytes that wait before the link, at most; auto: what the rate carries in a round trip, 10 ms and 150 KB at least" },

#define NO_ALIAS(name) NULL
#define OWN_ALIAS(name) name

static const struct opt both_rows[] = { DIRECTION("", NO_ALIAS) };
static const struct opt ab_rows[] = { DIRECTION("ab-", OWN_ALIAS) };
static const struct opt ba_rows[] = { DIRECTION("ba-", OWN_ALIAS) };
_Static_assert(ARRAY_LEN(both_rows) == LINK_ROWS, "a row per option of a direction");

static const struct opt common_rows[] = {
	{ .name = "mtu",
	  .type = OPT_U32,
	  .offset = offsetof(struct link_common_opts, mtu),
	  .def = "1500",
	  .min = 1280,
	  .max = 65000,
	  .unit = "BYTES",
	  .help = "largest IP packet" },
	{ .name = "offload",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct link_common_opts, offload),
	  .def = "yes",
	  .help = "the hosts' devices segment TCP, as network cards do; the link carries single packets either way" },
	{ .name = "seed",
	  .type = OPT_U32,
	  .offset = offsetof(struct link_common_opts, seed),
	  .def = "1",
	  .help = "of the randomness: the same seed loses the same packets" },
};
_Static_assert(ARRAY_LEN(common_rows) == LINK_COMMON_ROWS, "a flag per row");

void link_groups(struct link_opts *o, struct opt_group groups[LINK_GROUPS])
{
	groups[0] = (struct opt_group){ .name = "link",
					.help = "Link, both directions",
					.rows = both_rows,
					.n = LINK_ROWS,
					.base = &o->both,
					.given = o->given_both };
	groups[1] = (struct opt_group){ .name = "hosts",
					.help = "Hosts of the link",
					.rows = common_rows,
					.n = LINK_COMMON_ROWS,
					.base = &o->common,
					.given = o->given_common };
	groups[2] = (struct opt_group){ .name = "ab",
					.help = "From A to B, where different",
					.rows = ab_rows,
					.n = LINK_ROWS,
					.base = &o->dir[LINK_AB],
					.given = o->given_dir[LINK_AB] };
	groups[3] = (struct opt_group){ .name = "ba",
					.help = "From B to A, where different",
					.rows = ba_rows,
					.n = LINK_ROWS,
					.base = &o->dir[LINK_BA],
					.given = o->given_dir[LINK_BA] };
}

/* ---- layers ------------------------------------------------------------------------------------ */

static size_t field_size(const struct opt *row)
{
	switch (row->type) {
	case OPT_BOOL:
		return sizeof(bool);
	case OPT_U32:
		return sizeof(uint32_t);
	case OPT_ENUM:
		return sizeof(int);
	case OPT_STR:
		return row->max;
	default:
		return sizeof(uint64_t);
	}
}

static void copy_given(void *to, const void *from, const struct opt *rows, const bool *given, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!given || given[i])
			memcpy((char *)to + rows[i].offset, (const char *)from + rows[i].offset, field_size(&rows[i]));
}

static void apply(struct link_settings *s, const struct link_opts *o)
{
	copy_given(&s->common, &o->common, common_rows, o->given_common, LINK_COMMON_ROWS);
	for (int d = 0; d < 2; d++) {
		/* the one replaces the other */
		if (o->given_both[0] || o->given_dir[d][0])
			s->dir[d].trace[0] = 0;
		copy_given(&s->dir[d], &o->both, both_rows, o->given_both, LINK_ROWS);
		copy_given(&s->dir[d], &o->dir[d], both_rows, o->given_dir[d], LINK_ROWS);
	}
}

/* A trace is looked for in `folder`; what is stored does not depend on where the reader is. */
static int absolute(char trace[LINK_TRACE_MAX], const char *folder, struct err *e)
{
	char path[2 * PATH_MAX], whole[PATH_MAX];

	if (!*trace)
		return 0;
	if (*trace == '/' || !*folder)
		snprintf(path, sizeof(path), "%s", trace);
	else
		snprintf(path, sizeof(path), "%s/%s", folder, trace);
	if (!realpath(path, whole))
		return err_set(e, -errno, "trace %s: %s: check its name and permissions", path, strerror(errno));
	if (strlen(whole) >= LINK_TRACE_MAX)
		return err_set(e, -ENAMETOOLONG, "trace %s: the path is too long: move it nearer to /", trace);
	memcpy(trace, whole, strlen(whole) + 1);
	return 0;
}

static int absolute_traces(struct link_opts *o, const char *folder, struct err *e)
{
	int rc = absolute(o->both.trace, folder, e);

	for (int d = 0; rc >= 0 && d < 2; d++)
		rc = absolute(o->dir[d].trace, folder, e);
	return rc;
}

int link_settings_apply(struct link_settings *s, const struct link_opts *given, struct err *e)
{
	struct link_opts o = *given;
	int rc = absolute_traces(&o, "", e);

	if (rc >= 0)
		apply(s, &o);
	return rc;
}

/* Folder i in which profiles may lie: beside the sources, or where they were installed, seen from the program. */
static bool profile_folder(size_t i, char folder[PATH_MAX])
{
	static const char *const places[] = { "../configs/links", "../../configs/links", "../share/dwcp/links" };
	char exe[PATH_MAX - 128];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	char *slash;

	exe[n > 0 ? n : 0] = 0;
	slash = strrchr(exe, '/');
	if (slash)
		*slash = 0;
	if (!i)
		snprintf(folder, PATH_MAX, "configs/links");
	else if (i <= ARRAY_LEN(places))
		snprintf(folder, PATH_MAX, "%s/%s", exe, places[i - 1]);
	return i <= ARRAY_LEN(places);
}

static int find_profile(const char *name, char path[PATH_MAX + 80], struct err *e)
{
	char folder[PATH_MAX];

	if (strchr(name, '/') || (strlen(name) > 5 && !strcmp(name + strlen(name) - 5, ".yaml"))) {
		snprintf(path, PATH_MAX, "%s", name);
		return 0;
	}
	for (size_t i = 0; profile_folder(i, folder); i++) {
		snprintf(path, PATH_MAX + 80, "%s/%.64s.yaml", folder, name);
		if (access(path, R_OK) == 0)
			return 0;
	}
	return err_set(
		e, -EINVAL,
		"there is no profile \"%.64s\"; `dwcp linkemu profiles` lists them, and a file is named by its path",
		name);
}

/* The first line of a profile says what it is. */
static json_t *profile_json(const char *folder, const char *file)
{
	char path[2 * PATH_MAX], line[256] = "";
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, file);
	f = fopen(path, "re");
	if (!f)
		return NULL;
	if (!fgets(line, sizeof(line), f) || *line != '#')
		*line = 0;
	fclose(f);
	line[strcspn(line, "\n")] = 0;
	return json_pack("{s:s%, s:s, s:s}", "name", file, strlen(file) - strlen(".yaml"), "about",
			 line + strspn(line, "# "), "file", path);
}

json_t *link_profiles(void)
{
	json_t *list = json_array();
	char folder[PATH_MAX];

	for (size_t i = 0; profile_folder(i, folder) && !json_array_size(list); i++) {
		struct dirent **found = NULL;
		int n = scandir(folder, &found, NULL, alphasort);

		for (int k = 0; k < n; k++) {
			const char *dot = strrchr(found[k]->d_name, '.');

			if (dot && dot != found[k]->d_name && !strcmp(dot, ".yaml"))
				json_array_append_new(list, profile_json(folder, found[k]->d_name));
			free(found[k]);
		}
		free(found);
	}
	return list;
}

static int load_profile(struct link_settings *s, const char *name, struct err *e)
{
	struct link_opts o = { 0 };
	struct opt_group groups[LINK_GROUPS];
	char path[PATH_MAX + 80], *slash;
	int rc = find_profile(name, path, e);

	if (rc < 0)
		return rc;
	link_groups(&o, groups);
	opt_defaults(groups, LINK_GROUPS);
	rc = opt_load_yaml(groups, LINK_GROUPS, NULL, path, e);
	if (rc < 0)
		return rc;
	slash = strrchr(path, '/');
	if (slash)
		*slash = 0;
	rc = absolute_traces(&o, slash ? path : "", e);
	if (rc >= 0)
		apply(s, &o);
	return rc;
}

int link_settings_make(struct link_settings *s, const char *profile, const struct link_opts *given, struct err *e)
{
	struct link_opts o = { 0 };
	struct opt_group groups[LINK_GROUPS];
	int rc = 0;

	link_groups(&o, groups);
	opt_defaults(groups, LINK_GROUPS);
	*s = (struct link_settings){ .common = o.common, .dir = { o.both, o.both } };
	if (profile)
		rc = load_profile(s, profile, e);
	return rc < 0 ? rc : link_settings_apply(s, given, e);
}

/* ---- parameters -------------------------------------------------------------------------------- */

static void set_params(struct link_params *p, const struct link_dir_opts *d, const struct link_trace *trace,
		       uint64_t round_trip_ns)
{
	uint64_t rate = trace ? link_trace_mean(trace) : d->rate;

	*p = (struct link_params){
		.rate = d->rate,
		.trace = trace,
		.delay_ns = d->delay_ns,
		.jitter_ns = d->jitter_ns,
		.loss = d->loss / 100,
		.loss_burst = d->loss_burst,
		.loss_in_burst = d->loss_in_burst / 100,
		.reorder = d->reorder / 100,
		.reorder_delay_ns = d->reorder_delay_ns,
		.duplicate = d->duplicate / 100,
		.queue = d->queue,
	};
	if (!p->queue)
		p->queue = rate ? max_u64(QUEUE_LEAST, (uint64_t)((double)rate / 8e9 *
								  (double)max_u64(round_trip_ns, QUEUE_LEAST_NS)))
				: QUEUE_UNLIMITED;
}

int link_settings_params(const struct link_settings *s, struct link_params params[2], struct link_trace *traces[2],
			 struct err *e)
{
	static const char *const names[] = { "A to B", "B to A" };
	uint64_t round_trip = s->dir[LINK_AB].delay_ns + s->dir[LINK_BA].delay_ns;
	int rc = 0;

	traces[0] = traces[1] = NULL;
	for (int d = 0; rc >= 0 && d < 2; d++) {
		if (s->dir[d].trace[0])
			rc = link_trace_load(&traces[d], s->dir[d].trace, e);
		if (rc < 0)
			break;
		set_params(&params[d], &s->dir[d], traces[d], round_trip);
		rc = link_params_check(&params[d], e);
		if (rc >= 0 && link_params_bytes(&params[d]) > MEMORY_MAX)
			rc = err_set(e, -EINVAL,
				     "%s: %.1f GB would be under way at this rate and delay: choose less of either",
				     names[d], (double)link_params_bytes(&params[d]) / 1e9);
	}
	for (int d = 0; rc < 0 && d < 2; d++) {
		link_trace_free(traces[d]);
		traces[d] = NULL;
	}
	return rc;
}

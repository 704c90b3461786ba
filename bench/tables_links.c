/* SPDX-License-Identifier: MIT */
/* Emulated links: 1 to 512 streams, two kinds of congestion control, beside iperf3 over the same link. */
#include "base/util.h"
#include "bench/linkemu.h"
#include "bench/tables.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OMIT_S 3        /* of each run: slow start, and the first chunks of slow streams */
#define RUN_LEAST_S 8   /* what a link that loses carries in less says little */
#define CHUNK "64KB"    /* a slow stream's larger chunks would come in lumps; iperf3 writes 128 KB at a time */
#define IPERF3_MOST 128 /* streams it allows */
#define RUN_TIMEOUT_S 120

static const char *const congestion[] = { "cubic", "bbr" };
static const unsigned streams[] = { 1, 8, 32, 128, 512 };

#define CONTENDERS (2 * ARRAY_LEN(congestion) * ARRAY_LEN(streams))

/* What a contender's `ctx` points to. */
struct link_case {
	const char *profile, *congestion;
};

static unsigned run_s(const struct lab *lab)
{
	return (unsigned)fmax(ceil(lab->seconds), RUN_LEAST_S);
}

/* ---- dwcp, as iperf3 counts --------------------------------------------------------------------- */

double rate_within(const json_t *run, double from, double to)
{
	double bytes = 0, seconds = 0;
	const json_t *v;
	size_t i;

	json_array_foreach(json_object_get(run, "intervals"), i, v)
	{
		double end = json_number_value(json_object_get(v, "t"));
		double length = json_number_value(json_object_get(v, "seconds"));

		if (end - length < from - .5 || end > to + .5)
			continue;
		bytes += json_number_value(json_object_get(v, "bytes"));
		seconds += length;
	}
	return seconds > 0 ? bytes / seconds / 1e9 : NAN;
}

static int run_dwcp_link(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	int rc = run_dwcp(lab, c, result, e);

	if (rc >= 0)
		json_object_set_new(*result, "gbytes_per_s",
				    json_real(rate_within(*result, OMIT_S, OMIT_S + run_s(lab))));
	return rc;
}

/* ---- iperf3 over a link ------------------------------------------------------------------------ */

static int on_side(struct command_line *c, const struct lab *lab, const char *name, const char *side, struct err *e)
{
	if (access(lab->dwcp, X_OK) < 0)
		return err_set(e, -errno, "cannot run %s", lab->dwcp);
	command_add(c, "%s", lab->dwcp);
	command_words(c, "linkemu exec");
	command_add(c, "--name=%s", name);
	command_add(c, "%s", side);
	command_add(c, "iperf3");
	return 0;
}

static int transfer(const struct lab *lab, const struct contender *c, const char *name, json_t **result, struct err *e)
{
	const struct link_case *l = c->ctx;
	struct command_line server = { .n = 0 }, client = { .n = 0 };
	struct proc p;
	int rc = on_side(&server, lab, name, "B", e);

	command_words(&server, "-s -1 -B " LINK_IPV4 "2 --forceflush");
	if (rc >= 0)
		rc = on_side(&client, lab, name, "A", e);
	command_words(&client, "-c " LINK_IPV4 "2 -J -t");
	command_add(&client, "%u", run_s(lab));
	command_words(&client, "-O");
	command_add(&client, "%d", OMIT_S);
	command_words(&client, "-C");
	command_add(&client, "%s", l->congestion);
	command_words(&client, "-P");
	command_add(&client, "%u", c->streams);
	if (rc >= 0)
		rc = proc_start(&p, &server, NULL, NULL, e);
	if (rc < 0)
		return rc;
	/* it says so when it listens; a first line of dashes comes before */
	rc = proc_ready(&p, "Server listening on", (char[64]){ 0 }, 64, e);
	if (rc >= 0)
		rc = iperf3_result(&client, RUN_TIMEOUT_S, result, e);
	proc_stop(&p);
	return rc;
}

static int run_iperf3_link(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	static const struct link_opts nothing;
	const struct link_case *l = c->ctx;
	struct link_settings s;
	char name[LINK_NAME_MAX + 1];
	int owner = -1, rc = link_settings_make(&s, l->profile, &nothing, e);

	snprintf(name, sizeof(name), "bench-%d", (int)getpid());
	if (rc >= 0)
		rc = linkemu_up(name, &s, &owner, e);
	if (rc < 0)
		return rc;
	rc = transfer(lab, c, name, result, e);
	linkemu_down(name, NULL);
	close(owner);
	return rc;
}

/* ---- one profile ------------------------------------------------------------------------------- */

static json_t *mbits(const struct contender *c)
{
	struct stats_interval v = scenario_value(c, "gbytes_per_s");

	v.median *= 8000;
	v.ci95_low *= 8000;
	v.ci95_high *= 8000;
	return json_interval(v);
}

/* dwcp's contender is followed by iperf3's, which has none above its limit. */
static void report_profile(struct lab *lab, const char *profile, const struct contender *c, size_t n)
{
	char name[64], title[96], what[96], arrow[1400];
	static const struct link_opts nothing;
	const struct contender *one = NULL;
	struct link_settings settings;
	json_t *s;

	snprintf(name, sizeof(name), "links_%s", profile);
	snprintf(title, sizeof(title), "Over an emulated link: %s", profile);
	s = report_section(lab->report, name, title, "congestion control|streams|dwcp Mb/s|iperf3 Mb/s|dwcp/iperf3");
	if (link_settings_make(&settings, profile, &nothing, NULL) == 0)
		report_text(
			s,
			"A to B: %s. `dwcp benchmark amst --link=%s --streams=N --congestion=C --chunk-size=" CHUNK
			" --interval=1s --duration=%us`, of it the last %u seconds, and `iperf3 -P N -C C -t %u -O %d` "
			"between the same two namespaces, a new link for each run.",
			link_direction_text(&settings.dir[LINK_AB], arrow, sizeof(arrow)), profile, OMIT_S + run_s(lab),
			run_s(lab), run_s(lab), OMIT_S);
	for (size_t i = 0; i < n; i++) {
		const struct link_case *l = c[i].ctx;
		bool pair = c[i].streams <= IPERF3_MOST;
		struct stats_interval ratio = pair ? scenario_ratio(&c[i], &c[i + 1], "gbytes_per_s")
						   : (struct stats_interval){ .median = NAN };

		report_row(s,
			   json_pack("[s, i, o, o, o]", l->congestion, (int)c[i].streams, mbits(&c[i]),
				     pair ? mbits(&c[i + 1]) : json_null(), pair ? json_interval(ratio) : json_null()));
		snprintf(what, sizeof(what), "%.40s, %s, %u streams over iperf3's", profile, l->congestion,
			 c[i].streams);
		if (pair)
			report_target(s, what, ratio, "x", AT_LEAST, .95);
		if (c[i].streams == 1)
			one = &c[i];
		snprintf(what, sizeof(what), "%.40s, %s, 8 streams over 1", profile, l->congestion);
		if (c[i].streams == 8 && one && !strcmp(profile, "simulated_internet") &&
		    !strcmp(l->congestion, "cubic"))
			report_target(s, what, scenario_ratio(&c[i], one, "gbytes_per_s"), "x", AT_LEAST, 1.7);
		i += pair;
	}
}

static int table_profile(struct lab *lab, const char *profile, struct err *e)
{
	struct contender c[CONTENDERS] = { 0 };
	struct link_case cases[ARRAY_LEN(congestion)];
	char what[80];
	size_t n = 0;
	int rc;

	for (size_t k = 0; k < ARRAY_LEN(congestion); k++) {
		cases[k] = (struct link_case){ .profile = profile, .congestion = congestion[k] };
		for (size_t i = 0; i < ARRAY_LEN(streams); i++) {
			c[n].run = run_dwcp_link;
			c[n].ctx = &cases[k];
			c[n].streams = streams[i];
			snprintf(c[n].label, sizeof(c[n].label), "dwcp, %s, %u", congestion[k], streams[i]);
			snprintf(c[n].args, sizeof(c[n].args),
				 "--link=%.80s --congestion=%s --region=64MB --chunk-size=" CHUNK
				 " --interval=1s --duration=%us",
				 profile, congestion[k], OMIT_S + run_s(lab));
			n++;
			if (streams[i] > IPERF3_MOST)
				continue;
			c[n] = c[n - 1];
			c[n].run = run_iperf3_link;
			snprintf(c[n].label, sizeof(c[n].label), "iperf3, %s, %u", congestion[k], streams[i]);
			n++;
		}
	}
	snprintf(what, sizeof(what), "link %.60s", profile);
	rc = scenario_run(lab, what, c, n, lab->rounds, e);
	if (rc >= 0)
		report_profile(lab, profile, c, n);
	scenario_free(c, n);
	return rc;
}

int table_links(struct lab *lab, struct err *e)
{
	char list[sizeof(lab->links)], *save = NULL;
	int rc = 0;

	snprintf(list, sizeof(list), "%s", lab->links);
	lab->cold_start = true; /* each run makes its link: nothing is to be warmed up */
	for (char *one = strtok_r(list, ",", &save); rc >= 0 && one; one = strtok_r(NULL, ",", &save))
		rc = table_profile(lab, one, e);
	lab->cold_start = false;
	return rc;
}

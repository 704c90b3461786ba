/* SPDX-License-Identifier: MIT */
/* Streams, chunks, congestion control and mode: the search against a sweep, the detector against the truth. */
#include "base/util.h"
#include "bench/mode_sim.h"
#include "bench/tables.h"
#include "bench/tune_sim.h"
#include <errno.h>
#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SEEDS 10

/* ---- simulated links ----------------------------------------------------------------------------- */

static void sim_row(json_t *s, const struct tune_link_model *m, double *worst, double *longest)
{
	const struct tune_config cfg = tune_sim_config();
	double quality[SEEDS], share[SEEDS], least = 1, most = 0;
	struct tune_outcome o = { 0 };

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		o = tune_sim_run(m, &cfg, seed);
		quality[seed - 1] = 100 * o.found_rate / o.best_rate;
		share[seed - 1] = o.seconds / o.sweep_seconds;
		least = fmin(least, o.found_rate / o.best_rate);
		most = fmax(most, share[seed - 1]);
	}
	report_row(s, json_pack("[s, o, f, o, f, i, i]", m->name, json_interval(stats_bootstrap(quality, SEEDS, 1)),
				100 * least, json_interval(stats_bootstrap(share, SEEDS, 1)), o.sweep_seconds,
				(int)o.probes, (int)o.points));
	*worst = fmin(*worst, least);
	*longest = fmax(*longest, most);
}

int table_tune_sim(struct lab *lab, struct err *e)
{
	json_t *s = report_section(
		lab->report, "tune_sim", "The search, simulated: 10 seeds of each link",
		"link|% of the best|worst %|share of the sweep's time|sweep s|probes (last seed)|points");
	double worst = 1, longest = 0;

	(void)e;
	report_text(
		s,
		"Nothing in this table is measured: the links are figures (`bench/tune_sim.h`). The search of `dwcp tune` "
		"against a sweep over all of its points, both by what they find carries in the long run.");
	for (const struct tune_link_model *m = tune_links; m->name; m++)
		sim_row(s, m, &worst, &longest);
	report_target(s, "simulated: tune's choice, worst of all links and seeds, of the sweep's best",
		      (struct stats_interval){ worst, worst, worst, 1 }, "", AT_LEAST, 0.95);
	report_target(s, "simulated: tune's time, longest of all links and seeds, of the sweep's",
		      (struct stats_interval){ longest, longest, longest, 1 }, "", AT_MOST, 0.2);
	return 0;
}

/* ---- modes --------------------------------------------------------------------------------------- */

static void mode_rows(json_t *s, const char *what, const struct mode_count c[MODE_KINDS])
{
	for (unsigned k = MODE_DATACENTER; k < MODE_KINDS; k++) {
		double n = 0;

		for (unsigned i = 0; i < MODE_KINDS; i++)
			n += (double)c[k].samples[i];
		if (n > 0)
			report_row(s, json_pack("[s, s, i, f, f, f, o, i]", what, mode_names[k], (int)n,
						100 * (double)c[k].samples[MODE_DATACENTER] / n,
						100 * (double)c[k].samples[MODE_HYBRID] / n,
						100 * (double)c[k].samples[MODE_INTERNET] / n,
						json_sprintf("%llu of %llu", (unsigned long long)c[k].followed,
							     (unsigned long long)c[k].changes),
						(int)c[k].too_soon));
	}
}

/* Recorded bandwidths, where there are some: DWCP_DATA names the folder. */
static void recorded(json_t *s)
{
	static const struct {
		const char *what, *files;
		double scale, rtt_ms, loss;
	} sets[] = {
		{ "HSDPA and FCC (Pensieve), 60 ms", "pensieve-fcc-hsdpa/cooked_t*/*", 1e6, 60, 0.001 },
		{ "HSDPA and FCC (Pensieve), 15 ms", "pensieve-fcc-hsdpa/cooked_t*/*", 1e6, 15, 0.001 },
		{ "Puffer sessions, 30 ms", "puffer-long-sessions/puffer_*", 8e6, 30, 0.0005 },
		{ "New York LTE (NYU-METS), 45 ms", "nyu-mets/Sample_Traces/*.csv", 1e6, 45, 0.001 },
	};
	const char *root = getenv("DWCP_DATA");
	char pattern[4096];

	for (size_t i = 0; root && i < ARRAY_LEN(sets); i++) {
		struct mode_count c[MODE_KINDS] = { 0 };
		struct err e;
		glob_t g;

		snprintf(pattern, sizeof(pattern), "%s/%s", root, sets[i].files);
		if (glob(pattern, 0, NULL, &g))
			continue;
		for (size_t k = 0; k < g.gl_pathc; k++)
			mode_sim_trace(g.gl_pathv[k], sets[i].scale, sets[i].rtt_ms, sets[i].loss, c, &e);
		globfree(&g);
		mode_rows(s, sets[i].what, c);
	}
}

int table_modes(struct lab *lab, struct err *e)
{
	static const double noises[] = { 0.05, 0.15, 0.3 };
	json_t *s =
		report_section(lab->report, "modes", "Mode detection: what was said of what was true",
			       "histories|truth|samples|datacenter %|hybrid %|internet %|changes followed|too soon");
	char what[64];

	(void)e;
	report_text(
		s,
		"The detector at the documented thresholds over histories with a truth beside them, a sample each 10 s; samples "
		"within two histories (200 s) of a change are not counted, a change is followed when the mode is right within "
		"them. Synthetic: 20 days of each kind, one sample in twenty as from another link. Recorded (`DWCP_DATA` names "
		"the folder): real bandwidths, with a round trip and loss that are assumed, and as truth what the borders say of "
		"the trace's median.");
	for (size_t i = 0; i < 2 * ARRAY_LEN(noises); i++) {
		bool border = i >= ARRAY_LEN(noises);
		double noise = noises[i % ARRAY_LEN(noises)];
		struct mode_count c[MODE_KINDS] = { 0 };

		for (unsigned k = MODE_DATACENTER; k < MODE_KINDS; k++)
			for (uint64_t seed = 1; seed <= 20; seed++)
				mode_sim_synthetic((enum mode_kind)k, border, noise, 24, seed + 100 * i, c);
		snprintf(what, sizeof(what), "synthetic%s, noise %.0f %%", border ? ", at the borders" : "",
			 100 * noise);
		mode_rows(s, what, c);
	}
	recorded(s);
	return 0;
}

/* ---- real links ---------------------------------------------------------------------------------- */

/* A link with a server at its far end. */
struct emulated {
	char name[32];
	struct proc server;
};

static void link_end(const struct lab *lab, struct emulated *l)
{
	struct command_line c = { .used = 0 };

	proc_stop(&l->server);
	command_add(&c, "%s", lab->dwcp);
	command_words(&c, "linkemu down");
	command_add(&c, "--name=%s", l->name);
	proc_run(&c, NULL, NULL, 20, NULL, NULL);
}

static int link_begin(const struct lab *lab, struct emulated *l, const char *how, struct err *e)
{
	struct command_line up = { .used = 0 }, serve = { .used = 0 };
	char rest[64];
	int rc;

	*l = (struct emulated){ .name = "" };
	snprintf(l->name, sizeof(l->name), "bench%d", (int)getpid());
	command_add(&up, "%s", lab->dwcp);
	command_words(&up, "linkemu up");
	command_add(&up, "--name=%s", l->name);
	command_words(&up, how);
	rc = proc_run(&up, NULL, NULL, 20, NULL, e);
	if (rc < 0)
		return rc;
	command_add(&serve, "%s", lab->dwcp);
	command_words(&serve, "linkemu exec");
	command_add(&serve, "--name=%s", l->name);
	command_words(&serve, "B --");
	command_add(&serve, "%s", lab->dwcp);
	command_words(&serve, "serve --listen=198.18.0.2:7411");
	rc = proc_start(&l->server, &serve, NULL, NULL, e);
	if (rc == 0)
		rc = proc_ready(&l->server, "listening on ", rest, sizeof(rest), e);
	if (rc < 0)
		link_end(lab, l);
	return rc;
}

/* Runs a program at the near end; what it prints is JSON. */
static int run_here(const struct lab *lab, const struct emulated *l, const char *program, const char *args,
		    json_t **out, struct err *e)
{
	struct command_line c = { .used = 0 };
	struct proc_end end = { 0 };
	int rc;

	command_add(&c, "%s", lab->dwcp);
	command_words(&c, "linkemu exec");
	command_add(&c, "--name=%s", l->name);
	command_words(&c, "A --");
	command_add(&c, "%s", program);
	command_words(&c, args);
	rc = proc_run(&c, NULL, NULL, 1200, &end, e);
	if (rc < 0)
		return rc;
	*out = json_loads(end.out, 0, NULL);
	free(end.out);
	return *out ? 0 : err_set(e, -EPROTO, "%s printed no JSON", program);
}

static double number_at(const json_t *o, const char *a, const char *b)
{
	const json_t *v = json_object_get(o, a);

	return json_number_value(b ? json_object_get(v, b) : v);
}

#define PAIRS 3   /* of runs at two points, in turns */
#define START_S 2 /* of such a run, which does not count */
#define RUN_S 4

static int run_point(const struct lab *lab, const struct emulated *l, const json_t *point, double *rate, struct err *e)
{
	json_t *r = NULL;
	char args[256];
	int rc;

	snprintf(args, sizeof(args),
		 "benchmark amst --json --peer=198.18.0.2 --region=32MB --interval=1s --duration=%ds --workers=1 "
		 "--streams=%.0f --chunk-size=%.0f --congestion=%s",
		 START_S + RUN_S, number_at(point, "streams", NULL), number_at(point, "chunk_bytes", NULL),
		 json_string_value(json_object_get(point, "congestion")));
	rc = run_here(lab, l, lab->dwcp, args, &r, e);
	*rate = rate_within(r, START_S, START_S + RUN_S);
	json_decref(r);
	return rc;
}

static bool same_point(const json_t *a, const json_t *b)
{
	return number_at(a, "streams", NULL) == number_at(b, "streams", NULL) &&
	       number_at(a, "chunk_bytes", NULL) == number_at(b, "chunk_bytes", NULL) &&
	       json_equal(json_object_get(a, "congestion"), json_object_get(b, "congestion"));
}

/* What the choice carries, of what the sweep's best does: both again, in turns. The sweep's own figure of its best is the
 * luckiest of all of its probes. */
static int compare(const struct lab *lab, const struct emulated *l, const json_t *found, const json_t *best,
		   double *share, struct err *e)
{
	double ratio[PAIRS], a, b;
	int rc = 0;

	*share = 1;
	if (same_point(found, best))
		return 0;
	for (unsigned i = 0; rc == 0 && i < PAIRS; i++) {
		rc = run_point(lab, l, i % 2 ? best : found, &a, e);
		if (rc == 0)
			rc = run_point(lab, l, i % 2 ? found : best, &b, e);
		ratio[i] = i % 2 ? b / a : a / b;
	}
	*share = rc == 0 ? stats_median(ratio, PAIRS) : NAN;
	return rc;
}

static json_t *point_of(const json_t *best)
{
	return json_sprintf("%.0f, %.0f KB, %s", number_at(best, "streams", NULL),
			    number_at(best, "chunk_bytes", NULL) / 1024,
			    json_string_value(json_object_get(best, "congestion")));
}

/* One link: a sweep, then the search as often as there are rounds. */
static int tune_link(struct lab *lab, json_t *s, const char *profile, const char *common, struct err *e)
{
	double quality[ROUNDS_MAX], share[ROUNDS_MAX];
	json_t *sweep = NULL, *best = NULL, *r = NULL;
	struct emulated l;
	char args[256];
	unsigned n = 0;
	int rc = link_begin(lab, &l, profile, e);

	if (rc < 0)
		return rc;
	snprintf(args, sizeof(args), "tune --peer=198.18.0.2 --output=none --json %s --exhaustive", common);
	rc = run_here(lab, &l, lab->dwcp, args, &sweep, e);
	snprintf(args, sizeof(args), "tune --peer=198.18.0.2 --output=none --json %s", common);
	for (; rc == 0 && n < lab->rounds; n++) {
		json_decref(r);
		r = NULL;
		rc = run_here(lab, &l, lab->dwcp, args, &r, e);
		if (rc < 0)
			break;
		share[n] = number_at(r, "seconds", NULL) / number_at(sweep, "seconds", NULL);
		rc = compare(lab, &l, json_object_get(r, "best"), json_object_get(sweep, "best"), &quality[n], e);
	}
	link_end(lab, &l);
	best = json_object_get(sweep, "best");
	if (rc == 0) {
		struct stats_interval q = stats_bootstrap(quality, n, 1), t = stats_bootstrap(share, n, 1);
		char what[96];

		report_row(s, json_pack("[s, o, f, o, o, o, i]", profile, point_of(best),
					number_at(best, "throughput_mbps", NULL), point_of(json_object_get(r, "best")),
					json_interval(q), json_interval(t),
					(int)number_at(r, "documented_streams", NULL)));
		snprintf(what, sizeof(what), "%s: tune's choice, of the sweep's best", profile);
		report_target(s, what, q, "", AT_LEAST, 0.95);
		snprintf(what, sizeof(what), "%s: tune's time, of the sweep's", profile);
		report_target(s, what, t, "", AT_MOST, 0.2);
	}
	json_decref(sweep);
	json_decref(r);
	return rc;
}

static int tune_table(struct lab *lab, const char *profile, const char *common, struct err *e)
{
	char name[64], title[96];
	struct err why = { 0 };
	json_t *s;
	int rc;

	snprintf(name, sizeof(name), "tune_%s", profile);
	snprintf(title, sizeof(title), "dwcp tune over %s", profile);
	s = report_section(
		lab->report, name, title,
		"profile|sweep's best|Mb/s|tune's best (last)|of the sweep's best|of its time|documented streams");
	report_text(
		s,
		"`dwcp linkemu up %s`, `dwcp serve` in B, then in A `dwcp tune %s --exhaustive` once and without it %u "
		"times. A choice and the sweep's best are then run again in turns, three times each for %d s after %d s "
		"(`dwcp benchmark amst`), and the ratio is of these; where they are the same point it is 1.",
		profile, common, lab->rounds, RUN_S, START_S);
	rc = tune_link(lab, s, profile, common, &why);
	if (rc < 0 && !access("/dev/net/tun", R_OK | W_OK))
		*e = why;
	else if (rc < 0)
		report_text(s, "Not run here: %s", why.why);
	return rc < 0 && e->code ? rc : 0;
}

/* The profiles that --links names. On a long path a probe takes 25 round trips anyway. */
int table_tune_links(struct lab *lab, struct err *e)
{
	static const char how[] = "--probe=2s --most-streams=32 --workers=1";
	char list[sizeof(lab->links)], *save = NULL;
	int rc = 0;

	snprintf(list, sizeof(list), "%s", lab->links);
	for (char *one = strtok_r(list, ",", &save); rc >= 0 && one; one = strtok_r(NULL, ",", &save))
		rc = tune_table(lab, one, how, e);
	return rc;
}

/* ---- the cost of a switch ------------------------------------------------------------------------ */

int table_switch(struct lab *lab, struct err *e)
{
	json_t *s = report_section(lab->report, "switch", "Another mode in a running transfer",
				   "link|GB/s|cost ms|chunks|sent again|missing"),
	       *r = NULL;
	static const char link[] = "--rate=1Gbps --delay=2ms";
	struct stats_interval cost;
	struct err why = { 0 };
	char program[4200];
	struct emulated l;
	int rc = link_begin(lab, &l, link, &why);

	report_text(
		s,
		"`bench/switch --streams=8` over `dwcp linkemu up %s`: all streams go from CUBIC to BBR and back, ten times, "
		"3 s apart; what is missing in the second after a switch, against the slower of the rates before and after, "
		"in milliseconds of that rate.",
		link);
	if (rc < 0) {
		report_text(s, "Not run here: %s", why.why);
		return 0;
	}
	snprintf(program, sizeof(program), "%s/switch", lab->bench);
	rc = run_here(lab, &l, program, "--peer=198.18.0.2 --streams=8", &r, e);
	link_end(lab, &l);
	if (rc < 0)
		return rc;
	cost = (struct stats_interval){ .median = number_at(json_object_get(r, "cost_ms"), "median", NULL),
					.ci95_low = number_at(json_object_get(r, "cost_ms"), "ci95_low", NULL),
					.ci95_high = number_at(json_object_get(r, "cost_ms"), "ci95_high", NULL),
					.n = (size_t)number_at(json_object_get(r, "cost_ms"), "n", NULL) };
	report_row(s, json_pack("[s, f, o, i, i, i]", link, number_at(r, "gbytes_per_s", NULL), json_interval(cost),
				(int)number_at(r, "chunks", NULL), (int)number_at(r, "chunks_sent_again", NULL),
				(int)number_at(r, "chunks_missing", NULL)));
	report_target(s, "a mode switch at 1 Gb/s costs", cost, "ms", AT_MOST, 100);
	json_decref(r);
	return 0;
}

/* SPDX-License-Identifier: MIT */
#include "migrate/sim_rates.h"

#include "base/util.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MOST 1e9 /* of any figure */

#define ROW(field, unit_, def_, help_)                                                                     \
	{                                                                                                  \
		.name = #field, .type = OPT_F64, .offset = offsetof(struct sim_rates, field), .def = def_, \
		.unit = unit_, .help = help_                                                               \
	}
#define HDE_ROW(mode, i, field, unit_, def_, help_)                                                           \
	{                                                                                                     \
		.name = mode "_" #field, .type = OPT_F64, .offset = offsetof(struct sim_rates, hde[i].field), \
		.def = def_, .unit = unit_, .help = help_ ", --compress=" mode                                \
	}
#define HDE_ROWS(mode, i, bytes_, send_, recv_, delta_bytes_, delta_, link_)                                      \
	HDE_ROW(mode, i, bytes, "bytes", bytes_, "a page that is not zeros, on the wire"),                        \
		HDE_ROW(mode, i, send_ns, "ns", send_, "the source's share of it"),                               \
		HDE_ROW(mode, i, recv_ns, "ns", recv_, "the destination's share"),                                \
		HDE_ROW(mode, i, delta_bytes, "bytes", delta_bytes_, "a page that was sent before, on the wire"), \
		HDE_ROW(mode, i, delta_ns, "ns", delta_, "both sides' work for it"),                              \
		HDE_ROW(mode, i, link_mbytes, "MB/s", link_, "what a worker's codecs were chosen for")

static const struct opt rows[] = {
	ROW(cpus, "CPUs", "1.8", "what a migration's workers get of a host"),
	ROW(worker_cpus, "CPUs", "0.95", "what a single worker gets"),
	ROW(guest_cpus, "CPUs", "0.01", "what a guest takes that does next to nothing"),
	ROW(prepare_ms, "ms", "2", "before the first page, whatever the size"),
	ROW(prepare_ns, "ns", "700", "a page's memory at the destination"),
	ROW(zero_send_ns, "ns", "120", "a page of zeros, at the source"),
	ROW(zero_recv_ns, "ns", "60", "… at the destination"),
	ROW(zero_bytes, "bytes", "1.2", "… on the wire"),
	ROW(raw_send_ns, "ns", "900", "any other page, at the source: scanned, copied, sent"),
	ROW(raw_recv_ns, "ns", "1100", "… at the destination: received, copied, summed"),
	ROW(raw_bytes, "bytes", "4100", "… on the wire"),
	ROW(dirty_factor, "times", "1.2", "a page of a later round, scattered, takes so many times a raw one's time"),
	ROW(round_ms, "ms", "1", "a round besides its pages"),
	ROW(look_ms, "ms", "0.2", "a look for dirty pages, whatever the size"),
	ROW(look_ns, "ns", "1.5", "… for each page within 2 MB of which one was written to"),
	ROW(pause_ms, "ms", "0.2", "pausing a guest"),
	ROW(state_ms, "ms", "0.5", "its state to the destination, which makes ready"),
	ROW(start_ms, "ms", "0.3", "START and its answer"),
	ROW(write_ns, "ns", "500", "the guest's own time for a write"),
	ROW(fault_ns, "ns", "1500", "… and for the first one to a page since the last look"),
	ROW(wait_ms, "ms", "3",
	    "the guest waits so long at most for a CPU while a round has them all; then it makes up for it"),
	HDE_ROWS("auto", 0, "1170", "7500", "2800", "75", "5700", "106"),
	HDE_ROWS("datacenter", 1, "1370", "5600", "2300", "86", "8800", "155"),
	HDE_ROWS("internet", 2, "1140", "14800", "2900", "75", "5100", "61"),
};
const size_t sim_rates_n = ARRAY_LEN(rows);

struct opt_group sim_rates_group(struct sim_rates *r, bool *given)
{
	return (struct opt_group){ .name = "rates",
				   .help = "What a host costs",
				   .rows = rows,
				   .n = ARRAY_LEN(rows),
				   .base = r,
				   .given = given };
}

void sim_rates_default(struct sim_rates *r)
{
	struct opt_group g = sim_rates_group(r, NULL);

	opt_defaults(&g, 1);
}

static double value_of(const struct sim_rates *r, const struct opt *row)
{
	double v;

	memcpy(&v, (const char *)r + row->offset, sizeof v);
	return v;
}

/* What is divided by. */
static bool must_be_positive(const struct opt *row)
{
	static const size_t at[] = { offsetof(struct sim_rates, cpus), offsetof(struct sim_rates, worker_cpus),
				     offsetof(struct sim_rates, raw_bytes), offsetof(struct sim_rates, raw_send_ns),
				     offsetof(struct sim_rates, raw_recv_ns) };

	for (size_t i = 0; i < ARRAY_LEN(at); i++)
		if (row->offset == at[i])
			return true;
	return row->offset >= offsetof(struct sim_rates, hde);
}

int sim_rates_check(const struct sim_rates *r, const char *where, struct err *e)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		double v = value_of(r, &rows[i]);

		if (!isfinite(v) || v < 0 || v > MOST || (v == 0 && must_be_positive(&rows[i])))
			return err_set(e, -EINVAL,
				       "%s: %s: %g %s is impossible (%s): measure it anew with `dwcp calibrate`", where,
				       rows[i].name, v, rows[i].unit, rows[i].help);
	}
	return 0;
}

int sim_rates_load(struct sim_rates *r, const char *path, struct err *e)
{
	bool given[ARRAY_LEN(rows)] = { false };
	struct opt_group g = sim_rates_group(r, given);
	int rc;

	opt_defaults(&g, 1);
	rc = opt_load_yaml(&g, 1, NULL, path, e);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (!given[i])
			return err_set(e, -EINVAL,
				       "%s: rates: %s is missing (%s): measure it with `dwcp calibrate --output=%s`",
				       path, rows[i].name, rows[i].help, path);
	return sim_rates_check(r, path, e);
}

static void write_rows(const struct sim_rates *r, const char *how, FILE *f)
{
	fprintf(f, "# %s\n# For `dwcp simulate --calibration`. Times of pages are CPU time, for 4 KB.\nrates:\n", how);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		fprintf(f, "  %s: %.6g # %s: %s\n", rows[i].name, value_of(r, &rows[i]), rows[i].unit, rows[i].help);
}

int sim_rates_write(const struct sim_rates *r, const char *how, const char *path, struct err *e)
{
	FILE *f = fopen(path, "we");
	bool bad;

	if (!f)
		return err_set(e, -errno, "cannot write %s: %s; choose another --output", path, strerror(errno));
	write_rows(r, how, f);
	bad = ferror(f);
	if (fclose(f) || bad) {
		int err = errno ? errno : EIO;

		unlink(path);
		return err_set(e, -err, "cannot write %s: %s; choose another --output", path, strerror(err));
	}
	return 0;
}

json_t *sim_rates_json(const struct sim_rates *r)
{
	json_t *o = json_object();

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		json_object_set_new(o, rows[i].name, json_number(value_of(r, &rows[i])));
	return o;
}

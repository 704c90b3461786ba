/* SPDX-License-Identifier: MIT */
/*
 * What the paths of a running transfer are like, told to who decides by it: the
 * pilot about streams and window, the mode about how streams send. Socket
 * buffers follow from the same figures.
 */
#include "base/log.h"
#include "base/stats.h"
#include "transport/client_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_NS (100 * NS_PER_MS)
#define BUFFER_AUTO (4ull << 20)    /* the kernel's own tuning goes about so far */
#define BUFFERS_MOST (512ull << 20) /* of all streams together */
#define PACED 100000000000ull       /* bytes per second, no limit in fact: it only makes the kernel pace */

/* ---- what is seen ------------------------------------------------------------------------------ */

/* What the streams that are up have in common. */
struct view {
	unsigned up, starved;
	double rtt[WIRE_STREAMS_MAX], least[WIRE_STREAMS_MAX]; /* ns; afterwards [0] is the median */
	uint64_t path_rate, cwnd;
};

static void view_paths(const struct client *c, struct view *v)
{
	unsigned n = 0, m = 0;

	v->up = v->starved = 0;
	v->path_rate = v->cwnd = 0;
	for (uint32_t i = 0; i < c->cfg.streams; i++) {
		const struct amst_path *p = amst_path(c->amst, i);

		if (!p->up)
			continue;
		v->up++;
		v->starved += p->info.rate_is_ours;
		v->path_rate += p->info.delivery_rate;
		v->cwnd = max_u64(v->cwnd, p->info.cwnd_bytes);
		if (p->info.rtt_ns)
			v->rtt[n++] = (double)p->info.rtt_ns;
		if (p->info.rtt_least_ns)
			v->least[m++] = (double)p->info.rtt_least_ns;
	}
	/* One stream that TCP was wrong about does not speak for the path. */
	v->rtt[0] = n ? stats_median(v->rtt, n) : 0;
	v->least[0] = m ? stats_median(v->least, m) : 0;
}

static uint64_t since(uint64_t later, uint64_t earlier)
{
	return later > earlier ? later - earlier : 0;
}

/* False: nothing to tell yet. */
static bool look(struct client *c, const struct view *v, struct pilot_seen *out)
{
	struct sight *s = &c->sight;
	uint64_t now = conn_now(c), ns = since(now, s->at_ns), segments, lost;
	bool first = !s->at_ns;
	struct amst_counters ac;
	struct be_counters bc;

	if (!ns)
		return false;
	amst_segments(c->amst, &segments, &lost);
	amst_counters(c->amst, &ac, &bc);
	*out = (struct pilot_seen){
		.at_ns = now,
		.ns = ns,
		.bytes = since(s->bytes_now, s->bytes),
		.rtt_ns = (uint64_t)v->rtt[0],
		.rtt_least_ns = (uint64_t)v->least[0],
		.segments = since(segments, s->segments),
		.lost = since(lost, s->lost),
		.queue = since(ac.bytes_sent - s->sent, s->bytes_now),
		.path_rate = v->path_rate,
		.streams = v->up,
		.chunk = s->chunk,
		/* A region is never late. What is read from a disk may be: then the paths have nothing to send. */
		.starved = s->staged && v->up && v->starved * 2 > v->up,
	};
	s->at_ns = now;
	s->bytes = s->bytes_now;
	s->segments = segments;
	s->lost = lost;
	return !first;
}

/* ---- what follows from it ---------------------------------------------------------------------- */

static void ask_pilot(struct client *c, const struct pilot_seen *seen)
{
	struct sight *s = &c->sight;

	if (!c->cfg.pilot.ops || !c->cfg.pilot.ops->look(c->cfg.pilot.ctx, seen, &s->wants))
		return;
	if (s->wants.streams)
		client_set_streams(c, s->wants.streams);
	amst_window(c->amst, s->wants.window);
}

static void steer_by_mode(struct client *c)
{
	const struct mode_way *way = &mode_ways[c->cfg.mode->now];
	struct be_steer how = { .pacing_rate = way->paced ? PACED : UINT64_MAX };

	if (!c->cfg.mode_steers)
		return;
	memcpy(how.congestion, way->congestion, strlen(way->congestion) + 1);
	client_steer(c, &how);
}

/* A sample of the mode is an interval of looks: its least round trip, its rate and its loss. */
static void ask_mode(struct client *c, const struct pilot_seen *seen)
{
	struct mode *m = c->cfg.mode;
	struct sight *s = &c->sight;
	struct mode_seen sample;

	if (!m)
		return;
	s->mode_ns += seen->ns;
	s->mode_bytes += seen->bytes;
	s->mode_segments += seen->segments;
	s->mode_lost += seen->lost;
	s->mode_starved |= seen->starved;
	if (seen->rtt_ns && (!s->mode_rtt_ns || seen->rtt_ns < s->mode_rtt_ns))
		s->mode_rtt_ns = seen->rtt_ns;
	if (s->mode_ns < m->rules.interval_ns)
		return;
	sample = (struct mode_seen){
		.at_ns = seen->at_ns,
		.rtt_ns = s->mode_rtt_ns,
		.bps = 8e9 * (double)s->mode_bytes / (double)s->mode_ns,
		.bps_at_least = s->mode_starved,
		.loss = s->mode_segments ? (double)s->mode_lost / (double)s->mode_segments : -1,
	};
	s->mode_ns = s->mode_bytes = s->mode_segments = s->mode_lost = s->mode_rtt_ns = 0;
	s->mode_starved = false;
	if (!mode_look(m, &sample))
		return;
	log_info("%s: the path is like %s now (round trip %.1f ms, %.0f Mb/s, loss %.3f %%)", c->cfg.target,
		 mode_names[m->now], (double)sample.rtt_ns / 1e6, sample.bps / 1e6, 100 * sample.loss);
	steer_by_mode(c);
}

/* A window that comes near what the kernel's tuning gives a socket has to be given more: twice for what is under way,
 * because the kernel counts its own overhead too, and twice again so that it may grow. */
static void size_buffers(struct client *c, const struct view *v)
{
	struct sight *s = &c->sight;
	uint64_t most = BUFFERS_MOST / max_u64(c->wanted, 1), want = min_u64(4 * v->cwnd, most);

	if (!c->cfg.sizes_buffers || 2 * v->cwnd <= BUFFER_AUTO || want < s->buffer + s->buffer / 2)
		return;
	s->buffer = want;
	client_steer(c, &(struct be_steer){ .send_buffer = want });
}

/* ---- from begin to end ------------------------------------------------------------------------- */

void pilot_first(struct client *c)
{
	struct be_info info;
	struct mode_seen seen = { .at_ns = conn_now(c), .bps_at_least = true, .loss = -1 };

	if (!c->cfg.mode)
		return;
	/* The session begins with what the way there says; the streams' first segments go out like that already. */
	if (c->cfg.mode->now == MODE_AUTO && client_path(c, &info) == 0) {
		seen.rtt_ns = info.rtt_least_ns;
		mode_look(c->cfg.mode, &seen);
	}
	if (c->cfg.mode->now != MODE_AUTO)
		steer_by_mode(c);
}

void pilot_begin(struct client *c, const struct amst_tx *tx)
{
	struct sight *s = &c->sight;
	struct amst_counters ac;
	struct be_counters bc;

	s->on = c->cfg.pilot.ops || c->cfg.mode || c->cfg.sizes_buffers;
	s->asked = false;
	s->next_ns = s->at_ns = 0;
	s->bytes = s->bytes_now = 0;
	s->staged = tx->stage != NULL;
	s->chunk = tx->chunk;
	amst_counters(c->amst, &ac, &bc);
	s->sent = ac.bytes_sent;
}

void pilot_turn(struct client *c, uint64_t bytes)
{
	struct sight *s = &c->sight;
	uint64_t now = conn_now(c);

	s->bytes_now = bytes;
	if (!s->on || s->asked || now < s->next_ns || c->lost_at)
		return;
	s->asked = amst_sample(c->amst) == 0;
	if (s->asked)
		s->next_ns = now + LOOK_NS;
}

void pilot_sampled(struct client *c)
{
	struct pilot_seen seen;
	struct view v;

	if (!c->sight.on || !c->sight.asked)
		return;
	c->sight.asked = false;
	c->sight.next_ns = conn_now(c) + LOOK_NS; /* a late answer is not followed by a hasty one */
	view_paths(c, &v);
	if (!look(c, &v, &seen))
		return;
	ask_mode(c, &seen);
	size_buffers(c, &v);
	ask_pilot(c, &seen);
}

void pilot_end(struct client *c)
{
	c->sight.on = c->sight.asked = false;
}

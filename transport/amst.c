/* SPDX-License-Identifier: MIT */
/* The owner's side of the data plane: opening, commands, gathered events, sums. */
#include "transport/amst.h"

#include "transport/amst_impl.h"
#include "base/thread.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUFFERS_LEAST 4 /* frames, and encode buffers, of a worker, whatever the budget */

#define ROW(f, u, h)                                                              \
	{                                                                         \
		.name = "amst_" #f, .unit = u, .help = h, .kind = METRIC_COUNTER, \
		.offset = offsetof(struct amst_counters, f)                       \
	}

const struct metric amst_metrics[] = {
	ROW(chunks_sent, "chunks", "chunks handed to the backend"),
	ROW(chunks_acked, "chunks", "chunks the peer confirmed as placed and correct"),
	ROW(chunks_refused, "chunks", "chunks the peer refused (checksum, or the transfer failed)"),
	ROW(chunks_returned, "chunks", "chunks given back to be sent again"),
	ROW(chunks_placed, "chunks", "chunks received, checked and placed"),
	ROW(chunks_bad, "chunks", "chunks received and refused"),
	ROW(bytes_sent, "bytes", "bytes of chunks handed to the backend"),
	ROW(wire_acked, "bytes", "payload bytes of the chunks acknowledged: after compression"),
	ROW(bytes_placed, "bytes", "bytes of chunks received, checked and placed"),
	ROW(commits, "messages", "COMMITs sent"),
	ROW(streams_up, "streams", "streams that came up"),
	ROW(streams_lost, "streams", "streams that went down, for whatever reason"),
	ROW(turns, "turns", "turns of the workers' loops"),
};
const size_t amst_metrics_n = ARRAY_LEN(amst_metrics);

/* ---- open and close ---------------------------------------------------------------------------- */

unsigned amst_workers_most(uint32_t chunk)
{
	uint64_t each = BUFFERS_LEAST * (FRAME_ROOM + (uint64_t)(chunk + 4095u) / 4096u * 4096u);

	return (unsigned)min_u64(min_u64(FRAME_BUDGET, ENCODE_BUDGET) / each, AMST_WORKERS_MAX);
}

static int open_buffers(struct worker *w, struct err *e)
{
	const struct amst_config *cfg = &w->a->cfg;
	uint64_t most;
	int rc;

	if (!cfg->chunk || !cfg->encodes)
		return 0;
	w->buf_bytes = (cfg->chunk + 4095u) & ~4095u;
	most = max_u64(ENCODE_BUDGET / cfg->workers / w->buf_bytes, BUFFERS_LEAST);
	w->n_bufs = (uint32_t)min_u64(2ull * w->n_streams, most);
	rc = hugebuf_alloc(&w->buf_mem, (size_t)w->n_bufs * w->buf_bytes, false, e);
	if (rc < 0)
		return rc;
	w->free_bufs = malloc(w->n_bufs * sizeof *w->free_bufs);
	if (!w->free_bufs)
		return err_set(e, -ENOMEM, "no memory for a worker's buffer list");
	for (w->n_free = 0; w->n_free < w->n_bufs; w->n_free++)
		w->free_bufs[w->n_free] = (int32_t)(w->n_bufs - 1 - w->n_free);
	return 0;
}

static int open_backend(struct worker *w, struct err *e)
{
	const struct amst_config *cfg = &w->a->cfg;
	uint32_t frame_bytes = FRAME_ROOM + (cfg->chunk + 4095u) / 4096u * 4096u;
	uint64_t most = max_u64(FRAME_BUDGET / cfg->workers / frame_bytes, BUFFERS_LEAST);
	struct be_open o = {
		.opts = cfg->be_opts,
		.clock = cfg->clock,
		.streams = w->n_streams,
		.frames = (uint32_t)min_u64(w->n_streams + 4, most),
		.frame_bytes = frame_bytes,
		.sends = BE_SENDS,
		.regions = AMST_REGIONS_MAX,
		.cpu = cfg->cpus ? cfg->cpus[w->index] : -1,
		.seed = cfg->seed + w->index,
		.fabric = cfg->fabric,
	};

	if (frame_bytes > cfg->ops->caps.frame_max)
		return err_set(e, -EINVAL,
			       "a chunk of %u bytes does not fit a message of the %s backend: use at most %u",
			       cfg->chunk, cfg->ops->name, cfg->ops->caps.frame_max - FRAME_ROOM);
	return cfg->ops->open(&o, &w->be, e);
}

static int open_worker(struct amst *a, unsigned i, struct err *e)
{
	struct worker *w = &a->w[i];
	int rc;

	w->a = a;
	w->index = i;
	w->window = TX_WINDOW;
	w->n_streams = (a->cfg.streams - i + a->n - 1) / a->n;
	w->streams = calloc(w->n_streams, sizeof *w->streams);
	if (!w->streams || spsc_init(&w->cmds, 4 * w->n_streams + 64, sizeof(struct wcmd)) < 0 ||
	    spsc_init(&w->evs, 4 * w->n_streams + 128, sizeof(struct amst_event)) < 0)
		return err_set(e, -ENOMEM, "no memory for %u streams: use fewer", a->cfg.streams);
	for (uint32_t k = 0; k < w->n_streams; k++)
		w->streams[k].index = k * a->n + i;
	rc = open_buffers(w, e);
	if (rc == 0)
		rc = open_backend(w, e);
	/* Only a hint: what cannot be registered is sent all the same. */
	if (rc == 0 && w->n_bufs && a->cfg.ops->source_add)
		a->cfg.ops->source_add(w->be, w->buf_mem.addr, w->buf_mem.len, NULL);
	return rc;
}

static int start_worker(struct worker *w, struct err *e)
{
	char name[16];
	int rc;

	snprintf(name, sizeof name, "dwcp-worker-%u", w->index % 100);
	rc = thread_start(&w->thread, name, worker_main, w);
	if (rc)
		return err_set(e, rc,
			       "cannot start worker thread %u: %s; raise the limits of processes and of address space "
			       "(ulimit -u, ulimit -v), or use fewer --workers",
			       w->index, strerror(-rc));
	w->running = true;
	return 0;
}

int amst_open(struct amst **out, const struct amst_config *cfg, struct err *e)
{
	struct amst *a;
	int rc = 0;

	if (!cfg->streams || cfg->streams > WIRE_STREAMS_MAX || !cfg->workers || cfg->workers > AMST_WORKERS_MAX ||
	    cfg->workers > cfg->streams)
		return err_set(e, -EINVAL,
			       "%u streams on %u workers: 1 to %u streams, and no more workers than streams",
			       cfg->streams, cfg->workers, WIRE_STREAMS_MAX);
	a = calloc(1, sizeof *a);
	if (!a)
		return err_set(e, -ENOMEM, "no memory for a session");
	a->cfg = *cfg;
	a->n = cfg->workers;
	a->sched = &amst_scheds[cfg->sched];
	if (posix_memalign((void **)&a->w, CACHE_LINE, a->n * sizeof *a->w)) {
		free(a);
		return err_set(e, -ENOMEM, "no memory for %u workers", cfg->workers);
	}
	memset(a->w, 0, a->n * sizeof *a->w);
	for (unsigned i = 0; i < a->n && rc == 0; i++)
		rc = open_worker(a, i, e);
	for (unsigned i = 0; i < a->n && rc == 0 && !cfg->manual; i++)
		rc = start_worker(&a->w[i], e);
	if (rc < 0) {
		amst_close(a);
		return rc;
	}
	*out = a;
	return 0;
}

void amst_close(struct amst *a)
{
	if (!a)
		return;
	for (unsigned i = 0; i < a->n; i++) {
		struct worker *w = &a->w[i];

		if (!w->running)
			continue;
		/* A full command ring drains: the worker is running. */
		while (!spsc_push(&w->cmds, &(struct wcmd){ .type = CMD_STOP }))
			sched_yield();
		a->cfg.ops->wake(w->be);
		pthread_join(w->thread, NULL);
	}
	for (unsigned i = 0; i < a->n; i++) {
		struct worker *w = &a->w[i];
		struct wcmd c;

		/* Connections that were handed over and not taken are given up. */
		while (w->be && w->cmds.slots && spsc_pop(&w->cmds, &c))
			if (c.type == CMD_ACCEPT)
				a->cfg.ops->reject(w->be, c.ptr, NULL);
		if (w->be)
			a->cfg.ops->close(w->be);
		spsc_free(&w->cmds);
		spsc_free(&w->evs);
		hugebuf_free(&w->buf_mem);
		free(w->free_bufs);
		free(w->streams);
	}
	free(a->w);
	free(a);
}

bool amst_step(struct amst *a)
{
	bool any = false;

	for (unsigned i = 0; i < a->n; i++)
		any |= worker_turn(&a->w[i]);
	return any;
}

/* ---- events ------------------------------------------------------------------------------------ */

static struct gather *gather_of(struct amst *a, const struct amst_event *ev)
{
	switch (ev->type) {
	case AMST_REGION_ADDED:
		return &a->region[ev->id];
	case AMST_REGION_DROPPED:
		return &a->drop[ev->id];
	case AMST_TX_ENDED:
		return &a->tx_end;
	case AMST_RX_READY:
		return &a->rx_start;
	case AMST_RX_ENDED:
		return &a->rx_end;
	case AMST_SAMPLED:
		return &a->sample;
	default:
		return NULL;
	}
}

/* Events that every worker sends come out once, when the last one did. */
static bool gathered(struct amst *a, struct amst_event *ev)
{
	struct gather *g = gather_of(a, ev);

	if (!g)
		return true;
	if (ev->err)
		g->err = ev->err;
	else
		g->token = ev->token;
	if (g->left && --g->left)
		return false;
	ev->err = g->err;
	ev->token = g->token;
	*g = (struct gather){ 0 };
	return true;
}

bool amst_poll(struct amst *a, struct amst_event *ev)
{
	if (a->tell_done) {
		a->tell_done = false;
		*ev = (struct amst_event){ .type = AMST_TX_DONE, .id = a->tell_id };
		return true;
	}
	for (unsigned i = 0; i < a->n; i++) {
		struct worker *w = &a->w[(a->next_poll + i) % a->n];

		while (spsc_pop(&w->evs, ev)) {
			if (!gathered(a, ev))
				continue;
			a->next_poll = (a->next_poll + i + 1) % a->n;
			return true;
		}
	}
	return false;
}

/* ---- commands ---------------------------------------------------------------------------------- */

static int command(struct amst *a, uint32_t stream, const struct wcmd *c)
{
	struct worker *w = &a->w[stream % a->n];

	if (stream >= a->cfg.streams)
		return -EINVAL;
	if (!spsc_push(&w->cmds, c))
		return -EAGAIN;
	a->cfg.ops->wake(w->be);
	return 0;
}

static int command_all(struct amst *a, const struct wcmd *c, struct gather *g)
{
	/* All or none: the rings only ever get emptier while we look. */
	for (unsigned i = 0; i < a->n; i++)
		if (spsc_len(&a->w[i].cmds) > a->w[i].cmds.mask)
			return -EAGAIN;
	if (g)
		*g = (struct gather){ .left = a->n };
	for (unsigned i = 0; i < a->n; i++) {
		spsc_push(&a->w[i].cmds, c);
		a->cfg.ops->wake(a->w[i].be);
	}
	return 0;
}

int amst_connect(struct amst *a, uint32_t stream, uint32_t incarnation, const struct be_addr *to, const uint8_t *pre)
{
	struct wcmd c = { .type = CMD_CONNECT, .stream = stream, .incarnation = incarnation, .addr = *to };

	memcpy(c.pre, pre, BE_PREAMBLE);
	return command(a, stream, &c);
}

int amst_accept(struct amst *a, uint32_t stream, uint32_t incarnation, struct be_request *r, const uint8_t *reply)
{
	struct wcmd c = { .type = CMD_ACCEPT, .stream = stream, .incarnation = incarnation, .ptr = r };

	memcpy(c.pre, reply, BE_PREAMBLE);
	return command(a, stream, &c);
}

int amst_stream_close(struct amst *a, uint32_t stream)
{
	return command(a, stream, &(struct wcmd){ .type = CMD_CLOSE, .stream = stream });
}

int amst_retire(struct amst *a, uint32_t stream)
{
	return command(a, stream, &(struct wcmd){ .type = CMD_RETIRE, .stream = stream });
}

int amst_steer(struct amst *a, const struct be_steer *how)
{
	return a->cfg.ops->steer ? command_all(a, &(struct wcmd){ .type = CMD_STEER, .steer = *how }, NULL) : -ENOTSUP;
}

void amst_window(struct amst *a, uint64_t bytes)
{
	__atomic_store_n(&a->window, bytes, __ATOMIC_RELAXED);
}

int amst_reclaim(struct amst *a, uint32_t stream)
{
	return command(a, stream, &(struct wcmd){ .type = CMD_RECLAIM, .stream = stream });
}

int amst_region_add(struct amst *a, uint32_t id, void *addr, uint64_t len)
{
	if (id >= AMST_REGIONS_MAX)
		return -EINVAL;
	return command_all(a, &(struct wcmd){ .type = CMD_REGION_ADD, .id = id, .ptr = addr, .len = len },
			   &a->region[id]);
}

int amst_region_drop(struct amst *a, uint32_t id)
{
	if (id >= AMST_REGIONS_MAX)
		return -EINVAL;
	return command_all(a, &(struct wcmd){ .type = CMD_REGION_DROP, .id = id }, &a->drop[id]);
}

int amst_source_add(struct amst *a, const void *addr, uint64_t len)
{
	return command_all(a, &(struct wcmd){ .type = CMD_SOURCE_ADD, .ptr = (void *)addr, .len = len }, NULL);
}

int amst_tx_start(struct amst *a, struct amst_tx *tx)
{
	int rc;

	if (tx->stage && (!a->cfg.encodes || (uint64_t)tx->chunk + tx->stage->ops->overhead > a->cfg.chunk))
		return -EINVAL;
	rc = command_all(a, &(struct wcmd){ .type = CMD_TX_START, .ptr = tx }, NULL);

	/* Nothing to send is done at once. */
	if (rc == 0 && !tx->total && !__atomic_exchange_n(&tx->told, 1, __ATOMIC_SEQ_CST)) {
		a->tell_done = true;
		a->tell_id = tx->id;
	}
	return rc;
}

int amst_tx_end(struct amst *a, struct amst_tx *tx)
{
	if (a->tx_end.left)
		return 0;
	return command_all(a, &(struct wcmd){ .type = CMD_TX_END, .id = tx->id }, &a->tx_end);
}

int amst_rx_start(struct amst *a, struct amst_rx *rx)
{
	return command_all(a, &(struct wcmd){ .type = CMD_RX_START, .ptr = rx }, &a->rx_start);
}

int amst_rx_end(struct amst *a, struct amst_rx *rx)
{
	return command_all(a, &(struct wcmd){ .type = CMD_RX_END, .id = rx->id }, &a->rx_end);
}

int amst_sample(struct amst *a)
{
	return a->sample.left ? -EAGAIN : command_all(a, &(struct wcmd){ .type = CMD_SAMPLE }, &a->sample);
}

/* ---- sums -------------------------------------------------------------------------------------- */

void amst_counters(const struct amst *a, struct amst_counters *c, struct be_counters *b)
{
	memset(c, 0, sizeof *c);
	memset(b, 0, sizeof *b);
	for (unsigned i = 0; i < a->n; i++) {
		metrics_sum(amst_metrics, amst_metrics_n, c, &a->w[i].counters);
		metrics_sum(be_metrics, be_metrics_n, b, &a->w[i].be->counters);
	}
}

void amst_latency(const struct amst *a, struct hist *out)
{
	hist_reset(out);
	for (unsigned i = 0; i < a->n; i++)
		hist_merge(out, &a->w[i].latency);
}

void amst_latency_reset(struct amst *a)
{
	for (unsigned i = 0; i < a->n; i++)
		hist_reset(&a->w[i].latency);
}

uint64_t amst_retransmits(const struct amst *a)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < a->n; i++)
		sum += __atomic_load_n(&a->w[i].retransmits, __ATOMIC_RELAXED);
	return sum;
}

void amst_segments(const struct amst *a, uint64_t *sent, uint64_t *lost)
{
	*sent = *lost = 0;
	for (unsigned i = 0; i < a->n; i++) {
		*sent += __atomic_load_n(&a->w[i].segments, __ATOMIC_RELAXED);
		*lost += __atomic_load_n(&a->w[i].lost, __ATOMIC_RELAXED);
	}
}

const struct amst_path *amst_path(const struct amst *a, uint32_t stream)
{
	return &a->w[stream % a->n].streams[stream / a->n].path;
}

unsigned amst_workers(const struct amst *a)
{
	return a->n;
}

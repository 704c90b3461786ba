/* SPDX-License-Identifier: MIT */
/* The blackout, the hand-over, and what became of it. */
#include "migrate/session_impl.h"

#include "base/log.h"
#include <errno.h>
#include <stdlib.h>

#define DOUBT_PAUSE (200 * NS_PER_MS)

static int pause_guest(struct migration *m, struct err *e)
{
	struct guest *g = m->cfg->guest;
	int rc;

	m->state = MIGRATE_BLACKOUT;
	m->paused = true;
	m->paused_at = session_now(m);
	session_pace(m);
	if (m->source.hde && m->cfg->max_bandwidth && !m->cfg->hde.link_bits_per_s)
		hde_rates(m->source.hde, 8 * (double)m->cfg->limits.blackout_bytes_per_s, 0);
	rc = g->ops->pause(g, e);
	m->r->blackout.pause_ns = session_now(m) - m->paused_at;
	return rc;
}

static int send_ready(struct migration *m, struct err *e)
{
	struct guest *g = m->cfg->guest;
	uint8_t *buf = malloc(GUEST_STATE_MAX + 64);
	struct rcur reply;
	struct wcur w;
	uint8_t *len_at;
	int rc;

	if (!buf)
		return err_set(e, -ENOMEM, "no memory for the guest's state");
	w = wcur_init(buf, GUEST_STATE_MAX + 64);
	wire_put(&w, &guest_id_def, &m->r->id);
	put_u8(&w, (m->cfg->verify == VERIFY_FULL ? READY_FULL : 0) | (m->late ? READY_LATE : 0));
	len_at = w.p;
	put_u16(&w, 0);
	rc = g->ops->save(g, &w, e);
	if (rc == 0) {
		struct wcur l = wcur_init(len_at, 2);

		put_u16(&l, (uint16_t)(w.p - len_at - 2));
		rc = client_call(m->client, GUEST_READY, buf, (uint32_t)(w.p - buf), &reply, e);
	}
	free(buf);
	return rc;
}

/* Does what is pending follow after START? Where it fits the limit there is no need to. */
static bool goes_late(const struct migration *m, uint64_t pending)
{
	const struct migrate_policy *p = m->cfg->policy;

	return p->late && pending && (!p->precopy || round_predict(&m->plan, pending) > m->cfg->limits.downtime_ns);
}

/* What the destination has of the pages that follow is old. */
static int announce(struct migration *m, struct err *e)
{
	const struct client_tick on_tick = { .fn = session_tick, .ctx = m };
	uint64_t wire = 0;
	int rc = m->source.whole ? 0 : page_source_announce(&m->source, &on_tick, &wire, e);

	m->r->bytes_wire += wire;
	return rc;
}

int session_blackout(struct migration *m, struct err *e)
{
	struct migrate_blackout *b = &m->r->blackout;
	struct round_sample s;
	uint64_t pending, at;
	int rc = pause_guest(m, e);

	if (rc == 0)
		rc = session_look(m, &s, &pending, e);
	at = session_now(m);
	b->look_ns = at - m->paused_at - b->pause_ns;
	if (rc == 0 && goes_late(m, pending)) {
		m->late = true;
		m->r->late.pages = pending;
	}
	if (rc == 0)
		rc = m->late ? announce(m, e) : session_send_round(m, &s, e);
	b->transfer_ns = session_now(m) - at;
	at = session_now(m);
	if (rc == 0)
		rc = send_ready(m, e);
	b->ready_ns = session_now(m) - at;
	if (rc == 0 && session_cancelled(m))
		rc = err_set(e, -EINTR, "cancelled");
	return rc;
}

void session_nap(struct migration *m, uint64_t ns)
{
	uint64_t until = session_now(m) + ns;

	/* The session is over, or about to be: its turns only pass the time. */
	while (session_now(m) < until && !session_cancelled(m))
		client_turn(m->client, until - session_now(m), NULL);
}

int session_anew(struct migration *m, struct err *e)
{
	struct client *c = NULL;
	int rc = m->cfg->reconnect ? m->cfg->reconnect(m->cfg->ctx, &c, e) : -ENOTCONN;

	if (rc < 0)
		return rc;
	client_close(m->reconnected);
	m->client = m->reconnected = c;
	m->pace = 0;
	client_interrupted_by(c, NULL);
	return 0;
}

/* What became of a START that was not answered? 0: it runs there. -ECANCELED: it never will. */
static int resolve(struct migration *m, struct err *e)
{
	uint64_t until = session_now(m) + m->cfg->doubt_ns;
	struct msg_guest_status st;
	struct msg_guest_started started;
	struct err why = { 0 };

	m->state = MIGRATE_DOUBT;
	log_warn("guest %s: it is not known whether it runs at the destination; it stays paused here", m->cfg->name);
	for (;;) {
		int rc = session_request(m->client, GUEST_QUERY, &m->r->id, &guest_status_def, &st, &why);

		if (rc == 0 && st.phase == PHASE_READY)
			rc = session_request(m->client, GUEST_START, &m->r->id, &guest_started_def, &started, &why);
		if (rc == 0 && st.phase != PHASE_UNKNOWN && st.phase != PHASE_LOST && st.phase != PHASE_RECEIVING)
			return 0;
		if (rc == 0 && st.phase == PHASE_LOST)
			return err_set(e, -ECANCELED, "the destination could not start the guest: see its log");
		if (rc == 0) /* it has forgotten: whether the guest ran there before nobody knows */
			return err_set(e, -EREMCHG,
				       "the destination does not know the guest any more, and START was sent: it stays "
				       "paused here, because it may have run there");
		if (session_now(m) >= until || session_cancelled(m))
			break;
		session_nap(m, DOUBT_PAUSE);
		session_anew(m, &why);
	}
	return err_set(
		e, -EREMCHG,
		"START was sent and the destination cannot be asked whether it arrived (%.120s): the guest stays "
		"paused here; look there with `dwcp guests`",
		why.why);
}

int session_hand_over(struct migration *m, struct err *e)
{
	struct msg_guest_started started;
	uint64_t at = session_now(m);
	struct err why = { 0 };
	int rc;

	m->state = MIGRATE_HANDING_OVER;
	client_interrupted_by(m->client, NULL);
	/* From here on the guest is the destination's, whatever is heard of it. */
	rc = session_request(m->client, GUEST_START, &m->r->id, &guest_started_def, &started, &why);
	if (rc < 0) {
		log_warn("guest %s: START was not answered: %s", m->cfg->name, why.why);
		rc = resolve(m, e);
	}
	m->r->blackout.start_ns = session_now(m) - at;
	m->r->downtime_ns = session_now(m) - m->paused_at;
	return rc;
}

/* SPDX-License-Identifier: MIT */
/* Is what the destination has what was here? */
#include "migrate/session_impl.h"

#include "base/util.h"
#include <errno.h>
#include <stdlib.h>

/* Names the first page that differs. */
static int name_page(struct migration *m, const uint64_t *table, struct err *e)
{
	uint64_t pages = guest_pages(m->cfg->guest);

	for (uint64_t p = 0; p < pages;) {
		uint64_t n = min_u64(pages - p, GUEST_PAGE_SUMS_MAX);
		uint8_t fields[32];
		struct wcur w = wcur_init(fields, sizeof fields);
		struct rcur in;
		int rc;

		wire_put(&w, &guest_id_def, &m->r->id);
		put_u64(&w, p);
		put_u16(&w, (uint16_t)n);
		rc = client_call(m->client, GUEST_PAGE_SUMS, fields, (uint32_t)(w.p - fields), &in, e);
		if (rc < 0)
			return rc;
		get_u16(&in);
		for (uint64_t i = 0; i < n; i++, p++)
			if (get_u64(&in) != table[p])
				return err_set(
					e, -EBADMSG,
					"page %llu at the destination is not what it was here: please report this "
					"as a bug",
					(unsigned long long)p);
	}
	return err_set(e, -EBADMSG, "memory at the destination is not what it was here: please report this as a bug");
}

int session_verify(struct migration *m, struct err *e)
{
	uint64_t began = session_now(m), *table = NULL;
	struct msg_guest_sums there;
	struct digest128 here;
	int rc = page_source_sums(&m->source, &table, &here, e);

	if (rc == 0)
		rc = session_request(m->client, GUEST_SUMS, &m->r->id, &guest_sums_def, &there, e);
	if (rc == 0 && (here.lo != there.lo || here.hi != there.hi))
		rc = name_page(m, table, e);
	free(table);
	m->r->verified = rc == 0;
	m->r->verify_seconds = (double)(session_now(m) - began) / 1e9;
	return rc;
}

int migrate_check(struct client *c, const struct msg_guest_id *id, struct guest_work *work, struct err *e)
{
	struct msg_guest_check m;
	int rc = session_request(c, GUEST_CHECK, id, &guest_check_def, &m, e);

	if (rc < 0)
		return rc;
	if (work)
		*work = (struct guest_work){ .writes = m.writes, .steps = m.steps };
	if (m.status)
		return err_set(e, -EBADMSG, "the guest's own check fails at the destination: %s", client_clean(m.text));
	return 0;
}

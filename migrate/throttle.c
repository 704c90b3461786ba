/* SPDX-License-Identifier: MIT */
#include "migrate/throttle.h"

#include "base/util.h"

#define STEP 20       /* percent */
#define STALLED 2     /* rounds */
#define STALLED_AT .8 /* of what was sent is left */

unsigned throttle_next(struct throttle *t, uint64_t sent, uint64_t pending, double dirty_rate)
{
	double limit = t->cfg.dirty_limit, unhindered = dirty_rate / (1 - t->percent / 100.0);

	if (limit > 0 && dirty_rate > 0)
		t->percent = unhindered > limit ? (unsigned)(100 * (1 - limit / unhindered)) + 1 : 0;
	if (t->cfg.auto_converge) {
		t->stalled = (double)pending > (double)sent * STALLED_AT ? t->stalled + 1 : 0;
		if (t->stalled >= STALLED) {
			t->percent += STEP;
			t->stalled = 0;
		}
	}
	t->percent = (unsigned)min_u64(t->percent, THROTTLE_MOST);
	return t->percent;
}

/* SPDX-License-Identifier: MIT */
#include "migrate/sim_share.h"

#include <math.h>

/* Speed at which it would have all of the resource that it needs most of. */
static double weight_of(const struct share_job *j, const double capacity[SHARE_RESOURCES])
{
	double share = 0;

	for (int r = 0; r < SHARE_RESOURCES; r++)
		if (j->need[r] > 0 && !isinf(capacity[r]))
			share = fmax(share, j->need[r] / capacity[r]);
	return share > 0 ? 1 / share : INFINITY;
}

/* The share that those who are not settled have when a resource is used up: the least over resources, and which it is. */
static double used_up_at(struct share_job *const *jobs, size_t n, const double capacity[SHARE_RESOURCES], int *which)
{
	double least = INFINITY;

	*which = -1;
	for (int r = 0; r < SHARE_RESOURCES; r++) {
		double left = capacity[r], wanted = 0;

		if (isinf(capacity[r]))
			continue;
		for (size_t i = 0; i < n; i++) {
			if (jobs[i]->settled)
				left -= jobs[i]->speed * jobs[i]->need[r];
			else
				wanted += jobs[i]->weight * jobs[i]->need[r];
		}
		if (wanted > 0 && fmax(left, 0) / wanted < least) {
			least = fmax(left, 0) / wanted;
			*which = r;
		}
	}
	return least;
}

/* Those that are at their most before the share is reached. Returns whether there were any. */
static bool settle_at_most(struct share_job *const *jobs, size_t n, double share)
{
	bool any = false;

	for (size_t i = 0; i < n; i++) {
		struct share_job *j = jobs[i];

		if (j->settled || j->weight * share < j->most)
			continue;
		j->speed = j->most;
		j->settled = any = true;
	}
	return any;
}

void share_fairly(struct share_job *const *jobs, size_t n, const double capacity[SHARE_RESOURCES])
{
	for (size_t i = 0; i < n; i++) {
		struct share_job *j = jobs[i];

		j->weight = weight_of(j, capacity);
		j->settled = isinf(j->weight) || j->weight <= 0;
		j->speed = isinf(j->weight) ? j->most : 0;
	}
	for (;;) {
		int r;
		double share = used_up_at(jobs, n, capacity, &r);

		if (r < 0)
			break;
		if (settle_at_most(jobs, n, share))
			continue;
		for (size_t i = 0; i < n; i++)
			if (!jobs[i]->settled && jobs[i]->need[r] > 0) {
				jobs[i]->speed = jobs[i]->weight * share;
				jobs[i]->settled = true;
			}
	}
}

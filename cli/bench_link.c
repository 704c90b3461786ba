/* SPDX-License-Identifier: MIT */
#include "cli/bench_link.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int bench_link_up(struct bench_link *l, struct err *e)
{
	int rc;

	l->home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (l->home < 0)
		return err_set(e, -errno, "cannot open /proc/thread-self/ns/net: %s; is /proc mounted?",
			       strerror(errno));
	snprintf(l->name, sizeof(l->name), "benchmark-%d", (int)getpid());
	rc = linkemu_up(l->name, &l->settings, &l->owner, e);
	if (rc < 0) {
		close(l->home);
		l->name[0] = 0;
	}
	return rc;
}

int bench_link_enter(struct bench_link *l, enum link_side side, struct err *e)
{
	if (!l->name[0])
		return 0;
	if (side == LINK_B)
		close(l->owner); /* the sender's alone: the link ends with it */
	return linkemu_join(l->name, side, e);
}

void bench_link_leave(struct bench_link *l)
{
	json_t *status = NULL;

	if (!l->name[0] || l->status)
		return;
	if (setns(l->home, CLONE_NEWNET) == 0 && linkemu_status(l->name, &status, NULL) >= 0)
		linkemu_describe(status, &l->status, NULL);
	json_decref(status);
}

void bench_link_down(struct bench_link *l)
{
	if (!l->name[0])
		return;
	linkemu_down(l->name, NULL);
	close(l->owner);
	close(l->home);
	json_decref(l->status);
	*l = (struct bench_link){ 0 };
}

void bench_link_print(const struct bench_link *l, const char *profile)
{
	static const char *const arrows[] = { "A→B", "B→A" };
	char text[1400];

	for (int d = 0; d < 2 && l->name[0]; d++)
		printf("%s over %s: %s\n", arrows[d], profile,
		       link_direction_text(&l->settings.dir[d], text, sizeof(text)));
}

void bench_link_json(const struct bench_link *l, const char *profile, json_t *result)
{
	if (l->name[0])
		json_object_set_new(result, "link", json_string(profile));
	if (l->status)
		json_object_set(result, "link_status", l->status);
}

struct be_addr bench_link_addr(void)
{
	struct be_addr addr = { .len = sizeof(struct sockaddr_in), .in = { .sin_family = AF_INET } };

	inet_pton(AF_INET, LINK_IPV4 "2", &addr.in.sin_addr);
	return addr;
}

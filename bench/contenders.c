/* SPDX-License-Identifier: MIT */
/* The programs that scenarios run, and how their results are read. */
#include "base/clock.h"
#include "bench/scenario.h"
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RUN_TIMEOUT_S 300
#define PORT_WAIT_NS (10 * NS_PER_S)

int free_port(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port = -EADDRNOTAVAIL;

	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&at, len) == 0 && getsockname(fd, (struct sockaddr *)&at, &len) == 0)
		port = ntohs(at.sin_port);
	close(fd);
	return port;
}

/* Looks rather than connects: some servers take one connection only. */
static bool is_listening(const char *table, int port)
{
	FILE *f = fopen(table, "re");
	char line[512];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f)) {
		unsigned local, state;

		/*  sl  local_address rem_address st: 0A is LISTEN */
		found = sscanf(line, " %*d: %*[0-9A-Fa-f]:%X %*[0-9A-Fa-f]:%*X %X", &local, &state) == 2 &&
			local == (unsigned)port && state == 0x0a;
	}
	if (f)
		fclose(f);
	return found;
}

int wait_port(int port, struct err *e)
{
	uint64_t start = clock_now(&clock_mono);

	while (!is_listening("/proc/net/tcp", port) && !is_listening("/proc/net/tcp6", port)) {
		if (clock_now(&clock_mono) - start > PORT_WAIT_NS)
			return err_set(e, -ETIMEDOUT, "nothing listens on port %d", port);
		poll(NULL, 0, 2);
	}
	return 0;
}

static int parse(char *text, const char *program, json_t **out, struct err *e)
{
	json_error_t where;

	*out = json_loads(text, 0, &where);
	free(text);
	if (!*out)
		return err_set(e, -EPROTO, "%s printed no JSON: %s", program, where.text);
	return 0;
}

static int run_json(const struct command_line *c, unsigned timeout_s, json_t **out, struct err *e)
{
	struct proc_end end = { 0 };
	int rc = proc_run(c, NULL, NULL, timeout_s, &end, e);

	return rc < 0 ? rc : parse(end.out, c->argv[0], out, e);
}

int run_dwcp(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	struct command_line cmd = { .n = 0 };
	int rc;

	command_add(&cmd, "%s", lab->dwcp);
	command_words(&cmd, "benchmark amst --json --interval=0");
	if (c->streams)
		command_add(&cmd, "--streams=%u", c->streams);
	command_words(&cmd, c->args);
	rc = run_json(&cmd, RUN_TIMEOUT_S, result, e);
	if (rc < 0)
		return rc;
	if (!json_is_true(json_object_get(*result, "verified"))) {
		json_decref(*result);
		return err_set(e, -EBADMSG, "the receiver's memory was not verified");
	}
	json_object_set(*result, "gbytes_per_s", json_object_get(*result, "mean_gbytes_per_s"));
	return 0;
}

int run_rawloop(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	struct command_line cmd = { .n = 0 };

	command_add(&cmd, "%s/rawloop", lab->bench);
	command_add(&cmd, "--json");
	command_add(&cmd, "--streams=%u", c->streams);
	command_words(&cmd, c->args);
	return run_json(&cmd, RUN_TIMEOUT_S, result, e);
}

/* Its results are of a schema of its own; we need one number. */
static int read_iperf3(json_t *theirs, json_t **result, struct err *e)
{
	const json_t *sum = json_object_get(json_object_get(theirs, "end"), "sum_received");
	const json_t *start = json_object_get(theirs, "start");
	double bits = json_number_value(json_object_get(sum, "bits_per_second"));

	if (!(bits > 0))
		return err_set(e, -EPROTO, "iperf3 printed no rate");
	*result = json_pack("{s:f, s:O*}", "gbytes_per_s", bits / 8e9, "version", json_object_get(start, "version"));
	return *result ? 0 : err_set(e, -ENOMEM, "no memory");
}

int iperf3_result(const struct command_line *client, unsigned timeout_s, json_t **result, struct err *e)
{
	json_t *theirs = NULL;
	int rc = run_json(client, timeout_s, &theirs, e);

	if (rc >= 0)
		rc = read_iperf3(theirs, result, e);
	json_decref(theirs);
	return rc;
}

int run_iperf3(const struct lab *lab, const struct contender *c, json_t **result, struct err *e)
{
	struct command_line server = { .n = 0 }, client = { .n = 0 };
	int port = free_port(), rc;
	struct proc p;

	command_add(&server, "iperf3");
	command_words(&server, "-s -1 -B 127.0.0.1 -p");
	command_add(&server, "%d", port);
	command_add(&client, "iperf3");
	command_words(&client, "-c 127.0.0.1 -J -O 1 -p");
	command_add(&client, "%d", port);
	command_add(&client, "-t");
	command_add(&client, "%.0f", ceil(lab->seconds));
	command_add(&client, "-P");
	command_add(&client, "%u", c->streams);
	command_words(&client, c->args);
	rc = proc_start(&p, &server, NULL, NULL, e);
	if (rc < 0)
		return rc;
	rc = wait_port(port, e);
	if (rc >= 0)
		rc = iperf3_result(&client, RUN_TIMEOUT_S, result, e);
	proc_stop(&p);
	return rc;
}

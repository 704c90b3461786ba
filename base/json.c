/* SPDX-License-Identifier: MIT */
#include "base/json.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#ifndef DWCP_COMMIT
#define DWCP_COMMIT "unknown"
#endif

#ifdef __clang__
#define COMPILER __VERSION__ /* begins with "Clang" or the vendor's name for it */
#else
#define COMPILER "gcc " __VERSION__
#endif

/* The first "model name" (x86) or "Model"/"Hardware" line (others) of /proc/cpuinfo. */
static void cpu_name(char *name, size_t cap)
{
	static const char *const keys[] = { "model name", "Model", "Hardware" };
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[512];

	snprintf(name, cap, "unknown");
	while (f && fgets(line, sizeof line, f)) {
		char *value = strchr(line, ':');

		for (size_t i = 0; value && i < sizeof keys / sizeof keys[0]; i++) {
			if (strncmp(line, keys[i], strlen(keys[i])) != 0)
				continue;
			value += 1 + strspn(value + 1, " \t");
			value[strcspn(value, "\n")] = 0;
			snprintf(name, cap, "%s", value);
			fclose(f);
			return;
		}
	}
	if (f)
		fclose(f);
}

static json_t *environment(void)
{
	struct utsname u;
	time_t now = time(NULL);
	char date[32], cpu[256], kernel[140];
	struct tm tm;

	if (uname(&u) < 0)
		memset(&u, 0, sizeof u);
	cpu_name(cpu, sizeof cpu);
	snprintf(kernel, sizeof kernel, "%s %s", u.sysname, u.release);
	gmtime_r(&now, &tm);
	strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &tm);
	/* a name that is not UTF-8 becomes null */
	return json_pack("{s:o?, s:o?, s:o?, s:I, s:s, s:s, s:s}", "host", json_string(u.nodename), "kernel",
			 json_string(kernel), "cpu", json_string(cpu), "cpus",
			 (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "commit", DWCP_COMMIT, "compiler", COMPILER, "date",
			 date);
}

json_t *json_result(const char *command, bool measured)
{
	return json_pack("{s:s, s:s, s:o, s:b}", "schema", "dwcp/1", "command", command, "environment", environment(),
			 "measured", (int)measured);
}

json_t *json_number(double v)
{
	return isfinite(v) ? json_real(v) : json_null();
}

json_t *json_interval(struct stats_interval s)
{
	return json_pack("{s:o, s:o, s:o, s:I}", "median", json_number(s.median), "ci95_low", json_number(s.ci95_low),
			 "ci95_high", json_number(s.ci95_high), "n", (json_int_t)s.n);
}

static int write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

static bool is_standard(const char *path)
{
	return !path || !*path || strcmp(path, "-") == 0;
}

static int failed(struct err *e, int rc, const char *path)
{
	const char *remedy = rc == -EISDIR       ? "name a file in it"
			     : is_standard(path) ? "lead it elsewhere"
						 : "check the directory and its free space";

	return err_set(e, rc, "writing the result to %.180s: %s; %s", is_standard(path) ? "standard output" : path,
		       strerror(-rc), remedy);
}

/* /dev/stdout, a pipe or a terminal cannot be renamed over. */
static bool is_special(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && !S_ISREG(st.st_mode);
}

static int write_special(const char *path, const char *text, size_t len, struct err *e)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	int rc;

	if (fd < 0)
		return failed(e, -errno, path);
	rc = write_all(fd, text, len);
	if (close(fd) < 0 && !rc)
		rc = -errno;
	return rc ? failed(e, rc, path) : 0;
}

/* open(2) rather than mkstemp(3): the file gets the mode that the umask says. */
static int write_beside(const char *path, const char *text, size_t len, struct err *e)
{
	char *temp = NULL;
	int fd, rc = 0;

	if (asprintf(&temp, "%s.%ld.tmp", path, (long)getpid()) < 0)
		return failed(e, -ENOMEM, path);
	fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0 && errno == EEXIST && unlink(temp) == 0) /* of a process that had our number and was killed */
		fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0) {
		rc = -errno;
		goto out;
	}
	rc = write_all(fd, text, len);
	if (!rc && fsync(fd) < 0)
		rc = -errno;
	if (close(fd) < 0 && !rc)
		rc = -errno;
	if (!rc && rename(temp, path) < 0)
		rc = -errno;
	if (rc)
		unlink(temp);
out:
	free(temp);
	return rc ? failed(e, rc, path) : 0;
}

int json_check(const char *path, struct err *e)
{
	const char *slash = is_standard(path) ? NULL : strrchr(path, '/');
	char dir[PATH_MAX];
	struct stat st;

	if (is_standard(path))
		return 0;
	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return failed(e, -EISDIR, path);
	if (is_special(path))
		return access(path, W_OK) ? failed(e, -errno, path) : 0;
	if (snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".") >=
	    (int)sizeof dir)
		return failed(e, -ENAMETOOLONG, path);
	return access(dir, W_OK | X_OK) ? failed(e, -errno, path) : 0;
}

int json_write(const json_t *obj, const char *path, struct err *e)
{
	bool standard = is_standard(path);
	char *text = json_dumps(obj, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
	size_t len;
	int rc;

	if (!text)
		return err_set(e, -ENOMEM, "no memory to format the result, or it is not an object: free some memory");
	len = strlen(text);
	text[len] = '\n'; /* in place of the NUL: it is written by length */
	len++;
	if (standard) {
		/* what was printed before comes first */
		rc = fflush(stdout) ? -errno : write_all(STDOUT_FILENO, text, len);
		if (rc)
			failed(e, rc, path);
	} else if (is_special(path)) {
		rc = write_special(path, text, len, e);
	} else {
		rc = write_beside(path, text, len, e);
	}
	free(text);
	return rc;
}

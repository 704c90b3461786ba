/* SPDX-License-Identifier: MIT */
#include "cli/plot.h"
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static bool ends_in(const char *path, const char *end)
{
	size_t len = strlen(path), n = strlen(end);

	return len > n && !strcmp(path + len - n, end);
}

int plot_check(const char *path, struct err *e)
{
	if (*path && !ends_in(path, ".png") && !ends_in(path, ".svg"))
		return err_set(e, -EINVAL, "--plot: the file's name must end in .png or .svg");
	if (strpbrk(path, "'\n\\"))
		return err_set(e, -EINVAL,
			       "--plot: a quote, backslash or line break in a file's name is not for gnuplot");
	return 0;
}

static int close_script(FILE *f, const char *path, struct err *e)
{
	bool bad = ferror(f);
	int err = fclose(f) ? errno : bad ? EIO : 0;

	return err ? err_set(e, -err, "cannot write %s: %s", path, strerror(err)) : 0;
}

int plot_draw(const char *path, unsigned width, unsigned height, void (*script)(const void *ctx, FILE *f),
	      const void *ctx, struct err *e)
{
	char name[] = "/tmp/dwcp-plot.XXXXXX";
	char *argv[] = { "gnuplot", name, NULL };
	int fd, rc = plot_check(path, e), status = 0;
	pid_t pid;
	FILE *f;

	if (rc < 0)
		return rc;
	fd = mkostemp(name, O_CLOEXEC);
	f = fd < 0 ? NULL : fdopen(fd, "w");
	if (!f) {
		rc = -errno;
		if (fd >= 0)
			close(fd);
		return err_set(e, rc, "cannot write %s: %s", name, strerror(-rc));
	}
	fprintf(f, "set terminal %s size %u,%u\nset output '%s'\n", ends_in(path, ".svg") ? "svg" : "pngcairo", width,
		height, path);
	script(ctx, f);
	rc = close_script(f, name, e);
	if (rc == 0 && (rc = -posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ)) < 0)
		err_set(e, rc, "--plot: cannot run gnuplot: %s; install it (Debian: gnuplot-nox)", strerror(-rc));
	if (rc == 0 && (waitpid(pid, &status, 0) < 0 || status))
		rc = err_set(e, -EIO, "--plot: gnuplot could not draw %s", path);
	unlink(name);
	return rc;
}

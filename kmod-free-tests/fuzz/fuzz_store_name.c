/* SPDX-License-Identifier: MIT */
/*
 * Names from a peer: store_name_check must say exactly what its contract says, and a name that it lets pass must
 * make its part file inside the store, in the folder that the name tells, and nothing outside.
 */
#include "transport/store.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static char top[PATH_MAX];
static struct store *store;
static int root = -1;

#define REQUIRE(cond)                                                    \
	do {                                                             \
		if (!(cond)) {                                           \
			fprintf(stderr, "fuzz_store_name: %s\n", #cond); \
			abort();                                         \
		}                                                        \
	} while (0)

static void clean_up(void)
{
	char in[PATH_MAX + 4];

	snprintf(in, sizeof in, "%s/in", top);
	rmdir(in);
	rmdir(top);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *at = getenv("TMPDIR");
	char in[PATH_MAX + 4];

	(void)argc, (void)argv;
	snprintf(top, sizeof top, "%s/dwcp-fuzz.XXXXXX", at ? at : "/tmp");
	REQUIRE(mkdtemp(top));
	snprintf(in, sizeof in, "%s/in", top);
	REQUIRE(!mkdir(in, 0755));
	REQUIRE(!store_open(&store, in, NULL));
	root = open(in, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	REQUIRE(root >= 0);
	atexit(clean_up);
	return 0;
}

/* The contract once more, written from the other end: by characters, not by components. */
static bool allowed(const char *name)
{
	static const char suffix[] = ".dwcp-part";
	size_t len = strlen(name), start = 0;

	if (!len || len >= STORE_NAME_MAX)
		return false;
	for (size_t i = 0; i <= len; i++) {
		size_t n = i - start;

		if (name[i] && name[i] != '/') {
			if ((unsigned char)name[i] < 32 || name[i] == 127)
				return false;
			continue;
		}
		if (n == 0 || n > 255 || (n == 1 && name[start] == '.') ||
		    (n == 2 && name[start] == '.' && name[start + 1] == '.'))
			return false;
		if (n >= sizeof suffix - 1 && !strncmp(name + i - (sizeof suffix - 1), suffix, sizeof suffix - 1))
			return false;
		start = i + 1;
	}
	return true;
}

static unsigned entries(int fd)
{
	DIR *d = fdopendir(fd);
	unsigned n = 0;

	REQUIRE(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

/* Removes the folders of name from below, each of which must be empty: so nothing else was made. */
static void remove_parents(const char *name)
{
	char path[STORE_NAME_MAX], *slash;

	snprintf(path, sizeof path, "%s", name);
	while ((slash = strrchr(path, '/'))) {
		*slash = 0;
		REQUIRE(!unlinkat(root, path, AT_REMOVEDIR));
	}
}

static void receive(const char *name)
{
	struct store_spec spec = { .kind = STORE_FILE, .mode = 0644, .size = 1 };
	const char *slash = strrchr(name, '/');
	char parent[STORE_NAME_MAX] = ".";
	struct store_file *f;
	struct stat st;
	uint64_t have;
	int fd;

	snprintf(spec.name, sizeof spec.name, "%s", name);
	if (slash)
		snprintf(parent, (size_t)(slash - name) + 1, "%s", name);
	REQUIRE(!store_begin(store, &spec, &f, &have, NULL));
	fd = openat(root, parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	REQUIRE(fd >= 0);
	REQUIRE(entries(fd) == 1);
	REQUIRE(fstatat(root, name, &st, AT_SYMLINK_NOFOLLOW));
	REQUIRE(!store_write(f, "x", 1, 0));
	REQUIRE(!store_finish(f, false, NULL));
	REQUIRE(!fstatat(root, name, &st, AT_SYMLINK_NOFOLLOW) && st.st_size == 1);
	REQUIRE(!unlinkat(root, name, 0));
	remove_parents(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char name[STORE_NAME_MAX + 64];
	struct err e = { 0 };
	int rc;

	if (size >= sizeof name)
		return -1;
	memcpy(name, data, size);
	name[size] = 0;
	rc = store_name_check(name, &e);
	REQUIRE((rc == 0) == allowed(name));
	REQUIRE(rc == e.code);
	if (rc == 0)
		receive(name);
	REQUIRE(entries(open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) == 1);
	REQUIRE(entries(openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) == 0);
	return 0;
}

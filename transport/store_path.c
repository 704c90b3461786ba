/* SPDX-License-Identifier: MIT */
#include "transport/store_path.h"

#include "base/digest.h"
#include "base/util.h"
#include "transport/store.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SUFFIX_LEN (sizeof STORE_PART_SUFFIX - 1)
#define OPEN_TRIES 16

static bool is_control(unsigned char c)
{
	return c < 0x20 || c == 0x7f;
}

char *store_name_show(char *buf, size_t cap, const char *name)
{
	size_t len = strnlen(name, STORE_NAME_MAX), tail = (cap - 4) / 2, head = cap - 4 - tail;

	if (len < cap) {
		memcpy(buf, name, len);
		buf[len] = 0;
	} else {
		memcpy(buf, name, head);
		memcpy(buf + head, "...", 3);
		memcpy(buf + head + 3, name + len - tail, tail);
		buf[cap - 1] = 0;
	}
	return buf;
}

static bool ends_in_suffix(const char *s, size_t len)
{
	return len >= SUFFIX_LEN && !memcmp(s + len - SUFFIX_LEN, STORE_PART_SUFFIX, SUFFIX_LEN);
}

bool store_is_part_name(const char *name)
{
	return ends_in_suffix(name, strlen(name));
}

static const char *component_fault(const char *c, size_t len)
{
	if (!len)
		return "it has an empty component (a leading, doubled or trailing '/')";
	if (c[0] == '.' && (len == 1 || (len == 2 && c[1] == '.')))
		return "it has a component \".\" or \"..\"";
	if (ends_in_suffix(c, len))
		return "a component ends in \"" STORE_PART_SUFFIX "\", which marks unfinished files";
	for (size_t i = 0; i < len; i++)
		if (is_control((unsigned char)c[i]))
			return "it has a control character";
	return NULL;
}

int store_name_check(const char *name, struct err *e)
{
	char shown[STORE_NAME_SHOWN];
	size_t len = strnlen(name, STORE_NAME_MAX), at = 0;

	store_name_show(shown, sizeof shown, name);
	if (!len)
		return err_set(e, -EINVAL, "a file name is empty; give the file a name");
	if (len == STORE_NAME_MAX)
		return err_set(e, -ENAMETOOLONG,
			       "file name \"%s\" is longer than %d bytes; send from a folder "
			       "further down",
			       shown, STORE_NAME_MAX - 1);
	while (at <= len) {
		size_t n = strcspn(name + at, "/");
		const char *fault = component_fault(name + at, n);

		if (fault)
			return err_set(e, -EINVAL, "file name \"%s\" is refused: %s; rename the file", shown, fault);
		if (n > NAME_MAX)
			return err_set(e, -ENAMETOOLONG,
				       "file name \"%s\" has a component of %zu bytes, %d are "
				       "allowed; rename the file",
				       shown, n, NAME_MAX);
		at += n + 1;
	}
	return 0;
}

void store_part_name(char out[NAME_MAX + 1], const char *base)
{
	size_t len = strnlen(base, NAME_MAX + 1);
	struct digest128 d;

	if (len + 1 + SUFFIX_LEN <= NAME_MAX) {
		snprintf(out, NAME_MAX + 1, ".%s%s", base, STORE_PART_SUFFIX);
		return;
	}
	d = digest128_of(base, len);
	snprintf(out, NAME_MAX + 1, ".%016" PRIx64 "%016" PRIx64 "%s", d.hi, d.lo, STORE_PART_SUFFIX);
}

int store_open_at(int dirfd, const char *path, int flags, uint32_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned)flags | O_CLOEXEC,
		.mode = flags & O_CREAT ? mode : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
	};

	/* The kernel answers EAGAIN when a rename elsewhere kept it from proving that it stayed below. */
	for (int i = 0; i < OPEN_TRIES; i++) {
		long fd = syscall(SYS_openat2, dirfd, path, &how, sizeof how);

		if (fd >= 0)
			return (int)fd;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
	return -EAGAIN;
}

/* One component below `at`, made if it is not there. */
static int open_or_make(int at, const char *component)
{
	int fd = store_open_at(at, component, O_PATH | O_DIRECTORY, 0);

	if (fd != -ENOENT)
		return fd;
	if (mkdirat(at, component, 0755) && errno != EEXIST)
		return -errno;
	return store_open_at(at, component, O_PATH | O_DIRECTORY, 0);
}

int store_open_parent(int root, const char *name)
{
	const char *slash = strrchr(name, '/');
	char dir[STORE_NAME_MAX];
	int at, next;

	if (!slash)
		return store_open_at(root, ".", O_PATH | O_DIRECTORY, 0);
	memcpy(dir, name, (size_t)(slash - name));
	dir[slash - name] = 0;
	at = store_open_at(root, dir, O_PATH | O_DIRECTORY, 0);
	if (at != -ENOENT)
		return at;
	at = root;
	for (char *c = dir, *end; c; c = end) {
		end = strchr(c, '/');
		if (end)
			*end++ = 0;
		next = open_or_make(at, c);
		if (at != root)
			close(at);
		if (next < 0)
			return next;
		at = next;
	}
	return at;
}

int store_sync_parents(int root, const char *name)
{
	char dir[STORE_NAME_MAX];
	int rc = 0;

	snprintf(dir, sizeof dir, "%s", name);
	for (;;) {
		char *slash = strrchr(dir, '/');
		int fd;

		if (slash)
			*slash = 0;
		fd = store_open_at(root, slash ? dir : ".", O_RDONLY | O_DIRECTORY, 0);
		if (fd < 0)
			return fd;
		if (fsync(fd))
			rc = -errno;
		close(fd);
		if (rc || !slash)
			return rc;
	}
}

int store_chmod_path(int path_fd, uint32_t mode)
{
	char link[32];

	/* fchmod(2) refuses O_PATH descriptors, and chmod by name could follow a link. */
	snprintf(link, sizeof link, "/proc/self/fd/%d", path_fd);
	return chmod(link, mode) ? -errno : 0;
}

static const char *remedy(int code)
{
	switch (-code) {
	case ENOSPC:
	case EDQUOT:
		return "free some space there (or inodes: `df -i`) or use another folder";
	case EACCES:
	case EPERM:
		return "check its permissions and owner, and those of its folder";
	case EROFS:
		return "use a folder on a writable file system";
	case ELOOP:
		return "symbolic links are not followed: replace the link by a real file or folder";
	case ENOTDIR:
		return "a file is where a folder is needed: move it away or use another name";
	case EISDIR:
		return "a folder is where a file is needed: move it away or use another name";
	case EFBIG:
		return "the file system or `ulimit -f` does not allow files so large";
	case EMFILE:
	case ENFILE:
		return "raise the number of open files (`ulimit -n`)";
	case ENAMETOOLONG:
		return "the file system does not take names so long: use a shorter one";
	case ENOENT:
		return "check that it exists and that nobody removes it meanwhile";
	case EEXIST:
		return "something other than a file is in its place: move it away";
	case ESTALE:
		return "it changed meanwhile: try again when nothing else writes to it";
	case ENOMEM:
		return "free some memory";
	default:
		return "check the file system and the kernel log";
	}
}

int store_fail(struct err *e, int code, const char *what, const char *name)
{
	char shown[STORE_NAME_SHOWN], text[64];

	return err_set(e, code, "cannot %s \"%s\": %s; %s", what, store_name_show(shown, sizeof shown, name),
		       strerror_r(-code, text, sizeof text), remedy(code));
}
